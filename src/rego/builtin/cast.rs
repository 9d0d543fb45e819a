//! The deprecated `cast_*`: the value, if it is of the type.

use std::collections::BTreeSet;

use regorus::Value;

use super::{Entry, Failure, argument};

pub(super) const TABLE: &[Entry] = &[
    ("cast_array", 1, array),
    ("cast_boolean", 1, |arguments| same(arguments, "boolean")),
    ("cast_null", 1, |arguments| same(arguments, "null")),
    ("cast_object", 1, |arguments| same(arguments, "object")),
    ("cast_set", 1, set),
    ("cast_string", 1, |arguments| same(arguments, "string")),
];

fn same(arguments: &[Value], want: &str) -> Result<Value, Failure> {
    let value = argument::get(arguments, 0)?;
    if argument::type_name(value) == want {
        Ok(value.clone())
    } else {
        Err(argument::wrong_type(0, want, value))
    }
}

fn members(arguments: &[Value]) -> Result<impl Iterator<Item = Value>, Failure> {
    let value = argument::get(arguments, 0)?;
    let members = argument::members(value);
    Ok(members.ok_or_else(|| argument::wrong_type(0, "one of {array, set}", value))?.into_iter().cloned())
}

fn array(arguments: &[Value]) -> Result<Value, Failure> {
    Ok(Value::from(members(arguments)?.collect::<Vec<_>>()))
}

fn set(arguments: &[Value]) -> Result<Value, Failure> {
    Ok(Value::from(members(arguments)?.collect::<BTreeSet<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lists_and_sets_become_one_another() {
        let set = set(&[Value::from(vec![Value::from(1), Value::from(1)])]).unwrap();
        assert_eq!(set, Value::from(BTreeSet::from([Value::from(1)])));
        assert_eq!(array(&[set]).unwrap(), Value::from(vec![Value::from(1)]));
        assert!(same(&[Value::from(1)], "string").is_err());
        assert_eq!(same(&[Value::Null], "null"), Ok(Value::Null));
    }
}
