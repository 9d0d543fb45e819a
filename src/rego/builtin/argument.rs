//! Reading arguments: OPA's operand errors, and the shapes built-ins take apart.

use regorus::Value;

use super::Failure;

/// OPA's name of a value's type.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Set(_) => "set",
        Value::Object(_) => "object",
        Value::Undefined => "undefined",
    }
}

pub(super) fn wrong_type(index: usize, want: &str, got: &Value) -> Failure {
    Failure::Error(format!("operand {} must be {want} but got {}", index + 1, type_name(got)))
}

/// The argument at `index`, counted from 0.
pub(super) fn get(arguments: &[Value], index: usize) -> Result<&Value, Failure> {
    arguments.get(index).ok_or_else(|| Failure::Error(format!("operand {} is missing", index + 1)))
}

pub(super) fn string(arguments: &[Value], index: usize) -> Result<&str, Failure> {
    match get(arguments, index)? {
        Value::String(text) => Ok(text),
        other => Err(wrong_type(index, "string", other)),
    }
}

pub(super) fn object(arguments: &[Value], index: usize) -> Result<&regorus::Value, Failure> {
    match get(arguments, index)? {
        object @ Value::Object(_) => Ok(object),
        other => Err(wrong_type(index, "object", other)),
    }
}

pub(super) fn integer(arguments: &[Value], index: usize) -> Result<i64, Failure> {
    let value = get(arguments, index)?;
    if !matches!(value, Value::Number(_)) {
        return Err(wrong_type(index, "number", value));
    }
    value.as_i64().map_err(|_| wrong_type_of_number(index))
}

fn wrong_type_of_number(index: usize) -> Failure {
    Failure::Error(format!("operand {} must be integer number but got floating-point number", index + 1))
}

/// A number as the nearest one a double can hold; nothing for other values.
pub(super) fn approximate(value: &Value) -> Option<f64> {
    // regorus converts only what it can hold exactly.
    if let Value::Number(number) = value { number.format_decimal().parse().ok() } else { None }
}

/// The elements of an array or a set; nothing for other values.
pub(super) fn members(collection: &Value) -> Option<Vec<&Value>> {
    match collection {
        Value::Array(items) => Some(items.iter().collect()),
        Value::Set(items) => Some(items.iter().collect()),
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Object(_)
        | Value::Undefined => None,
    }
}

/// The field of an object; nothing if it is no object or lacks the field.
pub(super) fn field<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    if let Value::Object(fields) = object { fields.get(&Value::from(name)) } else { None }
}

/// An object of named values.
pub(super) fn object_of<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    fields
        .into_iter()
        .map(|(name, value)| (Value::from(name), value))
        .collect::<std::collections::BTreeMap<_, _>>()
        .into()
}
