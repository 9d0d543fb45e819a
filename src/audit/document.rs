//! The policy's input and result without what must not be logged, and the list of what was left out.
//!
//! A member is judged before it is written, so that a credential never stands in a buffer, not even for a moment.

use http::HeaderName;
use regorus::Value;
use smallvec::SmallVec;

use crate::audit::credential::{self, Rule};
use crate::audit::json::{Unwritable, is_undefined, push_key, push_value};
use crate::audit::memo::Memo;

/// Bytes of a body at most, in a request or in a deny's answer.
pub(super) const BODY_MAX: usize = 16 * 1024;

/// Quoted JSON pointers with commas between them.
type Pointers = SmallVec<[u8; 256]>;

/// Credentials that are looked for.
pub(super) type Credentials<'v> = SmallVec<[&'v str; 4]>;

/// Credentials shorter than this are not looked for elsewhere: what is short is found by chance.
const CREDENTIAL_MIN: usize = 12;
/// Bytes of a credential's end by which it is found.
const TAIL: usize = 24;
/// Credentials of one event that are looked for elsewhere.
const CREDENTIALS_MAX: usize = 16;

/// What stands where a credential stood.
pub(super) const MASK: &str = "[erased]";

/// What was left out of an event.
#[derive(Default)]
pub(super) struct Erased<'v> {
    /// Where it stood, in OPA's form: segments are escaped as those of a URL's path.
    pointers: Pointers,
    /// What it was, to find copies of it in what a policy made.
    credentials: SmallVec<[&'v str; 4]>,
}

/// Where in a document we are: a list from the inside out, so that a pointer costs something only when one is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) parent: Option<&'a Place<'a>>,
    pub(super) name: &'a str,
}

/// Writes a document by its rules.
pub(super) struct Document<'a, 'v> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) erased: &'a mut Erased<'v>,
    pub(super) memo: &'a mut Memo,
    /// Configured headers that carry credentials.
    pub(super) credential_headers: &'a [HeaderName],
}

impl<'v> Document<'_, 'v> {
    /// Writes `value`, for which the buffer may grow to `end` bytes. Where that is not enough, where it is nested too
    /// deeply, or where its shape does not tell what is in it, it is listed as erased as a whole: the caller truncates.
    pub(super) fn push(&mut self, value: &'v Value, rule: Rule, place: &Place<'_>, end: usize) -> bool {
        let written = !must_go(value, rule) && self.push_ruled(value, rule, place, end).is_ok();
        if !written {
            self.erased.add(place);
        }
        written
    }

    /// Writes `value` without what `rule` leaves out of it. An error means that the whole of it must go.
    fn push_ruled(
        &mut self,
        value: &'v Value,
        rule: Rule,
        place: &Place<'_>,
        end: usize,
    ) -> Result<(), Unwritable> {
        let Value::Object(members) = value else { return push_value(self.out, value, end) };
        self.out.push(b'{');
        let mut first = true;
        for (key, value) in members.iter() {
            if is_undefined(key) || is_undefined(value) {
                continue;
            }
            let name = text_of(key).unwrap_or_default();
            let place = Place { parent: Some(place), name };
            let rule = self.rule_of_member(rule, name, value);
            first &= !self.push_member((key, value), rule, &place, first, end)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    fn rule_of_member(&self, rule: Rule, name: &str, value: &Value) -> Rule {
        match rule {
            Rule::Members(rules) => {
                rules.iter().find(|(known, _)| is_equal(known, name)).map_or(Rule::Keep, |(_, rule)| *rule)
            }
            // A pseudo-header of `envoy/v3`, with the query in it.
            Rule::Headers if name == ":path" => Rule::Url,
            Rule::Headers if credential::is_credential_header(name, self.credential_headers) => Rule::Secret,
            Rule::Headers if has_credential_value(value) => Rule::Secret,
            Rule::Query if credential::is_credential_parameter(name) => Rule::Secret,
            Rule::Keep
            | Rule::Headers
            | Rule::Query
            | Rule::Url
            | Rule::Secret
            | Rule::Body
            | Rule::Shared => Rule::Keep,
        }
    }

    /// Writes a member or erases it; whether it was written.
    fn push_member(
        &mut self,
        (key, value): (&Value, &'v Value),
        rule: Rule,
        place: &Place<'_>,
        first: bool,
        end: usize,
    ) -> Result<bool, Unwritable> {
        if must_go(value, rule) {
            self.erased.add(place);
            self.erased.remember_value(value);
            return Ok(false);
        }
        let start = self.out.len();
        push_key(self.out, key, first, end)?;
        match rule {
            Rule::Members(_) | Rule::Headers | Rule::Query => self.push_ruled(value, rule, place, end)?,
            Rule::Keep | Rule::Url | Rule::Secret => push_value(self.out, value, end)?,
            Rule::Shared => self.push_shared(value, end)?,
            Rule::Body => {
                let body_end = end.min(self.out.len() + BODY_MAX);
                if push_value(self.out, value, body_end).is_err() {
                    self.out.truncate(start);
                    self.erased.add(place);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn push_shared(&mut self, value: &Value, end: usize) -> Result<(), Unwritable> {
        if let Some(text) = self.memo.get(value) {
            self.out.extend_from_slice(text);
            return if self.out.len() > end { Err(Unwritable::TooLarge) } else { Ok(()) };
        }
        let start = self.out.len();
        push_value(self.out, value, end)?;
        self.memo.put(value, self.out.get(start..).unwrap_or_default());
        Ok(())
    }
}

impl<'v> Erased<'v> {
    /// Lists `place`.
    pub(super) fn add(&mut self, place: &Place<'_>) {
        self.pointers.extend_from_slice(if self.pointers.is_empty() { b"\"" } else { b",\"" });
        push_pointer(&mut self.pointers, place);
        self.pointers.push(b'"');
    }

    /// Forgets the places, and keeps what was found there.
    pub(super) fn forget_places(&mut self) {
        self.pointers.clear();
    }

    /// Whether `text` holds a copy of a credential that was left out elsewhere: a policy may have made it a limit's key
    /// or a field of the log.
    pub(super) fn is_copied_into(&self, text: &[u8]) -> bool {
        self.credentials.iter().any(|credential| copies(text, credential).next().is_some())
    }

    /// Writes the event's member `erased`, if anything was.
    pub(super) fn push_member(&self, out: &mut Vec<u8>) {
        if !self.pointers.is_empty() {
            out.extend_from_slice(b",\"erased\":[");
            out.extend_from_slice(&self.pointers);
            out.push(b']');
        }
    }

    /// Keeps the texts of what is left out: of a header without its scheme, of a query parameter or cookie each value.
    fn remember_value(&mut self, value: &'v Value) {
        match value {
            Value::String(text) => self.remember(text),
            Value::Array(items) => items.iter().filter_map(text_of).for_each(|text| self.remember(text)),
            Value::Object(members) => {
                members.values().filter_map(text_of).for_each(|text| self.remember(text));
            }
            Value::Null | Value::Undefined | Value::Bool(_) | Value::Number(_) | Value::Set(_) => {}
        }
    }

    /// The credentials to look for in a whole record: those left out, and those of `presented` headers.
    pub(super) fn credentials(&self, presented: impl Iterator<Item = &'v str>) -> Credentials<'v> {
        let presented = presented.map(bare).filter(|credential| credential.len() >= CREDENTIAL_MIN);
        let all = presented.chain(self.credentials.iter().copied());
        all.filter(|credential| stands_in_strings_only(credential)).collect()
    }

    /// Looks for this text too, without the scheme before it.
    pub(super) fn remember(&mut self, text: &'v str) {
        let bare = bare(text);
        if bare.len() >= CREDENTIAL_MIN && self.credentials.len() < CREDENTIALS_MAX {
            self.credentials.push(bare);
        }
    }
}

impl<'a> Place<'a> {
    /// A member of the event itself.
    pub(super) const fn root(name: &'a str) -> Self {
        Self { parent: None, name }
    }
}

/// Whether `text` holds one of these.
pub(super) fn holds_any(text: &[u8], credentials: &Credentials<'_>) -> bool {
    credentials.iter().any(|credential| copies(text, credential).next().is_some())
}

/// Masks the copies of these in the record from `start` on: in the path, in a parameter or a segment, in a policy's error.
pub(super) fn mask(out: &mut Vec<u8>, start: usize, credentials: &Credentials<'_>) {
    for credential in credentials {
        let record = out.get(start..).unwrap_or_default();
        let mut masked = Vec::new();
        let mut kept = 0;
        for at in copies(record, credential) {
            if at >= kept {
                let before = record.get(kept..at).unwrap_or_default();
                masked.extend_from_slice(before.get(..whole_escapes(before)).unwrap_or_default());
                masked.extend_from_slice(MASK.as_bytes());
                kept = at + credential.len();
            }
        }
        if kept > 0 {
            masked.extend_from_slice(record.get(kept..).unwrap_or_default());
            out.truncate(start);
            out.extend_from_slice(&masked);
        }
    }
}

/// A header's credential without its scheme.
fn bare(text: &str) -> &str {
    text.rsplit(' ').next().unwrap_or_default()
}

/// Whether `text` holds a copy of the credential of a header's value.
pub(super) fn is_copied_into(text: &[u8], credential: &str) -> bool {
    let credential = bare(credential);
    credential.len() >= CREDENTIAL_MIN && copies(text, credential).next().is_some()
}

/// Where copies of `credential` begin in `text`. It is found by its end: to look for the whole of a long token would cost
/// more than all the rest of the record, and the beginnings of tokens are alike.
fn copies<'t>(text: &'t [u8], credential: &'t str) -> impl Iterator<Item = usize> + 't {
    let credential = credential.as_bytes();
    let end = credential.get(credential.len().saturating_sub(TAIL)..).unwrap_or_default();
    memchr::memmem::find_iter(text, end).filter_map(move |at| {
        let begin = (at + end.len()).checked_sub(credential.len())?;
        text.get(begin..)?.starts_with(credential).then_some(begin)
    })
}

/// The length of a JSON text without the escape that it breaks off in, if it does: `ab\\u00` has 2 whole bytes.
fn whole_escapes(text: &[u8]) -> usize {
    let begins_escape = |at: usize| {
        let before = text.get(..=at).unwrap_or_default();
        before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
    };
    let broken = (text.len().saturating_sub(5)..text.len()).find(|at| {
        let is_whole = text.get(at + 1).is_some_and(|byte| *byte != b'u');
        begins_escape(*at) && !is_whole
    });
    broken.unwrap_or(text.len())
}

/// Whether a text can be found in JSON only where it stands inside of a string: it is written there as it is, and it has
/// something that no number, literal or punctuation has.
fn stands_in_strings_only(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    let is_outside_too = |byte: u8| b"0123456789+-.eE,:[]{}truefalsn".contains(&byte);
    text.bytes().all(is_plain) && !text.bytes().all(is_outside_too)
}

/// Compares names that mostly differ in length or in the first byte, which then costs no call.
fn is_equal(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.as_bytes().first() == other.as_bytes().first() && one == other
}

/// Whether a member is left out by its rule and what it is, before it is written.
fn must_go(value: &Value, rule: Rule) -> bool {
    match rule {
        Rule::Secret => !is_empty(value),
        Rule::Url => text_of(value).is_some_and(credential::is_credential_url),
        // A list where an object of names belongs is a policy's mistake; nothing tells what stands in it.
        Rule::Headers | Rule::Query => !matches!(value, Value::Object(_)) && !is_empty(value),
        Rule::Members(_) => matches!(value, Value::Array(_) | Value::Set(_)) && !is_empty(value),
        Rule::Keep | Rule::Body | Rule::Shared => false,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Undefined => true,
        Value::Bool(_) | Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Set(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

fn text_of(value: &Value) -> Option<&str> {
    if let Value::String(text) = value { Some(text) } else { None }
}

fn has_credential_value(value: &Value) -> bool {
    let tells = |value: &Value| text_of(value).is_some_and(credential::is_credential_value);
    match value {
        Value::Array(items) => items.iter().any(tells),
        Value::Set(items) => items.iter().any(tells),
        Value::String(_) => tells(value),
        Value::Null | Value::Undefined | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}

fn push_pointer(out: &mut Pointers, place: &Place<'_>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if let Some(parent) = place.parent {
        push_pointer(out, parent);
    }
    out.push(b'/');
    for byte in place.name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+=:@".contains(&byte) {
            out.push(byte);
        } else {
            let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 0xf)]);
        }
    }
}
