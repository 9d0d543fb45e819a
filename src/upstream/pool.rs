//! One worker's connections to one cluster, and how a request is sent over them: choice, tries, retries.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use http::{Request, Response, StatusCode};
use tokio::time::{Instant, timeout_at};

use crate::config::model::Balance;
use crate::upstream::balance::{self, Candidates, Dice};
use crate::upstream::body::{RequestBody, Transport, UpstreamBody};
use crate::upstream::budget::RetryBudget;
use crate::upstream::cluster::{Cluster, Clusters, Counters};
use crate::upstream::connect::Offer;
use crate::upstream::connections::{Connections, Ready};
use crate::upstream::error::{ErrorClass, Unsendable, UpstreamError};
use crate::upstream::framing;
use crate::upstream::http1::Failed;
use crate::upstream::prepare::{self, Slot};
use crate::upstream::wait::HeadWait;
use crate::upstream::worker::{InFlight, WorkerEndpoint};

/// What one request asks of the pool beyond the request itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct SendOptions {
    /// No response head by then: [`UpstreamError::DeadlineExceeded`]. Retries end there too; the response's body is
    /// not bound by it.
    pub deadline: Option<Instant>,
    /// Overrides the upstream's `timeouts.response`.
    pub response_timeout: Option<Duration>,
    /// The request asks to switch protocols (WebSocket): it goes over HTTP/1.1, and a 101 is accepted.
    pub upgrade: bool,
}

/// A response from upstream. [`UpstreamBody`] also tells the endpoint and the number of tries; after a 101,
/// `hyper::upgrade::on(response)` gives the tunnel.
pub type Reply = Response<UpstreamBody>;

/// One worker's pool for one cluster. To be used inside a `LocalSet`.
#[derive(Debug)]
pub struct Pool<B: RequestBody> {
    cluster: Arc<Cluster>,
    endpoints: Vec<Rc<Connections<B>>>,
    budget: RefCell<RetryBudget>,
    dice: Dice,
}

impl<B: RequestBody> Pool<B> {
    /// An empty pool.
    pub fn new(cluster: Arc<Cluster>) -> Rc<Self> {
        let endpoints = cluster
            .endpoints()
            .iter()
            .enumerate()
            .map(|(index, endpoint)| Connections::new(&cluster, WorkerEndpoint::new(index, endpoint)))
            .collect();
        let budget = RetryBudget::new(cluster.settings().retries.budget, Instant::now());
        Rc::new(Self { cluster, endpoints, budget: RefCell::new(budget), dice: Dice::new() })
    }

    /// The cluster it connects to.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Sends `request` (origin-form target, hop-by-hop fields already removed) and waits for the response's head.
    /// `Host` is set to the endpoint's authority unless the upstream says `preserve_host`.
    ///
    /// It is tried again, at another endpoint where there is one and within the retry budget: when nothing of it was
    /// sent, whatever its method; and on 502, 503, 504, a broken connection or a timeout, if its method is idempotent
    /// and its body can be copied.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the exchange; its connection is closed, not reused.
    pub fn send(
        &self,
        request: Request<B>,
        options: &SendOptions,
    ) -> impl Future<Output = Result<Reply, UpstreamError>> {
        let spare = request.method().is_idempotent().then(|| prepare::copy(&request)).flatten();
        self.send_repeatable(request, move || spare.as_ref().and_then(prepare::copy), options)
    }

    /// As [`Self::send`], for a caller that can make the request again: no copy of it is made beforehand. `again` is
    /// asked only where a request with this method may be repeated, and says `None` if its body cannot be.
    ///
    /// # Cancel safety
    /// As [`Self::send`].
    // Not `async fn`: that would hold, and move, the request twice.
    pub fn send_repeatable(
        &self,
        request: Request<B>,
        again: impl Fn() -> Option<Request<B>>,
        options: &SendOptions,
    ) -> impl Future<Output = Result<Reply, UpstreamError>> {
        let sendable = prepare::check(&request);
        let idempotent = request.method().is_idempotent();
        let key = self.hash_key(&request);
        let mut slot = Some(prepare::wrap(request));
        async move {
            sendable.map_err(UpstreamError::Unsendable)?;
            self.budget.borrow_mut().deposit();
            let again = || if idempotent { again().map(prepare::wrap) } else { None };
            let mut tried = Candidates::new();
            let mut connections = self.choose(key, &tried).ok_or(UpstreamError::NoHealthyEndpoint)?;
            loop {
                tried.push(connections.worker().index());
                let outcome = self.attempt(connections, &mut slot, &again, options, tried.len()).await;
                if outcome.as_ref().is_ok_and(|reply| !is_retryable(reply.status())) {
                    return outcome;
                }
                if may_try_again(&outcome)
                    && let Some(next) = self.next_try(key, &tried, options.deadline)
                    && fill(&mut slot, &again)
                    && self.take_retry()
                {
                    connections = next;
                } else {
                    self.count(&outcome);
                    return outcome;
                }
            }
        }
    }

    /// Where to try once more, if attempts and time are left.
    fn next_try(
        &self,
        key: Option<u64>,
        tried: &[usize],
        deadline: Option<Instant>,
    ) -> Option<&Rc<Connections<B>>> {
        let attempts = usize::try_from(self.cluster.settings().retries.attempts).unwrap_or(usize::MAX);
        let in_time = deadline.is_none_or(|deadline| Instant::now() < deadline);
        if tried.len() <= attempts && in_time { self.choose(key, tried) } else { None }
    }

    /// Takes a retry out of the budget, if there is one.
    fn take_retry(&self) -> bool {
        let counters = self.cluster.counters();
        let granted = self.budget.borrow_mut().withdraw(Instant::now());
        Counters::add(if granted { &counters.retries } else { &counters.retries_refused });
        granted
    }

    fn count(&self, outcome: &Result<Reply, UpstreamError>) {
        let counters = self.cluster.counters();
        match outcome.as_ref().err().map(UpstreamError::class) {
            Some(ErrorClass::Timeout) => Counters::add(&counters.timeouts),
            Some(ErrorClass::BadGateway) => Counters::add(&counters.invalid_responses),
            Some(ErrorClass::Unavailable | ErrorClass::Client | ErrorClass::Gateway) | None => {}
        }
    }

    /// One try at one endpoint. A kept connection that turns out to be closed is no try: the next one is taken. The
    /// request is back in its slot if not a byte of it was sent.
    async fn attempt(
        &self,
        connections: &Rc<Connections<B>>,
        slot: &mut Slot<B>,
        again: &impl Fn() -> Slot<B>,
        options: &SendOptions,
        tries: usize,
    ) -> Result<Reply, UpstreamError> {
        let offer = if options.upgrade { Offer::Http1Only } else { Offer::Configured };
        let mut may_reuse = true;
        loop {
            let in_flight = InFlight::enter(connections.worker()).ok_or(UpstreamError::Overloaded)?;
            // The clock is read once for a request that finds a connection.
            let mut now = Instant::now();
            let existing = if may_reuse { connections.existing(offer, now) } else { None };
            let kept = existing.is_some();
            let ready = if let Some(ready) = existing {
                ready
            } else {
                let opened = open(connections, offer, options.deadline).await?;
                now = Instant::now();
                opened
            };
            let failed = match self.exchange(ready, slot, in_flight, now, options).await {
                Ok(mut reply) => {
                    reply.body_mut().set_tries(tries);
                    return Ok(reply);
                }
                Err(failed) => failed,
            };
            if kept && slot.is_some() {
                // Not a byte of it was sent.
            } else if failed.stale && may_reuse && fill(slot, again) {
                may_reuse = false;
            } else {
                return Err(failed.error);
            }
            Counters::add(&self.cluster.counters().stale_connections);
        }
    }

    /// One exchange over one connection.
    async fn exchange(
        &self,
        ready: Ready<B>,
        slot: &mut Slot<B>,
        in_flight: InFlight,
        started: Instant,
        options: &SendOptions,
    ) -> Result<Reply, Failed> {
        let unsendable = |reason: Unsendable| Failed::new(UpstreamError::Unsendable(reason));
        let worker = in_flight.endpoint();
        let settings = self.cluster.settings();
        let host = (!settings.preserve_host).then(|| worker.host());
        let timeout = options.response_timeout.unwrap_or(settings.response_timeout);
        let upload = slot.as_ref().and_then(|request| request.body().upload());
        let mut wait = HeadWait::new(worker, started, timeout, options.deadline, upload);
        let (response, transport) = match ready {
            Ready::Http1(connection) => {
                prepare::for_http1(slot.as_mut(), host).map_err(unsendable)?;
                let (response, connection) = connection.exchange(slot, &mut wait).await?;
                // A connection whose response is refused is dropped here, which closes it.
                check(&response, options)?;
                let transport = connection.into_transport(response.status(), &wait);
                (response, transport)
            }
            Ready::Http2(place) => {
                let tls = worker.state().settings().tls;
                prepare::for_http2(slot.as_mut(), tls, host).map_err(unsendable)?;
                let (response, hold) = place.exchange(slot, &mut wait).await?;
                check(&response, options)?;
                (response, Transport::Stream(hold))
            }
        };
        let watchdog = wait.take_watchdog();
        drop(wait);
        Ok(response.map(|incoming| UpstreamBody::new(incoming, transport, timeout, watchdog, in_flight)))
    }

    /// An endpoint that is healthy and, if there is such a one, not `tried` yet.
    fn choose(&self, key: Option<u64>, tried: &[usize]) -> Option<&Rc<Connections<B>>> {
        let all = self.cluster.endpoints();
        let healthy = |index: &usize| all.get(*index).is_some_and(|endpoint| endpoint.is_healthy());
        if let [only] = self.endpoints.as_slice() {
            return healthy(&0).then_some(only);
        }
        let mut candidates: Candidates =
            (0..all.len()).filter(healthy).filter(|index| !tried.contains(index)).collect();
        if candidates.is_empty() {
            candidates = (0..all.len()).filter(healthy).collect();
        }
        let index = match (&self.cluster.settings().balance, key) {
            (Balance::PowerOfTwo, _) => balance::power_of_two(&candidates, &self.dice, |index| {
                all.get(index).map_or(u32::MAX, |endpoint| endpoint.in_flight())
            }),
            (Balance::Hash(_), Some(key)) => balance::rendezvous(&candidates, key, |index| {
                all.get(index).map_or(0, |endpoint| endpoint.hash())
            }),
            (Balance::RoundRobin, _) | (Balance::Hash(_), None) => {
                balance::round_robin(&candidates, self.cluster.next_turn())
            }
        };
        self.endpoints.get(index?)
    }

    fn hash_key(&self, request: &Request<B>) -> Option<u64> {
        match &self.cluster.settings().balance {
            Balance::Hash(header) => {
                request.headers().get(header).map(|value| balance::stable_hash(value.as_bytes()))
            }
            Balance::PowerOfTwo | Balance::RoundRobin => None,
        }
    }
}

/// Opens a connection within the connect timeout and the request's deadline.
async fn open<B: RequestBody>(
    connections: &Rc<Connections<B>>,
    offer: Offer,
    deadline: Option<Instant>,
) -> Result<Ready<B>, UpstreamError> {
    // Boxed: it is rare, and would make the future of every request large.
    let opening = Box::pin(connections.open(offer));
    match deadline {
        None => opening.await,
        Some(deadline) => timeout_at(deadline, opening).await.unwrap_or(Err(UpstreamError::DeadlineExceeded)),
    }
}

/// Refuses a response that must not be passed on.
fn check<R>(response: &Response<R>, options: &SendOptions) -> Result<(), Failed> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && !options.upgrade {
        return Err(Failed::new(UpstreamError::UnexpectedUpgrade));
    }
    if !framing::is_unambiguous(response.status(), response.headers()) {
        return Err(Failed::new(UpstreamError::AmbiguousFraming));
    }
    Ok(())
}

/// Whether another try could do better.
fn may_try_again(outcome: &Result<Reply, UpstreamError>) -> bool {
    match outcome {
        Ok(reply) => is_retryable(reply.status()),
        Err(UpstreamError::DeadlineExceeded) => false,
        Err(error) => match error.class() {
            ErrorClass::Unavailable | ErrorClass::BadGateway | ErrorClass::Timeout => true,
            ErrorClass::Client | ErrorClass::Gateway => false,
        },
    }
}

/// Makes sure that there is a request to send: the one that was not sent, or another like it.
fn fill<B: RequestBody>(slot: &mut Slot<B>, again: &impl Fn() -> Slot<B>) -> bool {
    if slot.is_none() {
        *slot = again();
    }
    slot.is_some()
}

/// Statuses that say that the upstream, or one behind it, could not do it now.
fn is_retryable(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// One worker's pools, found by cluster.
#[derive(Debug)]
pub struct Pools<B: RequestBody> {
    // A pool holds its cluster, so that an address cannot come to mean another.
    by_address: RefCell<HashMap<usize, Rc<Pool<B>>>>,
}

impl<B: RequestBody> Pools<B> {
    /// None yet.
    pub fn new() -> Self {
        Self { by_address: RefCell::new(HashMap::new()) }
    }

    /// The pool for `cluster`, made when first asked for.
    pub fn get(&self, cluster: &Arc<Cluster>) -> Rc<Pool<B>> {
        let address = Arc::as_ptr(cluster).addr();
        let mut pools = self.by_address.borrow_mut();
        Rc::clone(pools.entry(address).or_insert_with(|| Pool::new(Arc::clone(cluster))))
    }

    /// Drops the pools of clusters that are not among `current`; exchanges in flight go on.
    pub fn retain(&self, current: &Clusters) {
        let is_current =
            |pool: &Rc<Pool<B>>| current.iter().any(|cluster| Arc::ptr_eq(cluster, pool.cluster()));
        self.by_address.borrow_mut().retain(|_, pool| is_current(pool));
    }
}

impl<B: RequestBody> Default for Pools<B> {
    fn default() -> Self {
        Self::new()
    }
}
