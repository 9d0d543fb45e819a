//! Rate limits: the pure GCRA arithmetic and the in-memory store.
