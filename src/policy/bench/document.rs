//! Input documents: a JSON object, or lines of inputs and recorded decision events.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use regorus::Value;

use super::{BenchError, BenchOptions, DECISION, LeftOut, Question};
use crate::contract::decision::Phase;
use crate::contract::form::Contract;
use crate::policy::decide::{self, Ruling};
use crate::policy::replay;
use crate::rego::evaluator::Evaluator;
use crate::rego::program::{EntrypointError, Program};

/// Input documents, as text: each thread reads values of its own from it.
#[derive(Debug, Clone, Default)]
pub struct Documents {
    documents: Vec<Document>,
    left_out: BTreeMap<LeftOut, u64>,
}

#[derive(Debug, Clone)]
struct Document {
    text: String,
    contract: Contract,
    phase: Phase,
    /// What the event says of it, where it comes from one.
    recorded: Option<Recorded>,
}

#[derive(Debug, Clone)]
struct Recorded {
    path: Option<String>,
    time: Duration,
}

/// Why a file is no list of inputs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// It has nothing in it.
    #[error("`{file}` is empty; it needs a JSON input document, or one on each line")]
    Empty {
        /// The file.
        file: String,
    },
    /// Not JSON.
    #[error("{file}:{line}:{column}: not valid JSON: {message}")]
    Json {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// Something else than an input.
    #[error("{file}:{line}: an input document is an object; write one on each line")]
    NotObject {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
    },
}

impl Documents {
    /// Adds the inputs of a file: one JSON document, or one document or decision event on each line.
    pub fn add(&mut self, file: &str, text: &str) -> Result<(), DocumentError> {
        let file = || file.to_owned();
        if text.trim().is_empty() {
            return Err(DocumentError::Empty { file: file() });
        }
        let json = |error: &serde_json::Error, above: usize| DocumentError::Json {
            file: file(),
            line: above + error.line().max(1),
            column: error.column(),
            message: error.to_string().split(" at line ").next().unwrap_or_default().to_owned(),
        };
        let check = |text: &str| serde_json::from_str::<serde::de::IgnoredAny>(text);
        let not_object = |line| DocumentError::NotObject { file: file(), line };
        let Err(error) = check(text) else {
            return self.add_one(text).ok_or_else(|| not_object(1));
        };
        let mut lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()).peekable();
        // Where not even the first line is a document, the file was meant to be one.
        if lines.peek().is_none_or(|(_, line)| check(line).is_err()) {
            return Err(json(&error, 0));
        }
        for (number, line) in lines {
            check(line).map_err(|error| json(&error, number - 1))?;
            self.add_one(line).ok_or_else(|| not_object(number))?;
        }
        Ok(())
    }

    /// Adds a document that is valid JSON; `None` if it is no object.
    fn add_one(&mut self, text: &str) -> Option<()> {
        let (input, contract, recorded) = if let Some((event, contract)) = replay::question_of(text) {
            let Some(input) = event.input else {
                *self.left_out.entry(LeftOut::NoInput).or_default() += 1;
                return Some(());
            };
            let time = Duration::from_nanos(u64::try_from(event.now_ns).unwrap_or(0));
            (input, contract, Some(Recorded { path: event.path, time }))
        } else {
            let input = Value::from_json_str(text).ok()?;
            let contract = replay::contract_of(&input);
            (input, contract, None)
        };
        input.as_object().ok()?;
        let phase = if replay::has_response(&input) { Phase::Response } else { Phase::Request };
        self.documents.push(Document { text: input.to_json_str().ok()?, contract, phase, recorded });
        Some(())
    }

    /// How many of them differ.
    pub fn distinct(&self) -> usize {
        self.documents.iter().map(|document| &document.text).collect::<BTreeSet<_>>().len()
    }
}

/// Documents as one thread asks about them.
#[derive(Debug)]
pub(super) struct Prepared {
    evaluator: Evaluator,
    questions: Vec<Question>,
    inputs: Vec<Input>,
    budget: Duration,
    pub(super) left_out: BTreeMap<LeftOut, u64>,
}

#[derive(Debug)]
struct Input {
    question: usize,
    value: Value,
    phase: Phase,
    now: Duration,
}

impl Prepared {
    pub(super) fn new(
        program: &Program,
        documents: &Documents,
        options: &BenchOptions,
    ) -> Result<Self, BenchError> {
        let mut prepared = Self {
            evaluator: program.evaluator(),
            questions: Vec::new(),
            inputs: Vec::new(),
            budget: options.budget,
            left_out: documents.left_out.clone(),
        };
        for document in &documents.documents {
            match prepared.question(program, document, options)? {
                Ok(question) => {
                    let Ok(value) = Value::from_json_str(&document.text) else { continue };
                    let now = document.recorded.as_ref().map_or(options.now, |recorded| recorded.time);
                    prepared.inputs.push(Input { question, value, phase: document.phase, now });
                }
                Err(left_out) => *prepared.left_out.entry(left_out).or_default() += 1,
            }
        }
        Ok(prepared)
    }

    /// The index of what is asked about a document.
    fn question(
        &mut self,
        program: &Program,
        document: &Document,
        options: &BenchOptions,
    ) -> Result<Result<usize, LeftOut>, EntrypointError> {
        let contract = options.contract.unwrap_or(document.contract);
        let entrypoint = match (&options.decision, &document.recorded) {
            (Some(rule), _) => program.entrypoint(rule)?,
            (None, None) => program.entrypoint(DECISION)?,
            (None, Some(Recorded { path: None, .. })) => return Ok(Err(LeftOut::Undecided)),
            (None, Some(Recorded { path: Some(path), .. })) => match program.entrypoint(path) {
                Ok(entrypoint) => entrypoint,
                Err(_) => return Ok(Err(LeftOut::NoRule)),
            },
        };
        let question = Question { entrypoint, contract };
        if let Some(known) = self.questions.iter().position(|known| *known == question) {
            return Ok(Ok(known));
        }
        self.questions.push(question);
        Ok(Ok(self.questions.len() - 1))
    }

    pub(super) fn len(&self) -> usize {
        self.inputs.len()
    }

    pub(super) fn questions(&self) -> impl Iterator<Item = &Question> {
        self.questions.iter()
    }

    pub(super) fn ask(&mut self, index: usize) -> Option<Ruling> {
        let Input { question, value, phase, now } = self.inputs.get(index)?;
        let Question { entrypoint, contract } = self.questions.get(*question)?;
        let form = (*contract, *phase);
        Some(decide::ask_document(&mut self.evaluator, entrypoint, value.clone(), (*now, self.budget), form))
    }

    pub(super) fn forget_prints(&mut self) {
        drop(self.evaluator.take_prints());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Documents, String> {
        let mut documents = Documents::default();
        documents.add("in.json", text).map(|()| documents).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_is_one_document_or_one_on_each_line() {
        let event =
            r#"{"decision_id": "1", "timestamp": "2026-01-01T00:00:00Z", "path": "a/b", "input": {"x": 1}}"#;
        let no_input = r#"{"decision_id": "2", "timestamp": "2026-01-01T00:00:00Z", "path": "a/b"}"#;
        for (text, documents, distinct) in [
            ("{\n\"x\": 1}\n", 1, 1),
            ("{\"x\": 1}\n\n{\"x\": 2}\n{\"x\": 2}", 3, 2),
            (&format!("{event}\n{no_input}\n{event}\n"), 2, 1),
        ] {
            let read = read(text).unwrap();
            assert_eq!((read.documents.len(), read.distinct()), (documents, distinct), "{text}");
        }
        let events = read(&format!("{event}\n{no_input}")).unwrap();
        assert_eq!(events.left_out, BTreeMap::from([(LeftOut::NoInput, 1)]));
        let recorded = events.documents[0].recorded.as_ref().unwrap();
        assert_eq!(recorded.path.as_deref(), Some("a/b"));
        assert_eq!(recorded.time, Duration::from_hours(490_896));
    }

    #[test]
    fn what_is_no_input_is_refused_with_its_place() {
        for (text, want) in [
            ("", "`in.json` is empty; it needs a JSON input document, or one on each line"),
            ("[1]", "in.json:1: an input document is an object; write one on each line"),
            (
                "{\"x\": 1}\n{\"x\": 2}\n7\n",
                "in.json:3: an input document is an object; write one on each line",
            ),
            ("{\"x\": 1}\n{\"x\" 2}\n", "in.json:2:6: not valid JSON: expected `:`"),
            ("{\n  \"x\": ,\n}", "in.json:2:8: not valid JSON: expected value"),
        ] {
            assert_eq!(read(text).map(|_| ()), Err(want.to_owned()), "{text}");
        }
    }
}
