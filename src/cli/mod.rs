//! The command line: one file per command, each loads, calls the core and renders. No logic.

pub mod config;
pub mod key;
pub mod output;
pub mod policy_check;
pub mod policy_eval;
pub mod policy_footprint;
pub mod policy_test;
