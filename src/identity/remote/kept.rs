//! What servers have said, within bounds.
//!
//! Good and bad answers are kept apart, so that a stranger who tries many passwords cannot push out what is good.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::contract::identity::Facts;
use crate::identity::digest::Sha256;
use crate::identity::remote::{Refused, Settled};

/// A good answer.
#[derive(Debug)]
pub(in crate::identity) struct Known {
    /// For whom.
    pub(super) facts: Facts,
    /// It holds before, since the Unix epoch.
    pub(super) fresh: Duration,
    /// It may serve before, while the server is down.
    pub(super) stale: Duration,
}

/// Answers by the digest of their question.
#[derive(Debug)]
pub(super) struct Kept {
    good: Halves<Arc<Known>>,
    bad: Halves<(Refused, Duration)>,
}

/// Two maps stand for a least-recently-used list, as in [`crate::identity::cache`].
#[derive(Debug)]
struct Halves<T> {
    young: foldhash::HashMap<Sha256, T>,
    old: foldhash::HashMap<Sha256, T>,
    half: usize,
}

impl Kept {
    /// At most `entries` good answers and as many bad ones.
    pub(super) fn new(entries: usize) -> Self {
        Self { good: Halves::new(entries), bad: Halves::new(entries) }
    }

    /// An answer that holds.
    pub(super) fn fresh(&mut self, digest: &Sha256, now: Duration) -> Option<Settled> {
        if let Some(known) = self.good.touch(digest)
            && now < known.fresh
        {
            return Some(Settled::Proven(Arc::clone(known)));
        }
        let (refused, until) = self.bad.touch(digest)?;
        (now < *until).then(|| Settled::Refused(refused.clone()))
    }

    /// A good answer that may serve while the server is down.
    pub(super) fn stale(&mut self, digest: &Sha256, now: Duration) -> Option<Arc<Known>> {
        self.good.touch(digest).filter(|known| now < known.stale).cloned()
    }

    pub(super) fn prove(&mut self, digest: Sha256, known: Arc<Known>, now: Duration) {
        self.bad.remove(&digest);
        if now < known.stale {
            self.good.insert(digest, known);
        }
    }

    pub(super) fn refuse(&mut self, digest: Sha256, refused: Refused, until: Duration) {
        // What was good is not any more, whatever happens to the server next.
        self.good.remove(&digest);
        self.bad.insert(digest, (refused, until));
    }

    pub(super) fn len(&self) -> usize {
        self.good.len() + self.bad.len()
    }
}

impl<T> Halves<T> {
    fn new(entries: usize) -> Self {
        Self {
            young: foldhash::HashMap::default(),
            old: foldhash::HashMap::default(),
            half: entries.div_ceil(2).max(1),
        }
    }

    fn touch(&mut self, digest: &Sha256) -> Option<&T> {
        if let Some(value) = self.old.remove(digest) {
            self.insert(*digest, value);
        }
        self.young.get(digest)
    }

    fn insert(&mut self, digest: Sha256, value: T) {
        if self.young.len() >= self.half && !self.young.contains_key(&digest) {
            self.old = mem::take(&mut self.young);
        }
        self.old.remove(&digest);
        self.young.insert(digest, value);
    }

    fn remove(&mut self, digest: &Sha256) {
        self.young.remove(digest);
        self.old.remove(digest);
    }

    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn known(fresh: u64, stale: u64) -> Arc<Known> {
        Arc::new(Known { facts: Facts::default(), fresh: seconds(fresh), stale: seconds(stale) })
    }

    #[test]
    fn an_answer_is_fresh_then_stale_then_gone() {
        let mut kept = Kept::new(10);
        kept.prove([1; 32], known(10, 20), seconds(0));
        assert!(matches!(kept.fresh(&[1; 32], seconds(9)), Some(Settled::Proven(_))));
        assert!(kept.fresh(&[1; 32], seconds(10)).is_none());
        assert!(kept.stale(&[1; 32], seconds(19)).is_some());
        assert!(kept.stale(&[1; 32], seconds(20)).is_none());
    }

    #[test]
    fn a_refusal_ends_what_was_good() {
        let mut kept = Kept::new(10);
        kept.prove([1; 32], known(10, 20), seconds(0));
        kept.refuse([1; 32], Refused::plain("bad_password"), seconds(5));
        assert!(matches!(kept.fresh(&[1; 32], seconds(4)), Some(Settled::Refused(_))));
        assert!(kept.fresh(&[1; 32], seconds(5)).is_none());
        assert!(kept.stale(&[1; 32], seconds(5)).is_none());
    }

    #[test]
    fn refusals_push_out_nothing_good() {
        let mut kept = Kept::new(10);
        kept.prove([255; 32], known(10, 20), seconds(0));
        for number in 0..100 {
            kept.refuse([number; 32], Refused::plain("bad_password"), seconds(5));
            assert!(kept.bad.len() <= 10, "{}", kept.bad.len());
        }
        assert!(kept.fresh(&[255; 32], seconds(1)).is_some());
    }

    #[test]
    fn the_least_recently_used_are_evicted() {
        let mut kept = Kept::new(10);
        for number in 0..100 {
            kept.prove([number; 32], known(10, 20), seconds(0));
            assert!(kept.fresh(&[0; 32], seconds(1)).is_some());
            assert!(kept.len() <= 10, "{}", kept.len());
        }
        assert!(kept.fresh(&[50; 32], seconds(1)).is_none());
    }
}
