//! The built-in functions: one table of everything that can be called, ours or regorus's.
//!
//! A built-in of ours wins over regorus's of the same name. Some of regorus's can run or allocate
//! without bound under a time limit that only looks between calls; a guard checks their arguments
//! first. A refusal fails the whole evaluation, whatever the policy does with the undefined result.
//! To add a built-in: write one function in its family's file and one line in that file's table.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a built-in takes one or two of the engine's many kinds of value and refuses the others alike"
)]

mod argument;
mod aws;
mod cast;
mod cidr;
mod collection;
mod crypto;
mod der;
mod encoding;
mod engine;
mod evaluation;
mod globs;
mod graphql;
mod guard;
mod json;
mod jwt;
mod metadata;
mod module;
mod outside;
mod pem;
mod template;
mod text;
mod uri;
mod volatile;
mod x509;

use std::{collections::HashMap, sync::LazyLock};

use regorus::{Engine, Value, unstable::BUILTINS};

use self::{engine::EngineFunction, guard::Check};
use super::outside::{Outside, Question};

pub(crate) use self::evaluation::{start, take_question, take_refusal, take_settled};
pub(crate) use self::outside::HTTP_REQUEST_KEYS;

/// What is known of a built-in's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Callable; no arity means any number of arguments.
    Available {
        arity: Option<usize>,
    },
    /// Callable where that is permitted: its answer lies outside.
    Outside(Outside),
    Unknown,
}

/// A callable built-in: name, arity, and what runs.
#[derive(Clone, Copy)]
pub(crate) struct Builtin {
    pub(crate) name: &'static str,
    pub(crate) arity: usize,
    check: Option<Check>,
    function: Function,
}

#[derive(Clone, Copy)]
enum Function {
    Own(OwnFunction),
    Engine(EngineFunction),
}

/// A built-in of ours: it is never called with undefined or with another number of arguments.
type OwnFunction = fn(&[Value]) -> Result<Value, Failure>;

/// A line of a family's table: name, arity, function.
type Entry = (&'static str, usize, OwnFunction);

/// Why a built-in has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    /// OPA has an error here: undefined, unless errors are strict.
    Error(String),
    /// The arguments are over a bound.
    Refused(String),
    /// The answer lies outside, and is not settled.
    Unanswered(Box<Question>),
}

/// Why a call fails the evaluation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// A bound refused the arguments: no policy may go on from here.
    #[error("{0}")]
    Refused(String),
    /// The built-in's own error, in strict mode.
    #[error("{0}")]
    Failed(String),
    /// Nothing can go on before this is answered.
    #[error("{0} is not answered")]
    Unanswered(Box<Question>),
}

const FAMILIES: &[&[Entry]] = &[
    aws::TABLE,
    cast::TABLE,
    cidr::TABLE,
    collection::TABLE,
    crypto::TABLE,
    globs::TABLE,
    graphql::TABLE,
    json::TABLE,
    jwt::TABLE,
    metadata::TABLE,
    module::TABLE,
    outside::TABLE,
    template::TABLE,
    text::TABLE,
    uri::TABLE,
    volatile::TABLE,
    x509::TABLE,
];

static TABLE: LazyLock<HashMap<&'static str, Builtin>> = LazyLock::new(table);

fn table() -> HashMap<&'static str, Builtin> {
    let engine = BUILTINS.iter().filter(|(name, _)| !is_hidden(name)).map(|(name, (function, arity))| {
        let function = Function::Engine(*function);
        Builtin { name, arity: usize::from(*arity), check: None, function }
    });
    let own = FAMILIES.iter().copied().flatten().map(|(name, arity, function)| Builtin {
        name,
        arity: *arity,
        check: None,
        function: Function::Own(*function),
    });
    let mut table: HashMap<_, _> = engine.chain(own).map(|builtin| (builtin.name, builtin)).collect();
    for (name, check) in guard::CHECKED {
        if let Some(builtin) = table.get_mut(name) {
            builtin.check = Some(*check);
        }
    }
    table
}

/// Internal to regorus, or named after its own test suite.
fn is_hidden(name: &str) -> bool {
    name.starts_with("__") || name.starts_with("test.")
}

/// The callable built-in of this name. `print` is none: it takes what is undefined, too.
pub(crate) fn lookup(name: &str) -> Option<&'static Builtin> {
    TABLE.get(name)
}

/// Looks a built-in up by its dotted name.
pub(crate) fn find(name: &str) -> Known {
    if let Some(outside) = Outside::named(name) {
        return Known::Outside(outside);
    }
    match name {
        "print" => Known::Available { arity: None },
        _ => match lookup(name) {
            Some(builtin) => Known::Available { arity: Some(builtin.arity) },
            None => Known::Unknown,
        },
    }
}

/// Puts into an engine what it lacks, and what must run instead of its own. `strict` makes errors
/// fatal, as `set_strict_builtin_errors` does for those it calls by itself.
pub(crate) fn install(engine: &mut Engine, strict: bool) -> anyhow::Result<()> {
    for builtin in TABLE.values().filter(|builtin| builtin.is_extension()) {
        // No built-in has more than a handful of arguments.
        let arity = u8::try_from(builtin.arity).unwrap_or(u8::MAX);
        let run = move |arguments: Vec<Value>| builtin.call(&arguments, strict).map_err(anyhow::Error::new);
        engine.add_extension(builtin.name.to_owned(), arity, Box::new(run))?;
    }
    Ok(())
}

// === impl Builtin ===

impl Builtin {
    /// Calls it. Undefined stands for OPA's undefined: an undefined argument, no result, or an error
    /// that is not strict. A refusal is also kept for [`take_refusal`].
    pub(crate) fn call(&self, arguments: &[Value], strict: bool) -> Result<Value, CallError> {
        if arguments.contains(&Value::Undefined) {
            return Ok(Value::Undefined);
        }
        let answer = if arguments.len() == self.arity {
            self.checked(arguments, strict)
        } else {
            Err(Failure::Error(format!("takes {} arguments, {} given", self.arity, arguments.len())))
        };
        match answer {
            Ok(value) => Ok(value),
            Err(Failure::Error(_)) if !strict => Ok(Value::Undefined),
            Err(Failure::Error(reason)) => Err(CallError::Failed(format!("{}: {reason}", self.name))),
            Err(Failure::Refused(reason)) => {
                let reason = format!("`{}`: {reason}", self.name);
                evaluation::refuse(&reason);
                Err(CallError::Refused(reason))
            }
            Err(Failure::Unanswered(question)) => {
                evaluation::unanswered(&question);
                Err(CallError::Unanswered(question))
            }
        }
    }

    fn checked(&self, arguments: &[Value], strict: bool) -> Result<Value, Failure> {
        if let Some(check) = self.check {
            check(arguments).map_err(Failure::Refused)?;
        }
        match self.function {
            Function::Own(function) => function(arguments),
            Function::Engine(function) => engine::call(function, arguments, strict),
        }
    }

    /// Whether regorus has one of this name, which its interpreter mocks and lets bind its result.
    pub(crate) fn is_of_engine(&self) -> bool {
        BUILTINS.contains_key(self.name)
    }

    /// Whether the interpreter has to be told about it.
    fn is_extension(&self) -> bool {
        self.check.is_some() || matches!(self.function, Function::Own(_))
    }
}

impl std::fmt::Debug for Builtin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builtin")
            .field("name", &self.name)
            .field("arity", &self.arity)
            .finish_non_exhaustive()
    }
}

/// Whether OPA or we know a built-in of this name.
pub(crate) fn is_known(name: &str) -> bool {
    find(name) != Known::Unknown
}

/// Whether a name is that of a built-in, or the first part of one: `count`, and `time` of `time.now_ns`.
pub(crate) fn is_root(name: &str) -> bool {
    let begins = |builtin: &&str| builtin.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    find(name) != Known::Unknown || TABLE.keys().any(begins)
}

/// Whether a call may answer differently the next time: clock, chance, the process it runs in, or the world outside.
pub(crate) fn is_volatile(name: &str) -> bool {
    volatile::NAMES.contains(&name)
}

/// The built-in whose name is nearest to a misspelt one.
pub(crate) fn nearest(name: &str) -> Option<String> {
    closest(name, TABLE.keys().copied())
}

/// The candidate at the smallest edit distance, if that is small for the name's length.
pub(crate) fn closest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    candidates
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance > 0 && *distance <= 1 + name.len() / 5)
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}

/// Levenshtein distance in bytes; names are short.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.bytes().enumerate() {
        let mut diagonal = index;
        let mut previous = index + 1;
        for (slot, to) in row.iter_mut().skip(1).zip(right.bytes()) {
            let substituted = diagonal + usize::from(from != to);
            diagonal = *slot;
            *slot = substituted.min(previous + 1).min(diagonal + 1);
            previous = *slot;
        }
        if let Some(first) = row.first_mut() {
            *first = index + 1;
        }
    }
    row.last().copied().unwrap_or(left.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rego::outside::Settled;

    #[test]
    fn one_call_runs_what_is_ours_the_engines_and_the_guarded() {
        let call = |name: &str, arguments: &str, strict: bool| {
            let arguments = Value::from_json_str(arguments).unwrap().as_array().unwrap().to_vec();
            lookup(name).unwrap().call(&arguments, strict)
        };
        assert_eq!(call("strings.count", r#"["cheese", "e"]"#, false), Ok(Value::from(3)));
        assert_eq!(call("upper", r#"["a"]"#, false), Ok(Value::from("A")));
        assert_eq!(call("upper", "[1]", false), Ok(Value::Undefined));
        assert!(matches!(call("upper", "[1]", true), Err(CallError::Failed(_))));
        assert_eq!(call("upper", "[]", false), Ok(Value::Undefined));
        assert_eq!(lookup("upper").unwrap().call(&[Value::Undefined], true), Ok(Value::Undefined));
        start(0, &Value::new_object(), Settled::default());
        assert!(matches!(call("numbers.range", "[1, 20000000]", false), Err(CallError::Refused(_))));
        assert!(take_refusal().is_some_and(|reason| reason.contains("`numbers.range`")));
        assert!(lookup("print").is_none() && lookup("nothing").is_none());
    }

    #[test]
    fn names_are_found() {
        assert_eq!(find("count"), Known::Available { arity: Some(1) });
        assert_eq!(find("http.send"), Known::Outside(Outside::HttpSend));
        assert_eq!(find("io.jwt.decode"), Known::Available { arity: Some(1) });
        assert_eq!(find("nothing"), Known::Unknown);
        assert_eq!(find("__builtin_sets.union"), Known::Unknown);
    }

    #[test]
    fn near_names_are_proposed_and_far_ones_are_not() {
        assert_eq!(nearest("startwith").as_deref(), Some("startswith"));
        assert_eq!(nearest("json.unmarshall").as_deref(), Some("json.unmarshal"));
        assert_eq!(nearest("frobnicate"), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
