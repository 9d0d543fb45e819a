//! `rego.metadata.*`: calls of these are replaced by their answers when a policy is lowered.

use regorus::Value;

use super::{Entry, Failure};

pub(super) const TABLE: &[Entry] =
    &[("rego.metadata.chain", 0, answered_at_load), ("rego.metadata.rule", 0, answered_at_load)];

/// Only a replacement in `with` gets here, where no rule is the active one.
fn answered_at_load(_: &[Value]) -> Result<Value, Failure> {
    Err(Failure::Error("is answered when the policy is loaded, and replaces nothing".to_owned()))
}
