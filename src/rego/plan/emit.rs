//! Goals to steps: every variable is bound once, where its goal runs, and is then a register.

use std::collections::{BTreeMap, BTreeSet};

use regorus::Value;

use super::{
    call::Builtin,
    compile::Compiler,
    flatten::{
        Atom, FlatReplacement, FlatWith, Function, Goal, GoalKind, Goals, Refused, Root, Var,
    },
    ir::{
        Comparison, GroupId, Hop, Mocked, NodeId, Operand, Outcome, Override, Register, Replacement, Step,
    },
    order::{Vars, atom_vars, order},
    reason::Reason,
};
use crate::rego::{
    fault::Place,
    tree::{Collection, DocumentPath, ModuleId, Operator, Target},
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
            let offset = waiting.first().and_then(|index| goals.goals.get(*index)).map_or(0, |goal| goal.offset);
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
                _ => {}
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
            flat.push(match step {
                Atom::Constant(_) | Atom::Var(_) => step.clone(),
                step => {
                    let known = self.known(step)?;
                    self.named(known)?
                }
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
        let constants: Option<Vec<Value>> = operands
            .iter()
            .map(|operand| {
                let Operand::Constant(number) = operand else { return None };
                self.compiler.constants.values.get(*number as usize).cloned()
            })
            .collect();
        if let Some(value) = constants.and_then(|values| make(makes, values)) {
            return Ok(self.constant(value));
        }
        let (to, place) = (self.register()?, self.place());
        self.steps.push(Step::Make { makes, items: operands.into(), to, place });
        Ok(Operand::Register(to))
    }

    // === references ===

    fn reference(&mut self, root: &Root, steps: &[Atom]) -> Result<Operand, Refused> {
        // References in brackets are looked up before the one they stand in.
        let mut hops = Vec::new();
        for step in steps {
            hops.push(match step {
                Atom::Constant(_) | Atom::Var(_) => step.clone(),
                step if self.is_bound(step) || matches!(step, Atom::Reference { .. }) => {
                    let operand = self.value(step)?;
                    self.named(operand)?
                }
                pattern => pattern.clone(),
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

    fn is_bound(&self, atom: &Atom) -> bool {
        let mut vars = Vars::new();
        atom_vars(atom, &mut vars);
        vars.iter().all(|var| self.bound.contains_key(var))
    }

    /// Looks up one key after the other.
    fn below(&mut self, base: Operand, hops: &[Atom], of_data: bool) -> Result<Operand, Refused> {
        let mut base = base;
        for hop in hops {
            let to = self.register()?;
            if let Atom::Var(var) = hop
                && !self.bound.contains_key(var)
            {
                let named = self.uses.get(var).is_some_and(|uses| *uses > 0);
                let key = named.then_some(*var);
                self.steps.push(Step::Each { base, key, to: Some(to) });
                self.bound.insert(*var, Operand::Register(*var));
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
                base = base.and_then(|base| super::slot::Slot::Owned(base).look_base(key).into_value());
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
            match self.compiler.child(node, key) {
                Some(child) => {
                    node = child;
                    reached = Some(node);
                    if self.group_at(node)?.is_some() {
                        break;
                    }
                }
                None => {
                    reached = None;
                    break;
                }
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
            steps.push(match hop {
                Atom::Var(var) if !self.bound.contains_key(var) => {
                    let named = self.uses.get(var).is_some_and(|uses| *uses > 0);
                    self.bound.insert(*var, Operand::Register(*var));
                    Hop::Each(named.then_some(*var))
                }
                hop if self.is_bound(hop) => Hop::Key(self.value(hop)?),
                hop => {
                    let key = self.register()?;
                    patterns.push((hop.clone(), key));
                    Hop::Each(Some(key))
                }
            });
        }
        let to = self.register()?;
        self.steps.push(Step::Document { hops: steps.into(), to });
        for (pattern, key) in patterns {
            self.unify_operand(&pattern, Operand::Register(key))?;
        }
        Ok(Operand::Register(to))
    }

    // === unification ===

    fn equal(&mut self, left: Operand, right: Operand) {
        let (operator, outcome) = (Comparison::Equal, Outcome::Holds);
        self.steps.push(Step::Compare { operator, left, right, outcome });
    }

    fn unify(&mut self, left: &Atom, right: &Atom) -> Result<(), Refused> {
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
            Atom::Constant(_) => true,
            Atom::Var(var) => self.bound.contains_key(var),
            Atom::Reference { root: Root::Atom(base), .. } => self.can_evaluate(base),
            Atom::Reference { .. } => true,
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
            let pairs = fields.iter().map(|(key, value)| match key {
                Atom::Constant(key) => Some((key.clone(), value.clone())),
                _ => None,
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
    pub(super) fn unify_operand(&mut self, pattern: &Atom, operand: Operand) -> Result<(), Refused> {
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

    // === calls ===

    fn call(
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

    fn call_into(
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
        let builtin = match Builtin::find(name, self.compiler.runtime, place) {
            Ok(builtin) => Box::new(builtin),
            Err(reason) => return self.refuse(reason),
        };
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

    // === with ===

    fn enter(&mut self, withs: &[FlatWith]) -> Result<(), Refused> {
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
                                let builtin = Builtin::find(name, self.compiler.runtime, place.clone());
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

fn is_stuck(emitter: &Emitter<'_, '_>, left: &Atom, right: &Atom) -> bool {
    !emitter.can_evaluate(left)
        && !emitter.can_evaluate(right)
        && !matches!((left, right), (Atom::Array(_), Atom::Array(_)) | (Atom::Object(_), Atom::Object(_)))
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
