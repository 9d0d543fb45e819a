//! Bundles of policies and what is done with them: load, check, decide, evaluate, test.
//!
//! Everything here is synchronous and pure but for [`bundle::load`], which reads files. The server
//! and the command line run the same functions, so they cannot disagree.

pub mod asking;
pub mod bench;
pub mod bundle;
mod cache;
mod case;
pub mod check;
mod data;
pub mod decide;
pub mod diff;
pub mod divergence;
pub mod eval;
pub mod explain;
mod fields;
pub mod http_send;
mod manifest;
pub mod matrix;
mod probe;
pub mod replay;
pub mod result;
pub mod search;
pub mod testing;
