//! Where decision events go. A new kind of sink is one file that implements [`Sink`] and one arm in `open`.

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;

use crate::audit::file::{self, FileSink};
use crate::audit::stdout::StdoutSink;
use crate::config::model::DecisionLog;

/// A destination of decision events. It lives on a thread of its own and may block.
pub trait Sink: Debug + Send {
    /// Writes whole lines, each with its end. `Ok` means that the destination has taken all of them.
    fn write(&mut self, lines: &[u8]) -> Result<(), WriteError>;

    /// Opens the destination anew, for log rotation and reloads. On an error the former one stays in use.
    fn reopen(&mut self) -> io::Result<()>;
}

/// Lines that were not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Only the first `whole` bytes, which are whole lines, were; the next write may succeed.
    #[error("the decision log cannot be written")]
    Failed {
        /// Bytes of whole lines written.
        whole: usize,
        /// Why.
        source: io::Error,
    },
    /// The destination is gone for good: whoever read it has gone.
    #[error("the decision log has no reader any more")]
    Gone {
        /// Bytes of whole lines written.
        whole: usize,
        /// Why.
        source: io::Error,
    },
}

/// Why a sink could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened or created.
    #[error("cannot open the decision log `{path}`; its directory must exist and be writable")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory, pipe or socket stands in the file's place.
    #[error("the decision log `{path}` is no file; name a regular file, or use `type: stdout`")]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// Standard output is closed.
    #[error("standard output is closed; start the gateway with one, or log decisions to a file")]
    Stdout(#[source] io::Error),
    /// The sink's thread cannot be started.
    #[error("cannot start a thread for the decision log")]
    Thread(#[source] io::Error),
}

/// Opens the sink that `config` describes.
pub(super) fn open(config: &DecisionLog) -> Result<Box<dyn Sink>, OpenError> {
    Ok(match config {
        DecisionLog::Stdout => Box::new(StdoutSink::open()?),
        DecisionLog::File { path } => Box::new(FileSink::open(path)?),
    })
}

/// Whether the sink that `config` describes can be opened, as far as can be told without opening it.
pub fn check(config: &DecisionLog) -> Result<(), OpenError> {
    match config {
        DecisionLog::Stdout => Ok(()),
        DecisionLog::File { path } => file::check(path),
    }
}

/// The sink's name in metrics, status and gap records.
pub(super) fn name(config: &DecisionLog) -> String {
    match config {
        DecisionLog::Stdout => "stdout".to_owned(),
        DecisionLog::File { path } => format!("file:{}", path.display()),
    }
}
