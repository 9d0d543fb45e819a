//! A worker's way into the decision log: encode into its own buffer, hand over when it is full or a little later.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::audit::encode::encode;
use crate::audit::label::EncodedLabels;
use crate::audit::log::Log;
use crate::audit::memo::Memo;
use crate::contract::event::Event;

/// Bytes from which on a buffer is handed over at once.
const BATCH_BYTES: usize = 64 * 1024;
/// The longest that a record waits for others in the buffer.
const LINGER: Duration = Duration::from_millis(20);

/// A worker's buffer. A record costs its encoding; a timer is set at most every 20 ms, never for a record.
#[derive(Debug)]
pub struct Recorder {
    log: Arc<Log>,
    buffer: RefCell<Buffer>,
    /// [`Recorder::run`] will flush within 20 ms.
    flush_due: Cell<bool>,
    first_record: Notify,
}

#[derive(Debug, Default)]
struct Buffer {
    lines: Vec<u8>,
    records: u64,
    memo: Memo,
}

impl Recorder {
    /// An empty buffer in front of `log`.
    pub fn new(log: Arc<Log>) -> Self {
        Self { log, buffer: RefCell::default(), flush_due: Cell::new(false), first_record: Notify::new() }
    }

    /// Whether anything is recorded at all.
    pub fn has_sinks(&self) -> bool {
        !self.log.is_empty()
    }

    /// Records `event`, unless its level is none or there is no sink.
    pub fn record(&self, event: &Event<'_>, labels: &EncodedLabels) {
        if !self.has_sinks() {
            return;
        }
        let buffer = &mut *self.buffer.borrow_mut();
        let before = buffer.lines.len();
        encode(event, labels, &mut buffer.memo, &mut buffer.lines);
        if buffer.lines.len() == before {
            return;
        }
        buffer.lines.push(b'\n');
        buffer.records += 1;
        if buffer.lines.len() >= BATCH_BYTES {
            self.hand_over(buffer);
        } else if !self.flush_due.replace(true) {
            self.first_record.notify_one();
        }
    }

    /// Hands over what is in the buffer.
    pub fn flush(&self) {
        self.hand_over(&mut self.buffer.borrow_mut());
    }

    /// Flushes a little after the first record that found the buffer empty, and so on. To be spawned once on the
    /// worker's runtime; without it, records wait for a full buffer.
    ///
    /// # Cancel safety
    /// Nothing is lost when this is dropped: the buffer is flushed when the recorder itself is.
    pub async fn run(&self) {
        loop {
            self.first_record.notified().await;
            tokio::time::sleep(LINGER).await;
            self.flush_due.set(false);
            self.flush();
        }
    }

    fn hand_over(&self, buffer: &mut Buffer) {
        if buffer.records > 0 {
            self.log.push(&buffer.lines, buffer.records);
        }
        buffer.lines.clear();
        // One huge event must not keep its memory for ever.
        buffer.lines.shrink_to(2 * BATCH_BYTES);
        buffer.records = 0;
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.hand_over(&mut self.buffer.borrow_mut());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::rc::Rc;

    use tokio::task::LocalSet;

    use super::*;
    use crate::audit::fixture::{event, labels};
    use crate::base::clock::SystemClock;
    use crate::config::model::DecisionLog;
    use crate::contract::event::LogLevel;
    use crate::telemetry::metrics::{Metrics, Vocabulary};

    const LONG: Duration = Duration::from_secs(30);

    fn log(configs: &[DecisionLog]) -> Arc<Log> {
        let metrics = Metrics::new(Vocabulary { outcomes: &[], reasons: &[] });
        let log = Log::new(Arc::new(metrics), Arc::new(SystemClock));
        log.install(log.prepare(configs).unwrap());
        Arc::new(log)
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_is_handed_over_after_the_linger_time_and_not_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("decisions.jsonl");
        let log = log(&[DecisionLog::File { path: path.clone() }]);
        let recorder = Rc::new(Recorder::new(Arc::clone(&log)));
        let runner = Rc::clone(&recorder);
        let written = || {
            assert_eq!(log.flush(LONG), 0);
            fs::read_to_string(&path).unwrap().lines().count()
        };
        let local = LocalSet::new();
        local.spawn_local(async move { runner.run().await });
        local
            .run_until(async {
                for round in 0..3 {
                    recorder.record(&event(None, None), &labels());
                    recorder.record(&event(None, None), &labels());
                    tokio::time::sleep(LINGER / 2).await;
                    assert_eq!(written(), 2 * round);
                    tokio::time::sleep(LINGER).await;
                    assert_eq!(written(), 2 * round + 2);
                }
            })
            .await;
    }

    #[test]
    fn a_full_buffer_is_handed_over_at_once_and_the_rest_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("decisions.jsonl");
        let log = log(&[DecisionLog::File { path: path.clone() }]);
        let recorder = Recorder::new(Arc::clone(&log));
        for _ in 0..500 {
            recorder.record(&event(None, None), &labels());
        }
        assert_eq!(log.flush(LONG), 0);
        let before = fs::read_to_string(&path).unwrap().lines().count();
        assert!(before > 0 && before < 500, "{before}");
        drop(recorder);
        assert_eq!(log.flush(LONG), 0);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 500);
    }

    #[test]
    fn without_a_sink_or_a_level_nothing_is_encoded() {
        let recorder = Recorder::new(log(&[]));
        recorder.record(&event(None, None), &labels());
        assert!(recorder.buffer.borrow().lines.is_empty());
        let directory = tempfile::tempdir().unwrap();
        let recorder = Recorder::new(log(&[DecisionLog::File { path: directory.path().join("log") }]));
        recorder.record(&Event { level: LogLevel::None, ..event(None, None) }, &labels());
        assert_eq!(recorder.buffer.borrow().records, 0);
    }
}
