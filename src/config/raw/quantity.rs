//! Texts with a form: names, durations and sizes.
//!
//! The patterns are for editors; the check that counts, and its message, is in `config::check::value`.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

/// What to say about a text that is no name.
pub(crate) const NAME_HELP: &str = "a name has 1 to 64 of the letters `a-z` and `A-Z`, digits, `_` and `-`";

/// What tells durations from other texts in the schema.
pub(crate) const DURATION_PATTERN: &str = r"^([0-9]+ *(us|ms|s|m|h|d)|0|.*\$\{.*)$";

/// The name of a listener, provider, upstream, policy, API or route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct Name(pub(crate) String);

/// A duration as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct Duration(pub(crate) String);

/// A size as it is written; a whole number counts bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Size(pub(crate) String);

/// A share as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct Share(pub(crate) String);

impl Share {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Duration {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Size {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl Visitor<'_> for Written {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as `64KiB`")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes.to_string()))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                Ok(Size(text.to_owned()))
            }
        }

        deserializer.deserialize_any(Written)
    }
}

impl JsonSchema for Name {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Name".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": r"^([A-Za-z0-9_-]{1,64}|.*\$\{.*)$"})
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": DURATION_PATTERN})
    }
}

impl JsonSchema for Size {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "minimum": 0,
            "maximum": 1_099_511_627_776_u64,
            "pattern": r"^([0-9]+ *(B|KB|KiB|MB|MiB|GB|GiB)?|.*\$\{.*)$",
        })
    }
}

impl JsonSchema for Share {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": r"^([0-9]{1,3}(\.[0-9]{1,6})?%|.*\$\{.*)$"})
    }
}
