//! An issuer's key server that fails in every way while requests go on: nobody gets in who should not, those with good
//! tokens are served with the last good keys, and new keys count within five seconds of the server's return.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::SockRef;

use crate::gateway::{TestGateway, eventually};
use crate::live_identity::now;
use crate::live_support::plain_config;
use crate::token::{Signer, jwks};
use crate::wire::{RecordingUpstream, get};

/// The longest time from the server's return to its keys being used.
const RECOVERY: Duration = Duration::from_secs(5);

const WHO: &str = "package gateway\n\ndecision := {\"allow\": input.identity.authenticated}\n";

/// What the key server does.
#[derive(Debug, Clone)]
enum Mode {
    Keys(String),
    /// Takes the question and says nothing.
    Stall,
    /// Ends the connection with a reset.
    Reset,
    /// A byte now and then.
    Drip,
    /// This answer, whatever it is.
    Wrong(String),
    /// Fifty mebibytes.
    Huge,
}

/// A key server that is told what to do, on one port whether it is there or not.
struct KeyServer {
    address: SocketAddr,
    mode: Arc<Mutex<Mode>>,
    asked: Arc<AtomicUsize>,
    gone: Arc<AtomicBool>,
}

impl KeyServer {
    fn start(keys: &str) -> Self {
        let server = Self::absent();
        server.become_(Mode::Keys(keys.to_owned()));
        server.come_back();
        server
    }

    /// Nobody listens at its address.
    fn absent() -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Self { address, mode: Arc::new(Mutex::new(Mode::Stall)), asked: Arc::default(), gone: Arc::default() }
    }

    fn become_(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn come_back(&self) {
        self.gone.store(false, Ordering::SeqCst);
        let listener = eventually("the port", || TcpListener::bind(self.address).ok());
        let (mode, asked, gone) = (Arc::clone(&self.mode), Arc::clone(&self.asked), Arc::clone(&self.gone));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if gone.load(Ordering::SeqCst) {
                    return;
                }
                let (mode, asked) = (Arc::clone(&mode), Arc::clone(&asked));
                thread::spawn(move || serve(stream, &mode, &asked));
            }
        });
    }

    fn go_away(&self) {
        self.gone.store(true, Ordering::SeqCst);
        // Wakes the one that accepts.
        drop(TcpStream::connect(self.address));
        eventually("nobody listens", || TcpStream::connect(self.address).is_err().then_some(()));
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, mode: &Mutex<Mode>, asked: &AtomicUsize) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            Ok(_) | Err(_) => return,
        }
    }
    let now = mode.lock().unwrap().clone();
    asked.fetch_add(1, Ordering::SeqCst);
    // The gateway may hang up at any time, which is its good right.
    drop(match now {
        Mode::Keys(keys) => {
            let head =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", keys.len());
            stream.write_all((head + &keys).as_bytes())
        }
        Mode::Stall => stream.read(&mut byte).map(drop),
        Mode::Reset => SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
        Mode::Drip => {
            let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n");
            while sent.is_ok() {
                sent = stream.write_all(b" ");
                thread::park_timeout(Duration::from_millis(50));
            }
            sent
        }
        Mode::Wrong(answer) => stream.write_all(answer.as_bytes()),
        Mode::Huge => {
            let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 52428800\r\n\r\n");
            for _ in 0..800 {
                sent = sent.and_then(|()| stream.write_all(&[b' '; 65_536]));
            }
            sent
        }
    });
}

fn answer(status: &str, headers: &str, body: &str) -> Mode {
    let length = body.len();
    Mode::Wrong(format!(
        "HTTP/1.1 {status}\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    ))
}

fn gateway(upstream: &RecordingUpstream, server: &KeyServer) -> TestGateway {
    let identity = format!(
        "identity: {{corp: {{type: jwt, issuer: \"https://idp.test\", audiences: [gw], algorithms: [ES256], refresh: 1s, \
         jwks_uri: \"http://{}/jwks\"}}}}",
        server.address
    );
    let config = plain_config(&upstream.url(), &identity).replace("workers: 1", "workers: 2");
    let config = config.replace("upstream: up}]", "upstream: up, identity: [corp], anonymous: reject}]");
    TestGateway::start(&config, &[("policy/main.rego", WHO)])
}

fn token(signer: &Signer, id: usize) -> String {
    let claims = json!({"iss": "https://idp.test", "aud": "gw", "sub": "alice", "exp": now() + 600, "jti": id.to_string()});
    signer.sign(&claims)
}

fn ask(address: SocketAddr, token: &str) -> u16 {
    get(address, "/", &format!("Authorization: Bearer {token}\r\nConnection: close\r\n")).status
}

/// Requests that go on all the time: those of a thief must never be let in, those of a holder always be.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<(usize, usize)>>,
}

impl Load {
    fn start(address: SocketAddr, holder: &Arc<Mutex<Arc<Signer>>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = |number: usize| {
            let (stop, holder) = (Arc::clone(&stop), Arc::clone(holder));
            thread::spawn(move || {
                let thieves = [Signer::es256("k1"), Signer::es256("k2"), Signer::es256("unknown")];
                let (mut served, mut asked) = (0, 0);
                loop {
                    for thief in &thieves {
                        let status = ask(address, &token(thief, asked));
                        assert!(matches!(status, 401 | 503), "a forged token got {status}");
                    }
                    let signer = Arc::clone(&holder.lock().unwrap());
                    served += usize::from(ask(address, &token(&signer, number * 1_000_000 + asked)) == 200);
                    asked += 1;
                    if stop.load(Ordering::SeqCst) {
                        return (served, asked);
                    }
                }
            })
        };
        let threads = (0..2).map(thread).collect();
        Self { stop, threads }
    }

    /// How many of the holder's requests were served, and how many there were.
    fn end(self) -> (usize, usize) {
        self.stop.store(true, Ordering::SeqCst);
        let counts = self.threads.into_iter().map(|thread| thread.join().unwrap());
        counts.fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1))
    }
}

#[test]
fn no_failure_of_the_key_server_lets_anyone_in_or_keeps_a_holder_out() {
    let keys = [Arc::new(Signer::es256("k1")), Arc::new(Signer::es256("k2"))];
    let set = |signer: &Signer| jwks(&[signer.jwk()]);
    let evil = Signer::es256("k1");
    let elsewhere = KeyServer::start(&set(&evil));
    let upstream = RecordingUpstream::start();
    let server = KeyServer::start(&set(&keys[0]));
    let gateway = gateway(&upstream, &server);
    let address = gateway.address("public");
    assert_eq!(ask(address, &token(&keys[0], 0)), 200);

    let secret =
        json!({"keys": [{"kty": "oct", "kid": "k1", "k": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]});
    let modes = [
        None,
        Some(Mode::Stall),
        Some(Mode::Reset),
        Some(Mode::Drip),
        Some(Mode::Huge),
        Some(answer("500 Oops", "", &set(&evil))),
        Some(answer("200 OK", "content-type: text/html\r\n", "<html>under maintenance</html>")),
        Some(answer("200 OK", "", "{\"keys\": [{\"kty\": \"EC\"")),
        Some(answer(
            "302 Found",
            &format!("location: http://127.0.0.1:{}/jwks\r\n", elsewhere.address.port()),
            "",
        )),
        Some(answer("200 OK", "", &format!("{}{}", set(&evil), set(&evil)))),
    ];
    let mut slowest = Duration::ZERO;
    for (round, mode) in modes.into_iter().enumerate() {
        let (current, next) = (&keys[round % 2], &keys[(round + 1) % 2]);
        let load = Load::start(address, &Arc::new(Mutex::new(Arc::clone(current))));
        let what = format!("{mode:.60?}");
        let before = server.asked();
        match mode {
            None => server.go_away(),
            Some(mode) => {
                server.become_(mode);
                eventually("the key server is asked", || (server.asked() > before).then_some(()));
            }
        }
        let (served, asked) = load.end();
        assert!(asked > 0, "{what}");
        assert_eq!(served, asked, "{what}: the last good keys serve");

        // It comes back with other keys.
        server.become_(Mode::Keys(set(next)));
        if server.gone.load(Ordering::SeqCst) {
            server.come_back();
        }
        let back = Instant::now();
        eventually("the new key counts", || (ask(address, &token(next, round)) == 200).then_some(()));
        slowest = slowest.max(back.elapsed());
        assert!(back.elapsed() < RECOVERY, "{what}: {:?}", back.elapsed());
        assert_eq!(ask(address, &token(current, round)), 401, "{what}: the withdrawn key does not");
    }
    // A set of a secret that anyone can read is a set without keys.
    server.become_(Mode::Keys(secret.to_string()));
    let forged = crate::token::hs256(
        &[0; 32],
        r#"{"alg":"HS256","kid":"k1"}"#,
        &json!({"iss": "https://idp.test", "aud": "gw", "exp": now() + 600}).to_string(),
    );
    eventually("the keys are gone", || (ask(address, &token(&keys[0], 1)) == 401).then_some(()));
    assert_eq!(ask(address, &forged), 401);
    eprintln!("slowest recovery: {slowest:?}");
}

#[test]
fn a_key_server_that_was_down_at_the_start_is_found_when_it_comes() {
    let key = Signer::es256("k1");
    let upstream = RecordingUpstream::start();
    let server = KeyServer::absent();
    let gateway = gateway(&upstream, &server);
    let address = gateway.address("public");
    let load = Load::start(address, &Arc::new(Mutex::new(Arc::new(Signer::es256("k9")))));
    let refused = get(address, "/", &format!("Authorization: Bearer {}\r\n", token(&key, 0)));
    assert_eq!(refused.status, 503, "nobody can say, which is not a no");
    let reasons: Vec<_> = gateway.events(1).iter().map(|event| event["gateway"]["reason"].clone()).collect();
    assert!(reasons.iter().all(|reason| reason == "keys_unavailable"), "{reasons:?}");

    server.become_(Mode::Keys(jwks(&[key.jwk()])));
    server.come_back();
    let back = Instant::now();
    eventually("its keys count", || (ask(address, &token(&key, 1)) == 200).then_some(()));
    assert!(back.elapsed() < RECOVERY, "{:?}", back.elapsed());
    assert_eq!(load.end().0, 0, "a key that it does not have never counted");
}
