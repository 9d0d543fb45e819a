//! The few messages of LDAP (RFC 4511 section 4) that the gateway sends and takes.

use crate::base::ldap::filter::{Filter, Piece, Place};
use crate::base::secret::Secret;
use crate::config::model::ldap::Scope;
use crate::identity::ldap::ber::{
    BOOLEAN, ENUMERATED, INTEGER, Malformed, OCTETS, Reader, SEQUENCE, SET, Writer,
};

const BIND_REQUEST: u8 = 0x60;
const BIND_RESPONSE: u8 = 0x61;
const SEARCH_REQUEST: u8 = 0x63;
const SEARCH_ENTRY: u8 = 0x64;
const SEARCH_DONE: u8 = 0x65;
const SEARCH_REFERENCE: u8 = 0x73;
const EXTENDED_REQUEST: u8 = 0x77;
const EXTENDED_RESPONSE: u8 = 0x78;

const VERSION: u32 = 3;
const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";

/// Aliases would lead out of the part of the tree that is searched.
const NEVER_DEREFERENCE: u32 = 0;

/// "No attributes" (RFC 4511 section 4.5.1.8); an empty list would ask for all.
const NO_ATTRIBUTES: &str = "1.1";

/// What a value costs in memory on top of its bytes, at least.
const VALUE_OVERHEAD_BYTES: usize = 32;

/// `success` (RFC 4511 appendix A).
pub(super) const SUCCESS: u32 = 0;
/// `sizeLimitExceeded`.
pub(super) const SIZE_LIMIT_EXCEEDED: u32 = 4;
/// `noSuchObject`.
pub(super) const NO_SUCH_OBJECT: u32 = 32;

/// What is asked.
#[derive(Debug)]
pub(super) enum Request {
    Bind { dn: String, password: Secret<Vec<u8>> },
    Search(Search),
    StartTls,
}

/// A search.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) base: String,
    pub(super) scope: Scope,
    pub(super) filter: Filled,
    /// Entries wanted at most; the server is asked to stop there.
    pub(super) entries_max: u32,
    pub(super) attributes: Vec<String>,
}

/// A filter and what its places hold.
#[derive(Debug)]
pub(super) enum Filled {
    /// One entry, whatever it is.
    Any,
    /// `filter` with `values`.
    One { filter: Filter, values: Values },
    /// `filter` with any of `values`.
    Each { filter: Filter, values: Vec<Values> },
}

/// What the places of a filter hold.
#[derive(Debug, Clone, Default)]
pub(super) struct Values {
    pub(super) username: String,
    pub(super) dn: String,
    pub(super) subject: String,
}

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Response {
    Bind(u32),
    Entry(Entry),
    /// A reference to another server, which is not followed.
    Reference,
    Done(u32),
    Extended(u32),
}

/// An entry, with the attributes that were asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) dn: String,
    pub(super) attributes: Vec<(String, Vec<Vec<u8>>)>,
    /// What it costs in memory, about.
    pub(super) bytes: usize,
    /// The server has left out values that were asked for.
    pub(super) is_cut: bool,
}

impl Request {
    /// The message with this id.
    pub(super) fn encode(&self, id: u32) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.nest(SEQUENCE, |message| {
            message.number(INTEGER, id);
            match self {
                Self::Bind { dn, password } => message.nest(BIND_REQUEST, |bind| {
                    bind.number(INTEGER, VERSION);
                    bind.put(OCTETS, dn.as_bytes());
                    bind.put(0x80, password.expose());
                }),
                Self::Search(search) => message.nest(SEARCH_REQUEST, |writer| search.encode(writer)),
                Self::StartTls => message.nest(EXTENDED_REQUEST, |extended| extended.put(0x80, START_TLS)),
            }
        });
        writer.into_bytes()
    }
}

impl Search {
    fn encode(&self, writer: &mut Writer) {
        writer.put(OCTETS, self.base.as_bytes());
        let scope = match self.scope {
            Scope::Base => 0,
            Scope::One => 1,
            Scope::Subtree => 2,
        };
        writer.number(ENUMERATED, scope);
        writer.number(ENUMERATED, NEVER_DEREFERENCE);
        writer.number(INTEGER, self.entries_max);
        // The gateway keeps the time itself.
        writer.number(INTEGER, 0);
        writer.boolean(BOOLEAN, false);
        self.filter.encode(writer);
        writer.nest(SEQUENCE, |list| {
            for attribute in &self.attributes {
                list.put(OCTETS, attribute.as_bytes());
            }
            if self.attributes.is_empty() {
                list.put(OCTETS, NO_ATTRIBUTES.as_bytes());
            }
        });
    }
}

impl Filled {
    fn encode(&self, writer: &mut Writer) {
        match self {
            Self::Any => writer.put(0x87, b"objectClass"),
            Self::One { filter, values } => encode(filter, values, writer),
            Self::Each { filter, values } => writer.nest(0xa1, |list| {
                for values in values {
                    encode(filter, values, list);
                }
            }),
        }
    }
}

impl Values {
    fn fill(&self, pieces: &[Piece]) -> Vec<u8> {
        let mut value = Vec::new();
        for piece in pieces {
            value.extend_from_slice(match piece {
                Piece::Bytes(bytes) => bytes,
                Piece::Place(Place::Username) => self.username.as_bytes(),
                Piece::Place(Place::Dn) => self.dn.as_bytes(),
                Piece::Place(Place::Subject) => self.subject.as_bytes(),
            });
        }
        value
    }
}

/// RFC 4511 section 4.5.1.7. As deep as the configured filter, which has a bound.
fn encode(filter: &Filter, values: &Values, writer: &mut Writer) {
    let compare = |writer: &mut Writer, tag: u8, attribute: &str, value: &[u8]| {
        writer.nest(tag, |assertion| {
            assertion.put(OCTETS, attribute.as_bytes());
            assertion.put(OCTETS, value);
        });
    };
    let each = |list: &mut Writer, parts: &[Filter]| {
        for part in parts {
            encode(part, values, list);
        }
    };
    match filter {
        Filter::And(parts) => writer.nest(0xa0, |list| each(list, parts)),
        Filter::Or(parts) => writer.nest(0xa1, |list| each(list, parts)),
        Filter::Not(part) => writer.nest(0xa2, |not| encode(part, values, not)),
        Filter::Equal(attribute, value) => compare(writer, 0xa3, attribute, &values.fill(value)),
        Filter::Substrings { attribute, initial, any, last } => writer.nest(0xa4, |substrings| {
            substrings.put(OCTETS, attribute.as_bytes());
            substrings.nest(SEQUENCE, |list| {
                if let Some(part) = initial {
                    list.put(0x80, part);
                }
                for part in any {
                    list.put(0x81, part);
                }
                if let Some(part) = last {
                    list.put(0x82, part);
                }
            });
        }),
        Filter::GreaterOrEqual(attribute, value) => compare(writer, 0xa5, attribute, value),
        Filter::LessOrEqual(attribute, value) => compare(writer, 0xa6, attribute, value),
        Filter::Present(attribute) => writer.put(0x87, attribute.as_bytes()),
        Filter::Approximate(attribute, value) => compare(writer, 0xa8, attribute, value),
        Filter::Extensible { attribute, with_name, rule, value } => writer.nest(0xa9, |assertion| {
            if let Some(rule) = rule {
                assertion.put(0x81, rule.as_bytes());
            }
            if let Some(attribute) = attribute {
                assertion.put(0x82, attribute.as_bytes());
            }
            assertion.put(0x83, &values.fill(value));
            if *with_name {
                assertion.boolean(0x84, true);
            }
        }),
    }
}

impl Response {
    /// Reads a message and its id. Of an entry's attributes only `wanted` ones are kept.
    pub(super) fn parse(message: &[u8], wanted: &[String]) -> Result<(u32, Self), Malformed> {
        let mut outer = Reader::new(message);
        let mut message = outer.enter(SEQUENCE)?;
        let id = message.number(INTEGER)?;
        let tag = message.tag().ok_or(Malformed)?;
        let operation = message.enter(tag)?;
        // Controls may follow; none was asked for, and none that is not critical needs to be understood.
        let response = match tag {
            BIND_RESPONSE => Self::Bind(result(operation)?),
            SEARCH_ENTRY => Self::Entry(Entry::parse(operation, wanted)?),
            SEARCH_REFERENCE => Self::Reference,
            SEARCH_DONE => Self::Done(result(operation)?),
            EXTENDED_RESPONSE => Self::Extended(result(operation)?),
            _ => return Err(Malformed),
        };
        if outer.is_empty() { Ok((id, response)) } else { Err(Malformed) }
    }
}

/// The code of an `LDAPResult` (RFC 4511 section 4.1.9).
fn result(mut operation: Reader<'_>) -> Result<u32, Malformed> {
    let code = operation.number(ENUMERATED)?;
    operation.take(OCTETS)?;
    operation.take(OCTETS)?;
    Ok(code)
}

impl Entry {
    fn parse(mut operation: Reader<'_>, wanted: &[String]) -> Result<Self, Malformed> {
        let dn = operation.text()?.to_owned();
        let bytes = dn.len() + VALUE_OVERHEAD_BYTES;
        let mut entry = Self { dn, attributes: Vec::new(), bytes, is_cut: false };
        let mut list = operation.enter(SEQUENCE)?;
        while !list.is_empty() {
            let mut attribute = list.enter(SEQUENCE)?;
            let description = attribute.text()?;
            let mut values = attribute.enter(SET)?;
            let (name, options) = description.split_once(';').unwrap_or((description, ""));
            let Some(name) = wanted.iter().find(|wanted| wanted.eq_ignore_ascii_case(name)) else { continue };
            // Active Directory gives long lists in pieces: `memberOf;range=0-1499`.
            entry.is_cut |= options.get(..6).is_some_and(|option| option.eq_ignore_ascii_case("range="));
            let mut kept = Vec::new();
            while !values.is_empty() {
                let value = values.take(OCTETS)?;
                entry.bytes += value.len() + VALUE_OVERHEAD_BYTES;
                kept.push(value.to_vec());
            }
            entry.bytes += name.len() + 2 * VALUE_OVERHEAD_BYTES;
            entry.attributes.push((name.clone(), kept));
        }
        Ok(entry)
    }

    /// The values of an attribute.
    pub(super) fn values(&self, name: &str) -> &[Vec<u8>] {
        let found = self.attributes.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or(&[], |(_, values)| values)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::hex::hex;

    #[test]
    fn a_bind_is_written_as_in_the_standard() {
        let bind = Request::Bind { dn: "cn=a".into(), password: Secret::new(b"pw".to_vec()) };
        assert_eq!(hex(&bind.encode(1)), "3012020101600d0201030404636e3d618002707 7".replace(' ', ""));
        assert!(!format!("{bind:?}").contains("112, 119"));
        let start = Request::StartTls.encode(300);
        assert_eq!(hex(&start), format!("301e0202012c77188016{}", hex(START_TLS)));
    }

    fn encoded(filter: &str, username: &str) -> Vec<u8> {
        let mut writer = Writer::default();
        let values = Values { username: username.into(), ..Values::default() };
        encode(&Filter::parse(filter).unwrap(), &values, &mut writer);
        writer.into_bytes()
    }

    #[test]
    fn a_name_fills_a_value_and_nothing_else() {
        for name in ["*", ")(uid=*", "a\\2a", "x)(|(uid=*", "é*()\\"] {
            let written = encoded("(uid={username})", name);
            let mut equal = Reader::new(&written).enter(0xa3).unwrap();
            assert_eq!((equal.text(), equal.text()), (Ok("uid"), Ok(name)));
            assert!(equal.is_empty());
        }
    }

    #[test]
    fn every_kind_of_filter_is_written() {
        for (filter, want) in [
            ("(&(a=b)(c=d))", "a010a306040161040162a306040163040164"),
            ("(|(a=b))", "a108a306040161040162"),
            ("(!(a=b))", "a208a306040161040162"),
            ("(a=*)", "870161"),
            ("(a=x*y*z)", "a40e04016130098001788101798201 7a"),
            ("(a>=b)", "a506040161040162"),
            ("(a<=b)", "a606040161040162"),
            ("(a~=b)", "a806040161040162"),
            ("(a:dn:1.2:={username})", "a90e8103312e32820161830175840 1ff"),
        ] {
            assert_eq!(hex(&encoded(filter, "u")), want.replace(' ', ""), "{filter}");
        }
    }

    fn message(id: u32, tag: u8, content: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.nest(SEQUENCE, |message| {
            message.number(INTEGER, id);
            message.nest(tag, content);
        });
        writer.into_bytes()
    }

    fn result_of(writer: &mut Writer, code: u32) {
        writer.number(ENUMERATED, code);
        writer.put(OCTETS, b"");
        writer.put(OCTETS, b"told");
    }

    #[test]
    fn responses_are_read() {
        let bind = message(7, BIND_RESPONSE, |writer| result_of(writer, 49));
        assert_eq!(Response::parse(&bind, &[]), Ok((7, Response::Bind(49))));
        let done = message(7, SEARCH_DONE, |writer| result_of(writer, 0));
        assert_eq!(Response::parse(&done, &[]), Ok((7, Response::Done(0))));
        let entry = message(7, SEARCH_ENTRY, |writer| {
            writer.put(OCTETS, b"uid=a");
            writer.nest(SEQUENCE, |list| {
                for name in ["MAIL", "other"] {
                    list.nest(SEQUENCE, |attribute| {
                        attribute.put(OCTETS, name.as_bytes());
                        attribute.nest(SET, |values| values.put(OCTETS, b"a@b"));
                    });
                }
            });
        });
        let (_, Response::Entry(entry)) = Response::parse(&entry, &["mail".to_owned()]).unwrap() else {
            panic!("an entry")
        };
        assert_eq!(entry.attributes, [("mail".to_owned(), vec![b"a@b".to_vec()])]);
        assert_eq!(entry.values("Mail"), [b"a@b".to_vec()]);
        assert!(entry.values("other").is_empty());
    }

    #[test]
    fn hostile_answers_are_malformed() {
        let nested = (0..12_000_u32).rev().flat_map(|depth| {
            let length = depth * 6 + 2;
            [&[0x30, 0x84][..], &length.to_be_bytes()].concat()
        });
        let nested: Vec<u8> = nested.chain([0x30, 0]).collect();
        let short = [0x30, 3, 2, 1, 1];
        for wrong in
            [&[0x30, 0][..], &short, &nested, &[0x30, 5, 2, 1, 1, 0x65, 9], &[0x30, 5, 2, 1, 1, 0x79, 0]]
        {
            assert_eq!(Response::parse(wrong, &[]), Err(Malformed));
        }
    }

    proptest! {
        #[test]
        fn any_message_is_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), at in 0..60_usize) {
            let _any = Response::parse(&bytes, &["mail".to_owned()]);
            let mut damaged = message(1, SEARCH_ENTRY, |writer| {
                writer.put(OCTETS, b"uid=a");
                writer.nest(SEQUENCE, |list| list.put(SEQUENCE, &bytes));
            });
            if let Some(byte) = damaged.get_mut(at) {
                *byte ^= bytes.first().copied().unwrap_or(1);
            }
            let _damaged = Response::parse(&damaged, &["mail".to_owned()]);
        }
    }
}
