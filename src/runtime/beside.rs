//! What is evaluated beside the requests: candidates for policies in force, and decisions once more on the interpreter.
//!
//! A worker notes what was decided, with an input that its request no longer needs; a thread of its own evaluates. Nothing
//! here is waited for: what the queue does not take, or the allowance does not cover, is counted and forgotten. No answer
//! and no decision event depends on it.

pub mod allowance;
pub mod candidate;
pub mod outbox;
pub mod queue;
pub mod runner;
pub mod tally;
