//! Rules to groups of chains: what belongs together, what cannot be planned, and what reads what.

use std::collections::{BTreeMap, BTreeSet};

use regorus::Value;

use super::{
    Plan,
    emit::Emitter,
    flatten::{Atom, Flattener, Goals, Refused, Var},
    index::Index,
    ir::{Branch, Chain, Group, GroupId, Kind, Node, NodeId, Operand, Step},
    keyed::Keyed,
    network::Networks,
    reason::{NotPlanned, Reason},
};
use crate::rego::{
    fault::Place,
    tree::{Body, Path, Rule, RuleId, Shape, Term, Tree, WithTarget, dotted, walk_statements},
};

/// What all rules of a plan share while it is made.
pub(super) struct Compiler<'t> {
    pub(super) tree: &'t Tree,
    pub(super) data: &'t Value,
    /// Whether a `with` of any rule replaces data: then no path below `data` is constant.
    pub(super) data_varies: bool,
    pub(super) constants: Interned<Value>,
    pub(super) inputs: Interned<Vec<Value>>,
    pub(super) nodes: Vec<Node>,
    pub(super) groups: BTreeMap<Path, GroupId>,
    /// Whether a loop asks which networks of a list hold an address.
    pub(super) reads_networks: bool,
    /// Those of the groups that are functions.
    pub(super) functions: BTreeSet<GroupId>,
}

/// Values numbered in the order in which they first came.
pub(super) struct Interned<T> {
    pub(super) values: Vec<T>,
    numbers: BTreeMap<T, u32>,
}

impl<T: Ord + Clone> Interned<T> {
    fn new() -> Self {
        Self { values: Vec::new(), numbers: BTreeMap::new() }
    }

    pub(super) fn number(&mut self, value: T) -> u32 {
        if let Some(number) = self.numbers.get(&value) {
            return *number;
        }
        let number = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
        self.values.push(value.clone());
        self.numbers.insert(value, number);
        number
    }
}

/// Plans every rule of a tree; what cannot be planned is listed with its reason.
pub(super) fn compile(tree: &Tree, data: &Value) -> Plan {
    let mut compiler = Compiler {
        tree,
        data,
        data_varies: data_varies(tree),
        constants: Interned::new(),
        inputs: Interned::new(),
        nodes: vec![Node::default()],
        groups: BTreeMap::new(),
        reads_networks: false,
        functions: BTreeSet::new(),
    };
    let mut members: Vec<(Path, Vec<RuleId>)> = Vec::new();
    for (id, rule) in tree.rules.iter().enumerate() {
        let next = members.len();
        let group = *compiler
            .groups
            .entry(home(tree, rule).to_vec())
            .or_insert_with(|| GroupId::try_from(next).unwrap_or(GroupId::MAX));
        if rule.is_function() {
            compiler.functions.insert(group);
        }
        match members.get_mut(group as usize) {
            Some((_, rules)) => rules.push(id),
            None => members.push((home(tree, rule).to_vec(), vec![id])),
        }
    }
    for (index, (path, _)) in members.iter().enumerate() {
        compiler.add_node(path, GroupId::try_from(index).ok());
    }
    // A package without rules is a document too, an empty one.
    for module in &tree.modules {
        compiler.add_node(&module.package, None);
    }
    let mut groups = Vec::new();
    let mut reads = Vec::new();
    let mut refused: BTreeMap<GroupId, NotPlanned> = BTreeMap::new();
    for (index, (path, rules)) in members.iter().enumerate() {
        let (group, read, refusal) = compiler.group(path, rules);
        if let Some(refusal) = refusal {
            refused.insert(GroupId::try_from(index).unwrap_or(GroupId::MAX), refusal);
        }
        groups.push(group);
        reads.push(read);
    }
    spread(&groups, &reads, &mut refused);
    Plan {
        groups,
        nodes: compiler.nodes,
        constants: compiler.constants.values,
        inputs: compiler.inputs.values,
        keyed: Keyed::gather(data),
        networks: if compiler.reads_networks { Networks::gather(data) } else { Networks::default() },
        data: data.clone(),
        by_path: compiler.groups,
        refused,
    }
}

/// The path of the group a rule belongs to: `p.a := 1` beside `p[k] := v` is one more key of `p`.
fn home<'r>(tree: &Tree, rule: &'r Rule) -> &'r [String] {
    let Some((_, above)) = rule.path.split_last() else { return &rule.path };
    let plain = matches!(rule.shape, Shape::Value) && rule.keys.is_empty() && !rule.is_default;
    let siblings = || tree.rules_at(above).iter().filter_map(|id| tree.rule(*id));
    let beside = plain
        && siblings().next().is_some()
        && siblings()
            .all(|sibling| kind_of(sibling) == Kind::Object && !sibling.is_deep && !sibling.is_default)
        && rule.branches.iter().all(|branch| !branch.is_else);
    if beside { above } else { &rule.path }
}

/// Whatever reads a rule that is not planned is not planned either.
fn spread(groups: &[Group], reads: &[BTreeSet<GroupId>], refused: &mut BTreeMap<GroupId, NotPlanned>) {
    loop {
        let mut more = Vec::new();
        for (index, (group, reads)) in groups.iter().zip(reads).enumerate() {
            let id = GroupId::try_from(index).unwrap_or(GroupId::MAX);
            if refused.contains_key(&id) {
                continue;
            }
            if let Some(read) = reads.iter().find(|read| refused.contains_key(read)) {
                let name = groups.get(*read as usize).map(|group| group.name.clone()).unwrap_or_default();
                let (rule, place) = (group.name.clone(), group.place.clone());
                more.push((id, NotPlanned { rule, place, reason: Reason::Reads(name) }));
            }
        }
        if more.is_empty() {
            return;
        }
        refused.extend(more);
    }
}

fn data_varies(tree: &Tree) -> bool {
    let mut varies = false;
    for rule in &tree.rules {
        walk_statements(rule, &mut |statement| {
            varies |= statement
                .withs
                .iter()
                .any(|with| matches!(&with.target, WithTarget::Document(document) if !document.of_input));
        });
    }
    varies
}

impl Compiler<'_> {
    fn add_node(&mut self, path: &[String], group: Option<GroupId>) {
        let mut at: NodeId = 0;
        for component in path {
            let key = Value::from(component.as_str());
            if let Some(child) = self.child(at, &key) {
                at = child;
                continue;
            }
            let id = NodeId::try_from(self.nodes.len()).unwrap_or(NodeId::MAX);
            self.nodes.push(Node { parent: Some(at), ..Node::default() });
            if let Some(node) = self.nodes.get_mut(at as usize) {
                node.children.push((key, id));
                node.children.sort();
            }
            at = id;
        }
        if let (Some(group), Some(node)) = (group, self.nodes.get_mut(at as usize)) {
            node.group = Some(group);
        }
    }

    pub(super) fn child(&self, node: NodeId, key: &Value) -> Option<NodeId> {
        let children = &self.nodes.get(node as usize)?.children;
        children.iter().find(|(name, _)| name == key).map(|(_, id)| *id)
    }

    /// Every group at or below a node.
    pub(super) fn groups_below(&self, node: NodeId, found: &mut BTreeSet<GroupId>) {
        let Some(node) = self.nodes.get(node as usize) else { return };
        found.extend(node.group);
        node.children.iter().for_each(|(_, child)| self.groups_below(*child, found));
    }

    /// Whether a rule lies on the way to a path, or below it.
    fn is_nested(&self, path: &[String]) -> bool {
        let mut at: NodeId = 0;
        for component in path {
            let Some(node) = self.nodes.get(at as usize) else { return false };
            if node.group.is_some() {
                return true;
            }
            let Some(child) = self.child(at, &Value::from(component.as_str())) else { return false };
            at = child;
        }
        self.nodes.get(at as usize).is_some_and(|node| !node.children.is_empty())
    }

    fn group(&mut self, path: &[String], rules: &[RuleId]) -> (Group, BTreeSet<GroupId>, Option<NotPlanned>) {
        let members = rules.iter().filter_map(|id| self.tree.rule(*id));
        // As OPA: such a rule is not there at all, and a set of none but such rules is undefined.
        let members: Vec<&Rule> = members.filter(|rule| !rule.misses_constant()).collect();
        let own = |rule: &&&Rule| !rule.is_default && rule.path == path;
        let head = members.iter().find(own).or(members.first());
        let kind = head.map_or(Kind::Value, |rule| kind_of(rule));
        let place = head.map_or_else(|| Place::whole("?"), |rule| self.place(rule, rule.extent.start));
        let mut group = Group {
            name: dotted(path),
            place,
            kind,
            chains: Vec::new(),
            default: None,
            frame: 0,
            one_value: false,
            index: None,
        };
        let mut reads = BTreeSet::new();
        let mut refusal = None;
        let nested = self.is_nested(path).then_some(Reason::NestedRules);
        for rule in members {
            let refused = match &nested {
                Some(reason) => Err((rule.extent.start, reason.clone())),
                None => self.rule(rule, &mut group, &mut reads),
            };
            if let Err((offset, reason)) = refused {
                let offset = if offset == 0 { rule.extent.start } else { offset };
                let place = self.place(rule, offset);
                refusal.get_or_insert(NotPlanned { rule: group.name.clone(), place, reason });
            }
        }
        group.one_value = self.one_value(&group);
        group.index = Index::new(&group, &self.constants.values);
        (group, reads, refusal)
    }

    fn place(&self, rule: &Rule, offset: usize) -> Place {
        self.tree.place(rule.module, offset)
    }

    /// Whether every branch gives the same constant.
    fn one_value(&self, group: &Group) -> bool {
        let mut values = group.chains.iter().flat_map(|chain| &chain.branches).map(|branch| {
            match (branch.is_constant, branch.steps.last()) {
                (true, Some(Step::EmitValue { value: Operand::Constant(value) })) => {
                    self.constants.values.get(*value as usize)
                }
                _ => None,
            }
        });
        match values.next() {
            Some(Some(first)) => values.all(|value| value == Some(first)),
            _ => false,
        }
    }

    fn rule(&mut self, rule: &Rule, group: &mut Group, reads: &mut BTreeSet<GroupId>) -> Result<(), Refused> {
        if rule.is_deep || rule.keys.len() > 1 {
            return Err((rule.extent.start, Reason::DeepHead));
        }
        let keyed = !rule.keys.is_empty();
        if keyed && !matches!(rule.shape, Shape::Value) {
            return Err((rule.extent.start, Reason::DeepHead));
        }
        if rule.is_default {
            let branch = self.branch(rule, None, rule.value.as_ref(), group, reads)?;
            group.default = Some(Chain { branches: vec![branch] });
            return Ok(());
        }
        if rule.branches.is_empty() {
            let branch = self.branch(rule, None, rule.value.as_ref(), group, reads)?;
            group.chains.push(Chain { branches: vec![branch] });
            return Ok(());
        }
        for branch in &rule.branches {
            let value = if branch.is_else { branch.value.as_ref() } else { rule.value.as_ref() };
            let planned = self.branch(rule, Some(&branch.body), value, group, reads)?;
            match group.chains.last_mut() {
                Some(chain) if branch.is_else => chain.branches.push(planned),
                Some(_) | None => group.chains.push(Chain { branches: vec![planned] }),
            }
        }
        Ok(())
    }

    fn branch(
        &mut self,
        rule: &Rule,
        body: Option<&Body>,
        value: Option<&Term>,
        group: &mut Group,
        reads: &mut BTreeSet<GroupId>,
    ) -> Result<Branch, Refused> {
        let arguments = if let Shape::Function(arguments) = &rule.shape { arguments.as_slice() } else { &[] };
        let mut flattener = Flattener::new(self.tree, arguments.len())?;
        let mut goals = Goals::default();
        let patterns = flattener.arguments(arguments, &mut goals)?;
        let heads: Vec<&Term> = rule.keys.iter().chain(value).collect();
        let empty = Body::default();
        flattener.open(body.unwrap_or(&empty), &heads)?;
        flattener.body(body.unwrap_or(&empty), &mut goals)?;
        let mut flat = Vec::new();
        // A key of the group that is written as a rule of its own.
        if group.kind == Kind::Object && rule.keys.is_empty() {
            let key = rule.path.last().ok_or((rule.extent.start, Reason::DeepHead))?;
            flat.push(Atom::Constant(Value::from(key.as_str())));
        }
        for head in heads {
            flat.push(flattener.atom(head, &mut goals, None)?);
        }
        if value.is_none() && !matches!(rule.shape, Shape::Set) {
            flat.push(Atom::Constant(Value::from(true)));
        }
        flattener.close();
        let frame = flattener.frame();
        let mut emitter = Emitter::new(self, rule.module, frame, &flattener.uses)?;
        for (index, pattern) in patterns.iter().enumerate() {
            let register = Var::try_from(index).map_err(|_| (0, Reason::TooLarge))?;
            emitter.unify_operand(pattern, Operand::Register(register))?;
        }
        emitter.goals(&goals)?;
        let is_constant = match (group.kind, flat.as_slice()) {
            (Kind::Object, [key, value]) => {
                let (key, value) = (emitter.value(key)?, emitter.value(value)?);
                emitter.steps.push(Step::EmitPair { key, value });
                false
            }
            (Kind::Value | Kind::Set | Kind::Function, [value]) => {
                let value = emitter.value(value)?;
                emitter.steps.push(Step::EmitValue { value });
                matches!(value, Operand::Constant(_))
            }
            _ => return Err((rule.extent.start, Reason::DeepHead)),
        };
        group.frame = group.frame.max(emitter.frame());
        reads.extend(emitter.reads.iter().copied());
        Ok(Branch { steps: emitter.steps.into(), is_constant })
    }
}

fn kind_of(rule: &Rule) -> Kind {
    match &rule.shape {
        Shape::Function(_) => Kind::Function,
        Shape::Set => Kind::Set,
        Shape::Value if rule.keys.is_empty() => Kind::Value,
        Shape::Value => Kind::Object,
    }
}
