//! Arrays, sets and objects: what regorus lacks or gets wrong.

use regorus::{Value, unstable::BUILTINS};

use super::{Entry, Failure, engine};

pub(super) const TABLE: &[Entry] = &[("object.subset", 2, subset)];

fn subset(arguments: &[Value]) -> Result<Value, Failure> {
    // The engine panics at windows of no elements.
    if let [Value::Array(_), Value::Array(part)] = arguments
        && part.is_empty()
    {
        return Ok(Value::from(true));
    }
    let (function, _) =
        BUILTINS.get("object.subset").ok_or_else(|| Failure::Error("not there".to_owned()))?;
    engine::call(*function, arguments, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_array_is_a_part_of_every_array() {
        let list = |text: &str| Value::from_json_str(text).unwrap();
        assert_eq!(subset(&[list("[1]"), list("[]")]).unwrap(), Value::from(true));
        assert_eq!(subset(&[list("[1]"), list("[1]")]).unwrap(), Value::from(true));
        assert_eq!(subset(&[list("[1]"), list("[2]")]).unwrap(), Value::from(false));
    }
}
