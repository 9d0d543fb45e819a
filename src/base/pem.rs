//! Certificates, keys and revocation lists from PEM files.

use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// A PEM file that could not be used.
///
/// The parser's own error is not kept: it quotes the line it stumbled over, which may be a part of a private key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// The file could not be read.
    #[error("cannot read {what} from `{path}`: {kind}")]
    Read {
        /// What was looked for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        kind: io::ErrorKind,
    },
    /// The file is not PEM.
    #[error("`{path}` is no PEM file with {what}")]
    Malformed {
        /// What was looked for.
        what: &'static str,
        /// The file.
        path: PathBuf,
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
    PrivateKeyDer::from_pem_file(path).map_err(|error| described("a private key", path, &error))
}

fn described(what: &'static str, path: &Path, error: &pem::Error) -> PemError {
    let path = path.to_owned();
    if let pem::Error::Io(error) = error {
        PemError::Read { what, path, kind: error.kind() }
    } else if matches!(error, pem::Error::NoItemsFound) {
        PemError::Empty { what, path }
    } else {
        PemError::Malformed { what, path }
    }
}

fn all<T, I>(path: &Path, what: &'static str, opened: Result<I, pem::Error>) -> Result<Vec<T>, PemError>
where
    I: Iterator<Item = Result<T, pem::Error>>,
{
    let read = |error: pem::Error| described(what, path, &error);
    let items = opened.map_err(read)?.collect::<Result<Vec<_>, _>>().map_err(read)?;
    if items.is_empty() {
        return Err(PemError::Empty { what, path: path.to_owned() });
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_does_not_quote_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("squeezed.key");
        std::fs::write(&path, "-----BEGIN PRIVATE KEY-----hunter2-----END PRIVATE KEY-----\n").unwrap();
        let error = private_key(&path).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        let missing = private_key(&directory.path().join("missing.key")).unwrap_err();
        assert!(missing.to_string().ends_with("entity not found"), "{missing}");
        std::fs::write(&path, "").unwrap();
        assert!(matches!(certificates(&path), Err(PemError::Empty { .. })));
    }
}
