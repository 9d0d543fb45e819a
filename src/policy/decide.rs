//! Asking a policy: facts in, decision out. The one way to a decision, for the server, test cases and replay.

use std::borrow::Cow;
use std::time::Duration;

use regorus::Value;

use crate::base::clock::saturating_nanos;
use crate::contract::decision::{Decision, Phase};
use crate::contract::form::{Contract, Inputs};
use crate::contract::input::{self, InputBuilder, Selector};
use crate::contract::reads::Reads;
use crate::policy::cache::{Cache, Key};
use crate::rego::evaluator::{self, EvalError, Evaluator};
use crate::rego::footprint::{Footprint, Segment};
use crate::rego::input::{InputSource, below};
use crate::rego::outside::{Question as OutsideQuestion, Settled};
use crate::rego::program::{Entrypoint, Program};

/// Time of an evaluation for which no request waits; those of other connections of the worker do.
const WARM_UP_BUDGET: Duration = Duration::from_millis(100);

/// A policy as one worker asks it.
#[derive(Debug)]
pub struct Decider {
    evaluator: Evaluator,
    contract: Contract,
    budget: Duration,
    request: Question,
    response: Option<Question>,
    reads_query: bool,
}

/// One rule and the input it reads.
#[derive(Debug)]
struct Question {
    entrypoint: Entrypoint,
    inputs: Inputs,
    /// The single values its plan asks for; `None` where it needs the document.
    selectors: Option<Vec<Chosen>>,
    /// Answers given before, where the same question has the same answer.
    cache: Option<Cache>,
    /// All that an answer depends on; `None` is the whole document.
    depends_on: Option<Vec<Chosen>>,
    /// The answer, where it depends on nothing.
    constant: Option<Ruling>,
}

/// A value of the input, and the keys to follow inside it.
#[derive(Debug)]
struct Chosen {
    selector: Selector,
    rest: Vec<Value>,
}

/// The input of one request, value by value.
#[derive(Debug)]
struct Values<'a> {
    inputs: &'a InputBuilder,
    chosen: &'a [Chosen],
    facts: &'a input::Facts<'a>,
}

/// Whether the caller wants the input document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It will be recorded.
    Input,
    /// Nobody reads it: where the plan can, it decides without one.
    Nothing,
}

/// What came of asking.
#[derive(Debug, Clone)]
pub struct Ruling {
    /// The input as the policy saw it, where it was to be kept.
    pub input: Option<Value>,
    /// The rule's value.
    pub result: Option<Value>,
    /// What the value means.
    pub decision: Result<Decision, Failure>,
    /// Details of a failure, for the event.
    pub error: Option<String>,
    /// Whether it is a decision made before, for the same reasons.
    pub is_remembered: bool,
}

/// What a policy must know from outside before it can rule.
#[derive(Debug, Clone)]
pub struct Unanswered {
    /// What it asks.
    pub question: OutsideQuestion,
    /// The ruling if nobody answers.
    failed: Ruling,
}

/// How a policy failed to decide. All of them fail closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The rule is undefined.
    Undefined,
    /// Evaluation failed.
    Error,
    /// It took longer than its budget.
    Budget,
    /// The engine panicked.
    Panic,
    /// The result is not a decision.
    Result,
}

/// The rules of a policy that are asked, and how long they may take.
#[derive(Debug, Clone)]
pub struct Rules {
    /// For each request.
    pub decision: Entrypoint,
    /// For each response, if any.
    pub response: Option<Entrypoint>,
    /// Time of one evaluation.
    pub budget: Duration,
    /// What they are written for.
    pub contract: Contract,
    /// Decisions remembered at the most, for each rule; 0 remembers none.
    pub cache: usize,
}

// === impl Decider ===

impl Decider {
    /// A decider of its own for one worker.
    pub fn new(program: &Program, rules: &Rules) -> Self {
        let mut evaluator = program.evaluator();
        let request = Question::new(program, &mut evaluator, rules, &rules.decision, Phase::Request);
        let response = rules.response.as_ref();
        let response = response
            .map(|entrypoint| Question::new(program, &mut evaluator, rules, entrypoint, Phase::Response));
        let mut reads = reads(&program.footprint(&rules.decision));
        if let Some(entrypoint) = &rules.response {
            reads = reads.union(self::reads(&program.footprint(entrypoint)));
        }
        let reads_query = rules.contract.reads_query(&reads);
        Self { evaluator, contract: rules.contract, budget: rules.budget, request, response, reads_query }
    }

    /// Whether bodies must be read whole before the policy is asked.
    pub fn needs_body(&self) -> bool {
        self.request.inputs.needs_body()
            || self.response.as_ref().is_some_and(|question| question.inputs.needs_body())
    }

    /// Whether the policy sees the decoded query.
    pub fn reads_query(&self) -> bool {
        self.reads_query
    }

    /// What asks, for what an evaluation leaves behind: prints and coverage.
    pub fn evaluator(&mut self) -> &mut Evaluator {
        &mut self.evaluator
    }

    /// Asks about `facts`. In a phase without a rule the answer is a plain allow. A policy that asks outside fails.
    pub fn decide(&mut self, facts: &input::Facts<'_>, phase: Phase, keep: Keep) -> Ruling {
        self.decide_settled(facts, phase, keep, &mut Settled::default())
            .unwrap_or_else(|unanswered| unanswered.into_ruling())
    }

    /// Asks about `facts` with what is `settled` for this decision so far. Where the policy asks outside, its question comes
    /// back: once that is answered in `settled`, the same may be asked again. The budget is that of each evaluation.
    pub fn decide_settled(
        &mut self,
        facts: &input::Facts<'_>,
        phase: Phase,
        keep: Keep,
        settled: &mut Settled,
    ) -> Result<Ruling, Box<Unanswered>> {
        let Self { evaluator, request, response, contract, budget, .. } = self;
        let question = match phase {
            Phase::Request => request,
            Phase::Response => match response {
                Some(question) => question,
                None => return Ok(Ruling::unasked()),
            },
        };
        if let Some(constant) = &question.constant {
            return Ok(constant.clone());
        }
        let Question { entrypoint, inputs, selectors, cache, depends_on, .. } = question;
        let needs_document =
            keep == Keep::Input || selectors.is_none() || cache.is_some() && depends_on.is_none();
        let input = needs_document.then(|| inputs.build(facts));
        let now_ns = now_ns(facts.time);
        let mut decide = || {
            let evaluated = match (&input, &*inputs, &*selectors) {
                (None, Inputs::Gateway(inputs), Some(chosen)) => {
                    let values = Values { inputs, chosen, facts };
                    evaluator.evaluate_from(entrypoint, &values, now_ns, *budget, settled)
                }
                (input, ..) => {
                    let input = input.clone().unwrap_or_else(|| inputs.build(facts));
                    let facts = evaluator::Facts { input, now_ns, budget: *budget };
                    evaluator.evaluate_settled(entrypoint, facts, settled)
                }
            };
            ruling(evaluated, entrypoint, (*contract, phase))
        };
        let ruling = match cache {
            None => decide(),
            Some(cache) => {
                let write = |key: &mut Key| match (&*inputs, &*depends_on) {
                    (Inputs::Gateway(inputs), Some(chosen)) => {
                        let values = Values { inputs, chosen, facts };
                        (0..chosen.len()).for_each(|path| key.push(values.at(path).as_deref()));
                    }
                    _ => key.push(input.as_ref()),
                };
                // What asks outside is never remembered, so no question can come from here.
                Ok(cache.answer(write, || decide().unwrap_or_else(|unanswered| unanswered.into_ruling())))
            }
        };
        let input = input.filter(|_| keep == Keep::Input);
        match ruling {
            Ok(ruling) => Ok(Ruling { input, ..ruling }),
            Err(unanswered) => Err(Box::new(unanswered.about(input))),
        }
    }

    /// Asks about an input that was built before, for facts that are gone.
    pub fn answer(&mut self, input: Value, time: Duration, phase: Phase) -> Ruling {
        let question = match (phase, &self.response) {
            (Phase::Request, _) => &self.request,
            (Phase::Response, Some(question)) => question,
            (Phase::Response, None) => return Ruling::unasked(),
        };
        // What was learnt outside is gone with the request.
        let (form, times) = ((self.contract, phase), (time, self.budget));
        ask_document(&mut self.evaluator, &question.entrypoint, input, times, form)
    }
}

/// The one answer of an entry point that depends on nothing but the program; `None` where a request has a say.
pub fn constant(program: &Program, entrypoint: &Entrypoint, phase: Phase) -> Option<Ruling> {
    let form = (Contract::GatewayV1, phase);
    let ask = || answer_to_all(&mut program.evaluator(), entrypoint, WARM_UP_BUDGET, form);
    program.footprint(entrypoint).is_constant().then(ask)
}

fn answer_to_all(
    evaluator: &mut Evaluator,
    entrypoint: &Entrypoint,
    budget: Duration,
    form: (Contract, Phase),
) -> Ruling {
    ask_document(evaluator, entrypoint, Value::new_object(), (Duration::ZERO, budget), form)
}

/// Asks about an input that somebody else has built. A policy that asks outside fails.
pub(super) fn ask_document(
    evaluator: &mut Evaluator,
    entrypoint: &Entrypoint,
    input: Value,
    times: (Duration, Duration),
    form: (Contract, Phase),
) -> Ruling {
    ask(evaluator, entrypoint, input, times, form, &mut Settled::default())
        .unwrap_or_else(|unanswered| unanswered.into_ruling())
}

// === impl Question ===

impl Question {
    fn new(
        program: &Program,
        evaluator: &mut Evaluator,
        rules: &Rules,
        entrypoint: &Entrypoint,
        phase: Phase,
    ) -> Self {
        let footprint = program.footprint(entrypoint);
        let inputs = rules.contract.inputs(&reads(&footprint));
        let form = (rules.contract, phase);
        let constant = footprint
            .is_constant()
            .then(|| answer_to_all(evaluator, entrypoint, rules.budget.max(WARM_UP_BUDGET), form));
        // A failure is not kept: the next request may fare better, and each failure is an event of its own.
        let constant = constant.filter(|ruling| ruling.decision.is_ok());
        if constant.is_none() {
            // The first evaluation pays for what later ones find ready; no request should.
            answer_to_all(evaluator, entrypoint, WARM_UP_BUDGET, form);
        }
        let selectors = match (&inputs, evaluator.input_paths(entrypoint)) {
            (Inputs::Gateway(inputs), Some(paths)) => {
                Some(paths.iter().map(|path| Chosen::new(inputs, path)).collect())
            }
            (Inputs::Gateway(_) | Inputs::Envoy(_), _) => None,
        };
        let is_cached = constant.is_none() && rules.cache > 0 && is_repeatable(&footprint);
        let cache = is_cached.then(|| Cache::new(rules.cache));
        let depends_on = match &inputs {
            Inputs::Gateway(inputs) if is_cached => {
                Some(paths_read(&footprint).map(|path| Chosen::new(inputs, &path)).collect())
            }
            Inputs::Gateway(_) | Inputs::Envoy(_) => None,
        };
        Self { entrypoint: entrypoint.clone(), inputs, selectors, cache, depends_on, constant }
    }
}

/// Whether two requests can get the same answer for the same reasons: nothing that is read changes of its own accord, or
/// is another for each request.
fn is_repeatable(footprint: &Footprint) -> bool {
    const UNIQUE: [&[&str]; 4] = [&["decision_id"], &["time"], &["request", "id"], &["source", "port"]];
    !footprint.is_volatile() && !UNIQUE.iter().any(|path| footprint.touches(path))
}

/// The input paths of a footprint, each up to where any key may follow.
fn paths_read(footprint: &Footprint) -> impl Iterator<Item = Vec<Value>> {
    footprint.input().chain(footprint.present()).map(|path| {
        let keys = path.iter().map_while(|segment| match segment {
            Segment::Key(key) => Some(Value::from(key.as_str())),
            Segment::Any => None,
        });
        keys.collect()
    })
}

// === impl Chosen ===

impl Chosen {
    fn new(inputs: &InputBuilder, path: &[Value]) -> Self {
        let selector = inputs.selector(path);
        let rest = path.get(selector.covers()..).unwrap_or_default().to_vec();
        Self { selector, rest }
    }
}

// === impl Values ===

impl InputSource for Values<'_> {
    fn at(&self, path: usize) -> Option<Cow<'_, Value>> {
        let Chosen { selector, rest } = self.chosen.get(path)?;
        below(self.inputs.select(selector, self.facts)?, rest)
    }

    fn document(&self) -> Value {
        self.inputs.build(self.facts)
    }
}

// === impl Ruling ===

impl Ruling {
    fn unasked() -> Self {
        Self {
            input: None,
            result: None,
            decision: Ok(Decision::Allow(Box::default())),
            error: None,
            is_remembered: false,
        }
    }
}

// === impl Unanswered ===

impl Unanswered {
    /// The ruling if nobody answers: a failure.
    pub fn into_ruling(self) -> Ruling {
        self.failed
    }

    /// The same with the input that the policy was asked about, where it is kept.
    fn about(self, input: Option<Value>) -> Self {
        Self { failed: Ruling { input, ..self.failed }, ..self }
    }
}

// === impl Failure ===

impl Failure {
    /// All of them, for counters.
    pub const ALL: [Self; 5] = [Self::Undefined, Self::Error, Self::Budget, Self::Panic, Self::Result];

    /// The word in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Undefined => "undefined",
            Self::Error => "error",
            Self::Budget => "budget",
            Self::Panic => "panic",
            Self::Result => "result",
        }
    }
}

impl From<&EvalError> for Failure {
    fn from(error: &EvalError) -> Self {
        match error {
            EvalError::BudgetExceeded { .. } => Self::Budget,
            EvalError::Panic { .. } => Self::Panic,
            EvalError::Rule { .. }
            | EvalError::Conflict { .. }
            | EvalError::LimitExceeded { .. }
            | EvalError::Unanswered { .. } => Self::Error,
            EvalError::UndefinedInside { .. } => Self::Result,
        }
    }
}

fn ask(
    evaluator: &mut Evaluator,
    entrypoint: &Entrypoint,
    input: Value,
    (now, budget): (Duration, Duration),
    form: (Contract, Phase),
    settled: &mut Settled,
) -> Result<Ruling, Box<Unanswered>> {
    let facts = evaluator::Facts { input: input.clone(), now_ns: now_ns(now), budget };
    let evaluated = evaluator.evaluate_settled(entrypoint, facts, settled);
    let ruling = ruling(evaluated, entrypoint, form);
    ruling.map(|ruling| Ruling { input: Some(input), ..ruling })
}

fn now_ns(now: Duration) -> i64 {
    i64::try_from(saturating_nanos(now)).unwrap_or(i64::MAX)
}

/// What an evaluation means.
fn ruling(
    evaluated: Result<Option<Value>, EvalError>,
    entrypoint: &Entrypoint,
    (contract, phase): (Contract, Phase),
) -> Result<Ruling, Box<Unanswered>> {
    let (result, decision, error) = match evaluated {
        Err(error) => {
            let decision = Err(Failure::from(&error));
            let message = Some(error.to_string());
            let ruling = Ruling { input: None, result: None, decision, error: message, is_remembered: false };
            let EvalError::Unanswered { question, .. } = error else { return Ok(ruling) };
            return Err(Box::new(Unanswered { question: *question, failed: ruling }));
        }
        Ok(None) => {
            let error = format!("`{}` is undefined", entrypoint.name());
            (None, Err(Failure::Undefined), Some(error))
        }
        Ok(Some(result)) => match contract.parse(&result, phase) {
            Ok(decision) => (Some(result), Ok(decision), None),
            Err(error) => (Some(result), Err(Failure::Result), Some(error.to_string())),
        },
    };
    Ok(Ruling { input: None, result, decision, error, is_remembered: false })
}

/// What an entry point reads of its input.
pub fn reads(footprint: &Footprint) -> Reads {
    let paths = footprint.input().chain(footprint.present());
    Reads::from_paths(paths.map(|path| {
        path.iter().map(|segment| match segment {
            Segment::Key(key) => Some(key.clone()),
            Segment::Any => None,
        })
    }))
}
