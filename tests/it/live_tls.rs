//! TLS at the front door: versions, certificates by SNI, client certificates, replaced files, resumption.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::HandshakeKind;
use serde_json::{Value, json};

use crate::gateway::{TestGateway, eventually};
use crate::live_support::*;
use crate::wire::RecordingUpstream;

const TELLS_TLS: &str = "package gateway\n\ndecision := {\"allow\": true, \"labels\": {\"tls\": \"yes\"}} if input.source.tls\n\n\
    default decision := {\"allow\": true, \"labels\": {\"tls\": \"no\"}}\n";

fn config(upstream: &RecordingUpstream, tls: &str) -> String {
    format!(
        r#"
version: 1
workers: 1
listeners: [{{name: public, address: "127.0.0.1:0", tls: {{certificates: [{{cert: server.pem, key: server.key}}], {tls}}}}}]
identity: {{devices: {{type: client_certificate, subject: common_name}}}}
upstreams: {{up: {{endpoints: ["{}"]}}}}
policies: {{main: {{bundle: policy, budget: 5s}}}}
apis: [{{name: all, policy: main, upstream: up, identity: [devices]}}]
decision_logs: [{{type: file, path: decisions.jsonl}}]
reload: {{watch: false}}
"#,
        upstream.url()
    )
}

struct Setup {
    authority: Authority,
    gateway: TestGateway,
    _upstream: RecordingUpstream,
}

/// A gateway for `gw.test` whose clients' authority is its own too, with `files` beside the usual ones.
fn setup(tls: &str, authority: Authority, files: &[(&str, &str)]) -> Setup {
    let upstream = RecordingUpstream::start();
    let server = authority.server(&["gw.test"]);
    let ca = authority.pem();
    let mut all = vec![
        ("policy/main.rego", TELLS_TLS),
        ("server.pem", server.cert.as_str()),
        ("server.key", server.key.as_str()),
        ("ca.pem", ca.as_str()),
    ];
    all.extend_from_slice(files);
    let gateway = TestGateway::start(&config(&upstream, tls), &all);
    Setup { authority, gateway, _upstream: upstream }
}

impl Setup {
    fn get(&self, certificate: Option<&Issued>) -> std::io::Result<u16> {
        let client = tls_client(&self.authority, &["http/1.1"], certificate);
        let response = tls_get(&client, self.gateway.address("public"), "gw.test", "/")?;
        Ok(response.status)
    }

    fn reload(&self) {
        self.gateway.running().reloader().reload().unwrap();
    }
}

#[test]
fn both_versions_are_spoken_and_the_policy_is_told_which() {
    let setup = setup("", Authority::new("ca"), &[]);
    let address = setup.gateway.address("public");
    let versions: [(&[&rustls::SupportedProtocolVersion], &str, &str); 2] = [
        (&[&rustls::version::TLS13], "TLSv1.3", "TLS_AES_256_GCM_SHA384"),
        (&[&rustls::version::TLS12], "TLSv1.2", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    ];
    for (index, (versions, version, cipher)) in versions.iter().enumerate() {
        let client = tls_client_with(&setup.authority, &["http/1.1"], None, versions);
        assert_eq!(tls_get(&client, address, "gw.test", "/").unwrap().status, 200);
        let event = &setup.gateway.events(index + 1)[index];
        let want = json!({"version": version, "cipher": cipher, "sni": "gw.test"});
        assert_eq!(event["input"]["source"]["tls"], want);
        assert_eq!(event["labels"]["tls"], "yes");
    }
}

#[test]
fn an_old_version_is_refused_where_the_listener_wants_a_newer_one() {
    let setup = setup(r#"min_version: "1.3""#, Authority::new("ca"), &[]);
    let address = setup.gateway.address("public");
    let old = tls_client_with(&setup.authority, &[], None, &[&rustls::version::TLS12]);
    assert!(tls_get(&old, address, "gw.test", "/").is_err());
    let new = tls_client_with(&setup.authority, &[], None, &[&rustls::version::TLS13]);
    assert_eq!(tls_get(&new, address, "gw.test", "/").unwrap().status, 200);
}

#[test]
fn alpn_chooses_the_protocol() {
    let setup = setup("", Authority::new("ca"), &[]);
    let address = setup.gateway.address("public");
    block_on(async {
        let client = tls_client(&setup.authority, &["h2", "http/1.1"], None);
        let mut h2 = H2Client::tls(&client, address, "gw.test").await;
        let response = h2.get("https://gw.test/a").await.unwrap();
        assert_eq!((response.status(), response.body.as_slice()), (200, &b"ok"[..]));
    });
    for alpn in [&["http/1.1"][..], &[]] {
        let client = tls_client(&setup.authority, alpn, None);
        let mut stream = tls_connect(&client, address, "gw.test").unwrap();
        assert_eq!(stream.conn.alpn_protocol(), alpn.first().map(|name| name.as_bytes()));
        assert_eq!(get_over(&mut stream, "gw.test", "/").unwrap().status, 200);
    }
    let client = tls_client(&setup.authority, &["spdy/3"], None);
    assert!(tls_connect(&client, address, "gw.test").is_err(), "no protocol in common");
}

#[test]
fn the_certificate_is_chosen_by_server_name() {
    let upstream = RecordingUpstream::start();
    let authority = Authority::new("ca");
    let issued = [
        authority.server(&["a.test"]),
        authority.server(&["*.b.test", "b.test"]),
        authority.server(&["x.b.test"]),
    ];
    let files: Vec<(String, String)> = issued
        .iter()
        .enumerate()
        .flat_map(|(i, pair)| {
            [(format!("{i}.pem"), pair.cert.clone()), (format!("{i}.key"), pair.key.clone())]
        })
        .collect();
    let mut files: Vec<(&str, &str)> =
        files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    files.push(("policy/main.rego", TELLS_TLS));
    let config = config(&upstream, "").replace(
        "[{cert: server.pem, key: server.key}]",
        "[{cert: 0.pem, key: 0.key}, {cert: 1.pem, key: 1.key}, {cert: 2.pem, key: 2.key}]",
    );
    let gateway = TestGateway::start(&config, &files);
    let client = tls_client(&authority, &[], None);
    let shown = |name: &str| {
        let stream = tls_connect(&client, gateway.address("public"), name).unwrap();
        let shown = stream.conn.peer_certificates().unwrap()[0].clone();
        issued.iter().position(|pair| pair.der == shown).unwrap()
    };
    assert_eq!(shown("a.test"), 0);
    assert_eq!(shown("B.test"), 1);
    assert_eq!(shown("y.b.test"), 1);
    assert_eq!(shown("x.b.test"), 2, "an exact name beats a wildcard");
    assert!(
        tls_connect(&client, gateway.address("public"), "z.y.b.test").is_err(),
        "a wildcard is one label"
    );
    assert!(
        tls_connect(&client, gateway.address("public"), "other.test").is_err(),
        "the first is shown, and does not fit"
    );
}

#[test]
fn an_optional_certificate_is_an_identity_and_its_absence_is_anonymous() {
    let setup = setup("client_auth: {mode: optional, ca: ca.pem}", Authority::new("ca"), &[]);
    let robot = setup.authority.client("robot");
    assert_eq!(setup.get(Some(&robot)).unwrap(), 200);
    assert_eq!(setup.get(None).unwrap(), 200);
    let stranger = Authority::new("other").client("robot");
    assert!(setup.get(Some(&stranger)).is_err(), "a bad certificate is not an absent one");
    let events = setup.gateway.events(2);
    assert_eq!(events[0]["gateway"]["identity"], json!({"provider": "devices", "subject": "robot"}));
    assert!(events[1]["gateway"].get("identity").is_none());
}

#[test]
fn the_policy_sees_the_certificate_as_the_contract_says() {
    let setup = setup("client_auth: {mode: required, ca: ca.pem}", Authority::new("Test CA"), &[]);
    let spiffe = setup.authority.issue(&["robot.test", "192.0.2.7"], |params| {
        use rcgen::SanType;
        let text = |text: &str| text.try_into().unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "robot");
        params.serial_number = Some(rcgen::SerialNumber::from(vec![0x0a, 0xbc]));
        params.not_after = rcgen::date_time_ymd(2035, 6, 1);
        params.subject_alt_names.push(SanType::URI(text("spiffe://test/robot")));
        params.subject_alt_names.push(SanType::Rfc822Name(text("robot@test")));
    });
    assert_eq!(setup.get(Some(&spiffe)).unwrap(), 200);
    let fingerprint = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &spiffe.der);
    let fingerprint: String = fingerprint.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let event = &setup.gateway.events(1)[0];
    let shown = &event["input"]["source"]["tls"]["client_certificate"];
    let want = json!({
        "subject": "CN=robot",
        "issuer": "CN=Test CA",
        "serial": "0abc",
        "fingerprint_sha256": fingerprint,
        "san": {"dns": ["robot.test"], "uri": ["spiffe://test/robot"], "email": ["robot@test"], "ip": ["192.0.2.7"]},
        "spiffe_id": "spiffe://test/robot",
        "not_after": 2_064_268_800,
    });
    let mut shown = shown.clone();
    // rcgen puts a common name of its own before ours.
    shown["subject"] = Value::from(shown["subject"].as_str().unwrap().rsplit(", ").next().unwrap());
    assert_eq!(shown, want);
}

#[test]
fn a_required_certificate_must_be_there_and_not_be_revoked() {
    let authority = Authority::new("ca");
    let (good, revoked) = (authority.client("good"), authority.client("revoked"));
    let crl = authority.crl(&[&revoked], 2100);
    let setup = setup(
        "client_auth: {mode: required, ca: ca.pem, crl: clients.crl}",
        authority,
        &[("clients.crl", &crl)],
    );
    assert!(setup.get(None).is_err());
    assert!(setup.get(Some(&revoked)).is_err());
    assert_eq!(setup.get(Some(&good)).unwrap(), 200);

    // Revoked while the gateway runs.
    setup.gateway.write("clients.crl", &setup.authority.crl(&[&revoked, &good], 2100));
    setup.reload();
    assert!(setup.get(Some(&good)).is_err());

    // A list that is no longer kept up to date vouches for nobody.
    setup.gateway.write("clients.crl", &setup.authority.crl(&[], 2025));
    setup.reload();
    assert!(setup.get(Some(&good)).is_err());
    setup.gateway.write("clients.crl", &setup.authority.crl(&[&revoked], 2100));
    setup.reload();
    assert_eq!(setup.get(Some(&good)).unwrap(), 200);
}

#[test]
fn replaced_certificates_are_served_and_open_connections_go_on() {
    let setup = setup("", Authority::new("ca"), &[]);
    let address = setup.gateway.address("public");
    let client = tls_client(&setup.authority, &["http/1.1"], None);
    let mut open = tls_connect(&client, address, "gw.test").unwrap();
    assert_eq!(get_over(&mut open, "gw.test", "/1").unwrap().status, 200);

    let next = setup.authority.server(&["gw.test"]);
    setup.gateway.write("server.pem", &next.cert);
    setup.gateway.write("server.key", &next.key);
    setup.reload();
    let new = tls_connect(&client, address, "gw.test").unwrap();
    assert_eq!(new.conn.peer_certificates().unwrap()[0], next.der);
    assert_eq!(get_over(&mut open, "gw.test", "/2").unwrap().status, 200);

    // Half a replacement is refused, and the whole pair before it goes on.
    setup.gateway.write("server.pem", &setup.authority.server(&["gw.test"]).cert);
    assert!(setup.gateway.running().reloader().reload().is_err());
    let still = tls_connect(&client, address, "gw.test").unwrap();
    assert_eq!(still.conn.peer_certificates().unwrap()[0], next.der);
}

#[test]
fn replaced_certificates_are_noticed_without_being_told() {
    let upstream = RecordingUpstream::start();
    let authority = Authority::new("ca");
    let (first, next) = (authority.server(&["gw.test"]), authority.server(&["gw.test"]));
    let config = config(&upstream, "").replace("watch: false", "watch: true");
    let files = [("policy/main.rego", TELLS_TLS), ("server.pem", &first.cert), ("server.key", &first.key)];
    let gateway = TestGateway::start(&config, &files);
    gateway.write("server.pem", &next.cert);
    gateway.write("server.key", &next.key);
    let client = tls_client(&authority, &[], None);
    eventually("the new certificate", || {
        let stream = tls_connect(&client, gateway.address("public"), "gw.test").ok()?;
        (stream.conn.peer_certificates()?[0] == next.der).then_some(())
    });
}

/// How a second connection of the same client begins, over the version.
fn second_handshake(setup: &Setup, client: &Arc<rustls::ClientConfig>) -> Option<HandshakeKind> {
    let mut stream = tls_connect(client, setup.gateway.address("public"), "gw.test").ok()?;
    // Tickets of TLS 1.3 come with the first response.
    get_over(&mut stream, "gw.test", "/").ok()?;
    stream.conn.handshake_kind()
}

#[test]
fn a_session_never_resumes_where_a_certificate_is_asked_for_anew() {
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
        let setup = setup("", Authority::new("ca"), &[]);
        let client = tls_client_with(&setup.authority, &["http/1.1"], None, versions);
        assert_eq!(second_handshake(&setup, &client), Some(HandshakeKind::Full));
        assert_eq!(
            second_handshake(&setup, &client),
            Some(HandshakeKind::Resumed),
            "resumption works at all"
        );
        let required = std::fs::read_to_string(setup.gateway.path("gateway.yaml")).unwrap();
        let required = required.replace("tls: {", "tls: {client_auth: {mode: required, ca: ca.pem}, ");
        setup.gateway.write("gateway.yaml", &required);
        setup.reload();
        assert_eq!(second_handshake(&setup, &client), None, "without a certificate there is no connection");
    }
}

#[test]
fn a_resumed_session_keeps_its_certificate() {
    let setup = setup("client_auth: {mode: required, ca: ca.pem}", Authority::new("ca"), &[]);
    let robot = setup.authority.client("robot");
    let client = tls_client(&setup.authority, &["http/1.1"], Some(&robot));
    assert_eq!(second_handshake(&setup, &client), Some(HandshakeKind::Full));
    assert_eq!(second_handshake(&setup, &client), Some(HandshakeKind::Resumed));
    let subjects = setup.gateway.events(2);
    assert!(subjects.iter().all(|event| event["gateway"]["identity"]["subject"] == "robot"));
}

#[test]
fn a_host_of_another_certificates_rules_is_misdirected() {
    let upstream = RecordingUpstream::start();
    let authority = Authority::new("ca");
    let server = authority.server(&["a.test", "b.test", "*.c.test"]);
    let config = config(&upstream, "").replace(
        "apis: [{name: all, policy: main, upstream: up, identity: [devices]}]",
        "apis: [{name: a, hosts: [a.test], policy: main, upstream: up}, {name: b, hosts: [b.test], policy: main, upstream: up}, \
         {name: c, hosts: [\"*.c.test\"], policy: main, upstream: up}]",
    );
    let files = [("policy/main.rego", TELLS_TLS), ("server.pem", &server.cert), ("server.key", &server.key)];
    let gateway = TestGateway::start(&config, &files);
    let client = tls_client(&authority, &["http/1.1"], None);
    let mut stream = tls_connect(&client, gateway.address("public"), "a.test").unwrap();
    assert_eq!(get_over(&mut stream, "a.test", "/").unwrap().status, 200);
    assert_eq!(get_over(&mut stream, "A.test:443", "/").unwrap().status, 200);
    assert_eq!(get_over(&mut stream, "b.test", "/").unwrap().status, 421);
    assert_eq!(get_over(&mut stream, "a.test", "/").unwrap().status, 200, "the connection itself is good");
    assert_eq!(gateway.events(3)[2]["gateway"]["reason"], "misdirected");
}

#[test]
fn plaintext_on_a_tls_listener_gets_nothing() {
    let setup = setup("", Authority::new("ca"), &[]);
    let mut stream = crate::wire::connect(setup.gateway.address("public"));
    stream.write_all(b"GET / HTTP/1.1\r\nHost: gw.test\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
}

#[test]
fn a_certificate_revoked_later_ends_the_connection_it_was_shown_on() {
    let authority = Authority::new("ca");
    let (good, revoked) = (authority.client("good"), authority.client("revoked"));
    let crl = authority.crl(&[], 2100);
    for mode in ["optional", "required"] {
        let setup = setup(
            &format!("client_auth: {{mode: {mode}, ca: ca.pem, crl: clients.crl}}"),
            Authority::new("server"),
            &[("ca.pem", &authority.pem()), ("clients.crl", &crl)],
        );
        let address = setup.gateway.address("public");
        let open = |certificate: &Issued| {
            let client = tls_client(&setup.authority, &["http/1.1"], Some(certificate));
            tls_connect(&client, address, "gw.test").unwrap()
        };
        let (mut kept, mut cut) = (open(&good), open(&revoked));
        let status =
            |stream: &mut TlsStream| get_over(stream, "gw.test", "/").map(|response| response.status);
        assert_eq!((status(&mut kept).unwrap(), status(&mut cut).unwrap()), (200, 200));
        setup.gateway.write("clients.crl", &authority.crl(&[&revoked], 2100));
        setup.reload();
        assert_eq!(status(&mut kept).unwrap(), 200, "who is not on the list notices nothing");
        let refused = get_over(&mut cut, "gw.test", "/").unwrap();
        assert_eq!((refused.status, refused.header("connection")), (421, Some("close")));
        let told = setup.gateway.events(4)[3]["gateway"].clone();
        assert_eq!((&told["outcome"], &told["reason"]), (&json!("refused"), &json!("certificate_withdrawn")));

        // On HTTP/2 each further request of the connection is refused.
        setup.gateway.write("clients.crl", &crl);
        setup.reload();
        block_on(async {
            let client = tls_client(&setup.authority, &["h2"], Some(&revoked));
            let mut h2 = H2Client::tls(&client, address, "gw.test").await;
            assert_eq!(h2.get("https://gw.test/").await.unwrap().status(), 200);
            setup.gateway.write("clients.crl", &authority.crl(&[&revoked], 2100));
            setup.reload();
            assert_eq!(h2.get("https://gw.test/").await.unwrap().status(), 421);
        });
    }
}

#[test]
fn a_connection_without_a_certificate_does_not_outlive_the_demand_for_one() {
    let setup = setup("client_auth: {mode: optional, ca: ca.pem}", Authority::new("ca"), &[]);
    let client = tls_client(&setup.authority, &["http/1.1"], None);
    let mut stream = tls_connect(&client, setup.gateway.address("public"), "gw.test").unwrap();
    assert_eq!(get_over(&mut stream, "gw.test", "/").unwrap().status, 200);
    let config = std::fs::read_to_string(setup.gateway.path("gateway.yaml")).unwrap();
    setup.gateway.write("gateway.yaml", &config.replace("mode: optional", "mode: required"));
    setup.reload();
    assert_eq!(get_over(&mut stream, "gw.test", "/").unwrap().status, 421);
}

#[test]
fn sessions_outlive_a_reload_that_does_not_concern_them() {
    let authority = Authority::new("ca");
    let crl = authority.crl(&[], 2100);
    let setup = setup(
        "client_auth: {mode: required, ca: ca.pem, crl: clients.crl}",
        authority,
        &[("clients.crl", &crl)],
    );
    let robot = setup.authority.client("robot");
    let client = tls_client(&setup.authority, &["http/1.1"], Some(&robot));
    assert_eq!(second_handshake(&setup, &client), Some(HandshakeKind::Full));
    setup.gateway.write("policy/more.rego", "package more\n");
    setup.reload();
    assert_eq!(second_handshake(&setup, &client), Some(HandshakeKind::Resumed));
    setup.gateway.write("clients.crl", &setup.authority.crl(&[], 2101));
    setup.reload();
    assert_eq!(second_handshake(&setup, &client), Some(HandshakeKind::Full));
}
