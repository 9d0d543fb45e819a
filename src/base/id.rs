//! Identifiers that are unique across machines and sort by time.

use std::fmt;
use std::time::Duration;

use uuid::Uuid;

/// The id of one decision: a UUID version 7 (RFC 9562), so that decision logs sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecisionId(Uuid);

/// Makes [`DecisionId`]s. One per worker: the random part is a counter seeded from the system's randomness,
/// which costs no system call for each request.
#[derive(Debug)]
pub struct DecisionIds {
    high: u64,
    low: u64,
}

impl DecisionIds {
    /// A generator with a fresh random seed.
    pub fn new() -> Self {
        let (high, low) = Uuid::new_v4().as_u64_pair();
        Self { high, low }
    }

    /// The next id, stamped with `now` (since the Unix epoch).
    pub fn next(&mut self, now: Duration) -> DecisionId {
        // SplitMix64 over a random start: unique and unpredictable enough for an id, which is no secret.
        self.low = self.low.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.low ^ (self.low >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mixed = mixed ^ (mixed >> 31);
        let other = self.high ^ self.low.rotate_left(32);
        let mut random = [0; 10];
        let bytes = mixed.to_be_bytes().into_iter().chain(other.to_be_bytes());
        for (place, byte) in random.iter_mut().zip(bytes) {
            *place = byte;
        }
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        DecisionId(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }
}

impl Default for DecisionIds {
    fn default() -> Self {
        Self::new()
    }
}

impl DecisionId {
    /// A number that ids draw evenly: for samples that are the same wherever the id is known.
    pub fn draw(&self) -> u32 {
        // The lowest bits are those of a counter; a multiplication (SplitMix64) spreads them.
        let (_, low) = self.0.as_u64_pair();
        let mixed = (low ^ (low >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        u32::try_from(mixed >> 32).unwrap_or(u32::MAX)
    }

    /// Writes the hyphenated form into `buffer` and returns it.
    pub fn encode<'a>(&self, buffer: &'a mut [u8; 36]) -> &'a str {
        self.0.hyphenated().encode_lower(buffer)
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_version_7_unique_and_sorted_by_millisecond() {
        let mut ids = DecisionIds::new();
        let first = ids.next(Duration::from_secs(1));
        let second = ids.next(Duration::from_millis(1_001));
        assert_eq!(first.0.get_version_num(), 7);
        assert!(first.to_string() < second.to_string());
        let drawn = (0..10_000).filter(|_| ids.next(Duration::ZERO).draw() < u32::MAX / 10).count();
        assert!((800..1_200).contains(&drawn), "{drawn}");
        let many: HashSet<_> = (0..10_000).map(|_| ids.next(Duration::from_secs(1))).collect();
        assert_eq!(many.len(), 10_000);
    }
}
