//! A server as it is named: host and port, in one spelling. Nothing here resolves a name.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use http::Uri;

/// A host and a port; equal ones mean the same server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

// === impl HostPort ===

impl HostPort {
    /// The one that `host:port` names; an IPv6 address has brackets. `None` if the text is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (written, port) = text.rsplit_once(':')?;
        let host = without_brackets(written);
        let is_bracketed = host.len() != written.len();
        let is_plain = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| *port > 0 && is_plain)?;
        let is_whole = is_host(host) && is_bracketed == host.parse::<Ipv6Addr>().is_ok();
        is_whole.then(|| Self { host: spelled(host), port })
    }

    /// The one an `http` or `https` URL names, with the port of its scheme where it has none.
    pub fn of(url: &Uri) -> Option<Self> {
        let usual = match url.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            Some(_) | None => return None,
        };
        let host = without_brackets(url.host()?);
        let authority = url.authority()?;
        // A port that is none would be taken for the usual one.
        let after_user = authority.as_str().rsplit('@').next().unwrap_or_default();
        let has_port = after_user.rsplit(']').next().is_some_and(|rest| rest.contains(':'));
        let port = if has_port { authority.port_u16().filter(|port| *port > 0)? } else { usual };
        is_host(host).then(|| Self { host: spelled(host), port })
    }

    /// The host, lower case, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// One spelling of each address, and of each name.
fn spelled(host: &str) -> String {
    host.parse::<IpAddr>().map_or_else(|_| host.to_ascii_lowercase(), |address| address.to_string())
}

/// Whether `text` is an IP address, without brackets, or could be a host's name. `_` is taken, as container networks
/// use it.
pub fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.parse::<IpAddr>().is_ok() || (text.len() <= 253 && text.split('.').all(label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(found: Option<&HostPort>, want: Option<&str>) {
        assert_eq!(found.map(ToString::to_string).as_deref(), want);
    }

    #[test]
    fn text_names_a_server_by_host_and_port() {
        for (text, want) in [
            ("API.internal:8443", "api.internal:8443"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[0:0::1]:80", "[::1]:80"),
        ] {
            check(HostPort::parse(text).as_ref(), Some(want));
        }
        let wrong =
            ["api", "api:", "api:0", "api:+80", "api:65536", "::1:80", "[api]:80", "http://a:80", "a:80/"];
        for text in wrong.into_iter().chain(["", ":80", "*.a:80", "u@a:80", "a b:80"]) {
            check(HostPort::parse(text).as_ref(), None);
        }
    }

    #[test]
    fn a_url_names_the_same_server_however_it_is_spelled() {
        for (url, want) in [
            ("http://a.test/x", Some("a.test:80")),
            ("https://A.test", Some("a.test:443")),
            ("https://a.test:443/", Some("a.test:443")),
            ("http://[::0:1]:8080/x?y", Some("[::1]:8080")),
            ("http://user:pw@b.test/", Some("b.test:80")),
            ("http://a.test:0/", None),
            ("ftp://a.test/", None),
            ("/x", None),
        ] {
            check(HostPort::of(&url.parse().unwrap()).as_ref(), want);
        }
    }
}
