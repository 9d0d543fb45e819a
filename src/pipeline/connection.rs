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
use crate::runtime::tls::Shown;

/// The header that marks the head which stands for a refused one. No client can send it: a name with an underscore is
/// refused.
pub const REFUSED: &str = "postern_refused";

/// A connection from a client.
#[derive(Debug)]
pub struct Connection {
    /// Index of the listener; it stays the same over reloads.
    pub listener: usize,
    /// The other end.
    pub peer: SocketAddr,
    /// TLS facts, where there is TLS.
    pub tls: Option<Arc<TlsFacts>>,
    /// What the client has shown in the handshake, where there is TLS.
    pub shown: Option<Shown>,
    /// The line between handlers and the byte stream.
    pub control: ConnectionControl,
}

/// What the request handlers and the byte stream tell each other.
#[derive(Debug, Default)]
pub struct ConnectionControl {
    refusal: RefCell<Option<Cause>>,
    in_flight: Cell<u32>,
    ended: Cell<u64>,
    idle_since: Cell<Option<Instant>>,
    reading: Cell<Reading>,
    /// On HTTP/1: the number of the request whose body has not been read to its end.
    unread_body: Cell<Option<u64>>,
    tunnel: RefCell<Option<Tunnel>>,
    waker: RefCell<Option<Waker>>,
    /// Since when the client has had bytes of a response that it has not taken; one for each open response.
    unread: RefCell<Vec<Weak<Cell<Option<Instant>>>>>,
}

/// What an HTTP/1 client has sent of its next head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reading {
    /// Nothing, ever: the connection is new.
    #[default]
    New,
    /// A part of a head.
    Head,
    /// Nothing since the last request.
    Nothing,
}

/// One response's mark of when its last bytes were handed out.
pub type HandedOut = Rc<Cell<Option<Instant>>>;

// === impl ConnectionControl ===

impl ConnectionControl {
    /// Leaves the cause of a refused head for the handler of the head that stands for it.
    pub fn refuse(&self, cause: Cause) {
        *self.refusal.borrow_mut() = Some(cause);
    }

    /// The cause of a refused head. To be asked for by the head that is marked [`REFUSED`], and by no other: heads are
    /// read ahead of the requests before them.
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
        self.ended.set(self.ended.get() + 1);
        self.idle_since.set(Some(Instant::now()));
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// How many requests have ended.
    pub fn ended(&self) -> u64 {
        self.ended.get()
    }

    /// A mark for a response that begins; it is watched until it is dropped. Its head is the first that the client must
    /// make room for.
    pub fn watch_response(&self) -> HandedOut {
        let mark = Rc::new(Cell::new(Some(Instant::now())));
        let mut unread = self.unread.borrow_mut();
        unread.retain(|mark| mark.strong_count() > 0);
        unread.push(Rc::downgrade(&mark));
        mark
    }

    /// Whether a watched response has not ended.
    pub fn has_open_response(&self) -> bool {
        self.unread.borrow().iter().any(|mark| mark.strong_count() > 0)
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

    /// What the client has sent of its next head.
    pub fn reading(&self) -> Reading {
        self.reading.get()
    }

    /// Notes what the client has sent of its next head.
    pub fn set_reading(&self, reading: Reading) {
        self.reading.set(reading);
    }

    /// Notes that the request with this number, counted from 1, has a body.
    pub fn body_announced(&self, number: u64) {
        self.unread_body.set(Some(number));
    }

    /// Notes that the body has been read to its end.
    pub fn body_read(&self) {
        self.unread_body.set(None);
    }

    /// Whether some of the current request's body may still be on its way. A head that was read ahead does not count.
    pub fn is_body_unread(&self) -> bool {
        self.unread_body.get() == Some(self.ended.get() + 1)
    }

    /// The response is a 101: the connection becomes `tunnel` once that is out.
    pub fn switch(&self, tunnel: Tunnel) {
        *self.tunnel.borrow_mut() = Some(tunnel);
    }

    /// What the connection becomes, if anything.
    pub fn take_tunnel(&self) -> Option<Tunnel> {
        self.tunnel.borrow_mut().take()
    }

    /// Wakes the byte stream's reader when a request ends.
    pub fn wake_on_end(&self, waker: &Waker) {
        let mut kept = self.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
    }
}
