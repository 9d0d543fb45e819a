//! Unification: what is open in a pattern is bound to the parts of a value, the rest is compared.

use std::collections::{BTreeMap, BTreeSet};

use regorus::Value;

use super::{
    super::{
        flatten::{Atom, Refused, Root},
        ir::{Comparison, Operand, Outcome, Step},
        reason::Reason,
    },
    Emitter,
};

impl Emitter<'_, '_> {
    pub(super) fn equal(&mut self, left: Operand, right: Operand) {
        let (operator, outcome) = (Comparison::Equal, Outcome::Holds);
        self.steps.push(Step::Compare { operator, left, right, outcome });
    }

    pub(super) fn unify(&mut self, left: &Atom, right: &Atom) -> Result<(), Refused> {
        let mut open = vec![(left.clone(), right.clone())];
        while !open.is_empty() {
            let before = open.len();
            let mut waiting = Vec::new();
            for (left, right) in open {
                self.unify_once(left, right, &mut waiting)?;
            }
            if waiting.len() >= before && waiting.iter().all(|(left, right)| is_stuck(self, left, right)) {
                return self.refuse(Reason::Pattern);
            }
            open = waiting;
        }
        Ok(())
    }

    fn unify_once(
        &mut self,
        left: Atom,
        right: Atom,
        waiting: &mut Vec<(Atom, Atom)>,
    ) -> Result<(), Refused> {
        match (&left, &right) {
            (Atom::Array(one), Atom::Array(other)) if !(self.is_bound(&left) && self.is_bound(&right)) => {
                if one.len() != other.len() {
                    self.steps.push(Step::Fail);
                    return Ok(());
                }
                waiting.extend(one.iter().cloned().zip(other.iter().cloned()));
                return Ok(());
            }
            (Atom::Object(one), Atom::Object(other)) if !(self.is_bound(&left) && self.is_bound(&right)) => {
                return self.unify_objects(one, other, waiting);
            }
            _ => {}
        }
        let (left_ready, right_ready) = (self.can_evaluate(&left), self.can_evaluate(&right));
        if left_ready {
            let operand = self.value(&left)?;
            self.unify_operand(&right, operand)
        } else if right_ready {
            let operand = self.value(&right)?;
            self.unify_operand(&left, operand)
        } else {
            waiting.push((left, right));
            Ok(())
        }
    }

    /// Whether an atom has a value now: references bind what stands open in their brackets.
    fn can_evaluate(&self, atom: &Atom) -> bool {
        match atom {
            Atom::Var(var) => self.bound.contains_key(var),
            Atom::Reference { root: Root::Atom(base), .. } => self.can_evaluate(base),
            Atom::Constant(_) | Atom::Reference { root: Root::Input | Root::Data, .. } => true,
            Atom::Array(items) | Atom::Set(items) => items.iter().all(|item| self.can_evaluate(item)),
            Atom::Object(fields) => {
                fields.iter().all(|(key, value)| self.can_evaluate(key) && self.can_evaluate(value))
            }
        }
    }

    fn unify_objects(
        &mut self,
        one: &[(Atom, Atom)],
        other: &[(Atom, Atom)],
        waiting: &mut Vec<(Atom, Atom)>,
    ) -> Result<(), Refused> {
        let keyed = |fields: &[(Atom, Atom)]| -> Option<BTreeMap<Value, Atom>> {
            let pairs = fields.iter().map(|(key, value)| {
                if let Atom::Constant(key) = key { Some((key.clone(), value.clone())) } else { None }
            });
            pairs.collect()
        };
        let (Some(one), Some(other)) = (keyed(one), keyed(other)) else {
            return self.refuse(Reason::Pattern);
        };
        if !one.keys().eq(other.keys()) {
            self.steps.push(Step::Fail);
            return Ok(());
        }
        waiting.extend(one.into_values().zip(other.into_values()));
        Ok(())
    }

    /// Binds what is open in a pattern to the parts of a value, and compares the rest.
    pub(in crate::rego::plan) fn unify_operand(
        &mut self,
        pattern: &Atom,
        operand: Operand,
    ) -> Result<(), Refused> {
        match pattern {
            Atom::Var(var) if !self.bound.contains_key(var) => {
                let operand = match operand {
                    Operand::Input(_) => {
                        self.steps.push(Step::Load { to: *var, from: operand });
                        Operand::Register(*var)
                    }
                    Operand::Register(_) | Operand::Constant(_) => operand,
                };
                self.bound.insert(*var, operand);
            }
            pattern if self.can_evaluate(pattern) => {
                let value = self.value(pattern)?;
                self.equal(operand, value);
            }
            Atom::Array(items) => {
                self.steps.push(Step::IsArray { of: operand, length: items.len() });
                for (index, item) in items.iter().enumerate() {
                    let key = self.constant(Value::from(index));
                    self.part(operand, key, item)?;
                }
            }
            Atom::Object(fields) => {
                let mut keys = BTreeSet::new();
                for (key, _) in fields {
                    let Atom::Constant(key) = key else { return self.refuse(Reason::Pattern) };
                    keys.insert(key);
                }
                self.steps.push(Step::IsObject { of: operand, length: keys.len() });
                for (key, value) in fields {
                    let key = self.value(key)?;
                    self.part(operand, key, value)?;
                }
            }
            Atom::Constant(_) | Atom::Var(_) | Atom::Reference { .. } | Atom::Set(_) => {
                return self.refuse(Reason::Pattern);
            }
        }
        Ok(())
    }

    fn part(&mut self, base: Operand, key: Operand, pattern: &Atom) -> Result<(), Refused> {
        let to = self.register()?;
        self.steps.push(Step::Look { to, base, key });
        self.unify_operand(pattern, Operand::Register(to))
    }
}

fn is_stuck(emitter: &Emitter<'_, '_>, left: &Atom, right: &Atom) -> bool {
    !emitter.can_evaluate(left)
        && !emitter.can_evaluate(right)
        && !matches!((left, right), (Atom::Array(_), Atom::Array(_)) | (Atom::Object(_), Atom::Object(_)))
}
