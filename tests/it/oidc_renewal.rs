//! Sessions that are renewed with a refresh token: once, whoever asks; ended where the provider says no; and kept where it says
//! nothing.

use std::thread;

use serde_json::{Value, json};

use crate::gateway::{TestGateway, eventually};
use crate::oidc_support::*;
use crate::wire::RecordingUpstream;

/// A browser whose session is to be renewed in a few seconds.
fn logged_in() -> (RecordingUpstream, FakeProvider, TestGateway, Browser) {
    let (upstream, provider) = (RecordingUpstream::start(), FakeProvider::start());
    let gateway = gateway(&upstream, &provider.issuer(), "", "");
    ready(&gateway);
    let mut browser = Browser::at(&gateway);
    let answer = browser.log_in_with(
        &provider,
        |_| {},
        |answer| {
            answer["expires_in"] = json!(1);
            answer["refresh_token"] = json!("refresh-1");
        },
    );
    assert_eq!(answer.status, 303);
    (upstream, provider, gateway, browser)
}

fn renewals(provider: &FakeProvider) -> Vec<Got> {
    let got = provider.got("/token").into_iter();
    got.filter(|got| got.form["grant_type"] == "refresh_token").collect()
}

fn renewed(claims: &Value, refresh_token: &str) -> Reply {
    let mut answer = FakeProvider::tokens(claims);
    answer["refresh_token"] = json!(refresh_token);
    Reply::Json(200, answer)
}

#[test]
fn a_session_is_renewed_once_for_all_requests() {
    let (_upstream, provider, gateway, browser) = logged_in();
    let mut claims = provider.claims("any");
    claims["groups"] = json!(["promoted"]);
    provider.reply("/token", renewed(&claims, "refresh-2"));
    let before = browser.cookies.clone();
    let threads: Vec<_> = (0..6)
        .map(|_| {
            let mut browser = browser.clone();
            let old = before.clone();
            thread::spawn(move || {
                eventually("the session is renewed", || {
                    let answer = browser.fetch("/private");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    let is_renewed = browser.cookies != old;
                    if is_renewed {
                        assert_eq!(answer.header("cache-control"), Some("private"));
                    }
                    is_renewed.then(|| browser.clone())
                })
            })
        })
        .collect();
    let mut browsers: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let asked = renewals(&provider);
    assert_eq!(asked.len(), 1, "a refresh token is used once");
    assert_eq!(asked[0].form["refresh_token"], "refresh-1");
    eventually("the claims are as new as the session", || {
        let is_new = |event: &Value| event["gateway"]["fields"]["who"]["groups"] == json!(["promoted"]);
        gateway.events(1).iter().any(is_new).then_some(())
    });
    for browser in &mut browsers {
        assert_eq!(browser.fetch("/private").status, 200);
    }
    let mut late = browser.clone();
    eventually("a request that was on its way brings the former cookie, and gets the new one", || {
        assert_eq!(late.fetch("/private").status, 200);
        (late.cookies != before).then_some(())
    });
    assert_eq!(renewals(&provider).len(), 1);
}

#[test]
fn a_provider_that_says_no_ends_the_session() {
    let refused = |_: &FakeProvider| Reply::Json(400, json!({"error": "invalid_grant"}));
    let another_user = |provider: &FakeProvider| {
        let mut claims = provider.claims("any");
        claims["sub"] = json!("mallory");
        renewed(&claims, "refresh-2")
    };
    type Replying = fn(&FakeProvider) -> Reply;
    let replies: [(Replying, &str); 2] = [(refused, "refused"), (another_user, "another user")];
    for (reply, what) in replies {
        let (_upstream, provider, gateway, mut browser) = logged_in();
        provider.reply("/token", reply(&provider));
        let answer = eventually("the session is ended", || {
            let answer = browser.clone().fetch("/private");
            (answer.status != 200).then_some(answer)
        });
        assert_eq!((answer.status, answer.text().contains("session_ended")), (401, true), "{what}");
        assert_eq!(browser.visit("/private").status, 302);
        assert!(browser.session().is_empty());
        eventually("the event says so", || {
            gateway.events(1).iter().any(|event| event["gateway"]["reason"] == "session_ended").then_some(())
        });
    }
}

#[test]
fn a_provider_that_says_nothing_changes_nothing() {
    let (_upstream, provider, _gateway, mut browser) = logged_in();
    for reply in [
        Reply::Json(500, json!({})),
        Reply::Stall,
        Reply::Close,
        Reply::Json(401, json!({"error": "invalid_client"})),
    ] {
        provider.reply("/token", reply);
        let asked = renewals(&provider).len();
        eventually("the provider is asked", || {
            assert_eq!(browser.fetch("/private").status, 200, "the session lasts until its own end");
            (renewals(&provider).len() > asked).then_some(())
        });
        assert_eq!(browser.fetch("/private").status, 200);
    }
    provider.reply("/token", renewed(&provider.claims("any"), "refresh-2"));
    let before = browser.cookies.clone();
    eventually("the provider is back", || {
        assert_eq!(browser.fetch("/private").status, 200);
        (browser.cookies != before).then_some(())
    });
}
