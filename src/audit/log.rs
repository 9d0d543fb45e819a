//! The decision log: all sinks, shared by all workers, over all reloads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::audit::queue::{Health, Queue};
use crate::audit::sink::{self, OpenError};
use crate::audit::writer;
use crate::base::clock::Clock;
use crate::config::model::DecisionLog;
use crate::telemetry::metrics::Metrics;

/// All sinks of decision events.
#[derive(Debug)]
pub struct Log {
    sinks: ArcSwap<Vec<Arc<Running>>>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

/// Sinks that are open but not in use yet. Dropped unused, those that were opened for it close again.
#[derive(Debug)]
pub struct SinkSet(Vec<Arc<Running>>);

/// One sink with its thread. When the last user drops it, the thread writes what there is and ends.
#[derive(Debug)]
struct Running {
    config: DecisionLog,
    queue: Arc<Queue>,
}

/// How one sink does, for `/status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkStatus {
    /// Its name: `stdout`, or `file:` and the path.
    pub name: String,
    /// How it does.
    pub health: Health,
    /// Records written since the start.
    pub written: u64,
    /// Records lost since the start.
    pub dropped: u64,
    /// Bytes that wait for it.
    pub queued_bytes: usize,
}

impl Log {
    /// A log without sinks.
    pub fn new(metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        Self { sinks: ArcSwap::default(), metrics, clock }
    }

    /// Opens the sinks that `configs` describe. One that runs already is kept; nothing is in use before [`Log::install`].
    pub fn prepare(&self, configs: &[DecisionLog]) -> Result<SinkSet, OpenError> {
        let running = self.sinks.load();
        let healthy = |running: &&Arc<Running>| !matches!(running.queue.health().0, Health::Stopped(_));
        let open = |config: &DecisionLog| {
            let known = running.iter().filter(healthy).find(|running| running.config == *config);
            known.map_or_else(|| self.start(config), |running| Ok(Arc::clone(running)))
        };
        configs.iter().map(open).collect::<Result<_, _>>().map(SinkSet)
    }

    /// Puts `sinks` in use. Those that were in use before open their destination anew; those no longer named write
    /// what they have and end.
    pub fn install(&self, sinks: SinkSet) {
        let former = self.sinks.swap(Arc::new(sinks.0));
        for kept in
            self.sinks.load().iter().filter(|sink| former.iter().any(|known| Arc::ptr_eq(known, sink)))
        {
            kept.queue.reopen();
        }
    }

    /// Has all sinks open their destination anew, for log rotation. Records made after this are not written to the
    /// former one.
    pub fn reopen(&self) {
        self.sinks.load().iter().for_each(|sink| sink.queue.reopen());
    }

    /// Waits until all that the recorders have handed over is written, at most for `limit`; how many records are not
    /// written by then. Blocks: not for a worker.
    pub fn flush(&self, limit: Duration) -> u64 {
        let deadline = Instant::now() + limit;
        let late: u64 = self.sinks.load().iter().map(|sink| sink.queue.wait_settled(deadline)).sum();
        if late > 0 {
            tracing::error!(records = late, "Decision log was not written in time");
        }
        late
    }

    /// How each sink does.
    pub fn status(&self) -> Vec<SinkStatus> {
        let status = |running: &Arc<Running>| {
            let (health, queued_bytes) = running.queue.health();
            let metrics = &running.queue.metrics;
            SinkStatus {
                name: metrics.name().to_owned(),
                health,
                written: metrics.written(),
                dropped: metrics.dropped(),
                queued_bytes,
            }
        };
        self.sinks.load().iter().map(status).collect()
    }

    /// Whether events go anywhere at all.
    pub(super) fn is_empty(&self) -> bool {
        self.sinks.load().is_empty()
    }

    /// Hands whole lines to all sinks.
    pub(super) fn push(&self, lines: &[u8], records: u64) {
        self.sinks.load().iter().for_each(|sink| sink.queue.push(lines, records));
    }

    fn start(&self, config: &DecisionLog) -> Result<Arc<Running>, OpenError> {
        let queue = Arc::new(Queue::new(self.metrics.sink(&sink::name(config)), Arc::clone(&self.clock)));
        writer::spawn(sink::open(config)?, Arc::clone(&queue), Arc::clone(&self.metrics))
            .map_err(OpenError::Thread)?;
        Ok(Arc::new(Running { config: config.clone(), queue }))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.queue.close();
    }
}
