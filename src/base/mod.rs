//! Small foundations without policy or HTTP semantics: clock, ids, secrets, sizes, networks, paths.
//!
//! Everything above may use them; nothing here may know a request, a policy or the configuration.

pub mod clock;
pub mod hex;
pub mod host_port;
pub mod id;
pub mod json;
pub mod ldap;
pub mod net;
pub mod path;
pub mod pem;
pub mod secret;
pub mod share;
pub mod size;
pub mod spiffe;
pub mod timer;
