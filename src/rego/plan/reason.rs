//! Why a rule is not planned.

use std::fmt;

use crate::rego::fault::Place;

/// A rule that runs on the interpreter, and so does whatever reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotPlanned {
    /// The rule's path: `data.a.b`.
    pub rule: String,
    /// Where in the text.
    pub place: Place,
    /// What it has that a plan cannot do yet.
    pub reason: Reason,
}

/// What plans do not cover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A rule with more variables or constants than a plan can number.
    TooLarge,
    /// A variable that no order of the statements binds.
    Unsafe(String),
    /// A name used above its declaration.
    UsedBeforeDeclared(String),
    /// A name declared twice in one body, or hiding an argument.
    DeclaredTwice(String),
    /// `=` or `:=` used as a value.
    UnificationAsValue,
    /// A pattern whose variables cannot be bound one after the other.
    Pattern,
    /// `print`, whose output the interpreter gathers.
    Prints,
    /// A call that names nothing.
    UnknownFunction,
    /// A head such as `p[x].q[y]`.
    DeepHead,
    /// Rules at a path and below it.
    NestedRules,
    /// A `with` that replaces part of a rule.
    With,
    /// It reads a rule that is not planned.
    Reads(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => f.write_str("the rule is too large"),
            Self::Unsafe(name) => write!(f, "no order of the statements binds `{name}`"),
            Self::UsedBeforeDeclared(name) => write!(f, "`{name}` is used above its declaration"),
            Self::DeclaredTwice(name) => write!(f, "`{name}` is declared twice"),
            Self::UnificationAsValue => f.write_str("an assignment is used as a value"),
            Self::Pattern => f.write_str("the pattern cannot be taken apart step by step"),
            Self::Prints => f.write_str("it prints"),
            Self::UnknownFunction => f.write_str("it calls an unknown function"),
            Self::DeepHead => f.write_str("its head has more than one variable key"),
            Self::NestedRules => f.write_str("there are rules at its path and below it"),
            Self::With => f.write_str("its `with` replaces part of a rule"),
            Self::Reads(rule) => write!(f, "it reads `{rule}`, which is not planned"),
        }
    }
}
