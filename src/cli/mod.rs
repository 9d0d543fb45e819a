//! The command line: one file per command, each loads, calls the core and renders. No logic.

pub mod config;
pub mod key;
