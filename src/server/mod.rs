//! Listeners, TLS, connections, drain and the admin endpoint.

pub(crate) mod http1_guard;
mod timer;
