//! The decision log in a file: appended, readable by its owner only, opened anew when it was rotated away.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::audit::line::{Broken, write_lines};
use crate::audit::sink::{OpenError, Sink, WriteError};

/// A file that this process appends to.
#[derive(Debug)]
pub(super) struct FileSink {
    path: PathBuf,
    file: File,
    /// The last line was cut and could not be taken back; the next write ends it first.
    torn: bool,
}

impl FileSink {
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        refuse_others(path)?;
        let file = append(path).map_err(|source| OpenError::File { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), torn: ends_torn(&file, path), file })
    }

    fn write_whole(&mut self, lines: &[u8]) -> Result<(), Broken> {
        if self.torn {
            write_lines(&mut self.file, b"\n").map_err(|broken| Broken { whole: 0, torn: 0, ..broken })?;
            self.torn = false;
        }
        let before = self.file.metadata().map(|metadata| metadata.len());
        write_lines(&mut self.file, lines).inspect_err(|broken| {
            if broken.torn > 0 {
                self.torn = before.and_then(|before| self.take_back(before, broken)).is_err();
            }
        })
    }

    /// Cuts off the part of a line that was written last, unless someone else has appended to the file meanwhile.
    fn take_back(&self, before: u64, broken: &Broken) -> io::Result<()> {
        let whole = before.saturating_add(broken.whole as u64);
        if self.file.metadata()?.len() != whole.saturating_add(broken.torn as u64) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        self.file.set_len(whole)
    }
}

impl Sink for FileSink {
    fn write(&mut self, lines: &[u8]) -> Result<(), WriteError> {
        self.write_whole(lines)
            .map_err(|broken| WriteError::Failed { whole: broken.whole, source: broken.source })
    }

    fn reopen(&mut self) -> io::Result<()> {
        let file = append(&self.path)?;
        self.torn = ends_torn(&file, &self.path);
        self.file = file;
        Ok(())
    }
}

/// Whether a log at `path` can be written. No file is made.
pub(super) fn check(path: &Path) -> Result<(), OpenError> {
    refuse_others(path)?;
    let opened = OpenOptions::new().append(true).open(path).map(drop);
    let absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let outcome = match opened {
        Err(error) if absent(&error) => {
            let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
            std::fs::read_dir(parent).map(drop)
        }
        other => other,
    };
    outcome.map_err(|source| OpenError::File { path: path.to_owned(), source })
}

/// Opening a pipe would wait for a reader.
fn refuse_others(path: &Path) -> Result<(), OpenError> {
    let not_a_file = std::fs::metadata(path).is_ok_and(|metadata| {
        metadata.is_dir() || metadata.file_type().is_fifo() || metadata.file_type().is_socket()
    });
    if not_a_file { Err(OpenError::NotAFile { path: path.to_owned() }) } else { Ok(()) }
}

/// Opens for appending; a new file can be read by its owner only, because decision events tell who did what.
fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Whether the file ends within a line, as a crash may leave it. A file that cannot be read is taken as whole.
fn ends_torn(file: &File, path: &Path) -> bool {
    let last_byte = || {
        let metadata = file.metadata().ok().filter(Metadata::is_file)?;
        let mut last = [0];
        File::open(path).ok()?.read_exact_at(&mut last, metadata.len().checked_sub(1)?).ok()?;
        Some(last)
    };
    last_byte().is_some_and(|last| last != *b"\n")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_file_is_private_and_an_old_one_is_appended_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("decisions.jsonl");
        FileSink::open(&path).unwrap().write(b"{}\n").unwrap();
        FileSink::open(&path).unwrap().write(b"[]\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n[]\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_line_that_a_crash_cut_is_ended_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("decisions.jsonl");
        fs::write(&path, "{}\n{\"cut").unwrap();
        FileSink::open(&path).unwrap().write(b"{}\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n{\"cut\n{}\n");
    }

    #[test]
    fn what_is_no_file_is_refused_and_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(FileSink::open(directory.path()), Err(OpenError::NotAFile { .. })));
        let missing = directory.path().join("missing/decisions.jsonl");
        assert!(matches!(FileSink::open(&missing), Err(OpenError::File { .. })));
        let socket = directory.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(matches!(FileSink::open(&socket), Err(OpenError::NotAFile { .. })));
    }

    #[test]
    fn a_failed_write_says_how_much_was_written() {
        let mut sink = FileSink::open(Path::new("/dev/full")).unwrap();
        assert!(matches!(sink.write(b"{}\n"), Err(WriteError::Failed { whole: 0, .. })));
        assert!(!sink.torn);
    }

    #[test]
    fn only_the_own_last_line_is_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("decisions.jsonl");
        fs::write(&path, "{}\n[]\n{\"cu").unwrap();
        let sink = FileSink { path: path.clone(), file: append(&path).unwrap(), torn: false };
        let broken = Broken { whole: 3, torn: 4, source: io::ErrorKind::StorageFull.into() };
        assert!(sink.take_back(2, &broken).is_err(), "someone else wrote a byte");
        sink.take_back(3, &broken).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n[]\n");
    }
}
