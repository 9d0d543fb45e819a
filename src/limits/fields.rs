//! The response fields that tell a client of its limits, as a pure function of the verdict.
//!
//! `RateLimit-Policy` and `RateLimit` follow draft-ietf-httpapi-ratelimit-headers-10, `Retry-After` RFC 9110 section
//! 10.2.3. Names were checked where the decision was parsed (`contract::rate::check_name`).

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use crate::limits::verdict::{LimitRequest, Verdict};

/// `RateLimit-Policy`: what each limit allows.
pub const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// `RateLimit`: what each limit still allows now.
pub const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The largest integer of a structured field (RFC 9651 section 3.3.1).
const INTEGER_MAX: u64 = 999_999_999_999_999;

/// Field values for one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitFields {
    /// `RateLimit-Policy`, such as `"per-client";q=100;w=60`.
    pub policy: HeaderValue,
    /// `RateLimit`, such as `"per-client";r=99;t=12`.
    pub state: HeaderValue,
    /// `Retry-After` in whole seconds, at least 1; only where a limit refused and waiting helps.
    pub retry_after: Option<HeaderValue>,
}

/// The fields for `verdict`, the answer to `requests`; `None` where there are no limits.
pub fn limit_fields(requests: &[LimitRequest<'_>], verdict: &Verdict) -> Option<LimitFields> {
    if requests.is_empty() {
        return None;
    }
    let mut policy = Vec::with_capacity(48 * requests.len());
    let mut state = Vec::with_capacity(48 * requests.len());
    for (request, standing) in requests.iter().zip(&verdict.standings) {
        let rate = request.quota.rate();
        push_item(&mut policy, request.name);
        push_parameter(&mut policy, b'q', rate.count());
        // A window is whole seconds; a shorter one is left out rather than told wrong.
        if rate.period().subsec_nanos() == 0 {
            push_parameter(&mut policy, b'w', rate.period().as_secs());
        }
        push_item(&mut state, request.name);
        push_parameter(&mut state, b'r', standing.remaining);
        push_parameter(&mut state, b't', whole_seconds(standing.reset));
    }
    Some(LimitFields {
        policy: HeaderValue::from_maybe_shared(Bytes::from(policy)).ok()?,
        state: HeaderValue::from_maybe_shared(Bytes::from(state)).ok()?,
        retry_after: verdict.retry_after().map(|wait| HeaderValue::from(whole_seconds(wait).max(1))),
    })
}

/// Begins a list item: a string (RFC 9651 section 3.3.3).
fn push_item(out: &mut Vec<u8>, name: &str) {
    if !out.is_empty() {
        out.extend_from_slice(b", ");
    }
    out.push(b'"');
    for byte in name.bytes() {
        if byte == b'"' || byte == b'\\' {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

fn push_parameter(out: &mut Vec<u8>, key: u8, value: u64) {
    out.extend_from_slice(&[b';', key, b'=']);
    out.extend_from_slice(itoa::Buffer::new().format(value.min(INTEGER_MAX)).as_bytes());
}

/// Rounded up: a client that comes back after it is not too early.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::rate::{Quota, Rate};
    use crate::limits::memory::Store;

    const NOW: Duration = Duration::from_hours(500_000);

    #[track_caller]
    fn check(limits: &[(&str, &str, u64)], takes: usize, want: (&str, &str, Option<&str>)) {
        let store = Store::new(100);
        let request = |&(name, rate, cost): &(&'static str, &str, u64)| LimitRequest {
            name,
            key: "k",
            quota: Quota::new(Rate::parse(rate).unwrap(), None, Some(cost)).unwrap(),
        };
        let limits: Vec<(&'static str, &str, u64)> = limits
            .iter()
            .map(|(name, rate, cost)| (String::from(*name).leak() as &str, *rate, *cost))
            .collect();
        let requests: Vec<_> = limits.iter().map(request).collect();
        let mut verdict = Verdict::default();
        for _ in 0..takes {
            verdict = store.take("api", &requests, NOW);
        }
        let fields = limit_fields(&requests, &verdict).unwrap();
        let retry_after = fields.retry_after.as_ref().map(|value| value.to_str().unwrap());
        assert_eq!((fields.policy.to_str().unwrap(), fields.state.to_str().unwrap(), retry_after), want);
    }

    #[test]
    fn fields_say_what_is_allowed_and_what_is_left() {
        check(
            &[("per-client", "100/1m", 1)],
            1,
            (r#""per-client";q=100;w=60"#, r#""per-client";r=99;t=1"#, None),
        );
        check(
            &[("a", "10/s", 1), ("b", "1000/1h", 10)],
            2,
            (r#""a";q=10;w=1, "b";q=1000;w=3600"#, r#""a";r=8;t=1, "b";r=980;t=72"#, None),
        );
    }

    #[test]
    fn a_refused_client_is_told_when_to_come_back() {
        check(&[("l", "1/1m", 1)], 2, (r#""l";q=1;w=60"#, r#""l";r=0;t=60"#, Some("60")));
        check(&[("l", "1/1ms", 1)], 2, (r#""l";q=1"#, r#""l";r=0;t=1"#, Some("1")));
        check(&[("l", "1/1m", 2)], 1, (r#""l";q=1;w=60"#, r#""l";r=1;t=0"#, None));
    }

    #[test]
    fn names_are_escaped_and_numbers_capped() {
        check(&[("a \"b\" \\", "5/s", 1)], 1, (r#""a \"b\" \\";q=5;w=1"#, r#""a \"b\" \\";r=4;t=1"#, None));
        let quota = Quota::new(Rate::parse("1000000000000/1ms").unwrap(), Some(u64::MAX), None).unwrap();
        let request = [LimitRequest { name: "l", key: "k", quota }];
        let fields = limit_fields(&request, &Store::new(1).take("api", &request, NOW)).unwrap();
        assert_eq!(fields.state, r#""l";r=999999999999999;t=1"#);
    }

    #[test]
    fn no_limits_no_fields() {
        assert_eq!(limit_fields(&[], &Verdict::default()), None);
    }
}
