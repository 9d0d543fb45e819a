//! Delta bundles: changes of data to a bundle that is here already, in OPA's `patch.json`.
//!
//! A delta is not signed, so it is taken only where bundles need not be. It changes data alone, under the roots of the
//! bundle; policies come in whole bundles.

use regorus::Value;

use super::{
    MANIFEST,
    files::{DEPTH_MAX, File},
};
use crate::policy::manifest::Manifest;
use crate::rego::fault::{Fault, Place};

/// What makes an archive a delta bundle.
const PATCH: &str = "patch.json";

/// Most changes of one delta.
const OPERATIONS_MAX: usize = 100_000;

/// One change.
struct Operation {
    kind: Kind,
    /// At least one step.
    path: Vec<String>,
}

enum Kind {
    Upsert(Value),
    Replace(Value),
    Remove,
}

/// Whether these are the files of a delta bundle.
pub(super) fn is_delta(files: &[File]) -> bool {
    files.iter().any(|file| file.name() == PATCH)
}

/// Changes `data` as `files` of the delta `shown` say. `base` is the manifest of the bundle that they change. Gives the
/// delta's revision.
pub(super) fn apply(
    files: &[File],
    shown: &str,
    base: Option<&Manifest>,
    data: &mut Value,
) -> Result<Option<String>, Vec<Fault>> {
    let text = |file: &File| String::from_utf8_lossy(&file.bytes).into_owned();
    if let Some(other) = files.iter().find(|file| !matches!(file.name().as_str(), PATCH | MANIFEST)) {
        let hint = "a delta changes data alone; serve a whole bundle";
        return Err(vec![fault(&other.shown, "has no place in a delta bundle", hint)]);
    }
    let manifest = files.iter().find(|file| file.name() == MANIFEST);
    let manifest = manifest.map(|file| Manifest::parse(&file.shown, &text(file))).transpose()?;
    if let Some(manifest) = &manifest
        && !manifest.has_roots_of(base)
    {
        let hint = "a delta has the roots of the bundle that it changes; serve a whole bundle";
        return Err(vec![fault(shown, "has other roots than the bundle that it changes", hint)]);
    }
    let Some(patch) = files.iter().find(|file| file.name() == PATCH) else {
        return Err(vec![fault(shown, "has no `patch.json`", "serve a whole bundle")]);
    };
    for operation in operations(&text(patch)).map_err(|message| vec![bad_patch(patch, &message)])? {
        let place = format!("/{}", operation.path.join("/"));
        if base.is_some_and(|base| !base.covers(&operation.path)) {
            let message = format!("`{place}` lies under none of the manifest's roots");
            return Err(vec![bad_patch(patch, &message)]);
        }
        change(data, &operation.path, operation.kind)
            .map_err(|why| vec![bad_patch(patch, &format!("cannot change `{place}`: {why}"))])?;
    }
    Ok(manifest.and_then(|manifest| manifest.revision))
}

fn fault(file: &str, message: &str, hint: &str) -> Fault {
    Fault::new(Place::whole(file), "bad_delta", message).hint(hint)
}

fn bad_patch(file: &File, message: &str) -> Fault {
    fault(&file.shown, message, "see OPA's documentation of delta bundles, or serve a whole bundle")
}

/// The list at `data`. An empty one is refused: OPA takes it for a whole bundle without anything in it.
fn operations(text: &str) -> Result<Vec<Operation>, String> {
    let document = Value::from_json_str(text).map_err(|error| format!("not valid JSON: {error}"))?;
    let field = |of: &Value, name: &str| -> Option<Value> {
        of.as_object().ok().and_then(|object| object.get(&Value::from(name))).cloned()
    };
    let list = field(&document, "data").ok_or("`data` is missing")?;
    let list = list.as_array().map_err(|_| "`data` is not an array")?;
    if list.is_empty() || list.len() > OPERATIONS_MAX {
        return Err(format!("`data` has {} changes, not 1 to {OPERATIONS_MAX}", list.len()));
    }
    let operation = |written: &Value| -> Result<Operation, String> {
        let text = |name: &str| {
            let value = field(written, name).ok_or_else(|| format!("a change has no `{name}`"))?;
            value.as_string().map(ToString::to_string).map_err(|_| format!("`{name}` is not a string"))
        };
        let value = || field(written, "value").ok_or("a change has no `value`");
        let kind = match text("op")?.as_str() {
            "upsert" => Kind::Upsert(value()?),
            "replace" => Kind::Replace(value()?),
            "remove" => Kind::Remove,
            other => return Err(format!("unknown `op` `{other}`, not one of upsert, replace, remove")),
        };
        Ok(Operation { kind, path: steps(&text("path")?)? })
    };
    list.iter().map(operation).collect()
}

/// The steps of a JSON pointer (RFC 6901).
fn steps(pointer: &str) -> Result<Vec<String>, String> {
    let steps: Vec<String> =
        pointer.trim_matches('/').split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect();
    if steps.iter().any(String::is_empty) || steps.len() > DEPTH_MAX {
        return Err(format!("`{pointer}` is not the path of a part of the data"));
    }
    Ok(steps)
}

/// Changes the part of `at` that `path` leads to; only an upsert makes objects on the way.
fn change(at: &mut Value, path: &[String], kind: Kind) -> Result<(), String> {
    let Some((step, rest)) = path.split_first() else { return Err("it is the whole".to_owned()) };
    if rest.is_empty() {
        return change_child(at, step, kind);
    }
    let missing = || format!("there is no `{step}`");
    if let Ok(object) = at.as_object_mut() {
        let key = Value::from(step.as_str());
        if matches!(kind, Kind::Upsert(_)) && !object.contains_key(&key) {
            object.insert(key.clone(), Value::new_object());
        }
        return change(object.get_mut(&key).ok_or_else(missing)?, rest, kind);
    }
    if let Ok(array) = at.as_array_mut() {
        let child = step.parse().ok().and_then(|index| array.get_mut(index));
        return change(child.ok_or_else(missing)?, rest, kind);
    }
    Err(format!("what should hold `{step}` is neither an object nor an array"))
}

fn change_child(at: &mut Value, step: &str, kind: Kind) -> Result<(), String> {
    let missing = || format!("there is no `{step}`");
    if let Ok(object) = at.as_object_mut() {
        let key = Value::from(step);
        let is_there = object.contains_key(&key);
        match kind {
            Kind::Upsert(value) => drop(object.insert(key, value)),
            Kind::Replace(value) if is_there => drop(object.insert(key, value)),
            Kind::Remove if is_there => drop(object.remove(&key)),
            Kind::Replace(_) | Kind::Remove => return Err(missing()),
        }
        return Ok(());
    }
    let Ok(array) = at.as_array() else {
        return Err(format!("what should hold `{step}` is neither an object nor an array"));
    };
    let mut items = array.to_vec();
    let index: Option<usize> = step.parse().ok();
    match (kind, index) {
        (Kind::Upsert(value), _) if step == "-" => items.push(value),
        (Kind::Upsert(value), Some(index)) if index <= items.len() => items.insert(index, value),
        (Kind::Remove, Some(index)) if index < items.len() => drop(items.remove(index)),
        (Kind::Replace(value), Some(index)) => *items.get_mut(index).ok_or_else(missing)? = value,
        (Kind::Upsert(_) | Kind::Replace(_) | Kind::Remove, _) => return Err(missing()),
    }
    *at = Value::from(items);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> File {
        File { inside: vec![name.to_owned()], shown: format!("d.tar.gz/{name}"), bytes: text.into() }
    }

    const DATA: &str = r#"{"a": {"b": [1, 2, {"c": 3}], "x/y": 1}, "big": 12345678901234567890123}"#;

    /// What becomes of [`DATA`] by one change, or why nothing does.
    #[track_caller]
    fn check(operation: &str, want: Result<&str, &str>) {
        let mut data = Value::from_json_str(DATA).unwrap();
        let patch = file(PATCH, &format!("{{\"data\": [{operation}]}}"));
        match (apply(&[patch], "d.tar.gz", None, &mut data), want) {
            (Ok(revision), Ok(want)) => {
                assert_eq!((revision, data), (None, Value::from_json_str(want).unwrap()), "{operation}");
            }
            (Err(faults), Err(want)) => assert!(faults[0].message.contains(want), "{}", faults[0].message),
            (got, want) => panic!("{operation}: {got:?}, not {want:?}"),
        }
    }

    #[test]
    fn changes_are_made_where_they_say() {
        let rest = r#""big": 12345678901234567890123"#;
        let with = |a: &str| format!("{{\"a\": {a}, {rest}}}");
        let ok = |operation: &str, a: &str| check(operation, Ok(&with(a)));
        ok(r#"{"op": "upsert", "path": "/a/b/2/c", "value": 4}"#, r#"{"b": [1, 2, {"c": 4}], "x/y": 1}"#);
        ok(
            r#"{"op": "upsert", "path": "/a/n/m", "value": 4}"#,
            r#"{"b": [1, 2, {"c": 3}], "x/y": 1, "n": {"m": 4}}"#,
        );
        ok(r#"{"op": "upsert", "path": "a/b/-", "value": 4}"#, r#"{"b": [1, 2, {"c": 3}, 4], "x/y": 1}"#);
        ok(r#"{"op": "upsert", "path": "a/b/0", "value": 0}"#, r#"{"b": [0, 1, 2, {"c": 3}], "x/y": 1}"#);
        ok(r#"{"op": "replace", "path": "/a/b/0", "value": 0}"#, r#"{"b": [0, 2, {"c": 3}], "x/y": 1}"#);
        ok(r#"{"op": "remove", "path": "/a/b/2"}"#, r#"{"b": [1, 2], "x/y": 1}"#);
        ok(r#"{"op": "remove", "path": "/a/x~1y"}"#, r#"{"b": [1, 2, {"c": 3}]}"#);
        ok(r#"{"op": "replace", "path": "/a", "value": null}"#, "null");
    }

    #[test]
    fn what_cannot_be_changed_is_told() {
        for (operation, want) in [
            (r#"{"op": "remove", "path": "/a/z"}"#, "cannot change `/a/z`: there is no `z`"),
            (r#"{"op": "replace", "path": "/z/b", "value": 1}"#, "there is no `z`"),
            (r#"{"op": "upsert", "path": "/a/b/4", "value": 1}"#, "there is no `4`"),
            (r#"{"op": "remove", "path": "/a/b/-1"}"#, "there is no `-1`"),
            (r#"{"op": "upsert", "path": "/big/x", "value": 1}"#, "neither an object nor an array"),
            (r#"{"op": "upsert", "path": "/", "value": {}}"#, "not the path"),
            (r#"{"op": "upsert", "path": "/a//b", "value": {}}"#, "not the path"),
            (r#"{"op": "upsert", "path": "/a"}"#, "no `value`"),
            (r#"{"op": "move", "path": "/a"}"#, "unknown `op` `move`"),
            (r#"{"op": "remove"}"#, "no `path`"),
            ("1", "no `op`"),
            ("", "0 changes"),
        ] {
            check(operation, Err(want));
        }
    }

    #[test]
    fn a_delta_keeps_to_the_roots_of_its_bundle() {
        let base = Manifest::parse("m", r#"{"roots": ["a", "b/c"]}"#).unwrap();
        let apply = |files: &[File]| {
            let mut data = Value::from_json_str(DATA).unwrap();
            super::apply(files, "d.tar.gz", Some(&base), &mut data)
                .map_err(|mut faults| faults.remove(0).message)
        };
        let patch = |path: &str| {
            file(PATCH, &format!(r#"{{"data": [{{"op": "upsert", "path": "{path}", "value": 1}}]}}"#))
        };
        let manifest = |text: &str| file(MANIFEST, text);
        assert_eq!(apply(&[patch("/b/c/d")]), Ok(None));
        assert!(apply(&[patch("/b")]).unwrap_err().contains("none of the manifest's roots"));
        assert!(apply(&[patch("/big")]).unwrap_err().contains("none of the manifest's roots"));
        let same = manifest(r#"{"revision": "r2", "roots": ["b/c", "a"]}"#);
        assert_eq!(apply(&[same, patch("/a/z")]), Ok(Some("r2".to_owned())));
        let other = apply(&[manifest(r#"{"roots": ["a"]}"#), patch("/a/z")]);
        assert!(other.unwrap_err().contains("other roots"));
        let policy = apply(&[patch("/a/z"), file("p.rego", "package a")]);
        assert!(policy.unwrap_err().contains("no place in a delta"));
    }
}
