//! Every rule that `policy check` knows beyond compiling: its stable name, and what it is about.
//!
//! The names are public: they stand in reports, in code scanning, and in `# postern:ignore` comments. Never rename one.

/// A rule of the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Its stable name.
    pub id: &'static str,
    /// What breaks it, in one sentence.
    pub summary: &'static str,
    /// Whether a comment may silence it. What makes a policy fail in production cannot be silenced.
    pub can_be_ignored: bool,
}

const fn lint(id: &'static str, summary: &'static str) -> Rule {
    Rule { id, summary, can_be_ignored: true }
}

const fn error(id: &'static str, summary: &'static str) -> Rule {
    Rule { id, summary, can_be_ignored: false }
}

/// All rules, in the order of their names.
pub const RULES: [Rule; 19] = [
    error("bad_decision", "A value of a decision rule that the contract does not take."),
    lint("constant_condition", "A condition that never holds, or always does, whatever the input is."),
    lint("crowded_package", "A package that lies in a large data object, which every evaluation copies."),
    lint("deprecated_builtin", "A built-in that OPA has deprecated, and refuses in Rego v1."),
    lint("duplicate_rule", "A rule that is written twice."),
    error("import_shadows_rule", "An import with the name of a rule of the package."),
    error("import_shadows_import", "An import with the name of another import."),
    lint("no_default", "A rule that is asked for decisions and can be undefined."),
    lint("off_plan", "A rule that runs on the interpreter, which is slower."),
    lint("shadowing", "A name that hides a rule, an import, a built-in, an argument or a variable."),
    lint("undefined_reference", "A look-up of what a literal does not have."),
    error("unknown_input", "An input path that the contract does not know."),
    lint("unread_rule", "A rule or function that no entry point and no test reads."),
    lint("unreadable_constant", "A constant pattern, glob or network that can never be read."),
    lint("unreachable_rule", "A definition that can never matter, because another one always holds."),
    lint("unused_assignment", "A variable that is assigned and not used."),
    lint("unused_import", "An import that is not used."),
    lint("useless_ignore", "A `postern:ignore` comment that silences nothing, or names no rule."),
    lint(
        "vanishing_deny",
        "A denial that goes away where the input lacks a field, or has it of another type.",
    ),
];

/// The rule with this name.
pub fn find(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id == id)
}
