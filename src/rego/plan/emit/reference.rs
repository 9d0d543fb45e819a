//! References: constant paths, rules, and paths through documents and rules.

use std::collections::BTreeSet;

use regorus::Value;

use super::{
    super::{
        flatten::{Atom, Refused, Root, Var},
        ir::{GroupId, Hop, NodeId, Operand, Register, Step},
        order::{Vars, atom_vars},
        reason::Reason,
        slot::Slot,
    },
    Emitter,
};

impl Emitter<'_, '_> {
    pub(super) fn reference(&mut self, root: &Root, steps: &[Atom]) -> Result<Operand, Refused> {
        // References in brackets are looked up before the one they stand in.
        let mut hops = Vec::new();
        for step in steps {
            hops.push(match step {
                Atom::Constant(_) | Atom::Var(_) => step.clone(),
                step if self.is_bound(step) || matches!(step, Atom::Reference { .. }) => {
                    let operand = self.value(step)?;
                    self.named(operand)?
                }
                Atom::Reference { .. } | Atom::Array(_) | Atom::Set(_) | Atom::Object(_) => step.clone(),
            });
        }
        match root {
            Root::Atom(base) => {
                let base = self.value(base)?;
                self.below(base, &hops, false)
            }
            Root::Input => {
                let path: Vec<Value> = hops
                    .iter()
                    .map_while(|hop| if let Atom::Constant(key) = hop { Some(key.clone()) } else { None })
                    .collect();
                let rest = hops.get(path.len()..).unwrap_or_default();
                let base = Operand::Input(self.compiler.inputs.number(path));
                self.below(base, rest, false)
            }
            Root::Data => self.data(&hops),
        }
    }

    pub(super) fn is_bound(&self, atom: &Atom) -> bool {
        let mut vars = Vars::new();
        atom_vars(atom, &mut vars);
        vars.iter().all(|var| self.bound.contains_key(var))
    }

    /// The variable an atom is, if nothing has bound it yet.
    fn open_var(&self, atom: &Atom) -> Option<Var> {
        if let Atom::Var(var) = atom { Some(*var).filter(|var| !self.bound.contains_key(var)) } else { None }
    }

    /// The register of a variable that anything reads.
    fn named_var(&self, var: Var) -> Option<Register> {
        self.uses.get(&var).filter(|uses| **uses > 0).map(|_| var)
    }

    /// Looks up one key after the other.
    fn below(&mut self, base: Operand, hops: &[Atom], of_data: bool) -> Result<Operand, Refused> {
        let mut base = base;
        for hop in hops {
            let to = self.register()?;
            if let Some(var) = self.open_var(hop) {
                let key = self.named_var(var);
                self.steps.push(Step::Each { base, key, to: Some(to) });
                self.bound.insert(var, Operand::Register(var));
            } else if self.is_bound(hop) {
                let key = self.value(hop)?;
                self.steps.push(if of_data {
                    Step::LookBase { to, base, key }
                } else {
                    Step::Look { to, base, key }
                });
            } else {
                let key = self.register()?;
                self.steps.push(Step::Each { base, key: Some(key), to: Some(to) });
                self.unify_operand(hop, Operand::Register(key))?;
            }
            base = Operand::Register(to);
        }
        Ok(base)
    }

    /// A path below `data`: constant, a rule's value, or through rules by keys known only later.
    fn data(&mut self, hops: &[Atom]) -> Result<Operand, Refused> {
        let mut node: NodeId = 0;
        let mut base = Some(self.compiler.data.clone());
        if !self.compiler.data_varies {
            for (index, hop) in hops.iter().enumerate() {
                let Atom::Constant(key) = hop else { break };
                let rest = hops.get(index + 1..).unwrap_or_default();
                base = base.and_then(|base| Slot::Owned(base).look_base(key).into_value());
                match self.compiler.child(node, key) {
                    None => {
                        let Some(base) = base else {
                            self.steps.push(Step::Fail);
                            // What follows is compiled all the same, and never runs.
                            let nothing = self.constant(Value::Null);
                            return self.below(nothing, rest, false);
                        };
                        let base = self.constant(base);
                        return self.below(base, rest, true);
                    }
                    Some(child) => {
                        node = child;
                        if let Some(group) = self.group_at(node)? {
                            let to = self.register()?;
                            self.reads.insert(group);
                            self.steps.push(Step::Rule { group, to });
                            return self.below(Operand::Register(to), rest, false);
                        }
                    }
                }
            }
        }
        self.document(hops)
    }

    fn group_at(&self, node: NodeId) -> Result<Option<GroupId>, Refused> {
        let Some(node) = self.compiler.nodes.get(node as usize) else { return Ok(None) };
        if node.group.is_some() && !node.children.is_empty() {
            return self.refuse(Reason::NestedRules);
        }
        if node.group.is_some_and(|group| self.compiler.functions.contains(&group)) {
            return self.refuse(Reason::UnknownFunction);
        }
        Ok(node.group)
    }

    fn document(&mut self, hops: &[Atom]) -> Result<Operand, Refused> {
        // What can be reached at the most: everything below the constant part.
        let mut node: NodeId = 0;
        let mut reached = Some(0);
        for hop in hops {
            let Atom::Constant(key) = hop else { break };
            reached = self.compiler.child(node, key);
            let Some(child) = reached else { break };
            node = child;
            if self.group_at(node)?.is_some() {
                break;
            }
        }
        if let Some(node) = reached {
            let mut groups = BTreeSet::new();
            self.compiler.groups_below(node, &mut groups);
            self.reads.extend(groups);
        }
        let mut steps = Vec::new();
        let mut patterns = Vec::new();
        for hop in hops {
            steps.push(if let Some(var) = self.open_var(hop) {
                self.bound.insert(var, Operand::Register(var));
                Hop::Each(self.named_var(var))
            } else if self.is_bound(hop) {
                Hop::Key(self.value(hop)?)
            } else {
                let key = self.register()?;
                patterns.push((hop.clone(), key));
                Hop::Each(Some(key))
            });
        }
        let to = self.register()?;
        self.steps.push(Step::Document { hops: steps.into(), to });
        for (pattern, key) in patterns {
            self.unify_operand(&pattern, Operand::Register(key))?;
        }
        Ok(Operand::Register(to))
    }
}
