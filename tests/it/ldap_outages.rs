//! Directories that are down, slow, wrong or hostile: nobody gets in by it, nothing else is held up, and it passes.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::gateway::{TestGateway, eventually};
use crate::ldap_support::*;
use crate::live_support::{plain_config, sha256_hex};
use crate::wire::{RecordingUpstream, get};

/// Nothing is remembered, and patience is short.
const IMPATIENT: &str =
    "cache: 0s\n    negative_cache: 0s\n    timeouts: {connect: 300ms, operation: 300ms, total: 700ms}";

/// Recovery after whatever it was.
const RECOVERY_MAX: Duration = Duration::from_secs(5);

/// The five answers of the case, and more of their kind.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let nested =
        (0..12_000_u32).rev().flat_map(|depth| [&[0x30, 0x84][..], &(depth * 6 + 2).to_be_bytes()].concat());
    let mut nested: Vec<u8> = nested.collect();
    nested.extend([0x30, 0]);
    assert_eq!(nested.len(), 72_002);
    vec![
        ("ldap_malformed", vec![0x30, 0]),
        ("ldap_malformed", vec![0x30, 3, 2, 1, 1]),
        ("ldap_too_large", vec![0x30, 0x84, 0x7f, 0xff, 0xff, 0xff]),
        ("ldap_malformed", [&[0x30, 0x90][..], &[0xff; 16]].concat()),
        ("ldap_malformed", nested),
        ("ldap_malformed", vec![0x30, 0x80, 2, 1, 1, 0, 0]),
        ("ldap_malformed", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("ldap_malformed", vec![0x31, 0x0c, 2, 1, 1, 0x61, 7, 10, 1, 0, 4, 0, 4, 0]),
        ("ldap_malformed", vec![0x30, 0x0c, 2, 1, 1, 0x61, 7, 10, 1, 0, 4, 0x7f, 4, 0]),
        // Another's answer, an answer to another question, and the notice that the server closes.
        ("ldap_malformed", result(99, 0x61, 0)),
        ("ldap_malformed", result(1, 0x65, 0)),
        ("ldap_malformed", result(1, 0x78, 0)),
        ("ldap_closed", result(0, 0x78, 52)),
    ]
}

#[test]
fn hostile_answers_are_outages_and_nothing_more() {
    let upstream = RecordingUpstream::start();
    for (reason, bytes) in hostile() {
        // To the gateway's own bind, to a user's, and to a search.
        for stage in 0..3 {
            let bytes = bytes.clone();
            let fake = Fake::start(move |asked| match (stage, asked.operation) {
                (0, 0x60) if asked.is_service_bind() => Act::Send(bytes.clone()),
                (1, 0x60) if !asked.is_service_bind() => Act::Send(bytes.clone()),
                (2, 0x63) => Act::Send(bytes.clone()),
                _ => behave(asked),
            });
            let gateway = usual(&upstream, fake.address, IMPATIENT);
            let response = login(&gateway, "alice", "x");
            let shown = &bytes_shown(&response.body);
            assert_eq!(response.status, 503, "{reason} at {stage}: {shown}");
            // Where the answer to a search is one of another kind, its id may be right by chance.
            assert_eq!(last_outage(&gateway), reason, "at {stage}");
            assert_eq!(get(gateway.address("public"), "/", "").status, 200, "other requests go on");
        }
    }
}

fn bytes_shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_entry_that_cannot_be_is_nobody() {
    let upstream = RecordingUpstream::start();
    // Without a name, a bind would be anonymous and succeed.
    for dn in ["", "alice", "uid=alice,\0", "=x"] {
        let fake = Fake::start(move |asked| match asked.operation {
            0x63 => Act::Send([entry(asked.id, dn, "uid", &[b"alice"]), result(asked.id, 0x65, 0)].concat()),
            _ => behave(asked),
        });
        let gateway = usual(&upstream, fake.address, IMPATIENT);
        assert_eq!(login(&gateway, "alice", "x").status, 503, "{dn:?}");
        assert_eq!((fake.user_binds(), last_outage(&gateway).as_str()), (0, "ldap_malformed"));
    }
    // An entry whose subject is missing, empty, doubled or no text.
    let subjects: [&[&[u8]]; 4] = [&[], &[b""], &[b"alice", b"root"], &[b"\xff"]];
    for values in subjects {
        let values: Vec<Vec<u8>> = values.iter().map(|value| value.to_vec()).collect();
        let fake = Fake::start(move |asked| match asked.operation {
            0x63 => {
                let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
                let found = entry(asked.id, &format!("uid=alice,{PEOPLE}"), "uid", &values);
                Act::Send([found, result(asked.id, 0x65, 0)].concat())
            }
            _ => behave(asked),
        });
        let gateway = usual(&upstream, fake.address, IMPATIENT);
        assert_eq!(login(&gateway, "alice", "x").status, 401);
    }
}

#[test]
fn only_success_is_success() {
    let upstream = RecordingUpstream::start();
    let refusals = [19, 32, 34, 48, 49, 50, 53];
    for code in 1..=123_u8 {
        // One gateway for a few codes would be quicker, and would share a circuit breaker.
        if !refusals.contains(&code) && code % 7 != 0 && !matches!(code, 10 | 14 | 51 | 52 | 80) {
            continue;
        }
        let fake = Fake::start(move |asked| match asked.operation {
            0x60 if !asked.is_service_bind() => Act::Send(result(asked.id, 0x61, code)),
            _ => behave(asked),
        });
        let gateway = usual(&upstream, fake.address, IMPATIENT);
        let want = if refusals.contains(&code) { 401 } else { 503 };
        assert_eq!(login(&gateway, "alice", "x").status, want, "{code}");
    }
}

#[test]
fn the_gateways_own_account_being_refused_is_an_outage() {
    let Some(slapd) = Slapd::start() else { return };
    let upstream = RecordingUpstream::start();
    let written = provider(&format!("ldap://{}", slapd.plain), IMPATIENT).replace(SERVICE_PASSWORD, "wrong");
    let gateway = gateway(&upstream, &written, "[directory]", &[]);
    assert_eq!(login(&gateway, "alice", "alice-pass").status, 503);
    assert_eq!(last_outage(&gateway), "ldap_service_account");
}

#[test]
fn referrals_lead_nowhere() {
    let upstream = RecordingUpstream::start();
    let elsewhere = Fake::start(behave);
    let url = format!("ldap://{}/{PEOPLE}", elsewhere.address);
    let fake = Fake::start(move |asked| match asked.operation {
        0x63 => {
            let reference = element(0x73, &element(4, url.as_bytes()));
            let reference = element(0x30, &[&[2, 1, asked.id][..], &reference].concat());
            Act::Send([reference, result(asked.id, 0x65, 0)].concat())
        }
        _ => behave(asked),
    });
    let gateway = usual(&upstream, fake.address, IMPATIENT);
    assert_eq!(login(&gateway, "alice", "x").status, 401);
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn nothing_said_before_tls_counts() {
    let Some(slapd) = Slapd::start() else { return };
    let upstream = RecordingUpstream::start();
    for refused in [true, false] {
        let fake = Fake::start(move |asked| match asked.operation {
            0x77 if refused => Act::Send(result(asked.id, 0x78, 2)),
            // With an answer to the bind that comes next, in the clear.
            0x77 => Act::Send([result(asked.id, 0x78, 0), result(2, 0x61, 0)].concat()),
            _ => behave(asked),
        });
        let more = format!("start_tls: true\n    ca: ca.pem\n    {IMPATIENT}");
        let written = provider(&format!("ldap://{}", fake.address), &more);
        let gateway = gateway(&upstream, &written, "[directory]", &[("ca.pem", &slapd.ca())]);
        assert_eq!(login(&gateway, "alice", "x").status, 503);
        assert_eq!(last_outage(&gateway), "ldap_tls");
    }
}

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn an_answer_without_end_is_refused_and_not_kept() {
    let upstream = RecordingUpstream::start();
    let dn = |number: usize| format!("uid=u{number},{PEOPLE}");
    let alice = |id| entry(id, &format!("uid=alice,{PEOPLE}"), "uid", &[b"alice"]);
    let big = vec![b'x'; 64 << 10];
    // The second message of a connection is the search for the user, the third that for groups.
    let many: Vec<&[u8]> = vec![b""; 100_000];
    let many = [2, 3].map(|id| entry(id, &dn(1), "uid", &many));
    type Endless = Box<dyn Fn(&Asked) -> Act + Send + Sync>;
    let endless: Vec<Endless> = vec![
        // Entries, large values, small ones of which each costs more in memory, other servers, and one long message.
        Box::new(move |asked| {
            Act::Pour((0..100).flat_map(|number| entry(asked.id, &dn(number), "uid", &[b"u"])).collect())
        }),
        Box::new(move |asked| Act::Pour(entry(asked.id, &dn(1), "uid", &[&big]))),
        Box::new(move |asked| Act::Pour(many[usize::from(asked.id) - 2].clone())),
        Box::new(|asked| {
            let reference = element(0x73, &element(4, b"ldap://127.0.0.1:1/"));
            Act::Pour(element(0x30, &[&[2, 1, asked.id][..], &reference].concat()))
        }),
        Box::new(|_| Act::Pour(vec![0x30, 0x84, 0x06, 0x40, 0, 0])),
    ];
    for (number, answer) in endless.into_iter().enumerate() {
        // To the search for the user, and to that for groups.
        let answer = Arc::new(answer);
        for groups in [false, true] {
            let answer = Arc::clone(&answer);
            let fake = Fake::start(move |asked| match asked.operation {
                0x63 if !groups => answer(asked),
                0x63 if asked.has("member") => answer(asked),
                0x63 => Act::Send([alice(asked.id), result(asked.id, 0x65, 0)].concat()),
                _ => behave(asked),
            });
            let gateway = usual(&upstream, fake.address, "");
            let before = resident_bytes();
            assert_eq!(login(&gateway, "alice", "x").status, 503, "{number}");
            let grown = resident_bytes().saturating_sub(before);
            assert!(grown < 24 << 20, "{number}: {grown} bytes more");
            assert!(
                matches!(last_outage(&gateway).as_str(), "ldap_too_large" | "ldap_malformed"),
                "{number}"
            );
        }
    }
}

/// Asks with an API key, whatever the directory does.
fn with_key(gateway: &TestGateway) -> u16 {
    get(gateway.address("public"), "/", "X-Api-Key: key\r\n").status
}

#[test]
fn a_directory_that_never_answers_holds_up_nobody_else() {
    let upstream = RecordingUpstream::start();
    let fake = Fake::start(|_| Act::Stall);
    let written = provider(&format!("ldap://{}", fake.address), IMPATIENT)
        + "  keys: {type: api_key, keys: keys.yaml}\n";
    let config = plain_config(&upstream.url(), &format!("identity:\n{written}"))
        .replace("policy: main, upstream: up}", "policy: main, upstream: up, identity: [directory, keys]}");
    let keys = format!("keys: [{{id: k, owner: o, sha256: \"{}\"}}]\n", sha256_hex(b"key"));
    let gateway = TestGateway::start(&config, &[("policy/main.rego", TELLS), ("keys.yaml", &keys)]);
    let waiting = AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in 0..40 {
            let (gateway, waiting) = (&gateway, &waiting);
            scope.spawn(move || {
                waiting.fetch_add(1, Ordering::Relaxed);
                let began = Instant::now();
                assert_eq!(login(gateway, &format!("u{number}"), "x").status, 503);
                assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
            });
        }
        eventually("all wait", || (waiting.load(Ordering::Relaxed) == 40).then_some(()));
        for _ in 0..20 {
            let began = Instant::now();
            assert_eq!(with_key(&gateway), 200);
            assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
        }
    });
    // At most one pool of connections was ever open.
    assert!(fake.connections() <= 80, "{}", fake.connections());
}

/// What stands between the gateway and `slapd` in a test of outages.
mod way {
    pub(super) const OPEN: u8 = 0;
    pub(super) const STALL: u8 = 1;
    pub(super) const RESET: u8 = 2;
    pub(super) const DRIP: u8 = 3;
    pub(super) const WRONG: u8 = 4;
}

/// Passes bytes to `slapd`, and does to its answers what `mode` says.
struct Breaker {
    address: SocketAddr,
    mode: Arc<AtomicU8>,
}

impl Breaker {
    fn start(to: SocketAddr) -> Self {
        use std::io::{Read, Write};
        use std::net::{TcpListener, TcpStream};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let breaker = Self { address: listener.local_addr().unwrap(), mode: Arc::default() };
        let mode = Arc::clone(&breaker.mode);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(to)) else { continue };
                let mode = Arc::clone(&mode);
                let (mut from, mut into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || drop(std::io::copy(&mut from, &mut into)));
                thread::spawn(move || -> std::io::Result<()> {
                    let (mut server, mut client) = (server, client);
                    let mut bytes = [0; 4096];
                    loop {
                        let read = server.read(&mut bytes)?;
                        let some = &mut bytes[..read];
                        match mode.load(Ordering::Relaxed) {
                            _ if read == 0 => return Ok(()),
                            way::OPEN => client.write_all(some)?,
                            way::STALL => drop(server.read(&mut [0])?),
                            way::RESET => {
                                socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
                                return client.shutdown(std::net::Shutdown::Both);
                            }
                            way::DRIP => {
                                for byte in some {
                                    client.write_all(&[*byte])?;
                                    thread::park_timeout(Duration::from_millis(100));
                                }
                            }
                            _ => {
                                some.reverse();
                                client.write_all(some)?;
                            }
                        }
                    }
                });
            }
        });
        breaker
    }

    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::Relaxed);
    }
}

/// Clients that go on asking: right passwords and wrong ones. They end with the test.
struct Load {
    stop: AtomicBool,
    allowed: AtomicUsize,
    unavailable: AtomicUsize,
    wrong: AtomicUsize,
}

impl Load {
    fn client(&self, gateway: &TestGateway, client: usize) {
        let mut round = client;
        while !self.stop.load(Ordering::Relaxed) {
            round += 1;
            let (mine, is_right) = (round % NUMBERED, !round.is_multiple_of(3));
            let other = if is_right { mine } else { (mine + 1) % NUMBERED };
            let name = format!("u{mine:02}");
            let response = login(gateway, &name, &format!("p{other:02}"));
            let counted = match response.status {
                200 if is_right && who(&response)["subject"] == name => &self.allowed,
                503 => &self.unavailable,
                401 if !is_right => continue,
                _ => &self.wrong,
            };
            counted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Logins that went well until now.
    fn allowed(&self) -> usize {
        self.allowed.load(Ordering::Relaxed)
    }
}

/// Waits until logins fail, then runs `mend`, and then until they go well; fails where that takes too long.
fn outage(what: &str, load: &Load, fail: impl FnOnce(), mend: impl FnOnce()) {
    let (allowed, unavailable) = (load.allowed(), load.unavailable.load(Ordering::Relaxed));
    assert!(allowed > 0, "it worked before: {what}");
    fail();
    eventually(what, || (load.unavailable.load(Ordering::Relaxed) > unavailable + 20).then_some(()));
    mend();
    let (began, before) = (Instant::now(), load.allowed());
    eventually(what, || (load.allowed() > before + 20).then_some(()));
    assert!(began.elapsed() < RECOVERY_MAX, "{what}: {:?}", began.elapsed());
}

/// Runs `outages` while clients ask.
fn under_load(gateway: &TestGateway, outages: impl FnOnce(&Load)) {
    let load = Load {
        stop: AtomicBool::new(false),
        allowed: AtomicUsize::new(0),
        unavailable: AtomicUsize::new(0),
        wrong: AtomicUsize::new(0),
    };
    /// Clients end, whatever happens to the test.
    struct Stop<'l>(&'l Load);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.stop.store(true, Ordering::Relaxed);
        }
    }
    thread::scope(|scope| {
        let stop = Stop(&load);
        for client in 0..8 {
            let load = &load;
            scope.spawn(move || load.client(gateway, client * 5));
        }
        eventually("logins", || (load.allowed() > 20).then_some(()));
        outages(&load);
        drop(stop);
    });
    assert_eq!(load.wrong.load(Ordering::Relaxed), 0, "answers that must not be");
}

#[test]
fn broken_ways_let_nobody_in_and_pass() {
    let Some(slapd) = Slapd::start() else { return };
    let upstream = RecordingUpstream::start();
    let breaker = Breaker::start(slapd.plain);
    let gateway = usual(&upstream, breaker.address, IMPATIENT);
    under_load(&gateway, |load| {
        for (what, mode, reason) in [
            ("stalled", way::STALL, "ldap_timeout"),
            ("reset", way::RESET, "ldap_closed"),
            ("dripping", way::DRIP, "ldap_timeout"),
            ("wrong", way::WRONG, "ldap_malformed"),
        ] {
            let mend = || {
                eventually("its own reason", || (last_outage(&gateway) == reason).then_some(()));
                breaker.set(way::OPEN);
            };
            outage(what, load, || breaker.set(mode), mend);
        }
    });
    let reasons: Vec<_> = gateway.events(1).iter().map(|event| event["gateway"]["reason"].clone()).collect();
    for reason in
        ["ldap_timeout", "ldap_closed", "ldap_malformed", "provider_circuit_open", "invalid_credentials"]
    {
        assert!(reasons.iter().any(|known| known == reason), "{reason}");
    }
}

#[test]
fn a_killed_directory_lets_nobody_in_and_is_used_again() {
    let Some(slapd) = Slapd::start() else { return };
    let upstream = RecordingUpstream::start();
    let gateway = usual(&upstream, slapd.plain, IMPATIENT);
    let slapd = std::sync::Mutex::new(slapd);
    under_load(&gateway, |load| {
        let killed = || {
            eventually("its own reason", || (last_outage(&gateway) == "ldap_unreachable").then_some(()));
            slapd.lock().unwrap().run();
        };
        outage("killed", load, || slapd.lock().unwrap().kill(), killed);
        let stopped = || {
            eventually("its own reason", || (last_outage(&gateway) == "ldap_timeout").then_some(()));
            slapd.lock().unwrap().signal("-CONT");
        };
        outage("stopped", load, || slapd.lock().unwrap().signal("-STOP"), stopped);
    });
}
