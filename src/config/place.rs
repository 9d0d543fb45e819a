//! Paths to values inside the configuration, such as `listeners[0].tls`: how a check says what it speaks of, without
//! knowing lines and columns.

use std::fmt;

use serde_json::Value;

/// One step from a value into another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Into a mapping.
    Key(String),
    /// Into a list.
    Index(usize),
}

/// The path from the whole document to one value in it. Places below a place sort right after it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(Vec<Step>);

impl Place {
    /// The whole document.
    pub(super) fn root() -> Self {
        Self::default()
    }

    /// The value under `key` of the mapping here.
    #[must_use]
    pub(super) fn key(&self, key: &str) -> Self {
        self.then(Step::Key(key.to_owned()))
    }

    /// The item at `index` of the list here.
    #[must_use]
    pub(super) fn index(&self, index: usize) -> Self {
        self.then(Step::Index(index))
    }

    /// The value that one more step leads to.
    #[must_use]
    pub(super) fn then(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// The steps, outermost first.
    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Removes the key that leads here.
    pub(super) fn remove_from(&self, document: &mut Value) {
        let Some((Step::Key(key), around)) = self.0.split_last() else { return };
        let found = around.iter().try_fold(document, |value, step| match step {
            Step::Key(key) => value.get_mut(key),
            Step::Index(index) => value.get_mut(index),
        });
        if let Some(Value::Object(mapping)) = found {
            mapping.remove(key);
        }
    }

    /// Whether this place is `other` or lies within it.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// This place and every place around it, innermost first.
    pub(super) fn ancestors(&self) -> impl Iterator<Item = Self> {
        (0..=self.0.len()).rev().filter_map(|length| self.0.get(..length)).map(|steps| Self(steps.to_vec()))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if index == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}
