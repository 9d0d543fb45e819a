//! Rate limits: the arithmetic, the counters in memory, and the response fields that tell a client of them.
//!
//! Whether a request is limited is decided here and nowhere else; what answer it gets is the pipeline's business.
//! Nothing here waits, reads a clock or does IO: time is an argument.

pub mod fields;
pub mod gcra;
pub mod memory;
pub mod verdict;
