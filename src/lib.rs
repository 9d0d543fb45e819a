#![doc = include_str!("../ARCHITECTURE.md")]

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
