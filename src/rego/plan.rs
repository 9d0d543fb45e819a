//! Decision plans: rules compiled to steps over registers, with OPA's semantics.
//!
//! The tree is flattened (`flatten`), ordered so that each statement runs when its variables are
//! bound (`order`), emitted as steps (`emit`, `ir`), indexed (`index`), and run (`run`). A rule
//! that uses what plans do not cover is refused with its reason, and so is all that reads it: those
//! run on the interpreter. Nothing here may answer where it is unsure.

mod call;
mod compile;
mod direct;
mod emit;
mod flatten;
mod gather;
mod group;
mod index;
pub(crate) mod ir;
mod keyed;
mod network;
mod order;
mod pattern;
pub mod reason;
mod run;
mod slot;
mod with;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use regorus::Value;

use self::{
    ir::{Group, GroupId, Node, NodeId},
    keyed::Keyed,
    network::Networks,
    reason::NotPlanned,
    run::Machine,
    slot::Slot,
};
pub(crate) use self::{
    slot::look,
    world::{Input, Scratch},
};
use super::{
    evaluator::EvalError,
    tree::{Path, Tree},
};

/// The plan of a program over its data.
#[derive(Debug)]
pub(crate) struct Plan {
    groups: Vec<Group>,
    nodes: Vec<Node>,
    constants: Vec<Value>,
    /// Constant paths below `input`.
    inputs: Vec<Vec<Value>>,
    data: Value,
    networks: Networks,
    keyed: Keyed,
    by_path: BTreeMap<Path, GroupId>,
    refused: BTreeMap<GroupId, NotPlanned>,
}

/// What an evaluation starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    Rule(GroupId),
    Package(NodeId),
}

impl Plan {
    /// Plans the rules of a tree over its base data.
    pub(crate) fn new(tree: &Tree, data: &Value) -> Self {
        compile::compile(tree, data)
    }

    /// The entry at a path below `data`, or the first reason why it is not planned.
    pub(crate) fn entry(&self, path: &[String]) -> Result<Entry, Option<&NotPlanned>> {
        if let Some(group) = self.by_path.get(path) {
            return match self.refused.get(group) {
                Some(refusal) => Err(Some(refusal)),
                None => Ok(Entry::Rule(*group)),
            };
        }
        let mut at: NodeId = 0;
        for component in path {
            let key = Value::from(component.as_str());
            let Some(node) = self.nodes.get(at as usize) else { return Err(None) };
            let Some((_, child)) = node.children.iter().find(|(name, _)| *name == key) else {
                return Err(None);
            };
            at = *child;
        }
        let mut below = BTreeSet::new();
        self.groups_below(at, &mut below);
        match below.iter().find_map(|group| self.refused.get(group)) {
            Some(refusal) => Err(Some(refusal)),
            None => Ok(Entry::Package(at)),
        }
    }

    fn groups_below(&self, node: NodeId, found: &mut BTreeSet<GroupId>) {
        let Some(node) = self.nodes.get(node as usize) else { return };
        found.extend(node.group);
        node.children.iter().for_each(|(_, child)| self.groups_below(*child, found));
    }

    /// The paths below `input` that rules read, by the number a [`InputSource`](super::input::InputSource) is asked with.
    pub(crate) fn input_paths(&self) -> &[Vec<Value>] {
        &self.inputs
    }

    /// The constants of all rules.
    pub(crate) fn constants(&self) -> impl Iterator<Item = &Value> {
        self.constants.iter()
    }

    /// Rules that run on the interpreter, and why.
    pub(crate) fn refused(&self) -> impl Iterator<Item = &NotPlanned> {
        self.refused.values()
    }

    /// Names of the planned rules and functions.
    pub(crate) fn planned(&self) -> impl Iterator<Item = &str> {
        let groups = self.groups.iter().enumerate();
        let planned =
            groups.filter(|(id, _)| GroupId::try_from(*id).is_ok_and(|id| !self.refused.contains_key(&id)));
        planned.map(|(_, group)| group.name.as_str())
    }

    /// Evaluates an entry; `None` is undefined.
    pub(crate) fn evaluate(
        &self,
        entry: Entry,
        input: Input<'_>,
        budget: Duration,
        strict: bool,
        scratch: &mut Scratch,
    ) -> Result<Option<Value>, EvalError> {
        let mut machine = Machine::new(self, input, budget, strict, scratch);
        let answer = match entry {
            Entry::Rule(group) => machine.rule(group),
            Entry::Package(node) => {
                let base = self.base_at(node);
                machine.whole(node, base)
            }
        };
        let late = machine.is_late();
        let answer = answer.map(Slot::into_value);
        machine.finish(scratch);
        match answer {
            Err(stop) => Err(*stop),
            Ok(_) if late => Err(EvalError::BudgetExceeded { budget }),
            Ok(answer) => Ok(answer),
        }
    }

    /// The base document at a node.
    fn base_at(&self, node: NodeId) -> Slot<'_> {
        let mut keys = Vec::new();
        let mut at = node;
        while let Some(parent) = self.nodes.get(at as usize).and_then(|node| node.parent) {
            let key = self
                .nodes
                .get(parent as usize)
                .and_then(|node| node.children.iter().find(|(_, child)| *child == at).map(|(key, _)| key));
            keys.extend(key);
            at = parent;
        }
        keys.into_iter().rev().fold(Slot::Ref(&self.data), |at, key| at.look(key))
    }
}
