//! The retry budget: retries are a share of the requests, so that an upstream in trouble is not buried under them.

use std::time::Duration;

use tokio::time::Instant;

/// One retry, in the budget's unit.
const RETRY: u64 = 1_000;
/// Retries that are always there after a quiet time.
const FLOOR: u64 = 3 * RETRY;
/// How long an empty budget takes to be back at the floor without any request.
const FLOOR_REFILL: Duration = Duration::from_secs(10);
/// Retries that can be saved up.
const CEILING: u64 = 100 * RETRY;

/// A token bucket that requests fill by `ratio` each, and retries empty by one. Time fills it up to a small floor
/// only, so that a rarely used upstream can be retried at all.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    deposit: u64,
    tokens: u64,
    refilled: Instant,
}

impl RetryBudget {
    /// A budget of `ratio` retries for each request, with the floor in it.
    pub(crate) fn new(ratio: f64, now: Instant) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "clamped to 0 and the ceiling, and fractions of a thousandth do not matter"
        )]
        let deposit = (ratio * RETRY as f64).clamp(0.0, CEILING as f64) as u64;
        Self { deposit, tokens: FLOOR, refilled: now }
    }

    /// A request is tried for the first time.
    pub(crate) fn deposit(&mut self) {
        self.tokens = self.tokens.saturating_add(self.deposit).min(CEILING.max(self.tokens));
    }

    /// Takes one retry out, if there is one.
    pub(crate) fn withdraw(&mut self, now: Instant) -> bool {
        self.refill(now);
        match self.tokens.checked_sub(RETRY) {
            Some(rest) => {
                self.tokens = rest;
                true
            }
            None => false,
        }
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled).min(FLOOR_REFILL);
        if self.tokens >= FLOOR {
            self.refilled = now;
            return;
        }
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let floor_millis = u64::try_from(FLOOR_REFILL.as_millis()).unwrap_or(u64::MAX);
        let earned = FLOOR * millis / floor_millis;
        if earned > 0 {
            self.tokens = (self.tokens + earned).min(FLOOR);
            self.refilled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(budget: &mut RetryBudget, now: Instant) -> usize {
        (0..1_000).take_while(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn the_floor_is_there_at_first_and_comes_back_slowly() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(0.0, start);
        assert_eq!(drain(&mut budget, start), 3);
        assert_eq!(drain(&mut budget, start + Duration::from_secs(3)), 0);
        assert_eq!(drain(&mut budget, start + Duration::from_secs(4)), 1);
        assert_eq!(drain(&mut budget, start + Duration::from_hours(1)), 3);
    }

    #[test]
    fn requests_earn_their_ratio_up_to_the_ceiling() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(0.2, start);
        drain(&mut budget, start);
        (0..50).for_each(|_| budget.deposit());
        assert_eq!(drain(&mut budget, start), 10);
        (0..10_000).for_each(|_| budget.deposit());
        assert_eq!(drain(&mut budget, start), 100);
    }

    proptest! {
        #[test]
        fn retries_never_exceed_the_share(ratio in 0.0f64..2.0, steps in prop::collection::vec(any::<bool>(), 0..400)) {
            let now = Instant::now();
            let mut budget = RetryBudget::new(ratio, now);
            let (mut requests, mut retries) = (0.0, 0.0);
            for step in steps {
                if step {
                    budget.deposit();
                    requests += 1.0;
                } else if budget.withdraw(now) {
                    retries += 1.0;
                }
                prop_assert!(retries <= 3.0 + ratio * requests + 1e-6);
            }
        }
    }
}
