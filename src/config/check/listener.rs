//! Checks of listeners.

use std::time::Duration;

use super::{Check, Known, all};
use crate::base::net::{NetworkSet, is_loopback};
use crate::base::path::PathRules;
use crate::config::model::{
    ClientAuth, ForwardedCertificates, Listener, ListenerLimits, ListenerTls, Name, Protocols,
};
use crate::config::place::Place;
use crate::config::raw::listener as raw;
use crate::config::report::Reported;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// The HTTP/1 reader cannot work with less than the lower bound.
const HEADER_BYTES: std::ops::RangeInclusive<u64> = 8 * KIB..=MIB;
/// Bounds of a body: what is larger belongs into object storage, and the sum must not overflow.
pub(super) const BODY_BYTES: std::ops::RangeInclusive<u64> = 0..=MIB * MIB;
/// Every wait has a bound, so none of them is zero.
pub(super) const TIMEOUT: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_hours(24);

impl Check<'_> {
    pub(super) fn listener(
        &mut self,
        place: &Place,
        written: &raw::Listener,
        known: &Known,
    ) -> Result<Listener, Reported> {
        let name = self.name(&place.key("name"), &written.name);
        let address = self.address(&place.key("address"), &written.address);
        let exposed = address.is_ok_and(|address| !is_loopback(address.ip()));
        let plaintext = self.plaintext(place, written, exposed);
        let tls = written.tls.as_ref().map(|tls| self.listener_tls(&place.key("tls"), tls)).transpose();
        let trusted_proxies = self.networks(&place.key("trusted_proxies"), &written.trusted_proxies);
        let forwarded = written.forwarded_client_certificates.as_ref();
        let forwarded =
            forwarded.map(|forwarded| self.forwarded_certificates(place, written, forwarded)).transpose();
        let allow_from = self.networks(&place.key("allow_from"), &written.allow_from);
        let apis = self.reachable(&place.key("apis"), written.apis.as_deref(), known);
        let limits = self.listener_limits(&place.key("limits"), &written.limits);
        plaintext?;
        Ok(Listener {
            name: name?,
            address: address?,
            tls: tls?,
            protocols: Protocols {
                http1: written.protocols.contains(&raw::Protocol::Http1),
                http2: written.protocols.contains(&raw::Protocol::H2),
            },
            trusted_proxies: trusted_proxies?,
            forwarded_certificates: forwarded?,
            allow_from: allow_from.map(unless_everyone)?,
            apis: apis?,
            path_rules: PathRules {
                merge_slashes: written.merge_slashes,
                path_parameters: written.path_parameters,
            },
            limits: limits?,
        })
    }

    /// Certificates in a header are nobody's unless it is known who writes it.
    fn forwarded_certificates(
        &mut self,
        listener: &Place,
        written: &raw::Listener,
        forwarded: &raw::ForwardedCertificates,
    ) -> Result<ForwardedCertificates, Reported> {
        let place = listener.key("forwarded_client_certificates");
        let ca = self.authorities(&place.key("ca"), &forwarded.ca);
        let crl = forwarded.crl.as_ref().map(|crl| self.revocations(&place.key("crl"), crl)).transpose();
        if written.trusted_proxies.is_empty() {
            let message = "`forwarded_client_certificates` needs `trusted_proxies`";
            let help = "list the networks of the proxies that verify clients and write `Client-Cert`";
            return Err(self.together(listener, &place, message, help));
        }
        Ok(ForwardedCertificates { ca: ca?, crl: crl? })
    }

    /// Plaintext on an address that others reach must be wanted.
    fn plaintext(&mut self, place: &Place, written: &raw::Listener, exposed: bool) -> Result<(), Reported> {
        let key = place.key("plaintext");
        match (&written.tls, written.plaintext) {
            (Some(_), true) => {
                let message = "`plaintext: true` contradicts `tls`";
                Err(self.together(place, &key, message, "take one of them out"))
            }
            (None, false) if exposed => {
                let address = place.key("address");
                let message = format!("a listener on `{}` needs `tls`", self.shown(&address));
                let help = "others can reach it and read along; if something in front of it ends TLS, say `plaintext: \
                            true`";
                Err(self.together(place, &address, message, help))
            }
            (Some(_) | None, false) | (None, true) => Ok(()),
        }
    }

    /// The APIs of a listener: the listed ones, or all.
    fn reachable(
        &mut self,
        place: &Place,
        written: Option<&[String]>,
        known: &Known,
    ) -> Result<Vec<Name>, Reported> {
        let Some(written) = written else {
            return Ok(known.apis.0.keys().map(|name| Name::from(name.as_str())).collect());
        };
        self.references(place, written, "API", &known.apis)
    }

    /// Names that must exist, each once.
    pub(super) fn references(
        &mut self,
        place: &Place,
        written: &[String],
        kind: &str,
        known: &super::Names,
    ) -> Result<Vec<Name>, Reported> {
        all(written.iter().enumerate().map(|(index, name)| {
            let place = place.index(index);
            if written.iter().take(index).any(|earlier| earlier == name) {
                let message = format!("`{}` is listed twice", self.shown(&place));
                return Err(self.report.error_with(&place, message, "keep one of them"));
            }
            self.reference(&place, name, kind, known)
        }))
    }

    fn listener_tls(&mut self, place: &Place, written: &raw::Tls) -> Result<ListenerTls, Reported> {
        let certificates = place.key("certificates");
        let certificates = all(written.certificates.iter().enumerate().map(|(index, files)| {
            let place = certificates.index(index);
            self.certificate((&place.key("cert"), &files.cert), (&place.key("key"), &files.key))
        }));
        let client_auth = self.client_auth(&place.key("client_auth"), &written.client_auth);
        Ok(ListenerTls {
            certificates: certificates?,
            client_auth: client_auth?,
            tls12: match written.min_version {
                raw::TlsVersion::Tls12 => true,
                raw::TlsVersion::Tls13 => false,
            },
        })
    }

    fn client_auth(&mut self, place: &Place, written: &raw::ClientAuth) -> Result<ClientAuth, Reported> {
        let ca = written.ca.as_ref().map(|ca| self.authorities(&place.key("ca"), ca)).transpose();
        let crl = written.crl.as_ref().map(|crl| self.revocations(&place.key("crl"), crl)).transpose();
        if written.mode == raw::ClientAuthMode::None {
            return if written.ca.is_none() && written.crl.is_none() {
                Ok(ClientAuth::None)
            } else {
                let message = "client certificates are not asked for, so `ca` and `crl` have no effect";
                Err(self.together(place, place, message, "say `mode: optional` or `mode: required`"))
            };
        }
        let Some(ca) = ca? else {
            let message = "client certificates need `ca`";
            return Err(self.together(place, place, message, "a PEM file with the issuers that are trusted"));
        };
        let crl = crl?;
        Ok(match written.mode {
            raw::ClientAuthMode::None => ClientAuth::None,
            raw::ClientAuthMode::Optional => ClientAuth::Optional { ca, crl },
            raw::ClientAuthMode::Required => ClientAuth::Required { ca, crl },
        })
    }

    fn listener_limits(&mut self, place: &Place, written: &raw::Limits) -> Result<ListenerLimits, Reported> {
        let header_bytes = self.size(&place.key("header_bytes"), &written.header_bytes, HEADER_BYTES);
        let body_bytes = self.size(&place.key("body_bytes"), &written.body_bytes, BODY_BYTES);
        let mut timeout = |key: &str, written| self.duration(&place.key(key), written, TIMEOUT);
        let handshake_timeout = timeout("handshake_timeout", &written.handshake_timeout);
        let header_timeout = timeout("header_timeout", &written.header_timeout);
        let body_timeout = timeout("body_timeout", &written.body_timeout);
        let idle_timeout = timeout("idle_timeout", &written.idle_timeout);
        Ok(ListenerLimits {
            connections: usize::try_from(written.connections).unwrap_or(usize::MAX),
            header_bytes: header_bytes?,
            headers: usize::try_from(written.headers).unwrap_or(usize::MAX),
            body_bytes: body_bytes?,
            handshake_timeout: handshake_timeout?,
            header_timeout: header_timeout?,
            body_timeout: body_timeout?,
            idle_timeout: idle_timeout?,
            streams: written.streams,
        })
    }
}

/// The set without a network, which means everyone too and is faster, if the set has everyone.
fn unless_everyone(networks: NetworkSet) -> NetworkSet {
    let everyone: Option<Vec<_>> =
        ["0.0.0.0/0", "::/0"].into_iter().map(crate::base::net::parse_network).collect();
    if everyone.is_some_and(|everyone| NetworkSet::new(everyone) == networks) {
        NetworkSet::default()
    } else {
        networks
    }
}
