//! The stages a request passes, from its received head to the written response.

pub mod framing;
pub mod reject;
