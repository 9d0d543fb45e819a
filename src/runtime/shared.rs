//! What outlives a reload: counters, key sets, the event log, metrics, and which snapshot is in force.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::audit::log::Log;
use crate::audit::recent::Recent;
use crate::base::clock::Clock;
use crate::identity::resources::Resources;
use crate::limits::memory::Store;
use crate::policy::decide::Decider;
use crate::runtime::beside::queue::Queue;
use crate::runtime::bundles::Bundles;
use crate::runtime::snapshot::{Policy, Runtime};
use crate::telemetry::metrics::Metrics;

/// State of the process, shared by workers and the control runtime.
pub struct Shared {
    /// Time of day.
    pub clock: Arc<dyn Clock>,
    /// Limit counters.
    pub limits: Store,
    /// Key sets and servers of identity providers.
    pub resources: Resources,
    /// Bundles that are fetched.
    pub bundles: Bundles,
    /// Decision events.
    pub audit: Arc<Log>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// What is evaluated beside the requests.
    pub beside: Arc<Queue>,
    current: ArcSwap<InForce>,
    /// The turn in force, to be looked at without touching the snapshot's count.
    turn: AtomicU64,
    history: Mutex<History>,
    /// The last events of each worker, where they are kept.
    recents: Mutex<Vec<Arc<Recent>>>,
}

/// A snapshot and the turn in which it was put in force.
#[derive(Debug)]
pub struct InForce {
    /// Counts up with each reload and rollback, from 1.
    pub generation: u64,
    /// Counts up with each snapshot that is put in force, one with only its credentials read again included: what a worker
    /// has made for itself holds for one turn, deciders as long as their policy is not built again.
    pub turn: u64,
    /// The snapshot.
    pub runtime: Arc<Runtime>,
    /// For the workers to take.
    pub ready: Ready,
}

/// Deciders made before their snapshot comes into force, a set for each worker: to compile a policy and to warm it up takes
/// longer than requests should wait.
#[derive(Debug, Default)]
pub struct Ready(Mutex<Vec<Vec<Decider>>>);

/// Snapshots that were in force, and how the last reload went.
#[derive(Debug, Default)]
struct History {
    earlier: VecDeque<Earlier>,
    last_error: Option<ReloadFailure>,
    loaded_at: Duration,
}

/// A snapshot that can be gone back to.
#[derive(Debug)]
struct Earlier {
    generation: u64,
    runtime: Arc<Runtime>,
}

/// A reload that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadFailure {
    /// When, since the Unix epoch.
    pub at: Duration,
    /// Why, one fault a line.
    pub error: String,
}

/// What `/status` tells of snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadStatus {
    /// When the snapshot in force was put in force, since the Unix epoch.
    pub loaded_at: Duration,
    /// Generations that can be rolled back to, the latest first.
    pub earlier: Vec<u64>,
    /// The last refused reload after that.
    pub last_error: Option<ReloadFailure>,
}

/// The parts of [`Shared`] that are made before the first snapshot.
#[derive(Debug)]
pub struct Foundations {
    /// Time of day.
    pub clock: Arc<dyn Clock>,
    /// Limit counters.
    pub limits: Store,
    /// Key sets and servers of identity providers.
    pub resources: Resources,
    /// Bundles that are fetched.
    pub bundles: Bundles,
    /// Decision events.
    pub audit: Arc<Log>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    /// The shared state with `first` in force.
    pub fn new(foundations: Foundations, first: Arc<Runtime>) -> Self {
        let Foundations { clock, limits, resources, bundles, audit, metrics } = foundations;
        let history = History { loaded_at: clock.now(), ..History::default() };
        Self {
            clock,
            limits,
            resources,
            bundles,
            audit,
            metrics,
            beside: Arc::default(),
            turn: AtomicU64::new(1),
            current: ArcSwap::from_pointee(InForce {
                generation: 1,
                turn: 1,
                runtime: first,
                // The first requests wait for the workers, which make their own at once and beside one another.
                ready: Ready::default(),
            }),
            history: Mutex::new(history),
            recents: Mutex::default(),
        }
    }

    /// The snapshot in force.
    pub fn current(&self) -> Arc<InForce> {
        self.current.load_full()
    }

    /// Its generation.
    pub fn generation(&self) -> u64 {
        self.current.load().generation
    }

    /// The turn in force.
    pub fn turn(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }

    /// Puts `next` in force in one step; the one before can be rolled back to.
    pub(super) fn install(&self, next: Arc<Runtime>) {
        self.install_after(next, None);
    }

    /// As [`Shared::install`], for a snapshot with another bundle: an error of the configuration still stands.
    pub(super) fn install_bundle(&self, next: Arc<Runtime>) {
        let last_error = self.history().last_error.clone();
        self.install_after(next, last_error);
    }

    fn install_after(&self, next: Arc<Runtime>, last_error: Option<ReloadFailure>) {
        let ready = Ready::of(&next);
        let mut history = self.history();
        let former = self.put_in_force(next, ready, &mut history);
        let keep = former.runtime.config.reload.history;
        let earlier = Earlier { generation: former.generation, runtime: Arc::clone(&former.runtime) };
        history.earlier.push_front(earlier);
        history.earlier.truncate(keep);
        history.last_error = last_error;
    }

    /// A ring for the events of one more worker, where the configuration wants them kept.
    pub(super) fn new_recent(&self) -> Option<Arc<Recent>> {
        let current = self.current();
        let bounds = current.runtime.config.admin.as_ref()?.explain?;
        let recent = Arc::new(Recent::new(bounds.count, bounds.bytes.as_usize()));
        self.recents.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&recent));
        Some(recent)
    }

    /// The last events of each worker.
    pub(super) fn recents(&self) -> Vec<Arc<Recent>> {
        self.recents.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A policy by its building, if it is in force or kept for a rollback.
    pub(super) fn policy(&self, built: u64) -> Option<Policy> {
        let current = self.current();
        let history = self.history();
        let earlier = history.earlier.iter().map(|earlier| &*earlier.runtime);
        let mut policies =
            [&*current.runtime].into_iter().chain(earlier).flat_map(|runtime| &runtime.policies);
        policies.find(|policy| policy.built == built).cloned()
    }

    /// The snapshot before this one.
    pub(super) fn earlier(&self) -> Option<Arc<Runtime>> {
        self.history().earlier.front().map(|earlier| Arc::clone(&earlier.runtime))
    }

    /// Puts `earlier`, which is the snapshot before this one renewed, in its place again, and drops this one.
    pub(super) fn roll_back(&self, earlier: Arc<Runtime>) {
        let ready = Ready::of(&earlier);
        let mut history = self.history();
        history.earlier.pop_front();
        self.put_in_force(earlier, ready, &mut history);
    }

    /// Puts `renewed`, which is this snapshot with its credentials read again or with another candidate beside a policy, in its
    /// own place.
    pub(super) fn renew(&self, renewed: Arc<Runtime>) {
        let ready = Ready::of(&renewed);
        // Under the lock of the history, as every change of what is in force.
        let _history = self.history();
        self.swap(renewed, ready, self.generation());
    }

    fn put_in_force(&self, runtime: Arc<Runtime>, ready: Ready, history: &mut History) -> Arc<InForce> {
        let former = self.swap(runtime, ready, self.generation() + 1);
        history.loaded_at = self.clock.now();
        history.last_error = None;
        former
    }

    fn swap(&self, runtime: Arc<Runtime>, ready: Ready, generation: u64) -> Arc<InForce> {
        let turn = self.turn() + 1;
        let former = self.current.swap(Arc::new(InForce { generation, turn, runtime, ready }));
        self.turn.store(turn, Ordering::Release);
        former
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a refused reload.
    pub(super) fn refused(&self, error: String) {
        let failure = ReloadFailure { at: self.clock.now(), error };
        self.history().last_error = Some(failure);
    }

    /// How reloading stands.
    pub fn reload_status(&self) -> ReloadStatus {
        let history = self.history();
        ReloadStatus {
            loaded_at: history.loaded_at,
            earlier: history.earlier.iter().map(|earlier| earlier.generation).collect(),
            last_error: history.last_error.clone(),
        }
    }
}

// === impl Ready ===

impl Ready {
    /// Deciders for all workers on `runtime`. This takes time, on the calling thread.
    fn of(runtime: &Runtime) -> Self {
        let sets = (0..runtime.config.workers).map(|_| deciders(runtime));
        Self(Mutex::new(sets.collect()))
    }

    /// A set that nobody has taken yet.
    pub(super) fn take(&self) -> Option<Vec<Decider>> {
        self.sets().pop()
    }

    /// How many sets nobody has taken yet.
    pub fn left(&self) -> usize {
        self.sets().len()
    }

    fn sets(&self) -> MutexGuard<'_, Vec<Vec<Decider>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A decider for each policy of `runtime`.
pub(super) fn deciders(runtime: &Runtime) -> Vec<Decider> {
    runtime.policies.iter().map(|policy| Decider::new(&policy.program, &policy.rules)).collect()
}
