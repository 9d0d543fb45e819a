//! The record of a candidate's decision that differs from the one that was made.
//!
//! It follows the decision event, with the same id, as a line of its own: an event is never held back for it. It names parts
//! and statuses, and none of the policies' texts or values.

use crate::audit::json::{push_string, push_u64};
use crate::audit::label::EncodedLabels;
use crate::audit::log::Log;
use crate::base::clock::rfc3339;
use crate::base::id::DecisionId;

/// One divergence.
#[derive(Debug)]
pub struct Record<'a> {
    /// The decision's id.
    pub decision_id: DecisionId,
    /// When the request was received, since the Unix epoch.
    pub timestamp: std::time::Duration,
    /// The policy.
    pub policy: &'a str,
    /// The revision of the candidate.
    pub revision: &'a str,
    /// The rule asked.
    pub path: &'a str,
    /// The API.
    pub api: &'a str,
    /// The route.
    pub route: &'a str,
    /// What it means for who is let in.
    pub direction: &'a str,
    /// The parts that differ.
    pub differs: &'a [&'static str],
    /// What was done.
    pub decided: Side,
    /// What the candidate would have done.
    pub candidate: Side,
}

/// What one of the two decisions does.
#[derive(Debug, Clone, Copy)]
pub struct Side {
    /// It lets the request pass.
    pub allow: bool,
    /// The status of a refusal.
    pub status: Option<u16>,
    /// How the policy failed.
    pub failure: Option<&'static str>,
}

/// Hands the record to all sinks of `log`.
pub fn record(log: &Log, record: &Record<'_>, labels: &EncodedLabels) {
    if log.is_empty() {
        return;
    }
    let mut line = Vec::with_capacity(512);
    encode(record, labels, &mut line);
    line.push(b'\n');
    log.push(&line, 1);
}

fn encode(record: &Record<'_>, labels: &EncodedLabels, out: &mut Vec<u8>) {
    raw(out, "{\"shadow\":{\"decision_id\":\"");
    raw(out, record.decision_id.encode(&mut [0; 36]));
    raw(out, "\",\"timestamp\":\"");
    out.extend_from_slice(&rfc3339(record.timestamp));
    raw(out, "\"");
    for (before, text) in [
        (",\"policy\":", record.policy),
        (",\"revision\":", record.revision),
        (",\"path\":", record.path),
        (",\"api\":", record.api),
        (",\"route\":", record.route),
        (",\"direction\":", record.direction),
    ] {
        raw(out, before);
        push_string(out, text);
    }
    for (index, part) in record.differs.iter().enumerate() {
        raw(out, if index == 0 { ",\"differs\":[" } else { "," });
        push_string(out, part);
    }
    raw(out, if record.differs.is_empty() { ",\"differs\":[]" } else { "]" });
    for (before, side) in [(",\"decided\":", record.decided), (",\"candidate\":", record.candidate)] {
        raw(out, before);
        raw(out, if side.allow { "{\"allow\":true" } else { "{\"allow\":false" });
        if let Some(status) = side.status {
            raw(out, ",\"status\":");
            push_u64(out, u64::from(status));
        }
        if let Some(failure) = side.failure {
            raw(out, ",\"error\":");
            push_string(out, failure);
        }
        raw(out, "}");
    }
    raw(out, ",\"labels\":{");
    labels.push_configured(out);
    raw(out, "}}}");
}

fn raw(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::audit::fixture::labels;
    use crate::base::id::DecisionIds;

    #[test]
    fn a_record_is_one_object_of_its_own_shape() {
        let decision_id = DecisionIds::new().next(Duration::ZERO);
        let mut record = Record {
            decision_id,
            timestamp: Duration::from_hours(500_000),
            policy: "main",
            revision: "r\"2",
            path: "gateway/decision",
            api: "orders",
            route: "read",
            direction: "deny_to_allow",
            differs: &["allow", "status"],
            decided: Side { allow: false, status: Some(503), failure: Some("budget") },
            candidate: Side { allow: true, status: None, failure: None },
        };
        let parse = |record: &Record<'_>| -> Value {
            let mut line = Vec::new();
            encode(record, &labels(), &mut line);
            serde_json::from_slice(&line).unwrap()
        };
        let mut want = json!({"shadow": {
            "decision_id": decision_id.to_string(), "timestamp": "2027-01-15T08:00:00.000000000Z", "policy": "main",
            "revision": "r\"2", "path": "gateway/decision", "api": "orders", "route": "read",
            "direction": "deny_to_allow", "differs": ["allow", "status"],
            "decided": {"allow": false, "status": 503, "error": "budget"}, "candidate": {"allow": true},
            "labels": {"app": "orders", "id": "here", "version": env!("CARGO_PKG_VERSION")},
        }});
        assert_eq!(parse(&record), want);
        record.differs = &[];
        want["shadow"]["differs"] = json!([]);
        assert_eq!(parse(&record), want);
    }
}
