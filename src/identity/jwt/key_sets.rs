//! All key sets that are open, and the tasks that keep them fresh. Both outlive a reload.
//!
//! A source with the same settings is one set, however many providers and snapshots name it. Its task ends with the last
//! of them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use aws_lc_rs::rand;
use http::Uri;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::base::clock::Clock;
use crate::base::pem::{self, PemError};
use crate::config::model::KeySetSource;
use crate::fetch::{FetchError, Fetcher, TrustError};
use crate::identity::discovery::{self, DiscoveryFault, Metadata};
use crate::identity::jwt::jwk::{DOCUMENT_BYTES_MAX, KeySetFault, Keys, Origin};
use crate::identity::jwt::key_set::{Fetched, KeySet, RenewError, STALE_AFTER, Status};

/// The longest wait for a key set. With the longest pause it bounds the time from an issuer's return to its new keys.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);

/// The first pause after a failed fetch; each further one is twice as long.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// The longest pause after a failed fetch, unless the refresh interval is shorter.
const RETRY_AFTER_MAX: Duration = Duration::from_millis(1_500);

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

/// What makes two configured sources the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SourceKey {
    location: Location,
    ca: Option<Vec<CertificateDer<'static>>>,
    refresh: Duration,
}

/// Where keys are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Location {
    /// At this URL.
    Keys(Uri),
    /// Where the issuer's discovery document says.
    Issuer { issuer: String, hosts: Vec<String> },
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
                self.open_url(SourceKey { location: Location::Keys(url.clone()), ca, refresh: *refresh })
            }
            KeySetSource::Discovered { issuer, hosts, ca, refresh } => {
                let ca = ca.as_deref().map(pem::certificates).transpose()?;
                let location = Location::Issuer { issuer: issuer.clone(), hosts: hosts.clone() };
                self.open_url(SourceKey { location, ca, refresh: *refresh })
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
        let set = Arc::new(KeySet::awaited(key.location.to_string()));
        let task = Task {
            set: Arc::downgrade(&set),
            wanted: set.wanted(),
            fetcher,
            location: key.location.clone(),
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
    if keys.is_empty() {
        let faults: Vec<_> =
            keys.left_out().iter().map(|(key_id, fault)| format!("`{key_id}` {fault}")).collect();
        let faults = if faults.is_empty() { "the list is empty".to_owned() } else { faults.join(", ") };
        return Err(OpenError::Empty { path, faults });
    }
    Ok(Arc::new(KeySet::fixed(path.display().to_string(), keys)))
}

/// The fetching of one set.
#[derive(Debug)]
struct Task {
    set: Weak<KeySet>,
    wanted: Arc<Notify>,
    fetcher: Fetcher,
    location: Location,
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
            let fetched = tokio::time::timeout(FETCH_TIMEOUT, self.location.fetch(&self.fetcher)).await;
            let fetched = fetched.unwrap_or_else(|_| Err(FetchError::Timeout(FETCH_TIMEOUT).into()));
            let Some(set) = self.set.upgrade() else { return };
            let stale_after = STALE_AFTER.max(self.refresh.saturating_mul(3));
            let pause = if set.settle(fetched, clock.now(), stale_after) {
                retry_after = RETRY_AFTER;
                scattered(self.refresh)
            } else {
                let pause = retry_after.min(self.refresh);
                retry_after = retry_after.saturating_mul(2).min(RETRY_AFTER_MAX);
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

impl Location {
    async fn fetch(&self, fetcher: &Fetcher) -> Result<Fetched, RenewError> {
        match self {
            Self::Keys(url) => {
                Ok(Fetched { document: fetcher.get(url, DOCUMENT_BYTES_MAX).await?, metadata: None })
            }
            Self::Issuer { issuer, hosts } => {
                let url = discovery::document_url(issuer).ok_or(DiscoveryFault::Url("issuer"))?;
                let document = fetcher.get(&url, discovery::DOCUMENT_BYTES_MAX).await;
                let metadata = Metadata::parse(&document.map_err(RenewError::Discovery)?, issuer, hosts)?;
                let document = fetcher.get(&metadata.jwks_uri, DOCUMENT_BYTES_MAX).await?;
                Ok(Fetched { document, metadata: Some(metadata) })
            }
        }
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Keys(url) => write!(f, "{url}"),
            Self::Issuer { issuer, .. } => f.write_str(issuer),
        }
    }
}

/// Up to a tenth sooner, so that gateways started together do not ask the issuer together for ever.
fn scattered(interval: Duration) -> Duration {
    let mut byte = [0_u8];
    if rand::fill(&mut byte).is_err() {
        return interval;
    }
    let [share] = byte;
    interval.saturating_sub(interval / 2_560 * u32::from(share))
}
