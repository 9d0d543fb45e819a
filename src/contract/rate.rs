//! Rates and quotas of a decision's `limits`, checked where the decision is parsed.
//!
//! A quota that exists can be counted without overflow and named in a response field; whether it is exhausted is the
//! business of `limits`, never of this module.

use std::fmt;
use std::time::Duration;

/// The longest name of a limit, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// The largest count of a rate.
const COUNT_MAX: u64 = 1_000_000_000_000;
/// The longest period of a rate, in milliseconds: 366 days.
const PERIOD_MILLIS_MAX: u64 = 366 * 86_400_000;
/// The longest time an empty bucket may take to fill again, in nanoseconds: a little over 100 years.
const REFILL_NANOS_MAX: u128 = 100 * 366 * 86_400 * 1_000_000_000;

/// A text that is not a rate, or a limit that cannot be counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// Not `COUNT/PERIOD`.
    #[error("`{0}` is no rate; write a count and a period, like `100/1m` or `10/s`")]
    Syntax(String),
    /// The period's unit is not known.
    #[error("`{0}` has no known unit of time; use one of ms, s, m, h, d")]
    Unit(String),
    /// A count or period of zero.
    #[error("`{0}` allows nothing; the count and the period are at least 1")]
    Zero(String),
    /// A count or period that is too large to be counted.
    #[error("`{0}` is too large; at most 1000000000000 in at most 366d")]
    TooLarge(String),
    /// A burst of zero.
    #[error("a burst of 0 allows nothing; it is at least 1")]
    NoBurst,
    /// A cost of zero.
    #[error("a cost of 0 takes nothing; it is at least 1")]
    NoCost,
    /// A burst that would take more than a century to come back.
    #[error("a burst of {burst} at `{rate}` takes more than 100 years to fill; lower it or raise the rate")]
    BurstTooLarge {
        /// The burst as given.
        burst: u64,
        /// The rate as given.
        rate: Rate,
    },
    /// A name that cannot stand in a structured field (RFC 9651 section 3.3.3).
    #[error("`{0}` is no name for a limit; use 1 to 128 printable ASCII characters")]
    Name(String),
}

/// So many in such a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    count: u64,
    period: Duration,
}

impl Rate {
    /// Parses `100/1m`, `10/s`, `5/250ms`, `1000/1h`, `1/1d`.
    ///
    /// ```
    /// use postern::contract::rate::Rate;
    /// let rate = Rate::parse("100/1m").unwrap();
    /// assert_eq!((rate.count(), rate.period().as_secs()), (100, 60));
    /// assert!(Rate::parse("0/1m").is_err());
    /// ```
    pub fn parse(text: &str) -> Result<Self, RateError> {
        let (count, period) = text.split_once('/').ok_or_else(|| RateError::Syntax(text.to_owned()))?;
        let count = digits(count, text)?;
        let unit_at = period.find(|c: char| !c.is_ascii_digit()).unwrap_or(period.len());
        let (number, unit) = period.split_at(unit_at);
        let number = if number.is_empty() { 1 } else { digits(number, text)? };
        let unit_millis: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(RateError::Unit(text.to_owned())),
        };
        if count == 0 || number == 0 {
            return Err(RateError::Zero(text.to_owned()));
        }
        match number.checked_mul(unit_millis) {
            Some(millis) if millis <= PERIOD_MILLIS_MAX && count <= COUNT_MAX => {
                Ok(Self { count, period: Duration::from_millis(millis) })
            }
            Some(_) | None => Err(RateError::TooLarge(text.to_owned())),
        }
    }

    /// How many in a period, at least 1.
    pub const fn count(self) -> u64 {
        self.count
    }

    /// The period, at least a millisecond.
    pub const fn period(self) -> Duration {
        self.period
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.period.as_millis();
        let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        let unit = units.into_iter().find(|(factor, _)| millis.is_multiple_of(*factor));
        let (factor, unit) = unit.unwrap_or((1, "ms"));
        write!(f, "{}/{}{unit}", self.count, millis / factor)
    }
}

fn digits(number: &str, text: &str) -> Result<u64, RateError> {
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(RateError::Syntax(text.to_owned()));
    }
    number.parse().map_err(|_| RateError::TooLarge(text.to_owned()))
}

/// What a limit allows and what one request takes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    rate: Rate,
    burst: u64,
    cost: u64,
}

impl Quota {
    /// A quota of `rate`; `burst` (default: the rate's count) is what a full bucket holds, `cost` (default 1) what the
    /// request takes. A cost above the burst is no error: such a request is refused and told never to retry.
    pub fn new(rate: Rate, burst: Option<u64>, cost: Option<u64>) -> Result<Self, RateError> {
        let burst = burst.unwrap_or(rate.count);
        let cost = cost.unwrap_or(1);
        if burst == 0 {
            return Err(RateError::NoBurst);
        }
        if cost == 0 {
            return Err(RateError::NoCost);
        }
        let refill = rate.period.as_nanos().saturating_mul(u128::from(burst)) / u128::from(rate.count);
        if refill > REFILL_NANOS_MAX {
            return Err(RateError::BurstTooLarge { burst, rate });
        }
        Ok(Self { rate, burst, cost })
    }

    /// The rate at which it comes back.
    pub const fn rate(self) -> Rate {
        self.rate
    }

    /// What a full bucket holds, at least 1.
    pub const fn burst(self) -> u64 {
        self.burst
    }

    /// What the request takes, at least 1.
    pub const fn cost(self) -> u64 {
        self.cost
    }
}

/// Checks that `name` can stand in a `RateLimit` field as a string: 1 to 128 printable ASCII characters.
pub fn check_name(name: &str) -> Result<(), RateError> {
    let printable = |byte: u8| (0x20..=0x7e).contains(&byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(printable) {
        return Err(RateError::Name(name.chars().take(NAME_BYTES_MAX).collect()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, want: Option<(u64, u64)>) {
        let rate = Rate::parse(text).ok().map(|rate| (rate.count(), rate.period().as_millis()));
        assert_eq!(rate, want.map(|(count, millis)| (count, u128::from(millis))), "{text}");
    }

    #[test]
    fn rates_are_a_count_and_a_period() {
        check("100/1m", Some((100, 60_000)));
        check("10/s", Some((10, 1_000)));
        check("5/250ms", Some((5, 250)));
        check("1000/1h", Some((1_000, 3_600_000)));
        check("1/1d", Some((1, 86_400_000)));
        check("1/366d", Some((1, PERIOD_MILLIS_MAX)));
        check("1000000000000/1ms", Some((COUNT_MAX, 1)));
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in [
            "", "/", "10", "10/", "/s", "0/s", "10/0s", "-1/s", "+1/s", "1.5/s", "1 /s", "1/ s", "1/s ",
            "1/1w",
        ] {
            check(text, None);
        }
        for text in [
            "1/us",
            "1/S",
            "1/1s/1s",
            "1/367d",
            "1000000000001/s",
            "99999999999999999999/s",
            "1/99999999999999d",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn a_quota_that_cannot_be_counted_is_refused() {
        let rate = Rate::parse("1/1d").unwrap();
        assert_eq!(Quota::new(rate, Some(0), None), Err(RateError::NoBurst));
        assert_eq!(Quota::new(rate, None, Some(0)), Err(RateError::NoCost));
        assert!(Quota::new(rate, Some(36_600), None).is_ok());
        let refused = Quota::new(rate, Some(36_601), None).unwrap_err();
        assert_eq!(refused, RateError::BurstTooLarge { burst: 36_601, rate });
        assert!(Quota::new(rate, Some(u64::MAX), Some(u64::MAX)).is_err());
        assert_eq!(Quota::new(rate, Some(2), Some(u64::MAX)).map(Quota::cost), Ok(u64::MAX));
    }

    #[test]
    fn names_are_printable_ascii() {
        for name in ["per-client", "a", "a \"b\" \\", &"x".repeat(128)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "t\u{e4}glich", "a\nb", "a\u{7f}", &"x".repeat(129)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_rate_parses_to_itself(count in 1..=COUNT_MAX, millis in 1..=PERIOD_MILLIS_MAX) {
            let rate = Rate { count, period: Duration::from_millis(millis) };
            prop_assert_eq!(Rate::parse(&rate.to_string()), Ok(rate));
        }

        #[test]
        fn no_text_panics(text in ".{0,24}") {
            drop(Rate::parse(&text));
        }
    }
}
