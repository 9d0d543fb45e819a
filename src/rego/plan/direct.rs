//! The commonest built-ins on borrowed values. Each answers only what it is sure of: `None` hands
//! the call to the table, which also knows what an odd argument means.

use regorus::Value;

/// Answers a call, or leaves it to the table.
pub(super) type Direct = fn(&[&Value]) -> Option<Value>;

pub(super) fn find(name: &str) -> Option<Direct> {
    let direct: Direct = match name {
        "count" => count,
        "startswith" => |a| strings(a, |text, part| text.starts_with(part)),
        "endswith" => |a| strings(a, |text, part| text.ends_with(part)),
        "contains" => |a| strings(a, |text, part| text.contains(part)),
        "trim_prefix" => |a| cut(a, |text, part| text.strip_prefix(part)),
        "trim_suffix" => |a| cut(a, |text, part| text.strip_suffix(part)),
        "lower" => |a| case(a, str::to_ascii_lowercase),
        "upper" => |a| case(a, str::to_ascii_uppercase),
        "is_string" => |a| is(a, |value| matches!(value, Value::String(_))),
        "is_number" => |a| is(a, |value| matches!(value, Value::Number(_))),
        "is_boolean" => |a| is(a, |value| matches!(value, Value::Bool(_))),
        "is_array" => |a| is(a, |value| matches!(value, Value::Array(_))),
        "is_object" => |a| is(a, |value| matches!(value, Value::Object(_))),
        "is_set" => |a| is(a, |value| matches!(value, Value::Set(_))),
        "is_null" => |a| is(a, |value| matches!(value, Value::Null)),
        "object.get" => object_get,
        "object.union" => |a| if let [left, right] = a { union(left, right) } else { None },
        "concat" => concat,
        "glob.match" => glob_match,
        _ => return None,
    };
    Some(direct)
}

fn text(value: &Value) -> Option<&str> {
    if let Value::String(text) = value { Some(text) } else { None }
}

fn count(arguments: &[&Value]) -> Option<Value> {
    let [of] = arguments else { return None };
    let length = match of {
        Value::Array(items) => items.len(),
        Value::Set(members) => members.len(),
        Value::Object(fields) => fields.len(),
        Value::String(text) if text.is_ascii() => text.len(),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::Undefined => return None,
    };
    Some(Value::from(length))
}

fn strings(arguments: &[&Value], test: impl Fn(&str, &str) -> bool) -> Option<Value> {
    let [subject, part] = arguments else { return None };
    Some(Value::from(test(text(subject)?, text(part)?)))
}

fn cut(arguments: &[&Value], cut: for<'t> fn(&'t str, &str) -> Option<&'t str>) -> Option<Value> {
    let [subject, part] = arguments else { return None };
    Some(match cut(text(subject)?, text(part)?) {
        Some(rest) => Value::from(rest),
        None => (*subject).clone(),
    })
}

fn case(arguments: &[&Value], change: impl Fn(&str) -> String) -> Option<Value> {
    let [subject] = arguments else { return None };
    let subject = text(subject)?;
    subject.is_ascii().then(|| Value::from(change(subject)))
}

// A false type test is left to the table: what it answers then differs between versions of OPA.
fn is(arguments: &[&Value], test: impl Fn(&Value) -> bool) -> Option<Value> {
    let [of] = arguments else { return None };
    test(of).then(|| Value::from(true))
}

/// With one key; a path of several is left to the table.
fn object_get(arguments: &[&Value]) -> Option<Value> {
    let [Value::Object(fields), key, default] = arguments else { return None };
    if matches!(key, Value::Array(_)) {
        return None;
    }
    Some(fields.get(key).unwrap_or(default).clone())
}

/// One object over another, key by key all the way down.
fn union(left: &Value, right: &Value) -> Option<Value> {
    let (Value::Object(_), Value::Object(over)) = (left, right) else { return None };
    let mut both = left.clone();
    let fields = both.as_object_mut().ok()?;
    for (key, value) in over.iter() {
        let merged = match fields.get(key) {
            Some(below @ Value::Object(_)) if matches!(value, Value::Object(_)) => union(below, value)?,
            Some(_) | None => value.clone(),
        };
        fields.insert(key.clone(), merged);
    }
    Some(both)
}

/// Longest text made here; longer ones meet the guard of the table.
const TEXT_MAX: usize = 1 << 16;

fn concat(arguments: &[&Value]) -> Option<Value> {
    let [delimiter, Value::Array(items)] = arguments else { return None };
    let delimiter = text(delimiter)?;
    let mut joined = String::new();
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            joined.push_str(delimiter);
        }
        joined.push_str(text(item)?);
        if joined.len() > TEXT_MAX {
            return None;
        }
    }
    Some(Value::from(joined))
}

/// Patterns of plain text and single stars; the rest of the language is the table's.
fn glob_match(arguments: &[&Value]) -> Option<Value> {
    let [pattern, delimiters, subject] = arguments else { return None };
    let (pattern, subject) = (text(pattern)?, text(subject)?);
    let special = |byte: u8| matches!(byte, b'?' | b'[' | b']' | b'{' | b'}' | b'!' | b'\\' | 0);
    if pattern.bytes().any(special) || pattern.contains("**") || subject.contains('\0') {
        return None;
    }
    let mut ends = [0_u8; 8];
    let mut count = 0;
    match delimiters {
        Value::Null => {}
        Value::Array(items) if items.is_empty() => {
            ends = [b'.'; 8];
            count = 1;
        }
        Value::Array(items) => {
            for item in items.iter() {
                let [byte] = text(item)?.as_bytes() else { return None };
                *ends.get_mut(count).filter(|_| byte.is_ascii())? = *byte;
                count += 1;
            }
        }
        Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Set(_)
        | Value::Object(_)
        | Value::Undefined => return None,
    }
    let ends = ends.get(..count)?;
    Some(Value::from(stars(pattern.as_bytes(), subject.as_bytes(), ends)))
}

/// Whether a pattern in which a star is any run without a delimiter matches a whole subject.
fn stars(pattern: &[u8], subject: &[u8], ends: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    // Where to go on when the way taken fails: the last star can always take one more.
    let mut back: Option<(usize, usize)> = None;
    loop {
        match (pattern.get(at), subject.get(read)) {
            (Some(b'*'), _) => {
                at += 1;
                back = Some((at, read));
                continue;
            }
            (Some(wanted), Some(byte)) if wanted == byte => {
                (at, read) = (at + 1, read + 1);
                continue;
            }
            (None, None) => return true,
            _ => {}
        }
        let Some((after_star, taken)) = back else { return false };
        match subject.get(taken) {
            Some(byte) if !ends.contains(byte) => {
                back = Some((after_star, taken + 1));
                (at, read) = (after_star, taken + 1);
            }
            // An earlier star could not pass this delimiter either.
            Some(_) | None => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rego::builtin;

    proptest! {
        #[test]
        fn globs_match_as_those_of_the_table(
            pattern in "[ab/.*]{0,8}",
            subject in "[ab/.]{0,10}",
            delimiters in prop::sample::select(vec!["null", "[]", "[\"/\"]", "[\".\"]", "[\"/\", \".\"]"]),
        ) {
            let delimiters = Value::from_json_str(delimiters).unwrap();
            let arguments = [Value::from(pattern), delimiters, Value::from(subject)];
            let borrowed: Vec<&Value> = arguments.iter().collect();
            if let Some(answer) = glob_match(&borrowed) {
                let table = builtin::lookup("glob.match").unwrap().call(&arguments, false);
                prop_assert_eq!(Ok(answer), table, "{:?}", arguments);
            }
        }

        #[test]
        fn direct_answers_are_those_of_the_table(
            name in prop::sample::select(vec![
                "count", "startswith", "endswith", "contains", "trim_prefix", "trim_suffix", "lower", "upper",
                "is_string", "is_number", "is_array", "is_object", "is_null", "object.get", "object.union", "concat",
            ]),
            arguments in prop::collection::vec(prop::sample::select(vec![
                "null", "true", "1", "\"\"", "\"a\"", "\"Ab/é\"", "[]", "[\"a\", \"b\"]", "[1]", "{}",
                "{\"a\": {\"b\": 1}}", "{\"a\": {\"c\": [2]}, \"b\": 1}",
            ]), 3),
        ) {
            let builtin = builtin::lookup(name).unwrap();
            let arguments: Vec<Value> =
                arguments.iter().take(builtin.arity).map(|text| Value::from_json_str(text).unwrap()).collect();
            let direct = find(name).unwrap();
            if let Some(answer) = direct(&arguments.iter().collect::<Vec<_>>()) {
                prop_assert_eq!(Ok(answer), builtin.call(&arguments, false), "{}{:?}", name, arguments);
            }
        }
    }
}
