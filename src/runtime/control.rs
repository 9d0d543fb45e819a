//! Replacing the snapshot in force: read, build, test, swap; a bad one is refused and the last good one goes on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::audit::log::Log;
use crate::base::clock::Clock;
use crate::config::{self, Loaded};
use crate::identity::jwt::key_sets::{KeySets, Refresher};
use crate::limits::memory::Store;
use crate::runtime::build::{self, BuildError, BuildErrors};
use crate::runtime::shared::{Foundations, Shared};
use crate::runtime::snapshot::Runtime;
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
    /// One reload at a time.
    turn: Mutex<()>,
}

/// A gateway's state as it starts, and what must be run for it.
#[derive(Debug)]
pub struct Start {
    /// Replaces snapshots.
    pub control: Control,
    /// Keeps key sets fresh; to be run on the control runtime.
    pub refresher: Refresher,
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
        let (key_sets, refresher) = KeySets::new(Arc::clone(&clock));
        let config = read(path, environment)?;
        let runtime = build::build(config, &key_sets, None)?;
        let crate::config::model::LimitStore::Memory { keys } = runtime.config.limits;
        let audit = Arc::new(Log::new(Arc::clone(&metrics), Arc::clone(&clock)));
        let sinks = audit.prepare(&runtime.config.decision_logs);
        audit.install(sinks.map_err(|error| BuildErrors(vec![BuildError::DecisionLog(error)]))?);
        let foundations = Foundations { clock, limits: Store::new(keys), key_sets, audit, metrics };
        let runtime = Arc::new(runtime);
        let shared = Arc::new(Shared::new(foundations, Arc::clone(&runtime)));
        count(&shared, &runtime);
        let control = Self { path: path.to_owned(), environment, shared, turn: Mutex::default() };
        Ok(Start { control, refresher })
    }

    /// The state of the process.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Reads the configuration again and puts it in force. Gives the upstreams that are new and must be health-checked.
    pub fn reload(&self) -> Result<Vec<Arc<Cluster>>, BuildErrors> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.replace();
        if let Err(errors) = &outcome {
            self.shared.metrics.reload_failed();
            self.shared.refused(errors.to_string());
        }
        outcome
    }

    fn replace(&self) -> Result<Vec<Arc<Cluster>>, BuildErrors> {
        let config = read(&self.path, self.environment)?;
        let former = self.shared.current();
        let runtime = build::build(config, &self.shared.key_sets, Some(&former.runtime))?;
        let sinks = self.shared.audit.prepare(&runtime.config.decision_logs);
        let sinks = sinks.map_err(|error| BuildErrors(vec![BuildError::DecisionLog(error)]))?;
        let crate::config::model::LimitStore::Memory { keys } = runtime.config.limits;
        let new = runtime.clusters.iter().filter(|cluster| !cluster.is_in(&former.runtime.clusters));
        let new = new.cloned().collect();
        let runtime = Arc::new(runtime);
        self.shared.limits.set_keys(keys);
        self.shared.audit.install(sinks);
        self.shared.install(Arc::clone(&runtime));
        count(&self.shared, &runtime);
        Ok(new)
    }

    /// Puts the snapshot before this one in force again. `false` where there is none.
    pub fn roll_back(&self) -> bool {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(runtime) = self.shared.roll_back() else { return false };
        // The earlier snapshot's logs could be opened once; if they cannot now, the running ones go on.
        if let Ok(sinks) = self.shared.audit.prepare(&runtime.config.decision_logs) {
            self.shared.audit.install(sinks);
        }
        count(&self.shared, &runtime);
        true
    }
}

fn read(path: &Path, environment: Environment) -> Result<crate::config::model::Config, BuildErrors> {
    match config::load(path, &environment) {
        Ok(Loaded { config, warnings, .. }) => {
            for warning in warnings {
                tracing::warn!(%warning, "Configuration warning");
            }
            Ok(config)
        }
        Err(errors) => Err(BuildErrors(vec![BuildError::Config(errors)])),
    }
}

fn count(shared: &Shared, runtime: &Runtime) {
    let policies = runtime.policies.iter().map(|policy| (&*policy.name, policy.revision.as_str()));
    shared.metrics.reloaded(&runtime.revision, policies);
}
