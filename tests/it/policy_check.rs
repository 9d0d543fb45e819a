//! `policy check --strict`, by the real binary: every rule, where it speaks, and how it is silenced.

use serde_json::json;

use crate::policy_cli::{files, gatewayctl};

/// One policy with one fault for each rule that a comment may silence, but for those of damaged inputs.
const FAULTY: &str = r#"package gateway

import data.lib
import data.unused

default decision := false

decision := {"allow": allow} if input.request.method != "TRACE"

allow if {
	count(deny) == 0
	lib.known(input.request.path)
}

deny contains "frozen" if {
	count := 1
	count > 0
	1 == 2
}

deny contains "large" if input.request.body.amount > 1000

deny contains "large" if input.request.body.amount > 1000

deny contains "odd" if re_match("x", input.request.path)

forgotten := 1

settled := 1

settled := 2 if input.request.path == "/"
"#;

const LIB: &str =
    "package lib\n\nknown(path) if {\n\tsome prefix in [\"/a\", \"/b\"]\n\tstartswith(path, prefix)\n}\n";

fn found(json: &serde_json::Value) -> Vec<String> {
    let findings = json["findings"].as_array().unwrap().iter();
    findings
        .map(|finding| format!("{}:{}", finding["location"]["row"], finding["code"].as_str().unwrap()))
        .collect()
}

#[test]
fn strict_names_every_rule_at_its_line_and_exits_with_2() {
    let root = files(&[("p.rego", FAULTY), ("lib.rego", LIB)]);
    let ran = gatewayctl(root.path(), &["policy", "check", ".", "--strict", "-f", "json"]);
    assert_eq!(ran.code, Some(2), "{}", ran.notes);
    assert_eq!(
        found(&ran.json()),
        [
            "4:unused_import",
            "16:shadowing",
            "18:constant_condition",
            "21:vanishing_deny",
            "23:duplicate_rule",
            "23:vanishing_deny",
            "25:deprecated_builtin",
            "27:unread_rule",
            "29:unread_rule",
            "31:unreachable_rule",
        ]
    );
    let ran = gatewayctl(root.path(), &["policy", "check", "."]);
    assert_eq!(ran.code, Some(0), "{}", ran.out);
    assert_eq!(ran.out.lines().count(), 2, "only what is always told: {}", ran.out);
}

#[test]
fn a_decision_without_a_default_is_a_warning() {
    let policy = "package gateway\n\ndecision := {\"allow\": true} if input.request.method == \"GET\"\n";
    let root = files(&[("p.rego", policy)]);
    let ran = gatewayctl(root.path(), &["policy", "check", ".", "--strict"]);
    assert_eq!(ran.code, Some(0), "{}", ran.out);
    assert!(
        ran.out.starts_with("./p.rego:3:1: warning[no_default]: `data.gateway.decision` can be undefined"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("hint: add `default decision := false`"), "{}", ran.out);
    let part =
        "package gateway\n\ndecision := {\"allow\": allow}\n\nallow if input.request.method == \"GET\"\n";
    let root = files(&[("p.rego", part)]);
    let ran = gatewayctl(root.path(), &["policy", "check", ".", "--strict"]);
    assert!(
        ran.out.contains("and the request then fails with 503: `allow` at line 3 may be\n"),
        "{}",
        ran.out
    );
    let whole = format!("{part}\ndefault allow := false\n");
    let root = files(&[("p.rego", &whole)]);
    assert_eq!(gatewayctl(root.path(), &["policy", "check", ".", "--strict"]).out, "");
}

#[test]
fn envoys_entry_point_and_annotated_ones_are_entry_points_too() {
    let policy = "package envoy.authz\n\ndefault allow := false\n\nallow if not deny\n\n\
        deny if input.parsed_body.amount > 5\n\n# METADATA\n# entrypoint: true\nother := 1\n\nunread := 2\n";
    let root = files(&[("p.rego", policy)]);
    let envoy = ["--contract", "envoy/v3", "--decision", "envoy/authz/allow", "-f", "json"];
    let ran = gatewayctl(root.path(), &[&["policy", "check", ".", "--strict"][..], &envoy].concat());
    assert_eq!(found(&ran.json()), ["7:vanishing_deny", "13:unread_rule"], "{}", ran.out);
    assert!(
        ran.json()["findings"][0]["hint"]
            .as_str()
            .unwrap()
            .contains("object.get(input, [\"parsed_body\", \"amount\"], null)")
    );
}

#[test]
fn comments_silence_a_rule_on_their_line_or_the_next() {
    let policy = "package gateway\n\ndefault decision := false\n\ndecision if not deny\n\n\
        # postern:ignore vanishing_deny\ndeny if input.request.body.amount > 5\n\n\
        deny if input.request.body.price > 5 # postern:ignore vanishing_deny, shadowing\n";
    let root = files(&[("p.rego", policy)]);
    let ran = gatewayctl(root.path(), &["policy", "check", ".", "--strict"]);
    assert_eq!(ran.code, Some(2));
    assert_eq!(
        ran.out,
        "./p.rego:10:38: error[useless_ignore]: `shadowing` is ignored here, and there is nothing to ignore\n  \
         hint: remove the comment\n"
    );
}

#[test]
fn github_shows_findings_at_their_lines_and_sarif_says_what_its_rules_are() {
    let policy = "package gateway\n\nimport data.q\n\ndecision := true\n";
    let root = files(&[("p.rego", policy)]);
    let ran = gatewayctl(root.path(), &["policy", "check", ".", "--format", "github"]);
    assert_eq!(
        ran.out,
        "::warning file=p.rego,line=3,col=1,title=unused_import::import `q` is not used. Hint: remove it\n\
         ./p.rego:3:1: warning[unused_import]: import `q` is not used\n  hint: remove it\n"
    );
    let ran = gatewayctl(root.path(), &["policy", "check", ".", "--strict", "--format", "github"]);
    assert!(ran.out.starts_with("::error file=p.rego,line=3,"), "{}", ran.out);
    let sarif = gatewayctl(root.path(), &["policy", "check", ".", "--format", "sarif"]).json();
    let rule = &sarif["runs"][0]["tool"]["driver"]["rules"][0];
    assert_eq!(rule["shortDescription"]["text"], json!("An import that is not used."));
}

#[test]
fn the_projects_own_policies_are_clean() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for paths in [&["policies", "policy-tests"][..], &["policies"], &["examples/sidecar/policy"]] {
        let ran = gatewayctl(root, &[&["policy", "check", "--strict"], paths].concat());
        assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "{paths:?}: {}", ran.notes);
    }
}

#[test]
fn constants_that_can_never_be_read_are_found_where_they_stand() {
    let policy = "package gateway\n\ndefault decision := false\n\ndecision if {\n\tregex.match(\"(\", input.request.path)\n\tnot \
        net.cidr_contains(\"10.0.0.0/33\", input.client.ip)\n}\n\ndecision if regex.match(\"^/a\", input.request.path)\n";
    let root = files(&[("p.rego", policy)]);
    let ran = gatewayctl(root.path(), &["policy", "check", ".", "--strict"]);
    assert_eq!(ran.code, Some(2), "{}", ran.notes);
    for wanted in [
        "p.rego:6:14: error[unreadable_constant]: `regex.match` cannot read the regular expression `(`",
        "p.rego:7:24: error[unreadable_constant]: `net.cidr_contains` cannot read the network `10.0.0.0/33`",
    ] {
        assert!(ran.out.contains(wanted), "{}", ran.out);
    }
    assert_eq!(ran.out.matches("unreadable_constant").count(), 2, "{}", ran.out);
}
