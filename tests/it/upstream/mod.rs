//! The client side of the proxy against real servers: well-behaved ones, and raw sockets that are not.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "what helps tests fails as tests do"
)]

mod balancing;
mod hostile;
mod http1;
mod http2;
mod nginx;
mod retries;
mod support;
mod timeouts;
mod tls;
