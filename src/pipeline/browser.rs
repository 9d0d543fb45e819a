//! Browsers that log in: paths that the gateway answers itself, and the way from a refusal to the provider.
//!
//! The policy stays in charge: a login is offered only where a request was refused for want of an identity, and a page that
//! anybody may see stays so. What it means that a provider does not answer is said here, and it never is a session.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use crate::base::net::is_loopback;
use crate::identity::oidc::party::{BrowserAnswer, Kind, Page, RelyingParty};
use crate::identity::oidc::visit::{Arrival, Visit};
use crate::pipeline::exchange::Exchange;
use crate::pipeline::received::Received;
use crate::pipeline::reject::Cause;
use crate::pipeline::respond::Reject;
use crate::pipeline::routed;

/// The largest form with a logout token.
const FORM_BYTES_MAX: usize = 16 * 1024;

/// How long such a form may take to arrive.
const FORM_TIMEOUT: Duration = Duration::from_secs(5);

/// What a refused request is answered in place of the refusal.
#[derive(Debug)]
pub(super) enum Instead {
    /// The browser is sent to log in.
    Login { location: HeaderValue },
    /// A program is told that it is not logged in.
    Unauthorized,
}

impl Instead {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Login { .. } => StatusCode::FOUND,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
        }
    }
}

// === impl Received ===

impl Received {
    /// Takes the gateway's own cookies out of the request, where any provider may have set some.
    pub(super) fn take_browser_cookies(mut self) -> Self {
        let exchange = &mut self.exchange;
        let local = Rc::clone(&exchange.local);
        let runtime = local.runtime();
        let Some(listener) = runtime.listener(exchange.connection.listener) else { return self };
        if runtime.has_browsers {
            let head = &mut exchange.head;
            let arrival = Arrival {
                listener: &listener.config.name,
                is_local: is_loopback(listener.config.address.ip()),
                method: &head.method,
                is_websocket: self.from.hop.websocket,
                scheme: head.scheme,
                authority: &head.authority,
                host: &head.host,
            };
            exchange.visit = Some(Box::new(Visit::take(&mut head.headers, &arrival)));
        }
        self
    }

    /// The page of a provider that the request is for, on a host of an API that uses it.
    pub(super) fn page(&self) -> Option<(Arc<RelyingParty>, Page)> {
        let exchange = &self.exchange;
        let runtime = exchange.runtime();
        if !runtime.has_browsers {
            return None;
        }
        let listener = runtime.listener(exchange.connection.listener)?;
        let group = listener.router.group_of(&exchange.head.host);
        let apis = runtime.apis.iter().zip(&runtime.config.apis).filter(|(api, config)| {
            let is_here = if group.is_empty() {
                config.hosts.is_empty()
            } else {
                config.hosts.iter().any(|host| *host == group)
            };
            is_here && listener.config.apis.contains(&api.name)
        });
        apis.flat_map(|(api, _)| &api.parties).find_map(|party| {
            let page = party.page(exchange.head.path.as_str())?;
            Some((Arc::clone(party), page))
        })
    }

    /// Answers a request for such a page. There is always an answer, and it ends the request.
    pub(super) async fn answer(self, party: Arc<RelyingParty>, page: Page) -> Reject {
        let Self { exchange, body, from } = self;
        if let Err(cause) = routed::check_connection(&exchange, &from) {
            return Reject::new(exchange, cause);
        }
        let answer = match form(page, &exchange, body).await {
            Ok(form) => visited(&exchange, &party, page, &form).await,
            Err(cause) => return Reject::new(exchange, cause),
        };
        let BrowserAnswer { kind, reason, location, cookies } = answer;
        let mut headers: Vec<(HeaderName, HeaderValue)> =
            location.into_iter().map(|location| (header::LOCATION, location)).collect();
        headers.extend(cookies.into_iter().map(|cookie| (header::SET_COOKIE, cookie)));
        // The query of a callback has the code.
        headers.push((header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")));
        if kind == Kind::BadMethod {
            headers.push((header::ALLOW, HeaderValue::from_static(methods(page))));
        }
        let is_redirect = headers.iter().any(|(name, _)| *name == header::LOCATION);
        Reject::new(exchange, Cause::Browser { kind, is_redirect, reason }).with_headers(headers)
    }
}

/// The form that a provider sends with a logout; nothing for other pages.
async fn form(page: Page, exchange: &Exchange, body: hyper::body::Incoming) -> Result<bytes::Bytes, Cause> {
    if page != Page::BackchannelLogout || exchange.head.method != Method::POST {
        return Ok(bytes::Bytes::new());
    }
    let kind = exchange.head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    if !kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Cause::BodyUnsupported);
    }
    match tokio::time::timeout(FORM_TIMEOUT, Limited::new(body, FORM_BYTES_MAX).collect()).await {
        Err(_) => Err(Cause::BodyTimeout),
        Ok(Ok(form)) => {
            exchange.connection.control.body_read();
            Ok(form.to_bytes())
        }
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Cause::BodyTooLarge),
        Ok(Err(_)) => Err(Cause::BodyBroken),
    }
}

/// Methods that a page takes, as `Allow` writes them.
fn methods(page: Page) -> &'static str {
    match page {
        Page::Callback | Page::Login => "GET",
        Page::Logout => "GET, POST",
        Page::BackchannelLogout => "POST",
    }
}

async fn visited(exchange: &Exchange, party: &Arc<RelyingParty>, page: Page, form: &[u8]) -> BrowserAnswer {
    let takes = |method: &&str| *method == exchange.head.method.as_str();
    let Some(visit) =
        exchange.visit.as_deref().filter(|_| methods(page).split(", ").any(|method| takes(&method)))
    else {
        return BrowserAnswer::no(Kind::BadMethod, "method_not_allowed");
    };
    let (query, now) = (exchange.head.query.as_deref(), exchange.evidence.received_at);
    match page {
        Page::Callback => party.complete(visit, query, now).await,
        Page::Login => party.asked_to_log_in(visit, query, now).await,
        Page::Logout => party.log_out(visit, now),
        Page::BackchannelLogout => party.told_of_logout(form, now).await,
    }
}

// === impl Reject ===

impl Reject {
    /// Whether a login might change the answer.
    pub(super) fn wants_login(&self) -> bool {
        self.exchange().visit.is_some() && refused_browser(self).is_some()
    }

    /// Where the request was refused for want of an identity, and a browser could get one by logging in: offers that.
    pub(super) async fn offer_login(self) -> Self {
        let Some((party, is_over)) = refused_browser(&self) else { return self };
        let Some(visit) = self.exchange().visit.as_deref() else { return self };
        let mut cookies = if is_over { party.clear_session(visit) } else { Vec::new() };
        let head = &self.exchange().head;
        if !is_navigation(&head.method, &head.headers) {
            return self.answered_instead(Instead::Unauthorized, cookies);
        }
        let path = head.raw_path.as_deref().unwrap_or_else(|| head.path.as_str());
        let return_to = match &head.query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        let answer = party.begin(visit, &return_to, self.exchange().evidence.received_at).await;
        match (answer.kind, answer.location) {
            (Kind::Done, Some(location)) => {
                cookies.extend(answer.cookies);
                self.answered_instead(Instead::Login { location }, cookies)
            }
            (Kind::Unavailable, _) => self.because(Cause::IdentityUnavailable { reason: answer.reason }),
            // Without TLS there is no session: the refusal stands.
            (_, _) => self,
        }
    }
}

/// Who could log the browser in, and whether the session that it has is over; `None` where a login would change nothing.
fn refused_browser(reject: &Reject) -> Option<(Arc<RelyingParty>, bool)> {
    let exchange = reject.exchange();
    let (api, route) = exchange.evidence.route?;
    let (api, route) = exchange.local.resolve(api, route)?;
    let party = route.chain.as_ref().unwrap_or(&api.chain).relying_party()?;
    let failure = exchange.evidence.identity_failure.as_ref();
    let of_party = failure.filter(|failure| failure.provider == *party.name());
    let is_over = of_party.is_some_and(|failure| RelyingParty::is_over(failure.reason));
    let is_anonymous =
        exchange.evidence.identity.as_ref().is_none_or(|identity| !identity.is_authenticated());
    let is_refused = if let Cause::Denied(deny) = reject.cause() {
        is_anonymous
            && (failure.is_none() || is_over)
            && matches!(deny.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
    } else if let Cause::BadCredential { .. } = reject.cause() {
        is_over
    } else {
        matches!(reject.cause(), Cause::CredentialRequired)
    };
    is_refused.then(|| (Arc::clone(party), is_over))
}

/// Whether a browser shows the answer as a page. A program that asks for data could do nothing with a login.
fn is_navigation(method: &Method, headers: &HeaderMap) -> bool {
    let mode = headers.get("sec-fetch-mode");
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    method == Method::GET
        && mode.is_none_or(|mode| mode == "navigate")
        && accepts.into_iter().any(|accepted| accepted.to_ascii_lowercase().contains("text/html"))
}
