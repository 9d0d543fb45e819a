//! Files of recorded decision events.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::Context;
use flate2::bufread::MultiGzDecoder;

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// Opens a log, plain or `.gz`; `-` is standard input. Also the size of what is read, where progress can be measured by it.
pub(super) fn open(path: &Path) -> anyhow::Result<(Box<dyn BufRead>, Option<u64>)> {
    if path == Path::new("-") {
        return Ok((Box::new(BufReader::new(std::io::stdin())), None));
    }
    let file = File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let size = file.metadata().ok().map(|metadata| metadata.len());
    let reader = BufReader::with_capacity(READ_BYTES, file);
    if path.extension().is_some_and(|extension| extension == "gz") {
        return Ok((Box::new(BufReader::with_capacity(READ_BYTES, MultiGzDecoder::new(reader))), None));
    }
    Ok((Box::new(reader), size))
}
