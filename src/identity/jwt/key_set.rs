//! One key set: its last good keys, and what may replace them.
//!
//! Requests read the keys and never fetch. A token with an unknown key only *asks* for a fetch, at most once in
//! [`DEMAND_INTERVAL`], and may wait for its end; [`super::key_sets`] has the one task that fetches the set, so there is
//! never more than one fetch of it at a time. A set that cannot be renewed stays in use until [`STALE_AFTER`]; then it
//! is dropped, because keys withdrawn meanwhile must not be trusted for ever.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, watch};

use crate::fetch::FetchError;
use crate::identity::digest::{Sha256, sha256};
use crate::identity::discovery::{DiscoveryFault, Metadata};
use crate::identity::jwt::jwk::{KeySetFault, Keys, Origin};

/// Between two fetches that tokens with unknown keys ask for, whatever keys they name.
pub const DEMAND_INTERVAL: Duration = Duration::from_secs(30);

/// The same where there are no keys yet, so that an issuer that comes up late is used soon.
const FIRST_DEMAND_INTERVAL: Duration = Duration::from_secs(2);

/// How long keys are used that could not be renewed, unless three refresh intervals are longer.
pub const STALE_AFTER: Duration = Duration::from_hours(24);

/// Requests that may wait for one key set at a time; further ones are answered at once.
const WAITERS_MAX: usize = 256;

/// The longest that a request waits for a fetch.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// Why a set could not be renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// It could not be fetched.
    #[error("cannot fetch the key set")]
    Fetch(#[from] FetchError),
    /// The issuer's discovery document could not be fetched.
    #[error("cannot fetch the discovery document")]
    Discovery(#[source] FetchError),
    /// The issuer's discovery document is refused.
    #[error("the discovery document is refused")]
    Refused(#[from] DiscoveryFault),
    /// What was fetched is not a key set.
    #[error("the fetched key set cannot be used")]
    Unusable(#[from] KeySetFault),
}

/// What was fetched for a key set.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) document: Bytes,
    /// What the issuer says of itself, where it was asked.
    pub(super) metadata: Option<Metadata>,
}

/// How a key set is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Where it comes from.
    pub source: String,
    /// Keys are there to be used.
    pub loaded: bool,
    /// When the keys were last confirmed, since the Unix epoch.
    pub renewed_at: Option<Duration>,
    /// Why the last fetch failed; `None` if it did not.
    pub last_error: Option<String>,
    /// Fetches tried so far.
    pub attempts: u64,
}

/// One key set, shared by all providers and snapshots that name it.
#[derive(Debug)]
pub struct KeySet {
    source: String,
    keys: ArcSwapOption<Keys>,
    metadata: ArcSwapOption<Metadata>,
    /// Changes with the keys, after them: see [`KeySet::revision`].
    revision: AtomicU64,
    renewal: Mutex<Renewal>,
    wanted: Arc<Notify>,
    attempts: watch::Sender<u64>,
    waiters: Arc<Semaphore>,
}

/// What is known about the renewals of a set.
#[derive(Debug, Default)]
struct Renewal {
    /// A fetch is under way or ordered.
    pending: bool,
    demanded_at: Option<Duration>,
    renewed_at: Option<Duration>,
    document: Option<Sha256>,
    last_error: Option<String>,
}

impl KeySet {
    /// A set whose first fetch is under way.
    pub(super) fn awaited(source: String) -> Self {
        Self::new(source, true)
    }

    /// A set that is never fetched, so that there is never anything to wait for.
    pub(super) fn fixed(source: String, keys: Keys) -> Self {
        let set = Self::new(source, false);
        report(&set.source, &keys);
        set.install(Some(keys));
        set.attempts.send_modify(|attempts| *attempts += 1);
        set.waiters.close();
        set
    }

    fn new(source: String, pending: bool) -> Self {
        Self {
            source,
            keys: ArcSwapOption::empty(),
            metadata: ArcSwapOption::empty(),
            revision: AtomicU64::new(0),
            renewal: Mutex::new(Renewal { pending, ..Renewal::default() }),
            wanted: Arc::new(Notify::new()),
            attempts: watch::Sender::new(0),
            waiters: Arc::new(Semaphore::new(WAITERS_MAX)),
        }
    }

    /// The last good keys; none before the first fetch, or when they have gone stale.
    pub fn keys(&self) -> Guard<Option<Arc<Keys>>> {
        self.keys.load()
    }

    /// What the issuer says of itself, where its discovery document leads to the keys; as old as they are.
    pub fn metadata(&self) -> Option<Arc<Metadata>> {
        self.metadata.load_full()
    }

    /// Changes whenever the keys do. What was proven with other keys must be proven again.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        let renewal = self.renewal();
        Status {
            source: self.source.clone(),
            loaded: self.keys.load().is_some(),
            renewed_at: renewal.renewed_at,
            last_error: renewal.last_error.clone(),
            attempts: *self.attempts.borrow(),
        }
    }

    /// Orders a fetch now, whatever was fetched when.
    pub fn refresh(&self) {
        self.renewal().pending = true;
        self.wanted.notify_one();
    }

    /// Waits until so many fetches have ended, well or not.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn attempted(&self, times: u64) {
        let mut attempts = self.attempts.subscribe();
        // An error would mean that the set is gone, which holds the sender.
        drop(attempts.wait_for(|attempts| *attempts >= times).await);
    }

    /// Notified when a fetch is wanted before its time, and when the set is gone.
    pub(super) fn wanted(&self) -> Arc<Notify> {
        Arc::clone(&self.wanted)
    }

    /// Asks for newer keys because a token names one that is not there. `None` if there is no point in waiting: the
    /// last demand was too recent, or too many wait already.
    pub(in crate::identity) fn demand(
        self: &Arc<Self>,
        now: Duration,
    ) -> Option<impl Future<Output = ()> + use<>> {
        let permit = Arc::clone(&self.waiters).try_acquire_owned().ok()?;
        let mut attempts = self.attempts.subscribe();
        {
            let mut renewal = self.renewal();
            if !renewal.pending {
                // A clock that was set back must not forbid demands for as long.
                let interval =
                    if self.keys.load().is_some() { DEMAND_INTERVAL } else { FIRST_DEMAND_INTERVAL };
                let recent = |at: Duration| now.checked_sub(at).is_some_and(|ago| ago < interval);
                if renewal.demanded_at.is_some_and(recent) {
                    return None;
                }
                renewal.pending = true;
                renewal.demanded_at = Some(now);
                self.wanted.notify_one();
            }
            // Under the lock, so that the end of a fetch cannot slip in between.
            attempts.mark_unchanged();
        }
        let held = Arc::clone(self);
        Some(async move {
            // Both errors mean that no newer keys came, which the caller finds out by looking.
            drop(tokio::time::timeout(WAIT_MAX, attempts.changed()).await);
            drop((permit, held));
        })
    }

    /// Takes a fetched document, or keeps the last good one. Says whether the keys are fresh.
    pub(super) fn settle(
        &self,
        fetched: Result<Fetched, RenewError>,
        now: Duration,
        stale_after: Duration,
    ) -> bool {
        let parsed = fetched.and_then(|Fetched { document, metadata }| {
            let keys = Keys::parse(&document, Origin::Network).map_err(RenewError::Unusable)?;
            Ok((sha256(&document), keys, metadata))
        });
        let mut renewal = self.renewal();
        let renewed = match parsed {
            Ok((document, keys, metadata)) => {
                self.metadata.store(metadata.map(Arc::new));
                if renewal.document != Some(document) {
                    report(&self.source, &keys);
                    self.install(Some(keys));
                    renewal.document = Some(document);
                }
                renewal.renewed_at = Some(now);
                renewal.last_error = None;
                true
            }
            Err(error) => {
                let error = chain_text(&error);
                tracing::warn!(key_set = %self.source, %error, "Key set not renewed");
                let age = renewal.renewed_at.and_then(|at| now.checked_sub(at));
                if age.is_some_and(|age| age > stale_after) && self.keys.load().is_some() {
                    tracing::error!(key_set = %self.source, "Key set dropped as stale");
                    self.install(None);
                    self.metadata.store(None);
                    renewal.document = None;
                }
                renewal.last_error = Some(error);
                false
            }
        };
        renewal.pending = false;
        // Still under the lock: see `demand`.
        self.attempts.send_modify(|attempts| *attempts += 1);
        renewed
    }

    /// INVARIANT: only called by the one that fetches (or opens) the set, so revisions do not race. The revision is
    /// published last: whoever sees the new one sees the new keys, and a proof carries the revision of its own keys.
    fn install(&self, keys: Option<Keys>) {
        let revision = self.revision.load(Ordering::Relaxed) + 1;
        self.keys.store(keys.map(|keys| Arc::new(keys.at_revision(revision))));
        self.revision.store(revision, Ordering::Release);
    }

    fn renewal(&self) -> MutexGuard<'_, Renewal> {
        self.renewal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for KeySet {
    fn drop(&mut self) {
        // Wakes the task, which finds its set gone and ends.
        self.wanted.notify_one();
    }
}

fn report(source: &str, keys: &Keys) {
    for (key_id, fault) in keys.left_out() {
        tracing::warn!(key_set = %source, key_id = ?key_id, %fault, "Key left out");
    }
    if keys.is_empty() {
        tracing::warn!(key_set = %source, "Key set without a usable key: every token is refused");
    }
}

/// An error with its sources, for a log line.
fn chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
