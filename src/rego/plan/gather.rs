//! Solutions of bodies and what they are gathered in: sets, arrays, objects, one value, or a yes.

use std::collections::{BTreeMap, BTreeSet};

use regorus::Value;

use super::{
    ir::{Operand, Register, Step},
    run::{Done, Flow, Machine},
    slot::Slot,
};
use crate::rego::{evaluator::EvalError, fault::Place, tree::Collection};

static TRUE: Value = Value::Bool(true);

/// What the solutions of a body are gathered in.
#[derive(Debug)]
pub(super) enum Gathered<'a> {
    Holds(bool),
    One { value: Slot<'a>, place: &'a Place },
    Array(Vec<Value>),
    Set(BTreeSet<Value>),
    Object { fields: BTreeMap<Value, Value>, place: &'a Place },
}

impl<'a> Machine<'a> {
    pub(super) fn emit(&mut self, step: &Step, base: usize) -> Done<Flow> {
        let (key, value) = if let Step::EmitValue { value } = step {
            (None, self.slot(*value, base))
        } else if let Step::EmitPair { key, value } = step {
            (Some(self.slot(*key, base)), self.slot(*value, base))
        } else {
            (None, Slot::Ref(&TRUE))
        };
        if value.get().is_none() {
            return Ok(Flow::More);
        }
        match (self.gathered.last_mut(), key) {
            (Some(Gathered::Holds(holds)), _) => {
                *holds = true;
                return Ok(Flow::Enough);
            }
            (Some(Gathered::One { value: known, place }), _) => match (known.get(), value.get()) {
                (None, _) => *known = value,
                (Some(known), Some(value)) if known == value => {}
                (Some(_), _) => return conflict(place, "rules gave different values"),
            },
            (Some(Gathered::Array(items)), _) => items.extend(value.into_value()),
            (Some(Gathered::Set(members)), _) => members.extend(value.into_value()),
            (Some(Gathered::Object { fields, place }), Some(key)) => {
                if let (Some(key), Some(value)) = (key.into_value(), value.into_value()) {
                    match fields.get(&key) {
                        None => {
                            fields.insert(key, value);
                        }
                        Some(known) if *known == value => {}
                        Some(_) => return conflict(place, "object keys must be unique"),
                    }
                }
            }
            (Some(Gathered::Object { .. }) | None, _) => {}
        }
        Ok(Flow::More)
    }

    fn gather(&mut self, into: Gathered<'a>, steps: &'a [Step], base: usize) -> Done<Gathered<'a>> {
        self.gathered.push(into);
        let done = self.deeper(|this| this.run(steps, base));
        let gathered = self.gathered.pop().unwrap_or(Gathered::Holds(false));
        done.map(|_| gathered)
    }

    pub(super) fn holds(&mut self, body: &'a [Step], base: usize) -> Done<bool> {
        let gathered = self.gather(Gathered::Holds(false), body, base)?;
        Ok(matches!(gathered, Gathered::Holds(true)))
    }

    pub(super) fn collect(
        &mut self,
        makes: Collection,
        body: &'a [Step],
        place: &'a Place,
        base: usize,
    ) -> Done<Slot<'a>> {
        let into = match makes {
            Collection::Array => Gathered::Array(Vec::new()),
            Collection::Set => Gathered::Set(BTreeSet::new()),
            Collection::Object => Gathered::Object { fields: BTreeMap::new(), place },
        };
        Ok(self.gather(into, body, base)?.into_slot())
    }

    pub(super) fn every(
        &mut self,
        domain: Operand,
        key: Option<Register>,
        value: Register,
        body: &'a [Step],
        base: usize,
    ) -> Done<bool> {
        let turn = |this: &mut Self, at: Slot<'a>, item: Slot<'a>| {
            if let Some(key) = key {
                this.set(key, base, at);
            }
            this.set(value, base, item);
            Ok(if this.holds(body, base)? { Flow::More } else { Flow::Enough })
        };
        let domain = self.slot(domain, base);
        let flow = match domain {
            Slot::Ref(all @ (Value::Array(_) | Value::Set(_) | Value::Object(_))) => {
                self.turns(all, Slot::Ref, turn)?
            }
            Slot::Owned(all @ (Value::Array(_) | Value::Set(_) | Value::Object(_))) => {
                self.turns(&all, |item| Slot::Owned(item.clone()), turn)?
            }
            Slot::Undefined | Slot::Ref(_) | Slot::Owned(_) => return Ok(false),
        };
        Ok(flow == Flow::More)
    }
}

impl<'a> Gathered<'a> {
    pub(super) fn into_slot(self) -> Slot<'a> {
        match self {
            Self::Holds(holds) => Slot::Owned(Value::from(holds)),
            Self::One { value, .. } => value,
            Self::Array(items) => Slot::Owned(Value::from(items)),
            Self::Set(members) => Slot::Owned(Value::from(members)),
            Self::Object { fields, .. } => Slot::Owned(Value::from(fields)),
        }
    }
}

/// The error of two values where one may be.
pub(super) fn conflict<T>(place: &Place, message: &str) -> Done<T> {
    Err(Box::new(EvalError::Conflict { place: place.clone(), message: message.to_owned() }))
}
