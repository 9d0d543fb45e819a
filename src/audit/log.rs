//! The decision log: all sinks, shared by all workers, over all reloads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::audit::queue::{Health, Queue};
use crate::audit::sink::{self, OpenError, Sink};
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
        self.run(config, sink::open(config)?)
    }

    fn run(&self, config: &DecisionLog, sink: Box<dyn Sink>) -> Result<Arc<Running>, OpenError> {
        let queue = Arc::new(Queue::new(self.metrics.sink(&sink::name(config)), Arc::clone(&self.clock)));
        writer::spawn(sink, Arc::clone(&queue), Arc::clone(&self.metrics)).map_err(OpenError::Thread)?;
        Ok(Arc::new(Running { config: config.clone(), queue }))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.queue.close();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{self, BufRead, BufReader, PipeReader};
    use std::path::Path;
    use std::process::Command;

    use serde_json::Value as Json;

    use super::*;
    use crate::audit::queue::QUEUE_BYTES_MAX;
    use crate::audit::sink::WriteError;
    use crate::audit::stdout::StdoutSink;
    use crate::base::clock::ManualClock;
    use crate::telemetry::metrics::Vocabulary;

    const LONG: Duration = Duration::from_secs(30);

    fn log() -> Log {
        let metrics = Metrics::new(Vocabulary { outcomes: &[], reasons: &[] });
        Log::new(Arc::new(metrics), Arc::new(ManualClock::at(Duration::from_secs(1))))
    }

    fn log_with(sink: impl Sink + 'static) -> Log {
        let log = log();
        let running = log.run(&DecisionLog::Stdout, Box::new(sink)).unwrap();
        log.install(SinkSet(vec![running]));
        log
    }

    fn log_to(path: &Path) -> Log {
        let log = log();
        log.install(log.prepare(&[DecisionLog::File { path: path.to_owned() }]).unwrap());
        log
    }

    /// Hands over records `from..to`, one at a time.
    fn push(log: &Log, from: u64, to: u64) {
        for number in from..to {
            log.push(format!("{{\"n\":{number},\"pad\":\"{}\"}}\n", "x".repeat(1_000)).as_bytes(), 1);
        }
    }

    /// Records, and records told of in gaps; each line must be JSON.
    fn count(lines: impl Iterator<Item = String>) -> (u64, u64) {
        let (mut records, mut dropped) = (0, 0);
        for line in lines {
            let line: Json = serde_json::from_str(&line).unwrap();
            match line["gap"]["dropped"].as_u64() {
                Some(gap) => dropped += gap,
                None => records += 1,
            }
        }
        (records, dropped)
    }

    fn count_file(path: &Path) -> (u64, u64) {
        count(fs::read_to_string(path).unwrap().lines().map(str::to_owned))
    }

    fn only_status(log: &Log) -> SinkStatus {
        let [status] = log.status().try_into().unwrap();
        status
    }

    #[test]
    fn records_reach_a_file_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("decisions.jsonl");
        let log = log_to(&path);
        push(&log, 0, 1_000);
        assert_eq!(log.flush(LONG), 0);
        let text = fs::read_to_string(&path).unwrap();
        let numbers =
            text.lines().map(|line| serde_json::from_str::<Json>(line).unwrap()["n"].as_u64().unwrap());
        assert!(numbers.eq(0..1_000));
        let status = only_status(&log);
        assert_eq!((status.health, status.written, status.dropped), (Health::Ok, 1_000, 0));
        assert_eq!(status.name, format!("file:{}", path.display()));
    }

    #[test]
    fn after_rotation_records_go_to_a_new_file() {
        let directory = tempfile::tempdir().unwrap();
        let [path, rotated] =
            ["decisions.jsonl", "decisions.jsonl.1"].map(|name| directory.path().join(name));
        let log = log_to(&path);
        push(&log, 0, 10);
        assert_eq!(log.flush(LONG), 0);
        fs::rename(&path, &rotated).unwrap();
        log.reopen();
        push(&log, 10, 30);
        assert_eq!(log.flush(LONG), 0);
        assert_eq!((count_file(&rotated), count_file(&path)), ((10, 0), (20, 0)));
    }

    #[test]
    fn a_destination_that_cannot_be_reopened_keeps_the_former_one() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("logs");
        fs::create_dir(&inner).unwrap();
        let log = log_to(&inner.join("decisions.jsonl"));
        let moved = directory.path().join("moved");
        fs::rename(&inner, &moved).unwrap();
        log.reopen();
        assert_eq!(log.flush(LONG), 0);
        assert!(matches!(only_status(&log).health, Health::Failing(_)));
        push(&log, 0, 5);
        assert_eq!(log.flush(LONG), 0);
        assert_eq!(count_file(&moved.join("decisions.jsonl")), (5, 0));
    }

    #[test]
    fn a_reload_keeps_what_is_still_named_and_drains_what_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["a", "b", "c"].map(|name| directory.path().join(name));
        let [a, b, c] = paths.clone().map(|path| DecisionLog::File { path });
        let log = log();
        log.install(log.prepare(&[a, b.clone()]).unwrap());
        push(&log, 0, 10);
        let [retired, kept] = [0, 1].map(|index| Arc::clone(&log.sinks.load()[index].queue));
        log.install(log.prepare(&[b, c]).unwrap());
        push(&log, 10, 15);
        assert_eq!(retired.wait_settled(Instant::now() + LONG), 0);
        assert_eq!(log.flush(LONG), 0);
        assert!(Arc::ptr_eq(&kept, &log.sinks.load()[0].queue));
        assert_eq!(paths.map(|path| count_file(&path)), [(10, 0), (15, 0), (5, 0)]);
    }

    #[test]
    fn a_sink_that_cannot_be_opened_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("decisions.jsonl");
        let log = log_to(&path);
        let missing = DecisionLog::File { path: directory.path().join("missing/log") };
        assert!(matches!(log.prepare(&[missing]), Err(OpenError::File { .. })));
        push(&log, 0, 3);
        assert_eq!(log.flush(LONG), 0);
        assert_eq!(count_file(&path), (3, 0));
    }

    fn pipe_log() -> (Log, PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        (log_with(StdoutSink::new(writer.into())), reader)
    }

    #[test]
    fn a_stalled_reader_costs_bounded_memory_and_leaves_a_gap_that_counts() {
        let (log, reader) = pipe_log();
        let pushed = 3 * QUEUE_BYTES_MAX as u64 / 1_000;
        push(&log, 0, pushed);
        let status = only_status(&log);
        assert!(status.queued_bytes <= QUEUE_BYTES_MAX && status.dropped > 0, "{status:?}");
        assert!(log.flush(Duration::ZERO) > 0, "a flush does not wait for a stalled reader for ever");
        let lines = std::thread::spawn(|| count(BufReader::new(reader).lines().map(Result::unwrap)));
        assert_eq!(log.flush(LONG), 0);
        push(&log, pushed, pushed + 1);
        assert_eq!(log.flush(LONG), 0);
        drop(log);
        let (records, dropped) = lines.join().unwrap();
        assert_eq!((records + dropped, dropped), (pushed + 1, status.dropped));
    }

    #[test]
    fn a_broken_pipe_stops_the_sink_and_nothing_else() {
        let (log, reader) = pipe_log();
        push(&log, 0, 1);
        assert_eq!(log.flush(LONG), 0);
        drop(reader);
        push(&log, 1, 3);
        log.flush(LONG);
        push(&log, 3, 7);
        let status = only_status(&log);
        assert!(matches!(status.health, Health::Stopped(_)), "{status:?}");
        assert_eq!((status.written, status.dropped), (1, 6));
    }

    #[derive(Debug)]
    struct Panicking;

    impl Sink for Panicking {
        fn write(&mut self, _: &[u8]) -> Result<(), WriteError> {
            panic!("a fault in a sink")
        }

        fn reopen(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panicking_sink_is_counted_and_stops_alone() {
        let log = log_with(Panicking);
        push(&log, 0, 5);
        log.flush(LONG);
        push(&log, 5, 8);
        let status = only_status(&log);
        assert_eq!(status.health, Health::Stopped("its thread panicked".to_owned()));
        assert_eq!((status.written, status.dropped), (0, 8));
    }

    /// A tiny file system, unmounted at the end.
    struct TinyDisk(tempfile::TempDir);

    impl TinyDisk {
        fn mount() -> Option<Self> {
            let directory = tempfile::tempdir().unwrap();
            let mounted = Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
                .arg(directory.path())
                .output()
                .is_ok_and(|output| output.status.success());
            mounted.then_some(Self(directory))
        }
    }

    impl Drop for TinyDisk {
        fn drop(&mut self) {
            Command::new("umount").arg(self.0.path()).output().unwrap();
        }
    }

    #[test]
    fn a_full_disk_loses_counted_records_and_whole_lines_only() {
        let Some(disk) = TinyDisk::mount() else {
            eprintln!("skipped: no right to mount a tmpfs");
            return;
        };
        let path = disk.0.path().join("decisions.jsonl");
        let filler = disk.0.path().join("filler");
        fs::write(&filler, vec![0; 128 * 1024]).unwrap();
        let log = log_to(&path);
        push(&log, 0, 500);
        assert_eq!(log.flush(LONG), 0);
        let status = only_status(&log);
        assert!(matches!(status.health, Health::Failing(_)) && status.dropped > 0, "{status:?}");
        let (records, told) = count_file(&path);
        // A short gap record may still have fitted where the records after it did not.
        assert!(records == status.written && told <= status.dropped, "{records} {told} {status:?}");
        fs::remove_file(&filler).unwrap();
        push(&log, 500, 510);
        assert_eq!(log.flush(LONG), 0);
        let status = only_status(&log);
        assert_eq!(status.health, Health::Ok);
        let (records, told) = count_file(&path);
        assert_eq!((records, told, records + told), (status.written, status.dropped, 510));
    }
}
