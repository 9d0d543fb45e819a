//! What waits to be evaluated beside the requests: bounded in number and size.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use regorus::Value;

use crate::config::model::Name;
use crate::policy::divergence::Decided;
use crate::runtime::beside::candidate::{Candidate, Verifier};
use crate::telemetry::metrics::PolicyId;

/// Tasks that wait at most.
const TASKS_MAX: usize = 4_096;
/// Estimated bytes of their inputs at most.
const BYTES_MAX: usize = 32 << 20;

/// One decision to be looked at again.
pub struct Task {
    /// What is to be done.
    pub work: Work,
    /// What was decided.
    pub decided: Decided,
    /// The facts, as what is asked reads them.
    pub input: Value,
    /// The API.
    pub api: Name,
    /// The route.
    pub route: Name,
    /// Where it is counted.
    pub series: PolicyId,
}

/// Something that waits, and what it takes in memory, as an estimate.
#[derive(Debug)]
pub struct Weighed<T> {
    /// What waits.
    pub item: T,
    /// Bytes.
    pub bytes: usize,
}

/// What is to be done with a decision.
#[derive(Debug)]
pub enum Work {
    /// Ask the candidate.
    Shadow(Arc<Candidate>),
    /// Ask the interpreter.
    Verify(Arc<Verifier>),
}

/// The queue between the workers and the thread that evaluates.
#[derive(Debug)]
pub struct Queue<T = Task> {
    waiting: Mutex<Waiting<T>>,
    arrived: Condvar,
}

#[derive(Debug)]
struct Waiting<T> {
    items: VecDeque<Weighed<T>>,
    bytes: usize,
    ended: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let waiting = Waiting { items: VecDeque::new(), bytes: 0, ended: false };
        Self { waiting: Mutex::new(waiting), arrived: Condvar::new() }
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The input may hold what nobody should read.
        f.debug_struct("Task").field("decision_id", &self.decided.decision_id).finish_non_exhaustive()
    }
}

impl<T> Queue<T> {
    /// Takes what there is room for out of `items`, the first ones first. Never waits for an evaluation.
    pub fn push(&self, items: &mut Vec<Weighed<T>>) {
        let waiting = &mut *self.waiting();
        let room = if waiting.ended { 0 } else { TASKS_MAX.saturating_sub(waiting.items.len()) };
        let mut bytes = waiting.bytes;
        let mut count = 0;
        for item in items.iter().take(room) {
            if bytes.saturating_add(item.bytes) > BYTES_MAX {
                break;
            }
            bytes += item.bytes;
            count += 1;
        }
        if count > 0 {
            waiting.items.extend(items.drain(..count));
            waiting.bytes = bytes;
            self.arrived.notify_one();
        }
    }

    /// The next one; waits for it. `None` is the end.
    pub(super) fn next(&self) -> Option<T> {
        let mut waiting = self.waiting();
        loop {
            if waiting.ended {
                return None;
            }
            if let Some(Weighed { item, bytes }) = waiting.items.pop_front() {
                waiting.bytes = waiting.bytes.saturating_sub(bytes);
                return Some(item);
            }
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Has nothing evaluated any more: what waits is forgotten.
    pub fn end(&self) {
        let mut waiting = self.waiting();
        waiting.ended = true;
        waiting.items.clear();
        self.arrived.notify_all();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weighed(bytes: usize, items: std::ops::Range<usize>) -> Vec<Weighed<usize>> {
        items.map(|item| Weighed { item, bytes }).collect()
    }

    #[test]
    fn what_there_is_no_room_for_stays_with_the_caller() {
        let queue = Queue::default();
        let mut many = weighed(1, 0..TASKS_MAX + 3);
        queue.push(&mut many);
        assert_eq!(
            many.iter().map(|left| left.item).collect::<Vec<_>>(),
            [TASKS_MAX, TASKS_MAX + 1, TASKS_MAX + 2]
        );
        assert_eq!(queue.next(), Some(0));
        queue.push(&mut many);
        assert_eq!((many.len(), queue.next()), (2, Some(1)));
    }

    #[test]
    fn large_inputs_wait_in_smaller_number() {
        let queue = Queue::default();
        let mut large = weighed(BYTES_MAX / 2, 0..3);
        queue.push(&mut large);
        assert_eq!(large.len(), 1);
        assert_eq!(queue.next(), Some(0));
        queue.push(&mut large);
        assert!(large.is_empty());
        let mut too_large = weighed(BYTES_MAX + 1, 0..1);
        assert_eq!((queue.next(), queue.next()), (Some(1), Some(2)));
        queue.push(&mut too_large);
        assert_eq!(too_large.len(), 1);
    }

    #[test]
    fn the_end_wakes_who_waits_and_nothing_is_taken_after_it() {
        let queue = Queue::default();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| queue.next());
            queue.end();
            assert_eq!(waits.join().unwrap(), None);
        });
        let mut late = weighed(1, 0..1);
        queue.push(&mut late);
        assert_eq!((late.len(), queue.next()), (1, None));
    }
}
