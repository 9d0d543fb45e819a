//! Integration tests: one binary, one module for each subject.

mod rego_conformance;
mod rego_golden;
