//! Rules and functions: which chains are tried, the first branch that holds, one value or a conflict.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    gather::{Gathered, conflict},
    index::Chains,
    ir::{Chain, Group, GroupId, Kind, Operand, Step},
    run::{Done, Flow, Machine},
    slot::Slot,
};

impl<'a> Machine<'a> {
    /// The value of all rules of a path, evaluated once in a world.
    pub(super) fn rule(&mut self, id: GroupId) -> Done<Slot<'a>> {
        if let Some(known) = self.world.memo.get(id) {
            return Ok(known.clone());
        }
        let Some(group) = self.plan.groups.get(id as usize) else { return Ok(Slot::Undefined) };
        let slot = self.group(group, self.top)?;
        self.world.memo.put(id, slot.clone());
        Ok(slot)
    }

    /// The value of a function whose arguments lie at the top of the registers.
    pub(super) fn applied(&mut self, id: GroupId) -> Done<Slot<'a>> {
        match self.plan.groups.get(id as usize) {
            Some(group) => self.group(group, self.top),
            None => Ok(Slot::Undefined),
        }
    }

    /// Puts arguments where the frame of the next rule begins; `false` if one is undefined.
    pub(super) fn pass(&mut self, arguments: &[Operand], base: usize) -> bool {
        self.reserve(self.top + arguments.len());
        for (index, argument) in arguments.iter().enumerate() {
            let slot = self.slot(*argument, base);
            if slot.get().is_none() {
                return false;
            }
            if let Some(place) = self.registers.get_mut(self.top + index) {
                *place = slot;
            }
        }
        true
    }

    fn reserve(&mut self, length: usize) {
        if self.registers.len() < length {
            self.registers.resize(length, Slot::Undefined);
        }
    }

    fn group(&mut self, group: &'a Group, base: usize) -> Done<Slot<'a>> {
        self.reserve(base + group.frame);
        let outer = std::mem::replace(&mut self.top, base + group.frame);
        let slot = self.deeper(|this| match group.kind {
            Kind::Value | Kind::Function => this.one(group, base),
            Kind::Set => this.partial(group, Gathered::Set(BTreeSet::new()), base),
            Kind::Object => {
                let into = Gathered::Object { fields: BTreeMap::new(), place: &group.place };
                this.partial(group, into, base)
            }
        });
        self.top = outer;
        slot
    }

    fn candidates(&self, group: &Group, base: usize) -> Option<Chains> {
        // The index knows what built-ins answer, not what stands in for them.
        let index = group.index.as_ref().filter(|_| self.world.mocks.is_empty())?;
        let mut found = Chains::new();
        index.candidates(&mut |operand| self.value(operand, base), &mut found);
        Some(found)
    }

    fn one(&mut self, group: &'a Group, base: usize) -> Done<Slot<'a>> {
        let mut result = Slot::Undefined;
        if let Some(found) = self.candidates(group, base) {
            for chain in found.iter().filter_map(|number| group.chains.get(*number as usize)) {
                if self.add_chain(group, chain, &mut result, base)? == Flow::Enough {
                    break;
                }
            }
        } else {
            for chain in &group.chains {
                if self.add_chain(group, chain, &mut result, base)? == Flow::Enough {
                    break;
                }
            }
        }
        match &group.default {
            Some(default) if result.get().is_none() => self.chain(group, default, base),
            Some(_) | None => Ok(result),
        }
    }

    fn add_chain(
        &mut self,
        group: &'a Group,
        chain: &'a Chain,
        result: &mut Slot<'a>,
        base: usize,
    ) -> Done<Flow> {
        let value = self.chain(group, chain, base)?;
        match (result.get(), value.get()) {
            (_, None) => return Ok(Flow::More),
            (None, Some(_)) => *result = value,
            (Some(known), Some(value)) if known == value => {}
            (Some(_), Some(_)) => return conflict(&group.place, &different(group)),
        }
        Ok(if group.one_value { Flow::Enough } else { Flow::More })
    }

    /// The value of the first branch that has one.
    fn chain(&mut self, group: &'a Group, chain: &'a Chain, base: usize) -> Done<Slot<'a>> {
        for branch in &chain.branches {
            let into = if branch.is_constant {
                Gathered::Holds(false)
            } else {
                Gathered::One { value: Slot::Undefined, place: &group.place }
            };
            self.gathered.push(into);
            let done = self.run(&branch.steps, base);
            let gathered = self.gathered.pop();
            done?;
            match gathered {
                Some(Gathered::Holds(true)) => {
                    if let Some(Step::EmitValue { value }) = branch.steps.last() {
                        return Ok(self.slot(*value, base));
                    }
                }
                Some(Gathered::One { value, .. }) if value.get().is_some() => return Ok(value),
                _ => {}
            }
        }
        Ok(Slot::Undefined)
    }

    fn partial(&mut self, group: &'a Group, into: Gathered<'a>, base: usize) -> Done<Slot<'a>> {
        self.gathered.push(into);
        let done = self.partial_chains(group, base);
        let gathered = self.gathered.pop().unwrap_or(Gathered::Holds(false));
        done?;
        Ok(gathered.into_slot())
    }

    fn partial_chains(&mut self, group: &'a Group, base: usize) -> Done<()> {
        if let Some(found) = self.candidates(group, base) {
            for chain in found.iter().filter_map(|number| group.chains.get(*number as usize)) {
                for branch in &chain.branches {
                    self.run(&branch.steps, base)?;
                }
            }
            return Ok(());
        }
        for branch in group.chains.iter().flat_map(|chain| &chain.branches) {
            self.run(&branch.steps, base)?;
        }
        Ok(())
    }
}

fn different(group: &Group) -> String {
    match group.kind {
        Kind::Function => format!("function `{}` gave different values for the same arguments", group.name),
        Kind::Value | Kind::Set | Kind::Object => format!("rule `{}` has different values", group.name),
    }
}
