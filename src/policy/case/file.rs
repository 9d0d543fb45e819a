//! The layout of a case file: the rules asked, defaults, cases.

use std::collections::BTreeSet;
use std::time::Duration;

use regorus::Value;

use crate::config::yaml::{self, Data, Entry, Node};
use crate::contract::form::Contract;
use crate::contract::identity::Identity;
use crate::contract::request::Source;
use crate::policy::bundle::CaseFile;
use crate::policy::case::expect::Expect;
use crate::policy::case::identity::{self, Api};
use crate::policy::case::mocks::Mocks;
use crate::policy::case::reader::{Fields, Reader, is_null};
use crate::policy::case::request::{self, Request, Response};
use crate::rego::fault::{Fault, Place};

/// What a request and what a response is asked about, unless the file says otherwise; as in `gateway.yaml`.
const DECISION: &str = "gateway/decision";
const CASE: [&str; 11] = [
    "name", "time", "listener", "request", "source", "api", "identity", "response", "data", "mocks", "expect",
];

/// A case file.
#[derive(Debug)]
pub(super) struct CaseList {
    /// The rule asked about requests.
    pub(super) decision: Rule,
    /// The rule asked about responses.
    pub(super) response: Option<Rule>,
    /// What the rules are written for.
    pub(super) contract: Contract,
    /// The cases, in the order of the file.
    pub(super) cases: Vec<Case>,
}

/// A rule's path, and where it is named.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) path: String,
    pub(super) place: Place,
}

/// One case.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) place: Place,
    pub(super) name: String,
    pub(super) time: Option<Duration>,
    pub(super) listener: String,
    pub(super) request: Request,
    pub(super) source: Source,
    pub(super) api: Api,
    pub(super) identity: Identity,
    pub(super) response: Option<Response>,
    pub(super) data: Option<Value>,
    pub(super) mocks: Mocks,
    pub(super) expect: Expect,
    pub(super) expect_at: Place,
}

/// Reads a file, or tells all its faults.
pub(super) fn parse(file: &CaseFile) -> Result<CaseList, Vec<Fault>> {
    let mut reader = Reader::new(&file.path);
    let is_blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if file.text.lines().all(is_blank) {
        let fault = Fault::new(Place::whole(file.path.as_str()), "bad_case", "the file has no cases");
        return Err(vec![fault.hint("write `cases:` and a list of them, or remove the file")]);
    }
    let (root, faults) = match yaml::parse(&file.text) {
        Ok(parsed) => parsed,
        Err(fault) => {
            reader.fault(fault.position, fault.message, fault.help);
            return reader.finish(()).and(Err(Vec::new()));
        }
    };
    for fault in faults {
        reader.fault(fault.position, fault.message, fault.help);
    }
    let cases = read(&mut reader, &root, &file.path);
    reader.finish(cases)
}

fn read(reader: &mut Reader, root: &Node, path: &str) -> CaseList {
    let fields = reader.fields(root, "", &["policy", "defaults", "cases"]);
    let policy = reader.below(&fields, "policy", &["decision", "response", "contract"]);
    let mut rule = |key| {
        let policy = policy.as_ref()?;
        let path = reader.text(policy, key)?;
        Some(Rule { path, place: reader.place(policy.at(key)) })
    };
    let decision = rule("decision");
    let response = rule("response");
    let contract = match &policy {
        Some(policy) => match reader.text(policy, "contract").as_deref() {
            None | Some("gateway/v1") => Contract::GatewayV1,
            Some("envoy/v3") => Contract::EnvoyV3,
            Some(other) => {
                let message = format!("unknown contract `{other}`");
                reader.fault(policy.at("contract"), message, "write `gateway/v1` or `envoy/v3`");
                Contract::GatewayV1
            }
        },
        None => Contract::GatewayV1,
    };
    let decision = decision.unwrap_or_else(|| Rule { path: DECISION.to_owned(), place: Place::whole(path) });
    let defaults = fields.get("defaults");
    if let Some(defaults) = defaults {
        let known: Vec<&str> = CASE.into_iter().filter(|key| !["name", "expect"].contains(key)).collect();
        reader.fields(defaults, "defaults", &known);
    }
    let nodes = reader.items(&fields, "cases");
    if nodes.is_empty() {
        reader.fault(fields.at("cases"), "the file has no cases", "add one to `cases`");
    }
    let mut names = BTreeSet::new();
    let mut cases = Vec::new();
    for node in nodes {
        if !matches!(node.data, Data::Mapping(_)) {
            reader.fault(node.position, "a case must be a mapping", "begin it with `- name: ..`");
            continue;
        }
        let merged = defaults.map_or_else(|| node.clone(), |defaults| merge(defaults, node));
        let fields = reader.fields(&merged, "", &CASE);
        if fields.get("response").is_some() && response.is_none() {
            let hint = "name the rule asked about responses in `policy.response`";
            reader.fault(fields.at("response"), "the file names no rule for responses", hint);
        }
        let Some(case) = case(reader, &fields) else { continue };
        if !names.insert(case.name.clone()) {
            let message = format!("another case has the name `{}`", case.name);
            reader.fault(fields.at("name"), message, "give each its own");
        }
        cases.push(case);
    }
    CaseList { decision, response, contract, cases }
}

fn case(reader: &mut Reader, fields: &Fields<'_>) -> Option<Case> {
    let name = reader.required(fields, "name");
    let time = time(reader, fields);
    let listener = reader.text(fields, "listener");
    let request = request::request(reader, fields);
    let source = request::source(reader, fields);
    let api = identity::api(reader, fields);
    let identity = identity::identity(reader, fields);
    let response = request::response(reader, fields);
    let data = data(reader, fields);
    let mocks = Mocks::read(reader, fields);
    let expect = Expect::read(reader, fields);
    if let (Some(Expect::Refused(_)), Some(_)) = (&expect, &response) {
        let hint = "leave `response` out: a refused request has none";
        reader.fault(fields.at("expect"), "a response cannot be `refused`", hint);
    }
    Some(Case {
        place: reader.place(fields.position),
        name: name?,
        time,
        listener: listener.unwrap_or_else(|| "test".to_owned()),
        request: request?,
        source,
        api,
        identity,
        response,
        data,
        mocks,
        expect: expect?,
        expect_at: reader.place(fields.at("expect")),
    })
}

fn time(reader: &mut Reader, fields: &Fields<'_>) -> Option<Duration> {
    let text = reader.text(fields, "time")?;
    let instant = text.parse::<jiff::Timestamp>().ok();
    let time = instant.and_then(|time| time.duration_since(jiff::Timestamp::UNIX_EPOCH).try_into().ok());
    if time.is_none() {
        let message = format!("`time`: `{text}` is no time");
        reader.fault(fields.at("time"), message, "write it as 2026-01-31T08:00:00Z");
    }
    time
}

fn data(reader: &mut Reader, fields: &Fields<'_>) -> Option<Value> {
    let node = fields.get("data")?;
    if !matches!(node.data, Data::Mapping(_)) {
        reader.fault(node.position, "`data` must be a mapping", "put it under a key");
    }
    Some(Value::from(node.to_value()))
}

/// The case over the defaults: mappings key by key, anything else as the case has it; `null` takes a default away.
fn merge(defaults: &Node, case: &Node) -> Node {
    let (Data::Mapping(under), Data::Mapping(over)) = (&defaults.data, &case.data) else {
        return case.clone();
    };
    let mut merged: Vec<Entry> = Vec::new();
    for entry in over {
        let value = match under.iter().find(|default| default.key == entry.key) {
            Some(_) if is_null(&entry.value) => continue,
            Some(default) => merge(&default.value, &entry.value),
            None => entry.value.clone(),
        };
        merged.push(Entry { value, ..entry.clone() });
    }
    merged.extend(under.iter().filter(|default| over.iter().all(|entry| entry.key != default.key)).cloned());
    Node { position: case.position, data: Data::Mapping(merged) }
}
