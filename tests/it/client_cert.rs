//! Client certificates that a proxy shows (RFC 9440), SPIFFE ids, and what an upstream is told, through a running gateway.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use serde_json::{Value, json};

use crate::gateway::TestGateway;
use crate::live_support::*;
use crate::wire::{RecordingUpstream, get};

const TELLS_CERTIFICATE: &str = "package gateway\n\n\
    decision := {\"allow\": true, \"log\": {\"fields\": {\"tls\": object.get(input.source, \"tls\", null)}}}\n";

/// A gateway in plaintext behind proxies in `trusted`.
struct Setup {
    authority: Authority,
    gateway: TestGateway,
    upstream: RecordingUpstream,
}

fn config(upstream: &RecordingUpstream, listener: &str, provider: &str) -> String {
    plain_config(&upstream.url(), &format!("identity: {{devices: {{type: client_certificate, {provider}}}}}"))
        .replace("address: \"127.0.0.1:0\"}]", &format!("address: \"127.0.0.1:0\", {listener}}}]"))
        .replace("upstream: up}", "upstream: up, identity: [devices]}")
        .replace("{endpoints: [", "{forward_client_certificate: true, endpoints: [")
}

fn behind(trusted: &str, provider: &str) -> Setup {
    let (authority, upstream) = (Authority::new("ca"), RecordingUpstream::start());
    let listener = format!(
        "trusted_proxies: [{trusted}], forwarded_client_certificates: {{ca: ca.pem, crl: clients.crl}}"
    );
    let config = config(&upstream, &listener, provider) + "reload: {watch: false}\n";
    let files = [
        ("policy/main.rego", TELLS_CERTIFICATE),
        ("ca.pem", &authority.pem()),
        ("clients.crl", &authority.crl(&[], 2100)),
    ];
    let gateway = TestGateway::start(&config, &files);
    Setup { authority, gateway, upstream }
}

fn field(der: &[u8]) -> String {
    format!(":{}:", STANDARD.encode(der))
}

fn shown(issued: &Issued) -> String {
    format!("Client-Cert: {}\r\n", field(&issued.der))
}

fn device(authority: &Authority, id: &str) -> Issued {
    authority.issue(&[], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names.push(SanType::URI(id.try_into().unwrap()));
    })
}

impl Setup {
    fn get(&self, headers: &str) -> u16 {
        get(self.gateway.address("public"), "/", headers).status
    }

    fn last_event(&self, count: usize) -> Value {
        self.gateway.events(count).pop().unwrap()
    }
}

#[test]
fn a_trusted_proxys_client_certificate_is_the_clients_and_marked() {
    let setup = behind("127.0.0.0/8", "subject: common_name");
    let robot = setup.authority.client("robot");
    // The second finds it remembered.
    for count in 1..=2 {
        assert_eq!(setup.get(&shown(&robot)), 200);
        let event = setup.last_event(count);
        assert_eq!(event["gateway"]["identity"], json!({"provider": "devices", "subject": "robot"}));
        let tls = &event["gateway"]["fields"]["tls"];
        assert_eq!(tls["client_certificate"]["forwarded_by"], "127.0.0.1");
        assert_eq!(tls["client_certificate"]["fingerprint_sha256"], sha256_hex(&robot.der));
        assert_eq!(tls.get("version"), None, "this hop is plaintext, and does not pretend otherwise");
    }
    // The upstream is told it by the gateway, once.
    let received = setup.upstream.received().to_ascii_lowercase();
    assert_eq!(received.matches("client-cert: ").count(), 2);
    assert!(setup.upstream.received().contains(&field(&robot.der)));

    assert_eq!(setup.get(""), 200, "the proxy says that there was none");
    let event = setup.last_event(3);
    assert!(event["gateway"].get("identity").is_none());
    assert_eq!(event["gateway"]["fields"]["tls"], Value::Null);
    assert_eq!(setup.upstream.received().to_ascii_lowercase().matches("client-cert").count(), 2);
}

#[test]
fn a_forwarded_certificate_is_verified_like_one_of_a_handshake() {
    let setup = behind("127.0.0.0/8", "subject: common_name");
    let good = setup.authority.client("robot");
    let revoked = setup.authority.client("revoked");
    let expired = setup.authority.issue(&[], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let for_servers = setup.authority.issue(&["robot.test"], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    assert_eq!((setup.get(&shown(&good)), setup.get(&shown(&revoked))), (200, 200));
    setup.gateway.write("clients.crl", &setup.authority.crl(&[&revoked], 2100));
    setup.gateway.running().reloader().reload().unwrap();
    for untrusted in [&Authority::new("ca").client("robot"), &revoked, &expired, &for_servers] {
        assert_eq!(setup.get(&shown(untrusted)), 400);
    }
    assert_eq!(setup.get(&shown(&good)), 200);
    let untrusted = setup.gateway.events(7);
    assert!(untrusted[2..6].iter().all(|event| event["gateway"]["reason"] == "client_cert_untrusted"));
}

#[test]
fn what_is_not_one_certificate_is_refused() {
    let setup = behind("127.0.0.0/8", "subject: common_name");
    let robot = setup.authority.client("robot");
    let bare = STANDARD.encode(&robot.der);
    let cut = field(&robot.der[..robot.der.len() - 1]);
    let long = field(&[b'x'; 20_000]);
    let bad = [
        shown(&robot).repeat(2),
        format!("Client-Cert: {bare}\r\n"),
        format!(
            "Client-Cert: :{}:\r\n",
            bare.replace('+', "-").replace('/', "_").trim_end_matches('=').to_owned() + "!"
        ),
        "Client-Cert: \r\n".to_owned(),
        "Client-Cert: ::\r\n".to_owned(),
        format!("Client-Cert: {long}\r\n"),
        format!("Client-Cert-Chain: {}\r\n", field(&robot.der)),
        format!("{}Client-Cert-Chain: nonsense\r\n", shown(&robot)),
        format!("{}Client-Cert-Chain: {}\r\n", shown(&robot), [field(&robot.der).as_str(); 9].join(", ")),
    ];
    for (index, headers) in bad.iter().enumerate() {
        assert_eq!(setup.get(headers), 400, "{index}");
        assert_eq!(setup.last_event(index + 1)["gateway"]["reason"], "client_cert_malformed", "{index}");
    }
    assert_eq!(setup.get(&format!("Client-Cert: {cut}\r\n")), 400);
    assert_eq!(setup.upstream.requests(), 0);
}

#[test]
fn anyone_elses_certificate_headers_are_dropped() {
    // Not behind a proxy at all, and behind one that is not the peer.
    let plain = (Authority::new("ca"), RecordingUpstream::start());
    let files = [("policy/main.rego", TELLS_CERTIFICATE)];
    let gateway = TestGateway::start(&config(&plain.1, "apis: [all]", "subject: common_name"), &files);
    let other = Setup { authority: plain.0, gateway, upstream: plain.1 };
    for setup in [behind("192.0.2.0/24", "subject: common_name"), other] {
        let robot = setup.authority.client("robot");
        let spoofed = format!(
            "{}Client-Cert-Chain: {}\r\nX-Forwarded-Client-Cert: Hash=ab;Subject=\"CN=robot\"\r\n",
            shown(&robot),
            field(&robot.der)
        );
        assert_eq!(setup.get(&spoofed), 200);
        let event = setup.last_event(1);
        assert!(event["gateway"].get("identity").is_none());
        assert!(!event["input"].to_string().to_ascii_lowercase().contains("client-cert"), "{event}");
        assert!(!setup.upstream.received().to_ascii_lowercase().contains("client-cert"));
    }
}

#[test]
fn a_proxys_own_certificate_is_not_its_clients() {
    let (authority, upstream) = (Authority::new("ca"), RecordingUpstream::start());
    let listener = "trusted_proxies: [127.0.0.0/8], forwarded_client_certificates: {ca: ca.pem}, \
        tls: {certificates: [{cert: server.pem, key: server.key}], client_auth: {mode: required, ca: ca.pem}}";
    let server = authority.server(&["gw.test"]);
    let files = [
        ("policy/main.rego", TELLS_CERTIFICATE),
        ("ca.pem", &authority.pem()),
        ("server.pem", &server.cert),
        ("server.key", &server.key),
    ];
    let gateway = TestGateway::start(&config(&upstream, listener, "subject: common_name"), &files);
    let proxy = tls_client(&authority, &["http/1.1"], Some(&authority.client("proxy")));
    let mut stream = tls_connect(&proxy, gateway.address("public"), "gw.test").unwrap();
    let robot = shown(&authority.client("robot"));
    let mut ask = |headers: &str| {
        send_over(&mut stream, &format!("GET / HTTP/1.1\r\nHost: gw.test\r\n{headers}\r\n")).unwrap().status
    };
    assert_eq!((ask(&robot), ask("")), (200, 200));
    let events = gateway.events(2);
    assert_eq!(events[0]["gateway"]["identity"]["subject"], "robot");
    assert_eq!(events[0]["gateway"]["fields"]["tls"]["version"], "TLSv1.3");
    assert!(events[1]["gateway"].get("identity").is_none(), "the client showed none");
}

#[test]
fn a_spiffe_id_counts_in_its_trust_domains() {
    let setup = behind("127.0.0.0/8", "subject: spiffe_id, trust_domains: [example.org, partner.test]");
    let checks = [
        ("spiffe://example.org/device/1", 200, json!("spiffe://example.org/device/1")),
        ("spiffe://partner.test/x", 200, json!("spiffe://partner.test/x")),
        ("spiffe://evil.test/device/1", 401, json!("foreign_trust_domain")),
        ("spiffe://example.org.evil.test/device/1", 401, json!("foreign_trust_domain")),
        ("spiffe://example.org/device//1", 401, json!("no_subject_name")),
        ("https://example.org/device/1", 401, json!("no_subject_name")),
    ];
    for (index, (id, status, told)) in checks.iter().enumerate() {
        assert_eq!(setup.get(&shown(&device(&setup.authority, id))), *status, "{id}");
        let identity = setup.last_event(index + 1)["gateway"]["identity"].clone();
        assert_eq!(identity.get("subject").or(identity.get("failure")), Some(told), "{id}");
    }
    let two = setup.authority.issue(&[], |params| {
        for id in ["spiffe://example.org/a", "spiffe://example.org/b"] {
            params.subject_alt_names.push(SanType::URI(id.try_into().unwrap()));
        }
    });
    assert_eq!(setup.get(&shown(&two)), 401, "an SVID has one id");
}
