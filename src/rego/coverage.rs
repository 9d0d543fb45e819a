//! Line coverage of a program's files.

use std::{collections::BTreeSet, sync::Arc};

/// The lines of one file that hold expressions, by whether an evaluation reached them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileCoverage {
    /// The file's path as the bundle names it.
    pub file: Arc<str>,
    /// Lines (from 1) that were evaluated.
    pub covered: BTreeSet<u32>,
    /// Lines that hold expressions none of which was evaluated.
    pub not_covered: BTreeSet<u32>,
}

impl FileCoverage {
    /// Covered lines in percent of all; a file without expressions is fully covered.
    pub fn percent(&self) -> f64 {
        percent(self.covered.len(), self.not_covered.len())
    }
}

/// `covered` in percent of both; 100 where both are none.
#[expect(clippy::cast_precision_loss, reason = "line counts are far below 2^52")]
pub fn percent(covered: usize, not_covered: usize) -> f64 {
    match covered + not_covered {
        0 => 100.0,
        lines => 100.0 * covered as f64 / lines as f64,
    }
}
