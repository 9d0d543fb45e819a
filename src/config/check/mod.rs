//! Makes the validated configuration of the written one, and notes every fault on the way.
//!
//! A check never stops at its first fault, and it quotes a value only through [`Check::shown`], which shows a reference
//! instead of the secret it stands for.

mod api;
mod bundle;
mod identity;
mod listener;
mod oauth;
mod outside;
mod pem;
mod policy;
mod route;
mod upstream;
mod value;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::config::model::{Admin, Config, DecisionLog, LimitStore, Name, Recent, Reload, Telemetry};
use crate::config::place::Place;
use crate::config::raw;
use crate::config::raw::part::Part;
use crate::config::raw::quantity;
use crate::config::report::{Report, Reported};
use crate::config::yaml::Node;

/// The longest drain.
const DRAIN_MAX: Duration = Duration::from_hours(1);
/// Bytes of the recent decisions that a worker keeps.
const RECENT_BYTES: RangeInclusive<u64> = 64 << 10..=1 << 30;

/// A configuration under check.
pub(super) struct Check<'a> {
    root: &'a Node,
    report: &'a mut Report,
    /// The configuration file's directory, absolute.
    directory: &'a Path,
    /// Every file that the configuration names.
    files: BTreeSet<PathBuf>,
}

/// What may be referred to, whether or not it is free of faults itself.
struct Known {
    providers: Names,
    upstreams: Names,
    policies: Names,
    apis: Names,
}

/// Names that exist: each as it is, and as it may be shown.
struct Names(BTreeMap<String, String>);

/// The file that is checked.
pub(super) struct Source<'a> {
    /// Its absolute path.
    pub(super) file: &'a Path,
    /// Its revision.
    pub(super) revision: String,
    /// Further files that were read on the way.
    pub(super) files: Vec<PathBuf>,
}

/// Checks what was written.
pub(super) fn check(
    written: &raw::Gateway,
    root: &Node,
    source: Source<'_>,
    report: &mut Report,
) -> Result<Config, Reported> {
    let Source { file, revision, files } = source;
    let directory = file.parent().unwrap_or(file);
    let files = files.into_iter().chain([file.to_owned()]).collect();
    Check { root, report, directory, files }.gateway(written, file, revision)
}

/// All the good items, or proof that there is a bad one; each is looked at either way.
fn all<T>(items: impl IntoIterator<Item = Result<T, Reported>>) -> Result<Vec<T>, Reported> {
    let mut good = Vec::new();
    let mut bad = None;
    for item in items {
        match item {
            Ok(item) => good.push(item),
            Err(reported) => bad = Some(reported),
        }
    }
    bad.map_or(Ok(good), Err)
}

impl Check<'_> {
    fn gateway(mut self, written: &raw::Gateway, file: &Path, revision: String) -> Result<Config, Reported> {
        let root = Place::root();
        let known = Known::of(self.root);
        let version = self.part(&root.key("version"), &written.version).map(|_| ());
        let labels = self.part(&root.key("labels"), &written.labels).cloned();
        let workers = self.workers(&root.key("workers"), written.workers.as_ref());
        let listeners = self.list(&root.key("listeners"), &written.listeners, |check, place, listener| {
            check.listener(place, listener, &known)
        });
        let identity = self.map(&root.key("identity"), &written.identity, |check, place, _, provider| {
            check.provider(place, provider)
        });
        let upstreams = self.map(&root.key("upstreams"), &written.upstreams, Self::upstream);
        let policies = self.map(&root.key("policies"), &written.policies, Self::policy);
        let apis =
            self.list(&root.key("apis"), &written.apis, |check, place, api| check.api(place, api, &known));
        let limits = self.part(&root.key("limits"), &written.limits).map(limit_store);
        let decision_logs = self.list(&root.key("decision_logs"), &written.decision_logs, Self::decision_log);
        let telemetry = self.part(&root.key("telemetry"), &written.telemetry).map(telemetry);
        let admin = written.admin.as_ref().map(|admin| self.admin(&root.key("admin"), admin)).transpose();
        let reload = self.part(&root.key("reload"), &written.reload).map(reload);
        let drain_timeout = self.drain_timeout(&root.key("drain_timeout"), &written.drain_timeout);

        self.distinct(listeners.as_deref(), apis.as_deref(), decision_logs.as_deref(), admin.as_ref().ok());
        if let Ok(identity) = &identity {
            self.distinct_oidc(identity);
        }
        version?;
        let config = Config {
            path: file.to_owned(),
            revision,
            labels: labels?,
            workers: workers?,
            listeners: all(listeners?)?,
            identity: identity?,
            upstreams: upstreams?,
            policies: policies?,
            apis: all(apis?)?,
            limits: limits?,
            decision_logs: all(decision_logs?)?,
            telemetry: telemetry?,
            admin: admin?,
            reload: reload?,
            drain_timeout: drain_timeout?,
            files: self.files.iter().cloned().collect(),
        };
        self.warnings(&config);
        Ok(config)
    }

    /// The value of a part, or proof that its fault is noted.
    fn part<'w, T>(&mut self, place: &Place, part: &'w Part<T>) -> Result<&'w T, Reported> {
        part.get().ok_or_else(|| {
            let noted = self.report.settled_within(place);
            // The schema lets nothing else through; if it did, the gateway must not start.
            noted.unwrap_or_else(|| self.report.error(place, "does not fit the schema"))
        })
    }

    /// Notes a fault that lies in several values right in `scope` together, unless one of them is at fault by itself
    /// and may not be what is meant.
    fn together(&mut self, scope: &Place, at: &Place, message: impl Into<String>, help: &str) -> Reported {
        let noted = self.report.settled_in(scope);
        noted.unwrap_or_else(|| self.report.error_with(at, message, help))
    }

    /// Checks each item of a list. The outer error says that there is no list.
    fn list<T, R>(
        &mut self,
        place: &Place,
        written: &Part<Vec<Part<T>>>,
        mut check: impl FnMut(&mut Self, &Place, &T) -> Result<R, Reported>,
    ) -> Result<Vec<Result<R, Reported>>, Reported> {
        let items = self.part(place, written)?;
        let item = |(index, item)| {
            let place = place.index(index);
            let item = self.part(&place, item)?;
            check(self, &place, item)
        };
        Ok(items.iter().enumerate().map(item).collect())
    }

    fn map<T, R>(
        &mut self,
        place: &Place,
        written: &Part<BTreeMap<quantity::Name, Part<T>>>,
        mut check: impl FnMut(&mut Self, &Place, &Name, &T) -> Result<R, Reported>,
    ) -> Result<BTreeMap<Name, R>, Reported> {
        let entries = self.part(place, written)?;
        let entries = all(entries.iter().map(|(name, entry)| {
            let place = place.key(&name.0);
            let name = self.key_name(&place, name);
            let entry = self.part(&place, entry)?;
            // A name that is refused still names something that can be looked at.
            let stand_in = name.clone().unwrap_or_else(|_| Name::from("-"));
            let checked = check(self, &place, &stand_in, entry)?;
            Ok((name?, checked))
        }))?;
        Ok(entries.into_iter().collect())
    }

    fn workers(&mut self, place: &Place, written: Option<&Part<u32>>) -> Result<usize, Reported> {
        let Some(written) = written else {
            return Ok(std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
        };
        let workers = *self.part(place, written)?;
        Ok(usize::try_from(workers).unwrap_or(usize::MAX))
    }

    fn drain_timeout(
        &mut self,
        place: &Place,
        written: &Part<quantity::Duration>,
    ) -> Result<Duration, Reported> {
        let written = self.part(place, written)?;
        self.duration(place, written, Duration::ZERO..=DRAIN_MAX)
    }

    fn decision_log(&mut self, place: &Place, written: &raw::DecisionLog) -> Result<DecisionLog, Reported> {
        match written {
            raw::DecisionLog::Stdout(raw::StdoutLog {}) => Ok(DecisionLog::Stdout),
            raw::DecisionLog::File(log) => {
                let path = self.file_to_write(&place.key("path"), &log.path)?;
                Ok(DecisionLog::File { path })
            }
        }
    }

    fn admin(&mut self, place: &Place, written: &Part<raw::Admin>) -> Result<Admin, Reported> {
        let written = self.part(place, written)?;
        let explain = written.explain.as_ref();
        let explain = explain.map(|explain| self.recent(&place.key("explain"), explain)).transpose();
        let place = place.key("address");
        let address = self.address(&place, &written.address)?;
        if crate::base::net::is_loopback(address.ip()) {
            Ok(Admin { address, explain: explain? })
        } else {
            let message = format!("the admin endpoint cannot listen on `{}`", self.shown(&place));
            Err(self.report.error_with(&place, message, "it has no access control: use a loopback address"))
        }
    }
}

impl Check<'_> {
    fn recent(&mut self, place: &Place, written: &raw::Explain) -> Result<Recent, Reported> {
        let bytes = self.size(&place.key("size_limit"), &written.size_limit, RECENT_BYTES)?;
        Ok(Recent { count: usize::try_from(written.recent).unwrap_or(usize::MAX), bytes })
    }
}

impl Known {
    fn of(root: &Node) -> Self {
        let keys = |section: &str| {
            let entries = root.field(section).map_or(&[][..], Node::entries);
            Names(entries.iter().map(|entry| (entry.key.clone(), entry.key.clone())).collect())
        };
        let apis = root.field("apis").map_or(&[][..], Node::items);
        let apis = apis.iter().filter_map(|api| named(api.field("name")?)).collect();
        Self {
            providers: keys("identity"),
            upstreams: keys("upstreams"),
            policies: keys("policies"),
            apis: Names(apis),
        }
    }
}

fn named(name: &Node) -> Option<(String, String)> {
    let shown = name.shown(&Place::root());
    match name.to_value() {
        Value::String(value) => Some((value, shown)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn limit_store(written: &raw::Limits) -> LimitStore {
    match written.store {
        raw::Store::Memory => {
            LimitStore::Memory { keys: usize::try_from(written.keys).unwrap_or(usize::MAX) }
        }
    }
}

fn telemetry(written: &raw::Telemetry) -> Telemetry {
    Telemetry { metrics: written.metrics }
}

fn reload(written: &raw::Reload) -> Reload {
    Reload { watch: written.watch, history: usize::try_from(written.history).unwrap_or(usize::MAX) }
}
