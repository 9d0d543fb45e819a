//! Replaying recorded decisions against other policies: what would have been decided differently.
//!
//! Events are read as a stream and evaluated on several threads, each at the time it was recorded. An event that a candidate
//! cannot answer exactly, because it would read what was not recorded, is counted with the reason and never guessed.

mod event;
mod tally;

use std::io::{self, BufRead, Read};
use std::num::NonZeroUsize;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use regorus::Value;

pub(in crate::policy) use self::event::contract_of;
use self::event::{Recorded, Unreadable};
pub(crate) use self::tally::Outcome;
use self::tally::{Bits, Compared, Tally};
pub use self::tally::{Change, Changed, Report, Side, Skipped};
use crate::contract::decision::Phase;
use crate::contract::form::Contract;
use crate::rego::evaluator::{EvalError, Evaluator, Facts};
use crate::rego::footprint::{Footprint, Segment, Shown};
use crate::rego::program::{Entrypoint, Program};

/// Longest event.
const EVENT_BYTES_MAX: u64 = 4 << 20;
/// Bytes of events handed to a thread at once.
const CHUNK_BYTES: usize = 256 << 10;

/// How to replay.
#[derive(Debug, Clone)]
pub struct ReplayOptions {
    /// The rule asked; `None` asks the one that each event names.
    pub entrypoint: Option<String>,
    /// What the policies are written for; `None` tells it from each event.
    pub contract: Option<Contract>,
    /// Threads.
    pub parallel: NonZeroUsize,
    /// The longest one evaluation may take.
    pub budget: Duration,
}

/// Replays the events that `recorded` gives, one a line. `progress` is told how many bytes were read so far.
pub fn replay(
    program: &Program,
    mut recorded: impl BufRead,
    options: &ReplayOptions,
    progress: &mut dyn FnMut(u64),
) -> io::Result<Report> {
    let threads = options.parallel.get();
    let (sender, receiver) = mpsc::sync_channel::<Chunk>(threads * 2);
    let receiver = Mutex::new(receiver);
    thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| Replayer::new(program, options).run(&receiver))).collect();
        let mut first_line = 1;
        let mut read = 0;
        let outcome = loop {
            let chunk = match Chunk::read(&mut recorded, first_line) {
                Ok(chunk) if chunk.lines.is_empty() => break Ok(()),
                Ok(chunk) => chunk,
                Err(error) => break Err(error),
            };
            first_line += chunk.count;
            read += chunk.bytes;
            // Workers end only when there is nothing more to send.
            if sender.send(chunk).is_err() {
                break Ok(());
            }
            progress(read);
        };
        drop(sender);
        let mut tally = Tally::default();
        for worker in workers {
            match worker.join() {
                Ok(of_worker) => tally.add(of_worker),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        outcome.map(|()| tally.report())
    })
}

/// A recorded question.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The rule.
    pub path: Option<String>,
    /// The input, if it was recorded.
    pub input: Option<Value>,
    /// When, in nanoseconds since 1970.
    pub now_ns: i64,
    /// How the gateway refused the request without having asked a policy.
    pub refused: Option<Refused>,
    /// Pointers to what of the input was left out or replaced.
    pub erased: Vec<String>,
}

/// A request that no policy was asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The gateway's reason, a `snake_case` word.
    pub reason: String,
    /// The status the client got.
    pub status: u16,
}

/// The question of the decision with this id, if it is among the events.
pub fn find(mut recorded: impl BufRead, decision_id: &str) -> io::Result<Option<Asked>> {
    let finder = memchr::memmem::Finder::new(decision_id.as_bytes());
    loop {
        let chunk = Chunk::read(&mut recorded, 1)?;
        if chunk.lines.is_empty() {
            return Ok(None);
        }
        if finder.find(&chunk.lines).is_none() {
            continue;
        }
        let events = chunk.lines.split(|byte| *byte == b'\n').filter_map(|line| Recorded::parse(line).ok());
        let found = events.filter(|event| event.decision_id == decision_id).find_map(|event| asked(&event));
        if found.is_some() {
            return Ok(found);
        }
    }
}

/// The question of one event, if it is a whole one.
pub fn asked_in(line: &[u8]) -> Option<Asked> {
    asked(&Recorded::parse(line).ok()?)
}

/// The question of an event, and what its policy was written for; `None` if `text` is no decision event.
pub(super) fn question_of(text: &str) -> Option<(Asked, Contract)> {
    let event = Recorded::parse(text.as_bytes()).ok()?;
    if event.decision_id.is_empty() {
        return None;
    }
    let asked = asked(&event)?;
    let contract = event.contract(asked.input.as_ref().unwrap_or(&Value::Undefined));
    Some((asked, contract))
}

fn asked(event: &Recorded<'_>) -> Option<Asked> {
    let input = event.input.map(|input| Value::from_json_str(input.get())).transpose().ok()?;
    Some(Asked {
        path: event.path.as_deref().map(str::to_owned),
        input,
        now_ns: event.now_ns()?,
        refused: event.refused(),
        erased: event.erased.iter().chain(&event.masked).map(ToString::to_string).collect(),
    })
}

/// Some lines of the log.
struct Chunk {
    first_line: u64,
    lines: Vec<u8>,
    count: u64,
    bytes: u64,
}

impl Chunk {
    fn read(recorded: &mut impl BufRead, first_line: u64) -> io::Result<Self> {
        let mut chunk = Self { first_line, lines: Vec::new(), count: 0, bytes: 0 };
        while chunk.lines.len() < CHUNK_BYTES {
            let start = chunk.lines.len();
            let mut bounded = recorded.by_ref().take(EVENT_BYTES_MAX);
            let read = bounded.read_until(b'\n', &mut chunk.lines)?;
            if read == 0 {
                break;
            }
            chunk.count += 1;
            chunk.bytes += read as u64;
            if !chunk.lines.ends_with(b"\n") {
                if read as u64 == EVENT_BYTES_MAX {
                    // What is left of the line is no event; it is counted as one that cannot be read.
                    chunk.lines.truncate(start);
                    chunk.bytes += skip_line(recorded)?;
                    chunk.lines.push(b'!');
                }
                chunk.lines.push(b'\n');
            }
        }
        Ok(chunk)
    }
}

fn skip_line(recorded: &mut impl BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = recorded.fill_buf()?;
        let (used, done) = match memchr::memchr(b'\n', buffer) {
            Some(end) => (end + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        recorded.consume(used);
        skipped += used as u64;
        if done {
            return Ok(skipped);
        }
    }
}

/// One thread's evaluator, and what it has found.
struct Replayer<'a> {
    program: &'a Program,
    options: &'a ReplayOptions,
    evaluator: Evaluator,
    /// By the path that events name.
    questions: Vec<(String, Option<Question>)>,
    tally: Tally,
}

/// A rule, and what it can read.
struct Question {
    entrypoint: Entrypoint,
    footprint: Footprint,
    /// The paths it reads, each up to its first wildcard.
    reads: Vec<Vec<Value>>,
}

impl<'a> Replayer<'a> {
    fn new(program: &'a Program, options: &'a ReplayOptions) -> Self {
        let evaluator = program.evaluator();
        Self { program, options, evaluator, questions: Vec::new(), tally: Tally::default() }
    }

    fn run(mut self, chunks: &Mutex<Receiver<Chunk>>) -> Tally {
        loop {
            // The lock is held while waiting: whoever has it takes the next chunk.
            let chunk = chunks.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(chunk) = chunk else { return self.tally };
            let lines = chunk.lines.split(|byte| *byte == b'\n').zip(chunk.first_line..);
            for (line, number) in lines.filter(|(line, _)| !is_no_event(line)) {
                self.tally.events += 1;
                match self.event(line, number) {
                    Ok(compared) => self.tally.compared(compared),
                    Err(skipped) => self.tally.skip(skipped),
                }
            }
        }
    }

    fn event(&mut self, line: &[u8], number: u64) -> Result<Compared, Skipped> {
        let recorded = Recorded::parse(line).map_err(|Unreadable| Skipped::Unreadable)?;
        let path = self.options.entrypoint.as_deref().or(recorded.path.as_deref());
        let path = path.ok_or(Skipped::Undecided)?;
        let index = self.question(path);
        let question = self.questions.get(index).and_then(|(_, question)| question.as_ref());
        let question = question.ok_or_else(|| Skipped::NoRule { path: path.to_owned() })?;
        let input = match recorded.input {
            Some(input) => Value::from_json_str(input.get()).map_err(|_| Skipped::Unreadable)?,
            None if question.reads.is_empty() => Value::new_object(),
            None => return Err(Skipped::NoInput),
        };
        for pointer in recorded.erased.iter().chain(&recorded.masked) {
            if question.may_read(pointer) {
                return Err(Skipped::Erased { pointer: pointer.to_string() });
            }
        }
        let contract = self.options.contract.unwrap_or_else(|| recorded.contract(&input));
        let phase = if has_response(&input) { Phase::Response } else { Phase::Request };
        let before = recorded.before(contract, phase).ok_or(Skipped::NoResult)?;
        let now_ns = recorded.now_ns().ok_or(Skipped::Unreadable)?;
        let (present, missing) = question.presence(&input);
        let facts = Facts { input, now_ns, budget: self.options.budget };
        let after = match self.evaluator.evaluate(&question.entrypoint, facts) {
            Ok(result) => Outcome::of(result.map(|result| {
                let decision = contract.parse(&result, phase);
                (result, decision)
            })),
            Err(EvalError::Unanswered { question, .. }) => {
                return Err(Skipped::Outside { builtin: question.builtin.name() });
            }
            Err(_) => Outcome::Failed,
        };
        let change = before.outcome.change(&after, before.is_partial);
        let changed = change.map(|change| Changed {
            change,
            route: recorded.route(),
            before: before.outcome.reason(),
            after: after.reason(),
        });
        Ok(Compared {
            number,
            decision_id: recorded.decision_id.to_string(),
            question: path.to_owned(),
            recorder: recorded.recorder(),
            present,
            missing,
            changed,
        })
    }

    /// The index of the question about the rule at `path`.
    fn question(&mut self, path: &str) -> usize {
        if let Some(index) = self.questions.iter().position(|(known, _)| known == path) {
            return index;
        }
        let question = self.program.entrypoint(path).ok().map(|entrypoint| {
            let footprint = self.program.footprint(&entrypoint);
            let reads = footprint.input().chain(footprint.present()).map(|path| {
                let keys = path.iter().map_while(|segment| match segment {
                    Segment::Key(key) => Some(Value::from(key.as_str())),
                    Segment::Any => None,
                });
                (keys.collect(), Shown("input", path).to_string())
            });
            let (reads, names): (Vec<Vec<Value>>, Vec<String>) = reads.unzip();
            self.tally.question(path, names);
            Question { entrypoint, footprint, reads }
        });
        self.questions.push((path.to_owned(), question));
        self.questions.len() - 1
    }
}

impl Question {
    /// Which of the paths it reads are there, and which are not, by index.
    fn presence(&self, input: &Value) -> (Bits, Bits) {
        let mut present = Bits::default();
        let mut missing = Bits::default();
        for (index, keys) in self.reads.iter().enumerate() {
            let found = keys.iter().try_fold(input, |value, key| {
                if let Value::Object(object) = value { object.get(key) } else { None }
            });
            if found.is_some() { present.insert(index) } else { missing.insert(index) }
        }
        (present, missing)
    }

    /// Whether it may read what lies at a JSON pointer (RFC 6901) into the event.
    fn may_read(&self, pointer: &str) -> bool {
        may_read(&self.footprint, pointer)
    }
}

/// Whether what has this footprint may read what lies at a JSON pointer (RFC 6901) into the event.
pub fn may_read(footprint: &Footprint, pointer: &str) -> bool {
    let Some(below) = pointer.strip_prefix("/input") else { return false };
    let steps: Vec<String> =
        below.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~")).collect();
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    footprint.touches(&steps)
}

/// Whether a line of the log is empty, or tells of a candidate's decision beside another line's.
fn is_no_event(line: &[u8]) -> bool {
    line.trim_ascii().is_empty() || line.starts_with(b"{\"shadow\":{")
}

/// Whether an input tells of an upstream's answer.
pub(super) fn has_response(input: &Value) -> bool {
    matches!(input, Value::Object(object) if object.get(&Value::from("response")).is_some())
}
