//! How much time something may take: a share of one processor.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::base::share::Share;

/// Unused time is saved up for this long, so that rare decisions are not refused for having come together.
const SAVED: Duration = Duration::from_secs(1);

/// An account of time, with virtual scheduling (as GCRA counts requests). One thread spends, all may look.
#[derive(Debug)]
pub struct Allowance {
    share: Share,
    since: Instant,
    /// Until when the time spent so far would be used, in nanoseconds from `since`.
    used_until: AtomicU64,
}

impl Allowance {
    /// An account with nothing spent.
    pub fn new(share: Share) -> Self {
        Self { share, since: Instant::now(), used_until: AtomicU64::new(0) }
    }

    /// Whether there is time left. What is begun then may take longer; it is paid back by waiting.
    pub fn is_open(&self, now: Instant) -> bool {
        self.used_until.load(Ordering::Relaxed) <= self.nanos(now).saturating_add(nanos(SAVED))
    }

    /// Books time spent. To be called by one thread.
    pub fn spend(&self, now: Instant, took: Duration) {
        let from = self.used_until.load(Ordering::Relaxed).max(self.nanos(now));
        let cost = took.div_f64(self.share.fraction().max(1e-9));
        self.used_until.store(from.saturating_add(nanos(cost)), Ordering::Relaxed);
    }

    fn nanos(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.since))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_kept_over_time() {
        let allowance = Allowance::new(Share::parse("5%").unwrap());
        let start = allowance.since;
        let step = Duration::from_millis(2);
        let mut spent = Duration::ZERO;
        for millis in 0..100_000 {
            let now = start + Duration::from_millis(millis);
            if allowance.is_open(now) {
                allowance.spend(now, step);
                spent += step;
            }
        }
        // 5 % of 100 s, and once what is saved up in a second.
        assert!((Duration::from_millis(4_990)..Duration::from_millis(5_060)).contains(&spent), "{spent:?}");
    }

    #[test]
    fn one_long_evaluation_is_paid_back() {
        let allowance = Allowance::new(Share::parse("1%").unwrap());
        let start = allowance.since;
        assert!(allowance.is_open(start));
        allowance.spend(start, Duration::from_millis(50));
        assert!(!allowance.is_open(start + Duration::from_millis(3_999)));
        assert!(allowance.is_open(start + Duration::from_secs(4)));
    }

    #[test]
    fn absurd_times_do_not_overflow() {
        let allowance = Allowance::new(Share::parse("0.000001%").unwrap());
        allowance.spend(allowance.since, Duration::from_secs(10));
        allowance.spend(allowance.since, Duration::from_secs(10));
        assert!(!allowance.is_open(allowance.since + Duration::from_hours(1)));
    }
}
