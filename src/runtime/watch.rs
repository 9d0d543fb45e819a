//! Notices when a file that the configuration names has changed.
//!
//! Parent directories are watched, not files: editors replace files by renaming, Kubernetes swaps a symbolic link. Other
//! things happen in those directories too (a decision log may lie there), so what counts is a fingerprint of the named
//! files; the notification only says when to look. Where there are no notifications, it looks every ten seconds.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Waited after a notification, so that a change of several files is seen as one.
const SETTLE: Duration = Duration::from_millis(100);
/// Looked without a notification.
const POLL: Duration = Duration::from_secs(10);
/// Entries of directories looked at, at most; a bundle has far fewer.
const ENTRIES_MAX: usize = 20_000;
const DEPTH_MAX: usize = 32;

/// Files and directories as they were before they were read. What has changed since then must be read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    files: Vec<PathBuf>,
    fingerprint: u64,
}

/// Watches a set of files and directories.
#[derive(Debug)]
pub struct Watch {
    seen: Sighting,
    events: mpsc::Receiver<()>,
    /// Kept for its `Drop`; `None` where the system gives no notifications.
    _watcher: Option<RecommendedWatcher>,
}

// === impl Sighting ===

impl Sighting {
    /// How `files` are now; directories count with all that is in them. Reads the disk.
    pub fn of(files: &[PathBuf]) -> Self {
        Self { fingerprint: fingerprint(files), files: files.to_vec() }
    }

    /// How the same files are now.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::of(&self.files)
    }
}

// === impl Watch ===

impl Watch {
    /// Watches what was `seen`. A change between then and now counts.
    pub fn new(seen: Sighting) -> Self {
        let (sender, events) = mpsc::channel(1);
        let watcher = watcher(&seen.files, sender).map_err(|error| {
            tracing::warn!(%error, "No file notifications, looking every ten seconds");
        });
        Self { seen, events, _watcher: watcher.ok() }
    }

    /// Waits until the files differ from what was seen.
    ///
    /// # Cancel safety
    /// A change that was not yet told is told by the next call.
    pub async fn changed(&mut self) {
        loop {
            let seen = self.seen.clone();
            let looked = tokio::task::spawn_blocking(move || (seen.again(), seen)).await;
            if looked.is_ok_and(|(now, seen)| now != seen) {
                return;
            }
            match tokio::time::timeout(POLL, self.events.recv()).await {
                Ok(Some(())) => {
                    tokio::time::sleep(SETTLE).await;
                    while self.events.try_recv().is_ok() {}
                }
                Ok(None) => tokio::time::sleep(POLL).await,
                Err(_) => {}
            }
        }
    }
}

fn watcher(files: &[PathBuf], sender: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading a file is an event too, and looking at one must not lead to looking again.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            // A full queue holds a notification already, and a closed one wants none.
            match sender.try_send(()) {
                Ok(()) | Err(_) => {}
            }
        }
    })?;
    let mut directories = BTreeSet::new();
    for file in files {
        if file.is_dir() {
            watcher.watch(file, RecursiveMode::Recursive)?;
        }
        if let Some(parent) = file.parent() {
            directories.insert(parent);
        }
    }
    for directory in directories {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// A hash of what identifies each file's content: where its path leads, its inode, size and time of change.
fn fingerprint(files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut left = ENTRIES_MAX;
    for file in files {
        visit(file, 0, &mut left, &mut hasher);
    }
    hasher.finish()
}

fn visit(path: &Path, depth: usize, left: &mut usize, hasher: &mut DefaultHasher) {
    if depth > DEPTH_MAX || *left == 0 {
        return;
    }
    *left -= 1;
    path.hash(hasher);
    let Ok(metadata) = std::fs::metadata(path) else { return };
    if metadata.is_dir() {
        let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
        let entries: BTreeSet<PathBuf> = entries.map(|entry| entry.path()).collect();
        for entry in entries {
            visit(&entry, depth + 1, left, hasher);
        }
    } else {
        (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ctime_nsec())
            .hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_change_of_content_or_of_a_link_is_seen_and_other_files_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        fs::create_dir(file("v1")).unwrap();
        fs::create_dir(file("v2")).unwrap();
        for version in ["v1", "v2"] {
            fs::write(file(version).join("a.rego"), "package a").unwrap();
        }
        symlink("v1", file("current")).unwrap();
        let named = [file("current").join("a.rego"), file("v2")];
        let first = fingerprint(&named);
        fs::write(file("decisions.jsonl"), "{}").unwrap();
        assert_eq!(fingerprint(&named), first);
        fs::remove_file(file("current")).unwrap();
        symlink("v2", file("current")).unwrap();
        let second = fingerprint(&named);
        assert_ne!(second, first);
        fs::write(file("v2").join("b.rego"), "package b").unwrap();
        assert_ne!(fingerprint(&named), second);
    }

    #[tokio::test]
    async fn a_rename_over_the_file_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("gateway.yaml");
        fs::write(&config, "version: 1").unwrap();
        let mut watch = Watch::new(Sighting::of(std::slice::from_ref(&config)));
        let replacement = directory.path().join(".gateway.yaml.swp");
        fs::write(&replacement, "version: 1 # new").unwrap();
        fs::rename(&replacement, &config).unwrap();
        tokio::time::timeout(Duration::from_secs(20), watch.changed()).await.unwrap();
    }

    #[tokio::test]
    async fn a_change_between_reading_and_watching_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("gateway.yaml");
        fs::write(&config, "version: 1").unwrap();
        let seen = Sighting::of(std::slice::from_ref(&config));
        fs::write(&config, "version: 1 # new").unwrap();
        let mut watch = Watch::new(seen);
        tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.unwrap();
    }
}
