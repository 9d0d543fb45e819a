//! Who is asking, through a running gateway: providers in order, bad credentials, outages.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::OnceLock;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::gateway::{TestGateway, eventually};
use crate::live_support::*;
use crate::token::{Signer, jwks};
use crate::wire::{RawResponse, RecordingUpstream, get};

const TELLS_IDENTITY: &str =
    "package gateway\n\ndecision := {\"allow\": true, \"log\": {\"fields\": {\"who\": input.identity}}}\n";
const KEY: &str = "partner-key-0123456789abcdef";

fn signer() -> &'static Signer {
    static SIGNER: OnceLock<Signer> = OnceLock::new();
    SIGNER.get_or_init(|| Signer::es256("k1"))
}

pub(crate) fn now() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a test's tokens are for the real clock")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn token(change: &Value) -> String {
    let mut claims = json!({"iss": "https://idp.test", "aud": "orders", "sub": "alice", "exp": now() + 600,
        "realm_access": {"roles": ["reader"]}, "scope": "orders:read orders:list"});
    for (name, value) in change.as_object().unwrap() {
        claims[name] = value.clone();
    }
    signer().sign(&claims)
}

fn keys_file() -> String {
    let hash = sha256_hex(KEY.as_bytes());
    format!("keys:\n  - {{id: k-1, sha256: \"{hash}\", owner: acme, roles: [partner]}}\n")
}

fn config(upstream: &RecordingUpstream, keys: &str, api: &str) -> String {
    let identity = format!(
        "identity:\n  corp: {{type: jwt, issuer: \"https://idp.test\", audiences: [orders], {keys}, algorithms: [ES256], \
         claims: {{roles: realm_access.roles}}, leeway: 0s}}\n  partners: {{type: api_key, keys: keys.yaml}}\n"
    );
    plain_config(&upstream.url(), &identity).replace(
        "{name: all, policy: main, upstream: up}",
        &format!("{{name: all, policy: main, upstream: up, identity: [corp, partners], {api}}}"),
    )
}

fn gateway(upstream: &RecordingUpstream, api: &str) -> TestGateway {
    let keys = jwks(&[signer().jwk()]);
    let files = [("policy/main.rego", TELLS_IDENTITY), ("jwks.json", &keys), ("keys.yaml", &keys_file())];
    TestGateway::start(&config(upstream, "jwks_file: jwks.json", api), &files)
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn api_key(key: &str) -> String {
    format!("X-Api-Key: {key}\r\n")
}

fn ask(gateway: &TestGateway, headers: &str) -> RawResponse {
    get(gateway.address("public"), "/", headers)
}

#[test]
fn providers_are_tried_in_order_and_nobody_is_anonymous_by_accident() {
    let upstream = RecordingUpstream::start();
    let gateway = gateway(&upstream, "");
    let (good, expired) = (token(&json!({})), token(&json!({"exp": now() - 1})));
    let checks = [
        (bearer(&good), 200, json!({"provider": "corp", "subject": "alice"})),
        (api_key(KEY), 200, json!({"provider": "partners", "subject": "acme"})),
        (bearer(&good) + &api_key(KEY), 200, json!({"provider": "corp", "subject": "alice"})),
        (String::new(), 200, Value::Null),
        (bearer(&expired), 401, json!({"failure": "expired"})),
        (api_key("guess"), 401, json!({"failure": "unknown_key"})),
        (bearer(&expired) + &api_key(KEY), 401, json!({"failure": "expired"})),
        (bearer(&token(&json!({"aud": "billing"}))), 401, json!({"failure": "bad_audience"})),
    ];
    for (index, (headers, status, identity)) in checks.iter().enumerate() {
        let response = ask(&gateway, headers);
        assert_eq!(response.status, *status, "{index}");
        let told = gateway.events(index + 1)[index]["gateway"].clone();
        let mut shown = told.get("identity").cloned().unwrap_or_default();
        if *status == 401 {
            let challenge = response.header("www-authenticate").unwrap();
            assert!(challenge.starts_with("Bearer") || challenge.starts_with("ApiKey"), "{challenge}");
            assert_eq!((&told["outcome"], &told["reason"]), (&json!("refused"), &shown["failure"]));
            assert!(response.text().contains("not accepted"), "{}", response.text());
            shown = json!({"failure": shown["failure"]});
        }
        if index == 7 {
            assert!(shown["failure"].as_str().unwrap().contains("audience"), "{shown}");
        } else {
            assert_eq!(shown, *identity, "{index}");
        }
    }
    assert_eq!(upstream.requests(), 4);
    assert_eq!(metric(&gateway, "postern_refusals_total{reason=\"bad_credential\"}"), Some(4));
}

#[test]
fn the_policy_sees_the_identity_as_the_contract_says() {
    let upstream = RecordingUpstream::start();
    let gateway = gateway(&upstream, "");
    let expires = now() + 600;
    assert_eq!(ask(&gateway, &bearer(&token(&json!({"exp": expires, "groups": ["eu"]})))).status, 200);
    assert_eq!(ask(&gateway, &api_key(KEY)).status, 200);
    assert_eq!(ask(&gateway, "").status, 200);
    let events = gateway.events(3);
    let who = |index: usize| {
        let event: &Value = &events[index];
        assert_eq!(event["input"]["identity"], event["gateway"]["fields"]["who"]);
        event["input"]["identity"].clone()
    };
    let claims = json!({"iss": "https://idp.test", "aud": "orders", "sub": "alice", "exp": expires, "groups": ["eu"],
        "realm_access": {"roles": ["reader"]}, "scope": "orders:read orders:list"});
    let want = json!({"authenticated": true, "provider": "corp", "type": "jwt", "subject": "alice",
        "issuer": "https://idp.test", "audience": ["orders"], "roles": ["reader"], "groups": [],
        "scopes": ["orders:read", "orders:list"], "claims": claims, "expires_at": expires});
    assert_eq!(who(0), want);
    let want = json!({"authenticated": true, "provider": "partners", "type": "api_key", "subject": "acme", "audience": [],
        "roles": ["partner"], "groups": [], "scopes": [], "attributes": {"key_id": "k-1", "owner": "acme"}});
    assert_eq!(who(1), want);
    assert_eq!(who(2), json!({"authenticated": false}));
}

#[test]
fn a_bad_credential_may_be_a_fact_for_the_policy() {
    let upstream = RecordingUpstream::start();
    let gateway = gateway(&upstream, "on_bad_credential: fact");
    assert_eq!(ask(&gateway, &bearer("not.a.token")).status, 200);
    let event = gateway.events(1)[0].clone();
    let who = &event["input"]["identity"];
    assert_eq!((&who["authenticated"], &who["failure"]["provider"]), (&json!(false), &json!("corp")));
    assert_eq!(event["gateway"]["identity"], json!({"failure": who["failure"]["reason"]}));
}

#[test]
fn a_route_may_accept_other_providers_than_its_api() {
    let upstream = RecordingUpstream::start();
    let routes = "routes: [{name: open, path: /open, identity: []}, {name: keys, path: /keys, identity: [partners]}, \
        {name: rest, path: \"/{*rest}\"}]";
    let gateway = gateway(&upstream, routes);
    let status = |path: &str, headers: &str| get(gateway.address("public"), path, headers).status;
    assert_eq!(status("/open", &api_key("guess")), 200, "nobody looks at it");
    assert_eq!(status("/keys", &bearer("not.a.token")), 200, "not this route's kind of credential");
    assert_eq!(status("/keys", &api_key("guess")), 401);
    assert_eq!(status("/rest", &bearer("not.a.token")), 401);
    let who: Vec<_> =
        gateway.events(4).iter().take(2).map(|event| event["input"]["identity"].clone()).collect();
    assert_eq!(who, vec![json!({"authenticated": false}); 2]);
}

/// A key set server on `listener`.
fn serve_keys(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = [0; 4096];
            drop(stream.read(&mut head));
            let keys = jwks(&[signer().jwk()]);
            let length = keys.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{keys}"
            );
            drop(stream.write_all(answer.as_bytes()));
        }
    });
}

#[test]
fn an_outage_of_the_issuer_refuses_its_tokens_alone_and_heals() {
    let upstream = RecordingUpstream::start();
    // Bound but not listened on: connections are refused until the issuer is up.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let issuer = socket.local_addr().unwrap().as_socket().unwrap();
    let files = [("policy/main.rego", TELLS_IDENTITY), ("keys.yaml", &keys_file())];
    let gateway = TestGateway::start(
        &config(&upstream, &format!("jwks_uri: \"http://{issuer}/jwks\", refresh: 1s"), ""),
        &files,
    );
    let good = token(&json!({}));
    let refused = ask(&gateway, &bearer(&good));
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("www-authenticate"), None, "the token may be good");
    assert_eq!(ask(&gateway, "").status, 200);
    assert_eq!(ask(&gateway, &api_key(KEY)).status, 200);
    let event = gateway.events(1)[0].clone();
    assert_eq!(event["gateway"]["outcome"], "failed");
    let status: Value = serde_json::from_slice(&admin(&gateway, "/status").body).unwrap();
    assert_eq!(status["key_sets"][0]["loaded"], false);
    assert!(status["key_sets"][0]["last_error"].is_string());

    socket.listen(16).unwrap();
    serve_keys(socket.into());
    eventually("the keys", || (ask(&gateway, &bearer(&good)).status == 200).then_some(()));
}

#[test]
fn a_certificate_comes_after_a_token_where_the_order_says_so() {
    let upstream = RecordingUpstream::start();
    let authority = Authority::new("ca");
    let server = authority.server(&["gw.test"]);
    let config = config(&upstream, "jwks_file: jwks.json", "")
        .replace("identity: [corp, partners]", "identity: [corp, devices]")
        .replace("identity:\n  corp", "identity:\n  devices: {type: client_certificate, subject: common_name}\n  corp")
        .replace(
            r#"address: "127.0.0.1:0"}]"#,
            r#"address: "127.0.0.1:0", tls: {certificates: [{cert: s.pem, key: s.key}], client_auth: {mode: optional, ca: ca.pem}}}]"#,
        );
    let (keys, ca, key_file) = (jwks(&[signer().jwk()]), authority.pem(), keys_file());
    let files = [
        ("policy/main.rego", TELLS_IDENTITY),
        ("jwks.json", &keys),
        ("keys.yaml", &key_file),
        ("s.pem", &server.cert),
        ("s.key", &server.key),
        ("ca.pem", &ca),
    ];
    let gateway = TestGateway::start(&config, &files);
    let robot = authority.client("robot");
    let client = tls_client(&authority, &[], Some(&robot));
    let mut stream = tls_connect(&client, gateway.address("public"), "gw.test").unwrap();
    let good = bearer(&token(&json!({})));
    for (headers, status) in [("", 200), (good.as_str(), 200), ("Authorization: Bearer x.y.z\r\n", 401)] {
        let response =
            send_over(&mut stream, &format!("GET / HTTP/1.1\r\nHost: gw.test\r\n{headers}\r\n")).unwrap();
        assert_eq!(response.status, status);
    }
    let subjects: Vec<_> =
        gateway.events(3).iter().map(|event| event["gateway"]["identity"]["subject"].clone()).collect();
    assert_eq!(subjects, [json!("robot"), json!("alice"), Value::Null]);
}

#[test]
fn what_the_client_says_of_itself_never_reaches_the_upstream() {
    let upstream = RecordingUpstream::start();
    let gateway = gateway(&upstream, "identity_headers: [X-Who, X-Roles]");
    let headers = "X-Who: root\r\nx-who: admin\r\nX.Who: root\r\nX-Roles: admin\r\nX-Other: stays\r\n";
    assert_eq!(ask(&gateway, headers).status, 200);
    let received = upstream.received().to_ascii_lowercase();
    assert!(!received.contains("root") && !received.contains("admin"), "{received}");
    assert!(received.contains("x-other: stays"));
}

#[test]
fn withdrawn_keys_are_refused_on_open_connections_too() {
    let upstream = RecordingUpstream::start();
    let gateway = gateway(&upstream, "");
    let mut stream = crate::wire::connect(gateway.address("public"));
    let token = bearer(&token(&json!({})));
    let mut status = |headers: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: gw.test\r\n{headers}\r\n");
        send_over(&mut stream, &request).unwrap().status
    };
    // Twice, so that both are remembered.
    for _ in 0..2 {
        assert_eq!((status(&token), status(&api_key(KEY))), (200, 200));
    }
    gateway.write(
        "keys.yaml",
        &format!("keys:\n  - {{id: k-2, sha256: \"{}\", owner: acme}}\n", "1".repeat(64)),
    );
    gateway.write("jwks.json", &jwks(&[Signer::es256("k2").jwk()]));
    gateway.running().reloader().reload().unwrap();
    assert_eq!((status(&token), status(&api_key(KEY))), (401, 401));
}

#[test]
fn a_credential_goes_no_further_where_the_provider_says_so() {
    let upstream = RecordingUpstream::start();
    let keys = jwks(&[signer().jwk()]);
    let files = [("policy/main.rego", TELLS_IDENTITY), ("jwks.json", &keys), ("keys.yaml", &keys_file())];
    let kept = config(&upstream, "jwks_file: jwks.json", "");
    let withheld = kept
        .replace("type: api_key,", "type: api_key, forward_credential: false,")
        .replace("type: jwt,", "type: jwt, forward_credential: false,");
    let token = token(&json!({}));
    // Both headers, in whatever spelling an upstream may take for them, whichever of them proves the identity.
    let headers = bearer(&token) + &api_key(KEY) + &format!("X.Api.Key: {KEY}\r\nX-Other: stays\r\n");
    let gateway = TestGateway::start(&withheld, &files);
    assert_eq!(ask(&gateway, &headers).status, 200);
    let received = upstream.received();
    assert!(!received.contains(KEY) && !received.contains(&token), "{received}");
    assert!(received.to_ascii_lowercase().contains("x-other: stays"));
    assert_eq!(gateway.events(1)[0]["gateway"]["identity"]["subject"], "alice");
    let gateway = TestGateway::start(&kept, &files);
    assert_eq!(ask(&gateway, &headers).status, 200);
    let received = upstream.received();
    assert!(received.contains(KEY) && received.contains(&token), "{received}");
}

#[test]
fn a_policys_401_says_how_to_do_better_as_the_gateways_own() {
    let upstream = RecordingUpstream::start();
    let policy = "package gateway\n\ndefault decision := {\"allow\": false, \"status\": 401}\n\n\
        decision := {\"allow\": false, \"status\": 401, \"headers\": {\"WWW-Authenticate\": \"Own\"}} if input.request.path == \"/own\"\n\n\
        decision := {\"allow\": false} if input.request.path == \"/no\"\n";
    let keys = jwks(&[signer().jwk()]);
    let files = [("policy/main.rego", policy), ("jwks.json", &keys), ("keys.yaml", &keys_file())];
    let routes =
        "routes: [{name: keys, path: /keys, identity: [partners]}, {name: rest, path: \"/{*rest}\"}]";
    let gateway = TestGateway::start(&config(&upstream, "jwks_file: jwks.json", routes), &files);
    let challenges = |path: &str, status: u16| {
        let response = get(gateway.address("public"), path, "");
        assert_eq!(response.status, status, "{path}");
        let lines = response.head.lines().filter_map(|line| line.split_once(": "));
        let all = lines.filter(|(name, _)| name.eq_ignore_ascii_case("www-authenticate"));
        all.map(|(_, value)| value.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(challenges("/", 401), ["Bearer", "ApiKey"]);
    assert_eq!(challenges("/keys", 401), ["ApiKey"]);
    assert_eq!(challenges("/own", 401), ["Own"]);
    assert_eq!(challenges("/no", 403), [""; 0]);
}

#[test]
fn a_credential_is_in_no_part_of_an_event() {
    let upstream = RecordingUpstream::start();
    let policy = "package gateway\n\ndecision := {\"allow\": true, \"log\": {\"fields\": {\"path\": input.request.path}}, \
        \"labels\": {\"who\": input.identity.subject}}\n";
    // Neither policy reads the header.
    for policy in [policy, "package gateway\n\ndecision if input.request.segments[0] == \"x\"\n"] {
        let keys = jwks(&[signer().jwk()]);
        let files = [("policy/main.rego", policy), ("jwks.json", &keys), ("keys.yaml", &keys_file())];
        let gateway = TestGateway::start(&config(&upstream, "jwks_file: jwks.json", ""), &files);
        let token = token(&json!({}));
        for (path, headers, secret) in [
            (format!("/files/{KEY}/x"), api_key(KEY), KEY),
            (format!("/files?k={KEY}"), api_key(KEY), KEY),
            (format!("/files/{token}"), bearer(&token), &token),
            // Not routed, and not proven.
            (format!("//{KEY}"), api_key(KEY), KEY),
            (format!("//{}%32", &KEY[..KEY.len() - 1]), api_key(&format!("{}2", &KEY[..KEY.len() - 1])), KEY),
            ("/guess-0123456789abc".to_owned(), api_key("guess-0123456789abc"), "guess-0123456789abc"),
        ] {
            get(gateway.address("public"), &path, &headers);
            let seen = &secret[..secret.len() - 1];
            eventually("the event", || (!gateway.events(1).is_empty()).then_some(()));
            let log = std::fs::read_to_string(gateway.path("decisions.jsonl")).unwrap();
            assert!(!log.contains(seen), "{path}: {log}");
        }
        let events = gateway.events(6);
        assert_eq!(events[0]["gateway"]["path"], "/files/[erased]/x");
        assert_eq!(events[1]["gateway"]["path"], "/files");
        assert_eq!(events[3]["gateway"]["path"], "//[erased]");
        assert_eq!(events[4]["gateway"]["path"], "[erased]");
    }
}
