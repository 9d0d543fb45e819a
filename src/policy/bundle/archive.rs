//! Bundle archives: gzipped tar, as OPA packs and serves them.
//!
//! Nothing is unpacked to disk. An archive is not trusted: entries and bytes are bounded as they come out of the
//! compressed stream, paths may not climb, and what is neither file nor directory is refused.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read, Write},
    path::{Component, Path},
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};

use super::files::{BYTES_MAX, Budget, DEPTH_MAX, FILES_MAX, File, unreadable};
use crate::rego::fault::{Fault, Place};

/// Most bytes of headers and padding beside the files.
const OVERHEAD_MAX: u64 = FILES_MAX as u64 * 4_096;

/// Whether a file of this name is taken for an archive.
pub(super) fn is_archive(name: &str) -> bool {
    [".tar.gz", ".tgz"].iter().any(|ending| name.ends_with(ending))
}

/// Reads the archive at `path`.
pub(super) fn read_archive(path: &Path, budget: &mut Budget) -> Result<Vec<File>, Fault> {
    let file = fs::File::open(path).map_err(|error| unreadable(path, &error))?;
    unpack(io::BufReader::new(file), &path.display().to_string(), budget)
}

/// Reads an archive; messages call it `shown`.
pub(super) fn unpack(packed: impl Read, shown: &str, budget: &mut Budget) -> Result<Vec<File>, Fault> {
    let broken = |error: io::Error| {
        Fault::new(Place::whole(shown), "bad_archive", format!("is no gzipped tar archive: {error}"))
            .hint("build it with `gatewayctl policy build`")
    };
    // One byte more than allowed, so that what is over the bound is told from what ends there.
    let limit = BYTES_MAX + OVERHEAD_MAX + 1;
    let mut archive = tar::Archive::new(GzDecoder::new(packed).take(limit));
    let mut names = BTreeSet::new();
    let mut files = Vec::new();
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.into_owned();
        let kind = entry.header().entry_type();
        if kind.is_dir() || kind.is_pax_global_extensions() {
            continue;
        }
        let inside = inside(&path).ok_or_else(|| {
            refused(shown, &path, "bad_path", "climbs out of the bundle, is no text, or is too deep")
        })?;
        if !kind.is_file() {
            return Err(refused(shown, &path, "not_a_file", "is a link or a device"));
        }
        if !names.insert(inside.clone()) {
            return Err(refused(shown, &path, "duplicate_file", "is in the archive twice"));
        }
        let name = format!("{shown}/{}", inside.join("/"));
        // Before the size that the header claims is believed.
        if entry.size() > budget.left() {
            budget.take(&name, entry.size())?;
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(broken)?;
        budget.take(&name, bytes.len() as u64)?;
        files.push(File { inside, shown: name, bytes });
    }
    let mut rest = archive.into_inner();
    if rest.limit() == 0 {
        let message = format!("unpacks to more than {} MiB", (BYTES_MAX + OVERHEAD_MAX) >> 20);
        return Err(Fault::new(Place::whole(shown), "too_large", message).hint("split it"));
    }
    // Reading on to the end checks the checksum of the whole.
    io::copy(&mut rest, &mut io::sink()).map_err(broken)?;
    files.sort_by(|left, right| left.inside.cmp(&right.inside));
    Ok(files)
}

fn refused(shown: &str, path: &Path, code: &'static str, why: &str) -> Fault {
    Fault::new(Place::whole(shown), code, format!("entry `{}` {why}", path.display()))
        .hint("build it with `gatewayctl policy build`")
}

/// The steps of an entry's path, if it stays inside the bundle.
fn inside(path: &Path) -> Option<Vec<String>> {
    let mut steps = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => steps.push(name.to_str()?.to_owned()),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (!steps.is_empty() && steps.len() <= DEPTH_MAX + 1).then_some(steps)
}

/// Writes `files` as an archive. The same files give the same bytes: no times, no owners.
pub(super) fn pack<'a>(
    files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    out: impl Write,
) -> io::Result<()> {
    let mut archive = tar::Builder::new(GzEncoder::new(out, Compression::best()));
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Regular);
        archive.append_data(&mut header, name, bytes)?;
    }
    archive.into_inner()?.finish()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, kind, bytes) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_entry_type(*kind);
            // `set_path` refuses what an attacker would write.
            let field = &mut header.as_gnu_mut().unwrap().name;
            field[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            archive.append(&header, *bytes).unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap()
    }

    fn code(bytes: &[u8]) -> &'static str {
        unpack(bytes, "b.tar.gz", &mut Budget::default()).expect_err("refused").code
    }

    #[test]
    fn what_is_packed_comes_out_again_and_is_always_the_same() {
        let files = [("a/p.rego", b"package a".as_slice()), (".manifest", b"{}")];
        let pack = || {
            let mut packed = Vec::new();
            super::pack(files, &mut packed).unwrap();
            packed
        };
        assert_eq!(pack(), pack());
        let read = unpack(&*pack(), "b.tar.gz", &mut Budget::default()).unwrap();
        let names: Vec<_> = read.iter().map(|file| (file.name(), file.shown.as_str())).collect();
        assert_eq!(
            names,
            [(".manifest".to_owned(), "b.tar.gz/.manifest"), ("a/p.rego".to_owned(), "b.tar.gz/a/p.rego")]
        );
        assert_eq!(read[1].bytes, b"package a");
    }

    #[test]
    fn paths_as_opa_writes_them_are_read() {
        let bytes = packed(&[
            ("/a", tar::EntryType::Directory, b""),
            ("/a/p.rego", tar::EntryType::Regular, b"package a"),
            ("./b.rego", tar::EntryType::Regular, b"package b"),
        ]);
        let read = unpack(&*bytes, "b.tar.gz", &mut Budget::default()).unwrap();
        assert_eq!(read.iter().map(File::name).collect::<Vec<_>>(), ["a/p.rego", "b.rego"]);
    }

    #[test]
    fn hostile_archives_are_refused() {
        let file = tar::EntryType::Regular;
        assert_eq!(code(&packed(&[("../p.rego", file, b"")])), "bad_path");
        assert_eq!(code(&packed(&[("a/../../p.rego", file, b"")])), "bad_path");
        assert_eq!(code(&packed(&[("p.rego", tar::EntryType::Symlink, b"")])), "not_a_file");
        assert_eq!(code(&packed(&[("p.rego", tar::EntryType::Link, b"")])), "not_a_file");
        assert_eq!(code(&packed(&[("p.rego", file, b"a"), ("./p.rego", file, b"b")])), "duplicate_file");
        assert_eq!(code(&packed(&[(&"d/".repeat(40), file, b"")])), "bad_path");
        assert_eq!(code(b"no archive"), "bad_archive");
        let mut cut = packed(&[("p.rego", file, &[b'x'; 9_000])]);
        cut.truncate(cut.len() - 4);
        assert_eq!(code(&cut), "bad_archive");
        let mut changed = packed(&[("p.rego", file, b"package a")]);
        let at = changed.len() - 6;
        changed[at] ^= 1;
        assert_eq!(code(&changed), "bad_archive", "the checksum is looked at");
    }

    #[test]
    fn a_bomb_is_stopped_at_the_bound() {
        let chunk = vec![0; 64 << 20];
        let entries: Vec<_> = ["a", "b", "c", "d", "e"]
            .map(|name| (name, tar::EntryType::Regular, chunk.as_slice()))
            .into_iter()
            .collect();
        assert_eq!(code(&packed(&entries)), "too_large");
    }
}
