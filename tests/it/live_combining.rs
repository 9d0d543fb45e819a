//! Several providers at one API: all of them required, one of them enough, none at all.

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::gateway::TestGateway;
use crate::live_support::*;
use crate::token::{Signer, jwks};
use crate::wire::{RawResponse, RecordingUpstream, get};

const TELLS_IDENTITY: &str = "package gateway\n\ndecision := {\"allow\": input.identity.authenticated, \
                              \"log\": {\"fields\": {\"who\": input.identity}}}\n";
const KEY: &str = "device-key-0123456789abcdef";

fn signer() -> &'static Signer {
    static SIGNER: OnceLock<Signer> = OnceLock::new();
    SIGNER.get_or_init(|| Signer::es256("k1"))
}

fn token(subject: &str, expires: u64) -> String {
    let claims = json!({"iss": "https://idp.test", "aud": "orders", "sub": subject, "exp": expires});
    format!("Authorization: Bearer {}\r\n", signer().sign(&claims))
}

fn key(key: &str) -> String {
    format!("X-Api-Key: {key}\r\n")
}

fn gateway(upstream: &RecordingUpstream, api: &str) -> TestGateway {
    let identity = "identity:\n  corp: {type: jwt, issuer: \"https://idp.test\", audiences: [orders], \
                    jwks_file: jwks.json, algorithms: [ES256], leeway: 0s}\n  devices: {type: api_key, keys: keys.yaml}\n";
    let config = plain_config(&upstream.url(), identity).replace(
        "{name: all, policy: main, upstream: up}",
        &format!("{{name: all, policy: main, upstream: up, {api}}}"),
    );
    let hash = sha256_hex(KEY.as_bytes());
    let keys = format!("keys:\n  - {{id: d-7, sha256: \"{hash}\", owner: scanner-7, roles: [scanner]}}\n");
    let files = [
        ("policy/main.rego", TELLS_IDENTITY),
        ("jwks.json", &*jwks(&[signer().jwk()])),
        ("keys.yaml", &*keys),
    ];
    TestGateway::start(&config, &files)
}

fn ask(gateway: &TestGateway, headers: &str) -> RawResponse {
    get(gateway.address("public"), "/", headers)
}

const FAR: u64 = 4_000_000_000;

#[test]
fn all_identities_meet_in_one_input() {
    let upstream = RecordingUpstream::start();
    let gateway = gateway(&upstream, "identity: [corp, devices], require: all");
    for _ in 0..3 {
        assert_eq!(ask(&gateway, &(token("alice", FAR) + &key(KEY))).status, 200);
    }
    let alice = json!({"authenticated": true, "provider": "corp", "type": "jwt", "subject": "alice",
        "issuer": "https://idp.test", "audience": ["orders"], "roles": [], "groups": [], "scopes": [], "expires_at": FAR,
        "claims": {"iss": "https://idp.test", "aud": "orders", "sub": "alice", "exp": FAR}});
    let device = json!({"authenticated": true, "provider": "devices", "type": "api_key", "subject": "scanner-7",
        "audience": [], "roles": ["scanner"], "groups": [], "scopes": [],
        "attributes": {"key_id": "d-7", "owner": "scanner-7"}});
    let mut want = alice.clone();
    want["all"] = json!({"corp": alice, "devices": device});
    for event in gateway.events(3) {
        assert_eq!(event["input"]["identity"], want);
        assert_eq!(event["gateway"]["identity"], json!({"provider": "corp", "subject": "alice"}));
    }
    // Another user with the same device is another pair.
    assert_eq!(ask(&gateway, &(token("bob", FAR) + &key(KEY))).status, 200);
    assert_eq!(gateway.events(4)[3]["input"]["identity"]["all"]["corp"]["subject"], "bob");
}

#[test]
fn one_of_all_is_not_enough_and_none_is_anonymous() {
    let upstream = RecordingUpstream::start();
    let gateway = gateway(&upstream, "identity: [corp, devices], require: all");
    let cases = [
        (token("alice", FAR), 401, "missing_credential", Some("ApiKey")),
        (key(KEY), 401, "missing_credential", Some("Bearer")),
        (token("alice", FAR) + &key("guess"), 401, "unknown_key", Some("ApiKey")),
        (token("alice", 1) + &key(KEY), 401, "expired", Some("Bearer")),
        (String::new(), 403, "denied", None),
    ];
    for (index, (headers, status, reason, challenge)) in cases.into_iter().enumerate() {
        let response = ask(&gateway, &headers);
        assert_eq!(response.status, status, "{index}");
        let told = gateway.events(index + 1)[index]["gateway"].clone();
        assert_eq!(told["reason"].as_str().unwrap_or("denied"), reason, "{index}: {told}");
        let given = response.header("www-authenticate");
        assert_eq!(given.is_some(), challenge.is_some(), "{index}");
        assert!(given.unwrap_or_default().starts_with(challenge.unwrap_or_default()), "{index}: {given:?}");
    }
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn a_missing_one_may_be_a_fact() {
    let upstream = RecordingUpstream::start();
    let gateway = gateway(&upstream, "identity: [corp, devices], require: all, on_bad_credential: fact");
    assert_eq!(ask(&gateway, &token("alice", FAR)).status, 403);
    let want =
        json!({"authenticated": false, "failure": {"provider": "devices", "reason": "missing_credential"}});
    assert_eq!(gateway.events(1)[0]["input"]["identity"], want);
}

#[test]
fn a_key_that_is_taken_away_ends_the_pair() {
    let upstream = RecordingUpstream::start();
    let gateway = gateway(&upstream, "identity: [corp, devices], require: all");
    let both = token("alice", FAR) + &key(KEY);
    assert_eq!(ask(&gateway, &both).status, 200);
    gateway.write("keys.yaml", "keys: []\n");
    gateway.running().reloader().reload().unwrap();
    assert_eq!(ask(&gateway, &both).status, 401);
}

#[test]
fn nobody_is_turned_away_where_the_api_says_so() {
    let upstream = RecordingUpstream::start();
    let routes = "routes: [{name: open, path: /open, identity: []}, {name: all, path: \"/{*rest}\"}]";
    let gateway = gateway(&upstream, &format!("identity: [corp, devices], anonymous: reject, {routes}"));
    let response = ask(&gateway, "");
    assert_eq!(response.status, 401);
    let head = response.head.to_ascii_lowercase();
    assert_eq!(head.matches("www-authenticate").count(), 2, "{head}");
    let told = gateway.events(1)[0]["gateway"].clone();
    assert_eq!((&told["reason"], &told["outcome"]), (&json!("credential_required"), &json!("refused")));
    let problem: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(problem["detail"], "a credential is required here");
    // A route that accepts no credential is for everyone, and the policy decides.
    assert_eq!(get(gateway.address("public"), "/open", "").status, 403);
    assert_eq!(ask(&gateway, &token("alice", FAR)).status, 200);
}
