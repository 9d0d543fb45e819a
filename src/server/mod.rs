//! Listeners, TLS, connections, drain and the admin endpoint.
