//! Strings: what regorus lacks or gets wrong.

use regorus::Value;

use super::{Entry, Failure, argument, engine};

pub(super) const TABLE: &[Entry] = &[
    // Deprecated name of `regex.match`.
    ("re_match", 2, |arguments| engine::named("regex.match", arguments)),
    ("strings.count", 2, count),
    ("strings.split_n", 3, split_n),
];

fn count(arguments: &[Value]) -> Result<Value, Failure> {
    let (subject, needle) = (argument::string(arguments, 0)?, argument::string(arguments, 1)?);
    let found = if needle.is_empty() { subject.chars().count() + 1 } else { subject.matches(needle).count() };
    Ok(Value::from(found))
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
