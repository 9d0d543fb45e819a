//! What a decision costs: the same requests decided again and again, on the plan and on the interpreter.
//!
//! A request of a case goes the way of traffic, from the gateway's facts to the decision. An input document is one already,
//! so that its evaluation and the reading of its result are all that can be timed. Nothing here knows what a report looks like.

mod document;
mod histogram;
mod measure;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use self::document::Prepared;
pub use self::document::{DocumentError, Documents};
pub use self::histogram::Histogram;
use self::measure::Runner;
pub use self::measure::{Measured, Outcomes, Scaling};
use crate::contract::form::Contract;
use crate::policy::bundle::Bundle;
use crate::policy::case::repeat::Repeated;
use crate::policy::decide::Ruling;
use crate::rego::fault::BundleErrors;
use crate::rego::plan::reason::NotPlanned;
use crate::rego::program::{EngineKind, Entrypoint, EntrypointError, Options, Program};

/// The rule asked unless somebody names another, as in `gateway.yaml`.
const DECISION: &str = "gateway/decision";

/// How to measure.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// The rule asked; `None` is the one that a case file or an event names, or `gateway/decision`.
    pub decision: Option<String>,
    /// What the policies are written for; `None` is what a case file or an input says.
    pub contract: Option<Contract>,
    /// Engines, in the order of the report; `None` is the plan, where there is one, and the interpreter.
    pub engine: Option<Engine>,
    /// How much is measured.
    pub limit: Limit,
    /// Threads that decide at the same time, after one has alone.
    pub threads: NonZeroUsize,
    /// Decisions remembered at the most.
    pub cache: usize,
    /// The longest one evaluation may take.
    pub budget: Duration,
    /// When requests were received that do not say so, since the Unix epoch.
    pub now: Duration,
}

/// How much is measured of each engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// About as long as this.
    Time(Duration),
    /// So many decisions.
    Count(u64),
}

/// What evaluates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The decision plan.
    Plan,
    /// The interpreter.
    Interpreter,
}

/// What is asked about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The rule.
    pub entrypoint: Entrypoint,
    /// What it is written for.
    pub contract: Contract,
}

/// Why a request is not asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftOut {
    /// A case brings its own data, so that it has a program of its own.
    OwnData,
    /// A case is about a response.
    Response,
    /// The gateway refuses the request before any policy is asked.
    Refused,
    /// An event has no input.
    NoInput,
    /// An event names no rule: nothing was asked.
    Undecided,
    /// An event names a rule that the policies do not have.
    NoRule,
}

/// The requests that are decided.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// Those of the bundle's case files.
    Cases,
    /// Input documents.
    Documents(&'a Documents),
}

/// What was measured.
#[derive(Debug)]
pub struct Report {
    /// What was asked.
    pub questions: Vec<Question>,
    /// Rules among them that depend on no request: the gateway evaluates them once.
    pub constants: Vec<String>,
    /// How many different requests there are.
    pub requests: usize,
    /// Requests that were not asked about, by the reason.
    pub left_out: BTreeMap<LeftOut, u64>,
    /// Whether decisions were to be remembered.
    pub is_cached: bool,
    /// What keeps the questions off the plan, where something does.
    pub not_planned: Vec<NotPlanned>,
    /// What reading the clock costs, which is taken off each decision that was timed alone.
    pub clock: Duration,
    /// One for each engine.
    pub engines: Vec<Measured>,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The policies or their cases are wrong.
    #[error(transparent)]
    Bundle(#[from] BundleErrors),
    /// The rule is not there.
    #[error(transparent)]
    Rule(#[from] EntrypointError),
    /// Nothing can be asked about.
    #[error("no request to decide{}; give input documents or events with `--input`, or `*.case.yaml` files among the paths", left_out(.0))]
    NoRequests(BTreeMap<LeftOut, u64>),
    /// The plan was asked for, and there is none.
    #[error("`{rule}` has no plan; leave `--engine` out to measure the interpreter{}", listed(.reasons))]
    NotPlanned {
        /// The rule.
        rule: String,
        /// What keeps it off the plan.
        reasons: Vec<NotPlanned>,
    },
}

fn left_out(counts: &BTreeMap<LeftOut, u64>) -> String {
    let shown = counts.iter().map(|(reason, count)| format!(", {count} left out ({})", reason.describe()));
    shown.collect::<Vec<_>>().concat()
}

fn listed(reasons: &[NotPlanned]) -> String {
    let shown = reasons.iter().map(|refused| {
        let NotPlanned { rule, place, reason } = refused;
        format!("\n  {place}: `{rule}`: {reason}")
    });
    shown.collect::<Vec<_>>().concat()
}

/// Measures the policies of a bundle.
pub fn run(bundle: &Bundle, source: Source<'_>, options: &BenchOptions) -> Result<Report, BenchError> {
    let compile = |engine: Engine| bundle.compile(Options { engine: engine.kind(), ..Options::developing() });
    let planned = compile(Engine::Plan)?;
    if let Some(rule) = &options.decision {
        planned.entrypoint(rule)?;
    }
    let workload = Workload::new(bundle, &planned, source, options)?;
    let questions: Vec<Question> = workload.questions().cloned().collect();
    let off_plan = questions.iter().find(|question| !planned.is_planned(&question.entrypoint));
    let not_planned = if off_plan.is_some() { planned.not_planned() } else { Vec::new() };
    let engines: &[Engine] = match (options.engine, off_plan) {
        (Some(Engine::Plan), Some(question)) => {
            let rule = question.entrypoint.name().to_owned();
            return Err(BenchError::NotPlanned { rule, reasons: not_planned });
        }
        (Some(Engine::Plan), None) => &[Engine::Plan],
        (Some(Engine::Interpreter), _) | (None, Some(_)) => &[Engine::Interpreter],
        (None, None) => &[Engine::Plan, Engine::Interpreter],
    };
    let clock = measure::clock();
    let mut measured = Vec::new();
    for engine in engines {
        let program = compile(*engine)?;
        let runners = (0..options.threads.get())
            .map(|_| Workload::new(bundle, &program, source, options).map(Runner::new))
            .collect::<Result<Vec<_>, _>>()?;
        measured.push(measure::measure(*engine, runners, options, clock));
    }
    let constants = questions.iter().map(|question| &question.entrypoint);
    let constants = constants.filter(|rule| planned.footprint(rule).is_constant());
    Ok(Report {
        constants: constants.map(|rule| rule.name().to_owned()).collect(),
        questions,
        requests: workload.len(),
        left_out: workload.left_out().clone(),
        is_cached: options.cache > 0,
        not_planned,
        clock,
        engines: measured,
    })
}

/// Requests as one thread asks about them; threads share nothing that is counted.
#[derive(Debug)]
enum Workload {
    Cases(Box<Repeated>),
    Documents(Box<Prepared>),
}

// === impl Workload ===

impl Workload {
    fn new(
        bundle: &Bundle,
        program: &Program,
        source: Source<'_>,
        options: &BenchOptions,
    ) -> Result<Self, BenchError> {
        let workload = match source {
            Source::Cases => Self::Cases(Box::new(Repeated::new(bundle, program, options)?)),
            Source::Documents(documents) => {
                Self::Documents(Box::new(Prepared::new(program, documents, options)?))
            }
        };
        if workload.len() == 0 {
            return Err(BenchError::NoRequests(workload.left_out().clone()));
        }
        Ok(workload)
    }

    fn len(&self) -> usize {
        match self {
            Self::Cases(requests) => requests.len(),
            Self::Documents(documents) => documents.len(),
        }
    }

    fn left_out(&self) -> &BTreeMap<LeftOut, u64> {
        match self {
            Self::Cases(requests) => &requests.left_out,
            Self::Documents(documents) => &documents.left_out,
        }
    }

    fn questions(&self) -> Box<dyn Iterator<Item = &Question> + '_> {
        match self {
            Self::Cases(requests) => Box::new(requests.questions()),
            Self::Documents(documents) => Box::new(documents.questions()),
        }
    }

    fn ask(&mut self, index: usize) -> Option<Ruling> {
        match self {
            Self::Cases(requests) => requests.ask(index),
            Self::Documents(documents) => documents.ask(index),
        }
    }

    fn forget_prints(&mut self) {
        match self {
            Self::Cases(requests) => requests.forget_prints(),
            Self::Documents(documents) => documents.forget_prints(),
        }
    }
}

// === impl Engine ===

impl Engine {
    /// Its name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Interpreter => "interpreter",
        }
    }

    const fn kind(self) -> EngineKind {
        match self {
            Self::Plan => EngineKind::Auto,
            Self::Interpreter => EngineKind::Interpreter,
        }
    }
}

// === impl LeftOut ===

impl LeftOut {
    /// The word in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OwnData => "own_data",
            Self::Response => "response",
            Self::Refused => "refused",
            Self::NoInput => "no_input",
            Self::Undecided => "undecided",
            Self::NoRule => "no_rule",
        }
    }

    /// What it means, for people.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::OwnData => "the case brings its own data",
            Self::Response => "the case is about a response",
            Self::Refused => "the gateway refuses the request before it asks a policy",
            Self::NoInput => "the event was recorded without its input",
            Self::Undecided => "the event names no rule; name one with --decision",
            Self::NoRule => "the policies lack the rule that the event names",
        }
    }
}
