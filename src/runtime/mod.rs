//! The immutable snapshot a request runs on, what outlives it, and how it is replaced.

pub mod beside;
pub mod build;
pub mod build_error;
pub mod bundles;
pub mod control;
pub mod explain;
pub mod forwarded_certificate;
pub mod outside;
pub mod policies;
pub mod promotion;
pub mod router;
pub mod shadow;
pub mod shared;
pub mod snapshot;
pub(crate) mod tls;
pub mod watch;
pub mod worker;
