//! Rego v0 as v1: what the older syntax leaves out is put in before anything reads the text.
//!
//! `p[x] { .. }` becomes `p contains x if { .. }`, and a body gets its `if`, as OPA's own `fmt --v0-v1` does it; line by line, so
//! that places stay those of the file. Whether the text makes sense is the parser's business.

use super::{
    parse::{Kind, Token},
    source::{Edit, Text},
};

/// Which Rego a file is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RegoVersion {
    /// That of OPA before 1.0.
    V0,
    /// That of OPA 1.0 and later.
    #[default]
    V1,
}

/// The edits that make v1 of a v0 text, sorted and disjoint; none where the file itself says `import rego.v1`.
pub(super) fn edits(text: &Text, tokens: &[Token]) -> Vec<Edit> {
    let mut reader =
        Reader { text, tokens, at: 0, edits: Vec::new(), head: None, part: Part::Value, after_operand: true };
    if reader.imports() {
        return Vec::new();
    }
    while reader.at < tokens.len() {
        reader.token();
    }
    reader.finish_head();
    reader.edits.sort_by_key(|edit| edit.range.start);
    reader.edits
}

/// The part of a rule that is being read. Nothing within brackets counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// A name, and what follows it, before a value or a body.
    Head,
    /// The value of a head or of an `else`.
    Value,
    /// The one statement after `if`.
    Statement,
    /// What follows a body.
    Body,
}

/// A head whose form is not settled yet.
#[derive(Debug, Default)]
struct Head {
    /// The first and the last token of each step after the name.
    steps: Vec<(usize, usize)>,
}

struct Reader<'a> {
    text: &'a Text,
    tokens: &'a [Token],
    at: usize,
    edits: Vec<Edit>,
    /// A head that may be that of a partial set.
    head: Option<Head>,
    part: Part,
    /// The last token could end an expression.
    after_operand: bool,
}

impl<'a> Reader<'a> {
    fn get(&self, at: usize) -> Option<(Kind, &'a str)> {
        let token = self.tokens.get(at)?;
        let word = if token.kind == Kind::Text { "" } else { self.text.slice(token.start..token.end) };
        Some((token.kind, word))
    }

    fn word(&self, at: usize) -> &'a str {
        self.get(at).map_or("", |(_, word)| word)
    }

    fn before(&self) -> &'a str {
        self.at.checked_sub(1).map_or("", |at| self.word(at))
    }

    fn edit(&mut self, from: usize, to: usize, text: &str) {
        let (Some(from), Some(to)) = (self.tokens.get(from), self.tokens.get(to)) else { return };
        self.edits.push(Edit { range: from.start..to.end, text: text.to_owned(), origin: from.start });
    }

    /// Passes the package and the imports, takes out those of keywords, which v1 knows by itself, and gives whether the
    /// file is v1 by its own word.
    fn imports(&mut self) -> bool {
        if self.word(self.at) == "package" {
            self.at += 1;
            self.path();
        }
        while self.word(self.at) == "import" {
            let from = self.at;
            self.at += 1;
            let path = self.path();
            if path == "rego.v1" {
                return true;
            }
            if path == "future.keywords" || path.starts_with("future.keywords.") {
                self.edit(from, self.at.saturating_sub(1), "");
            }
            if self.word(self.at) == "as" {
                self.at += 2;
            }
        }
        false
    }

    /// Passes a path such as `data.a["b"].c`.
    fn path(&mut self) -> String {
        let mut path = self.word(self.at).to_owned();
        self.at += 1;
        loop {
            match self.word(self.at) {
                "." => {
                    path.push('.');
                    path.push_str(self.word(self.at + 1));
                    self.at += 2;
                }
                "[" => self.at = self.closing(self.at) + 1,
                _ => return path,
            }
        }
    }

    /// The bracket that closes the one at `open`, or the last token.
    fn closing(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for at in open..self.tokens.len() {
            match self.word(at) {
                "[" | "{" | "(" | "set(" => depth += 1,
                "]" | "}" | ")" => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return at;
            }
        }
        self.tokens.len().saturating_sub(1)
    }

    fn token(&mut self) {
        let Some((kind, word)) = self.get(self.at) else { return };
        match (kind, word) {
            (_, "{" | "[" | "(" | "set(") => return self.bracket(word),
            (Kind::Text | Kind::Number, _) => self.after_operand = true,
            (Kind::Word, _) => self.name(word),
            (Kind::Symbol, "=" | ":=") if self.part == Part::Head => {
                self.head = None;
                self.part = Part::Value;
                self.after_operand = false;
            }
            (Kind::Symbol, _) => self.after_operand = false,
        }
        self.at += 1;
    }

    fn bracket(&mut self, word: &str) {
        let close = self.closing(self.at);
        let opens_body =
            word == "{" && self.part != Part::Statement && (self.after_operand || self.before() == "else");
        if opens_body {
            self.finish_head();
            // Only the first body needs one.
            if let (true, Some(brace)) = (self.part != Part::Body, self.tokens.get(self.at)) {
                let at = brace.start;
                self.edits.push(Edit { range: at..at, text: " if ".to_owned(), origin: at });
            }
            self.part = Part::Body;
        } else if self.part == Part::Head {
            match (word, &mut self.head) {
                ("[", Some(head)) => head.steps.push((self.at, close)),
                _ => self.head = None,
            }
        }
        self.after_operand = true;
        self.at = close + 1;
    }

    fn name(&mut self, word: &str) {
        let is_field = self.before() == ".";
        match word {
            _ if is_field => {
                if let (Part::Head, Some(head)) = (self.part, &mut self.head) {
                    head.steps.push((self.at.saturating_sub(1), self.at));
                }
                self.after_operand = true;
            }
            "if" => {
                self.head = None;
                self.part = Part::Statement;
                self.after_operand = false;
            }
            "contains" if self.part == Part::Head && self.after_operand => {
                self.head = None;
                self.part = Part::Value;
                self.after_operand = false;
            }
            "else" => {
                self.head = None;
                self.part = Part::Value;
                self.after_operand = false;
            }
            "default" => {
                self.finish_head();
                self.head = None;
                self.part = Part::Head;
                self.after_operand = false;
            }
            "in" | "with" | "as" | "not" | "some" | "every" => self.after_operand = false,
            _ => {
                // A name that follows a whole expression, a body or the imports begins a rule.
                if self.after_operand {
                    self.finish_head();
                    self.head = Some(Head::default());
                    self.part = Part::Head;
                }
                self.after_operand = true;
            }
        }
    }

    /// Settles a head: without value, arguments, `if` and `contains`, a name and one step are a partial set.
    fn finish_head(&mut self) {
        let Some(head) = self.head.take() else { return };
        let [(from, to)] = *head.steps.as_slice() else { return };
        if self.word(from) == "." {
            let text = format!(" contains \"{}\"", self.word(to));
            self.edit(from, to, &text);
        } else {
            self.edit(from, from, " contains ");
            self.edit(to, to, " ");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rego::{parse, source::apply};

    #[track_caller]
    fn check(rules: &str, want: &str) {
        let source = format!("package a\n{rules}\n");
        let text = Text::new("p.rego", &source);
        let tokens = parse::scan(&text).unwrap();
        let got = apply(&source, &edits(&text, &tokens));
        assert_eq!(got, format!("package a\n{want}\n"));
        parse::parse("p.rego", &got, RegoVersion::V1).unwrap_or_else(|fault| panic!("{got}: {fault}"));
    }

    #[test]
    fn bodies_get_their_if() {
        check("p { input.x }", "p  if { input.x }");
        check("p{ input.x }", "p if { input.x }");
        check("p = 1 { input.x }", "p = 1  if { input.x }");
        check("p := {\"a\": 1} { input.x }", "p := {\"a\": 1}  if { input.x }");
        check("p = {x | x := 1} { true }\nq = [1][0]", "p = {x | x := 1}  if { true }\nq = [1][0]");
        check("p[x] = y { y := input[x] }", "p[x] = y  if { y := input[x] }");
        check("f(x) { x > 1 }", "f(x)  if { x > 1 }");
        check("f({\"a\": x}) = y { y := x }", "f({\"a\": x}) = y  if { y := x }");
        check("p { a } { b }\na = 1\nb { a }", "p  if { a } { b }\na = 1\nb  if { a }");
        check(
            "p = 1 { a } else = 2 { b } else { true }\na = 1\nb = a",
            "p = 1  if { a } else = 2  if { b } else  if { true }\na = 1\nb = a",
        );
        check(
            "p = 1 { false } else = {\"x\": 2}\nq { p }",
            "p = 1  if { false } else = {\"x\": 2}\nq  if { p }",
        );
        check("default p = false\np { true }", "default p = false\np  if { true }");
    }

    #[test]
    fn partial_sets_get_their_contains() {
        check("p[x] { x := input.y }", "p contains x   if { x := input.y }");
        check("p[{\"a\": [x]}] { x := 1 }", "p contains {\"a\": [x]}   if { x := 1 }");
        check("p[\"a\"]\nq { p.a }", "p contains \"a\" \nq  if { p.a }");
        check("p.x { true }", "p contains \"x\"  if { true }");
        check("p.x.y { true }\np.x.z = 1", "p.x.y  if { true }\np.x.z = 1");
        check("p[x] = 1 { x := 2 }", "p[x] = 1  if { x := 2 }");
    }

    #[test]
    fn what_is_v1_already_stays() {
        let imports = "import future.keywords.if\nimport future.keywords.contains\nimport data.b.c as d\n";
        let kept = "\n\nimport data.b.c as d\n";
        for rules in [
            "p if d",
            "p if { d }",
            "p[x] if { x := d }",
            "p contains x if { x := d }",
            "p if not d\nq := 1 if d == 1\nr contains 2",
            "p if every x in [d] { x }\nq if some x in d with input as 1",
        ] {
            check(&[imports, rules].concat(), &[kept, rules].concat());
        }
        check(&[imports, "p contains d { true }"].concat(), &[kept, "p contains d  if { true }"].concat());
        let v1 = "import rego.v1\np if { true }";
        check(v1, v1);
    }

    #[test]
    fn faults_are_placed_in_the_text_as_it_was_written() {
        let text = "package a\np[x] { x := 1; y == }\n";
        let fault = parse::parse("p.rego", text, RegoVersion::V0).unwrap_err();
        assert_eq!((fault.place.line, fault.place.column), (2, 21), "{fault}");
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_read_as_v0_panics(pieces in proptest::collection::vec(0..PIECES.len(), 0..40)) {
            let text: String = pieces.iter().map(|piece| [PIECES[*piece], " "].concat()).collect();
            drop(parse::parse("p.rego", &format!("package a\n{text}\n"), RegoVersion::V0));
        }
    }

    const PIECES: &[&str] = &[
        "p",
        "x",
        "q",
        "\n",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        ".",
        "=",
        ":=",
        "\"s\"",
        "1",
        "if",
        "contains",
        "else",
        "default",
        "import",
        "future.keywords",
        "in",
        "every",
        "not",
        "some",
        "as",
        ",",
        "|",
        "set(",
        "true",
        "+",
    ];
}
