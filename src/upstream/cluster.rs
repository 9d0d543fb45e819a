//! What all workers share about an upstream: settings, endpoints with health and load, TLS, counters.
//!
//! A request touches only its endpoint's load counter here; everything else changes rarely. No lock is taken on the
//! way of a request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use http::HeaderValue;
use rustls::pki_types::ServerName;

use crate::config::model::{Endpoint, Name, Upstream};
use crate::upstream::balance::stable_hash;
use crate::upstream::error::ClusterError;
use crate::upstream::health;
use crate::upstream::resolve::Addresses;
use crate::upstream::tls::{self, ClientTls};

/// One upstream, shared by all workers. It survives a reload when its settings and files are unchanged.
#[derive(Debug)]
pub struct Cluster {
    settings: Upstream,
    files: [u8; 32],
    tls: Option<ClientTls>,
    endpoints: Vec<Arc<EndpointState>>,
    turn: AtomicUsize,
    watched: AtomicBool,
    counters: Counters,
}

/// One endpoint as all workers see it.
#[derive(Debug)]
pub struct EndpointState {
    in_flight: Padded<AtomicU32>,
    healthy: AtomicBool,
    settings: Endpoint,
    host: HeaderValue,
    server_name: Option<ServerName<'static>>,
    hash: u64,
    addresses: Addresses,
    open_connections: AtomicU32,
}

/// Alone on its cache lines: all workers write it for each request.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// Events of a cluster since it was built; all are rare, none is counted for each request.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connects: AtomicU64,
    pub(crate) connect_failures: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) retries_refused: AtomicU64,
    pub(crate) stale_connections: AtomicU64,
    pub(crate) timeouts: AtomicU64,
    pub(crate) invalid_responses: AtomicU64,
}

/// A reading of a cluster's counters, each since the cluster was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClusterStats {
    /// Connections made.
    pub connects: u64,
    /// Connections that could not be made, timeouts included.
    pub connect_failures: u64,
    /// Retries taken from the budget.
    pub retries: u64,
    /// Retries that the budget refused.
    pub retries_refused: u64,
    /// Kept connections that turned out to be closed when used again.
    pub stale_connections: u64,
    /// Responses that did not come, or stalled.
    pub timeouts: u64,
    /// Responses that were not valid HTTP, or ambiguous.
    pub invalid_responses: u64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Cluster {
    /// Builds a cluster, reading the certificate files its settings name.
    pub fn new(settings: Upstream) -> Result<Arc<Self>, ClusterError> {
        let files = tls::files_digest(&settings.tls);
        let tls = ClientTls::build(&settings)?;
        let endpoints = settings
            .endpoints
            .iter()
            .map(|endpoint| EndpointState::new(&settings, endpoint).map(Arc::new))
            .collect::<Result<_, _>>()?;
        Ok(Arc::new(Self {
            settings,
            files,
            tls,
            endpoints,
            turn: AtomicUsize::new(0),
            watched: AtomicBool::new(false),
            counters: Counters::default(),
        }))
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.settings.name
    }

    /// Its settings.
    pub fn settings(&self) -> &Upstream {
        &self.settings
    }

    /// Its endpoints, in the order of the settings.
    pub fn endpoints(&self) -> &[Arc<EndpointState>] {
        &self.endpoints
    }

    /// Its counters.
    pub fn stats(&self) -> ClusterStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ClusterStats {
            connects: read(&self.counters.connects),
            connect_failures: read(&self.counters.connect_failures),
            retries: read(&self.counters.retries),
            retries_refused: read(&self.counters.retries_refused),
            stale_connections: read(&self.counters.stale_connections),
            timeouts: read(&self.counters.timeouts),
            invalid_responses: read(&self.counters.invalid_responses),
        }
    }

    /// Checks the endpoints' health for as long as it is polled. It ends by itself when the cluster is dropped, and at
    /// once when no check is configured or another task checks already, so that it can be spawned after each reload.
    /// It needs a runtime with time and IO, best not a worker's.
    pub fn health_task(self: &Arc<Self>) -> impl Future<Output = ()> + Send + 'static + use<> {
        health::watch(Arc::downgrade(self))
    }

    /// Whether a task checks its health.
    pub(crate) fn watched(&self) -> &AtomicBool {
        &self.watched
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn tls(&self) -> Option<&ClientTls> {
        self.tls.as_ref()
    }

    /// The next number in the round robin of all workers.
    pub(crate) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether a cluster built from `settings` now would be the same.
    fn is_current(&self, settings: &Upstream) -> bool {
        self.settings == *settings && self.files == tls::files_digest(&settings.tls)
    }
}

impl EndpointState {
    fn new(upstream: &Upstream, settings: &Endpoint) -> Result<Self, ClusterError> {
        let authority = authority(settings);
        let host = HeaderValue::from_str(&authority).map_err(|_| ClusterError::Authority {
            upstream: upstream.name.clone(),
            authority: authority.clone(),
        })?;
        let server_name = settings.tls.then(|| tls::server_name(upstream, &settings.host)).transpose()?;
        Ok(Self {
            in_flight: Padded::default(),
            healthy: AtomicBool::new(true),
            settings: settings.clone(),
            host,
            server_name,
            hash: stable_hash(authority.as_bytes()),
            addresses: Addresses::new(&settings.host, settings.port),
            open_connections: AtomicU32::new(0),
        })
    }

    /// Its settings.
    pub fn settings(&self) -> &Endpoint {
        &self.settings
    }

    /// Host and port as in a `Host` header; the scheme's own port is left out.
    pub fn authority(&self) -> &str {
        self.host.to_str().unwrap_or_default()
    }

    /// Whether requests are sent to it. Always, without a health check.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Exchanges and tunnels in flight, of all workers.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.0.load(Ordering::Relaxed)
    }

    /// Open connections of all workers, idle ones included.
    pub fn open_connections(&self) -> u32 {
        self.open_connections.load(Ordering::Relaxed)
    }

    pub(crate) fn host_header(&self) -> &HeaderValue {
        &self.host
    }

    pub(crate) fn server_name(&self) -> Option<&ServerName<'static>> {
        self.server_name.as_ref()
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Marks it up or down; `true` if that is a change.
    pub(crate) fn set_healthy(&self, healthy: bool) -> bool {
        self.healthy.swap(healthy, Ordering::Relaxed) != healthy
    }

    pub(crate) fn enter(&self) {
        self.in_flight.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn leave(&self) {
        self.in_flight.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn connection_opened(&self) {
        self.open_connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connection_closed(&self) {
        self.open_connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Host and port, IPv6 in brackets, without the scheme's own port (RFC 9110 section 4.2.3).
fn authority(endpoint: &Endpoint) -> String {
    let host =
        if endpoint.host.contains(':') { format!("[{}]", endpoint.host) } else { endpoint.host.clone() };
    let own_port = if endpoint.tls { 443 } else { 80 };
    if endpoint.port == own_port { host } else { format!("{host}:{}", endpoint.port) }
}

/// An upgraded connection, counted as in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct Tunnel(Arc<EndpointState>);

impl Tunnel {
    pub(crate) fn new(endpoint: &Arc<EndpointState>) -> Self {
        endpoint.enter();
        Self(Arc::clone(endpoint))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// All clusters of a configuration, by name.
#[derive(Debug, Default, Clone)]
pub struct Clusters(BTreeMap<Name, Arc<Cluster>>);

impl Clusters {
    /// The clusters of `upstreams`; those of `previous` with equal settings and files are kept as they are, with their
    /// health. All faults are reported at once.
    pub fn build(upstreams: &BTreeMap<Name, Upstream>, previous: &Self) -> Result<Self, Vec<ClusterError>> {
        let mut clusters = BTreeMap::new();
        let mut errors = Vec::new();
        for (name, settings) in upstreams {
            let kept = previous.get(name).filter(|cluster| cluster.is_current(settings)).map(Arc::clone);
            match kept.map_or_else(|| Cluster::new(settings.clone()), Ok) {
                Ok(cluster) => drop(clusters.insert(Name::clone(name), cluster)),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(Self(clusters)) } else { Err(errors) }
    }

    /// The cluster of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.0.values()
    }
}
