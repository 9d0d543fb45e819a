//! One request of a browser, as far as sessions have to do with it: its cookies, where it goes, and which page sent it.

use std::cell::RefCell;
use std::rc::Rc;

use http::{HeaderMap, HeaderValue, Method, header};

use super::cookie::{self, Jar, Pair};
use crate::config::model::Name;

/// A request of a browser. It belongs to one worker.
#[derive(Debug)]
pub struct Visit {
    pub(super) listener: Name,
    /// Lower case, without port.
    pub(super) host: String,
    pub(super) authority: String,
    pub(super) is_secure: bool,
    /// Without TLS it is served on loopback only.
    is_local: bool,
    sender: Sender,
    /// It may change something.
    is_unsafe: bool,
    pub(super) cookies: Vec<Pair>,
    /// `Set-Cookie` of the response.
    set: Rc<RefCell<Vec<HeaderValue>>>,
}

/// Whose page sent the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    /// One of the same origin, or the user alone.
    Same,
    /// Another's.
    Other,
    /// The request does not say.
    Unknown,
}

/// Where a request goes.
#[derive(Debug)]
pub struct Arrival<'r> {
    /// The listener's name.
    pub listener: &'r Name,
    /// The listener's address is one of loopback.
    pub is_local: bool,
    /// The method.
    pub method: &'r Method,
    /// It asks for a WebSocket.
    pub is_websocket: bool,
    /// `http` or `https`, as the client sees it.
    pub scheme: &'r str,
    /// Host and port, in lower case.
    pub authority: &'r str,
    /// Host without port.
    pub host: &'r str,
}

/// What a response sets in the browser. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Setter(Rc<RefCell<Vec<HeaderValue>>>);

// === impl Visit ===

impl Visit {
    /// Takes the gateway's own cookies out of `headers`: neither policy nor upstream nor event sees them.
    pub fn take(headers: &mut HeaderMap, arrival: &Arrival<'_>) -> Self {
        let is_unsafe =
            arrival.is_websocket || ![Method::GET, Method::HEAD, Method::OPTIONS].contains(arrival.method);
        Self {
            listener: Name::clone(arrival.listener),
            host: arrival.host.to_owned(),
            authority: arrival.authority.to_owned(),
            is_secure: arrival.scheme == "https",
            is_local: arrival.is_local,
            sender: sender(headers, arrival.scheme, arrival.authority),
            is_unsafe,
            cookies: cookie::take(headers),
            set: Rc::default(),
        }
    }

    /// Whether sessions may be had here at all: with TLS, or on loopback.
    pub(super) fn may_have_session(&self) -> bool {
        self.is_secure || self.is_local
    }

    /// Whether the request may change something, and does not prove that a page of the same origin sent it.
    pub(super) fn is_forgeable(&self) -> bool {
        self.is_unsafe && self.sender != Sender::Same
    }

    /// Whether a page of the same origin, or the user alone, sent the request.
    pub(super) fn is_own(&self) -> bool {
        self.sender == Sender::Same
    }

    /// The cookies of `provider` here.
    pub(super) fn jar(&self, provider: &str) -> Jar {
        Jar::new(provider, self.is_secure)
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.is_secure { "https" } else { "http" }
    }

    /// The URL of a path here.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme(), self.authority)
    }

    pub(super) fn setter(&self) -> Setter {
        Setter(Rc::clone(&self.set))
    }

    /// What the response has to set, once.
    pub fn take_cookies(&self) -> Vec<HeaderValue> {
        std::mem::take(&mut *self.set.borrow_mut())
    }
}

// === impl Setter ===

impl Setter {
    /// Sets these, in place of what was to be set before.
    pub(super) fn set(&self, cookies: Vec<HeaderValue>) {
        *self.0.borrow_mut() = cookies;
    }
}

/// What `Origin` (RFC 6454) and `Sec-Fetch-Site` (Fetch Metadata) say; where they disagree, another's.
fn sender(headers: &HeaderMap, scheme: &str, authority: &str) -> Sender {
    let site = only(headers, &http::HeaderName::from_static("sec-fetch-site"));
    let origin = only(headers, &header::ORIGIN);
    let (Ok(site), Ok(origin)) = (site, origin) else { return Sender::Other };
    let is_same = |origin: &str| {
        origin.split_once("://").is_some_and(|(its_scheme, its_authority)| {
            its_scheme == scheme
                && without_port(scheme, its_authority).eq_ignore_ascii_case(without_port(scheme, authority))
        })
    };
    if origin.is_some_and(|origin| !is_same(origin)) {
        return Sender::Other;
    }
    match site {
        Some("same-origin" | "none") => Sender::Same,
        Some(_) => Sender::Other,
        None if origin.is_some() => Sender::Same,
        None => Sender::Unknown,
    }
}

/// Without the scheme's default port, which browsers leave out.
fn without_port<'a>(scheme: &str, authority: &'a str) -> &'a str {
    let port = if scheme == "https" { ":443" } else { ":80" };
    authority.strip_suffix(port).unwrap_or(authority)
}

/// The header's only value; an error for one that is repeated or no text.
fn only<'h>(headers: &'h HeaderMap, name: &http::HeaderName) -> Result<Option<&'h str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(drop),
        (Some(_), Some(_)) => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(scheme: &str, authority: &str, lines: &[(&'static str, &str)], want: Sender) {
        let headers = lines.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), HeaderValue::try_from(*value).unwrap())
        });
        assert_eq!(sender(&headers.collect(), scheme, authority), want, "{lines:?}");
    }

    #[test]
    fn whose_page_it_is() {
        let at = |lines: &[(&'static str, &str)], want| check("https", "shop.test", lines, want);
        at(&[], Sender::Unknown);
        at(&[("sec-fetch-site", "same-origin")], Sender::Same);
        at(&[("sec-fetch-site", "none")], Sender::Same);
        at(&[("sec-fetch-site", "same-site")], Sender::Other);
        at(&[("sec-fetch-site", "cross-site")], Sender::Other);
        at(&[("origin", "https://shop.test")], Sender::Same);
        for other in [
            "http://shop.test",
            "https://shop.test.evil",
            "https://evil",
            "null",
            "https://shop.test:8443",
            "",
        ] {
            at(&[("origin", other)], Sender::Other);
            at(&[("origin", other), ("sec-fetch-site", "same-origin")], Sender::Other);
        }
        at(&[("origin", "https://shop.test"), ("sec-fetch-site", "cross-site")], Sender::Other);
        at(&[("origin", "https://shop.test"), ("origin", "https://shop.test")], Sender::Other);
        check("https", "shop.test:443", &[("origin", "https://shop.test")], Sender::Same);
        check("http", "127.0.0.1:8080", &[("origin", "http://127.0.0.1:8080")], Sender::Same);
        check("http", "127.0.0.1:8080", &[("origin", "http://127.0.0.1")], Sender::Other);
    }
}
