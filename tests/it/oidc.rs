//! Browsers that log in, with a provider that answers whatever a test wants.

use serde_json::{Value, json};

use crate::gateway::TestGateway;
use crate::oidc_support::*;
use crate::token::base64url;
use crate::wire::RecordingUpstream;

struct World {
    upstream: RecordingUpstream,
    provider: FakeProvider,
    gateway: TestGateway,
}

fn world(more: &str, api: &str) -> World {
    let (upstream, provider) = (RecordingUpstream::start(), FakeProvider::start());
    let gateway = gateway(&upstream, &provider.issuer(), more, api);
    ready(&gateway);
    World { upstream, provider, gateway }
}

#[test]
fn a_browser_logs_in_and_comes_back_to_where_it_was() {
    let world = world("", "");
    let mut browser = Browser::at(&world.gateway);
    let asked = browser.begin("/deep/link?x=1");
    assert_eq!((asked["response_type"].as_str(), asked["client_id"].as_str()), ("code", CLIENT));
    assert_eq!((asked["code_challenge_method"].as_str(), asked["scope"].as_str()), ("S256", "openid"));
    assert_eq!(asked["redirect_uri"], format!("http://{}/oauth2/callback", browser.host));
    let tokens = FakeProvider::tokens(&world.provider.claims(&asked["nonce"]));
    world.provider.reply("/token", Reply::Json(200, tokens));
    let back = browser.visit(&format!("/oauth2/callback?code=the%2Bcode&state={}", asked["state"]));
    assert_eq!((back.status, back.header("location")), (303, Some("/deep/link?x=1")), "{}", back.text());
    assert_eq!(back.header("cache-control"), Some("no-store"));
    assert_eq!(browser.session(), ["postern.session.browser.0"]);
    assert!(!browser.cookies.keys().any(|name| name.contains(".login.")), "the login is over");

    let got = &world.provider.got("/token")[0];
    assert_eq!(
        (got.form["grant_type"].as_str(), got.form["code"].as_str()),
        ("authorization_code", "the+code")
    );
    assert_eq!(base64url(&sha256(got.form["code_verifier"].as_bytes())), asked["code_challenge"]);
    assert!(got.head.contains("authorization: Basic "), "{}", got.head);
    assert!(!got.form.contains_key("client_secret"));

    let before = world.gateway.events(3).len();
    browser.cookies.insert("theme".to_owned(), "dark".to_owned());
    assert_eq!(browser.visit("/deep/link?x=1").status, 200);
    assert_eq!(browser.fetch("/deep/link").status, 200, "a session serves scripts, too");
    let events = world.gateway.events(before + 2);
    let fields = &events[before]["gateway"]["fields"];
    assert_eq!((&fields["who"]["subject"], &fields["who"]["type"]), (&json!("alice"), &json!("oidc")));
    assert_eq!(
        (&fields["who"]["groups"], &fields["who"]["provider"]),
        (&json!(["staff"]), &json!("browser"))
    );
    let received = world.upstream.received();
    assert!(
        received.contains("cookie: theme=dark\r\n") || received.contains("Cookie: theme=dark\r\n"),
        "{received}"
    );
    assert!(!received.contains("postern."), "{received}");
    let told = events.iter().map(Value::to_string).collect::<String>();
    for secret in [
        browser.cookies["postern.session.browser.0"].as_str(),
        "the+code",
        "an-access-token",
        asked["state"].as_str(),
    ] {
        assert!(!told.contains(secret), "{secret}");
    }
    let reasons: Vec<_> = events.iter().map(|event| event["gateway"]["reason"].clone()).collect();
    assert!(reasons.contains(&json!("oidc_logged_in")), "{reasons:?}");
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec()
}

#[test]
fn the_policy_stays_in_charge() {
    let world = world("", "");
    let mut browser = Browser::at(&world.gateway);
    assert_eq!(browser.visit("/public").status, 200, "a public page stays public");
    let script = browser.fetch("/private");
    assert_eq!((script.status, script.header("location")), (401, None), "a script is not sent to log in");
    assert!(script.header("www-authenticate").is_some());
    assert_eq!(browser.send("POST", "/private", "Accept: text/html\r\n", "x").status, 401);
    assert!(browser.cookies.is_empty(), "who only looks gets no cookie");
    assert_eq!(browser.log_in(&world.provider).status, 303);
    let policy = "package gateway\n\ndecision := {\"allow\": false, \"reason\": \"not_yours\"}\n";
    world.gateway.write("policy/main.rego", policy);
    world.gateway.running().reloader().reload().unwrap();
    let denied = browser.visit("/private");
    assert_eq!(
        (denied.status, denied.header("location")),
        (403, None),
        "who is known is not sent to log in again"
    );
}

#[test]
fn an_api_may_want_a_session_before_its_policy_is_asked() {
    let world = world("", ", anonymous: reject");
    let mut browser = Browser::at(&world.gateway);
    let asked = browser.begin("/public");
    assert!(asked.contains_key("state"));
    assert_eq!(browser.fetch("/public").status, 401);
    assert_eq!(browser.log_in(&world.provider).status, 303);
    assert_eq!(browser.visit("/public").status, 200);
}

#[test]
fn a_login_can_be_asked_for() {
    let world = world("", "");
    let mut browser = Browser::at(&world.gateway);
    let asked = browser.visit("/oauth2/login?return_to=%2Fpublic%3Fa%3Db");
    assert_eq!(asked.status, 303, "{}", asked.text());
    let asked = parameters(asked.header("location").unwrap());
    world
        .provider
        .reply("/token", Reply::Json(200, FakeProvider::tokens(&world.provider.claims(&asked["nonce"]))));
    let back = browser.visit(&format!("/oauth2/callback?code=c&state={}", asked["state"]));
    assert_eq!(back.header("location"), Some("/public?a=b"));
    for elsewhere in
        ["//evil.test", "https://evil.test", "/%5Cevil.test", "%2F%2Fevil.test", "/a%0d%0ab", "x"]
    {
        let answer = browser.visit(&format!("/oauth2/login?return_to={elsewhere}"));
        assert_eq!((answer.status, answer.header("location")), (400, None), "{elsewhere}");
    }
    assert_eq!(browser.send("POST", "/oauth2/login", "", "").status, 405);
}

#[test]
fn requests_that_change_something_come_from_a_page_of_the_same_origin() {
    let world = world("", "");
    let mut browser = Browser::at(&world.gateway);
    browser.log_in(&world.provider);
    let origin = format!("Origin: http://{}\r\n", browser.host);
    for (headers, status) in [
        (origin.as_str(), 200),
        ("Sec-Fetch-Site: same-origin\r\n", 200),
        ("", 401),
        ("Origin: http://evil.test\r\n", 401),
        ("Origin: null\r\n", 401),
        ("Sec-Fetch-Site: cross-site\r\n", 401),
        ("Sec-Fetch-Site: same-site\r\n", 401),
        ("Origin: http://evil.test\r\nSec-Fetch-Site: same-origin\r\n", 401),
    ] {
        let answer = browser.send("POST", "/orders", headers, "x");
        assert_eq!(answer.status, status, "{headers}");
        if status == 401 {
            assert!(answer.text().contains("cross_site_request"), "{}", answer.text());
        }
    }
    let handshake = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let answer = browser.send("GET", "/ws", &format!("{handshake}Origin: http://evil.test\r\n"), "");
    assert_eq!(answer.status, 401, "another site's page cannot open a WebSocket");
    assert_eq!(browser.visit("/private").status, 200, "the session goes on");
    let lax = world_without_origin();
    let mut browser = Browser::at(&lax.gateway);
    browser.log_in(&lax.provider);
    assert_eq!(browser.send("POST", "/orders", "", "x").status, 200);
}

fn world_without_origin() -> World {
    world(", session: {require_same_origin: false}", "")
}

#[test]
fn a_logout_ends_the_session_here_and_at_the_provider() {
    let world = world("", "");
    let mut browser = Browser::at(&world.gateway);
    browser.log_in(&world.provider);
    let mut copy = browser.clone();
    for headers in ["", "Sec-Fetch-Site: cross-site\r\n", "Origin: http://evil.test\r\n"] {
        assert_eq!(browser.send("GET", "/oauth2/logout", headers, "").status, 403, "{headers}");
    }
    assert_eq!(browser.visit("/private").status, 200, "another site's page logs nobody out");
    let gone = browser.send("GET", "/oauth2/logout", "Sec-Fetch-Site: same-origin\r\n", "");
    assert_eq!(gone.status, 303);
    let location = gone.header("location").unwrap();
    assert!(location.starts_with(&format!("{}/logout?", world.provider.issuer())), "{location}");
    let told = parameters(location);
    assert_eq!(told["client_id"], CLIENT);
    assert_eq!(told["post_logout_redirect_uri"], format!("http://{}/", browser.host));
    assert_eq!(told["id_token_hint"].split('.').count(), 3);
    assert!(browser.session().is_empty());
    assert_eq!(copy.fetch("/private").status, 401, "a copy of the cookie is worth nothing");
    assert_eq!(copy.visit("/private").status, 302);
    assert!(copy.session().is_empty(), "and is taken away");
}

fn logout_token(provider: &FakeProvider, change: impl FnOnce(&mut Value)) -> String {
    let mut claims = json!({"iss": provider.issuer(), "aud": CLIENT, "iat": now(), "exp": now() + 60, "jti": "j1",
        "sid": "provider-session-1", "events": {"http://schemas.openid.net/event/backchannel-logout": {}}});
    change(&mut claims);
    signer().sign(&claims)
}

fn tell(world: &World, token: &str) -> u16 {
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    Browser::at(&world.gateway)
        .send("POST", "/oauth2/backchannel-logout", form, &format!("logout_token={token}"))
        .status
}

#[test]
fn the_provider_ends_sessions() {
    let world = world("", "");
    let mut browser = Browser::at(&world.gateway);
    browser.log_in(&world.provider);
    let bad: [fn(&mut Value); 10] = [
        |claims| claims["iss"] = json!("http://evil.test"),
        |claims| claims["aud"] = json!("other"),
        |claims| claims["nonce"] = json!("n"),
        |claims| claims["events"] = json!({}),
        |claims| claims["events"] = json!({"http://schemas.openid.net/event/backchannel-logout": "x"}),
        |claims| claims["iat"] = json!(now() + 600),
        |claims| {
            claims["iat"] = json!(now() - 600);
            claims["exp"] = json!(now() - 500);
        },
        |claims| claims["jti"] = json!(""),
        |claims| claims["sid"] = json!(1),
        |claims| drop(claims.as_object_mut().unwrap().remove("sid")),
    ];
    for (index, change) in bad.into_iter().enumerate() {
        assert_eq!(tell(&world, &logout_token(&world.provider, change)), 400, "{index}");
    }
    assert_eq!(tell(&world, "x"), 400);
    let forged = crate::token::Signer::es256("k1").sign(&json!({"iss": world.provider.issuer()}));
    assert_eq!(tell(&world, &forged), 400);
    let id_token = signer().sign(&world.provider.claims("n"));
    assert_eq!(tell(&world, &id_token), 400, "an ID token ends nothing");
    let mut other = Browser::at(&world.gateway);
    assert_eq!(other.send("GET", "/oauth2/backchannel-logout", "", "").status, 405);
    assert_eq!(other.send("POST", "/oauth2/backchannel-logout", "", "logout_token=x").status, 415);
    assert_eq!(browser.visit("/private").status, 200);

    let elsewhere = |claims: &mut Value| claims["sid"] = json!("provider-session-2");
    assert_eq!(tell(&world, &logout_token(&world.provider, elsewhere)), 200);
    assert_eq!(browser.visit("/private").status, 200, "another session of the provider");
    assert_eq!(tell(&world, &logout_token(&world.provider, |_| {})), 200);
    assert_eq!(browser.fetch("/private").status, 401);

    // A session that begins within the second of the logout would be ended with it.
    let second = now();
    crate::gateway::eventually("the next second", || (now() > second).then_some(()));
    let mut browser = Browser::at(&world.gateway);
    browser.log_in(&world.provider);
    assert_eq!(browser.visit("/private").status, 200, "a later login is another session");
    let by_subject = |claims: &mut Value| {
        claims.as_object_mut().unwrap().remove("sid");
        claims["sub"] = json!("alice");
    };
    assert_eq!(tell(&world, &logout_token(&world.provider, by_subject)), 200);
    assert_eq!(browser.fetch("/private").status, 401);
    // It outlives a reload.
    world.gateway.running().reloader().reload().unwrap();
    assert_eq!(browser.fetch("/private").status, 401);
}

#[test]
fn a_large_session_takes_several_cookies_and_too_large_a_one_is_refused() {
    let world = world("", "");
    let mut browser = Browser::at(&world.gateway);
    let groups: Vec<_> = (0..250).map(|index| format!("department-{index:04}")).collect();
    let answer = browser.log_in_with(&world.provider, |claims| claims["groups"] = json!(groups), |_| {});
    assert_eq!(answer.status, 303, "{}", answer.text());
    assert!(browser.session().len() > 1, "{:?}", browser.session());
    assert!(set_cookies(&answer).iter().all(|cookie| cookie.len() <= 4096));
    assert_eq!(browser.visit("/private").status, 200);
    // Without its first or its last part it is none.
    for name in browser.session() {
        let mut cut = browser.clone();
        cut.cookies.remove(&name);
        assert_eq!(cut.fetch("/private").status, 401);
    }
}

#[test]
fn claims_of_the_user_info_endpoint() {
    let world = world(", user_info: true", "");
    world
        .provider
        .reply("/me", Reply::Json(200, json!({"sub": "alice", "email": "a@shop.test", "groups": ["more"]})));
    let mut browser = Browser::at(&world.gateway);
    assert_eq!(browser.log_in(&world.provider).status, 303);
    assert!(world.provider.got("/me")[0].head.contains("authorization: Bearer an-access-token"));
    let before = world.gateway.events(1).len();
    browser.visit("/private");
    let events = world.gateway.events(before + 1);
    let who = &events.last().unwrap()["gateway"]["fields"]["who"];
    assert_eq!(who["claims"]["email"], json!("a@shop.test"));
    assert_eq!(who["groups"], json!(["staff"]), "what is signed counts more");
    world.provider.reply("/me", Reply::Json(200, json!({"sub": "mallory"})));
    let answer = Browser::at(&world.gateway).log_in(&world.provider);
    assert_eq!(answer.status, 401);
    assert!(answer.text().contains("oidc_other_subject"), "{}", answer.text());
    world.provider.reply("/me", Reply::Json(500, json!({})));
    assert_eq!(Browser::at(&world.gateway).log_in(&world.provider).status, 503);
}
