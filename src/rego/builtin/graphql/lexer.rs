//! Text to tokens (GraphQL, section 2.1).

/// Longest document read, in bytes.
pub(super) const TEXT_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// `! $ & ( ) : = @ [ ] { } |`, and `.` for the three dots.
    Punctuator(char),
    Name(String),
    Int(String),
    Float(String),
    Text(String),
    Block(String),
    End,
}

/// A token, and the line and column (from 1) where it begins.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) token: Token,
    pub(super) line: usize,
    pub(super) column: usize,
}

/// Splits a text; the last token is [`Token::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Placed>, String> {
    let mut lexer = Lexer { rest: text, line: 1, column: 1 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_ignored();
        let (line, column) = (lexer.line, lexer.column);
        let token = lexer
            .token()
            .map_err(|reason| format!("{reason} in GraphQL string at location {line}:{column}"))?;
        let is_end = token == Token::End;
        tokens.push(Placed { token, line, column });
        if is_end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    column: usize,
}

impl Lexer<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.rest = self.rest.get(character.len_utf8()..).unwrap_or_default();
        let ends_line = character == '\n' || (character == '\r' && !self.rest.starts_with('\n'));
        if ends_line {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
        Some(character)
    }

    fn skip(&mut self, text: &str) -> bool {
        let found = self.rest.starts_with(text);
        if found {
            for _ in text.chars() {
                self.next();
            }
        }
        found
    }

    fn skip_ignored(&mut self) {
        while let Some(character) = self.peek() {
            match character {
                '\t' | ' ' | ',' | '\n' | '\r' | '\u{feff}' => {
                    self.next();
                }
                '#' => {
                    while self.peek().is_some_and(|character| !matches!(character, '\n' | '\r')) {
                        self.next();
                    }
                }
                _ => return,
            }
        }
    }

    fn token(&mut self) -> Result<Token, String> {
        let Some(character) = self.peek() else { return Ok(Token::End) };
        match character {
            '!' | '$' | '&' | '(' | ')' | ':' | '=' | '@' | '[' | ']' | '{' | '}' | '|' => {
                self.next();
                Ok(Token::Punctuator(character))
            }
            '.' if self.skip("...") => Ok(Token::Punctuator('.')),
            '_' | 'a'..='z' | 'A'..='Z' => {
                Ok(Token::Name(self.while_(|next| next == '_' || next.is_ascii_alphanumeric())))
            }
            '-' | '0'..='9' => self.number(),
            '"' if self.skip("\"\"\"") => self.block(),
            '"' => self.text(),
            _ => Err(format!("cannot parse the unexpected character `{}`", character.escape_debug())),
        }
    }

    fn while_(&mut self, is_part: impl Fn(char) -> bool) -> String {
        let mut text = String::new();
        while let Some(character) = self.peek().filter(|character| is_part(*character)) {
            text.push(character);
            self.next();
        }
        text
    }

    fn number(&mut self) -> Result<Token, String> {
        let mut text = String::new();
        if self.skip("-") {
            text.push('-');
        }
        let digits = self.digits()?;
        if digits.len() > 1 && digits.starts_with('0') {
            return Err("invalid number, unexpected digit after 0".to_owned());
        }
        text.push_str(&digits);
        let mut is_float = false;
        if self.skip(".") {
            is_float = true;
            text.push('.');
            text.push_str(&self.digits()?);
        }
        if let Some(exponent @ ('e' | 'E')) = self.peek() {
            is_float = true;
            self.next();
            text.push(exponent);
            if let Some(sign @ ('+' | '-')) = self.peek() {
                self.next();
                text.push(sign);
            }
            text.push_str(&self.digits()?);
        }
        Ok(if is_float { Token::Float(text) } else { Token::Int(text) })
    }

    fn digits(&mut self) -> Result<String, String> {
        let digits = self.while_(|character| character.is_ascii_digit());
        if digits.is_empty() { Err("invalid number, expected digit".to_owned()) } else { Ok(digits) }
    }

    fn text(&mut self) -> Result<Token, String> {
        self.next();
        let mut text = String::new();
        while let Some(character) = self.next() {
            match character {
                '"' => return Ok(Token::Text(text)),
                '\n' | '\r' => break,
                '\\' => text.push(self.escape()?),
                '\t' => text.push(character),
                _ if character < ' ' => return Err("invalid character within string".to_owned()),
                _ => text.push(character),
            }
        }
        Err("unterminated string".to_owned())
    }

    fn escape(&mut self) -> Result<char, String> {
        let invalid = || "invalid character escape sequence".to_owned();
        match self.next().ok_or_else(invalid)? {
            same @ ('"' | '/' | '\\') => Ok(same),
            'b' => Ok('\u{8}'),
            'f' => Ok('\u{c}'),
            'n' => Ok('\n'),
            'r' => Ok('\r'),
            't' => Ok('\t'),
            'u' => {
                let mut code = 0;
                for _ in 0..4 {
                    let digit = self.next().and_then(|digit| digit.to_digit(16)).ok_or_else(invalid)?;
                    code = code * 16 + digit;
                }
                // Half a surrogate pair is no character; Go writes this one for it.
                Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
            }
            _ => Err(invalid()),
        }
    }

    fn block(&mut self) -> Result<Token, String> {
        let mut raw = String::new();
        loop {
            if self.skip("\"\"\"") {
                return Ok(Token::Block(block_value(&raw)));
            }
            if self.skip("\\\"\"\"") {
                raw.push_str("\"\"\"");
                continue;
            }
            match self.next() {
                None => return Err("unterminated string".to_owned()),
                Some('\r') => {
                    // Both ends of a line count as one.
                    self.skip("\n");
                    raw.push('\n');
                }
                Some(character) if character < ' ' && !matches!(character, '\t' | '\n') => {
                    return Err("invalid character within string".to_owned());
                }
                Some(character) => raw.push(character),
            }
        }
    }
}

/// A block string without its common indentation and its blank first and last lines (section 2.9.4).
fn block_value(raw: &str) -> String {
    let indent_of = |line: &str| line.len() - line.trim_start_matches([' ', '\t']).len();
    let is_blank = |line: &&str| line.trim_matches([' ', '\t']).is_empty();
    let lines: Vec<&str> = raw.split('\n').collect();
    let indented = lines.iter().skip(1).filter(|line| !is_blank(line));
    let indent = indented.map(|line| indent_of(line)).min().unwrap_or(0);
    let lines: Vec<&str> = lines
        .iter()
        .enumerate()
        .map(|(number, line)| if number == 0 { *line } else { line.get(indent..).unwrap_or_default() })
        .collect();
    let first = lines.iter().position(|line| !is_blank(line)).unwrap_or(lines.len());
    let end = lines.iter().rposition(|line| !is_blank(line)).map_or(first, |last| last + 1);
    lines.get(first..end).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_lose_their_indentation() {
        assert_eq!(block_value("\n    Hello,\n      World!\n\n    Yours.\n  "), "Hello,\n  World!\n\nYours.");
        assert_eq!(block_value("one line"), "one line");
        assert_eq!(block_value("  \n\n "), "");
    }

    #[test]
    fn places_are_those_of_the_first_character() {
        let tokens = tokens("{\r\n  a # x\n  é").unwrap_err();
        assert!(tokens.ends_with("location 3:3"), "{tokens}");
        for wrong in ["\"\n\"", "\"\\q\"", "01", "1.", "-", "..", "'a'", "\"\"\"\r", "\u{1}"] {
            assert!(super::tokens(wrong).is_err(), "{wrong:?}");
        }
    }
}
