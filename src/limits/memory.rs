//! Limit counters in this process: sharded, bounded, atomic over all limits of a decision.
//!
//! A bucket is found by a 128-bit hash of (scope, name, key) under two random seeds drawn at start, so that a known key
//! allocates nothing. Two keys of `n` share a bucket with odds of about `n^2 / 2^129` (a million keys: 10^-27), and who
//! does not know the seeds cannot search for such a pair. Counters outlive a reload and end with the process.
//! Locks are taken in ascending order of shards, each once; no other lock is taken while one is held.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::quality::RandomState;
use smallvec::SmallVec;

use crate::limits::gcra::{self, Answer, FullAt};
use crate::limits::verdict::{LimitRequest, Outcome, Standing, Verdict};

/// Shards at most; a power of two.
const SHARDS_MAX: usize = 64;
/// Keys of a shard from which on a further shard pays.
const SHARD_KEYS_MIN: usize = 256;
/// The share of a full shard that one eviction frees, so that its cost is spread over as many insertions.
const EVICTED_SHARE: usize = 16;

/// Limits of a decision that need no heap.
type PerLimit<T> = SmallVec<[T; 4]>;

/// The counters of all limits.
#[derive(Debug)]
pub struct Store {
    shards: Box<[Shard]>,
    /// Keys kept at most in each shard.
    shard_keys: AtomicUsize,
    seeds: [RandomState; 2],
    evicted: AtomicU64,
}

/// Aligned so that two shards never share a cache line (nor a pair of lines that is fetched together).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(Mutex<Buckets>);

type Buckets = HashMap<Key, FullAt, BuildHasherDefault<Prehashed>>;

/// A bucket's hash: one half chooses the shard, the other the place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    high: u64,
    low: u64,
}

impl Store {
    /// An empty store of at most `keys` buckets (at least one).
    pub fn new(keys: usize) -> Self {
        let shards = (keys / SHARD_KEYS_MIN).next_power_of_two().clamp(1, SHARDS_MAX);
        Self {
            shards: (0..shards).map(|_| Shard::default()).collect(),
            shard_keys: AtomicUsize::new((keys / shards).max(1)),
            seeds: [RandomState::default(), RandomState::default()],
            evicted: AtomicU64::new(0),
        }
    }

    /// Sets the bound of keys anew, on a reload. A lower bound is reached as keys come in.
    pub fn set_keys(&self, keys: usize) {
        self.shard_keys.store((keys / self.shards.len()).max(1), Ordering::Relaxed);
    }

    /// Takes from all of `requests` at `now` (since the Unix epoch), or from none of them. `scope` keeps the limits of
    /// one API (or policy) apart from those of another.
    pub fn take(&self, scope: &str, requests: &[LimitRequest<'_>], now: Duration) -> Verdict {
        let keys: PerLimit<Key> = requests.iter().map(|request| self.key(scope, request)).collect();
        let mut held = self.lock(&keys);
        let mut buckets: PerLimit<FullAt> = SmallVec::with_capacity(requests.len());
        let mut verdict = Verdict::default();
        for (index, (request, key)) in requests.iter().zip(&keys).enumerate() {
            // The same bucket twice in one decision: the second take sees the first.
            let earlier = keys.iter().zip(&buckets).take(index).rfind(|(other, _)| *other == key);
            let bucket = earlier.map_or_else(|| held.bucket(*key), |(_, bucket)| *bucket);
            let reading = gcra::take(bucket, request.quota, now);
            buckets.push(match reading.answer {
                Answer::Taken(next) => next,
                Answer::Exceeded(_) | Answer::Never => bucket,
            });
            let outcome = Outcome::from(reading.answer);
            verdict.standings.push(Standing { outcome, remaining: reading.remaining, reset: reading.reset });
        }
        if verdict.allowed() {
            for (key, bucket) in keys.iter().zip(&buckets) {
                self.put(&mut held, *key, *bucket, now);
            }
        } else {
            for ((request, key), standing) in requests.iter().zip(&keys).zip(&mut verdict.standings) {
                if !standing.outcome.refuses() {
                    let (remaining, reset) = gcra::peek(held.bucket(*key), request.quota, now);
                    *standing = Standing { outcome: Outcome::Spared, remaining, reset };
                }
            }
        }
        verdict
    }

    /// Buckets kept now.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether no bucket is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Buckets given up before they were full again, since the start: above 0 the bound is too low for the traffic.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    fn key(&self, scope: &str, request: &LimitRequest<'_>) -> Key {
        let half = |seed: &RandomState| {
            let mut hasher = seed.build_hasher();
            // Lengths first: ("ab", "c") and ("a", "bc") are two keys.
            hasher.write_usize(scope.len());
            hasher.write_usize(request.name.len());
            hasher.write(scope.as_bytes());
            hasher.write(request.name.as_bytes());
            hasher.write(request.key.as_bytes());
            hasher.finish()
        };
        let [high, low] = &self.seeds;
        Key { high: half(high), low: half(low) }
    }

    /// Locks the shards of `keys`, in ascending order.
    fn lock(&self, keys: &[Key]) -> Held<'_> {
        let mut order: PerLimit<usize> = keys.iter().map(|key| key.shard(self.shards.len())).collect();
        order.sort_unstable();
        order.dedup();
        let guard = |index| self.shards.get(index).map(|shard| (index, lock(shard)));
        Held { shards: self.shards.len(), guards: order.into_iter().filter_map(guard).collect() }
    }

    fn put(&self, held: &mut Held<'_>, key: Key, bucket: FullAt, now: Duration) {
        let Some(buckets) = held.buckets(key) else { return };
        if let Some(known) = buckets.get_mut(&key) {
            *known = bucket;
            return;
        }
        if buckets.len() >= self.shard_keys.load(Ordering::Relaxed) {
            self.evicted.fetch_add(evict(buckets, FullAt::instant(now)), Ordering::Relaxed);
        }
        buckets.insert(key, bucket);
    }
}

/// The locked shards of one take.
struct Held<'a> {
    shards: usize,
    guards: PerLimit<(usize, MutexGuard<'a, Buckets>)>,
}

impl Held<'_> {
    fn buckets(&mut self, key: Key) -> Option<&mut Buckets> {
        let shard = key.shard(self.shards);
        self.guards.iter_mut().find(|(index, _)| *index == shard).map(|(_, buckets)| &mut **buckets)
    }

    fn bucket(&mut self, key: Key) -> FullAt {
        self.buckets(key).and_then(|buckets| buckets.get(&key)).copied().unwrap_or_default()
    }
}

impl Key {
    /// The shard of this key among `shards`, a power of two.
    fn shard(self, shards: usize) -> usize {
        usize::try_from(self.high % shards as u64).unwrap_or_default()
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.low);
    }
}

/// Passes on what is a hash already.
#[derive(Debug, Default)]
struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only `write_u64` is ever called; anything else still keys, badly.
        self.0 = bytes.iter().fold(self.0, |sum, byte| sum.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

fn lock(shard: &Shard) -> MutexGuard<'_, Buckets> {
    // A bucket is replaced in one assignment: a panic cannot leave a shard half written.
    shard.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes room: forgets all buckets that are full again (nothing is lost with them) and otherwise those next to full, and
/// tells how many of the latter. An exhausted bucket goes last, so a flood of fresh keys does not free who is limited.
fn evict(buckets: &mut Buckets, now: FullAt) -> u64 {
    let mut instants: Vec<FullAt> = buckets.values().copied().collect();
    let share = instants.len() / EVICTED_SHARE;
    let Some(last) = instants.len().checked_sub(1) else { return 0 };
    let (_, stalest, _) = instants.select_nth_unstable(share.min(last));
    let threshold = now.max(*stalest);
    let mut live = 0;
    buckets.retain(|_, full_at| {
        live += u64::from(*full_at <= threshold && *full_at > now);
        *full_at > threshold
    });
    live
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::contract::rate::{Quota, Rate};

    const NOW: Duration = Duration::from_hours(500_000);

    fn request<'a>(name: &'a str, key: &'a str, rate: &str, cost: u64) -> LimitRequest<'a> {
        LimitRequest { name, key, quota: Quota::new(Rate::parse(rate).unwrap(), None, Some(cost)).unwrap() }
    }

    #[test]
    fn one_refusal_takes_from_none() {
        let store = Store::new(100_000);
        let both = [request("wide", "k", "10/m", 1), request("narrow", "k", "2/m", 1)];
        let remaining = |verdict: &Verdict| verdict.standings.iter().map(|s| s.remaining).collect::<Vec<_>>();
        assert_eq!(remaining(&store.take("api", &both, NOW)), [9, 1]);
        assert_eq!(remaining(&store.take("api", &both, NOW)), [8, 0]);
        let refused = store.take("api", &both, NOW);
        assert!(!refused.allowed());
        assert_eq!(remaining(&refused), [8, 0], "the wide limit was spared");
        assert_eq!(refused.standings[0].outcome, Outcome::Spared);
        assert_eq!(refused.retry_after(), Some(Duration::from_secs(30)));
        assert_eq!(remaining(&store.take("api", &both[..1], NOW)), [7]);
    }

    #[test]
    fn the_same_bucket_twice_in_one_decision_is_taken_twice_or_not_at_all() {
        let store = Store::new(100);
        let twice = [request("l", "k", "3/m", 2), request("l", "k", "3/m", 1)];
        assert!(store.take("api", &twice, NOW).allowed());
        assert!(!store.take("api", &[request("l", "k", "3/m", 1)], NOW).allowed());
        let later = NOW + Duration::from_mins(1);
        let too_much = [request("l", "k", "3/m", 2), request("l", "k", "3/m", 2)];
        assert!(!store.take("api", &too_much, later).allowed());
        assert!(store.take("api", &[request("l", "k", "3/m", 3)], later).allowed(), "nothing was taken");
    }

    #[test]
    fn scope_name_and_key_keep_buckets_apart() {
        let store = Store::new(100);
        let takes =
            [("a", "bc", "d"), ("ab", "c", "d"), ("a", "b", "cd"), ("", "abc", "d"), ("abc", "", "d")];
        for (scope, name, key) in takes {
            let verdict = store.take(scope, &[request(name, key, "1/m", 1)], NOW);
            assert!(verdict.allowed(), "{scope} {name} {key}");
        }
        assert_eq!(store.len(), takes.len());
    }

    #[test]
    fn a_request_that_can_never_pass_is_told_so_and_leaves_no_bucket() {
        let store = Store::new(100);
        let verdict = store.take("api", &[request("l", "k", "1/m", 2)], NOW);
        assert_eq!((verdict.allowed(), verdict.retry_after()), (false, None));
        assert_eq!(verdict.standings[0].outcome, Outcome::Never);
        assert!(store.is_empty());
    }

    #[test]
    fn no_limits_pass_and_keep_nothing() {
        let store = Store::new(1);
        assert!(store.take("api", &[], NOW).allowed());
        assert!(store.is_empty());
    }

    #[test]
    fn the_store_keeps_its_bound_and_full_buckets_go_first() {
        let store = Store::new(64);
        let exhausted = request("l", "exhausted", "1/h", 1);
        assert!(store.take("api", &[exhausted], NOW).allowed());
        for index in 0..10_000_u64 {
            let key = format!("client-{index}");
            let now = NOW + Duration::from_millis(index);
            assert!(store.take("api", &[request("l", &key, "1000/s", 1)], now).allowed());
            assert!(store.len() <= 64, "{}", store.len());
        }
        assert!(
            !store.take("api", &[exhausted], NOW + Duration::from_secs(10)).allowed(),
            "it was not forgotten"
        );
        assert_eq!(store.evicted(), 0, "only full buckets were forgotten");
    }

    #[test]
    fn eviction_of_live_buckets_is_counted_and_spares_the_exhausted() {
        let store = Store::new(64);
        let exhausted = request("l", "exhausted", "2/h", 2);
        assert!(store.take("api", &[exhausted], NOW).allowed());
        for index in 0..1_000 {
            let key = format!("client-{index}");
            assert!(store.take("api", &[request("l", &key, "2/h", 1)], NOW).allowed());
            assert!(store.len() <= 64);
        }
        assert!(store.evicted() >= 1_000 - 64);
        assert!(!store.take("api", &[exhausted], NOW).allowed());
    }

    #[test]
    fn a_lowered_bound_is_reached_as_keys_come_in() {
        let store = Store::new(200);
        let fill = |from: u32, to: u32| {
            for index in from..to {
                store.take("api", &[request("l", &index.to_string(), "2/h", 1)], NOW);
            }
        };
        fill(0, 200);
        store.set_keys(10);
        fill(200, 1_000);
        assert!(store.len() <= 10, "{}", store.len());
    }

    /// Threads take overlapping sets of limits, in different orders, at one instant: exactly the burst passes, no take is
    /// half done, and nobody waits for ever.
    #[test]
    fn takes_are_exact_and_atomic_across_threads_and_shards() {
        const THREADS: usize = 8;
        const TAKES: usize = 4_000;
        let store = Store::new(100_000);
        let barrier = Barrier::new(THREADS);
        let passed: [AtomicU64; 4] = std::array::from_fn(|_| AtomicU64::new(0));
        let names = ["a", "b", "c", "d"];
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (store, barrier, passed) = (&store, &barrier, &passed);
                scope.spawn(move || {
                    barrier.wait();
                    for take in 0..TAKES {
                        let first = (thread + take) % 4;
                        let second = (thread * 3 + take / 2 + 1) % 4;
                        let pair = [first, second].map(|index| request(names[index], "k", "5000/h", 1));
                        if store.take("api", &pair, NOW).allowed() {
                            passed[first].fetch_add(1, Ordering::Relaxed);
                            passed[second].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        for (name, passed) in names.iter().zip(&passed) {
            let verdict = store.take("api", &[request(name, "k", "5000/h", 5_000)], NOW);
            let remaining = verdict.standings[0].remaining;
            assert_eq!(passed.load(Ordering::Relaxed) + remaining, 5_000, "limit {name}");
        }
    }

    #[test]
    fn one_hot_key_gives_exactly_its_burst_to_all_threads_together() {
        let store = Store::new(10);
        let passed = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        let verdict = store.take("api", &[request("l", "k", "1234/h", 1)], NOW);
                        passed.fetch_add(u64::from(verdict.allowed()), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(passed.into_inner(), 1_234);
    }
}
