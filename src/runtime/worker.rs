//! One worker's own state: what a request needs without touching another core.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::audit::recorder::Recorder;
use crate::base::id::{DecisionId, DecisionIds};
use crate::contract::identity::Identity;
use crate::identity::cache::WorkerCache;
use crate::policy::decide::Decider;
use crate::runtime::beside::outbox::{Lookout, Outbox};
use crate::runtime::outside::Asker;
use crate::runtime::shared::{self, InForce, Shared};
use crate::runtime::snapshot::{Api, Route, Runtime};
use crate::telemetry::metrics::{ListenerId, PolicyId, RequestSeries, UpstreamId, WorkerMetrics};
use crate::upstream::body::RequestBody;
use crate::upstream::pool::Pools;

/// A worker thread's state.
#[derive(Debug)]
pub struct Worker<B: RequestBody> {
    /// State of the process.
    pub shared: Arc<Shared>,
    /// Writes decision events.
    pub recorder: Recorder,
    /// What is evaluated again beside the requests.
    pub outbox: Outbox,
    /// Counts.
    pub metrics: WorkerMetrics,
    /// Connections to upstreams.
    pub pools: Pools<B>,
    /// Proven identities.
    pub identities: WorkerCache,
    ids: RefCell<DecisionIds>,
    local: RefCell<Rc<Local>>,
    draining: Cell<bool>,
}

/// A snapshot as one worker uses it, with evaluators and counters of its own.
#[derive(Debug)]
pub struct Local {
    /// The identity of nobody, shared by all anonymous requests.
    pub anonymous: Arc<Identity>,
    turn: u64,
    runtime: Arc<Runtime>,
    /// Shared with the snapshot before, where the policy is the same: what they remember is still right.
    deciders: Vec<Rc<RefCell<Decider>>>,
    /// By policy; shared as the deciders are, with their connections.
    askers: Vec<Option<Rc<Asker>>>,
    lookouts: Vec<Option<Lookout>>,
    series: Vec<ListenerSeries>,
    policies: Vec<PolicyId>,
    upstreams: Vec<(Arc<str>, UpstreamId)>,
}

#[derive(Debug)]
struct ListenerSeries {
    listener: ListenerId,
    unrouted: RequestSeries,
    apis: Vec<RequestSeries>,
}

// === impl Worker ===

impl<B: RequestBody> Worker<B> {
    /// A worker on the snapshot in force.
    pub fn new(shared: Arc<Shared>) -> Self {
        let local = Rc::new(Local::new(&shared, &shared.current(), None));
        Self {
            recorder: Recorder::new(Arc::clone(&shared.audit), shared.new_recent()),
            outbox: Outbox::new(Arc::clone(&shared.beside)),
            metrics: shared.metrics.worker(),
            pools: Pools::new(),
            identities: WorkerCache::before(Arc::clone(&shared.resources.shelf)),
            ids: RefCell::new(DecisionIds::new()),
            local: RefCell::new(local),
            draining: Cell::new(false),
            shared,
        }
    }

    /// The snapshot in force, in this worker's form. A request asks once and keeps it.
    pub fn local(&self) -> Rc<Local> {
        let local = Rc::clone(&self.local.borrow());
        if local.turn == self.shared.turn() {
            return local;
        }
        let in_force = self.shared.current();
        self.pools.retain(&in_force.runtime.clusters);
        let next = Rc::new(Local::new(&self.shared, &in_force, Some(&local)));
        *self.local.borrow_mut() = Rc::clone(&next);
        next
    }

    /// Time since the Unix epoch.
    pub fn now(&self) -> Duration {
        self.shared.clock.now()
    }

    /// A fresh decision id.
    pub fn next_id(&self, now: Duration) -> DecisionId {
        self.ids.borrow_mut().next(now)
    }

    /// No new work: connections end after the request they are in.
    pub fn drain(&self) {
        self.draining.set(true);
    }

    /// Whether the worker is draining.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }
}

// === impl Local ===

impl Local {
    fn new(shared: &Shared, in_force: &InForce, former: Option<&Self>) -> Self {
        let runtime = Arc::clone(&in_force.runtime);
        let deciders = in_force.ready.take().unwrap_or_else(|| shared::deciders(&runtime));
        let deciders = runtime.policies.iter().zip(deciders).map(|(policy, new)| {
            let known = former.and_then(|former| former.deciders.get(former.index_of(policy.built)?));
            known.map_or_else(|| Rc::new(RefCell::new(new)), Rc::clone)
        });
        let metrics = &shared.metrics;
        let series = runtime.listeners.iter().map(|listener| {
            let name = &listener.config.name;
            ListenerSeries {
                listener: metrics.listener(name),
                unrouted: metrics.series(name, None),
                apis: runtime.apis.iter().map(|api| metrics.series(name, Some(&api.name))).collect(),
            }
        });
        let upstreams = runtime.clusters.iter().map(|cluster| {
            let name = Arc::clone(cluster.name());
            let id = metrics.upstream(&name);
            (name, id)
        });
        let askers = runtime.policies.iter().map(|policy| {
            let outbound = policy.outbound.as_ref()?;
            let known = former.and_then(|former| former.askers.get(former.index_of(policy.built)?)?.as_ref());
            Some(known.map_or_else(|| Rc::new(Asker::new(Arc::clone(outbound))), Rc::clone))
        });
        Self {
            turn: in_force.turn,
            askers: askers.collect(),
            anonymous: Arc::new(Identity::anonymous()),
            deciders: deciders.collect(),
            series: series.collect(),
            lookouts: runtime
                .policies
                .iter()
                .map(|policy| Lookout::new(policy, metrics.policy(&policy.name)))
                .collect(),
            policies: runtime.policies.iter().map(|policy| metrics.policy(&policy.name)).collect(),
            upstreams: upstreams.collect(),
            runtime,
        }
    }

    /// The snapshot.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The API and route at these indices.
    pub fn resolve(&self, api: usize, route: usize) -> Option<(&Api, &Route)> {
        let api = self.runtime.apis.get(api)?;
        Some((api, api.routes.get(route)?))
    }

    /// The policy at `index`, to be asked.
    pub fn decider(&self, index: usize) -> Option<&RefCell<Decider>> {
        self.deciders.get(index).map(|decider| &**decider)
    }

    /// The index of the policy of this building.
    fn index_of(&self, built: u64) -> Option<usize> {
        self.runtime.policies.iter().position(|policy| policy.built == built)
    }

    /// The way outside of the policy at `index`, if it has one.
    pub fn outbound(&self, index: usize) -> Option<&Asker> {
        self.askers.get(index)?.as_deref()
    }

    /// What of the policy at `index` is looked at again beside the requests.
    pub fn lookout(&self, index: usize) -> Option<&Lookout> {
        self.lookouts.get(index)?.as_ref()
    }

    /// Whether the API's policy is asked again when the upstream has answered.
    pub fn asks_about_responses(&self, api: usize) -> bool {
        let policy = self.runtime.apis.get(api).and_then(|api| self.runtime.policies.get(api.policy));
        policy.is_some_and(|policy| policy.rules.response.is_some())
    }

    /// The series of requests to `api` on the listener at `index`.
    pub fn series(&self, listener: usize, api: Option<usize>) -> Option<RequestSeries> {
        let series = self.series.get(listener)?;
        api.map_or(Some(series.unrouted), |api| series.apis.get(api).copied())
    }

    /// The counters of the listener at `index`.
    pub fn listener_series(&self, listener: usize) -> Option<ListenerId> {
        self.series.get(listener).map(|series| series.listener)
    }

    /// The counters of the policy at `index`.
    pub fn policy_series(&self, policy: usize) -> Option<PolicyId> {
        self.policies.get(policy).copied()
    }

    /// The counters of an upstream.
    pub fn upstream_series(&self, name: &str) -> Option<UpstreamId> {
        self.upstreams.iter().find(|(known, _)| **known == *name).map(|(_, id)| *id)
    }
}
