//! SPIFFE ids and the trust domains in them (SPIFFE-ID, section 2).

/// The trust domain of a SPIFFE id, `None` for what is not one (SPIFFE-ID section 2).
pub fn trust_domain(id: &str) -> Option<&str> {
    const ID_BYTES_MAX: usize = 2048;
    let rest = id.strip_prefix("spiffe://").filter(|_| id.len() <= ID_BYTES_MAX)?;
    let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let is_segment = |segment: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        !matches!(segment, "" | "." | "..") && segment.bytes().all(plain)
    };
    let is_path = path.is_empty() || path.split('/').skip(1).all(is_segment);
    (is_trust_domain(domain) && is_path).then_some(domain)
}

/// Whether this is the name of a trust domain: lower case, without port or user.
pub fn is_trust_domain(name: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_');
    !name.is_empty() && name.len() <= 255 && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spiffe_id_has_one_form() {
        for (id, domain) in [
            ("spiffe://example.org/device/scanner-7", "example.org"),
            ("spiffe://example.org", "example.org"),
            ("spiffe://a_b-c.1/X.y_z-9", "a_b-c.1"),
        ] {
            assert_eq!(trust_domain(id), Some(domain), "{id}");
        }
        let long = format!("spiffe://a/{}", "b".repeat(2048));
        for id in [
            "spiffe://",
            "spiffe:///a",
            "SPIFFE://example.org/a",
            "spiffe://Example.org/a",
            "spiffe://example.org:8443/a",
            "spiffe://user@example.org/a",
            "spiffe://example.org/",
            "spiffe://example.org/a/",
            "spiffe://example.org//a",
            "spiffe://example.org/a/../b",
            "spiffe://example.org/./a",
            "spiffe://example.org/a%2fb",
            "spiffe://example.org/a?b",
            "spiffe://example.org/a#b",
            "spiffe://example.org/\u{e9}",
            "https://example.org/a",
            &long,
        ] {
            assert_eq!(trust_domain(id), None, "{id:.60}");
        }
    }
}
