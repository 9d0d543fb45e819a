//! A worker's way into the decision log: encode into its own buffer, hand over when it is full or a little later.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::audit::encode::encode;
use crate::audit::label::EncodedLabels;
use crate::audit::log::Log;
use crate::contract::event::Event;

/// Bytes from which on a buffer is handed over at once.
const BATCH_BYTES: usize = 64 * 1024;
/// The longest that a record waits for others in the buffer.
const LINGER: Duration = Duration::from_millis(20);

/// A worker's buffer. A record costs its encoding; a timer is set at most once for each [`LINGER`], never for a record.
#[derive(Debug)]
pub struct Recorder {
    log: Arc<Log>,
    buffer: RefCell<Buffer>,
    /// [`Recorder::run`] will flush within [`LINGER`].
    flush_due: Cell<bool>,
    first_record: Notify,
}

#[derive(Debug, Default)]
struct Buffer {
    lines: Vec<u8>,
    records: u64,
}

impl Recorder {
    /// An empty buffer in front of `log`.
    pub fn new(log: Arc<Log>) -> Self {
        Self { log, buffer: RefCell::default(), flush_due: Cell::new(false), first_record: Notify::new() }
    }

    /// Records `event`, unless its level is none or there is no sink.
    pub fn record(&self, event: &Event<'_>, labels: &EncodedLabels) {
        if self.log.is_empty() {
            return;
        }
        let mut buffer = self.buffer.borrow_mut();
        let before = buffer.lines.len();
        encode(event, labels, &mut buffer.lines);
        if buffer.lines.len() == before {
            return;
        }
        buffer.lines.push(b'\n');
        buffer.records += 1;
        if buffer.lines.len() >= BATCH_BYTES {
            self.hand_over(&mut buffer);
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
