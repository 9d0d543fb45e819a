//! Where a redirect leads, and what goes there.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Uri};

use crate::fetch::exchange::{Outgoing, Received};

/// Where a redirect leads; `None` if the answer is none.
pub fn redirect(from: &Outgoing, received: &Received) -> Option<Result<Outgoing, String>> {
    let keeps_method = match received.status.as_u16() {
        301..=303 => false,
        307 | 308 => true,
        _ => return None,
    };
    let location = received.headers.get(header::LOCATION)?;
    Some(follow(from, location, keeps_method))
}

fn follow(from: &Outgoing, location: &HeaderValue, keeps_method: bool) -> Result<Outgoing, String> {
    let wrong = || "the server redirects to something that is not a URL".to_owned();
    let location = location.to_str().map_err(|_| wrong())?;
    let url = resolved(&from.url, location).ok_or_else(wrong)?;
    if from.url.scheme_str() == Some("https") && url.scheme_str() != Some("https") {
        return Err("the server redirects from `https` to `http`".to_owned());
    }
    let mut next = Outgoing { url, ..from.clone() };
    if !keeps_method && !matches!(next.method, Method::GET | Method::HEAD) {
        next.method = Method::GET;
        next.body = Bytes::new();
        next.headers.remove(header::CONTENT_TYPE);
    }
    if next.url.authority() != from.url.authority() || next.url.scheme() != from.url.scheme() {
        // What was meant for one server is not shown to another.
        for name in [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION, header::HOST] {
            next.headers.remove(name);
        }
    }
    Ok(next)
}

/// A reference relative to a URL (RFC 3986 section 5.2), but for `..`, which the server resolves.
fn resolved(base: &Uri, reference: &str) -> Option<Uri> {
    let reference = reference.split('#').next().unwrap_or_default();
    if reference.contains("://") {
        return reference.parse().ok().filter(is_web);
    }
    let path = if reference.starts_with("//") {
        return format!("{}:{reference}", base.scheme_str()?).parse().ok().filter(is_web);
    } else if reference.starts_with('/') {
        reference.to_owned()
    } else if reference.starts_with('?') {
        format!("{}{reference}", base.path())
    } else {
        let directory = base.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{directory}/{reference}")
    };
    let mut parts = base.clone().into_parts();
    parts.path_and_query = Some(path.parse().ok()?);
    Uri::from_parts(parts).ok()
}

pub(super) fn is_web(url: &Uri) -> bool {
    matches!(url.scheme_str(), Some("http" | "https"))
        && url.authority().is_some_and(|authority| !authority.as_str().contains('@'))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;

    #[test]
    fn a_redirect_leads_where_the_reference_says() {
        let base: Uri = "https://a.test:8443/x/y?q=1".parse().unwrap();
        let check = |reference: &str, want: Option<&str>| {
            let got = resolved(&base, reference).map(|url| url.to_string());
            assert_eq!(got.as_deref(), want, "{reference}");
        };
        check("/z", Some("https://a.test:8443/z"));
        check("z?r=2#f", Some("https://a.test:8443/x/z?r=2"));
        check("?r=2", Some("https://a.test:8443/x/y?r=2"));
        check("//b.test/z", Some("https://b.test/z"));
        check("http://b.test/z", Some("http://b.test/z"));
        check("https://u:p@b.test/z", None);
        check("//u@b.test/z", None);
        check("ftp://b.test/z", None);
    }

    #[test]
    fn only_some_answers_are_redirects_and_none_leaves_tls() {
        let from = Outgoing {
            method: Method::PUT,
            url: "https://a.test/".parse().unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"x"),
        };
        let answer = |status: u16, location: &str| {
            let headers =
                HeaderMap::from_iter([(header::LOCATION, HeaderValue::from_str(location).unwrap())]);
            let status = StatusCode::from_u16(status).unwrap();
            Received { status, reason: String::new(), headers, body: Bytes::new() }
        };
        for (status, method, body) in [(303, Method::GET, ""), (308, Method::PUT, "x")] {
            let next = redirect(&from, &answer(status, "/z")).unwrap().unwrap();
            assert_eq!((next.method, &*next.body), (method, body.as_bytes()), "{status}");
        }
        assert!(redirect(&from, &answer(304, "/z")).is_none());
        assert!(redirect(&from, &answer(302, "http://a.test/")).unwrap().is_err());
    }
}
