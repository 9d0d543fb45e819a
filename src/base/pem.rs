//! Certificates, keys and revocation lists from PEM files.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// A PEM file that could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// The file could not be read or is not PEM.
    #[error("cannot read {what} from `{path}`")]
    Read {
        /// What was looked for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// The file holds none.
    #[error("`{path}` holds no {what}")]
    Empty {
        /// What was looked for.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
}

/// All certificates of a file, at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    all(path, "certificate", CertificateDer::pem_file_iter(path))
}

/// All certificate revocation lists of a file, at least one.
pub fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    all(path, "certificate revocation list", CertificateRevocationListDer::pem_file_iter(path))
}

/// The first private key of a file (PKCS#8, PKCS#1 or SEC1).
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| PemError::Read {
        what: "a private key",
        path: path.to_owned(),
        source,
    })
}

fn all<T, I>(path: &Path, what: &'static str, opened: Result<I, pem::Error>) -> Result<Vec<T>, PemError>
where
    I: Iterator<Item = Result<T, pem::Error>>,
{
    let read = |source| PemError::Read { what, path: path.to_owned(), source };
    let items = opened.map_err(read)?.collect::<Result<Vec<_>, _>>().map_err(read)?;
    if items.is_empty() {
        return Err(PemError::Empty { what, path: path.to_owned() });
    }
    Ok(items)
}
