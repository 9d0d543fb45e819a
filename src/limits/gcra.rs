//! The generic cell rate algorithm (ITU-T I.371), as arithmetic without state, clock or IO.
//!
//! A bucket is one number: the instant at which it will be full again. Instants are nanoseconds since the Unix epoch with
//! 64 fractional bits, and the time that one unit takes to come back is rounded up: a bucket never gives more than its
//! rate, and loses at most one nanosecond in 2^64 units to rounding. [`Quota`] bounds everything so that no sum overflows.

use std::time::Duration;

use crate::base::clock::saturating_nanos;
use crate::contract::rate::Quota;

/// Fractional bits of a nanosecond.
const FRACTION_BITS: u32 = 64;

/// When a bucket is full again. The default, the epoch, is a full bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FullAt(u128);

impl FullAt {
    /// The instant `now` (since the Unix epoch): a bucket that was full at or before it is full.
    pub fn instant(now: Duration) -> Self {
        Self(u128::from(saturating_nanos(now)) << FRACTION_BITS)
    }
}

/// What a bucket says to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// There was enough; the bucket is this one now.
    Taken(FullAt),
    /// There was not enough; there will be after this time, if nobody else takes.
    Exceeded(Duration),
    /// The request costs more than a full bucket holds.
    Never,
}

/// An answer, and how the bucket stands after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Whether the request may pass.
    pub answer: Answer,
    /// Units left.
    pub remaining: u64,
    /// Time until the bucket is full.
    pub reset: Duration,
}

/// Asks a bucket for the cost of `quota` at `now` (since the Unix epoch).
pub fn take(bucket: FullAt, quota: Quota, now: Duration) -> Reading {
    let meter = Meter::new(bucket, quota, now);
    let answer = match meter.interval.checked_mul(u128::from(quota.cost())) {
        Some(need) if need <= meter.capacity => {
            let used = meter.used + need;
            if used <= meter.capacity {
                let full_at = FullAt::instant(now).0.saturating_add(used);
                return meter.reading(Answer::Taken(FullAt(full_at)), used);
            }
            Answer::Exceeded(round_up(used - meter.capacity))
        }
        Some(_) | None => Answer::Never,
    };
    meter.reading(answer, meter.used)
}

/// How a bucket stands at `now` for whoever takes nothing: units left and time until it is full.
pub fn peek(bucket: FullAt, quota: Quota, now: Duration) -> (u64, Duration) {
    let meter = Meter::new(bucket, quota, now);
    let reading = meter.reading(Answer::Never, meter.used);
    (reading.remaining, reading.reset)
}

/// A bucket measured against a quota; all in 64.64 nanoseconds.
struct Meter {
    /// What one unit takes to come back.
    interval: u128,
    /// What an empty bucket takes to fill.
    capacity: u128,
    /// What is missing now.
    used: u128,
}

impl Meter {
    fn new(bucket: FullAt, quota: Quota, now: Duration) -> Self {
        let period = u128::from(saturating_nanos(quota.rate().period())) << FRACTION_BITS;
        let interval = period.div_ceil(u128::from(quota.rate().count()));
        // INVARIANT: `Quota` bounds the refill time to about 2^62 ns, so this fits in 126 bits.
        let capacity = interval.saturating_mul(u128::from(quota.burst()));
        // Nothing can be emptier than empty: a clock that was set back, or a burst that was lowered, costs at most
        // one refill and never shuts a client out for the length of the jump.
        let used = bucket.0.saturating_sub(FullAt::instant(now).0).min(capacity);
        Self { interval, capacity, used }
    }

    fn reading(&self, answer: Answer, used: u128) -> Reading {
        let remaining = (self.capacity - used) / self.interval;
        Reading { answer, remaining: u64::try_from(remaining).unwrap_or(u64::MAX), reset: round_up(used) }
    }
}

/// A fixed-point time as a duration, rounded up to a nanosecond.
fn round_up(time: u128) -> Duration {
    let nanos = time.div_ceil(1 << FRACTION_BITS);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::contract::rate::Rate;

    const START: Duration = Duration::from_hours(500_000);

    fn quota(rate: &str, burst: Option<u64>, cost: Option<u64>) -> Quota {
        Quota::new(Rate::parse(rate).unwrap(), burst, cost).unwrap()
    }

    /// Takes at `now`; whether it passed.
    fn passes(bucket: &mut FullAt, quota: Quota, now: Duration) -> bool {
        match take(*bucket, quota, now).answer {
            Answer::Taken(next) => {
                *bucket = next;
                true
            }
            Answer::Exceeded(_) | Answer::Never => false,
        }
    }

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_the_rate() {
        let quota = quota("10/s", Some(3), None);
        let mut bucket = FullAt::default();
        let readings: Vec<_> = (0..4)
            .map(|_| {
                let reading = take(bucket, quota, START);
                if let Answer::Taken(next) = reading.answer {
                    bucket = next;
                }
                (reading.remaining, reading.reset.as_millis(), reading.answer)
            })
            .collect();
        let remaining: Vec<_> = readings.iter().map(|(remaining, reset, _)| (*remaining, *reset)).collect();
        assert_eq!(remaining, [(2, 100), (1, 200), (0, 300), (0, 300)]);
        assert_eq!(readings[3].2, Answer::Exceeded(Duration::from_millis(100)));
        assert!(!passes(&mut bucket, quota, START + Duration::from_nanos(99_999_999)));
        assert!(passes(&mut bucket, quota, START + Duration::from_millis(100)));
        assert!(!passes(&mut bucket, quota, START + Duration::from_millis(100)));
    }

    #[test]
    fn a_cost_above_the_burst_can_never_be_taken() {
        let reading = take(FullAt::default(), quota("10/s", Some(3), Some(4)), START);
        assert_eq!(reading, Reading { answer: Answer::Never, remaining: 3, reset: Duration::ZERO });
        let reading = take(FullAt::default(), quota("1/366d", Some(1), Some(u64::MAX)), START);
        assert_eq!(reading.answer, Answer::Never);
    }

    #[test]
    fn a_refusal_takes_nothing() {
        let quota = quota("10/s", Some(3), Some(2));
        let mut bucket = FullAt::default();
        assert!(passes(&mut bucket, quota, START));
        let before = bucket;
        assert_eq!(take(bucket, quota, START).answer, Answer::Exceeded(Duration::from_millis(100)));
        assert_eq!(bucket, before);
        assert_eq!(peek(bucket, quota, START), (1, Duration::from_millis(200)));
    }

    #[test]
    fn a_clock_set_back_costs_at_most_one_refill() {
        let quota = quota("10/s", Some(5), None);
        let mut bucket = FullAt::default();
        assert!(passes(&mut bucket, quota, START));
        let back = START.saturating_sub(Duration::from_hours(24));
        assert!(!passes(&mut bucket, quota, back));
        assert_eq!(take(bucket, quota, back).answer, Answer::Exceeded(Duration::from_millis(100)));
    }

    #[test]
    fn a_million_takes_of_an_uneven_rate_do_not_drift() {
        // 7 a second has no whole interval; over 1 000 000 takes at the earliest instants the end is exact.
        let quota = quota("7/s", Some(1), None);
        let mut bucket = FullAt::default();
        let mut now = START;
        assert!(passes(&mut bucket, quota, now));
        for _ in 0..1_000_000 {
            let Answer::Exceeded(wait) = take(bucket, quota, now).answer else { panic!("{now:?}") };
            now += wait;
            assert!(passes(&mut bucket, quota, now));
        }
        let ideal = START + Duration::from_nanos(1_000_000 * 1_000_000_000 / 7);
        // Each wait is rounded up to whole nanoseconds of the clock, never down.
        let late = now.checked_sub(ideal);
        assert!(late.is_some_and(|late| late <= Duration::from_millis(1)), "{late:?}");
    }

    fn rates() -> impl Strategy<Value = (u64, u64, u64)> {
        (1..100_000_u64, 1..10_000_000_u64, 1..1_000_u64)
    }

    proptest! {
        #[test]
        fn no_window_gives_more_than_burst_and_rate(
            (count, millis, burst) in rates(),
            steps in prop::collection::vec((0..50_000_000_u64, 1..20_u64), 1..200),
        ) {
            let rate = Rate::parse(&format!("{count}/{millis}ms")).unwrap();
            let (mut bucket, mut now, mut taken) = (FullAt::default(), START, 0_u128);
            for (step, cost) in steps {
                now += Duration::from_nanos(step);
                if passes(&mut bucket, Quota::new(rate, Some(burst), Some(cost)).unwrap(), now) {
                    taken += u128::from(cost);
                }
                let period = u128::from(millis) * 1_000_000;
                let earned = now.saturating_sub(START).as_nanos() * u128::from(count) / period;
                prop_assert!(taken <= u128::from(burst) + earned);
            }
        }

        #[test]
        fn whoever_waits_as_told_passes((count, millis, burst) in rates(), cost in 1..2_000_u64, takes in 0..50_u32) {
            let rate = Rate::parse(&format!("{count}/{millis}ms")).unwrap();
            let one = Quota::new(rate, Some(burst), None).unwrap();
            let mut bucket = FullAt::default();
            for _ in 0..takes {
                passes(&mut bucket, one, START);
            }
            let quota = Quota::new(rate, Some(burst), Some(cost)).unwrap();
            match take(bucket, quota, START).answer {
                Answer::Taken(_) => prop_assert!(cost <= burst),
                Answer::Exceeded(wait) => {
                    prop_assert!(!passes(&mut bucket.clone(), quota, START + wait.saturating_sub(Duration::from_nanos(1))));
                    prop_assert!(passes(&mut bucket, quota, START + wait));
                }
                Answer::Never => prop_assert!(cost > burst),
            }
        }

        #[test]
        fn extremes_neither_panic_nor_overflow(
            count in 1..=1_000_000_000_000_u64, days in 1..=366_u64, burst: u64, cost: u64, now: u64, then: u64,
        ) {
            let rate = Rate::parse(&format!("{count}/{days}d")).unwrap();
            if let Ok(quota) = Quota::new(rate, Some(burst), Some(cost)) {
                let mut bucket = FullAt::default();
                passes(&mut bucket, quota, Duration::from_nanos(now));
                let reading = take(bucket, quota, Duration::from_nanos(then));
                prop_assert!(reading.remaining <= burst);
            }
        }
    }
}
