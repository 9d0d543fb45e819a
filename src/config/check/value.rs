//! Checks of single texts: names, durations, sizes, addresses, networks, headers, files, URLs.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, Uri};

use super::{Check, Names};
use crate::base::host_port::is_host;
use crate::base::net::{NetworkSet, is_loopback, parse_network};
use crate::base::share::Share;
use crate::base::size::{ByteLimit, ParseQuantityError, parse_duration};
use crate::config::model;
use crate::config::place::Place;
use crate::config::raw::quantity::{
    Duration as WrittenDuration, NAME_HELP, Name, Share as WrittenShare, Size,
};
use crate::config::report::{At, Reported};
use crate::config::suggest::{listed, suggestion};
use crate::config::yaml::quotable;

/// Bytes of a name.
const NAME_MAX: usize = 64;

/// Headers that frame a message, or that the connection owns: no credential is in them.
const CONNECTION_HEADERS: [&str; 10] = [
    "host",
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers that are about a message or a browser's state, and whose whole value is no credential.
const MESSAGE_HEADERS: [&str; 4] = ["content-type", "content-encoding", "cookie", "set-cookie"];

impl Check<'_> {
    /// The text at `place` as a message may quote it: references are not replaced in it.
    pub(super) fn shown(&self, place: &Place) -> String {
        self.root.shown(place)
    }

    /// `help`, unless it was made of a secret.
    pub(super) fn unless_secret(&self, place: &Place, help: impl Into<String>) -> String {
        let secret = self.root.get(place).is_some_and(crate::config::yaml::Node::is_interpolated);
        if secret { String::new() } else { help.into() }
    }

    pub(super) fn name(&mut self, place: &Place, name: &Name) -> Result<model::Name, Reported> {
        if is_name(&name.0) {
            return Ok(name.0.as_str().into());
        }
        let message = format!("`{}` is not a name", self.shown(place));
        Err(self.report.error_with(place, message, NAME_HELP))
    }

    /// As [`Check::name`], of a key.
    pub(super) fn key_name(&mut self, place: &Place, name: &Name) -> Result<model::Name, Reported> {
        if is_name(&name.0) {
            return Ok(name.0.as_str().into());
        }
        let message = format!("`{}` is not a name", quotable(&name.0));
        Err(self.report.error_with(At::Key(place.clone()), message, NAME_HELP))
    }

    /// A name that must exist.
    pub(super) fn reference(
        &mut self,
        place: &Place,
        name: &str,
        kind: &str,
        known: &Names,
    ) -> Result<model::Name, Reported> {
        if known.0.contains_key(name) {
            return Ok(name.into());
        }
        let shown = self.shown(place);
        let names: Vec<&str> = known.0.values().map(String::as_str).collect();
        let help = suggestion(&shown, names.iter().copied()).unwrap_or_else(|| {
            if names.is_empty() {
                format!("there is no {kind} yet")
            } else {
                format!("there is {}", listed(&names))
            }
        });
        Err(self.report.error_with(place, format!("unknown {kind} `{shown}`"), help))
    }

    pub(super) fn duration(
        &mut self,
        place: &Place,
        written: &WrittenDuration,
        range: RangeInclusive<Duration>,
    ) -> Result<Duration, Reported> {
        let shown = self.shown(place);
        let (message, help) = match parse_duration(&written.0) {
            Ok(duration) if range.contains(&duration) => return Ok(duration),
            Ok(duration) if duration < *range.start() => {
                (format!("`{shown}` is too short"), format!("at least `{}`", text_of(*range.start())))
            }
            Ok(_) | Err(ParseQuantityError::TooLarge(_)) => {
                (format!("`{shown}` is too long"), format!("at most `{}`", text_of(*range.end())))
            }
            Err(ParseQuantityError::NoNumber(_) | ParseQuantityError::UnknownUnit { .. }) => (
                format!("`{shown}` is not a duration"),
                "write a whole number and its unit, one of us, ms, s, m, h, d: `250ms`, `10s`".to_owned(),
            ),
        };
        Err(self.report.error_with(place, message, help))
    }

    pub(super) fn size(
        &mut self,
        place: &Place,
        written: &Size,
        range: RangeInclusive<u64>,
    ) -> Result<ByteLimit, Reported> {
        let shown = self.shown(place);
        let (message, help) = match ByteLimit::parse(&written.0) {
            Ok(limit) if range.contains(&limit.bytes()) => return Ok(limit),
            Ok(limit) if limit.bytes() < *range.start() => {
                (format!("`{shown}` is too small"), format!("at least `{}`", text_of_size(*range.start())))
            }
            Ok(_) | Err(ParseQuantityError::TooLarge(_)) => {
                (format!("`{shown}` is too large"), format!("at most `{}`", text_of_size(*range.end())))
            }
            Err(ParseQuantityError::NoNumber(_) | ParseQuantityError::UnknownUnit { .. }) => (
                format!("`{shown}` is not a size"),
                "write a whole number and its unit, one of B, KB, KiB, MB, MiB, GB, GiB: `64KiB`".to_owned(),
            ),
        };
        Err(self.report.error_with(place, message, help))
    }

    pub(super) fn share(&mut self, place: &Place, written: &WrittenShare) -> Result<Share, Reported> {
        Share::parse(&written.0).map_err(|_| {
            let message = format!("`{}` is not a share", self.shown(place));
            let help = "write a percentage from `0%` to `100%`, such as `5%` or `0.1%`";
            self.report.error_with(place, message, help)
        })
    }

    pub(super) fn address(&mut self, place: &Place, text: &str) -> Result<SocketAddr, Reported> {
        text.parse().map_err(|_| {
            let help = match text.rsplit_once(':') {
                Some(("" | "*", port)) => {
                    format!("write `0.0.0.0:{port}` for all IPv4 addresses of the machine")
                }
                Some(("localhost", port)) => format!("write `127.0.0.1:{port}`"),
                Some(_) | None => "write an IP address and a port: `0.0.0.0:8443`, `[::1]:8080`".to_owned(),
            };
            let message = format!("`{}` is not an address with a port", self.shown(place));
            let help = self.unless_secret(place, help);
            self.report.error_with(place, message, help)
        })
    }

    pub(super) fn networks(&mut self, place: &Place, texts: &[String]) -> Result<NetworkSet, Reported> {
        let networks = super::all(texts.iter().enumerate().map(|(index, text)| {
            parse_network(text).ok_or_else(|| {
                let place = place.index(index);
                let message = format!("`{}` is not a network", self.shown(&place));
                self.report.error_with(&place, message, "write `10.0.0.0/8`, `fd00::/8` or a single address")
            })
        }))?;
        Ok(NetworkSet::new(networks))
    }

    pub(super) fn header(&mut self, place: &Place, text: &str) -> Result<HeaderName, Reported> {
        let shown = self.shown(place);
        let Ok(header) = HeaderName::from_bytes(text.as_bytes()) else {
            return Err(self.report.error(place, format!("`{shown}` is not the name of a header")));
        };
        if text.contains('_') {
            let message = format!("the header `{shown}` has a `_`");
            let help = "requests with such headers are refused, since some servers take `_` for `-`; use `-`";
            return Err(self.report.error_with(place, message, help));
        }
        Ok(header)
    }

    /// A header that carries a credential.
    pub(super) fn credential_header(&mut self, place: &Place, text: &str) -> Result<HeaderName, Reported> {
        let header = self.header(place, text)?;
        if CONNECTION_HEADERS.iter().chain(&MESSAGE_HEADERS).any(|name| *name == header) {
            let message = format!("a credential cannot be in the header `{}`", self.shown(place));
            return Err(self.report.error_with(place, message, "use `Authorization` or one of your own"));
        }
        Ok(header)
    }

    /// A header that is passed on to another server or back.
    pub(super) fn end_to_end_header(&mut self, place: &Place, text: &str) -> Result<HeaderName, Reported> {
        let header = self.header(place, text)?;
        if CONNECTION_HEADERS.iter().any(|name| *name == header) {
            let message = format!("the header `{}` belongs to one connection", self.shown(place));
            return Err(self.report.error_with(place, message, "take it out"));
        }
        Ok(header)
    }

    /// A file that must be there, and a change of which means a reload.
    pub(super) fn file(&mut self, place: &Place, text: &str) -> Result<PathBuf, Reported> {
        let path = self.unwatched_file(place, text)?;
        self.files.insert(path.clone());
        Ok(path)
    }

    /// A file that must be there.
    pub(super) fn unwatched_file(&mut self, place: &Place, text: &str) -> Result<PathBuf, Reported> {
        let path = self.path(place, text)?;
        match std::fs::metadata(&path) {
            Ok(found) if found.is_file() => Ok(path),
            Ok(_) => Err(self.report.error(place, format!("`{}` is not a file", self.shown(place)))),
            Err(error) => Err(self.cannot_read(place, "file", &error)),
        }
    }

    /// A file that will be written; its directory must be there.
    pub(super) fn file_to_write(&mut self, place: &Place, text: &str) -> Result<PathBuf, Reported> {
        let path = self.path(place, text)?;
        if path.is_dir() {
            return Err(self.report.error(place, format!("`{}` is a directory", self.shown(place))));
        }
        match path.parent().filter(|parent| !parent.is_dir()) {
            Some(_) => {
                let message = format!("the directory of `{}` does not exist", self.shown(place));
                Err(self.report.error_with(place, message, "make it; the gateway makes only the file"))
            }
            None => Ok(path),
        }
    }

    /// A directory that must be there, and a change of which means a reload.
    pub(super) fn directory(&mut self, place: &Place, text: &str) -> Result<PathBuf, Reported> {
        let path = self.unwatched_directory(place, text)?;
        self.files.insert(path.clone());
        Ok(path)
    }

    /// A directory that must be there.
    pub(super) fn unwatched_directory(&mut self, place: &Place, text: &str) -> Result<PathBuf, Reported> {
        let path = self.path(place, text)?;
        match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => Ok(path),
            Ok(_) => Err(self.report.error(place, format!("`{}` is not a directory", self.shown(place)))),
            Err(error) => Err(self.cannot_read(place, "directory", &error)),
        }
    }

    fn path(&mut self, place: &Place, text: &str) -> Result<PathBuf, Reported> {
        if text.is_empty() || text.contains('\0') {
            return Err(self.report.error(place, format!("`{}` is not a path", self.shown(place))));
        }
        Ok(self.directory.join(Path::new(text)))
    }

    pub(super) fn cannot_read(&mut self, place: &Place, kind: &str, error: &std::io::Error) -> Reported {
        let shown = self.shown(place);
        if error.kind() == std::io::ErrorKind::NotFound {
            let help = "relative paths begin at the directory of the configuration file";
            return self.report.error_with(place, format!("there is no {kind} `{shown}`"), help);
        }
        self.report.error(place, format!("cannot read `{shown}`: {error}"))
    }

    /// An `http` or `https` URL without user name, password and fragment.
    pub(super) fn web_url(&mut self, place: &Place, text: &str, help: &str) -> Result<Uri, Reported> {
        let (message, help) = match text.parse::<Uri>() {
            // The text is not quoted: it holds a password.
            Ok(url) if url.authority().is_some_and(|authority| authority.as_str().contains('@')) => (
                "the URL holds a user name or a password".to_owned(),
                "they would end up in logs; take them out",
            ),
            Ok(url) if is_web(&url) && !text.contains('#') => return Ok(url),
            Ok(_) | Err(_) if text.contains('@') => ("not a URL".to_owned(), help),
            Ok(_) | Err(_) => (format!("`{}` is not a URL", self.shown(place)), help),
        };
        Err(self.report.error_with(place, message, help))
    }
}

fn is_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn is_web(url: &Uri) -> bool {
    let port_is_whole = url.authority().is_some_and(|authority| {
        let after_host = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
        after_host.is_empty() || authority.port_u16().is_some_and(|port| port > 0)
    });
    matches!(url.scheme_str(), Some("http" | "https"))
        && port_is_whole
        && url.host().is_some_and(|host| is_host(bare_host(host)))
}

/// `host` without the brackets of an IPv6 address.
pub(super) fn bare_host(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// Whether `host`, brackets taken off, is this machine.
pub(super) fn is_loopback_host(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_loopback)
}

/// A duration as one writes it.
fn text_of(duration: Duration) -> String {
    let micros = duration.as_micros();
    let units =
        [(86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms")];
    let unit = units.into_iter().find(|(length, _)| micros >= *length && micros.is_multiple_of(*length));
    let (length, name) = unit.unwrap_or((1, "us"));
    format!("{}{name}", micros / length)
}

/// A size as one writes it.
fn text_of_size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(length, _)| bytes >= *length && bytes.is_multiple_of(*length));
    let (length, name) = unit.unwrap_or((1, "B"));
    format!("{}{name}", bytes / length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_in_their_largest_unit() {
        for text in ["1us", "1500us", "5ms", "90s", "2m", "1h", "36h", "30d"] {
            assert_eq!(text_of(parse_duration(text).unwrap()), text);
        }
    }

    #[test]
    fn sizes_are_written_in_their_largest_unit() {
        for (text, want) in
            [("0", "0B"), ("1025", "1025B"), ("8192", "8KiB"), ("1MiB", "1MiB"), ("1024GiB", "1024GiB")]
        {
            assert_eq!(text_of_size(ByteLimit::parse(text).unwrap().bytes()), want);
        }
    }

    #[test]
    fn hosts() {
        for good in ["localhost", "a.b-c.example", "my_service", "10.0.0.1", "::1", "1"] {
            assert!(is_host(good), "{good}");
        }
        for bad in ["", ".", "a..b", "a.", "-a", "a-", "a b", "b\u{fc}cher", "[::1]", "a/b", "a:1"] {
            assert!(!is_host(bad), "{bad}");
        }
    }
}
