//! Checks of APIs.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::{Check, Known, all};
use crate::base::host_port::is_host;
use crate::base::path::{CanonicalPath, PathRules};
use crate::config::model::{Anonymous, Api, BadCredential, Lifecycle, Require};
use crate::config::place::Place;
use crate::config::raw::api as raw;
use crate::config::report::Reported;

impl Check<'_> {
    pub(super) fn api(&mut self, place: &Place, written: &raw::Api, known: &Known) -> Result<Api, Reported> {
        let name = self.name(&place.key("name"), &written.name);
        let version = self.version(&place.key("version"), written.version.as_deref());
        let hosts = self.hosts(&place.key("hosts"), written.hosts.as_deref().unwrap_or_default());
        let base_path = self.base_path(&place.key("base_path"), &written.base_path);
        let lifecycle = self.lifecycle(&place.key("lifecycle"), &written.lifecycle);
        let identity =
            self.references(&place.key("identity"), &written.identity, "identity provider", &known.providers);
        let policy = self.reference(&place.key("policy"), &written.policy, "policy", &known.policies);
        let upstream =
            self.reference(&place.key("upstream"), &written.upstream, "upstream", &known.upstreams);
        let routes = self.routes(&place.key("routes"), &written.routes, known);
        let headers = place.key("identity_headers");
        let identity_headers = all(written
            .identity_headers
            .iter()
            .enumerate()
            .map(|(index, header)| self.credential_header(&headers.index(index), header)));
        Ok(Api {
            name: name?,
            version: version?,
            hosts: hosts?,
            base_path: base_path?,
            lifecycle: lifecycle?,
            identity: identity?,
            on_bad_credential: match written.on_bad_credential {
                raw::BadCredential::Reject => BadCredential::Reject,
                raw::BadCredential::Fact => BadCredential::Fact,
            },
            require: match written.require {
                raw::Require::Any => Require::Any,
                raw::Require::All => Require::All,
            },
            anonymous: match written.anonymous {
                raw::Anonymous::Allow => Anonymous::Allow,
                raw::Anonymous::Reject => Anonymous::Reject,
            },
            policy: policy?,
            upstream: upstream?,
            routes: routes?,
            identity_headers: identity_headers?,
        })
    }

    fn version(
        &mut self,
        place: &Place,
        text: Option<&str>,
    ) -> Result<Option<std::sync::Arc<str>>, Reported> {
        let plain =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte));
        match text {
            Some(text) if !plain(text) => {
                let message = format!("`{}` is not a version", self.shown(place));
                Err(self.report.error_with(place, message, "write `v2`, `2.1` or `2026-01-31`"))
            }
            Some(text) => Ok(Some(text.into())),
            None => Ok(None),
        }
    }

    fn hosts(&mut self, place: &Place, written: &[String]) -> Result<Vec<String>, Reported> {
        all(written.iter().enumerate().map(|(index, host)| {
            let place = place.index(index);
            let shown = self.shown(&place);
            let help = if host.contains("://") || host.contains('/') {
                "write the host alone: `orders.example.com`".to_owned()
            } else if host.chars().any(|c| c.is_ascii_uppercase()) {
                self.unless_secret(
                    &place,
                    format!("write it in lower case: `{}`", shown.to_ascii_lowercase()),
                )
            } else if !host.is_ascii() {
                "write it in its ASCII form, with `xn--`".to_owned()
            } else if !is_host_pattern(host) {
                "write a host without a port, `orders.example.com`, or `*.example.com` for one more label"
                    .to_owned()
            } else if written.iter().take(index).any(|earlier| earlier == host) {
                return Err(self.report.error_with(
                    &place,
                    format!("`{shown}` is listed twice"),
                    "keep one of them",
                ));
            } else {
                return Ok(host.clone());
            };
            Err(self.report.error_with(&place, format!("`{shown}` is not a host"), help))
        }))
    }

    /// A canonical path; the root becomes the empty text.
    fn base_path(&mut self, place: &Place, text: &str) -> Result<String, Reported> {
        let shown = self.shown(place);
        let help = match CanonicalPath::parse(text, PathRules::default()) {
            Ok(path) if path.as_str() == "/" => return Ok(String::new()),
            Ok(path) if path.as_str().ends_with('/') => {
                self.unless_secret(place, format!("write `{}`", shown.trim_end_matches('/')))
            }
            Ok(_) if text.contains(['{', '}']) => "parameters belong into the paths of routes".to_owned(),
            Ok(path) if path.as_str() == text => return Ok(text.to_owned()),
            Ok(path) => self.unless_secret(place, format!("write `{}`", path.as_str())),
            Err(error) => error.to_string(),
        };
        Err(self.report.error_with(place, format!("`{shown}` is not a base path"), help))
    }

    fn lifecycle(&mut self, place: &Place, written: &raw::Lifecycle) -> Result<Lifecycle, Reported> {
        let dates = self.dates(place, written);
        let successor = self.link(&place.key("successor"), written.successor.as_deref());
        let docs = self.link(&place.key("docs"), written.docs.as_deref());
        let given = [
            ("since", &written.since),
            ("sunset", &written.sunset),
            ("successor", &written.successor),
            ("docs", &written.docs),
        ];
        let first = given.iter().find(|(_, value)| value.is_some());
        let (state, plain) = match written.state {
            raw::LifecycleState::Active => ("active", Lifecycle::Active),
            raw::LifecycleState::Retired => ("retired", Lifecycle::Retired),
            raw::LifecycleState::Deprecated => {
                let (since, sunset) = dates?;
                return Ok(Lifecycle::Deprecated { since, sunset, successor: successor?, docs: docs? });
            }
        };
        if let Some((key, _)) = first {
            let message = format!("`{key}` has no effect on an API that is {state}");
            let help = "say `state: deprecated`, or take it out";
            return Err(self.together(place, &place.key(key), message, help));
        }
        Ok(plain)
    }

    fn dates(
        &mut self,
        place: &Place,
        written: &raw::Lifecycle,
    ) -> Result<(Option<String>, Option<String>), Reported> {
        let since = self.date(&place.key("since"), written.since.as_deref());
        let sunset = self.date(&place.key("sunset"), written.sunset.as_deref());
        if let (Some(since), Some(sunset)) = (since?, sunset?)
            && sunset < since
        {
            let message = "`sunset` is before `since`";
            return Err(self.report.error(&place.key("sunset"), message));
        }
        Ok((written.since.clone(), written.sunset.clone()))
    }

    fn date(&mut self, place: &Place, text: Option<&str>) -> Result<Option<Timestamp>, Reported> {
        let Some(text) = text else { return Ok(None) };
        parse_date(text).map(Some).ok_or_else(|| {
            let message = format!("`{}` is neither a date nor a time", self.shown(place));
            self.report.error_with(place, message, "write `2026-01-31` or `2026-01-31T12:00:00Z`")
        })
    }

    /// A link that can stand in a `Link` header (RFC 8288).
    fn link(&mut self, place: &Place, text: Option<&str>) -> Result<Option<String>, Reported> {
        let Some(text) = text else { return Ok(None) };
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"\\^`{}|".contains(&byte));
        if plain && text.starts_with('/') && !text.starts_with("//") {
            return Ok(Some(text.to_owned()));
        }
        if plain && (text.starts_with("https://") || text.starts_with("http://")) {
            return self.web_url(place, text, "write `https://host/path`").map(|_| Some(text.to_owned()));
        }
        let message = format!("`{}` is not a link", self.shown(place));
        Err(self.report.error_with(
            place,
            message,
            "write a path, `/v3`, or a URL, `https://docs.example/v3`",
        ))
    }
}

/// A host, or `*.` and a host; an IPv6 address has brackets, as in requests.
fn is_host_pattern(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let host = text.strip_prefix("*.").unwrap_or(text);
    !host.contains(':') && is_host(host)
}

/// A date, which stands for its first moment in UTC, or a time (RFC 3339).
fn parse_date(text: &str) -> Option<Timestamp> {
    if text.len() == "2026-01-31".len() {
        let date: Date = text.parse().ok()?;
        return TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok();
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for good in ["2026-01-31", "2026-01-31T12:00:00Z", "2026-01-31T12:00:00.5+02:00"] {
            assert!(parse_date(good).is_some(), "{good}");
        }
        for bad in ["", "2026", "2026-02-30", "31.01.2026", "tomorrow", "2026-01-31T12:00:00"] {
            assert!(parse_date(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn host_patterns() {
        for good in ["a.example", "*.a.example", "10.0.0.1", "[::1]", "localhost"] {
            assert!(is_host_pattern(good), "{good}");
        }
        for bad in ["*", "*.", "*a.example", "a.*.example", "a:80", "::1", "[::1", "a.", ""] {
            assert!(!is_host_pattern(bad), "{bad}");
        }
    }
}
