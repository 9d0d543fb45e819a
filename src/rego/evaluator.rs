//! The one type behind which plans and the interpreter stand.
//!
//! An evaluation ends in a value, in undefined, or in an error; it never panics, never prints,
//! never outlives its budget unnoticed, and never answers after a guard refused.

use std::{
    cell::Cell,
    num::NonZeroU32,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Once},
    time::{Duration, Instant},
};

use regorus::{Engine, Value, utils::limits::ExecutionTimerConfig};

use super::{
    builtin,
    coverage::FileCoverage,
    desugar,
    fault::Place,
    input::InputSource,
    outside::{Question, Settled},
    parse,
    plan::{Entry, Input, Plan, Scratch},
    program::{self, Entrypoint, Program},
    source::Text,
};

/// Steps of the interpreter between looks at the clock.
const CHECK_INTERVAL: NonZeroU32 = NonZeroU32::new(64).unwrap();

/// Entry points remembered by an evaluator; a policy has few.
const ENTRIES_MAX: usize = 64;

/// Evaluates a program; one for each worker.
pub struct Evaluator {
    program: Program,
    pristine: Engine,
    engine: Engine,
    plan: Option<Plan>,
    /// What `opa.runtime()` answers; no other worker counts references to it.
    runtime: Value,
    scratch: Scratch,
    /// Entry points asked for before, and where the plan has them.
    entries: Vec<(Arc<str>, Option<Entry>)>,
}

/// What an evaluation is given besides the program.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The input document; undefined if there is none.
    pub input: Value,
    /// What `time.now_ns()` answers: nanoseconds since 1970.
    pub now_ns: i64,
    /// The longest the evaluation may take.
    pub budget: Duration,
}

/// Why an evaluation has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// A rule or, in strict mode, a built-in failed.
    #[error("{place}: {message}")]
    Rule {
        /// Where.
        place: Place,
        /// What the engine said.
        message: String,
    },
    /// Rules gave different values for one document.
    #[error("{place}: {message}")]
    Conflict {
        /// Where.
        place: Place,
        /// What the engine said.
        message: String,
    },
    /// The evaluation took longer than its budget.
    #[error("evaluation took longer than its budget of {budget:?}")]
    BudgetExceeded {
        /// The budget.
        budget: Duration,
    },
    /// A built-in was asked for more than its bound, or what no one permitted it to ask.
    #[error("built-in refused to answer: {message}")]
    LimitExceeded {
        /// Which, and why.
        message: String,
    },
    /// The policy asks something that lies outside, and that is not settled for this decision.
    #[error("{place}: {question} has no answer here: mock it, `with {} as ...`", .question.builtin.name())]
    Unanswered {
        /// Where.
        place: Place,
        /// What it asks.
        question: Box<Question>,
    },
    /// The result holds an undefined value, which has no JSON.
    #[error("result of `{entrypoint}` holds an undefined value")]
    UndefinedInside {
        /// The entry point.
        entrypoint: Arc<str>,
    },
    /// The engine panicked; the evaluator was rebuilt.
    #[error("policy engine panicked: {message}")]
    Panic {
        /// The panic's message.
        message: String,
    },
}

impl EvalError {
    /// A stable name for logs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Rule { .. } => "rule_error",
            Self::Conflict { .. } => "conflict",
            Self::BudgetExceeded { .. } => "budget_exceeded",
            Self::LimitExceeded { .. } => "limit_exceeded",
            Self::Unanswered { .. } => "unanswered",
            Self::UndefinedInside { .. } => "undefined_inside",
            Self::Panic { .. } => "panic",
        }
    }
}

/// One way in which a query holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The values of its expressions.
    pub expressions: Vec<Answer>,
    /// The variables of the query, as an object.
    pub bindings: Value,
}

/// The value of one expression of a query.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The value of the expression.
    pub value: Value,
    /// Its text.
    pub text: String,
    /// Line in the query, from 1.
    pub row: u32,
    /// Column in the query, from 1.
    pub column: u32,
}

impl std::fmt::Debug for Evaluator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evaluator").field("program", &self.program).finish_non_exhaustive()
    }
}

impl Evaluator {
    pub(crate) fn new(program: Program, engine: Engine, plan: Option<Plan>, runtime: Value) -> Self {
        Self {
            program,
            pristine: engine.clone(),
            engine,
            plan,
            runtime,
            scratch: Scratch::default(),
            entries: Vec::new(),
        }
    }

    /// The program evaluated.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Evaluates an entry point; `None` is undefined.
    pub fn evaluate(&mut self, entrypoint: &Entrypoint, facts: Facts) -> Result<Option<Value>, EvalError> {
        self.evaluate_settled(entrypoint, facts, &mut Settled::default())
    }

    /// Evaluates an entry point with what is `settled` for the decision so far. Where that does not do, the error holds the
    /// question: once it is answered in `settled`, the same may be evaluated again.
    pub fn evaluate_settled(
        &mut self,
        entrypoint: &Entrypoint,
        facts: Facts,
        settled: &mut Settled,
    ) -> Result<Option<Value>, EvalError> {
        let known = std::mem::take(settled);
        let answer = match self.entry(entrypoint) {
            Some(entry) => {
                let Facts { input, now_ns, budget } = &facts;
                self.evaluate_plan(entry, Input::Document(input), (*now_ns, *budget), known)
            }
            None => self.interpret_settled(entrypoint, facts, known),
        };
        keep_settled(answer.as_ref().err(), settled);
        answer
    }

    /// As [`Evaluator::evaluate_settled`], on a plan over what `source` knows, where that has been planned; `now_ns` and
    /// `budget` are those of [`Facts`].
    pub fn evaluate_from(
        &mut self,
        entrypoint: &Entrypoint,
        source: &dyn InputSource,
        now_ns: i64,
        budget: Duration,
        settled: &mut Settled,
    ) -> Result<Option<Value>, EvalError> {
        let known = std::mem::take(settled);
        let answer = if let Some(entry) = self.entry(entrypoint) {
            self.evaluate_plan(entry, Input::Paths(source), (now_ns, budget), known)
        } else {
            let facts = Facts { input: source.document(), now_ns, budget };
            self.interpret_settled(entrypoint, facts, known)
        };
        keep_settled(answer.as_ref().err(), settled);
        answer
    }

    /// The paths below `input` that a planned entry point may ask for; `None` for one that needs the document.
    pub fn input_paths(&mut self, entrypoint: &Entrypoint) -> Option<&[Vec<Value>]> {
        self.entry(entrypoint)?;
        self.plan.as_ref().map(Plan::input_paths)
    }

    /// Evaluates an entry point on the interpreter, whatever plans there are.
    pub fn interpret(&mut self, entrypoint: &Entrypoint, facts: Facts) -> Result<Option<Value>, EvalError> {
        self.interpret_settled(entrypoint, facts, Settled::default())
    }

    fn interpret_settled(
        &mut self,
        entrypoint: &Entrypoint,
        facts: Facts,
        settled: Settled,
    ) -> Result<Option<Value>, EvalError> {
        let name = entrypoint.name().to_owned();
        let value = self.guarded(facts, settled, |engine| {
            if entrypoint.is_rule() {
                return engine.eval_rule(name);
            }
            let results = engine.eval_query(name, false)?;
            let first = results.result.into_iter().next().and_then(|row| row.expressions.into_iter().next());
            Ok(first.map_or(Value::Undefined, |expression| expression.value))
        })?;
        if value == Value::Undefined {
            Ok(None)
        } else if holds_undefined(&value) {
            Err(EvalError::UndefinedInside { entrypoint: entrypoint.name().into() })
        } else {
            Ok(Some(value))
        }
    }

    /// Where the plan has an entry point, if it covers it.
    fn entry(&mut self, entrypoint: &Entrypoint) -> Option<Entry> {
        let plan = self.plan.as_ref()?;
        let name = entrypoint.shared_name();
        if let Some((_, entry)) = self.entries.iter().find(|(known, _)| Arc::ptr_eq(known, name)) {
            return *entry;
        }
        let entry = plan.entry(entrypoint.path()).ok();
        if self.entries.len() == ENTRIES_MAX {
            self.entries.clear();
        }
        self.entries.push((name.clone(), entry));
        entry
    }

    fn evaluate_plan(
        &mut self,
        entry: Entry,
        input: Input<'_>,
        (now_ns, budget): (i64, Duration),
        settled: Settled,
    ) -> Result<Option<Value>, EvalError> {
        let Some(plan) = &self.plan else { return Ok(None) };
        builtin::start(now_ns, &self.runtime, settled);
        let strict = self.program.options().strict_builtin_errors;
        let scratch = &mut self.scratch;
        let run = || plan.evaluate(entry, input, budget, strict, scratch);
        let answer = quietly(|| panic::catch_unwind(AssertUnwindSafe(run)));
        let answer = answer.map_err(|payload| {
            // Memory that a panic leaves behind is not used again.
            self.scratch = Scratch::default();
            EvalError::Panic { message: panic_message(&*payload) }
        })?;
        if let Some(message) = builtin::take_refusal() {
            return Err(EvalError::LimitExceeded { message });
        }
        // Unlike the interpreter, a plan never puts an undefined value into another: it looks at what built-ins make.
        answer
    }

    /// Answers a query in Rego: one row for each way it holds.
    pub fn query(&mut self, query: &str, facts: Facts) -> Result<Vec<Row>, EvalError> {
        self.query_settled(query, facts, &mut Settled::default())
    }

    /// As [`Evaluator::query`], with what is `settled`, as [`Evaluator::evaluate_settled`].
    pub fn query_settled(
        &mut self,
        query: &str,
        facts: Facts,
        settled: &mut Settled,
    ) -> Result<Vec<Row>, EvalError> {
        let asked = |engine: &mut Engine| engine.eval_query(desugar::readable(query), false);
        let results = self.guarded(facts, std::mem::take(settled), asked);
        keep_settled(results.as_ref().err(), settled);
        let results = results.map_err(|error| placed_in(query, error))?;
        let rows = results.result.into_iter().map(|row| {
            let expressions = row.expressions.into_iter().map(|expression| Answer {
                value: expression.value,
                text: expression.text.to_string(),
                row: expression.location.row,
                column: expression.location.col,
            });
            Row { expressions: expressions.collect(), bindings: row.bindings }
        });
        let holds = |row: &Row| row.expressions.iter().all(|answer| answer.value != Value::Undefined);
        Ok(rows.filter(holds).collect())
    }

    /// What `print` said since the last call, one line each.
    pub fn take_prints(&mut self) -> Vec<String> {
        self.engine.take_prints().unwrap_or_default()
    }

    /// The lines reached since the evaluator was made, for every file of the program.
    pub fn coverage(&self) -> Vec<FileCoverage> {
        let mut files = self.program.unreached();
        let reports = self.engine.get_coverage_report().map(|report| report.files).unwrap_or_default();
        for report in reports {
            if let Some(file) = files.iter_mut().find(|file| *file.file == *program::file_of(&report.path)) {
                // The rewritten text has expressions on lines where the original has none.
                file.covered.extend(report.covered.intersection(&file.not_covered));
                file.not_covered = file.not_covered.difference(&file.covered).copied().collect();
            }
        }
        files
    }

    /// Forgets the lines reached so far.
    pub fn clear_coverage(&mut self) {
        self.engine.clear_coverage_data();
    }

    fn guarded<T>(
        &mut self,
        facts: Facts,
        settled: Settled,
        evaluate: impl FnOnce(&mut Engine) -> anyhow::Result<T>,
    ) -> Result<T, EvalError> {
        let Facts { input, now_ns, budget } = facts;
        builtin::start(now_ns, &self.runtime, settled);
        self.engine.set_input(input);
        self.engine.set_execution_timer_config(ExecutionTimerConfig {
            limit: budget,
            check_interval: CHECK_INTERVAL,
        });
        let started = Instant::now();
        let engine = &mut self.engine;
        let answer = quietly(|| panic::catch_unwind(AssertUnwindSafe(|| evaluate(engine))));
        let took = started.elapsed();
        let answer = answer.map_err(|payload| {
            self.engine = self.pristine.clone();
            EvalError::Panic { message: panic_message(&*payload) }
        })?;
        // The engine may swallow an error inside a function that has another definition, so all
        // are looked at even when there is an answer.
        if let Some(message) = builtin::take_refusal() {
            return Err(EvalError::LimitExceeded { message });
        }
        if let Some(question) = builtin::take_question() {
            let place = match &answer {
                Ok(_) => Place::whole("policy"),
                Err(error) => self.program.locate("eval_error", &error.to_string()).place,
            };
            return Err(EvalError::Unanswered { place, question });
        }
        if took > budget {
            return Err(EvalError::BudgetExceeded { budget });
        }
        answer.map_err(|error| self.error(&error, budget))
    }

    fn error(&self, error: &anyhow::Error, budget: Duration) -> EvalError {
        let message = error.to_string();
        if message.contains("execution exceeded time limit") {
            return EvalError::BudgetExceeded { budget };
        }
        let fault = self.program.locate("eval_error", &message);
        let conflict = ["multiple outputs", "rule conflicts with rule", "conflict"];
        if conflict.iter().any(|part| message.contains(part)) {
            return EvalError::Conflict { place: fault.place, message: fault.message };
        }
        EvalError::Rule { place: fault.place, message: fault.message }
    }
}

/// Keeps what an evaluation that ended with a question has settled, for the next one of the same decision.
fn keep_settled(error: Option<&EvalError>, settled: &mut Settled) {
    if let Some(EvalError::Unanswered { .. }) = error {
        *settled = builtin::take_settled();
    }
}

/// An error that the interpreter places in a query, with its place there.
fn placed_in(query: &str, error: EvalError) -> EvalError {
    let EvalError::Rule { message, .. } = &error else { return error };
    if !message.contains("--> <query") {
        return error;
    }
    let fault = parse::fault_of(&Text::new("<query>", query), "eval_error", message);
    EvalError::Rule { place: fault.place, message: fault.message }
}

pub(super) fn holds_undefined(value: &Value) -> bool {
    match value {
        Value::Undefined => true,
        Value::Array(items) => items.iter().any(holds_undefined),
        Value::Set(items) => items.iter().any(holds_undefined),
        Value::Object(fields) => {
            fields.iter().any(|(key, value)| holds_undefined(key) || holds_undefined(value))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs with panics of this thread kept off stderr: they come back as errors.
fn quietly<T>(run: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let inner = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                inner(info);
            }
        }));
    });
    let outer = IS_QUIET.replace(true);
    let result = run();
    IS_QUIET.set(outer);
    result
}

fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
