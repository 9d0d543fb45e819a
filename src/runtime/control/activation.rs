//! Putting a fetched bundle in its place: a policy's own in force, a candidate's beside the policy.
//!
//! The configuration is not read again, so that its faults do not hold up a bundle, nor a bundle's faults the configuration.

use std::sync::{Arc, PoisonError};

use crate::policy::bundle;
use crate::runtime::build;
use crate::runtime::build_error::BuildErrors;
use crate::runtime::bundles::archive::{Archive, Origin};
use crate::runtime::bundles::key::Role;
use crate::runtime::bundles::source::Source;
use crate::runtime::control::{Control, count};
use crate::runtime::snapshot::Runtime;

/// What came of a fetched bundle that is not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Activation {
    /// It is in its place.
    InForce {
        /// Its revision.
        revision: String,
    },
    /// It was there already.
    Known,
    /// The configuration has moved on, and names another.
    Obsolete,
    /// It is a delta to what is not in force; the whole is fetched.
    Unfit,
}

impl Control {
    /// Puts a fetched bundle in its place.
    pub(in crate::runtime) fn activate(
        &self,
        source: &Source,
        archive: &Archive,
    ) -> Result<Activation, BuildErrors> {
        match source.key().role {
            Role::Main => self.activate_main(source, archive),
            Role::Candidate => self.activate_candidate(source, archive),
        }
    }

    /// The snapshot in force with just this policy built anew.
    fn activate_main(&self, source: &Source, archive: &Archive) -> Result<Activation, BuildErrors> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let running = self.shared.current();
        let policy = source.policy();
        let archive = &match whole(&running.runtime, source, archive) {
            Ok(archive) => archive,
            Err(activation) => return Ok(activation),
        };
        match build::with_bundle(&running.runtime, policy, archive) {
            Ok(runtime) => {
                let runtime = Arc::new(runtime);
                self.shared.install_bundle(Arc::clone(&runtime));
                source.activated(archive);
                count(&self.shared, &runtime);
                let built = runtime.policies.iter().find(|built| built.name == *policy);
                Ok(Activation::InForce {
                    revision: built.map(|built| built.revision.clone()).unwrap_or_default(),
                })
            }
            Err(errors) => {
                self.shared.metrics.reload_failed();
                refused(source, archive, &errors);
                Err(errors)
            }
        }
    }

    /// The snapshot in force with just another candidate beside this policy. Neither reloads nor other bundles wait while it is
    /// compiled and tested.
    fn activate_candidate(&self, source: &Source, archive: &Archive) -> Result<Activation, BuildErrors> {
        let before = self.shared.current();
        let archive = &match whole(&before.runtime, source, archive) {
            Ok(archive) => archive,
            Err(activation) => return Ok(activation),
        };
        let candidate = match build::candidate(&before.runtime, source.policy(), archive) {
            Ok(candidate) => candidate,
            Err(errors) => {
                // What the server has is told of rather than what was kept.
                if archive.origin() == Origin::Server {
                    refused(source, archive, &errors);
                }
                return Err(errors);
            }
        };
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let running = self.shared.current();
        // What was replaced meanwhile is looked at again with the next answer of the server.
        let Some(runtime) =
            build::with_candidate(&running.runtime, &before.runtime, source.key(), &candidate)
        else {
            return Ok(Activation::Obsolete);
        };
        // A candidate is no generation of its own: there is nothing that could be rolled back.
        self.shared.renew(Arc::new(runtime));
        match archive.origin() {
            Origin::Server => source.activated(archive),
            Origin::Persisted => source.fell_back(archive),
        }
        Ok(Activation::InForce { revision: candidate.policy.revision.clone() })
    }
}

/// The archive to build: `archive` itself, or where that is a delta, what it makes of the one in its place. The error is what
/// became of it where there is nothing to build.
fn whole(running: &Runtime, source: &Source, archive: &Archive) -> Result<Archive, Activation> {
    let key = source.key();
    if key.settings(&running.config) != Some(source.settings()) {
        return Err(Activation::Obsolete);
    }
    let in_place = key.archive(running);
    if in_place.is_some_and(|in_place| in_place.is_same(archive)) {
        source.adopted(archive);
        return Err(Activation::Known);
    }
    if !(archive.may_be_delta() && bundle::is_delta(&archive.bytes)) {
        return Ok(archive.clone());
    }
    in_place.and_then(|in_place| in_place.changed_by(archive)).ok_or_else(|| {
        source.want_whole();
        Activation::Unfit
    })
}

fn refused(source: &Source, archive: &Archive, errors: &BuildErrors) {
    source.refused(archive, errors.to_string().lines().map(|line| line.trim().to_owned()).collect());
    if !archive.deltas.is_empty() {
        source.want_whole();
    }
}
