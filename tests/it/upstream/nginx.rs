//! A real server that is not ours: nginx, where it is installed.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use crate::upstream::support::*;

/// Ends nginx with the test.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn start(directory: &Path, port: u16) -> Nginx {
    let root = directory.display();
    let config = format!(
        "daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; client_body_temp_path {root}/b; proxy_temp_path {root}/p;\n\
         fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;\n\
         server {{ listen 127.0.0.1:{port}; root {root}; keepalive_requests 3; }} }}\n"
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, config).unwrap();
    fs::write(directory.join("page"), "x".repeat(1_024)).unwrap();
    Nginx(Command::new("nginx").arg("-c").arg(file).spawn().unwrap())
}

#[test]
fn nginx_closes_connections_and_no_request_is_lost() {
    if Command::new("nginx").arg("-v").output().is_err() {
        eprintln!("skipped: nginx is not installed");
        return;
    }
    worker(async {
        let directory = tempfile::tempdir().unwrap();
        let address = dead_address().await;
        let _nginx = start(directory.path(), address.port());
        eventually("nginx listens", || std::net::TcpStream::connect(address).is_ok()).await;
        let pool = pool_of(&[address]);
        for _ in 0..30 {
            let (status, body) = fetch(&pool, "/page").await;
            assert_eq!((status, body.len()), (200, 1_024));
        }
        assert_eq!(pool.cluster().stats().connects, 10, "three requests each");
    });
}
