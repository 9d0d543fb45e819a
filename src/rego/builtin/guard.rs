//! Guards: built-ins under their own name with bounded arguments, a settable clock, and OPA's
//! answer where regorus panics.

use std::{
    cell::{Cell, RefCell},
    str::FromStr,
    sync::OnceLock,
};

use ipnet::IpNet;
use regorus::{
    Engine, Source, Value,
    unstable::{BUILTINS, Expr, Ref, Span},
};

/// Most elements a built-in may make from a few bytes of argument.
const ELEMENTS_MAX: u128 = 100_000;
/// Most bytes a string built-in may make.
const OUTPUT_BYTES_MAX: usize = 8 << 20;
/// Most bits a shift may make, and most digits a number may have as text.
const BITS_MAX: i64 = 4_096;
/// Most steps over all paths `graph.reachable_paths` may list: they grow exponentially.
const PATH_STEPS_MAX: usize = 20_000;
/// Longest YAML text: aliases let a short one stand for a long value.
const YAML_BYTES_MAX: usize = 256 << 10;

thread_local! {
    // An evaluation never leaves its thread, so what it shares with the guards stays there too.
    static NOW_NS: Cell<i64> = const { Cell::new(0) };
    static TRIPPED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Starts an evaluation on this thread at this time, in nanoseconds since 1970.
pub(crate) fn start(now_ns: i64) {
    NOW_NS.set(now_ns);
    TRIPPED.take();
}

/// Why a guard refused, if one did since the start.
pub(crate) fn tripped() -> Option<String> {
    TRIPPED.take()
}

fn trip(reason: String) -> anyhow::Error {
    let error = anyhow::anyhow!("{reason}");
    TRIPPED.set(Some(reason));
    error
}

type Check = fn(&[Value]) -> Result<(), String>;
type Answer = fn(&[Value]) -> Option<Value>;

/// The guarded built-ins and what is checked before they run.
const CHECKED: &[(&str, Check)] = &[
    ("numbers.range", range),
    ("numbers.range_step", range),
    ("net.cidr_expand", cidr_expand),
    ("bits.lsh", shift),
    ("replace", replace),
    ("strings.replace_n", replace_n),
    ("regex.replace", regex_replace),
    ("concat", concat),
    ("sprintf", sprintf),
    ("to_number", number_text),
    ("units.parse", number_text),
    ("units.parse_bytes", number_text),
    ("yaml.unmarshal", yaml),
    ("graph.reachable_paths", reachable_paths),
    ("indexof_n", index_all),
];

/// The built-ins that panic or count wrongly on some arguments, and what OPA answers for those.
const ANSWERED: &[(&str, Answer)] = &[("strings.count", count), ("object.subset", subset_of_empty)];

/// Puts the guards into an engine; `runtime` is what `opa.runtime()` answers. `strict` makes the
/// errors of guarded built-ins fatal, as `set_strict_builtin_errors` does for the others.
pub(crate) fn install(engine: &mut Engine, runtime: &Value, strict: bool) -> anyhow::Result<()> {
    for (name, check) in CHECKED {
        let Some((function, arity)) = BUILTINS.get(name) else { continue };
        let run = move |arguments: Vec<Value>| {
            check(&arguments).map_err(|reason| trip(format!("`{name}`: {reason}")))?;
            call(*function, &arguments, strict)
        };
        engine.add_extension((*name).to_owned(), *arity, Box::new(run))?;
    }
    for (name, answer) in ANSWERED {
        let Some((function, arity)) = BUILTINS.get(name) else { continue };
        let run = move |arguments: Vec<Value>| match answer(&arguments) {
            Some(answer) => Ok(answer),
            None => call(*function, &arguments, strict),
        };
        engine.add_extension((*name).to_owned(), *arity, Box::new(run))?;
    }
    engine.add_extension(
        "time.now_ns".to_owned(),
        0,
        Box::new(|_: Vec<Value>| Ok(Value::from(NOW_NS.get()))),
    )?;
    let runtime = runtime.clone();
    engine.add_extension("opa.runtime".to_owned(), 0, Box::new(move |_: Vec<Value>| Ok(runtime.clone())))?;
    Ok(())
}

/// A built-in with its guard, as it is called without an engine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guarded {
    name: &'static str,
    function: Function,
    check: Option<Check>,
    answer: Option<Answer>,
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It asked for more than its bound.
    Limit(String),
    /// It failed, and errors are strict.
    Error(String),
}

/// Finds a built-in and its guard.
pub(crate) fn lookup(name: &str) -> Option<Guarded> {
    let (name, (function, _)) = BUILTINS.get_key_value(name)?;
    let check = CHECKED.iter().find(|(known, _)| known == name).map(|(_, check)| *check);
    let answer = ANSWERED.iter().find(|(known, _)| known == name).map(|(_, answer)| *answer);
    Some(Guarded { name, function: *function, check, answer })
}

/// What `time.now_ns()` answers in this evaluation.
pub(crate) fn now_ns() -> i64 {
    NOW_NS.get()
}

impl Guarded {
    /// The answer; `Undefined` where the built-in fails and errors are not strict.
    pub(crate) fn call(&self, arguments: &[Value], strict: bool) -> Result<Value, Failure> {
        let name = self.name;
        if let Some(check) = self.check {
            check(arguments).map_err(|reason| Failure::Limit(format!("`{name}`: {reason}")))?;
        }
        if let Some(answer) = self.answer.and_then(|answer| answer(arguments)) {
            return Ok(answer);
        }
        let Some(Site { span, params }) = site() else { return Ok(Value::Undefined) };
        let params = params.get(..arguments.len()).unwrap_or(params);
        match (self.function)(span, params, arguments, strict) {
            Ok(value) => Ok(value),
            Err(error) if error.downcast_ref::<regorus::LimitError>().is_some() => {
                Err(Failure::Limit(format!("`{name}`: {error}")))
            }
            Err(error) if strict => Err(Failure::Error(error.to_string())),
            Err(_) => Ok(Value::Undefined),
        }
    }
}

type Function = fn(&Span, &[Ref<Expr>], &[Value], bool) -> anyhow::Result<Value>;

fn call(function: Function, arguments: &[Value], strict: bool) -> anyhow::Result<Value> {
    let Some(Site { span, params }) = site() else { return Ok(Value::Undefined) };
    match function(span, params.get(..arguments.len()).unwrap_or(params), arguments, strict) {
        Err(error) if strict => Err(error),
        answer => Ok(answer.unwrap_or(Value::Undefined)),
    }
}

/// Where built-ins called by a guard believe they stand; their own place is the caller's.
struct Site {
    span: Span,
    params: Vec<Ref<Expr>>,
}

fn site() -> Option<&'static Site> {
    static SITE: OnceLock<Option<Site>> = OnceLock::new();
    SITE.get_or_init(|| {
        let source = Source::from_contents("builtin".to_owned(), " ".to_owned()).ok()?;
        let span = Span { source, line: 1, col: 1, start: 0, end: 1 };
        let params = (0..4)
            .map(|_| Ref::new(Expr::Null { span: span.clone(), value: Value::Null, eidx: 0 }))
            .collect();
        Some(Site { span, params })
    })
    .as_ref()
}

fn text(arguments: &[Value], index: usize) -> Option<&str> {
    if let Value::String(text) = arguments.get(index)? { Some(text) } else { None }
}

fn integer(arguments: &[Value], index: usize) -> Option<i64> {
    arguments.get(index)?.as_i64().ok()
}

fn output(bytes: usize) -> Result<(), String> {
    if bytes > OUTPUT_BYTES_MAX {
        return Err(format!("result would be longer than {} MiB", OUTPUT_BYTES_MAX >> 20));
    }
    Ok(())
}

fn range(arguments: &[Value]) -> Result<(), String> {
    let (Some(from), Some(to)) = (integer(arguments, 0), integer(arguments, 1)) else {
        let numbers = arguments.iter().all(|argument| matches!(argument, Value::Number(_)));
        // A number beyond 64 bits, or a fraction: the latter is the built-in's own error.
        let fraction =
            arguments.iter().any(|argument| argument.as_f64().is_ok_and(|value| value.fract() != 0.0));
        return if numbers && !fraction { Err("bounds beyond 64 bits".to_owned()) } else { Ok(()) };
    };
    let step = integer(arguments, 2).unwrap_or(1).max(1).unsigned_abs();
    let elements = u128::from(from.abs_diff(to)) / u128::from(step) + 1;
    if elements > ELEMENTS_MAX {
        return Err(format!("{elements} elements, of {ELEMENTS_MAX} at most"));
    }
    Ok(())
}

fn cidr_expand(arguments: &[Value]) -> Result<(), String> {
    let Some(network) = text(arguments, 0).and_then(|text| IpNet::from_str(text).ok()) else { return Ok(()) };
    let host_bits = u32::from(network.max_prefix_len() - network.prefix_len());
    if host_bits >= 17 {
        return Err(format!("`{network}` holds more than {ELEMENTS_MAX} addresses; use `net.cidr_contains`"));
    }
    Ok(())
}

fn shift(arguments: &[Value]) -> Result<(), String> {
    match integer(arguments, 1) {
        Some(bits) if bits <= BITS_MAX => Ok(()),
        Some(_) | None => Err(format!("shift by more than {BITS_MAX} bits")),
    }
}

fn number_text(arguments: &[Value]) -> Result<(), String> {
    let Some(text) = text(arguments, 0) else { return Ok(()) };
    let limit = 1_024;
    let exponent = text
        .rsplit(['e', 'E'])
        .next()
        .map(|digits| {
            digits.trim_matches(|character: char| !character.is_ascii_digit()).trim_start_matches('0')
        })
        .filter(|_| text.contains(['e', 'E']))
        .unwrap_or_default();
    if text.len() > limit || exponent.len() > 4 {
        return Err(format!("number longer than {limit} characters or with an exponent beyond 9999"));
    }
    Ok(())
}

fn replace(arguments: &[Value]) -> Result<(), String> {
    let (Some(subject), Some(old), Some(new)) = (text(arguments, 0), text(arguments, 1), text(arguments, 2))
    else {
        return Ok(());
    };
    output(replaced_length(subject, old, new))
}

// An upper bound: the removed text is not subtracted.
fn replaced_length(subject: &str, old: &str, new: &str) -> usize {
    let matches = if old.is_empty() { subject.len() + 1 } else { subject.matches(old).count() };
    matches.saturating_mul(new.len()).saturating_add(subject.len())
}

fn replace_n(arguments: &[Value]) -> Result<(), String> {
    let (Some(Value::Object(patterns)), Some(subject)) = (arguments.first(), text(arguments, 1)) else {
        return Ok(());
    };
    let mut length = subject.len();
    for (old, new) in patterns.iter_sorted() {
        if let (Value::String(old), Value::String(new)) = (old, new) {
            // Each replacement sees what the former made, so matches are bounded by its length.
            let matches = if old.is_empty() { length + 1 } else { length / old.len() };
            length = matches.saturating_mul(new.len()).saturating_add(length);
            output(length)?;
        }
    }
    Ok(())
}

fn regex_replace(arguments: &[Value]) -> Result<(), String> {
    let (Some(subject), Some(new)) = (text(arguments, 0), text(arguments, 2)) else { return Ok(()) };
    let groups = new.matches('$').count();
    let each = new.len().saturating_add(groups.saturating_mul(subject.len()));
    if groups == 0 {
        output((subject.len() + 1).saturating_mul(each).saturating_add(subject.len()))
    } else {
        // Groups of one match lie side by side or in one another, so `n` groups copy the subject
        // at most `n` times over all matches.
        let literal = (subject.len() + 1).saturating_mul(new.len());
        output(literal.saturating_add(groups.saturating_mul(subject.len())))
    }
}

fn concat(arguments: &[Value]) -> Result<(), String> {
    let Some(delimiter) = text(arguments, 0) else { return Ok(()) };
    let length = |items: &mut dyn Iterator<Item = &Value>| {
        items.fold(0_usize, |sum, item| {
            let item = if let Value::String(item) = item { item.len() } else { 0 };
            sum.saturating_add(item).saturating_add(delimiter.len())
        })
    };
    match arguments.get(1) {
        Some(Value::Array(items)) => output(length(&mut items.iter())),
        Some(Value::Set(items)) => output(length(&mut items.iter())),
        _ => Ok(()),
    }
}

fn sprintf(arguments: &[Value]) -> Result<(), String> {
    let Some(format) = text(arguments, 0) else { return Ok(()) };
    for directive in format.split('%').skip(1) {
        let width = directive.trim_start_matches(['+', '-', '#', ' ', '.', '0']);
        let digits = width.bytes().take_while(u8::is_ascii_digit).count();
        // The engine takes any numeric character for a digit and panics at those it cannot read.
        let odd = directive.chars().find(|character| !(character.is_ascii_digit() || *character == '.'));
        if digits > 3 || odd.is_some_and(char::is_numeric) {
            return Err("width or precision of more than three digits".to_owned());
        }
    }
    Ok(())
}

fn yaml(arguments: &[Value]) -> Result<(), String> {
    let Some(text) = text(arguments, 0) else { return Ok(()) };
    if text.len() > YAML_BYTES_MAX {
        return Err(format!("document longer than {} KiB", YAML_BYTES_MAX >> 10));
    }
    // Each level of aliases multiplies; three levels of a few aliases are all real documents need.
    if text.matches('*').count() > 64 {
        return Err("document with more than 64 aliases".to_owned());
    }
    Ok(())
}

fn reachable_paths(arguments: &[Value]) -> Result<(), String> {
    let (Some(Value::Object(graph)), Some(roots)) = (arguments.first(), arguments.get(1)) else {
        return Ok(());
    };
    // Walks the simple paths as the built-in does, and gives up where it would not.
    let mut open: Vec<(usize, &Value)> = members(roots).into_iter().map(|root| (0, root)).collect();
    let mut path: Vec<&Value> = Vec::new();
    let mut steps = 0;
    while let Some((depth, node)) = open.pop() {
        path.truncate(depth);
        if path.contains(&node) {
            continue;
        }
        steps += path.len() + 1;
        if steps > PATH_STEPS_MAX {
            return Err("too many paths; use `graph.reachable`".to_owned());
        }
        path.push(node);
        let next = graph.get(node).map(members).unwrap_or_default();
        open.extend(next.into_iter().map(|next| (depth + 1, next)));
    }
    Ok(())
}

fn members(collection: &Value) -> Vec<&Value> {
    if let Value::Array(items) = collection {
        items.iter().collect()
    } else if let Value::Set(items) = collection {
        items.iter().collect()
    } else {
        Vec::new()
    }
}

fn index_all(arguments: &[Value]) -> Result<(), String> {
    match (text(arguments, 0), text(arguments, 1)) {
        (Some(subject), Some(_)) if subject.len() > OUTPUT_BYTES_MAX / 64 => {
            Err(format!("text longer than {} KiB", OUTPUT_BYTES_MAX / 64 / 1_024))
        }
        _ => Ok(()),
    }
}

fn count(arguments: &[Value]) -> Option<Value> {
    let (subject, needle) = (text(arguments, 0)?, text(arguments, 1)?);
    let found = if needle.is_empty() { subject.chars().count() + 1 } else { subject.matches(needle).count() };
    Some(Value::from(u64::try_from(found).unwrap_or(u64::MAX)))
}

fn subset_of_empty(arguments: &[Value]) -> Option<Value> {
    match arguments {
        [Value::Array(_), Value::Array(part)] if part.is_empty() => Some(Value::from(true)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, arguments: &str, refused: bool) {
        let arguments = Value::from_json_str(arguments).unwrap().as_array().unwrap().to_vec();
        let (_, check) = CHECKED.iter().find(|(known, _)| *known == name).unwrap();
        assert_eq!(check(&arguments).is_err(), refused, "{name}({arguments:?})");
    }

    #[test]
    fn what_grows_without_bound_is_refused_and_its_ordinary_use_is_not() {
        check("numbers.range", "[1, 1000]", false);
        check("numbers.range", "[1, 20000000]", true);
        check("numbers.range", "[20000000, 1]", true);
        check("numbers.range", "[1, 99999999999999999999999]", true);
        check("numbers.range", "[1.5, 3]", false);
        check("numbers.range_step", "[1, 20000000, 1000]", false);
        check("numbers.range_step", "[1, 20000000, 0]", true);
        check("net.cidr_expand", "[\"10.0.0.0/16\"]", false);
        check("net.cidr_expand", "[\"10.0.0.0/8\"]", true);
        check("net.cidr_expand", "[\"::/0\"]", true);
        check("net.cidr_expand", "[\"nonsense\"]", false);
        check("bits.lsh", "[1, 64]", false);
        check("bits.lsh", "[1, 9999999999]", true);
        check("replace", "[\"a-b-c\", \"-\", \"+\"]", false);
        let long = "x".repeat(100_000);
        check("replace", &format!("[\"{long}\", \"x\", \"{long}\"]"), true);
        check("replace", &format!("[\"{long}\", \"\", \"{long}\"]"), true);
        check("strings.replace_n", &format!("[{{\"x\": \"{long}\"}}, \"{long}\"]"), true);
        check("strings.replace_n", "[{\"<\": \"&lt;\"}, \"a<b\"]", false);
        check("regex.replace", &format!("[\"{long}\", \"x\", \"{long}\"]"), true);
        check("regex.replace", "[\"abc\", \"b\", \"$0$0\"]", false);
        check("concat", "[\",\", [\"a\", \"b\"]]", false);
        check("sprintf", "[\"%s has %5.2f%% of %03d\", [\"a\", 1, 2]]", false);
        check("sprintf", "[\"%9999999999d\", [1]]", true);
        check("sprintf", "[\"%5\u{0665}d\", [1]]", true);
        check("to_number", "[\"12.5e3\"]", false);
        check("to_number", "[\"1e999999999\"]", true);
        check("yaml.unmarshal", "[\"a: 1\"]", false);
        check("graph.reachable_paths", "[{\"a\": [\"b\"], \"b\": [\"a\"]}, [\"a\"]]", false);
        let dense: Vec<String> = (0..20)
            .map(|node| {
                format!("\"{node}\": {:?}", (node + 1..20).map(|n| n.to_string()).collect::<Vec<_>>())
            })
            .collect();
        check("graph.reachable_paths", &format!("[{{{}}}, [\"0\"]]", dense.join(", ")), true);
    }

    #[test]
    fn what_panics_in_the_engine_answers_as_opa_does() {
        let count = |a: &str, b: &str| count(&[Value::from(a), Value::from(b)]);
        assert_eq!(count("cheese", "e"), Some(Value::from(3_u64)));
        assert_eq!(count("aaaa", "aa"), Some(Value::from(2_u64)));
        assert_eq!(count("five", ""), Some(Value::from(5_u64)));
        assert_eq!(count("", ""), Some(Value::from(1_u64)));
        let list = |text: &str| Value::from_json_str(text).unwrap();
        assert_eq!(subset_of_empty(&[list("[1]"), list("[]")]), Some(Value::from(true)));
        assert_eq!(subset_of_empty(&[list("[1]"), list("[1]")]), None);
    }
}
