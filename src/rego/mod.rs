//! Rego on regorus's parser and interpreter: checks, footprint, evaluation, tests. Knows no HTTP.
