//! Checks of certificates, keys and revocation lists.
//!
//! A message never repeats what the file holds: it may be a key in a place where no key belongs.

use std::io;
use std::path::PathBuf;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;

use super::Check;
use crate::base::pem::{PemError, certificates, private_key, revocation_lists};
use crate::config::model::CertificateFiles;
use crate::config::place::Place;
use crate::config::report::Reported;

impl Check<'_> {
    /// A certificate chain and the key that belongs to it.
    pub(super) fn certificate(
        &mut self,
        (cert_place, cert): (&Place, &str),
        (key_place, key): (&Place, &str),
    ) -> Result<CertificateFiles, Reported> {
        let cert = self.file(cert_place, cert);
        let key = self.file(key_place, key);
        let chain = cert.clone().and_then(|path| {
            certificates(&path).map_err(|error| self.bad_pem(cert_place, "certificate", &error))
        });
        let signer = key.clone().and_then(|path| {
            let der = private_key(&path).map_err(|error| self.bad_pem(key_place, "private key", &error))?;
            aws_lc_rs::default_provider().key_provider.load_private_key(der).map_err(|_| {
                let message =
                    format!("`{}` holds a key of a kind that cannot be used", self.shown(key_place));
                self.report.error_with(key_place, message, "use an RSA, P-256, P-384 or Ed25519 key")
            })
        });
        let (cert, key, chain, signer) = (cert?, key?, chain?, signer?);
        match CertifiedKey::new(chain, signer).keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
                Ok(CertificateFiles { cert, key })
            }
            Err(rustls::Error::InconsistentKeys(_)) => {
                let (shown_key, shown_cert) = (self.shown(key_place), self.shown(cert_place));
                let message =
                    format!("the key in `{shown_key}` does not belong to the certificate in `{shown_cert}`");
                let help = "the first certificate of the file must be the server's own";
                Err(self.report.error_with(key_place, message, help))
            }
            Err(_) => Err(self.malformed(cert_place, "certificate")),
        }
    }

    /// The certificates of trusted issuers.
    pub(super) fn authorities(&mut self, place: &Place, text: &str) -> Result<PathBuf, Reported> {
        let path = self.file(place, text)?;
        let found = certificates(&path).map_err(|error| self.bad_pem(place, "certificate", &error))?;
        if found.into_iter().all(is_authority) { Ok(path) } else { Err(self.malformed(place, "certificate")) }
    }

    /// Revocation lists.
    pub(super) fn revocations(&mut self, place: &Place, text: &str) -> Result<PathBuf, Reported> {
        const KIND: &str = "certificate revocation list";
        let path = self.file(place, text)?;
        let found = revocation_lists(&path).map_err(|error| self.bad_pem(place, KIND, &error))?;
        if found.iter().all(|list| x509_parser::parse_x509_crl(list).is_ok()) {
            Ok(path)
        } else {
            Err(self.malformed(place, KIND))
        }
    }

    fn malformed(&mut self, place: &Place, kind: &str) -> Reported {
        let message = format!("`{}` holds a malformed {kind}", self.shown(place));
        self.report.error(place, message)
    }

    fn bad_pem(&mut self, place: &Place, kind: &str, error: &PemError) -> Reported {
        let shown = self.shown(place);
        let message = match error {
            PemError::Empty { .. } => format!("`{shown}` holds no {kind}"),
            PemError::Read { kind, .. } if *kind != io::ErrorKind::InvalidData => {
                return self.cannot_read(place, "file", &(*kind).into());
            }
            PemError::Read { .. } | PemError::Malformed { .. } => format!("`{shown}` is not well-formed PEM"),
        };
        let help = "a PEM file has lines such as `-----BEGIN CERTIFICATE-----`, each on its own";
        self.report.error_with(place, message, help)
    }
}

fn is_authority(certificate: CertificateDer<'static>) -> bool {
    RootCertStore::empty().add(certificate).is_ok()
}
