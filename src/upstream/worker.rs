//! What one worker keeps about an endpoint, whatever the type of request bodies: load, spare timers, open connections.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use tokio::time::Instant;

use crate::upstream::cluster::EndpointState;
use crate::upstream::watchdog::Watchdog;

/// Exchanges of one worker in flight to one endpoint; one more is refused.
const IN_FLIGHT_MAX: u32 = 16_384;
/// Timers kept for reuse.
const SPARE_WATCHDOGS_MAX: usize = 256;

/// One worker's side of an endpoint.
#[derive(Debug)]
pub(crate) struct WorkerEndpoint {
    index: usize,
    state: Arc<EndpointState>,
    host: HeaderValue,
    in_flight: Cell<u32>,
    watchdogs: RefCell<Vec<Watchdog>>,
}

impl WorkerEndpoint {
    /// This worker's side of `state`, the cluster's endpoint number `index`.
    pub(crate) fn new(index: usize, state: &Arc<EndpointState>) -> Rc<Self> {
        // A copy of the bytes, not of the handle: its reference count is then this worker's own.
        let host = HeaderValue::from_bytes(state.host_header().as_bytes());
        Rc::new(Self {
            index,
            host: host.unwrap_or_else(|_| state.host_header().clone()),
            state: Arc::clone(state),
            in_flight: Cell::new(0),
            watchdogs: RefCell::default(),
        })
    }

    /// Its place in the cluster.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The shared side.
    pub(crate) fn state(&self) -> &Arc<EndpointState> {
        &self.state
    }

    /// The endpoint's authority as a `Host` header.
    pub(crate) fn host(&self) -> HeaderValue {
        self.host.clone()
    }

    /// A timer, used or new.
    pub(crate) fn watchdog(&self, deadline: Instant) -> Watchdog {
        let spare = self.watchdogs.borrow_mut().pop();
        spare.unwrap_or_else(|| Watchdog::new(deadline))
    }

    /// Takes a timer back.
    pub(crate) fn keep(&self, watchdog: Watchdog) {
        let mut watchdogs = self.watchdogs.borrow_mut();
        if watchdogs.len() < SPARE_WATCHDOGS_MAX {
            watchdogs.push(watchdog);
        }
    }
}

/// One exchange in flight, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Rc<WorkerEndpoint>);

impl InFlight {
    /// Counts one more exchange, unless there are too many.
    pub(crate) fn enter(endpoint: &Rc<WorkerEndpoint>) -> Option<Self> {
        let count = endpoint.in_flight.get();
        if count >= IN_FLIGHT_MAX {
            return None;
        }
        endpoint.in_flight.set(count + 1);
        endpoint.state.enter();
        Some(Self(Rc::clone(endpoint)))
    }

    /// The endpoint.
    pub(crate) fn endpoint(&self) -> &Rc<WorkerEndpoint> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get().saturating_sub(1));
        self.0.state.leave();
    }
}

/// An open connection, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection(Rc<WorkerEndpoint>);

impl OpenConnection {
    /// Counts one more connection.
    pub(crate) fn new(endpoint: &Rc<WorkerEndpoint>) -> Self {
        endpoint.state.connection_opened();
        Self(Rc::clone(endpoint))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.state.connection_closed();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::model::{Balance, Endpoint, Retries, Upstream, UpstreamTls};
    use crate::upstream::cluster::Cluster;

    #[test]
    fn exchanges_in_flight_are_bounded_and_counted() {
        let second = Duration::from_secs(1);
        let cluster = Cluster::new(Upstream {
            name: "a".into(),
            endpoints: vec![Endpoint { tls: false, host: "::1".into(), port: 80 }],
            balance: Balance::PowerOfTwo,
            http2: false,
            connect_timeout: second,
            response_timeout: second,
            idle_timeout: second,
            retries: Retries { attempts: 0, budget: 0.0 },
            health: None,
            tls: UpstreamTls::default(),
            preserve_host: false,
            forward_client_certificate: false,
        })
        .unwrap();
        let shared = &cluster.endpoints()[0];
        let endpoint = WorkerEndpoint::new(0, shared);
        assert_eq!(endpoint.host(), "[::1]", "without the scheme's own port");
        let mut held: Vec<_> = (0..IN_FLIGHT_MAX).map(|_| InFlight::enter(&endpoint).unwrap()).collect();
        assert!(InFlight::enter(&endpoint).is_none());
        assert_eq!(shared.in_flight(), IN_FLIGHT_MAX);
        held.pop();
        assert!(InFlight::enter(&endpoint).is_some());
        held.clear();
        assert_eq!(shared.in_flight(), 0);
    }
}
