//! The safety net under plans: plan and interpreter asked the same, on inputs made up along the
//! footprint and then damaged. Two engines of different make rarely err alike.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use regorus::Value;

use super::{
    evaluator::{EvalError, Facts},
    footprint::{ReadPath, Segment},
    program::{Entrypoint, Program},
};

/// Inputs asked of both engines.
const SAMPLES: u64 = 160;
/// Time of one answer; what takes longer is not compared.
const BUDGET: Duration = Duration::from_millis(20);
/// Time of all answers together: a reload waits for them.
const TOTAL: Duration = Duration::from_millis(250);
/// Values taken from a policy and its data at the most.
const VALUES_MAX: usize = 256;

/// An input on which plan and interpreter differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The entry point.
    pub entrypoint: Entrypoint,
    /// The input, as JSON.
    pub input: String,
    /// What the plan answers.
    pub plan: String,
    /// What the interpreter answers.
    pub interpreter: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { entrypoint, input, plan, interpreter } = self;
        write!(f, "`{entrypoint}` is {plan} on its plan and {interpreter} on the interpreter, for {input}")
    }
}

/// Asks both engines; the first difference, if there is one.
pub(super) fn compare(program: &Program, entrypoint: &Entrypoint) -> Option<Difference> {
    let footprint = program.footprint(entrypoint);
    let paths: Vec<ReadPath> = footprint.input().chain(footprint.present()).cloned().collect();
    let mut evaluator = program.evaluator();
    let mut inputs = Inputs { values: values(program), paths, state: 0x9E37_79B9_7F4A_7C15 };
    let started = Instant::now();
    for _ in 0..SAMPLES {
        if started.elapsed() > TOTAL {
            break;
        }
        let input = inputs.next();
        let facts = || Facts { input: input.clone(), now_ns: 0, budget: BUDGET };
        let plan = evaluator.evaluate(entrypoint, facts());
        let interpreter = evaluator.interpret(entrypoint, facts());
        if is_telling(&plan, &interpreter) {
            let shown = |answer: Result<Option<Value>, EvalError>| match answer {
                Ok(Some(value)) => format!("`{value}`"),
                Ok(None) => "undefined".to_owned(),
                Err(error) => format!("an error ({error})"),
            };
            return Some(Difference {
                entrypoint: entrypoint.clone(),
                input: input.to_string(),
                plan: shown(plan),
                interpreter: shown(interpreter),
            });
        }
    }
    None
}

type Answer = Result<Option<Value>, EvalError>;

/// Whether two answers tell of a fault. An error of the interpreter alone does not: operators fail
/// there on operands of a wrong type, where OPA and plans have undefined.
fn is_telling(plan: &Answer, interpreter: &Answer) -> bool {
    match (plan, interpreter) {
        (Ok(plan), Ok(interpreter)) => plan != interpreter,
        // Nobody answers here, and what one engine does not ask it need not have asked.
        (Err(EvalError::BudgetExceeded { .. } | EvalError::Unanswered { .. }), _) | (_, Err(_)) => false,
        (Err(_), Ok(_)) => true,
    }
}

/// Scalars the policy and its data speak of: what they compare input with.
fn values(program: &Program) -> Vec<Value> {
    let mut found = Vec::new();
    let mut open: Vec<&Value> = program.constants().chain([program.data()]).collect();
    while let Some(value) = open.pop() {
        if found.len() >= VALUES_MAX {
            break;
        }
        match value {
            Value::Array(items) => open.extend(items.iter().take(8)),
            Value::Set(items) => open.extend(items.iter().take(8)),
            Value::Object(fields) => {
                for (key, value) in fields.iter().take(8) {
                    open.extend([key, value]);
                }
            }
            Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null => {
                if !found.contains(value) {
                    found.push(value.clone());
                }
            }
            Value::Undefined => {}
        }
    }
    found
}

/// Inputs made up one after the other, always the same ones for a program.
struct Inputs {
    values: Vec<Value>,
    paths: Vec<ReadPath>,
    state: u64,
}

impl Inputs {
    /// A number below a bound (xorshift: it has to be varied, not unpredictable).
    fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let bound = u64::try_from(bound.max(1)).unwrap_or(1);
        usize::try_from((self.state >> 16) % bound).unwrap_or_default()
    }

    fn next(&mut self) -> Value {
        let mut input = Value::new_object();
        // From inputs that have nearly everything to those that have half of it.
        let missing = self.below(3);
        for path in self.paths.clone() {
            if self.below(6) >= missing {
                let value = self.value(0);
                self.put(&mut input, &path, value);
            }
        }
        input
    }

    fn put(&mut self, at: &mut Value, path: &[Segment], value: Value) {
        let Some((segment, rest)) = path.split_first() else {
            *at = value;
            return;
        };
        let key = match segment {
            Segment::Key(key) => Value::from(key.as_str()),
            Segment::Any if self.below(2) == 0 => self.scalar(),
            Segment::Any => {
                let mut item = Value::new_object();
                self.put(&mut item, rest, value);
                *at = Value::from(vec![item]);
                return;
            }
        };
        if !matches!(at, Value::Object(_)) {
            *at = Value::new_object();
        }
        let Ok(fields) = at.as_object_mut() else { return };
        let below = fields.get_or_insert_with(key, Value::new_object);
        self.put(below, rest, value);
    }

    fn scalar(&mut self) -> Value {
        let index = self.below(self.values.len());
        self.values.get(index).cloned().unwrap_or(Value::Null)
    }

    /// Something the policy knows, mostly; else something odd.
    fn value(&mut self, depth: usize) -> Value {
        match self.below(16) {
            0 => Value::Null,
            1 => Value::from(self.below(2) == 0),
            2 => Value::from(self.below(5)),
            3 => Value::from(""),
            4 => Value::new_object(),
            5 => Value::new_array(),
            6 if depth < 2 => {
                Value::from((0..=self.below(2)).map(|_| self.value(depth + 1)).collect::<Vec<_>>())
            }
            7 | 8 if depth < 2 => {
                let fields = (0..=self.below(3)).map(|_| (self.scalar(), self.value(depth + 1)));
                Value::from(fields.collect::<BTreeMap<_, _>>())
            }
            _ => self.scalar(),
        }
    }
}
