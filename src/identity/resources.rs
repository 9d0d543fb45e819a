//! What identity providers share with each other and over reloads: key sets, remote servers, proofs that were shown.

use std::sync::Arc;

use crate::base::clock::Clock;
use crate::identity::jwt::key_sets::{self, KeySets};
use crate::identity::jwt::replay::SeenProofs;
use crate::identity::oidc::state::Sessions;
use crate::identity::remote::remotes::Remotes;
use crate::identity::remote::tasks::Runner;
use crate::identity::shelf::Shelf;

/// What outlives a reload.
#[derive(Debug)]
pub struct Resources {
    /// Key sets of issuers.
    pub key_sets: KeySets,
    /// Servers that are asked.
    pub remotes: Remotes,
    /// Proofs of possession that were shown.
    pub proofs: Arc<SeenProofs>,
    /// What is known of browsers' sessions.
    pub sessions: Sessions,
    /// What all workers have proven.
    pub shelf: Arc<Shelf>,
}

/// What must be run for it on the control runtime.
#[derive(Debug)]
pub struct Keeper {
    refresher: key_sets::Refresher,
    runner: Runner,
}

impl Resources {
    /// Nothing in use yet, and what will keep it.
    pub fn new(clock: Arc<dyn Clock>) -> (Self, Keeper) {
        let (key_sets, refresher) = KeySets::new(Arc::clone(&clock));
        let (remotes, runner) = Remotes::new(clock);
        let resources = Self {
            key_sets,
            remotes,
            proofs: Arc::default(),
            sessions: Sessions::default(),
            shelf: Arc::default(),
        };
        (resources, Keeper { refresher, runner })
    }
}

impl Keeper {
    /// Fetches key sets and asks servers, until [`Resources`] is dropped.
    pub async fn run(self) {
        tokio::join!(self.refresher.run(), self.runner.run());
    }
}
