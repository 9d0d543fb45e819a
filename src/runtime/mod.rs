//! The immutable snapshot a request runs on, what outlives it, and how it is replaced.

pub mod router;
mod tls;
