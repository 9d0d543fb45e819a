//! The machine: one evaluation of a plan.
//!
//! A body runs as a walk over its steps; a step that holds in several ways calls the rest once for
//! each. Nothing here panics, recurses without a bound, or runs on after its budget.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use regorus::Value;

use super::{
    Plan,
    gather::Gathered,
    ir::{Comparison, Hop, NodeId, Operand, Outcome, Register, Step},
    pattern::Regexes,
    slot::Slot,
    world::{Input, Scratch, World},
};
use crate::rego::{evaluator::EvalError, tree::Collection};

/// Steps between looks at the clock.
const STEPS_BETWEEN_LOOKS: u32 = 1_024;
/// Steps of one evaluation at the most, whatever its time budget.
const STEPS_MAX: u64 = 200_000_000;
/// Loops, rules and `with`s inside one another at the most; the call graph admits fewer.
const DEPTH_MAX: u32 = 400;
/// A budget below which the clock is looked at from the start, not only after many steps.
const SHORT_BUDGET: Duration = Duration::from_millis(1);

/// Boxed, so that the many frames of a walk stay small.
pub(super) type Stop = Box<EvalError>;
pub(super) type Done<T> = Result<T, Stop>;

/// Whether a walk goes on after a solution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    More,
    Enough,
}

pub(super) struct Machine<'a> {
    pub(super) plan: &'a Plan,
    pub(super) world: World<'a>,
    /// The worlds around the present one, innermost last.
    pub(super) outer: Vec<World<'a>>,
    pub(super) registers: Vec<Slot<'a>>,
    /// Where the frame of the next rule begins.
    pub(super) top: usize,
    pub(super) gathered: Vec<Gathered<'a>>,
    pub(super) regexes: Regexes,
    depth: u32,
    fuel: u32,
    spent: u64,
    pub(super) strict: bool,
    budget: Duration,
    started: Option<Instant>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        input: Input<'a>,
        budget: Duration,
        strict: bool,
        scratch: &mut Scratch,
    ) -> Self {
        Self {
            plan,
            world: World::recycled(plan, input, Slot::Ref(&plan.data), scratch),
            outer: Vec::new(),
            registers: std::mem::take(&mut scratch.registers),
            top: 0,
            gathered: std::mem::take(&mut scratch.gathered),
            regexes: std::mem::take(&mut scratch.regexes),
            depth: 0,
            fuel: STEPS_BETWEEN_LOOKS,
            spent: 0,
            strict,
            budget,
            started: (budget < SHORT_BUDGET).then(Instant::now),
        }
    }

    /// Gives its memory back.
    pub(super) fn finish(self, scratch: &mut Scratch) {
        let world = self.outer.into_iter().next().unwrap_or(self.world);
        scratch.regexes = self.regexes;
        scratch.recycle(world, self.registers, self.gathered);
    }

    // === budget ===

    #[inline]
    fn tick(&mut self) -> Done<()> {
        self.fuel = self.fuel.saturating_sub(1);
        if self.fuel == 0 { self.look_at_clock() } else { Ok(()) }
    }

    /// Pays for work that is done in one step.
    pub(super) fn charge(&mut self, steps: usize) -> Done<()> {
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.fuel = self.fuel.saturating_sub(steps);
        if self.fuel == 0 { self.look_at_clock() } else { Ok(()) }
    }

    #[cold]
    pub(super) fn look_at_clock(&mut self) -> Done<()> {
        self.fuel = STEPS_BETWEEN_LOOKS;
        self.spent += u64::from(STEPS_BETWEEN_LOOKS);
        if self.spent > STEPS_MAX {
            let message = format!("evaluation of more than {STEPS_MAX} steps");
            return Err(Box::new(EvalError::LimitExceeded { message }));
        }
        self.within_budget()
    }

    /// Fails if the budget is used up; the first call starts the clock.
    pub(super) fn within_budget(&mut self) -> Done<()> {
        let started = *self.started.get_or_insert_with(Instant::now);
        if started.elapsed() > self.budget {
            return Err(Box::new(EvalError::BudgetExceeded { budget: self.budget }));
        }
        Ok(())
    }

    /// Whether the clock was ever looked at, and the time has run out since.
    pub(super) fn is_late(&self) -> bool {
        self.started.is_some_and(|started| started.elapsed() > self.budget)
    }

    pub(super) fn deeper<T>(&mut self, run: impl FnOnce(&mut Self) -> Done<T>) -> Done<T> {
        if self.depth >= DEPTH_MAX {
            let message = format!("evaluation nested more than {DEPTH_MAX} deep");
            return Err(Box::new(EvalError::LimitExceeded { message }));
        }
        self.depth += 1;
        let result = run(self);
        self.depth -= 1;
        result
    }

    /// Walks on one level deeper.
    pub(super) fn nested(&mut self, after: &'a [Step], base: usize) -> Done<Flow> {
        self.deeper(|this| this.run(after, base))
    }

    pub(super) fn nested_document(
        &mut self,
        node: Option<NodeId>,
        at: Slot<'a>,
        hops: &'a [Hop],
        to: Register,
        after: &'a [Step],
        base: usize,
    ) -> Done<Flow> {
        self.deeper(|this| this.document(node, at, hops, to, after, base))
    }

    pub(super) fn nested_whole(&mut self, node: NodeId, at: Slot<'a>) -> Done<Slot<'a>> {
        self.deeper(|this| this.whole(node, at))
    }

    // === operands ===

    #[inline]
    pub(super) fn value(&self, operand: Operand, base: usize) -> Option<&Value> {
        match operand {
            Operand::Register(register) => self.registers.get(base + usize::from(register))?.get(),
            Operand::Constant(number) => self.plan.constants.get(number as usize),
            Operand::Input(number) => self.world.path(self.plan, number).get(),
        }
    }

    pub(super) fn slot(&self, operand: Operand, base: usize) -> Slot<'a> {
        match operand {
            Operand::Register(register) => {
                self.registers.get(base + usize::from(register)).cloned().unwrap_or_default()
            }
            Operand::Constant(number) => Slot::of(self.plan.constants.get(number as usize)),
            Operand::Input(number) => self.world.path(self.plan, number).clone(),
        }
    }

    pub(super) fn set(&mut self, register: Register, base: usize, slot: Slot<'a>) {
        if let Some(place) = self.registers.get_mut(base + usize::from(register)) {
            *place = slot;
        }
    }

    /// Whether the walk goes on with the answer of a test.
    fn settle(&mut self, outcome: Outcome, base: usize, answer: bool) -> bool {
        match outcome {
            Outcome::Holds => answer,
            Outcome::Into(to) => {
                self.set(to, base, Slot::Owned(Value::from(answer)));
                true
            }
        }
    }

    /// Whether the walk goes on with a value that may be undefined.
    fn settle_slot(&mut self, outcome: Outcome, base: usize, slot: Slot<'a>) -> bool {
        match outcome {
            Outcome::Holds => is_true(slot.get()),
            Outcome::Into(to) => {
                let defined = slot.get().is_some();
                self.set(to, base, slot);
                defined
            }
        }
    }

    // === bodies ===

    /// Walks over steps, and what follows a loop once for each of its turns.
    pub(super) fn run(&mut self, steps: &'a [Step], base: usize) -> Done<Flow> {
        let mut rest = steps;
        while let Some((step, after)) = rest.split_first() {
            self.tick()?;
            let goes_on = match step {
                Step::Each { base: of, key, to } => return self.each(*of, *key, *to, after, base),
                Step::EachNetwork { base: of, key, to, address, builtin } => {
                    let tested = [Operand::Register(*to), *address];
                    let list = self.slot(*of, base);
                    return self.each_network(&list, *key, tested, builtin, after, base);
                }
                Step::Document { hops, to } => {
                    let data = self.world.data.clone();
                    return self.document(Some(0), data, hops, *to, after, base);
                }
                Step::Enter { withs, place } => return self.enter(withs, place, after, base),
                Step::Leave => return self.leave(after, base),
                Step::EmitTrue | Step::EmitValue { .. } | Step::EmitPair { .. } => {
                    return self.emit(step, base);
                }
                Step::Fail => false,
                Step::Load { .. }
                | Step::Test { .. }
                | Step::Compare { .. }
                | Step::Look { .. }
                | Step::LookBase { .. }
                | Step::Member { .. }
                | Step::IsArray { .. }
                | Step::IsObject { .. }
                | Step::Make { .. }
                | Step::Fill { .. }
                | Step::Rule { .. }
                | Step::Arithmetic { .. }
                | Step::Function { .. }
                | Step::Builtin { .. }
                | Step::Collect { .. }
                | Step::Not { .. }
                | Step::Every { .. } => self.step(step, base)?,
            };
            if !goes_on {
                return Ok(Flow::More);
            }
            rest = after;
        }
        Ok(Flow::More)
    }

    /// A step that holds in one way at most.
    fn step(&mut self, step: &'a Step, base: usize) -> Done<bool> {
        Ok(match step {
            Step::Load { to, from } => {
                let slot = self.slot(*from, base);
                self.settle_slot(Outcome::Into(*to), base, slot)
            }
            Step::Test { of } => is_true(self.value(*of, base)),
            Step::Compare { operator, left, right, outcome } => {
                match (self.value(*left, base), self.value(*right, base)) {
                    (Some(left), Some(right)) => {
                        let answer = compare(*operator, left, right);
                        self.settle(*outcome, base, answer)
                    }
                    _ => false,
                }
            }
            Step::Look { to, base: of, key } => {
                let slot = self.look(*of, *key, base);
                self.settle_slot(Outcome::Into(*to), base, slot)
            }
            Step::LookBase { to, base: of, key } => {
                let of = self.slot(*of, base);
                let slot = match (&of, self.value(*key, base)) {
                    (Slot::Ref(value), Some(key @ Value::String(_))) => self.look_at(value, key),
                    (of, Some(key)) => of.look_base(key),
                    (_, None) => Slot::Undefined,
                };
                self.settle_slot(Outcome::Into(*to), base, slot)
            }
            Step::Rule { group, to } => {
                let slot = self.rule(*group)?;
                self.settle_slot(Outcome::Into(*to), base, slot)
            }
            Step::Member { key, value, collection, outcome } => {
                match self.member(*key, *value, *collection, base) {
                    Some(answer) => self.settle(*outcome, base, answer),
                    None => false,
                }
            }
            Step::IsArray { of, length } => {
                matches!(self.value(*of, base), Some(Value::Array(items)) if items.len() == *length)
            }
            Step::IsObject { of, length } => {
                matches!(self.value(*of, base), Some(Value::Object(fields)) if fields.len() == *length)
            }
            Step::Make { makes, items, to } => {
                let made = self.make(*makes, items, base);
                self.settle_slot(Outcome::Into(*to), base, made)
            }
            Step::Fill { template, fields, to } => {
                let made = self.fill(*template, fields, base);
                self.settle_slot(Outcome::Into(*to), base, made.map_or(Slot::Undefined, Slot::Owned))
            }
            Step::Fail
            | Step::Arithmetic { .. }
            | Step::Function { .. }
            | Step::Builtin { .. }
            | Step::Collect { .. }
            | Step::Not { .. }
            | Step::Every { .. }
            | Step::Each { .. }
            | Step::EachNetwork { .. }
            | Step::Document { .. }
            | Step::Enter { .. }
            | Step::Leave
            | Step::EmitTrue
            | Step::EmitValue { .. }
            | Step::EmitPair { .. } => return self.larger_step(step, base),
        })
    }

    /// A step that runs other code or bodies of its own.
    fn larger_step(&mut self, step: &'a Step, base: usize) -> Done<bool> {
        if let Step::Not { body } = step {
            return Ok(!self.holds(body, base)?);
        }
        if let Step::Every { domain, key, value, body } = step {
            return self.every(*domain, *key, *value, body, base);
        }
        let (outcome, slot) = if let Step::Function { group, arguments, outcome } = step {
            (*outcome, self.function(*group, arguments, base)?)
        } else if let Step::Builtin { builtin, arguments, outcome } = step {
            (*outcome, self.builtin(builtin, arguments, base)?)
        } else if let Step::Collect { makes, body, to, place } = step {
            (Outcome::Into(*to), self.collect(*makes, body, place, base)?)
        } else if let Step::Arithmetic { operator, left, right, to, place } = step {
            (Outcome::Into(*to), self.arithmetic(*operator, *left, *right, place, base)?)
        } else {
            return Ok(false);
        };
        Ok(self.settle_slot(outcome, base, slot))
    }

    fn look(&self, of: Operand, key: Operand, base: usize) -> Slot<'a> {
        let Some(key) = self.value(key, base) else { return Slot::Undefined };
        match of {
            Operand::Register(register) => match self.registers.get(base + usize::from(register)) {
                Some(Slot::Ref(value)) => self.look_at(value, key),
                Some(slot) => slot.look(key),
                None => Slot::Undefined,
            },
            Operand::Input(number) => self.world.path(self.plan, number).look(key),
            Operand::Constant(number) => match self.plan.constants.get(number as usize) {
                Some(value) => self.look_at(value, key),
                None => Slot::Undefined,
            },
        }
    }

    /// What lies at a key of what may be a large object of data.
    fn look_at(&self, value: &'a Value, key: &Value) -> Slot<'a> {
        Slot::of(self.plan.keyed.look(value, key))
    }

    fn member(&self, key: Option<Operand>, value: Operand, of: Operand, base: usize) -> Option<bool> {
        let (value, collection) = (self.value(value, base)?, self.value(of, base)?);
        if let Some(key) = key {
            let key = self.value(key, base)?;
            return Some(super::slot::look(collection, key) == Some(value));
        }
        Some(match collection {
            Value::Array(items) => items.contains(value),
            Value::Set(members) => members.contains(value),
            Value::Object(fields) => fields.values().any(|field| field == value),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Undefined => false,
        })
    }

    fn fill(&self, template: u32, fields: &[(Value, Operand)], base: usize) -> Option<Value> {
        let mut filled = self.plan.constants.get(template as usize)?.clone();
        let object = filled.as_object_mut().ok()?;
        for (key, operand) in fields {
            let value = self.value(*operand, base)?.clone();
            *object.get_mut(key)? = value;
        }
        Some(filled)
    }

    fn make(&self, makes: Collection, items: &[Operand], base: usize) -> Slot<'a> {
        let mut values = items.iter().map(|item| self.value(*item, base).cloned());
        let made = match makes {
            Collection::Array => values.collect::<Option<Vec<_>>>().map(Value::from),
            Collection::Set => values.collect::<Option<BTreeSet<_>>>().map(Value::from),
            Collection::Object => {
                let mut fields = BTreeMap::new();
                loop {
                    let Some(key) = values.next() else { break Some(Value::from(fields)) };
                    let (Some(key), Some(Some(value))) = (key, values.next()) else { break None };
                    fields.insert(key, value);
                }
            }
        };
        made.map_or(Slot::Undefined, Slot::Owned)
    }

    fn each(
        &mut self,
        of: Operand,
        key: Option<Register>,
        to: Option<Register>,
        after: &'a [Step],
        base: usize,
    ) -> Done<Flow> {
        self.deeper(|this| match this.slot(of, base) {
            Slot::Undefined => Ok(Flow::More),
            Slot::Ref(value) => this.turns(value, Slot::Ref, |this, at, item| {
                if let Some(key) = key {
                    this.set(key, base, at);
                }
                if let Some(to) = to {
                    this.set(to, base, item);
                }
                this.run(after, base)
            }),
            Slot::Owned(value) => this.turns(
                &value,
                |item| Slot::Owned(item.clone()),
                |this, at, item| {
                    if let Some(key) = key {
                        this.set(key, base, at);
                    }
                    if let Some(to) = to {
                        this.set(to, base, item);
                    }
                    this.run(after, base)
                },
            ),
        })
    }

    /// Runs once for each key and item of a collection; anything else has none.
    pub(super) fn turns<'v>(
        &mut self,
        collection: &'v Value,
        wrap: impl Fn(&'v Value) -> Slot<'a>,
        mut turn: impl FnMut(&mut Self, Slot<'a>, Slot<'a>) -> Done<Flow>,
    ) -> Done<Flow> {
        match collection {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    if turn(self, Slot::Owned(Value::from(index)), wrap(item))? == Flow::Enough {
                        return Ok(Flow::Enough);
                    }
                }
            }
            Value::Set(members) => {
                for member in members.iter() {
                    if turn(self, wrap(member), wrap(member))? == Flow::Enough {
                        return Ok(Flow::Enough);
                    }
                }
            }
            Value::Object(fields) => {
                for (key, value) in fields.iter_sorted() {
                    if turn(self, wrap(key), wrap(value))? == Flow::Enough {
                        return Ok(Flow::Enough);
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Undefined => {}
        }
        Ok(Flow::More)
    }
}

fn is_true(value: Option<&Value>) -> bool {
    value.is_some_and(|value| *value != Value::Bool(false))
}

fn compare(operator: Comparison, left: &Value, right: &Value) -> bool {
    match operator {
        Comparison::Equal => left == right,
        Comparison::NotEqual => left != right,
        Comparison::Less => order(left, right).is_lt(),
        Comparison::LessOrEqual => order(left, right).is_le(),
        Comparison::Greater => order(left, right).is_gt(),
        Comparison::GreaterOrEqual => order(left, right).is_ge(),
    }
}

/// OPA's order of values: objects come before sets, which regorus has the other way round.
fn order(left: &Value, right: &Value) -> Ordering {
    match (left, right) {
        (Value::Object(_), Value::Set(_)) => Ordering::Less,
        (Value::Set(_), Value::Object(_)) => Ordering::Greater,
        (Value::Array(left), Value::Array(right)) => {
            let pairs = left.iter().zip(right.iter());
            let first = pairs.map(|(left, right)| order(left, right)).find(|order| order.is_ne());
            first.unwrap_or_else(|| left.len().cmp(&right.len()))
        }
        _ => left.cmp(right),
    }
}
