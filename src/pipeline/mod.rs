//! The stages a request passes, from its received head to the written response.

pub mod connection;
pub mod framing;
pub mod reject;
