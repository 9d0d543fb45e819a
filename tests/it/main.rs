//! The integration tests, one binary: real sockets, real servers, the real binary.

mod config;
mod gateway;
mod jwt;
mod jwt_attacks;
mod jwt_key_set;
mod jwt_wycheproof;
mod live_support;
mod live_admin;
mod live_events;
mod live_identity;
mod live_obligations;
mod live_parity;
mod live_policy;
mod live_reload;
mod live_routing;
mod live_tls;
mod live_upstream;
mod live_websocket;
mod proxy;
mod rego_conformance;
mod rego_golden;
mod token;
mod upstream;
mod wire;
