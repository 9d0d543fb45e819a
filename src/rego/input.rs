//! Where an evaluation reads `input` from when there is no document of it.

use std::{borrow::Cow, fmt::Debug};

use regorus::Value;

/// Something that knows the value at each path below `input`, so that no document has to be made.
///
/// INVARIANT: an evaluation sees one document. Both methods tell of the same, and tell it again when asked again.
pub trait InputSource: Debug {
    /// The value at a path, by its number in [`Evaluator::input_paths`](super::evaluator::Evaluator::input_paths).
    /// `None` is undefined.
    fn at(&self, path: usize) -> Option<Cow<'_, Value>>;

    /// The whole document, for a `with` that changes a part of it.
    fn document(&self) -> Value;
}

/// What lies at `path` below a value.
pub fn below<'v>(value: Cow<'v, Value>, path: &[Value]) -> Option<Cow<'v, Value>> {
    match value {
        Cow::Borrowed(value) => path.iter().try_fold(value, super::plan::look).map(Cow::Borrowed),
        Cow::Owned(value) if path.is_empty() => Some(Cow::Owned(value)),
        Cow::Owned(value) => {
            path.iter().try_fold(&value, |at, key| super::plan::look(at, key)).cloned().map(Cow::Owned)
        }
    }
}
