//! Group TLS of the hostile requests, at a running gateway. A case that another test covers is listed with that test.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use rcgen::{BasicConstraints, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, NameConstraints};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use serde_json::Value;

use crate::gateway::{ALLOW_ALL, TestGateway};
use crate::live_support::*;
use crate::wire::{self, RecordingUpstream};

const CASES: &str = "../shared/data/attacks/cases.jsonl";

/// `(case, the test that covers it)`.
const ELSEWHERE: [(&str, &str); 8] = [
    ("TLS-003", "live_tls::a_host_of_another_certificates_rules_is_misdirected"),
    ("TLS-015", "live_tls::plaintext_on_a_tls_listener_gets_nothing, alpn_chooses_the_protocol"),
    ("TLS-024", "live_tls::a_required_certificate_must_be_there_and_not_be_revoked"),
    ("TLS-025", "live_tls::a_required_certificate_must_be_there_and_not_be_revoked"),
    ("TLS-030", "identity::client_certificate::tests, client_cert::a_spiffe_id_counts_in_its_trust_domains"),
    ("TLS-033", "client_cert::anyone_elses_certificate_headers_are_dropped"),
    (
        "TLS-034",
        "upstream::tls::{the_system_does_not_know_a_private_authority, a_certificate_for_another_name_is_refused}",
    ),
    ("TLS-035", "live_tls::replaced_certificates_are_served_and_open_connections_go_on"),
];

/// A gateway for `a.test`, `b.test` and its own address, with this `client_auth`.
struct Setup {
    authority: Authority,
    gateway: TestGateway,
    upstream: RecordingUpstream,
}

fn setup_of(authority: Authority, client_auth: &str, files: &[(&str, &str)]) -> Setup {
    let upstream = RecordingUpstream::start();
    let server = authority.server(&["a.test", "b.test", "127.0.0.1"]);
    let config = format!(
        r#"
version: 1
workers: 1
listeners:
  - name: public
    address: "127.0.0.1:0"
    limits: {{handshake_timeout: 500ms}}
    tls: {{certificates: [{{cert: server.pem, key: server.key}}], {client_auth}}}
upstreams: {{up: {{endpoints: ["{}"]}}}}
policies: {{main: {{bundle: policy, budget: 5s}}}}
apis:
  - {{name: a, hosts: [a.test], policy: main, upstream: up}}
  - {{name: b, hosts: [b.test], policy: main, upstream: up}}
  - {{name: other, base_path: /open, policy: main, upstream: up}}
reload: {{watch: false}}
"#,
        upstream.url()
    );
    let ca = authority.pem();
    let mut all = vec![
        ("policy/main.rego", ALLOW_ALL),
        ("server.pem", server.cert.as_str()),
        ("server.key", server.key.as_str()),
        ("ca.pem", ca.as_str()),
    ];
    all.extend_from_slice(files);
    let gateway = TestGateway::start(&config, &all);
    Setup { authority, gateway, upstream }
}

fn setup() -> Setup {
    setup_of(Authority::new("ca"), "", &[])
}

fn mutual() -> Setup {
    setup_of(Authority::new("ca"), "client_auth: {mode: required, ca: ca.pem}", &[])
}

impl Setup {
    fn address(&self) -> SocketAddr {
        self.gateway.address("public")
    }

    /// Whether a client with this certificate is answered.
    fn welcomes(&self, certificate: Option<&Issued>) -> bool {
        self.answers(&tls_client(&self.authority, &["http/1.1"], certificate))
    }

    fn answers(&self, client: &Arc<ClientConfig>) -> bool {
        tls_get(client, self.address(), "a.test", "/").is_ok_and(|response| response.status == 200)
    }

    /// Sends bytes in place of a handshake, and reads whatever comes.
    fn answer_to(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = wire::connect(self.address());
        drop(stream.write_all(bytes));
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        answer
    }
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// A `ClientHello` of an old version, with this `server_name` extension's host.
fn hello(version: u16, host: Option<&[u8]>) -> Vec<u8> {
    let mut extensions = Vec::new();
    if let Some(host) = host {
        let name = with_length(&[&[0][..], &with_length(host)].concat());
        extensions.extend([0, 0]);
        extensions.extend(with_length(&name));
    }
    // Groups and signature schemes that everybody knows.
    extensions.extend([0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3]);
    let mut body = version.to_be_bytes().to_vec();
    body.extend([7; 32]);
    body.push(0);
    // ECDHE-ECDSA with AES-128-GCM and AES-128-CBC.
    body.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x09]);
    body.extend([1, 0]);
    body.extend(with_length(&extensions));
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let handshake = [&[1][..], &length[1..], &body].concat();
    let records = handshake.chunks(16_000).map(|part| [&[22, 3, 1][..], &with_length(part)].concat());
    records.collect::<Vec<_>>().concat()
}

fn is_alert(answer: &[u8]) -> bool {
    answer.first() == Some(&21)
}

fn is_server_hello(answer: &[u8]) -> bool {
    answer.first() == Some(&22)
}

fn handshakes(case: &str) -> bool {
    match case {
        "TLS-001" => {
            let setup = setup();
            for version in [0x0300, 0x0301, 0x0302] {
                assert!(is_alert(&setup.answer_to(&hello(version, Some(b"a.test")))), "{version:x}");
            }
            assert!(
                is_server_hello(&setup.answer_to(&hello(0x0303, Some(b"a.test")))),
                "the hello itself is good"
            );
        }
        "TLS-004" => {
            let setup = setup();
            let client = tls_client(&setup.authority, &["http/1.1"], None);
            let ask = |host, path| {
                // An address is not sent as a server name.
                let mut stream = tls_connect(&client, setup.address(), "127.0.0.1").unwrap();
                get_over(&mut stream, host, path).unwrap().status
            };
            assert_eq!(ask("127.0.0.1", "/open/x"), 200);
            assert_eq!(ask("127.0.0.1", "/"), 404, "the APIs of named hosts are not there");
        }
        "TLS-005" => {
            let setup = setup();
            let long = vec![b'a'; 60_000];
            for name in [&b"127.0.0.1"[..], b"[::1]", b"a\0.test", b"", b"\xff\xfe", &long] {
                let answer = setup.answer_to(&hello(0x0303, Some(name)));
                assert!(answer.is_empty() || is_alert(&answer) || is_server_hello(&answer));
            }
            for name in [&b"A.TEST"[..], b"a.test"] {
                assert!(is_server_hello(&setup.answer_to(&hello(0x0303, Some(name)))));
            }
            assert!(setup.welcomes(None), "all goes on");
        }
        "TLS-009" => {
            let setup = setup();
            let mut client = (*tls_client(&setup.authority, &["http/1.1"], None)).clone();
            client.enable_early_data = true;
            let client = Arc::new(client);
            assert!(setup.answers(&client));
            let name = "a.test".try_into().unwrap();
            let mut second = rustls::ClientConnection::new(client, name).unwrap();
            assert!(second.early_data().is_none(), "the ticket allows none");
        }
        "TLS-011" => {
            let setup = setup();
            let mut stream = wire::connect(setup.address());
            let started = Instant::now();
            let hello = hello(0x0303, Some(b"a.test"));
            let ended = hello.iter().any(|byte| {
                let sent = stream.write_all(&[*byte]);
                std::thread::park_timeout(Duration::from_millis(50));
                sent.is_err()
            });
            assert!(
                ended
                    || stream.read(&mut [0]).is_ok_and(|read| read == 0)
                    || started.elapsed() > Duration::from_secs(1)
            );
            let rest = stream.read(&mut [0]);
            assert!(rest.is_err() || rest.is_ok_and(|read| read == 0), "closed at the handshake's timeout");
        }
        "TLS-012" => {
            // As many as a test may open beside its neighbours; each is dropped at the handshake's timeout.
            let setup = setup();
            let open: Vec<_> = (0..300).map(|_| wire::connect(setup.address())).collect();
            let started = Instant::now();
            assert!(setup.welcomes(None));
            assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
            drop(open);
        }
        "TLS-013" => {
            let setup = setup();
            for (alpn, bytes) in [
                ("h2", &b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"[..]),
                ("http/1.1", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            ] {
                let client = tls_client(&setup.authority, &[alpn], None);
                let mut stream = tls_connect(&client, setup.address(), "a.test").unwrap();
                stream.write_all(bytes).unwrap();
                let mut answer = Vec::new();
                drop(stream.read_to_end(&mut answer));
                assert!(!answer.starts_with(b"HTTP/1.1 200"), "{alpn}");
            }
            assert_eq!(setup.upstream.requests(), 0);
        }
        _ => return false,
    }
    true
}

fn connections(case: &str) -> bool {
    match case {
        "TLS-006" => {
            let setup = setup();
            let address = setup.address();
            block_on(async {
                let client = tls_client(&setup.authority, &["h2"], None);
                let mut h2 = H2Client::tls(&client, address, "a.test").await;
                assert_eq!(h2.get("https://a.test/").await.unwrap().status(), 200);
                let coalesced = Request::get("https://b.test/").body(()).unwrap();
                assert_eq!(h2.send(coalesced, b"").await.unwrap().status(), 421);
            });
        }
        "TLS-008" => {
            let authority = Authority::new("ca");
            let (robot, crl) = (authority.client("robot"), authority.crl(&[], 2100));
            let auth = "client_auth: {mode: required, ca: ca.pem, crl: clients.crl}";
            let setup = setup_of(authority, auth, &[("clients.crl", &crl)]);
            let client = tls_client(&setup.authority, &["http/1.1"], Some(&robot));
            assert!(setup.answers(&client) && setup.answers(&client));
            setup.gateway.write("clients.crl", &setup.authority.crl(&[&robot], 2100));
            setup.gateway.running().reloader().reload().unwrap();
            assert!(!setup.answers(&client), "its ticket is of the time before");
        }
        "TLS-010" => {
            let setup = setup();
            let client = tls_client(&setup.authority, &["http/1.1"], None);
            let mut stream = tls_connect(&client, setup.address(), "a.test").unwrap();
            let closed =
                (0..100_000).any(|_| stream.conn.refresh_traffic_keys().is_err() || stream.flush().is_err());
            assert!(closed || get_over(&mut stream, "a.test", "/").is_err(), "a flood ends the connection");
            assert!(setup.welcomes(None));
        }
        _ => return false,
    }
    true
}

/// A client that proves its certificate with another key.
#[derive(Debug)]
struct Impostor(Arc<CertifiedKey>);

impl ResolvesClientCert for Impostor {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A client that shows this chain and signs with this key, whether they fit or not.
fn shows(setup: &Setup, chain: Vec<CertificateDer<'static>>, key: &str) -> Arc<ClientConfig> {
    let mut client = (*tls_client(&setup.authority, &["http/1.1"], None)).clone();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&rustls_pem_key(key)).unwrap();
    client.client_auth_cert_resolver = Arc::new(Impostor(Arc::new(CertifiedKey::new(chain, key))));
    Arc::new(client)
}

fn certificates(case: &str) -> bool {
    let for_clients = |params: &mut rcgen::CertificateParams| {
        params.distinguished_name.push(DnType::CommonName, "robot");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    };
    match case {
        "TLS-016" => assert!(!mutual().welcomes(None)),
        "TLS-018" => {
            let setup = mutual();
            let of = |from, until| {
                setup.authority.issue(&[], |params| {
                    for_clients(params);
                    params.not_before = rcgen::date_time_ymd(from, 1, 1);
                    params.not_after = rcgen::date_time_ymd(until, 1, 1);
                })
            };
            assert!(setup.welcomes(Some(&of(2020, 2090))));
            assert!(!setup.welcomes(Some(&of(2020, 2021))));
            assert!(!setup.welcomes(Some(&of(2080, 2090))));
        }
        "TLS-020" | "TLS-021" => {
            let setup = mutual();
            let of = |usages: &[ExtendedKeyUsagePurpose]| {
                setup.authority.issue(&["robot.test"], |params| params.extended_key_usages = usages.to_vec())
            };
            assert!(!setup.welcomes(Some(&of(&[ExtendedKeyUsagePurpose::ServerAuth]))));
            // As documented: a certificate without usages is for all of them (RFC 5280 section 4.2.1.12).
            assert!(setup.welcomes(Some(&of(&[]))));
        }
        "TLS-022" => {
            let setup = mutual();
            let authority = setup.authority.issue(&[], |params| {
                for_clients(params);
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            });
            assert!(!setup.welcomes(Some(&authority)));
        }
        "TLS-023" => {
            let setup = mutual();
            assert!(!setup.welcomes(Some(&Authority::new("ca").client("robot"))), "another of the same name");
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(DnType::CommonName, "ca");
            let own = params.self_signed(&key).unwrap();
            assert!(!setup.answers(&shows(&setup, vec![own.der().clone()], &key.serialize_pem())));
        }
        "TLS-026" => {
            let (first, second) = (Authority::new("first"), Authority::new("second"));
            let (both, crl) = (first.pem() + &second.pem(), first.crl(&[], 2100));
            let (listed, unlisted) = (first.client("a"), second.client("b"));
            let auth = "client_auth: {mode: required, ca: both.pem, crl: clients.crl}";
            let setup = setup_of(first, auth, &[("both.pem", &both), ("clients.crl", &crl)]);
            assert!(setup.welcomes(Some(&listed)));
            assert!(!setup.welcomes(Some(&unlisted)), "nobody says that it is not revoked");
        }
        "TLS-028" => {
            let authority = Authority::with("ca", |params| {
                params.name_constraints = Some(NameConstraints {
                    permitted_subtrees: vec![GeneralSubtree::DnsName("test".to_owned())],
                    excluded_subtrees: vec![GeneralSubtree::DnsName("evil.test".to_owned())],
                });
            });
            // The gateway's own certificate has an address, which these constraints do not concern.
            let setup = setup_of(authority, "client_auth: {mode: required, ca: ca.pem}", &[]);
            let named = |name: &str| setup.welcomes(Some(&setup.authority.issue(&[name], for_clients)));
            assert!(named("robot.test"));
            for outside in ["robot.example", "a.evil.test", "*.evil.test", "*.example"] {
                assert!(!named(outside), "{outside}");
            }
        }
        "TLS-031" => {
            let setup = mutual();
            let robot = setup.authority.client("robot");
            let chain = vec![robot.der.clone(); 3_000];
            assert!(!setup.answers(&shows(&setup, chain, &robot.key)), "a chain of about a mebibyte");
            let mut chain = vec![setup.authority.client("unknown").der];
            chain[0] = Authority::new("stranger").client("robot").der;
            chain.extend((0..99).map(|_| Authority::new("link").root()));
            assert!(
                !setup.answers(&shows(&setup, chain, &robot.key)),
                "a chain of a hundred that leads nowhere"
            );
            assert!(setup.welcomes(Some(&robot)));
        }
        "TLS-032" => {
            let setup = mutual();
            let (robot, other) = (setup.authority.client("robot"), setup.authority.client("other"));
            assert!(setup.answers(&shows(&setup, vec![robot.der.clone()], &robot.key)));
            assert!(!setup.answers(&shows(&setup, vec![robot.der.clone()], &other.key)));
        }
        _ => return false,
    }
    true
}

#[test]
fn every_hostile_handshake_gets_what_it_deserves() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(CASES);
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: {CASES} is not here");
        return;
    };
    let mut elsewhere: BTreeSet<_> = ELSEWHERE.into_iter().map(|(case, _)| case).collect();
    let cases = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut seen = 0;
    for case in cases.filter(|case| case["group"] == "TLS") {
        let id = case["id"].as_str().unwrap();
        seen += 1;
        if elsewhere.remove(id) {
            continue;
        }
        let is_covered = handshakes(id) || connections(id) || certificates(id);
        assert!(is_covered, "{id} `{}` is not covered", case["title"]);
    }
    assert_eq!(seen, 28, "the cases have changed");
    assert!(elsewhere.is_empty(), "listed, but no case: {elsewhere:?}");
}
