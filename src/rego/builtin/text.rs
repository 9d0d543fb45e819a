//! Strings: what regorus lacks or gets wrong.

use regorus::Value;

use super::{Entry, Failure, argument, engine};

/// Longest text a template makes.
const TEXT_BYTES_MAX: usize = 8 << 20;

pub(super) const TABLE: &[Entry] = &[
    // What `$"..{x}.."` stands for.
    ("internal.template_string", 1, template_string),
    // Deprecated name of `regex.match`.
    ("re_match", 2, |arguments| engine::named("regex.match", arguments)),
    ("sprintf", 2, sprintf),
    ("strings.count", 2, count),
    ("strings.split_n", 3, split_n),
];

fn count(arguments: &[Value]) -> Result<Value, Failure> {
    let (subject, needle) = (argument::string(arguments, 0)?, argument::string(arguments, 1)?);
    let found = if needle.is_empty() { subject.chars().count() + 1 } else { subject.matches(needle).count() };
    Ok(Value::from(found))
}

/// Joins the parts of a template string: texts, and sets of the values an expression has.
fn template_string(arguments: &[Value]) -> Result<Value, Failure> {
    let value = argument::get(arguments, 0)?;
    let Value::Array(parts) = value else { return Err(argument::wrong_type(0, "array", value)) };
    let mut text = String::new();
    for part in parts.iter() {
        match part {
            Value::Set(values) if values.len() > 1 => {
                return Err(Failure::Error("template expression has several values".to_owned()));
            }
            Value::Set(values) => match values.first() {
                Some(Value::String(value)) => text.push_str(value),
                Some(value) => print(value, &mut text),
                None => text.push_str("<undefined>"),
            },
            Value::String(literal) => text.push_str(literal),
            other => print(other, &mut text),
        }
        if text.len() > TEXT_BYTES_MAX {
            return Err(Failure::Refused(format!("text longer than {} MiB", TEXT_BYTES_MAX >> 20)));
        }
    }
    Ok(Value::from(text))
}

/// regorus's, with collections as OPA prints them: `set()` is no `{}`.
fn sprintf(arguments: &[Value]) -> Result<Value, Failure> {
    let [format, Value::Array(values)] = arguments else { return engine::named("sprintf", arguments) };
    let printed = values.iter().map(|value| match value {
        Value::Array(_) | Value::Set(_) | Value::Object(_) => {
            let mut text = String::new();
            print(value, &mut text);
            Value::from(text)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Undefined => {
            value.clone()
        }
    });
    engine::named("sprintf", &[format.clone(), Value::from(printed.collect::<Vec<_>>())])
}

/// Writes a value as Rego has it.
fn print(value: &Value, text: &mut String) {
    fn list<'a>(values: impl Iterator<Item = &'a Value>, text: &mut String) {
        for (index, value) in values.enumerate() {
            text.push_str(if index > 0 { ", " } else { "" });
            print(value, text);
        }
    }
    match value {
        Value::Array(items) => {
            text.push('[');
            list(items.iter(), text);
            text.push(']');
        }
        Value::Set(items) if items.is_empty() => text.push_str("set()"),
        Value::Set(items) => {
            text.push('{');
            list(items.iter(), text);
            text.push('}');
        }
        Value::Object(fields) => {
            text.push('{');
            for (index, (key, value)) in fields.iter_sorted().enumerate() {
                text.push_str(if index > 0 { ", " } else { "" });
                print(key, text);
                text.push_str(": ");
                print(value, text);
            }
            text.push('}');
        }
        Value::Number(number) => text.push_str(&number.format_decimal()),
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Undefined => {
            text.push_str(&serde_json::to_string(value).unwrap_or_default());
        }
    }
}

/// The first `n` parts, or the last ones where `n` is negative.
fn split_n(arguments: &[Value]) -> Result<Value, Failure> {
    let (subject, delimiter) = (argument::string(arguments, 0)?, argument::string(arguments, 1)?);
    let n = argument::integer(arguments, 2)?;
    let parts: Vec<&str> = if delimiter.is_empty() {
        subject.split("").filter(|part| !part.is_empty()).collect()
    } else {
        subject.split(delimiter).collect()
    };
    let count = usize::try_from(n.unsigned_abs()).unwrap_or(usize::MAX).min(parts.len());
    let kept = if n < 0 { parts.get(parts.len() - count..) } else { parts.get(..count) };
    let kept = kept.unwrap_or_default().iter().map(|part| Value::from(*part));
    Ok(Value::from(kept.collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_joined_as_opa_prints_values() {
        let set =
            |values: &[Value]| Value::from(values.iter().cloned().collect::<std::collections::BTreeSet<_>>());
        let join = |parts: Vec<Value>| template_string(&[Value::from(parts)]);
        let nested = Value::from(vec![Value::from("x"), set(&[Value::from(1)]), set(&[])]);
        let parts = vec!["a ".into(), set(&["b".into()]), set(&[]), set(&[nested])];
        assert_eq!(join(parts), Ok(Value::from("a b<undefined>[\"x\", {1}, set()]")));
        assert!(join(vec![set(&[1.into(), 2.into()])]).is_err());
    }

    #[test]
    fn parts_are_taken_from_either_end() {
        let split = |subject: &str, delimiter: &str, n: i64| {
            let parts = split_n(&[Value::from(subject), Value::from(delimiter), Value::from(n)]).unwrap();
            serde_json::to_string(&parts).unwrap()
        };
        assert_eq!(split("a.b.c", ".", 2), r#"["a","b"]"#);
        assert_eq!(split("a.b.c", ".", 0), "[]");
        assert_eq!(split("a.b.c", ".", -1), r#"["c"]"#);
        assert_eq!(split("a.b.c", ".", 9), r#"["a","b","c"]"#);
        assert_eq!(split("abc", "", 2), r#"["a","b"]"#);
        assert_eq!(split("", "x", i64::MIN), r#"[""]"#);
    }

    #[test]
    fn occurrences_are_counted_as_in_go() {
        let count = |a: &str, b: &str| count(&[Value::from(a), Value::from(b)]).unwrap();
        assert_eq!(count("cheese", "e"), Value::from(3_u64));
        assert_eq!(count("aaaa", "aa"), Value::from(2_u64));
        assert_eq!(count("five", ""), Value::from(5_u64));
        assert_eq!(count("", ""), Value::from(1_u64));
    }
}
