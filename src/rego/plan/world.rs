//! What an evaluation reads, what it found out, and the memory it does so in.

use std::cell::OnceCell;

use regorus::Value;

use super::{
    Plan,
    gather::Gathered,
    ir::{GroupId, NodeId},
    pattern::Regexes,
    slot::{Slot, look},
    with::Mock,
};
use crate::rego::input::InputSource;

/// No value is known of a group.
const UNKNOWN: u32 = u32::MAX;

/// What an evaluation reads as `input`.
#[derive(Debug, Clone)]
pub(crate) enum Input<'a> {
    /// A document of the caller's.
    Document(&'a Value),
    /// What has the value of each path, and no document yet.
    Paths(&'a dyn InputSource),
    /// A document that a `with` made.
    Made(Slot<'a>),
}

/// What a `with` can change, and all that was computed under it.
#[derive(Debug)]
pub(super) struct World<'a> {
    pub(super) input: Input<'a>,
    pub(super) data: Slot<'a>,
    /// Nodes whose rules a `with` hides.
    pub(super) hidden: Vec<NodeId>,
    pub(super) mocks: Vec<Mock<'a>>,
    paths: Vec<OnceCell<Slot<'a>>>,
    pub(super) memo: Memo<'a>,
}

/// Values of rules, each known once it was evaluated.
#[derive(Debug, Default)]
pub(super) struct Memo<'a> {
    /// By group, where in `known` its value is.
    positions: Vec<u32>,
    known: Vec<(GroupId, Slot<'a>)>,
}

/// Memory of an evaluator, used by one evaluation after the other; it holds no value in between.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(super) registers: Vec<Slot<'static>>,
    pub(super) gathered: Vec<Gathered<'static>>,
    paths: Vec<OnceCell<Slot<'static>>>,
    memo: Memo<'static>,
    pub(super) regexes: Regexes,
}

impl<'a> World<'a> {
    pub(super) fn new(plan: &Plan, input: Input<'a>, data: Slot<'a>) -> Self {
        Self::recycled(plan, input, data, &mut Scratch::default())
    }

    /// In the memory of an evaluation that is over.
    pub(super) fn recycled(plan: &Plan, input: Input<'a>, data: Slot<'a>, scratch: &mut Scratch) -> Self {
        let mut paths: Vec<OnceCell<Slot<'a>>> = emptied(std::mem::take(&mut scratch.paths));
        paths.resize_with(plan.inputs.len(), OnceCell::new);
        let mut memo: Memo<'a> = std::mem::take(&mut scratch.memo);
        memo.positions.resize(plan.groups.len(), UNKNOWN);
        Self { input, data, hidden: Vec::new(), mocks: Vec::new(), paths, memo }
    }

    pub(super) fn path(&self, plan: &Plan, number: u32) -> &Slot<'a> {
        let number = number as usize;
        let Some(cell) = self.paths.get(number) else { return &Slot::Undefined };
        cell.get_or_init(|| {
            let Some(path) = plan.inputs.get(number) else { return Slot::Undefined };
            match &self.input {
                Input::Document(input) => Slot::of(path.iter().try_fold(*input, look)),
                Input::Paths(source) => Slot::from(source.at(number)),
                Input::Made(input) => path.iter().fold(input.clone(), |at, key| at.look(key)),
            }
        })
    }
}

impl Input<'_> {
    /// The whole document.
    pub(super) fn into_value(self) -> Option<Value> {
        match self {
            Self::Document(Value::Undefined) => None,
            Self::Document(input) => Some(input.clone()),
            Self::Paths(source) => Some(source.document()),
            Self::Made(input) => input.into_value(),
        }
    }
}

impl<'a> Memo<'a> {
    pub(super) fn get(&self, group: GroupId) -> Option<&Slot<'a>> {
        let position = *self.positions.get(group as usize)?;
        self.known.get(position as usize).map(|(_, slot)| slot)
    }

    pub(super) fn put(&mut self, group: GroupId, slot: Slot<'a>) {
        let Ok(next) = u32::try_from(self.known.len()) else { return };
        if let Some(position) = self.positions.get_mut(group as usize) {
            *position = next;
            self.known.push((group, slot));
        }
    }
}

impl Scratch {
    /// Takes memory back for the next evaluation.
    pub(super) fn recycle(
        &mut self,
        world: World<'_>,
        registers: Vec<Slot<'_>>,
        gathered: Vec<Gathered<'_>>,
    ) {
        self.registers = emptied(registers);
        self.gathered = emptied(gathered);
        self.paths = emptied(world.paths);
        let Memo { mut positions, known } = world.memo;
        for (group, _) in &known {
            if let Some(position) = positions.get_mut(*group as usize) {
                *position = UNKNOWN;
            }
        }
        self.memo = Memo { positions, known: emptied(known) };
    }
}

/// The memory of a vector for elements that differ in nothing but what they borrow: collecting from a vector into one of
/// the same layout keeps it.
fn emptied<T, U>(mut vector: Vec<T>) -> Vec<U> {
    vector.clear();
    vector.into_iter().filter_map(|_| None).collect()
}
