//! The one place that reads the time of day, so that tests and replay can set it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A source of wall-clock time.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Time since the Unix epoch.
    fn now(&self) -> Duration;
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the place the lint points to")]
    fn now(&self) -> Duration {
        // A clock before 1970 reads as the epoch: tokens are then "not yet valid", which fails closed.
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// A clock that moves only when told to.
#[derive(Debug)]
pub struct ManualClock {
    nanos: AtomicU64,
}

impl ManualClock {
    /// A clock standing at `now` since the Unix epoch.
    pub fn at(now: Duration) -> Self {
        Self { nanos: AtomicU64::new(saturating_nanos(now)) }
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.nanos.fetch_add(saturating_nanos(by), Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }
}

/// Nanoseconds of `duration`, capped at `u64::MAX` (the year 2554 when counted from the epoch).
pub fn saturating_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// `now` (since the epoch) as RFC 3339 in UTC with nanoseconds, `2026-01-31T08:00:00.000000001Z`.
pub fn rfc3339(now: Duration) -> [u8; 30] {
    let seconds = now.as_secs();
    let (year, month, day) = civil_from_days(seconds / 86_400);
    let of_day = seconds % 86_400;
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    put_digits(&mut text, 0, 4, year);
    put_digits(&mut text, 5, 2, month);
    put_digits(&mut text, 8, 2, day);
    put_digits(&mut text, 11, 2, of_day / 3600);
    put_digits(&mut text, 14, 2, of_day / 60 % 60);
    put_digits(&mut text, 17, 2, of_day % 60);
    put_digits(&mut text, 20, 9, u64::from(now.subsec_nanos()));
    text
}

/// Writes [`rfc3339`] to `out`.
pub fn write_rfc3339(out: &mut String, now: Duration) {
    out.extend(rfc3339(now).map(char::from));
}

/// Puts the last `width` digits of `value` at `start`.
fn put_digits(text: &mut [u8; 30], start: usize, width: usize, value: u64) {
    let mut rest = value;
    for place in text.iter_mut().skip(start).take(width).rev() {
        *place = b"0123456789".get((rest % 10) as usize).copied().unwrap_or(b'0');
        rest /= 10;
    }
}

/// Proleptic Gregorian date of a day count since 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(seconds: u64, nanos: u32, want: &str) {
        let mut out = String::new();
        write_rfc3339(&mut out, Duration::new(seconds, nanos));
        assert_eq!(out, want);
        assert_eq!(want.parse::<jiff::Timestamp>().unwrap().as_second(), i64::try_from(seconds).unwrap());
    }

    #[test]
    fn rfc3339_agrees_with_a_calendar_library() {
        check(0, 0, "1970-01-01T00:00:00.000000000Z");
        check(951_782_399, 1, "2000-02-28T23:59:59.000000001Z");
        check(951_868_799, 999_999_999, "2000-02-29T23:59:59.999999999Z");
        check(1_798_761_600, 0, "2027-01-01T00:00:00.000000000Z");
        check(4_107_542_400, 5, "2100-03-01T00:00:00.000000005Z");
    }

    #[test]
    fn manual_clock_moves_only_when_told() {
        let clock = ManualClock::at(Duration::from_secs(5));
        clock.advance(Duration::from_millis(1));
        assert_eq!(clock.now(), Duration::from_millis(5001));
    }
}
