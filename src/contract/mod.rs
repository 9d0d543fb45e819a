//! The public documents: facts, policy input, decision, event.
//!
//! What stands here is public API (see CHANGELOG.md): the gateway, `policy eval`, test cases and replay all build the
//! policy's input and read its result through this module, so that they cannot disagree.

pub mod body;
pub mod canonical;
pub mod decision;
pub mod envoy;
pub mod event;
pub mod form;
pub mod hop;
pub mod identity;
pub mod input;
pub mod rate;
pub mod reads;
pub mod request;
pub mod schema;
