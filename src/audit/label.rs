//! The labels of every decision event, encoded once for a configuration.

use std::collections::BTreeMap;

use regorus::Value;

use crate::audit::json::{is_undefined, push_key, push_string, push_value};

/// Bytes of a decision's own labels at most; more are left out together.
const DECISION_LABELS_MAX: usize = 4 * 1024;

/// Configured labels as JSON, with OPA's `id` (this process) and `version` beside them.
#[derive(Debug, Clone)]
pub struct EncodedLabels {
    /// Members of the object, without braces.
    members: Vec<u8>,
    names: Vec<String>,
}

impl EncodedLabels {
    /// Encodes `labels`. `instance` names this process (OPA's label `id`), unless the configuration sets `id` itself.
    pub fn new(labels: &BTreeMap<String, String>, instance: &str) -> Self {
        let mut all: BTreeMap<&str, &str> = [("id", instance), ("version", env!("CARGO_PKG_VERSION"))].into();
        all.extend(labels.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let mut members = Vec::new();
        for (name, value) in &all {
            if !members.is_empty() {
                members.push(b',');
            }
            push_string(&mut members, name);
            members.push(b':');
            push_string(&mut members, value);
        }
        Self { members, names: all.into_keys().map(str::to_owned).collect() }
    }

    /// Writes the configured labels, members without braces; there is always one.
    pub(super) fn push_configured(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.members);
    }

    /// Writes those labels of a decision that do not take the name of a configured one, each after a comma. A policy adds
    /// labels; it cannot pass an event off as another gateway's.
    pub(super) fn push_others(&self, out: &mut Vec<u8>, decision: &Value) {
        let Value::Object(members) = decision else { return };
        let start = out.len();
        let end = start + DECISION_LABELS_MAX;
        for (key, value) in members.iter() {
            let Value::String(name) = key else { continue };
            if is_undefined(value) || self.names.iter().any(|known| **known == **name) {
                continue;
            }
            if push_key(out, key, false, end).and_then(|()| push_value(out, value, end)).is_err() {
                out.truncate(start);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(decision: &serde_json::Value, want: &serde_json::Value) {
        let configured = [("app", "orders"), ("region", "eu-1")];
        let configured = configured.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let labels = EncodedLabels::new(&configured, "here");
        let mut out = b"{".to_vec();
        labels.push_configured(&mut out);
        labels.push_others(&mut out, &Value::from_json_str(&decision.to_string()).unwrap());
        out.push(b'}');
        assert_eq!(&serde_json::from_slice::<serde_json::Value>(&out).unwrap(), want);
    }

    #[test]
    fn a_policy_adds_labels_but_cannot_replace_configured_ones() {
        let version = env!("CARGO_PKG_VERSION");
        let own = json!({"app": "orders", "id": "here", "region": "eu-1", "version": version});
        check(&json!({}), &own);
        check(&json!(["no", "object"]), &own);
        check(&json!({"app": "forged", "id": "forged", "version": "0"}), &own);
        let with_team =
            json!({"app": "orders", "id": "here", "region": "eu-1", "version": version, "team": "a\"b"});
        check(&json!({"team": "a\"b", "region": "forged"}), &with_team);
        check(&json!({"team": "x".repeat(DECISION_LABELS_MAX)}), &own);
    }
}
