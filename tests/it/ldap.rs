//! Directories: real `slapd`, real connections, who comes out of it.

use std::net::TcpListener;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::gateway::{TestGateway, eventually};
use crate::ldap_support::*;
use crate::live_support::{Authority, plain_config};
use crate::token::{Signer, jwks};
use crate::wire::{RecordingUpstream, get};

#[test]
fn a_user_is_who_the_directory_says() {
    let Some(slapd) = Slapd::start() else { return };
    let upstream = RecordingUpstream::start();
    let gateway = usual(&upstream, slapd.plain, "attributes: [mail, departmentNumber, jpegPhoto, title]");
    let response = login(&gateway, "alice", "alice-pass");
    assert_eq!(response.status, 200);
    let want = json!({
        "authenticated": true, "provider": "directory", "type": "ldap", "subject": "alice",
        "audience": [], "roles": [], "scopes": [],
        "groups": ["company", "engineers", "staff", "technicians"],
        "attributes": {
            "dn": format!("uid=alice,{PEOPLE}"),
            "mail": "alice@example.com",
            "departmentNumber": ["7", "8"],
            "jpegPhoto": {"base64": "/9j/"},
        },
    });
    assert_eq!(who(&response), want);
    // A directory's passwords are no upstream's business.
    assert!(!upstream.received().to_ascii_lowercase().contains("authorization"));
    let bob = who(&login(&gateway, "bob", "b\u{f6}b: pass"));
    assert_eq!((&bob["subject"], &bob["attributes"]["mail"]), (&json!("bob"), &json!("bob@example.com")));
    assert_eq!(bob["groups"], json!(["company", "loop-a", "loop-b", "staff"]));
}

#[test]
fn what_is_wrong_has_one_answer() {
    let Some(slapd) = Slapd::start() else { return };
    let upstream = RecordingUpstream::start();
    let gateway = usual(&upstream, slapd.plain, "realm: Orders");
    let mut answers = Vec::new();
    // A wrong password, nobody, two of that name, several values of the subject, and the gateway's own account.
    for (username, password) in [
        ("alice", "wrong"),
        ("alice", "bob-pass"),
        ("nobody", "alice-pass"),
        ("twin", "twin"),
        ("two", "two"),
        ("zwei", "two"),
        ("gateway", SERVICE_PASSWORD),
        (SERVICE, SERVICE_PASSWORD),
        ("*", "alice-pass"),
        ("a*", "alice-pass"),
        ("alice)(uid=*", "alice-pass"),
        ("alice\\", "alice-pass"),
        ("alic\\65", "alice-pass"),
    ] {
        let response = login(&gateway, username, password);
        assert_eq!(response.header("www-authenticate"), Some("Basic realm=\"Orders\", charset=\"UTF-8\""));
        answers
            .push((response.status, response.text().replace(|letter: char| letter.is_ascii_hexdigit(), "")));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer.0 == 401), "{answers:?}");
    let events = gateway.events(answers.len());
    assert!(events.iter().all(|event| event["gateway"]["reason"] == "invalid_credentials"), "{events:?}");
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn odd_names_are_found_as_they_are() {
    let Some(slapd) = Slapd::start() else { return };
    let upstream = RecordingUpstream::start();
    let gateway = usual(&upstream, slapd.plain, "");
    let odd = who(&login(&gateway, ODD, "odd"));
    assert_eq!(odd["subject"], ODD);
    assert_eq!(odd["groups"], json!(["Sales, EU (*)"]));
    assert_eq!(login(&gateway, ODD, "Odd").status, 401);
    // By the attribute that names groups: the same, read from distinguished names.
    let listed = provider(
        &format!("ldap://{}", slapd.plain),
        "groups: {attribute: memberOf, nested: 3}\n    attributes: [uid]",
    );
    let gateway = gateway_of(&upstream, &listed);
    assert_eq!(who(&login(&gateway, ODD, "odd"))["groups"], json!(["Sales, EU (*)"]));
    assert_eq!(who(&login(&gateway, ODD, "odd"))["attributes"]["uid"], ODD);
}

fn gateway_of(upstream: &RecordingUpstream, provider: &str) -> TestGateway {
    gateway(upstream, provider, "[directory]", &[])
}

#[test]
fn groups_are_found_in_every_way() {
    let Some(slapd) = Slapd::start() else { return };
    let upstream = RecordingUpstream::start();
    let dn = |name: &str| format!("cn={name},{GROUPS}");
    let in_base = |more: &str| format!("groups: {{base: \"{GROUPS}\", {more}}}");
    let listed = |more: &str| format!("groups: {{attribute: memberOf, {more}}}");
    let own = json!(["engineers", "staff"]);
    let whole = json!(["company", "engineers", "staff", "technicians"]);
    let checks = [
        (String::new(), json!([])),
        (in_base("nested: 0"), own.clone()),
        (in_base("nested: 1"), whole.clone()),
        (in_base("nested: 10"), whole.clone()),
        (in_base("scope: one, name: dn"), json!([dn("engineers"), dn("staff")])),
        (in_base("filter: \"(&(objectClass=posixGroup)(memberUid={subject}))\""), json!(["posix"])),
        (
            in_base("filter: \"(|(member={dn})(memberUid={subject}))\""),
            json!(["engineers", "posix", "staff"]),
        ),
        (in_base("filter: \"(&(member={dn})(cn=st*ff))\""), json!(["staff"])),
        (in_base("filter: \"(&(member={dn})(!(cn=staff)))\""), json!(["engineers"])),
        (listed("nested: 0"), own.clone()),
        (listed("nested: 1"), whole.clone()),
        (listed("nested: 10"), whole),
        (listed("nested: 0, name: dn"), json!([dn("engineers"), dn("staff")])),
        // Not what the groups' names tell: the entries are asked.
        (listed("nested: 0, name: objectClass"), json!(["groupOfNames"])),
    ];
    for (groups, want) in checks {
        let gateway = gateway_of(&upstream, &provider(&format!("ldap://{}", slapd.plain), &groups));
        assert_eq!(who(&login(&gateway, "alice", "alice-pass"))["groups"], want, "{groups}");
    }
}

#[test]
fn the_subject_is_what_the_configuration_says() {
    let Some(slapd) = Slapd::start() else { return };
    let upstream = RecordingUpstream::start();
    let alice = format!("uid=alice,{PEOPLE}");
    for (users, username, want) in [
        ("", "ALICE", "alice"),
        (", subject: dn", "alice", alice.as_str()),
        (", filter: \"(|(uid={username})(mail={username}))\"", "alice@example.com", "alice"),
        (", filter: \"(mail={username}@example.com)\"", "alice", "alice@example.com"),
        (", filter: \"(uid:caseExactMatch:={username})\", subject: uid", "alice", "alice"),
        (", scope: one", "alice", "alice"),
    ] {
        let written = provider(&format!("ldap://{}", slapd.plain), "")
            .replace(&format!("\"{PEOPLE}\""), &format!("\"{PEOPLE}\"{users}"));
        let gateway = gateway_of(&upstream, &written);
        assert_eq!(who(&login(&gateway, username, "alice-pass"))["subject"], want, "{users}");
    }
}

#[test]
fn tls_is_verified_in_both_of_its_forms() {
    let Some(slapd) = Slapd::start() else { return };
    let upstream = RecordingUpstream::start();
    let other = Authority::new("Other CA").pem();
    let (plain, tls) = (slapd.plain, slapd.tls);
    let good = [
        (format!("ldaps://{tls}"), ""),
        (format!("ldaps://localhost:{}", tls.port()), ""),
        (format!("ldap://{plain}"), "start_tls: true\n    "),
        (format!("ldap://localhost:{}", plain.port()), "start_tls: true\n    "),
    ];
    for (url, more) in good {
        let written = provider(&url, &format!("{more}ca: ca.pem"));
        for (ca, status, reason) in [(&slapd.ca(), 200, ""), (&other, 503, "ldap_tls")] {
            let gateway = gateway(&upstream, &written, "[directory]", &[("ca.pem", ca)]);
            assert_eq!(login(&gateway, "alice", "alice-pass").status, status, "{url}");
            assert_eq!(last_outage(&gateway), reason, "{url}");
        }
    }
    // A certificate for other names.
    let written = provider(&format!("ldaps://127.0.0.2:{}", tls.port()), "ca: ca.pem");
    let gateway = gateway(&upstream, &written, "[directory]", &[("ca.pem", &slapd.ca())]);
    assert_eq!(login(&gateway, "alice", "alice-pass").status, 503);
}

#[test]
fn the_next_server_answers_where_one_does_not() {
    let Some(mut slapd) = Slapd::start() else { return };
    let Some(other) = Slapd::start() else { return };
    let upstream = RecordingUpstream::start();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let stalled = Fake::start(|_| Act::Stall);
    let urls =
        [nobody, stalled.address, slapd.plain, other.plain].map(|address| format!("\"ldap://{address}\""));
    let more = "timeouts: {operation: 200ms}\n    cache: 0s\n    negative_cache: 0s";
    let gateway = gateway_of(&upstream, &provider(&format!("[{}]", urls.join(", ")), more));
    assert_eq!(who(&login(&gateway, "alice", "alice-pass"))["subject"], "alice");
    assert_eq!(login(&gateway, "alice", "wrong").status, 401);
    slapd.kill();
    assert_eq!(who(&login(&gateway, "alice", "alice-pass"))["subject"], "alice");
    assert_eq!(login(&gateway, "alice", "wrong").status, 401);
    assert_eq!(last_outage(&gateway), "");
}

#[test]
fn a_changed_password_counts_when_what_is_remembered_ends() {
    let Some(slapd) = Slapd::start() else { return };
    let upstream = RecordingUpstream::start();
    // Not remembered at all: each request asks, and the answers stay right.
    let gateway = usual(&upstream, slapd.plain, "cache: 0s\n    negative_cache: 0s");
    for _ in 0..3 {
        assert_eq!(login(&gateway, "alice", "alice-pass").status, 200);
        assert_eq!(login(&gateway, "alice", "wrong").status, 401);
    }
    let status: Value =
        serde_json::from_slice(&crate::live_support::admin(&gateway, "/status").body).unwrap();
    assert_eq!(status["identity_servers"]["directory"]["asked"], 6);
    // Remembered: one question for each.
    let gateway = usual(&upstream, slapd.plain, "cache: 1h\n    negative_cache: 10m");
    for _ in 0..3 {
        assert_eq!(login(&gateway, "alice", "alice-pass").status, 200);
        assert_eq!(login(&gateway, "alice", "wrong").status, 401);
    }
    let status: Value =
        serde_json::from_slice(&crate::live_support::admin(&gateway, "/status").body).unwrap();
    assert_eq!(status["identity_servers"]["directory"]["asked"], 2);
}

#[test]
fn what_was_good_may_serve_through_an_outage_where_it_may() {
    let Some(mut slapd) = Slapd::start() else { return };
    let upstream = RecordingUpstream::start();
    let gateway = usual(&upstream, slapd.plain, "cache: 1ms\n    stale: 1h");
    assert!(who(&login(&gateway, "alice", "alice-pass")).get("stale").is_none());
    slapd.kill();
    let stale = eventually("a stale identity", || {
        let response = login(&gateway, "alice", "alice-pass");
        assert_eq!(response.status, 200);
        let who = who(&response);
        who.get("stale").is_some().then_some(who)
    });
    assert_eq!((&stale["subject"], &stale["stale"]), (&json!("alice"), &json!(true)));
    // Whom the directory has not named before, it does not let in now.
    assert_eq!(login(&gateway, "alice", "wrong").status, 503);
    assert_eq!(login(&gateway, "bob", "b\u{f6}b: pass").status, 503);
}

#[test]
fn an_identity_proven_elsewhere_is_enriched() {
    let Some(mut slapd) = Slapd::start() else { return };
    let upstream = RecordingUpstream::start();
    let signer = Signer::es256("k1");
    #[expect(clippy::disallowed_methods, reason = "a test's tokens are for the real clock")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let bearer = |subject: &str, employee: Value| {
        let token = signer
            .sign(&json!({"iss": "https://idp.test", "aud": "orders", "sub": subject, "exp": now + 600,
            "groups": ["token-group", "staff"], "employee": {"id": employee}}));
        format!("Authorization: Bearer {token}\r\n")
    };
    let corp = "  corp: {type: jwt, issuer: \"https://idp.test\", audiences: [orders], jwks_file: jwks.json, \
        algorithms: [ES256], claims: {groups: groups}}\n";
    let start = |enrich: &str| {
        let more = format!(
            "groups: {{base: \"{GROUPS}\"}}\n    attributes: [mail]\n    enrich: {enrich}\n    cache: 0s"
        );
        let providers = corp.to_owned() + &provider(&format!("ldap://{}", slapd.plain), &more);
        gateway(&upstream, &providers, "[corp, directory]", &[("jwks.json", &jwks(&[signer.jwk()]))])
    };
    let by_subject = start("{by: subject}");
    let ask = |gateway: &TestGateway, headers: &str| get(gateway.address("public"), "/", headers);
    let alice = who(&ask(&by_subject, &bearer("alice", json!(1))));
    assert_eq!(
        (&alice["provider"], &alice["type"], &alice["subject"]),
        (&json!("corp"), &json!("jwt"), &json!("alice"))
    );
    assert_eq!(alice["groups"], json!(["token-group", "staff", "engineers"]));
    assert_eq!(
        alice["attributes"],
        json!({"dn": format!("uid=alice,{PEOPLE}"), "mail": "alice@example.com"})
    );
    // Nobody of that name, and names that are none.
    let nobody =
        [("nobody", "not_in_directory"), ("*", "not_in_directory"), ("a\u{0}", "no_name_to_look_up")];
    for (index, (subject, reason)) in nobody.into_iter().enumerate() {
        assert_eq!(ask(&by_subject, &bearer(subject, json!(1))).status, 401, "{subject:?}");
        assert_eq!(by_subject.events(index + 2)[index + 1]["gateway"]["reason"], reason);
    }
    // It takes no password.
    assert!(who(&login(&by_subject, "alice", "alice-pass"))["authenticated"] == false);
    let by_claim = start("{by: claim, path: employee.id}");
    let bob = who(&ask(&by_claim, &bearer("someone", json!("bob"))));
    assert_eq!((&bob["subject"], &bob["attributes"]["mail"]), (&json!("someone"), &json!("bob@example.com")));
    assert_eq!(ask(&by_claim, &bearer("alice", json!(7))).status, 401);
    // An API that has nobody to add to.
    let alone = provider("ldap://127.0.0.1", "enrich: {by: subject}");
    let config = plain_config(&upstream.url(), &format!("identity:\n{alone}"))
        .replace("upstream: up}", "upstream: up, identity: [directory]}");
    let refused = TestGateway::try_start(&config, &[("policy/main.rego", TELLS)]).err().unwrap().to_string();
    assert!(refused.contains("nobody is proven here"), "{refused}");
    // And one whose second directory nobody gets to.
    let two =
        provider("ldap://127.0.0.1", "") + &provider("ldap://127.0.0.1", "").replace("directory", "other");
    let config = plain_config(&upstream.url(), &format!("identity:\n{two}"))
        .replace("upstream: up}", "upstream: up, identity: [directory, other]}");
    let file = by_claim.path("two.yaml");
    std::fs::write(&file, config).unwrap();
    let warnings = postern::config::load(&file, &|_| None).unwrap().warnings;
    assert!(format!("{warnings:?}").contains("`other` is never asked"), "{warnings:?}");
    // Without the directory nobody knows which groups are missing.
    slapd.kill();
    assert_eq!(ask(&by_subject, &bearer("bob", json!(1))).status, 503);
}
