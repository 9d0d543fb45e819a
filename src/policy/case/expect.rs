//! What a case expects, and how an answer differs from it.

use std::cmp::Ordering;

use serde_json::Value as Json;

use crate::config::diagnostic::Position;
use crate::config::yaml::{Data, Entry, Node, Scalar, quotable};
use crate::policy::case::reader::{Fields, Reader, is_null};

/// What is expected.
#[derive(Debug)]
pub(super) enum Expect {
    /// A decision that has these parts.
    Decision(Node),
    /// That the rule gives no answer.
    Undefined,
    /// That the evaluation fails, or its answer is no decision.
    Error,
    /// That the gateway refuses the request with this status before the policy is asked.
    Refused(u16),
}

/// A part of a decision that is not as expected.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// Where the expected value stands.
    pub(super) position: Position,
    /// Which part, as `limits[0].key`.
    pub(super) path: String,
    /// The expected value, JSON.
    pub(super) expected: String,
    /// The value there is, JSON.
    pub(super) actual: String,
}

/// The keys of a decision and its parts: a mistyped one with `null` would otherwise always hold.
const PARTS: [(&str, &[&str]); 8] = [
    (
        "expect",
        &[
            "allow",
            "reason",
            "status",
            "headers",
            "body",
            "expose_reason",
            "upstream",
            "response",
            "limits",
            "max_body",
            "log",
            "labels",
        ],
    ),
    ("expect.upstream", &["name", "path", "headers", "query", "timeout"]),
    ("expect.upstream.headers", &["set", "add", "remove"]),
    ("expect.upstream.query", &["set", "remove"]),
    ("expect.response", &["headers"]),
    ("expect.response.headers", &["set", "add", "remove"]),
    ("expect.limits[]", &["name", "key", "rate", "burst", "cost"]),
    ("expect.log", &["level", "fields"]),
];

// === impl Expect ===

impl Expect {
    /// Reads `expect`.
    pub(super) fn read(reader: &mut Reader, case: &Fields<'_>) -> Option<Self> {
        let Some(node) = case.get("expect") else {
            reader.fault(case.position, "`expect` is missing", "add the decision, such as `{allow: true}`");
            return None;
        };
        if let Data::Scalar(Scalar { value: Json::Bool(_), .. }) = node.data {
            return Some(Self::Decision(allow(node)));
        }
        let special = |key| node.entries().iter().find(|entry| entry.key == key);
        let special = ["undefined", "error", "refused"].into_iter().find_map(special);
        let Some(special) = special else {
            check_keys(reader, node, "expect");
            if node.entries().is_empty() {
                reader.fault(node.position, "`expect` expects nothing", "write what the decision must have");
            }
            return Some(Self::Decision(node.clone()));
        };
        if node.entries().len() > 1 {
            let message = format!("`expect.{}` stands alone", special.key);
            reader.fault(special.position, message, "leave the other keys of `expect` out");
            return None;
        }
        Self::read_special(reader, node, special)
    }

    fn read_special(reader: &mut Reader, node: &Node, special: &Entry) -> Option<Self> {
        let known = ["undefined", "error", "refused"];
        let fields = reader.fields(node, "expect", &known);
        if special.key == "refused" {
            return reader.number(&fields, "refused").map(Self::Refused);
        }
        if reader.flag(&fields, &special.key) != Some(true) {
            let message = format!("`expect.{}` can only be true", special.key);
            reader.fault(special.value.position, message, "leave it out otherwise");
        }
        Some(if special.key == "undefined" { Self::Undefined } else { Self::Error })
    }

    /// The expectation in the words of the file, but for a decision.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Decision(_) => "a decision".to_owned(),
            Self::Undefined => "undefined: true".to_owned(),
            Self::Error => "error: true".to_owned(),
            Self::Refused(status) => format!("refused: {status}"),
        }
    }
}

/// `true` is short for `{allow: true}`, here as in a policy's result.
fn allow(flag: &Node) -> Node {
    let entry = Entry { key: "allow".to_owned(), position: flag.position, value: flag.clone() };
    Node { position: flag.position, data: Data::Mapping(vec![entry]) }
}

fn check_keys(reader: &mut Reader, node: &Node, path: &str) {
    let known = PARTS.iter().find(|(part, _)| *part == path);
    if let (Some((_, known)), Data::Mapping(_)) = (known, &node.data) {
        reader.fields(node, path, known);
    } else if path == "expect" {
        reader.fields(node, path, &[]);
    }
    for entry in node.entries() {
        check_keys(reader, &entry.value, &format!("{path}.{}", entry.key));
    }
    for item in node.items() {
        check_keys(reader, item, &format!("{path}[]"));
    }
}

/// How `actual` differs from `expected`: an object has at least the expected keys, a list exactly the expected items.
pub(super) fn differences(expected: &Node, actual: &Json) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(expected, Some(actual), "", &mut found);
    found
}

fn compare(expected: &Node, actual: Option<&Json>, path: &str, found: &mut Vec<Difference>) {
    let differs = match (&expected.data, actual) {
        (Data::Scalar(_), None | Some(Json::Null)) => !is_null(expected),
        (Data::Scalar(scalar), Some(actual)) => !is_equal(&scalar.value, actual),
        (Data::Mapping(entries), Some(Json::Object(object))) => {
            for entry in entries {
                let dot = if path.is_empty() { "" } else { "." };
                let path = format!("{path}{dot}{}", entry.key);
                compare(&entry.value, object.get(&entry.key), &path, found);
            }
            false
        }
        (Data::Sequence(items), Some(Json::Array(values))) if items.len() == values.len() => {
            for (index, (item, value)) in items.iter().zip(values).enumerate() {
                compare(item, Some(value), &format!("{path}[{index}]"), found);
            }
            false
        }
        (Data::Mapping(_) | Data::Sequence(_), _) => true,
    };
    if differs {
        found.push(Difference {
            position: expected.position,
            path: if path.is_empty() { "decision".to_owned() } else { path.to_owned() },
            expected: if is_null(expected) { "absent".to_owned() } else { shown(&expected.to_value()) },
            actual: actual.map_or_else(|| "absent".to_owned(), shown),
        });
    }
}

/// Numbers are equal by value, however they are written.
fn is_equal(expected: &Json, actual: &Json) -> bool {
    match (expected, actual) {
        (Json::Number(expected), Json::Number(actual)) => match (expected.as_i64(), actual.as_i64()) {
            (Some(expected), Some(actual)) => expected == actual,
            (Some(_) | None, Some(_) | None) => {
                expected.as_f64().partial_cmp(&actual.as_f64()) == Some(Ordering::Equal)
            }
        },
        _ => expected == actual,
    }
}

/// A value on one line of a message.
pub(super) fn shown(value: &Json) -> String {
    match value {
        Json::String(text) => format!("\"{}\"", quotable(text)),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml;

    #[track_caller]
    fn check(expected: &str, actual: &str, want: &[(&str, &str, &str)]) {
        let expected = yaml::parse(expected).unwrap().0;
        let found = differences(&expected, &serde_json::from_str(actual).unwrap());
        let got: Vec<_> =
            found.iter().map(|d| (d.path.as_str(), d.expected.as_str(), d.actual.as_str())).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn objects_have_at_least_the_expected_keys() {
        let actual = r#"{"allow": true, "labels": {"tier": "gold", "n": 1}}"#;
        check("{allow: true}", actual, &[]);
        check("{labels: {tier: gold, n: 1.0}}", actual, &[]);
        check("{labels: {}}", actual, &[]);
        check("{allow: false}", actual, &[("allow", "false", "true")]);
        check(
            "{labels: {tier: \"1\", n: \"1\"}}",
            actual,
            &[("labels.tier", "\"1\"", "\"gold\""), ("labels.n", "\"1\"", "1")],
        );
        check("{labels: gold}", actual, &[("labels", "\"gold\"", r#"{"n":1,"tier":"gold"}"#)]);
        check("{labels: {tier: {a: b}}}", actual, &[("labels.tier", r#"{"a":"b"}"#, "\"gold\"")]);
    }

    #[test]
    fn null_is_absent() {
        check("{reason: null, labels: {x: null}}", r#"{"allow": true, "labels": {}}"#, &[]);
        check("{reason: null}", r#"{"reason": null}"#, &[]);
        check("{reason: null}", r#"{"reason": "x"}"#, &[("reason", "absent", "\"x\"")]);
        check("{reason: x}", r#"{"allow": true}"#, &[("reason", "\"x\"", "absent")]);
        check("{labels: {x: null}}", r#"{"allow": true}"#, &[("labels", r#"{"x":null}"#, "absent")]);
    }

    #[test]
    fn lists_match_item_by_item() {
        let actual = r#"{"limits": [{"name": "a", "key": "k"}, {"name": "b"}]}"#;
        check("{limits: [{name: a}, {name: b}]}", actual, &[]);
        check("{limits: [{name: b}, {name: b}]}", actual, &[("limits[0].name", "\"b\"", "\"a\"")]);
        let whole = r#"[{"key":"k","name":"a"},{"name":"b"}]"#;
        check("{limits: [{name: a}]}", actual, &[("limits", r#"[{"name":"a"}]"#, whole)]);
        check("{limits: []}", actual, &[("limits", "[]", whole)]);
        check("{limits: {name: a}}", actual, &[("limits", r#"{"name":"a"}"#, whole)]);
    }
}
