//! Regular expressions of a worker, each compiled once.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use regex::{Regex, RegexBuilder};

/// Patterns kept at the most; a policy that makes its patterns up has more than it is worth.
const PATTERNS_MAX: usize = 256;
/// Size of a compiled pattern, as the engine bounds it.
const SIZE_MAX: usize = 100 << 10;

/// Patterns by their text; one that does not compile is known as such.
#[derive(Debug, Default)]
pub(super) struct Regexes(HashMap<Box<str>, Option<Regex>, RandomState>);

impl Regexes {
    /// Whether a pattern is found in a subject; nothing where that is left to the built-in.
    pub(super) fn is_match(&mut self, pattern: &str, subject: &str) -> Option<bool> {
        if let Some(known) = self.0.get(pattern) {
            return known.as_ref().map(|regex| regex.is_match(subject));
        }
        if self.0.len() >= PATTERNS_MAX {
            return None;
        }
        let compiled = RegexBuilder::new(pattern).size_limit(SIZE_MAX).build().ok();
        let answer = compiled.as_ref().map(|regex| regex.is_match(subject));
        self.0.insert(Box::from(pattern), compiled);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_compiled_once_and_odd_ones_left_alone() {
        let mut regexes = Regexes::default();
        assert_eq!(regexes.is_match("^/a.*", "/abc"), Some(true));
        assert_eq!(regexes.is_match("^/a.*", "/b"), Some(false));
        assert_eq!(regexes.is_match("(", "/b"), None);
        assert_eq!(regexes.is_match("a{1000}{1000}", "/b"), None);
        for number in 0..2 * PATTERNS_MAX {
            regexes.is_match(&format!("^{number}$"), "1");
        }
        assert_eq!(regexes.0.len(), PATTERNS_MAX);
        assert_eq!(regexes.is_match("^/a.*", "/abc"), Some(true));
    }
}
