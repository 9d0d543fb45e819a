//! Calls, and what a `with` puts in the place of documents and functions.

use regorus::Value;

use super::{
    super::{
        call::Builtin,
        flatten::{Atom, FlatReplacement, FlatWith, Function, Refused},
        ir::{Comparison, Mocked, NodeId, Operand, Outcome, Override, Replacement, Step},
        reason::Reason,
    },
    Emitter,
};
use crate::rego::tree::{DocumentPath, Operator, Target};

impl Emitter<'_, '_> {
    pub(super) fn call(
        &mut self,
        function: &Function,
        operands: &[Operand],
        result: Option<&Atom>,
    ) -> Result<(), Refused> {
        let Some(result) = result else { return self.call_into(function, operands, Outcome::Holds) };
        if let Atom::Var(var) = result
            && !self.bound.contains_key(var)
        {
            self.call_into(function, operands, Outcome::Into(*var))?;
            self.bound.insert(*var, Operand::Register(*var));
            return Ok(());
        }
        let to = self.register()?;
        self.call_into(function, operands, Outcome::Into(to))?;
        self.unify_operand(result, Operand::Register(to))
    }

    pub(super) fn call_into(
        &mut self,
        function: &Function,
        operands: &[Operand],
        outcome: Outcome,
    ) -> Result<(), Refused> {
        let step = match (function, operands) {
            (Function::Operator(operator), [left, right]) => {
                return self.operation(*operator, *left, *right, outcome);
            }
            (Function::Member, [value, collection]) => {
                Step::Member { key: None, value: *value, collection: *collection, outcome }
            }
            (Function::MemberAt, [key, value, collection]) => {
                Step::Member { key: Some(*key), value: *value, collection: *collection, outcome }
            }
            (Function::Rule(path), _) => {
                let Some(group) = self.compiler.groups.get(path).copied() else {
                    return self.refuse(Reason::UnknownFunction);
                };
                self.reads.insert(group);
                Step::Function { group, arguments: operands.into(), outcome }
            }
            (Function::Builtin(name), _) => return self.builtin(name, operands, outcome),
            (Function::Operator(_) | Function::Member | Function::MemberAt, _) => {
                return self.refuse(Reason::UnknownFunction);
            }
        };
        self.steps.push(step);
        Ok(())
    }

    fn operation(
        &mut self,
        operator: Operator,
        left: Operand,
        right: Operand,
        outcome: Outcome,
    ) -> Result<(), Refused> {
        let comparison = match operator {
            Operator::Equal => Comparison::Equal,
            Operator::NotEqual => Comparison::NotEqual,
            Operator::Less => Comparison::Less,
            Operator::LessOrEqual => Comparison::LessOrEqual,
            Operator::Greater => Comparison::Greater,
            Operator::GreaterOrEqual => Comparison::GreaterOrEqual,
            Operator::Add
            | Operator::Subtract
            | Operator::Multiply
            | Operator::Divide
            | Operator::Remainder
            | Operator::Intersection
            | Operator::Union => {
                let place = self.place();
                let to = match outcome {
                    Outcome::Into(to) => to,
                    Outcome::Holds => self.register()?,
                };
                self.steps.push(Step::Arithmetic { operator, left, right, to, place });
                if outcome == Outcome::Holds {
                    self.steps.push(Step::Test { of: Operand::Register(to) });
                }
                return Ok(());
            }
        };
        self.steps.push(Step::Compare { operator: comparison, left, right, outcome });
        Ok(())
    }

    fn builtin(&mut self, name: &str, operands: &[Operand], outcome: Outcome) -> Result<(), Refused> {
        let place = self.place();
        let builtin = match Builtin::find(name, place) {
            Ok(builtin) => Box::new(builtin),
            Err(reason) => return self.refuse(reason),
        };
        if name == "net.cidr_contains"
            && outcome == Outcome::Holds
            && let [Operand::Register(tested), address] = *operands
            && let Some(Step::Each { base, key, to: Some(to) }) = self.steps.last()
            && *to == tested
            && address != Operand::Register(tested)
            && key.is_none_or(|key| address != Operand::Register(key))
        {
            let step = Step::EachNetwork { base: *base, key: *key, to: tested, address, builtin };
            self.steps.pop();
            self.steps.push(step);
            self.compiler.reads_networks = true;
            return Ok(());
        }
        if name != "walk" {
            self.steps.push(Step::Builtin { builtin, arguments: operands.into(), outcome });
            return Ok(());
        }
        // A relation: it holds once for each node of the document.
        let list = self.register()?;
        self.steps.push(Step::Builtin { builtin, arguments: operands.into(), outcome: Outcome::Into(list) });
        let to = match outcome {
            Outcome::Into(to) => to,
            Outcome::Holds => self.register()?,
        };
        self.steps.push(Step::Each { base: Operand::Register(list), key: None, to: Some(to) });
        Ok(())
    }

    pub(super) fn enter(&mut self, withs: &[FlatWith]) -> Result<(), Refused> {
        let place = self.place();
        let mut overrides = Vec::new();
        for with in withs {
            overrides.push(match with {
                FlatWith::Document { path, value } => {
                    let value = self.known(value)?;
                    self.document_override(path, value)?
                }
                FlatWith::Function { mocked, by } => {
                    let mocked = self.mocked(mocked)?;
                    let by = match by {
                        FlatReplacement::Value(value) => Replacement::Value(self.known(value)?),
                        FlatReplacement::Function(target) => match target {
                            Target::Function(path) => match self.compiler.groups.get(path).copied() {
                                Some(group) => {
                                    self.reads.insert(group);
                                    Replacement::Group(group)
                                }
                                None => return self.refuse(Reason::UnknownFunction),
                            },
                            Target::Builtin(name) => {
                                let builtin = Builtin::find(name, place.clone());
                                match builtin {
                                    Ok(builtin) => Replacement::Builtin(Box::new(builtin)),
                                    Err(reason) => return self.refuse(reason),
                                }
                            }
                            Target::Unknown => return self.refuse(Reason::UnknownFunction),
                        },
                    };
                    Override::Function { mocked, by }
                }
            });
        }
        self.steps.push(Step::Enter { withs: overrides.into(), place });
        Ok(())
    }

    fn mocked(&self, target: &Target) -> Result<Mocked, Refused> {
        match target {
            Target::Function(path) => match self.compiler.groups.get(path) {
                Some(group) => Ok(Mocked::Group(*group)),
                None => self.refuse(Reason::UnknownFunction),
            },
            Target::Builtin(name) if name == "walk" => self.refuse(Reason::With),
            Target::Builtin(name) => Ok(Mocked::Builtin(name.clone())),
            Target::Unknown => self.refuse(Reason::UnknownFunction),
        }
    }

    fn document_override(&self, document: &DocumentPath, value: Operand) -> Result<Override, Refused> {
        let path: Box<[Value]> = document.path.iter().map(|key| Value::from(key.as_str())).collect();
        if document.of_input {
            return Ok(Override::Input { path, value });
        }
        let mut node: Option<NodeId> = Some(0);
        for key in &path {
            let Some(at) = node else { break };
            let has_rule = self.compiler.nodes.get(at as usize).is_some_and(|node| node.group.is_some());
            if has_rule {
                return self.refuse(Reason::With);
            }
            node = self.compiler.child(at, key);
        }
        Ok(Override::Data { path, node, value })
    }
}
