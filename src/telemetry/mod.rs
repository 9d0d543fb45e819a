//! What the gateway tells of itself: metrics and its own log, every name and label in one place.
//!
//! No label comes from a request, no counter takes a lock, and nothing here decides anything.

pub mod exposition;
pub mod log;
pub mod metrics;
mod shard;
