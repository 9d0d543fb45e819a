//! Listeners, TLS, connections, drain and the admin endpoint.

mod accept;
mod admin;
mod connection;
pub mod drain;
pub mod gateway;
mod http1_guard;
mod http2_guard;
mod status;
mod thread;
