//! The configuration file: raw form, validation with all errors at once, and validated types.
//!
//! The raw form (serde, schemars) is what the JSON Schema describes; the validated form is what the gateway runs on.

pub mod model;
