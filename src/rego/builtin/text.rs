//! Strings: what regorus lacks or gets wrong.

use regorus::Value;

use super::{Entry, Failure, argument};

pub(super) const TABLE: &[Entry] = &[("strings.count", 2, count)];

fn count(arguments: &[Value]) -> Result<Value, Failure> {
    let (subject, needle) = (argument::string(arguments, 0)?, argument::string(arguments, 1)?);
    let found = if needle.is_empty() { subject.chars().count() + 1 } else { subject.matches(needle).count() };
    Ok(Value::from(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occurrences_are_counted_as_in_go() {
        let count = |a: &str, b: &str| count(&[Value::from(a), Value::from(b)]).unwrap();
        assert_eq!(count("cheese", "e"), Value::from(3_u64));
        assert_eq!(count("aaaa", "aa"), Value::from(2_u64));
        assert_eq!(count("five", ""), Value::from(5_u64));
        assert_eq!(count("", ""), Value::from(1_u64));
    }
}
