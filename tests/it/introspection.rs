//! Bearer tokens that the authorization server is asked about, through a running gateway.

use serde_json::{Value, json};

use crate::gateway::{TestGateway, eventually};
use crate::live_support::*;
use crate::oidc_support::{CLIENT, FakeProvider, POLICY, Reply, SECRET, now};
use crate::wire::{RawResponse, RecordingUpstream, get};

pub(crate) fn introspecting(
    upstream: &RecordingUpstream,
    provider: &FakeProvider,
    more: &str,
) -> TestGateway {
    let endpoint = format!("http://{}/introspect", provider.address);
    let identity = format!(
        "identity:\n  tokens: {{type: introspection, endpoint: \"{endpoint}\", client_id: {CLIENT}, client_secret: {SECRET}, timeout: 500ms, \
         claims: {{roles: realm.roles}}{more}}}\n"
    );
    let config = plain_config(&upstream.url(), &identity).replace(
        "{name: all, policy: main, upstream: up}",
        "{name: all, policy: main, upstream: up, identity: [tokens]}",
    );
    TestGateway::start(&config, &[("policy/main.rego", POLICY)])
}

pub(crate) fn ask(gateway: &TestGateway, token: &str) -> RawResponse {
    get(gateway.address("public"), "/private", &format!("Authorization: Bearer {token}\r\n"))
}

#[test]
fn the_server_says_who_it_is() {
    let (upstream, provider) = (RecordingUpstream::start(), FakeProvider::start());
    let gateway = introspecting(&upstream, &provider, "");
    let answer = json!({"active": true, "sub": "alice", "scope": "read write", "realm": {"roles": ["admin"]}, "exp": now() + 60,
        "iss": "https://idp.test", "token_type": "Bearer", "client_id": "app"});
    provider.reply("/introspect", Reply::Json(200, answer));
    for _ in 0..3 {
        assert_eq!(ask(&gateway, "opaque-token").status, 200);
    }
    let got = provider.got("/introspect");
    assert_eq!(got.len(), 1, "an answer is remembered");
    assert_eq!(got[0].form["token"], "opaque-token");
    assert_eq!(got[0].form["token_type_hint"], "access_token");
    // RFC 7617 of `postern:a-client-secret`.
    assert!(got[0].head.contains("authorization: Basic cG9zdGVybjphLWNsaWVudC1zZWNyZXQ="), "{}", got[0].head);
    let who = gateway.events(3)[0]["gateway"]["fields"]["who"].clone();
    assert_eq!((&who["type"], &who["subject"]), (&json!("introspection"), &json!("alice")));
    assert_eq!((&who["scopes"], &who["roles"]), (&json!(["read", "write"]), &json!(["admin"])));
    assert_eq!(who["claims"]["client_id"], json!("app"));
}

#[test]
fn the_secret_may_go_in_the_form() {
    let (upstream, provider) = (RecordingUpstream::start(), FakeProvider::start());
    let gateway = introspecting(&upstream, &provider, ", client_authentication: client_secret_post");
    provider.reply("/introspect", Reply::Json(200, json!({"active": true, "sub": "alice"})));
    assert_eq!(ask(&gateway, "t").status, 200);
    let got = &provider.got("/introspect")[0];
    assert_eq!((got.form["client_id"].as_str(), got.form["client_secret"].as_str()), (CLIENT, SECRET));
    assert!(!got.head.contains("authorization:"));
}

#[test]
fn refusals_have_their_reason() {
    let (upstream, provider) = (RecordingUpstream::start(), FakeProvider::start());
    let gateway = introspecting(
        &upstream,
        &provider,
        ", issuer: \"https://idp.test\", audiences: [orders], leeway: 0s, negative_cache: 0s",
    );
    let good = json!({"active": true, "sub": "a", "iss": "https://idp.test", "aud": "orders"});
    let with = |more: Value| {
        let mut answer = good.clone();
        answer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        answer
    };
    for (index, (answer, reason)) in [
        (json!({"active": false}), "inactive_token"),
        (with(json!({"exp": now() - 1})), "expired"),
        (with(json!({"nbf": now() + 60})), "not_yet_valid"),
        (with(json!({"iss": "https://evil.test"})), "wrong_issuer"),
        (with(json!({"aud": "billing"})), "wrong_audience"),
        (with(json!({"token_type": "DPoP"})), "holder_not_proven"),
        (with(json!({"cnf": {"x5t#S256": "A".repeat(43)}})), "holder_not_proven"),
    ]
    .into_iter()
    .enumerate()
    {
        provider.reply("/introspect", Reply::Json(200, answer));
        let answer = ask(&gateway, &format!("token-{index}"));
        assert_eq!(answer.status, 401, "{reason}");
        assert!(answer.text().contains(reason), "{reason}: {}", answer.text());
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer error=\"invalid_token\""));
    }
    let asked = provider.got("/introspect").len();
    for malformed in ["a b", "\u{1}", "\"x\""] {
        assert_ne!(ask(&gateway, malformed).status, 200);
    }
    assert_eq!(ask(&gateway, &"x".repeat(9_000)).status, 401);
    assert_eq!(provider.got("/introspect").len(), asked, "what cannot be a token is not asked about");
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn who_has_no_token_is_anonymous() {
    let (upstream, provider) = (RecordingUpstream::start(), FakeProvider::start());
    let gateway = introspecting(&upstream, &provider, "");
    assert_eq!(get(gateway.address("public"), "/public", "").status, 200);
    let denied = get(gateway.address("public"), "/private", "");
    assert_eq!(denied.status, 403);
    assert!(provider.got("/introspect").is_empty());
}

#[test]
fn an_outage_has_its_reason_and_is_over_soon() {
    let (upstream, provider) = (RecordingUpstream::start(), FakeProvider::start());
    let gateway = introspecting(&upstream, &provider, ", cache: 1s, stale: 1h");
    let good = Reply::Json(200, json!({"active": true, "sub": "alice"}));
    provider.reply("/introspect", good.clone());
    assert_eq!(ask(&gateway, "known").status, 200);
    for (reply, reason) in [
        (Reply::Close, "introspection_unreachable"),
        (Reply::Stall, "introspection_timeout"),
        (Reply::Json(500, json!({"active": true})), "introspection_failed"),
        (Reply::Json(401, json!({"error": "invalid_client"})), "introspection_refused"),
    ] {
        provider.reply("/introspect", reply);
        let answer = ask(&gateway, reason);
        assert_eq!((answer.status, answer.text().contains(reason)), (503, true), "{}", answer.text());
    }
    provider.reply("/introspect", Reply::Close);
    // The good answer of the past serves on, as the configuration says, and is marked.
    eventually("the answer has grown stale", || {
        assert_eq!(ask(&gateway, "known").status, 200);
        let events = gateway.events(1);
        events.last().unwrap()["gateway"]["fields"]["who"]["stale"].as_bool()
    });
    provider.reply("/introspect", good);
    eventually("the server is asked again", || (ask(&gateway, "other").status == 200).then_some(()));
    let status: Value = serde_json::from_str(&admin(&gateway, "/status").text()).unwrap();
    assert!(status["identity_servers"]["tokens"]["outages"].as_u64().unwrap() >= 4, "{status}");
}
