//! Built-ins as a plan calls them. The one place that knows where they come from.

use regorus::Value;
use smallvec::SmallVec;

use super::{
    direct::{self, Direct},
    ir::{Mocked, Operand, Register, Step},
    network::{Address, Network},
    reason::Reason,
    run::{Done, Flow, Machine},
    slot::Slot,
};
use crate::rego::{
    builtin::{self, CallError},
    evaluator::{EvalError, holds_undefined},
    fault::Place,
    tree::Operator,
};

/// A built-in as one call names it.
#[derive(Debug, Clone)]
pub(crate) struct Builtin {
    target: Mocked,
    from: &'static builtin::Builtin,
    place: Place,
    short: Short,
}

/// A way to an answer that is shorter than the table's; where it has none, the table is asked.
#[derive(Debug, Clone, Copy)]
enum Short {
    None,
    /// An implementation that takes borrowed values and answers the ordinary cases.
    Direct(Direct),
    /// The pattern is compiled once for all evaluations of a worker.
    Regex,
}

impl Builtin {
    /// Looks a built-in up by its dotted name.
    pub(super) fn find(name: &str, place: Place) -> Result<Self, Reason> {
        let from = builtin::lookup(name).ok_or(Reason::UnknownFunction)?;
        let short = match direct::find(name) {
            Some(direct) => Short::Direct(direct),
            None if name == "regex.match" => Short::Regex,
            None => Short::None,
        };
        Ok(Self { target: Mocked::Builtin(name.to_owned()), from, place, short })
    }

    pub(super) fn is(&self, name: &str) -> bool {
        matches!(&self.target, Mocked::Builtin(own) if own == name)
    }
}

impl<'a> Machine<'a> {
    pub(super) fn builtin(
        &mut self,
        builtin: &'a Builtin,
        arguments: &[Operand],
        base: usize,
    ) -> Done<Slot<'a>> {
        if !self.world.mocks.is_empty()
            && let Some(mock) = self.mock(&builtin.target)
        {
            return self.mocked_call(mock, arguments, base);
        }
        if let Some(answer) = self.short(builtin, arguments, base) {
            return Ok(Slot::Owned(answer));
        }
        let mut values: SmallVec<[Value; 4]> = SmallVec::new();
        for argument in arguments {
            let Some(value) = self.value(*argument, base) else { return Ok(Slot::Undefined) };
            values.push(value.clone());
        }
        // The table's functions may take long: the clock is looked at on both sides.
        self.within_budget()?;
        let answer = builtin.from.call(&values, self.strict);
        self.within_budget()?;
        match answer {
            Ok(made) if made != Value::Undefined && holds_undefined(&made) => {
                let message = "built-in gave a value with an undefined part".to_owned();
                Err(Box::new(EvalError::Rule { place: builtin.place.clone(), message }))
            }
            Ok(made) => Ok(Slot::from(made)),
            Err(error) => Err(Box::new(failed(error, &builtin.place))),
        }
    }

    fn short(&mut self, builtin: &Builtin, arguments: &[Operand], base: usize) -> Option<Value> {
        match builtin.short {
            Short::None => None,
            Short::Direct(direct) => {
                let values = arguments.iter().map(|argument| self.value(*argument, base));
                direct(&values.collect::<Option<SmallVec<[&Value; 4]>>>()?)
            }
            Short::Regex => {
                let mut regexes = std::mem::take(&mut self.regexes);
                let answer = match arguments {
                    [pattern, subject] => match (self.value(*pattern, base), self.value(*subject, base)) {
                        (Some(Value::String(pattern)), Some(Value::String(subject))) => {
                            regexes.is_match(pattern, subject)
                        }
                        _ => None,
                    },
                    _ => None,
                };
                self.regexes = regexes;
                answer.map(Value::from)
            }
        }
    }

    /// Runs what follows once for each network of a list that holds an address.
    pub(super) fn each_network(
        &mut self,
        list: &Slot<'a>,
        key: Option<Register>,
        tested: [Operand; 2],
        builtin: &'a Builtin,
        after: &'a [Step],
        base: usize,
    ) -> Done<Flow> {
        let [Operand::Register(to), address] = tested else { return Ok(Flow::More) };
        let address = match self.value(address, base) {
            Some(Value::String(text)) => Address::parse(text),
            Some(_) | None => None,
        };
        let plan = self.plan;
        let known = match (list, address) {
            (Slot::Ref(list), Some(address)) if self.world.mocks.is_empty() => {
                plan.networks.of(list).map(|networks| (networks, address))
            }
            _ => None,
        };
        if let (Slot::Ref(list), Some((networks, address))) = (list, known) {
            self.charge(networks.len() / 8)?;
            // What is no plain network is asked of the built-in, as all elements below.
            let is_open = |network: &Option<Network>| network.is_none_or(|network| network.holds(address));
            let open = networks.iter().enumerate().filter(|(_, network)| is_open(network));
            for (index, network) in open {
                let (at, item) = match list {
                    Value::Array(items) => (Slot::Owned(Value::from(index)), items.get(index)),
                    Value::Set(members) => {
                        let member = members.iter().nth(index);
                        (Slot::of(member), member)
                    }
                    Value::Null
                    | Value::Bool(_)
                    | Value::Number(_)
                    | Value::String(_)
                    | Value::Object(_)
                    | Value::Undefined => (Slot::Undefined, None),
                };
                self.set(to, base, Slot::of(item));
                if let Some(key) = key {
                    self.set(key, base, at);
                }
                let holds = network.is_some() || self.holds_in(builtin, &tested, base)?;
                if holds && self.nested(after, base)? == Flow::Enough {
                    return Ok(Flow::Enough);
                }
            }
            return Ok(Flow::More);
        }
        let turn = |this: &mut Self, at: Slot<'a>, item: Slot<'a>| {
            this.set(to, base, item);
            if let Some(key) = key {
                this.set(key, base, at);
            }
            if this.holds_in(builtin, &tested, base)? { this.nested(after, base) } else { Ok(Flow::More) }
        };
        match list {
            Slot::Undefined => Ok(Flow::More),
            Slot::Ref(all) => self.turns(all, Slot::Ref, turn),
            Slot::Owned(all) => self.turns(all, |item| Slot::Owned(item.clone()), turn),
        }
    }

    /// Whether the built-in says that a network holds an address.
    fn holds_in(&mut self, builtin: &'a Builtin, tested: &[Operand; 2], base: usize) -> Done<bool> {
        let answer = self.builtin(builtin, tested, base)?;
        Ok(answer.get().is_some_and(|answer| *answer != Value::Bool(false)))
    }

    pub(super) fn arithmetic(
        &mut self,
        operator: Operator,
        left: Operand,
        right: Operand,
        place: &Place,
        base: usize,
    ) -> Done<Slot<'a>> {
        let (Some(left), Some(right)) = (self.value(left, base), self.value(right, base)) else {
            return Ok(Slot::Undefined);
        };
        match arithmetic(operator, left, right) {
            Ok(value) => Ok(Slot::Owned(value)),
            Err(message) if self.strict => {
                Err(Box::new(EvalError::Rule { place: place.clone(), message: message.to_owned() }))
            }
            Err(_) => Ok(Slot::Undefined),
        }
    }
}

fn failed(error: CallError, place: &Place) -> EvalError {
    match error {
        CallError::Refused(message) => EvalError::LimitExceeded { message },
        CallError::Failed(message) => EvalError::Rule { place: place.clone(), message },
        CallError::Unanswered(question) => EvalError::Unanswered { place: place.clone(), question },
    }
}

fn arithmetic(operator: Operator, left: &Value, right: &Value) -> Result<Value, &'static str> {
    if let (Value::Set(left), Value::Set(right)) = (left, right) {
        return match operator {
            Operator::Intersection => Ok(Value::from(left.intersection(right))),
            Operator::Union => Ok(Value::from(left.union(right))),
            Operator::Subtract => Ok(Value::from(left.difference(right))),
            Operator::Add | Operator::Multiply | Operator::Divide | Operator::Remainder => {
                Err("operands must be numbers")
            }
            Operator::Equal
            | Operator::NotEqual
            | Operator::Less
            | Operator::LessOrEqual
            | Operator::Greater
            | Operator::GreaterOrEqual => Err("a comparison makes no number"),
        };
    }
    let (Value::Number(left), Value::Number(right)) = (left, right) else {
        return Err("operands must be two numbers or two sets");
    };
    let by_zero = Value::Number(right.clone()) == Value::from(0);
    let result = match operator {
        Operator::Add => left.add(right),
        Operator::Subtract => left.sub(right),
        Operator::Multiply => left.mul(right),
        Operator::Divide if by_zero => return Err("divide by zero"),
        Operator::Divide => left.clone().divide(right),
        Operator::Remainder if by_zero => return Err("modulo by zero"),
        Operator::Remainder if !left.is_integer() || !right.is_integer() => {
            return Err("modulo on floating-point number");
        }
        Operator::Remainder => left.clone().modulo(right),
        Operator::Intersection | Operator::Union => return Err("operands must be sets"),
        Operator::Equal
        | Operator::NotEqual
        | Operator::Less
        | Operator::LessOrEqual
        | Operator::Greater
        | Operator::GreaterOrEqual => return Err("a comparison makes no number"),
    };
    result.map(Value::from).map_err(|_| "numeric overflow")
}
