//! Every metric: its name, its labels, and who counts it.
//!
//! Each worker counts in its own shard through [`WorkerMetrics`]; what happens seldom (reloads, log sinks) is counted in
//! [`Metrics`] itself. Names (APIs, listeners, policies, upstreams) are registered when a configuration is built and are
//! small integers from then on; they keep their number over reloads.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::telemetry::shard::{Count, Histogram, ROWS_MAX, Rows};

/// Outcomes a request can have at most.
const OUTCOMES_MAX: usize = 8;
/// Status classes: none (the client was gone), 1xx to 5xx.
pub(super) const STATUS_CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
/// Columns of a request row.
pub(super) const REQUEST_COLUMNS: usize = OUTCOMES_MAX * STATUS_CLASSES.len();
/// The name that stands for all names beyond the table.
const OVERFLOW: &str = "other";

/// Declares a label: an enum whose variants are its only values.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// All values, in the order of their columns.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The label's text.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

label! {
    /// How an evaluation of a policy ended.
    DecisionKind {
        /// It allowed.
        Allow => "allow",
        /// It denied.
        Deny => "deny",
        /// It failed: undefined, a wrong result, an evaluation error.
        Error => "error",
        /// It took longer than its budget.
        Budget => "budget",
        /// The evaluator panicked.
        Panic => "panic",
        /// It failed, and the request was let through because of `on_error: allow`.
        FailOpen => "fail_open",
    }
}

label! {
    /// What came of a policy's questions to the world outside.
    OutsideKind {
        /// A request was sent by `http.send`.
        Sent => "sent",
        /// A kept answer made a request needless.
        Cached => "cached",
        /// A name was looked up.
        LookedUp => "looked_up",
        /// A request or a lookup had no answer.
        Failed => "failed",
    }
}

label! {
    /// A part of a request's time.
    Stage {
        /// Resolving the identity.
        Identity => "identity",
        /// Evaluating policy.
        Policy => "policy",
        /// Waiting for what policies ask outside.
        Outside => "outside",
        /// Waiting for the upstream's head.
        Upstream => "upstream",
        /// From the head's first byte to the response's end.
        Total => "total",
    }
}

label! {
    /// Why a connection was closed at once.
    ConnectionRefusal {
        /// As many are open as the listener allows.
        Limit => "limit",
        /// The peer is not in `allow_from`.
        Source => "source",
        /// The gateway is stopping.
        Draining => "draining",
    }
}

label! {
    /// How one request to an upstream ended.
    UpstreamOutcome {
        /// An informational answer as the last one (101).
        Informational => "1xx",
        /// A 2xx answer.
        Success => "2xx",
        /// A 3xx answer.
        Redirect => "3xx",
        /// A 4xx answer.
        ClientError => "4xx",
        /// A 5xx answer.
        ServerError => "5xx",
        /// No connection: refused, unreachable, TLS failed, no healthy endpoint.
        ConnectFailed => "connect_failed",
        /// No answer in time.
        Timeout => "timeout",
        /// The connection broke before the answer's head.
        Broken => "broken",
        /// The client was gone before the answer.
        Canceled => "canceled",
    }
}

impl UpstreamOutcome {
    /// The class of an answer's status.
    pub const fn of_status(status: u16) -> Self {
        match status {
            0..200 => Self::Informational,
            200..300 => Self::Success,
            300..400 => Self::Redirect,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }
}

/// Columns of a decision row.
pub(super) const DECISION_COLUMNS: usize = DecisionKind::ALL.len();
/// Columns of a row of questions to the world outside.
pub(super) const OUTSIDE_COLUMNS: usize = OutsideKind::ALL.len();
/// Columns of an upstream row: outcomes, then retries.
pub(super) const UPSTREAM_COLUMNS: usize = UpstreamOutcome::ALL.len() + 1;
/// Column of retries in an upstream row.
pub(super) const RETRIES: usize = UpstreamOutcome::ALL.len();
/// Columns of a listener row: refusals, then the ones below.
pub(super) const LISTENER_COLUMNS: usize = ConnectionRefusal::ALL.len() + 4;
/// Column of accepted connections.
pub(super) const ACCEPTED: usize = ConnectionRefusal::ALL.len();
/// Column of closed connections.
pub(super) const CLOSED: usize = ACCEPTED + 1;
/// Column of completed TLS handshakes.
pub(super) const HANDSHAKES_OK: usize = ACCEPTED + 2;
/// Column of failed TLS handshakes.
pub(super) const HANDSHAKES_FAILED: usize = ACCEPTED + 3;

/// Label values that the rows above own: words of the public documents and of refusals.
#[derive(Debug, Clone, Copy)]
pub struct Vocabulary {
    /// Outcomes of a request, at most 8; a request is counted by its place in this list.
    pub outcomes: &'static [&'static str],
    /// Reasons of the gateway's own refusals; counted by place too.
    pub reasons: &'static [&'static str],
}

/// The requests of one API on one listener, as a small integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestSeries(usize);

/// A listener, as a small integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerId(usize);

/// A policy, as a small integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PolicyId(usize);

/// An upstream, as a small integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UpstreamId(usize);

/// All metrics of the process. Survives reloads.
#[derive(Debug)]
pub struct Metrics {
    pub(super) vocabulary: Vocabulary,
    names: Mutex<Names>,
    shards: Mutex<Vec<Arc<Shard>>>,
    pub(super) reloads_ok: AtomicU64,
    pub(super) reloads_failed: AtomicU64,
    pub(super) task_panics: AtomicU64,
}

/// Registered names; a name's place is its row.
#[derive(Debug, Default, Clone)]
pub(super) struct Names {
    pub(super) series: Vec<(Arc<str>, Option<Arc<str>>)>,
    pub(super) listeners: Vec<Arc<str>>,
    pub(super) policies: Vec<Arc<str>>,
    pub(super) upstreams: Vec<Arc<str>>,
    pub(super) sinks: Vec<Arc<SinkMetrics>>,
    /// Revision of the configuration in force.
    pub(super) config_revision: Option<Arc<str>>,
    /// Policies in force and their bundles' revisions.
    pub(super) policy_revisions: Vec<(Arc<str>, Arc<str>)>,
}

/// One worker's counters.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) requests: Rows<REQUEST_COLUMNS>,
    pub(super) decisions: Rows<DECISION_COLUMNS>,
    pub(super) outside: Rows<OUTSIDE_COLUMNS>,
    pub(super) listeners: Rows<LISTENER_COLUMNS>,
    pub(super) upstreams: Rows<UPSTREAM_COLUMNS>,
    pub(super) refusals: Box<[Count]>,
    pub(super) stages: [Histogram; Stage::ALL.len()],
}

/// A worker's way to count. It counts without locked instructions, which is right only while one thread owns it:
/// it can be moved to a worker but neither cloned nor shared between threads.
#[derive(Debug)]
pub struct WorkerMetrics {
    shard: Arc<Shard>,
    single_writer: PhantomData<Cell<()>>,
}

/// Counters of one decision log sink, written by its own thread and by whoever finds its queue full.
#[derive(Debug)]
pub struct SinkMetrics {
    name: Arc<str>,
    written: AtomicU64,
    dropped: AtomicU64,
}

// === impl Metrics ===

impl Metrics {
    /// No counts yet. Outcomes beyond the eighth would not be counted.
    pub fn new(vocabulary: Vocabulary) -> Self {
        debug_assert!(
            vocabulary.outcomes.len() <= OUTCOMES_MAX,
            "a request row has no column for more outcomes"
        );
        Self {
            vocabulary,
            names: Mutex::default(),
            shards: Mutex::default(),
            reloads_ok: AtomicU64::new(0),
            reloads_failed: AtomicU64::new(0),
            task_panics: AtomicU64::new(0),
        }
    }

    /// A new shard, for one worker.
    pub fn worker(&self) -> WorkerMetrics {
        let shard = Arc::new(Shard {
            requests: Rows::default(),
            decisions: Rows::default(),
            outside: Rows::default(),
            listeners: Rows::default(),
            upstreams: Rows::default(),
            refusals: self.vocabulary.reasons.iter().map(|_| Count::default()).collect(),
            stages: std::array::from_fn(|_| Histogram::default()),
        });
        lock(&self.shards).push(Arc::clone(&shard));
        WorkerMetrics { shard, single_writer: PhantomData }
    }

    /// The number of requests to `api` on `listener`; `None` is a request that matched no API.
    pub fn series(&self, listener: &str, api: Option<&str>) -> RequestSeries {
        let series = &mut lock(&self.names).series;
        let known = series.iter().position(|(known, of)| &**known == listener && of.as_deref() == api);
        let overflow = || (Arc::from(OVERFLOW), Some(Arc::from(OVERFLOW)));
        RequestSeries(
            known.unwrap_or_else(|| register(series, (listener.into(), api.map(Arc::from)), overflow)),
        )
    }

    /// The number of `listener`.
    pub fn listener(&self, name: &str) -> ListenerId {
        ListenerId(number(&mut lock(&self.names).listeners, name))
    }

    /// The number of the policy `name`.
    pub fn policy(&self, name: &str) -> PolicyId {
        PolicyId(number(&mut lock(&self.names).policies, name))
    }

    /// The number of the upstream `name`.
    pub fn upstream(&self, name: &str) -> UpstreamId {
        UpstreamId(number(&mut lock(&self.names).upstreams, name))
    }

    /// The counters of the decision log sink `name`; the same ones for the same name.
    pub fn sink(&self, name: &str) -> Arc<SinkMetrics> {
        let sinks = &mut lock(&self.names).sinks;
        if let Some(known) = sinks.iter().find(|sink| &*sink.name == name) {
            return Arc::clone(known);
        }
        let sink = Arc::new(SinkMetrics {
            name: name.into(),
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        sinks.push(Arc::clone(&sink));
        sink
    }

    /// Counts a reload that was put in force, and what is in force since: the configuration's revision, and each policy
    /// with its bundle's revision.
    pub fn reloaded<'a>(&self, revision: &str, policies: impl IntoIterator<Item = (&'a str, &'a str)>) {
        self.reloads_ok.fetch_add(1, Ordering::Relaxed);
        let mut names = lock(&self.names);
        names.config_revision = Some(revision.into());
        names.policy_revisions =
            policies.into_iter().map(|(policy, revision)| (policy.into(), revision.into())).collect();
    }

    /// Counts a reload that was refused.
    pub fn reload_failed(&self) {
        self.reloads_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a task or thread that panicked.
    pub fn task_panicked(&self) {
        self.task_panics.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn names(&self) -> Names {
        lock(&self.names).clone()
    }

    pub(super) fn shards(&self) -> Vec<Arc<Shard>> {
        lock(&self.shards).clone()
    }
}

// === impl WorkerMetrics ===

impl WorkerMetrics {
    /// Counts a request's end; `outcome` is its place in the vocabulary, `status` is 0 when none was sent.
    pub fn request(&self, series: RequestSeries, outcome: usize, status: u16) {
        let class = usize::from(status / 100).min(STATUS_CLASSES.len() - 1);
        if outcome < OUTCOMES_MAX {
            self.shard.requests.count(series.0, outcome * STATUS_CLASSES.len() + class);
        }
    }

    /// Counts an evaluation.
    pub fn decision(&self, policy: PolicyId, kind: DecisionKind) {
        self.shard.decisions.count(policy.0, kind as usize);
    }

    /// Counts what a policy has asked outside.
    pub fn outside(&self, policy: PolicyId, kind: OutsideKind) {
        self.shard.outside.count(policy.0, kind as usize);
    }

    /// Counts a refusal of the gateway's own; `reason` is its place in the vocabulary.
    pub fn refusal(&self, reason: usize) {
        if let Some(count) = self.shard.refusals.get(reason) {
            count.add(1);
        }
    }

    /// Counts the time a stage took.
    pub fn stage(&self, stage: Stage, micros: u64) {
        if let Some(histogram) = self.shard.stages.get(stage as usize) {
            histogram.observe(micros);
        }
    }

    /// Counts a connection that was accepted.
    pub fn connection_opened(&self, listener: ListenerId) {
        self.shard.listeners.count(listener.0, ACCEPTED);
    }

    /// Counts the end of a connection that was accepted.
    pub fn connection_closed(&self, listener: ListenerId) {
        self.shard.listeners.count(listener.0, CLOSED);
    }

    /// Counts a connection that was closed at once.
    pub fn connection_refused(&self, listener: ListenerId, reason: ConnectionRefusal) {
        self.shard.listeners.count(listener.0, reason as usize);
    }

    /// Counts a TLS handshake that completed.
    pub fn handshake_completed(&self, listener: ListenerId) {
        self.shard.listeners.count(listener.0, HANDSHAKES_OK);
    }

    /// Counts a TLS handshake that failed or took too long.
    pub fn handshake_failed(&self, listener: ListenerId) {
        self.shard.listeners.count(listener.0, HANDSHAKES_FAILED);
    }

    /// Counts a request to an upstream, each try for itself.
    pub fn upstream_request(&self, upstream: UpstreamId, outcome: UpstreamOutcome) {
        self.shard.upstreams.count(upstream.0, outcome as usize);
    }

    /// Counts a try after the first.
    pub fn upstream_retry(&self, upstream: UpstreamId) {
        self.shard.upstreams.count(upstream.0, RETRIES);
    }
}

// === impl SinkMetrics ===

impl SinkMetrics {
    /// The sink's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts records that reached their destination.
    pub fn wrote(&self, records: u64) {
        self.written.fetch_add(records, Ordering::Relaxed);
    }

    /// Counts records that were lost.
    pub fn lost(&self, records: u64) {
        self.dropped.fetch_add(records, Ordering::Relaxed);
    }

    /// Records written.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Records lost.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn number(names: &mut Vec<Arc<str>>, name: &str) -> usize {
    let known = names.iter().position(|known| &**known == name);
    known.unwrap_or_else(|| register(names, name.into(), || OVERFLOW.into()))
}

/// Appends `name`; the last row takes all that come too late, under one common name.
fn register<T>(names: &mut Vec<T>, name: T, overflow: impl FnOnce() -> T) -> usize {
    match names.len() {
        len if len < ROWS_MAX - 1 => names.push(name),
        len if len < ROWS_MAX => names.push(overflow()),
        _ => {}
    }
    names.len() - 1
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
