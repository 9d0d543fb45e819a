//! Group AUTH of the hostile requests, as far as it is about directories: each case as the logins it stands for. A case
//! that is about more than one login is listed with the test that covers it.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;

use serde_json::{Value, json};

use crate::gateway::TestGateway;
use crate::ldap_support::*;
use crate::live_support::send_over;
use crate::wire::{RecordingUpstream, connect, get};

const CASES: &str = "../shared/data/attacks/cases.jsonl";

/// What the cases say of themselves.
const PRECONDITION: &str = "Basic auth via slapd bind";

/// `(case, why it is not here)`.
const ELSEWHERE: [(&str, &str); 9] = [
    ("AUTH-008", "ldap_attacks::spellings_of_one_name_are_one_subject"),
    ("AUTH-013", "ldap_outages::a_directory_that_never_answers_holds_up_nobody_else"),
    ("AUTH-014", "ldap_attacks::no_answer_is_taken_for_anothers"),
    ("AUTH-018", "ldap_attacks::groups_in_a_circle_end"),
    ("AUTH-019", "ldap_outages::an_answer_without_end_is_refused_and_not_kept"),
    ("AUTH-020", "ldap_outages::hostile_answers_are_outages_and_nothing_more"),
    // These are about API keys.
    ("AUTH-023", "identity::api_key::tests: any other spelling is unknown, two are refused"),
    (
        "AUTH-024",
        "live_identity::a_credential_is_in_no_part_of_an_event; the upstream gets it unless told otherwise",
    ),
    ("AUTH-041", "live_identity::providers_are_tried_in_order_and_nobody_is_anonymous_by_accident"),
];

/// Logins, and the status of each.
fn attempts(case: &str) -> Option<Vec<(Vec<u8>, u16)>> {
    let refused = |credentials: &[&[u8]]| credentials.iter().map(|text| (text.to_vec(), 401)).collect();
    Some(match case {
        "AUTH-001" => refused(&[b"alice:"]),
        "AUTH-002" => refused(&[b":x", b":", b":alice-pass"]),
        "AUTH-006" => refused(&[
            b"al\0ice:alice-pass",
            b"alice\0:alice-pass",
            b"alice:alice-pass\0",
            b"al\\00ice:alice-pass",
            b"alice\\00:alice-pass",
            b"al\\ice:alice-pass",
            b"alice\\:alice-pass",
            b"alic\xc3:alice-pass",
            b"\xff:alice-pass",
            "alicé:alice-pass".as_bytes(),
            "\u{ff41}lice\u{0}:alice-pass".as_bytes(),
        ]),
        "AUTH-017" => vec![
            (b"alice:wrong".to_vec(), 401),
            (b"alice:alice-pass".to_vec(), 200),
            (b"alice:wrong".to_vec(), 401),
            (b"alice:alice-pass".to_vec(), 200),
        ],
        _ => return None,
    })
}

#[test]
fn every_case_has_its_verdict() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(CASES);
    let Ok(cases) = std::fs::read_to_string(path) else {
        return eprintln!("skipped: {CASES} is not there");
    };
    let Some(slapd) = Slapd::start() else { return };
    let upstream = RecordingUpstream::start();
    let gateway = usual(&upstream, slapd.plain, "");
    let mut seen = BTreeSet::new();
    for line in cases.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        if case["precondition"] != PRECONDITION {
            continue;
        }
        let id = case["id"].as_str().unwrap();
        seen.insert(id.to_owned());
        match attempts(id) {
            Some(attempts) => {
                for (credential, status) in attempts {
                    let response = get(gateway.address("public"), "/", &raw_basic(&credential));
                    assert_eq!(response.status, status, "{id}: {}", String::from_utf8_lossy(&credential));
                }
            }
            None => assert!(ELSEWHERE.iter().any(|(known, _)| *known == id), "{id} is nowhere"),
        }
    }
    assert!(seen.len() >= 10, "{seen:?}");
    assert!(ELSEWHERE.iter().all(|(id, _)| seen.contains(*id)));
}

#[test]
fn what_could_be_a_bind_without_proof_is_never_sent() {
    let fake = Fake::start(behave);
    let upstream = RecordingUpstream::start();
    let gateway = usual(&upstream, fake.address, "");
    for credential in
        [&b"alice:"[..], b":", b":secret", b"alice:\0", b"al\0ice:x", b"alice", b"", b"alice:\xff"]
    {
        assert_eq!(get(gateway.address("public"), "/", &raw_basic(credential)).status, 401);
    }
    let long = format!("alice:{}", "p".repeat(600));
    assert_eq!(get(gateway.address("public"), "/", &raw_basic(long.as_bytes())).status, 401);
    for malformed in [
        "Authorization: Basic\r\n",
        "Authorization: Basic \r\n",
        "Authorization: Basic  YWxpY2U6eA==\r\n",
        "Authorization: Basic YWxpY2U6eA\r\n",
        "Authorization: Basic YWxpY2U6eA==, Basic YWxpY2U6eA==\r\n",
        "Authorization: Basic YWxpY2U6eA==\r\nAuthorization: Basic YWxpY2U6eA==\r\n",
        "Authorization: Bearer x, Basic YWxpY2U6eA==\r\n",
    ] {
        let status = get(gateway.address("public"), "/", malformed).status;
        assert!(matches!(status, 400 | 401), "{malformed}: {status}");
    }
    assert_eq!((fake.connections(), fake.user_binds()), (0, 0));
    // The twin: one that is well-formed is asked about.
    assert_eq!(login(&gateway, "alice", "x").status, 200);
    assert_eq!(fake.user_binds(), 1);
}

#[test]
fn spellings_of_one_name_are_one_subject() {
    let Some(slapd) = Slapd::start() else { return };
    let upstream = RecordingUpstream::start();
    let gateway = usual(&upstream, slapd.plain, "attributes: [mail]");
    let alice = who(&login(&gateway, "alice", "alice-pass"));
    for spelling in ["ALICE", " alice", "alice ", "Alice", "  aLiCe  "] {
        let response = login(&gateway, spelling, "alice-pass");
        // However the directory compares names: the same identity, or none.
        match response.status {
            200 => assert_eq!(who(&response), alice, "{spelling:?}"),
            status => assert_eq!(status, 401, "{spelling:?}"),
        }
    }
    assert_eq!(login(&gateway, "ALICE", "alice-pass").status, 200);
    assert_eq!(login(&gateway, "ALICE", "wrong").status, 401);
}

#[test]
fn groups_in_a_circle_end() {
    let Some(slapd) = Slapd::start() else { return };
    let upstream = RecordingUpstream::start();
    for groups in [
        format!("groups: {{base: \"{GROUPS}\", nested: 10}}"),
        "groups: {attribute: memberOf, nested: 10}".to_owned(),
    ] {
        let provider = provider(&format!("ldap://{}", slapd.plain), &groups);
        let gateway = gateway(&upstream, &provider, "[directory]", &[]);
        let bob = who(&login(&gateway, "bob", "b\u{f6}b: pass"));
        assert_eq!(bob["groups"], json!(["company", "loop-a", "loop-b", "staff"]), "{groups}");
    }
}

/// One client's logins over one connection: as `mine` with the right password and with the other's.
fn alternate(gateway: &TestGateway, thread: usize, rounds: usize) {
    let mut stream = connect(gateway.address("public"));
    for round in 0..rounds {
        let (mine, other) = ((thread + round * 7) % NUMBERED, (thread + round * 7 + 1) % NUMBERED);
        let (name, password) = match round % 4 {
            0 => ("alice".to_owned(), "alice-pass".to_owned()),
            1 => ("bob".to_owned(), "b\u{f6}b: pass".to_owned()),
            2 => (format!("u{mine:02}"), format!("p{mine:02}")),
            _ => (format!("u{mine:02}"), format!("p{other:02}")),
        };
        let request = format!("GET / HTTP/1.1\r\nHost: gw.test\r\n{}\r\n", basic(&name, &password));
        let response = send_over(&mut stream, &request).unwrap();
        if round % 4 == 3 {
            assert_eq!(response.status, 401, "{name} with the password of another");
        } else {
            assert_eq!(response.status, 200, "{name}: {}", response.text());
            let who = who(&response);
            assert_eq!(
                (&who["subject"], &who["attributes"]["dn"]),
                (&json!(name), &json!(format!("uid={name},{PEOPLE}")))
            );
        }
    }
}

#[test]
fn no_answer_is_taken_for_anothers() {
    const CLIENTS: usize = 64;
    const LOGINS: usize = 10_000;
    let Some(slapd) = Slapd::start() else { return };
    let upstream = RecordingUpstream::start();
    // Nothing is remembered, so that each round is a bind; few connections, so that each is used by everyone in turn.
    let more =
        "cache: 0s\n    negative_cache: 0s\n    pool: {size: 4}\n    timeouts: {operation: 5s, total: 5s}";
    let gateway = gateway(&upstream, &provider(&format!("ldap://{}", slapd.plain), more), "[directory]", &[]);
    thread::scope(|scope| {
        for thread in 0..CLIENTS {
            let gateway = &gateway;
            scope.spawn(move || alternate(gateway, thread, LOGINS / CLIENTS + 1));
        }
    });
}
