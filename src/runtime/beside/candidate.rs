//! What is asked beside the requests: candidates, and policies in force on the interpreter.

use std::sync::Arc;

use crate::config::model::Sampling;
use crate::contract::decision::Phase;
use crate::contract::reads::Reads;
use crate::policy::decide;
use crate::rego::program::Entrypoint;
use crate::runtime::beside::allowance::Allowance;
use crate::runtime::beside::tally::{Tally, Verified};
use crate::runtime::snapshot::Policy;

/// The shadow of a policy.
#[derive(Debug, Clone)]
pub enum Shadow {
    /// It is evaluated beside the policy in force.
    Loaded(Arc<Candidate>),
    /// No bundle of it has come from its server yet: the policy goes on without it.
    Awaited {
        /// Where its bundle comes from.
        shown: String,
    },
    /// It cannot be: the policy in force goes on without it.
    Refused {
        /// Where its bundle comes from.
        shown: String,
        /// Each fault.
        errors: Vec<String>,
    },
}

/// A candidate for a policy in force, built with that one's settings.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// What would be in force.
    pub policy: Policy,
    /// Where its bundle comes from.
    pub shown: String,
    /// How often it is asked.
    pub sampling: Sampling,
    /// What it may cost.
    pub allowance: Arc<Allowance>,
    /// What it decided.
    pub tally: Arc<Tally>,
    /// Chance has a say in its decisions or in those of the policy in force.
    pub left_to_chance: bool,
    /// What it reads of a request.
    pub request: Reads,
    /// What it reads of a response.
    pub response: Option<Reads>,
}

/// A policy in force whose decisions are made again on the interpreter.
#[derive(Debug)]
pub struct Verifier {
    /// The policy, without what is beside it.
    pub policy: Policy,
    /// How often.
    pub sampling: Sampling,
    /// What it may cost.
    pub allowance: Arc<Allowance>,
    /// What came of it.
    pub verified: Arc<Verified>,
    /// What it reads of a request.
    pub request: Reads,
    /// What it reads of a response.
    pub response: Option<Reads>,
    /// Whether decisions about requests, and about responses, come from a plan and can be repeated.
    comparable: [bool; 2],
}

impl Shadow {
    /// What is evaluated, if anything is.
    pub fn candidate(&self) -> Option<&Candidate> {
        match self {
            Self::Loaded(candidate) => Some(candidate),
            Self::Awaited { .. } | Self::Refused { .. } => None,
        }
    }

    /// The same beside another policy.
    #[must_use]
    pub fn beside(&self, in_force: &Policy) -> Self {
        match self {
            Self::Loaded(candidate) => Self::Loaded(Arc::new(candidate.beside(in_force))),
            Self::Awaited { .. } | Self::Refused { .. } => self.clone(),
        }
    }
}

impl Candidate {
    /// `policy` as a candidate for `in_force`. It goes on with the counts of `former`, where that is the same.
    pub fn new(
        policy: Policy,
        in_force: &Policy,
        (shown, sampling): (String, Sampling),
        former: Option<&Self>,
        tally: impl FnOnce() -> Tally,
    ) -> Self {
        let reads = |entrypoint: &Entrypoint| decide::reads(&policy.program.footprint(entrypoint));
        let former = former.filter(|former| former.policy.bundle.digest == policy.bundle.digest);
        let allowance = former.filter(|former| former.sampling.budget == sampling.budget);
        Self {
            left_to_chance: is_left_to_chance(&policy) || is_left_to_chance(in_force),
            request: reads(&policy.rules.decision),
            response: policy.rules.response.as_ref().map(reads),
            allowance: allowance.map_or_else(
                || Arc::new(Allowance::new(sampling.budget)),
                |former| Arc::clone(&former.allowance),
            ),
            tally: former.map_or_else(|| Arc::new(tally()), |former| Arc::clone(&former.tally)),
            policy,
            shown,
            sampling,
        }
    }

    /// The same, with its counts, beside another policy.
    #[must_use]
    pub fn beside(&self, in_force: &Policy) -> Self {
        let left_to_chance = is_left_to_chance(&self.policy) || is_left_to_chance(in_force);
        Self { left_to_chance, ..self.clone() }
    }

    /// Whether it is what is in force already.
    pub fn is_in_force(&self, policy: &Policy) -> bool {
        self.policy.bundle.digest == policy.bundle.digest
    }
}

impl Verifier {
    /// What verifies `policy`; `None` where nothing of it can be.
    pub fn new(policy: &Policy, sampling: Sampling, former: Option<&Self>) -> Option<Self> {
        let comparable = |entrypoint: &Entrypoint| {
            let footprint = policy.program.footprint(entrypoint);
            // What is the same for all inputs was compared at load.
            let varies = !footprint.is_constant() && !footprint.is_left_to_chance();
            policy.program.is_planned(entrypoint) && varies
        };
        let comparable =
            [comparable(&policy.rules.decision), policy.rules.response.as_ref().is_some_and(comparable)];
        if sampling.sample.is_none() || comparable == [false, false] {
            return None;
        }
        let former = former.filter(|former| former.policy.bundle.digest == policy.bundle.digest);
        Some(Self {
            policy: policy.alone(),
            sampling,
            allowance: Arc::new(Allowance::new(sampling.budget)),
            request: decide::reads(&policy.program.footprint(&policy.rules.decision)),
            response: policy
                .rules
                .response
                .as_ref()
                .map(|rule| decide::reads(&policy.program.footprint(rule))),
            verified: former.map_or_else(Arc::default, |former| Arc::clone(&former.verified)),
            comparable,
        })
    }

    /// Whether decisions in `phase` can be compared.
    pub fn compares(&self, phase: Phase) -> bool {
        let [request, response] = self.comparable;
        match phase {
            Phase::Request => request,
            Phase::Response => response,
        }
    }

    /// The rule asked in `phase`.
    pub fn entrypoint(&self, phase: Phase) -> Option<&Entrypoint> {
        match phase {
            Phase::Request => Some(&self.policy.rules.decision),
            Phase::Response => self.policy.rules.response.as_ref(),
        }
    }
}

fn is_left_to_chance(policy: &Policy) -> bool {
    let rules = [Some(&policy.rules.decision), policy.rules.response.as_ref()];
    rules.into_iter().flatten().any(|rule| policy.program.footprint(rule).is_left_to_chance())
}
