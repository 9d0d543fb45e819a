//! Why a request leaves the pipeline early, and the only table from that cause to a status and a public text.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};

use crate::base::path::PathError;
use crate::contract::canonical::Refusal;
use crate::contract::decision::Deny;
use crate::contract::event::Outcome;
use crate::identity::Reply;
use crate::identity::oidc::party::Kind;
use crate::pipeline::framing::FramingError;
use crate::policy::decide::Failure;

/// Why a request was not, or not successfully, forwarded.
#[derive(Debug)]
pub enum Cause {
    /// The HTTP/1 message is not well-formed.
    Framing(FramingError),
    /// The head did not arrive in time.
    HeaderTimeout,
    /// The request target is not `/path?query` or an absolute `http` URI of this host.
    Target,
    /// The path is ambiguous.
    Path(PathError),
    /// Too many query parameters.
    QueryTooLarge,
    /// The policy reads the query, and it has a malformed escape or bytes that are not text.
    QueryMalformed,
    /// `Host` is malformed, or disagrees with the target.
    Host,
    /// The TLS server name and `Host` lead to different listeners' rules.
    Misdirected,
    /// The client's certificate would not be accepted any more: revoked, or its authority is gone.
    CertificateWithdrawn,
    /// A method the gateway does not pass (`CONNECT`, `TRACE`).
    MethodNotSupported,
    /// `Expect` with something other than `100-continue`.
    Expectation,
    /// A header value that is not UTF-8, so that the policy could not see it as it is.
    HeaderText,
    /// A header that can be there once only is there twice (`Authorization`, `Content-Type`).
    RepeatedHeader,
    /// `Connection` names a header that must reach the upstream or the policy.
    ConnectionHeader,
    /// A trusted proxy's `X-Forwarded-For` and `Forwarded` tell of different clients.
    ForwardedConflict,
    /// A trusted proxy's `Client-Cert` cannot be read.
    ForwardedCertificateMalformed,
    /// A trusted proxy's `Client-Cert` is of no trusted authority, out of its time, or revoked.
    ForwardedCertificateUntrusted,
    /// The request has passed here too often.
    Loop,
    /// The gateway is draining.
    Draining,
    /// No API or route matches.
    NoRoute,
    /// The route exists for other methods.
    MethodNotAllowed {
        /// `Allow`.
        allow: HeaderValue,
    },
    /// The API version is retired.
    Retired,
    /// A credential was given and is not good.
    BadCredential {
        /// Stable reason.
        reason: &'static str,
        /// `WWW-Authenticate`.
        challenge: HeaderValue,
        /// The answer of the service that refused it, in place of the gateway's own.
        reply: Option<Arc<Reply>>,
    },
    /// No credential was given, and the API wants one.
    CredentialRequired,
    /// A path that the gateway answers itself: what became of it.
    Browser {
        /// What became of it.
        kind: Kind,
        /// The browser is sent elsewhere.
        is_redirect: bool,
        /// Stable reason.
        reason: &'static str,
    },
    /// An identity provider cannot answer.
    IdentityUnavailable {
        /// Stable reason.
        reason: &'static str,
    },
    /// The body is over its limit.
    BodyTooLarge,
    /// The body is not what its type says.
    BodyMalformed,
    /// The policy reads bodies, and this one's coding or type cannot be read.
    BodyUnsupported,
    /// The body stalled.
    BodyTimeout,
    /// The client broke off, or its chunks are malformed.
    BodyBroken,
    /// The policy denied it.
    Denied(Box<Deny>),
    /// The policy denied the upstream's response.
    ResponseDenied(Box<Deny>),
    /// The policy did not give a decision.
    PolicyFailed(Failure),
    /// A limit is used up.
    Limited {
        /// Whole seconds; `None` where waiting does not help.
        retry_after: Option<HeaderValue>,
    },
    /// The decision names an upstream that does not exist.
    UnknownUpstream,
    /// No endpoint is healthy, or every one is at its bound.
    UpstreamUnavailable {
        /// Stable reason.
        reason: &'static str,
    },
    /// The upstream could not be reached, or answered nonsense.
    UpstreamFailed {
        /// Stable reason.
        reason: &'static str,
    },
    /// The upstream did not answer in time.
    UpstreamTimeout {
        /// Stable reason.
        reason: &'static str,
    },
    /// A bug of ours.
    Internal,
}

/// The words by which refusals and failures of the gateway's own are counted.
pub const COUNTED: &[&str] = &[
    "header_timeout",
    "bad_target",
    "query_too_large",
    "query_malformed",
    "bad_host",
    "misdirected",
    "certificate_withdrawn",
    "method_not_supported",
    "bad_expectation",
    "header_not_utf8",
    "repeated_header",
    "bad_connection_header",
    "forwarded_conflict",
    "loop_detected",
    "draining",
    "no_route",
    "method_not_allowed",
    "api_retired",
    "body_too_large",
    "body_malformed",
    "body_unsupported",
    "body_timeout",
    "body_broken",
    "unknown_upstream",
    "internal",
    "bad_line_end",
    "bad_request_line",
    "bad_version",
    "bad_header_name",
    "header_underscore",
    "bad_header_value",
    "bad_content_length",
    "bad_transfer_encoding",
    "length_conflict",
    "head_too_large",
    "too_many_headers",
    "bad_chunk",
    "bad_trailer",
    "path_not_absolute",
    "path_bad_escape",
    "path_control",
    "path_not_utf8",
    "path_encoded_separator",
    "path_dot_segment",
    "path_above_root",
    "path_empty_segment",
    "path_parameter",
    "bad_credential",
    "credential_required",
    "identity_unavailable",
    "upstream_unavailable",
    "upstream_failed",
    "upstream_timeout",
];

/// Whose fault a cause is, for alerting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The client's.
    Client,
    /// The gateway's own, or its operator's.
    Gateway,
    /// The policy's.
    Policy,
    /// The upstream's or the network's.
    Upstream,
}

// === impl Cause ===

impl Cause {
    /// The status the client gets.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Framing(error) => framing_status(*error),
            Self::Target
            | Self::Path(_)
            | Self::QueryTooLarge
            | Self::QueryMalformed
            | Self::Host
            | Self::HeaderText
            | Self::RepeatedHeader
            | Self::ConnectionHeader
            | Self::ForwardedConflict
            | Self::ForwardedCertificateMalformed
            | Self::ForwardedCertificateUntrusted
            | Self::BodyMalformed
            | Self::BodyBroken => StatusCode::BAD_REQUEST,
            Self::HeaderTimeout | Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            // On a new connection the handshake decides (RFC 9110 section 15.5.20).
            Self::Misdirected | Self::CertificateWithdrawn => StatusCode::MISDIRECTED_REQUEST,
            Self::MethodNotSupported => StatusCode::NOT_IMPLEMENTED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Retired => StatusCode::GONE,
            Self::Browser { kind, is_redirect, .. } => browser_status(*kind, *is_redirect),
            Self::BadCredential { reply: Some(reply), .. } => reply.status,
            Self::BadCredential { .. } | Self::CredentialRequired => StatusCode::UNAUTHORIZED,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyUnsupported => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Denied(deny) | Self::ResponseDenied(deny) => deny.status,
            Self::Limited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Draining
            | Self::IdentityUnavailable { .. }
            | Self::PolicyFailed(_)
            | Self::UnknownUpstream
            | Self::UpstreamUnavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamFailed { .. } => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// A stable `snake_case` word, for events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Framing(error) => framing_reason(*error),
            Self::HeaderTimeout => "header_timeout",
            Self::Target => "bad_target",
            Self::Path(error) => path_reason(*error),
            Self::QueryTooLarge => "query_too_large",
            Self::QueryMalformed => "query_malformed",
            Self::Host => "bad_host",
            Self::Misdirected => "misdirected",
            Self::CertificateWithdrawn => "certificate_withdrawn",
            Self::MethodNotSupported => "method_not_supported",
            Self::Expectation => "bad_expectation",
            Self::HeaderText => "header_not_utf8",
            Self::RepeatedHeader => "repeated_header",
            Self::ConnectionHeader => "bad_connection_header",
            Self::ForwardedConflict => "forwarded_conflict",
            Self::ForwardedCertificateMalformed => "client_cert_malformed",
            Self::ForwardedCertificateUntrusted => "client_cert_untrusted",
            Self::Loop => "loop_detected",
            Self::Draining => "draining",
            Self::NoRoute => "no_route",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::Retired => "api_retired",
            Self::BadCredential { reason, .. }
            | Self::Browser { reason, .. }
            | Self::IdentityUnavailable { reason }
            | Self::UpstreamFailed { reason }
            | Self::UpstreamUnavailable { reason }
            | Self::UpstreamTimeout { reason } => reason,
            Self::CredentialRequired => "credential_required",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyMalformed => "body_malformed",
            Self::BodyUnsupported => "body_unsupported",
            Self::BodyTimeout => "body_timeout",
            Self::BodyBroken => "body_broken",
            Self::Denied(_) => "denied",
            Self::ResponseDenied(_) => "response_denied",
            // The contract promises this one word; which failure it was stands in the event's `error` and in metrics.
            Self::PolicyFailed(_) => "policy_error",
            Self::Limited { .. } => "limited",
            Self::UnknownUpstream => "unknown_upstream",
            Self::Internal => "internal",
        }
    }

    /// The policy's denial, where it is one.
    pub(crate) fn denial(&self) -> Option<&Deny> {
        if let Self::Denied(deny) | Self::ResponseDenied(deny) = self { Some(deny) } else { None }
    }

    /// The kind that stands for all reasons that another module gives.
    fn kind(&self) -> Option<&'static str> {
        let is_credential = matches!(self, Self::BadCredential { .. });
        let is_refused_browser = matches!(
            self,
            Self::Browser {
                kind: Kind::BadRequest | Kind::BadCredential | Kind::Forbidden | Kind::BadMethod,
                ..
            }
        );
        let is_identity =
            matches!(self, Self::IdentityUnavailable { .. } | Self::Browser { kind: Kind::Unavailable, .. });
        let is_unavailable = matches!(self, Self::UpstreamUnavailable { .. });
        let is_failed = matches!(self, Self::UpstreamFailed { .. });
        let is_timeout = matches!(self, Self::UpstreamTimeout { .. });
        let kinds = [
            (is_credential || is_refused_browser, "bad_credential"),
            (is_identity, "identity_unavailable"),
            (is_unavailable, "upstream_unavailable"),
            (is_failed, "upstream_failed"),
            (is_timeout, "upstream_timeout"),
        ];
        kinds.into_iter().find_map(|(is_it, kind)| is_it.then_some(kind))
    }

    /// Its place in [`COUNTED`]. Decisions of policies and limits are counted elsewhere; reasons that come from other
    /// modules are counted by their kind.
    pub fn counted(&self) -> Option<usize> {
        let word = self.kind().unwrap_or_else(|| self.reason());
        COUNTED.iter().position(|counted| *counted == word)
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Framing(_)
            | Self::HeaderTimeout
            | Self::Target
            | Self::Path(_)
            | Self::QueryTooLarge
            | Self::QueryMalformed
            | Self::Host
            | Self::Misdirected
            | Self::CertificateWithdrawn
            | Self::MethodNotSupported
            | Self::Expectation
            | Self::HeaderText
            | Self::RepeatedHeader
            | Self::ConnectionHeader
            | Self::ForwardedConflict
            | Self::ForwardedCertificateMalformed
            | Self::ForwardedCertificateUntrusted
            | Self::Loop
            | Self::NoRoute
            | Self::MethodNotAllowed { .. }
            | Self::Retired
            | Self::BadCredential { .. }
            | Self::CredentialRequired
            | Self::BodyTooLarge
            | Self::BodyMalformed
            | Self::BodyUnsupported
            | Self::BodyTimeout
            | Self::BodyBroken
            | Self::Limited { .. }
            | Self::Denied(_)
            | Self::ResponseDenied(_)
            | Self::Browser {
                kind: Kind::Done | Kind::BadRequest | Kind::BadCredential | Kind::Forbidden | Kind::BadMethod,
                ..
            } => Fault::Client,
            Self::PolicyFailed(_) | Self::UnknownUpstream => Fault::Policy,
            Self::Browser { kind: Kind::Unavailable, .. }
            | Self::Draining
            | Self::IdentityUnavailable { .. }
            | Self::Internal => Fault::Gateway,
            Self::UpstreamUnavailable { .. } | Self::UpstreamFailed { .. } | Self::UpstreamTimeout { .. } => {
                Fault::Upstream
            }
        }
    }

    /// How the request's event is classed.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Denied(_) | Self::ResponseDenied(_) => Outcome::Denied,
            Self::Limited { .. } => Outcome::Limited,
            Self::Framing(_)
            | Self::HeaderTimeout
            | Self::Target
            | Self::Path(_)
            | Self::QueryTooLarge
            | Self::QueryMalformed
            | Self::Host
            | Self::Misdirected
            | Self::CertificateWithdrawn
            | Self::MethodNotSupported
            | Self::Expectation
            | Self::HeaderText
            | Self::RepeatedHeader
            | Self::ConnectionHeader
            | Self::ForwardedConflict
            | Self::ForwardedCertificateMalformed
            | Self::ForwardedCertificateUntrusted
            | Self::Loop
            | Self::Draining
            | Self::NoRoute
            | Self::MethodNotAllowed { .. }
            | Self::Retired
            | Self::BadCredential { .. }
            | Self::CredentialRequired
            | Self::BodyTooLarge
            | Self::BodyMalformed
            | Self::BodyUnsupported
            | Self::BodyTimeout
            | Self::BodyBroken
            | Self::Browser {
                kind: Kind::BadRequest | Kind::BadCredential | Kind::Forbidden | Kind::BadMethod,
                ..
            } => Outcome::Refused,
            Self::Browser { kind: Kind::Done, .. } => Outcome::Allowed,
            Self::Browser { kind: Kind::Unavailable, .. }
            | Self::IdentityUnavailable { .. }
            | Self::PolicyFailed(_)
            | Self::UnknownUpstream
            | Self::UpstreamUnavailable { .. }
            | Self::UpstreamFailed { .. }
            | Self::UpstreamTimeout { .. }
            | Self::Internal => Outcome::Failed,
        }
    }

    /// What the client may know: never an internal address, a rule's text or a credential.
    pub fn public_message(&self) -> String {
        match self {
            Self::Framing(error) => error.to_string(),
            Self::Path(error) => error.to_string(),
            Self::HeaderTimeout => "the request head did not arrive in time".to_owned(),
            Self::Target => "the request target is malformed".to_owned(),
            Self::QueryTooLarge => "the query has too many parameters".to_owned(),
            Self::QueryMalformed => "the query has a malformed escape or is not UTF-8".to_owned(),
            Self::Host => "Host is malformed or disagrees with the request target".to_owned(),
            Self::Misdirected => "this connection does not serve the requested host".to_owned(),
            Self::CertificateWithdrawn => "the client certificate is not accepted any more".to_owned(),
            Self::MethodNotSupported => "the method is not supported".to_owned(),
            Self::Expectation => "the expectation cannot be met".to_owned(),
            Self::HeaderText => "a header value is not UTF-8".to_owned(),
            Self::RepeatedHeader => "a header that can be there only once is repeated".to_owned(),
            Self::ConnectionHeader => "Connection names a header that cannot be hop-by-hop".to_owned(),
            Self::ForwardedConflict => "X-Forwarded-For and Forwarded disagree".to_owned(),
            Self::ForwardedCertificateMalformed => "Client-Cert is not a certificate".to_owned(),
            Self::ForwardedCertificateUntrusted => "the client certificate is not accepted".to_owned(),
            Self::Loop => "the request has passed this gateway too often".to_owned(),
            Self::Draining => "the gateway is shutting down".to_owned(),
            Self::NoRoute => "nothing is served at this path".to_owned(),
            Self::MethodNotAllowed { .. } => "the method is not allowed here".to_owned(),
            Self::Retired => "this version of the API is retired".to_owned(),
            Self::BadCredential { .. } => "the credential is not accepted".to_owned(),
            Self::CredentialRequired => "a credential is required here".to_owned(),
            Self::Browser { kind, .. } => browser_message(*kind).to_owned(),
            Self::IdentityUnavailable { .. } => "the identity cannot be checked now".to_owned(),
            Self::BodyTooLarge => "the body is too large".to_owned(),
            Self::BodyMalformed => "the body is not what its content type says".to_owned(),
            Self::BodyUnsupported => "the body's type or coding is not accepted here".to_owned(),
            Self::BodyTimeout => "the body did not arrive in time".to_owned(),
            Self::BodyBroken => "the body is malformed or incomplete".to_owned(),
            Self::Denied(deny) | Self::ResponseDenied(deny) => match (&deny.reason, deny.expose_reason) {
                (Some(reason), true) => reason.clone(),
                (Some(_) | None, _) => "denied by policy".to_owned(),
            },
            Self::PolicyFailed(_) | Self::UnknownUpstream => "no decision could be made".to_owned(),
            Self::Limited { .. } => "too many requests".to_owned(),
            Self::UpstreamUnavailable { .. } => "the upstream is unavailable".to_owned(),
            Self::UpstreamFailed { .. } => "the upstream failed".to_owned(),
            Self::UpstreamTimeout { .. } => "the upstream did not answer in time".to_owned(),
            Self::Internal => "internal error".to_owned(),
        }
    }

    /// Whether the connection must not be used again: the two ends may disagree on where the next message begins.
    pub fn closes_connection(&self) -> bool {
        match self {
            Self::Framing(_)
            | Self::HeaderTimeout
            | Self::BodyTimeout
            | Self::BodyBroken
            | Self::Draining
            | Self::Target
            | Self::Path(_)
            | Self::Host
            | Self::Internal
            | Self::MethodNotSupported
            | Self::CertificateWithdrawn
            | Self::Expectation
            | Self::BodyTooLarge => true,
            Self::QueryTooLarge
            | Self::QueryMalformed
            | Self::Misdirected
            | Self::HeaderText
            | Self::RepeatedHeader
            | Self::ConnectionHeader
            | Self::ForwardedConflict
            | Self::ForwardedCertificateMalformed
            | Self::ForwardedCertificateUntrusted
            | Self::Loop
            | Self::NoRoute
            | Self::MethodNotAllowed { .. }
            | Self::Retired
            | Self::BadCredential { .. }
            | Self::CredentialRequired
            | Self::Browser { .. }
            | Self::IdentityUnavailable { .. }
            | Self::BodyMalformed
            | Self::BodyUnsupported
            | Self::Denied(_)
            | Self::ResponseDenied(_)
            | Self::PolicyFailed(_)
            | Self::Limited { .. }
            | Self::UnknownUpstream
            | Self::UpstreamUnavailable { .. }
            | Self::UpstreamFailed { .. }
            | Self::UpstreamTimeout { .. } => false,
        }
    }
}

impl From<Refusal> for Cause {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Method => Self::MethodNotSupported,
            Refusal::Target => Self::Target,
            Refusal::Path(error) => Self::Path(error),
            Refusal::QueryTooLarge => Self::QueryTooLarge,
            Refusal::QueryMalformed => Self::QueryMalformed,
            Refusal::Host => Self::Host,
            Refusal::HeaderUnderscore => Self::Framing(FramingError::HeaderUnderscore),
            Refusal::HeaderText => Self::HeaderText,
            Refusal::RepeatedHeader => Self::RepeatedHeader,
            Refusal::ConnectionHeader => Self::ConnectionHeader,
            Refusal::Expectation => Self::Expectation,
            Refusal::Loop => Self::Loop,
            Refusal::BodyMalformed => Self::BodyMalformed,
            Refusal::BodyUnsupported => Self::BodyUnsupported,
        }
    }
}

fn browser_status(kind: Kind, is_redirect: bool) -> StatusCode {
    match kind {
        Kind::Done if is_redirect => StatusCode::SEE_OTHER,
        Kind::Done => StatusCode::OK,
        Kind::BadRequest => StatusCode::BAD_REQUEST,
        Kind::BadCredential => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::BadMethod => StatusCode::METHOD_NOT_ALLOWED,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn browser_message(kind: Kind) -> &'static str {
    match kind {
        Kind::Done => "done",
        Kind::BadRequest => {
            "this is no login of this browser that is still open; begin again at the page you want"
        }
        Kind::BadCredential => "the login was not successful; begin again at the page you want",
        Kind::Forbidden => "a page of another site may have sent this request",
        Kind::BadMethod => "the method is not allowed here",
        Kind::Unavailable => "the identity provider does not answer; try again later",
    }
}

fn framing_status(error: FramingError) -> StatusCode {
    match error {
        FramingError::HeadTooLarge | FramingError::TooManyHeaders => {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        }
        FramingError::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        FramingError::LineEnd
        | FramingError::RequestLine
        | FramingError::HeaderName
        | FramingError::HeaderUnderscore
        | FramingError::HeaderValue
        | FramingError::ContentLength
        | FramingError::TransferEncoding
        | FramingError::LengthConflict
        | FramingError::Host
        | FramingError::Chunk
        | FramingError::Trailer => StatusCode::BAD_REQUEST,
    }
}

fn framing_reason(error: FramingError) -> &'static str {
    match error {
        FramingError::LineEnd => "bad_line_end",
        FramingError::RequestLine => "bad_request_line",
        FramingError::Version => "bad_version",
        FramingError::HeaderName => "bad_header_name",
        FramingError::HeaderUnderscore => "header_underscore",
        FramingError::HeaderValue => "bad_header_value",
        FramingError::ContentLength => "bad_content_length",
        FramingError::TransferEncoding => "bad_transfer_encoding",
        FramingError::LengthConflict => "length_conflict",
        FramingError::Host => "bad_host",
        FramingError::HeadTooLarge => "head_too_large",
        FramingError::TooManyHeaders => "too_many_headers",
        FramingError::Chunk => "bad_chunk",
        FramingError::Trailer => "bad_trailer",
    }
}

fn path_reason(error: PathError) -> &'static str {
    match error {
        PathError::NotAbsolute => "path_not_absolute",
        PathError::BadEscape => "path_bad_escape",
        PathError::Control => "path_control",
        PathError::NotUtf8 => "path_not_utf8",
        PathError::EncodedSeparator => "path_encoded_separator",
        PathError::DotSegment => "path_dot_segment",
        PathError::AboveRoot => "path_above_root",
        PathError::EmptySegment => "path_empty_segment",
        PathError::PathParameter => "path_parameter",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_cases_of_policies_see_the_statuses_that_clients_get() {
        let refusals = [
            Refusal::Method,
            Refusal::Target,
            Refusal::Path(PathError::DotSegment),
            Refusal::QueryTooLarge,
            Refusal::QueryMalformed,
            Refusal::Host,
            Refusal::HeaderUnderscore,
            Refusal::HeaderText,
            Refusal::RepeatedHeader,
            Refusal::ConnectionHeader,
            Refusal::Expectation,
            Refusal::Loop,
            Refusal::BodyMalformed,
            Refusal::BodyUnsupported,
        ];
        for refusal in refusals {
            assert_eq!(Cause::from(refusal).status(), refusal.status(), "{refusal}");
        }
    }
}
