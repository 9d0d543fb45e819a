//! Replacing the snapshot in force: read, build, test, swap; a bad one is refused and the last good one goes on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::audit::log::Log;
use crate::audit::sink;
use crate::base::clock::Clock;
use crate::config::diagnostic::Diagnostic;
use crate::config::model::{BundleSource, Config, LimitStore, Policy};
use crate::config::{self, Loaded};
use crate::identity::provider;
use crate::identity::resources::{Keeper, Resources};
use crate::limits::memory::Store;
use crate::policy::bundle;
use crate::rego::differential::Verification;
use crate::runtime::build;
use crate::runtime::build_error::{BuildError, BuildErrors};
use crate::runtime::bundles::archive::Archive;
use crate::runtime::bundles::source::Source;
use crate::runtime::bundles::{self, Bundles, Candidates};
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

    /// Puts a fetched bundle in force: the snapshot in force with just this policy built anew. The configuration is not
    /// read again, so that its faults do not hold up the bundle, nor the bundle's faults the configuration.
    pub(super) fn activate(&self, source: &Source, archive: &Archive) -> Result<Activation, BuildErrors> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let running = self.shared.current();
        let policy = source.policy();
        let config = running.runtime.config.policies.get(policy).map(|config| &config.bundle);
        if !matches!(config, Some(BundleSource::Url(settings)) if **settings == *source.settings()) {
            return Ok(Activation::Obsolete);
        }
        let built = running.runtime.policies.iter().find(|built| built.name == *policy);
        let in_force = built.and_then(|built| built.archive.as_ref());
        if in_force.is_some_and(|in_force| in_force.is_same(archive)) {
            source.adopted(archive);
            return Ok(Activation::Known);
        }
        let is_delta = archive.may_be_delta() && bundle::is_delta(&archive.bytes);
        let changed = in_force.filter(|_| is_delta).and_then(|in_force| in_force.changed_by(archive));
        if is_delta && changed.is_none() {
            source.want_whole();
            return Ok(Activation::Unfit);
        }
        let archive = changed.as_ref().unwrap_or(archive);
        match build::with_bundle(&running.runtime, policy, archive) {
            Ok(runtime) => {
                let runtime = Arc::new(runtime);
                self.shared.install_bundle(Arc::clone(&runtime));
                source.activated(archive);
                count(&self.shared, &runtime);
                let built = runtime.policies.iter().find(|built| built.name == *policy);
                Ok(Activation::InForce {
                    revision: built.map(|built| built.revision.clone()).unwrap_or_default(),
                })
            }
            Err(errors) => {
                self.shared.metrics.reload_failed();
                source.refused(
                    archive,
                    errors.to_string().lines().map(|line| line.trim().to_owned()).collect(),
                );
                if is_delta {
                    source.want_whole();
                }
                Err(errors)
            }
        }
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
        self.shared.bundles.adopt(&runtime, &Candidates::default());
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

/// What came of a fetched bundle that is not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Activation {
    /// It is in force.
    InForce {
        /// Its revision.
        revision: String,
    },
    /// It was in force already.
    Known,
    /// The configuration has moved on, and names another.
    Obsolete,
    /// It is a delta to what is not in force; the whole is fetched.
    Unfit,
}

/// Builds a snapshot, and where a fetched bundle is at fault, one of the last good bundle.
fn build(
    config: &Config,
    archives: &mut Candidates,
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
    warnings.extend(loaded.config.policies.values().filter_map(|policy| not_fetched(policy, path)));
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

fn not_fetched(policy: &Policy, path: &Path) -> Option<Diagnostic> {
    let BundleSource::Url(remote) = &policy.bundle else { return None };
    let message = format!(
        "policy `{}`: the bundle `{}` is not fetched here, so its signature, policies and tests are not checked",
        policy.name, remote.shown
    );
    let help = "check it where it is built: `gatewayctl policy check`, `gatewayctl policy test`";
    Some(Diagnostic { file: path.to_owned(), position: None, message, help: Some(help.to_owned()) })
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
