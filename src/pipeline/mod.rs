//! The stages a request passes, from its received head to the written response.
