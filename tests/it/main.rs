//! The integration tests, one binary: real sockets, real servers, hostile bytes, the real binary.

mod config;
mod jwt;
mod jwt_key_set;
mod jwt_wycheproof;
mod rego_conformance;
mod rego_footprint;
mod rego_golden;
mod rego_traps;
mod token;
mod upstream;
