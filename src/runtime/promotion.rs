//! Putting a candidate in force in place of the configured bundle.
//!
//! It is in force until the configured bundle changes, or the gateway is started anew: its files are still the shadow's.

use std::sync::Arc;
use std::time::Duration;

use crate::config::model::Name;
use crate::runtime::beside::candidate::{Shadow, Verifier};
use crate::runtime::snapshot::{Policy, Promotion, Runtime};
use crate::telemetry::metrics::Direction;

/// Why no candidate can be put in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromoteError {
    /// There is no such policy.
    #[error("unknown policy `{policy}`; the policies are {known}")]
    Unknown {
        /// As given.
        policy: String,
        /// Those there are.
        known: String,
    },
    /// No policy has a candidate.
    #[error("no policy has a shadow; configure `policies.NAME.shadow`")]
    None,
    /// The policy has no candidate.
    #[error("policy `{policy}` has no shadow; configure `policies.{policy}.shadow`")]
    NoShadow {
        /// The policy.
        policy: Name,
    },
    /// It is not said which candidate is meant.
    #[error("several policies have a shadow; name one of {policies}")]
    Several {
        /// The policies.
        policies: String,
    },
    /// The candidate is not here yet.
    #[error(
        "policy `{policy}`: no bundle of the shadow `{shown}` has been taken yet; `policies.{policy}.shadow` in `/status` says why"
    )]
    Awaited {
        /// The policy.
        policy: Name,
        /// Where the bundle comes from.
        shown: String,
    },
    /// The candidate is refused.
    #[error("policy `{policy}`: the shadow `{shown}` is refused: {errors}")]
    Refused {
        /// The policy.
        policy: Name,
        /// Where the bundle comes from.
        shown: String,
        /// Its faults.
        errors: String,
    },
    /// It is in force already.
    #[error("policy `{policy}`: what the shadow `{shown}` holds is in force already (revision `{revision}`)")]
    InForce {
        /// The policy.
        policy: Name,
        /// Where the bundle comes from.
        shown: String,
        /// The revision.
        revision: String,
    },
}

/// A candidate that was put in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promoted {
    /// The policy.
    pub policy: Name,
    /// The revision in force now.
    pub revision: String,
    /// The revision in force before.
    pub former_revision: String,
    /// Where the bundle comes from, as in the configuration.
    pub shown: String,
    /// Decisions it was compared in.
    pub compared: u64,
    /// Those in which it failed.
    pub failed: u64,
}

impl Promoted {
    /// What speaks against it.
    pub fn warning(&self) -> Option<String> {
        let Self { compared, failed, .. } = self;
        (*compared > 0 && compared == failed)
            .then(|| format!("the shadow failed in each of the {compared} decisions it was compared in"))
    }
}

/// `running` with the candidate of `policy` in force; of the only one that has a candidate, where none is named.
pub(super) fn promote(
    running: &Runtime,
    policy: Option<&str>,
    at: Duration,
) -> Result<(Runtime, Promoted), PromoteError> {
    let policy = choose(running, policy)?;
    let name = || Arc::clone(&policy.name);
    let candidate = match &policy.shadow {
        None => return Err(PromoteError::NoShadow { policy: name() }),
        Some(Shadow::Awaited { shown }) => {
            return Err(PromoteError::Awaited { policy: name(), shown: shown.clone() });
        }
        Some(Shadow::Refused { shown, errors }) => {
            let (shown, errors) = (shown.clone(), errors.join("; "));
            return Err(PromoteError::Refused { policy: name(), shown, errors });
        }
        Some(Shadow::Loaded(candidate)) => candidate,
    };
    let shown = candidate.shown.clone();
    if candidate.is_in_force(policy) {
        return Err(PromoteError::InForce { policy: name(), shown, revision: policy.revision.clone() });
    }
    let configured = policy.promoted.as_ref().map(|promotion| promotion.instead_of);
    let instead_of = configured.unwrap_or(policy.bundle.digest);
    let promotion =
        Promotion { shown: shown.clone(), at, instead_of, former_revision: policy.revision.clone() };
    let mut promoted = candidate.policy.alone();
    // Back to the configured bundle there is nothing to hold on to.
    promoted.promoted = (promoted.bundle.digest != instead_of).then(|| Arc::new(promotion));
    promoted.archive.clone_from(&policy.archive);
    promoted.shadow = policy.shadow.as_ref().map(|shadow| shadow.beside(&promoted));
    let verify = running.config.policies.get(&policy.name).map(|config| config.verify);
    promoted.verifier = verify
        .and_then(|sampling| Verifier::new(&promoted, sampling, policy.verifier.as_deref()))
        .map(Arc::new);
    let counts = candidate.tally.counts().all;
    let failures = Direction::ALL.iter().zip(counts).filter(|(direction, _)| **direction == Direction::Error);
    let told = Promoted {
        compared: counts.iter().sum(),
        failed: failures.map(|(_, count)| count).sum(),
        policy: name(),
        revision: promoted.revision.clone(),
        former_revision: policy.revision.clone(),
        shown,
    };
    let mut next = running.clone();
    next.policies.iter_mut().filter(|replaced| replaced.name == told.policy).for_each(|replaced| {
        replaced.clone_from(&promoted);
    });
    Ok((next, told))
}

fn choose<'a>(running: &'a Runtime, named: Option<&str>) -> Result<&'a Policy, PromoteError> {
    let listed = |policies: &[&Policy]| {
        policies.iter().map(|policy| format!("`{}`", policy.name)).collect::<Vec<_>>().join(", ")
    };
    if let Some(named) = named {
        let found = running.policies.iter().find(|policy| *policy.name == *named);
        return found.ok_or_else(|| PromoteError::Unknown {
            policy: named.to_owned(),
            known: listed(&running.policies.iter().collect::<Vec<_>>()),
        });
    }
    let with_shadow: Vec<&Policy> =
        running.policies.iter().filter(|policy| policy.shadow.is_some()).collect();
    match with_shadow.as_slice() {
        [] => Err(PromoteError::None),
        [only] => Ok(only),
        several => Err(PromoteError::Several { policies: listed(several) }),
    }
}
