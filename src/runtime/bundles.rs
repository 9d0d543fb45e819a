//! Bundles that are fetched from servers: who asks for them, and what the snapshots are built of.
//!
//! Fetching is done here and never by the build, which takes archives in memory. The archive that is in force is held by
//! its snapshot, so that a reload keeps it and a rollback finds it; what is held here is how each server is doing.
//!
//! No snapshot waits for a candidate's server: its bundle is put beside the policy once it is here.

pub mod archive;
pub mod key;
pub mod refresher;
pub mod request;
pub mod source;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::base::clock::Clock;
use crate::config::model::{Config, Name, Policy, RemoteBundle};
use crate::runtime::beside::candidate::Shadow;
use crate::runtime::build_error::{BuildError, BuildErrors, with_sources};
use crate::runtime::bundles::archive::{Archive, Origin};
use crate::runtime::bundles::key::{Key, Role};
use crate::runtime::bundles::refresher::{Refresher, Task};
use crate::runtime::bundles::request::FetchFault;
use crate::runtime::bundles::source::{Asking, Source, Status};
use crate::runtime::snapshot::Runtime;

/// Sources that may be opened before the refresher takes them up.
const OPENED_MAX: usize = 1024;

/// The servers that are asked for bundles. Survives reloads.
#[derive(Debug)]
pub struct Bundles {
    open: Mutex<BTreeMap<Key, Open>>,
    opened: mpsc::Sender<Task>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct Open {
    source: Arc<Source>,
    /// Ends the task when dropped.
    _alive: oneshot::Sender<()>,
}

/// The archives that a snapshot is to be built of, by policy.
#[derive(Debug, Default)]
pub struct Archives {
    chosen: BTreeMap<Name, Chosen>,
    shadows: BTreeMap<Name, Beside>,
    /// Why there is none for some policies.
    pub(super) faults: Vec<BuildError>,
}

#[derive(Debug)]
struct Chosen {
    source: Arc<Source>,
    archive: Archive,
    /// It is the one in force already.
    in_force: bool,
    /// What to build of where the policy cannot be built of the archive.
    fallback: Option<Archive>,
    /// It stands in for one that is refused.
    fell_back: bool,
}

/// The source of a shadow's bundle.
#[derive(Debug)]
struct Beside {
    source: Arc<Source>,
    /// What is beside the running policy, and is to be so again.
    kept: Option<Kept>,
}

/// What a candidate is built of.
#[derive(Debug)]
pub struct Kept {
    /// Its bundle.
    pub(super) archive: Archive,
    /// The running candidate was built with the same configuration.
    pub(super) same_settings: bool,
}

// === impl Bundles ===

impl Bundles {
    /// No source yet, and what will ask them.
    pub fn new(clock: Arc<dyn Clock>) -> (Self, Refresher) {
        let (opened, receiver) = mpsc::channel(OPENED_MAX);
        (Self { open: Mutex::default(), opened, clock }, Refresher { opened: receiver })
    }

    /// How each is doing.
    pub fn statuses(&self) -> Vec<(Key, Status)> {
        self.open().iter().map(|(key, open)| (key.clone(), open.source.status())).collect()
    }

    /// Has refused bundles fetched and tried again.
    pub(super) fn retry_refused(&self) {
        self.open().values().for_each(|open| open.source.retry_refused());
    }

    /// The archives for `config`: those of `running` where the policy's settings are the same, and else fetched now.
    /// Blocks for as long as that takes; each wait has a bound.
    pub(super) fn prepare(&self, config: &Config, running: Option<&Runtime>) -> Archives {
        let mut prepared = Archives::default();
        let mut to_fetch = Vec::new();
        for policy in config.policies.values() {
            let Some(settings) = Role::Main.settings(policy) else { continue };
            let source = self.source(policy, Role::Main, settings);
            let kept = running.and_then(|running| kept(running, policy, Role::Main));
            match kept {
                Some((archive, true)) => {
                    let chosen = Chosen { source, archive, in_force: true, fallback: None, fell_back: false };
                    prepared.chosen.insert(Arc::clone(&policy.name), chosen);
                }
                Some((archive, false)) => to_fetch.push((source, Some(archive))),
                None => to_fetch.push((source, None)),
            }
        }
        let fetched = fetch_all(to_fetch.iter().map(|(source, _)| Arc::clone(source)));
        for ((source, kept), fetched) in to_fetch.into_iter().zip(fetched) {
            let name = Arc::clone(source.policy());
            match choose(source, fetched, kept) {
                Ok(chosen) => drop(prepared.chosen.insert(name, chosen)),
                Err(fault) => prepared.faults.push(fault),
            }
        }
        prepared.shadows = self.shadows(config, running);
        prepared
    }

    /// The sources of shadows, with what is kept of `running`. Nobody is asked.
    fn shadows(&self, config: &Config, running: Option<&Runtime>) -> BTreeMap<Name, Beside> {
        let shadows = config.policies.values().filter_map(|policy| {
            let settings = Role::Candidate.settings(policy)?;
            let source = self.source(policy, Role::Candidate, settings);
            let kept = running.and_then(|running| {
                let (archive, same_policy) = kept(running, policy, Role::Candidate)?;
                let same_settings = same_policy && running.config.labels == config.labels;
                Some(Kept { archive, same_settings })
            });
            Some((Arc::clone(&policy.name), Beside { source, kept }))
        });
        shadows.collect()
    }

    /// Takes up what `runtime`, now in force, was built of: sources that are no longer used end, new ones are asked.
    pub(super) fn adopt(&self, runtime: &Runtime, archives: &Archives) {
        for chosen in archives.chosen.values() {
            let Chosen { source, archive, in_force, fallback: _, fell_back } = chosen;
            match (in_force, fell_back) {
                (true, _) => {}
                (false, true) => source.fell_back(archive),
                (false, false) => source.activated(archive),
            }
        }
        archives.shadows.values().for_each(|shadow| shadow.adopt(runtime));
        let mut open = self.open();
        let mut former = std::mem::take(&mut *open);
        let keys = runtime
            .policies
            .iter()
            .flat_map(|policy| Role::ALL.map(|role| Key { policy: Arc::clone(&policy.name), role }));
        for key in keys {
            let Some(settings) = key.settings(&runtime.config) else { continue };
            let entry = match (archives.source(&key), former.remove(&key)) {
                (Some(source), Some(former)) if Arc::ptr_eq(source, &former.source) => Some(former),
                (Some(source), _) => self.start(Arc::clone(source)),
                // After a rollback.
                (None, Some(former)) if former.source.settings() == settings => {
                    former.source.rolled_back_to(key.archive(runtime));
                    Some(former)
                }
                (None, _) => {
                    let source = Source::new(key.clone(), settings.clone(), Arc::clone(&self.clock));
                    key.archive(runtime).into_iter().for_each(|archive| source.adopted(archive));
                    self.start(Arc::new(source))
                }
            };
            open.extend(entry.map(|entry| (key, entry)));
        }
    }

    fn start(&self, source: Arc<Source>) -> Option<Open> {
        let (alive, closed) = oneshot::channel();
        let task = Task { source: Arc::clone(&source), closed };
        if self.opened.try_send(task).is_err() {
            tracing::error!(policy.id = %source.policy(), "Bundle will not be fetched again, too many are new");
            return None;
        }
        Some(Open { source, _alive: alive })
    }

    /// The source that is open with these settings, or a new one.
    fn source(&self, policy: &Policy, role: Role, settings: &RemoteBundle) -> Arc<Source> {
        let key = Key { policy: Arc::clone(&policy.name), role };
        let known = self.open().get(&key).map(|open| Arc::clone(&open.source));
        let known = known.filter(|source| source.settings() == settings);
        known.unwrap_or_else(|| Arc::new(Source::new(key, settings.clone(), Arc::clone(&self.clock))))
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<Key, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The archive that the policy, or its candidate, is built of in `running`, if it is from the same URL, and whether nothing
/// else of the policy has changed either.
fn kept(running: &Runtime, policy: &Policy, role: Role) -> Option<(Archive, bool)> {
    let former = running.config.policies.get(&policy.name)?;
    let (before, now) = (role.settings(former)?, role.settings(policy)?);
    let built = running.policies.iter().find(|built| built.name == policy.name)?;
    let archive = role.archive(built).filter(|_| before.url == now.url)?;
    Some((archive.clone(), former == policy))
}

/// What to build a policy of: what was fetched, or else what was `kept`, or else what is persisted.
fn choose(
    source: Arc<Source>,
    fetched: Result<Archive, FetchFault>,
    kept: Option<Archive>,
) -> Result<Chosen, BuildError> {
    let policy = Arc::clone(source.policy());
    let url = source.settings().shown.clone();
    let persisted = match (&kept, source.persisted()) {
        (None, Ok(persisted)) => persisted,
        (None, Err(fault)) => {
            tracing::warn!(policy.id = %policy, error = with_sources(&fault), "Persisted bundle not read");
            None
        }
        (Some(_), _) => None,
    };
    match (fetched, kept.or(persisted)) {
        (Ok(archive), fallback) => {
            Ok(Chosen { source, archive, in_force: false, fallback, fell_back: false })
        }
        (Err(fault), Some(archive)) => {
            let error = with_sources(&fault);
            let bundle = &*archive.shown;
            match archive.origin {
                Origin::Persisted => {
                    tracing::warn!(policy.id = %policy, url, error, bundle, "Bundle not fetched, the persisted one is taken");
                }
                Origin::Server => {
                    tracing::warn!(policy.id = %policy, url, error, "Bundle not fetched, the last good one goes on");
                }
            }
            Ok(Chosen { source, archive, in_force: false, fallback: None, fell_back: false })
        }
        (Err(fault), None) => {
            let persists = source.settings().persist.is_some();
            Err(BuildError::NotFetched { policy, url, persists, source: fault })
        }
    }
}

/// Fetches from all sources at once. On a thread of its own, as the caller may be within a runtime.
fn fetch_all(sources: impl Iterator<Item = Arc<Source>>) -> Vec<Result<Archive, FetchFault>> {
    let sources: Vec<_> = sources.collect();
    if sources.is_empty() {
        return Vec::new();
    }
    let count = sources.len();
    let fetch = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let fetched = runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for (index, source) in sources.into_iter().enumerate() {
                tasks.spawn(async move { (index, source.fetch(Asking::Anew).await) });
            }
            tasks.join_all().await
        });
        runtime.shutdown_background();
        Some(fetched)
    };
    let thread = std::thread::Builder::new().name("bundles".to_owned()).spawn(fetch);
    let fetched = thread.ok().and_then(|thread| thread.join().ok().flatten()).unwrap_or_default();
    let mut fetched: BTreeMap<_, _> = fetched.into_iter().collect();
    let of = |index| match fetched.remove(&index) {
        Some(Ok(Some(archive))) => Ok(archive),
        Some(Ok(None)) | None => Err(FetchFault::GivenUp),
        Some(Err(fault)) => Err(fault),
    };
    (0..count).map(of).collect()
}

// === impl Beside ===

impl Beside {
    /// Notes what `runtime` has made of what was kept.
    fn adopt(&self, runtime: &Runtime) {
        let policy = runtime.policies.iter().find(|policy| policy.name == *self.source.policy());
        let shadow = policy.and_then(|policy| policy.shadow.as_ref());
        let Some(Kept { archive, .. }) = &self.kept else { return };
        match shadow {
            Some(Shadow::Refused { errors, .. }) => self.source.refused(archive, errors.clone()),
            // What a source that was asked knows may be newer than this.
            Some(Shadow::Loaded(_)) if !self.source.was_asked() => self.source.adopted(archive),
            Some(Shadow::Loaded(_) | Shadow::Awaited { .. }) | None => {}
        }
    }
}

// === impl Archives ===

impl Archives {
    /// What the shadow of `policy` is built of: what is here already, if anything is.
    pub(super) fn shadow(&self, policy: &str) -> Option<&Kept> {
        self.shadows.get(policy)?.kept.as_ref()
    }

    fn source(&self, key: &Key) -> Option<&Arc<Source>> {
        match key.role {
            Role::Main => self.chosen.get(&key.policy).map(|chosen| &chosen.source),
            Role::Candidate => self.shadows.get(&key.policy).map(|beside| &beside.source),
        }
    }

    /// The archive for `policy`.
    pub(super) fn archive(&self, policy: &str) -> Option<&Archive> {
        self.chosen.get(policy).map(|chosen| &chosen.archive)
    }

    /// Where a policy could not be built of what was fetched, puts its fallback in the place of that. `false`: there is
    /// nothing to try.
    pub(super) fn fall_back(&mut self, errors: &BuildErrors) -> bool {
        // A build that ends for want of a bundle would end so again.
        if errors.0.iter().any(|fault| matches!(fault, BuildError::NotFetched { .. })) {
            return false;
        }
        let mut fell_back = false;
        for (name, chosen) in &mut self.chosen {
            let errors = errors.of_bundle(name);
            if errors.is_empty() {
                continue;
            }
            let Some(fallback) = chosen.fallback.take() else { continue };
            let bundle = &*fallback.shown;
            tracing::error!(policy.id = %name, errors = errors.join("; "), bundle, "Bundle refused, the last good one is taken");
            chosen.source.refused(&chosen.archive, errors);
            chosen.archive = fallback;
            chosen.fell_back = true;
            fell_back = true;
        }
        fell_back
    }
}
