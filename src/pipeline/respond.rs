//! The response to the client, and the request's end with it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::contract::decision::{self, Deny};
use crate::identity::Reply;
use crate::identity::oidc::party::Kind;
use crate::pipeline::browser::Instead;
use crate::pipeline::connection::HandedOut;
use crate::pipeline::exchange::Exchange;
use crate::pipeline::reject::Cause;
use crate::upstream::body::UpstreamBody;
use crate::upstream::error::BodyError;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// A request that leaves the pipeline early, with all that was learned about it.
#[derive(Debug)]
pub(crate) struct Reject(Box<Rejected>);

#[derive(Debug)]
struct Rejected {
    exchange: Box<Exchange>,
    cause: Cause,
    headers: Vec<(http::HeaderName, HeaderValue)>,
    instead: Option<Instead>,
}

/// A response's body. It holds the exchange, so that the event is written when the body ends or is dropped.
#[derive(Debug)]
pub struct ResponseBody {
    content: Content,
    exchange: Option<Box<Exchange>>,
    /// On HTTP/2: when bytes were handed out that have not been followed by a demand for more.
    handed_out: Option<HandedOut>,
}

#[derive(Debug)]
enum Content {
    Whole(Option<Bytes>),
    Upstream(UpstreamBody),
}

// === impl Reject ===

impl Reject {
    pub(crate) fn new(exchange: Box<Exchange>, cause: Cause) -> Self {
        Self(Box::new(Rejected { exchange, cause, headers: Vec::new(), instead: None }))
    }

    /// Headers that the response carries whatever the cause (limits that were taken).
    pub(crate) fn with_headers(mut self, headers: Vec<(http::HeaderName, HeaderValue)>) -> Self {
        self.0.headers = headers;
        self
    }

    /// The request.
    pub(super) fn exchange(&self) -> &Exchange {
        &self.0.exchange
    }

    /// Why it leaves.
    pub(super) fn cause(&self) -> &Cause {
        &self.0.cause
    }

    /// As it is, but for another cause.
    pub(super) fn because(mut self, cause: Cause) -> Self {
        self.0.cause = cause;
        self
    }

    /// The cause stays as it is, and the client is answered something else, and gets these cookies.
    pub(super) fn answered_instead(mut self, instead: Instead, cookies: Vec<HeaderValue>) -> Self {
        self.0.instead = Some(instead);
        self.0.headers.extend(cookies.into_iter().map(|cookie| (header::SET_COOKIE, cookie)));
        self
    }

    /// The response that says so.
    pub(crate) fn into_response(self) -> Response<ResponseBody> {
        let Rejected { mut exchange, cause, headers: extra, instead } = *self.0;
        exchange.evidence.rejected(&cause);
        if let Some(instead) = &instead {
            exchange.evidence.status = instead.status().as_u16();
        }
        exchange.count_refusal(&cause);
        let mut response = match (cause.denial(), &cause) {
            _ if instead.is_some() => another(instead.as_ref(), &exchange, &cause),
            (_, Cause::Browser { kind: Kind::Done, .. }) => empty(cause.status()),
            (Some(deny), _) => denial(deny, &exchange, &cause),
            (None, Cause::BadCredential { reply: Some(reply), .. }) => of_service(reply),
            (None, _) => problem(&exchange, &cause),
        };
        let headers = response.headers_mut();
        if let Cause::MethodNotAllowed { allow } = &cause {
            headers.insert(header::ALLOW, allow.clone());
        } else if let Cause::BadCredential { challenge, reply: None, .. } = &cause {
            headers.insert(header::WWW_AUTHENTICATE, challenge.clone());
        } else if let Cause::Limited { retry_after: Some(seconds) } = &cause {
            headers.insert(header::RETRY_AFTER, seconds.clone());
        }
        // RFC 9110 section 15.5.2: a 401 says how to do better, a policy's as the gateway's own.
        let is_unasked = matches!(cause, Cause::CredentialRequired)
            || matches!(instead, Some(Instead::Unauthorized))
            || cause.denial().is_some_and(|deny| deny.status == StatusCode::UNAUTHORIZED);
        if is_unasked && !headers.contains_key(header::WWW_AUTHENTICATE) {
            for challenge in exchange.challenges() {
                headers.append(header::WWW_AUTHENTICATE, challenge);
            }
        }
        for (name, value) in extra {
            headers.append(name, value);
        }
        exchange.set_cookies(headers);
        let control = &exchange.connection.control;
        if exchange.head.protocol == "HTTP/2" {
            response.body_mut().handed_out = Some(control.watch_response());
        } else if cause.closes_connection() || control.is_body_unread() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let is_head = exchange.head.method == http::Method::HEAD;
        response.body_mut().exchange = Some(exchange);
        if is_head || response.status() == StatusCode::NOT_MODIFIED {
            without_content(&mut response);
        }
        response
    }
}

/// What a browser, or a program in it, is answered in place of a refusal.
fn another(instead: Option<&Instead>, exchange: &Exchange, cause: &Cause) -> Response<ResponseBody> {
    match instead {
        Some(Instead::Login { location }) => {
            let mut response = empty(StatusCode::FOUND);
            response.headers_mut().insert(header::LOCATION, location.clone());
            response
        }
        Some(Instead::Unauthorized) | None => {
            let decision_id = exchange.evidence.decision_id.to_string();
            let status = StatusCode::UNAUTHORIZED;
            whole(status, PROBLEM_JSON, document_of(status, cause, Some(decision_id)).into())
        }
    }
}

/// An answer whose head says all.
fn empty(status: StatusCode) -> Response<ResponseBody> {
    let mut response = whole(status, PROBLEM_JSON, Bytes::new());
    response.headers_mut().remove(header::CONTENT_TYPE);
    response
}

/// To HEAD, and with 304, the head alone is sent; its length is the content's that is left out (RFC 9110 section 8.6).
fn without_content(response: &mut Response<ResponseBody>) {
    if let Some(length) = response.body().size_hint().exact() {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    response.body_mut().content = Content::Whole(None);
}

/// What is left to say when the code that answers a request has panicked; its event is written already.
pub(crate) fn panicked(protocol: http::Version) -> Response<ResponseBody> {
    let cause = Cause::Internal;
    let mut response = whole(cause.status(), PROBLEM_JSON, document(&cause, None).into());
    if protocol != http::Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A problem document (RFC 9457).
fn problem(exchange: &Exchange, cause: &Cause) -> Response<ResponseBody> {
    let decision_id = exchange.evidence.decision_id.to_string();
    whole(cause.status(), PROBLEM_JSON, document(cause, Some(decision_id)).into())
}

fn document(cause: &Cause, decision_id: Option<String>) -> String {
    document_of(cause.status(), cause, decision_id)
}

fn document_of(status: StatusCode, cause: &Cause, decision_id: Option<String>) -> String {
    let mut document = serde_json::json!({
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": cause.public_message(),
        "reason": cause.reason(),
    });
    if let (Some(decision_id), Some(fields)) = (decision_id, document.as_object_mut()) {
        fields.insert("decision_id".to_owned(), decision_id.into());
    }
    document.to_string()
}

/// What an authentication service gives a client that it refuses.
fn of_service(reply: &Reply) -> Response<ResponseBody> {
    let mut response = whole(reply.status, HeaderValue::from_static("text/plain"), reply.body.clone());
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    for name in reply.headers.keys() {
        headers.remove(name);
    }
    for (name, value) in &reply.headers {
        headers.append(name.clone(), value.clone());
    }
    response
}

/// What the policy gives a denied client, or a problem document where it gives no body.
fn denial(deny: &Deny, exchange: &Exchange, cause: &Cause) -> Response<ResponseBody> {
    let mut response = match &deny.body {
        None => problem(exchange, cause),
        Some(decision::Body::Text(text)) => {
            whole(deny.status, HeaderValue::from_static("text/plain; charset=utf-8"), text.clone().into())
        }
        Some(decision::Body::Json(json)) => {
            whole(deny.status, HeaderValue::from_static("application/json"), json.clone().into())
        }
    };
    let headers = response.headers_mut();
    for name in deny.headers.keys() {
        headers.remove(name);
    }
    for (name, value) in &deny.headers {
        headers.append(name.clone(), value.clone());
    }
    response
}

fn whole(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response<ResponseBody> {
    let mut response =
        Response::new(ResponseBody { content: Content::Whole(Some(body)), exchange: None, handed_out: None });
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

// === impl ResponseBody ===

impl ResponseBody {
    /// The upstream's body.
    pub(crate) fn upstream(body: UpstreamBody, exchange: Box<Exchange>) -> Self {
        let handed_out =
            (exchange.head.protocol == "HTTP/2").then(|| exchange.connection.control.watch_response());
        Self { content: Content::Upstream(body), exchange: Some(exchange), handed_out }
    }

    /// No body, for an exchange that ends elsewhere (in a tunnel).
    pub(crate) fn none() -> Self {
        Self { content: Content::Whole(None), exchange: None, handed_out: None }
    }

    /// The body has reached its end: the event is written now.
    fn complete(&mut self) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.evidence.completed = true;
        }
    }

    /// The upstream's body has failed: the event is written now, and does not say that all is well.
    fn broke_off(&mut self, reason: &'static str) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.evidence.broke_off(reason);
        }
    }

    fn count(&mut self, frame: &Frame<Bytes>) {
        if let (Some(exchange), Some(data)) = (&mut self.exchange, frame.data_ref()) {
            exchange.evidence.response_bytes += u64::try_from(data.len()).unwrap_or(u64::MAX);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(handed_out) = &self.handed_out {
            handed_out.set(None);
        }
        let next = match &mut self.content {
            Content::Whole(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Content::Upstream(body) => ready!(Pin::new(body).poll_frame(context)),
        };
        match &next {
            None => self.complete(),
            Some(Ok(frame)) => {
                self.count(frame);
                if let Some(handed_out) = &self.handed_out {
                    handed_out.set(Some(Instant::now()));
                }
                // The library asks no further once a body says that it has ended.
                if self.is_end_stream() {
                    self.complete();
                }
            }
            Some(Err(error)) => self.broke_off(error.reason()),
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Content::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(
                bytes.as_ref().map_or(0, |bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            ),
            Content::Upstream(body) => body.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // A body that had nothing to give (HEAD, 204, 304) is dropped without being asked.
        let has_none = |exchange: &Exchange| {
            exchange.head.method == http::Method::HEAD || matches!(exchange.evidence.status, 204 | 304)
        };
        if self.is_end_stream() || self.exchange.as_deref().is_some_and(has_none) {
            self.complete();
        }
    }
}
