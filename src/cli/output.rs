//! What all commands share about their output: exit codes, colour, durations on the command line.
//!
//! Commands write their answer to one writer and everything else to another; neither is opened here.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

/// How a command ended; the numbers are part of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It ran, and all is well.
    Fine,
    /// It could not run: bad configuration, a policy that does not compile, a missing file.
    CouldNotRun,
    /// It ran, and the answer is no: a test failed, a threshold was missed, the policy denied.
    No,
    /// The command line is wrong.
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Fine => Self::SUCCESS,
            Exit::CouldNotRun => Self::from(1),
            Exit::No => Self::from(2),
            Exit::Usage => Self::from(64),
        }
    }
}

/// Whether an error is only that the reader of the answer went away, as `| head` does. That is success.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub struct Paint {
    is_on: bool,
}

impl Paint {
    /// Colours where stdout is a terminal and `NO_COLOR` is not set.
    pub fn stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { is_on: io::stdout().is_terminal() && !refused }
    }

    /// No colours.
    pub const fn plain() -> Self {
        Self { is_on: false }
    }

    /// For what is well.
    pub fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// For what is wrong.
    pub fn bad(self, text: &str) -> String {
        self.wrap("31", text)
    }

    /// For what deserves a look.
    pub fn doubtful(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// For what stands out.
    pub fn strong(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// For what may be passed over.
    pub fn faint(self, text: &str) -> String {
        self.wrap("2", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.is_on { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// A number with spaces between its thousands: `1 200 000`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// Every line of a text, with this many spaces before it.
pub fn indented(text: &str, by: usize) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("{:by$}{line}", "")).collect();
    lines.join("\n")
}

/// Reads a duration such as `250ms`, `5s` or `1m`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration; write it as `250ms`, `5s` or `1m`");
    let digits = text.find(|character: char| !character.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match unit {
        "ns" => Ok(Duration::from_nanos(number)),
        "us" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs).ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

/// A duration that is not zero.
pub fn parse_some_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err(format!("`{text}` is no time at all; write it as `250ms`, `5s` or `1m`")),
        duration => Ok(duration),
    }
}

/// A text for one line of a terminal or a file: control characters, and those that turn the direction of writing, are
/// written as escapes.
pub fn printable(text: &str) -> String {
    let is_plain = |character: char| {
        !character.is_control()
            && !matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().fold(String::with_capacity(text.len()), |mut out, character| {
        if is_plain(character) {
            out.push(character);
        } else {
            out.extend(character.escape_default());
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_printed_moves_the_cursor() {
        assert_eq!(printable("a\u{1b}[31m\r\n\u{202e}é\u{9b}"), "a\\u{1b}[31m\\r\\n\\u{202e}é\\u{9b}");
    }

    #[test]
    fn no_time_is_no_time_to_measure() {
        assert!(parse_some_duration("0s").is_err() && parse_some_duration("0ns").is_err());
        assert_eq!(parse_some_duration("1ns"), Ok(Duration::from_nanos(1)));
    }

    #[test]
    fn durations_need_a_number_and_a_unit() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("900ns"), Ok(Duration::from_nanos(900)));
        assert_eq!(parse_duration("3us"), Ok(Duration::from_micros(3)));
        assert_eq!(parse_duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_mins(2)));
        for wrong in ["", "5", "s", "5 s", "-1s", "99999999999999999999s", "18446744073709551615m", "5h"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn thousands_stand_apart() {
        for (number, want) in [(0, "0"), (999, "999"), (1000, "1 000"), (1_234_567, "1 234 567")] {
            assert_eq!(grouped(number), want);
        }
    }

    #[test]
    fn only_a_lost_reader_is_success() {
        let lost = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("writing");
        assert!(is_broken_pipe(&lost));
        assert!(!is_broken_pipe(&anyhow::Error::from(io::Error::from(io::ErrorKind::StorageFull))));
    }
}
