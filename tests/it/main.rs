//! The integration tests, one binary: real sockets, real servers, the real binary.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::pedantic,
    reason = "a test that cannot go on fails, and one that is skipped says so"
)]

mod bundles;
mod bundles_remote;
mod client_cert;
mod config;
mod demo;
mod dpop;
mod edge_attacks;
mod edge_bodies;
mod edge_drain;
mod edge_http2;
mod edge_limits;
mod edge_requests;
mod edge_support;
mod envoy;
mod examples;
mod external;
mod gateway;
mod http_send;
mod introspection;
mod jwks_chaos;
mod jwt;
mod jwt_attacks;
mod jwt_key_set;
mod jwt_wycheproof;
mod ldap;
mod ldap_attacks;
mod ldap_outages;
mod ldap_support;
mod live_admin;
mod live_combining;
mod live_events;
mod live_explain;
mod live_identity;
mod live_obligations;
mod live_parity;
mod live_policy;
mod live_reload;
mod live_revocation;
mod live_routing;
mod live_shadow;
mod live_support;
mod live_tls;
mod live_upstream;
mod live_websocket;
mod oidc;
mod oidc_attacks;
mod oidc_browser;
mod oidc_provider;
mod oidc_renewal;
mod oidc_support;
mod policy_bench;
mod policy_check;
mod policy_cli;
mod policy_diff;
mod policy_eval;
mod policy_explain;
mod policy_matrix;
mod policy_replay;
mod proxy;
mod rego_builtins;
mod rego_conformance;
mod rego_footprint;
mod rego_golden;
mod rego_oracle;
mod rego_parse_module;
mod rego_plan;
mod rego_traps;
mod rego_v0;
mod run_command;
mod schema;
mod shadow_remote;
mod tidy;
mod tls_attacks;
mod token;
mod upstream;
mod wire;
