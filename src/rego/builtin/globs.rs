//! `regex.globs_match`: whether two patterns have a text in common.
//!
//! The patterns are of characters, `.`, sets such as `[a-z0]` and `\` escapes, each with `*` or `+`.

use std::collections::HashSet;

use regorus::Value;

use super::{Entry, Failure, argument};

pub(super) const TABLE: &[Entry] = &[("regex.globs_match", 2, globs_match)];

/// Most pairs of positions looked at.
const PAIRS_MAX: usize = 1_000_000;

/// One position of a pattern: what may stand there, and whether any number of it may.
struct Step {
    /// Ranges of characters, both ends included.
    characters: Vec<(char, char)>,
    repeats: bool,
}

fn globs_match(arguments: &[Value]) -> Result<Value, Failure> {
    let left = steps(argument::string(arguments, 0)?)?;
    let right = steps(argument::string(arguments, 1)?)?;
    if (left.len() + 1).saturating_mul(right.len() + 1) > PAIRS_MAX {
        return Err(Failure::Refused("patterns too long to compare".to_owned()));
    }
    Ok(Value::from(meet(&left, &right)))
}

/// Walks both patterns at once over every text they could share.
fn meet(left: &[Step], right: &[Step]) -> bool {
    let mut open = vec![(0, 0)];
    let mut seen = HashSet::from([(0, 0)]);
    while let Some((at, other)) = open.pop() {
        let (step, other_step) = (left.get(at), right.get(other));
        let mut next = Vec::new();
        match (step, other_step) {
            (None, None) => return true,
            (Some(step), Some(other_step)) if step.meets(other_step) => {
                next.push((at + usize::from(!step.repeats), other + usize::from(!other_step.repeats)));
            }
            (Some(_), _) | (_, Some(_)) => {}
        }
        // What repeats may also not occur at all.
        if step.is_some_and(|step| step.repeats) {
            next.push((at + 1, other));
        }
        if other_step.is_some_and(|step| step.repeats) {
            next.push((at, other + 1));
        }
        open.extend(next.into_iter().filter(|pair| seen.insert(*pair)));
    }
    false
}

impl Step {
    fn meets(&self, other: &Self) -> bool {
        self.characters
            .iter()
            .any(|(from, to)| other.characters.iter().any(|(start, end)| from <= end && start <= to))
    }
}

fn steps(pattern: &str) -> Result<Vec<Step>, Failure> {
    let invalid =
        |reason: &str| Failure::Error(format!("input:{pattern}, {reason}: the input provided is invalid"));
    let mut steps: Vec<Step> = Vec::new();
    let mut may_repeat = false;
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        let one = |character| Step { characters: vec![(character, character)], repeats: false };
        match character {
            '*' | '+' if !may_repeat => {
                return Err(invalid("flag must be preceded by a non-flag"));
            }
            '*' => {
                if let Some(last) = steps.last_mut() {
                    last.repeats = true;
                }
            }
            '+' => {
                let again = steps.last().map(|last| last.characters.clone()).unwrap_or_default();
                steps.push(Step { characters: again, repeats: true });
            }
            '.' => steps.push(Step { characters: vec![('\0', char::MAX)], repeats: false }),
            '\\' => {
                let escaped = characters.next().ok_or_else(|| invalid("nothing is escaped"))?;
                steps.push(one(escaped));
            }
            ']' => return Err(invalid("set-close ']' with no preceding '['")),
            '[' => {
                let set = set(&mut characters).map_err(invalid)?;
                steps.push(Step { characters: set, repeats: false });
            }
            _ => steps.push(one(character)),
        }
        may_repeat = !matches!(character, '*' | '+');
    }
    Ok(steps)
}

fn set(characters: &mut std::str::Chars<'_>) -> Result<Vec<(char, char)>, &'static str> {
    const OPEN: &str = "set-open '[' without its ']'";
    let mut found: Vec<(char, char)> = Vec::new();
    loop {
        let character = characters.next().ok_or(OPEN)?;
        match character {
            ']' if found.is_empty() => return Err("set is empty"),
            ']' => return Ok(found),
            '-' => {
                let last =
                    found.last_mut().filter(|(from, to)| from == to).ok_or("range without its start")?;
                let end = match characters.next().ok_or(OPEN)? {
                    ']' => return Err("range without its end"),
                    '\\' => characters.next().ok_or(OPEN)?,
                    end => end,
                };
                if end < last.0 {
                    return Err("range ends before it starts");
                }
                last.1 = end;
            }
            '\\' => {
                let escaped = characters.next().ok_or(OPEN)?;
                found.push((escaped, escaped));
            }
            _ => found.push((character, character)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(left: &str, right: &str, want: bool) {
        for (left, right) in [(left, right), (right, left)] {
            let answer = globs_match(&[Value::from(left), Value::from(right)]);
            assert_eq!(answer, Ok(Value::from(want)), "{left} {right}");
        }
    }

    #[test]
    fn patterns_meet_where_a_text_matches_both() {
        check("a.a.[0-9]+z", ".b.b2359825792*594823z", true);
        check("[a-z]+", "[0-9]*", false);
        check("[a-z]*", "[0-9]*", true);
        check("b.*", "bar", true);
        check(r"[a-z]+\[[0-9]+\]", r"foo\[1\]", true);
        check("a*b*c", "c", true);
        check("a*b*c", "d", false);
        check("", "a*", true);
        check("", "a", false);
    }

    #[test]
    fn broken_patterns_are_errors() {
        for wrong in ["pqrs]", "*a", "a**", "[", "[]", "[z-a]", "[-a]", "[a-]", "a\\"] {
            assert!(matches!(steps(wrong), Err(Failure::Error(_))), "{wrong}");
        }
        let long = "a*".repeat(2_000);
        let refused = globs_match(&[Value::from(long.as_str()), Value::from(long)]);
        assert!(matches!(refused, Err(Failure::Refused(_))));
    }

    proptest! {
        #[test]
        fn a_text_without_signs_meets_its_own_generalisation(text in "[a-c]{0,8}", sign in "[*+]?") {
            let pattern: String = text.chars().map(|character| ["[", &character.to_string(), "-z]", &sign].concat()).collect();
            check(&text, &pattern, true);
        }

        #[test]
        fn no_pattern_panics(left in "[a.*+\\[\\]\\\\-]{0,12}", right in ".{0,12}") {
            drop(globs_match(&[Value::from(left), Value::from(right)]));
        }
    }
}
