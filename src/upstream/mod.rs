//! The client side of the proxy: clusters of endpoints, and each worker's pool of connections to them.
//!
//! A [`cluster::Cluster`] is shared by all workers and outlives reloads (health, counters, TLS); a [`pool::Pool`]
//! belongs to one worker and is never shared (connections, retry budget). Nothing here edits headers, knows a policy
//! or chooses a status code: it sends the request it is given, and tells failures apart.

pub mod body;
pub mod cluster;
pub mod error;
pub mod pool;

mod balance;
mod budget;
mod connect;
mod connections;
mod frames;
mod framing;
mod health;
mod http1;
mod http2;
mod interim;
mod outgoing;
mod prepare;
mod relay;
pub(crate) mod resolve;
mod stream;
mod tls;
mod wait;
mod watchdog;
mod worker;

/// Interim (1xx) responses taken before one final response; one more is an error.
pub const INTERIM_RESPONSES_MAX: u32 = 32;

/// Bytes of a response's head, and of its trailers.
pub const RESPONSE_HEAD_MAX: usize = 64 << 10;
