//! Group AUTH of the hostile requests, as far as it is about introspection and OpenID Connect, and what else a hostile provider may
//! say.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::gateway::{TestGateway, eventually};
use crate::introspection::{ask, introspecting};
use crate::live_support::*;
use crate::oidc_support::*;
use crate::token::{Signer, hs256};
use crate::wire::RecordingUpstream;

const CASES: &str = "../shared/data/attacks/cases.jsonl";

/// Changes claims.
type Change = fn(&mut Value);

/// Makes a token of these claims.
type Forge = fn(&str) -> String;

/// What each case came to: statuses, none of which may be another than expected.
fn attempt(case: &str) -> Option<Vec<u16>> {
    Some(match case {
        "AUTH-025" => introspection_answers(&[
            Reply::Json(200, json!({"active": "true", "sub": "a"})),
            Reply::Json(200, json!({"sub": "a"})),
            Reply::Raw(html("active: true")),
            Reply::Json(201, json!({"active": true, "sub": "a"})),
            Reply::Raw(json_response(200, r#"{"active":false,"active":true}"#)),
            Reply::Raw(json_response(200, r#"[{"active":true}]"#)),
            Reply::Raw(json_response(200, "true")),
        ]),
        "AUTH-027" => {
            let outages = [
                Reply::Close,
                Reply::Stall,
                Reply::Json(500, json!({"active": true})),
                Reply::Json(503, json!({})),
            ];
            introspection_answers(&outages)
        }
        "AUTH-029" => token_twins(),
        "AUTH-030" => revoked_token(),
        "AUTH-031" => foreign_states(),
        "AUTH-032" => vec![login(|claims| claims["nonce"] = json!("another"), |_| {}).0],
        "AUTH-034" => other_issuers(),
        "AUTH-036" => foreign_sessions(),
        "AUTH-038" => hostile_discovery(),
        _ => return None,
    })
}

#[test]
fn every_case_ends_as_expected() {
    let Ok(text) = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(CASES)) else {
        eprintln!("skipped: {CASES} is not there");
        return;
    };
    let cases = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ours = |case: &Value| matches!(case["precondition"].as_str(), Some("OIDC" | "OAuth2 introspection"));
    let mut wrong = Vec::new();
    let mut seen = 0;
    for case in cases.filter(ours) {
        let id = case["id"].as_str().unwrap();
        seen += 1;
        // "401/503: only JSON true counts" allows what it names beside the list.
        let listed = case["status"].as_array().unwrap().iter().map(|status| status.as_u64().unwrap());
        let named = case["expected"].as_str().unwrap().split(|c: char| !c.is_ascii_digit());
        let named = named.filter(|word| word.len() == 3).map(|word| word.parse().unwrap());
        let wanted: BTreeSet<u64> = listed.chain(named).collect();
        match attempt(id) {
            None => wrong.push(format!("{id} is not tried")),
            Some(got) if got.is_empty() || got.iter().any(|status| !wanted.contains(&u64::from(*status))) => {
                wrong.push(format!("{id} ({}): {got:?} instead of {wanted:?}", case["title"]));
            }
            Some(_) => {}
        }
    }
    assert!(seen >= 9, "{seen}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn html(text: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
}

fn introspection_answers(replies: &[Reply]) -> Vec<u16> {
    let (upstream, provider) = (RecordingUpstream::start(), FakeProvider::start());
    let gateway = introspecting(&upstream, &provider, "");
    provider.reply("/introspect", Reply::Json(200, json!({"active": true, "sub": "a", "exp": now() + 60})));
    assert_eq!(ask(&gateway, "known").status, 200);
    let mut got = Vec::new();
    for (index, reply) in replies.iter().enumerate() {
        provider.reply("/introspect", reply.clone());
        got.push(ask(&gateway, &format!("token-{index}")).status);
        assert_eq!(ask(&gateway, "known").status, 200, "what is remembered serves until its time is over");
    }
    assert_eq!(upstream.requests(), 1 + replies.len());
    got
}

fn token_twins() -> Vec<u16> {
    let (upstream, provider) = (RecordingUpstream::start(), FakeProvider::start());
    let gateway = introspecting(&upstream, &provider, "");
    let prefix = "A".repeat(64);
    provider.reply("/introspect", Reply::Json(200, json!({"active": true, "sub": "alice"})));
    assert_eq!(ask(&gateway, &format!("{prefix}1")).status, 200);
    provider.reply("/introspect", Reply::Json(200, json!({"active": false})));
    let twins = [format!("{prefix}2"), prefix.clone(), format!("{prefix}1="), format!("{prefix}11")];
    let got = twins.iter().map(|twin| ask(&gateway, twin).status).collect();
    assert_eq!(ask(&gateway, &format!("{prefix}1")).status, 200);
    got
}

fn revoked_token() -> Vec<u16> {
    let (upstream, provider) = (RecordingUpstream::start(), FakeProvider::start());
    let gateway = introspecting(&upstream, &provider, ", cache: 1s");
    provider.reply("/introspect", Reply::Json(200, json!({"active": true, "sub": "alice"})));
    assert_eq!(ask(&gateway, "t").status, 200);
    provider.reply("/introspect", Reply::Json(200, json!({"active": false})));
    let revoked = std::time::Instant::now();
    let status = eventually("the token is refused", || {
        let status = ask(&gateway, "t").status;
        (status != 200).then_some(status)
    });
    assert!(revoked.elapsed().as_millis() < 1_800, "{:?}", revoked.elapsed());
    vec![status]
}

fn world(more: &str) -> (RecordingUpstream, FakeProvider, TestGateway) {
    let (upstream, provider) = (RecordingUpstream::start(), FakeProvider::start());
    let gateway = gateway(&upstream, &provider.issuer(), more, "");
    ready(&gateway);
    (upstream, provider, gateway)
}

/// A login with changed claims and a changed answer: the status, and what the client is told.
fn login(claims: impl FnOnce(&mut Value), answer: impl FnOnce(&mut Value)) -> (u16, String) {
    let (upstream, provider, gateway) = world("");
    let mut browser = Browser::at(&gateway);
    let response = browser.log_in_with(&provider, claims, answer);
    if response.status != 303 {
        assert!(browser.session().is_empty(), "no session comes of it");
        assert_eq!(browser.fetch("/private").status, 401);
        assert_eq!(upstream.requests(), 0);
    }
    (response.status, response.text())
}

fn foreign_states() -> Vec<u16> {
    let (_upstream, provider, gateway) = world("");
    let mut browser = Browser::at(&gateway);
    let asked = browser.begin("/private");
    let tokens = FakeProvider::tokens(&provider.claims(&asked["nonce"]));
    provider.reply("/token", Reply::Json(200, tokens));
    let callback = format!("/oauth2/callback?code=c&state={}", asked["state"]);
    let mut got = Vec::new();
    // Another browser's.
    let mut stranger = Browser::at(&gateway);
    got.push(stranger.visit(&callback).status);
    let of_stranger = stranger.begin("/private");
    got.push(stranger.visit(&callback).status);
    got.push(
        browser.clone().visit(&format!("/oauth2/callback?code=c&state={}", of_stranger["state"])).status,
    );
    // Missing, cut, changed, doubled.
    for query in [
        "code=c".to_owned(),
        "code=c&state=".to_owned(),
        format!("code=c&state={}", &asked["state"][..20]),
        format!("code=c&state={}x", asked["state"]),
        format!("code=c&state={}&state={}", asked["state"], asked["state"]),
        format!("state={}", asked["state"]),
        String::new(),
    ] {
        got.push(browser.clone().visit(&format!("/oauth2/callback?{query}")).status);
    }
    // With another host's cookie.
    let mut other_host = browser.clone();
    other_host.host = "bank.test".to_owned();
    got.push(other_host.visit(&callback).status);
    assert!(stranger.session().is_empty() && other_host.session().is_empty());
    // Replayed, the login's cookie kept.
    let mut replayed = browser.clone();
    assert_eq!(browser.visit(&callback).status, 303);
    got.push(replayed.visit(&callback).status);
    assert!(replayed.session().is_empty());
    got.push(browser.visit(&callback).status);
    got
}

fn other_issuers() -> Vec<u16> {
    let (_upstream, provider, gateway) = world("");
    let attempt = |issuer: Option<&str>| {
        let mut browser = Browser::at(&gateway);
        let asked = browser.begin("/private");
        provider.reply("/token", Reply::Json(200, FakeProvider::tokens(&provider.claims(&asked["nonce"]))));
        let issuer = issuer.map_or(String::new(), |issuer| format!("&iss={issuer}"));
        let status =
            browser.visit(&format!("/oauth2/callback?code=c&state={}{issuer}", asked["state"])).status;
        assert_eq!(browser.session().is_empty(), status != 303);
        status
    };
    let got =
        vec![attempt(Some("https%3A%2F%2Fevil.test")), attempt(Some(&format!("{}/", provider.issuer())))];
    assert!(provider.got("/token").is_empty(), "the code is shown to nobody");
    assert_eq!(attempt(Some(&provider.issuer())), 303);
    assert_eq!(attempt(None), 303, "the provider does not say that it names itself");
    got
}

fn foreign_sessions() -> Vec<u16> {
    let (upstream, provider) = (RecordingUpstream::start(), FakeProvider::start());
    let (old, new) = ("o".repeat(32), "n".repeat(32));
    let config =
        |keys: &str| config(&upstream, &provider.issuer(), &format!(", session: {{keys: [{keys}]}}"), "");
    let gateway = TestGateway::start(&config(&old), &[("policy/main.rego", POLICY)]);
    ready(&gateway);
    let mut browser = Browser::at(&gateway);
    assert_eq!(browser.log_in(&provider).status, 303);
    let name = browser.session()[0].clone();
    let whole = browser.cookies[&name].clone();
    let mut got = Vec::new();
    let attempt = |value: &str, host: Option<&str>| {
        let mut thief = browser.clone();
        thief.cookies.insert(name.clone(), value.to_owned());
        if let Some(host) = host {
            host.clone_into(&mut thief.host);
        }
        let script = thief.fetch("/private").status;
        [script, thief.visit("/private").status]
    };
    for at in [0, 1, 5, 20, whole.len() / 2, whole.len() - 1] {
        let mut changed = whole.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        got.extend(attempt(&String::from_utf8(changed).unwrap(), None));
    }
    for cut in [1, 10, whole.len() / 2, whole.len() - 1] {
        got.extend(attempt(&whole[..cut], None));
    }
    got.extend(attempt(&format!("{whole}A"), None));
    got.extend(attempt("x", None));
    got.extend(attempt(&whole, Some("bank.test")));
    assert_eq!(attempt(&whole, None), [200, 200]);
    // A new key before the old one: sessions go on. The old one taken out: they end.
    for (keys, status) in [(format!("{new}, {old}"), 200), (new.clone(), 401)] {
        gateway.write("gateway.yaml", &config(&keys));
        gateway.running().reloader().reload().unwrap();
        let rotated = attempt(&whole, None);
        assert_eq!(rotated[0], status);
        if status != 200 {
            got.extend(rotated);
        }
    }
    // After a logout.
    let mut browser = Browser::at(&gateway);
    assert_eq!(browser.log_in(&provider).status, 303);
    let mut copy = browser.clone();
    assert_eq!(browser.send("POST", "/oauth2/logout", "Sec-Fetch-Site: same-origin\r\n", "").status, 303);
    got.extend([copy.fetch("/private").status, copy.visit("/private").status]);
    got
}

fn hostile_discovery() -> Vec<u16> {
    let mut got = Vec::new();
    for (change, told) in [
        (json!({"issuer": "https://evil.test"}), "not the configured one"),
        (json!({"token_endpoint": "http://idp.example/token"}), "not `https`"),
        (
            json!({"jwks_uri": "https://169.254.169.254/latest/meta-data"}),
            "neither the issuer's host nor a public name",
        ),
        (
            json!({"userinfo_endpoint": "https://vault.internal/v1/secret"}),
            "neither the issuer's host nor a public name",
        ),
    ] {
        let (upstream, provider) = (RecordingUpstream::start(), FakeProvider::start());
        let mut document = provider.discovery();
        document.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        provider.reply("/.well-known/openid-configuration", Reply::Json(200, document));
        let gateway = gateway(&upstream, &provider.issuer(), "", "");
        let status = eventually("the document is refused", || {
            let status = admin(&gateway, "/status").text();
            status.contains("last_error\":\"").then_some(status)
        });
        assert!(status.contains(told), "{status}");
        let mut browser = Browser::at(&gateway);
        got.push(browser.fetch("/private").status);
        let page = browser.visit("/private");
        assert_eq!(page.status, 503, "a browser is not sent anywhere");
        assert!(page.text().contains("oidc_unavailable"), "{}", page.text());
        assert!(browser.cookies.is_empty());
        assert!(provider.got("/jwks").is_empty() && provider.got("/token").is_empty());
    }
    got
}

#[test]
fn an_id_token_is_believed_only_where_all_of_it_is_right() {
    let checks: [(Change, &str); 14] = [
        (|claims| claims["iss"] = json!("https://evil.test"), "wrong_issuer"),
        (|claims| claims["aud"] = json!("other"), "wrong_audience"),
        (|claims| claims["aud"] = json!([CLIENT, "other"]), "oidc_wrong_client"),
        (|claims| claims["azp"] = json!("other"), "oidc_wrong_client"),
        (|claims| claims["exp"] = json!(now() - 60), "expired"),
        (|claims| claims["iat"] = json!(now() + 600), "issued_in_future"),
        (|claims| claims["nonce"] = json!(null), "invalid_claim"),
        (|claims| drop(claims.as_object_mut().unwrap().remove("nonce")), "oidc_wrong_nonce"),
        (|claims| drop(claims.as_object_mut().unwrap().remove("exp")), "missing_claim"),
        (|claims| drop(claims.as_object_mut().unwrap().remove("iat")), "missing_claim"),
        (|claims| drop(claims.as_object_mut().unwrap().remove("sub")), "invalid_claim"),
        (|claims| claims["sub"] = json!(""), "invalid_claim"),
        (|claims| claims["at_hash"] = json!("AAAAAAAAAAAAAAAAAAAAAA"), "oidc_wrong_access_token"),
        (|claims| claims["groups"] = json!({"staff": true}), "invalid_claim"),
    ];
    for (change, reason) in checks {
        let (status, told) = login(change, |_| {});
        assert_eq!((status, told.contains(reason)), (401, true), "{reason}: {told}");
    }
    // RFC: the left half of SHA-256 of the access token.
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"an-access-token");
    let good = crate::token::base64url(&hash.as_ref()[..16]);
    assert_eq!(login(|claims| claims["at_hash"] = json!(good), |_| {}).0, 303);
    assert_eq!(login(|claims| claims["azp"] = json!(CLIENT), |_| {}).0, 303);
}

#[test]
fn an_id_token_has_the_providers_signature() {
    let payload = |answer: &Value| {
        let token = answer["id_token"].as_str().unwrap().to_owned();
        let payload = token.split('.').nth(1).unwrap().to_owned();
        use base64::Engine;
        String::from_utf8(base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
    };
    let forged: [(&str, Forge); 5] = [
        ("bad_signature", |claims| Signer::es256("k1").sign(&serde_json::from_str(claims).unwrap())),
        ("unknown_key", |claims| Signer::es256("k2").sign(&serde_json::from_str(claims).unwrap())),
        ("algorithm_not_allowed", |claims| hs256(SECRET.as_bytes(), r#"{"alg":"HS256"}"#, claims)),
        ("algorithm_not_allowed", |claims| {
            format!(
                "{}.{}.",
                crate::token::base64url(br#"{"alg":"none"}"#),
                crate::token::base64url(claims.as_bytes())
            )
        }),
        ("wrong_token_type", |claims| {
            signer().sign_parts(r#"{"alg":"ES256","kid":"k1","typ":"logout+jwt"}"#, claims)
        }),
    ];
    for (reason, forge) in forged {
        let (status, told) = login(
            |_| {},
            |answer| {
                let claims = payload(answer);
                answer["id_token"] = json!(forge(&claims));
            },
        );
        assert_eq!((status, told.contains(reason)), (401, true), "{reason}: {told}");
    }
}

#[test]
fn a_token_endpoint_that_does_not_answer_makes_no_session() {
    let (upstream, provider, gateway) = world("");
    let good = |nonce: &str| FakeProvider::tokens(&provider.claims(nonce)).to_string();
    for (index, (reason, status)) in [
        ("oidc_failed", 503),
        ("oidc_malformed", 503),
        ("oidc_failed", 503),
        ("oidc_timeout", 503),
        ("oidc_unreachable", 503),
        ("oidc_token_refused", 503),
        ("oidc_code_refused", 401),
        ("oidc_no_id_token", 401),
        ("oidc_malformed", 503),
        ("oidc_malformed", 503),
    ]
    .into_iter()
    .enumerate()
    {
        let mut browser = Browser::at(&gateway);
        let asked = browser.begin("/private");
        let good = good(&asked["nonce"]);
        provider.reply(
            "/token",
            match index {
                0 => Reply::Raw(json_response(500, &good)),
                1 => Reply::Raw(html(&good)),
                2 => Reply::Raw(json_response(201, &good)),
                3 => Reply::Stall,
                4 => Reply::Close,
                5 => Reply::Json(401, json!({"error": "invalid_client"})),
                6 => Reply::Json(400, json!({"error": "invalid_grant"})),
                7 => Reply::Json(200, json!({"access_token": "a", "token_type": "Bearer"})),
                8 => Reply::Json(200, json!({"access_token": "a", "token_type": "DPoP", "id_token": "x"})),
                _ => Reply::Raw(json_response(200, &good.replacen('{', "{\"token_type\":\"Bearer\",", 1))),
            },
        );
        let answer = browser.visit(&format!("/oauth2/callback?code=c&state={}", asked["state"]));
        assert_eq!(
            (answer.status, answer.text().contains(reason)),
            (status, true),
            "{index}: {}",
            answer.text()
        );
        assert!(browser.session().is_empty());
    }
    let mut browser = Browser::at(&gateway);
    let asked = browser.begin("/private");
    let answer = browser.visit(&format!("/oauth2/callback?error=access_denied&state={}", asked["state"]));
    assert_eq!((answer.status, answer.text().contains("oidc_login_refused")), (401, true));
    assert_eq!(upstream.requests(), 0);
}
