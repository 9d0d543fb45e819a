//! Generated rules around our own built-ins, where the interpreter knows no other way.
//!
//! The interpreter mocks only its own built-ins and rules, and only those may take their result as
//! one more argument. A built-in of ours that a program mocks, puts in place of something, or calls
//! so is called through a rule that does nothing but call it. The rules are no part of the tree:
//! no analysis sees them.

use std::collections::BTreeSet;

use super::{
    builtin::{self, Builtin},
    tree::{StatementKind, Target, TermKind, Tree, WithTarget, walk_statements},
};

/// The package of the generated rules.
pub(crate) const PACKAGE: &str = "__postern";

/// The built-ins of a program that need a rule around them.
#[derive(Debug, Default)]
pub(crate) struct Wrappers(BTreeSet<&'static str>);

impl Wrappers {
    pub(crate) fn gather(tree: &Tree) -> Self {
        let mut names = BTreeSet::new();
        for rule in &tree.rules {
            walk_statements(rule, &mut |statement| {
                for with in &statement.withs {
                    let WithTarget::Function { callee, replacement } = &with.target else { continue };
                    names.extend(ours(&callee.target).map(|builtin| builtin.name));
                    let replacement = replacement.as_ref().and_then(|callee| available(&callee.target));
                    names.extend(replacement.map(|builtin| builtin.name));
                }
                if let StatementKind::Holds(term) | StatementKind::Not(term) = &statement.kind
                    && let TermKind::Call { callee, arguments } = &term.kind
                {
                    let binds = |builtin: &&Builtin| arguments.len() == builtin.arity + 1;
                    names.extend(ours(&callee.target).filter(binds).map(|builtin| builtin.name));
                }
            });
        }
        Self(names)
    }

    /// The rule to write where this is called or mocked; nothing where its own name will do.
    pub(crate) fn called(&self, target: &Target) -> Option<String> {
        ours(target).and_then(|builtin| self.path(builtin))
    }

    /// The rule to write where this stands in place of something mocked.
    pub(crate) fn replacement(&self, target: &Target) -> Option<String> {
        available(target).and_then(|builtin| self.path(builtin))
    }

    fn path(&self, builtin: &Builtin) -> Option<String> {
        self.0.contains(builtin.name).then(|| format!("data.{PACKAGE}.{}", rule_name(builtin.name)))
    }

    /// The generated module; nothing if there are no rules.
    pub(crate) fn module(&self) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let mut text = format!("package {PACKAGE}\n");
        for name in &self.0 {
            let arity = builtin::lookup(name).map_or(0, |builtin| builtin.arity);
            let arguments: Vec<String> = (0..arity).map(|index| format!("a{index}")).collect();
            let arguments = arguments.join(", ");
            text.push_str(
                &[&rule_name(name), "(", &arguments, ") := ", name, "(", &arguments, ")\n"].concat(),
            );
        }
        Some(text)
    }
}

/// `io.jwt.decode` as the name of one rule; `count` must not become a rule that calls itself.
fn rule_name(name: &str) -> String {
    format!("call_{}", name.replace('.', "__"))
}

fn available(target: &Target) -> Option<&'static Builtin> {
    if let Target::Builtin(name) = target { builtin::lookup(name) } else { None }
}

/// A built-in the interpreter does not know by itself.
fn ours(target: &Target) -> Option<&'static Builtin> {
    available(target).filter(|builtin| !builtin.is_of_engine())
}
