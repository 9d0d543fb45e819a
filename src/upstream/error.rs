//! What can go wrong on the way to an upstream, and what each failure means to a client.
//!
//! Errors carry their cause for the log; none carries a header, a body or a key. Mapping to a status is the
//! pipeline's: [`UpstreamError::class`] says which kind each is.

use std::io;

use crate::base::pem::PemError;
use crate::config::model::Name;

/// A cluster that cannot be built from its settings.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A CA, certificate or key file is unusable.
    #[error("upstream `{upstream}`: {source}")]
    Pem {
        /// The upstream.
        upstream: Name,
        /// Which file, and why.
        #[source]
        source: PemError,
    },
    /// A file is well-formed PEM, but rustls refuses what is in it (a key that does not fit its certificate).
    #[error("upstream `{upstream}`: cannot use its certificate, key or CA; check that they belong together")]
    Tls {
        /// The upstream.
        upstream: Name,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The name expected in the server's certificate is no host name or address.
    #[error("upstream `{upstream}`: `{server_name}` is not a host name or an address; set `tls.server_name`")]
    ServerName {
        /// The upstream.
        upstream: Name,
        /// The name as given.
        server_name: String,
    },
    /// No CA is configured, and the system has none.
    #[error("upstream `{upstream}`: the system has no usable CA certificates; set `tls.ca`")]
    NoSystemRoots {
        /// The upstream.
        upstream: Name,
    },
    /// The endpoint's host and port make no `Host` header.
    #[error("upstream `{upstream}`: `{authority}` is not a valid authority")]
    Authority {
        /// The upstream.
        upstream: Name,
        /// Host and port.
        authority: String,
    },
}

/// Why an exchange with an upstream gave no response.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Every endpoint is marked down. 503.
    #[error("no healthy endpoint")]
    NoHealthyEndpoint,
    /// The endpoint has as many exchanges in flight as this worker allows. 503.
    #[error("too many exchanges in flight to the endpoint")]
    Overloaded,
    /// No connection: refused, unreachable, name unknown, TLS refused. 503.
    #[error("cannot connect to the upstream")]
    Connect(#[source] ConnectError),
    /// No connection within the connect timeout, TLS included. 503.
    #[error("no connection to the upstream within the connect timeout")]
    ConnectTimeout,
    /// The connection broke before the response's head was whole. 502.
    #[error("the upstream closed or reset the connection before it answered")]
    Broken(#[source] Option<hyper::Error>),
    /// What came back is not HTTP, or too large a head. 502.
    #[error("the upstream's response is not valid HTTP")]
    InvalidResponse(#[source] hyper::Error),
    /// The response can be read in two ways (`Content-Length` beside `Transfer-Encoding`, and the like). 502.
    #[error("the upstream's response has ambiguous framing")]
    AmbiguousFraming,
    /// More interim (1xx) responses than [`crate::upstream::INTERIM_RESPONSES_MAX`]. 502.
    #[error("the upstream sent too many interim responses")]
    TooManyInterim,
    /// A 101 that nobody asked for. 502.
    #[error("the upstream switched protocols without being asked")]
    UnexpectedUpgrade,
    /// No response head within the response timeout after the request's end, or no progress in sending it. 504.
    #[error("the upstream did not answer within the response timeout")]
    ResponseTimeout,
    /// The overall deadline passed. 504.
    #[error("the request's deadline passed before the upstream answered")]
    DeadlineExceeded,
    /// The request's own body failed (client gone, over its limit). The body's error is in the source chain.
    #[error("the request's body ended in an error")]
    RequestBody(#[source] hyper::Error),
    /// The request cannot be sent: `CONNECT`, or no usable target or host. A fault of the gateway. 500.
    #[error("the request cannot be sent to an upstream: {0}")]
    Unsendable(Unsendable),
}

/// Why a request cannot be sent upstream at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    /// `CONNECT` is refused: the gateway opens no tunnels.
    #[error("method `CONNECT`")]
    Connect,
    /// The target is not in origin form.
    #[error("the target is not in origin form")]
    Target,
    /// No `Host`, or one that is no authority.
    #[error("no usable `Host`")]
    Host,
    /// `Content-Length` is not the body's length.
    #[error("`Content-Length` is not the length of the body")]
    BodyLength,
}

/// Why no connection could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error("cannot resolve `{host}`")]
    Resolve {
        /// The host.
        host: String,
        /// Why; `None` when the answer was empty.
        #[source]
        source: Option<io::Error>,
    },
    /// TCP.
    #[error("connecting failed")]
    Tcp(#[source] io::Error),
    /// The TLS handshake, a certificate that does not verify included.
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    /// The HTTP/2 preface.
    #[error("the HTTP handshake failed")]
    Http(#[source] hyper::Error),
}

/// Which kind of failure an [`UpstreamError`] is; what a client is told follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// 503: nothing was sent.
    Unavailable,
    /// 502: the upstream answered badly, or broke off.
    BadGateway,
    /// 504: the upstream was too slow.
    Timeout,
    /// The client's own body failed.
    Client,
    /// 500: a fault of the gateway.
    Gateway,
}

impl UpstreamError {
    /// Which kind of failure this is.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NoHealthyEndpoint | Self::Overloaded | Self::Connect(_) | Self::ConnectTimeout => {
                ErrorClass::Unavailable
            }
            Self::Broken(_)
            | Self::InvalidResponse(_)
            | Self::AmbiguousFraming
            | Self::TooManyInterim
            | Self::UnexpectedUpgrade => ErrorClass::BadGateway,
            Self::ResponseTimeout | Self::DeadlineExceeded => ErrorClass::Timeout,
            Self::RequestBody(_) => ErrorClass::Client,
            Self::Unsendable(_) => ErrorClass::Gateway,
        }
    }

    /// A stable name for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoHealthyEndpoint => "upstream_no_healthy_endpoint",
            Self::Overloaded => "upstream_overloaded",
            Self::Connect(_) => "upstream_connect_failed",
            Self::ConnectTimeout => "upstream_connect_timeout",
            Self::Broken(_) => "upstream_connection_broken",
            Self::InvalidResponse(_) => "upstream_invalid_response",
            Self::AmbiguousFraming => "upstream_ambiguous_framing",
            Self::TooManyInterim => "upstream_too_many_interim_responses",
            Self::UnexpectedUpgrade => "upstream_unexpected_upgrade",
            Self::ResponseTimeout => "upstream_response_timeout",
            Self::DeadlineExceeded => "upstream_deadline_exceeded",
            Self::RequestBody(_) => "request_body_failed",
            Self::Unsendable(_) => "upstream_request_unsendable",
        }
    }
}

/// Why a response's body ended early. The head is out already: the client's connection or stream must be cut, so
/// that it cannot take the part for the whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Nothing came for longer than the response timeout.
    #[error("the upstream's response body stalled for longer than the response timeout")]
    Stalled,
    /// The connection broke, or the framing was wrong.
    #[error("the upstream's response body broke off")]
    Broken(#[source] hyper::Error),
}

impl BodyError {
    /// A stable name for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Stalled => "upstream_body_stalled",
            Self::Broken(_) => "upstream_body_broken",
        }
    }
}
