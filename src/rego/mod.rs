//! Rego on regorus's parser and interpreter: a library that knows no HTTP.
//!
//! Text goes through one pipe: [`program::compile`] parses it (`parse`), resolves every name
//! (`lower`, into `tree`), refuses what cannot run safely (`graph`, `builtin`), rewrites what the
//! interpreter would answer differently from OPA (`normalise`), and yields an immutable
//! [`program::Program`]. A worker asks it for an [`evaluator::Evaluator`], the one type behind
//! which the interpreter stands. Nothing here may do IO or decide what a result means.

mod annotation;
pub(crate) mod builtin;
mod check;
pub mod coverage;
mod desugar;
pub mod differential;
pub mod evaluator;
pub mod fault;
pub mod footprint;
pub(crate) mod graph;
pub mod input;
mod lift;
mod lower;
mod normalise;
pub mod outside;
mod parse;
pub mod plan;
pub mod program;
mod source;
pub(crate) mod tree;
pub mod v0;
mod wrapper;
