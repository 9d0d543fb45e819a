//! Bundles and what is done with them: evaluate, check, test.

pub mod decide;
