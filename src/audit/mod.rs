//! Decision events: what is written of a request, what is left out of it, and where it goes.
//!
//! A worker encodes an event into its own buffer ([`recorder`]); buffers go through a bounded queue to one thread a sink
//! ([`log`]). What cannot be written is counted and told of in a gap record, never silently lost. A credential never
//! gets as far as a buffer ([`credential`]). No request waits for a sink.

pub mod credential;
pub mod divergence;
mod document;
pub mod encode;
mod file;
#[cfg(test)]
mod fixture;
mod gap;
mod json;
pub mod label;
mod line;
pub mod log;
pub mod memo;
pub mod queue;
pub mod recent;
pub mod recorder;
pub mod sink;
mod stdout;
mod writer;
