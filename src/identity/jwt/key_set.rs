//! Key sets that outlive a reload, and the task that keeps them fresh.
//!
//! One task fetches one set, so there is never more than one fetch of it at a time. Requests read the last good keys
//! and never fetch: a token with an unknown key only *asks* for a fetch, at most once in [`DEMAND_INTERVAL`], and may
//! wait for its end. A set that cannot be renewed stays in use until [`STALE_AFTER`]; then it is dropped, because keys
//! withdrawn meanwhile must not be trusted for ever.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use bytes::Bytes;
use http::Uri;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::base::clock::Clock;
use crate::base::pem::{self, PemError};
use crate::config::model::KeySetSource;
use crate::fetch::{FetchError, Fetcher, TrustError};
use crate::identity::digest::{Sha256, sha256};
use crate::identity::jwt::jwk::{DOCUMENT_BYTES_MAX, KeySetFault, Keys, Origin};

/// Between two fetches that tokens with unknown keys ask for, whatever keys they name.
pub const DEMAND_INTERVAL: Duration = Duration::from_secs(30);

/// How long keys are used that could not be renewed, unless three refresh intervals are longer.
pub const STALE_AFTER: Duration = Duration::from_hours(24);

/// Requests that may wait for one key set at a time; further ones are answered at once.
const WAITERS_MAX: usize = 256;

/// The longest that a request waits for a fetch.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// The first pause after a failed fetch; it doubles up to the refresh interval.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Key sets that may be opened before the refresher takes them up.
const OPENED_MAX: usize = 1024;

/// Why a key set cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file could not be read.
    #[error("cannot read the key set `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a usable key set.
    #[error("`{path}` cannot be used")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeySetFault,
    },
    /// The file has no usable key.
    #[error("`{path}` holds no usable key: {faults}")]
    Empty {
        /// The file.
        path: PathBuf,
        /// What is wrong with each.
        faults: String,
    },
    /// The `ca` file could not be read.
    #[error(transparent)]
    Ca(#[from] PemError),
    /// No TLS client can be made.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The refresher has stopped, or too many sets were opened at once.
    #[error("key sets are not refreshed any more, or there are more than {OPENED_MAX} new ones")]
    NotRefreshed,
}

/// Why a set could not be renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// It could not be fetched.
    #[error("cannot fetch the key set")]
    Fetch(#[from] FetchError),
    /// What was fetched is not a key set.
    #[error("the fetched key set cannot be used")]
    Unusable(#[from] KeySetFault),
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
    fn new(source: String, pending: bool) -> Self {
        Self {
            source,
            keys: ArcSwapOption::empty(),
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

    /// Asks for newer keys because a token names one that is not there. `None` if there is no point in waiting: the
    /// last demand was too recent, or too many wait already.
    pub(super) fn demand(self: &Arc<Self>, now: Duration) -> Option<impl Future<Output = ()> + use<>> {
        let permit = Arc::clone(&self.waiters).try_acquire_owned().ok()?;
        let mut attempts = self.attempts.subscribe();
        {
            let mut renewal = self.renewal();
            if !renewal.pending {
                // A clock that was set back must not forbid demands for as long.
                let recent = |at: Duration| now.checked_sub(at).is_some_and(|ago| ago < DEMAND_INTERVAL);
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

    /// Takes a fetched document, or keeps the last good one.
    fn settle(&self, fetched: Result<Bytes, FetchError>, now: Duration, stale_after: Duration) -> bool {
        let parsed = fetched.map_err(RenewError::Fetch).and_then(|document| {
            Ok((sha256(&document), Keys::parse(&document, Origin::Network).map_err(RenewError::Unusable)?))
        });
        let mut renewal = self.renewal();
        let renewed = match parsed {
            Ok((document, keys)) => {
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

/// What makes two configured sources the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SourceKey {
    url: Uri,
    ca: Option<Vec<CertificateDer<'static>>>,
    refresh: Duration,
}

/// All key sets that are open. Survives reloads.
#[derive(Debug)]
pub struct KeySets {
    open: Mutex<HashMap<SourceKey, Weak<KeySet>>>,
    system_trust: Mutex<Option<Fetcher>>,
    opened: mpsc::Sender<Task>,
}

/// Fetches the key sets: run [`Refresher::run`] on the control runtime.
#[derive(Debug)]
pub struct Refresher {
    opened: mpsc::Receiver<Task>,
    clock: Arc<dyn Clock>,
}

impl KeySets {
    /// No set yet, and what will fetch them.
    pub fn new(clock: Arc<dyn Clock>) -> (Self, Refresher) {
        let (opened, receiver) = mpsc::channel(OPENED_MAX);
        let sets = Self { open: Mutex::default(), system_trust: Mutex::default(), opened };
        (sets, Refresher { opened: receiver, clock })
    }

    /// The key set of a source. A file is read now; a URL is fetched in the background, and one that is open already,
    /// with the same settings, is shared with its keys.
    pub fn open(&self, source: &KeySetSource) -> Result<Arc<KeySet>, OpenError> {
        match source {
            KeySetSource::File(path) => open_file(path.clone()),
            KeySetSource::Url { url, ca, refresh } => {
                let ca = ca.as_deref().map(pem::certificates).transpose()?;
                self.open_url(SourceKey { url: url.clone(), ca, refresh: *refresh })
            }
        }
    }

    /// How each open set that is fetched is doing.
    pub fn statuses(&self) -> Vec<Status> {
        self.sets().iter().map(|set| set.status()).collect()
    }

    /// Waits until each open set has been fetched once, well or not; at most `patience`.
    pub async fn attempted(&self, patience: Duration) {
        let all = async {
            for set in self.sets() {
                set.attempted(1).await;
            }
        };
        // Late sets are fetched all the same; until then their tokens are answered 503.
        drop(tokio::time::timeout(patience, all).await);
    }

    fn sets(&self) -> Vec<Arc<KeySet>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.values().filter_map(Weak::upgrade).collect()
    }

    fn open_url(&self, key: SourceKey) -> Result<Arc<KeySet>, OpenError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, set| set.strong_count() > 0);
        if let Some(set) = open.get(&key).and_then(Weak::upgrade) {
            return Ok(set);
        }
        let fetcher = match &key.ca {
            Some(issuers) => Fetcher::trusting_only(issuers.clone())?,
            None => self.trusting_system()?,
        };
        let set = Arc::new(KeySet::new(key.url.to_string(), true));
        let task = Task {
            set: Arc::downgrade(&set),
            wanted: Arc::clone(&set.wanted),
            fetcher,
            url: key.url.clone(),
            refresh: key.refresh,
        };
        self.opened.try_send(task).map_err(|_| OpenError::NotRefreshed)?;
        open.insert(key, Arc::downgrade(&set));
        Ok(set)
    }

    /// Reading the system's certificates takes tens of milliseconds, so it is done once.
    fn trusting_system(&self) -> Result<Fetcher, TrustError> {
        let mut trust = self.system_trust.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fetcher) = &*trust {
            return Ok(fetcher.clone());
        }
        let fetcher = Fetcher::trusting_system()?;
        *trust = Some(fetcher.clone());
        Ok(fetcher)
    }
}

fn open_file(path: PathBuf) -> Result<Arc<KeySet>, OpenError> {
    let document = match std::fs::read(&path) {
        Ok(document) => document,
        Err(source) => return Err(OpenError::Read { path, source }),
    };
    let keys = match Keys::parse(&document, Origin::File) {
        Ok(keys) => keys,
        Err(source) => return Err(OpenError::Unusable { path, source }),
    };
    let set = KeySet::new(path.display().to_string(), false);
    if keys.is_empty() {
        let faults: Vec<_> =
            keys.left_out().iter().map(|(key_id, fault)| format!("`{key_id}` {fault}")).collect();
        let faults = if faults.is_empty() { "the list is empty".to_owned() } else { faults.join(", ") };
        return Err(OpenError::Empty { path, faults });
    }
    report(&set.source, &keys);
    set.install(Some(keys));
    set.attempts.send_modify(|attempts| *attempts += 1);
    // A file is not fetched again before a reload, so there is nothing to wait for.
    set.waiters.close();
    Ok(Arc::new(set))
}

/// The fetching of one set.
#[derive(Debug)]
struct Task {
    set: Weak<KeySet>,
    wanted: Arc<Notify>,
    fetcher: Fetcher,
    url: Uri,
    refresh: Duration,
}

impl Refresher {
    /// Keeps all key sets fresh until [`KeySets`] is dropped.
    pub async fn run(mut self) {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                opened = self.opened.recv() => match opened {
                    Some(task) => { tasks.spawn(task.run(Arc::clone(&self.clock))); }
                    None => return,
                },
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "Key set refresh ended by a panic");
                    }
                }
            }
        }
    }
}

impl Task {
    async fn run(self, clock: Arc<dyn Clock>) {
        let mut retry_after = RETRY_AFTER;
        loop {
            let fetched = self.fetcher.get(&self.url, DOCUMENT_BYTES_MAX).await;
            let Some(set) = self.set.upgrade() else { return };
            let stale_after = STALE_AFTER.max(self.refresh.saturating_mul(3));
            let pause = if set.settle(fetched, clock.now(), stale_after) {
                retry_after = RETRY_AFTER;
                self.refresh
            } else {
                let pause = retry_after.min(self.refresh);
                retry_after = retry_after.saturating_mul(2);
                pause
            };
            drop(set);
            // Ends early when keys are demanded, or when the set is no longer used.
            drop(tokio::time::timeout(pause, self.wanted.notified()).await);
            if self.set.strong_count() == 0 {
                return;
            }
        }
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
