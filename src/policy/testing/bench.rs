//! How long a test's evaluation takes: the same evaluation again and again, until that is known.

use std::time::{Duration, Instant};

use super::{Test, TestOptions, facts};
use crate::rego::evaluator::Evaluator;

/// Evaluations before the first look at the clock.
const ROUND: u64 = 16;

/// What was measured of one test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Benchmark {
    /// Evaluations that were timed.
    pub iterations: u64,
    /// What they took together.
    pub took: Duration,
}

impl Benchmark {
    /// Adds what was measured at another time.
    pub fn add(&mut self, other: Self) {
        self.iterations += other.iterations;
        self.took += other.took;
    }

    /// Nanoseconds for one evaluation.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a count and a duration of some seconds are far below 2^52"
    )]
    pub fn nanos_each(&self) -> f64 {
        self.took.as_nanos() as f64 / self.iterations.max(1) as f64
    }
}

/// Evaluates a test for about `time`; `None` where an evaluation fails.
pub(super) fn measure(
    evaluator: &mut Evaluator,
    test: &Test,
    options: &TestOptions,
    time: Duration,
) -> Option<Benchmark> {
    // What is made once is not what is measured.
    evaluator.evaluate(&test.entrypoint, facts(options)).ok()?;
    let (mut iterations, mut round) = (0, ROUND);
    let mut took = Duration::ZERO;
    loop {
        let started = Instant::now();
        for _ in 0..round {
            evaluator.evaluate(&test.entrypoint, facts(options)).ok()?;
        }
        took += started.elapsed();
        iterations += round;
        // Prints are gathered, and would be kept for as long as this goes on.
        drop(evaluator.take_prints());
        if took >= time {
            return Some(Benchmark { iterations, took });
        }
        round = if started.elapsed() < time / 20 { round * 2 } else { round };
    }
}
