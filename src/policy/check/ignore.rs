//! Comments that silence a finding: `# postern:ignore RULE, RULE` on its line, or on the line above.
//!
//! A comment that silences nothing is a finding itself, so that none outlives what it was written for.

use std::cell::Cell;

use super::rule;
use crate::rego::fault::{Fault, Place};
use crate::rego::program::Module;

const MARK: &str = "postern:ignore";

/// All such comments of a bundle.
pub(super) struct Ignores(Vec<Ignore>);

struct Ignore {
    place: Place,
    rule: String,
    /// The line it speaks of.
    line: u32,
    is_used: Cell<bool>,
}

impl Ignores {
    pub(super) fn gather<'a>(modules: impl Iterator<Item = &'a Module>) -> Self {
        Self(modules.flat_map(of_module).collect())
    }

    /// Whether a finding is silenced.
    pub(super) fn covers(&self, fault: &Fault) -> bool {
        if !rule::find(fault.code).is_some_and(|rule| rule.can_be_ignored) {
            return false;
        }
        let speaks = |ignore: &&Ignore| {
            ignore.rule == fault.code
                && ignore.place.file == fault.place.file
                && ignore.line == fault.place.line
        };
        match self.0.iter().find(speaks) {
            Some(ignore) => {
                ignore.is_used.set(true);
                true
            }
            None => false,
        }
    }

    /// Those that silenced nothing.
    pub(super) fn useless(&self) -> impl Iterator<Item = Fault> {
        self.0.iter().filter(|ignore| !ignore.is_used.get()).map(|ignore| {
            let name = &ignore.rule;
            let (message, hint) = match rule::find(name) {
                Some(rule) if rule.can_be_ignored => (
                    format!("`{name}` is ignored here, and there is nothing to ignore"),
                    "remove the comment",
                ),
                Some(_) => (format!("`{name}` cannot be ignored"), "correct what it reports"),
                None => {
                    (format!("there is no rule `{name}` to ignore"), "name the rule that the finding names")
                }
            };
            Fault::new(ignore.place.clone(), "useless_ignore", message).hint(hint)
        })
    }
}

fn of_module(module: &Module) -> Vec<Ignore> {
    let mut found = Vec::new();
    for (text, number) in module.text.lines().zip(1_u32..) {
        let Some((before, said)) = comment(text) else { continue };
        let column = u32::try_from(before.chars().count() + 1).unwrap_or(u32::MAX);
        // Alone on its line, it speaks of the next.
        let line = if before.trim().is_empty() { number + 1 } else { number };
        let rules = said.split([',', ' ']).filter(|rule| !rule.is_empty());
        found.extend(rules.map(|rule| Ignore {
            place: Place { file: module.path.as_str().into(), line: number, column },
            rule: rule.to_owned(),
            line,
            is_used: Cell::new(false),
        }));
    }
    found
}

/// What stands before such a comment, and what it says.
fn comment(line: &str) -> Option<(&str, &str)> {
    let at = line.find(MARK)?;
    let before = line.get(..at)?.trim_end().strip_suffix('#')?;
    Some((before, line.get(at + MARK.len()..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_speak_of_their_line_or_the_next() {
        let text = "package a\n# postern:ignore shadowing, off_plan\np := 1 # postern:ignore no_such\n";
        let module = Module { path: "p.rego".into(), text: text.into() };
        let ignores = Ignores::gather([module].iter());
        let at = |line, code| Fault::new(Place { file: "p.rego".into(), line, column: 1 }, code, "");
        assert!(ignores.covers(&at(3, "shadowing")));
        assert!(!ignores.covers(&at(2, "shadowing")) && !ignores.covers(&at(3, "bad_decision")));
        let useless: Vec<String> = ignores.useless().map(|fault| fault.to_string()).collect();
        assert_eq!(useless.len(), 2);
        assert!(useless[0].starts_with("p.rego:2:1: `off_plan` is ignored here"), "{useless:?}");
        assert!(useless[1].starts_with("p.rego:3:8: there is no rule `no_such`"), "{useless:?}");
    }
}
