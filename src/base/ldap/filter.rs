//! Search filters (RFC 4515) with places for what a request brings.
//!
//! A filter is parsed once, when the configuration is read. A request's user name or an entry's name fills a place in
//! the parsed filter, never in the text: there is nothing that could be escaped too little. A place stands only where a
//! whole value is compared: in a pattern it would find others than the one who is meant.

use crate::base::ldap::dn::is_attribute;

/// Deepest nesting.
const DEPTH_MAX: usize = 16;

/// Bytes of a filter's text.
const BYTES_MAX: usize = 4096;

/// A search filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// `(&..)`: all of them hold.
    And(Vec<Filter>),
    /// `(|..)`: one of them holds.
    Or(Vec<Filter>),
    /// `(!..)`.
    Not(Box<Filter>),
    /// `(a=v)`.
    Equal(String, Vec<Piece>),
    /// `(a=x*y*z)`.
    Substrings {
        /// The attribute.
        attribute: String,
        /// What the value begins with.
        initial: Option<Vec<u8>>,
        /// What comes in it, in this order.
        any: Vec<Vec<u8>>,
        /// What it ends with.
        last: Option<Vec<u8>>,
    },
    /// `(a>=v)`.
    GreaterOrEqual(String, Vec<u8>),
    /// `(a<=v)`.
    LessOrEqual(String, Vec<u8>),
    /// `(a=*)`.
    Present(String),
    /// `(a~=v)`.
    Approximate(String, Vec<u8>),
    /// `(a:dn:rule:=v)`.
    Extensible {
        /// The attribute.
        attribute: Option<String>,
        /// Attributes of the entry's name count too.
        with_name: bool,
        /// The matching rule.
        rule: Option<String>,
        /// What is compared with.
        value: Vec<Piece>,
    },
}

/// A part of a value that is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// These bytes.
    Bytes(Vec<u8>),
    /// What the request brings.
    Place(Place),
}

/// A place in a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `{username}`: what the client calls itself.
    Username,
    /// `{dn}`: an entry's name.
    Dn,
    /// `{subject}`: the subject of the identity.
    Subject,
}

/// Why a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Longer than any that is meant.
    #[error("the filter is longer than 4096 bytes")]
    TooLong,
    /// Nested deeper than any that is meant.
    #[error("the filter is nested deeper than 16")]
    TooDeep,
    /// Not in the form of RFC 4515.
    #[error("the filter is not well-formed at byte {at}: expected {expected}")]
    Malformed {
        /// Where, from 0.
        at: usize,
        /// What should be there.
        expected: &'static str,
    },
    /// A word in braces that stands for nothing.
    #[error("the filter has an unknown place `{{{0}}}`")]
    UnknownPlace(String),
    /// A place where not a whole value is compared.
    #[error("the filter has a place in a pattern or an ordering, which would find others than the one meant")]
    PlaceInPattern,
}

// === impl Filter ===

impl Filter {
    /// Reads a filter.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > BYTES_MAX {
            return Err(FilterError::TooLong);
        }
        let mut parser = Parser { text, at: 0 };
        let filter = parser.filter(0)?;
        if parser.at == text.len() { Ok(filter) } else { Err(parser.expected("the end")) }
    }

    /// Whether `place` occurs in it.
    pub fn has(&self, place: Place) -> bool {
        let holds = |value: &[Piece]| value.contains(&Piece::Place(place));
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().any(|part| part.has(place)),
            Self::Not(part) => part.has(place),
            Self::Equal(_, value) | Self::Extensible { value, .. } => holds(value),
            Self::Substrings { .. }
            | Self::GreaterOrEqual(..)
            | Self::LessOrEqual(..)
            | Self::Present(_)
            | Self::Approximate(..) => false,
        }
    }

    /// The first attribute that is compared with `place`.
    pub fn attribute_of(&self, place: Place) -> Option<&str> {
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().find_map(|part| part.attribute_of(place)),
            Self::Equal(attribute, value) => {
                value.contains(&Piece::Place(place)).then_some(attribute.as_str())
            }
            Self::Not(_)
            | Self::Substrings { .. }
            | Self::GreaterOrEqual(..)
            | Self::LessOrEqual(..)
            | Self::Present(_)
            | Self::Approximate(..)
            | Self::Extensible { .. } => None,
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn expected(&self, expected: &'static str) -> FilterError {
        FilterError::Malformed { at: self.at, expected }
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    fn need(&mut self, word: &'static str) -> Result<(), FilterError> {
        if self.take(word) {
            return Ok(());
        }
        Err(self.expected(match word {
            "(" => "`(`",
            ")" => "`)`",
            "=" => "`=`",
            _ => "`:=`",
        }))
    }

    fn filter(&mut self, depth: usize) -> Result<Filter, FilterError> {
        if depth > DEPTH_MAX {
            return Err(FilterError::TooDeep);
        }
        self.need("(")?;
        let filter = if self.take("&") {
            Filter::And(self.list(depth)?)
        } else if self.take("|") {
            Filter::Or(self.list(depth)?)
        } else if self.take("!") {
            Filter::Not(Box::new(self.filter(depth + 1)?))
        } else {
            self.item()?
        };
        self.need(")")?;
        Ok(filter)
    }

    /// RFC 4526's absolute true and false, `(&)` and `(|)`, are not taken: an empty list is a mistake here.
    fn list(&mut self, depth: usize) -> Result<Vec<Filter>, FilterError> {
        let mut parts = vec![self.filter(depth + 1)?];
        while self.rest().starts_with('(') {
            parts.push(self.filter(depth + 1)?);
        }
        Ok(parts)
    }

    fn item(&mut self) -> Result<Filter, FilterError> {
        let end = self.rest().find(['=', '~', '<', '>', ':', '(', ')']).unwrap_or(self.rest().len());
        let attribute = self.rest().get(..end).unwrap_or_default();
        self.at += end;
        if self.rest().starts_with(':') {
            return self.extensible(attribute);
        }
        if !is_description(attribute) {
            return Err(self.expected("an attribute before it"));
        }
        let attribute = attribute.to_owned();
        if self.take("~=") {
            return Ok(Filter::Approximate(attribute, self.plain()?));
        }
        if self.take(">=") {
            return Ok(Filter::GreaterOrEqual(attribute, self.plain()?));
        }
        if self.take("<=") {
            return Ok(Filter::LessOrEqual(attribute, self.plain()?));
        }
        self.need("=")?;
        let first = self.value()?;
        if !self.rest().starts_with('*') {
            return Ok(Filter::Equal(attribute, first));
        }
        let mut parts = vec![bytes(first)?];
        while self.take("*") {
            parts.push(self.plain()?);
        }
        let last = parts.pop().filter(|last| !last.is_empty());
        let mut parts = parts.into_iter();
        let initial = parts.next().filter(|first| !first.is_empty());
        let any: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
        if initial.is_none() && any.is_empty() && last.is_none() {
            return Ok(Filter::Present(attribute));
        }
        Ok(Filter::Substrings { attribute, initial, any, last })
    }

    fn extensible(&mut self, attribute: &str) -> Result<Filter, FilterError> {
        let attribute = (!attribute.is_empty()).then(|| attribute.to_owned());
        let with_name = self.take(":dn:=") || self.take(":dn:");
        if with_name {
            // Both colons are read again, as the one before the rule or the equals sign.
            self.at = self.text.get(..self.at).unwrap_or_default().rfind(':').unwrap_or(self.at);
        }
        let mut rule = None;
        if !self.take(":=") {
            self.need(":")?;
            let end = self.rest().find(":=").ok_or_else(|| self.expected("`:=`"))?;
            rule = self.rest().get(..end).map(str::to_owned);
            self.at += end;
            self.need(":=")?;
        }
        let named = attribute.as_deref().is_none_or(is_description);
        let ruled = rule.as_deref().is_none_or(is_attribute);
        if !named || !ruled || (attribute.is_none() && rule.is_none()) {
            return Err(self.expected("an attribute or a matching rule before it"));
        }
        Ok(Filter::Extensible { attribute, with_name, rule, value: self.value()? })
    }

    fn plain(&mut self) -> Result<Vec<u8>, FilterError> {
        bytes(self.value()?)
    }

    fn value(&mut self) -> Result<Vec<Piece>, FilterError> {
        let mut pieces = Vec::new();
        let mut bytes = Vec::new();
        loop {
            let mut letters = self.rest().chars();
            match letters.next() {
                None | Some('*' | ')') => break,
                Some('(' | '\0') => return Err(self.expected("`(` and NUL written as `\\28` and `\\00`")),
                Some('\\') => {
                    let pair =
                        self.rest().get(1..3).filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()));
                    let byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
                    bytes.push(byte.ok_or_else(|| self.expected("two hexadecimal digits after `\\`"))?);
                    self.at += 3;
                }
                Some('{') => {
                    let end = self.rest().find('}').ok_or_else(|| self.expected("`}` after `{`"))?;
                    let word = self.rest().get(1..end).unwrap_or_default();
                    let place = match word {
                        "username" => Place::Username,
                        "dn" => Place::Dn,
                        "subject" => Place::Subject,
                        _ => return Err(FilterError::UnknownPlace(word.chars().take(64).collect())),
                    };
                    if !bytes.is_empty() {
                        pieces.push(Piece::Bytes(std::mem::take(&mut bytes)));
                    }
                    pieces.push(Piece::Place(place));
                    self.at += end + 1;
                }
                Some(letter) => {
                    bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                    self.at += letter.len_utf8();
                }
            }
        }
        if !bytes.is_empty() {
            pieces.push(Piece::Bytes(bytes));
        }
        Ok(pieces)
    }
}

fn bytes(value: Vec<Piece>) -> Result<Vec<u8>, FilterError> {
    let mut bytes = Vec::new();
    for piece in value {
        match piece {
            Piece::Bytes(part) => bytes.extend(part),
            Piece::Place(_) => return Err(FilterError::PlaceInPattern),
        }
    }
    Ok(bytes)
}

/// An attribute with or without options (RFC 4512 section 2.5).
fn is_description(text: &str) -> bool {
    let mut parts = text.split(';');
    let is_option = |option: &str| {
        !option.is_empty() && option.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    parts.next().is_some_and(is_attribute) && parts.all(is_option)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Vec<Piece> {
        vec![Piece::Bytes(text.into())]
    }

    #[track_caller]
    fn check(filter: &str, want: Filter) {
        assert_eq!(Filter::parse(filter), Ok(want), "{filter}");
    }

    #[test]
    fn filters_are_read() {
        let person = Filter::Equal("objectClass".into(), text("person"));
        let user = Filter::Equal("uid".into(), vec![Piece::Place(Place::Username)]);
        check("(uid={username})", user.clone());
        check("(&(objectClass=person)(uid={username}))", Filter::And(vec![person.clone(), user.clone()]));
        check("(|(!(objectClass=person)))", Filter::Or(vec![Filter::Not(Box::new(person))]));
        check("(cn=*)", Filter::Present("cn".into()));
        check(r"(cn=\2a\28\29\5cé)", Filter::Equal("cn".into(), text(r"*()\é")));
        check("(cn=)", Filter::Equal("cn".into(), vec![]));
        check("(a~=b)", Filter::Approximate("a".into(), b"b".to_vec()));
        check("(a;lang-en>=1)", Filter::GreaterOrEqual("a;lang-en".into(), b"1".to_vec()));
        check("(2.5.4.3<=1)", Filter::LessOrEqual("2.5.4.3".into(), b"1".to_vec()));
        let upn = vec![Piece::Place(Place::Username), Piece::Bytes(b"@corp.example".to_vec())];
        check("(userPrincipalName={username}@corp.example)", Filter::Equal("userPrincipalName".into(), upn));
        let parts = |initial: &str, any: &[&str], last: &str| Filter::Substrings {
            attribute: "cn".into(),
            initial: (!initial.is_empty()).then(|| initial.into()),
            any: any.iter().map(|part| (*part).into()).collect(),
            last: (!last.is_empty()).then(|| last.into()),
        };
        check("(cn=a*)", parts("a", &[], ""));
        check("(cn=*b*)", parts("", &["b"], ""));
        check("(cn=a*b*c*d)", parts("a", &["b", "c"], "d"));
    }

    #[test]
    fn extensible_matches_are_read() {
        let want = |attribute: Option<&str>, with_name, rule: Option<&str>| Filter::Extensible {
            attribute: attribute.map(str::to_owned),
            with_name,
            rule: rule.map(str::to_owned),
            value: vec![Piece::Place(Place::Dn)],
        };
        let chain = "1.2.840.113556.1.4.1941";
        check(&format!("(member:{chain}:={{dn}})"), want(Some("member"), false, Some(chain)));
        check("(ou:dn:={dn})", want(Some("ou"), true, None));
        check("(ou:dn:2.4.6:={dn})", want(Some("ou"), true, Some("2.4.6")));
        check("(:dn:2.4.6:={dn})", want(None, true, Some("2.4.6")));
        check("(:caseExactMatch:={dn})", want(None, false, Some("caseExactMatch")));
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for wrong in [
            "",
            "uid=x",
            "(uid=x",
            "(uid=x))",
            "()",
            "(&)",
            "(|)",
            "(!)",
            "(=x)",
            "(u id=x)",
            "(uid=x)(uid=y)",
            "(uid=(x))",
            r"(uid=\2)",
            r"(uid=\zz)",
            "(uid={username)",
            "(uid=\0)",
            "(:=x)",
            "(uid:=",
            "(uid>x)",
            "(!(a=b)(c=d))",
            "(;x=y)",
        ] {
            let error = Filter::parse(wrong).unwrap_err();
            assert!(matches!(error, FilterError::Malformed { .. }), "{wrong}: {error}");
        }
        assert_eq!(Filter::parse("(uid={user})"), Err(FilterError::UnknownPlace("user".into())));
        for pattern in ["(uid={username}*)", "(uid=*{username})", "(uid>={username})", "(uid~={username})"] {
            assert_eq!(Filter::parse(pattern), Err(FilterError::PlaceInPattern), "{pattern}");
        }
        let deep = format!("{}(a=b){}", "(!".repeat(40), ")".repeat(40));
        assert_eq!(Filter::parse(&deep), Err(FilterError::TooDeep));
        assert_eq!(Filter::parse(&"(".repeat(1 << 20)), Err(FilterError::TooLong));
    }

    #[test]
    fn places_are_found() {
        let filter = Filter::parse("(&(objectClass=person)(|(mail={username})(uid={username})))").unwrap();
        assert!(filter.has(Place::Username) && !filter.has(Place::Dn));
        assert_eq!(filter.attribute_of(Place::Username), Some("mail"));
        assert_eq!(Filter::parse("(:caseExactMatch:={dn})").unwrap().attribute_of(Place::Dn), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "[(&|!)=*:~<>{}a-z\\\\é]{0,60}") {
            let _read = Filter::parse(&text).is_ok();
        }
    }
}
