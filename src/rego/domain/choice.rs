//! One value that may stand at a place of the input, and how ordinary it is.

use std::collections::BTreeSet;
use std::net::IpAddr;

use regorus::Value;

/// How a value was come by; the simpler kinds come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing stands there.
    Absent,
    /// The policy compares with it.
    Tested,
    /// It equals nothing that the policy compares with.
    Other,
    /// A value of another type than is compared with.
    WrongType,
}

/// A choice.
#[derive(Debug, Clone)]
pub struct Choice {
    value: Option<Value>,
    kind: Kind,
    /// Length as JSON.
    length: usize,
}

impl Choice {
    fn new(value: Value, kind: Kind) -> Self {
        let length = value.to_string().len();
        Self { value: Some(value), kind, length }
    }

    /// Nothing.
    pub(super) fn absent() -> Self {
        Self { value: None, kind: Kind::Absent, length: 0 }
    }

    pub(super) fn tested(value: Value) -> Self {
        Self::new(value, Kind::Tested)
    }

    pub(super) fn odd(value: Value) -> Self {
        Self::new(value, Kind::Other)
    }

    pub(super) fn wrong(value: Value) -> Self {
        Self::new(value, Kind::WrongType)
    }

    /// The value; none for absence.
    pub fn value(&self) -> Option<&Value> {
        self.value.as_ref()
    }

    /// How it was come by.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it is a text without a letter or a digit: an odd example of anything.
    fn is_punctuation(&self) -> bool {
        let text = self.value.as_ref().and_then(|value| value.as_string().ok());
        text.is_some_and(|text| !text.chars().any(char::is_alphanumeric))
    }

    pub(super) fn is_tested(&self) -> bool {
        self.kind == Kind::Tested
    }

    /// This object with another field.
    pub(super) fn beside(&self, name: &Value, value: &Self) -> Option<Self> {
        let mut whole = self.value.clone()?;
        let fields = whole.as_object_mut().ok()?;
        if fields.contains_key(name) || fields.is_empty() {
            return None;
        }
        fields.insert(name.clone(), value.value.clone()?);
        Some(Self::new(whole, self.kind.max(Kind::Other)))
    }
}

/// An array of these.
pub(super) fn array(items: &[&Choice]) -> Choice {
    let kind = items.iter().map(|item| item.kind).max().unwrap_or(Kind::Other);
    Choice::new(Value::from(items.iter().filter_map(|item| item.value.clone()).collect::<Vec<_>>()), kind)
}

/// An object of these.
pub(super) fn object(fields: &[(&Value, &Choice)]) -> Choice {
    let kind = fields.iter().map(|(_, value)| value.kind).max().unwrap_or(Kind::Other);
    let mut object = Value::new_object();
    if let Ok(own) = object.as_object_mut() {
        for (name, value) in fields {
            if let Some(value) = &value.value {
                own.insert((*name).clone(), value.clone());
            }
        }
    }
    Choice::new(object, kind)
}

/// Values beside the tested ones: one that equals none of them, and one of a wrong type.
pub(super) fn others(tested: &BTreeSet<Value>, is_typed: bool) -> Vec<Choice> {
    let mut others = Vec::new();
    let strings: Vec<&str> =
        tested.iter().filter_map(|value| value.as_string().ok()).map(|text| &**text).collect();
    let numbers: Vec<i64> = tested.iter().filter_map(|value| value.as_i64().ok()).collect();
    let has = |text: &str| strings.contains(&text);
    let mut more = Vec::new();
    if !strings.is_empty() || (tested.is_empty() && !is_typed) {
        let fresh = ["x", "other", "something else"].into_iter().find(|text| !has(text));
        more.extend(fresh.map(str::to_owned));
        if strings.iter().any(|text| text.starts_with('/')) && !has("/x") {
            more.push("/x".to_owned());
        }
        if strings.iter().any(|text| text.parse::<IpAddr>().is_ok()) {
            let address = ["198.51.100.99", "203.0.113.99"].into_iter().find(|text| !has(text));
            more.extend(address.map(str::to_owned));
        }
    }
    others.extend(more.into_iter().map(|text| Choice::odd(Value::from(text))));
    if let (Some(least), Some(most)) = (numbers.iter().min(), numbers.iter().max()) {
        let around = [least.saturating_sub(1), most.saturating_add(1)];
        others.extend(around.map(|number| Choice::odd(Value::from(number))));
    }
    if tested.iter().any(|value| value.as_bool().is_ok()) {
        others.extend([true, false].map(|value| Choice::tested(Value::from(value))));
    }
    let is_text = !strings.is_empty() || (tested.is_empty() && !is_typed);
    others.push(Choice::wrong(if is_text { Value::from(0) } else { Value::from("x") }));
    others
}

/// Choices in the order of simplicity, each value once.
pub(super) fn tidy(mut choices: Vec<Choice>) -> Vec<Choice> {
    choices.sort_by(|one, other| {
        let key = |choice: &Choice| (choice.kind, choice.is_punctuation(), choice.length);
        key(one).cmp(&key(other)).then_with(|| one.value.cmp(&other.value))
    });
    let mut seen = BTreeSet::new();
    choices.retain(|choice| seen.insert(choice.value.clone()));
    choices
}
