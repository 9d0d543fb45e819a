//! Built-ins as a plan calls them. The one place that knows where they come from.

use regorus::Value;
use smallvec::SmallVec;

use super::{
    direct::{self, Direct},
    ir::{Mocked, Operand},
    reason::Reason,
    run::{Done, Machine, Stop},
    slot::Slot,
};
use crate::rego::{
    builtin::{self, CallError},
    evaluator::EvalError,
    fault::Place,
    tree::Operator,
};

/// A built-in as one call names it.
#[derive(Debug, Clone)]
pub(crate) struct Builtin {
    target: Mocked,
    from: &'static builtin::Builtin,
    place: Place,
    /// An implementation that takes borrowed values and answers the ordinary cases.
    direct: Option<Direct>,
}

impl Builtin {
    /// Looks a built-in up by its dotted name.
    pub(super) fn find(name: &str, place: Place) -> Result<Self, Reason> {
        let from = builtin::lookup(name).ok_or(Reason::UnknownFunction)?;
        Ok(Self { target: Mocked::Builtin(name.to_owned()), from, place, direct: direct::find(name) })
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
        if let Some(direct) = builtin.direct {
            let mut values: SmallVec<[&Value; 4]> = SmallVec::new();
            for argument in arguments {
                let Some(value) = self.value(*argument, base) else { return Ok(Slot::Undefined) };
                values.push(value);
            }
            if let Some(answer) = direct(&values) {
                return Ok(Slot::Owned(answer));
            }
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
        answer.map(Slot::from).map_err(|error| failed(error, &builtin.place))
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

fn failed(error: CallError, place: &Place) -> Stop {
    Box::new(match error {
        CallError::Refused(message) => EvalError::LimitExceeded { message },
        CallError::Failed(message) => EvalError::Rule { place: place.clone(), message },
    })
}

fn arithmetic(operator: Operator, left: &Value, right: &Value) -> Result<Value, &'static str> {
    match (left, right) {
        (Value::Set(left), Value::Set(right)) => match operator {
            Operator::Intersection => return Ok(Value::from(left.intersection(right))),
            Operator::Union => return Ok(Value::from(left.union(right))),
            Operator::Subtract => return Ok(Value::from(left.difference(right))),
            _ => return Err("operands are sets"),
        },
        (Value::Number(left), Value::Number(right)) => {
            let zero = Value::from(0);
            let by_zero = right.is_integer() && Value::Number(right.clone()) == zero;
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
                _ => return Err("operands are numbers"),
            };
            return result.map(Value::from).map_err(|_| "numeric overflow");
        }
        _ => {}
    }
    Err(match operator {
        Operator::Intersection | Operator::Union => "operands must be sets",
        _ => "operands must be numbers",
    })
}
