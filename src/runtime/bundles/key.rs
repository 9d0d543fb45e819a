//! What a fetched bundle is for: the policy, and whether it is to decide or to be a candidate.
//!
//! The two of one policy are fetched, persisted and told apart, even from one URL.

use std::path::PathBuf;

use crate::config::model::{self, BundleSource, Config, Name, RemoteBundle};
use crate::runtime::beside::candidate::Shadow;
use crate::runtime::bundles::archive::Archive;
use crate::runtime::snapshot::{Policy, Runtime};

/// What a fetched bundle is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The policy.
    pub policy: Name,
    /// What it is there.
    pub role: Role,
}

/// What a bundle is to its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Its own: it decides, unless a candidate is promoted.
    Main,
    /// Its shadow's: evaluated beside it.
    Candidate,
}

// === impl Role ===

impl Role {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::Main, Self::Candidate];

    /// How the bundle of `policy` is fetched, if it is.
    pub(in crate::runtime) fn settings(self, policy: &model::Policy) -> Option<&RemoteBundle> {
        let source = match self {
            Self::Main => &policy.bundle,
            Self::Candidate => &policy.shadow.as_ref()?.bundle,
        };
        match source {
            BundleSource::Url(settings) => Some(settings),
            BundleSource::Path(_) => None,
        }
    }

    /// The fetched archive that `policy` is built of, or its candidate.
    pub(super) fn archive(self, policy: &Policy) -> Option<&Archive> {
        match (self, &policy.shadow) {
            (Self::Main, _) => policy.archive.as_ref(),
            (Self::Candidate, Some(Shadow::Loaded(candidate))) => candidate.policy.archive.as_ref(),
            (Self::Candidate, Some(Shadow::Awaited { .. } | Shadow::Refused { .. }) | None) => None,
        }
    }
}

// === impl Key ===

impl Key {
    /// How it is fetched by `config`, if it is.
    pub(in crate::runtime) fn settings<'c>(&self, config: &'c Config) -> Option<&'c RemoteBundle> {
        config.policies.get(&self.policy).and_then(|policy| self.role.settings(policy))
    }

    /// The archive of it that is in `runtime`.
    pub(in crate::runtime) fn archive<'r>(&self, runtime: &'r Runtime) -> Option<&'r Archive> {
        let built = runtime.policies.iter().find(|built| built.name == self.policy);
        built.and_then(|built| self.role.archive(built))
    }

    /// Where it is kept below the directory for that: a policy's own bundle as OPA does it.
    pub(super) fn persisted_path(&self) -> PathBuf {
        let kind = match self.role {
            Role::Main => "bundles",
            Role::Candidate => "shadows",
        };
        [kind, &*self.policy, "bundle.tar.gz"].iter().collect()
    }
}
