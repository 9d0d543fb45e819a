//! Whether a server is asked: a few failures in a row and it is left alone, then one question at a time finds out
//! whether it is back.
//!
//! It opens for one second only, so that a server that is back is used again at once; what it saves is the waiting.

use std::time::Duration;

/// Failures in a row that open the circuit.
const FAILURES: u32 = 5;

/// How long it stays open after the last failure.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a question that finds out whether the server is back keeps others from asking; more than any deadline of one.
const PROBE: Duration = Duration::from_secs(10);

/// Whether a question may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Yes.
    Granted,
    /// No: the server is down.
    Refused,
}

/// A circuit breaker. Moments are since the Unix epoch.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
    /// Nobody is asked before.
    closed_until: Duration,
}

impl Breaker {
    /// May a question be asked? Where this grants one to find out, others wait for what comes of it.
    pub(super) fn pass(&mut self, now: Duration) -> Pass {
        if self.failures < FAILURES {
            return Pass::Granted;
        }
        if now < self.closed_until {
            return Pass::Refused;
        }
        self.closed_until = now.saturating_add(PROBE);
        Pass::Granted
    }

    /// The server has answered.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// The server has not answered.
    pub(super) fn failed(&mut self, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.closed_until = now.saturating_add(PAUSE);
    }

    /// `closed`, `open` or `half_open`.
    pub(super) fn word(&self, now: Duration) -> &'static str {
        if self.failures < FAILURES {
            "closed"
        } else if now < self.closed_until {
            "open"
        } else {
            "half_open"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000);

    fn broken() -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES {
            assert_eq!(breaker.pass(NOW), Pass::Granted);
            breaker.failed(NOW);
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it() {
        let mut breaker = broken();
        assert_eq!(breaker.pass(NOW), Pass::Refused);
        assert_eq!(breaker.word(NOW), "open");
        assert_eq!(breaker.pass(NOW + PAUSE / 2), Pass::Refused);
    }

    #[test]
    fn one_question_finds_out() {
        let mut breaker = broken();
        let later = NOW + PAUSE;
        assert_eq!(breaker.word(later), "half_open");
        assert_eq!(breaker.pass(later), Pass::Granted);
        assert_eq!(breaker.pass(later), Pass::Refused);
        breaker.failed(later);
        assert_eq!(breaker.pass(later), Pass::Refused);
        assert_eq!(breaker.pass(later + PAUSE), Pass::Granted);
        breaker.succeeded();
        assert_eq!(breaker.word(later), "closed");
        assert_eq!(breaker.pass(later + PAUSE), Pass::Granted);
    }

    #[test]
    fn an_answer_in_between_keeps_it_closed() {
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            breaker.failed(NOW);
            breaker.succeeded();
        }
        assert_eq!(breaker.pass(NOW), Pass::Granted);
    }
}
