//! What somebody may do: every route of a configuration, each of its methods, and what the policy says.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value as Json, json};

use crate::cli::output::Paint;
use crate::cli::policy_eval::caller::{CallerArgs, Line, Met};
use crate::cli::policy_eval::configured::{self, Place};
use crate::config::model::{Api, Config, Name, Policy};
use crate::contract::decision::Decision;
use crate::pipeline::reject::Cause;
use crate::policy::asking::Question;
use crate::policy::decide::{Decider, Failure, Rules, Ruling};
use crate::rego::program::Options;
use crate::runtime::snapshot::lifecycle_document;

/// The methods of a route that takes any.
const METHODS: [Method; 6] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
/// What a policy's failure is called in decision events.
const POLICY_ERROR: &str = "policy_error";

/// All routes, for one caller.
#[derive(Debug)]
pub(super) struct Table {
    caller: String,
    rows: Vec<Row>,
}

/// One route.
#[derive(Debug)]
struct Row {
    api: String,
    version: Option<String>,
    route: String,
    path: String,
    /// In the order in which they are shown.
    cells: Vec<(Method, Cell)>,
}

/// One method of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cell {
    Allowed(Option<String>),
    Denied(Denied),
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Denied {
    reason: Option<String>,
    status: u16,
    /// What went wrong, where the policy did not deny but failed.
    error: Option<String>,
}

/// Asks about each route. What is left out is told to `notes`.
pub(super) fn table(
    args: &CallerArgs,
    config: &Config,
    (now, timeout): (Duration, Duration),
    notes: &mut dyn Write,
) -> anyhow::Result<Table> {
    let met = configured::meet(args, config, now)?;
    if let Some(name) = &args.api {
        configured::api_named(config, name)?;
    }
    let is_chosen = |api: &&Api| args.api.as_deref().is_none_or(|name| name == &*api.name);
    let listeners = configured::listeners(args, config)?;
    let mut deciders = BTreeMap::new();
    let mut rows = Vec::new();
    for api in config.apis.iter().filter(is_chosen) {
        let Some(listener) = listeners.iter().find(|listener| listener.apis.contains(&api.name)) else {
            continue;
        };
        for route in &api.routes {
            let place = Place { listener, api, route };
            let admitted = match configured::admits(args, config, place) {
                Ok(admitted) => admitted,
                Err(error) => {
                    writeln!(notes, "note: left out: {error}")?;
                    continue;
                }
            };
            let methods = if route.methods.is_empty() { &METHODS[..] } else { &route.methods };
            let mut cells = Vec::new();
            for method in methods {
                let cell = if let Err(refused) = &admitted {
                    Cell::Denied(Denied {
                        reason: Some(refused.reason.clone()),
                        status: refused.status.as_u16(),
                        error: None,
                    })
                } else {
                    let decider = decider(&mut deciders, configured::policy_of(config, api)?, timeout)?;
                    cell(args, place, method, &met, decider, now)?
                };
                cells.push((method.clone(), cell));
            }
            rows.push(Row {
                api: api.name.to_string(),
                version: api.version.as_deref().map(str::to_owned),
                route: route.name.to_string(),
                path: format!("{}{}", api.base_path, route.path),
                cells,
            });
        }
    }
    Ok(Table { caller: args.shown(), rows })
}

fn decider<'d>(
    deciders: &'d mut BTreeMap<Name, Decider>,
    policy: &Policy,
    budget: Duration,
) -> anyhow::Result<&'d mut Decider> {
    if !deciders.contains_key(&policy.name) {
        let program = configured::bundle(policy)?.compile(Options::developing())?;
        let rules = Rules {
            decision: program.entrypoint(&policy.decision.join("/"))?,
            response: None,
            budget,
            contract: configured::contract(policy),
            cache: 0,
        };
        deciders.insert(Arc::clone(&policy.name), Decider::new(&program, &rules));
    }
    deciders.get_mut(&policy.name).context("the policy is not there")
}

fn cell(
    args: &CallerArgs,
    place: Place<'_>,
    method: &Method,
    met: &Met,
    decider: &mut Decider,
    now: Duration,
) -> anyhow::Result<Cell> {
    let Place { listener, api, route } = place;
    let (target, params) = target(args, &format!("{}{}", api.base_path, route.path));
    let line = Line { method: method.clone(), target };
    let sent = args.sent(line, configured::scheme(listener), &configured::host_of(api))?;
    let head = match sent.canonical_by(listener.path_rules, 0) {
        Ok(head) => configured::without_identity(api, head),
        Err(refusal) => {
            let cause = Cause::from(refusal);
            let (reason, status) = (Some(cause.reason().to_owned()), cause.status().as_u16());
            return Ok(Cell::Denied(Denied { reason, status, error: Some(refusal.to_string()) }));
        }
    };
    let identity = met.identity_at(api.require, configured::accepted(place));
    let source = args.source(met.certificate.clone());
    let lifecycle = lifecycle_document(&api.lifecycle);
    let question = Question {
        time: now,
        listener: &listener.name,
        source: &source,
        head: &head,
        api: configured::facts(place, &params, &lifecycle),
        identity: &identity,
    };
    Ok(Cell::of(question.decide(decider)))
}

/// A path of a pattern, and its parameters: a parameter without a value has its own name for one.
fn target(args: &CallerArgs, pattern: &str) -> (String, Vec<(Arc<str>, String)>) {
    let mut target = String::new();
    let mut params = Vec::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, tail)) = after.split_once('}') else { break };
        let (is_whole, name) = name.strip_prefix('*').map_or((true, name), |rest| (false, rest));
        let given = args.params.iter().rfind(|(known, _)| known == name);
        let value = given.map_or(name, |(_, value)| value.as_str());
        target.push_str(before);
        // A catch-all takes several segments.
        let segments: Vec<&str> = if is_whole { vec![value] } else { value.split('/').collect() };
        let encoded =
            segments.into_iter().map(|segment| utf8_percent_encode(segment, NON_ALPHANUMERIC).to_string());
        target.push_str(&encoded.collect::<Vec<_>>().join("/"));
        params.push((Arc::from(name), value.to_owned()));
        rest = tail;
    }
    target.push_str(rest);
    if target.is_empty() {
        target.push('/');
    }
    (target, params)
}

// === impl Cell ===

impl Cell {
    fn of(ruling: Ruling) -> Self {
        let failed = |error| {
            Self::Denied(Denied { reason: Some(POLICY_ERROR.to_owned()), status: 503, error: Some(error) })
        };
        match ruling.decision {
            Ok(Decision::Allow(allow)) => Self::Allowed(allow.reason),
            Ok(Decision::Deny(deny)) => {
                Self::Denied(Denied { reason: deny.reason, status: deny.status.as_u16(), error: None })
            }
            Err(Failure::Undefined) => failed("the decision is undefined".to_owned()),
            Err(Failure::Error | Failure::Budget | Failure::Panic | Failure::Result) => {
                failed(ruling.error.unwrap_or_else(|| "the policy failed".to_owned()))
            }
        }
    }
}

// === impl Table ===

impl Table {
    /// Whether each method of each route is allowed.
    pub(super) fn allows_all(&self) -> bool {
        let mut cells = self.rows.iter().flat_map(|row| &row.cells);
        cells.all(|(_, cell)| matches!(cell, Cell::Allowed(_)))
    }

    /// The table as one object.
    pub(super) fn to_json(&self) -> Json {
        let routes = self.rows.iter().map(|row| {
            let methods = row.cells.iter().map(|(method, cell)| {
                let cell = match cell {
                    Cell::Allowed(reason) => fields(&[("allow", json!(true)), ("reason", json!(reason))]),
                    Cell::Denied(denied) => fields(&[
                        ("allow", json!(false)),
                        ("reason", json!(denied.reason)),
                        ("status", json!(denied.status)),
                        ("error", json!(denied.error)),
                    ]),
                };
                (method.to_string(), cell)
            });
            fields(&[
                ("api", json!(row.api)),
                ("version", json!(row.version)),
                ("route", json!(row.route)),
                ("path", json!(row.path)),
                ("methods", Json::Object(methods.collect())),
            ])
        });
        json!({"as": self.caller, "routes": routes.collect::<Vec<_>>()})
    }

    /// The table for people: a row for each route, a column for each method, and the reasons below.
    pub(super) fn write(&self, paint: Paint, out: &mut dyn Write) -> anyhow::Result<()> {
        let methods = self.methods();
        let reasons = self.reasons();
        let route = |row: &Row| match &row.version {
            Some(version) => format!("{} {version} {}", row.api, row.route),
            None => format!("{} {}", row.api, row.route),
        };
        let width = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
        let first = width(&mut self.rows.iter().map(|row| route(row).chars().count()));
        let second = width(&mut self.rows.iter().map(|row| row.path.chars().count()));
        let heads: Vec<String> =
            methods.iter().map(|method| paint.strong(&format!("{:<7}", method.as_str()))).collect();
        writeln!(out, "{}", paint.faint(&self.caller))?;
        writeln!(out, "{:first$}  {:second$}  {}", "", "", heads.join(" ").trim_end())?;
        for row in &self.rows {
            let cells: Vec<String> =
                methods.iter().map(|method| shown(row.cell(method), &reasons, paint)).collect();
            let line = format!("{:<first$}  {:<second$}  {}", route(row), row.path, cells.join(" "));
            writeln!(out, "{}", line.trim_end())?;
        }
        if !reasons.is_empty() {
            writeln!(out)?;
        }
        for (index, denied) in reasons.iter().enumerate() {
            let reason = denied.reason.as_deref().unwrap_or("no reason given");
            let error = denied.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            writeln!(out, "{}  {reason} ({}){error}", index + 1, denied.status)?;
        }
        Ok(())
    }

    /// The methods of all routes, the usual ones first.
    fn methods(&self) -> Vec<Method> {
        let all = || self.rows.iter().flat_map(|row| row.cells.iter().map(|(method, _)| method));
        let mut methods: Vec<Method> =
            METHODS.into_iter().filter(|method| all().any(|other| other == method)).collect();
        for method in all() {
            if !methods.contains(method) {
                methods.push(method.clone());
            }
        }
        methods
    }

    /// The different reasons, in the order in which they are met.
    fn reasons(&self) -> Vec<&Denied> {
        let mut reasons: Vec<&Denied> = Vec::new();
        for (_, cell) in self.rows.iter().flat_map(|row| &row.cells) {
            if let Cell::Denied(denied) = cell
                && !reasons.contains(&denied)
            {
                reasons.push(denied);
            }
        }
        reasons
    }
}

impl Row {
    fn cell(&self, method: &Method) -> Option<&Cell> {
        self.cells.iter().find(|(known, _)| known == method).map(|(_, cell)| cell)
    }
}

fn shown(cell: Option<&Cell>, reasons: &[&Denied], paint: Paint) -> String {
    match cell {
        None => paint.faint(&format!("{:<7}", "-")),
        Some(Cell::Allowed(_)) => paint.good(&format!("{:<7}", "allow")),
        Some(Cell::Denied(denied)) => {
            let number = reasons.iter().position(|known| *known == denied).map_or(0, |index| index + 1);
            paint.bad(&format!("{:<7}", format!("deny {number}")))
        }
    }
}

/// The fields that have a value.
fn fields(all: &[(&str, Json)]) -> Json {
    let given = all.iter().filter(|(_, value)| !value.is_null());
    Json::Object(given.map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<Map<_, _>>())
}
