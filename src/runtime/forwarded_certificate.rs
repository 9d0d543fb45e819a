//! Client certificates that a trusted proxy has taken in its own handshake and shows with each request (RFC 9440).
//!
//! The proxy's word is needed for one thing only, that the client holds the key. That the certificate is issued by an
//! authority trusted here, is in its time and is not revoked is verified here, as in a handshake. What does not stand up
//! to that is refused, not passed over: the client would otherwise be somebody else, or nobody.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;

use crate::config::model::ForwardedCertificates as Settings;
use crate::contract::request::ClientCertificate;
use crate::runtime::tls::{TlsError, client_certificate, verifier};

const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");

/// Largest certificate read.
const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;

/// Most certificates between the client's and the authority's.
const CHAIN_MAX: usize = 8;

/// Certificates that are remembered as verified.
const KNOWN_MAX: usize = 1024;

/// How long one is remembered: a list of revoked certificates may end meanwhile.
const KNOWN_FOR: Duration = Duration::from_mins(1);

/// Whose certificates a listener takes from trusted proxies.
pub struct ForwardedCertificates {
    verifier: Arc<dyn ClientCertVerifier>,
    known: Mutex<HashMap<[u8; 32], Known>>,
}

/// A certificate that was verified.
#[derive(Debug)]
struct Known {
    certificate: Arc<ClientCertificate>,
    verified_at: Duration,
}

/// A certificate that does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Not as RFC 9440 writes certificates, or too much of it.
    Malformed,
    /// Not issued by a trusted authority, out of its time, not for clients, or revoked.
    Untrusted,
}

impl fmt::Debug for ForwardedCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardedCertificates").finish_non_exhaustive()
    }
}

// === impl ForwardedCertificates ===

impl ForwardedCertificates {
    /// Reads the files of `settings`.
    pub(crate) fn build(settings: &Settings) -> Result<Self, TlsError> {
        let provider = Arc::new(provider::default_provider());
        let verifier = verifier(&provider, &settings.ca, settings.crl.as_deref())?.build()?;
        Ok(Self { verifier, known: Mutex::default() })
    }

    /// The certificate of the client behind the trusted proxy `proxy`, `None` where it showed none.
    pub(crate) fn read(
        &self,
        headers: &HeaderMap,
        proxy: IpAddr,
        now: Duration,
    ) -> Result<Option<ClientCertificate>, Refused> {
        let mut leaves = headers.get_all(CLIENT_CERT).iter();
        let leaf = match (leaves.next(), leaves.next()) {
            (Some(leaf), None) => leaf.as_bytes(),
            (None, _) if !headers.contains_key(CLIENT_CERT_CHAIN) => return Ok(None),
            (None, _) | (_, Some(_)) => return Err(Refused::Malformed),
        };
        let chain: Vec<&[u8]> =
            headers.get_all(CLIENT_CERT_CHAIN).iter().map(HeaderValue::as_bytes).collect();
        let certificate = self.verified(leaf, &chain, now)?;
        Ok(Some(ClientCertificate { forwarded_by: Some(proxy), ..(*certificate).clone() }))
    }

    fn verified(
        &self,
        leaf: &[u8],
        chain: &[&[u8]],
        now: Duration,
    ) -> Result<Arc<ClientCertificate>, Refused> {
        let shown = hash(leaf, chain);
        {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let known = known.get(&shown).filter(|known| known.is_fresh(now));
            if let Some(known) = known {
                return Ok(Arc::clone(&known.certificate));
            }
        }
        let leaf = certificate(leaf)?;
        let mut issuers = Vec::new();
        for item in chain.iter().flat_map(|line| line.split(|byte| *byte == b',')) {
            if issuers.len() == CHAIN_MAX {
                return Err(Refused::Malformed);
            }
            issuers.push(certificate(item)?);
        }
        let verified = self.verifier.verify_client_cert(&leaf, &issuers, UnixTime::since_unix_epoch(now));
        verified.map_err(|_| Refused::Untrusted)?;
        let certificate = Arc::new(client_certificate(&leaf).ok_or(Refused::Malformed)?);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.retain(|_, known| known.is_fresh(now));
        }
        if known.len() < KNOWN_MAX {
            known.insert(shown, Known { certificate: Arc::clone(&certificate), verified_at: now });
        }
        Ok(certificate)
    }
}

// === impl Known ===

impl Known {
    fn is_fresh(&self, now: Duration) -> bool {
        let age = now.checked_sub(self.verified_at);
        let ends = u64::try_from(self.certificate.not_after).unwrap_or(0);
        age.is_some_and(|age| age < KNOWN_FOR) && now.as_secs() <= ends
    }
}

/// One byte sequence between colons (RFC 9651 section 3.3.5), without parameters.
fn certificate(item: &[u8]) -> Result<CertificateDer<'static>, Refused> {
    let sequence = item.trim_ascii().strip_prefix(b":").and_then(|item| item.strip_suffix(b":"));
    let sequence = sequence.filter(|sequence| sequence.len() <= CERTIFICATE_BYTES_MAX / 3 * 4 + 4);
    let der = STANDARD.decode(sequence.ok_or(Refused::Malformed)?).map_err(|_| Refused::Malformed)?;
    if der.is_empty() { Err(Refused::Malformed) } else { Ok(CertificateDer::from(der)) }
}

/// Tells apart what proxies show; lengths keep it from being cut in two ways.
fn hash(leaf: &[u8], chain: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in std::iter::once(&leaf).chain(chain) {
        context.update(&part.len().to_le_bytes());
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_one_byte_sequence() {
        assert_eq!(certificate(b":AQID:").unwrap().as_ref(), [1, 2, 3]);
        assert_eq!(certificate(b" :AQI=: ").unwrap().as_ref(), [1, 2]);
        let long = format!(":{}:", "A".repeat(CERTIFICATE_BYTES_MAX * 2));
        for bad in [
            "",
            ":",
            "::",
            "AQID",
            ":AQID",
            "AQID:",
            "::AQID::",
            ":AQI:",
            ":AQ-_:",
            ":A Q I D:",
            ":AQID:;a=1",
            &long,
        ] {
            assert_eq!(certificate(bad.as_bytes()), Err(Refused::Malformed), "{bad:.20}");
        }
    }
}
