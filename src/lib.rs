//! Postern, a policy-as-code API gateway.
//!
//! A request becomes facts, facts become one input document, a pure function (the compiled Rego
//! policy) makes one decision, and the gateway applies it. ARCHITECTURE.md tells the whole plan;
//! the modules below stand in its layers, top row first, and import downwards only.

pub mod cli;

pub mod server;

pub mod pipeline;

pub mod runtime;

pub mod audit;
pub mod identity;
pub mod limits;
pub mod policy;
pub mod upstream;

pub mod config;
pub mod contract;
pub mod fetch;
pub mod rego;
pub mod telemetry;

pub mod base;
