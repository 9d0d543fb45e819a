//! Checks of providers of `type: external`.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::HeaderName;

use crate::config::check::{Check, all};
use crate::config::model::{ExternalAsked, ExternalProvider, KeyPart, Memory};
use crate::config::place::Place;
use crate::config::raw::identity::external as raw;
use crate::config::report::Reported;

const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(5);
const TTL: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);
const STALE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(24);

impl Check<'_> {
    pub(super) fn external(
        &mut self,
        place: &Place,
        written: &raw::External,
    ) -> Result<ExternalProvider, Reported> {
        let why = "who can answer in its place can be anybody; use `https`";
        let url = self.protected_url(&place.key("url"), &written.url, why);
        let forward = self.header_list(&place.key("forward"), &written.forward);
        let timeout = self.duration(&place.key("timeout"), &written.timeout, TIMEOUT);
        let names = place.key("identity");
        let fields = &written.identity;
        let subject = self.answer_header(&names.key("subject"), fields.subject.as_ref());
        let roles = self.answer_header(&names.key("roles"), fields.roles.as_ref());
        let groups = self.answer_header(&names.key("groups"), fields.groups.as_ref());
        let scopes = self.answer_header(&names.key("scopes"), fields.scopes.as_ref());
        let attributes = self.header_list(&place.key("attributes"), &written.attributes);
        let client_headers = self.header_list(&place.key("client_headers"), &written.client_headers);
        let ca = written.ca.as_ref().map(|ca| self.authorities(&place.key("ca"), ca)).transpose();
        let client = written.client_tls.as_ref();
        let client = client.map(|client| self.client(&place.key("client_tls"), client)).transpose();
        let forward = forward?;
        let memory = written
            .cache
            .as_ref()
            .map(|cache| self.external_memory(&place.key("cache"), cache, &forward))
            .transpose();
        Ok(ExternalProvider {
            url: url?,
            append_path: written.append_path,
            asked: match written.asked {
                raw::Asked::Credential => ExternalAsked::Credential,
                raw::Asked::Always => ExternalAsked::Always,
            },
            timeout: timeout?,
            subject: subject?,
            roles: roles?,
            groups: groups?,
            scopes: scopes?,
            attributes: attributes?,
            client_headers: client_headers?,
            memory: memory?,
            ca: ca?,
            client: client?,
            forward_credential: written.forward_credential,
            forward,
        })
    }

    fn external_memory(
        &mut self,
        place: &Place,
        written: &raw::Cache,
        forward: &[HeaderName],
    ) -> Result<Memory, Reported> {
        let at = place.key("key");
        let key = all(written.key.iter().enumerate().map(|(index, part)| {
            let place = at.index(index);
            match part.as_str() {
                ":method" => return Ok(KeyPart::Method),
                ":authority" => return Ok(KeyPart::Authority),
                ":path" => return Ok(KeyPart::Path),
                _ => {}
            }
            let header = self.header(&place, part)?;
            if forward.contains(&header) {
                return Ok(KeyPart::Header(header));
            }
            let message = format!("the service does not get the header `{}`", self.shown(&place));
            let help = "its answer cannot depend on it: add it to `forward`, or take it out here";
            Err(self.report.error_with(&place, message, help))
        }));
        let ttl = self.duration(&place.key("ttl"), &written.ttl, TTL);
        let negative_ttl = self.duration(&place.key("negative_ttl"), &written.negative_ttl, TTL);
        let stale = self.duration(&place.key("stale"), &written.stale, STALE);
        Ok(Memory {
            key: key?,
            ttl: ttl?,
            negative_ttl: negative_ttl?,
            stale: stale?,
            entries: usize::try_from(written.entries).unwrap_or(usize::MAX),
        })
    }

    fn header_list(&mut self, place: &Place, written: &[String]) -> Result<Vec<HeaderName>, Reported> {
        all(written
            .iter()
            .enumerate()
            .map(|(index, header)| self.end_to_end_header(&place.index(index), header)))
    }

    fn answer_header(
        &mut self,
        place: &Place,
        written: Option<&String>,
    ) -> Result<Option<HeaderName>, Reported> {
        written.map(|header| self.header(place, header)).transpose()
    }
}
