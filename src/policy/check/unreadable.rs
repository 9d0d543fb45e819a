//! Patterns, globs and networks that are written as constants and can never be read: each call with one is undefined.
//!
//! The built-in itself is asked, with nothing to look at, so that the check and an evaluation cannot disagree.

use regorus::Value;

use crate::rego::builtin;
use crate::rego::fault::Fault;
use crate::rego::tree::{Target, Term, TermKind, Tree, walk_rule};

/// What a constant argument has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Pattern,
    Glob,
    Network,
}

/// Built-ins, which of their arguments is read, and as what.
const READ: [(&str, usize, Wanted); 11] = [
    ("glob.match", 0, Wanted::Glob),
    ("net.cidr_contains", 0, Wanted::Network),
    ("net.cidr_expand", 0, Wanted::Network),
    ("net.cidr_intersects", 0, Wanted::Network),
    ("net.cidr_intersects", 1, Wanted::Network),
    ("re_match", 0, Wanted::Pattern),
    ("regex.find_all_string_submatch_n", 0, Wanted::Pattern),
    ("regex.find_n", 0, Wanted::Pattern),
    ("regex.match", 0, Wanted::Pattern),
    ("regex.replace", 1, Wanted::Pattern),
    ("regex.split", 0, Wanted::Pattern),
];

/// Calls with a constant that cannot be read.
pub(super) fn constants(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for rule in &tree.rules {
        walk_rule(rule, &mut |term| {
            for (name, argument, text, wanted) in unreadable(term) {
                let (what, hint) = match wanted {
                    Wanted::Pattern => {
                        ("regular expression", "escape what is meant literally, as in `\\\\(`")
                    }
                    Wanted::Glob => {
                        ("glob", "close each bracket and brace, and escape what is meant literally")
                    }
                    Wanted::Network => ("network", "write it as `10.0.0.0/8` or `2001:db8::/32`"),
                };
                let place = tree.place(rule.module, argument.extent.start);
                let message = format!(
                    "`{name}` cannot read the {what} `{}`: it is always undefined",
                    text.escape_debug()
                );
                faults.push(Fault::new(place, "unreadable_constant", message).hint(hint));
            }
        });
    }
    faults
}

fn unreadable(term: &Term) -> Vec<(&'static str, &Term, &str, Wanted)> {
    let TermKind::Call { callee, arguments } = &term.kind else { return Vec::new() };
    let Target::Builtin(called) = &callee.target else { return Vec::new() };
    let read = READ.iter().filter(|(name, ..)| name == called);
    read.filter_map(|(name, index, wanted)| {
        let argument = arguments.get(*index)?;
        let Some(Value::String(text)) = argument.as_scalar() else { return None };
        (!can_be_read(text, *wanted)).then_some((*name, argument, &**text, *wanted))
    })
    .collect()
}

fn can_be_read(text: &str, wanted: Wanted) -> bool {
    let (text, nothing) = (Value::from(text), Value::from(""));
    let (name, arguments) = match wanted {
        Wanted::Pattern => ("regex.match", vec![text, nothing]),
        Wanted::Glob => ("glob.match", vec![text, Value::new_array(), nothing]),
        Wanted::Network => ("net.cidr_intersects", vec![text.clone(), text]),
    };
    let answer = builtin::lookup(name).map(|builtin| builtin.call(&arguments, true));
    !matches!(answer, Some(Err(builtin::CallError::Failed(_))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_input_can_make_readable_is_unreadable() {
        for (text, wanted, readable) in [
            ("(", Wanted::Pattern, false),
            ("a{2,1}", Wanted::Pattern, false),
            ("^[a-z]+$", Wanted::Pattern, true),
            ("", Wanted::Pattern, true),
            ("[a", Wanted::Glob, false),
            ("*.example.com", Wanted::Glob, true),
            ("{a,b}", Wanted::Glob, true),
            ("10.0.0.0/33", Wanted::Network, false),
            ("10.0.0.0.0/8", Wanted::Network, false),
            ("10.0.0.0/8", Wanted::Network, true),
            ("2001:db8::/32", Wanted::Network, true),
        ] {
            assert_eq!(can_be_read(text, wanted), readable, "{text}");
        }
    }

    #[test]
    fn every_built_in_and_argument_is_there() {
        for (name, index, _) in READ {
            assert!(builtin::lookup(name).is_some_and(|builtin| index < builtin.arity), "{name}");
        }
    }
}
