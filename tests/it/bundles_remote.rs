//! Bundles fetched from a real server that is not ours, nginx: new ones are taken, bad ones refused, and no outage is felt.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use rcgen::KeyPair;
use serde_json::Value;
use tempfile::TempDir;

use crate::gateway::{TestGateway, eventually};
use crate::live_support::{Authority, admin, metric};
use crate::policy_cli::gatewayctl;
use crate::wire::{RecordingUpstream, get};

pub(crate) const TOKEN: &str = "s3cr3t-t0k3n";
pub(crate) const POLLING: &str = "polling: {min_delay: 100ms, max_delay: 150ms}";

/// nginx with one bundle, and a workshop where bundles are made.
pub(crate) struct Server {
    pub(crate) root: TempDir,
    port: u16,
    tls: bool,
    nginx: Option<Child>,
}

impl Server {
    /// `None`, which is said, where nginx is not installed.
    pub(crate) fn start(extra: &str) -> Option<Self> {
        Self::start_with(extra, false, |_| {})
    }

    pub(crate) fn start_with(extra: &str, tls: bool, prepare: impl FnOnce(&Path)) -> Option<Self> {
        if Command::new("nginx").arg("-v").output().is_err() {
            eprintln!("skipped: nginx is not installed");
            return None;
        }
        let root = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        fs::create_dir(root.path().join("www")).unwrap();
        fs::create_dir(root.path().join("kept")).unwrap();
        let key = KeyPair::generate().unwrap();
        fs::write(root.path().join("key.pem"), key.serialize_pem()).unwrap();
        fs::write(root.path().join("pub.pem"), key.public_key_pem()).unwrap();
        fs::write(root.path().join("token"), format!("{TOKEN}\n")).unwrap();
        prepare(root.path());
        let at = root.path().display();
        let ssl = if tls { " ssl" } else { "" };
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;\n\
             events {{ worker_connections 64; }}\n\
             http {{ client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f;\n\
             uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
             log_format asked '$status none-match=$http_if_none_match prefer=$http_prefer';\n\
             access_log {at}/access.log asked;\n\
             server {{ listen 127.0.0.1:{port}{ssl}; root {at}/www;\n{} }} }}\n",
            extra.replace("{dir}", &at.to_string())
        );
        fs::write(root.path().join("nginx.conf"), config).unwrap();
        let mut server = Self { root, port, tls, nginx: None };
        server.resume();
        Some(server)
    }

    pub(crate) fn resume(&mut self) {
        let config = self.root.path().join("nginx.conf");
        self.nginx = Some(Command::new("nginx").arg("-c").arg(config).spawn().unwrap());
        eventually("nginx listens", || std::net::TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    pub(crate) fn stop(&mut self) {
        let mut nginx = self.nginx.take().unwrap();
        nginx.kill().unwrap();
        nginx.wait().unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.root.path().join(name).display().to_string()
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://localhost:{}/bundle.tar.gz", self.port)
    }

    /// Packs a bundle that answers `allow`.
    pub(crate) fn pack(&self, allow: bool, revision: &str, more: &[&str]) -> Vec<u8> {
        self.pack_text(&format!("package gateway\n\ndecision := {allow}\n"), revision, more)
    }

    pub(crate) fn pack_text(&self, policy: &str, revision: &str, more: &[&str]) -> Vec<u8> {
        fs::create_dir_all(self.root.path().join("policy")).unwrap();
        fs::write(self.root.path().join("policy/main.rego"), policy).unwrap();
        let arguments = ["policy", "build", "policy", "-o", "made.tar.gz", "-r", revision];
        let ran = gatewayctl(self.root.path(), &[&arguments, more].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.notes);
        fs::read(self.root.path().join("made.tar.gz")).unwrap()
    }

    /// Packs a delta bundle with one change.
    pub(crate) fn pack_delta(&self, revision: &str, change: &str) -> Vec<u8> {
        let manifest = format!("{{\"revision\": \"{revision}\", \"roots\": [\"\"]}}");
        fs::write(self.path(".manifest"), manifest).unwrap();
        fs::write(self.path("patch.json"), format!("{{\"data\": [{change}]}}")).unwrap();
        let mut tar = Command::new("tar");
        tar.current_dir(self.root.path()).args(["czf", "delta.tar.gz", ".manifest", "patch.json"]);
        assert!(tar.status().unwrap().success());
        fs::read(self.path("delta.tar.gz")).unwrap()
    }

    /// Publishes `bundle` in one step, with a time of change, and so an `ETag`, of its own.
    pub(crate) fn publish(&self, bundle: &[u8]) {
        static PUBLISHED: AtomicU64 = AtomicU64::new(1_700_000_000);
        let new = self.root.path().join("www/new");
        fs::write(&new, bundle).unwrap();
        let time = UNIX_EPOCH + Duration::from_secs(PUBLISHED.fetch_add(1, Ordering::Relaxed));
        File::options().write(true).open(&new).unwrap().set_modified(time).unwrap();
        fs::rename(new, self.root.path().join("www/bundle.tar.gz")).unwrap();
    }

    /// What was asked so far, a line a request.
    pub(crate) fn asked(&self) -> Vec<String> {
        let text = fs::read_to_string(self.root.path().join("access.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits for two more answers with `status`, so that one of them was to a request that began after now.
    pub(crate) fn answers_twice_more(&self, status: &str) {
        let count = || self.asked().iter().filter(|line| line.starts_with(status)).count();
        let before = count();
        eventually(&format!("two more {status}"), || (count() >= before + 2).then_some(()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.nginx.is_some() {
            self.stop();
        }
    }
}

fn config(upstream: &RecordingUpstream, url: &str, policy: &str) -> String {
    format!(
        "version: 1\nworkers: 1\nlisteners: [{{name: public, address: \"127.0.0.1:0\"}}]\n\
         upstreams: {{up: {{endpoints: [\"{}\"]}}}}\n\
         policies: {{main: {{bundle: \"{url}\", budget: 5s, {policy}}}}}\n\
         apis: [{{name: all, policy: main, upstream: up}}]\ndecision_logs: []\n\
         admin: {{address: \"127.0.0.1:0\"}}\n",
        upstream.url(),
    )
}

fn status(gateway: &TestGateway) -> u16 {
    get(gateway.address("public"), "/", "").status
}

fn bundle(gateway: &TestGateway) -> Value {
    let status: Value = serde_json::from_slice(&admin(gateway, "/status").body).unwrap();
    status["bundles"]["main"].clone()
}

fn revision_becomes(gateway: &TestGateway, revision: &str) {
    eventually(&format!("revision {revision}"), || {
        (bundle(gateway)["active_revision"] == revision).then_some(())
    });
}

fn refused_with(gateway: &TestGateway, why: &str) -> Value {
    eventually(why, || Some(bundle(gateway)).filter(|bundle| bundle.to_string().contains(why)))
}

fn start_error(config: &str) -> String {
    match TestGateway::try_start(config, &[]) {
        Ok(_) => panic!("it starts"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_new_bundle_is_taken_and_an_old_one_is_not_fetched_again() {
    let Some(server) = Server::start("") else { return };
    let upstream = RecordingUpstream::start();
    server.publish(&server.pack(false, "first", &[]));
    let gateway = TestGateway::start(&config(&upstream, &server.url(), POLLING), &[]);
    assert_eq!(status(&gateway), 403);
    server.answers_twice_more("304");
    let asked = server.asked();
    assert!(asked[0].starts_with("200 none-match=- prefer=modes=snapshot"), "{asked:?}");
    assert_eq!(asked.iter().filter(|line| line.starts_with("200")).count(), 1, "{asked:?}");
    let shown = bundle(&gateway);
    assert_eq!((&shown["active_revision"], &shown["message"]), (&"first".into(), &Value::Null));
    server.publish(&server.pack(true, "second", &[]));
    revision_becomes(&gateway, "second");
    assert_eq!(status(&gateway), 200);
    assert_eq!(gateway.running().reloader().shared().generation(), 2, "304 does nothing");
    let count = |series: &str| metric(&gateway, series);
    assert_eq!(count("postern_bundle_requests_total{policy=\"main\",result=\"downloaded\"}"), Some(2));
    assert_eq!(count("postern_bundle_activations_total{policy=\"main\",result=\"ok\"}"), Some(2));
    assert_eq!(count("postern_policy_info{policy=\"main\",revision=\"second\"}"), Some(1));
    assert!(
        count("postern_bundle_last_successful_activation_seconds{policy=\"main\"}") > Some(1_700_000_000)
    );
    // It can be gone back from, as every snapshot can, and stays so until there is another.
    assert!(gateway.running().reloader().roll_back().unwrap());
    assert_eq!(status(&gateway), 403);
    server.answers_twice_more("304");
    assert_eq!(status(&gateway), 403);
    server.publish(&server.pack(true, "third", &[]));
    revision_becomes(&gateway, "third");
    assert_eq!(status(&gateway), 200);
}

#[test]
fn a_bad_bundle_is_refused_once_and_the_last_good_one_goes_on() {
    let Some(server) = Server::start("") else { return };
    let upstream = RecordingUpstream::start();
    let sign = ["--signing-key", "key.pem", "--signing-alg", "ES256", "--signing-key-id", "release"];
    let good = server.pack(true, "good", &sign);
    server.publish(&good);
    let policy = format!(
        "{POLLING}, size_limit: 4KiB, signing: {{keys: {{release: {{algorithm: ES256, file: {}}}}}}}",
        server.path("pub.pem")
    );
    let gateway = TestGateway::start(&config(&upstream, &server.url(), &policy), &[]);
    let broken = &good[..good.len() - 9];
    let unsigned = server.pack(false, "unsigned", &[]);
    let oversized = [good.as_slice(), &[0; 8_192]].concat();
    let undecided = server.pack_text("package other\n", "other", &sign);
    fs::write(server.path("policy/main_test.rego"), "package gateway_test\ntest_no if false\n").unwrap();
    let untested = server.pack(false, "untested", &[sign.as_slice(), &["--with-tests"]].concat());
    fs::remove_file(server.path("policy/main_test.rego")).unwrap();
    for (bad, why) in [
        (broken, "no gzipped tar archive"),
        (&unsigned, "bundle is not signed"),
        (&oversized, "larger than `size_limit`, 4096 bytes"),
        (&undecided, "gateway.decision"),
        (&untested, "own tests do not pass"),
    ] {
        server.publish(bad);
        let shown = refused_with(&gateway, why);
        assert_eq!((&shown["code"], &shown["active_revision"]), (&"bundle_error".into(), &"good".into()));
        assert_eq!(status(&gateway), 200, "{why}");
        let before = server.asked().iter().filter(|line| line.starts_with("200")).count();
        server.answers_twice_more("304");
        let after = server.asked().iter().filter(|line| line.starts_with("200")).count();
        assert_eq!(before, after, "{why}: it is not fetched again");
        assert!(bundle(&gateway).to_string().contains(why), "the reason is told until there is another");
    }
    // The good one again is nothing new.
    server.publish(&good);
    eventually("no more to tell", || bundle(&gateway)["message"].is_null().then_some(()));
    assert_eq!(gateway.running().reloader().shared().generation(), 1);
    let refused = metric(&gateway, "postern_bundle_activations_total{policy=\"main\",result=\"refused\"}");
    assert_eq!(refused, Some(5));
    assert!(server.asked().iter().all(|line| !line.contains("delta")), "no delta is signed");
    server.publish(&server.pack(false, "better", &sign));
    revision_becomes(&gateway, "better");
    assert_eq!((status(&gateway), &bundle(&gateway)["message"]), (403, &Value::Null));
}

#[test]
fn without_the_server_a_gateway_starts_from_what_it_has_kept_or_not_at_all() {
    let Some(mut server) = Server::start("") else { return };
    let upstream = RecordingUpstream::start();
    server.publish(&server.pack(true, "kept", &[]));
    let policy = format!("{POLLING}, persist: {}", server.path("kept"));
    let config = config(&upstream, &server.url(), &policy);
    server.stop();
    let refused = start_error(&config);
    assert!(
        refused.contains("cannot fetch the bundle") && refused.contains("none is persisted yet"),
        "{refused}"
    );
    assert!(refused.contains("Connection refused"), "{refused}");
    let refused = start_error(&config.replace(&policy, POLLING));
    assert!(refused.contains("`persist` is not configured"), "{refused}");

    server.resume();
    drop(TestGateway::start(&config, &[]));
    assert!(fs::metadata(server.path("kept/bundles/main/bundle.tar.gz")).is_ok());
    // A bad one does not replace it, and does not keep the gateway from starting.
    server.publish(b"broken");
    let gateway = TestGateway::start(&config, &[]);
    let shown = bundle(&gateway);
    assert_eq!((&shown["active_revision"], &shown["persisted"]), (&"kept".into(), &true.into()));
    assert!(shown.to_string().contains("no gzipped tar archive"), "{shown}");
    drop(gateway);

    server.stop();
    let gateway = TestGateway::start(&config, &[]);
    assert_eq!(status(&gateway), 200);
    let shown = bundle(&gateway);
    assert_eq!((&shown["active_revision"], &shown["persisted"]), (&"kept".into(), &true.into()));
    assert!(shown["message"].as_str().unwrap().contains("cannot reach the server"), "{shown}");
    server.publish(&server.pack(false, "newer", &[]));
    server.resume();
    revision_becomes(&gateway, "newer");
    assert_eq!((status(&gateway), &bundle(&gateway)["persisted"]), (403, &false.into()));
}

#[test]
fn an_outage_and_a_reload_leave_the_bundle_as_it_is() {
    let Some(mut server) = Server::start("") else { return };
    let upstream = RecordingUpstream::start();
    server.publish(&server.pack(true, "first", &[]));
    let text = config(&upstream, &server.url(), POLLING);
    let gateway = TestGateway::start(&text, &[]);
    server.stop();
    refused_with(&gateway, "cannot reach the server");
    gateway.write("gateway.yaml", &text.replace("version: 1", "version: 1\nlabels: {a: b}"));
    gateway.running().reloader().reload().unwrap();
    assert_eq!((status(&gateway), &bundle(&gateway)["active_revision"]), (200, &"first".into()));
    // Other settings of the same policy want the bundle anew, and take the last good one where that cannot be.
    gateway.write("gateway.yaml", &text.replace("budget: 5s", "budget: 4s"));
    gateway.running().reloader().reload().unwrap();
    assert_eq!((status(&gateway), &bundle(&gateway)["active_revision"]), (200, &"first".into()));
    // A bundle from elsewhere is another bundle.
    gateway.write("gateway.yaml", &text.replace("bundle.tar.gz", "other.tar.gz"));
    let refused = gateway.running().reloader().reload().unwrap_err().to_string();
    assert!(refused.contains("cannot fetch the bundle"), "{refused}");
    assert_eq!(status(&gateway), 200);
    server.publish(&server.pack(false, "second", &[]));
    server.resume();
    revision_becomes(&gateway, "second");
    assert_eq!(status(&gateway), 403);
    assert_eq!(bundle(&gateway)["message"], Value::Null);
}

#[test]
fn a_bundle_and_its_new_settings_can_change_together() {
    let Some(server) = Server::start("") else { return };
    let upstream = RecordingUpstream::start();
    server.publish(&server.pack(true, "first", &[]));
    let text = config(&upstream, &server.url(), POLLING);
    let gateway = TestGateway::start(&text, &[]);
    server.publish(&server.pack_text("package next\n\nverdict := false\n", "next", &[]));
    refused_with(&gateway, "gateway.decision");
    gateway.write("gateway.yaml", &text.replace("budget: 5s", "budget: 5s, decision: next/verdict"));
    eventually("the reload", || (status(&gateway) == 403).then_some(()));
    let shown = bundle(&gateway);
    assert_eq!((&shown["active_revision"], &shown["message"]), (&"next".into(), &Value::Null));
}

#[test]
fn a_token_is_shown_and_a_wrong_one_is_told_without_showing_it() {
    let guard = format!("if ($http_authorization != \"Bearer {TOKEN}\") {{ return 401; }}");
    let Some(server) = Server::start(&guard) else { return };
    let upstream = RecordingUpstream::start();
    server.publish(&server.pack(true, "first", &[]));
    let refused = start_error(&config(&upstream, &server.url(), POLLING));
    assert!(refused.contains("401 Unauthorized"), "{refused}");
    let policy = format!("{POLLING}, credentials: {{bearer: {{token_file: {}}}}}", server.path("token"));
    let gateway = TestGateway::start(&config(&upstream, &server.url(), &policy), &[]);
    assert_eq!(status(&gateway), 200);
    fs::write(server.path("token"), "wr0ng-t0k3n").unwrap();
    let shown = refused_with(&gateway, "401 Unauthorized");
    assert_eq!((&shown["http_code"], &shown["active_revision"]), (&401.into(), &"first".into()));
    fs::write(server.path("token"), "wr0ng t0k3n\nof two lines").unwrap();
    let shown = refused_with(&gateway, "does not hold a token").to_string();
    assert!(!shown.contains("wr0ng") && !shown.contains(TOKEN), "{shown}");
    server.publish(&server.pack(false, "second", &[]));
    fs::write(server.path("token"), TOKEN).unwrap();
    revision_becomes(&gateway, "second");
    assert_eq!(status(&gateway), 403);
}

#[test]
fn a_client_certificate_is_shown_and_the_server_is_verified() {
    let authority = Authority::new("Bundles");
    let (server_cert, client) = (authority.server(&["localhost"]), authority.client("gateway"));
    let extra = "ssl_certificate {dir}/server.pem; ssl_certificate_key {dir}/server.key;\n\
                 ssl_client_certificate {dir}/ca.pem; ssl_verify_client on;";
    let prepare = |root: &Path| {
        for (name, text) in [
            ("server.pem", &server_cert.cert),
            ("server.key", &server_cert.key),
            ("client.pem", &client.cert),
            ("client.key", &client.key),
            ("ca.pem", &authority.pem()),
            ("stranger.pem", &Authority::new("Stranger").pem()),
        ] {
            fs::write(root.join(name), text).unwrap();
        }
    };
    let Some(server) = Server::start_with(extra, true, prepare) else { return };
    let upstream = RecordingUpstream::start();
    server.publish(&server.pack(true, "first", &[]));
    let policy = |ca: &str| format!("{POLLING}, ca: {}", server.path(ca));
    let refused = start_error(&config(&upstream, &server.url(), &policy("ca.pem")));
    assert!(refused.contains("400 Bad Request"), "nginx says so without a certificate: {refused}");
    let certificate = format!(
        "credentials: {{client_tls: {{cert: {}, private_key: {}}}}}",
        server.path("client.pem"),
        server.path("client.key")
    );
    let stranger = format!("{}, {certificate}", policy("stranger.pem"));
    let refused = start_error(&config(&upstream, &server.url(), &stranger));
    assert!(refused.contains("cannot reach the server"), "{refused}");
    let known = format!("{}, {certificate}", policy("ca.pem"));
    let gateway = TestGateway::start(&config(&upstream, &server.url(), &known), &[]);
    assert_eq!(status(&gateway), 200);
    server.answers_twice_more("304");
    server.publish(&server.pack(false, "second", &[]));
    revision_becomes(&gateway, "second");
}

#[test]
fn a_refused_bundle_is_tried_again_once_the_key_it_needs_is_there() {
    let Some(server) = Server::start("") else { return };
    let upstream = RecordingUpstream::start();
    let sign = ["--signing-key", "key.pem", "--signing-alg", "ES256", "--signing-key-id", "release"];
    server.publish(&server.pack(true, "first", &sign));
    let policy = format!(
        "{POLLING}, signing: {{keys: {{release: {{algorithm: ES256, file: {}}}}}}}",
        server.path("pub.pem")
    );
    let gateway = TestGateway::start(&config(&upstream, &server.url(), &policy), &[]);
    let key = KeyPair::generate().unwrap();
    fs::write(server.path("key.pem"), key.serialize_pem()).unwrap();
    server.publish(&server.pack(false, "second", &sign));
    refused_with(&gateway, "not signed by the key");
    assert_eq!(status(&gateway), 200);
    // The bundle that is in force does not fit the new key: the reload is refused, and the bundle it was meant for taken.
    fs::write(server.path("pub.pem"), key.public_key_pem()).unwrap();
    revision_becomes(&gateway, "second");
    assert_eq!((status(&gateway), &bundle(&gateway)["message"]), (403, &Value::Null));
}

#[test]
fn a_rollback_to_another_url_asks_that_again() {
    let (Some(first), Some(second)) = (Server::start(""), Server::start("")) else { return };
    let upstream = RecordingUpstream::start();
    first.publish(&first.pack(true, "first", &[]));
    second.publish(&second.pack(false, "second", &[]));
    let text = config(&upstream, &first.url(), POLLING);
    let gateway = TestGateway::start(&format!("{text}reload: {{watch: false}}\n"), &[]);
    let moved = config(&upstream, &second.url(), POLLING);
    gateway.write("gateway.yaml", &format!("{moved}reload: {{watch: false}}\n"));
    gateway.running().reloader().reload().unwrap();
    assert_eq!((status(&gateway), &bundle(&gateway)["active_revision"]), (403, &"second".into()));
    let asked = first.asked().len();
    second.answers_twice_more("304");
    assert!(first.asked().len() <= asked + 1, "nobody asks the first one any more");
    assert!(gateway.running().reloader().roll_back().unwrap());
    assert_eq!(status(&gateway), 200);
    first.answers_twice_more("304");
    first.publish(&first.pack(false, "third", &[]));
    revision_becomes(&gateway, "third");
}

#[test]
fn a_delta_bundle_is_refused_where_there_is_nothing_that_it_fits() {
    let Some(server) = Server::start("") else { return };
    let upstream = RecordingUpstream::start();
    server.publish(&server.pack(true, "whole", &[]));
    let gateway = TestGateway::start(&config(&upstream, &server.url(), POLLING), &[]);
    // What it takes out is not there, and nginx has no whole bundle to give in its place.
    server.publish(&server.pack_delta("lost", "{\"op\": \"remove\", \"path\": \"/a\"}"));
    refused_with(&gateway, "is a delta bundle, and there is no bundle that it could change");
    assert_eq!((status(&gateway), &bundle(&gateway)["active_revision"]), (200, &"whole".into()));
    let modes = |wanted: &str| server.asked().iter().any(|line| line.ends_with(wanted));
    assert!(modes("prefer=modes=snapshot,delta") && modes("none-match=- prefer=modes=snapshot"));
}

struct Published {
    version: u64,
    whole: Vec<u8>,
    /// From the version before.
    delta: Vec<u8>,
}

/// A server that holds a request until there is another bundle, or as long as the client lets it, and that has deltas; nginx
/// does neither.
pub(crate) struct Holding {
    address: SocketAddr,
    published: Arc<(Mutex<Published>, Condvar)>,
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
}

impl Holding {
    pub(crate) fn start(whole: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let published = Published { version: 1, whole, delta: Vec::new() };
        let published = Arc::new((Mutex::new(published), Condvar::new()));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (serving, record) = (Arc::clone(&published), Arc::clone(&asked));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (serving, record) = (Arc::clone(&serving), Arc::clone(&record));
                thread::spawn(move || Self::answer(stream, &serving, &record));
            }
        });
        Self { address, published, asked }
    }

    fn answer(
        mut stream: TcpStream,
        (published, signal): &(Mutex<Published>, Condvar),
        asked: &Mutex<Vec<String>>,
    ) {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let field =
            |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").to_owned();
        let prefer = field("prefer: ");
        asked.lock().unwrap().push(prefer.clone());
        let wait = prefer.split_once("wait=").map_or(0, |(_, seconds)| seconds.parse().unwrap());
        let known: u64 = field("if-none-match: ").trim_matches('"').parse().unwrap_or(0);
        let (published, _) = signal
            .wait_timeout_while(published.lock().unwrap(), Duration::from_secs(wait), |published| {
                published.version == known
            })
            .unwrap();
        let Published { version, whole, delta } = &*published;
        // The client may be gone meanwhile.
        let _sent = if *version == known {
            stream.write_all(b"HTTP/1.1 304 Not Modified\r\n\r\n")
        } else {
            let asked_for_delta = prefer.contains("delta") && known + 1 == *version && !delta.is_empty();
            let bytes = if asked_for_delta { delta } else { whole };
            let head = format!(
                "HTTP/1.1 200 OK\r\netag: \"{version}\"\r\ncontent-length: {}\r\n\
                 content-type: application/vnd.openpolicyagent.bundles\r\n\r\n",
                bytes.len()
            );
            stream.write_all(&[head.as_bytes(), bytes].concat())
        };
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/bundle.tar.gz", self.address)
    }

    pub(crate) fn publish(&self, whole: Vec<u8>, delta: Vec<u8>) {
        let mut published = self.published.0.lock().unwrap();
        *published = Published { version: published.version + 1, whole, delta };
        self.published.1.notify_all();
    }
}

pub(crate) const LONG_POLLING: &str = "polling: {min_delay: 10m, max_delay: 10m, long_polling_timeout: 1s}";

#[test]
fn a_server_that_can_hold_requests_is_asked_to() {
    let Some(workshop) = Server::start("") else { return };
    let upstream = RecordingUpstream::start();
    let server = Holding::start(workshop.pack(true, "first", &[]));
    let gateway = TestGateway::start(&config(&upstream, &server.url(), LONG_POLLING), &[]);
    let held = || server.asked.lock().unwrap().iter().filter(|asked| asked.ends_with("wait=1")).count();
    eventually("one request is held after another", || (held() >= 3).then_some(()));
    server.publish(workshop.pack(false, "second", &[]), Vec::new());
    revision_becomes(&gateway, "second");
    server.publish(workshop.pack(true, "third", &[]), Vec::new());
    revision_becomes(&gateway, "third");
    assert_eq!(status(&gateway), 200);
}

#[test]
fn a_delta_changes_what_is_in_force_and_nothing_else() {
    let Some(workshop) = Server::start("") else { return };
    let upstream = RecordingUpstream::start();
    let whole = |allow: bool, revision: &str| {
        fs::create_dir_all(workshop.path("policy")).unwrap();
        fs::write(workshop.path("policy/data.json"), format!("{{\"allow\": {allow}}}")).unwrap();
        workshop.pack_text("package gateway\n\ndecision := {\"allow\": data.allow}\n", revision, &[])
    };
    let delta = |allow: bool, revision: &str| {
        let change = format!("{{\"op\": \"upsert\", \"path\": \"/allow\", \"value\": {allow}}}");
        workshop.pack_delta(revision, &change)
    };
    let server = Holding::start(whole(true, "first"));
    let text = config(&upstream, &server.url(), LONG_POLLING);
    let gateway = TestGateway::start(&text, &[]);
    assert_eq!(status(&gateway), 200);
    for (allow, revision) in [(false, "second"), (true, "third"), (false, "fourth")] {
        server.publish(whole(allow, "not asked for"), delta(allow, revision));
        revision_becomes(&gateway, revision);
        assert_eq!(status(&gateway), if allow { 200 } else { 403 });
        assert_eq!(bundle(&gateway)["type"], "delta");
    }
    gateway.write("gateway.yaml", &text.replace("version: 1", "version: 1\nlabels: {a: b}"));
    gateway.running().reloader().reload().unwrap();
    assert_eq!((status(&gateway), &bundle(&gateway)["active_revision"]), (403, &"fourth".into()));
    // One that does not fit is refused, and the whole bundle fetched in its place.
    let unfit = workshop.pack_delta("unfit", "{\"op\": \"remove\", \"path\": \"/nothing\"}");
    server.publish(whole(true, "fifth"), unfit);
    revision_becomes(&gateway, "fifth");
    let shown = bundle(&gateway);
    assert_eq!((status(&gateway), &shown["type"]), (200, &"snapshot".into()));
    assert_eq!(shown["message"], Value::Null);
    // After a rollback, what the server makes its deltas to is not what is in force.
    assert!(gateway.running().reloader().roll_back().unwrap());
    assert_eq!(status(&gateway), 403);
    server.publish(whole(true, "sixth"), delta(true, "delta to the fifth"));
    revision_becomes(&gateway, "sixth");
    assert_eq!((status(&gateway), &bundle(&gateway)["type"]), (200, &"snapshot".into()));
}

#[test]
fn a_check_of_the_configuration_asks_nobody_and_says_so() {
    let Some(mut server) = Server::start("") else { return };
    let upstream = RecordingUpstream::start();
    server.stop();
    let url = format!("{}?token={TOKEN}", server.url());
    fs::write(server.path("gateway.yaml"), config(&upstream, &url, POLLING)).unwrap();
    let ran = gatewayctl(server.root.path(), &["config", "check"]);
    assert_eq!(ran.code, Some(0), "{}", ran.notes);
    let want =
        format!("the bundle `{}` is not fetched here, so its signature, policies and tests", server.url());
    assert!(ran.notes.contains(&want), "{}", ran.notes);
    assert!(!ran.notes.contains(TOKEN), "{}", ran.notes);
    assert_eq!(server.asked(), [""; 0]);
    let signing = format!("signing: {{keys: {{a: {{file: {}}}}}}}", server.path("token"));
    fs::write(server.path("gateway.yaml"), config(&upstream, &url, &signing)).unwrap();
    let ran = gatewayctl(server.root.path(), &["config", "check"]);
    assert_eq!(ran.code, Some(1), "all else is checked: {}", ran.notes);
}
