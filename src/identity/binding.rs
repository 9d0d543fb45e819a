//! What a client must show with each request beside a credential that is bound to something it holds.
//!
//! A stolen token is worth nothing without it, so it is asked for again with every request, also where the token itself was
//! proven before and is in the [`super::cache`]. The [`super::chain`] is the one place that asks.

use crate::identity::jwt::dpop::HolderKey;
use crate::identity::jwt::fault::{Fault, Scheme};
use crate::identity::{Presented, Rejection};

/// About what a key weighs that was read once.
const HOLDER_KEY_BYTES: usize = 2 * 1024;

/// What a proof is bound to (RFC 7800).
#[derive(Debug)]
pub enum Binding {
    /// Connections with the client certificate of this SHA-256 fingerprint, lower-case hexadecimal (RFC 8705).
    Certificate(String),
    /// Requests with a proof that the client holds a key (RFC 9449).
    Key(HolderKey),
}

/// Why a bound credential does not count for a request.
#[derive(Debug)]
pub enum NotHeld {
    /// The client has not shown what it must hold.
    Refused(Rejection),
    /// Nobody can say at present: a stable `snake_case` word for the cause.
    Unavailable(&'static str),
}

impl Binding {
    /// What it weighs in a memory, in bytes.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Certificate(fingerprint) => fingerprint.len(),
            Self::Key(_) => HOLDER_KEY_BYTES,
        }
    }

    /// Whether the client shows with this request what the credential is bound to. To be asked once for a request: a proof
    /// counts once.
    pub(super) fn check(&self, presented: &Presented<'_>) -> Result<(), NotHeld> {
        match self {
            Self::Certificate(fingerprint) => {
                let held = presented.client_certificate();
                if held.is_some_and(|held| held.fingerprint_sha256 == *fingerprint) {
                    return Ok(());
                }
                Err(NotHeld::Refused(Fault::HolderNotProven.rejection(Scheme::Bearer)))
            }
            Self::Key(key) => key.check(presented),
        }
    }
}
