//! Follows the demo's decision log, and shows each event on a line as it is written.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use crate::cli::demo::tour;
use crate::cli::output::Paint;

/// The place in the log up to which events were shown.
#[derive(Debug)]
pub(super) struct Feed {
    log: BufReader<File>,
    /// The beginning of a line whose rest is not written yet.
    partial: String,
    paint: Paint,
}

impl Feed {
    /// Begins at the start of the log.
    pub(super) fn open(log: &Path, paint: Paint) -> io::Result<Self> {
        Ok(Self { log: BufReader::new(File::open(log)?), partial: String::new(), paint })
    }

    /// Shows what was written since the last call.
    pub(super) fn show(&mut self, out: &mut dyn Write) -> io::Result<()> {
        loop {
            self.log.read_line(&mut self.partial)?;
            if !self.partial.ends_with('\n') {
                return out.flush();
            }
            // A line that is no event is nothing that the demo has to explain.
            if let Ok(event) = serde_json::from_str(&self.partial) {
                writeln!(out, "{}", tour::decision(&event, self.paint))?;
            }
            self.partial.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_shown_once_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = File::create(&path).unwrap();
        let mut feed = Feed::open(&path, Paint::plain()).unwrap();
        let mut shown = |log: &mut File, text: &str| {
            log.write_all(text.as_bytes()).unwrap();
            let mut out = Vec::new();
            feed.show(&mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(&mut log, ""), "");
        assert_eq!(shown(&mut log, r#"{"gateway": {"status": 200, "outcome": "allowed","#), "");
        let line = shown(&mut log, "\"method\": \"GET\", \"path\": \"/\"}}\nno event\n");
        assert_eq!(line, "  200 allowed  -                  GET /\n");
    }
}
