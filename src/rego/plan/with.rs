//! `with`: other documents and functions for a part of a body, and virtual documents.

use regorus::Value;

use super::{
    call::Builtin,
    ir::{GroupId, Hop, Kind, Mocked, NodeId, Operand, Override, Register, Replacement, Step},
    run::{Done, Flow, Machine},
    slot::Slot,
    world::{Input, World},
};
use crate::rego::{evaluator::EvalError, fault::Place};

/// A function's replacement, with its value as it was when the `with` began.
#[derive(Debug, Clone)]
pub(super) struct Mock<'a> {
    mocked: &'a Mocked,
    by: MockedBy<'a>,
}

#[derive(Debug, Clone)]
enum MockedBy<'a> {
    Value(Slot<'a>),
    Group(GroupId),
    Builtin(&'a Builtin),
}

impl<'a> Machine<'a> {
    /// Walks on in a world with the overrides.
    pub(super) fn enter(
        &mut self,
        withs: &'a [Override],
        place: &'a Place,
        after: &'a [Step],
        base: usize,
    ) -> Done<Flow> {
        let mut world = self.world_like_this();
        for with in withs {
            match with {
                Override::Input { path, value } => {
                    let Some(value) = self.value(*value, base) else { return Ok(Flow::More) };
                    let input = put(world.input.into_value(), path, value.clone());
                    let input = input.ok_or_else(|| Box::new(unmergeable(place)))?;
                    world.input = Input::Made(Slot::Owned(input));
                }
                Override::Data { path, node, value } => {
                    let Some(value) = self.value(*value, base) else { return Ok(Flow::More) };
                    let data = put(world.data.into_value(), path, value.clone());
                    world.data = Slot::Owned(data.ok_or_else(|| Box::new(unmergeable(place)))?);
                    world.hidden.extend(*node);
                }
                Override::Function { mocked, by } => {
                    let by = match by {
                        Replacement::Value(value) => MockedBy::Value(self.slot(*value, base)),
                        Replacement::Group(group) => MockedBy::Group(*group),
                        Replacement::Builtin(builtin) => MockedBy::Builtin(builtin),
                    };
                    world.mocks.push(Mock { mocked, by });
                }
            }
        }
        let outer = std::mem::replace(&mut self.world, world);
        self.outer.push(outer);
        let flow = self.nested(after, base);
        if let Some(outer) = self.outer.pop() {
            self.world = outer;
        }
        flow
    }

    /// Walks on in the world around, and comes back for further solutions.
    pub(super) fn leave(&mut self, after: &'a [Step], base: usize) -> Done<Flow> {
        let Some(outer) = self.outer.pop() else { return self.run(after, base) };
        let inner = std::mem::replace(&mut self.world, outer);
        let flow = self.nested(after, base);
        let outer = std::mem::replace(&mut self.world, inner);
        self.outer.push(outer);
        flow
    }

    fn world_like_this(&self) -> World<'a> {
        let mut world = World::new(self.plan, self.world.input.clone(), self.world.data.clone());
        world.hidden.clone_from(&self.world.hidden);
        world.mocks.clone_from(&self.world.mocks);
        world
    }

    /// Calls a function of the policy, or what stands in for it.
    pub(super) fn function(&mut self, group: GroupId, arguments: &[Operand], base: usize) -> Done<Slot<'a>> {
        if !self.world.mocks.is_empty()
            && let Some(mock) = self.mock(&Mocked::Group(group))
        {
            return self.mocked_call(mock, arguments, base);
        }
        if !self.pass(arguments, base) {
            return Ok(Slot::Undefined);
        }
        self.applied(group)
    }

    /// What stands in for a function, the innermost `with` first.
    pub(super) fn mock(&self, target: &Mocked) -> Option<Mock<'a>> {
        self.world.mocks.iter().rev().find(|mock| mock.mocked == target).cloned()
    }

    pub(super) fn mocked_call(
        &mut self,
        mock: Mock<'a>,
        arguments: &[Operand],
        base: usize,
    ) -> Done<Slot<'a>> {
        if arguments.iter().any(|argument| self.value(*argument, base).is_none()) {
            return Ok(Slot::Undefined);
        }
        // What stands in sees the functions as they are.
        let mut world = self.world_like_this();
        world.mocks.clear();
        let inner = std::mem::replace(&mut self.world, world);
        let answer = match mock.by {
            MockedBy::Value(value) => Ok(value),
            MockedBy::Builtin(builtin) => self.builtin(builtin, arguments, base),
            MockedBy::Group(group) => {
                // Arguments are read before the worlds are changed back: registers are the same in all.
                if self.pass(arguments, base) { self.applied(group) } else { Ok(Slot::Undefined) }
            }
        };
        self.world = inner;
        answer
    }

    /// Walks a path through packages, rules and base documents.
    pub(super) fn document(
        &mut self,
        node: Option<NodeId>,
        at: Slot<'a>,
        hops: &'a [Hop],
        to: Register,
        after: &'a [Step],
        base: usize,
    ) -> Done<Flow> {
        self.charge(1)?;
        let node = node.filter(|node| !self.world.hidden.contains(node));
        let plan = self.plan;
        let found = node.and_then(|id| Some((id, plan.nodes.get(id as usize)?)));
        if let Some((_, node)) = found
            && let Some(group) = node.group
        {
            let value = self.rule(group)?;
            return self.document_below(value, false, hops, to, after, base);
        }
        let Some((id, node)) = found else { return self.document_below(at, true, hops, to, after, base) };
        let Some((hop, rest)) = hops.split_first() else {
            let whole = self.whole(id, at)?;
            self.set(to, base, whole);
            return self.run(after, base);
        };
        match hop {
            Hop::Key(key) => {
                let Some(key) = self.value(*key, base) else { return Ok(Flow::More) };
                let child = node.children.iter().find(|(name, _)| name == key).map(|(_, child)| *child);
                let below = at.look_base(key);
                if child.is_none() && below.get().is_none() {
                    return Ok(Flow::More);
                }
                self.document(child, below, rest, to, after, base)
            }
            Hop::Each(register) => {
                let mut keys: Vec<Value> = node.children.iter().map(|(key, _)| key.clone()).collect();
                if let Some(Value::Object(fields)) = at.get() {
                    keys.extend(fields.keys().cloned());
                }
                keys.sort();
                keys.dedup();
                for key in keys {
                    let child = node.children.iter().find(|(name, _)| *name == key).map(|(_, child)| *child);
                    let below = at.look(&key);
                    if let Some(register) = register {
                        self.set(*register, base, Slot::Owned(key));
                    }
                    if self.nested_document(child, below, rest, to, after, base)? == Flow::Enough {
                        return Ok(Flow::Enough);
                    }
                }
                Ok(Flow::More)
            }
        }
    }

    /// Walks the rest of a path through a value.
    fn document_below(
        &mut self,
        at: Slot<'a>,
        of_data: bool,
        hops: &'a [Hop],
        to: Register,
        after: &'a [Step],
        base: usize,
    ) -> Done<Flow> {
        let mut at = at;
        let mut rest = hops;
        while let Some((hop, further)) = rest.split_first() {
            match hop {
                Hop::Key(key) => {
                    let Some(key) = self.value(*key, base) else { return Ok(Flow::More) };
                    at = if of_data { at.look_base(key) } else { at.look(key) };
                }
                Hop::Each(register) => {
                    let all = at.into_value();
                    let Some(all) = all else { return Ok(Flow::More) };
                    return self.turns(
                        &all,
                        |item| Slot::Owned(item.clone()),
                        |this, key, item| {
                            if let Some(register) = register {
                                this.set(*register, base, key);
                            }
                            this.nested_document(None, item, further, to, after, base)
                        },
                    );
                }
            }
            rest = further;
        }
        if at.get().is_none() {
            return Ok(Flow::More);
        }
        self.set(to, base, at);
        self.run(after, base)
    }

    /// A package as a document: its base data and the values of its rules.
    pub(super) fn whole(&mut self, id: NodeId, at: Slot<'a>) -> Done<Slot<'a>> {
        if self.world.hidden.contains(&id) {
            return Ok(at);
        }
        let plan = self.plan;
        let Some(node) = plan.nodes.get(id as usize) else { return Ok(at) };
        if let Some(group) = node.group {
            let is_function =
                plan.groups.get(group as usize).is_some_and(|group| group.kind == Kind::Function);
            return if is_function { Ok(Slot::Undefined) } else { self.rule(group) };
        }
        let below: Vec<(Value, NodeId, Slot<'a>)> =
            node.children.iter().map(|(key, child)| (key.clone(), *child, at.look(key))).collect();
        let mut whole = match at.into_value() {
            Some(base @ Value::Object(_)) => base,
            Some(_) | None => Value::new_object(),
        };
        let size = if let Value::Object(fields) = &whole { fields.len() } else { 0 };
        self.charge(size)?;
        for (key, child, below) in below {
            let value = self.nested_whole(child, below)?;
            if let (Some(value), Ok(fields)) = (value.into_value(), whole.as_object_mut()) {
                fields.insert(key, value);
            }
        }
        Ok(Slot::Owned(whole))
    }
}

/// A document with a value put at a path; nothing where the way leads through something else.
fn put(document: Option<Value>, path: &[Value], value: Value) -> Option<Value> {
    let Some((key, rest)) = path.split_first() else { return Some(value) };
    let mut document = match document {
        Some(document @ Value::Object(_)) => document,
        // What is no object gives way to one; further up OPA's own answer is not to be relied on.
        Some(_) if !rest.is_empty() => return None,
        Some(_) | None => Value::new_object(),
    };
    let Value::Object(fields) = &document else { return None };
    let below = put(fields.get(key).cloned(), rest, value)?;
    document.as_object_mut().ok()?.insert(key.clone(), below);
    Some(document)
}

fn unmergeable(place: &Place) -> EvalError {
    let message = "a `with` replaces a part of what is not an object".to_owned();
    EvalError::Rule { place: place.clone(), message }
}
