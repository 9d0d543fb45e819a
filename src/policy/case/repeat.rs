//! The requests of case files, made ready to be asked about again and again.
//!
//! Parsing, canonical form and the body come before the policy in the gateway too, so they are done once here; building
//! the input is not.

use std::collections::BTreeMap;
use std::time::Duration;

use super::file::{self, Case, Rule};
use super::{admit, entrypoint, facts};
use crate::base::id::{DecisionId, DecisionIds};
use crate::contract::decision::Phase;
use crate::contract::form::Contract;
use crate::contract::request::BodyFacts;
use crate::policy::bench::{BenchOptions, LeftOut, Question};
use crate::policy::bundle::Bundle;
use crate::policy::decide::{Decider, Keep, Rules, Ruling};
use crate::rego::fault::{BundleErrors, Fault};
use crate::rego::program::Program;

/// The cases of a bundle, and who is asked about them.
#[derive(Debug, Default)]
pub(in crate::policy) struct Repeated {
    deciders: Vec<(Question, Decider)>,
    requests: Vec<Prepared>,
    /// Cases that are not asked about, by the reason.
    pub(in crate::policy) left_out: BTreeMap<LeftOut, u64>,
}

/// A case, and what a connection would know of its request.
#[derive(Debug)]
struct Prepared {
    decider: usize,
    case: Case,
    body: BodyFacts,
    time: Duration,
    id: DecisionId,
    request_id: String,
}

impl Repeated {
    /// Reads the case files of `bundle`; `program` is compiled from it.
    pub(in crate::policy) fn new(
        bundle: &Bundle,
        program: &Program,
        options: &BenchOptions,
    ) -> Result<Self, BundleErrors> {
        let mut faults = Vec::new();
        let mut requests = Self::default();
        let mut ids = DecisionIds::new();
        for file in &bundle.case_files {
            let list = match file::parse(file) {
                Ok(list) => list,
                Err(wrong) => {
                    faults.extend(wrong);
                    continue;
                }
            };
            let contract = options.contract.unwrap_or(list.contract);
            let path = options.decision.clone().unwrap_or(list.decision.path);
            let rule = Rule { path, place: list.decision.place };
            match requests.decider(program, &rule, contract, options) {
                Ok(decider) => {
                    for case in list.cases {
                        requests.add(decider, case, (&mut ids, options.now));
                    }
                }
                Err(fault) => faults.push(fault),
            }
        }
        BundleErrors::unless_empty(requests, faults)
    }

    /// The index of the decider that asks `rule`.
    fn decider(
        &mut self,
        program: &Program,
        rule: &Rule,
        contract: Contract,
        options: &BenchOptions,
    ) -> Result<usize, Fault> {
        let entrypoint = entrypoint(program, rule)?;
        let question = Question { entrypoint: entrypoint.clone(), contract };
        if let Some(known) = self.deciders.iter().position(|(known, _)| *known == question) {
            return Ok(known);
        }
        let BenchOptions { budget, cache, .. } = *options;
        let rules = Rules { decision: entrypoint, response: None, budget, contract, cache };
        self.deciders.push((question, Decider::new(program, &rules)));
        Ok(self.deciders.len() - 1)
    }

    fn add(&mut self, decider: usize, case: Case, (ids, now): (&mut DecisionIds, Duration)) {
        match self.prepared(decider, &case) {
            Ok(body) => {
                let time = case.time.unwrap_or(now);
                let id = ids.next(time);
                self.requests.push(Prepared { decider, case, body, time, id, request_id: id.to_string() });
            }
            Err(left_out) => *self.left_out.entry(left_out).or_default() += 1,
        }
    }

    fn prepared(&self, decider: usize, case: &Case) -> Result<BodyFacts, LeftOut> {
        if case.data.is_some() {
            return Err(LeftOut::OwnData);
        }
        if case.response.is_some() {
            return Err(LeftOut::Response);
        }
        let (_, decider) = self.deciders.get(decider).ok_or(LeftOut::NoRule)?;
        let (_, body) = admit(decider, case).map_err(|_| LeftOut::Refused)?;
        Ok(body)
    }

    /// How many there are.
    pub(in crate::policy) fn len(&self) -> usize {
        self.requests.len()
    }

    /// What is asked about them.
    pub(in crate::policy) fn questions(&self) -> impl Iterator<Item = &Question> {
        self.deciders.iter().map(|(question, _)| question)
    }

    /// Asks as a worker of the gateway does; `None` beyond the last.
    pub(in crate::policy) fn ask(&mut self, index: usize) -> Option<Ruling> {
        let request = self.requests.get(index)?;
        let (_, decider) = self.deciders.get_mut(request.decider)?;
        let Prepared { case, body, time, id, request_id, .. } = request;
        let head = case.request.head.as_ref().ok()?;
        let facts = facts(case, head, body, *time, (*id, request_id));
        let evaluate =
            |settled: &mut _| decider.decide_settled(&facts, Phase::Request, Keep::Nothing, settled);
        Some(case.mocks.ask(evaluate))
    }

    /// Lets go of what was printed.
    pub(in crate::policy) fn forget_prints(&mut self) {
        for (_, decider) in &mut self.deciders {
            drop(decider.evaluator().take_prints());
        }
    }
}
