//! Tokens of Rego, with what stood before each: blanks end references, line ends end expressions.
//!
//! A template string is several tokens, its texts, with the tokens of its expressions between them.

use crate::rego::builtin::Failure;

/// Most tokens of a module: each becomes a few objects of the tree.
const TOKENS_MAX: usize = 50_000;

/// Rego v1's keywords, all of which may be names within a reference.
const KEYWORDS: &[&str] = &[
    "as", "contains", "default", "else", "every", "false", "if", "import", "in", "not", "null", "package",
    "some", "true", "with",
];

/// The longer ones first.
const SYMBOLS: &[&str] = &[
    ":=", "==", "!=", "<=", ">=", ".", ",", ";", ":", "(", ")", "[", "]", "{", "}", "=", "<", ">", "+", "-",
    "*", "/", "%", "&", "|",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Name,
    Keyword,
    Number,
    /// The text between double quotes.
    Text,
    /// The text between backquotes.
    RawText,
    /// A piece of text of a template string.
    Template {
        is_first: bool,
        is_last: bool,
        is_raw: bool,
    },
    Symbol(&'static str),
    End,
}

/// A token; of texts, `start..end` is what stands between the quotes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) follows_blank: bool,
    pub(super) follows_line_end: bool,
    pub(super) follows_comment: bool,
}

/// A comment: its place, counted from 1 in characters, and what follows the `#`.
#[derive(Debug)]
pub(super) struct Comment<'a> {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) text: &'a str,
}

#[derive(Debug)]
pub(super) struct Lexed<'a> {
    /// At least the token of the end.
    pub(super) tokens: Vec<Token>,
    pub(super) comments: Vec<Comment<'a>>,
}

/// Splits a module into tokens and comments.
pub(super) fn lex<'a>(filename: &'a str, text: &'a str) -> Result<Lexed<'a>, Failure> {
    let mut lexer = Lexer {
        filename,
        text,
        at: if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 },
        line: 1,
        line_start: 0,
        templates: Vec::new(),
        lexed: Lexed { tokens: Vec::new(), comments: Vec::new() },
    };
    while lexer.token()? {}
    Ok(lexer.lexed)
}

/// A parse error at a byte of the text.
pub(super) fn error(filename: &str, text: &str, at: usize, message: &str) -> Failure {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Failure::Error(format!("{filename}:{line}:{column}: rego_parse_error: {message}"))
}

pub(super) fn is_keyword(word: &str) -> bool {
    KEYWORDS.contains(&word)
}

/// The template string whose expression is being read.
struct OpenTemplate {
    is_raw: bool,
    braces: usize,
}

struct Lexer<'a> {
    filename: &'a str,
    text: &'a str,
    at: usize,
    line: usize,
    line_start: usize,
    templates: Vec<OpenTemplate>,
    lexed: Lexed<'a>,
}

#[derive(Default)]
struct Before {
    blank: bool,
    line_end: bool,
    comment: bool,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn fail<T>(&self, at: usize, message: &str) -> Result<T, Failure> {
        Err(error(self.filename, self.text, at, message))
    }

    /// Reads one token, and says whether another may follow.
    fn token(&mut self) -> Result<bool, Failure> {
        let before = self.skip_blanks();
        let at = self.at;
        let Some(first) = self.rest().chars().next() else {
            if !self.templates.is_empty() {
                return self.fail(at, "non-terminated template string");
            }
            self.push(Kind::End, at, at, &before)?;
            return Ok(false);
        };
        if first == '_' || first.is_ascii_alphabetic() {
            self.at += length_while(self.rest(), |byte| byte == b'_' || byte.is_ascii_alphanumeric());
            let is_keyword = is_keyword(self.text.get(at..self.at).unwrap_or_default());
            let kind = if is_keyword { Kind::Keyword } else { Kind::Name };
            self.push(kind, at, self.at, &before)?;
        } else if first.is_ascii_digit() {
            self.number()?;
            self.push(Kind::Number, at, self.at, &before)?;
        } else if first == '"' {
            let end = self.quoted()?;
            self.push(Kind::Text, at + 1, end, &before)?;
        } else if first == '`' {
            let Some(length) = self.rest().get(1..).and_then(|rest| rest.find('`')) else {
                return self.fail(at, "non-terminated string");
            };
            self.count_lines(at, at + 1 + length);
            self.at = at + length + 2;
            self.push(Kind::RawText, at + 1, at + 1 + length, &before)?;
        } else if self.rest().starts_with("$\"") || self.rest().starts_with("$`") {
            let is_raw = self.rest().starts_with("$`");
            self.at += 2;
            self.template(is_raw, true, &before)?;
        } else if let Some(symbol) = SYMBOLS.iter().find(|symbol| self.rest().starts_with(**symbol)) {
            self.symbol(symbol, &before)?;
        } else {
            return self.fail(at, "illegal token");
        }
        Ok(true)
    }

    fn push(&mut self, kind: Kind, start: usize, end: usize, before: &Before) -> Result<(), Failure> {
        if self.lexed.tokens.len() >= TOKENS_MAX {
            return Err(Failure::Refused(format!("module of more than {TOKENS_MAX} tokens")));
        }
        self.lexed.tokens.push(Token {
            kind,
            start,
            end,
            follows_blank: before.blank,
            follows_line_end: before.line_end,
            follows_comment: before.comment,
        });
        Ok(())
    }

    fn skip_blanks(&mut self) -> Before {
        let mut before = Before::default();
        loop {
            match self.rest().bytes().next() {
                Some(b'\n') => {
                    self.at += 1;
                    self.line += 1;
                    self.line_start = self.at;
                    before.blank = true;
                    before.line_end = true;
                }
                Some(b' ' | b'\t' | b'\r') => {
                    self.at += 1;
                    before.blank = true;
                }
                Some(b'#') => {
                    let line = self.rest().split('\n').next().unwrap_or_default();
                    let column = self.text.get(self.line_start..self.at).unwrap_or_default().chars().count();
                    let text = line.strip_suffix('\r').unwrap_or(line).get(1..).unwrap_or_default();
                    self.lexed.comments.push(Comment { line: self.line, column: column + 1, text });
                    self.at += line.len();
                    before.comment = true;
                }
                Some(_) | None => return before,
            }
        }
    }

    fn count_lines(&mut self, from: usize, to: usize) {
        let passed = self.text.get(from..to).unwrap_or_default();
        if let Some(last) = passed.rfind('\n') {
            self.line += passed.matches('\n').count();
            self.line_start = from + last + 1;
        }
    }

    fn number(&mut self) -> Result<(), Failure> {
        let start = self.at;
        let digits = |text: &str| length_while(text, |byte| byte.is_ascii_digit());
        self.at += digits(self.rest());
        if self.rest().starts_with('.') {
            self.at += 1;
            let fraction = digits(self.rest());
            if fraction == 0 {
                return self.fail(start, "expected fraction");
            }
            self.at += fraction;
        }
        if self.rest().starts_with(['e', 'E']) {
            self.at += 1;
            self.at += usize::from(self.rest().starts_with(['+', '-']));
            let exponent = digits(self.rest());
            if exponent == 0 {
                return self.fail(start, "expected exponent");
            }
            self.at += exponent;
        }
        if self.rest().starts_with(|next: char| next == '_' || next.is_ascii_alphabetic()) {
            return self.fail(start, "illegal number format");
        }
        Ok(())
    }

    /// Passes these bytes and the rest of the character that they end in: an escaped one may be a long one. There may be no
    /// more than the end.
    fn pass(&mut self, bytes: usize) {
        let after = self.at.saturating_add(bytes).min(self.text.len());
        self.at = self.text.ceil_char_boundary(after);
    }

    /// Passes a text in double quotes; gives the place of the closing one.
    fn quoted(&mut self) -> Result<usize, Failure> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.rest().bytes().next() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(self.at - 1);
                }
                Some(b'\\') => self.pass(2),
                Some(b'\n') | None => return self.fail(start, "non-terminated string"),
                Some(_) => self.pass(1),
            }
        }
    }

    fn symbol(&mut self, symbol: &'static str, before: &Before) -> Result<(), Failure> {
        let start = self.at;
        self.at += symbol.len();
        match (symbol, self.templates.last_mut()) {
            ("{", Some(template)) => template.braces += 1,
            ("}", Some(template)) if template.braces > 0 => template.braces -= 1,
            ("}", Some(template)) => {
                let is_raw = template.is_raw;
                self.templates.pop();
                return self.template(is_raw, false, before);
            }
            _ => {}
        }
        self.push(Kind::Symbol(symbol), start, self.at, before)
    }

    /// Passes a piece of text of a template string, up to its next expression or its end.
    fn template(&mut self, is_raw: bool, is_first: bool, before: &Before) -> Result<(), Failure> {
        let start = self.at;
        loop {
            match self.rest().bytes().next() {
                Some(b'\\') if !is_raw || self.rest().starts_with("\\{") => self.pass(2),
                Some(b'{') => break,
                Some(b'"') if !is_raw => break,
                Some(b'`') if is_raw => break,
                Some(b'\n') if !is_raw => return self.fail(start, "non-terminated string"),
                None => return self.fail(start, "non-terminated string"),
                Some(_) => self.pass(1),
            }
        }
        let end = self.at;
        self.count_lines(start, end);
        let is_last = !self.rest().starts_with('{');
        self.at += 1;
        if !is_last {
            self.templates.push(OpenTemplate { is_raw, braces: 0 });
        }
        self.push(Kind::Template { is_first, is_last, is_raw }, start, end, before)
    }
}

fn length_while(text: &str, is_part: impl Fn(u8) -> bool) -> usize {
    text.bytes().take_while(|byte| is_part(*byte)).count()
}

/// What a text in double quotes stands for, as JSON has it; a half of a surrogate pair is `U+FFFD`,
/// as in Go. Nothing where it is no such text.
pub(super) fn unescaped(inner: &str) -> Option<String> {
    if !inner.contains('\\') {
        return Some(inner.to_owned());
    }
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(next) = rest.chars().next() {
        rest = rest.get(next.len_utf8()..)?;
        if next < ' ' {
            return None;
        }
        if next != '\\' {
            out.push(next);
            continue;
        }
        let escaped = rest.chars().next()?;
        rest = rest.get(escaped.len_utf8()..)?;
        out.push(match escaped {
            '"' | '\\' | '/' => escaped,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let unit = code_unit(rest)?;
                rest = rest.get(4..)?;
                let low = rest.strip_prefix("\\u").and_then(code_unit);
                match low.and_then(|low| char::decode_utf16([unit, low]).next()?.ok()) {
                    Some(pair) if pair.len_utf16() == 2 => {
                        rest = rest.get(6..)?;
                        pair
                    }
                    Some(_) | None => char::from_u32(u32::from(unit)).unwrap_or('\u{fffd}'),
                }
            }
            _ => return None,
        });
    }
    Some(out)
}

fn code_unit(text: &str) -> Option<u16> {
    let digits = text.get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    u16::from_str_radix(digits, 16).ok()
}

/// The text of a piece of a template string, in which `\{` is a brace.
pub(super) fn template_text(inner: &str, is_raw: bool) -> Option<String> {
    if is_raw {
        return Some(inner.replace("\\{", "{"));
    }
    let mut plain = String::with_capacity(inner.len());
    let mut characters = inner.chars().peekable();
    while let Some(next) = characters.next() {
        match (next, characters.peek()) {
            ('\\', Some('{')) => {}
            ('\\', Some(escaped)) => {
                plain.extend([next, *escaped]);
                characters.next();
            }
            _ => plain.push(next),
        }
    }
    unescaped(&plain)
}
