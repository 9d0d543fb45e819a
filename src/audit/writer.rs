//! The thread of one sink: takes what the workers put into the queue and writes it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::{io, thread};

use crate::audit::gap::{Gaps, Reason};
use crate::audit::queue::{Batch, Health, Queue, Work};
use crate::audit::sink::{Sink, WriteError};
use crate::telemetry::metrics::Metrics;

/// Starts the thread. It ends when the queue is closed and empty, or when the sink is gone.
pub(super) fn spawn(sink: Box<dyn Sink>, queue: Arc<Queue>, metrics: Arc<Metrics>) -> io::Result<()> {
    // The handle is not kept: a thread may wait for a stalled reader for ever, and nobody may wait for the thread.
    let body = move || {
        let writer =
            Writer { sink, queue: Arc::clone(&queue), batch: Batch::default(), gaps: Gaps::default() };
        // The writer is not looked at again after a panic; the queue's state is whole at any time.
        if catch_unwind(AssertUnwindSafe(|| writer.run())).is_err() {
            metrics.task_panicked();
            tracing::error!(sink = queue.metrics.name(), "Decision log thread panicked");
            queue.settle(0, 0, Health::Stopped("its thread panicked".to_owned()));
        }
    };
    thread::Builder::new().name("decision-log".to_owned()).spawn(body).map(drop)
}

struct Writer {
    sink: Box<dyn Sink>,
    queue: Arc<Queue>,
    batch: Batch,
    /// What was taken from the queue and not written.
    gaps: Gaps,
}

impl Writer {
    fn run(mut self) {
        let mut failing = false;
        while let Work::Write { reopen } = self.queue.take(&mut self.batch) {
            let reopened = if reopen { self.sink.reopen() } else { Ok(()) };
            let (lost, fault, gone) = match self.write() {
                Ok(()) => (0, reopened.err(), false),
                Err(WriteError::Failed { whole, source }) => (self.lose(whole), Some(source), false),
                Err(WriteError::Gone { whole, source }) => (self.lose(whole), Some(source), true),
            };
            self.report(failing, fault.as_ref(), gone);
            failing = fault.is_some();
            let health = match fault {
                None => Health::Ok,
                Some(fault) if gone => Health::Stopped(fault.to_string()),
                Some(fault) => Health::Failing(fault.to_string()),
            };
            self.queue.settle(self.batch.records, lost, health);
            if gone {
                return;
            }
        }
    }

    /// Writes the gap record that is due, then the batch.
    fn write(&mut self) -> Result<(), WriteError> {
        if !self.gaps.is_empty() {
            let mut lines = Vec::new();
            self.gaps.push_lines(self.queue.metrics.name(), &mut lines);
            self.sink.write(&lines).map_err(|error| match error {
                WriteError::Failed { whole: _, source } => WriteError::Failed { whole: 0, source },
                WriteError::Gone { whole: _, source } => WriteError::Gone { whole: 0, source },
            })?;
            self.gaps = Gaps::default();
        }
        if self.batch.lines.is_empty() { Ok(()) } else { self.sink.write(&self.batch.lines) }
    }

    /// Notes what follows the first `whole` bytes of the batch as lost; how many records that are. Gap records among
    /// it are owed again.
    fn lose(&mut self, whole: usize) -> u64 {
        let mut lines =
            memchr::memchr_iter(b'\n', self.batch.lines.get(whole..).unwrap_or_default()).count() as u64;
        for gap in self.batch.gaps.iter().filter(|gap| gap.at >= whole) {
            lines = lines.saturating_sub(gap.lines);
            self.gaps.absorb(&gap.gaps);
        }
        self.gaps.lose(Reason::WriteFailed, lines, self.queue.now());
        lines
    }

    /// Logs the first failure and the recovery, and not every batch between them.
    fn report(&self, failing: bool, fault: Option<&io::Error>, gone: bool) {
        let sink = self.queue.metrics.name();
        match fault {
            Some(error) if gone => tracing::error!(sink, %error, "Decision log stopped"),
            Some(error) if !failing => tracing::error!(sink, %error, "Decision log cannot be written"),
            None if failing => tracing::info!(sink, "Decision log is written again"),
            Some(_) | None => {}
        }
    }
}
