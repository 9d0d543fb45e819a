//! The decision log on standard output, one JSON object a line.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};

use crate::audit::line::write_lines;
use crate::audit::sink::{OpenError, Sink, WriteError};

/// Standard output without the standard library's line buffer, which would look for line ends in every batch.
#[derive(Debug)]
pub(super) struct StdoutSink {
    file: File,
    /// The last line was cut; the next write ends it first.
    torn: bool,
}

impl StdoutSink {
    pub(super) fn open() -> Result<Self, OpenError> {
        let descriptor = io::stdout().as_fd().try_clone_to_owned().map_err(OpenError::Stdout)?;
        Ok(Self::new(descriptor))
    }

    pub(super) fn new(descriptor: OwnedFd) -> Self {
        Self { file: File::from(descriptor), torn: false }
    }
}

impl Sink for StdoutSink {
    fn write(&mut self, lines: &[u8]) -> Result<(), WriteError> {
        if self.torn {
            write_lines(&mut self.file, b"\n")
                .map_err(|broken| WriteError::Failed { whole: 0, source: broken.source })?;
            self.torn = false;
        }
        write_lines(&mut self.file, lines).map_err(|broken| {
            self.torn = broken.torn > 0;
            let (whole, source) = (broken.whole, broken.source);
            if source.kind() == ErrorKind::BrokenPipe {
                WriteError::Gone { whole, source }
            } else {
                WriteError::Failed { whole, source }
            }
        })
    }

    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}
