//! One binary for all integration tests.

mod jwt_wycheproof;
mod token;

fn main() {}
