//! Guards: bounds on the arguments of those of regorus's built-ins that run or allocate without
//! bound, and must never change what the others answer.

use std::str::FromStr;

use ipnet::IpNet;
use regorus::Value;

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

/// Refuses arguments with the bound they are over.
pub(super) type Check = fn(&[Value]) -> Result<(), String>;

/// The guarded built-ins and what is checked before they run.
pub(super) const CHECKED: &[(&str, Check)] = &[
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
}
