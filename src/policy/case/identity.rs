//! Who asks in a case, and what: `identity` and `api`.

use std::sync::Arc;
use std::time::Duration;

use regorus::Value;

use crate::config::suggest;
use crate::config::yaml::Data;
use crate::contract::identity::{Facts, Identity, KINDS};
use crate::policy::case::reader::{Fields, Reader};

/// What an identity has besides what is proven of it.
const AROUND: [&str; 4] = ["authenticated", "provider", "failure", "all"];
/// What is proven; one of several identities has just this, and its provider is its key.
const PROVEN: [&str; 11] = [
    "type",
    "subject",
    "issuer",
    "audience",
    "roles",
    "groups",
    "scopes",
    "claims",
    "attributes",
    "expires_at",
    "stale",
];
const API: [&str; 5] = ["name", "version", "route", "params", "lifecycle"];
const LIFECYCLE: [&str; 3] = ["state", "since", "sunset"];

/// The API and route of a case.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) name: String,
    pub(super) version: Option<String>,
    pub(super) route: String,
    pub(super) params: Vec<(Arc<str>, String)>,
    pub(super) lifecycle: Value,
}

/// Reads `identity`; without one the caller is anonymous.
pub(super) fn identity(reader: &mut Reader, case: &Fields<'_>) -> Identity {
    let known = [&AROUND[..], &PROVEN[..]].concat();
    let Some(fields) = reader.below(case, "identity", &known) else { return Identity::anonymous() };
    let failure = reader.below(&fields, "failure", &["provider", "reason"]);
    let authenticated = reader.flag(&fields, "authenticated");
    let only = |allowed: &[&str]| fields.keys().all(|key| allowed.contains(&key));
    if let Some(failure) = failure {
        if !only(&["failure", "authenticated"]) || authenticated == Some(true) {
            let message = "`identity.failure` is of a caller who is nobody";
            reader.fault(fields.position, message, "leave the other keys of `identity` out");
        }
        let (provider, reason) = (reader.required(&failure, "provider"), reader.required(&failure, "reason"));
        return Identity::refused(&provider.unwrap_or_default(), &reason.unwrap_or_default());
    }
    if authenticated == Some(false) {
        if !only(&["authenticated"]) {
            let message = "an identity that is not authenticated has nothing else";
            reader.fault(fields.position, message, "leave the other keys of `identity` out");
        }
        return Identity::anonymous();
    }
    if fields.get("type").is_none() {
        let hint = format!("add one of {}", suggest::listed(&KINDS));
        reader.fault(fields.position, "`identity.type` is missing", hint);
    }
    let mut facts = facts(reader, &fields);
    facts.provider = reader.required(&fields, "provider").map(Arc::from);
    let first = Identity::authenticated(facts);
    let Some(others) = others(reader, &fields) else { return first };
    let all: Vec<&Identity> = std::iter::once(&first).chain(&others).collect();
    Identity::combined(&all)
}

/// What was proven, without the provider's name.
fn facts(reader: &mut Reader, fields: &Fields<'_>) -> Facts {
    Facts {
        provider: None,
        kind: reader.word(fields, "type", KINDS),
        subject: reader.text(fields, "subject"),
        issuer: reader.text(fields, "issuer"),
        audience: reader.texts(fields, "audience"),
        roles: reader.texts(fields, "roles"),
        groups: reader.texts(fields, "groups"),
        scopes: reader.texts(fields, "scopes"),
        claims: object(reader, fields, "claims"),
        attributes: object(reader, fields, "attributes"),
        expires_at: reader.number(fields, "expires_at").map(Duration::from_secs),
        stale: reader.flag(fields, "stale") == Some(true),
    }
}

/// Reads `identity.all`: the identities besides the first one, which is there anyway.
fn others(reader: &mut Reader, fields: &Fields<'_>) -> Option<Vec<Identity>> {
    let all = reader.named(fields, "all")?;
    let names: Vec<String> = all.keys().map(str::to_owned).collect();
    let others = names.iter().filter_map(|name| {
        let fields = reader.below(&all, name, &PROVEN)?;
        let mut facts = facts(reader, &fields);
        facts.provider = Some(Arc::from(name.as_str()));
        Some(Identity::authenticated(facts))
    });
    Some(others.collect())
}

/// Reads `api`. The gateway has always found one, so there is always one here.
pub(super) fn api(reader: &mut Reader, case: &Fields<'_>) -> Api {
    let mut api = Api {
        name: "test".to_owned(),
        version: None,
        route: "test".to_owned(),
        params: Vec::new(),
        lifecycle: lifecycle_of(&[("state", "active")]),
    };
    let Some(fields) = reader.below(case, "api", &API) else { return api };
    api.name = reader.text(&fields, "name").unwrap_or(api.name);
    api.version = reader.text(&fields, "version");
    api.route = reader.text(&fields, "route").unwrap_or(api.route);
    if let Some(node) = fields.get("params") {
        if !matches!(node.data, Data::Mapping(_)) {
            reader.fault(node.position, "`api.params` must be a mapping", "write `name: value` pairs");
        }
        for entry in node.entries() {
            let path = format!("api.params.{}", entry.key);
            let value = reader.text_of(&entry.value, &path).unwrap_or_default();
            api.params.push((entry.key.as_str().into(), value));
        }
    }
    if let Some(lifecycle) = reader.below(&fields, "lifecycle", &LIFECYCLE) {
        // A retired API answers 410 before any policy is asked.
        let state = reader.word(&lifecycle, "state", ["active", "deprecated"]).unwrap_or("active");
        let (since, sunset) = (reader.text(&lifecycle, "since"), reader.text(&lifecycle, "sunset"));
        let dates = [("since", since.as_deref()), ("sunset", sunset.as_deref())];
        let given = dates.into_iter().filter_map(|(key, date)| Some((key, date?)));
        api.lifecycle = lifecycle_of(&[("state", state)].into_iter().chain(given).collect::<Vec<_>>());
    }
    api
}

fn lifecycle_of(fields: &[(&str, &str)]) -> Value {
    let fields = fields.iter().map(|(key, text)| (Value::from(*key), Value::from(*text)));
    Value::from(fields.collect::<std::collections::BTreeMap<_, _>>())
}

/// Any mapping, as it is.
fn object(reader: &mut Reader, fields: &Fields<'_>, key: &str) -> Option<Value> {
    let node = fields.get(key)?;
    if !matches!(node.data, Data::Mapping(_)) {
        let message = format!("`{}` must be a mapping", fields.path_of(key));
        reader.fault(node.position, message, "write `name: value` pairs");
    }
    Some(Value::from(node.to_value()))
}
