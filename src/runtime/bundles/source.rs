//! One bundle's server: what was last seen of it, and how it is doing.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::base::clock::Clock;
use crate::config::model::{Name, RemoteBundle};
use crate::runtime::build_error::with_sources;
use crate::runtime::bundles::archive::{self, Archive, Origin};
use crate::runtime::bundles::key::{Key, Role};
use crate::runtime::bundles::request::{self, Client, Condition, FetchFault, Refused, Response};

/// A bundle that is fetched. Outlives reloads that leave its settings alone.
#[derive(Debug)]
pub struct Source {
    key: Key,
    settings: RemoteBundle,
    clock: Arc<dyn Clock>,
    client: Arc<Client>,
    state: Mutex<State>,
    retry: Notify,
}

#[derive(Debug)]
struct State {
    /// The last archive that was taken or refused: another one is looked at, this one is not again.
    seen: Option<Seen>,
    /// What was seen is refused.
    refused: bool,
    /// A delta did not fit or was refused, and a whole bundle is needed.
    whole_only: bool,
    /// The last answer shows that the server holds requests.
    holds_requests: bool,
    status: Status,
}

#[derive(Debug)]
struct Seen {
    etag: Option<HeaderValue>,
    /// Unknown where the archive was too large to be read.
    digest: Option<[u8; 32]>,
}

/// How a bundle is doing. Times are since the Unix epoch; OPA's names where there are any.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The last request, whatever came of it.
    pub last_request: Option<Duration>,
    /// The last request that was answered with 200 or 304.
    pub last_successful_request: Option<Duration>,
    /// The last archive that came whole.
    pub last_successful_download: Option<Duration>,
    /// The last archive that was put in force.
    pub last_successful_activation: Option<Duration>,
    /// Bytes of the archive in force.
    pub size: Option<usize>,
    /// The archive in force is the persisted one.
    pub persisted: bool,
    /// The archive in force is changed by deltas.
    pub delta: bool,
    /// Why the last request failed.
    pub unreachable: Option<Failure>,
    /// Why the archive that the server has is refused.
    pub refused: Option<Failure>,
    /// Requests by result.
    pub requests: Requests,
    /// Archives put in force.
    pub activations: u64,
    /// Archives refused.
    pub refusals: u64,
}

/// Requests by result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// An archive came.
    pub downloaded: u64,
    /// 304.
    pub not_modified: u64,
    /// Anything else.
    pub failed: u64,
}

/// Why a bundle is not up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In one sentence.
    pub message: String,
    /// The server's status, where that is what was wrong.
    pub http_code: Option<u16>,
    /// Each fault of the bundle.
    pub errors: Vec<String>,
}

/// Whether an archive is wanted that is here already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    /// Only another one than was seen.
    ForChange,
    /// Whatever the server has.
    Anew,
}

// === impl Source ===

impl Source {
    /// A source that was not asked yet.
    pub(super) fn new(key: Key, settings: RemoteBundle, clock: Arc<dyn Clock>) -> Self {
        let state = State {
            seen: None,
            refused: false,
            whole_only: false,
            holds_requests: false,
            status: Status::default(),
        };
        let client = Arc::default();
        Self { key, settings, clock, client, state: Mutex::new(state), retry: Notify::new() }
    }

    /// What it is for.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The policy that it is for.
    pub fn policy(&self) -> &Name {
        &self.key.policy
    }

    /// `shadow=true` in the log, where it is a candidate's.
    pub(super) fn shadow_mark(&self) -> Option<bool> {
        (self.key.role == Role::Candidate).then_some(true)
    }

    /// Where and how it is fetched.
    pub fn settings(&self) -> &RemoteBundle {
        &self.settings
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        self.state().status.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the server. `None`: there is nothing that was not seen.
    ///
    /// # Cancel safety
    /// May be dropped at any time: an archive counts as seen only when it is taken or refused.
    pub(super) async fn fetch(&self, asking: Asking) -> Result<Option<Archive>, FetchFault> {
        let condition = self.begin(asking);
        let (wait, began) = (condition.wait, Instant::now());
        let changes = condition.etag.clone().filter(|_| condition.delta);
        let response = request::send(&self.settings, &self.client, condition).await;
        let held = wait.is_some_and(|wait| began.elapsed() >= wait / 2);
        let mut archive = self.end(asking, response, held)?;
        if let Some(archive) = &mut archive {
            archive.changes = changes;
        }
        Ok(archive)
    }

    fn begin(&self, asking: Asking) -> Condition {
        let mut state = self.state();
        state.status.last_request = Some(self.clock.now());
        match asking {
            Asking::ForChange => Condition {
                etag: state.seen.as_ref().and_then(|seen| seen.etag.clone()),
                // A delta is to what is in force, never to what was refused.
                delta: self.settings.deltas && !state.refused && !state.whole_only,
                wait: self.settings.polling.long_polling_timeout,
            },
            Asking::Anew => Condition::default(),
        }
    }

    fn end(
        &self,
        asking: Asking,
        response: Result<Response, Refused>,
        held: bool,
    ) -> Result<Option<Archive>, FetchFault> {
        let now = self.clock.now();
        let mut state = self.state();
        let Response { archive, etag, holds_requests } = match response {
            Ok(response) => response,
            Err(Refused { fault, etag }) => {
                state.failed(&fault, etag);
                return Err(fault);
            }
        };
        let status = &mut state.status;
        status.last_successful_request = Some(now);
        status.unreachable = None;
        let Some(bytes) = archive else {
            status.requests.not_modified += 1;
            // Such an answer need not have a content type.
            state.holds_requests = held;
            return Ok(None);
        };
        status.requests.downloaded += 1;
        status.last_successful_download = Some(now);
        state.holds_requests = holds_requests;
        let mut archive = Archive::new(bytes, &self.settings.shown, Origin::Server);
        archive.etag.clone_from(&etag);
        let known = state.seen.as_mut().filter(|seen| seen.digest == Some(archive.digest));
        match (asking, known) {
            (Asking::ForChange, Some(seen)) => {
                seen.etag = etag;
                Ok(None)
            }
            (Asking::ForChange, None) | (Asking::Anew, _) => Ok(Some(archive)),
        }
    }

    /// Whether the server may be asked to hold the next request.
    pub(super) fn holds_requests(&self) -> bool {
        self.settings.polling.long_polling_timeout.is_some() && self.state().holds_requests
    }

    /// Whether the last request failed.
    pub(super) fn is_unreachable(&self) -> bool {
        self.state().status.unreachable.is_some()
    }

    /// Whether the server was asked yet.
    pub(super) fn was_asked(&self) -> bool {
        self.state().status.last_request.is_some()
    }

    /// Whether `archive` is the last one that was taken or refused.
    pub(super) fn has_seen(&self, archive: &Archive) -> bool {
        self.state().seen.as_ref().is_some_and(|seen| seen.digest == Some(archive.digest))
    }

    /// Notes that the snapshot in force is built of `archive`, and that it need not be looked at again.
    pub(in crate::runtime) fn adopted(&self, archive: &Archive) {
        let mut state = self.state();
        state.seen = Some(Seen::of(archive));
        state.refused = false;
        state.whole_only = false;
        state.status.refused = None;
        state.status.describe(archive);
    }

    /// Notes that a rollback has put `archive` in force. A policy goes on with that until its server has another; a candidate
    /// is no part of what was to be undone, and is fetched anew.
    pub(super) fn rolled_back_to(&self, archive: Option<&Archive>) {
        let seen = archive.is_some_and(|archive| self.has_seen(archive));
        if self.key.role == Role::Candidate && !seen {
            self.want_whole();
        }
    }

    /// Has the whole bundle fetched at once, as a delta is of no use.
    pub(in crate::runtime) fn want_whole(&self) {
        let mut state = self.state();
        state.seen = None;
        state.refused = false;
        state.whole_only = true;
        self.retry.notify_one();
    }

    /// Notes that `archive` was put in force, and keeps it where that is wanted. Writes to the disk.
    pub(in crate::runtime) fn activated(&self, archive: &Archive) {
        self.adopted(archive);
        self.state().status.activated(self.clock.now());
        let Some(path) = self.persisted_path().filter(|_| archive.is_to_be_kept()) else { return };
        if let Err(error) = archive::persist(&path, archive) {
            tracing::warn!(policy.id = %self.key.policy, path = %path.display(), %error, "Bundle not persisted");
        }
    }

    /// Notes that `archive` was put in force in place of one that is refused.
    pub(in crate::runtime) fn fell_back(&self, archive: &Archive) {
        let mut state = self.state();
        state.status.describe(archive);
        state.status.activated(self.clock.now());
    }

    /// Notes that `archive` was refused: it is not tried again.
    pub(in crate::runtime) fn refused(&self, archive: &Archive, errors: Vec<String>) {
        let mut state = self.state();
        if archive.origin == Origin::Server {
            state.seen = Some(Seen::of(archive));
            state.refused = true;
        }
        state.status.refusals += 1;
        let message = format!("the bundle in `{}` is refused", archive.shown);
        state.status.refused = Some(Failure { message, http_code: None, errors });
    }

    /// Has the refused archive fetched and tried again: what was wrong may not have been the bundle.
    pub(super) fn retry_refused(&self) {
        let mut state = self.state();
        if state.refused {
            state.refused = false;
            state.seen = None;
            self.retry.notify_one();
        }
    }

    /// Waits until the refused archive is to be tried again.
    pub(super) async fn retry_wanted(&self) {
        self.retry.notified().await;
    }

    fn persisted_path(&self) -> Option<PathBuf> {
        self.settings.persist.as_deref().map(|directory| directory.join(self.key.persisted_path()))
    }

    /// The archive that was kept, if there is one.
    pub(in crate::runtime) fn persisted(&self) -> Result<Option<Archive>, FetchFault> {
        let Some(path) = self.persisted_path() else { return Ok(None) };
        archive::read_persisted(&path, self.settings.size_limit.bytes())
            .map_err(|source| FetchFault::Persisted { file: path, source })
    }
}

// === impl Status ===

impl Status {
    fn describe(&mut self, archive: &Archive) {
        self.size = Some(archive.len());
        self.delta = !archive.deltas.is_empty();
        self.persisted = archive.origin == Origin::Persisted;
    }

    fn activated(&mut self, now: Duration) {
        self.activations += 1;
        self.last_successful_activation = Some(now);
    }
}

// === impl State ===

impl State {
    fn failed(&mut self, fault: &FetchFault, etag: Option<HeaderValue>) {
        let failure = Failure {
            message: with_sources(fault),
            http_code: fault.http_code().map(|code| code.as_u16()),
            errors: Vec::new(),
        };
        self.status.requests.failed += 1;
        // The server answers well, but what it has cannot be taken; with an `ETag` it need not be asked for it again.
        if etag.is_some() {
            self.seen = Some(Seen { etag, digest: None });
            self.refused = true;
            self.status.refusals += 1;
            self.status.unreachable = None;
            self.status.refused = Some(failure);
        } else {
            self.status.unreachable = Some(failure);
        }
    }
}

impl Seen {
    fn of(archive: &Archive) -> Self {
        Self { etag: archive.etag.clone(), digest: Some(archive.digest) }
    }
}
