//! Checks of whom a policy may ask outside.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Check;
use crate::base::host_port::{HostPort, is_host};
use crate::config::model::{HttpSend, Lookup};
use crate::config::place::Place;
use crate::config::raw::policy as raw;
use crate::config::report::Reported;

const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(30);
const RESPONSE: RangeInclusive<u64> = 1..=16 << 20;
const CACHE: RangeInclusive<u64> = 0..=1 << 30;
const SERVER_HELP: &str = "write `host:port`, without a scheme and without a path";

impl Check<'_> {
    pub(super) fn http_send(&mut self, place: &Place, written: &raw::HttpSend) -> Result<HttpSend, Reported> {
        let at = place.key("allow");
        let allow = written.allow.iter().enumerate();
        let allow: Vec<_> = allow.map(|(index, text)| self.server(&at.index(index), text)).collect();
        let timeout = self.duration(&place.key("timeout"), &written.timeout, TIMEOUT);
        let response_bytes = self.size(&place.key("response_bytes"), &written.response_bytes, RESPONSE);
        let cache_bytes = self.size(&place.key("cache_bytes"), &written.cache_bytes, CACHE);
        let ca = written.ca.as_ref().map(|ca| self.authorities(&place.key("ca"), ca)).transpose();
        let client = written.client_tls.as_ref();
        let client = client.map(|client| self.client(&place.key("client_tls"), client)).transpose();
        Ok(HttpSend {
            allow: super::all(allow)?,
            timeout: timeout?,
            response_bytes: response_bytes?,
            requests: usize::try_from(written.requests).unwrap_or(usize::MAX),
            concurrent: usize::try_from(written.concurrent).unwrap_or(usize::MAX),
            cache_bytes: cache_bytes?,
            ca: ca?,
            client: client?,
        })
    }

    pub(super) fn lookup(&mut self, place: &Place, written: &raw::Lookup) -> Result<Lookup, Reported> {
        let at = place.key("allow");
        let allow = written.allow.iter().enumerate().map(|(index, text)| {
            if is_host(text) {
                return Ok(text.to_ascii_lowercase());
            }
            let place = at.index(index);
            let message = format!("`{}` is not the name of a host", self.shown(&place));
            Err(self.report.error_with(&place, message, "write `inventory.internal`, without a port"))
        });
        let allow: Vec<_> = allow.collect();
        let timeout = self.duration(&place.key("timeout"), &written.timeout, TIMEOUT);
        Ok(Lookup { allow: super::all(allow)?, timeout: timeout? })
    }

    fn server(&mut self, place: &Place, text: &str) -> Result<HostPort, Reported> {
        HostPort::parse(text).ok_or_else(|| {
            let message = format!("`{}` is not a server", self.shown(place));
            self.report.error_with(place, message, SERVER_HELP)
        })
    }
}
