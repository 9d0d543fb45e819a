//! The fields of a policy's input, by contract: what `policy check` compares `input.` paths with.

use crate::contract::form::Contract;

/// What may stand at a place of the input.
#[derive(Debug)]
pub(crate) enum Field {
    /// Anything, and anything below it.
    Any,
    /// A value without parts.
    Scalar,
    /// An array of these.
    List(&'static Field),
    /// An object with keys of the client's or the operator's choosing.
    Map(&'static Field),
    /// An object with these keys.
    Record(&'static [(&'static str, Field)]),
}

use Field::{Any, List, Map, Record, Scalar};

/// The input of contract `gateway/v1`.
pub(crate) static GATEWAY_V1: Field = GATEWAY;

const GATEWAY: Field = Record(&[
    ("version", Scalar),
    ("decision_id", Scalar),
    ("time", Scalar),
    ("listener", Scalar),
    ("source", Record(&[("ip", Scalar), ("port", Scalar), ("forwarded_for", List(&Scalar)), ("tls", TLS)])),
    (
        "request",
        Record(&[
            ("id", Scalar),
            ("method", Scalar),
            ("scheme", Scalar),
            ("host", Scalar),
            ("path", Scalar),
            ("raw_path", Scalar),
            ("segments", List(&Scalar)),
            ("query", Map(&List(&Scalar))),
            ("headers", Map(&Scalar)),
            ("cookies", Map(&Scalar)),
            ("protocol", Scalar),
            ("content_type", Scalar),
            ("size", Scalar),
            ("body", Any),
            ("body_state", Scalar),
        ]),
    ),
    (
        "api",
        Record(&[
            ("name", Scalar),
            ("version", Scalar),
            ("route", Scalar),
            ("operation", Scalar),
            ("params", Map(&Scalar)),
            (
                "lifecycle",
                Record(&[
                    ("state", Scalar),
                    ("since", Scalar),
                    ("sunset", Scalar),
                    ("successor", Scalar),
                    ("docs", Scalar),
                ]),
            ),
        ]),
    ),
    (
        "identity",
        Record(&[
            ("authenticated", Scalar),
            ("provider", Scalar),
            ("type", Scalar),
            ("subject", Scalar),
            ("issuer", Scalar),
            ("audience", Any),
            ("roles", List(&Scalar)),
            ("groups", List(&Scalar)),
            ("scopes", List(&Scalar)),
            ("claims", Any),
            ("attributes", Any),
            ("expires_at", Scalar),
            ("stale", Scalar),
            ("all", Map(&Any)),
            ("failure", Record(&[("provider", Scalar), ("reason", Scalar)])),
        ]),
    ),
    ("waf", Any),
    ("limits", Map(&Any)),
    ("response", Record(&[("status", Scalar), ("headers", Map(&Scalar)), ("latency_ms", Scalar)])),
]);

const TLS: Field = Record(&[
    ("version", Scalar),
    ("cipher", Scalar),
    ("sni", Scalar),
    (
        "client_certificate",
        Record(&[
            ("subject", Scalar),
            ("issuer", Scalar),
            ("serial", Scalar),
            ("fingerprint_sha256", Scalar),
            (
                "san",
                Record(&[
                    ("dns", List(&Scalar)),
                    ("uri", List(&Scalar)),
                    ("email", List(&Scalar)),
                    ("ip", List(&Scalar)),
                ]),
            ),
            ("spiffe_id", Scalar),
            ("not_after", Scalar),
            ("forwarded_by", Scalar),
        ]),
    ),
]);

/// The input of contract `envoy/v3`.
pub(crate) static ENVOY_V3: Field = Record(&[
    (
        "attributes",
        Record(&[
            ("source", PEER),
            ("destination", PEER),
            ("request", Record(&[("time", Scalar), ("http", HTTP)])),
            ("contextExtensions", Map(&Scalar)),
            ("metadataContext", Record(&[("filterMetadata", Any)])),
            ("routeMetadataContext", Any),
            ("tlsSession", Any),
        ]),
    ),
    ("parsed_path", List(&Scalar)),
    ("parsed_query", Map(&List(&Scalar))),
    ("parsed_body", Any),
    ("truncated_body", Scalar),
    ("source_principal", Scalar),
    ("version", Record(&[("ext_authz", Scalar), ("encoding", Scalar)])),
    ("gateway", GATEWAY),
]);

const PEER: Field = Record(&[
    ("address", Record(&[("socketAddress", Record(&[("address", Scalar), ("portValue", Scalar)]))])),
    ("principal", Scalar),
    ("certificate", Scalar),
    ("service", Scalar),
    ("labels", Map(&Scalar)),
]);

const HTTP: Field = Record(&[
    ("id", Scalar),
    ("method", Scalar),
    ("headers", Map(&Scalar)),
    ("path", Scalar),
    ("host", Scalar),
    ("scheme", Scalar),
    ("query", Scalar),
    ("fragment", Scalar),
    ("size", Scalar),
    ("protocol", Scalar),
    ("body", Scalar),
    ("rawBody", Scalar),
]);

/// The first step of a path that the contract does not know.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unknown {
    /// Index of the step.
    pub(crate) step: usize,
    /// The path that was probably meant, if one is near.
    pub(crate) near: Option<String>,
}

/// Paths of `gateway/v1` that every input has; those below `response`, every input of the response phase.
const GATEWAY_PRESENT: [&[&str]; 33] = [
    &["version"],
    &["decision_id"],
    &["time"],
    &["listener"],
    &["source"],
    &["source", "ip"],
    &["source", "port"],
    &["source", "forwarded_for"],
    &["request"],
    &["request", "id"],
    &["request", "method"],
    &["request", "scheme"],
    &["request", "host"],
    &["request", "path"],
    &["request", "raw_path"],
    &["request", "segments"],
    &["request", "query"],
    &["request", "headers"],
    &["request", "cookies"],
    &["request", "protocol"],
    &["request", "body_state"],
    &["api"],
    &["api", "name"],
    &["api", "route"],
    &["api", "params"],
    &["api", "lifecycle"],
    &["api", "lifecycle", "state"],
    &["identity"],
    &["identity", "authenticated"],
    &["response"],
    &["response", "status"],
    &["response", "headers"],
    &["response", "latency_ms"],
];
/// Paths that every input of `envoy/v3` has.
const ENVOY_PRESENT: [&[&str]; 20] = [
    &["attributes"],
    &["attributes", "source"],
    &["attributes", "source", "address"],
    &["attributes", "source", "address", "socketAddress"],
    &["attributes", "source", "address", "socketAddress", "address"],
    &["attributes", "source", "address", "socketAddress", "portValue"],
    &["attributes", "request"],
    &["attributes", "request", "time"],
    &["attributes", "request", "http"],
    &["attributes", "request", "http", "id"],
    &["attributes", "request", "http", "method"],
    &["attributes", "request", "http", "path"],
    &["attributes", "request", "http", "host"],
    &["attributes", "request", "http", "scheme"],
    &["attributes", "request", "http", "protocol"],
    &["attributes", "request", "http", "headers"],
    &["attributes", "request", "http", "size"],
    &["parsed_path"],
    &["parsed_query"],
    &["truncated_body"],
];

/// What a contract promises of an input path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Promise {
    /// Every input has it.
    pub(crate) is_present: bool,
    /// Where it is there, it is of one type.
    pub(crate) is_typed: bool,
}

/// What a contract promises of an input path; without a contract, nothing.
pub(crate) fn promise(contract: Option<Contract>, path: &[Option<&str>]) -> Promise {
    let Some(contract) = contract else { return Promise { is_present: false, is_typed: false } };
    let is_ours = |path: &[Option<&str>]| is_listed(&GATEWAY_PRESENT, path);
    let (fields, is_present) = match (contract, path) {
        (Contract::GatewayV1, _) => (&GATEWAY_V1, is_ours(path)),
        (Contract::EnvoyV3, [Some("gateway"), own @ ..]) => (&ENVOY_V3, own.is_empty() || is_ours(own)),
        (Contract::EnvoyV3, _) => (&ENVOY_V3, is_listed(&ENVOY_PRESENT, path)),
    };
    Promise { is_present: is_present || path.is_empty(), is_typed: !fields.is_any(path) }
}

fn is_listed(known: &[&[&str]], path: &[Option<&str>]) -> bool {
    let is = |known: &&[&str]| {
        known.len() == path.len() && known.iter().zip(path).all(|(known, key)| Some(*known) == *key)
    };
    known.iter().any(is)
}

impl Field {
    /// Whether anything may stand at a path.
    fn is_any(&self, path: &[Option<&str>]) -> bool {
        let Some((key, rest)) = path.split_first() else { return matches!(self, Any) };
        match self {
            Any => true,
            Scalar => false,
            List(next) | Map(next) => next.is_any(rest),
            Record(fields) => {
                let found = fields.iter().find(|(name, _)| Some(*name) == *key);
                found.is_none_or(|(_, next)| next.is_any(rest))
            }
        }
    }

    /// Follows constant and unknown keys (`None`) below `input`.
    pub(crate) fn check(&self, path: &[Option<&str>]) -> Result<(), Unknown> {
        let mut at = self;
        let mut walked = String::from("input");
        for (step, key) in path.iter().enumerate() {
            at = match (at, key) {
                (Any, _) | (Record(_), None) => return Ok(()),
                (List(next), None) | (Map(next), _) => next,
                (Scalar, _) | (List(_), Some(_)) => return Err(Unknown { step, near: None }),
                (Record(fields), Some(key)) => {
                    if let Some((_, next)) = fields.iter().find(|(name, _)| name == key) {
                        next
                    } else {
                        let names = fields.iter().map(|(name, _)| *name);
                        let near = crate::rego::builtin::closest(key, names);
                        let near =
                            near.map(|near| format!("{walked}.{near}")).or_else(|| self.elsewhere(key));
                        return Err(Unknown { step, near });
                    }
                }
            };
            match key {
                Some(key) => {
                    walked.push('.');
                    walked.push_str(key);
                }
                None => walked.push_str("[_]"),
            }
        }
        Ok(())
    }

    /// Where a key of this name stands: `input.method` is probably `input.request.method`.
    fn elsewhere(&self, key: &str) -> Option<String> {
        let mut found = Vec::new();
        self.find(key, "input", &mut found);
        found.into_iter().min_by_key(|path| path.matches('.').count())
    }

    fn find(&self, key: &str, at: &str, found: &mut Vec<String>) {
        let Record(fields) = self else { return };
        for (name, field) in *fields {
            let path = format!("{at}.{name}");
            if *name == key {
                found.push(path.clone());
            }
            field.find(key, &path, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, want: Result<(), (usize, Option<&str>)>) {
        let keys: Vec<Option<&str>> = path.split('.').map(|key| (key != "*").then_some(key)).collect();
        let got = GATEWAY_V1.check(&keys).map_err(|unknown| (unknown.step, unknown.near));
        assert_eq!(got, want.map_err(|(step, near)| (step, near.map(str::to_owned))), "{path}");
    }

    #[test]
    fn paths_follow_the_contract() {
        check("request.method", Ok(()));
        check("request.headers.x-anything", Ok(()));
        check("request.query.page.*", Ok(()));
        check("request.body.a.b.*", Ok(()));
        check("identity.claims.anything.at.all", Ok(()));
        check("source.tls.client_certificate.san.uri.*", Ok(()));
        check("*", Ok(()));
        check("method", Err((0, Some("input.request.method"))));
        check("request.methd", Err((1, Some("input.request.method"))));
        check("user", Err((0, None)));
        check("identity.role", Err((1, Some("input.identity.roles"))));
        check("request.method.name", Err((2, None)));
        check("identity.roles.admin", Err((2, None)));
        check("headers.host", Err((0, Some("input.request.headers"))));
    }
}
