//! The client side of the proxy against real servers: well-behaved ones, and raw sockets that are not.

mod balancing;
mod hostile;
mod http1;
mod http2;
mod nginx;
mod retries;
mod support;
mod timeouts;
mod tls;
