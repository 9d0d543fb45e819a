//! An event for the tests of this module.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use regorus::Value;

use crate::audit::label::EncodedLabels;
use crate::base::id::DecisionIds;
use crate::contract::event::{Bundle, Event, Gateway, LogLevel, Outcome, Outside, Timings};

pub(super) fn value(json: &serde_json::Value) -> Value {
    Value::from_json_str(&json.to_string()).unwrap()
}

pub(super) fn event<'a>(input: Option<&'a Value>, result: Option<&'a Value>) -> Event<'a> {
    Event {
        decision_id: DecisionIds::new().next(Duration::from_secs(1)),
        timestamp: Duration::new(1_800_000_000, 5),
        bundle: Some(Bundle { name: "main", revision: "r1", path: "gateway/decision" }),
        input,
        result,
        error: None,
        requested_by: "10.1.2.3:4567".parse().unwrap(),
        gateway: Gateway {
            listener: "public",
            api: Some("orders"),
            version: Some("v2"),
            route: Some("read-order"),
            method: &Method::GET,
            path: "/v2/orders/7",
            status: 200,
            outcome: Outcome::Allowed,
            reason: None,
            provider: Some("corp"),
            subject: Some("alice"),
            identity_failure: None,
            policy: Some("main"),
            upstream: Some("orders"),
            endpoint: Some("127.0.0.1:9000"),
            limits: &[],
            fail_open: false,
            remembered: false,
            response_bytes: 1024,
            aborted: false,
            outside: Outside::default(),
            timings: Timings { total_us: 900, identity_us: 1, policy_us: 20, upstream_us: 800 },
        },
        level: LogLevel::Full,
        fields: None,
        labels: None,
        credentials: &[],
        credential_headers: &[],
    }
}

pub(super) fn labels() -> EncodedLabels {
    EncodedLabels::new(&BTreeMap::from([("app".to_owned(), "orders".to_owned())]), "here")
}
