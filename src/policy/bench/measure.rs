//! The measuring itself: whole batches for the mean, single decisions for the spread, turn by turn.
//!
//! Reading the clock costs a tenth of a small decision. A batch pays for it once; of a decision timed alone it is taken off.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use super::{BenchOptions, Engine, Histogram, Limit, Workload};
use crate::base::clock::saturating_nanos;
use crate::contract::decision::Decision;
use crate::policy::decide::{Failure, Ruling};
use crate::policy::testing::Benchmark;

/// A batch as long as this makes the clock's cost and grain no matter.
const BATCH: Duration = Duration::from_millis(1);
/// Times that one thread alone and all together take turns, so that a busy machine slows both.
const TURNS: u32 = 5;
/// Times the clock is read to learn what that costs.
const CLOCK_READS: usize = 1_001;

/// Rounds after which a cache of every rule has its mind made up (`policy::cache`).
const CACHE_ROUNDS: usize = 40;

/// What was measured of one engine.
#[derive(Debug)]
pub struct Measured {
    /// Which.
    pub engine: Engine,
    /// Decisions timed in batches: the mean.
    pub batched: Benchmark,
    /// Decisions timed alone: the spread.
    pub single: Histogram,
    /// What all of them came to.
    pub outcomes: Outcomes,
    /// Several threads, if there were.
    pub scaling: Option<Scaling>,
}

/// What decisions came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Allowed.
    pub allows: u64,
    /// Denied.
    pub denies: u64,
    /// Failed, in the order of [`Failure::ALL`].
    failed: [u64; Failure::ALL.len()],
    /// Taken from the cache.
    pub remembered: u64,
    /// What the first failure said.
    pub first_error: Option<String>,
}

/// Threads that decide at the same time, and one of them alone.
#[derive(Debug, Clone)]
pub struct Scaling {
    /// One alone.
    pub alone: Benchmark,
    /// Each, while all of them did.
    pub together: Vec<Benchmark>,
}

/// One thread's requests, and where it is among them.
#[derive(Debug)]
pub(super) struct Runner {
    workload: Workload,
    next: usize,
    outcomes: Outcomes,
}

/// What reading the clock costs.
pub(super) fn clock() -> Duration {
    let mut reads: Vec<Duration> = (0..CLOCK_READS).map(|_| Instant::now().elapsed()).collect();
    reads.sort_unstable();
    reads.get(CLOCK_READS / 2).copied().unwrap_or_default()
}

/// Measures an engine by the first of `runners`, and then all of them together where there are several.
pub(super) fn measure(
    engine: Engine,
    mut runners: Vec<Runner>,
    options: &BenchOptions,
    clock: Duration,
) -> Measured {
    let limit = options.limit;
    let mut batched = Benchmark { iterations: 0, took: Duration::ZERO };
    let mut single = Histogram::default();
    let mut outcomes = Outcomes::default();
    for runner in &mut runners {
        runner.warm_up(options);
    }
    if let Some(first) = runners.first_mut() {
        (batched, single) = first.measure(limit, clock);
        outcomes = std::mem::take(&mut first.outcomes);
    }
    let scaling = (runners.len() > 1).then(|| scale(runners, limit));
    Measured { engine, batched, single, outcomes, scaling }
}

/// One alone and all together, turn by turn.
fn scale(mut runners: Vec<Runner>, limit: Limit) -> Scaling {
    let turn = match limit {
        Limit::Time(time) => Limit::Time(time / (2 * TURNS)),
        Limit::Count(count) => Limit::Count(count.div_ceil(u64::from(TURNS))),
    };
    let barrier = Barrier::new(runners.len());
    let results: Vec<(Benchmark, Benchmark)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(&mut runners)
            .map(|(number, runner)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let nothing = Benchmark { iterations: 0, took: Duration::ZERO };
                    let (mut alone, mut together) = (nothing, nothing);
                    for _ in 0..TURNS {
                        barrier.wait();
                        if number == 0 {
                            alone.add(runner.batches(turn));
                        }
                        barrier.wait();
                        together.add(runner.batches(turn));
                    }
                    (alone, together)
                })
            })
            .collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    });
    let alone =
        results.first().map_or(Benchmark { iterations: 0, took: Duration::ZERO }, |(alone, _)| *alone);
    Scaling { alone, together: results.into_iter().map(|(_, together)| together).collect() }
}

// === impl Runner ===

impl Runner {
    pub(super) fn new(workload: Workload) -> Self {
        Self { workload, next: 0, outcomes: Outcomes::default() }
    }

    /// Makes the next decision, and counts what it came to.
    fn step(&mut self) {
        if let Some(ruling) = self.workload.ask(self.next) {
            self.outcomes.count(ruling);
        }
        self.next = if self.next + 1 < self.workload.len() { self.next + 1 } else { 0 };
    }

    fn batch(&mut self, count: u64) -> Duration {
        let started = Instant::now();
        for _ in 0..count {
            self.step();
        }
        started.elapsed()
    }

    /// Each request once, where that does not take long: what is made once is not what is measured. A cache finds out first
    /// whether it pays.
    fn warm_up(&mut self, options: &BenchOptions) {
        let rounds = if options.cache > 0 { CACHE_ROUNDS } else { 1 };
        let started = Instant::now();
        for _ in 0..rounds * self.workload.len() {
            self.step();
            if matches!(options.limit, Limit::Time(time) if started.elapsed() > time / 4) {
                break;
            }
        }
        self.workload.forget_prints();
        (self.next, self.outcomes) = (0, Outcomes::default());
    }

    /// Batches and single decisions, turn by turn, so that whatever slows the machine slows both.
    fn measure(&mut self, limit: Limit, clock: Duration) -> (Benchmark, Histogram) {
        let (batched_goal, single_goal) = match limit {
            Limit::Time(_) => (u64::MAX, u64::MAX),
            Limit::Count(count) => (count - count / 2, count / 2),
        };
        let mut batched = Benchmark { iterations: 0, took: Duration::ZERO };
        let mut single = Histogram::default();
        let started = Instant::now();
        let mut size: u64 = 1;
        loop {
            let count = size.min(batched_goal - batched.iterations);
            let took = self.batch(count);
            batched.add(Benchmark { iterations: count, took });
            for _ in 0..size.min(single_goal - single.count()) {
                let took = self.batch(1);
                single.add(saturating_nanos(took.saturating_sub(clock)));
            }
            // Prints are gathered, and would be kept for as long as this goes on.
            self.workload.forget_prints();
            let is_done = match limit {
                Limit::Time(time) => started.elapsed() >= time,
                Limit::Count(_) => batched.iterations == batched_goal && single.count() == single_goal,
            };
            if is_done {
                return (batched, single);
            }
            size = if took < BATCH { size.saturating_mul(2) } else { size };
        }
    }

    /// Batches alone.
    fn batches(&mut self, limit: Limit) -> Benchmark {
        let mut batched = Benchmark { iterations: 0, took: Duration::ZERO };
        let mut size: u64 = 1;
        loop {
            let count = match limit {
                Limit::Time(_) => size,
                Limit::Count(goal) => size.min(goal - batched.iterations),
            };
            let took = self.batch(count);
            batched.add(Benchmark { iterations: count, took });
            self.workload.forget_prints();
            let is_done = match limit {
                Limit::Time(time) => batched.took >= time,
                Limit::Count(goal) => batched.iterations >= goal,
            };
            if is_done {
                return batched;
            }
            size = if took < BATCH { size.saturating_mul(2) } else { size };
        }
    }
}

// === impl Outcomes ===

impl Outcomes {
    fn count(&mut self, ruling: Ruling) {
        self.remembered += u64::from(ruling.is_remembered);
        match ruling.decision {
            Ok(Decision::Allow(_)) => self.allows += 1,
            Ok(Decision::Deny(_)) => self.denies += 1,
            Err(failure) => {
                let counts = Failure::ALL.iter().zip(&mut self.failed);
                counts.filter(|(kind, _)| **kind == failure).for_each(|(_, count)| *count += 1);
                if self.first_error.is_none() {
                    self.first_error = ruling.error;
                }
            }
        }
    }

    /// How many failed in each way, where any did.
    pub fn failures(&self) -> impl Iterator<Item = (Failure, u64)> {
        Failure::ALL.into_iter().zip(self.failed).filter(|(_, count)| *count > 0)
    }

    /// How many failed.
    pub fn failed(&self) -> u64 {
        self.failed.iter().sum()
    }

    /// How many decisions there were.
    pub fn total(&self) -> u64 {
        self.allows + self.denies + self.failed()
    }
}

// === impl Scaling ===

impl Scaling {
    /// Decisions in a second of one thread alone.
    pub fn alone_per_second(&self) -> f64 {
        per_second(&self.alone)
    }

    /// Decisions in a second of all threads together.
    pub fn together_per_second(&self) -> f64 {
        self.together.iter().map(per_second).sum()
    }

    /// How many times as much all of them do as one.
    pub fn ratio(&self) -> f64 {
        self.together_per_second() / self.alone_per_second()
    }
}

fn per_second(measured: &Benchmark) -> f64 {
    1e9 / measured.nanos_each()
}
