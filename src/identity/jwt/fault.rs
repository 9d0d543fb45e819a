//! Why a token is refused: one enum, its stable words, and what the client is told.

use http::HeaderValue;

use crate::identity::Rejection;

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Several tokens, or one in several places (RFC 6750 section 2).
    SeveralCredentials,
    /// Longer than [`super::jws::TOKEN_BYTES_MAX`].
    TooLarge,
    /// Not a JWS in compact serialization of well-formed JSON in canonical base64url (RFC 7515 sections 2 and 3.1).
    Malformed,
    /// The header or the claims have the same member twice.
    DuplicateMember,
    /// The header has a parameter that would choose keys, need an extension or hide a payload: `crit`, `jku`, `jwk`,
    /// `x5u`, `x5c`, `zip`, `enc`, `b64`, `cty`.
    HeaderParameter,
    /// The `typ` is not the expected one.
    WrongType,
    /// The algorithm is unknown or not allowed.
    Algorithm,
    /// No key of the set fits the token's `kid` and `alg`.
    UnknownKey,
    /// The token names no key, and several would fit.
    AmbiguousKey,
    /// The signature is not the key's.
    BadSignature,
    /// `exp`, `iss` or `aud` is missing.
    MissingClaim,
    /// A claim has a value of the wrong kind.
    InvalidClaim,
    /// Another issuer's.
    WrongIssuer,
    /// Made out to others.
    WrongAudience,
    /// Past its `exp`.
    Expired,
    /// Before its `nbf`.
    NotYetValid,
    /// Its `iat` is in the future.
    IssuedInFuture,
    /// The token is bound to a key (`cnf`, RFC 7800) that the client has not proven to hold.
    HolderNotProven,
    /// The token is bound to nothing, where it must be or the client says it is.
    NotBound,
    /// No proof of possession came with the token.
    ProofMissing,
    /// Not a proof of possession, or without a claim that it must have (RFC 9449 section 4.2).
    ProofMalformed,
    /// The proof's algorithm is not allowed.
    ProofAlgorithm,
    /// The proof's signature is not its key's.
    ProofSignature,
    /// The proof is of another request or another token.
    ProofOfAnother,
    /// The proof is too old, or from the future.
    ProofExpired,
    /// The proof was shown before.
    ProofReplayed,
}

/// How a token was presented, which says how the client is answered.
#[derive(Debug, Clone, Copy)]
pub(in crate::identity) enum Scheme<'a> {
    /// RFC 6750, and headers of one's own.
    Bearer,
    /// RFC 9449.
    Dpop {
        /// The algorithms of proofs, with spaces between.
        algorithms: &'a str,
    },
}

impl Fault {
    /// A stable word for logs and policies.
    pub fn reason(self) -> &'static str {
        match self {
            Self::SeveralCredentials => "several_credentials",
            Self::TooLarge => "token_too_large",
            Self::Malformed => "malformed_token",
            Self::DuplicateMember => "duplicate_member",
            Self::HeaderParameter => "header_parameter_refused",
            Self::WrongType => "wrong_token_type",
            Self::Algorithm => "algorithm_not_allowed",
            Self::UnknownKey => "unknown_key",
            Self::AmbiguousKey => "ambiguous_key",
            Self::BadSignature => "bad_signature",
            Self::MissingClaim => "missing_claim",
            Self::InvalidClaim => "invalid_claim",
            Self::WrongIssuer => "wrong_issuer",
            Self::WrongAudience => "wrong_audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::IssuedInFuture => "issued_in_future",
            Self::HolderNotProven => "holder_not_proven",
            Self::NotBound => "token_not_bound",
            Self::ProofMissing => "dpop_proof_missing",
            Self::ProofMalformed => "dpop_proof_malformed",
            Self::ProofAlgorithm => "dpop_algorithm_not_allowed",
            Self::ProofSignature => "dpop_bad_signature",
            Self::ProofOfAnother => "dpop_proof_of_another_request",
            Self::ProofExpired => "dpop_proof_expired",
            Self::ProofReplayed => "dpop_proof_replayed",
        }
    }

    /// The rejection, with its challenge (RFC 6750 section 3, RFC 9449 section 7.1).
    pub(in crate::identity) fn rejection(self, scheme: Scheme<'_>) -> Rejection {
        Rejection::plain(self.reason(), self.challenge(scheme))
    }

    fn challenge(self, scheme: Scheme<'_>) -> HeaderValue {
        let error = match self {
            Self::SeveralCredentials => "invalid_request",
            Self::TooLarge
            | Self::Malformed
            | Self::DuplicateMember
            | Self::HeaderParameter
            | Self::WrongType
            | Self::Algorithm
            | Self::UnknownKey
            | Self::AmbiguousKey
            | Self::BadSignature
            | Self::MissingClaim
            | Self::InvalidClaim
            | Self::WrongIssuer
            | Self::WrongAudience
            | Self::Expired
            | Self::NotYetValid
            | Self::IssuedInFuture
            | Self::HolderNotProven
            | Self::NotBound => "invalid_token",
            Self::ProofMissing
            | Self::ProofMalformed
            | Self::ProofAlgorithm
            | Self::ProofSignature
            | Self::ProofOfAnother
            | Self::ProofExpired
            | Self::ProofReplayed => "invalid_dpop_proof",
        };
        let (name, algorithms) = match scheme {
            Scheme::Bearer => ("Bearer", None),
            Scheme::Dpop { algorithms } => ("DPoP", Some(algorithms)),
        };
        let reason = self.reason().replace('_', " ");
        let mut text = format!("{name} error=\"{error}\", error_description=\"{reason}\"");
        if let Some(algorithms) = algorithms {
            text.push_str(", algs=\"");
            text.push_str(algorithms);
            text.push('"');
        }
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("Bearer"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_names_error_and_reason() {
        let rejection = Fault::NotYetValid.rejection(Scheme::Bearer);
        assert_eq!(rejection.reason, "not_yet_valid");
        assert_eq!(
            rejection.challenge,
            "Bearer error=\"invalid_token\", error_description=\"not yet valid\""
        );
        let challenge = Fault::SeveralCredentials.rejection(Scheme::Bearer).challenge;
        assert!(challenge.to_str().unwrap().starts_with("Bearer error=\"invalid_request\""));
        let scheme = Scheme::Dpop { algorithms: "ES256 EdDSA" };
        assert_eq!(
            Fault::ProofReplayed.rejection(scheme).challenge,
            "DPoP error=\"invalid_dpop_proof\", error_description=\"dpop proof replayed\", algs=\"ES256 EdDSA\""
        );
    }
}
