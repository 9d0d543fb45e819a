//! The integration tests, one binary: real sockets, real servers, hostile bytes, the real binary.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that cannot go on fails, and one that is skipped says so"
)]

mod config;
mod jwt;
mod jwt_attacks;
mod jwt_key_set;
mod jwt_wycheproof;
mod rego_conformance;
mod rego_golden;
mod token;
mod upstream;
