//! What one worker has proven already.
//!
//! Each worker has its own cache and builds its own identities: no lock, and no reference count that two cores write. What
//! it does not have may be on the [`shelf`](crate::identity::shelf) that all share.
//! The key is the SHA-256 of the credential, so the cache holds no credential, and comparing keys tells nothing about
//! one. Only good credentials get in: a stranger can fill neither the cache nor a chosen place in it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::contract::identity::Identity;
use crate::identity::binding::Binding;
use crate::identity::digest::Sha256;
use crate::identity::shelf::Shelf;
use crate::identity::{Proof, Validity};

/// Bytes of credentials that one generation of the cache stands for: about 4 000 tokens of 1 KiB.
const GENERATION_BYTES: usize = 4 << 20;

/// What an entry weighs on top of its credential's length.
const ENTRY_OVERHEAD_BYTES: usize = 512;

/// One worker's proven credentials, least recently used ones evicted.
#[derive(Debug)]
pub struct WorkerCache {
    generations: RefCell<Generations>,
    shelf: Arc<Shelf>,
}

/// A credential as shown to one provider of one snapshot: a reload makes new providers, and so forgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) provider: u64,
    pub(super) digest: Sha256,
}

/// An identity that was proven before.
#[derive(Debug)]
pub(super) struct Remembered {
    pub(super) identity: Arc<Identity>,
    pub(super) validity: Validity,
    pub(super) binding: Option<Arc<Binding>>,
}

#[derive(Debug)]
struct Entry {
    identity: Arc<Identity>,
    validity: Validity,
    binding: Option<Arc<Binding>>,
    revision: u64,
    weight: usize,
}

/// Two maps stand for a least-recently-used list: what is used moves to the young one, and when that is full, the old
/// one is dropped and the young one takes its place. Both operations are constant time.
#[derive(Debug)]
struct Generations {
    young: HashMap<Key, Entry, foldhash::fast::RandomState>,
    old: HashMap<Key, Entry, foldhash::fast::RandomState>,
    young_bytes: usize,
    generation_bytes: usize,
}

impl WorkerCache {
    /// An empty cache, on its own.
    pub fn new() -> Self {
        Self::before(Arc::default())
    }

    /// An empty cache that looks on `shelf` for what it does not have.
    pub fn before(shelf: Arc<Shelf>) -> Self {
        Self::bounded(GENERATION_BYTES, shelf)
    }

    /// An empty cache whose two generations each stand for `generation_bytes` of credentials.
    fn bounded(generation_bytes: usize, shelf: Arc<Shelf>) -> Self {
        let generations = Generations {
            young: HashMap::default(),
            old: HashMap::default(),
            young_bytes: 0,
            generation_bytes,
        };
        Self { generations: RefCell::new(generations), shelf }
    }

    /// Credentials remembered, expired ones included.
    pub fn len(&self) -> usize {
        let generations = self.generations.borrow();
        generations.young.len() + generations.old.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was proven before, if that still holds at `now` and for this provider's `revision`. What it is bound to must be
    /// shown again.
    pub(super) fn get(&self, key: &Key, revision: u64, now: Duration) -> Option<Remembered> {
        let mut generations = self.generations.borrow_mut();
        let entry = generations.touch(key)?;
        (entry.revision == revision && entry.validity.contains(now)).then(|| Remembered {
            identity: Arc::clone(&entry.identity),
            validity: entry.validity,
            binding: entry.binding.clone(),
        })
    }

    /// What any worker has proven before, under the same conditions as [`WorkerCache::get`]; it is remembered here too.
    pub(super) fn find(
        &self,
        key: &Key,
        revision: u64,
        now: Duration,
        provider: &Arc<str>,
        length: usize,
    ) -> Option<Remembered> {
        let mut proof = self.shelf.get(key)?;
        if proof.revision != revision || !proof.validity.contains(now) {
            return None;
        }
        let mut facts = mem::take(&mut proof.facts);
        facts.provider = Some(Arc::clone(provider));
        let identity = Arc::new(Identity::authenticated(facts));
        let (validity, binding) = (proof.validity, proof.binding.clone());
        self.insert(*key, &identity, proof, length);
        Some(Remembered { identity, validity, binding })
    }

    /// Remembers a proof here and for all workers.
    pub(super) fn keep(&self, key: Key, identity: &Arc<Identity>, proof: Proof, length: usize) {
        self.shelf.put(key, identity.facts(), &proof);
        self.insert(key, identity, proof, length);
    }

    /// Remembers a proof of a credential of `length` bytes.
    pub(super) fn insert(&self, key: Key, identity: &Arc<Identity>, proof: Proof, length: usize) {
        let entry = Entry {
            identity: Arc::clone(identity),
            validity: proof.validity,
            weight: length.saturating_add(ENTRY_OVERHEAD_BYTES + proof.binding_weight()),
            binding: proof.binding,
            revision: proof.revision,
        };
        self.generations.borrow_mut().insert(key, entry);
    }
}

impl Default for WorkerCache {
    fn default() -> Self {
        Self::new()
    }
}

impl Generations {
    fn touch(&mut self, key: &Key) -> Option<&Entry> {
        if let Some(entry) = self.old.remove(key) {
            self.insert(*key, entry);
        }
        self.young.get(key)
    }

    fn insert(&mut self, key: Key, entry: Entry) {
        if self.young_bytes.saturating_add(entry.weight) > self.generation_bytes {
            self.old = mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += entry.weight;
        if let Some(replaced) = self.young.insert(key, entry) {
            self.young_bytes -= replaced.weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::identity::Facts;

    fn key(number: u8) -> Key {
        Key { provider: 1, digest: [number; 32] }
    }

    fn proof(revision: u64, until: u64) -> Proof {
        let validity = Validity { from: Duration::from_secs(10), until: Duration::from_secs(until) };
        Proof { facts: Facts::default(), validity, binding: None, revision }
    }

    fn remember(cache: &WorkerCache, key: Key, proof: Proof) {
        cache.insert(key, &Arc::new(Identity::anonymous()), proof, 100);
    }

    #[track_caller]
    fn check(cache: &WorkerCache, key: Key, revision: u64, now: u64, want: bool) {
        assert_eq!(cache.get(&key, revision, Duration::from_secs(now)).is_some(), want);
    }

    #[test]
    fn a_proof_holds_for_its_time_its_revision_and_its_provider() {
        let cache = WorkerCache::new();
        remember(&cache, key(1), proof(7, 20));
        check(&cache, key(1), 7, 10, true);
        check(&cache, key(1), 7, 19, true);
        check(&cache, key(1), 7, 20, false);
        check(&cache, key(1), 7, 9, false);
        check(&cache, key(1), 8, 15, false);
        check(&cache, key(2), 7, 15, false);
        check(&cache, Key { provider: 2, ..key(1) }, 7, 15, false);
    }

    #[test]
    fn a_bound_proof_tells_what_it_is_bound_to() {
        let cache = WorkerCache::new();
        let binding = Some(Arc::new(Binding::Certificate("ab".into())));
        remember(&cache, key(1), Proof { binding, ..proof(0, 20) });
        let remembered = cache.get(&key(1), 0, Duration::from_secs(15)).unwrap();
        assert!(matches!(remembered.binding.as_deref(), Some(Binding::Certificate(held)) if held == "ab"));
    }

    #[test]
    fn the_least_recently_used_are_evicted() {
        let cache = WorkerCache::bounded(4 * (100 + ENTRY_OVERHEAD_BYTES), Arc::default());
        for number in 0..100 {
            remember(&cache, key(number), proof(0, 20));
            check(&cache, key(0), 0, 15, true);
            assert!(cache.len() <= 8, "{}", cache.len());
        }
        check(&cache, key(99), 0, 15, true);
        check(&cache, key(50), 0, 15, false);
    }
}
