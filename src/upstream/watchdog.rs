//! A timer that costs a request next to nothing.
//!
//! Nearly all deadlines are met, so moving a timer for each request is wasted work. A watchdog stays armed for an old
//! deadline while newer, later ones are asked of it; only when it goes off does it look, and is set again.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// As good as never.
const FAR: Duration = Duration::from_hours(30 * 365 * 24);

/// `wait` after `start`, or never if that is beyond what a clock can show.
pub(crate) fn after(start: Instant, wait: Duration) -> Instant {
    start + wait.min(FAR)
}

/// A reusable timer for one exchange at a time.
#[derive(Debug)]
pub(crate) struct Watchdog {
    sleep: Pin<Box<Sleep>>,
    fired: bool,
}

impl Watchdog {
    /// A watchdog first armed for `deadline`.
    pub(crate) fn new(deadline: Instant) -> Self {
        Self { sleep: Box::pin(sleep_until(deadline)), fired: false }
    }

    /// Ready once `deadline` has passed. The deadline may differ from call to call.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if self.fired || self.sleep.deadline() > deadline {
            self.fired = false;
            self.sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if Instant::now() >= deadline {
                self.fired = true;
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_fires_at_the_deadline_asked_for_last() {
        let start = Instant::now();
        let after = |seconds| after(start, Duration::from_secs(seconds));
        let mut watchdog = Watchdog::new(after(5));
        let mut fired = async |deadline| {
            poll_fn(|cx| watchdog.poll(cx, deadline)).await;
            start.elapsed().as_secs()
        };
        assert_eq!(fired(after(7)).await, 7, "later than it was armed for");
        assert_eq!(fired(after(9)).await, 9, "after it has fired");
        assert_eq!(fired(after(8)).await, 9, "a deadline in the past is ready at once");
        let mut early = Watchdog::new(after(100));
        poll_fn(|cx| early.poll(cx, after(12))).await;
        assert_eq!(start.elapsed().as_secs(), 12, "earlier than it was armed for");
    }
}
