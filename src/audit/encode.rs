//! One decision event as one JSON object: OPA's decision-log shape, and `gateway` (contract section 5).
//!
//! Written by hand straight into the worker's buffer: nothing is built in between, and what must not be logged
//! (`credential`) is never written at all. Each part has a bound; a part beyond it is erased and listed as such.

use std::io::Write;
use std::net::SocketAddr;
use std::ops::Range;

use regorus::Value;
use smallvec::SmallVec;

use crate::audit::credential::{self, Rule};
use crate::audit::document::{self, Document, Erased, Place};
use crate::audit::json::{is_undefined, push_string, push_u64, push_value};
use crate::audit::label::EncodedLabels;
use crate::audit::memo::Memo;
use crate::base::clock::rfc3339;
use crate::contract::event::{Event, Gateway, LogLevel, Outside};

/// Bytes of `input` at most.
const INPUT_MAX: usize = 256 * 1024;
/// Bytes of `result` at most.
const RESULT_MAX: usize = 64 * 1024;
/// Bytes of `gateway.fields` at most.
const FIELDS_MAX: usize = 16 * 1024;

/// Appends `event` to `out`, without a line end; nothing at [`LogLevel::None`]. `memo` is the caller's own, kept from event
/// to event.
pub fn encode(event: &Event<'_>, labels: &EncodedLabels, memo: &mut Memo, out: &mut Vec<u8>) {
    if event.level == LogLevel::None {
        return;
    }
    let start = out.len();
    let mut encoder = Encoder { out, event, memo, erased: Erased::default(), documents: SmallVec::new() };
    encoder.push_head();
    encoder.push_documents();
    encoder.push_labels(labels);
    encoder.push_tail();
    encoder.push_gateway();
    // Last, because only now it is known what was left out.
    encoder.erased.push_member(encoder.out);
    encoder.mask_copies(start);
    encoder.out.push(b'}');
}

struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    event: &'a Event<'a>,
    memo: &'a mut Memo,
    erased: Erased<'a>,
    /// Where the documents begin and end, by their pointers.
    documents: SmallVec<[(&'static str, Range<usize>); 2]>,
}

impl<'a> Encoder<'a> {
    /// Masks what carries a credential where nobody looked for one, and lists the documents in which it did. Most records
    /// hold no copy, so one look at the whole is enough.
    fn mask_copies(&mut self, start: usize) {
        let presented = self.event.credentials.iter().filter_map(|value| value.to_str().ok());
        let credentials = self.erased.credentials(presented);
        let holds = |text: Option<&[u8]>| text.is_some_and(|text| document::holds_any(text, &credentials));
        if !holds(self.out.get(start..)) {
            return;
        }
        let masked = self.documents.iter().filter(|(_, span)| holds(self.out.get(span.clone())));
        let masked: Vec<String> = masked.map(|(pointer, _)| format!("\"{pointer}\"")).collect();
        document::mask(self.out, start, &credentials);
        if !masked.is_empty() {
            self.raw(&format!(",\"masked\":[{}]", masked.join(",")));
        }
    }

    fn push_head(&mut self) {
        self.raw("{\"decision_id\":\"");
        self.raw(self.event.decision_id.encode(&mut [0; 36]));
        self.raw("\"");
        if let Some(bundle) = &self.event.bundle {
            self.raw(",\"bundles\":{");
            push_string(self.out, bundle.name);
            self.text(":{\"revision\":", bundle.revision);
            self.text("}},\"path\":", bundle.path);
        }
    }

    fn push_documents(&mut self) {
        let event = self.event;
        let start = self.out.len();
        match event.level {
            LogLevel::Full => {
                self.push_document(",\"input\":", "input", event.input, credential::INPUT, INPUT_MAX);
                let result_start = self.out.len();
                self.documents.push(("/input", start..result_start));
                self.push_document(",\"result\":", "result", event.result, credential::RESULT, RESULT_MAX);
                self.erase_copies(result_start, &Place::root("result"));
                self.documents.push(("/result", result_start..self.out.len()));
            }
            // What a policy adds to a summary must not hold a credential either, so the input is looked through for them.
            LogLevel::Summary
                if event.labels.is_some() || event.fields.is_some() || event.gateway.reason.is_some() =>
            {
                self.push_document("", "input", event.input, credential::INPUT, INPUT_MAX);
                self.out.truncate(start);
                self.erased.forget_places();
            }
            LogLevel::Summary | LogLevel::None => {}
        }
    }

    fn push_document(
        &mut self,
        before: &str,
        name: &str,
        value: Option<&'a Value>,
        rule: Rule,
        bytes_max: usize,
    ) {
        let Some(value) = value.filter(|value| !is_undefined(value)) else { return };
        let start = self.out.len();
        self.raw(before);
        let mut document = Document {
            out: self.out,
            erased: &mut self.erased,
            memo: self.memo,
            credential_headers: self.event.credential_headers,
        };
        if !document.push(value, rule, &Place::root(name), start + bytes_max) {
            self.out.truncate(start);
        }
    }

    /// Takes back what was written since `start` where it holds a credential that was left out elsewhere.
    fn erase_copies(&mut self, start: usize, place: &Place<'_>) {
        if self.out.get(start..).is_some_and(|text| self.erased.is_copied_into(text)) {
            self.out.truncate(start);
            self.erased.add(place);
        }
    }

    fn push_labels(&mut self, labels: &EncodedLabels) {
        self.raw(",\"labels\":{");
        labels.push_configured(self.out);
        if let Some(of_decision) = self.event.labels {
            let start = self.out.len();
            labels.push_others(self.out, of_decision);
            self.erase_copies(start, &Place::root("labels"));
        }
        self.raw("}");
    }

    fn push_tail(&mut self) {
        if let Some(error) = self.event.error {
            self.text(",\"error\":{\"code\":\"policy_error\",\"message\":", error);
            self.raw("}");
        }
        self.raw(",\"requested_by\":\"");
        self.push_address(self.event.requested_by);
        self.raw("\",\"timestamp\":\"");
        self.out.extend_from_slice(&rfc3339(self.event.timestamp));
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
        self.push_path(gateway.path);
        self.number(",\"status\":", u64::from(gateway.status));
        self.text(",\"outcome\":", gateway.outcome.as_str());
        self.push_reason(gateway.reason);
        self.push_identity(gateway);
        self.optional_text(",\"policy\":", gateway.policy);
        self.optional_text(",\"upstream\":", gateway.upstream);
        self.optional_text(",\"endpoint\":", gateway.endpoint);
        self.push_limits(gateway);
        if gateway.fail_open {
            self.raw(",\"fail_open\":true");
        }
        if gateway.remembered {
            self.raw(",\"remembered\":true");
        }
        self.number(",\"response_bytes\":", gateway.response_bytes);
        if gateway.aborted {
            self.raw(",\"aborted\":true");
        }
        self.push_fields();
        self.push_outside(gateway.outside);
        self.number(",\"timings_us\":{\"total\":", gateway.timings.total_us);
        self.number(",\"identity\":", gateway.timings.identity_us);
        self.number(",\"policy\":", gateway.timings.policy_us);
        self.number(",\"upstream\":", gateway.timings.upstream_us);
        self.raw("}}");
    }

    /// The path, or nothing of it where an escape hides a credential in it; a plain copy is masked in the end.
    fn push_path(&mut self, path: &str) {
        let hides = |text: &str| {
            let decoded: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
            document::is_copied_into(&decoded, text) && !document::is_copied_into(path.as_bytes(), text)
        };
        let mut credentials = self.event.credentials.iter().filter_map(|value| value.to_str().ok());
        let is_hidden = path.contains('%') && credentials.any(hides);
        self.text(",\"path\":", if is_hidden { document::MASK } else { path });
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

    fn push_outside(&mut self, outside: Outside) {
        if outside == Outside::default() {
            return;
        }
        self.number(",\"outside\":{\"sends\":", u64::from(outside.sends));
        self.number(",\"cached\":", u64::from(outside.cached));
        self.number(",\"lookups\":", u64::from(outside.lookups));
        self.number(",\"failed\":", u64::from(outside.failed));
        self.number(",\"us\":", outside.us);
        self.raw("}");
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
        let Some(fields) = self.event.fields.filter(|fields| !is_undefined(fields)) else { return };
        let place = Place { parent: Some(&Place::root("gateway")), name: "fields" };
        let start = self.out.len();
        self.raw(",\"fields\":");
        if push_value(self.out, fields, start + FIELDS_MAX).is_err() {
            self.out.truncate(start);
            self.erased.add(&place);
        }
        self.erase_copies(start, &place);
    }

    fn push_reason(&mut self, reason: Option<&str>) {
        let start = self.out.len();
        self.optional_text(",\"reason\":", reason);
        self.erase_copies(start, &Place { parent: Some(&Place::root("gateway")), name: "reason" });
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

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::audit::document::BODY_MAX;
    use crate::audit::fixture::{event, labels, value};
    use crate::contract::event::{LimitTaken, Outcome};

    fn text(event: &Event<'_>) -> String {
        let mut out = Vec::new();
        encode(event, &labels(), &mut Memo::default(), &mut out);
        String::from_utf8(out).unwrap()
    }

    fn parse(event: &Event<'_>) -> Json {
        serde_json::from_str(&text(event)).unwrap()
    }

    #[test]
    fn an_event_has_opas_shape_and_gateway() {
        let input = value(
            &json!({"version": "gateway/v1", "request": {"method": "GET", "segments": ["orders", "7"]}}),
        );
        let result = value(&json!({"allow": true}));
        let (fields, decision_labels) = (value(&json!({"tier": "gold"})), value(&json!({"team": "pay"})));
        let limits = [
            LimitTaken { name: "per-client".to_owned(), remaining: 9, exceeded: false },
            LimitTaken { name: "all".to_owned(), remaining: 0, exceeded: true },
        ];
        let mut event = event(Some(&input), Some(&result));
        (event.fields, event.labels, event.gateway.limits) = (Some(&fields), Some(&decision_labels), &limits);
        let want = json!({
            "labels": {"app": "orders", "id": "here", "version": env!("CARGO_PKG_VERSION"), "team": "pay"},
            "decision_id": event.decision_id.to_string(),
            "bundles": {"main": {"revision": "r1"}},
            "path": "gateway/decision",
            "input": {"version": "gateway/v1", "request": {"method": "GET", "segments": ["orders", "7"]}},
            "result": {"allow": true},
            "requested_by": "10.1.2.3:4567",
            "timestamp": "2027-01-15T08:00:00.000000005Z",
            "metrics": {"timer_rego_query_eval_ns": 20_000, "timer_server_handler_ns": 900_000},
            "gateway": {
                "listener": "public", "api": "orders", "version": "v2", "route": "read-order", "method": "GET",
                "path": "/v2/orders/7", "status": 200, "outcome": "allowed",
                "identity": {"provider": "corp", "subject": "alice"}, "policy": "main", "upstream": "orders", "endpoint": "127.0.0.1:9000",
                "limits": [{"name": "per-client", "remaining": 9}, {"name": "all", "remaining": 0, "exceeded": true}],
                "response_bytes": 1024, "fields": {"tier": "gold"},
                "timings_us": {"total": 900, "identity": 1, "policy": 20, "upstream": 800},
            },
        });
        assert_eq!(parse(&event), want);
    }

    #[test]
    fn a_presented_credential_is_masked_wherever_it_stands() {
        let key = "pst_0123456789abcdefghijklmnopqrstuv";
        let path = format!("/v2/{key}/{key}");
        let input =
            value(&json!({"request": {"path": path, "segments": ["v2", key], "query": {"q": [key, "x"]}}}));
        let credentials = [HeaderValue::from_str(&format!("Bearer {key}")).unwrap()];
        let mut event = event(Some(&input), None);
        let message = format!("no `{key}`");
        (event.credentials, event.error, event.gateway.path) =
            (&credentials, Some(message.as_str()), path.as_str());
        let got = parse(&event);
        assert!(!got.to_string().contains("pst_"), "{got}");
        assert_eq!(got["gateway"]["path"], "/v2/[erased]/[erased]");
        assert_eq!(got["input"]["request"]["query"], json!({"q": ["[erased]", "x"]}));
        assert_eq!(got["error"]["message"], "no `[erased]`");
        assert_eq!(got["masked"], json!(["/input"]), "what is replayed must know");
        let escaped = format!("/v2/%70{}", &key[1..]);
        event.gateway.path = &escaped;
        assert_eq!(parse(&event)["gateway"]["path"], "[erased]");
    }

    proptest! {
        #[test]
        fn masking_leaves_json(at in 0_usize..800, length in 12_usize..80) {
            let input = value(&json!({"request": {"path": "/a\"b\\\\c\u{1}d\u{1f}efghijklmnopqrstuvwxyz", "n": [1, 2, 3, 4, 5, 6, 7, true, false, null]}}));
            let mut event = event(Some(&input), None);
            // Whatever is looked for, a part of the record itself included.
            let record = text(&event);
            let part: String = record.chars().skip(at).take(length).collect();
            let Ok(credential) = HeaderValue::from_str(&part) else { return Ok(()) };
            let credentials = [credential];
            event.credentials = &credentials;
            parse(&event);
        }
    }

    #[test]
    fn a_refused_request_has_only_what_is_known() {
        let mut event = event(None, None);
        event.bundle = None;
        event.requested_by = "[2001:db8::1]:443".parse().unwrap();
        event.gateway = Gateway {
            api: None,
            version: None,
            route: None,
            path: "/a\"\u{1}\u{e4}",
            status: 0,
            outcome: Outcome::Failed,
            reason: Some("client_gone"),
            provider: None,
            subject: None,
            identity_failure: Some("expired"),
            policy: None,
            upstream: None,
            endpoint: None,
            fail_open: true,
            remembered: true,
            aborted: true,
            ..event.gateway
        };
        let want = json!({
            "labels": {"app": "orders", "id": "here", "version": env!("CARGO_PKG_VERSION")},
            "decision_id": event.decision_id.to_string(),
            "requested_by": "[2001:db8::1]:443",
            "timestamp": "2027-01-15T08:00:00.000000005Z",
            "metrics": {"timer_server_handler_ns": 900_000},
            "gateway": {
                "listener": "public", "method": "GET", "path": "/a\"\u{1}\u{e4}", "status": 0, "outcome": "failed",
                "reason": "client_gone", "identity": {"failure": "expired"}, "fail_open": true, "remembered": true,
                "response_bytes": 1024, "aborted": true,
                "timings_us": {"total": 900, "identity": 1, "policy": 20, "upstream": 800},
            },
        });
        assert_eq!(parse(&event), want);
    }

    #[test]
    fn an_evaluation_error_is_told_and_what_is_undefined_is_not_written() {
        let mut event = event(Some(&Value::Undefined), Some(&Value::Undefined));
        (event.fields, event.labels) = (Some(&Value::Undefined), Some(&Value::Undefined));
        event.error = Some("policy.rego:3:1: conflict");
        let json = parse(&event);
        assert_eq!(json["error"], json!({"code": "policy_error", "message": "policy.rego:3:1: conflict"}));
        assert!(json.get("input").is_none() && json.get("result").is_none());
        assert!(json["gateway"].get("fields").is_none());
        assert!(!text(&event).contains("undefined"));
    }

    #[test]
    fn a_summary_leaves_out_documents_and_level_none_everything() {
        let document = value(&json!({"allow": true}));
        let mut event = event(Some(&document), Some(&document));
        event.level = LogLevel::Summary;
        let json = parse(&event);
        assert!(json.get("input").is_none() && json.get("result").is_none() && json.get("erased").is_none());
        assert_eq!(json["gateway"]["outcome"], "allowed");
        event.level = LogLevel::None;
        assert_eq!(text(&event), "");
    }

    #[track_caller]
    fn check_erased(input: &Json, result: &Json, want: &[&str], kept: (&Json, &Json)) {
        let (input, result) = (value(input), value(result));
        let configured = [HeaderName::from_static("x-partner")];
        let mut event = event(Some(&input), Some(&result));
        event.credential_headers = &configured;
        let text = text(&event);
        assert!(!text.contains("hush"), "a credential is in {text}");
        let json: Json = serde_json::from_str(&text).unwrap();
        assert_eq!(json["erased"], json!(want));
        assert_eq!((&json["input"], &json["result"]), kept);
    }

    #[test]
    fn credentials_are_erased_and_listed() {
        let input = json!({
            "request": {
                "headers": {
                    "accept": "*/*", "authorization": "Bearer hush", "cookie": "a=hush", "x-api-key": "hush", "X_Partner": "hush",
                    "referer": "https://app/?code=hush", "x-odd": "Basic hush",
                },
                "cookies": {"session": "hush"},
                "query": {"access_token": ["hush"], "page": ["2"], "Client_Secret": ["hush", "hush"], "tok/en token": ["hush"]},
                "raw_path": "/a?token=hush",
                "path": "/a",
            },
            "response": {"headers": {"set-cookie": "a=hush", "location": "/cb#access_token=hush", "server": "x"}},
        });
        let result = json!({
            "allow": true,
            "headers": {"Set-Cookie": ["hush"], "x-why": ["because"]},
            "upstream": {
                "headers": {"set": {"Authorization": "Basic hush", "x-user": "alice"}, "add": {"x-api-key": ["hush"]}, "remove": ["cookie"]},
                "query": {"set": {"api_key": "hush"}},
            },
            "response": {"headers": {"set": {"Set-Cookie": "hush"}, "add": [["set-cookie", "hush"]]}},
        });
        let erased = [
            "/input/request/cookies",
            "/input/request/headers/X_Partner",
            "/input/request/headers/authorization",
            "/input/request/headers/cookie",
            "/input/request/headers/referer",
            "/input/request/headers/x-api-key",
            "/input/request/headers/x-odd",
            "/input/request/query/Client_Secret",
            "/input/request/query/access_token",
            "/input/request/query/tok%2Fen%20token",
            "/input/request/raw_path",
            "/input/response/headers/location",
            "/input/response/headers/set-cookie",
            "/result/headers/Set-Cookie",
            "/result/response/headers/add",
            "/result/response/headers/set/Set-Cookie",
            "/result/upstream/headers/add/x-api-key",
            "/result/upstream/headers/set/Authorization",
            "/result/upstream/query/set/api_key",
        ];
        let kept_input = json!({
            "request": {"headers": {"accept": "*/*"}, "query": {"page": ["2"]}, "path": "/a"},
            "response": {"headers": {"server": "x"}},
        });
        let kept_result = json!({
            "allow": true,
            "headers": {"x-why": ["because"]},
            "upstream": {"headers": {"set": {"x-user": "alice"}, "add": {}, "remove": ["cookie"]}, "query": {"set": {}}},
            "response": {"headers": {"set": {}}},
        });
        check_erased(&input, &result, &erased, (&kept_input, &kept_result));
    }

    #[test]
    fn a_result_of_the_wrong_shape_does_not_leak() {
        let edits = json!({"upstream": {"headers": {"set": {"authorization": "hush"}}}});
        check_erased(&json!({}), &json!([edits]), &["/result"], (&json!({}), &Json::Null));
        let lists = json!({"upstream": [{"headers": "hush"}], "response": {"headers": {"set": ["hush"]}}, "headers": "hush"});
        let erased = ["/result/headers", "/result/response/headers/set", "/result/upstream"];
        check_erased(&json!({}), &lists, &erased, (&json!({}), &json!({"response": {"headers": {}}})));
        assert_eq!(parse(&event(None, Some(&Value::from(true))))["result"], true);
    }

    #[test]
    fn a_credential_that_a_policy_copied_is_erased_with_what_it_stands_in() {
        let input = json!({"request": {
            "headers": {"authorization": "Bearer hush-hush-hush-1", "x-api-key": "hush-hush-hush-2"},
            "cookies": {"id": "hush-hush-hush-3"},
        }});
        let result =
            json!({"allow": true, "limits": [{"name": "l", "key": "hush-hush-hush-2", "rate": "1/s"}]});
        let (input, result) = (value(&input), value(&result));
        let (fields, of_decision) =
            (value(&json!({"k": "hush-hush-hush-1"})), value(&json!({"k": "hush-hush-hush-3"})));
        let mut event = event(Some(&input), Some(&result));
        (event.fields, event.labels) = (Some(&fields), Some(&of_decision));
        event.gateway.reason = Some("bad token hush-hush-hush-1");
        for (level, erased) in [(LogLevel::Full, 7), (LogLevel::Summary, 3)] {
            event.level = level;
            assert!(!text(&event).contains("hush"), "{}", text(&event));
            let json = parse(&event);
            let pointers = json["erased"].as_array().unwrap();
            assert_eq!(pointers.len(), erased, "{pointers:?}");
            assert!(pointers.ends_with(&[
                json!("/labels"),
                json!("/gateway/reason"),
                json!("/gateway/fields")
            ]));
            assert_eq!(json["labels"]["app"], "orders");
        }
    }

    #[test]
    fn an_identity_that_requests_share_is_written_the_same_each_time() {
        let input =
            json!({"identity": {"subject": "al\"ice", "claims": {"exp": 1}}, "request": {"method": "GET"}});
        let input = value(&input);
        let identity = input[&Value::from("identity")].clone();
        let _cached = identity.clone();
        let event = event(Some(&input), None);
        let mut memo = Memo::default();
        let mut texts = [(); 3].map(|()| {
            let mut out = Vec::new();
            encode(&event, &labels(), &mut memo, &mut out);
            String::from_utf8(out).unwrap()
        });
        assert!(memo.get(&identity).is_some());
        texts.sort();
        assert_eq!(texts, [(); 3].map(|()| text(&event)));
    }

    #[test]
    fn a_long_body_is_erased_and_a_short_one_kept() {
        let long = json!({"request": {"method": "POST", "body": {"items": vec!["x".repeat(100); 200]}}});
        let deny = json!({"allow": false, "body": "y".repeat(BODY_MAX)});
        let erased = ["/input/request/body", "/result/body"];
        check_erased(
            &long,
            &deny,
            &erased,
            (&json!({"request": {"method": "POST"}}), &json!({"allow": false})),
        );
        let short = value(&json!({"request": {"body": "x".repeat(BODY_MAX - 2)}}));
        assert!(parse(&event(Some(&short), None)).get("erased").is_none());
    }

    #[test]
    fn documents_beyond_their_bound_are_erased_whole() {
        let large = json!({"request": {"headers": {"authorization": "hush", "x": "y".repeat(INPUT_MAX)}}});
        let deep = (0..120).fold(json!("hush"), |value, _| json!([value]));
        let erased = ["/input/request/headers/authorization", "/input", "/result"];
        check_erased(&large, &json!({ "reason": deep }), &erased, (&Json::Null, &Json::Null));
        let fields = value(&json!({"f": "x".repeat(FIELDS_MAX)}));
        let mut event = event(None, None);
        event.fields = Some(&fields);
        assert_eq!(parse(&event)["erased"], json!(["/gateway/fields"]));
    }

    /// A credential header in some spelling, with or without a prefix.
    fn spelled() -> impl Strategy<Value = String> {
        let name = prop::sample::select(vec![
            "authorization",
            "proxy-authorization",
            "cookie",
            "set-cookie",
            "x-api-key",
            "api-key",
            "x-auth-token",
            "x-csrf-token",
            "x-amz-security-token",
            "client-secret",
            "session",
        ]);
        (name, prop::collection::vec(any::<bool>(), 24)).prop_map(|(name, upper)| {
            let flip = |(c, upper): (char, bool)| match (c, upper) {
                ('-', true) => '_',
                (c, true) => c.to_ascii_uppercase(),
                (c, false) => c,
            };
            name.chars().zip(upper).map(flip).collect()
        })
    }

    proptest! {
        #[test]
        fn no_spelling_of_a_credential_gets_through(
            secrets in prop::collection::vec(spelled(), 1..4),
            others in prop::collection::btree_map("[a-j-]{1,12}", "[^\u{0}]{0,20}", 0..6),
        ) {
            let mut names: serde_json::Map<String, Json> =
                others.into_iter().map(|(name, text)| (name, json!(text))).collect();
            names.extend(secrets.iter().map(|name| (name.clone(), json!("hush hush"))));
            let input = value(&json!({"request": {"headers": names, "query": names, "cookies": names},
                "response": {"headers": names}}));
            let edits = json!({"set": names, "add": names});
            let result = value(&json!({"headers": names, "upstream": {"headers": edits, "query": {"set": names}},
                "response": {"headers": edits}}));
            let text = text(&event(Some(&input), Some(&result)));
            prop_assert!(!text.contains("hush"), "{}", text);
            prop_assert!(serde_json::from_str::<Json>(&text).is_ok());
        }

        #[test]
        fn any_text_in_any_field_stays_one_line_of_json(text_field in "(?s).{0,40}", path in "(?s).{0,40}") {
            let mut event = event(None, None);
            event.gateway.path = &path;
            event.gateway.subject = Some(&text_field);
            event.error = Some(&text_field);
            let text = text(&event);
            prop_assert!(!text.contains('\n'));
            let json: Json = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(json["gateway"]["path"].as_str(), Some(&*path));
            prop_assert_eq!(json["gateway"]["identity"]["subject"].as_str(), Some(&*text_field));
            prop_assert_eq!(json["error"]["message"].as_str(), Some(&*text_field));
        }
    }
}
