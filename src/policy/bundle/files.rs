//! The files of a bundle, wherever they come from: a directory, an archive, or a single file.
//!
//! Sources only list and read, within bounds; what the files mean is decided by the bundle's reader.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use crate::rego::fault::{Fault, Place};

/// Most files a bundle may have.
pub(super) const FILES_MAX: usize = 10_000;
/// Most bytes all files of a bundle may have together.
pub(super) const BYTES_MAX: u64 = 256 << 20;
/// Deepest directory.
pub(super) const DEPTH_MAX: usize = 32;

/// One file of a bundle.
#[derive(Debug, Clone)]
pub(super) struct File {
    /// Its path inside the bundle, a name a step.
    pub(super) inside: Vec<String>,
    /// The path that messages name it by.
    pub(super) shown: String,
    pub(super) bytes: Vec<u8>,
}

impl File {
    /// The path inside the bundle as signatures write it: `a/b.rego`.
    pub(super) fn name(&self) -> String {
        self.inside.join("/")
    }

    /// The last step of its path.
    pub(super) fn base_name(&self) -> &str {
        self.inside.last().map_or("", String::as_str)
    }
}

/// Whether a file of this name is read at all.
pub(super) type Wants<'a> = &'a dyn Fn(&str) -> bool;

/// Counts files and bytes against the bounds of a bundle.
#[derive(Debug, Default)]
pub(super) struct Budget {
    files: usize,
    bytes: u64,
}

impl Budget {
    /// Takes a file of `size` bytes, unless it is one too many.
    pub(super) fn take(&mut self, shown: &str, size: u64) -> Result<(), Fault> {
        let fault =
            |code, message: String, hint: &str| Fault::new(Place::whole(shown), code, message).hint(hint);
        self.files += 1;
        self.bytes = self.bytes.saturating_add(size);
        if self.files > FILES_MAX {
            return Err(fault(
                "too_many_files",
                format!("bundle has more than {FILES_MAX} files"),
                "split it",
            ));
        }
        if self.bytes > BYTES_MAX {
            let message = format!("bundle is larger than {} MiB", BYTES_MAX >> 20);
            return Err(fault("too_large", message, "split it, or move tables out of it"));
        }
        Ok(())
    }

    /// Bytes that are left.
    pub(super) fn left(&self) -> u64 {
        BYTES_MAX.saturating_sub(self.bytes)
    }
}

/// A file or directory that cannot be read.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> Fault {
    Fault::new(Place::whole(path.display().to_string()), "unreadable", format!("cannot be read: {error}"))
        .hint("check the path and its permissions")
}

/// Reads the files below `root` that are wanted, in the order of their paths.
pub(super) fn read_directory(
    root: &Path,
    wants: Wants<'_>,
    budget: &mut Budget,
    faults: &mut Vec<Fault>,
) -> Vec<File> {
    let mut lister = Lister { wants, parents: BTreeSet::new(), found: Vec::new(), faults };
    lister.list(root, &mut Vec::new());
    let mut found = lister.found;
    found.sort();
    let mut files = Vec::with_capacity(found.len());
    for (inside, path) in found {
        match read_file(&path, inside, budget) {
            Ok(file) => files.push(file),
            Err(fault) => {
                // Past a bound there is nothing more to tell.
                let bound = matches!(fault.code, "too_many_files" | "too_large");
                faults.push(fault);
                if bound {
                    break;
                }
            }
        }
    }
    files
}

/// Reads one file.
pub(super) fn read_file(path: &Path, inside: Vec<String>, budget: &mut Budget) -> Result<File, Fault> {
    let shown = path.display().to_string();
    let size = fs::metadata(path).map_err(|error| unreadable(path, &error))?.len();
    budget.take(&shown, size)?;
    let bytes = fs::read(path).map_err(|error| unreadable(path, &error))?;
    Ok(File { inside, shown, bytes })
}

struct Lister<'a> {
    wants: Wants<'a>,
    parents: BTreeSet<PathBuf>,
    found: Vec<(Vec<String>, PathBuf)>,
    faults: &'a mut Vec<Fault>,
}

impl Lister<'_> {
    // Kubernetes mounts `..data -> ..2024_01_01` and links each file into it: names with two dots
    // are skipped, links are followed. A directory linking to one of its parents is entered once.
    fn list(&mut self, directory: &Path, inside: &mut Vec<String>) {
        if inside.len() > DEPTH_MAX {
            let shown = directory.display().to_string();
            let message = format!("directory is deeper than {DEPTH_MAX} levels");
            self.faults.push(Fault::new(Place::whole(shown), "too_deep", message).hint("flatten it"));
            return;
        }
        let listing = fs::canonicalize(directory).and_then(|path| Ok((path, fs::read_dir(directory)?)));
        let (canonical, entries) = match listing {
            Ok(listing) => listing,
            Err(error) => return self.faults.push(unreadable(directory, &error)),
        };
        if !self.parents.insert(canonical.clone()) {
            return;
        }
        for entry in entries {
            match entry {
                Ok(entry) => self.enter(entry.path(), inside),
                Err(error) => self.faults.push(unreadable(directory, &error)),
            }
        }
        self.parents.remove(&canonical);
    }

    fn enter(&mut self, path: PathBuf, inside: &mut Vec<String>) {
        let name = file_name(&path);
        let is_own = inside.is_empty() && super::is_own_file(&name);
        if name.starts_with('.') && !is_own {
            return;
        }
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                inside.push(name);
                self.list(&path, inside);
                inside.pop();
            }
            Ok(metadata) if metadata.is_file() && (is_own || (self.wants)(&name)) => {
                self.found.push((inside.iter().cloned().chain([name]).collect(), path));
            }
            Ok(_) => {}
            Err(error) => self.faults.push(unreadable(&path, &error)),
        }
    }
}

/// The last step of a path, as text.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
