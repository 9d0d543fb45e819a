//! The `.manifest` of a bundle, and whether the bundle keeps to it.

use std::collections::BTreeSet;

use globset::{GlobBuilder, GlobMatcher};
use regorus::Value;
use serde_json::Value as Json;

use super::data::Mount;
use crate::rego::{
    fault::{Fault, Place},
    program::Module,
    v0::RegoVersion,
};

/// What a manifest says that matters here.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) revision: Option<String>,
    roots: Vec<Vec<String>>,
    version: Option<RegoVersion>,
    /// Patterns of files, `/policy/*.rego`, and their own versions.
    file_versions: Vec<(GlobMatcher, RegoVersion)>,
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
        let version = fields.get("rego_version").map(|written| version("rego_version", written));
        let version = version.transpose().map_err(bad)?;
        let file_versions = match fields.get("file_rego_versions") {
            None | Some(Json::Null) => Vec::new(),
            Some(Json::Object(patterns)) => {
                let patterns = patterns.iter().map(|(pattern, written)| file_version(pattern, written));
                patterns.collect::<Result<_, _>>().map_err(bad)?
            }
            Some(other) => return Err(bad(format!("`file_rego_versions` is {other}, not an object"))),
        };
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
        if faults.is_empty() { Ok(Self { revision, roots, version, file_versions }) } else { Err(faults) }
    }

    /// What the file at `path` within the bundle is written in, if the manifest says it; an error where it says both.
    pub(crate) fn version_of(&self, path: &str) -> Result<Option<RegoVersion>, String> {
        let path = format!("/{path}");
        let mut own = self.file_versions.iter().filter(|(pattern, _)| pattern.is_match(&path));
        let Some((_, first)) = own.next() else { return Ok(self.version) };
        if own.any(|(_, other)| other != first) {
            return Err(format!(
                "`file_rego_versions` says of `{path}` both that it is v0 and that it is v1"
            ));
        }
        Ok(Some(*first))
    }

    pub(crate) fn check_packages<'a>(
        &self,
        modules: impl Iterator<Item = &'a Module>,
        v0: &BTreeSet<String>,
    ) -> Vec<Fault> {
        let mut faults = Vec::new();
        for module in modules {
            // A file that does not parse is reported when it is compiled.
            let version = if v0.contains(&module.path) { RegoVersion::V0 } else { RegoVersion::V1 };
            let Some(package) = crate::rego::program::package_of(module, version) else { continue };
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

fn version(field: &str, written: &Json) -> Result<RegoVersion, String> {
    match written.as_i64() {
        Some(0) => Ok(RegoVersion::V0),
        Some(1) => Ok(RegoVersion::V1),
        Some(_) | None => Err(format!("`{field}` is {written}, neither 0 nor 1")),
    }
}

/// As OPA reads it: `*` matches across directories.
fn file_version(pattern: &str, written: &Json) -> Result<(GlobMatcher, RegoVersion), String> {
    let version = version("file_rego_versions", written)?;
    let glob = GlobBuilder::new(pattern).literal_separator(false).build();
    let glob = glob.map_err(|_| format!("`{pattern}` in `file_rego_versions` is not a pattern"))?;
    Ok((glob.compile_matcher(), version))
}

fn split(root: &str) -> Vec<String> {
    root.split('/').filter(|component| !component.is_empty()).map(str::to_owned).collect()
}
