//! Two policies compared by the real binary: every witness shows its difference, and nothing of it can be left out.

use std::fs;
use std::path::Path;
use std::time::Duration;

use postern::policy::bundle::{self, Purpose};
use postern::rego::evaluator::{Evaluator, Facts};
use postern::rego::program::{Entrypoint, Options};
use regorus::Value;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::policy_cli::{files, gatewayctl};

const POLICY: &str = r#"package gateway

default decision := {"allow": false, "reason": "denied"}

decision := {"allow": true, "limits": [{"name": "all", "key": "all", "rate": data.rate}]} if {
	permitted
	inside
	not suspended
	input.request.size <= 1000
}

permitted if {
	some role in input.identity.roles
	input.request.method in data.grants[role]
}

inside if {
	some network in data.networks
	net.cidr_contains(network, input.source.ip)
}

suspended if input.identity.subject in {"mallory", "trudy"}
"#;
const DATA: &str = r#"{"grants": {"reader": ["GET"], "writer": ["GET", "PUT"]}, "networks": ["10.0.0.0/24"], "rate": "10/1m"}"#;

/// The policy, and what it is after some replacements, in `old` and `new`.
fn edited(edits: &[(&str, &str)]) -> TempDir {
    let (mut policy, mut data) = (POLICY.to_owned(), DATA.to_owned());
    for (from, to) in edits {
        assert!(policy.contains(from) || data.contains(from), "{from}");
        policy = policy.replace(from, to);
        data = data.replace(from, to);
    }
    files(&[
        ("old/p.rego", POLICY),
        ("old/data.json", DATA),
        ("new/p.rego", policy.as_str()),
        ("new/data.json", data.as_str()),
    ])
}

fn diff(root: &Path, more: &[&str]) -> Json {
    let ran = gatewayctl(root, &[&["policy", "diff", "old", "new", "-f", "json"], more].concat());
    assert!(matches!(ran.code, Some(0 | 2)), "{}", ran.notes);
    let report = ran.json();
    let none = report["differences"].as_array().unwrap().is_empty();
    assert_eq!(ran.code, Some(if none { 0 } else { 2 }), "{report:#}");
    report
}

struct Asked(Evaluator, Entrypoint);

impl Asked {
    fn new(path: &Path, decision: &str) -> Self {
        let program = bundle::load(&[path], Purpose::Develop).unwrap().compile(Options::default()).unwrap();
        let entrypoint = program.entrypoint(decision).unwrap();
        Self(program.evaluator(), entrypoint)
    }

    fn result(&mut self, input: &Json) -> Json {
        let input = Value::from_json_str(&input.to_string()).unwrap();
        let facts = Facts { input, now_ns: 1, budget: Duration::from_secs(5) };
        let result = self.0.evaluate(&self.1, facts).ok().flatten();
        result.map_or(Json::Null, |result| serde_json::from_str(&result.to_json_str().unwrap()).unwrap())
    }
}

fn verdict(result: &Json) -> &'static str {
    match result.get("allow").or(result.get("allowed")).unwrap_or(result) {
        Json::Bool(true) => "allow",
        Json::Bool(false) => "deny",
        Json::Null | Json::Number(_) | Json::String(_) | Json::Array(_) | Json::Object(_) => "failure",
    }
}

/// The value without one of its parts, in all ways.
fn smaller(value: &Json) -> Vec<Json> {
    let mut all = Vec::new();
    match value {
        Json::Object(fields) => {
            for (key, inner) in fields {
                let mut without = fields.clone();
                without.remove(key);
                all.push(Json::Object(without));
                for inner in smaller(inner) {
                    let mut with = fields.clone();
                    with.insert(key.clone(), inner);
                    all.push(Json::Object(with));
                }
            }
        }
        Json::Array(items) => {
            for index in 0..items.len() {
                let mut without = items.clone();
                without.remove(index);
                all.push(Json::Array(without));
                for inner in smaller(&items[index]) {
                    let mut with = items.clone();
                    with[index] = inner;
                    all.push(Json::Array(with));
                }
            }
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
    }
    all
}

/// Every witness is decided as it says, and without any part of it the change is another one or none.
fn verify(root: &Path, report: &Json, decision: &str) {
    let mut old = Asked::new(&root.join("old"), decision);
    let mut new = Asked::new(&root.join("new"), decision);
    for difference in report["differences"].as_array().unwrap() {
        let input = &difference["input"];
        let (before, after) = (old.result(input), new.result(input));
        assert_ne!(before, after, "{difference:#}");
        assert_eq!((&before, &after), (&difference["before"]["result"], &difference["after"]["result"]));
        for smaller in smaller(input) {
            let (less_before, less_after) = (old.result(&smaller), new.result(&smaller));
            let same_verdicts =
                verdict(&less_before) == verdict(&before) && verdict(&less_after) == verdict(&after);
            let differs = verdict(&before) != verdict(&after)
                || difference["keys"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|key| less_before[key.as_str().unwrap()] != less_after[key.as_str().unwrap()]);
            let keys_alike = ["allow", "reason", "limits", "status"].iter().all(|key| {
                let listed = difference["keys"].as_array().unwrap().contains(&json!(key));
                verdict(&before) != verdict(&after) || (less_before[key] != less_after[key]) == listed
            });
            assert!(!(same_verdicts && differs && keys_alike), "{input} shows no more than {smaller}");
        }
    }
}

/// One change: how it is told, which rule causes it, and what the witness has at a pointer.
#[track_caller]
fn check(edits: &[(&str, &str)], change: &str, cause: &str, pointer: &str, values: &[Json]) {
    let root = edited(edits);
    let report = diff(root.path(), &[]);
    verify(root.path(), &report, "gateway/decision");
    let differences = report["differences"].as_array().unwrap();
    let kinds: Vec<&str> =
        differences.iter().map(|difference| difference["change"].as_str().unwrap()).collect();
    assert_eq!(kinds, [change], "{report:#}");
    let first = &differences[0];
    let rules = first["rules"].as_array().unwrap();
    let causes: Vec<&Json> =
        rules.iter().filter(|rule| rule["cause"] == true).map(|rule| &rule["rule"]).collect();
    assert_eq!(causes, [&json!(cause)], "{report:#}");
    let found = first["input"].pointer(pointer).unwrap_or(&Json::Null);
    assert!(values.contains(found), "{pointer} is {found}: {report:#}");
}

#[test]
fn a_grant_that_is_added_opens_a_door() {
    check(
        &[("[\"GET\"]", "[\"GET\", \"DELETE\"]")],
        "deny_to_allow",
        "data.gateway.permitted",
        "/request/method",
        &[json!("DELETE")],
    );
}

#[test]
fn a_grant_that_is_taken_away_shuts_one() {
    check(
        &[("[\"GET\", \"PUT\"]", "[\"GET\"]")],
        "allow_to_deny",
        "data.gateway.permitted",
        "/request/method",
        &[json!("PUT")],
    );
}

#[test]
fn a_comparison_is_tried_at_its_bound() {
    check(
        &[("<= 1000", "< 1000")],
        "allow_to_deny",
        "data.gateway.decision",
        "/request/size",
        &[json!(1000)],
    );
    let values: Vec<Json> = (1001..=2000).map(Json::from).collect();
    check(&[("<= 1000", "<= 2000")], "deny_to_allow", "data.gateway.decision", "/request/size", &values);
}

#[test]
fn a_wider_network_is_tried_outside_the_old_one() {
    let outside = [json!("10.0.255.255"), json!("10.0.1.0")];
    check(&[("10.0.0.0/24", "10.0.0.0/16")], "deny_to_allow", "data.gateway.inside", "/source/ip", &outside);
}

#[test]
fn a_condition_that_is_gone_is_found() {
    let names = [json!("mallory"), json!("trudy")];
    check(
        &[("\tnot suspended\n", "")],
        "deny_to_allow",
        "data.gateway.decision",
        "/identity/subject",
        &names,
    );
    check(
        &[(", \"trudy\"", "")],
        "deny_to_allow",
        "data.gateway.suspended",
        "/identity/subject",
        &[json!("trudy")],
    );
}

#[test]
fn other_obligations_and_answers_are_differences() {
    let root = edited(&[("10/1m", "20/1m")]);
    let report = diff(root.path(), &[]);
    verify(root.path(), &report, "gateway/decision");
    let first = &report["differences"][0];
    assert_eq!((&first["change"], &first["keys"]), (&json!("allow_differs"), &json!(["limits"])));
    let root = edited(&[("\"denied\"", "\"no\"")]);
    let report = diff(root.path(), &[]);
    verify(root.path(), &report, "gateway/decision");
    let first = &report["differences"][0];
    assert_eq!((&first["change"], &first["keys"]), (&json!("deny_differs"), &json!(["reason"])));
    assert_eq!(first["input"], json!({}), "nothing is needed for it");
    check(
        &[("{\"allow\": true,", "{\"allow\": \"yes\",")],
        "allow_to_failure",
        "data.gateway.decision",
        "/request/method",
        &[json!("GET")],
    );
}

#[test]
fn two_changes_are_told_apart() {
    let root = edited(&[("[\"GET\"]", "[\"GET\", \"DELETE\"]"), ("<= 1000", "<= 2000")]);
    let report = diff(root.path(), &[]);
    verify(root.path(), &report, "gateway/decision");
    let differences = report["differences"].as_array().unwrap();
    let causes: Vec<&Json> = differences.iter().map(|difference| &difference["rules"][0]["rule"]).collect();
    assert!(causes.contains(&&json!("data.gateway.permitted")), "{report:#}");
    assert!(causes.contains(&&json!("data.gateway.decision")), "{report:#}");
}

#[test]
fn a_policy_written_otherwise_is_no_difference() {
    let root = edited(&[
        ("permitted", "may"),
        ("input.request.method in data.grants[role]", "granted(data.grants[role], input.request.method)"),
        ("suspended if", "granted(methods, method) if method in methods\n\nsuspended if"),
    ]);
    let report = diff(root.path(), &[]);
    assert_eq!(report["differences"], json!([]));
    assert_eq!(report["searched"]["complete"], true, "{report:#}");
    assert_eq!(report["searched"]["requests"], report["searched"]["of"]);
    let report = diff(root.path(), &["--requests", "100"]);
    assert_eq!((&report["differences"], &report["searched"]["complete"]), (&json!([]), &json!(false)));
    let ran = gatewayctl(root.path(), &["policy", "diff", "old", "new", "--requests", "100"]);
    assert!(ran.out.starts_with("no difference found; searched 100 of "), "{}", ran.out);
    assert!(ran.out.ends_with("what was not found may still be there\n"), "{}", ran.out);
}

#[test]
fn a_search_that_is_cut_finds_what_takes_many_fields() {
    let root = files(&[]);
    for (side, methods) in [("old", "[GET, HEAD]"), ("new", "[GET, HEAD, POST]")] {
        let to = root.path().join(side);
        fs::create_dir(&to).unwrap();
        for entry in fs::read_dir("policies").unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let text = text.replacen("list-orders: [GET, HEAD]", &format!("list-orders: {methods}"), 1);
            fs::write(to.join(path.file_name().unwrap()), text).unwrap();
        }
    }
    let report = diff(root.path(), &["--requests", "30000", "--timeout", "5m"]);
    verify(root.path(), &report, "gateway/decision");
    let first = &report["differences"][0];
    assert_eq!(first["change"], "deny_to_allow", "{report:#}");
    assert_eq!(first["rules"][0]["rule"], "data.gateway.rbac.permitted");
    assert_eq!(first["input"].pointer("/request/method"), Some(&json!("POST")));
    assert_eq!(first["input"].pointer("/api/route"), Some(&json!("list-orders")));
    assert_eq!(report["searched"]["complete"], false);
}

#[test]
fn policies_for_envoy_are_compared_by_their_contract() {
    let policy = |path: &str| {
        format!(
            "package envoy.authz\n\ndefault allow := {{\"allowed\": false, \"http_status\": 403}}\n\n\
             allow := {{\"allowed\": true, \"headers\": {{\"x-user\": \"u\"}}}} if {{\n\
             \tinput.attributes.request.http.method == \"GET\"\n\tinput.parsed_path[0] in {path}\n}}\n"
        )
    };
    let (old, new) = (policy("{\"a\"}"), policy("{\"a\", \"b\"}"));
    let root = files(&[("old/p.rego", old.as_str()), ("new/p.rego", new.as_str())]);
    let report = diff(root.path(), &["--contract", "envoy/v3"]);
    verify(root.path(), &report, "envoy/authz/allow");
    let want = json!({"attributes": {"request": {"http": {"method": "GET"}}}, "parsed_path": ["b"]});
    assert_eq!(report["differences"][0]["input"], want, "{report:#}");
    assert_eq!(report["differences"].as_array().unwrap().len(), 1);
}

#[test]
fn the_tests_it_writes_pass_with_the_new_policy_and_fail_with_the_old() {
    let root = edited(&[("[\"GET\"]", "[\"GET\", \"DELETE\"]"), ("\"denied\"", "\"no\"")]);
    let ran = gatewayctl(root.path(), &["policy", "diff", "old", "new", "-f", "test"]);
    assert_eq!(ran.code, Some(2));
    fs::write(root.path().join("d_test.rego"), &ran.out).unwrap();
    let passed = gatewayctl(root.path(), &["policy", "test", "new", "d_test.rego"]);
    assert_eq!(passed.code, Some(0), "{}\n{}", ran.out, passed.out);
    let failed = gatewayctl(root.path(), &["policy", "test", "old", "d_test.rego"]);
    assert_eq!(failed.code, Some(2), "{}", failed.out);
}

#[test]
fn people_and_workflows_are_told_the_cause() {
    let root = edited(&[("10.0.0.0/24", "10.0.0.0/16")]);
    let ran = gatewayctl(root.path(), &["policy", "diff", "old", "new"]);
    assert!(ran.out.starts_with("deny -> allow\n  data.gateway.inside  undefined -> true  "), "{}", ran.out);
    assert!(ran.out.contains("\n1 difference; searched all "), "{}", ran.out);
    let ran = gatewayctl(root.path(), &["policy", "diff", "old", "new", "-f", "github"]);
    assert!(
        ran.out.starts_with(
            "::error file=new/p.rego,line=17,col=1,title=deny -> allow::data.gateway.inside for {"
        ),
        "{}",
        ran.out
    );
}

#[test]
fn what_cannot_be_compared_is_an_error() {
    let root = edited(&[("gateway", "other")]);
    let ran = gatewayctl(root.path(), &["policy", "diff", "old", "new"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.notes.contains("policy `new` cannot be asked"), "{}", ran.notes);
    let ran = gatewayctl(root.path(), &["policy", "diff", "old", "nothing"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.notes.contains("policy `nothing` cannot be used"), "{}", ran.notes);
}
