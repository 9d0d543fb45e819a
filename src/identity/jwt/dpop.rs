//! Proofs of possession (RFC 9449): a client shows with each request that it holds the key that its token is bound to.
//!
//! A proof is a small JWS that brings its own public key, which is trusted for nothing but being the one whose thumbprint
//! the token names. It speaks of one request, at one time, with one token, and counts once.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue};

use crate::base::path::{CanonicalPath, PathRules};
use crate::config::model::Dpop;
use crate::contract::canonical::host_of;
use crate::identity::binding::NotHeld;
use crate::identity::digest::{Sha256, sha256};
use crate::identity::header::{self, Ambiguous};
use crate::identity::jwt::claims::Claims;
use crate::identity::jwt::fault::{Fault, Scheme};
use crate::identity::jwt::jwk::{Origin, Purpose, Verifier};
use crate::identity::jwt::jws::{self, Jws};
use crate::identity::jwt::replay::{SeenProofs, Unrecorded};
use crate::identity::jwt::{check_token68, check_type};
use crate::identity::{Presented, Target};

/// The header with the proof.
pub static DPOP: HeaderName = HeaderName::from_static("dpop");

/// Longest `jti` of a proof.
const ID_BYTES_MAX: usize = 256;

/// There is no room to remember a proof, and one that is not remembered could be shown again.
const MEMORY_FULL: &str = "dpop_memory_full";

/// Which proofs of possession count.
#[derive(Debug)]
pub(super) struct ProofRules {
    config: Dpop,
    /// How far in the future a proof may be from.
    leeway: Duration,
    seen: Arc<SeenProofs>,
    /// For challenges: the algorithms, with spaces between.
    algorithms: String,
}

/// The key that a token is bound to.
#[derive(Debug)]
pub struct HolderKey {
    thumbprint: Sha256,
    /// The token's hash, as proofs state it.
    token_hash: String,
    rules: Arc<ProofRules>,
    /// The key, once it was shown.
    key: OnceLock<Verifier>,
}

/// Why a proof does not count.
enum Denial {
    Fault(Fault),
    Full,
}

impl From<Fault> for Denial {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

// === impl ProofRules ===

impl ProofRules {
    pub(super) fn new(config: Dpop, leeway: Duration, seen: Arc<SeenProofs>) -> Self {
        let names: Vec<_> = config.algorithms.iter().map(|algorithm| format!("{algorithm:?}")).collect();
        Self { algorithms: names.join(" "), config, leeway, seen }
    }

    pub(super) fn scheme(&self) -> Scheme<'_> {
        Scheme::Dpop { algorithms: &self.algorithms }
    }

    /// For a request without a credential: both schemes may be used (RFC 9449 section 7.1).
    pub(super) fn challenge(&self) -> HeaderValue {
        let both = format!("Bearer, DPoP algs=\"{}\"", self.algorithms);
        HeaderValue::try_from(both).unwrap_or(HeaderValue::from_static("DPoP"))
    }
}

// === impl HolderKey ===

impl HolderKey {
    /// The key of this thumbprint (RFC 7638), to which `token` is bound.
    pub(super) fn new(thumbprint: Sha256, token: &[u8], rules: Arc<ProofRules>) -> Self {
        let token_hash = URL_SAFE_NO_PAD.encode(sha256(token));
        Self { thumbprint, token_hash, rules, key: OnceLock::new() }
    }

    /// Whether the request has a proof of this key that was not shown before. It is then shown.
    pub(in crate::identity) fn check(&self, presented: &Presented<'_>) -> Result<(), NotHeld> {
        self.prove(presented).map_err(|denial| match denial {
            Denial::Fault(fault) => NotHeld::Refused(fault.rejection(self.rules.scheme())),
            Denial::Full => NotHeld::Unavailable(MEMORY_FULL),
        })
    }

    /// RFC 9449 section 4.3.
    fn prove(&self, presented: &Presented<'_>) -> Result<(), Denial> {
        let proof = match header::only(presented.headers, &DPOP) {
            Ok(Some(proof)) => proof,
            Ok(None) => return Err(Fault::ProofMissing.into()),
            Err(Ambiguous) => return Err(Fault::SeveralCredentials.into()),
        };
        let claims = self.verified(proof)?;
        let claim = |name| claims.text(name).ok().flatten().ok_or(Fault::ProofMalformed);
        let (method, uri) = (claim("htm")?, claim("htu")?);
        let is_of_request = method == presented.target.method.as_str() && is_uri_of(uri, &presented.target);
        if !is_of_request || claim("ath")? != self.token_hash {
            return Err(Fault::ProofOfAnother.into());
        }
        let until = self.end(&claims, presented.now)?;
        let id = Some(claim("jti")?).filter(|id| !id.is_empty() && id.len() <= ID_BYTES_MAX);
        // Two holders may choose the same `jti`.
        let hash = sha256(&[&self.thumbprint, id.ok_or(Fault::ProofMalformed)?.as_bytes()].concat());
        self.rules.seen.record(&hash, until, presented.now).map_err(|error| match error {
            Unrecorded::Replayed => Denial::Fault(Fault::ProofReplayed),
            Unrecorded::Full => Denial::Full,
        })
    }

    /// The claims of a proof that the holder of the key has signed.
    fn verified(&self, proof: &[u8]) -> Result<Claims, Fault> {
        let malformed = |_| Fault::ProofMalformed;
        check_token68(proof).map_err(malformed)?;
        let (jws, jwk) = Jws::parse_with_key(proof).map_err(malformed)?;
        check_type(jws.token_type(), Some("dpop+jwt")).map_err(malformed)?;
        let algorithm = jws.algorithm();
        if !self.rules.config.algorithms.contains(&algorithm) {
            return Err(Fault::ProofAlgorithm);
        }
        let shown = Purpose::of(&jwk, Origin::Network).map_err(|_| Fault::ProofMalformed)?;
        // Before the arithmetic: a stranger's key costs a hash.
        if shown.thumbprint().as_ref() != Some(&self.thumbprint) {
            return Err(Fault::HolderNotProven);
        }
        let made = if let Some(known) = self.key.get().filter(|key| key.algorithm() == algorithm) {
            // It has the same thumbprint, so it is the same key.
            jws.check_made_by(known)
        } else {
            let fresh = shown.verifier(algorithm).map_err(|_| Fault::ProofMalformed)?;
            jws.check_made_by(&fresh).map(|()| drop(self.key.set(fresh)))
        };
        made.map_err(|_| Fault::ProofSignature)?;
        jws::parse_object(jws.payload()).map(Claims::new).map_err(malformed)
    }

    /// When the proof ends; an error when it has ended or is from the future.
    fn end(&self, claims: &Claims, now: Duration) -> Result<Duration, Fault> {
        let issued_at = claims.time("iat").ok().flatten().ok_or(Fault::ProofMalformed)?;
        let until = issued_at.saturating_add(self.rules.config.proof_lifetime);
        let is_fresh = issued_at <= now.saturating_add(self.rules.leeway) && now < until;
        if is_fresh { Ok(until) } else { Err(Fault::ProofExpired) }
    }
}

/// Whether `uri` names what is asked for, its query and fragment aside (RFC 9449 section 4.3, RFC 3986 section 6.2).
fn is_uri_of(uri: &str, target: &Target<'_>) -> bool {
    let Some((scheme, rest)) = uri.split_once("://") else { return false };
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let path = rest.split(['?', '#']).next().filter(|path| !path.is_empty()).unwrap_or("/");
    // As lenient as any listener: it is compared with the canonical path, and neither routed nor forwarded.
    let rules = PathRules { merge_slashes: true, path_parameters: true };
    let is_path = || CanonicalPath::parse(path, rules).is_ok_and(|path| path.as_str() == target.path);
    scheme.eq_ignore_ascii_case(target.scheme)
        && is_authority(&authority.to_ascii_lowercase(), target)
        && (path == target.path || is_path())
}

/// Whether host and port are the target's, with the scheme's port where none is given.
fn is_authority(authority: &str, target: &Target<'_>) -> bool {
    fn port<'a>(authority: &'a str, scheme: &str) -> &'a str {
        let named = authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map(|(_, port)| port);
        named.filter(|port| !port.is_empty()).unwrap_or(if scheme == "https" { "443" } else { "80" })
    }
    host_of(authority) == host_of(target.authority)
        && port(authority, target.scheme) == port(target.authority, target.scheme)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn target<'a>(scheme: &'a str, authority: &'a str, path: &'a str) -> Target<'a> {
        Target {
            method: &Method::GET,
            scheme,
            authority,
            path,
            client: [127, 0, 0, 1].into(),
            ..Target::default()
        }
    }

    #[test]
    fn a_uri_is_compared_as_its_parts_are_understood() {
        let pay = target("https", "gw.test", "/pay/a%20b");
        for uri in [
            "https://gw.test/pay/a%20b",
            "HTTPS://GW.test:443/pay/a%20b",
            "https://gw.test./pay/a%20b",
            "https://gw.test:/pay/a%20b",
            "https://gw.test/pay/a%20b?query=1#fragment",
            "https://gw.test/%70ay/a%20b",
            "https://gw.test/x/../pay/a%20b",
        ] {
            assert!(is_uri_of(uri, &pay), "{uri}");
        }
        for uri in [
            "http://gw.test/pay/a%20b",
            "https://gw.test:8443/pay/a%20b",
            "https://evil.test/pay/a%20b",
            "https://gw.test@evil.test/pay/a%20b",
            "https://evil.test?https://gw.test/pay/a%20b",
            "https://gw.test/pay",
            "https://gw.test/pay/a%20b/",
            "https://gw.test/PAY/a%20b",
            "https://gw.test/pay/a%2520b",
            "https:gw.test/pay/a%20b",
            "/pay/a%20b",
            "",
        ] {
            assert!(!is_uri_of(uri, &pay), "{uri}");
        }
        assert!(is_uri_of("http://[::1]:8080", &target("http", "[::1]:8080", "/")));
        assert!(is_uri_of("http://[::1]", &target("http", "[::1]:80", "/")));
        assert!(!is_uri_of("http://[::1]:8080", &target("http", "[::1]", "/")));
    }
}
