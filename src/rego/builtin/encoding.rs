//! Base64, hexadecimal and JSON as Go writes and reads them.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose},
};
use regorus::Value;

use super::Failure;

const STANDARD: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Decodes padded base64; Go ignores line ends in it.
pub(super) fn base64(text: &str) -> Result<Vec<u8>, Failure> {
    let illegal = |error: base64::DecodeError| Failure::Error(format!("illegal base64 data: {error}"));
    if text.contains(['\r', '\n']) {
        return STANDARD.decode(text.replace(['\r', '\n'], "")).map_err(illegal);
    }
    STANDARD.decode(text).map_err(illegal)
}

/// Decodes base64 in either alphabet, padded or not, as `base64url.decode` does.
pub(super) fn base64url(text: &str) -> Result<Vec<u8>, Failure> {
    let padding = match text.len() % 4 {
        2 => "==",
        3 => "=",
        _ => "",
    };
    base64(&(text.replace('-', "+").replace('_', "/") + padding))
}

/// Encodes as base64 of the URL alphabet without padding.
pub(super) fn to_base64url(bytes: &[u8]) -> String {
    general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// Encodes as padded base64.
pub(super) fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Encodes as lower-case hexadecimal digits.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or('0')).collect()
}

/// JSON as Go's `json.Marshal` writes it, which may stand inside HTML; numbers stay exact.
pub(super) fn to_json(value: &Value) -> String {
    let mut text = String::new();
    write_json(value, &mut text);
    text
}

fn write_json(value: &Value, text: &mut String) {
    let list = |items: &mut dyn Iterator<Item = &Value>, text: &mut String| {
        text.push('[');
        for (index, item) in items.enumerate() {
            text.push_str(if index > 0 { "," } else { "" });
            write_json(item, text);
        }
        text.push(']');
    };
    match value {
        Value::Null | Value::Undefined => text.push_str("null"),
        Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => text.push_str(&number.format_decimal()),
        Value::String(value) => write_json_text(value, text),
        Value::Array(items) => list(&mut items.iter(), text),
        Value::Set(items) => list(&mut items.iter(), text),
        Value::Object(fields) => {
            text.push('{');
            for (index, (key, value)) in fields.iter_sorted().enumerate() {
                text.push_str(if index > 0 { "," } else { "" });
                match key {
                    Value::String(key) => write_json_text(key, text),
                    _ => write_json_text(&to_json(key), text),
                }
                text.push(':');
                write_json(value, text);
            }
            text.push('}');
        }
    }
}

fn write_json_text(value: &str, text: &mut String) {
    // A text always has a JSON form.
    let plain = serde_json::to_string(value).unwrap_or_default();
    for character in plain.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                text.push_str("\\u");
                // None of them is beyond 16 bits.
                text.push_str(&to_hex(&u32::from(character).to_be_bytes()[2..]));
            }
            _ => text.push(character),
        }
    }
}

/// Reads one JSON document; of duplicate keys the last one wins, as in OPA.
pub(super) fn from_json(text: &str) -> Result<Value, Failure> {
    Value::from_json_str(text).map_err(|error| Failure::Error(format!("invalid JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_lenient_as_gos() {
        assert_eq!(base64("aGk=").unwrap(), b"hi");
        assert_eq!(base64("aG\r\nk=").unwrap(), b"hi");
        assert_eq!(base64("aGl=").unwrap(), b"hi");
        assert!(base64("aGk").is_err());
        assert!(base64("a k=").is_err());
        assert_eq!(base64url("aGk").unwrap(), b"hi");
        assert_eq!(base64url("aGk=").unwrap(), b"hi");
        assert_eq!(base64url("-_8").unwrap(), base64url("+/8").unwrap());
        assert!(base64url("a").is_err());
    }

    #[test]
    fn json_is_written_as_go_writes_it() {
        let big = Value::from_numeric_string("123456789012345678901234567890").unwrap();
        let list = Value::from(vec![Value::from(1.5), big, Value::from("\u{2028}\n")]);
        let value = super::super::argument::object_of([("b", Value::from("<a&b>")), ("a", list)]);
        let want = r#"{"a":[1.5,123456789012345678901234567890,"\u2028\n"],"b":"\u003ca\u0026b\u003e"}"#;
        assert_eq!(to_json(&value), want);
        assert!(from_json("{} x").is_err());
    }
}
