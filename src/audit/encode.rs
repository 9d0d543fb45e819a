//! One decision event as one JSON object: OPA's decision-log shape, and `gateway` (contract section 5).
//!
//! Written by hand straight into the worker's buffer: nothing is built in between, and what must not be logged
//! (`credential`) is never written at all. Each part has a bound; a part beyond it is erased and listed as such.

use std::io::Write;
use std::net::SocketAddr;

use regorus::Value;
use smallvec::SmallVec;

use crate::audit::credential::{self, Rule};
use crate::audit::json::{Unwritable, push_key, push_string, push_u64, push_value};
use crate::audit::label::EncodedLabels;
use crate::base::clock::write_rfc3339;
use crate::contract::event::{Event, Gateway, LogLevel};

/// Bytes of `input` at most.
const INPUT_MAX: usize = 256 * 1024;
/// Bytes of `result` at most.
const RESULT_MAX: usize = 64 * 1024;
/// Bytes of a body at most, in a request or in a deny's answer.
const BODY_MAX: usize = 16 * 1024;
/// Bytes of `gateway.fields` at most.
const FIELDS_MAX: usize = 16 * 1024;

/// Appends `event` to `out`, without a line end; nothing at [`LogLevel::None`].
pub fn encode(event: &Event<'_>, labels: &EncodedLabels, out: &mut Vec<u8>) {
    if event.level == LogLevel::None {
        return;
    }
    let mut encoder = Encoder { out, event, erased: SmallVec::new() };
    encoder.push_head(labels);
    if event.level == LogLevel::Full {
        encoder.push_part(",\"input\":", "input", event.input, credential::INPUT, INPUT_MAX);
        encoder.push_part(",\"result\":", "result", event.result, credential::RESULT, RESULT_MAX);
    }
    encoder.push_tail();
    encoder.push_gateway();
    // Last, because only now it is known what was left out.
    if !encoder.erased.is_empty() {
        encoder.out.extend_from_slice(b",\"erased\":[");
        encoder.out.extend_from_slice(&encoder.erased);
        encoder.out.push(b']');
    }
    encoder.out.push(b'}');
}

struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    event: &'a Event<'a>,
    /// Pointers to what was left out, as a JSON list without brackets.
    erased: SmallVec<[u8; 256]>,
}

/// Where in the document we are; a list from the inside out, so that a pointer costs something only when one is written.
struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    name: &'a str,
}

impl Encoder<'_> {
    fn push_head(&mut self, labels: &EncodedLabels) {
        self.raw("{\"labels\":");
        labels.push(self.out, self.event.labels);
        self.raw(",\"decision_id\":\"");
        self.raw(self.event.decision_id.encode(&mut [0; 36]));
        self.raw("\"");
        if let Some(bundle) = &self.event.bundle {
            self.raw(",\"bundles\":{");
            push_string(self.out, bundle.name);
            self.text(":{\"revision\":", bundle.revision);
            self.text("}},\"path\":", bundle.path);
        }
    }

    /// Writes `input` or `result` with its rules; the whole is erased where it is too large or too deep.
    fn push_part(&mut self, member: &str, name: &str, value: Option<&Value>, rule: Rule, bytes_max: usize) {
        let Some(value) = value.filter(|value| **value != Value::Undefined) else { return };
        let start = self.out.len();
        let place = Place { parent: None, name };
        self.raw(member);
        if self.push_ruled(value, rule, &place, start + bytes_max).is_err() {
            self.out.truncate(start);
            self.erase(&place);
        }
    }

    fn push_tail(&mut self) {
        if let Some(error) = self.event.error {
            self.text(",\"error\":{\"code\":\"policy_error\",\"message\":", error);
            self.raw("}");
        }
        self.raw(",\"requested_by\":\"");
        self.push_address(self.event.requested_by);
        self.raw("\",\"timestamp\":\"");
        let mut timestamp = String::with_capacity(30);
        write_rfc3339(&mut timestamp, self.event.timestamp);
        self.raw(&timestamp);
        self.raw("\",\"metrics\":{");
        let timings = self.event.gateway.timings;
        if self.event.bundle.is_some() {
            self.number("\"timer_rego_query_eval_ns\":", timings.policy_us.saturating_mul(1_000));
            self.raw(",");
        }
        self.number("\"timer_server_handler_ns\":", timings.total_us.saturating_mul(1_000));
        self.raw("}");
    }

    fn push_gateway(&mut self) {
        let gateway = &self.event.gateway;
        self.text(",\"gateway\":{\"listener\":", gateway.listener);
        self.optional_text(",\"api\":", gateway.api);
        self.optional_text(",\"version\":", gateway.version);
        self.optional_text(",\"route\":", gateway.route);
        self.text(",\"method\":", gateway.method.as_str());
        self.text(",\"path\":", gateway.path);
        self.number(",\"status\":", u64::from(gateway.status));
        self.text(",\"outcome\":", gateway.outcome.as_str());
        self.optional_text(",\"reason\":", gateway.reason);
        self.push_identity(gateway);
        self.optional_text(",\"policy\":", gateway.policy);
        self.optional_text(",\"upstream\":", gateway.upstream);
        self.push_limits(gateway);
        if gateway.fail_open {
            self.raw(",\"fail_open\":true");
        }
        self.number(",\"response_bytes\":", gateway.response_bytes);
        if gateway.aborted {
            self.raw(",\"aborted\":true");
        }
        self.push_fields();
        self.number(",\"timings_us\":{\"total\":", gateway.timings.total_us);
        self.number(",\"identity\":", gateway.timings.identity_us);
        self.number(",\"policy\":", gateway.timings.policy_us);
        self.number(",\"upstream\":", gateway.timings.upstream_us);
        self.raw("}}");
    }

    fn push_identity(&mut self, gateway: &Gateway<'_>) {
        let members = [
            ("provider", gateway.provider),
            ("subject", gateway.subject),
            ("failure", gateway.identity_failure),
        ];
        let mut before = ",\"identity\":{";
        for (name, text) in members {
            let Some(text) = text else { continue };
            self.raw(before);
            push_string(self.out, name);
            self.text(":", text);
            before = ",";
        }
        if before == "," {
            self.raw("}");
        }
    }

    fn push_limits(&mut self, gateway: &Gateway<'_>) {
        let mut before = ",\"limits\":[";
        for limit in gateway.limits {
            self.raw(before);
            self.text("{\"name\":", &limit.name);
            self.number(",\"remaining\":", limit.remaining);
            self.raw(if limit.exceeded { ",\"exceeded\":true}" } else { "}" });
            before = ",";
        }
        if before == "," {
            self.raw("]");
        }
    }

    fn push_fields(&mut self) {
        let place = Place { parent: Some(&Place { parent: None, name: "gateway" }), name: "fields" };
        let Some(fields) = self.event.fields.filter(|fields| **fields != Value::Undefined) else { return };
        let start = self.out.len();
        self.raw(",\"fields\":");
        if push_value(self.out, fields, start + FIELDS_MAX).is_err() {
            self.out.truncate(start);
            self.erase(&place);
        }
    }

    /// Writes `value` without what `rule` leaves out of it. An error means that the whole of it must go.
    fn push_ruled(
        &mut self,
        value: &Value,
        rule: Rule,
        place: &Place<'_>,
        end: usize,
    ) -> Result<(), Unwritable> {
        let Value::Object(members) = value else { return push_value(self.out, value, end) };
        self.raw("{");
        let mut first = true;
        for (key, value) in members.iter() {
            if *key == Value::Undefined || *value == Value::Undefined {
                continue;
            }
            let name = key.as_string().map_or("", |name| name);
            let place = Place { parent: Some(place), name };
            let rule = self.rule_of_member(rule, name, value);
            first &= !self.push_member((key, value), rule, &place, first, end)?;
        }
        self.raw("}");
        Ok(())
    }

    fn rule_of_member(&self, rule: Rule, name: &str, value: &Value) -> Rule {
        match rule {
            Rule::Members(rules) => {
                rules.iter().find(|(known, _)| *known == name).map_or(Rule::Keep, |(_, rule)| *rule)
            }
            Rule::Headers if credential::is_credential_header(name, self.event.credential_headers) => {
                Rule::Secret
            }
            Rule::Headers if has_credential_value(value) => Rule::Secret,
            Rule::Query if credential::is_credential_parameter(name) => Rule::Secret,
            Rule::Keep | Rule::Headers | Rule::Query | Rule::Url | Rule::Secret | Rule::Body => Rule::Keep,
        }
    }

    /// Writes a member or erases it; whether it was written.
    fn push_member(
        &mut self,
        (key, value): (&Value, &Value),
        rule: Rule,
        place: &Place<'_>,
        first: bool,
        end: usize,
    ) -> Result<bool, Unwritable> {
        if must_go(value, rule) {
            self.erase(place);
            return Ok(false);
        }
        let start = self.out.len();
        push_key(self.out, key, first, end)?;
        match rule {
            Rule::Members(_) | Rule::Headers | Rule::Query => self.push_ruled(value, rule, place, end)?,
            Rule::Keep | Rule::Url | Rule::Secret => push_value(self.out, value, end)?,
            Rule::Body => {
                let body_end = end.min(self.out.len() + BODY_MAX);
                if push_value(self.out, value, body_end).is_err() {
                    self.out.truncate(start);
                    self.erase(place);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Lists `place` as left out, in OPA's form: a pointer whose segments are escaped as those of a URL's path.
    fn erase(&mut self, place: &Place<'_>) {
        self.erased.extend_from_slice(if self.erased.is_empty() { b"\"" } else { b",\"" });
        push_pointer(&mut self.erased, place);
        self.erased.push(b'"');
    }

    fn push_address(&mut self, address: SocketAddr) {
        match address {
            SocketAddr::V4(address) => {
                let [a, b, c, d] = address.ip().octets();
                for (octet, after) in [(a, b'.'), (b, b'.'), (c, b'.'), (d, b':')] {
                    push_u64(self.out, u64::from(octet));
                    self.out.push(after);
                }
                push_u64(self.out, u64::from(address.port()));
            }
            // Writing to a buffer cannot fail.
            SocketAddr::V6(address) => drop(write!(self.out, "{address}")),
        }
    }

    fn raw(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn text(&mut self, before: &str, text: &str) {
        self.raw(before);
        push_string(self.out, text);
    }

    fn optional_text(&mut self, before: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(before, text);
        }
    }

    fn number(&mut self, before: &str, number: u64) {
        self.raw(before);
        push_u64(self.out, number);
    }
}

/// Whether a member is left out by its rule and what it is, before it is written.
fn must_go(value: &Value, rule: Rule) -> bool {
    match rule {
        Rule::Secret => !is_empty(value),
        Rule::Url => value.as_string().is_ok_and(|url| credential::is_credential_url(url)),
        // A list where an object of names belongs is a policy's mistake; nothing tells what stands in it.
        Rule::Headers | Rule::Query => !matches!(value, Value::Object(_)) && !is_empty(value),
        Rule::Keep | Rule::Members(_) | Rule::Body => false,
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

fn has_credential_value(value: &Value) -> bool {
    let tells = |value: &Value| value.as_string().is_ok_and(|text| credential::is_credential_value(text));
    match value {
        Value::Array(items) => items.iter().any(tells),
        Value::Set(items) => items.iter().any(tells),
        Value::String(_) => tells(value),
        Value::Null | Value::Undefined | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}

fn push_pointer(out: &mut SmallVec<[u8; 256]>, place: &Place<'_>) {
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
