//! Proofs that were shown before: none counts twice.
//!
//! One memory serves all workers and outlives a reload. It keeps the hash of each proof for as long as the proof could
//! count, and never more than [`PROOFS_MAX`]; when it is full a new proof cannot be told from an old one, and does not
//! count either. Only proofs of a token's own holder get in.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::identity::digest::Sha256;

/// Proofs that are remembered at a time.
pub const PROOFS_MAX: usize = SHARDS * SHARD_MAX;

const SHARDS: usize = 16;
const SHARD_MAX: usize = 1 << 16;

/// Between two sweeps of a shard.
const SWEEP: Duration = Duration::from_secs(10);

/// The proofs shown.
#[derive(Debug)]
pub struct SeenProofs {
    /// By the first bits of the hash, so that workers rarely wait for each other.
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    /// Half a hash of each proof, which is enough that no two are ever the same, and when it ends.
    seen: HashMap<[u8; 16], Duration, foldhash::fast::RandomState>,
    swept: Duration,
}

/// Why a proof does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unrecorded {
    /// It was shown before.
    Replayed,
    /// There is no room for it.
    Full,
}

impl SeenProofs {
    /// None yet.
    pub fn new() -> Self {
        Self { shards: Default::default() }
    }

    /// Notes that the proof of this hash was shown; it counts until `until`.
    pub(super) fn record(&self, proof: &Sha256, until: Duration, now: Duration) -> Result<(), Unrecorded> {
        let [first, ..] = *proof;
        let mut key = [0; 16];
        key.iter_mut().zip(proof).for_each(|(to, from)| *to = *from);
        // There is one shard for each value of the first four bits.
        let Some(shard) = self.shards.get(usize::from(first >> 4)) else { return Err(Unrecorded::Full) };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        shard.sweep(now);
        if shard.seen.get(&key).is_some_and(|ends| now < *ends) {
            return Err(Unrecorded::Replayed);
        }
        if shard.seen.len() >= SHARD_MAX {
            return Err(Unrecorded::Full);
        }
        shard.seen.insert(key, until);
        Ok(())
    }
}

impl Default for SeenProofs {
    fn default() -> Self {
        Self::new()
    }
}

impl Shard {
    fn sweep(&mut self, now: Duration) {
        // A clock that was set back must not put sweeps off for as long.
        if now.checked_sub(self.swept).is_none_or(|ago| ago >= SWEEP) {
            self.seen.retain(|_, ends| now < *ends);
            self.swept = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_proof_counts_once_for_as_long_as_it_could_count_again() {
        let seen = SeenProofs::new();
        let record = |proof: u8, now| seen.record(&[proof; 32], seconds(160), seconds(now));
        assert_eq!(record(1, 100), Ok(()));
        assert_eq!(record(2, 100), Ok(()));
        for now in [100, 111, 159] {
            assert_eq!(record(1, now), Err(Unrecorded::Replayed));
        }
        assert_eq!(record(1, 160), Ok(()), "whoever judges the time refuses it");
    }

    #[test]
    fn the_memory_is_bounded_and_fails_closed() {
        let seen = SeenProofs::new();
        let proof = |number: usize| {
            let mut proof = [0; 32];
            proof[1..9].copy_from_slice(&number.to_be_bytes());
            proof
        };
        for number in 0..SHARD_MAX {
            assert_eq!(seen.record(&proof(number), seconds(160), seconds(100)), Ok(()));
        }
        assert_eq!(seen.record(&proof(SHARD_MAX), seconds(160), seconds(100)), Err(Unrecorded::Full));
        assert_eq!(seen.record(&proof(0), seconds(160), seconds(100)), Err(Unrecorded::Replayed));
        assert_eq!(
            seen.record(&proof(SHARD_MAX), seconds(260), seconds(170)),
            Ok(()),
            "the others have ended"
        );
    }
}
