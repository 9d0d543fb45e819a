//! Shares of a whole as people write them: `5%`, `0.1%`.

use std::fmt;

/// Millionths of one per cent in a whole.
const WHOLE: u32 = 100_000_000;

/// A share of a whole, from nothing to all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

/// A text that is not a share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a share; write a percentage from `0%` to `100%`, such as `5%` or `0.1%`")]
pub struct ParseShareError(String);

impl Share {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// All of it.
    pub const ALL: Self = Self(WHOLE);

    /// Parses a percentage with at most six decimals.
    pub fn parse(text: &str) -> Result<Self, ParseShareError> {
        let parsed = || -> Option<u32> {
            let number = text.strip_suffix('%')?;
            let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
            let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            if !is_number(whole) || !is_number(decimals) || whole.len() > 3 || decimals.len() > 6 {
                return None;
            }
            let decimals: u32 = format!("{decimals:0<6}").parse().ok()?;
            let share = whole.parse::<u32>().ok()? * 1_000_000 + decimals;
            (share <= WHOLE).then_some(share)
        };
        parsed().map(Self).ok_or_else(|| ParseShareError(text.to_owned()))
    }

    /// Whether it is nothing.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// As a fraction of one.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(WHOLE)
    }

    /// Whether what has drawn this number belongs to the share; evenly drawn numbers belong to it as often as it says.
    pub const fn takes(self, drawn: u32) -> bool {
        // Both sides as parts of 2^32 times the whole.
        (drawn as u64 * WHOLE as u64) >> 32 < self.0 as u64
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = format!("{:06}", self.0 % 1_000_000);
        match decimals.trim_end_matches('0') {
            "" => write!(f, "{}%", self.0 / 1_000_000),
            decimals => write!(f, "{}.{decimals}%", self.0 / 1_000_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_are_percentages() {
        for (text, fraction) in
            [("0%", 0.0), ("100%", 1.0), ("5%", 0.05), ("0.1%", 0.001), ("0.000001%", 1e-8)]
        {
            let share = Share::parse(text).unwrap();
            assert!((share.fraction() - fraction).abs() < 1e-12, "{text}");
            assert_eq!(share.to_string(), text);
        }
        for bad in
            ["", "5", "%", "-1%", "101%", "100.000001%", "1.%", ".5%", "1e1%", "5 %", "0.0000001%", "１%"]
        {
            assert!(Share::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_takes_nothing_and_all_takes_all() {
        for drawn in [0, 1, u32::MAX / 2, u32::MAX] {
            assert!(!Share::NONE.takes(drawn) && Share::ALL.takes(drawn), "{drawn}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_parsed(millionths in 0..=WHOLE) {
            prop_assert_eq!(Share::parse(&Share(millionths).to_string()), Ok(Share(millionths)));
        }

        #[test]
        fn a_share_takes_the_low_numbers(millionths in 0..=WHOLE, drawn: u32) {
            let part = f64::from(drawn) / 4_294_967_296.0;
            let share = Share(millionths);
            prop_assume!((part - share.fraction()).abs() > 1e-7);
            prop_assert_eq!(share.takes(drawn), part < share.fraction());
        }
    }
}
