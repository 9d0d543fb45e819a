//! The configuration file: raw form, validation with all errors at once, and validated types.
