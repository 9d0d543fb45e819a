//! All remote providers that are in use. They outlive a reload: what has the same settings goes on with its connections
//! and its answers.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::base::clock::Clock;
use crate::config::model::{self, Name};
use crate::identity::remote::tasks::{Runner, Tasks};
use crate::identity::remote::{Inquiry, Patience, Remote, Status};

/// What a remote provider was made of. Where it is equal, the provider goes on.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Its part of the configuration.
    pub config: model::Provider,
    /// What the files that it names hold: certificates, keys.
    pub files: Vec<Vec<u8>>,
}

/// The remote providers in use, by name.
#[derive(Debug)]
pub struct Remotes {
    open: Mutex<BTreeMap<Name, Open>>,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
}

struct Open {
    settings: Settings,
    remote: Weak<dyn Any + Send + Sync>,
    status: Box<dyn Fn() -> Option<Status> + Send + Sync>,
}

impl Remotes {
    /// None yet, and what will ask their servers.
    pub fn new(clock: Arc<dyn Clock>) -> (Self, Runner) {
        let (tasks, runner) = Tasks::new();
        (Self { open: Mutex::default(), clock, tasks }, runner)
    }

    /// Where work is handed to the control runtime.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The provider `name` as it runs, where its settings are the same, else what `make` gives.
    pub fn open<I: Inquiry, E>(
        &self,
        name: &Name,
        settings: Settings,
        patience: Patience,
        make: impl FnOnce() -> Result<I, E>,
    ) -> Result<Arc<Remote<I>>, E> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, open| open.remote.strong_count() > 0);
        if let Some(running) = open.get(name)
            && running.settings == settings
            && let Some(remote) = running.remote.upgrade()
            && let Ok(remote) = remote.downcast::<Remote<I>>()
        {
            return Ok(remote);
        }
        let remote = Arc::new(Remote::new(make()?, patience, Arc::clone(&self.clock), self.tasks.clone()));
        let weak = Arc::downgrade(&remote);
        let status = Box::new(move || weak.upgrade().map(|remote| remote.status()));
        let erased: Arc<dyn Any + Send + Sync> = Arc::clone(&remote) as Arc<dyn Any + Send + Sync>;
        open.insert(Arc::clone(name), Open { settings, remote: Arc::downgrade(&erased), status });
        Ok(remote)
    }

    /// How the server of each is doing.
    pub fn statuses(&self) -> Vec<(Name, Status)> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let status = |(name, open): (&Name, &Open)| Some((Arc::clone(name), (open.status)()?));
        open.iter().filter_map(status).collect()
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").field("settings", &self.settings).finish_non_exhaustive()
    }
}
