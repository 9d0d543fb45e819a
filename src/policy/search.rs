//! Searching the requests that policies can tell apart (`rego::domain`): all of them where they are few, else the telling ones.
//!
//! What is too much to try out is searched from below: for each rule, after those it asks, parts of requests are gathered that
//! give it each of its values; the rules above are asked about what these make together. Deterministic: no clock, no chance.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use regorus::Value;

use crate::rego::domain::{Domain, Kind, Point, RuleReads};
use crate::rego::evaluator::{Evaluator, Facts};
use crate::rego::program::{Entrypoint, Program};

/// Parts of requests kept for one rule.
const KEPT_MAX: usize = 400;
/// Ways to a value that are kept besides, for what is in focus.
const WAYS_MAX: usize = 4_000;
/// Values of one rule that are told apart.
const CLASSES_MAX: usize = 64;
/// Requests asked of one rule that is not the entry point.
const ASKED_MAX: u64 = 20_000;
/// Parts of a rule on which two policies differ, and requests they are laid upon.
const OVERLAID_MAX: usize = 64;
/// Requests made around one part or combination.
const AROUND_MAX: usize = 100;

/// How far a search goes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most requests.
    pub requests: u64,
    /// Longest time.
    pub time: Duration,
    /// Longest time of one evaluation.
    pub budget: Duration,
    /// What `time.now_ns()` answers, nanoseconds since 1970.
    pub now_ns: i64,
}

/// How far a search went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Searched {
    /// Requests that were decided.
    pub requests: u64,
    /// Requests there are; saturates.
    pub of: u64,
    /// Every request was decided, and no tested value was left out.
    pub is_complete: bool,
}

/// What one policy answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Answer {
    Undefined,
    Value(Value),
    Failed(String),
}

/// Policies that are asked the same.
pub(super) struct Askers {
    sides: Vec<Side>,
    limits: Limits,
}

struct Side {
    evaluator: Evaluator,
    /// For each rule of the domain, if the policy has it.
    rules: Vec<Option<Entrypoint>>,
}

/// A part of a request that gives a rule some value: no field of it could be left out.
#[derive(Clone)]
struct Part {
    point: Point,
    /// The policies give the rule different values.
    differs: bool,
}

/// The parts of one rule.
#[derive(Default)]
struct Parts {
    all: Vec<Part>,
    /// Their indexes, by the value that they give.
    classes: Vec<Vec<usize>>,
}

/// The search of one domain.
pub(super) struct Search<'a> {
    domain: &'a Domain,
    base: &'a Value,
    askers: &'a mut Askers,
    /// By rule.
    parts: Vec<Parts>,
    /// Dimensions of which some combinations of choices are looked at closely.
    focus: Vec<usize>,
    /// These combinations.
    seeds: Vec<Point>,
    seen: HashSet<Point, foldhash::fast::RandomState>,
    started: Instant,
    /// When this part of the search ends, counted from its start.
    until: Duration,
    state: u64,
}

/// Told of each request; answers a number that is the same for requests that are alike.
pub(super) type Observe<'o> = &'o mut dyn FnMut(&Point, &[Answer]) -> usize;

// === impl Askers ===

impl Askers {
    /// Askers of these programs, each with what is asked of it; rules that only one of them has are asked of that one.
    pub(super) fn new(programs: &[&Program], domain: &Domain, limits: Limits) -> Self {
        let side = |program: &&Program| Side {
            evaluator: program.evaluator(),
            rules: domain.rules().iter().map(|rule| program.entrypoint_at(rule.path.clone()).ok()).collect(),
        };
        Self { sides: programs.iter().map(side).collect(), limits }
    }

    /// What each policy answers for a rule; nothing for one that does not have it.
    pub(super) fn ask(&mut self, rule: usize, input: &Value) -> Vec<Answer> {
        let limits = self.limits;
        let ask = |side: &mut Side| {
            let Some(entrypoint) = side.rules.get(rule).and_then(Option::as_ref) else {
                return Answer::Undefined;
            };
            let facts = Facts { input: input.clone(), now_ns: limits.now_ns, budget: limits.budget };
            match side.evaluator.evaluate(entrypoint, facts) {
                Ok(Some(value)) => Answer::Value(value),
                Ok(None) => Answer::Undefined,
                Err(error) => Answer::Failed(error.to_string()),
            }
        };
        self.sides.iter_mut().map(ask).collect()
    }

    /// Whether every policy has the rule.
    pub(super) fn all_have(&self, rule: usize) -> bool {
        self.sides.iter().all(|side| side.rules.get(rule).is_some_and(Option::is_some))
    }
}

// === impl Search ===

impl<'a> Search<'a> {
    pub(super) fn new(
        domain: &'a Domain,
        base: &'a Value,
        askers: &'a mut Askers,
        focus: Vec<usize>,
    ) -> Self {
        Self {
            domain,
            base,
            askers,
            parts: domain.rules().iter().map(|_| Parts::default()).collect(),
            focus,
            seeds: Vec::new(),
            seen: HashSet::default(),
            started: Instant::now(),
            until: Duration::ZERO,
            state: 0x9E37_79B9_7F4A_7C15,
        }
    }

    /// Looks closely at these combinations of the choices in focus.
    pub(super) fn with_seeds(mut self, seeds: Vec<Point>) -> Self {
        self.seeds = seeds;
        self
    }

    /// Searches, asking the rule that stands last.
    pub(super) fn run(&mut self, observe: Observe<'_>) -> Searched {
        let limits = self.askers.limits;
        self.until = limits.time;
        let of = self.domain.size();
        let is_whole = of <= limits.requests;
        if is_whole {
            self.everything(observe);
        } else {
            self.telling(observe);
        }
        let requests = self.seen.len() as u64;
        Searched { requests, of, is_complete: is_whole && requests == of && !self.domain.is_cut() }
    }

    fn is_over(&self) -> bool {
        self.seen.len() as u64 >= self.askers.limits.requests || self.started.elapsed() > self.until
    }

    /// Asks about every request there is.
    fn everything(&mut self, observe: Observe<'_>) {
        let Some(entry) = self.domain.rules().len().checked_sub(1) else { return };
        let mut point = self.domain.origin();
        loop {
            self.observe(entry, &point, observe);
            if self.started.elapsed() > self.until || !self.advance(&mut point) {
                return;
            }
        }
    }

    /// The next request in the order of counting; false after the last.
    fn advance(&self, point: &mut Point) -> bool {
        for (at, dimension) in point.iter_mut().zip(self.domain.dimensions()) {
            *at += 1;
            if usize::from(*at) < dimension.choices.len() {
                return true;
            }
            *at = 0;
        }
        false
    }

    fn telling(&mut self, observe: Observe<'_>) {
        let domain = self.domain;
        let Some((entry, below)) = domain.rules().split_last() else { return };
        let entry_index = below.len();
        // The rules below may take a part of the time, or there would be none left for what they are asked for.
        self.until = self.askers.limits.time / 3;
        let share = (self.askers.limits.requests / 10).min(ASKED_MAX);
        for (index, rule) in below.iter().enumerate() {
            let mut classes = BTreeMap::new();
            let mut keeper = Keeper::new(rule, &self.focus);
            let mut look = |this: &mut Self, point: &Point| {
                let answers = this.ask(index, point);
                let count = classes.len();
                let class = match classes.get(&answers) {
                    Some(class) => *class,
                    None if count < CLASSES_MAX => *classes.entry(answers.clone()).or_insert(count),
                    None => count,
                };
                let is_new = keeper.is_new(class, point);
                if !is_new && !keeper.is_in_focus() {
                    return;
                }
                let differs = answers.first() != answers.last() && this.askers.all_have(index);
                let core = this.core(index, rule, point, &answers);
                if is_new || keeper.is_new_way(class, &core) {
                    this.keep(index, class, Part { point: core, differs });
                }
            };
            if !self.combine(index, rule, share, &mut look) {
                self.neighbours(index, share, &mut look);
                self.in_focus(rule, &mut look);
            }
        }
        self.until = self.askers.limits.time;
        let mut keeper = Keeper::new(entry, &self.focus);
        let first = self.askers.limits.requests / 3;
        let mut look = |this: &mut Self, point: &Point| {
            if let Some(class) = this.observe(entry_index, point, observe)
                && keeper.is_new(class, point)
            {
                this.keep(entry_index, class, Part { point: point.clone(), differs: false });
            }
        };
        self.combine(entry_index, entry, first, &mut look);
        self.overlay(entry_index, &mut look);
        self.neighbours(entry_index, u64::MAX, &mut look);
        let mut idle = 0_u32;
        while !self.is_over() && idle < 100_000 {
            let before = self.seen.len();
            let point = if self.below(2) == 0 {
                self.composed(entry, None)
            } else {
                self.mutated(entry_index, entry)
            };
            look(self, &point);
            idle = if self.seen.len() == before { idle + 1 } else { 0 };
        }
    }

    fn observe(
        &mut self,
        entry: usize,
        point: &Point,
        observe: &mut dyn FnMut(&Point, &[Answer]) -> usize,
    ) -> Option<usize> {
        if !self.seen.insert(point.clone()) {
            return None;
        }
        let answers = self.ask(entry, point);
        Some(observe(point, &answers))
    }

    fn ask(&mut self, rule: usize, point: &[u16]) -> Vec<Answer> {
        self.askers.ask(rule, &self.domain.input(self.base, point))
    }

    fn keep(&mut self, rule: usize, class: usize, part: Part) {
        let Some(parts) = self.parts.get_mut(rule) else { return };
        while parts.classes.len() <= class {
            parts.classes.push(Vec::new());
        }
        let known = parts.classes.get(class).into_iter().flatten();
        let is_known = known.filter_map(|index| parts.all.get(*index)).any(|known| known.point == part.point);
        if !is_known && let Some(of_class) = parts.classes.get_mut(class) {
            of_class.push(parts.all.len());
            parts.all.push(part);
        }
    }

    /// The request without the fields that do not matter for what a rule answers.
    fn core(&mut self, index: usize, rule: &RuleReads, point: &Point, answers: &[Answer]) -> Point {
        let mut core = point.clone();
        for dimension in &rule.all {
            if core.get(*dimension).is_none_or(|choice| *choice == 0) || self.focus.contains(dimension) {
                continue;
            }
            let mut less = core.clone();
            if let Some(at) = less.get_mut(*dimension) {
                *at = 0;
            }
            if self.ask(index, &less) == answers {
                core = less;
            }
        }
        core
    }

    /// Requests that were decided.
    pub(super) fn decided(&self) -> u64 {
        self.seen.len() as u64
    }

    /// What is answered for one more request.
    pub(super) fn answer(&mut self, point: &Point) -> Vec<Answer> {
        let Some(entry) = self.domain.rules().len().checked_sub(1) else { return Vec::new() };
        self.seen.insert(point.clone());
        self.ask(entry, point)
    }

    /// Parts with the choices in focus of `seed` that give a rule another value than they do after each of `changes`.
    pub(super) fn depending(&mut self, seed: &Point, changes: &[&dyn Fn(&mut Point)]) -> Vec<Point> {
        let domain = self.domain;
        let mut found = Vec::new();
        for (index, rule) in domain.rules().iter().enumerate() {
            if !self.focus.iter().all(|dimension| rule.all.contains(dimension)) {
                continue;
            }
            let parts = self.parts.get(index).map(|parts| parts.all.clone()).unwrap_or_default();
            let is_here = |part: &&Part| {
                self.focus.iter().all(|dimension| part.point.get(*dimension) == seed.get(*dimension))
            };
            let here: Vec<Part> = parts.iter().filter(is_here).cloned().collect();
            for part in here {
                let answers = self.ask(index, &part.point);
                let depends = changes.iter().all(|change| {
                    let mut point = part.point.clone();
                    change(&mut point);
                    self.ask(index, &point) != answers
                });
                if depends {
                    found.push(part.point);
                }
            }
        }
        found
    }

    /// Asks about requests made around fields that are given.
    pub(super) fn around(&mut self, seed: &Point, tries: usize, observe: Observe<'_>) {
        let Some((entry, below)) = self.domain.rules().split_last() else { return };
        for _ in 0..tries {
            if self.started.elapsed() > self.askers.limits.time {
                return;
            }
            let point = self.composed(entry, Some(seed));
            self.observe(below.len(), &point, observe);
        }
    }

    /// Combinations of what a rule's own reading and the rules it asks make of a request: all, or `most` of them and false.
    fn combine(
        &mut self,
        index: usize,
        rule: &RuleReads,
        most: u64,
        look: &mut dyn FnMut(&mut Self, &Point),
    ) -> bool {
        let asked: Vec<(usize, usize)> = rule
            .asks
            .iter()
            .map(|below| (*below, self.parts.get(*below).map_or(0, |parts| parts.all.len())))
            .filter(|(_, count)| *count > 0)
            .collect();
        let is_covered =
            |dimension: &usize| rule.asks.iter().any(|below| self.reads(*below).contains(dimension));
        let own: Vec<usize> = rule.own.iter().copied().filter(|dimension| !is_covered(dimension)).collect();
        let choices =
            |dimension: &usize| self.domain.dimensions().get(*dimension).map_or(1, |own| own.choices.len());
        let radixes: Vec<usize> =
            asked.iter().map(|(_, count)| *count).chain(own.iter().map(choices)).collect();
        let size = radixes.iter().fold(1_u64, |size, radix| size.saturating_mul(*radix as u64));
        if size > most {
            for _ in 0..most {
                if self.is_over() {
                    return false;
                }
                let point =
                    if self.below(5) < 3 { self.composed(rule, None) } else { self.mutated(index, rule) };
                look(self, &point);
            }
            return false;
        }
        let mut digits = vec![0_usize; radixes.len()];
        loop {
            if self.is_over() {
                return false;
            }
            let mut point = self.domain.origin();
            let (of_asked, of_own) = digits.split_at(asked.len());
            for ((below, _), digit) in asked.iter().zip(of_asked) {
                if let Some(part) = self.parts.get(*below).and_then(|parts| parts.all.get(*digit)) {
                    lay(&part.point, &mut point);
                }
            }
            for (dimension, digit) in own.iter().zip(of_own) {
                if let Some(at) = point.get_mut(*dimension) {
                    *at = u16::try_from(*digit).unwrap_or_default();
                }
            }
            look(self, &point);
            let mut carried = true;
            for (digit, radix) in digits.iter_mut().zip(&radixes) {
                *digit += 1;
                if *digit < *radix {
                    carried = false;
                    break;
                }
                *digit = 0;
            }
            if carried {
                return true;
            }
        }
    }

    /// Requests around each combination that is in focus, where a rule reads all of it, and each way in which the rules it
    /// asks take a part of that.
    fn in_focus(&mut self, rule: &RuleReads, look: &mut dyn FnMut(&mut Self, &Point)) {
        if self.focus.len() < 2 || !self.focus.iter().all(|dimension| rule.all.contains(dimension)) {
            return;
        }
        for seed in self.seeds.clone() {
            let is_about = |part: &&Part| {
                let choice = |dimension: &usize| part.point.get(*dimension).filter(|choice| **choice != 0);
                agree(&part.point, &seed) && self.focus.iter().any(|dimension| choice(dimension).is_some())
            };
            let asked = rule.asks.iter().filter_map(|below| self.parts.get(*below));
            let about = asked.flat_map(|parts| {
                let of_class = |class: &'_ Vec<usize>| -> Vec<Point> {
                    let own = class.iter().filter_map(|index| parts.all.get(*index)).filter(is_about);
                    own.take(2).map(|part| part.point.clone()).collect()
                };
                parts.classes.iter().flat_map(of_class).collect::<Vec<_>>()
            });
            let about: Vec<Point> = about.chain([seed.clone()]).collect();
            for part in about {
                let mut base = seed.clone();
                fill(&part, &mut base);
                for _ in 0..AROUND_MAX {
                    if self.is_over() {
                        return;
                    }
                    let point = self.composed(rule, Some(&base));
                    look(self, &point);
                }
            }
        }
    }

    fn reads(&self, rule: usize) -> &'a [usize] {
        self.domain.rules().get(rule).map_or(&[], |rule| rule.all.as_slice())
    }

    /// A request made of parts of the rules asked that go together, around what is given.
    fn composed(&mut self, rule: &RuleReads, seed: Option<&Point>) -> Point {
        let mut point = seed.cloned().unwrap_or_else(|| self.domain.origin());
        let turn = self.below(rule.asks.len());
        let (late, early) = rule.asks.split_at(turn);
        for below in early.iter().chain(late) {
            let (pick, from) = (self.below(usize::MAX), self.below(usize::MAX));
            let Some(parts) = self.parts.get(*below) else { continue };
            let turned = parts.classes.split_at(pick.checked_rem(parts.classes.len()).unwrap_or_default());
            let in_turn =
                turned.1.iter().chain(turned.0).filter(|class| !class.is_empty()).flat_map(|class| {
                    let (before, after) = class.split_at(from % class.len());
                    after.iter().chain(before).filter_map(|index| parts.all.get(*index))
                });
            let fitting = in_turn.clone().find(|part| agree(&part.point, &point));
            // Where nothing goes together, what was there stays.
            if let Some(part) = fitting.or_else(|| in_turn.clone().next()) {
                fill(&part.point, &mut point);
            }
        }
        for dimension in &rule.own {
            let is_open = point.get(*dimension) == Some(&0);
            let turn = self.below(12);
            if (is_open && turn < 8) || (turn == 11 && seed.is_none()) {
                let choice = self.picked(*dimension);
                if let Some(at) = point.get_mut(*dimension) {
                    *at = choice;
                }
            }
        }
        point
    }

    /// A known request with one or two changes.
    fn mutated(&mut self, index: usize, rule: &RuleReads) -> Point {
        let Some(Part { mut point, .. }) = self.any_part(index) else { return self.composed(rule, None) };
        for _ in 0..=self.below(2) {
            let below = self.below(rule.asks.len().max(1) * 2);
            if let Some(below) = rule.asks.get(below).copied() {
                if let Some(part) = self.any_part(below) {
                    lay(&part.point, &mut point);
                }
            } else {
                let pick = self.below(rule.all.len());
                if let Some(dimension) = rule.all.get(pick).copied() {
                    let choice = self.picked(dimension);
                    if let Some(at) = point.get_mut(dimension) {
                        *at = choice;
                    }
                }
            }
        }
        point
    }

    /// A part of any class, each as likely.
    fn any_part(&mut self, rule: usize) -> Option<Part> {
        let (pick, from) = (self.below(usize::MAX), self.below(usize::MAX));
        let parts = self.parts.get(rule)?;
        let class = parts.classes.get(pick.checked_rem(parts.classes.len())?)?;
        parts.all.get(*class.get(from.checked_rem(class.len())?)?).cloned()
    }

    /// A choice, mostly a tested one.
    fn picked(&mut self, dimension: usize) -> u16 {
        let domain = self.domain;
        let choices =
            domain.dimensions().get(dimension).map_or(&[][..], |dimension| dimension.choices.as_slice());
        let tested = choices.iter().filter(|choice| choice.kind() == Kind::Tested).count();
        // Sorted by kind: absence is first, the tested ones follow.
        let pick =
            if self.below(4) > 0 && tested > 0 { 1 + self.below(tested) } else { self.below(choices.len()) };
        u16::try_from(pick).unwrap_or_default()
    }

    /// Makes requests around the parts on which the policies differ, and lays these upon the requests known.
    fn overlay(&mut self, entry: usize, look: &mut dyn FnMut(&mut Self, &Point)) {
        let Some(rule) = self.domain.rules().get(entry) else { return };
        let all = |parts: Option<&Parts>| parts.map(|parts| parts.all.clone()).unwrap_or_default();
        for below in 0..entry {
            let parts: Vec<Part> = all(self.parts.get(below));
            for part in parts.iter().filter(|part| part.differs).take(OVERLAID_MAX) {
                for _ in 0..AROUND_MAX {
                    if self.is_over() {
                        return;
                    }
                    let point = self.composed(rule, Some(&part.point));
                    look(self, &point);
                }
                for upon in all(self.parts.get(entry)).iter().take(OVERLAID_MAX) {
                    if self.is_over() {
                        return;
                    }
                    let mut point = upon.point.clone();
                    lay(&part.point, &mut point);
                    look(self, &point);
                }
            }
        }
    }

    /// Changes the requests known by one choice each, and those that are new by that; not more than `most`.
    fn neighbours(&mut self, rule: usize, most: u64, look: &mut dyn FnMut(&mut Self, &Point)) {
        let mut looked = 0;
        let mut next = 0;
        while let Some(part) = self.parts.get(rule).and_then(|parts| parts.all.get(next)).cloned() {
            next += 1;
            for dimension in self.reads(rule) {
                let count = self.domain.dimensions().get(*dimension).map_or(0, |own| own.choices.len());
                for choice in 0..u16::try_from(count).unwrap_or(u16::MAX) {
                    looked += 1;
                    if self.is_over() || looked > most {
                        return;
                    }
                    let mut point = part.point.clone();
                    if let Some(at) = point.get_mut(*dimension) {
                        *at = choice;
                    }
                    look(self, &point);
                }
            }
        }
    }

    /// A number below a bound (xorshift: it has to be varied, not unpredictable).
    fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let bound = u64::try_from(bound.max(1)).unwrap_or(1);
        usize::try_from((self.state >> 16) % bound).unwrap_or_default()
    }
}

/// Lays the fields of one request upon another.
fn lay(part: &[u16], upon: &mut Point) {
    for (from, to) in part.iter().zip(upon) {
        if *from != 0 {
            *to = *from;
        }
    }
}

/// Gives a request the fields that it does not have.
fn fill(part: &[u16], upon: &mut Point) {
    for (from, to) in part.iter().zip(upon) {
        if *to == 0 {
            *to = *from;
        }
    }
}

/// Whether two requests have no field with different values.
fn agree(one: &[u16], other: &[u16]) -> bool {
    one.iter().zip(other).all(|(one, other)| *one == 0 || *other == 0 || one == other)
}

/// Which requests are kept: those with a class, a choice in a class, or a way to choices in focus, not seen before.
struct Keeper<'a> {
    reads: &'a [usize],
    focus: Vec<usize>,
    seen: HashSet<(usize, usize, u16), foldhash::fast::RandomState>,
    /// Ways to a class: the choices in focus, and which other fields it takes.
    ways: HashSet<(usize, Vec<u16>, Vec<bool>), foldhash::fast::RandomState>,
    kept: usize,
}

impl<'a> Keeper<'a> {
    fn new(rule: &'a RuleReads, focus: &[usize]) -> Self {
        let focus = focus.iter().copied().filter(|dimension| rule.all.contains(dimension)).collect();
        Self { reads: &rule.all, focus, seen: HashSet::default(), ways: HashSet::default(), kept: 0 }
    }

    fn is_new(&mut self, class: usize, point: &[u16]) -> bool {
        let choice = |dimension: &usize| point.get(*dimension).copied().unwrap_or_default();
        if self.kept >= KEPT_MAX {
            return false;
        }
        let mut is_new = self.seen.insert((class, usize::MAX, 0));
        for dimension in self.reads {
            is_new |= self.seen.insert((class, *dimension, choice(dimension)));
        }
        self.kept += usize::from(is_new);
        is_new
    }

    /// Whether the rule reads all that is in focus.
    fn is_in_focus(&self) -> bool {
        self.focus.len() > 1
    }

    /// Whether no other way to this class has these choices in focus and takes the same fields.
    fn is_new_way(&mut self, class: usize, core: &[u16]) -> bool {
        if self.ways.len() >= WAYS_MAX {
            return false;
        }
        let focus = self.focus.iter().map(|dimension| core.get(*dimension).copied().unwrap_or_default());
        let fields = core.iter().map(|choice| *choice != 0);
        self.ways.insert((class, focus.collect(), fields.collect()))
    }
}

/// Makes a request smaller as long as `holds`: first simpler choices, then parts of values taken out.
pub(super) fn shrink(
    domain: &Domain,
    base: &Value,
    point: &mut Point,
    holds: &mut dyn FnMut(&Value) -> bool,
) -> Value {
    simplify(point, &[], &mut |simpler| holds(&domain.input(base, simpler)));
    let mut input = domain.input(base, point);
    while let Some(smaller) = smaller(&input).into_iter().find(|smaller| holds(smaller)) {
        input = smaller;
    }
    input
}

/// Takes simpler choices for all but the `fixed` dimensions as long as `holds`.
pub(super) fn simplify(point: &mut Point, fixed: &[usize], holds: &mut dyn FnMut(&Point) -> bool) {
    let mut is_smaller = true;
    while is_smaller {
        is_smaller = false;
        for dimension in (0..point.len()).rev().filter(|dimension| !fixed.contains(dimension)) {
            let now = point.get(dimension).copied().unwrap_or_default();
            for choice in 0..now {
                let mut simpler = point.clone();
                if let Some(at) = simpler.get_mut(dimension) {
                    *at = choice;
                }
                if holds(&simpler) {
                    *point = simpler;
                    is_smaller = true;
                    break;
                }
            }
        }
    }
}

/// The value with one part less, in all ways.
pub(super) fn smaller(value: &Value) -> Vec<Value> {
    match value {
        Value::Object(fields) => {
            let mut all = Vec::new();
            for key in fields.keys() {
                let mut without = value.clone();
                if let Ok(fields) = without.as_object_mut() {
                    fields.remove(key);
                }
                all.push(without);
            }
            for (key, inner) in fields.iter() {
                for inner in smaller(inner) {
                    let mut with = value.clone();
                    if let Ok(fields) = with.as_object_mut() {
                        fields.insert(key.clone(), inner);
                    }
                    all.push(with);
                }
            }
            all
        }
        Value::Array(items) => {
            let mut all = Vec::new();
            for index in 0..items.len() {
                let kept = items.iter().enumerate().filter(|(at, _)| *at != index);
                all.push(Value::from(kept.map(|(_, item)| item.clone()).collect::<Vec<_>>()));
            }
            for (index, inner) in items.iter().enumerate() {
                for inner in smaller(inner) {
                    let with = items.iter().enumerate();
                    let with = with.map(|(at, item)| if at == index { inner.clone() } else { item.clone() });
                    all.push(Value::from(with.collect::<Vec<_>>()));
                }
            }
            all
        }
        Value::Set(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Undefined => Vec::new(),
    }
}
