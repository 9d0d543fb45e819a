//! Whether a certificate chains up to a root (RFC 5280, section 6), with Go's rules.
//!
//! The first certificate is the root, the last one the leaf, those between may link them. No
//! signature with SHA-1 or MD5 counts.

use std::{collections::BTreeSet, net::IpAddr};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1, ECDSA_P384_SHA256_ASN1,
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA512_ASN1, ECDSA_P521_SHA256_ASN1, ECDSA_P521_SHA384_ASN1,
    ECDSA_P521_SHA512_ASN1, ED25519, EcdsaVerificationAlgorithm,
    RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
    RSA_PKCS1_2048_8192_SHA384, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use regorus::Value;
use x509_parser::{
    extensions::{GeneralName, GeneralSubtree, ParsedExtension},
    prelude::X509Certificate,
};

use super::{
    super::{
        Failure, argument, evaluation,
        jwt::key::{Curve, Key, of_subject},
        uri,
    },
    certificate::{
        AlternativeNames, alternative_names, extended_key_usage, key_usages, signature_algorithm, unhandled,
    },
};

/// Most signatures checked for one chain, as in Go.
const SIGNATURES_MAX: usize = 100;
/// Go's names of the extended key usages, in the order of their numbers.
const USAGE_NAMES: [&str; 14] = [
    "KeyUsageAny",
    "KeyUsageServerAuth",
    "KeyUsageClientAuth",
    "KeyUsageCodeSigning",
    "KeyUsageEmailProtection",
    "KeyUsageIPSECEndSystem",
    "KeyUsageIPSECTunnel",
    "KeyUsageIPSECUser",
    "KeyUsageTimeStamping",
    "KeyUsageOCSPSigning",
    "KeyUsageMicrosoftServerGatedCrypto",
    "KeyUsageNetscapeServerGatedCrypto",
    "KeyUsageMicrosoftCommercialCodeSigning",
    "KeyUsageMicrosoftKernelCodeSigning",
];
const ANY_USAGE: usize = 0;
const SERVER_USAGE: usize = 1;

/// What a chain has to be good for.
#[derive(Debug, Default)]
pub(super) struct Requirements {
    dns_name: String,
    /// Nanoseconds since 1970; the evaluation's time if absent.
    time_ns: Option<i64>,
    /// Usages of which one has to be allowed; servers if there are none.
    usages: BTreeSet<usize>,
}

impl Requirements {
    pub(super) fn read(options: &Value) -> Result<Self, Failure> {
        let mut requirements = Self::default();
        let Value::Object(fields) = options else { return Err(argument::wrong_type(1, "object", options)) };
        for (name, value) in fields.iter() {
            let Value::String(name) = name else { continue };
            let wrong = |what: &str| Failure::Error(format!("'{name}' should be {what}"));
            match &**name {
                "DNSName" => match value {
                    Value::String(text) => text.trim_matches('"').clone_into(&mut requirements.dns_name),
                    _ => return Err(wrong("a string")),
                },
                "CurrentTime" => {
                    let time = value.as_i64().map_err(|_| wrong("a valid int64 number"))?;
                    requirements.time_ns = Some(time);
                }
                // The work is bounded here in any case.
                "MaxConstraintComparisons" => {
                    value.as_i64().map_err(|_| wrong("a valid number"))?;
                }
                "KeyUsages" => {
                    let names = argument::members(value).ok_or_else(|| wrong("an Array or Set"))?;
                    for name in names {
                        let Value::String(name) = name else { continue };
                        let number = USAGE_NAMES.iter().position(|known| *known == name.trim_matches('"'));
                        let number = number.ok_or_else(|| {
                            Failure::Error(format!("invalid entries for 'KeyUsages' found: {name}"))
                        })?;
                        requirements.usages.insert(number);
                    }
                }
                _ => return Err(Failure::Error("invalid key option".to_owned())),
            }
        }
        Ok(requirements)
    }

    fn allow_usages(&self, chain: &[&X509Certificate<'_>]) -> bool {
        let mut wanted =
            if self.usages.is_empty() { BTreeSet::from([SERVER_USAGE]) } else { self.usages.clone() };
        if wanted.contains(&ANY_USAGE) {
            return true;
        }
        for certificate in chain {
            let Some(extension) = extended_key_usage(certificate) else { continue };
            let (known, _) = key_usages(extension);
            if !known.contains(&ANY_USAGE) {
                wanted.retain(|usage| known.contains(usage));
            }
        }
        !wanted.is_empty()
    }
}

/// The chain from the leaf to the root.
pub(super) fn chain<'a>(
    certificates: &'a [X509Certificate<'a>],
    requirements: &'a Requirements,
) -> Result<Vec<&'a X509Certificate<'a>>, Failure> {
    let [root, intermediates @ .., leaf] = certificates else {
        return error("must supply at least two certificates to be able to verify");
    };
    let seconds = requirements.time_ns.unwrap_or_else(evaluation::now_ns).div_euclid(1_000_000_000);
    let mut search = Search { root, intermediates, seconds, signatures: 0, requirements };
    search.check(leaf, &[])?;
    check_host(leaf, &requirements.dns_name)?;
    search
        .extend(&[leaf])?
        .ok_or_else(|| Failure::Error("certificate signed by unknown authority".to_owned()))
}

fn error<T>(reason: &str) -> Result<T, Failure> {
    Err(Failure::Error(reason.to_owned()))
}

struct Search<'a> {
    root: &'a X509Certificate<'a>,
    intermediates: &'a [X509Certificate<'a>],
    seconds: i64,
    signatures: usize,
    requirements: &'a Requirements,
}

impl<'a> Search<'a> {
    /// Tries every issuer of the last certificate, the root first.
    fn extend(
        &mut self,
        chain: &[&'a X509Certificate<'a>],
    ) -> Result<Option<Vec<&'a X509Certificate<'a>>>, Failure> {
        let Some(last) = chain.last().copied() else { return Ok(None) };
        let root = std::iter::once(self.root);
        for issuer in root.chain(self.intermediates) {
            let is_new = !chain.iter().any(|link| link.as_raw() == issuer.as_raw());
            let is_named = last.issuer().as_raw() == issuer.subject().as_raw();
            if !is_named || !is_new || self.check(issuer, chain).is_err() {
                continue;
            }
            self.signatures += 1;
            if self.signatures > SIGNATURES_MAX {
                return Err(Failure::Refused("too many signatures to check in one chain".to_owned()));
            }
            if !may_sign(issuer) || !is_signed_by(last, issuer) {
                continue;
            }
            let mut longer = chain.to_vec();
            longer.push(issuer);
            let is_root = std::ptr::eq(issuer, self.root);
            let found = if is_root {
                Some(longer).filter(|chain| self.requirements.allow_usages(chain))
            } else {
                self.extend(&longer)?
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Whether a certificate may stand above those of a chain; the leaf stands above none.
    fn check(
        &self,
        certificate: &X509Certificate<'_>,
        below: &[&X509Certificate<'_>],
    ) -> Result<(), Failure> {
        if !unhandled(certificate).is_empty() {
            return error("unhandled critical extension");
        }
        let validity = certificate.validity();
        let is_current =
            validity.not_before.timestamp() <= self.seconds && self.seconds <= validity.not_after.timestamp();
        if !is_current {
            return error("certificate has expired or is not yet valid");
        }
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                // A leaf's own constraints bind nothing.
                ParsedExtension::NameConstraints(constraints) if !below.is_empty() => {
                    for link in below {
                        let names = alternative_names(link);
                        check_names(&names, constraints.permitted_subtrees.as_deref(), true)?;
                        check_names(&names, constraints.excluded_subtrees.as_deref(), false)?;
                    }
                }
                ParsedExtension::BasicConstraints(constraints) if !below.is_empty() => {
                    let limit = constraints.path_len_constraint;
                    let between = u32::try_from(below.len() - 1).unwrap_or(u32::MAX);
                    if limit.is_some_and(|limit| between > limit) {
                        return error("too many intermediates for path length constraint");
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether a certificate may sign others.
fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    let mut is_authority = None;
    let mut signs = true;
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) => is_authority = Some(constraints.ca),
            ParsedExtension::KeyUsage(usage) => signs = usage.flags == 0 || usage.key_cert_sign(),
            _ => {}
        }
    }
    // Before version 3 there was no way to say so.
    signs && is_authority.unwrap_or(certificate.version().0 < 2)
}

fn is_signed_by(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    let signed = certificate.tbs_certificate.as_ref();
    let signature = &certificate.signature_value.data;
    let algorithm = signature_algorithm(&certificate.signature_algorithm);
    match of_subject(issuer.public_key()) {
        Key::Rsa { modulus, exponent } => {
            let parameters = match algorithm {
                4 => &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
                5 => &RSA_PKCS1_2048_8192_SHA384,
                6 => &RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
                13 => &RSA_PSS_2048_8192_SHA256,
                14 => &RSA_PSS_2048_8192_SHA384,
                15 => &RSA_PSS_2048_8192_SHA512,
                _ => return false,
            };
            let key = RsaPublicKeyComponents { n: modulus, e: exponent };
            key.verify(parameters, signed, signature).is_ok()
        }
        Key::Ec { curve, point } => ecdsa(algorithm, curve).is_some_and(|algorithm| {
            UnparsedPublicKey::new(algorithm, point).verify(signed, signature).is_ok()
        }),
        Key::Ed25519(key) => {
            algorithm == 16 && UnparsedPublicKey::new(&ED25519, key).verify(signed, signature).is_ok()
        }
        Key::Secret(_) | Key::Unusable => false,
    }
}

fn ecdsa(algorithm: i64, curve: Curve) -> Option<&'static EcdsaVerificationAlgorithm> {
    match (algorithm, curve) {
        (10, Curve::P256) => Some(&ECDSA_P256_SHA256_ASN1),
        (11, Curve::P256) => Some(&ECDSA_P256_SHA384_ASN1),
        (12, Curve::P256) => Some(&ECDSA_P256_SHA512_ASN1),
        (10, Curve::P384) => Some(&ECDSA_P384_SHA256_ASN1),
        (11, Curve::P384) => Some(&ECDSA_P384_SHA384_ASN1),
        (12, Curve::P384) => Some(&ECDSA_P384_SHA512_ASN1),
        (10, Curve::P521) => Some(&ECDSA_P521_SHA256_ASN1),
        (11, Curve::P521) => Some(&ECDSA_P521_SHA384_ASN1),
        (12, Curve::P521) => Some(&ECDSA_P521_SHA512_ASN1),
        _ => None,
    }
}

/// Whether names obey one half of name constraints (RFC 5280, section 4.2.1.10).
fn check_names(
    names: &AlternativeNames,
    trees: Option<&[GeneralSubtree<'_>]>,
    permitted: bool,
) -> Result<(), Failure> {
    let Some(trees) = trees else { return Ok(()) };
    let obeys = |is_of_kind: &dyn Fn(&GeneralName<'_>) -> Option<bool>| {
        let matches: Vec<bool> = trees.iter().filter_map(|tree| is_of_kind(&tree.base)).collect();
        if permitted { matches.is_empty() || matches.contains(&true) } else { !matches.contains(&true) }
    };
    let dns = names.dns.iter().all(|name| {
        obeys(&|tree| {
            if let GeneralName::DNSName(domain) = tree { Some(is_below(name, domain)) } else { None }
        })
    });
    let emails = names.emails.iter().all(|name| {
        obeys(&|tree| {
            if let GeneralName::RFC822Name(of) = tree { Some(is_mailbox_of(name, of)) } else { None }
        })
    });
    let uris = names.uris.iter().all(|name| {
        let host = uri::split(name).map(|uri| uri.host).unwrap_or_default();
        let host = host.rsplit_once(':').map_or(host.as_str(), |(host, _)| host).to_owned();
        obeys(&|tree| {
            if let GeneralName::URI(domain) = tree { Some(is_host_of(&host, domain)) } else { None }
        })
    });
    let addresses = names.addresses.iter().all(|address| {
        obeys(&|tree| {
            if let GeneralName::IPAddress(range) = tree { Some(is_in_range(*address, range)) } else { None }
        })
    });
    if dns && emails && uris && addresses {
        Ok(())
    } else {
        error("name is not permitted by the issuer's constraints")
    }
}

/// Whether a name is the domain or one below it.
fn is_below(name: &str, domain: &str) -> bool {
    let (name, domain) = (name.to_ascii_lowercase(), domain.to_ascii_lowercase());
    let domain = domain.strip_prefix('.').unwrap_or(&domain);
    domain.is_empty() || name == domain || name.strip_suffix(domain).is_some_and(|above| above.ends_with('.'))
}

fn is_mailbox_of(mailbox: &str, constraint: &str) -> bool {
    if constraint.contains('@') {
        return mailbox.eq_ignore_ascii_case(constraint);
    }
    mailbox.rsplit_once('@').is_some_and(|(_, host)| is_host_of(host, constraint))
}

/// Whether a host is the one named or, with a dot in front of that, one below it.
fn is_host_of(host: &str, constraint: &str) -> bool {
    match constraint.strip_prefix('.') {
        Some(domain) => is_below(host, domain) && !host.eq_ignore_ascii_case(domain),
        None => host.eq_ignore_ascii_case(constraint),
    }
}

fn is_in_range(address: IpAddr, range: &[u8]) -> bool {
    let octets: Vec<u8> = match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (base, mask) = range.split_at(range.len() / 2);
    octets.len() == base.len()
        && octets.iter().zip(base).zip(mask).all(|((octet, base), mask)| octet & mask == base & mask)
}

/// Whether a certificate is for a host (RFC 6125); the subject's common name does not count.
fn check_host(certificate: &X509Certificate<'_>, host: &str) -> Result<(), Failure> {
    if host.is_empty() {
        return Ok(());
    }
    let names = alternative_names(certificate);
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_for = match bare.parse::<IpAddr>() {
        Ok(address) => names.addresses.contains(&address),
        Err(_) => names.dns.iter().any(|pattern| is_host_like(host.trim_end_matches('.'), pattern)),
    };
    if is_for { Ok(()) } else { error("certificate is not valid for this host") }
}

fn is_host_like(host: &str, pattern: &str) -> bool {
    let pattern = pattern.trim_end_matches('.');
    match pattern.strip_prefix("*.") {
        Some(domain) => host
            .split_once('.')
            .is_some_and(|(first, rest)| !first.is_empty() && rest.eq_ignore_ascii_case(domain)),
        None => !pattern.is_empty() && host.eq_ignore_ascii_case(pattern),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_hosts_and_domains() {
        assert!(
            is_host_like("a.example.com", "*.example.com") && !is_host_like("example.com", "*.example.com")
        );
        assert!(!is_host_like("a.b.example.com", "*.example.com") && is_host_like("A.b", "a.B."));
        assert!(is_below("a.b.c", "b.c") && is_below("b.c", ".b.c") && !is_below("ab.c", "b.c"));
        assert!(is_host_of("a.b", ".b") && !is_host_of("b", ".b") && is_host_of("b", "b"));
        assert!(
            is_mailbox_of("x@a.b", "a.b") && is_mailbox_of("x@a.b", "X@A.B") && !is_mailbox_of("x@c", "a.b")
        );
        let range = [10, 0, 0, 0, 255, 0, 0, 0];
        assert!(is_in_range([10, 1, 2, 3].into(), &range) && !is_in_range([11, 1, 2, 3].into(), &range));
        assert!(!is_in_range(IpAddr::from([0_u16; 8]), &range));
    }
}
