//! Base documents: parsing data files and merging them at their places.

use regorus::Value;

use crate::rego::fault::{Fault, Place};

/// Documents merged so far, and which file was mounted where.
#[derive(Debug)]
pub(crate) struct Documents {
    data: Value,
    mounts: Vec<Mount>,
}

#[derive(Debug)]
pub(crate) struct Mount {
    pub(crate) file: String,
    pub(crate) path: Vec<String>,
    pub(crate) value: Value,
}

impl Default for Documents {
    fn default() -> Self {
        Self { data: Value::new_object(), mounts: Vec::new() }
    }
}

impl Documents {
    pub(crate) fn len(&self) -> usize {
        self.mounts.len()
    }

    /// What was mounted after the first `count` files.
    pub(crate) fn since(&self, count: usize) -> &[Mount] {
        self.mounts.get(count..).unwrap_or_default()
    }

    pub(crate) fn data_mut(&mut self) -> &mut Value {
        &mut self.data
    }

    pub(crate) fn into_data(self) -> Value {
        self.data
    }

    /// Merges a file's object at a path; a key that two files give is a conflict unless both give
    /// objects.
    pub(crate) fn mount(&mut self, file: &str, path: &[String], value: Value) -> Result<(), Fault> {
        let mut mounted = value.clone();
        for component in path.iter().rev() {
            let mut outer = Value::new_object();
            if let Ok(object) = outer.as_object_mut() {
                object.insert(Value::from(component.as_str()), mounted);
            }
            mounted = outer;
        }
        let mut at = Vec::new();
        merge(&mut self.data, &mounted, &mut at).map_err(|path| self.conflict(file, &path))?;
        self.mounts.push(Mount { file: file.to_owned(), path: path.to_vec(), value });
        Ok(())
    }

    fn conflict(&self, file: &str, path: &[String]) -> Fault {
        let other = self.mounts.iter().rev().find(|mount| {
            let mut rest = path.iter();
            mount.path.iter().all(|component| rest.next() == Some(component))
                && holds(&mount.value, rest.as_slice())
        });
        let other = other.map_or("another file", |mount| mount.file.as_str());
        let message = format!("`{}` is also given by {other}", path.join("/"));
        Fault::new(Place::whole(file), "data_conflict", message).hint("keep one of them")
    }
}

fn holds(value: &Value, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    // Anything but an object ends the path, and so stands in the way of what is below it.
    let Value::Object(object) = value else { return true };
    object.get(&Value::from(first.as_str())).is_some_and(|next| holds(next, rest))
}

fn merge(into: &mut Value, from: &Value, at: &mut Vec<String>) -> Result<(), Vec<String>> {
    let (Ok(target), Value::Object(source)) = (into.as_object_mut(), from) else {
        return Err(at.clone());
    };
    for (key, value) in source.iter_sorted() {
        at.push(key.as_string().map_or_else(|_| key.to_string(), ToString::to_string));
        match target.get_mut(key) {
            Some(existing) => merge(existing, value, at)?,
            None => {
                target.insert(key.clone(), value.clone());
            }
        }
        at.pop();
    }
    Ok(())
}

/// Parses a data file, which has to hold an object.
pub(crate) fn parse(file: &str, text: &str, is_yaml: bool) -> Result<Value, Fault> {
    let parsed = if is_yaml { Value::from_yaml_str(text) } else { Value::from_json_str(text) };
    let fault = |message: String, hint: &str| Fault::new(Place::whole(file), "bad_data", message).hint(hint);
    match parsed {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(fault("data is not an object".to_owned(), "put it under a key")),
        Err(error) => {
            let language = if is_yaml { "YAML" } else { "JSON" };
            let message = error.to_string();
            let first = message.lines().next().unwrap_or_default();
            Err(fault(format!("not valid {language}: {first}"), "correct it, or rename the file"))
        }
    }
}
