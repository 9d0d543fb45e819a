//! The built-in functions: which exist, which OPA has and we do not, and the guarded ones.
//!
//! Some of regorus's built-ins can run or allocate without bound under a time limit that only
//! looks between calls, or panic, or read the clock. Those are replaced by guards of the same name
//! which check the arguments first. A refusal by a guard fails the whole evaluation, whatever the
//! policy does with the undefined result.

pub(crate) mod guard;

use regorus::unstable::BUILTINS;

/// What is known of a built-in's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Callable; no arity means any number of arguments.
    Available {
        arity: Option<usize>,
    },
    /// OPA has it, and it needs IO that nobody configured.
    NotConfigured,
    /// OPA has it, and we do not.
    Missing,
    Unknown,
}

/// Built-ins of OPA 1.20 that are not here.
const MISSING: &[&str] = &[
    "all",
    "any",
    "array.flatten",
    "cast_array",
    "cast_boolean",
    "cast_null",
    "cast_object",
    "cast_set",
    "cast_string",
    "crypto.hmac.equal",
    "crypto.hmac.md5",
    "crypto.hmac.sha1",
    "crypto.hmac.sha256",
    "crypto.hmac.sha512",
    "crypto.md5",
    "crypto.parse_private_keys",
    "crypto.sha1",
    "crypto.sha256",
    "crypto.x509.parse_and_verify_certificates",
    "crypto.x509.parse_and_verify_certificates_with_options",
    "crypto.x509.parse_certificate_request",
    "crypto.x509.parse_certificates",
    "crypto.x509.parse_keypair",
    "crypto.x509.parse_rsa_private_key",
    "graphql.is_valid",
    "graphql.parse",
    "graphql.parse_and_verify",
    "graphql.parse_query",
    "graphql.parse_schema",
    "graphql.schema_is_valid",
    "io.jwt.decode",
    "io.jwt.decode_verify",
    "io.jwt.encode_sign",
    "io.jwt.encode_sign_raw",
    "io.jwt.verify_eddsa",
    "io.jwt.verify_es256",
    "io.jwt.verify_es384",
    "io.jwt.verify_es512",
    "io.jwt.verify_hs256",
    "io.jwt.verify_hs384",
    "io.jwt.verify_hs512",
    "io.jwt.verify_ps256",
    "io.jwt.verify_ps384",
    "io.jwt.verify_ps512",
    "io.jwt.verify_rs256",
    "io.jwt.verify_rs384",
    "io.jwt.verify_rs512",
    "net.cidr_contains_matches",
    "net.cidr_intersects",
    "net.cidr_merge",
    "net.cidr_overlap",
    "net.lookup_ip_addr",
    "providers.aws.sign_req",
    "re_match",
    "regex.globs_match",
    "rego.metadata.chain",
    "rego.metadata.rule",
    "rego.parse_module",
    "set_diff",
    "strings.render_template",
    "strings.split_n",
    "uri.is_valid",
    "uri.parse",
];

/// Looks a built-in up by its dotted name.
pub(crate) fn find(name: &str) -> Known {
    match name {
        "http.send" => Known::NotConfigured,
        "print" => Known::Available { arity: None },
        // Internal to regorus, or named after its own test suite.
        _ if name.starts_with("__") || name.starts_with("test.") => Known::Unknown,
        _ => match BUILTINS.get(name) {
            Some((_, arity)) => Known::Available { arity: Some(usize::from(*arity)) },
            None if MISSING.contains(&name) => Known::Missing,
            None => Known::Unknown,
        },
    }
}

/// Whether OPA or we know a built-in of this name.
pub(crate) fn is_known(name: &str) -> bool {
    find(name) != Known::Unknown
}

/// Whether a call may answer differently the next time: clock, chance, or the process it runs in.
pub(crate) fn is_volatile(name: &str) -> bool {
    matches!(name, "time.now_ns" | "rand.intn" | "uuid.rfc4122" | "opa.runtime" | "print" | "trace")
}

/// The built-in whose name is nearest to a misspelt one.
pub(crate) fn nearest(name: &str) -> Option<String> {
    closest(name, BUILTINS.keys().copied().filter(|name| find(name) != Known::Unknown))
}

/// The candidate at the smallest edit distance, if that is small for the name's length.
pub(crate) fn closest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    candidates
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance > 0 && *distance <= 1 + name.len() / 5)
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}

/// Levenshtein distance in bytes; names are short.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.bytes().enumerate() {
        let mut diagonal = index;
        let mut previous = index + 1;
        for (slot, to) in row.iter_mut().skip(1).zip(right.bytes()) {
            let substituted = diagonal + usize::from(from != to);
            diagonal = *slot;
            *slot = substituted.min(previous + 1).min(diagonal + 1);
            previous = *slot;
        }
        if let Some(first) = row.first_mut() {
            *first = index + 1;
        }
    }
    row.last().copied().unwrap_or(left.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_name_is_really_missing() {
        for name in MISSING {
            assert!(!BUILTINS.contains_key(name), "{name} exists now: take it off the list");
        }
    }

    #[test]
    fn names_are_found() {
        assert_eq!(find("count"), Known::Available { arity: Some(1) });
        assert_eq!(find("http.send"), Known::NotConfigured);
        assert_eq!(find("io.jwt.decode"), Known::Missing);
        assert_eq!(find("nothing"), Known::Unknown);
        assert_eq!(find("__builtin_sets.union"), Known::Unknown);
    }

    #[test]
    fn near_names_are_proposed_and_far_ones_are_not() {
        assert_eq!(nearest("startwith").as_deref(), Some("startswith"));
        assert_eq!(nearest("json.unmarshall").as_deref(), Some("json.unmarshal"));
        assert_eq!(nearest("frobnicate"), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
