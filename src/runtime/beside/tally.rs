//! What has become of a candidate so far, and of the comparison of engines, for `/status`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::id::DecisionId;
use crate::config::model::Name;
use crate::policy::divergence::Divergence;
use crate::telemetry::metrics::{Comparison, Direction};

/// Routes told apart; what is beyond is in the sums only.
const ROUTES_MAX: usize = 512;
/// The last divergences that are kept.
const RECENT_MAX: usize = 20;

/// Counts by direction, in the order of [`Direction::ALL`].
pub type Directions = [u64; Direction::ALL.len()];

/// What a candidate's decisions were like, from when its bundle was loaded.
#[derive(Debug)]
pub struct Tally(Mutex<Counts>);

/// Counts of a candidate's decisions.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Since when it is counted, since the Unix epoch.
    pub since: Duration,
    /// All of them.
    pub all: Directions,
    /// By API and route.
    pub routes: BTreeMap<(Name, Name), Directions>,
    /// The last divergences, the latest first.
    pub recent: VecDeque<Seen>,
    /// Time spent on evaluating.
    pub spent: Duration,
    /// Divergences beyond those that are recorded each second.
    pub unrecorded: u64,
}

/// One divergence.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The decision's id.
    pub decision_id: DecisionId,
    /// When it was decided, since the Unix epoch.
    pub time: Duration,
    /// The API.
    pub api: Name,
    /// The route.
    pub route: Name,
    /// How they differ.
    pub divergence: Divergence,
}

/// What came of asking the interpreter about live decisions of a policy.
#[derive(Debug, Default)]
pub struct Verified(Mutex<Verifications>);

/// Counts of comparisons of engines.
#[derive(Debug, Clone, Default)]
pub struct Verifications {
    /// In the order of [`Comparison::ALL`].
    pub counts: [u64; Comparison::ALL.len()],
    /// The last decision on which the engines differ.
    pub last: Option<DecisionId>,
}

impl Tally {
    /// Nothing counted `since` now.
    pub fn new(since: Duration) -> Self {
        Self(Mutex::new(Counts { since, ..Counts::default() }))
    }

    /// The counts.
    pub fn counts(&self) -> Counts {
        self.lock().clone()
    }

    /// Counts one decision of the candidate.
    pub(super) fn note(&self, seen: Seen, spent: Duration) {
        let mut counts = self.lock();
        let direction = seen.divergence.direction as usize;
        count_one(&mut counts.all, direction);
        counts.spent += spent;
        let route = (seen.api.clone(), seen.route.clone());
        if counts.routes.len() < ROUTES_MAX || counts.routes.contains_key(&route) {
            let of_route = counts.routes.entry(route).or_default();
            count_one(of_route, direction);
        }
        if seen.divergence.direction != Direction::Same {
            counts.recent.truncate(RECENT_MAX - 1);
            counts.recent.push_front(seen);
        }
    }

    /// Counts a divergence that is not recorded.
    pub(super) fn unrecorded(&self) {
        self.lock().unrecorded += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Verified {
    /// The counts.
    pub fn counts(&self) -> Verifications {
        self.lock().clone()
    }

    pub(super) fn note(&self, decision_id: DecisionId, comparison: Comparison) {
        let mut verifications = self.lock();
        count_one(&mut verifications.counts, comparison as usize);
        if comparison == Comparison::Different {
            verifications.last = Some(decision_id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Verifications> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count_one(counts: &mut [u64], index: usize) {
    if let Some(count) = counts.get_mut(index) {
        *count += 1;
    }
}
