//! Collects every fault of a configuration while the checks go on, and puts them into the order of the file.

use std::collections::BTreeSet;
use std::path::Path;

use crate::config::diagnostic::{Diagnostic, Position};
use crate::config::place::Place;
use crate::config::yaml::Node;

/// Proof that a fault stands in the report; only [`Report::error`] makes one. A check that returns it has not failed
/// silently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reported(());

/// Where a fault is shown.
#[derive(Debug, Clone)]
pub(super) enum At {
    /// At a place in the text.
    Position(Position),
    /// At the key that leads to the value.
    Key(Place),
    /// At the value.
    Value(Place),
}

impl At {
    fn place(&self) -> Option<&Place> {
        match self {
            Self::Position(_) => None,
            Self::Key(place) | Self::Value(place) => Some(place),
        }
    }
}

impl From<&Place> for At {
    fn from(place: &Place) -> Self {
        Self::Value(place.clone())
    }
}

#[derive(Debug)]
struct Entry {
    at: At,
    message: String,
    help: Option<String>,
}

/// The faults and warnings found so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    errors: Vec<Entry>,
    warnings: Vec<Entry>,
    settled: BTreeSet<Place>,
    discarded: Vec<Place>,
}

impl Report {
    /// Notes a fault, unless it only follows from one that is settled already.
    pub(super) fn error(&mut self, at: impl Into<At>, message: impl Into<String>) -> Reported {
        self.note(at.into(), message.into(), None)
    }

    /// As [`Report::error`], with what to do about it; an empty text says nothing.
    pub(super) fn error_with(
        &mut self,
        at: impl Into<At>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Reported {
        let help = Some(help.into()).filter(|help| !help.is_empty());
        self.note(at.into(), message.into(), help)
    }

    fn note(&mut self, at: At, message: String, help: Option<String>) -> Reported {
        // INVARIANT: a place is settled only together with a fault, so `Reported` is true on both ways.
        if !at.place().is_some_and(|place| self.is_settled(place)) {
            self.errors.push(Entry { at, message, help });
        }
        Reported(())
    }

    /// Notes something that is allowed, but hardly meant.
    pub(super) fn warning(&mut self, at: impl Into<At>, message: impl Into<String>, help: impl Into<String>) {
        self.warnings.push(Entry { at: at.into(), message: message.into(), help: Some(help.into()) });
    }

    /// Says that the fault just noted is all there is to say about `place` and everything in it.
    pub(super) fn settle(&mut self, place: Place, _fault: Reported) {
        self.settled.insert(place);
    }

    /// As [`Report::settle`], for a key that is left out when the rest is read.
    pub(super) fn discard(&mut self, place: Place, fault: Reported) {
        self.discarded.push(place.clone());
        self.settle(place, fault);
    }

    /// Whether no more is to be said about `place`.
    pub(super) fn is_settled(&self, place: &Place) -> bool {
        place.ancestors().any(|around| self.settled.contains(&around))
    }

    /// The fault of a settled place in `place`, which then cannot be expected to be whole.
    pub(super) fn settled_within(&self, place: &Place) -> Option<Reported> {
        let next = self.settled.range(place.clone()..).next()?;
        next.is_within(place).then_some(Reported(()))
    }

    /// The fault of `place`, or of a value right in it: a mistyped key there may be the one that seems to be missing.
    pub(super) fn settled_in(&self, place: &Place) -> Option<Reported> {
        let depth = place.steps().len() + 1;
        let within = self.settled.range(place.clone()..).take_while(|settled| settled.is_within(place));
        within.map(Place::steps).any(|steps| steps.len() <= depth).then_some(Reported(()))
    }

    /// The keys to leave out.
    pub(super) fn discarded(&self) -> &[Place] {
        &self.discarded
    }

    /// Whether there is a fault.
    pub(super) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Gives out the errors and the warnings, each in the order of the file.
    pub(super) fn finish(self, file: &Path, root: &Node) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        let locate = |entries: Vec<Entry>| {
            let mut diagnostics: Vec<Diagnostic> = entries
                .into_iter()
                .map(|entry| Diagnostic {
                    file: file.to_owned(),
                    position: Some(match &entry.at {
                        At::Position(position) => *position,
                        At::Key(place) => root.key_position(place),
                        At::Value(place) => root.position(place),
                    }),
                    message: entry.message,
                    help: entry.help,
                })
                .collect();
            diagnostics.sort_by(|a, b| (a.position, &a.message).cmp(&(b.position, &b.message)));
            diagnostics.dedup();
            diagnostics
        };
        (locate(self.errors), locate(self.warnings))
    }
}
