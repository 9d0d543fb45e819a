//! Writing lines to a descriptor so that what stands there is known after a failure.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::thread;
use std::time::Duration;

/// The pause before a destination that is not ready is tried again.
const NOT_READY_PAUSE: Duration = Duration::from_millis(5);

/// A write that broke off.
#[derive(Debug)]
pub(super) struct Broken {
    /// Bytes written of whole lines.
    pub(super) whole: usize,
    /// Bytes written of a line that was cut.
    pub(super) torn: usize,
    pub(super) source: io::Error,
}

/// Writes all of `lines`, or tells how far it came.
pub(super) fn write_lines(file: &mut File, lines: &[u8]) -> Result<(), Broken> {
    let mut written = 0;
    let broken = |written: usize, source| {
        let done = lines.get(..written).unwrap_or(lines);
        let whole = memchr::memrchr(b'\n', done).map_or(0, |at| at + 1);
        Broken { whole, torn: done.len() - whole, source }
    };
    while let Some(rest) = lines.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return Err(broken(written, ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // A terminal or pipe that someone else made non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(NOT_READY_PAUSE),
            Err(error) => return Err(broken(written, error)),
        }
    }
    Ok(())
}
