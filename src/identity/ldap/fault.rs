//! Why the directory could not say who somebody is.

use std::io;

use crate::identity::ldap::ber::Malformed;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// No connection: the name, the address, or the port.
    Unreachable,
    /// The connection ended before the answer.
    Closed,
    /// Not in time.
    Timeout,
    /// The TLS handshake failed, or the server does not start TLS.
    Tls,
    /// The bytes are no LDAP, or not what was asked.
    Malformed,
    /// More entries or bytes than allowed.
    TooLarge,
    /// An entry lacks what it is known by.
    UnusableEntry,
    /// All connections are taken.
    Busy,
    /// The server refuses the gateway's own account.
    ServiceAccount,
    /// The server answers with this result code (RFC 4511 appendix A).
    Code(u32),
}

impl Fault {
    /// The stable word for it.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Unreachable => "ldap_unreachable",
            Self::Closed => "ldap_closed",
            Self::Timeout => "ldap_timeout",
            Self::Tls => "ldap_tls",
            Self::Malformed => "ldap_malformed",
            Self::TooLarge => "ldap_too_large",
            Self::UnusableEntry => "ldap_unusable_entry",
            Self::Busy => "ldap_busy",
            Self::ServiceAccount => "ldap_service_account",
            Self::Code(_) => "ldap_error",
        }
    }

    /// Whether another server may do better: what this one says would be the same there, or is no fault of it, else.
    pub(super) fn is_the_servers(self) -> bool {
        match self {
            Self::Unreachable
            | Self::Closed
            | Self::Timeout
            | Self::Tls
            | Self::Malformed
            | Self::ServiceAccount
            | Self::Code(_) => true,
            Self::TooLarge | Self::UnusableEntry | Self::Busy => false,
        }
    }

    /// Whether it comes of what the directory holds about the one who was asked about. Anybody can ask about somebody with
    /// too many groups, and must not keep everybody else out by it.
    pub(super) fn is_of_one(reason: &'static str) -> bool {
        [Self::TooLarge, Self::UnusableEntry].iter().any(|fault| fault.reason() == reason)
    }
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl From<io::Error> for Fault {
    /// Of a connection that is there.
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}
