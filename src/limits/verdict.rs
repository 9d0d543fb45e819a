//! What is asked of a limit store, and what it answers, whatever the store is.

use std::time::Duration;

use smallvec::SmallVec;

use crate::contract::rate::Quota;
use crate::limits::gcra::Answer;

/// One limit of a decision. Limits with the same scope, name and key share a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitRequest<'a> {
    /// The limit's name, as checked by `contract::rate::check_name`.
    pub name: &'a str,
    /// Whose bucket: a subject, an address, a tenant.
    pub key: &'a str,
    /// What it allows and what this request takes.
    pub quota: Quota,
}

/// The answer to all limits of one decision: all were taken, or none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// How each limit stands now, in the order they were asked.
    pub standings: SmallVec<[Standing; 2]>,
}

/// One limit after a take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What became of it.
    pub outcome: Outcome,
    /// Units left.
    pub remaining: u64,
    /// Time until the bucket is full.
    pub reset: Duration,
}

/// What became of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Taken.
    Taken,
    /// It had enough, but another limit of the same decision refused, so nothing was taken.
    Spared,
    /// It had not enough; it has after this time, if nobody else takes.
    Exceeded {
        /// The wait.
        retry_after: Duration,
    },
    /// The request costs more than the limit ever holds: there is no use in coming back.
    Never,
}

impl Outcome {
    /// Whether this limit refused the request.
    pub const fn refuses(self) -> bool {
        match self {
            Self::Taken | Self::Spared => false,
            Self::Exceeded { .. } | Self::Never => true,
        }
    }
}

impl From<Answer> for Outcome {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Taken(_) => Self::Taken,
            Answer::Exceeded(retry_after) => Self::Exceeded { retry_after },
            Answer::Never => Self::Never,
        }
    }
}

impl Verdict {
    /// Whether the request may pass. No limits: it may.
    pub fn allowed(&self) -> bool {
        !self.standings.iter().any(|standing| standing.outcome.refuses())
    }

    /// The longest wait that a refusing limit asks for; `None` where nothing refused or where waiting does not help.
    pub fn retry_after(&self) -> Option<Duration> {
        let mut longest = None;
        for standing in &self.standings {
            match standing.outcome {
                Outcome::Taken | Outcome::Spared => {}
                Outcome::Exceeded { retry_after } => longest = longest.max(Some(retry_after)),
                Outcome::Never => return None,
            }
        }
        longest
    }
}
