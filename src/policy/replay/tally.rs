//! What a replay has found: changed decisions by kind, route and reason, and what could not be replayed and why.

use std::collections::BTreeMap;

use regorus::Value;
use smallvec::SmallVec;

use crate::contract::decision::{Allow, Decision, DecisionError, Deny};
use crate::policy::divergence::{of_allows, of_denials};

/// Decision ids kept for each kind of change.
const EXAMPLES: usize = 3;
/// Kinds of change told apart; what is beyond is counted together.
const CHANGES_MAX: usize = 10_000;

/// How a decision changed. Opened doors come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Denied then, allowed now.
    DenyToAllow,
    /// Failed closed then, allowed now.
    FailureToAllow,
    /// Allowed then, denied now.
    AllowToDeny,
    /// Allowed then; now the policy fails.
    AllowToFailure,
    /// Denied then; now the policy fails.
    DenyToFailure,
    /// Failed then, denied now.
    FailureToDeny,
    /// Allowed both times, with other obligations or another reason.
    AllowDiffers,
    /// Denied both times, with another answer or another reason.
    DenyDiffers,
}

/// One kind of change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Changed {
    /// From what to what.
    pub change: Change,
    /// `api/route`; empty where the events do not say.
    pub route: String,
    /// The reason then.
    pub before: Option<String>,
    /// The reason now.
    pub after: Option<String>,
}

/// How often a kind of change happened, and the first decisions it happened to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Side {
    /// How often.
    pub count: u64,
    /// The first ids, by their line in the log.
    pub examples: Vec<(u64, String)>,
}

/// Why an event was not replayed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skipped {
    /// The line is no decision event.
    Unreadable,
    /// No policy was asked: the request was refused before.
    Undecided,
    /// The event has no input: it was logged as a summary.
    NoInput,
    /// The event does not say what was decided.
    NoResult,
    /// The candidate has no such rule.
    NoRule {
        /// The rule.
        path: String,
    },
    /// The candidate may read what was erased from the event.
    Erased {
        /// Where, as a JSON pointer into the event.
        pointer: String,
    },
    /// The candidate asks outside, and what it was answered is in no event.
    Outside {
        /// The built-in that asks.
        builtin: &'static str,
    },
    /// The candidate reads what the policy that decided never did, so that it is in no event.
    NotRecorded {
        /// The input paths.
        paths: Vec<String>,
    },
}

/// The outcome of a replay.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Events read.
    pub events: u64,
    /// Events with the same decision.
    pub unchanged: u64,
    /// Changed decisions, opened doors first, frequent ones first.
    pub changed: Vec<(Changed, Side)>,
    /// Changes beyond those told apart.
    pub other_changes: u64,
    /// Events that were not replayed.
    pub skipped: Vec<(Skipped, u64)>,
}

/// What came of asking.
#[derive(Debug)]
pub(crate) enum Outcome {
    Allow { allow: Box<Allow>, value: Value },
    Deny { deny: Box<Deny>, value: Value },
    Failed,
}

/// One event and its replay.
#[derive(Debug)]
pub(super) struct Compared {
    pub(super) number: u64,
    pub(super) decision_id: String,
    pub(super) question: String,
    pub(super) recorder: String,
    /// Which of the paths that the candidate reads are in the event, by index.
    pub(super) present: Bits,
    pub(super) missing: Bits,
    pub(super) changed: Option<Changed>,
}

/// A set of small numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bits(SmallVec<[u64; 2]>);

/// Counts of one thread, or of all.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) events: u64,
    skipped: BTreeMap<Skipped, u64>,
    /// What was compared, apart by what of the candidate's reading was not in the event: only in the end it is known
    /// whether that was absent from the request or is never recorded.
    buckets: BTreeMap<(Recorder, Bits), Bucket>,
    seen: BTreeMap<Recorder, Bits>,
    /// The paths that each question reads.
    names: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Recorder {
    question: String,
    bundles: String,
}

#[derive(Debug, Default)]
struct Bucket {
    unchanged: u64,
    changed: BTreeMap<Changed, Side>,
    other: u64,
}

// === impl Change ===

impl Change {
    /// The word in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DenyToAllow => "deny_to_allow",
            Self::FailureToAllow => "failure_to_allow",
            Self::AllowToDeny => "allow_to_deny",
            Self::AllowToFailure => "allow_to_failure",
            Self::DenyToFailure => "deny_to_failure",
            Self::FailureToDeny => "failure_to_deny",
            Self::AllowDiffers => "allow_differs",
            Self::DenyDiffers => "deny_differs",
        }
    }

    /// What a person reads.
    pub const fn title(self) -> &'static str {
        match self {
            Self::DenyToAllow => "deny -> allow",
            Self::FailureToAllow => "failure -> allow",
            Self::AllowToDeny => "allow -> deny",
            Self::AllowToFailure => "allow -> failure",
            Self::DenyToFailure => "deny -> failure",
            Self::FailureToDeny => "failure -> deny",
            Self::AllowDiffers => "allow, with other obligations",
            Self::DenyDiffers => "deny, with another answer",
        }
    }

    /// Whether a request is allowed, denied or failed that was not.
    pub const fn changes_verdict(self) -> bool {
        !matches!(self, Self::AllowDiffers | Self::DenyDiffers)
    }

    /// Whether somebody gets in who did not.
    pub const fn opens(self) -> bool {
        matches!(self, Self::DenyToAllow | Self::FailureToAllow)
    }
}

// === impl Outcome ===

impl Outcome {
    /// The outcome of a result, if there is one, and of what it means.
    pub(crate) fn of(result: Option<(Value, Result<Decision, DecisionError>)>) -> Self {
        match result {
            None | Some((_, Err(_))) => Self::Failed,
            Some((value, Ok(Decision::Allow(allow)))) => Self::Allow { allow, value },
            Some((value, Ok(Decision::Deny(deny)))) => Self::Deny { deny, value },
        }
    }

    /// How `after` differs: in what it does, not in how it is written, as a shadow's decisions are compared.
    /// `is_partial` compares verdicts alone.
    pub(crate) fn change(&self, after: &Self, is_partial: bool) -> Option<Change> {
        match (self, after) {
            (Self::Deny { .. }, Self::Allow { .. }) => Some(Change::DenyToAllow),
            (Self::Failed, Self::Allow { .. }) => Some(Change::FailureToAllow),
            (Self::Allow { .. }, Self::Deny { .. }) => Some(Change::AllowToDeny),
            (Self::Allow { .. }, Self::Failed) => Some(Change::AllowToFailure),
            (Self::Deny { .. }, Self::Failed) => Some(Change::DenyToFailure),
            (Self::Failed, Self::Deny { .. }) => Some(Change::FailureToDeny),
            (Self::Failed, Self::Failed) => None,
            (Self::Allow { allow, value }, Self::Allow { allow: other, value: now }) => {
                let differs = !is_same(value, now) && !of_allows(allow, other).is_empty();
                (!is_partial && differs).then_some(Change::AllowDiffers)
            }
            (Self::Deny { deny, value }, Self::Deny { deny: other, value: now }) => {
                let differs = !is_same(value, now) && !of_denials(deny, other).is_empty();
                (!is_partial && differs).then_some(Change::DenyDiffers)
            }
        }
    }

    pub(super) fn reason(&self) -> Option<String> {
        match self {
            Self::Allow { allow, .. } => allow.reason.clone(),
            Self::Deny { deny, .. } => deny.reason.clone(),
            Self::Failed => None,
        }
    }
}

/// Whether a recorded result is what was given now; a set is recorded as an array.
fn is_same(recorded: &Value, now: &Value) -> bool {
    let as_recorded = || Value::from_json_str(&now.to_json_str().ok()?).ok();
    recorded == now || as_recorded().is_some_and(|now| *recorded == now)
}

// === impl Bits ===

impl Bits {
    pub(super) fn insert(&mut self, index: usize) {
        let (word, bit) = (index / 64, index % 64);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= 1 << bit;
        }
    }

    fn contains(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    fn union(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word |= other;
        }
    }
}

// === impl Tally ===

impl Tally {
    /// Tells what the paths are called that a question reads.
    pub(super) fn question(&mut self, question: &str, names: Vec<String>) {
        self.names.insert(question.to_owned(), names);
    }

    pub(super) fn skip(&mut self, skipped: Skipped) {
        *self.skipped.entry(skipped).or_default() += 1;
    }

    pub(super) fn compared(&mut self, compared: Compared) {
        let Compared { number, decision_id, question, recorder, present, missing, changed } = compared;
        let recorder = Recorder { question, bundles: recorder };
        match self.seen.get_mut(&recorder) {
            Some(seen) => seen.union(&present),
            None => drop(self.seen.insert(recorder.clone(), present)),
        }
        let bucket = self.buckets.entry((recorder, missing)).or_default();
        match changed {
            None => bucket.unchanged += 1,
            Some(changed) => {
                bucket.change(changed, Side { count: 1, examples: vec![(number, decision_id)] });
            }
        }
    }

    /// Adds another thread's counts.
    pub(super) fn add(&mut self, other: Self) {
        self.events += other.events;
        for (skipped, count) in other.skipped {
            *self.skipped.entry(skipped).or_default() += count;
        }
        for (recorder, seen) in other.seen {
            self.seen.entry(recorder).or_default().union(&seen);
        }
        for (key, bucket) in other.buckets {
            let own = self.buckets.entry(key).or_default();
            own.unchanged += bucket.unchanged;
            own.other += bucket.other;
            for (changed, side) in bucket.changed {
                own.change(changed, side);
            }
        }
        self.names.extend(other.names);
    }

    /// What all that means.
    pub(super) fn report(self) -> Report {
        let mut all = Bucket::default();
        let mut skipped = self.skipped;
        for ((recorder, missing), bucket) in self.buckets {
            let names = self.names.get(&recorder.question).map(Vec::as_slice).unwrap_or_default();
            let seen = self.seen.get(&recorder);
            let never = names.iter().enumerate().filter(|(index, _)| {
                missing.contains(*index) && !seen.is_some_and(|seen| seen.contains(*index))
            });
            let paths: Vec<String> = never.map(|(_, name)| name.clone()).collect();
            if !paths.is_empty() {
                *skipped.entry(Skipped::NotRecorded { paths }).or_default() += bucket.total();
                continue;
            }
            all.unchanged += bucket.unchanged;
            all.other += bucket.other;
            for (changed, side) in bucket.changed {
                all.change(changed, side);
            }
        }
        let mut changed: Vec<_> = all.changed.into_iter().collect();
        changed.sort_by_key(|(changed, side)| (changed.change, std::cmp::Reverse(side.count)));
        Report {
            events: self.events,
            unchanged: all.unchanged,
            changed,
            other_changes: all.other,
            skipped: skipped.into_iter().collect(),
        }
    }
}

// === impl Bucket ===

impl Bucket {
    fn change(&mut self, changed: Changed, side: Side) {
        if let Some(known) = self.changed.get_mut(&changed) {
            known.count += side.count;
            known.examples.extend(side.examples);
            known.examples.sort();
            known.examples.truncate(EXAMPLES);
        } else if self.changed.len() < CHANGES_MAX {
            self.changed.insert(changed, side);
        } else {
            self.other += side.count;
        }
    }

    fn total(&self) -> u64 {
        self.unchanged + self.other + self.changed.values().map(|side| side.count).sum::<u64>()
    }
}

// === impl Report ===

impl Report {
    /// Decisions that changed.
    pub fn changes(&self) -> u64 {
        self.other_changes + self.changed.iter().map(|(_, side)| side.count).sum::<u64>()
    }

    /// Events that were replayed.
    pub fn replayed(&self) -> u64 {
        self.unchanged + self.changes()
    }
}

// === impl Skipped ===

impl Skipped {
    /// The word in reports.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Undecided => "undecided",
            Self::NoInput => "no_input",
            Self::NoResult => "no_result",
            Self::NoRule { .. } => "no_rule",
            Self::Erased { .. } => "erased",
            Self::Outside { .. } => "outside",
            Self::NotRecorded { .. } => "not_recorded",
        }
    }
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable => f.write_str("the line is no decision event"),
            Self::Undecided => f.write_str("no policy was asked: the request was refused before"),
            Self::NoInput => f.write_str("the event has no input: it was logged as a summary"),
            Self::NoResult => f.write_str("the event does not say what was decided"),
            Self::NoRule { path } => write!(f, "the candidate has no rule `{path}`"),
            Self::Erased { pointer } => write!(f, "the candidate may read `{pointer}`, which is erased"),
            Self::Outside { builtin } => {
                write!(f, "the candidate calls `{builtin}`, whose answers are not recorded")
            }
            Self::NotRecorded { paths } => {
                write!(f, "the candidate reads `{}`, which was not recorded", paths.join("`, `"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decisions_do_is_compared_and_not_how_they_are_written() {
        let outcome = |text: &str| {
            let value = Value::from_json_str(text).unwrap();
            let decision = Decision::parse(&value, crate::contract::decision::Phase::Request);
            Outcome::of(Some((value, decision)))
        };
        let change = |before: &str, after: &str| outcome(before).change(&outcome(after), false);
        assert_eq!(change("true", r#"{"allow": true}"#), None);
        assert_eq!(change("false", r#"{"allow": false, "status": 403}"#), None);
        assert_eq!(change("true", r#"{"allow": true, "reason": "r"}"#), Some(Change::AllowDiffers));
        assert_eq!(change("false", r#"{"allow": false, "status": 404}"#), Some(Change::DenyDiffers));
        assert_eq!(change("false", r#"{"allow": true}"#), Some(Change::DenyToAllow));
    }

    #[test]
    fn bits_are_a_set() {
        let mut bits = Bits::default();
        bits.insert(3);
        bits.insert(130);
        assert!(bits.contains(3) && bits.contains(130) && !bits.contains(4) && !bits.contains(500));
        let mut other = Bits::default();
        other.insert(0);
        other.union(&bits);
        assert!(other.contains(0) && other.contains(130));
    }
}
