//! One worker's counters: plain relaxed atomics that only this worker writes and the renderer reads.
//!
//! A count is a load and a store, not a locked read-modify-write, which is why a shard must have a single writer.
//! Rows come in aligned blocks of their own, so that workers on different cores never share a cache line.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Rows of a block.
const BLOCK_ROWS: usize = 16;
/// Blocks of a table.
const BLOCKS: usize = 64;
/// Rows of a table: more names than this share the last row.
pub(super) const ROWS_MAX: usize = BLOCK_ROWS * BLOCKS;

/// Upper bounds of the latency buckets, in microseconds; one more bucket takes the rest.
pub(super) const BUCKETS_US: [u64; 22] = [
    1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000,
    500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// A number that one thread counts up and others read.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    /// Counts up. Only the shard's worker may call this.
    pub(super) fn add(&self, by: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A table of rows of `N` counts, addressed by small integers; blocks of rows are made when first counted in.
#[derive(Debug)]
pub(super) struct Rows<const N: usize>([OnceLock<Box<Block<N>>>; BLOCKS]);

#[derive(Debug)]
#[repr(align(128))]
struct Block<const N: usize>([[Count; N]; BLOCK_ROWS]);

impl<const N: usize> Default for Rows<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| OnceLock::new()))
    }
}

impl<const N: usize> Rows<N> {
    /// Counts one at `column` of `row`; a place that does not exist is ignored.
    pub(super) fn count(&self, row: usize, column: usize) {
        let Some(block) = self.0.get(row / BLOCK_ROWS) else { return };
        let block = block.get_or_init(|| {
            let row = |_| std::array::from_fn(|_| Count::default());
            Box::new(Block(std::array::from_fn(row)))
        });
        if let Some(count) = block.0.get(row % BLOCK_ROWS).and_then(|counts| counts.get(column)) {
            count.add(1);
        }
    }

    /// Adds `row` of this shard to `sums`.
    pub(super) fn add_to(&self, sums: &mut [u64; N], row: usize) {
        let block = self.0.get(row / BLOCK_ROWS).and_then(OnceLock::get);
        let Some(counts) = block.and_then(|block| block.0.get(row % BLOCK_ROWS)) else { return };
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum = sum.wrapping_add(count.get());
        }
    }
}

/// A latency histogram.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Histogram {
    buckets: [Count; BUCKETS_US.len() + 1],
    sum_us: Count,
}

/// The sums of one histogram over all shards; buckets are not cumulative yet.
#[derive(Debug, Default)]
pub(super) struct HistogramSums {
    pub(super) buckets: [u64; BUCKETS_US.len() + 1],
    pub(super) sum_us: u64,
}

impl Histogram {
    pub(super) fn observe(&self, micros: u64) {
        let bucket = BUCKETS_US.partition_point(|bound| *bound < micros);
        if let Some(count) = self.buckets.get(bucket) {
            count.add(1);
        }
        self.sum_us.add(micros);
    }

    pub(super) fn add_to(&self, sums: &mut HistogramSums) {
        for (sum, count) in sums.buckets.iter_mut().zip(&self.buckets) {
            *sum = sum.wrapping_add(count.get());
        }
        sums.sum_us = sums.sum_us.wrapping_add(self.sum_us.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let histogram = Histogram::default();
        for micros in [0, 1, 2, 3, 10_000_000, 10_000_001, u64::MAX / 2] {
            histogram.observe(micros);
        }
        let mut sums = HistogramSums::default();
        histogram.add_to(&mut sums);
        assert_eq!(sums.buckets[..4], [2, 1, 1, 0]);
        assert_eq!(sums.buckets[21..], [1, 2]);
    }

    #[test]
    fn rows_beyond_the_table_are_ignored_and_blocks_are_apart() {
        let rows = Rows::<3>::default();
        rows.count(0, 2);
        rows.count(17, 0);
        rows.count(ROWS_MAX, 0);
        rows.count(0, 3);
        let sums = |row| {
            let mut sums = [0; 3];
            rows.add_to(&mut sums, row);
            sums
        };
        assert_eq!((sums(0), sums(17), sums(1), sums(ROWS_MAX)), ([0, 0, 1], [1, 0, 0], [0; 3], [0; 3]));
        assert_eq!(align_of::<Block<3>>(), 128);
    }
}
