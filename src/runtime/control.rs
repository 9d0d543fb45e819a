//! Replacing the snapshot in force: read, build, test, swap; a bad one is refused and the last good one goes on.

pub mod activation;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::audit::log::Log;
use crate::audit::sink;
use crate::base::clock::Clock;
use crate::config::diagnostic::Diagnostic;
use crate::config::model::{Config, LimitStore, Policy};
use crate::config::{self, Loaded};
use crate::identity::provider;
use crate::identity::resources::{Keeper, Resources};
use crate::limits::memory::Store;
use crate::rego::differential::Verification;
use crate::runtime::build;
use crate::runtime::build_error::{BuildError, BuildErrors};
use crate::runtime::bundles::key::Role;
use crate::runtime::bundles::{self, Archives, Bundles};
use crate::runtime::promotion::{self, PromoteError, Promoted};
use crate::runtime::shared::{Foundations, Shared};
use crate::runtime::snapshot::Runtime;
use crate::runtime::watch::Sighting;
use crate::telemetry::metrics::{Metrics, Vocabulary};
use crate::upstream::cluster::Cluster;

/// Looks up environment variables for `${env:NAME}`.
pub type Environment = fn(&str) -> Option<String>;

/// Builds and replaces snapshots; one for a process. Its calls block, and belong off the workers.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    environment: Environment,
    shared: Arc<Shared>,
    /// What the last attempt has read, whatever came of it.
    watched: watch::Sender<Watched>,
    /// One reload at a time.
    turn: Mutex<()>,
}

/// The files that a change of must lead to a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// How they were before they were read.
    pub seen: Sighting,
    /// Whether the configuration wants them watched.
    pub enabled: bool,
}

/// A gateway's state as it starts, and what must be run for it.
#[derive(Debug)]
pub struct Start {
    /// Replaces snapshots.
    pub control: Control,
    /// Fetches key sets and asks identity servers; to be run on the control runtime.
    pub keeper: Keeper,
    /// Keeps bundles fresh; to be run on the control runtime.
    pub bundle_refresher: bundles::refresher::Refresher,
}

// === impl Control ===

impl Control {
    /// Builds the first snapshot from the configuration at `path`.
    pub fn start(
        path: &Path,
        environment: Environment,
        clock: Arc<dyn Clock>,
        vocabulary: Vocabulary,
    ) -> Result<Start, BuildErrors> {
        let metrics = Arc::new(Metrics::new(vocabulary));
        let (resources, keeper) = Resources::new(Arc::clone(&clock));
        let (bundles, bundle_refresher) = Bundles::new(Arc::clone(&clock));
        let (config, watched) = read(path, environment)?;
        let mut archives = bundles.prepare(&config, None);
        let runtime = build(&config, &mut archives, &resources, None)?;
        let LimitStore::Memory { keys } = runtime.config.limits;
        let audit = Arc::new(Log::new(Arc::clone(&metrics), Arc::clone(&clock)));
        let sinks = audit.prepare(&runtime.config.decision_logs);
        audit.install(sinks.map_err(|error| BuildErrors(vec![BuildError::DecisionLog(error)]))?);
        let foundations = Foundations { clock, limits: Store::new(keys), resources, bundles, audit, metrics };
        let runtime = Arc::new(runtime);
        let shared = Arc::new(Shared::new(foundations, Arc::clone(&runtime)));
        shared.bundles.adopt(&runtime, &archives);
        count(&shared, &runtime);
        let watched = watch::Sender::new(watched);
        let control = Self { path: path.to_owned(), environment, shared, watched, turn: Mutex::default() };
        Ok(Start { control, keeper, bundle_refresher })
    }

    /// The state of the process.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Which files to watch; it changes with each attempt to reload.
    pub fn watched(&self) -> watch::Receiver<Watched> {
        self.watched.subscribe()
    }

    /// Reads the configuration again and puts it in force. Gives the upstreams that are new and must be health-checked.
    pub fn reload(&self) -> Result<Vec<Arc<Cluster>>, BuildErrors> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.replace();
        if let Err(errors) = &outcome {
            self.renew();
            self.shared.metrics.reload_failed();
            self.shared.refused(errors.to_string());
        }
        // What they were refused for may be gone.
        self.shared.bundles.retry_refused();
        outcome
    }

    fn replace(&self) -> Result<Vec<Arc<Cluster>>, BuildErrors> {
        // Before anything is read: what changes from here on leads to another attempt, a good one or not.
        let seen = self.watched.borrow().seen.again();
        self.watched.send_modify(|watched| watched.seen = seen);
        let (config, watched) = read(&self.path, self.environment)?;
        self.watched.send_replace(watched);
        let former = self.shared.current();
        let mut archives = self.shared.bundles.prepare(&config, Some(&former.runtime));
        let runtime = build(&config, &mut archives, &self.shared.resources, Some(&former.runtime))?;
        let sinks = self.shared.audit.prepare(&runtime.config.decision_logs);
        let sinks = sinks.map_err(|error| BuildErrors(vec![BuildError::DecisionLog(error)]))?;
        let LimitStore::Memory { keys } = runtime.config.limits;
        let new = runtime.clusters.iter().filter(|cluster| !cluster.is_in(&former.runtime.clusters));
        let new = new.cloned().collect();
        let runtime = Arc::new(runtime);
        self.shared.limits.set_keys(keys);
        self.shared.audit.install(sinks);
        self.shared.install(Arc::clone(&runtime));
        self.shared.bundles.adopt(&runtime, &archives);
        count(&self.shared, &runtime);
        Ok(new)
    }

    /// Reads the credentials of the snapshot in force again: what is wrong with a policy must not hold up a revocation.
    fn renew(&self) {
        let running = self.shared.current();
        match build::renew(&running.runtime, &running.runtime, &self.shared.resources) {
            Ok(renewed) => self.shared.renew(Arc::new(renewed)),
            Err(errors) => tracing::error!(
                errors = errors.one_line(),
                "Credentials not read again, the last good ones go on"
            ),
        }
    }

    /// Puts the candidate of a policy in force, in one step; what was in force can be rolled back to.
    pub fn promote(&self, policy: Option<&str>) -> Result<Promoted, PromoteError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let running = self.shared.current();
        let (runtime, promoted) = promotion::promote(&running.runtime, policy, self.shared.clock.now())?;
        let runtime = Arc::new(runtime);
        self.shared.install_bundle(Arc::clone(&runtime));
        count(&self.shared, &runtime);
        Ok(promoted)
    }

    /// Puts the snapshot before this one in force again, with its credentials as their files say now. `false` where there
    /// is none. Where they cannot be read, the snapshot in force goes on.
    pub fn roll_back(&self) -> Result<bool, BuildErrors> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(earlier) = self.shared.earlier() else { return Ok(false) };
        let running = self.shared.current();
        let runtime = Arc::new(build::renew(&earlier, &running.runtime, &self.shared.resources)?);
        self.shared.roll_back(Arc::clone(&runtime));
        self.shared.bundles.adopt(&runtime, &Archives::default());
        let LimitStore::Memory { keys } = runtime.config.limits;
        self.shared.limits.set_keys(keys);
        // The earlier snapshot's logs could be opened once; if they cannot now, the running ones go on.
        if let Ok(sinks) = self.shared.audit.prepare(&runtime.config.decision_logs) {
            self.shared.audit.install(sinks);
        }
        count(&self.shared, &runtime);
        Ok(true)
    }
}

/// Builds a snapshot, and where a fetched bundle is at fault, one of the last good bundle.
fn build(
    config: &Config,
    archives: &mut Archives,
    resources: &Resources,
    former: Option<&Runtime>,
) -> Result<Runtime, BuildErrors> {
    loop {
        match build::build(config.clone(), archives, resources, former) {
            Err(errors) if archives.fall_back(&errors) => {}
            outcome => return outcome,
        }
    }
}

/// A configuration that a gateway can start with.
#[derive(Debug)]
pub struct Checked {
    /// The configuration.
    pub config: Arc<Config>,
    /// What is allowed, but hardly meant.
    pub warnings: Vec<Diagnostic>,
}

/// Does all that [`Control::start`] does with the configuration at `path`, but for what others would notice: no log is
/// opened, and neither key sets nor bundles are fetched; the warnings say so of bundles, as they hold policies and tests.
pub fn check(path: &Path, environment: Environment, clock: Arc<dyn Clock>) -> Result<Checked, BuildErrors> {
    let loaded = load(path, environment)?;
    let mut warnings = warnings(&loaded, path);
    warnings.extend(loaded.config.policies.values().flat_map(|policy| not_fetched(policy, path)));
    let logs = loaded.config.decision_logs.iter().filter_map(|config| sink::check(config).err());
    let mut faults: Vec<_> = logs.map(BuildError::DecisionLog).collect();
    // What would fetch key sets is not run.
    let (resources, _keeper) = Resources::new(clock);
    match build::check(loaded.config, &resources) {
        Ok((config, refused)) if faults.is_empty() => {
            let of_shadow =
                |message| Diagnostic { file: path.to_owned(), position: None, message, help: None };
            warnings.extend(refused.into_iter().map(of_shadow));
            Ok(Checked { config, warnings })
        }
        Ok(_) => Err(BuildErrors(faults)),
        Err(BuildErrors(mut of_build)) => {
            of_build.append(&mut faults);
            Err(BuildErrors(of_build))
        }
    }
}

fn not_fetched(policy: &Policy, path: &Path) -> Vec<Diagnostic> {
    let fetched = [(Role::Main, "bundle"), (Role::Candidate, "shadow")];
    let fetched = fetched.into_iter().filter_map(|(role, called)| Some((role.settings(policy)?, called)));
    fetched
        .map(|(remote, called)| {
            let message = format!(
                "policy `{}`: the {called} `{}` is not fetched here, so its signature, policies and tests are not checked",
                policy.name, remote.shown
            );
            let help = "check it where it is built: `gatewayctl policy check`, `gatewayctl policy test`";
            Diagnostic { file: path.to_owned(), position: None, message, help: Some(help.to_owned()) }
        })
        .collect()
}

fn load(path: &Path, environment: Environment) -> Result<Loaded, BuildErrors> {
    config::load(path, &environment).map_err(|errors| BuildErrors(vec![BuildError::Config(errors)]))
}

fn warnings(loaded: &Loaded, path: &Path) -> Vec<Diagnostic> {
    let of_provider = |message| Diagnostic { file: path.to_owned(), position: None, message, help: None };
    let of_providers = provider::warnings(&loaded.config.identity).into_iter().map(of_provider);
    loaded.warnings.iter().cloned().chain(of_providers).collect()
}

/// Reads the configuration. It is read twice: only then it is known which files it names, and that they are seen before
/// the reading that counts.
fn read(path: &Path, environment: Environment) -> Result<(Config, Watched), BuildErrors> {
    let seen = Sighting::of(&load(path, environment)?.config.files);
    let loaded = load(path, environment)?;
    for warning in warnings(&loaded, path) {
        tracing::warn!(warning = warning.one_line(), "Configuration warning");
    }
    let config = loaded.config;
    let enabled = config.reload.watch;
    Ok((config, Watched { seen, enabled }))
}

fn count(shared: &Shared, runtime: &Runtime) {
    let policies = runtime.policies.iter().map(|policy| (&*policy.name, policy.revision.as_str()));
    shared.metrics.reloaded(&runtime.config.revision, policies);
    shared.metrics.verified(runtime.policies.iter().map(|policy| {
        let Verification { asked, differing, .. } = &policy.verification;
        (&*policy.name, [asked.saturating_sub(*differing), *differing])
    }));
}
