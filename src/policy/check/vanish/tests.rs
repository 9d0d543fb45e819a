use std::time::Duration;

use regorus::Value;

use crate::contract::decision::Phase;
use crate::contract::form::Contract;
use crate::policy::bundle::Bundle;
use crate::policy::check::check;
use crate::rego::evaluator::Facts;
use crate::rego::program::{Module, Options, compile};

fn vanishing(rules: &str) -> Vec<String> {
    let text = format!("package gateway\n{rules}\n");
    let bundle = Bundle {
        v0: std::sync::Arc::default(),
        revision: String::new(),
        modules: vec![Module { path: "p".into(), text }],
        tests: Vec::new(),
        case_files: Vec::new(),
        data: Value::new_object(),
    };
    let report = check(&bundle, Some(Contract::GatewayV1), &[("gateway/decision", Phase::Request)], true);
    assert!(report.compiles, "{:?}", report.findings);
    let found = report.findings.into_iter().filter(|finding| finding.fault.code == "vanishing_deny");
    found.map(|finding| finding.fault.to_string()).collect()
}

const ALLOW: &str = "default decision := false\ndecision := {\"allow\": count(deny) == 0}\n";

/// What is found in denials beside a rule that allows where there is none.
#[track_caller]
fn check_deny(rules: &str, want: &[&str]) {
    let found = vanishing(&format!("{ALLOW}{rules}"));
    assert_eq!(found.len(), want.len(), "{rules}: {found:#?}");
    for (found, want) in found.iter().zip(want) {
        assert!(found.contains(want), "{rules}: {found} lacks {want}");
    }
}

#[track_caller]
fn check_all(rules: &str, want: &[&str]) {
    let found = vanishing(rules);
    assert_eq!(found.len(), want.len(), "{rules}: {found:#?}");
    for (found, want) in found.iter().zip(want) {
        assert!(found.contains(want), "{rules}: {found} lacks {want}");
    }
}

#[test]
fn comparisons_vanish_with_what_they_compare() {
    check_deny(
        "deny contains \"x\" if input.request.body.amount > 1000",
        &["p:4:22: this denial vanishes where `input.request.body.amount` is missing or of another type: \
         `input.request.body.amount > 1000` is then false or undefined\n  hint: deny that too: \
         `not is_number(object.get(input, [\"request\", \"body\", \"amount\"], null))`"],
    );
    check_deny(
        "deny contains \"x\" if input.request.headers[\"x-tier\"] != \"gold\"",
        &["the input has no `input.request.headers[\"x-tier\"]`"],
    );
    check_deny(
        "deny contains \"x\" if count(input.identity.claims.groups) < 2",
        &["claims.groups` is missing or of"],
    );
    check_deny(
        "deny contains \"x\" if { some item in input.request.body.items; item.count > 5 }",
        &["`input.request.body.items[_].count` is missing or of another type"],
    );
    check_deny("deny contains \"x\" if { n := input.request.body.n; n + 1 > 5 }", &["input.request.body.n`"]);
    check_deny("amount := input.request.body.amount\ndeny contains \"x\" if amount > 5", &["body.amount`"]);
    check_deny(
        "large(n) if n > 5\ndeny contains \"x\" if large(input.request.body.n)",
        &["p:4:13: this denial"],
    );
}

#[test]
fn negated_calls_vanish_with_what_they_are_given() {
    check_deny(
        "deny contains \"x\" if not startswith(input.request.headers.authorization, \"Bearer \")",
        &["is then undefined: what a call, an operator or a look-up is given comes before the `not`"],
    );
    check_deny(
        "deny contains \"x\" if not input.identity.subject in data.known",
        &["no `input.identity.subject`"],
    );
    check_deny(
        "deny contains \"x\" if not data.known[input.identity.subject]",
        &["no `input.identity.subject`"],
    );
    check_deny(
        "deny contains \"x\" if not lower(input.identity.subject) == \"a\"",
        &["no `input.identity.subject`"],
    );
    check_deny("deny contains \"x\" if not input.identity.subject == \"a\"", &[]);
    check_deny("deny contains \"x\" if not input.identity.subject", &[]);
}

#[test]
fn messages_take_the_denial_with_them() {
    check_deny(
        "deny contains msg if { input.request.method == \"PUT\"; msg := sprintf(\"%v may not\", [input.identity.subject]) }",
        &["the input has no `input.identity.subject`, which is read here and not tested"],
    );
    check_deny(
        "deny contains input.request.content_type if input.request.method == \"PUT\"",
        &["content_type"],
    );
    check_deny(
        "deny contains sprintf(\"%v is banned\", [input.identity.subject]) if input.identity.subject in data.banned",
        &[],
    );
}

#[test]
fn texts_of_another_type_pass_tests_of_text() {
    check_deny(
        "deny contains \"x\" if contains(input.request.body.query, \"drop\")",
        &["body.query` is of another type"],
    );
    check_deny(
        "deny contains \"x\" if { is_string(input.request.body.q); contains(input.request.body.q, \"drop\") }",
        &[],
    );
    // A header is a text wherever it is there.
    check_deny("deny contains \"x\" if contains(input.request.headers.x, \"drop\")", &[]);
}

#[test]
fn what_is_always_there_and_tests_for_one_value_do_not_vanish() {
    check_deny("deny contains \"x\" if input.request.method != \"GET\"", &[]);
    check_deny("deny contains \"x\" if input.request.headers[\"x-debug\"] == \"1\"", &[]);
    check_deny("deny contains \"x\" if input.request.headers[\"x-debug\"]", &[]);
    check_deny("deny contains \"x\" if input.identity.subject in data.banned", &[]);
    check_deny(
        "deny contains \"x\" if object.get(input, [\"request\", \"headers\", \"x\"], \"\") != \"gold\"",
        &[],
    );
}

#[test]
fn other_denials_and_the_allowing_rule_cover_what_is_missing() {
    let large = "deny contains \"large\" if input.request.body.amount > 1000\n";
    check_deny(
        &format!(
            "{large}deny contains \"odd\" if not is_number(object.get(input, [\"request\", \"body\", \"amount\"], null))"
        ),
        &[],
    );
    check_deny(
        &format!("{large}deny contains \"none\" if not input.request.body.amount"),
        &["is of another type"],
    );
    check_deny(
        &format!(
            "{large}deny contains \"odd\" if not has_amount\nhas_amount if is_number(input.request.body.amount)"
        ),
        &[],
    );
    check_all(
        "default decision := false\ndecision if { is_number(input.request.body.amount); not deny }\n\
         deny if input.request.body.amount > 1000",
        &[],
    );
}

#[test]
fn what_denies_is_found_behind_every_form_of_no() {
    let deny = "deny if input.request.body.n > 5";
    for allow in [
        "decision if not deny",
        "decision := {\"allow\": allow}\nallow if not deny",
        "decision if deny != true",
        "decision := {\"allow\": false} if { deny } else := {\"allow\": true}",
        "decision := true if { f(1) } else := false\nf(_) if { not deny }",
    ] {
        check_all(&format!("default decision := false\n{allow}\n{deny}"), &["input.request.body.n"]);
    }
    check_all(
        "default decision := true\ndecision := false if input.request.body.n > 5",
        &["input.request.body.n"],
    );
    check_all(
        "default decision := false\ndecision if { found := [1 | input.request.body.n > 5]; count(found) == 0 }",
        &["input.request.body.n"],
    );
    check_all("default decision := false\ndecision if not input.request.body.n > 5", &["is of another type"]);
    // Nothing allows where this does not hold.
    check_all("default decision := false\ndecision if input.request.body.n > 5", &[]);
    check_all("default decision := false\ndecision := false if input.request.body.n > 5", &[]);
}

/// Whether `deny` has an element for an input.
fn denies(rules: &str, input: &str) -> bool {
    let text = format!("package gateway\n{rules}\n");
    let modules = [Module { path: "p".into(), text }];
    let program =
        compile(&modules, Value::new_object(), Options::default()).unwrap_or_else(|e| panic!("{e}"));
    let facts =
        Facts { input: Value::from_json_str(input).unwrap(), now_ns: 0, budget: Duration::from_secs(5) };
    let answer = program.evaluator().evaluate(&program.entrypoint("gateway/deny").unwrap(), facts).unwrap();
    answer.is_some_and(|deny| deny != Value::new_set())
}

#[test]
fn what_is_reported_does_vanish_and_what_is_proposed_does_not() {
    let amount = "deny contains \"x\" if input.request.body.amount < 18";
    let amount_too =
        "deny contains \"y\" if not is_number(object.get(input, [\"request\", \"body\", \"amount\"], null))";
    let bearer = "deny contains \"x\" if not startswith(input.request.headers.authorization, \"Bearer \")";
    let bearer_too = "deny contains \"x\" if not startswith(object.get(input, [\"request\", \"headers\", \"authorization\"], \"\"), \"Bearer \")";
    let tier = "deny contains \"x\" if input.request.headers.tier != \"gold\"";
    let tier_too = "deny contains \"x\" if not input.request.headers.tier == \"gold\"";
    let roles = "deny contains \"x\" if not \"admin\" in input.identity.roles";
    let roles_too =
        "deny contains \"x\" if not \"admin\" in object.get(input, [\"identity\", \"roles\"], [])";
    let known = "deny contains \"x\" if not data.known[input.identity.subject]";
    let known_too =
        "deny contains \"x\" if not data.known[object.get(input, [\"identity\", \"subject\"], \"\")]";
    let message =
        "deny contains sprintf(\"%v\", [input.identity.subject]) if input.request.method == \"PUT\"";
    let message_too = "deny contains sprintf(\"%v\", [object.get(input, [\"identity\", \"subject\"], \"unknown\")]) if input.request.method == \"PUT\"";
    let text = "deny contains \"x\" if contains(input.request.body.q, \"drop\")";
    let text_too =
        "deny contains \"y\" if not is_string(object.get(input, [\"request\", \"body\", \"q\"], \"\"))";
    for (vanishing, safe, denied, malformed) in [
        (
            amount.to_owned(),
            format!("{amount}\n{amount_too}"),
            r#"{"request": {"body": {"amount": 5}}}"#,
            "{}",
        ),
        (
            amount.to_owned(),
            format!("{amount}\n{amount_too}"),
            r#"{"request": {"body": {"amount": 5}}}"#,
            r#"{"request": {"body": {"amount": "5"}}}"#,
        ),
        (
            bearer.to_owned(),
            bearer_too.to_owned(),
            r#"{"request": {"headers": {"authorization": "x"}}}"#,
            "{}",
        ),
        (tier.to_owned(), tier_too.to_owned(), r#"{"request": {"headers": {"tier": "tin"}}}"#, "{}"),
        (roles.to_owned(), roles_too.to_owned(), r#"{"identity": {"roles": []}}"#, "{}"),
        (known.to_owned(), known_too.to_owned(), r#"{"identity": {"subject": "eve"}}"#, "{}"),
        (
            message.to_owned(),
            message_too.to_owned(),
            r#"{"request": {"method": "PUT"}, "identity": {"subject": "a"}}"#,
            r#"{"request": {"method": "PUT"}}"#,
        ),
        (
            text.to_owned(),
            format!("{text}\n{text_too}"),
            r#"{"request": {"body": {"q": "drop"}}}"#,
            r#"{"request": {"body": {"q": ["drop"]}}}"#,
        ),
    ] {
        assert_eq!(vanishing_of(&vanishing).len(), 1, "{vanishing}");
        assert_eq!(vanishing_of(&safe), [] as [&str; 0], "{safe}");
        assert!(denies(&vanishing, denied) && denies(&safe, denied), "{vanishing}");
        assert!(!denies(&vanishing, malformed) && denies(&safe, malformed), "{vanishing} on {malformed}");
    }
}

fn vanishing_of(rules: &str) -> Vec<String> {
    vanishing(&format!("{ALLOW}{rules}"))
}
