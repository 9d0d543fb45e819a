//! The `.manifest` of a bundle, and whether the bundle keeps to it.

use regorus::Value;
use serde_json::Value as Json;

use super::data::Mount;
use crate::rego::{
    fault::{Fault, Place},
    program::Module,
};

/// What a manifest says that matters here.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) revision: Option<String>,
    roots: Vec<Vec<String>>,
}

impl Manifest {
    pub(crate) fn parse(file: &str, text: &str) -> Result<Self, Vec<Fault>> {
        let fault =
            |code, message: String, hint: &str| Fault::new(Place::whole(file), code, message).hint(hint);
        let bad = |message: String| {
            vec![fault("bad_manifest", message, "see OPA's documentation of bundle manifests")]
        };
        let json: Json =
            serde_json::from_str(text).map_err(|error| bad(format!("not valid JSON: {error}")))?;
        let Json::Object(fields) = &json else { return Err(bad("manifest is not an object".to_owned())) };
        let mut faults = Vec::new();
        let revision = match fields.get("revision") {
            None => None,
            Some(Json::String(revision)) => Some(revision.clone()).filter(|revision| !revision.is_empty()),
            Some(other) => return Err(bad(format!("`revision` is {other}, not a string"))),
        };
        let versions = fields.get("file_rego_versions").and_then(Json::as_object);
        let versions =
            fields.get("rego_version").into_iter().chain(versions.into_iter().flat_map(|v| v.values()));
        if versions.into_iter().any(|version| version.as_i64() != Some(1)) {
            let message = "bundle is written in Rego v0".to_owned();
            faults.push(fault(
                "rego_v0",
                message,
                "convert it with `opa fmt --write --v0-v1` and set `rego_version: 1`",
            ));
        }
        if fields.get("wasm").and_then(Json::as_array).is_some_and(|modules| !modules.is_empty()) {
            let message = "bundle decides by WebAssembly modules".to_owned();
            faults.push(fault("wasm", message, "build it with `opa build --target rego`"));
        }
        let roots = match fields.get("roots") {
            None => vec![Vec::new()],
            Some(Json::Array(roots)) => {
                let roots: Option<Vec<&str>> = roots.iter().map(Json::as_str).collect();
                let Some(roots) = roots else {
                    return Err(bad("`roots` holds what is no string".to_owned()));
                };
                roots.into_iter().map(split).collect()
            }
            Some(other) => return Err(bad(format!("`roots` is {other}, not an array"))),
        };
        for (index, root) in roots.iter().enumerate() {
            let overlaps = |other: &&Vec<String>| other.starts_with(root) || root.starts_with(other);
            if let Some(other) = roots.iter().skip(index + 1).find(overlaps) {
                let message = format!("roots `{}` and `{}` overlap", root.join("/"), other.join("/"));
                faults.push(fault("overlapping_roots", message, "keep the shorter one"));
            }
        }
        if faults.is_empty() { Ok(Self { revision, roots }) } else { Err(faults) }
    }

    pub(crate) fn check_packages<'a>(&self, modules: impl Iterator<Item = &'a Module>) -> Vec<Fault> {
        let mut faults = Vec::new();
        for module in modules {
            // A file that does not parse is reported when it is compiled.
            let Some(package) = crate::rego::program::package_of(module) else { continue };
            if !self.roots.iter().any(|root| package.starts_with(root)) {
                let message =
                    format!("package `{}` lies under none of the manifest's roots", package.join("."));
                faults.push(self.outside(&module.path, message));
            }
        }
        faults
    }

    pub(crate) fn check_data(&self, mounts: &[Mount]) -> Vec<Fault> {
        let outside = mounts.iter().filter_map(|mount| {
            let at = self.first_outside(&mut mount.path.clone(), &mount.value)?;
            let message = format!("data at `{}` lies under none of the manifest's roots", at.join("/"));
            Some(self.outside(&mount.file, message))
        });
        outside.collect()
    }

    /// Whether the roots are those of `other`; a bundle without a manifest has all of the data for its root.
    pub(crate) fn has_roots_of(&self, other: Option<&Self>) -> bool {
        let everything = [Vec::new()];
        let other = other.map_or(&everything[..], |other| &other.roots);
        self.roots.len() == other.len() && other.iter().all(|root| self.roots.contains(root))
    }

    /// Whether `path` lies under a root.
    pub(crate) fn covers(&self, path: &[String]) -> bool {
        self.roots.iter().any(|root| path.starts_with(root))
    }

    fn outside(&self, file: &str, message: String) -> Fault {
        let roots: Vec<String> = self.roots.iter().map(|root| format!("`{}`", root.join("/"))).collect();
        let hint = format!("move it below {}, or add a root", roots.join(", "));
        Fault::new(Place::whole(file), "outside_roots", message).hint(hint)
    }

    fn first_outside(&self, at: &mut Vec<String>, value: &Value) -> Option<Vec<String>> {
        if self.roots.iter().any(|root| at.starts_with(root)) {
            return None;
        }
        let leads_to_root = self.roots.iter().any(|root| root.starts_with(at));
        let (true, Value::Object(object)) = (leads_to_root, value) else { return Some(at.clone()) };
        for (key, value) in object.iter_sorted() {
            at.push(key.as_string().map_or_else(|_| key.to_string(), ToString::to_string));
            if let Some(outside) = self.first_outside(at, value) {
                return Some(outside);
            }
            at.pop();
        }
        None
    }
}

fn split(root: &str) -> Vec<String> {
    root.split('/').filter(|component| !component.is_empty()).map(str::to_owned).collect()
}
