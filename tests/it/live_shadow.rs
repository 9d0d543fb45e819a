//! Candidates beside the policy in force of a running gateway: compared and never enforced, promoted and rolled back.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::gateway::{TestGateway, eventually};
use crate::live_support::*;
use crate::policy_cli::{Ran, gatewayctl};
use crate::wire::{RecordingUpstream, get};

/// Allows what does not begin with `/secret`.
const IN_FORCE: &str = "package gateway

default decision := false

decision := true if not startswith(input.request.path, \"/secret\")
";

/// Allows `/secret`, denies `/old`, tells of a reason at `/why`, and fails at `/bad`.
const CANDIDATE: &str = "package gateway

default decision := false

decision := {\"allow\": true, \"reason\": \"new\"} if input.request.path == \"/why\"

decision := {\"allow\": input.request.path} if input.request.path == \"/bad\"

decision := {\"allow\": false, \"status\": 410} if input.request.path == \"/old\"

decision := true if not input.request.path in {\"/why\", \"/bad\", \"/old\"}
";

/// A gateway with routes `old` and `rest` and these keys of the policy `main`.
fn shadowed(upstream: &RecordingUpstream, policy: &str, shadow: &str, files: &[(&str, &str)]) -> TestGateway {
    let config = plain_config(&upstream.url(), "reload: {watch: false}")
        .replace(
            "bundle: policy, budget: 5s",
            &format!("bundle: policy, budget: 5s, {policy} shadow: {{{shadow}}}"),
        )
        .replace(
            "upstream: up}]",
            "upstream: up, routes: [{name: old, path: /old}, {name: rest, path: \"/{*rest}\"}]}]",
        );
    TestGateway::start(&config, files)
}

fn compared(upstream: &RecordingUpstream, shadow: &str) -> TestGateway {
    let files = [("policy/main.rego", IN_FORCE), ("next/main.rego", CANDIDATE)];
    shadowed(upstream, "", &format!("bundle: next{shadow}"), &files)
}

fn status(gateway: &TestGateway) -> Value {
    serde_json::from_slice::<Value>(&admin(gateway, "/status").body).unwrap()["policies"]["main"].clone()
}

fn ask_status(gateway: &TestGateway, path: &str) -> u16 {
    get(gateway.address("public"), path, "").status
}

/// Once the candidate has decided `count` times.
fn after(gateway: &TestGateway, count: u64) -> Value {
    eventually(&format!("{count} decisions of the candidate"), || {
        let shadow = status(gateway)["shadow"].clone();
        let decisions: u64 =
            shadow["decisions"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
        assert!(decisions <= count, "{shadow}");
        (decisions == count).then_some(shadow)
    })
}

fn skipped(gateway: &TestGateway, reason: &str) -> Option<u64> {
    metric(gateway, &format!("postern_shadow_skipped_total{{policy=\"main\",reason=\"{reason}\"}}"))
}

/// The records of divergences, by decision.
fn records(gateway: &TestGateway, count: usize) -> BTreeMap<String, Value> {
    eventually("the records", || {
        let text = fs::read_to_string(gateway.path("decisions.jsonl")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let records: BTreeMap<_, _> = lines
            .filter_map(|line| line.get("shadow").cloned())
            .map(|record| (record["decision_id"].as_str().unwrap().to_owned(), record))
            .collect();
        (records.len() == count).then_some(records)
    })
}

#[test]
fn divergences_are_told_by_route_and_direction_and_nothing_else_changes() {
    let upstream = RecordingUpstream::start();
    let gateway = compared(&upstream, "");
    for (path, want) in
        [("/a", 200), ("/secret/1", 403), ("/old", 200), ("/why", 200), ("/bad", 200), ("/b", 200)]
    {
        assert_eq!(ask_status(&gateway, path), want, "{path}");
    }
    let shadow = after(&gateway, 6);
    let directions = json!({"same": 2, "deny_to_allow": 1, "allow_to_deny": 1, "obligations": 1, "error": 1});
    assert_eq!(shadow["decisions"], directions);
    assert_eq!((&shadow["state"], &shadow["bundle"]), (&json!("evaluated"), &json!("next")));
    assert_eq!(shadow["routes"]["all/old"]["allow_to_deny"], 1);
    assert_eq!(shadow["routes"]["all/rest"]["allow_to_deny"], 0);
    let series = |route: &str, direction: &str| {
        let labels = format!("policy=\"main\",api=\"all\",route=\"{route}\",direction=\"{direction}\"");
        metric(&gateway, &format!("postern_shadow_decisions_total{{{labels}}}"))
    };
    for (route, direction, count) in
        [("old", "allow_to_deny", 1), ("rest", "deny_to_allow", 1), ("rest", "same", 2), ("rest", "error", 1)]
    {
        assert_eq!(series(route, direction), Some(count), "{route} {direction}");
    }
    let records = records(&gateway, 4);
    let old = records.values().find(|record| record["route"] == "old").unwrap();
    assert_eq!(
        (&old["direction"], &old["differs"], &old["decided"], &old["candidate"]),
        (
            &json!("allow_to_deny"),
            &json!(["allow", "status"]),
            &json!({"allow": true}),
            &json!({"allow": false, "status": 410}),
        )
    );
    assert_eq!((&old["policy"], &old["path"]), (&json!("main"), &json!("gateway/decision")));
    let failed = records.values().find(|record| record["direction"] == "error").unwrap();
    assert_eq!(failed["candidate"], json!({"allow": false, "status": 503, "error": "result"}));
    // Each record names a decision that has its event, and the replay knows it from one.
    let text = fs::read_to_string(gateway.path("decisions.jsonl")).unwrap();
    for id in records.keys() {
        assert_eq!(
            text.matches(&format!("{{\"decision_id\":\"{id}\"")).count(),
            2,
            "an event and a record: {id}"
        );
    }
    let replayed = gatewayctl(
        &gateway.path(""),
        &["policy", "replay", "decisions.jsonl", "--against", "next", "-f", "json"],
    );
    let replayed = replayed.json();
    assert_eq!((&replayed["events"], &replayed["unchanged"]), (&json!(6), &json!(2)), "{replayed}");
    assert_eq!(shadow["recent"].as_array().unwrap().len(), 4);
}

#[test]
fn the_candidate_sees_what_the_policy_saw() {
    let upstream = RecordingUpstream::start();
    // Both echo what they see; the clock and the decision's id would differ if they were taken again.
    let echo = "package gateway

decision := {\"allow\": true, \"reason\": sprintf(\"%v\", [[input, time.now_ns()]])}
";
    let next = echo.replace("package gateway\n", "package gateway\n\n# the same by other files\n");
    let files = [("policy/main.rego", echo), ("next/main.rego", next.as_str())];
    let gateway = shadowed(&upstream, "response: gateway/decision,", "bundle: next", &files);
    let headers =
        "Content-Type: application/json\r\nAuthorization: Bearer abcdefghijklmnop\r\nCookie: a=b\r\n";
    let answer = send(gateway.address("public"), "POST", "/x?q=1", headers, "{\"a\": [1, 2.5, null]}");
    assert_eq!(answer.status, 200);
    // About the request and about the response.
    let shadow = after(&gateway, 2);
    assert_eq!(shadow["decisions"]["same"], 2, "{shadow}");
}

#[test]
fn what_the_candidate_reads_and_the_policy_does_not_is_not_guessed() {
    let upstream = RecordingUpstream::start();
    let reads_body = "package gateway

default decision := false

decision := true if input.request.body_state == \"absent\"

decision := true if input.request.query.a
";
    let files = [
        ("policy/main.rego", "package gateway\n\ndecision := true if input.request.path\n"),
        ("next/main.rego", reads_body),
    ];
    let gateway = shadowed(&upstream, "", "bundle: next", &files);
    let address = gateway.address("public");
    // Of a type that a policy that reads bodies would refuse, and far larger than the candidate could be given.
    assert_eq!(send(address, "POST", "/x", "Content-Type: multipart/form-data\r\n", "abc").status, 200);
    assert_eq!(get(address, "/x?a=%ff", "").status, 200);
    assert_eq!(get(address, "/x", "").status, 200);
    let shadow = after(&gateway, 1);
    assert_eq!(shadow["decisions"]["same"], 1, "without a body there is nothing to miss");
    assert_eq!(shadow["skipped"], json!({"not_comparable_body": 1, "not_comparable_query": 1}));
    assert_eq!(skipped(&gateway, "not_comparable_body"), Some(1));
}

#[test]
fn chance_is_not_compared() {
    let upstream = RecordingUpstream::start();
    let next = "package gateway\n\ndecision := true if rand.intn(\"canary\", 10) < 11\n";
    let files = [("policy/main.rego", IN_FORCE), ("next/main.rego", next)];
    let gateway = shadowed(&upstream, "", "bundle: next", &files);
    assert_eq!(ask_status(&gateway, "/"), 200);
    assert_eq!(skipped(&gateway, "not_comparable_chance"), Some(1));
}

#[test]
fn what_is_not_in_the_sample_is_counted() {
    let upstream = RecordingUpstream::start();
    let gateway = compared(&upstream, ", sample: 0%");
    for _ in 0..5 {
        assert_eq!(ask_status(&gateway, "/"), 200);
    }
    assert_eq!(skipped(&gateway, "sample"), Some(5));
    assert_eq!(status(&gateway)["shadow"]["decisions"]["same"], 0);
}

#[test]
fn a_slow_candidate_costs_its_budget_and_no_answer() {
    let upstream = RecordingUpstream::start();
    // Longer than any test, if it were let.
    let slow = "package gateway

numbers := numbers.range(1, 20000)

decision := true if {
\tsome a in numbers
\tsome b in numbers
\ta * b == -1 - count(input.request.path)
}
";
    let slow =
        slow.replace("numbers := numbers.range", "all := numbers.range").replace("in numbers", "in all");
    let files = [("policy/main.rego", IN_FORCE), ("next/main.rego", slow.as_str())];
    let gateway = shadowed(&upstream, "", "bundle: next, budget: 0.1%", &files);
    fs::write(
        gateway.path("gateway.yaml"),
        fs::read_to_string(gateway.path("gateway.yaml")).unwrap().replace("budget: 5s,", "budget: 50ms,"),
    )
    .unwrap();
    gateway.running().reloader().reload().unwrap();
    for _ in 0..20 {
        assert_eq!(ask_status(&gateway, "/"), 200);
    }
    let shadow = after(&gateway, 1);
    assert_eq!(shadow["decisions"]["error"], 1, "{shadow}");
    eventually("the others are counted", || (skipped(&gateway, "budget") == Some(19)).then_some(()));
    assert_eq!(shadow["recent"][0]["candidate"]["error"], "budget");
}

#[test]
fn a_candidate_that_does_not_load_stops_nothing_and_is_told() {
    let upstream = RecordingUpstream::start();
    let files = [("policy/main.rego", IN_FORCE), ("next/main.rego", "package gateway\n\ndecision := \n")];
    let gateway = shadowed(&upstream, "", "bundle: next", &files);
    assert_eq!(ask_status(&gateway, "/"), 200);
    let shadow = status(&gateway)["shadow"].clone();
    assert_eq!(shadow["state"], "refused");
    assert!(shadow["errors"].to_string().contains("main.rego:4:1"), "{shadow}");
    let refused = gateway.running().reloader().promote(None).unwrap_err().to_string();
    assert!(
        refused.contains("the shadow `next` is refused") && refused.contains("main.rego:4:1"),
        "{refused}"
    );
    let checked = gatewayctl(&gateway.path(""), &["config", "check"]);
    assert_eq!(checked.code, Some(0), "{}{}", checked.out, checked.notes);
    assert!(checked.notes.contains("the shadow `next` is refused"), "{}{}", checked.out, checked.notes);
    // Its own tests count, as for any policy.
    gateway.write("next/main.rego", CANDIDATE);
    gateway.write("next/main_test.rego", "package gateway_test\n\ntest_no if data.gateway.nothing\n");
    gateway.running().reloader().reload().unwrap();
    assert!(status(&gateway)["shadow"]["errors"].to_string().contains("test_no"));
    fs::remove_file(gateway.path("next/main_test.rego")).unwrap();
    gateway.running().reloader().reload().unwrap();
    assert_eq!(ask_status(&gateway, "/old"), 200);
    assert_eq!(after(&gateway, 1)["decisions"]["allow_to_deny"], 1);
}

#[test]
fn counts_go_on_over_reloads_until_the_candidate_is_another() {
    let upstream = RecordingUpstream::start();
    let gateway = compared(&upstream, "");
    assert_eq!(ask_status(&gateway, "/a"), 200);
    let since = after(&gateway, 1)["since"].clone();
    gateway.running().reloader().reload().unwrap();
    assert_eq!(after(&gateway, 1)["since"], since);
    gateway.write("next/main.rego", &CANDIDATE.replace("410", "404"));
    gateway.running().reloader().reload().unwrap();
    assert_ne!(after(&gateway, 0)["since"], since);
    assert_eq!(ask_status(&gateway, "/old"), 200);
    assert_eq!(after(&gateway, 1)["recent"][0]["candidate"]["status"], 404);
}

fn command(gateway: &TestGateway, command: &str, more: &[&str]) -> Ran {
    let address = gateway.running().admin().unwrap().to_string();
    let arguments = [&["policy", command, "--admin", address.as_str()], more].concat();
    gatewayctl(&gateway.path(""), &arguments)
}

#[test]
fn what_has_only_failed_is_promoted_with_a_warning() {
    let upstream = RecordingUpstream::start();
    let gateway = compared(&upstream, "");
    ask_status(&gateway, "/bad");
    ask_status(&gateway, "/bad");
    assert_eq!(after(&gateway, 2)["decisions"]["error"], 2);
    let ran = command(&gateway, "promote", &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.notes);
    let warning = "warning: the shadow failed in each of the 2 decisions it was compared in\n";
    assert!(ran.notes.contains(warning), "{}", ran.notes);
}

#[test]
fn a_promotion_holds_over_reloads_and_is_visible() {
    let upstream = RecordingUpstream::start();
    let gateway = compared(&upstream, "");
    let before = status(&gateway)["revision"].clone();
    let candidate = status(&gateway)["shadow"]["revision"].clone();
    let ran = command(&gateway, "promote", &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.notes);
    let told = format!(
        "policy `main`: revision `{}` of `next` is in force in place of `{}` (generation 2)\n",
        candidate.as_str().unwrap(),
        before.as_str().unwrap()
    );
    assert_eq!(ran.out, told);
    assert!(ran.notes.contains("write `bundle: next` under `policies.main`"), "{}", ran.notes);
    assert!(!ran.notes.contains("warning"), "{}", ran.notes);
    assert_eq!(ask_status(&gateway, "/old"), 410);
    let shown = status(&gateway);
    assert_eq!((&shown["revision"], &shown["promoted"]["bundle"]), (&candidate, &json!("next")));
    assert_eq!(shown["promoted"]["former_revision"], before);
    assert_eq!(shown["shadow"]["state"], "in_force");
    let again = command(&gateway, "promote", &["main"]);
    assert_eq!(again.code, Some(1));
    assert!(again.notes.contains("in force already"), "{}", again.notes);
    // A reload for another reason leaves it.
    gateway.running().reloader().reload().unwrap();
    assert_eq!(ask_status(&gateway, "/old"), 410);
    assert_eq!(status(&gateway)["promoted"]["bundle"], "next");
    // The next candidate is compared with what is in force now.
    gateway.write("next/main.rego", &CANDIDATE.replace("410", "404"));
    gateway.running().reloader().reload().unwrap();
    assert_eq!(ask_status(&gateway, "/old"), 410);
    assert_eq!(after(&gateway, 1)["decisions"]["obligations"], 1);
    // The policy's own bundle is changed: that is what is meant now.
    gateway.write("policy/main.rego", "package gateway\n\ndecision := {\"allow\": false, \"status\": 451}\n");
    gateway.running().reloader().reload().unwrap();
    assert_eq!(ask_status(&gateway, "/old"), 451);
    assert_eq!(status(&gateway)["promoted"], Value::Null);
}

#[test]
fn a_promotion_is_rolled_back_in_one_step() {
    let upstream = RecordingUpstream::start();
    let gateway = compared(&upstream, "");
    let before = status(&gateway)["revision"].clone();
    let promoted = command(&gateway, "promote", &["main", "-f", "json"]).json();
    assert_eq!((&promoted["promoted"], &promoted["generation"]), (&json!(true), &json!(2)), "{promoted}");
    assert_eq!(ask_status(&gateway, "/old"), 410);
    let ran = command(&gateway, "rollback", &[]);
    assert_eq!(
        (ran.code, ran.out),
        (
            Some(0),
            format!("rolled back (generation 3)\npolicy `main`: revision `{}`\n", before.as_str().unwrap())
        )
    );
    assert_eq!(ask_status(&gateway, "/old"), 200);
    assert_eq!(status(&gateway)["promoted"], Value::Null);
    gateway.running().reloader().reload().unwrap();
    assert_eq!(ask_status(&gateway, "/old"), 200, "a reload does not promote");
    let unknown = command(&gateway, "promote", &["ma/in"]);
    assert!(unknown.notes.contains("unknown policy `ma/in`; the policies are `main`"), "{}", unknown.notes);
}

#[test]
fn the_gateway_is_found_by_its_configuration_and_must_be_here() {
    let directory = tempfile::tempdir().unwrap();
    let ran = |arguments: &[&str]| gatewayctl(directory.path(), arguments);
    let nowhere = ran(&["policy", "promote", "--admin", "192.0.2.1:9901"]);
    assert!(nowhere.notes.contains("listens on this machine only"), "{}", nowhere.notes);
    let nobody = ran(&["policy", "rollback", "--admin", "127.0.0.1:1"]);
    assert_eq!(nobody.code, Some(1));
    assert!(nobody.notes.contains("cannot ask the gateway at `127.0.0.1:1`"), "{}", nobody.notes);
    let no_file = ran(&["policy", "promote"]);
    assert!(no_file.notes.contains("gateway.yaml"), "{}", no_file.notes);
    let upstream = RecordingUpstream::start();
    let gateway = compared(&upstream, "");
    let open = gatewayctl(&gateway.path(""), &["policy", "promote"]);
    assert!(open.notes.contains("give it with `--admin`"), "{}", open.notes);
    let both = ran(&["policy", "promote", "--admin", "127.0.0.1:1", "--config", "x"]);
    assert_eq!(both.code, Some(64), "{}", both.notes);
}

/// A gateway with these keys of the policy `main`.
fn with_policy(upstream: &RecordingUpstream, keys: &str, policy: &str) -> TestGateway {
    let config = plain_config(&upstream.url(), "reload: {watch: false}")
        .replace("bundle: policy, budget: 5s", &format!("bundle: policy, budget: 5s, {keys}"));
    TestGateway::start(&config, &[("policy/main.rego", policy)])
}

fn comparisons(gateway: &TestGateway, name: &str, result: &str) -> Option<u64> {
    metric(gateway, &format!("postern_policy_engine_{name}{{policy=\"main\",result=\"{result}\"}}"))
}

#[test]
fn differences_between_the_engines_are_told_at_load_and_of_live_decisions() {
    let upstream = RecordingUpstream::start();
    // An object pattern takes an object with exactly its keys; the interpreter takes larger ones too.
    let pattern = "package gateway

default decision := false

decision := true if {\"a\": _} = input.request.query

known := {\"seen\": [\"a\", \"z\"]}
";
    let gateway = with_policy(&upstream, "verify: {sample: 100%, budget: 100%}", pattern);
    assert_eq!(ask_status(&gateway, "/?a=1"), 200);
    assert_eq!(ask_status(&gateway, "/?a=1&b=2"), 403, "the plan decides, as OPA would");
    let engine = eventually("both are compared", || {
        let engine = status(&gateway)["engine"].clone();
        let live = &engine["live"];
        let compared = live["same"].as_u64()? + live["different"].as_u64()?;
        (compared == 2).then_some(engine)
    });
    assert_eq!((&engine["live"]["same"], &engine["live"]["different"]), (&json!(1), &json!(1)));
    assert_eq!(engine["kind"], "plan");
    assert!(engine["warning"].as_str().unwrap().contains("engine: interpreter"), "{engine}");
    let differing = gateway.events(2)[1]["decision_id"].clone();
    assert_eq!(engine["live"]["last_different"], differing);
    assert_eq!(
        (
            comparisons(&gateway, "comparisons_total", "same"),
            comparisons(&gateway, "comparisons_total", "different")
        ),
        (Some(1), Some(1))
    );
    let at_load = engine["load"].clone();
    let (compared, different) =
        (at_load["compared"].as_u64().unwrap(), at_load["different"].as_u64().unwrap());
    assert!(compared > different, "{at_load}");
    assert_eq!(comparisons(&gateway, "load_inputs", "different"), Some(different));
    assert_eq!(comparisons(&gateway, "load_inputs", "same"), Some(compared - different));
}

#[test]
fn the_interpreter_can_be_made_to_decide() {
    let upstream = RecordingUpstream::start();
    let gateway = with_policy(&upstream, "engine: interpreter", IN_FORCE);
    assert_eq!((ask_status(&gateway, "/a"), ask_status(&gateway, "/secret")), (200, 403));
    let engine = status(&gateway)["engine"].clone();
    assert_eq!(
        engine,
        json!({"kind": "interpreter", "load": {"compared": 0, "different": 0}, "live": null, "warning": null})
    );
    let gateway = with_policy(&upstream, "verify: {sample: 0%}", IN_FORCE);
    assert_eq!(ask_status(&gateway, "/a"), 200);
    let engine = status(&gateway)["engine"].clone();
    assert_eq!((&engine["kind"], &engine["live"]), (&json!("plan"), &Value::Null));
    assert!(engine["load"]["compared"].as_u64().unwrap() > 100, "{engine}");
}

#[test]
fn a_promotion_ends_where_others_must_have_signed() {
    let upstream = RecordingUpstream::start();
    let gateway = compared(&upstream, "");
    gateway.running().reloader().promote(None).unwrap();
    assert_eq!(ask_status(&gateway, "/old"), 410);
    gateway.write("secret", &"0123456789abcdef".repeat(4));
    let sign = [
        "policy",
        "sign",
        "policy",
        "--signing-key",
        "secret",
        "--signing-alg",
        "HS256",
        "--signing-key-id",
        "k",
    ];
    let ran = gatewayctl(&gateway.path(""), &sign);
    assert_eq!(ran.code, Some(0), "{}", ran.notes);
    let config = fs::read_to_string(gateway.path("gateway.yaml")).unwrap();
    let signing = "budget: 5s, signing: {keys: {k: {algorithm: HS256, file: secret}}},";
    gateway.write("gateway.yaml", &config.replace("budget: 5s,", signing));
    gateway.running().reloader().reload().unwrap();
    assert_eq!(ask_status(&gateway, "/old"), 200, "what was promoted is signed by nobody");
    let shown = status(&gateway);
    assert_eq!((&shown["promoted"], &shown["shadow"]["state"]), (&Value::Null, &json!("refused")));
}
