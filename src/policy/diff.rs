//! What two policies decide differently, and for each difference a smallest request that shows it.
//!
//! A difference is found by search, so that none found is no proof, save where every request the policies can tell apart was
//! decided. Two requests show the same difference when one can be changed into the other field by field with it staying, or
//! when the rules that cause it look at the same.

use std::collections::{BTreeMap, BTreeSet};

use regorus::Value;

use super::replay::{Change, Outcome};
use super::search::{Answer, Askers, Limits, Search, Searched, shrink};
use crate::contract::decision::Phase;
use crate::contract::form::Contract;
use crate::rego::domain::{Domain, Kind, Point, Policy};
use crate::rego::fault::Place;
use crate::rego::program::{Entrypoint, Program};
use crate::rego::tree::dotted;

/// Differing requests kept for each kind of change.
const RAW_MAX: usize = 300;
/// Differences told apart.
const DIFFERENCES_MAX: usize = 100;
/// Results told apart while searching.
const RESULTS_MAX: usize = 256;

/// How to compare.
#[derive(Debug, Clone, Copy)]
pub struct DiffOptions {
    /// What results mean.
    pub contract: Contract,
    /// When the rule is asked.
    pub phase: Phase,
    /// How far the search goes.
    pub limits: Limits,
}

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// Opened doors first; those with the same cause beside each other.
    pub differences: Vec<Difference>,
    /// There were more than are told.
    pub is_cut: bool,
    /// How far the search went.
    pub searched: Searched,
}

/// One difference.
#[derive(Debug)]
pub struct Difference {
    /// From what to what.
    pub change: Change,
    /// The keys of the results that differ, where both allow or both deny.
    pub keys: Vec<String>,
    /// A smallest input that shows it: without any part of it, the change is gone.
    pub witness: Value,
    /// What the old policy says.
    pub before: Decided,
    /// What the new policy says.
    pub after: Decided,
    /// The rules whose values differ, the causes first.
    pub rules: Vec<DifferingRule>,
    /// Requests found that show it.
    pub requests: u64,
}

/// One policy's word.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    /// The result; none where it is undefined or failed.
    pub result: Option<Value>,
    /// `allow`, `deny` or `failure`.
    pub verdict: &'static str,
    /// Why it failed.
    pub error: Option<String>,
}

/// A rule whose value differs.
#[derive(Debug)]
pub struct DifferingRule {
    /// Its full name.
    pub name: String,
    /// No rule that it asks differs.
    pub is_cause: bool,
    /// Its text differs as well; else what it reads does.
    pub is_edited: bool,
    /// Its old value; none is undefined.
    pub before: Option<String>,
    /// Its new value.
    pub after: Option<String>,
    /// Where it stands in the old policy.
    pub old_place: Option<Place>,
    /// Where it stands in the new one.
    pub new_place: Option<Place>,
}

/// Compares two policies.
pub fn diff(old: (&Program, &Entrypoint), new: (&Program, &Entrypoint), options: &DiffOptions) -> Report {
    let policies = [old, new].map(|(program, entrypoint)| Policy { program, entrypoint });
    let domain = Domain::of(&policies);
    let mut askers = Askers::new(&[old.0, new.0], &domain, options.limits);
    let base = Value::new_object();
    let mut raw = Raw::default();
    let mut results = BTreeMap::new();
    let judge = Judge { options };
    let mut observe = |point: &Point, answers: &[Answer]| {
        if let Some((change, keys)) = judge.difference(answers) {
            raw.add(change, keys, point);
        }
        let count = results.len();
        if results.len() < RESULTS_MAX {
            *results.entry(answers.to_vec()).or_insert(count)
        } else {
            results.get(answers).copied().unwrap_or(count)
        }
    };
    let searched = Search::new(&domain, &base, &mut askers, Vec::new()).run(&mut observe);
    let sides = Sides { old: old.0, new: new.0 };
    let mut sorter =
        Sorter { domain: &domain, base: &base, askers: &mut askers, judge, sides, found: Vec::new() };
    let is_cut = sorter.sort(raw);
    let mut differences: Vec<Difference> = sorter.found.into_iter().map(|found| found.difference).collect();
    differences.sort_by_key(|difference| {
        let causes = difference.rules.iter().filter(|rule| rule.is_cause).map(|rule| rule.name.clone());
        (difference.change, causes.collect::<Vec<_>>(), difference.witness.to_string().len())
    });
    Report { differences, is_cut, searched }
}

/// Requests that differ, by how.
#[derive(Default)]
struct Raw {
    kept: BTreeMap<(Change, Vec<String>), (Vec<Point>, u64)>,
}

impl Raw {
    fn add(&mut self, change: Change, keys: Vec<String>, point: &Point) {
        let (points, count) = self.kept.entry((change, keys)).or_default();
        *count += 1;
        if points.len() < RAW_MAX {
            points.push(point.clone());
        }
    }
}

/// What answers mean.
#[derive(Clone, Copy)]
struct Judge<'a> {
    options: &'a DiffOptions,
}

impl Judge<'_> {
    fn outcome(self, answer: Option<&Answer>) -> Outcome {
        match answer {
            Some(Answer::Value(value)) => {
                let decision = self.options.contract.parse(value, self.options.phase);
                Outcome::of(Some((value.clone(), decision)))
            }
            Some(Answer::Undefined | Answer::Failed(_)) | None => Outcome::of(None),
        }
    }

    fn difference(self, answers: &[Answer]) -> Option<(Change, Vec<String>)> {
        if answers.first() == answers.last() {
            return None;
        }
        let change = self.outcome(answers.first()).change(&self.outcome(answers.last()), false)?;
        let keys = match (change, answers.first(), answers.last()) {
            (
                Change::AllowDiffers | Change::DenyDiffers,
                Some(Answer::Value(old)),
                Some(Answer::Value(new)),
            ) => differing_keys(old, new),
            (
                Change::DenyToAllow
                | Change::FailureToAllow
                | Change::AllowToDeny
                | Change::AllowToFailure
                | Change::DenyToFailure
                | Change::FailureToDeny
                | Change::AllowDiffers
                | Change::DenyDiffers,
                _,
                _,
            ) => Vec::new(),
        };
        Some((change, keys))
    }

    fn decided(self, answer: Option<&Answer>) -> Decided {
        let verdict = match self.outcome(answer) {
            Outcome::Allow { .. } => "allow",
            Outcome::Deny { .. } => "deny",
            Outcome::Failed => "failure",
        };
        let (result, error) = match answer {
            Some(Answer::Value(value)) => {
                let error = self.options.contract.parse(value, self.options.phase).err();
                (Some(value.clone()), error.map(|error| error.to_string()))
            }
            Some(Answer::Failed(error)) => (None, Some(error.clone())),
            Some(Answer::Undefined) | None => (None, Some("undefined".to_owned())),
        };
        Decided { result, verdict, error }
    }
}

/// The keys at which two results differ.
fn differing_keys(old: &Value, new: &Value) -> Vec<String> {
    let (Ok(old), Ok(new)) = (old.as_object(), new.as_object()) else { return Vec::new() };
    let keys: BTreeSet<&Value> = old.keys().chain(new.keys()).collect();
    let differ = keys.into_iter().filter(|key| old.get(key) != new.get(key));
    differ.filter_map(|key| key.as_string().ok().map(ToString::to_string)).collect()
}

struct Sides<'a> {
    old: &'a Program,
    new: &'a Program,
}

/// A difference, its witness before values were made smaller, and the rules that cause it, by index.
struct Found {
    point: Point,
    causes: Vec<usize>,
    difference: Difference,
}

/// Makes few smallest witnesses of many requests that differ.
struct Sorter<'a> {
    domain: &'a Domain,
    base: &'a Value,
    askers: &'a mut Askers,
    judge: Judge<'a>,
    sides: Sides<'a>,
    found: Vec<Found>,
}

impl Sorter<'_> {
    /// Whether some were left out.
    fn sort(&mut self, raw: Raw) -> bool {
        let mut is_cut = false;
        for ((change, keys), (mut points, count)) in raw.kept {
            points.sort_by_key(|point| self.cost(point));
            let kept = points.len() as u64;
            let first = self.found.len();
            for point in points {
                if !self.is_known(&point, first, change, &keys) {
                    if self.found.len() >= DIFFERENCES_MAX {
                        is_cut = true;
                        continue;
                    }
                    self.add(point, first, change, &keys);
                }
            }
            // Those that were counted and not kept are most likely more of the first.
            if let Some(found) = self.found.get_mut(first) {
                found.difference.requests += count.saturating_sub(kept);
            }
        }
        is_cut
    }

    /// Odd values and many fields cost most.
    fn cost(&self, point: &[u16]) -> (usize, usize) {
        let kinds = (0..point.len())
            .filter_map(|index| self.domain.choice(point, index))
            .map(crate::rego::domain::Choice::kind);
        let (mut odd, mut fields) = (0, 0);
        for kind in kinds {
            odd += usize::from(kind == Kind::WrongType);
            fields += usize::from(kind != Kind::Absent);
        }
        (odd, fields)
    }

    fn shows(&mut self, input: &Value, change: Change, keys: &[String]) -> bool {
        let Some(entry) = self.domain.rules().len().checked_sub(1) else { return false };
        let answers = self.askers.ask(entry, input);
        self.judge.difference(&answers).is_some_and(|(own, own_keys)| own == change && own_keys == keys)
    }

    /// Whether the request can be changed into a known witness field by field with the difference staying.
    fn is_known(&mut self, point: &Point, first: usize, change: Change, keys: &[String]) -> bool {
        for index in first..self.found.len() {
            let Some(target) = self.found.get(index).map(|found| found.point.clone()) else { continue };
            if self.walks(point.clone(), &target, change, keys)
                && let Some(found) = self.found.get_mut(index)
            {
                found.difference.requests += 1;
                return true;
            }
        }
        false
    }

    fn walks(&mut self, mut at: Point, target: &Point, change: Change, keys: &[String]) -> bool {
        loop {
            let differing: Vec<usize> =
                (0..at.len()).filter(|index| at.get(*index) != target.get(*index)).collect();
            if differing.is_empty() {
                return true;
            }
            let mut moved = false;
            for index in differing {
                let mut next = at.clone();
                if let (Some(to), Some(from)) = (next.get_mut(index), target.get(index)) {
                    *to = *from;
                }
                if self.shows(&self.domain.input(self.base, &next), change, keys) {
                    at = next;
                    moved = true;
                }
            }
            if !moved {
                return false;
            }
        }
    }

    fn add(&mut self, mut point: Point, first: usize, change: Change, keys: &[String]) {
        let (domain, base) = (self.domain, self.base);
        let witness = shrink(domain, base, &mut point, &mut |input| self.shows(input, change, keys));
        let (rules, causes) = self.rules(&witness);
        // What the causes look at themselves is the difference; how the rules they ask come to their values is not.
        let own: BTreeSet<usize> = causes
            .iter()
            .filter_map(|index| domain.rules().get(*index))
            .flat_map(|rule| rule.own.clone())
            .collect();
        let is_same = |found: &&mut Found| {
            let is_alike = own.iter().all(|dimension| found.point.get(*dimension) == point.get(*dimension));
            found.difference.witness == witness || (found.causes == causes && !own.is_empty() && is_alike)
        };
        if let Some(known) = self.found.iter_mut().skip(first).find(is_same) {
            known.difference.requests += 1;
            return;
        }
        let Some(entry) = domain.rules().len().checked_sub(1) else { return };
        let answers = self.askers.ask(entry, &witness);
        let difference = Difference {
            change,
            keys: keys.to_vec(),
            before: self.judge.decided(answers.first()),
            after: self.judge.decided(answers.last()),
            rules,
            witness,
            requests: 1,
        };
        self.found.push(Found { point, causes, difference });
    }

    /// The rules whose values differ, and the indexes of those that cause it.
    fn rules(&mut self, input: &Value) -> (Vec<DifferingRule>, Vec<usize>) {
        let mut differing: BTreeSet<usize> = BTreeSet::new();
        let mut causes = Vec::new();
        let mut rules = Vec::new();
        for (index, rule) in self.domain.rules().iter().enumerate() {
            let answers = self.askers.ask(index, input);
            if answers.first() == answers.last() {
                continue;
            }
            differing.insert(index);
            let shown = |answer: Option<&Answer>| match answer {
                Some(Answer::Value(value)) => Some(value.to_string()),
                Some(Answer::Failed(error)) => Some(format!("error: {error}")),
                Some(Answer::Undefined) | None => None,
            };
            let name = dotted(&rule.path);
            let (old_text, old_place) = text_of(self.sides.old, &rule.path);
            let (new_text, new_place) = text_of(self.sides.new, &rule.path);
            let is_cause = !rule.asks.iter().any(|below| differing.contains(below));
            causes.extend(is_cause.then_some(index));
            rules.push(DifferingRule {
                name,
                is_cause,
                is_edited: old_text != new_text,
                before: shown(answers.first()),
                after: shown(answers.last()),
                old_place,
                new_place,
            });
        }
        rules.sort_by_key(|rule| !rule.is_cause);
        (rules, causes)
    }
}

/// The text of all rules at a path, and where the first of them stands.
fn text_of(program: &Program, path: &[String]) -> (Vec<String>, Option<Place>) {
    let tree = program.tree();
    let rules: Vec<_> = tree.rules_at(path).iter().filter_map(|id| tree.rule(*id)).collect();
    let texts = rules.iter().map(|rule| tree.slice(rule.module, rule.extent).to_owned());
    let first = rules.iter().find(|rule| !rule.is_default).or(rules.first());
    (texts.collect(), first.map(|rule| tree.place(rule.module, rule.extent.start)))
}
