//! Whom a client trusts and what it shows, as files say it: read once, for as many clients as are made of it.

use std::path::Path;

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;

use super::exchange::Trust;
use super::{ClientCertificate, TrustError};
use crate::base::pem::{self, PemError};

/// Why a client cannot be made of what its files hold.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The issuers, the certificate or its key could not be read.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// No TLS client can be made.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// What the files hold.
#[derive(Debug)]
pub struct Credentials {
    issuers: Option<Vec<CertificateDer<'static>>>,
    certificate: Option<ClientCertificate>,
}

impl Credentials {
    /// Reads the trusted issuers, those of the system without a file, and the certificate to show with its key.
    pub fn read(issuers: Option<&Path>, certificate: Option<(&Path, &Path)>) -> Result<Self, PemError> {
        let issuers = issuers.map(pem::certificates).transpose()?;
        let certificate = certificate.map(|(chain, key)| -> Result<_, PemError> {
            Ok(ClientCertificate { chain: pem::certificates(chain)?, key: pem::private_key(key)? })
        });
        Ok(Self { issuers, certificate: certificate.transpose()? })
    }

    /// What tells these from others: the certificates, and a hash of the key.
    pub fn contents(&self) -> Vec<Vec<u8>> {
        let issuers = self.issuers.iter().flatten();
        let chain = self.certificate.iter().flat_map(|certificate| &certificate.chain);
        let key = self.certificate.as_ref().map(|certificate| certificate.key.secret_der());
        let key = key.map(|key| digest::digest(&digest::SHA256, key).as_ref().to_vec());
        issuers.chain(chain).map(|certificate| certificate.to_vec()).chain(key).collect()
    }

    /// Trusts and shows what they hold. On a system that trusts nobody, so does this: whoever asks plain servers needs no
    /// issuers, and a TLS server is then not trusted.
    pub fn trust(self) -> Result<Trust, TrustError> {
        match Trust::new(self.issuers, self.certificate) {
            Err(TrustError::NoSystemRoots) => Trust::nobody(),
            trust => trust,
        }
    }
}
