//! Small foundations without policy or HTTP semantics: clock, ids, secrets, sizes, networks, paths.
