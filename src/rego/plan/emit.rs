//! Goals to steps: every variable is bound once, where its goal runs, and is then a register.

mod call;
mod reference;
mod unify;

use std::collections::{BTreeMap, BTreeSet};

use regorus::Value;

use super::{
    compile::Compiler,
    flatten::{Atom, Function, Goal, GoalKind, Goals, Refused, Var},
    ir::{GroupId, Operand, Outcome, Register, Step},
    order::{Vars, order},
    reason::Reason,
};
use crate::rego::{
    fault::Place,
    tree::{Collection, ModuleId, Operator},
};

pub(super) struct Emitter<'c, 't> {
    compiler: &'c mut Compiler<'t>,
    module: ModuleId,
    uses: &'c BTreeMap<Var, usize>,
    bound: BTreeMap<Var, Operand>,
    next: Register,
    offset: usize,
    pub(super) steps: Vec<Step>,
    pub(super) reads: BTreeSet<GroupId>,
}

impl<'c, 't> Emitter<'c, 't> {
    pub(super) fn new(
        compiler: &'c mut Compiler<'t>,
        module: ModuleId,
        frame: usize,
        uses: &'c BTreeMap<Var, usize>,
    ) -> Result<Self, Refused> {
        let next = Register::try_from(frame).map_err(|_| (0, Reason::TooLarge))?;
        Ok(Self {
            compiler,
            module,
            uses,
            bound: BTreeMap::new(),
            next,
            offset: 0,
            steps: Vec::new(),
            reads: BTreeSet::new(),
        })
    }

    pub(super) fn frame(&self) -> usize {
        usize::from(self.next)
    }

    fn place(&self) -> Place {
        self.compiler.tree.place(self.module, self.offset)
    }

    fn refuse<T>(&self, reason: Reason) -> Result<T, Refused> {
        Err((self.offset, reason))
    }

    fn register(&mut self) -> Result<Register, Refused> {
        let register = self.next;
        self.next = register.checked_add(1).ok_or((self.offset, Reason::TooLarge))?;
        Ok(register)
    }

    fn constant(&mut self, value: Value) -> Operand {
        Operand::Constant(self.compiler.constants.number(value))
    }

    /// Emits all goals of a body, each when what it needs is bound.
    pub(super) fn goals(&mut self, goals: &Goals) -> Result<(), Refused> {
        let bound: Vars = self.bound.keys().copied().collect();
        let order = order(goals, &bound).map_err(|waiting| {
            let offset =
                waiting.first().and_then(|index| goals.goals.get(*index)).map_or(0, |goal| goal.offset);
            (offset, Reason::Unsafe("_".to_owned()))
        })?;
        let mut open: Option<usize> = None;
        for index in order {
            let Some(goal) = goals.goals.get(index) else { continue };
            self.offset = goal.offset;
            if goal.withs != open {
                if open.is_some() {
                    self.steps.push(Step::Leave);
                }
                open = goal.withs;
                if let Some(withs) = goal.withs.and_then(|index| goals.withs.get(index)) {
                    self.enter(withs)?;
                }
            }
            self.goal(goal)?;
        }
        if open.is_some() {
            self.steps.push(Step::Leave);
        }
        Ok(())
    }

    fn goal(&mut self, goal: &Goal) -> Result<(), Refused> {
        match &goal.kind {
            GoalKind::Holds(atom) => {
                let of = self.value(atom)?;
                self.steps.push(Step::Test { of });
            }
            GoalKind::Unify(left, right) => self.unify(left, right)?,
            GoalKind::Call { function, arguments, result } => {
                let mut operands = Vec::new();
                for argument in arguments {
                    operands.push(self.value(argument)?);
                }
                self.call(function, &operands, result.as_ref())?;
            }
            GoalKind::Collect { makes, heads, body, result } => {
                self.collect(*makes, heads, body, *result)?;
            }
            GoalKind::Not(inner) => self.not(inner)?,
            GoalKind::Every { key, value, domain, body } => self.every(*key, *value, domain, body)?,
        }
        Ok(())
    }

    /// Emits into a list of steps of its own; what is bound there stays there.
    fn nested(
        &mut self,
        emit: impl FnOnce(&mut Self) -> Result<(), Refused>,
    ) -> Result<Box<[Step]>, Refused> {
        let outer_steps = std::mem::take(&mut self.steps);
        let outer_bound = self.bound.clone();
        let done = emit(self);
        let inner = std::mem::replace(&mut self.steps, outer_steps);
        self.bound = outer_bound;
        done.map(|()| inner.into())
    }

    fn collect(
        &mut self,
        makes: Collection,
        heads: &[Atom],
        body: &Goals,
        result: Var,
    ) -> Result<(), Refused> {
        let place = self.place();
        let body = self.nested(|this| {
            this.goals(body)?;
            let step = match heads {
                [value] => Step::EmitValue { value: this.value(value)? },
                [key, value] => Step::EmitPair { key: this.value(key)?, value: this.value(value)? },
                _ => return this.refuse(Reason::Pattern),
            };
            this.steps.push(step);
            Ok(())
        })?;
        self.bound.insert(result, Operand::Register(result));
        self.steps.push(Step::Collect { makes, body, to: result, place });
        Ok(())
    }

    fn every(&mut self, key: Option<Var>, value: Var, domain: &Atom, body: &Goals) -> Result<(), Refused> {
        let domain = self.value(domain)?;
        let body = self.nested(|this| {
            for var in key.into_iter().chain([value]) {
                this.bound.insert(var, Operand::Register(var));
            }
            this.goals(body)?;
            this.steps.push(Step::EmitTrue);
            Ok(())
        })?;
        self.steps.push(Step::Every { domain, key, value, body });
        Ok(())
    }

    /// What may be undefined inside a negated call or composite is evaluated before the negation;
    /// only a reference that is negated itself, or a side of an equation, may be undefined in it.
    fn not(&mut self, inner: &GoalKind) -> Result<(), Refused> {
        let inner = match inner {
            GoalKind::Holds(atom) => GoalKind::Holds(self.hoisted(atom)?),
            GoalKind::Unify(left, right) => GoalKind::Unify(self.hoisted(left)?, self.hoisted(right)?),
            GoalKind::Call { function: Function::Operator(Operator::Equal), arguments, result: None } => {
                let [left, right] = arguments.as_slice() else { return self.refuse(Reason::Pattern) };
                GoalKind::Unify(self.hoisted(left)?, self.hoisted(right)?)
            }
            GoalKind::Call { function, arguments, result } => {
                let mut operands = Vec::new();
                for argument in arguments {
                    operands.push(self.known(argument)?);
                }
                let result = match result {
                    Some(result) => Some(self.known(result)?),
                    None => None,
                };
                let body = self.nested(|this| {
                    match result {
                        Some(result) => {
                            let to = this.register()?;
                            this.call_into(function, &operands, Outcome::Into(to))?;
                            this.equal(Operand::Register(to), result);
                        }
                        None => this.call_into(function, &operands, Outcome::Holds)?,
                    }
                    this.steps.push(Step::EmitTrue);
                    Ok(())
                })?;
                self.steps.push(Step::Not { body });
                return Ok(());
            }
            GoalKind::Collect { .. } | GoalKind::Not(_) | GoalKind::Every { .. } => {
                return self.refuse(Reason::Pattern);
            }
        };
        let body = self.nested(|this| {
            match &inner {
                GoalKind::Unify(left, right) => this.unify(left, right)?,
                GoalKind::Holds(atom) => {
                    let of = this.value(atom)?;
                    this.steps.push(Step::Test { of });
                }
                GoalKind::Call { .. }
                | GoalKind::Collect { .. }
                | GoalKind::Not(_)
                | GoalKind::Every { .. } => {}
            }
            this.steps.push(Step::EmitTrue);
            Ok(())
        })?;
        self.steps.push(Step::Not { body });
        Ok(())
    }

    /// An atom with everything evaluated that OPA evaluates before a negation.
    fn hoisted(&mut self, atom: &Atom) -> Result<Atom, Refused> {
        let Atom::Reference { root, steps } = atom else {
            if let Atom::Constant(_) | Atom::Var(_) = atom {
                return Ok(atom.clone());
            }
            let known = self.known(atom)?;
            return self.named(known);
        };
        let mut flat = Vec::new();
        for step in steps {
            flat.push(if matches!(step, Atom::Constant(_) | Atom::Var(_)) {
                step.clone()
            } else {
                let known = self.known(step)?;
                self.named(known)?
            });
        }
        Ok(Atom::Reference { root: root.clone(), steps: flat })
    }

    /// An operand as an atom: a variable made for it.
    fn named(&mut self, operand: Operand) -> Result<Atom, Refused> {
        let var = self.register()?;
        self.bound.insert(var, operand);
        Ok(Atom::Var(var))
    }

    /// The value of an atom, which the body does not go on without.
    fn known(&mut self, atom: &Atom) -> Result<Operand, Refused> {
        let operand = self.value(atom)?;
        let Operand::Input(_) = operand else { return Ok(operand) };
        let to = self.register()?;
        self.steps.push(Step::Load { to, from: operand });
        Ok(Operand::Register(to))
    }

    /// The value of an atom all of whose variables are bound, or become so by looking it up.
    pub(super) fn value(&mut self, atom: &Atom) -> Result<Operand, Refused> {
        match atom {
            // The tree's own text is shared by all workers, and so would be the count of its references.
            Atom::Constant(Value::String(text)) => Ok(self.constant(Value::from(&**text))),
            Atom::Constant(value) => Ok(self.constant(value.clone())),
            Atom::Var(var) => match self.bound.get(var) {
                Some(operand) => Ok(*operand),
                None => self.refuse(Reason::Unsafe("_".to_owned())),
            },
            Atom::Reference { root, steps } => self.reference(root, steps),
            Atom::Array(items) => self.composite(Collection::Array, items.iter()),
            Atom::Set(items) => self.composite(Collection::Set, items.iter()),
            Atom::Object(fields) => {
                self.composite(Collection::Object, fields.iter().flat_map(|(key, value)| [key, value]))
            }
        }
    }

    fn composite<'a>(
        &mut self,
        makes: Collection,
        items: impl Iterator<Item = &'a Atom>,
    ) -> Result<Operand, Refused> {
        let mut operands = Vec::new();
        for item in items {
            operands.push(self.value(item)?);
        }
        let values: Vec<Option<Value>> =
            operands.iter().map(|operand| self.known_constant(*operand)).collect();
        if let Some(values) = values.iter().cloned().collect()
            && let Some(value) = make(makes, values)
        {
            return Ok(self.constant(value));
        }
        let to = self.register()?;
        self.steps.push(match template(makes, &operands, &values) {
            Some((template, fields)) => {
                Step::Fill { template: self.compiler.constants.number(template), fields, to }
            }
            None => Step::Make { makes, items: operands.into(), to },
        });
        Ok(Operand::Register(to))
    }

    fn known_constant(&self, operand: Operand) -> Option<Value> {
        let Operand::Constant(number) = operand else { return None };
        self.compiler.constants.values.get(number as usize).cloned()
    }
}

/// Keys of an object, and where their values come from.
type Fields = Box<[(Value, Operand)]>;

/// An object of constant keys as a template, and what is put in; none where two values share a key.
fn template(makes: Collection, operands: &[Operand], values: &[Option<Value>]) -> Option<(Value, Fields)> {
    if makes != Collection::Object {
        return None;
    }
    let (mut object, mut fields) = (BTreeMap::new(), Vec::new());
    for (operands, values) in operands.chunks_exact(2).zip(values.chunks_exact(2)) {
        let ([_, operand], [Some(key), value]) = (operands, values) else { return None };
        if value.is_none() {
            fields.push((key.clone(), *operand));
        }
        let held = value.clone().unwrap_or(Value::Null);
        if object.insert(key.clone(), held).is_some() {
            return None;
        }
    }
    Some((Value::from(object), fields.into()))
}

/// A composite of constants; none where two values of an object share a key.
fn make(makes: Collection, values: Vec<Value>) -> Option<Value> {
    match makes {
        Collection::Array => Some(Value::from(values)),
        Collection::Set => Some(Value::from(values.into_iter().collect::<BTreeSet<_>>())),
        Collection::Object => {
            let mut fields = BTreeMap::new();
            let mut values = values.into_iter();
            while let (Some(key), Some(value)) = (values.next(), values.next()) {
                if fields.insert(key, value).is_some() {
                    return None;
                }
            }
            Some(Value::from(fields))
        }
    }
}
