//! A worker's way into the decision log: encode into its own buffer, hand over when it is full or a little later.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::audit::encode::encode;
use crate::audit::label::EncodedLabels;
use crate::audit::log::Log;
use crate::audit::memo::Memo;
use crate::audit::recent::Recent;
use crate::contract::event::Event;

/// Bytes from which on a buffer is handed over at once.
const BATCH_BYTES: usize = 64 * 1024;
/// The longest that a record waits for others in the buffer.
const LINGER: Duration = Duration::from_millis(20);

/// A worker's buffer. A record costs its encoding; a timer is set at most every 20 ms, never for a record.
#[derive(Debug)]
pub struct Recorder {
    log: Arc<Log>,
    /// Where events are kept to be asked about.
    recent: Option<Arc<Recent>>,
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
    /// An empty buffer in front of `log`; events are kept in `recent`, too.
    pub fn new(log: Arc<Log>, recent: Option<Arc<Recent>>) -> Self {
        Self {
            log,
            recent,
            buffer: RefCell::default(),
            flush_due: Cell::new(false),
            first_record: Notify::new(),
        }
    }

    /// Whether anything is recorded at all.
    pub fn is_in_use(&self) -> bool {
        self.recent.is_some() || !self.log.is_empty()
    }

    /// Records `event`, unless its level is none, or there is neither a sink nor a ring that it is kept in. `policy` is the
    /// building of the policy that decided.
    pub fn record(&self, event: &Event<'_>, labels: &EncodedLabels, policy: Option<u64>) {
        let is_logged = !self.log.is_empty();
        if !is_logged && self.recent.is_none() {
            return;
        }
        let buffer = &mut *self.buffer.borrow_mut();
        let before = buffer.lines.len();
        encode(event, labels, &mut buffer.memo, &mut buffer.lines);
        if buffer.lines.len() == before {
            return;
        }
        if let Some(recent) = &self.recent {
            recent.keep(event.decision_id, policy, buffer.lines.get(before..).unwrap_or_default());
        }
        if !is_logged {
            buffer.lines.truncate(before);
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
        let recorder = Rc::new(Recorder::new(Arc::clone(&log), None));
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
                    recorder.record(&event(None, None), &labels(), None);
                    recorder.record(&event(None, None), &labels(), None);
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
        let recorder = Recorder::new(Arc::clone(&log), None);
        for _ in 0..500 {
            recorder.record(&event(None, None), &labels(), None);
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
        let recorder = Recorder::new(log(&[]), None);
        recorder.record(&event(None, None), &labels(), None);
        assert!(recorder.buffer.borrow().lines.is_empty());
        let directory = tempfile::tempdir().unwrap();
        let recorder = Recorder::new(log(&[DecisionLog::File { path: directory.path().join("log") }]), None);
        recorder.record(&Event { level: LogLevel::None, ..event(None, None) }, &labels(), None);
        assert_eq!(recorder.buffer.borrow().records, 0);
    }
}
