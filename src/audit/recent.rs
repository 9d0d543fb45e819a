//! The last events of a worker, as they are logged: bounded in number and size, for whoever asks about one of them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::id::DecisionId;

/// A ring of events. One worker writes; who asks seldom does, so the lock is free.
pub struct Recent {
    count_max: usize,
    bytes_max: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    events: VecDeque<Recorded>,
    bytes: usize,
}

/// An event, and which policy decided.
#[derive(Clone)]
pub struct Recorded {
    /// The decision's id.
    pub decision_id: DecisionId,
    /// The building of the policy that was asked, if one was.
    pub policy: Option<u64>,
    /// The event, one JSON object without secrets.
    pub line: Box<[u8]>,
}

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").field("count_max", &self.count_max).finish_non_exhaustive()
    }
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorded").field("decision_id", &self.decision_id).finish_non_exhaustive()
    }
}

impl Recent {
    /// A ring of at most so many events, of at most so many bytes together.
    pub fn new(count_max: usize, bytes_max: usize) -> Self {
        Self { count_max, bytes_max, kept: Mutex::default() }
    }

    /// Keeps an event, for which the oldest ones give way. One that is larger than all may be is not kept.
    pub fn keep(&self, decision_id: DecisionId, policy: Option<u64>, line: &[u8]) {
        if line.len() > self.bytes_max {
            return;
        }
        let recorded = Recorded { decision_id, policy, line: line.into() };
        let kept = &mut *self.kept();
        kept.bytes += line.len();
        kept.events.push_back(recorded);
        while kept.events.len() > self.count_max || kept.bytes > self.bytes_max {
            let Some(oldest) = kept.events.pop_front() else { break };
            kept.bytes -= oldest.line.len();
        }
    }

    /// The event of the decision with this id.
    pub fn find(&self, decision_id: &str) -> Option<Recorded> {
        let kept = self.kept();
        // From the latest: that is what is asked about.
        let found = kept
            .events
            .iter()
            .rev()
            .find(|recorded| recorded.decision_id.encode(&mut [0; 36]) == decision_id);
        found.cloned()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::id::DecisionIds;

    #[test]
    fn the_oldest_give_way_to_number_and_size() {
        let mut ids = DecisionIds::new();
        let ids: Vec<DecisionId> = (0..5).map(|_| ids.next(Duration::from_secs(1))).collect();
        let known = |recent: &Recent| -> Vec<bool> {
            ids.iter().map(|id| recent.find(&id.to_string()).is_some()).collect()
        };
        let recent = Recent::new(3, 100);
        for id in &ids {
            recent.keep(*id, None, b"0123456789");
        }
        assert_eq!(known(&recent), [false, false, true, true, true]);
        let recent = Recent::new(100, 25);
        for id in ids.iter().take(3) {
            recent.keep(*id, Some(1), b"0123456789");
        }
        recent.keep(ids[3], None, &[b'x'; 26]);
        assert_eq!(known(&recent), [false, true, true, false, false]);
        let found = recent.find(&ids[2].to_string()).unwrap();
        assert_eq!((found.policy, &*found.line), (Some(1), &b"0123456789"[..]));
        assert!(recent.find("").is_none());
    }
}
