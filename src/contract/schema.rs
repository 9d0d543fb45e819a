//! JSON Schemas of the public documents. They stand as JSON beside this file; tests hold what the builders and parsers
//! of `contract` do against them, so that neither can change without the other.

use std::sync::LazyLock;

use serde_json::Value;

static INPUT: LazyLock<Value> = LazyLock::new(|| parse(include_str!("schema/input.schema.json")));
static DECISION: LazyLock<Value> = LazyLock::new(|| parse(include_str!("schema/decision.schema.json")));
static EVENT: LazyLock<Value> = LazyLock::new(|| parse(include_str!("schema/event.schema.json")));

/// Each schema's file name and document.
pub fn all() -> [(&'static str, &'static Value); 3] {
    [("input.schema.json", &*INPUT), ("decision.schema.json", &*DECISION), ("event.schema.json", &*EVENT)]
}

/// The schema of the policy's input, `gateway/v1`.
pub fn input() -> &'static Value {
    &INPUT
}

/// The schema of the policy's result.
pub fn decision() -> &'static Value {
    &DECISION
}

/// The schema of a decision event.
pub fn event() -> &'static Value {
    &EVENT
}

fn parse(text: &str) -> Value {
    // The texts are part of the program, and a test parses each.
    serde_json::from_str(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::contract::decision::{Decision, Phase};

    /// The parser and the schema agree on a result.
    #[track_caller]
    fn check(result: &Value, want: bool) {
        let parsed = Decision::parse(&regorus::Value::from(result.clone()), Phase::Request);
        assert_eq!(parsed.is_ok(), want, "parser: {result}");
        let schema = jsonschema::validator_for(decision()).unwrap();
        assert_eq!(schema.is_valid(result), want, "schema: {result}");
    }

    #[test]
    fn what_the_parser_takes_the_schema_takes() {
        for good in [
            json!(true),
            json!(false),
            json!({"allow": true}),
            json!({"allow": false, "status": 401, "headers": {"www-authenticate": "Bearer"}, "body": {"a": 1}}),
            json!({"allow": false, "reason": "no", "expose_reason": true, "body": "text"}),
            json!({"allow": true, "upstream": {"name": "b", "path": "/x", "timeout": "2s",
                "headers": {"set": {"x-a": "1"}, "add": {"x-b": ["1", "2"]}, "remove": ["x-c"]},
                "query": {"set": {"a": "b"}, "remove": ["c"]}}}),
            json!({"allow": true, "response": {"headers": {"remove": ["server"]}}, "max_body": 10}),
            json!({"allow": true, "limits": [{"name": "a", "key": "b", "rate": "1/s", "burst": 2, "cost": 1}]}),
            json!({"allow": true, "log": {"level": "summary", "fields": {"a": 1}}, "labels": {"tier": "gold"}}),
        ] {
            check(&good, true);
        }
    }

    #[test]
    fn what_the_parser_refuses_the_schema_refuses() {
        for bad in [
            json!("yes"),
            json!(null),
            json!({}),
            json!({"allow": 1}),
            json!({"allow": true, "reason": null}),
            json!({"allow": true, "unknown": 1}),
            json!({"allow": false, "status": 200}),
            json!({"allow": true, "redact": []}),
            json!({"allow": true, "max_body": -1}),
            json!({"allow": true, "limits": [{"name": "a", "key": "b"}]}),
            json!({"allow": true, "limits": [{"name": "a", "key": "b", "rate": "1/1m", "burst": 0}]}),
            json!({"allow": true, "limits": {}}),
            json!({"allow": true, "log": {"level": "loud"}}),
            json!({"allow": true, "upstream": {"headers": {"set": {"a": 1}}}}),
            json!({"allow": true, "response": {"status": 200}}),
        ] {
            check(&bad, false);
        }
    }

    #[test]
    fn schemas_are_schemas() {
        for (name, schema) in all() {
            assert!(schema.is_object() && jsonschema::meta::is_valid(schema), "{name}");
        }
    }
}
