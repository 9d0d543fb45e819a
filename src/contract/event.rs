//! The decision event: one record for every parsed request, in OPA's decision-log shape with `gateway` added.

use std::time::Duration;

use http::Method;
use regorus::Value;

use crate::base::id::DecisionId;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The policy allowed it, and it was answered by the upstream.
    Allowed,
    /// The policy denied it.
    Denied,
    /// A limit refused it.
    Limited,
    /// The gateway refused it before the policy was asked: malformed, no route, no or bad credential.
    Refused,
    /// Something that should work did not: policy error, upstream down, client gone.
    Failed,
}

impl Outcome {
    /// All outcomes, for counters.
    pub const ALL: [Self; 5] = [Self::Allowed, Self::Denied, Self::Limited, Self::Refused, Self::Failed];

    /// The word in the event and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Limited => "limited",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// How much of a decision is logged (`log.level`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    /// Input and result too.
    #[default]
    Full,
    /// Without input and result.
    Summary,
    /// No event, only counters.
    None,
}

/// One record, borrowed from the exchange it tells of. Times are since the Unix epoch, durations as measured.
#[derive(Debug)]
pub struct Event<'a> {
    /// The decision's id.
    pub decision_id: DecisionId,
    /// When the request was received.
    pub timestamp: Duration,
    /// Bundle of the policy that decided, if one was asked.
    pub bundle: Option<Bundle<'a>>,
    /// The input as the policy saw it, if one was asked.
    pub input: Option<&'a Value>,
    /// The policy's result, if it gave one.
    pub result: Option<&'a Value>,
    /// The evaluation's error, if it failed.
    pub error: Option<&'a str>,
    /// Peer address and port.
    pub requested_by: std::net::SocketAddr,
    /// The `gateway` object.
    pub gateway: Gateway<'a>,
    /// How much of it is logged.
    pub level: LogLevel,
    /// `log.fields` of the decision, merged into `gateway.fields`.
    pub fields: Option<&'a Value>,
    /// `labels` of the decision, merged into the event's labels.
    pub labels: Option<&'a Value>,
    /// Values of the request's credential headers: left out wherever they stand, whatever carries them there.
    pub credentials: &'a [http::HeaderValue],
    /// Lower-case names of headers that carry credentials beside the well-known ones (configured API-key headers).
    pub credential_headers: &'a [http::HeaderName],
}

/// The bundle a decision came from.
#[derive(Debug, Clone, Copy)]
pub struct Bundle<'a> {
    /// The policy's configured name.
    pub name: &'a str,
    /// The bundle's revision.
    pub revision: &'a str,
    /// The rule asked, `gateway/decision`.
    pub path: &'a str,
}

/// What the gateway adds to OPA's shape (contract section 5).
#[derive(Debug)]
pub struct Gateway<'a> {
    /// Listener name.
    pub listener: &'a str,
    /// API name, once routed.
    pub api: Option<&'a str>,
    /// API version.
    pub version: Option<&'a str>,
    /// Route name.
    pub route: Option<&'a str>,
    /// Request method.
    pub method: &'a Method,
    /// Canonical path, or the raw one where it was refused; never the query.
    pub path: &'a str,
    /// Status sent to the client; 0 when the client was gone before.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// Stable `snake_case` reason of a gateway's refusal, or the policy's own reason.
    pub reason: Option<&'a str>,
    /// Identity provider and subject.
    pub provider: Option<&'a str>,
    /// Identity subject.
    pub subject: Option<&'a str>,
    /// Why a credential was refused.
    pub identity_failure: Option<&'a str>,
    /// Policy name.
    pub policy: Option<&'a str>,
    /// Name of the upstream, once one was chosen.
    pub upstream: Option<&'a str>,
    /// `host:port` of the upstream's endpoint that answered.
    pub endpoint: Option<&'a str>,
    /// Limits taken: name and what remains.
    pub limits: &'a [LimitTaken],
    /// The policy failed and the API says `on_error: allow`.
    pub fail_open: bool,
    /// The decision was made before, for the same reasons, and remembered.
    pub remembered: bool,
    /// Bytes of body sent to the client.
    pub response_bytes: u64,
    /// The response ended early: client gone or upstream broke off.
    pub aborted: bool,
    /// What the policy asked outside, if anything.
    pub outside: Outside,
    /// Microseconds spent.
    pub timings: Timings,
}

/// What policies have asked outside for one request, both phases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outside {
    /// Requests sent by `http.send`.
    pub sends: u32,
    /// Requests that a kept answer made needless.
    pub cached: u32,
    /// Names looked up.
    pub lookups: u32,
    /// Requests and lookups without an answer.
    pub failed: u32,
    /// Microseconds waited for all of them.
    pub us: u64,
}

/// Where the time of a request went, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// First byte of the head to the response's end.
    pub total_us: u64,
    /// Resolving the identity.
    pub identity_us: u64,
    /// Evaluating policy, both phases.
    pub policy_us: u64,
    /// Upstream, until its response head.
    pub upstream_us: u64,
}

/// One limit a request took from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitTaken {
    /// The limit's name.
    pub name: String,
    /// What it still allows now.
    pub remaining: u64,
    /// Whether it refused the request.
    pub exceeded: bool,
}
