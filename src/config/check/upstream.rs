//! Checks of upstreams.

use std::ops::RangeInclusive;
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::listener::TIMEOUT;
use super::value::bare_host;
use super::{Check, all};
use crate::base::host_port::is_host;
use crate::base::path::{CanonicalPath, PathRules};
use crate::config::model::{Balance, Endpoint, HealthCheck, Name, Retries, Upstream, UpstreamTls};
use crate::config::place::Place;
use crate::config::raw::upstream as raw;
use crate::config::report::Reported;

const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_hours(24);
const ENDPOINT_HELP: &str = "write `http://host:port` or `https://host:port`, without a path";

impl Check<'_> {
    pub(super) fn upstream(
        &mut self,
        place: &Place,
        name: &Name,
        written: &raw::Upstream,
    ) -> Result<Upstream, Reported> {
        let endpoints = self.endpoints(&place.key("endpoints"), &written.endpoints);
        let balance = self.balance(&place.key("balance"), &written.balance);
        let timeouts = place.key("timeouts");
        let mut timeout = |key: &str, written| self.duration(&timeouts.key(key), written, TIMEOUT);
        let connect_timeout = timeout("connect", &written.timeouts.connect);
        let response_timeout = timeout("response", &written.timeouts.response);
        let idle_timeout = timeout("idle", &written.timeouts.idle);
        let health =
            written.health.as_ref().map(|health| self.health(&place.key("health"), health)).transpose();
        let tls = self.upstream_tls(&place.key("tls"), &written.tls);
        let endpoints = endpoints?;
        self.tls_in_use(&place.key("tls"), &written.tls, &endpoints)?;
        Ok(Upstream {
            name: name.clone(),
            endpoints,
            balance: balance?,
            http2: match written.protocol {
                raw::Protocol::H2 => true,
                raw::Protocol::Http1 => false,
            },
            connect_timeout: connect_timeout?,
            response_timeout: response_timeout?,
            idle_timeout: idle_timeout?,
            retries: Retries { attempts: written.retries.attempts, budget: written.retries.budget },
            health: health?,
            tls: tls?,
            preserve_host: written.preserve_host,
            forward_client_certificate: written.forward_client_certificate,
        })
    }

    fn endpoints(&mut self, place: &Place, written: &[String]) -> Result<Vec<Endpoint>, Reported> {
        let mut seen: Vec<Endpoint> = Vec::new();
        all(written.iter().enumerate().map(|(index, text)| {
            let place = place.index(index);
            let endpoint = self.endpoint(&place, text)?;
            if seen.contains(&endpoint) {
                let message = format!("the endpoint `{}` is listed twice", self.shown(&place));
                return Err(self.report.error_with(&place, message, "keep one of them"));
            }
            seen.push(endpoint.clone());
            Ok(endpoint)
        }))
    }

    fn endpoint(&mut self, place: &Place, text: &str) -> Result<Endpoint, Reported> {
        let url = self.web_url(place, text, ENDPOINT_HELP)?;
        let has_path = !matches!(url.path(), "" | "/") || url.query().is_some() || text.ends_with('/');
        if has_path {
            let message = format!("the endpoint `{}` has a path", self.shown(place));
            return Err(self.report.error_with(place, message, ENDPOINT_HELP));
        }
        let tls = url.scheme_str() == Some("https");
        let host = bare_host(url.host().unwrap_or_default()).to_ascii_lowercase();
        let port = url.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Endpoint { tls, host, port })
    }

    fn balance(&mut self, place: &Place, text: &str) -> Result<Balance, Reported> {
        match text.split_once(':') {
            None if text == "p2c" => Ok(Balance::PowerOfTwo),
            None if text == "round_robin" => Ok(Balance::RoundRobin),
            Some(("hash", header)) => self.header(place, header).map(Balance::Hash),
            None | Some(_) => {
                let message =
                    format!("`{}` is not one of `p2c`, `round_robin`, `hash:HEADER`", self.shown(place));
                Err(self.report.error(place, message))
            }
        }
    }

    fn health(&mut self, place: &Place, written: &raw::Health) -> Result<HealthCheck, Reported> {
        let path = self.health_path(&place.key("path"), &written.path);
        let interval = self.duration(&place.key("interval"), &written.interval, INTERVAL);
        let timeout = self.duration(&place.key("timeout"), &written.timeout, TIMEOUT);
        Ok(HealthCheck {
            path: path?,
            interval: interval?,
            timeout: timeout?,
            unhealthy_after: written.unhealthy_after,
            healthy_after: written.healthy_after,
        })
    }

    /// A path, perhaps with a query.
    fn health_path(&mut self, place: &Place, text: &str) -> Result<String, Reported> {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let canonical = CanonicalPath::parse(path, PathRules::default());
        let query_is_plain = query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if canonical.is_ok() && query_is_plain && !path.contains(['?', '#', ' ']) {
            return Ok(text.to_owned());
        }
        let message = format!("`{}` is not a path", self.shown(place));
        Err(self.report.error_with(place, message, "write `/healthz`"))
    }

    fn upstream_tls(&mut self, place: &Place, written: &raw::Tls) -> Result<UpstreamTls, Reported> {
        let ca = written.ca.as_ref().map(|ca| self.authorities(&place.key("ca"), ca)).transpose();
        let client = match (&written.cert, &written.key) {
            (Some(cert), Some(key)) => {
                self.certificate((&place.key("cert"), cert), (&place.key("key"), key)).map(Some)
            }
            (None, None) => Ok(None),
            (Some(_), None) => Err(self.together(place, &place.key("cert"), "`cert` needs `key`", "")),
            (None, Some(_)) => Err(self.together(place, &place.key("key"), "`key` needs `cert`", "")),
        };
        let server_name = written
            .server_name
            .as_ref()
            .map(|name| self.server_name(&place.key("server_name"), name))
            .transpose();
        Ok(UpstreamTls { ca: ca?, client: client?, server_name: server_name? })
    }

    fn server_name(&mut self, place: &Place, text: &str) -> Result<String, Reported> {
        if is_host(text) && ServerName::try_from(text).is_ok() {
            return Ok(text.to_owned());
        }
        let message = format!("`{}` is not a name a certificate can hold", self.shown(place));
        Err(self.report.error_with(place, message, "write a DNS name or an IP address"))
    }

    /// TLS settings that no endpoint uses are a mistake, and perhaps a dangerous one.
    fn tls_in_use(
        &mut self,
        place: &Place,
        written: &raw::Tls,
        endpoints: &[Endpoint],
    ) -> Result<(), Reported> {
        let given = [&written.ca, &written.cert, &written.key, &written.server_name];
        if given.iter().all(|key| key.is_none()) || endpoints.iter().any(|endpoint| endpoint.tls) {
            return Ok(());
        }
        let message = "`tls` is given, but no endpoint is `https`";
        Err(self.report.error_with(place, message, "write the endpoints with `https://`, or take `tls` out"))
    }
}
