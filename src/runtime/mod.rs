//! The immutable snapshot a request runs on, what outlives it, and how it is replaced.

pub mod build;
pub mod build_error;
pub mod bundles;
pub mod control;
pub mod outside;
pub mod router;
pub mod shared;
pub mod snapshot;
pub(crate) mod tls;
pub mod watch;
pub mod worker;
