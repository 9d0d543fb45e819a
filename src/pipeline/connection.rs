//! What all requests of a connection share, and how a request's handler and the connection's byte stream talk.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;

use tokio::time::Instant;

use crate::contract::request::TlsFacts;
use crate::pipeline::reject::Cause;
use crate::pipeline::websocket::Tunnel;

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
    /// A head asks for another protocol, and is not answered yet.
    upgrade_asked: Cell<bool>,
    tunnel: RefCell<Option<Tunnel>>,
    waker: RefCell<Option<Waker>>,
    /// Since when the client has had bytes of a response that it has not taken; one for each open response.
    unread: RefCell<Vec<Weak<Cell<Option<Instant>>>>>,
}

/// One response's mark of when its last bytes were handed out.
pub type HandedOut = Rc<Cell<Option<Instant>>>;

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
        if self.upgrade_asked.replace(false)
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// A mark for a response that begins; it is watched until it is dropped.
    pub fn watch_response(&self) -> HandedOut {
        let mark = HandedOut::default();
        let mut unread = self.unread.borrow_mut();
        unread.retain(|mark| mark.strong_count() > 0);
        unread.push(Rc::downgrade(&mark));
        mark
    }

    /// The longest that bytes handed out have not been followed by a demand for more.
    pub fn oldest_unread(&self) -> Option<Instant> {
        self.unread.borrow().iter().filter_map(|mark| mark.upgrade()?.get()).min()
    }

    /// Whether a request is being handled.
    pub fn is_busy(&self) -> bool {
        self.in_flight.get() > 0
    }

    /// When the last response ended.
    pub fn idle_since(&self) -> Option<Instant> {
        self.idle_since.get()
    }

    /// A head asks for another protocol: bytes after it belong to nobody until it is answered.
    pub fn upgrade_asked(&self) {
        self.upgrade_asked.set(true);
    }

    /// Whether a request for another protocol is open.
    pub fn is_upgrade_asked(&self) -> bool {
        self.upgrade_asked.get()
    }

    /// The response is a 101: the connection becomes `tunnel` once that is out.
    pub fn switch(&self, tunnel: Tunnel) {
        *self.tunnel.borrow_mut() = Some(tunnel);
    }

    /// What the connection becomes, if anything.
    pub fn take_tunnel(&self) -> Option<Tunnel> {
        self.tunnel.borrow_mut().take()
    }

    /// Wakes the byte stream's reader when the state of an upgrade changes.
    pub fn wake_on_change(&self, waker: &Waker) {
        let mut kept = self.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
    }
}
