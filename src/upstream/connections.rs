//! One worker's connections to one endpoint: idle HTTP/1.1 ones, shared HTTP/2 ones, and how new ones are made.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use crate::upstream::body::RequestBody;
use crate::upstream::cluster::Cluster;
use crate::upstream::connect::{self, Offer, Protocol};
use crate::upstream::error::UpstreamError;
use crate::upstream::http1::Http1;
use crate::upstream::http2::{Http2, Place, STREAMS_MAX};
use crate::upstream::watchdog::after;
use crate::upstream::worker::WorkerEndpoint;

/// Idle HTTP/1.1 connections kept; further ones are closed when their response ends.
const IDLE_MAX: usize = 1_024;
/// HTTP/2 connections; with all their streams taken the endpoint is overloaded.
const HTTP2_CONNECTIONS_MAX: usize = 32;
/// The shortest and the longest time between two sweeps of idle connections.
const SWEEP_EVERY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(30));

/// One worker's connections to one endpoint.
#[derive(Debug)]
pub(crate) struct Connections<B: RequestBody> {
    cluster: Arc<Cluster>,
    worker: Rc<WorkerEndpoint>,
    me: Weak<Self>,
    // The last one used is on top: under little load the others grow old and are closed.
    idle: RefCell<Vec<Idle<B>>>,
    http2: RefCell<Vec<Rc<Http2<B>>>>,
    opening_http2: Cell<bool>,
    opened_http2: Notify,
    speaks_http1: Cell<bool>,
    sweeping: Cell<bool>,
    // When the last exchange began. A connection counts as idle since then, which is early rather than late, and saves
    // reading the clock when it is given back.
    last_use: Cell<Instant>,
}

#[derive(Debug)]
struct Idle<B: RequestBody> {
    connection: Box<Http1<B>>,
    since: Instant,
}

/// A connection that can take an exchange now.
#[derive(Debug)]
pub(crate) enum Ready<B: RequestBody> {
    /// An HTTP/1.1 connection, taken out of the pool.
    Http1(Box<Http1<B>>),
    /// A place on a shared HTTP/2 connection.
    Http2(Place<B>),
}

/// Resets `opening_http2` even when the opener is cancelled, so that those who wait for it go on.
struct Opening<'a, B: RequestBody>(&'a Connections<B>);

impl<B: RequestBody> Drop for Opening<'_, B> {
    fn drop(&mut self) {
        self.0.opening_http2.set(false);
        self.0.opened_http2.notify_waiters();
    }
}

impl<B: RequestBody> Connections<B> {
    /// No connection yet.
    pub(crate) fn new(cluster: &Arc<Cluster>, worker: Rc<WorkerEndpoint>) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            cluster: Arc::clone(cluster),
            worker,
            me: Weak::clone(me),
            idle: RefCell::default(),
            http2: RefCell::default(),
            opening_http2: Cell::new(false),
            opened_http2: Notify::new(),
            speaks_http1: Cell::new(!cluster.settings().http2),
            sweeping: Cell::new(false),
            last_use: Cell::new(Instant::now()),
        })
    }

    /// This worker's side of the endpoint.
    pub(crate) fn worker(&self) -> &Rc<WorkerEndpoint> {
        &self.worker
    }

    /// A connection that is open already, without waiting.
    pub(crate) fn existing(&self, offer: Offer, now: Instant) -> Option<Ready<B>> {
        self.last_use.set(now);
        if offer == Offer::Configured && !self.speaks_http1.get() {
            return self.place().map(Ready::Http2);
        }
        let mut idle = self.idle.borrow_mut();
        let last = idle.pop()?;
        if now.saturating_duration_since(last.since) < self.idle_timeout() {
            return Some(Ready::Http1(last.connection));
        }
        // All below it are older still.
        idle.clear();
        None
    }

    /// A new connection, or a place on one that another request has just opened.
    pub(crate) async fn open(&self, offer: Offer) -> Result<Ready<B>, UpstreamError> {
        if offer == Offer::Http1Only || self.speaks_http1.get() {
            return self.connect(offer).await;
        }
        let deadline = after(Instant::now(), self.cluster.settings().connect_timeout);
        loop {
            if let Some(place) = self.place() {
                return Ok(Ready::Http2(place));
            }
            if self.http2.borrow().len() >= HTTP2_CONNECTIONS_MAX {
                return Err(UpstreamError::Overloaded);
            }
            if self.speaks_http1.get() || !self.opening_http2.replace(true) {
                let _opening = Opening(self);
                return self.connect(offer).await;
            }
            timeout_at(deadline, self.opened_http2.notified())
                .await
                .map_err(|_elapsed| UpstreamError::ConnectTimeout)?;
        }
    }

    /// Takes an HTTP/1.1 connection back after a complete exchange.
    pub(crate) fn keep(&self, connection: Box<Http1<B>>) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= IDLE_MAX {
            return;
        }
        idle.push(Idle { connection, since: self.last_use.get() });
        drop(idle);
        self.sweep_while_idle();
    }

    async fn connect(&self, offer: Offer) -> Result<Ready<B>, UpstreamError> {
        let (stream, protocol) = connect::open(&self.cluster, self.worker.state(), offer).await?;
        if offer == Offer::Configured && self.cluster.settings().http2 {
            self.speaks_http1.set(protocol == Protocol::Http1);
        }
        match protocol {
            Protocol::Http1 => {
                // The pool holds itself alive while it is used.
                let home = self.me.upgrade().ok_or(UpstreamError::Broken(None))?;
                Http1::handshake(stream, &home, &self.worker).await.map(Ready::Http1)
            }
            Protocol::Http2 => {
                let limit = self.cluster.settings().connect_timeout;
                let connection = Http2::handshake(stream, &self.worker, limit).await?;
                let place = connection.enter();
                self.http2.borrow_mut().push(connection);
                self.sweep_while_idle();
                Ok(Ready::Http2(place))
            }
        }
    }

    /// A place on the least used HTTP/2 connection.
    fn place(&self) -> Option<Place<B>> {
        let mut connections = self.http2.borrow_mut();
        connections.retain(|connection| connection.is_usable());
        let best = connections.iter().min_by_key(|connection| connection.streams())?;
        (best.streams() < STREAMS_MAX).then(|| best.enter())
    }

    fn idle_timeout(&self) -> Duration {
        self.cluster.settings().idle_timeout
    }

    /// Makes sure that a task closes what stays idle; it ends when nothing is left.
    fn sweep_while_idle(&self) {
        if self.sweeping.replace(true) {
            return;
        }
        let (me, every) =
            (Weak::clone(&self.me), (self.idle_timeout() / 2).clamp(SWEEP_EVERY.0, SWEEP_EVERY.1));
        drop(tokio::task::spawn_local(async move {
            loop {
                sleep(every).await;
                let Some(connections) = me.upgrade() else { return };
                if connections.sweep() {
                    connections.sweeping.set(false);
                    return;
                }
            }
        }));
    }

    /// Closes what has been idle for too long or was closed by the upstream; `true` if nothing is left.
    fn sweep(&self) -> bool {
        // A clock that cannot go back so far has seen nothing that old.
        let Some(since) = Instant::now().checked_sub(self.idle_timeout()) else { return false };
        let mut idle = self.idle.borrow_mut();
        idle.retain_mut(|idle| idle.since > since && idle.connection.is_open());
        let mut http2 = self.http2.borrow_mut();
        http2.retain(|connection| connection.is_usable() && !connection.is_idle_since(since));
        idle.is_empty() && http2.is_empty()
    }
}
