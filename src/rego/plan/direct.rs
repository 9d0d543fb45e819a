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
        "concat" => concat,
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
