//! Times of single decisions, kept by size: within one part in 64 of the truth, in the same small room however many there are.

/// Sizes told apart between two powers of two.
const PARTS: u64 = 64;
/// Powers of two whose sizes are all told apart: below `2 * PARTS`.
const EXACT_BITS: u32 = PARTS.ilog2() + 1;

/// Counts of durations, in nanoseconds.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    max: u64,
}

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, nanos: u64) {
        let bin = bin(nanos);
        if self.counts.len() <= bin {
            self.counts.resize(bin + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(bin) {
            *count += 1;
        }
        self.count += 1;
        self.max = self.max.max(nanos);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest, exactly.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// What `percent` of them do not exceed; never less than the truth. 0 where there are none.
    pub fn percentile(&self, percent: u64) -> u64 {
        let share = u128::from(self.count) * u128::from(percent);
        let mut left = u64::try_from(share.div_ceil(100)).unwrap_or(u64::MAX).max(1);
        for (bin, count) in self.counts.iter().enumerate() {
            if *count >= left {
                return longest(bin).min(self.max);
            }
            left -= count;
        }
        self.max
    }
}

/// Where a duration is counted.
fn bin(nanos: u64) -> usize {
    let bits = nanos.checked_ilog2().map_or(0, |bits| bits + 1);
    let shift = bits.saturating_sub(EXACT_BITS);
    let index = u64::from(shift) * PARTS + (nanos >> shift);
    usize::try_from(index).unwrap_or(usize::MAX)
}

/// The longest duration that is counted there.
fn longest(bin: usize) -> u64 {
    let bin = bin as u64;
    let shift = (bin / PARTS).saturating_sub(1);
    let part = bin - shift * PARTS;
    // Of the last bin, one more would not fit.
    u64::try_from(((u128::from(part) + 1) << shift) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_of_small_times_are_exact() {
        let mut histogram = Histogram::default();
        (1..=100).for_each(|nanos| histogram.add(nanos));
        let found = [50, 90, 99, 100].map(|percent| histogram.percentile(percent));
        assert_eq!((found, histogram.max(), histogram.count()), ([50, 90, 99, 100], 100, 100));
        assert_eq!(Histogram::default().percentile(99), 0);
    }

    #[test]
    fn one_long_time_among_many_short_ones_is_the_longest_alone() {
        let mut histogram = Histogram::default();
        (0..999).for_each(|_| histogram.add(200));
        histogram.add(1_234_567);
        assert!(histogram.percentile(99) < 204, "{}", histogram.percentile(99));
        assert_eq!((histogram.percentile(100), histogram.max()), (1_234_567, 1_234_567));
    }

    proptest! {
        #[test]
        fn a_bin_holds_its_times_within_one_part_in_64(nanos in any::<u64>(), shift in 0_u32..64) {
            let nanos = nanos >> shift;
            let above = longest(bin(nanos));
            prop_assert!(above >= nanos);
            prop_assert!(above - nanos <= nanos / PARTS, "{} as {}", nanos, above);
            prop_assert_eq!(bin(above), bin(nanos));
        }

        #[test]
        fn longer_times_never_go_to_lower_bins(nanos in 0..u64::MAX) {
            prop_assert!(bin(nanos) <= bin(nanos + 1));
        }
    }
}
