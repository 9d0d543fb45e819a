//! The bytes of a bundle, and the directory where the last good ones are kept.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::HeaderValue;

/// Most deltas to one archive; then a whole one is asked for.
const DELTAS_MAX: usize = 100;

/// A packed bundle in memory. Cheap to clone.
#[derive(Clone)]
pub struct Archive {
    /// The packed bytes.
    pub bytes: Bytes,
    /// Delta bundles that change it, in their order.
    pub deltas: Arc<[Bytes]>,
    /// What messages call it: its URL, or its file.
    pub shown: Arc<str>,
    /// The server's name for this version.
    pub(super) etag: Option<HeaderValue>,
    /// The version that the server was told of, where it was asked for a delta to that.
    pub(super) changes: Option<HeaderValue>,
    /// The SHA-256 of the bytes; with deltas, of that of the former and the last delta's.
    pub(super) digest: [u8; 32],
    pub(super) origin: Origin,
}

/// Where an archive came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The server.
    Server,
    /// The directory of persisted ones.
    Persisted,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is in it is long, and may be confidential.
        f.debug_struct("Archive")
            .field("shown", &self.shown)
            .field("bytes", &self.bytes.len())
            .field("deltas", &self.deltas.len())
            .finish_non_exhaustive()
    }
}

// === impl Archive ===

impl Archive {
    pub(super) fn new(bytes: Bytes, shown: &str, origin: Origin) -> Self {
        let digest = sha256(&bytes);
        Self { bytes, deltas: Arc::default(), shown: shown.into(), etag: None, changes: None, digest, origin }
    }

    /// This archive changed by `delta`, if that is what `delta` was made for.
    pub(in crate::runtime) fn changed_by(&self, delta: &Self) -> Option<Self> {
        let fits = self.etag.is_some() && self.etag == delta.changes && self.deltas.len() < DELTAS_MAX;
        fits.then(|| Self {
            bytes: self.bytes.clone(),
            deltas: self.deltas.iter().chain([&delta.bytes]).cloned().collect(),
            shown: Arc::clone(&self.shown),
            etag: delta.etag.clone(),
            changes: None,
            digest: sha256(&[self.digest, delta.digest].concat()),
            origin: self.origin,
        })
    }

    /// Whether the server was asked for a delta, and may have answered with one.
    pub(in crate::runtime) fn may_be_delta(&self) -> bool {
        self.changes.is_some()
    }

    /// Whether it is to be persisted: as OPA, what the server gave whole.
    pub(super) fn is_to_be_kept(&self) -> bool {
        self.origin == Origin::Server && self.deltas.is_empty()
    }

    /// Bytes of all that it is made of.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() + self.deltas.iter().map(Bytes::len).sum::<usize>()
    }

    /// Where it came from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether both are the same bytes.
    pub fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// The archive that is kept, if there is one; at most `bytes_max` of it are read.
pub(super) fn read_persisted(path: &Path, bytes_max: u64) -> io::Result<Option<Archive>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > bytes_max) {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than `size_limit`"));
    }
    Ok(Some(Archive::new(bytes.into(), &path.display().to_string(), Origin::Persisted)))
}

/// Keeps `archive` in one step: whoever reads finds the old one or this one, whole, after a crash too. Only the gateway's
/// user can read it, as data may be confidential.
pub(super) fn persist(path: &Path, archive: &Archive) -> io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let new = path.with_extension("gz.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&archive.bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_only_the_owner_can_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundles/main/bundle.tar.gz");
        assert!(read_persisted(&path, 10).unwrap().is_none());
        for text in ["a longer first one", "short"] {
            let archive = Archive::new(Bytes::copy_from_slice(text.as_bytes()), "url", Origin::Server);
            persist(&path, &archive).unwrap();
            let kept = read_persisted(&path, 20).unwrap().unwrap();
            assert!(kept.is_same(&archive));
            assert_eq!((kept.origin(), &*kept.shown), (Origin::Persisted, path.to_str().unwrap()));
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
        assert!(read_persisted(&path, 4).is_err(), "the bound holds here too");
    }
}
