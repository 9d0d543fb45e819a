//! Records that were lost, and the record that says so.

use std::time::Duration;

use crate::audit::json::{push_string, push_u64};
use crate::base::clock::rfc3339;

/// Why records were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The sink did not keep up.
    QueueFull,
    /// The sink failed to write.
    WriteFailed,
}

impl Reason {
    const ALL: [Self; 2] = [Self::QueueFull, Self::WriteFailed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::WriteFailed => "write_failed",
        }
    }
}

/// A run of lost records; times are since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) dropped: u64,
    pub(super) since: Duration,
    pub(super) until: Duration,
}

/// The gap that is open for each reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Gaps([Option<Gap>; Reason::ALL.len()]);

impl Gaps {
    /// Counts `dropped` records lost at `now`.
    pub(super) fn lose(&mut self, reason: Reason, dropped: u64, now: Duration) {
        if dropped > 0 {
            self.merge(reason, Gap { dropped, since: now, until: now });
        }
    }

    /// Takes over the gaps of `other`, whose records were lost too.
    pub(super) fn absorb(&mut self, other: &Self) {
        for (reason, gap) in Reason::ALL.into_iter().zip(other.0) {
            if let Some(gap) = gap {
                self.merge(reason, gap);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Appends one line for each reason: `{"gap":{"sink":..,"dropped":..,"since":..,"until":..,"reason":..}}`.
    pub(super) fn push_lines(&self, sink: &str, out: &mut Vec<u8>) {
        for (reason, gap) in Reason::ALL.into_iter().zip(self.0) {
            let Some(gap) = gap else { continue };
            out.extend_from_slice(b"{\"gap\":{\"sink\":");
            push_string(out, sink);
            out.extend_from_slice(b",\"dropped\":");
            push_u64(out, gap.dropped);
            for (name, time) in [(",\"since\":\"", gap.since), (",\"until\":\"", gap.until)] {
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(&rfc3339(time));
                out.push(b'"');
            }
            out.extend_from_slice(b",\"reason\":");
            push_string(out, reason.as_str());
            out.extend_from_slice(b"}}\n");
        }
    }

    fn merge(&mut self, reason: Reason, gap: Gap) {
        let open = self.0.iter_mut().zip(Reason::ALL).find(|(_, of)| *of == reason);
        if let Some((open, _)) = open {
            *open = Some(open.map_or(gap, |open| Gap {
                dropped: open.dropped.saturating_add(gap.dropped),
                since: open.since.min(gap.since),
                until: open.until.max(gap.until),
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_of_one_reason_are_one_line() {
        let mut gaps = Gaps::default();
        gaps.lose(Reason::WriteFailed, 0, Duration::ZERO);
        assert!(gaps.is_empty());
        gaps.lose(Reason::QueueFull, 3, Duration::from_secs(2));
        gaps.lose(Reason::QueueFull, 4, Duration::from_secs(5));
        let mut later = Gaps::default();
        later.lose(Reason::QueueFull, 1, Duration::from_secs(1));
        later.lose(Reason::WriteFailed, 9, Duration::from_secs(6));
        gaps.absorb(&later);
        let mut lines = Vec::new();
        gaps.push_lines("stdout", &mut lines);
        let want = concat!(
            r#"{"gap":{"sink":"stdout","dropped":8,"since":"1970-01-01T00:00:01.000000000Z","#,
            r#""until":"1970-01-01T00:00:05.000000000Z","reason":"queue_full"}}"#,
            "\n",
            r#"{"gap":{"sink":"stdout","dropped":9,"since":"1970-01-01T00:00:06.000000000Z","#,
            r#""until":"1970-01-01T00:00:06.000000000Z","reason":"write_failed"}}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(lines).unwrap(), want);
    }
}
