//! How far the end of a gateway has come, as all its threads see it.

use tokio::sync::watch;

/// How far the end has come; it only ever goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Drain {
    /// Connections are accepted.
    Serving,
    /// Requests in flight end, and no more are taken.
    Draining,
    /// Nobody is waited for any more.
    CutShort,
}

/// Tells how far the end has come.
pub(crate) type Receiver = watch::Receiver<Drain>;

/// Ends a drain at once. It outlives the gateway, whose end then has come anyway.
#[derive(Debug, Clone)]
pub struct Cutter(pub(super) watch::Sender<Drain>);

// === impl Drain ===

impl Drain {
    /// Whether the end has begun.
    pub(crate) fn has_begun(self) -> bool {
        self >= Self::Draining
    }

    /// Whether nobody is waited for.
    pub(crate) fn is_cut_short(self) -> bool {
        self == Self::CutShort
    }
}

// === impl Cutter ===

impl Cutter {
    /// Breaks off what is in flight. Its events are written: they say that it was aborted.
    pub fn cut_short(&self) {
        self.0.send_replace(Drain::CutShort);
    }
}
