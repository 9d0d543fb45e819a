//! One binary for all integration tests.

mod jwt;
mod jwt_attacks;
mod jwt_key_set;
mod jwt_wycheproof;
mod token;

fn main() {}
