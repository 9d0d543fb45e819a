//! Upstream pools: endpoints, balancing, health, retries, TLS.
