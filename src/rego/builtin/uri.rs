//! `uri.*`: the parts of a URI reference, as Go's `net/url` splits it.

use regorus::Value;

use super::{Entry, Failure, argument, argument::object_of};

pub(super) const TABLE: &[Entry] =
    &[("uri.is_valid", 1, |arguments| Ok(Value::from(is_valid(arguments)))), ("uri.parse", 1, parse)];

/// What a part may hold unescaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Path,
    Host,
    Zone,
    UserInfo,
    Fragment,
}

fn parse(arguments: &[Value]) -> Result<Value, Failure> {
    let text = argument::string(arguments, 0)?;
    let uri = split(text).map_err(|reason| Failure::Error(format!("parse \"{text}\": {reason}")))?;
    let fields = [
        ("scheme", uri.scheme),
        ("hostname", uri.hostname),
        ("port", uri.port),
        ("path", uri.path),
        ("raw_path", uri.raw_path),
        ("raw_query", uri.raw_query),
        ("fragment", uri.fragment),
    ];
    let fields = fields.into_iter().filter(|(_, text)| !text.is_empty());
    Ok(object_of(fields.map(|(name, text)| (name, Value::from(text)))))
}

fn is_valid(arguments: &[Value]) -> bool {
    let text = argument::string(arguments, 0).unwrap_or_default();
    !text.is_empty() && split(text).is_ok()
}

/// The parts of a URI reference, unescaped but for those called raw.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Uri {
    scheme: String,
    /// What follows the scheme where that is no path: `somebody` in `mailto:somebody`.
    opaque: String,
    has_user: bool,
    /// Name and port as written.
    pub(super) host: String,
    hostname: String,
    port: String,
    path: String,
    raw_path: String,
    pub(super) raw_query: String,
    fragment: String,
}

impl Uri {
    /// The parts as Go's `url.URL` has them in JSON, credentials left out.
    pub(super) fn to_go(&self) -> Value {
        let text = |text: &str| Value::from(text);
        let raw_path = if self.raw_path == self.path { "" } else { &self.raw_path };
        object_of([
            ("Scheme", text(&self.scheme)),
            ("Opaque", text(&self.opaque)),
            ("User", if self.has_user { Value::new_object() } else { Value::Null }),
            ("Host", text(&self.host)),
            ("Path", text(&self.path)),
            ("RawPath", text(raw_path)),
            ("OmitHost", Value::from(false)),
            ("ForceQuery", Value::from(false)),
            ("RawQuery", text(&self.raw_query)),
            ("Fragment", text(&self.fragment)),
            ("RawFragment", text("")),
        ])
    }

    /// The path as it may be sent: as written where that is properly escaped.
    pub(super) fn escaped_path(&self) -> String {
        let is_plain = |byte: u8| is_plain_in_path(byte) || b"%[]!'()*".contains(&byte);
        if self.raw_path != self.path && self.raw_path.bytes().all(is_plain) {
            return self.raw_path.clone();
        }
        escape_path(&self.path)
    }
}

/// Splits a URI reference, or says what is wrong with it.
pub(super) fn split(text: &str) -> Result<Uri, String> {
    if text.chars().any(|character| character.is_ascii_control()) {
        return Err("invalid control character in URL".to_owned());
    }
    let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
    let mut uri = Uri { fragment: unescape(fragment, Part::Fragment)?, ..Uri::default() };
    let (scheme, rest) = scheme_of(text)?;
    uri.scheme = scheme.to_ascii_lowercase();
    let (mut rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    query.clone_into(&mut uri.raw_query);
    if !rest.starts_with('/') {
        if !scheme.is_empty() {
            // As in `mailto:somebody`: there is nothing to take apart.
            rest.clone_into(&mut uri.opaque);
            return Ok(uri);
        }
        if rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
    }
    let may_have_host = !scheme.is_empty() || !rest.starts_with("///");
    if let Some(after) = rest.strip_prefix("//").filter(|_| may_have_host) {
        let end = after.find('/').unwrap_or(after.len());
        let (authority, path) = after.split_at(end);
        rest = path;
        uri.has_user = authority.contains('@');
        uri.host = host_of(authority)?;
        (uri.hostname, uri.port) = split_port(&uri.host);
    }
    uri.path = unescape(rest, Part::Path)?;
    // Go keeps the escaped form only where escaping the path would not give it back.
    uri.raw_path = if escape_path(&uri.path) == rest { uri.path.clone() } else { rest.to_owned() };
    Ok(uri)
}

fn scheme_of(text: &str) -> Result<(&str, &str), String> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok((text.get(..at).unwrap_or_default(), text.get(at + 1..).unwrap_or_default())),
            _ => break,
        }
    }
    Ok(("", text))
}

fn host_of(authority: &str) -> Result<String, String> {
    let Some((user, host)) = authority.rsplit_once('@') else { return host_name(authority) };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte);
    if !user.bytes().all(allowed) {
        return Err("net/url: invalid userinfo".to_owned());
    }
    unescape(user, Part::UserInfo)?;
    host_name(host)
}

fn host_name(host: &str) -> Result<String, String> {
    let port = if host.starts_with('[') {
        let end = host.rfind(']').ok_or("missing ']' in host")?;
        host.get(end + 1..).unwrap_or_default()
    } else {
        host.rfind(':').and_then(|at| host.get(at..)).unwrap_or_default()
    };
    let digits = port.strip_prefix(':').unwrap_or(if port.is_empty() { "" } else { "x" });
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("invalid port \"{port}\" after host"));
    }
    let end = host.rfind(']').unwrap_or_default();
    let zone = host.get(..end).and_then(|inside| inside.find("%25"));
    match zone {
        Some(zone) if host.starts_with('[') => {
            let piece =
                |range: std::ops::Range<usize>, part| unescape(host.get(range).unwrap_or_default(), part);
            Ok([
                piece(0..zone, Part::Host)?,
                piece(zone..end, Part::Zone)?,
                piece(end..host.len(), Part::Host)?,
            ]
            .concat())
        }
        Some(_) | None => unescape(host, Part::Host),
    }
}

fn split_port(host: &str) -> (String, String) {
    let (name, port) = match (host.find(':'), host.find(']')) {
        (None, _) => (host, ""),
        (Some(_), Some(end)) => {
            let name = host.get(..end).unwrap_or_default();
            (name.strip_prefix('[').unwrap_or(name), host.split_once("]:").map_or("", |(_, port)| port))
        }
        (Some(colon), None) => {
            (host.get(..colon).unwrap_or_default(), host.get(colon + 1..).unwrap_or_default())
        }
    };
    (name.to_owned(), port.to_owned())
}

fn unescape(text: &str, part: Part) -> Result<String, String> {
    let bytes = text.as_bytes();
    let is_host = matches!(part, Part::Host | Part::Zone);
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at).copied() {
        if byte != b'%' {
            if is_host && byte.is_ascii() && !is_plain_in_host(byte) {
                return Err(format!("invalid character \"{}\" in host name", char::from(byte)));
            }
            out.push(byte);
            at += 1;
            continue;
        }
        let invalid = || {
            let end = (at + 3..=at + 5).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
            format!("invalid URL escape \"{}\"", text.get(at..end.min(text.len())).unwrap_or("%"))
        };
        let digit = |offset: usize| bytes.get(at + offset).and_then(|byte| char::from(*byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(1), digit(2)) else { return Err(invalid()) };
        let escaped = u8::try_from(high * 16 + low).unwrap_or(b'%');
        let allowed = match part {
            // RFC 6874: a host escapes what is not ASCII, and the `%` of a zone.
            Part::Host => high >= 8 || escaped == b'%',
            Part::Zone => escaped == b'%' || escaped == b' ' || is_plain_in_host(escaped),
            Part::Path | Part::UserInfo | Part::Fragment => true,
        };
        if !allowed {
            return Err(invalid());
        }
        out.push(escaped);
        at += 3;
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn is_plain_in_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]<>\"".contains(&byte)
}

fn is_plain_in_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte)
}

fn escape_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if is_plain_in_path(byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.extend(
                [byte >> 4, byte & 15]
                    .map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or('0').to_ascii_uppercase()),
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, want: &str) {
        let got = parse(&[Value::from(text)]).unwrap();
        assert_eq!(got, Value::from_json_str(want).unwrap(), "{text}");
    }

    #[test]
    fn parts_are_those_opa_finds() {
        check(
            "https://user:pw@example.com:8443/a%20b/c?x=1&y=2#frag",
            r#"{"fragment": "frag", "hostname": "example.com", "path": "/a b/c", "port": "8443",
                "raw_path": "/a b/c", "raw_query": "x=1&y=2", "scheme": "https"}"#,
        );
        check("//host/p", r#"{"hostname": "host", "path": "/p", "raw_path": "/p"}"#);
        check("mailto:a@b.c", r#"{"scheme": "mailto"}"#);
        check(
            "http://[::1]:80/",
            r#"{"hostname": "::1", "path": "/", "port": "80", "raw_path": "/", "scheme": "http"}"#,
        );
        check(
            "http://[fe80::1%25en0]/",
            r#"{"hostname": "fe80::1%en0", "path": "/", "raw_path": "/", "scheme": "http"}"#,
        );
        check("", "{}");
        check("a/b:c", r#"{"path": "a/b:c", "raw_path": "a/b:c"}"#);
        check(
            "http://h/a%2Fb?q=%20",
            r#"{"hostname": "h", "path": "/a/b", "raw_path": "/a%2Fb", "raw_query": "q=%20", "scheme": "http"}"#,
        );
        check("HTTP://EX.com", r#"{"hostname": "EX.com", "scheme": "http"}"#);
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for wrong in [
            "http://a b/",
            "http://a/%zz",
            "http://a:b/",
            "1:2",
            ":foo",
            "http://[::1",
            "ht!tp://x",
            "a\tb",
            "/%e9%",
        ] {
            assert!(split(wrong).is_err(), "{wrong}");
            assert!(!is_valid(&[Value::from(wrong)]));
        }
        assert!(!is_valid(&[Value::from("")]) && !is_valid(&[Value::from(1)]));
        assert!(is_valid(&[Value::from("a b")]));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(http://)?[a%\\[\\]@:/?#é2]{0,20}.{0,10}") {
            drop(split(&text));
        }
    }
}
