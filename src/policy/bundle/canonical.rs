//! The text by which OPA hashes a document: keys sorted, no white space, numbers as they are written.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::files::File;

/// Deepest document; each level is parsed by itself.
const DEPTH_MAX: usize = 128;

/// The canonical text of a data file or manifest; `None` where the file is hashed by its bytes.
pub(super) fn document(file: &File) -> Result<Option<String>, String> {
    let text = || std::str::from_utf8(&file.bytes).map_err(|_| "is not UTF-8".to_owned());
    let json = match file.base_name() {
        "data.json" | ".manifest" => text()?.to_owned(),
        "data.yaml" | "data.yml" => regorus::Value::from_yaml_str(text()?)
            .and_then(|value| value.to_json_str())
            .map_err(|error| format!("not valid YAML: {error}"))?,
        _ => return Ok(None),
    };
    let root: &RawValue = serde_json::from_str(&json).map_err(|error| format!("not valid JSON: {error}"))?;
    let mut out = String::with_capacity(json.len());
    write(root.get(), 0, &mut out)?;
    Ok(Some(out))
}

fn write(json: &str, depth: usize, out: &mut String) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("is nested deeper than {DEPTH_MAX}"));
    }
    let wrong = |error: serde_json::Error| format!("not valid JSON: {error}");
    let mut separator = "";
    match json.as_bytes().first() {
        Some(b'{') => {
            let fields: BTreeMap<String, &RawValue> = fields(json).map_err(wrong)?;
            out.push('{');
            for (key, value) in fields {
                out.push_str(separator);
                separator = ",";
                write_string(&key, out);
                out.push(':');
                write(value.get(), depth + 1, out)?;
            }
            out.push('}');
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(json).map_err(wrong)?;
            out.push('[');
            for item in items {
                out.push_str(separator);
                separator = ",";
                write(item.get(), depth + 1, out)?;
            }
            out.push(']');
        }
        Some(b'"') => write_string(&serde_json::from_str::<String>(json).map_err(wrong)?, out),
        Some(_) | None => out.push_str(json),
    }
    Ok(())
}

fn fields(json: &str) -> serde_json::Result<BTreeMap<String, &RawValue>> {
    serde_json::from_str(json)
}

/// As Go's encoder without HTML escapes, which also escapes the two line separators.
fn write_string(text: &str, out: &mut String) {
    let quoted = serde_json::Value::from(text).to_string();
    out.push_str(&quoted.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(name: &str, text: &str) -> Result<Option<String>, String> {
        document(&File { inside: vec![name.to_owned()], shown: name.to_owned(), bytes: text.into() })
    }

    #[test]
    fn keys_are_sorted_and_numbers_stay_as_written() {
        let text = "{\"b\": [1.0, 1e3, -0, {\"z\": null, \"y\": \"<\\u0041\\u2028>\"}],\n \"a\": true}";
        let want = "{\"a\":true,\"b\":[1.0,1e3,-0,{\"y\":\"<A\\u2028>\",\"z\":null}]}";
        assert_eq!(canonical("data.json", text).unwrap().unwrap(), want);
        assert_eq!(canonical("data.yaml", "b: [1, x]\na: {}\n").unwrap().unwrap(), r#"{"a":{},"b":[1,"x"]}"#);
        assert_eq!(canonical("p.rego", "package a").unwrap(), None);
        assert!(canonical("data.json", "{").is_err());
    }

    #[test]
    fn depth_is_bounded() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        assert!(canonical("data.json", &deep).is_err());
    }
}
