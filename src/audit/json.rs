//! JSON text, written straight from engine values into a buffer.
//!
//! A set is an array, a number is printed as the engine prints it, a key that is no string is its own JSON text (as OPA
//! does it), and what is undefined is left out. A value that is too deep or too large is an error, not a shorter value.

use regorus::Value;

/// The deepest nesting that is written: what deeper values would serve for is to exhaust a stack, ours or a reader's
/// (many JSON libraries stop at 128, and an event adds a few levels of its own).
const DEPTH_MAX: usize = 96;

/// Why a value was not written. What was written of it stays in the buffer: the caller truncates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unwritable {
    /// The buffer would grow beyond the caller's bound.
    TooLarge,
    /// Nested too deeply.
    TooDeep,
}

/// Writes `value`; the buffer may grow to `end` bytes, a little more in the moment before that is noticed.
pub(super) fn push_value(out: &mut Vec<u8>, value: &Value, end: usize) -> Result<(), Unwritable> {
    push_nested(out, value, end, DEPTH_MAX)
}

/// Writes an object's key: a name, or the text of a key that is no string as a name (as OPA does it).
pub(super) fn push_key(out: &mut Vec<u8>, key: &Value, first: bool, end: usize) -> Result<(), Unwritable> {
    if let Value::String(name) = key {
        push_name(out, name, first);
    } else {
        let mut text = Vec::new();
        push_nested(&mut text, key, end.saturating_sub(out.len()), DEPTH_MAX)?;
        push_name(out, &String::from_utf8_lossy(&text), first);
    }
    Ok(())
}

fn push_nested(out: &mut Vec<u8>, value: &Value, end: usize, depth: usize) -> Result<(), Unwritable> {
    match value {
        // A member or an element that is undefined is left out by its container; alone it can only be null.
        Value::Null | Value::Undefined => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::String(text) => push_string(out, text),
        Value::Number(_) => push_number(out, value),
        Value::Array(items) => push_items(out, items.iter(), end, depth)?,
        Value::Set(items) => push_items(out, items.iter(), end, depth)?,
        Value::Object(members) => {
            let depth = depth.checked_sub(1).ok_or(Unwritable::TooDeep)?;
            out.push(b'{');
            let mut first = true;
            for (key, value) in members.iter() {
                if !is_undefined(key) && !is_undefined(value) {
                    push_key(out, key, first, end)?;
                    push_nested(out, value, end, depth)?;
                    first = false;
                }
            }
            out.push(b'}');
        }
    }
    if out.len() > end { Err(Unwritable::TooLarge) } else { Ok(()) }
}

fn push_items<'a>(
    out: &mut Vec<u8>,
    items: impl Iterator<Item = &'a Value>,
    end: usize,
    depth: usize,
) -> Result<(), Unwritable> {
    let depth = depth.checked_sub(1).ok_or(Unwritable::TooDeep)?;
    out.push(b'[');
    let mut first = true;
    for item in items.filter(|item| !is_undefined(item)) {
        if !first {
            out.push(b',');
        }
        push_nested(out, item, end, depth)?;
        first = false;
    }
    out.push(b']');
    Ok(())
}

/// Writes a number as the engine prints it; what JSON cannot say (infinity, not a number) is null.
fn push_number(out: &mut Vec<u8>, value: &Value) {
    let Value::Number(number) = value else { return };
    if let Some(number) = number.as_u64() {
        push_u64(out, number);
    } else if let Some(number) = number.as_i64() {
        out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    } else {
        let text = number.format_decimal();
        let finite = text.bytes().last().is_some_and(|byte| byte.is_ascii_digit());
        out.extend_from_slice(if finite { text.as_bytes() } else { b"null" });
    }
}

/// Writes an unsigned number.
pub(super) fn push_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Whether there is no value. (A comparison would compare whole values.)
pub(super) const fn is_undefined(value: &Value) -> bool {
    matches!(value, Value::Undefined)
}

/// Writes a string with its quotes.
pub(super) fn push_string(out: &mut Vec<u8>, text: &str) {
    push_between(out, b"\"", text, b"\"");
}

/// Writes a member's name, with the comma before it unless it is the first.
pub(super) fn push_name(out: &mut Vec<u8>, name: &str, first: bool) {
    if first {
        push_between(out, b"\"", name, b"\":");
    } else {
        push_between(out, b",\"", name, b"\":");
    }
}

#[inline]
fn push_between<const N: usize, const M: usize>(
    out: &mut Vec<u8>,
    before: &[u8; N],
    text: &str,
    after: &[u8; M],
) {
    out.reserve(N + text.len() + M);
    out.extend_from_slice(before);
    if is_plain(text.as_bytes()) {
        out.extend_from_slice(text.as_bytes());
    } else {
        push_escaped(out, text.as_bytes());
    }
    out.extend_from_slice(after);
}

fn push_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| is_special(*byte)) {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((byte, after)) = special.split_first() else { break };
        push_escape(out, *byte);
        rest = after;
    }
    out.extend_from_slice(rest);
}

fn push_escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        _ => {
            let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 0xf)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Whether no byte must be escaped (RFC 8259 section 7). Nearly all strings are plain and short, so the last bytes are
/// looked at in a word that overlaps the one before rather than one by one.
fn is_plain(bytes: &[u8]) -> bool {
    if let Some(last) = bytes.last_chunk::<8>() {
        let (words, _) = bytes.as_chunks::<8>();
        let last = special_bytes(u64::from_le_bytes(*last));
        return words.iter().fold(last, |marks, word| marks | special_bytes(u64::from_le_bytes(*word))) == 0;
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let word = u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last));
        return special_bytes(word) == 0;
    }
    !bytes.iter().any(|byte| is_special(*byte))
}

/// Marks in the high bit of each of eight bytes whether it must be escaped; a byte above such a one may be marked too.
const fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let below = word.wrapping_sub(ONES * 0x20) | quote.wrapping_sub(ONES) | backslash.wrapping_sub(ONES);
    below & !word & (ONES << 7)
}

const fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn text(value: &Value) -> String {
        let mut out = Vec::new();
        push_value(&mut out, value, usize::MAX).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[track_caller]
    fn check(rego: &str, want: &str) {
        let mut engine = regorus::Engine::new();
        let results = engine.eval_query(rego.to_owned(), false).unwrap();
        assert_eq!(text(&results.result[0].expressions[0].value), want);
    }

    #[test]
    fn values_are_written_as_opa_writes_them() {
        check(r#"{"b": [1, "x", null, true], "a": {}}"#, r#"{"a":{},"b":[1,"x",null,true]}"#);
        check(r#"{3, 1, "a"}"#, r#"[1,3,"a"]"#);
        check(r#"{1: "a", [2]: "b"}"#, r#"{"1":"a","[2]":"b"}"#);
    }

    #[test]
    fn numbers_are_written_as_the_engine_prints_them() {
        check("0.1", "0.1");
        check("-7", "-7");
        check("18446744073709551615", "18446744073709551615");
        check("123456789012345678901234567890", "123456789012345678901234567890");
        check("1e3", "1000");
        for (number, want) in
            [(f64::INFINITY, "null"), (f64::NAN, "null"), (-1.5, "-1.5"), (1e-7, "0.0000001")]
        {
            assert_eq!(text(&Value::from(number)), want);
        }
    }

    #[test]
    fn what_is_undefined_is_left_out() {
        let members = [("a", Value::Undefined), ("b", Value::from(1_u64)), ("c", Value::Undefined)];
        let object: BTreeMap<_, _> =
            members.into_iter().map(|(key, value)| (Value::from(key), value)).collect();
        assert_eq!(text(&Value::from(object)), r#"{"b":1}"#);
        assert_eq!(text(&Value::from(vec![Value::Undefined, Value::Null, Value::Undefined])), "[null]");
        let set: BTreeSet<_> = [Value::Undefined, Value::from(true)].into();
        assert_eq!(text(&Value::from(set)), "[true]");
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let nest = |depth: usize| (0..depth).fold(Value::from(1_u64), |value, _| Value::from(vec![value]));
        let write = |value: &Value, end| push_value(&mut Vec::new(), value, end);
        assert_eq!(write(&nest(DEPTH_MAX), usize::MAX), Ok(()));
        assert_eq!(write(&nest(DEPTH_MAX + 1), usize::MAX), Err(Unwritable::TooDeep));
        let long = Value::from(vec![Value::from("x".repeat(10)); 10]);
        assert_eq!(write(&long, text(&long).len()), Ok(()));
        assert_eq!(write(&long, text(&long).len() - 1), Err(Unwritable::TooLarge));
    }

    fn values() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value as Json;
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<u64>().prop_map(Json::from),
            any::<f64>()
                .prop_filter("JSON has no infinity", |number| number.is_finite())
                .prop_map(Json::from),
            ".*".prop_map(Json::from),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Json::from),
                prop::collection::btree_map(".*", inner, 0..8)
                    .prop_map(|members| Json::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// A JSON library reads our text, and the engine reads back the value it gave: a logged decision can be replayed.
        #[test]
        fn text_reads_back_as_the_same_value(json in values()) {
            let value = Value::from_json_str(&json.to_string()).unwrap();
            let text = text(&value);
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
            prop_assert_eq!(Value::from_json_str(&text).unwrap(), value);
        }

        #[test]
        fn any_string_reads_back(string in "(?s)[\\x00-\\x7f\"\\\\\u{80}-\u{ffff}]{0,40}") {
            let mut out = Vec::new();
            push_string(&mut out, &string);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), string);
        }
    }
}
