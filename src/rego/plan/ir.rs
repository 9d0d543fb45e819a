//! The plan itself: rules as steps over numbered registers.
//!
//! Steps are made once, at load, and never change. A step that does not hold ends the way through
//! its body that led to it; a step that holds in several ways runs what follows once for each.

use regorus::Value;

use super::call::Builtin;
use crate::rego::{
    fault::Place,
    tree::{Collection, Operator},
};

/// A place for a value in the frame of a rule.
pub(crate) type Register = u16;
/// Index of a rule group in [`Plan::groups`](super::Plan).
pub(crate) type GroupId = u32;
/// Index of a node in [`Plan::nodes`](super::Plan).
pub(crate) type NodeId = u32;

/// Where a step reads a value from. Anything but a constant may be undefined, and then the step
/// does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Operand {
    Register(Register),
    Constant(u32),
    /// A constant path below `input`: looked up once in an evaluation.
    Input(u32),
}

/// What becomes of the answer of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has to hold.
    Holds,
    /// It is a value.
    Into(Register),
}

#[derive(Debug)]
pub(crate) enum Step {
    /// Never holds.
    Fail,
    /// Copies a value that has to be defined.
    Load {
        to: Register,
        from: Operand,
    },
    /// Neither undefined nor false.
    Test {
        of: Operand,
    },
    Compare {
        operator: Comparison,
        left: Operand,
        right: Operand,
        outcome: Outcome,
    },
    Arithmetic {
        operator: Operator,
        left: Operand,
        right: Operand,
        to: Register,
        place: Place,
    },
    Member {
        key: Option<Operand>,
        value: Operand,
        collection: Operand,
        outcome: Outcome,
    },
    /// One key of a document.
    Look {
        to: Register,
        base: Operand,
        key: Operand,
    },
    /// One key of a base document.
    LookBase {
        to: Register,
        base: Operand,
        key: Operand,
    },
    /// Every key of a document.
    Each {
        base: Operand,
        key: Option<Register>,
        to: Option<Register>,
    },
    /// Every network of a list that holds an address: a loop and its test in one.
    EachNetwork {
        base: Operand,
        key: Option<Register>,
        to: Register,
        address: Operand,
        builtin: Box<Builtin>,
    },
    /// An array of this length.
    IsArray {
        of: Operand,
        length: usize,
    },
    /// An object of this many keys.
    IsObject {
        of: Operand,
        length: usize,
    },
    Make {
        makes: Collection,
        items: Box<[Operand]>,
        to: Register,
    },
    /// An object of constant keys: a copy of a constant with the values that are no constants put in.
    Fill {
        template: u32,
        fields: Box<[(Value, Operand)]>,
        to: Register,
    },
    /// The value of a rule.
    Rule {
        group: GroupId,
        to: Register,
    },
    /// A path below `data` on which rules may lie.
    Document {
        hops: Box<[Hop]>,
        to: Register,
    },
    Function {
        group: GroupId,
        arguments: Box<[Operand]>,
        outcome: Outcome,
    },
    Builtin {
        builtin: Box<Builtin>,
        arguments: Box<[Operand]>,
        outcome: Outcome,
    },
    /// A comprehension; its body ends in an emit.
    Collect {
        makes: Collection,
        body: Box<[Step]>,
        to: Register,
        place: Place,
    },
    /// Holds if the body does in no way.
    Not {
        body: Box<[Step]>,
    },
    Every {
        domain: Operand,
        key: Option<Register>,
        value: Register,
        body: Box<[Step]>,
    },
    /// What follows, up to `Leave`, sees other documents and functions.
    Enter {
        withs: Box<[Override]>,
        place: Place,
    },
    Leave,
    /// The body holds.
    EmitTrue,
    /// The body holds, and this is an element, or the value of the rule.
    EmitValue {
        value: Operand,
    },
    EmitPair {
        key: Operand,
        value: Operand,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// One step of a path through rules and base documents.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hop {
    /// This key.
    Key(Operand),
    /// Every key, into a register if anything reads it.
    Each(Option<Register>),
}

/// What a `with` puts in the place of something.
#[derive(Debug)]
pub(crate) enum Override {
    Input { path: Box<[Value]>, value: Operand },
    Data { path: Box<[Value]>, node: Option<NodeId>, value: Operand },
    Function { mocked: Mocked, by: Replacement },
}

/// A function that a `with` replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mocked {
    Group(GroupId),
    Builtin(String),
}

#[derive(Debug)]
pub(crate) enum Replacement {
    Value(Operand),
    Group(GroupId),
    Builtin(Box<Builtin>),
}

/// All rules of one path.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) kind: Kind,
    pub(crate) chains: Vec<Chain>,
    /// Evaluated where no chain has a value.
    pub(crate) default: Option<Chain>,
    /// Registers of the largest chain.
    pub(crate) frame: usize,
    /// Whether all values are one constant, so that one solution is enough.
    pub(crate) one_value: bool,
    pub(crate) index: Option<super::index::Index>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Value,
    Set,
    Object,
    /// A function; its arguments are its first registers.
    Function,
}

/// A rule with what stands behind its `else`s: the first branch with a value gives it.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) branches: Vec<Branch>,
}

#[derive(Debug)]
pub(crate) struct Branch {
    pub(crate) steps: Box<[Step]>,
    /// Whether its value is a constant, so that it can hold in several ways without a conflict.
    pub(crate) is_constant: bool,
}

/// A path on which rules lie.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) group: Option<GroupId>,
    pub(crate) children: Vec<(Value, NodeId)>,
    pub(crate) parent: Option<NodeId>,
}
