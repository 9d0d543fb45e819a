//! Keeps the structure of ARCHITECTURE.md: imports point down, files stay small, each module has its row.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Rows from the bottom up. A module may import from rows below its own, and from itself.
const ROWS: [&[&str]; 7] = [
    &["base"],
    &["config", "contract", "fetch", "rego", "telemetry"],
    &["audit", "identity", "limits", "policy", "upstream"],
    &["runtime"],
    &["pipeline"],
    &["server"],
    &["cli"],
];
const LINES_MAX: usize = 800;

fn sources(root: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut left = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(root)];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

/// The top-level module a file under `src` belongs to.
fn module_of(path: &Path) -> String {
    let inner = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    inner.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// Top-level modules named after `crate::` in the code of a file, test modules excepted.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code =
        code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default().split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.insert(name);
        }
    }
    found
}

#[test]
fn every_module_has_a_row_and_imports_point_down() {
    let mut faults = Vec::new();
    for (path, text) in sources("src") {
        let module = module_of(&path);
        if matches!(module.as_str(), "lib" | "main") {
            continue;
        }
        let Some(own) = row(&module) else {
            faults.push(format!("{}: module `{module}` stands in no row", path.display()));
            continue;
        };
        for import in imports(&text) {
            let allowed = import == module || row(&import).is_some_and(|other| other < own);
            if !allowed {
                faults.push(format!("{}: `{module}` must not import `{import}`", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn files_are_small() {
    let all = ["src", "tests", "benches"].into_iter().flat_map(sources);
    let large: BTreeMap<_, _> = all
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .collect();
    assert!(large.is_empty(), "over {LINES_MAX} lines: {large:?}");
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<_> = sources("src")
        .into_iter()
        .filter(|(path, text)| {
            let is_test = path.to_string_lossy().contains("tests");
            !is_test && !text.starts_with("//!") && !text.starts_with("#![doc = include_str!")
        })
        .map(|(path, _)| path)
        .collect();
    assert!(silent.is_empty(), "no module comment: {silent:?}");
}

#[test]
fn imports_are_read_as_they_are_written() {
    let text = "use crate::base::net;\nuse crate::{config, rego::x};\n// crate::server\nlet a = crate::limits::b();\n\
        #[cfg(test)]\nmod tests { use crate::cli; }\n";
    let found: Vec<_> = imports(text).into_iter().collect();
    assert_eq!(found, ["base", "config", "limits", "rego"]);
}
