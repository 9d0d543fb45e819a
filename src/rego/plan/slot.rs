//! What a register holds: nothing, a look into a document, or a value of its own.

use std::borrow::Cow;

use regorus::Value;

/// A register's content. Looking into input or data copies nothing and counts nothing.
#[derive(Debug, Clone, Default)]
pub(crate) enum Slot<'a> {
    #[default]
    Undefined,
    Ref(&'a Value),
    Owned(Value),
}

impl<'a> Slot<'a> {
    pub(crate) fn get(&self) -> Option<&Value> {
        match self {
            Self::Undefined => None,
            Self::Ref(value) => Some(value),
            Self::Owned(value) => Some(value),
        }
    }

    /// What lies at a key.
    pub(crate) fn look(&self, key: &Value) -> Self {
        match self {
            Self::Undefined => Self::Undefined,
            Self::Ref(value) => look(value, key).map_or(Self::Undefined, Self::Ref),
            Self::Owned(value) => {
                look(value, key).map_or(Self::Undefined, |value| Self::Owned(value.clone()))
            }
        }
    }

    /// What lies at a key of a base document: its keys are texts, and a number stands for one.
    pub(crate) fn look_base(&self, key: &Value) -> Self {
        match (self.get(), key) {
            (Some(Value::Object(fields)), Value::Number(_)) if !fields.contains_key(key) => {
                self.look(&Value::from(key.to_string()))
            }
            _ => self.look(key),
        }
    }

    pub(crate) fn into_value(self) -> Option<Value> {
        match self {
            Self::Undefined => None,
            Self::Ref(value) => Some(value.clone()),
            Self::Owned(value) => Some(value),
        }
    }

    pub(crate) fn of(value: Option<&'a Value>) -> Self {
        match value {
            None | Some(Value::Undefined) => Self::Undefined,
            Some(value) => Self::Ref(value),
        }
    }
}

impl<'a> From<Option<Cow<'a, Value>>> for Slot<'a> {
    fn from(value: Option<Cow<'a, Value>>) -> Self {
        match value {
            None => Self::Undefined,
            Some(Cow::Borrowed(value)) => Self::of(Some(value)),
            Some(Cow::Owned(value)) => Self::from(value),
        }
    }
}

impl From<Value> for Slot<'_> {
    fn from(value: Value) -> Self {
        if value == Value::Undefined { Self::Undefined } else { Self::Owned(value) }
    }
}

/// The value at a key: a field, an element, or the member of a set itself.
pub(crate) fn look<'v>(value: &'v Value, key: &Value) -> Option<&'v Value> {
    match value {
        Value::Object(fields) => fields.get(key),
        Value::Array(items) => {
            let Value::Number(index) = key else { return None };
            items.get(usize::try_from(index.as_u64()?).ok()?)
        }
        Value::Set(members) => members.get(key),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Undefined => None,
    }
}
