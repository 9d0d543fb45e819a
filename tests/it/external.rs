//! Authentication by a service of one's own: nginx asked as Envoy asks it, and a service that fails in every way.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::SockRef;

use crate::gateway::{TestGateway, eventually};
use crate::live_support::{admin, plain_config};
use crate::wire::{RawResponse, RecordingUpstream, get};

const ALLOW: &str = "package gateway\n\ndecision := {\"allow\": input.identity.authenticated}\n";
const OK: &str = "HTTP/1.1 200 OK\r\nx-auth-user: alice\r\nx-auth-groups: eu, staff\r\nx-level: 3\r\n\
                  content-length: 0\r\n\r\n";
const MAPPED: &str = "identity: {subject: x-auth-user, groups: x-auth-groups}, attributes: [x-level]";

/// How a service behaves.
#[derive(Debug, Clone)]
enum Mode {
    Answer(String),
    /// Takes the question and says nothing.
    Stall,
    /// Ends the connection with a reset.
    Reset,
    /// An answer without an end, a byte now and then.
    Drip,
}

/// A service that is told how to behave.
struct Service {
    address: SocketAddr,
    mode: Arc<Mutex<Mode>>,
    asked: Arc<Mutex<Vec<String>>>,
    gone: Arc<AtomicBool>,
}

impl Service {
    fn start(mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let service =
            Self { address, mode: Arc::new(Mutex::new(mode)), asked: Arc::default(), gone: Arc::default() };
        let (mode, asked, gone) =
            (Arc::clone(&service.mode), Arc::clone(&service.asked), Arc::clone(&service.gone));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if gone.load(Ordering::SeqCst) {
                    return;
                }
                let (mode, asked) = (Arc::clone(&mode), Arc::clone(&asked));
                thread::spawn(move || serve(stream, &mode, &asked));
            }
        });
        service
    }

    fn answering(text: &str) -> Self {
        Self::start(Mode::Answer(text.to_owned()))
    }

    fn turn(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
    }
}

fn serve(mut stream: TcpStream, mode: &Mutex<Mode>, asked: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                Ok(_) | Err(_) => return,
            }
        }
        asked.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
        let mode = mode.lock().unwrap().clone();
        match mode {
            Mode::Answer(text) => {
                if stream.write_all(text.as_bytes()).is_err() {
                    return;
                }
            }
            Mode::Stall => {
                // Until the gateway has had enough.
                drop(stream.read(&mut byte));
                return;
            }
            Mode::Reset => {
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
            Mode::Drip => {
                stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
                while stream.write_all(b"H").is_ok() {
                    if matches!(stream.read(&mut byte), Ok(0)) {
                        return;
                    }
                }
                return;
            }
        }
    }
}

fn config(upstream: &RecordingUpstream, url: &str, more: &str, api: &str) -> String {
    let identity = format!(
        "identity:\n  own: {{type: external, url: \"{url}\", forward: [authorization, x-shop], {more}}}\n"
    );
    plain_config(&upstream.url(), &identity).replace(
        "{name: all, policy: main, upstream: up}",
        &format!("{{name: all, policy: main, upstream: up, identity: [own], {api}}}"),
    )
}

fn gateway(upstream: &RecordingUpstream, service: &Service, more: &str) -> TestGateway {
    let url = format!("http://{}/check", service.address);
    let config = config(upstream, &url, more, "on_bad_credential: reject");
    TestGateway::start(&config, &[("policy/main.rego", ALLOW)])
}

fn ask(gateway: &TestGateway, path: &str, headers: &str) -> RawResponse {
    get(gateway.address("public"), path, headers)
}

const ALICE: &str = "Authorization: Basic YWxpY2U6d29uZGVybGFuZA==\r\n";

#[test]
fn the_service_gets_what_envoy_sends_and_its_answer_becomes_the_identity() {
    let (upstream, service) = (RecordingUpstream::start(), Service::answering(OK));
    let gateway = gateway(&upstream, &service, MAPPED);
    let headers = format!("{ALICE}X-Shop: acme\r\nX-Secret: no\r\nCookie: a=b\r\n");
    assert_eq!(ask(&gateway, "/orders/1?page=2", &headers).status, 200);
    let asked = service.asked();
    let question = asked[0].to_ascii_lowercase();
    assert!(question.starts_with("get /check/orders/1?page=2 http/1.1\r\n"), "{question}");
    for held in ["authorization: basic ywx", "x-shop: acme", "host: gw.test"] {
        assert!(question.contains(held), "{question}");
    }
    assert!(!question.contains("x-secret") && !question.contains("cookie"), "{question}");
    let event = gateway.events(1).remove(0);
    let want = json!({"authenticated": true, "provider": "own", "type": "external", "subject": "alice",
        "audience": [], "roles": [], "groups": ["eu", "staff"], "scopes": [], "attributes": {"x-level": "3"}});
    assert_eq!(event["input"]["identity"], want);
    assert!(!event.to_string().contains("YWxpY2U6"), "a credential in an event");
    // Without a cache, each request is asked about; one without credentials is nobody's.
    assert_eq!(ask(&gateway, "/", ALICE).status, 200);
    assert_eq!(ask(&gateway, "/", ALICE).status, 200);
    assert_eq!(ask(&gateway, "/", "").status, 403);
    assert_eq!(service.asked().len(), 3);
}

#[test]
fn a_refusal_is_the_services_own_answer() {
    let upstream = RecordingUpstream::start();
    let login = "HTTP/1.1 302 Found\r\nlocation: https://login.test/?rd=1\r\nset-cookie: csrf=1\r\nx-internal: 7\r\n\
                 content-type: text/html\r\ncontent-length: 4\r\n\r\n<hi>";
    let service = Service::answering(login);
    let gateway = gateway(&upstream, &service, "asked: always, client_headers: [set-cookie]");
    let response = ask(&gateway, "/", "");
    assert_eq!((response.status, response.text().as_str()), (302, "<hi>"));
    assert_eq!(response.header("location"), Some("https://login.test/?rd=1"));
    assert_eq!(response.header("set-cookie"), Some("csrf=1"));
    assert_eq!(response.header("content-type"), Some("text/html"));
    assert_eq!(response.header("x-internal"), None);
    assert_eq!(upstream.requests(), 0);
    let told = gateway.events(1).remove(0)["gateway"].clone();
    assert_eq!((&told["reason"], &told["status"]), (&json!("refused_by_service"), &json!(302)));
}

#[test]
fn an_answer_is_remembered_for_the_requests_that_agree_in_its_key() {
    let (upstream, service) = (RecordingUpstream::start(), Service::answering(OK));
    let cache = format!("{MAPPED}, cache: {{key: [authorization, \":method\"], ttl: 60s}}");
    let gateway = gateway(&upstream, &service, &cache);
    for path in ["/a", "/b", "/a?x=1"] {
        assert_eq!(ask(&gateway, path, ALICE).status, 200);
    }
    assert_eq!(service.asked().len(), 1);
    assert_eq!(ask(&gateway, "/a", "Authorization: Basic Ym9iOng=\r\n").status, 200);
    assert_eq!(service.asked().len(), 2);
}

#[test]
fn what_is_no_answer_lets_nobody_in_and_has_its_own_reason() {
    let (upstream, service) = (RecordingUpstream::start(), Service::answering(OK));
    let gateway = gateway(&upstream, &service, MAPPED);
    let large =
        format!("HTTP/1.1 200 OK\r\nx-auth-user: a\r\ncontent-length: 100000\r\n\r\n{}", "x".repeat(100_000));
    let two = "HTTP/1.1 200 OK\r\nx-auth-user: a\r\nx-auth-user: root\r\ncontent-length: 0\r\n\r\n";
    let status =
        |line: &str| Mode::Answer(format!("HTTP/1.1 {line}\r\nx-auth-user: a\r\ncontent-length: 0\r\n\r\n"));
    let cases = [
        (Mode::Stall, "provider_timeout"),
        (Mode::Reset, "external_unreachable"),
        (Mode::Drip, "external_unreachable"),
        (status("500 Oops"), "external_failed"),
        (
            Mode::Answer("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned()),
            "external_answer_malformed",
        ),
        (status("204 No Content"), "external_failed"),
        (status("201 Created"), "external_failed"),
        (Mode::Answer(large), "external_answer_too_large"),
        (Mode::Answer(two.to_owned()), "external_answer_malformed"),
        (Mode::Answer("SSH-2.0-nonsense\r\n\r\n".to_owned()), "external_unreachable"),
    ];
    for (index, (mode, reason)) in cases.into_iter().enumerate() {
        // An answer in between keeps the circuit closed.
        service.turn(Mode::Answer(OK.to_owned()));
        assert_eq!(ask(&gateway, "/", ALICE).status, 200);
        service.turn(mode.clone());
        let response = ask(&gateway, "/", ALICE);
        assert_eq!(response.status, 503, "{mode:?}");
        let told = gateway.events(2 * index + 2)[2 * index + 1]["gateway"].clone();
        let told_reason = told["reason"].as_str().unwrap();
        let either = [reason, "provider_timeout"];
        assert!(
            if matches!(mode, Mode::Drip) { either.contains(&told_reason) } else { told_reason == reason },
            "{mode:?}: {told_reason}, not {reason}"
        );
    }
    assert_eq!(upstream.requests(), 10);
}

#[test]
fn at_load_nobody_gets_in_while_the_service_fails_and_all_do_soon_after_it_is_back() {
    let (upstream, service) = (RecordingUpstream::start(), Service::answering(OK));
    let gateway = gateway(&upstream, &service, MAPPED);
    let address = gateway.address("public");
    let (stop, failing, wrong) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (stop, failing, wrong) = (Arc::clone(&stop), Arc::clone(&failing), Arc::clone(&wrong));
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let before = failing.load(Ordering::SeqCst);
                    let status = get(address, "/", ALICE).status;
                    let is_failing = before && failing.load(Ordering::SeqCst);
                    if is_failing && status == 200 || !matches!(status, 200 | 503) {
                        wrong.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        })
        .collect();
    for mode in [Mode::Stall, Mode::Reset, Mode::Drip, Mode::Answer("nonsense\r\n\r\n".to_owned())] {
        service.turn(mode);
        // Questions that were on their way may still be answered well.
        eventually("a refusal", || (get(address, "/", ALICE).status == 503).then_some(()));
        eventually("no answer on its way", || (get(address, "/", ALICE).status == 503).then_some(()));
        thread::scope(|scope| {
            scope.spawn(|| {
                failing.store(true, Ordering::SeqCst);
                for _ in 0..20 {
                    assert_eq!(get(address, "/", ALICE).status, 503);
                }
                failing.store(false, Ordering::SeqCst);
            });
        });
        let back = Instant::now();
        service.turn(Mode::Answer(OK.to_owned()));
        eventually("an answer", || (get(address, "/", ALICE).status == 200).then_some(()));
        assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    }
    stop.store(true, Ordering::SeqCst);
    load.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(wrong.load(Ordering::SeqCst), 0);
    let status: Value = serde_json::from_slice(&admin(&gateway, "/status").body).unwrap();
    let server = &status["identity_servers"]["own"];
    assert_eq!(server["circuit"], "closed");
    assert!(
        server["outages"].as_u64().unwrap() >= 5 && server["last_outage"]["reason"].is_string(),
        "{server}"
    );
}

#[test]
fn a_good_answer_serves_longer_while_the_service_is_down_where_that_is_asked_for() {
    let (upstream, service) = (RecordingUpstream::start(), Service::answering(OK));
    let cache = format!("{MAPPED}, cache: {{key: [authorization], ttl: 0s, stale: 1h}}");
    let gateway = gateway(&upstream, &service, &cache);
    assert_eq!(ask(&gateway, "/", ALICE).status, 200);
    service.turn(Mode::Reset);
    assert_eq!(ask(&gateway, "/", ALICE).status, 200);
    assert_eq!(gateway.events(2)[1]["input"]["identity"]["stale"], true);
    // Only whom the service has vouched for.
    assert_eq!(ask(&gateway, "/", "Authorization: Basic Ym9iOng=\r\n").status, 503);
    // What is refused is refused, whatever was said before.
    service.turn(Mode::Answer("HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n".to_owned()));
    eventually("the service is asked again", || (ask(&gateway, "/", ALICE).status == 403).then_some(()));
    service.turn(Mode::Reset);
    eventually("the refusal is old", || (ask(&gateway, "/", ALICE).status == 503).then_some(()));
}

#[test]
fn what_cannot_be_meant_is_refused_at_load() {
    let upstream = RecordingUpstream::start();
    let check = |url: &str, more: &str, want: &str| {
        let config = config(&upstream, url, more, "");
        let error =
            TestGateway::try_start(&config, &[("policy/main.rego", ALLOW)]).err().unwrap().to_string();
        assert!(error.contains(want), "{error}");
    };
    check("http://auth.test/check", "", "`http://auth.test/check` is not protected on its way");
    check("http://127.0.0.1:1", "cache: {key: [cookie]}", "the service does not get the header `cookie`");
    check("http://127.0.0.1:1", "timeout: 1m", "`1m`");
    check("http://127.0.0.1:1", "client_headers: [transfer-encoding]", "belongs to one connection");
    check("http://127.0.0.1:1", "asks: always", "unknown key `asks`");
}

/// nginx as an authentication service, as it ships.
struct Nginx {
    process: Child,
    port: u16,
    _root: tempfile::TempDir,
}

impl Nginx {
    /// `None`, which is said, where nginx is not installed.
    fn start() -> Option<Self> {
        if Command::new("nginx").arg("-v").output().is_err() {
            eprintln!("skipped: nginx is not installed");
            return None;
        }
        let root = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::fs::write(root.path().join("users"), "alice:{PLAIN}wonderland\n").unwrap();
        std::fs::create_dir(root.path().join("www")).unwrap();
        std::fs::write(root.path().join("www/yes"), "").unwrap();
        let config = nginx_config(root.path(), port);
        std::fs::write(root.path().join("nginx.conf"), config).unwrap();
        let process = Command::new("nginx").arg("-c").arg(root.path().join("nginx.conf")).spawn().unwrap();
        let nginx = Self { process, port, _root: root };
        eventually("nginx", || TcpStream::connect(("127.0.0.1", nginx.port)).ok());
        Some(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn nginx_config(root: &Path, port: u16) -> String {
    let root = root.display();
    format!(
        "daemon off; master_process off; pid {root}/pid; error_log {root}/error;\nevents {{}}\nhttp {{\n\
         access_log off; client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;\n\
         uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;\nserver {{ listen 127.0.0.1:{port}; root {root}/www;\n\
         location /auth {{ auth_basic staff; auth_basic_user_file {root}/users; add_header X-Auth-User $remote_user;\n\
         try_files /yes =500; }} }} }}\n"
    )
}

#[test]
fn nginx_with_a_password_file_is_such_a_service() {
    let Some(nginx) = Nginx::start() else { return };
    let upstream = RecordingUpstream::start();
    let url = format!("http://127.0.0.1:{}/auth", nginx.port);
    let config = config(&upstream, &url, "identity: {subject: x-auth-user}", "");
    let gateway = TestGateway::start(&config, &[("policy/main.rego", ALLOW)]);
    assert_eq!(ask(&gateway, "/orders/1", ALICE).status, 200);
    assert_eq!(gateway.events(1)[0]["input"]["identity"]["subject"], "alice");
    let refused = ask(&gateway, "/orders/1", "Authorization: Basic YWxpY2U6bm8=\r\n");
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Basic realm=\"staff\"")));
    assert_eq!(upstream.requests(), 1);
}
