//! What all requests of a connection share, and how a request's handler and the connection's byte stream talk.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;

use tokio::time::Instant;

use crate::contract::request::TlsFacts;
use crate::pipeline::reject::Cause;

/// A connection from a client.
#[derive(Debug)]
pub struct Connection {
    /// Index of the listener; it stays the same over reloads.
    pub listener: usize,
    /// The other end.
    pub peer: SocketAddr,
    /// TLS facts, where there is TLS.
    pub tls: Option<Arc<TlsFacts>>,
    /// The line between handlers and the byte stream.
    pub control: ConnectionControl,
}

/// What the request handlers and the byte stream tell each other.
#[derive(Debug, Default)]
pub struct ConnectionControl {
    refusal: RefCell<Option<Cause>>,
    in_flight: Cell<u32>,
    idle_since: Cell<Option<Instant>>,
    upgrade: Cell<Upgrade>,
    waker: RefCell<Option<Waker>>,
}

/// Where a request for another protocol stands (HTTP/1 only).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Upgrade {
    /// Not asked for, or answered with an ordinary response.
    #[default]
    No,
    /// Asked for: bytes after the head belong to nobody yet.
    Asked,
    /// Switched: bytes are no longer HTTP.
    Tunnel,
}

// === impl ConnectionControl ===

impl ConnectionControl {
    /// Leaves the cause of a refused head for the handler of the head that stands for it.
    pub fn refuse(&self, cause: Cause) {
        *self.refusal.borrow_mut() = Some(cause);
    }

    /// The cause of a refused head, where the head just received stands for one.
    pub fn take_refusal(&self) -> Option<Cause> {
        self.refusal.borrow_mut().take()
    }

    /// A request is being handled: the connection is not idle.
    pub fn request_started(&self) {
        self.in_flight.set(self.in_flight.get().saturating_add(1));
    }

    /// Its response has ended.
    pub fn request_ended(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        self.idle_since.set(Some(Instant::now()));
        if self.upgrade.get() == Upgrade::Asked {
            self.upgrade.set(Upgrade::No);
            self.wake();
        }
    }

    /// Whether a request is being handled.
    pub fn is_busy(&self) -> bool {
        self.in_flight.get() > 0
    }

    /// When the last response ended.
    pub fn idle_since(&self) -> Option<Instant> {
        self.idle_since.get()
    }

    /// A head asks for another protocol.
    pub fn upgrade_asked(&self) {
        self.upgrade.set(Upgrade::Asked);
    }

    /// The response is a 101: from here on bytes pass unread.
    pub fn tunnel(&self) {
        self.upgrade.set(Upgrade::Tunnel);
        self.wake();
    }

    /// Where a request for another protocol stands.
    pub fn upgrade(&self) -> Upgrade {
        self.upgrade.get()
    }

    /// Wakes the byte stream's reader when the state of an upgrade changes.
    pub fn wake_on_change(&self, waker: &Waker) {
        let mut kept = self.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}
