//! The texts of LDAP: search filters (RFC 4515) and distinguished names (RFC 4514), read into values.
//!
//! What a client says never becomes part of such a text: it is put into a filter that was parsed before it came.

pub mod dn;
pub mod filter;
