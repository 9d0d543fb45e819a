//! Chooses one of a cluster's endpoints. Pure: loads and health are arguments.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use smallvec::SmallVec;

/// Indexes of the endpoints that may be chosen, in the cluster's order.
pub(crate) type Candidates = SmallVec<[usize; 8]>;

/// A small random number generator for one worker (`SplitMix64`). Not for secrets.
#[derive(Debug)]
pub(crate) struct Dice(Cell<u64>);

impl Dice {
    /// Seeded from the system's randomness.
    pub(crate) fn new() -> Self {
        Self(Cell::new(RandomState::new().hash_one(0u8)))
    }

    /// A number below `bound`, which is at least 1.
    pub(crate) fn below(&self, bound: usize) -> usize {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        // The high half of the product is uniform enough for a handful of endpoints (Lemire).
        let wide = u128::from(mix(state)) * (bound as u128);
        usize::try_from(wide >> 64).unwrap_or(0)
    }
}

/// The less loaded of two random candidates; on a tie the first drawn.
pub(crate) fn power_of_two(candidates: &[usize], dice: &Dice, load: impl Fn(usize) -> u32) -> Option<usize> {
    let count = candidates.len();
    if count < 2 {
        return candidates.first().copied();
    }
    let first = dice.below(count);
    let second = (first + 1 + dice.below(count - 1)) % count;
    let (first, second) = (*candidates.get(first)?, *candidates.get(second)?);
    Some(if load(second) < load(first) { second } else { first })
}

/// The candidate whose turn it is.
pub(crate) fn round_robin(candidates: &[usize], turn: usize) -> Option<usize> {
    candidates.get(turn.checked_rem(candidates.len())?).copied()
}

/// The candidate with the highest score for `key` (rendezvous hashing): when an endpoint goes, only its own keys move.
pub(crate) fn rendezvous(candidates: &[usize], key: u64, hash: impl Fn(usize) -> u64) -> Option<usize> {
    candidates.iter().copied().max_by_key(|&candidate| mix(key ^ hash(candidate)))
}

/// FNV-1a, mixed: the same on every machine and in every version, so that replicas agree.
pub(crate) fn stable_hash(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(hash)
}

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [usize; 4] = [0, 1, 2, 3];

    fn shares(mut choose: impl FnMut(usize) -> usize) -> [usize; 4] {
        let mut shares = [0; 4];
        (0..10_000).for_each(|n| shares[choose(n)] += 1);
        shares
    }

    #[test]
    fn power_of_two_avoids_the_loaded() {
        let dice = Dice::new();
        let even = shares(|_| power_of_two(&ALL, &dice, |_| 1).unwrap());
        assert!(even.iter().all(|share| (2_000..3_000).contains(share)), "{even:?}");
        let loads = [9, 0, 0, 0];
        let uneven = shares(|_| power_of_two(&ALL, &dice, |endpoint| loads[endpoint]).unwrap());
        assert_eq!(uneven[0], 0, "the loaded one always loses: {uneven:?}");
    }

    #[test]
    fn round_robin_takes_turns() {
        assert_eq!(shares(|turn| round_robin(&ALL, turn).unwrap()), [2_500; 4]);
        assert_eq!(round_robin(&ALL, usize::MAX), Some(3));
    }

    #[test]
    fn no_candidate_no_choice() {
        assert_eq!(power_of_two(&[], &Dice::new(), |_| 0), None);
        assert_eq!(round_robin(&[], 7), None);
        assert_eq!(rendezvous(&[], 7, |_| 0), None);
    }

    #[test]
    fn only_the_keys_of_a_lost_endpoint_move() {
        let hash = |endpoint: usize| stable_hash(format!("10.0.0.{endpoint}:80").as_bytes());
        let key = |n: usize| stable_hash(n.to_string().as_bytes());
        let even = shares(|n| rendezvous(&ALL, key(n), hash).unwrap());
        assert!(even.iter().all(|share| (2_200..2_800).contains(share)), "{even:?}");
        for n in 0..1_000 {
            let before = rendezvous(&ALL, key(n), hash).unwrap();
            let after = rendezvous(&[0, 1, 3], key(n), hash).unwrap();
            assert!(before == after || before == 2, "key {n} moved from {before} to {after}");
        }
    }

    #[test]
    fn the_hash_is_fixed() {
        // Replicas of different versions must send one key to one endpoint.
        assert_eq!(stable_hash(b"alice"), stable_hash(b"alice"));
        assert_eq!(stable_hash(b""), mix(0xcbf2_9ce4_8422_2325));
    }
}
