//! A recorded decision, as much of it as replaying needs: the gateway's own events and OPA's.

use std::borrow::Cow;
use std::collections::BTreeMap;

use regorus::Value;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Refused;
use super::tally::Outcome;
use crate::contract::decision::Phase;
use crate::contract::form::Contract;

/// Fields that only inputs of `envoy/v3` have.
const ENVOY_ONLY: [&str; 7] = [
    "attributes",
    "parsed_path",
    "parsed_query",
    "parsed_body",
    "truncated_body",
    "source_principal",
    "gateway",
];

/// A line that is no decision event.
#[derive(Debug)]
pub(super) struct Unreadable;

/// One event.
#[derive(Debug, Deserialize)]
pub(super) struct Recorded<'a> {
    #[serde(borrow, default)]
    pub(super) decision_id: Cow<'a, str>,
    /// The rule that was asked.
    #[serde(borrow)]
    pub(super) path: Option<Cow<'a, str>>,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) input: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) erased: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) masked: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    bundles: BTreeMap<Cow<'a, str>, Revision<'a>>,
    #[serde(borrow)]
    gateway: Option<Gateway<'a>>,
}

#[derive(Debug, Deserialize)]
struct Revision<'a> {
    #[serde(borrow, default)]
    revision: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
struct Gateway<'a> {
    #[serde(borrow)]
    api: Option<Cow<'a, str>>,
    #[serde(borrow)]
    route: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    outcome: Option<Cow<'a, str>>,
    #[serde(default)]
    status: u16,
}

/// What was decided then.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) outcome: Outcome,
    /// Parts of the result are not in the event, so that only the verdict can be compared.
    pub(super) is_partial: bool,
}

impl<'a> Recorded<'a> {
    pub(super) fn parse(line: &'a [u8]) -> Result<Self, Unreadable> {
        serde_json::from_slice(line).map_err(|_| Unreadable)
    }

    /// What was decided, if the event tells.
    pub(super) fn before(&self, contract: Contract, phase: Phase) -> Option<Before> {
        let is_partial = self.erased.iter().chain(&self.masked).any(|pointer| pointer.starts_with("/result"));
        let outcome = match (self.result, self.error) {
            (Some(result), _) => {
                let result = Value::from_json_str(result.get()).ok()?;
                let decision = contract.parse(&result, phase);
                Outcome::of(Some((result, decision)))
            }
            (None, Some(_)) => Outcome::Failed,
            (None, None) => return None,
        };
        Some(Before { outcome, is_partial })
    }

    /// What the policy that decided was written for. Its input says so by its fields, few as they may be; where it read
    /// none, the result does.
    pub(super) fn contract(&self, input: &Value) -> Contract {
        let says_allowed = || {
            let result = self.result.and_then(|result| Value::from_json_str(result.get()).ok());
            result.is_some_and(|result| has(&result, "allowed") && !has(&result, "allow"))
        };
        if *input == Value::new_object() && says_allowed() { Contract::EnvoyV3 } else { contract_of(input) }
    }

    /// When it was decided, in nanoseconds since 1970.
    pub(super) fn now_ns(&self) -> Option<i64> {
        let timestamp: jiff::Timestamp = self.timestamp.parse().ok()?;
        i64::try_from(timestamp.as_nanosecond()).ok()
    }

    /// How the gateway refused the request, where no policy was asked.
    pub(super) fn refused(&self) -> Option<Refused> {
        let gateway = self.gateway.as_ref().filter(|_| self.path.is_none())?;
        let word = gateway.reason.as_deref().or(gateway.outcome.as_deref())?;
        Some(Refused { reason: word.to_owned(), status: gateway.status })
    }

    /// `orders/read-order`, or nothing where the event does not come from a gateway.
    pub(super) fn route(&self) -> String {
        let Some(gateway) = &self.gateway else { return String::new() };
        match (&gateway.api, &gateway.route) {
            (Some(api), Some(route)) => format!("{api}/{route}"),
            (Some(api), None) => api.to_string(),
            (None, _) => String::new(),
        }
    }

    /// The bundles that decided, with their revisions: events of the same ones recorded the same fields.
    pub(super) fn recorder(&self) -> String {
        let bundles = self.bundles.iter().map(|(name, bundle)| format!("{name}@{}", bundle.revision));
        bundles.collect::<Vec<_>>().join(", ")
    }
}

/// What the policy that an input was made for is written for, as the input's fields tell.
pub(in crate::policy) fn contract_of(input: &Value) -> Contract {
    let has_object = |key: &str| {
        let Value::Object(fields) = input else { return false };
        matches!(fields.get(&Value::from(key)), Some(Value::Object(_)))
    };
    let is_envoys = ENVOY_ONLY.iter().any(|key| has(input, key)) || has_object("version");
    if is_envoys { Contract::EnvoyV3 } else { Contract::GatewayV1 }
}

fn has(document: &Value, key: &str) -> bool {
    matches!(document, Value::Object(fields) if fields.get(&Value::from(key)).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_is_told_from_what_was_recorded() {
        for (input, result, want) in [
            (r#"{"request": {"method": "GET"}}"#, "true", Contract::GatewayV1),
            (r#"{"version": "gateway/v1"}"#, r#"{"allowed": 1}"#, Contract::GatewayV1),
            (r#"{"parsed_path": [""]}"#, "true", Contract::EnvoyV3),
            (r#"{"gateway": {"api": {"name": "a"}}}"#, "true", Contract::EnvoyV3),
            (r#"{"version": {"ext_authz": "v3", "encoding": "protojson"}}"#, "true", Contract::EnvoyV3),
            ("{}", r#"{"allowed": true}"#, Contract::EnvoyV3),
            ("{}", r#"{"allow": true}"#, Contract::GatewayV1),
        ] {
            let line =
                format!(r#"{{"timestamp": "2026-01-01T00:00:00Z", "input": {input}, "result": {result}}}"#);
            let recorded = Recorded::parse(line.as_bytes()).unwrap();
            assert_eq!(recorded.contract(&Value::from_json_str(input).unwrap()), want, "{line}");
        }
    }
}
