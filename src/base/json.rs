//! JSON from strangers: no duplicate members, a bounded depth, nothing after the document.
//!
//! `serde_json` alone keeps the last of two equal members, where another reader may keep the first: an ambiguity that
//! tokens and key sets must not have (RFC 7515 section 4, RFC 7519 section 4).

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Why a text is not strict JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StrictJsonError {
    /// It is not JSON at all.
    #[error("not valid JSON")]
    Malformed,
    /// An object has the same member twice.
    #[error("an object has the same member twice")]
    DuplicateMember,
    /// Arrays and objects are nested too deeply.
    #[error("nested too deeply")]
    TooDeep,
}

/// Reads exactly one JSON document whose arrays and objects are nested at most `depth_max` deep.
pub fn parse(text: &[u8], depth_max: usize) -> Result<Value, StrictJsonError> {
    let cause = Cell::new(StrictJsonError::Malformed);
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let node = Node { depth_left: depth_max, cause: &cause };
    let value = node.deserialize(&mut deserializer).map_err(|_| cause.get())?;
    deserializer.end().map_err(|_| StrictJsonError::Malformed)?;
    Ok(value)
}

/// Any value; notes in `cause` why it gave up, for serde's error carries only text.
#[derive(Clone, Copy)]
struct Node<'c> {
    depth_left: usize,
    cause: &'c Cell<StrictJsonError>,
}

impl Node<'_> {
    fn descend<E: serde::de::Error>(self) -> Result<Self, E> {
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => Ok(Self { depth_left, ..self }),
            None => Err(self.fail(StrictJsonError::TooDeep)),
        }
    }

    fn fail<E: serde::de::Error>(self, cause: StrictJsonError) -> E {
        self.cause.set(cause);
        E::custom(cause)
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let item = self.descend()?;
        let mut array = Vec::new();
        while let Some(value) = items.next_element_seed(item)? {
            array.push(value);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let member = self.descend()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(member)?;
            if object.insert(name, value).is_some() {
                return Err(self.fail(StrictJsonError::DuplicateMember));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(text: &str, want: &Value) {
        assert_eq!(parse(text.as_bytes(), 3).as_ref(), Ok(want), "{text}");
    }

    #[track_caller]
    fn check_refused(text: &str, want: StrictJsonError) {
        assert_eq!(parse(text.as_bytes(), 3), Err(want), "{text}");
    }

    #[test]
    fn strict_documents() {
        check(r#" {"a": [1, -2, 2.5, true, null, "x"]} "#, &json!({"a": [1, -2, 2.5, true, null, "x"]}));
        check("18446744073709551615", &json!(u64::MAX));
        check("[[[]]]", &json!([[[]]]));
    }

    #[test]
    fn a_duplicate_member_is_refused_at_any_depth() {
        check_refused(r#"{"a": 1, "a": 1}"#, StrictJsonError::DuplicateMember);
        check_refused(r#"[{"b": {"a": 1, "a": 2}}]"#, StrictJsonError::DuplicateMember);
        // The same name, written with an escape.
        check_refused(r#"{"a": 1, "\u0061": 2}"#, StrictJsonError::DuplicateMember);
    }

    #[test]
    fn depth_is_bounded() {
        check_refused("[[[[]]]]", StrictJsonError::TooDeep);
        check_refused(r#"{"a": {"a": {"a": {}}}}"#, StrictJsonError::TooDeep);
        assert_eq!(parse("[".repeat(100_000).as_bytes(), 64), Err(StrictJsonError::TooDeep));
    }

    #[test]
    fn anything_else_is_malformed() {
        for text in ["", "{", "{}{}", "{} x", "{'a': 1}", "[1,]", "NaN", "1e999", "\"\\ud800\"", "\u{feff}{}"]
        {
            check_refused(text, StrictJsonError::Malformed);
        }
        assert_eq!(parse(b"\"\xff\"", 3), Err(StrictJsonError::Malformed));
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json_where_it_accepts(text in r#"[\[\]{}",:a-c0-9.e\-\\u ]{0,40}"#) {
            if let Ok(value) = parse(text.as_bytes(), 64) {
                prop_assert_eq!(value, serde_json::from_str::<Value>(&text).unwrap());
            }
        }
    }
}
