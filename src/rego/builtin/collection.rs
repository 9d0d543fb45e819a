//! Arrays, sets and objects: what regorus lacks or gets wrong.

use std::collections::BTreeSet;

use regorus::Value;

use super::{Entry, Failure, argument, engine};

pub(super) const TABLE: &[Entry] = &[
    // The first two and the last one are deprecated; `internal` is what we rewrite to.
    ("all", 1, |arguments| Ok(Value::from(members(arguments, 0)?.into_iter().all(is_true)))),
    ("any", 1, |arguments| Ok(Value::from(members(arguments, 0)?.into_iter().any(is_true)))),
    ("array.flatten", 1, flatten),
    ("internal.collection", 1, collection),
    ("object.subset", 2, subset),
    ("set_diff", 2, set_difference),
];

fn members(arguments: &[Value], index: usize) -> Result<Vec<&Value>, Failure> {
    let value = argument::get(arguments, index)?;
    argument::members(value).ok_or_else(|| argument::wrong_type(index, "one of {array, set}", value))
}

/// The value, if it can be iterated over; undefined if not.
fn collection(arguments: &[Value]) -> Result<Value, Failure> {
    let value = argument::get(arguments, 0)?;
    let is_collection = matches!(value, Value::Array(_) | Value::Set(_) | Value::Object(_));
    Ok(if is_collection { value.clone() } else { Value::Undefined })
}

fn is_true(value: &Value) -> bool {
    *value == Value::from(true)
}

/// The elements, and those of arrays among them: one level deep.
fn flatten(arguments: &[Value]) -> Result<Value, Failure> {
    let value = argument::get(arguments, 0)?;
    let Value::Array(items) = value else { return Err(argument::wrong_type(0, "array", value)) };
    let mut flat = Vec::with_capacity(items.len());
    for item in items.iter() {
        match item {
            Value::Array(items) => flat.extend(items.iter().cloned()),
            _ => flat.push(item.clone()),
        }
    }
    Ok(Value::from(flat))
}

fn set_difference(arguments: &[Value]) -> Result<Value, Failure> {
    let set = |index| match argument::get(arguments, index)? {
        Value::Set(items) => Ok(items),
        other => Err(argument::wrong_type(index, "set", other)),
    };
    let (left, right) = (set(0)?, set(1)?);
    let rest: BTreeSet<Value> = left.iter().filter(|item| !right.contains(item)).cloned().collect();
    Ok(Value::from(rest))
}

fn subset(arguments: &[Value]) -> Result<Value, Failure> {
    // The engine panics at windows of no elements.
    if let [Value::Array(_), Value::Array(part)] = arguments
        && part.is_empty()
    {
        return Ok(Value::from(true));
    }
    engine::named("object.subset", arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_level_is_flattened() {
        let list = |text: &str| Value::from_json_str(text).unwrap();
        let flat = flatten(&[list("[1, [2, [3]], [], {\"a\": [4]}]")]).unwrap();
        assert_eq!(flat, list("[1, 2, [3], {\"a\": [4]}]"));
        assert!(flatten(&[list("{}")]).is_err());
        let set = Value::from(BTreeSet::from([Value::from(1)]));
        assert_eq!(flatten(&[Value::from(vec![set.clone()])]).unwrap(), Value::from(vec![set]));
    }

    #[test]
    fn an_empty_array_is_a_part_of_every_array() {
        let list = |text: &str| Value::from_json_str(text).unwrap();
        assert_eq!(subset(&[list("[1]"), list("[]")]).unwrap(), Value::from(true));
        assert_eq!(subset(&[list("[1]"), list("[1]")]).unwrap(), Value::from(true));
        assert_eq!(subset(&[list("[1]"), list("[2]")]).unwrap(), Value::from(false));
    }
}
