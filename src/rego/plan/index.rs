//! The rule index: which chains of a group can hold at all, told by one look at what most of them
//! compare with a constant. OPA has the same; it only leaves out what would fail anyway.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use foldhash::fast::RandomState;
use regorus::Value;
use smallvec::SmallVec;

use super::ir::{Chain, Comparison, Group, Kind, Operand, Outcome, Register, Step};

/// Groups smaller than this are faster tried than looked up.
const CHAINS_MIN: usize = 4;
/// Most members of a constant collection that are worth an entry each.
const MEMBERS_MAX: usize = 32;

/// Numbers of chains, in the order of the text.
pub(crate) type Chains = SmallVec<[u32; 8]>;

/// Chains by the value of one operand.
#[derive(Debug)]
pub(crate) struct Index {
    on: Operand,
    strings: HashMap<Box<str>, Entry, RandomState>,
    others: BTreeMap<Value, Entry>,
    /// Chains by a prefix their operand must have.
    prefixes: HashMap<Box<str>, Vec<u32>, RandomState>,
    /// Lengths of those prefixes, each once.
    lengths: Vec<usize>,
    /// Chains that say nothing of the operand.
    rest: Entry,
}

#[derive(Debug)]
enum Entry {
    Chains(Box<[u32]>),
    Index(Box<Index>),
}

/// What a chain demands of an operand.
#[derive(Debug, Clone)]
enum Demand {
    OneOf(Vec<Value>),
    Prefix(Box<str>),
}

type Demands = BTreeMap<Operand, Demand>;

impl Index {
    pub(crate) fn new(group: &Group, constants: &[Value]) -> Option<Self> {
        if group.chains.len() < CHAINS_MIN {
            return None;
        }
        let demands: Vec<Demands> =
            group.chains.iter().map(|chain| demands(chain, group.kind, constants)).collect();
        let all: Vec<u32> = (0..u32::try_from(group.chains.len()).ok()?).collect();
        Self::over(&all, &demands, &BTreeSet::new())
    }

    fn over(chains: &[u32], demands: &[Demands], used: &BTreeSet<Operand>) -> Option<Self> {
        let of = |chain: u32, on: Operand| demands.get(chain as usize).and_then(|own| own.get(&on));
        let mut candidates: BTreeMap<Operand, usize> = BTreeMap::new();
        for chain in chains {
            for on in demands.get(*chain as usize).into_iter().flat_map(BTreeMap::keys) {
                *candidates.entry(*on).or_default() += 1;
            }
        }
        let distinct = |on: Operand| {
            let mut values = BTreeSet::new();
            for chain in chains {
                match of(*chain, on) {
                    Some(Demand::OneOf(all)) => values.extend(all.iter().cloned()),
                    Some(Demand::Prefix(prefix)) => {
                        values.insert(Value::from(&**prefix));
                    }
                    None => {}
                }
            }
            values.len()
        };
        let on = candidates
            .into_iter()
            .filter(|(on, count)| !used.contains(on) && *count > 1)
            .map(|(on, count)| (distinct(on).min(count), count, on))
            .filter(|(distinct, ..)| *distinct > 1)
            .max()
            .map(|(.., on)| on)?;
        let mut used = used.clone();
        used.insert(on);
        let rest: Vec<u32> = chains.iter().copied().filter(|chain| of(*chain, on).is_none()).collect();
        let mut exact: BTreeMap<Value, Vec<u32>> = BTreeMap::new();
        let mut prefixes: HashMap<Box<str>, Vec<u32>, RandomState> = HashMap::default();
        for chain in chains {
            match of(*chain, on) {
                Some(Demand::OneOf(values)) => {
                    for value in values {
                        exact.entry(value.clone()).or_default().push(*chain);
                    }
                }
                Some(Demand::Prefix(prefix)) => prefixes.entry(prefix.clone()).or_default().push(*chain),
                None => {}
            }
        }
        let mut index = Self {
            on,
            strings: HashMap::default(),
            others: BTreeMap::new(),
            lengths: prefixes
                .keys()
                .map(|prefix| prefix.len())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            prefixes,
            rest: Entry::new(rest.clone(), demands, &used),
        };
        for (value, mut chains) in exact {
            chains.extend(&rest);
            chains.sort_unstable();
            chains.dedup();
            let entry = Entry::new(chains, demands, &used);
            if let Value::String(text) = &value {
                index.strings.insert(Box::from(&**text), entry);
            } else {
                index.others.insert(value, entry);
            }
        }
        Some(index)
    }

    /// Adds the chains that can hold, given what operands are.
    pub(crate) fn candidates<'v>(
        &self,
        value_of: &mut dyn FnMut(Operand) -> Option<&'v Value>,
        found: &mut Chains,
    ) {
        let value = value_of(self.on);
        let entry = match value {
            None => None,
            Some(Value::String(text)) => {
                for length in &self.lengths {
                    let Some(prefix) = text.get(..*length) else { continue };
                    found.extend(self.prefixes.get(prefix).into_iter().flatten().copied());
                }
                self.strings.get(&**text)
            }
            Some(value) => self.others.get(value),
        };
        match entry.unwrap_or(&self.rest) {
            Entry::Chains(chains) => found.extend_from_slice(chains),
            Entry::Index(index) => index.candidates(value_of, found),
        }
    }
}

impl Entry {
    fn new(chains: Vec<u32>, demands: &[Demands], used: &BTreeSet<Operand>) -> Self {
        if chains.len() >= CHAINS_MIN
            && let Some(index) = Index::over(&chains, demands, used)
        {
            return Self::Index(Box::new(index));
        }
        Self::Chains(chains.into())
    }
}

/// What a chain cannot hold without. One with an `else` may hold whatever its first body needs.
fn demands(chain: &Chain, kind: Kind, constants: &[Value]) -> Demands {
    let mut demands = Demands::new();
    let [branch] = chain.branches.as_slice() else { return demands };
    let constant = |operand: Operand| match operand {
        Operand::Constant(number) => constants.get(number as usize),
        Operand::Register(_) | Operand::Input(_) => None,
    };
    let mut loaded: BTreeMap<Register, Operand> = BTreeMap::new();
    let mut written: BTreeSet<Register> = BTreeSet::new();
    for step in &branch.steps {
        // An argument keeps its register; other registers are known if they are copies of input.
        let source = |operand: Operand| match operand {
            Operand::Input(_) => Some(operand),
            Operand::Register(register) => match loaded.get(&register) {
                Some(from) => Some(*from),
                None if kind == Kind::Function && !written.contains(&register) => Some(operand),
                None => None,
            },
            Operand::Constant(_) => None,
        };
        if matches!(step, Step::Enter { .. }) {
            break;
        }
        if let Some((on, demand)) = demand(step, &source, &constant) {
            demands.entry(on).or_insert(demand);
        }
        if let Step::Load { to, from: from @ Operand::Input(_) } = step {
            loaded.insert(*to, *from);
        } else {
            written.extend(written_by(step));
        }
    }
    demands
}

/// What one step demands, if it compares an operand with a constant.
fn demand<'c>(
    step: &Step,
    source: &dyn Fn(Operand) -> Option<Operand>,
    constant: &dyn Fn(Operand) -> Option<&'c Value>,
) -> Option<(Operand, Demand)> {
    if let Step::Compare { operator: Comparison::Equal, left, right, outcome: Outcome::Holds } = step {
        let (on, value) = match (source(*left), constant(*right)) {
            (Some(on), Some(value)) => (on, value),
            _ => (source(*right)?, constant(*left)?),
        };
        return Some((on, Demand::OneOf(vec![value.clone()])));
    }
    if let Step::Member { key: None, value, collection, outcome: Outcome::Holds } = step {
        return Some((source(*value)?, Demand::OneOf(members(constant(*collection)?)?)));
    }
    if let Step::Builtin { builtin, arguments, outcome: Outcome::Holds } = step
        && builtin.is("startswith")
        && let [subject, prefix] = &**arguments
        && let Some(Value::String(prefix)) = constant(*prefix)
    {
        return Some((source(*subject)?, Demand::Prefix(Box::from(&**prefix))));
    }
    None
}

fn members(collection: &Value) -> Option<Vec<Value>> {
    let members: Vec<Value> = match collection {
        Value::Array(items) => items.iter().cloned().collect(),
        Value::Set(items) => items.iter().cloned().collect(),
        Value::Object(fields) => fields.values().cloned().collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Undefined => Vec::new(),
    };
    (members.len() <= MEMBERS_MAX).then_some(members)
}

/// Registers a step writes; arguments are never among them, and copies are followed elsewhere.
fn written_by(step: &Step) -> Vec<Register> {
    let outcome = |outcome: &Outcome| match outcome {
        Outcome::Into(to) => vec![*to],
        Outcome::Holds => Vec::new(),
    };
    match step {
        Step::Load { to, .. }
        | Step::Arithmetic { to, .. }
        | Step::Look { to, .. }
        | Step::LookBase { to, .. }
        | Step::Make { to, .. }
        | Step::Fill { to, .. }
        | Step::Rule { to, .. }
        | Step::Document { to, .. }
        | Step::Collect { to, .. } => vec![*to],
        Step::Compare { outcome: into, .. }
        | Step::Member { outcome: into, .. }
        | Step::Function { outcome: into, .. }
        | Step::Builtin { outcome: into, .. } => outcome(into),
        Step::Each { key, to, .. } => key.iter().chain(to).copied().collect(),
        Step::EachNetwork { key, to, .. } => key.iter().chain([to]).copied().collect(),
        Step::Every { key, value, .. } => key.iter().chain([value]).copied().collect(),
        Step::Fail
        | Step::Test { .. }
        | Step::IsArray { .. }
        | Step::IsObject { .. }
        | Step::Not { .. }
        | Step::Enter { .. }
        | Step::Leave
        | Step::EmitTrue
        | Step::EmitValue { .. }
        | Step::EmitPair { .. } => Vec::new(),
    }
}
