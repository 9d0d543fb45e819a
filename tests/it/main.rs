//! The integration tests, one binary: real sockets, real servers, the real binary.

mod config;
mod edge_attacks;
mod edge_bodies;
mod edge_drain;
mod edge_http2;
mod edge_limits;
mod edge_support;
mod gateway;
mod jwt;
mod jwt_attacks;
mod jwt_key_set;
mod jwt_wycheproof;
mod proxy;
mod rego_conformance;
mod rego_footprint;
mod rego_golden;
mod rego_traps;
mod schema;
mod tidy;
mod token;
mod upstream;
mod wire;
