//! Sizes and durations as people write them: `64KiB`, `1MiB`, `250ms`, `10s`, `5m`.

use std::time::Duration;

/// A text that is not a size or a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseQuantityError {
    /// The text does not begin with digits.
    #[error("`{0}` does not begin with a whole number")]
    NoNumber(String),
    /// The unit is missing or unknown.
    #[error("`{text}` has no known unit; use one of {units}")]
    UnknownUnit {
        /// The text as given.
        text: String,
        /// The units that are known, for the message.
        units: &'static str,
    },
    /// The value does not fit.
    #[error("`{0}` is too large")]
    TooLarge(String),
}

/// A bound in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteLimit(u64);

impl ByteLimit {
    /// A limit of `bytes`.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The limit in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The limit as a length in memory, capped at `usize::MAX`.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// Parses `512`, `512B`, `64KiB`, `64KB`, `1MiB`, `1GiB` and so on (a plain number means bytes).
    pub fn parse(text: &str) -> Result<Self, ParseQuantityError> {
        let (number, unit) = split(text)?;
        let factor: u64 = match unit {
            "" | "B" => 1,
            "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => {
                return Err(ParseQuantityError::UnknownUnit {
                    text: text.to_owned(),
                    units: "B, KB, KiB, MB, MiB, GB, GiB",
                });
            }
        };
        number.checked_mul(factor).map(Self).ok_or_else(|| ParseQuantityError::TooLarge(text.to_owned()))
    }
}

/// Parses `250ms`, `10s`, `5m`, `2h`, `1d`; a plain `0` means none.
pub fn parse_duration(text: &str) -> Result<Duration, ParseQuantityError> {
    let (number, unit) = split(text)?;
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if number == 0 => 0,
        "us" => return Ok(Duration::from_micros(number)),
        _ => {
            return Err(ParseQuantityError::UnknownUnit {
                text: text.to_owned(),
                units: "us, ms, s, m, h, d",
            });
        }
    };
    number
        .checked_mul(millis)
        .map(Duration::from_millis)
        .ok_or_else(|| ParseQuantityError::TooLarge(text.to_owned()))
}

fn split(text: &str) -> Result<(u64, &str), ParseQuantityError> {
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (digits, unit) = trimmed.split_at(end);
    if digits.is_empty() {
        return Err(ParseQuantityError::NoNumber(text.to_owned()));
    }
    let number = digits.parse().map_err(|_| ParseQuantityError::TooLarge(text.to_owned()))?;
    Ok((number, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("12", 12), ("64KiB", 65_536), ("1 MiB", 1 << 20), ("2KB", 2_000)] {
            assert_eq!(ByteLimit::parse(text), Ok(ByteLimit::new(bytes)), "{text}");
        }
        for text in ["", "KiB", "-1", "1.5MiB", "1TiB", "99999999999999999999", "99999999999GiB"] {
            assert!(ByteLimit::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [("250ms", 250), ("10s", 10_000), ("5m", 300_000), ("0", 0), ("1h", 3_600_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "10", "s", "1w", "-1s", "1.5s", "99999999999999999999ms", "999999999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
