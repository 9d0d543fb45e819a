//! What the parser does not know, rewritten before it reads: string interpolation, and references
//! that begin with a keyword.
//!
//! `$"a {x}"` becomes `internal.template_string(["a ", {t | t := x}, ""])`, piece by piece, so that
//! what stands between the braces keeps its place. `not.foo` becomes a name of our own, which
//! lowering reads back. No line is added or removed.

use std::ops::Range;

use super::source::{Edit, apply};

/// What a keyword is called where it begins a reference.
const MANGLED: &str = "__keyword_";

const KEYWORDS: &[&str] = &[
    "as", "contains", "default", "else", "every", "false", "if", "import", "in", "not", "null", "package",
    "some", "true", "with",
];

/// Deepest templates in one another.
const NESTING_MAX: usize = 8;

/// What is wrong, and at which byte.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) at: usize,
    pub(super) message: String,
}

/// The edits that make a text readable for the parser, sorted and disjoint.
pub(super) fn desugar(text: &str) -> Result<Vec<Edit>, Unreadable> {
    let mut scanner = Scanner { text, at: 0, edits: Vec::new(), parts: 0, depth: 0 };
    while scanner.at < text.len() {
        scanner.code()?;
    }
    Ok(scanner.edits)
}

/// The text of a query as the parser reads it; one that cannot be read is left for it to refuse.
pub(super) fn readable(query: &str) -> String {
    desugar(query).map_or_else(|_| query.to_owned(), |edits| apply(query, &edits))
}

/// The name as it was written, whether or not it is a keyword.
pub(super) fn unmangled(name: &str) -> &str {
    name.strip_prefix(MANGLED).unwrap_or(name)
}

/// Whether a name cannot begin a rule's head.
pub(super) fn is_keyword(name: &str) -> bool {
    KEYWORDS.contains(&name)
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    edits: Vec<Edit>,
    parts: usize,
    depth: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip(&mut self, bytes: usize) {
        self.at = (self.at + bytes).min(self.text.len());
    }

    fn edit(&mut self, range: Range<usize>, text: String) {
        self.edits.push(Edit { origin: range.start, range, text });
    }

    /// Passes one piece of code: a comment, a string, a template, a word, or one character.
    fn code(&mut self) -> Result<(), Unreadable> {
        match self.peek() {
            None => {}
            Some('#') => self.skip(self.rest().find('\n').unwrap_or(self.rest().len())),
            Some('"') => self.string(),
            Some('`') => {
                self.skip(1 + self.rest().get(1..).and_then(|rest| rest.find('`')).map_or(0, |at| at + 1));
            }
            Some('$') if self.rest().starts_with("$\"") => self.template('"')?,
            Some('$') if self.rest().starts_with("$`") => self.template('`')?,
            Some(first) if first == '_' || first.is_ascii_alphanumeric() => self.word(),
            Some(other) => self.skip(other.len_utf8()),
        }
        Ok(())
    }

    fn string(&mut self) {
        let mut is_escaped = true;
        let end = self.rest().char_indices().find(|(_, character)| {
            let ends = !is_escaped && matches!(character, '"' | '\n');
            // The opening quote is passed like an escaped one.
            is_escaped = !is_escaped && *character == '\\';
            ends
        });
        self.skip(end.map_or(self.rest().len(), |(at, _)| at + 1));
    }

    fn word(&mut self) {
        let start = self.at;
        let is_part = |character: char| character == '_' || character.is_ascii_alphanumeric();
        let length = self.rest().find(|character| !is_part(character)).unwrap_or(self.rest().len());
        let word = self.rest().get(..length).unwrap_or_default();
        self.skip(length);
        let is_member = self.text.get(..start).is_some_and(|before| before.ends_with('.'));
        let has_member = self
            .rest()
            .strip_prefix('.')
            .and_then(|rest| rest.chars().next())
            .is_some_and(|next| next == '_' || next.is_ascii_alphabetic());
        if has_member && !is_member && is_keyword(word) {
            self.edit(start..self.at, format!("{MANGLED}{word}"));
        }
    }

    fn template(&mut self, quote: char) -> Result<(), Unreadable> {
        let start = self.at;
        let fail = |at, message: &str| Err(Unreadable { at, message: message.to_owned() });
        if self.depth >= NESTING_MAX {
            return fail(start, "template strings are nested too deep");
        }
        self.skip(2);
        self.edit(start..self.at, format!("internal.template_string([{quote}"));
        loop {
            let at = self.at;
            match self.peek() {
                None => return fail(start, "template string is not closed"),
                Some('\n') if quote == '"' => return fail(start, "template string is not closed"),
                Some(end) if end == quote => {
                    self.skip(1);
                    self.edit(at..self.at, format!("{quote}])"));
                    return Ok(());
                }
                Some('\\') if self.rest().starts_with("\\{") => {
                    self.skip(2);
                    self.edit(at..self.at, "{".to_owned());
                }
                Some('\\') if quote == '"' => {
                    self.skip(1);
                    self.skip(self.peek().map_or(0, char::len_utf8));
                }
                Some('{') => {
                    let name = format!("__postern_part_{}", self.parts);
                    self.parts += 1;
                    self.skip(1);
                    self.edit(at..self.at, format!("{quote}, {{{name} | {name} := "));
                    self.depth += 1;
                    self.expression(at)?;
                    self.depth -= 1;
                    let end = self.at;
                    self.skip(1);
                    self.edit(end..self.at, format!("}}, {quote}"));
                }
                Some(other) => self.skip(other.len_utf8()),
            }
        }
    }

    /// Passes the one expression between the braces of a template, up to the closing brace.
    fn expression(&mut self, open: usize) -> Result<(), Unreadable> {
        let fail = |at, message: &str| Err(Unreadable { at, message: message.to_owned() });
        let first = self.rest().trim_start();
        if first.starts_with('}') {
            return fail(open, "template string has nothing between its braces");
        }
        let is_word =
            |word: &str| first.strip_prefix(word).is_some_and(|rest| rest.starts_with(char::is_whitespace));
        if ["not", "some", "every"].into_iter().any(is_word) {
            return fail(open, "template string takes an expression, not a statement");
        }
        let mut brackets = 0_usize;
        loop {
            let at = self.at;
            match self.peek() {
                None => return fail(open, "template string is not closed"),
                Some('}') if brackets == 0 => return Ok(()),
                Some('(' | '[' | '{') => {
                    brackets += 1;
                    self.skip(1);
                }
                Some(')' | ']' | '}') => {
                    brackets = brackets.saturating_sub(1);
                    self.skip(1);
                }
                Some('=' | '!' | '<' | '>')
                    if self.rest().get(1..).is_some_and(|rest| rest.starts_with('=')) =>
                {
                    self.skip(2);
                }
                Some(';' | '=') if brackets == 0 => {
                    return fail(at, "template string takes one expression, not several and no assignment");
                }
                Some(_) => self.code()?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, want: &str) {
        let edits = desugar(text).unwrap();
        assert_eq!(apply(text, &edits).replace("__postern_part_", "t"), want);
    }

    #[test]
    fn templates_become_calls() {
        check(r#"p := $"""#, r#"p := internal.template_string([""])"#);
        check(r#"$"a {x} b""#, r#"internal.template_string(["a ", {t0 | t0 := x}, " b"])"#);
        check(r#"$"\{x} \" {"}"}""#, r#"internal.template_string(["{x} \" ", {t0 | t0 := "}"}, ""])"#);
        check(
            r#"$"{{"a": [1]}}{$"{y}"}""#,
            r#"internal.template_string(["", {t0 | t0 := {"a": [1]}}, "", {t1 | t1 := internal.template_string(["", {t2 | t2 := y}, ""])}, ""])"#,
        );
        check("$`a\n{x}\\n`", "internal.template_string([`a\n`, {t0 | t0 := x}, `\\n`])");
        check("$\"{x == 1}\"", "internal.template_string([\"\", {t0 | t0 := x == 1}, \"\"])");
        check("\"$\\\"{x}\" # $\"{x}\"\n`$\"{`", "\"$\\\"{x}\" # $\"{x}\"\n`$\"{`");
    }

    #[test]
    fn what_is_no_expression_is_refused_at_its_place() {
        let refused = |text: &str, at: usize| assert_eq!(desugar(text).unwrap_err().at, at, "{text}");
        refused("p := $\"a", 5);
        refused("$\"a\n\"", 0);
        refused("$\"{}\"", 2);
        refused("$\"{x; y}\"", 4);
        refused("$\"{x := 1}\"", 6);
        refused("$\"{not x}\"", 2);
        refused("$\"{x", 2);
        let nested = format!("{}1{}", "$\"{".repeat(20), "}\"".repeat(20));
        assert!(desugar(&nested).is_err());
    }

    #[test]
    fn keywords_that_begin_a_reference_get_another_name() {
        check("not.foo := 1", "__keyword_not.foo := 1");
        check("p if data.not.foo", "p if data.not.foo");
        check("p if not foo.not", "p if not foo.not");
        check("default if.x := true.y", "default __keyword_if.x := __keyword_true.y");
        check("knot.foo; in2.foo; input.foo", "knot.foo; in2.foo; input.foo");
    }

    proptest! {
        #[test]
        fn no_text_panics_and_lines_stay(text in "[ a{}\"`$\\\\\n.;=#(|]{0,40}.{0,6}") {
            if let Ok(edits) = desugar(&text) {
                let rewritten = apply(&text, &edits);
                prop_assert_eq!(rewritten.matches('\n').count(), text.matches('\n').count());
                prop_assert!(edits.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
            }
        }
    }
}
