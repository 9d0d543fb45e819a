//! The bounded queue between the workers and one sink's thread.
//!
//! Lines of all workers are joined in one buffer, which the sink's thread swaps for its empty one: a batch costs a worker
//! a copy under a short lock, and the sink as few writes as possible. What does not fit is counted and leaves a gap
//! record in its place. Nobody ever waits to put something in.

use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::audit::gap::{Gaps, Reason};
use crate::base::clock::Clock;
use crate::telemetry::metrics::SinkMetrics;

/// Bytes that wait for a sink at most; as many again may be with the sink.
pub(super) const QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The capacity that a buffer keeps when it is empty.
const BUFFER_KEPT: usize = 256 * 1024;

/// The queue of one sink.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// There is something for the sink's thread to do.
    work: Condvar,
    /// The sink's thread has done something.
    progress: Condvar,
    pub(super) metrics: Arc<SinkMetrics>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Default)]
struct State {
    batch: Batch,
    /// What was lost since the queue was last found full.
    gaps: Gaps,
    /// Records that were put in or lost, and those of them that are written or lost.
    accepted: u64,
    settled: u64,
    reopen: bool,
    closed: bool,
    /// The sink's thread has a batch in its hands.
    writing: bool,
    health: Health,
}

/// Lines for the sink.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) lines: Vec<u8>,
    /// Records among the lines; gap records do not count.
    pub(super) records: u64,
    /// Gap records among the lines, with the place where they begin and the bytes they take.
    pub(super) gaps: Vec<GapLines>,
}

/// Gap records in a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct GapLines {
    pub(super) at: usize,
    pub(super) lines: u64,
    pub(super) gaps: Gaps,
}

/// How a sink does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Health {
    /// What was written last was written whole.
    #[default]
    Ok,
    /// The last write or reopening failed; the next one may succeed.
    Failing(String),
    /// It writes no more: its reader is gone, or its thread panicked.
    Stopped(String),
}

/// What the sink's thread does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Write the batch, after opening the sink anew if so asked.
    Write {
        /// Open anew first.
        reopen: bool,
    },
    /// Nothing will come any more.
    End,
}

impl Queue {
    pub(super) fn new(metrics: Arc<SinkMetrics>, clock: Arc<dyn Clock>) -> Self {
        Self { state: Mutex::default(), work: Condvar::new(), progress: Condvar::new(), metrics, clock }
    }

    /// Puts whole lines in, or counts them as lost.
    pub(super) fn push(&self, lines: &[u8], records: u64) {
        let mut state = self.lock();
        state.accepted += records;
        let stopped = matches!(state.health, Health::Stopped(_));
        if stopped || state.closed || state.batch.lines.len() + lines.len() > QUEUE_BYTES_MAX {
            state.settled += records;
            if !stopped {
                state.gaps.lose(Reason::QueueFull, records, self.clock.now());
            }
            self.metrics.lost(records);
            return;
        }
        self.push_gaps(&mut state);
        state.batch.lines.extend_from_slice(lines);
        state.batch.records += records;
        drop(state);
        self.work.notify_one();
    }

    /// Asks the sink to open its destination anew: what is put in from now on is not written to the former one.
    pub(super) fn reopen(&self) {
        self.lock().reopen = true;
        self.work.notify_one();
    }

    /// Lets the sink's thread write what there is and end.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.work.notify_one();
    }

    /// Waits until all that was put in before is written or lost; how many records were neither at `deadline`.
    pub(super) fn wait_settled(&self, deadline: Instant) -> u64 {
        let mut state = self.lock();
        let accepted = state.accepted;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Gap records are no records, but a reader must see them too.
            let idle =
                !state.writing && !state.reopen && state.batch.lines.is_empty() && state.gaps.is_empty();
            let settled = idle && state.settled >= accepted;
            if settled || matches!(state.health, Health::Stopped(_)) || left.is_zero() {
                return accepted.saturating_sub(state.settled);
            }
            state = self.progress.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How the sink does, and the bytes that wait for it.
    pub(super) fn health(&self) -> (Health, usize) {
        let state = self.lock();
        (state.health.clone(), state.batch.lines.len())
    }

    // For the sink's thread alone:

    /// Waits for something to do and swaps `batch`, which is written by now, for what has come in.
    pub(super) fn take(&self, batch: &mut Batch) -> Work {
        batch.clear();
        let mut state = self.lock();
        loop {
            // A gap waits for the next record that fits; but when the queue is empty, nothing may ever come.
            if state.batch.lines.is_empty() {
                self.push_gaps(&mut state);
            }
            let reopen = mem::take(&mut state.reopen);
            if reopen || !state.batch.lines.is_empty() {
                mem::swap(&mut state.batch, batch);
                state.writing = true;
                return Work::Write { reopen };
            }
            if state.closed {
                return Work::End;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tells how a batch ended, of whose records `lost` are not written, and how the sink does since. A sink that has
    /// stopped loses what waits in the queue too, and what comes later is only counted.
    pub(super) fn settle(&self, records: u64, lost: u64, health: Health) {
        let mut state = self.lock();
        state.settled += records;
        state.writing = false;
        let stopped = matches!(health, Health::Stopped(_));
        state.health = health;
        let mut lost_in_all = lost;
        if stopped {
            // A batch that a panicking sink had in its hands is not settled, so it is counted here.
            lost_in_all += state.accepted.saturating_sub(state.settled);
            state.settled = state.accepted;
            state.batch = Batch::default();
            state.gaps = Gaps::default();
        }
        self.metrics.wrote(records.saturating_sub(lost));
        self.metrics.lost(lost_in_all);
        drop(state);
        self.progress.notify_all();
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.now()
    }

    fn push_gaps(&self, state: &mut State) {
        if !state.gaps.is_empty() {
            let gaps = mem::take(&mut state.gaps);
            state.batch.push_gaps(&gaps, self.metrics.name());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    pub(super) fn push_gaps(&mut self, gaps: &Gaps, sink: &str) {
        let at = self.lines.len();
        gaps.push_lines(sink, &mut self.lines);
        let lines = self.lines.iter().skip(at).filter(|byte| **byte == b'\n').count() as u64;
        self.gaps.push(GapLines { at, lines, gaps: *gaps });
    }

    fn clear(&mut self) {
        self.lines.clear();
        self.lines.shrink_to(BUFFER_KEPT);
        self.records = 0;
        self.gaps.clear();
    }
}
