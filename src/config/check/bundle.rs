//! Checks of where a policy's bundle comes from.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use super::Check;
use super::value::{bare_host, is_loopback_host};
use crate::base::secret::Secret;
use crate::config::model::{BundleSource, CertificateFiles, Polling, RemoteBundle};
use crate::config::place::Place;
use crate::config::raw::policy as raw;
use crate::config::raw::quantity::Size;
use crate::config::report::Reported;

const DELAY: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(24);
const LONG_POLL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_mins(10);
const SIZE: RangeInclusive<u64> = 1..=256 << 20;

/// A bundle as it is written: a policy's own, or a candidate.
pub(super) struct Written<'a> {
    bundle: &'a str,
    polling: Option<&'a raw::Polling>,
    credentials: Option<&'a raw::Credentials>,
    ca: Option<&'a str>,
    size_limit: Option<&'a Size>,
    persist: Option<&'a str>,
    /// It must be signed.
    signed: bool,
}

impl<'a> Written<'a> {
    /// The bundle of `policy`.
    pub(super) fn own(policy: &'a raw::Policy) -> Self {
        Self {
            bundle: &policy.bundle,
            polling: policy.polling.as_ref(),
            credentials: policy.credentials.as_ref(),
            ca: policy.ca.as_deref(),
            size_limit: policy.size_limit.as_ref(),
            persist: policy.persist.as_deref(),
            signed: policy.signing.is_some(),
        }
    }

    /// The candidate of a policy, which is `signed` or not as that is.
    pub(super) fn candidate(shadow: &'a raw::Shadow, signed: bool) -> Self {
        Self {
            bundle: &shadow.bundle,
            polling: shadow.polling.as_ref(),
            credentials: shadow.credentials.as_ref(),
            ca: shadow.ca.as_deref(),
            size_limit: shadow.size_limit.as_ref(),
            persist: shadow.persist.as_deref(),
            signed,
        }
    }
}

impl Check<'_> {
    /// Where the bundle `written` at `policy`, or at its shadow, comes from.
    pub(super) fn bundle(&mut self, policy: &Place, written: &Written<'_>) -> Result<BundleSource, Reported> {
        let place = policy.key("bundle");
        let text = written.bundle;
        if text.contains("://") {
            return self.remote_bundle(policy, written).map(|remote| BundleSource::Url(Box::new(remote)));
        }
        let path = self.local_bundle(&place, text);
        for (key, is_given) in [
            ("polling", written.polling.is_some()),
            ("credentials", written.credentials.is_some()),
            ("ca", written.ca.is_some()),
            ("size_limit", written.size_limit.is_some()),
            ("persist", written.persist.is_some()),
        ] {
            if is_given {
                let message = format!("`{key}` has no effect on a bundle that is not fetched");
                let help = "take it out, or give the bundle's URL";
                return Err(self.together(policy, &policy.key(key), message, help));
            }
        }
        path.map(BundleSource::Path)
    }

    /// The path of a bundle that is not fetched.
    fn local_bundle(&mut self, place: &Place, text: &str) -> Result<PathBuf, Reported> {
        if [".tar.gz", ".tgz"].iter().any(|ending| text.ends_with(ending)) {
            self.file(place, text)
        } else {
            self.directory(place, text)
        }
    }

    fn remote_bundle(&mut self, policy: &Place, written: &Written<'_>) -> Result<RemoteBundle, Reported> {
        let at = policy.key("bundle");
        let url = self.bundle_url(&at, written.bundle);
        let polling = self.polling(&policy.key("polling"), written.polling);
        let credentials = policy.key("credentials");
        let bearer = written.credentials.and_then(|credentials| credentials.bearer.as_ref());
        let token_file = bearer
            .map(|bearer| {
                self.unwatched_file(&credentials.key("bearer").key("token_file"), &bearer.token_file)
            })
            .transpose();
        let client = written.credentials.and_then(|credentials| credentials.client_tls.as_ref());
        let client = client.map(|client| self.client(&credentials.key("client_tls"), client)).transpose();
        let ca = written.ca.map(|ca| self.authorities(&policy.key("ca"), ca)).transpose();
        let size_limit = written.size_limit.cloned().unwrap_or_else(raw::default_size_limit);
        let size_limit = self.size(&policy.key("size_limit"), &size_limit, SIZE);
        let persist = written
            .persist
            .map(|directory| self.unwatched_directory(&policy.key("persist"), directory))
            .transpose();
        let url = url?;
        if url.scheme_str() == Some("http") {
            for (place, is_given) in [
                (policy.key("ca"), written.ca.is_some()),
                (credentials.key("client_tls"), client != Ok(None)),
            ] {
                if is_given {
                    let message = "there is no TLS with an `http` URL";
                    return Err(self.together(policy, &place, message, "take it out, or use `https`"));
                }
            }
        }
        // A query may hold a token.
        let shown = self.shown(&at);
        let shown = shown.split('?').next().unwrap_or_default().to_owned();
        Ok(RemoteBundle {
            url: Secret::new(url),
            shown,
            polling: polling?,
            token_file: token_file?,
            client: client?,
            ca: ca?,
            size_limit: size_limit?,
            persist: persist?,
            deltas: !written.signed,
        })
    }

    fn bundle_url(&mut self, place: &Place, text: &str) -> Result<Uri, Reported> {
        let url = self.web_url(place, text, "write `https://host/path/bundle.tar.gz`")?;
        let local = url.host().is_some_and(|host| is_loopback_host(bare_host(host)));
        if url.scheme_str() == Some("https") || local {
            return Ok(url);
        }
        let shown = self.shown(place);
        let message =
            format!("a bundle cannot be fetched from `{}`", shown.split('?').next().unwrap_or_default());
        let help = "who can change it on the way decides what is allowed; use `https`";
        Err(self.report.error_with(place, message, help))
    }

    fn polling(&mut self, place: &Place, written: Option<&raw::Polling>) -> Result<Polling, Reported> {
        let default = raw::Polling::default();
        let written = written.unwrap_or(&default);
        let min_delay = self.duration(&place.key("min_delay"), &written.min_delay, DELAY);
        let max_delay = self.duration(&place.key("max_delay"), &written.max_delay, DELAY);
        let at = place.key("long_polling_timeout");
        let timeout = written.long_polling_timeout.as_ref();
        let timeout = timeout.map(|timeout| self.duration(&at, timeout, LONG_POLL)).transpose();
        let polling =
            Polling { min_delay: min_delay?, max_delay: max_delay?, long_polling_timeout: timeout? };
        if polling.min_delay > polling.max_delay {
            let message = format!(
                "`min_delay` of {:?} is longer than `max_delay` of {:?}",
                polling.min_delay, polling.max_delay
            );
            return Err(self.together(place, place, message, "give both"));
        }
        Ok(polling)
    }

    pub(super) fn client(
        &mut self,
        place: &Place,
        written: &raw::ClientTls,
    ) -> Result<CertificateFiles, Reported> {
        let (cert, key) = (place.key("cert"), place.key("private_key"));
        self.certificate((&cert, &written.cert), (&key, &written.private_key))
    }
}
