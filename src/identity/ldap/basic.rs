//! HTTP Basic credentials (RFC 7617), read in one way only.
//!
//! What could mean something else to a directory (no password: a bind without proof; a NUL: the end of a text) is refused
//! here, before anything is sent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::base::secret::Secret;

/// Longest credential, encoded.
pub(super) const ENCODED_BYTES_MAX: usize = 1024;

/// Longest user name.
const USERNAME_BYTES_MAX: usize = 256;

/// Longest password.
const PASSWORD_BYTES_MAX: usize = 512;

/// Why there is no credential to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BasicFault {
    /// Not in the form of RFC 7617.
    Malformed,
    /// Another one beside it: somebody else may take that one.
    Several,
}

/// A user name and a password, neither empty.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) username: String,
    pub(super) password: Secret<Vec<u8>>,
}

/// The encoded credential of an `Authorization` value, `None` for another scheme (RFC 9110 section 11.4).
pub(super) fn encoded(value: &[u8]) -> Result<Option<&[u8]>, BasicFault> {
    let is_basic = |scheme: &[u8]| scheme.eq_ignore_ascii_case(b"basic");
    let end = value.iter().position(|byte| matches!(byte, b' ' | b'\t' | b','));
    let (scheme, rest) = value.split_at(end.unwrap_or(value.len()));
    if !is_basic(scheme) {
        let mut others = value.split(|byte| *byte == b',').skip(1);
        let hidden = others.any(|part| part.trim_ascii_start().get(..5).is_some_and(is_basic));
        return if hidden { Err(BasicFault::Several) } else { Ok(None) };
    }
    if memchr::memchr(b',', rest).is_some() {
        return Err(BasicFault::Several);
    }
    // Exactly one space, as for bearer tokens.
    let encoded = rest.strip_prefix(b" ").filter(|encoded| encoded.len() <= ENCODED_BYTES_MAX);
    encoded.map(Some).ok_or(BasicFault::Malformed)
}

/// Decodes a credential. The encoding must be the canonical one: another spelling would be another key of every cache.
pub(super) fn decode(encoded: &[u8]) -> Option<Login> {
    if encoded.len() > ENCODED_BYTES_MAX {
        return None;
    }
    let decoded = STANDARD.decode(encoded).ok()?;
    let text = str::from_utf8(&decoded).ok()?;
    // Control characters are forbidden (RFC 7617 section 2), and a NUL would end the text for some servers.
    if text.chars().any(char::is_control) {
        return None;
    }
    let (username, password) = text.split_once(':')?;
    let fits = (1..=USERNAME_BYTES_MAX).contains(&username.len())
        && (1..=PASSWORD_BYTES_MAX).contains(&password.len());
    fits.then(|| Login { username: username.to_owned(), password: Secret::new(password.as_bytes().to_vec()) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn authorization_values() {
        for value in ["Basic YTpi", "basic YTpi", "BASIC YTpi"] {
            assert_eq!(encoded(value.as_bytes()), Ok(Some(&b"YTpi"[..])), "{value}");
        }
        for value in ["Bearer a.b.c", "", "Digest a=\"b\", c=\"d\"", "BasicX YTpi", "Bearer a, Bearer b"] {
            assert_eq!(encoded(value.as_bytes()), Ok(None), "{value}");
        }
        for value in ["Basic", "Basic\tYTpi"] {
            assert_eq!(encoded(value.as_bytes()), Err(BasicFault::Malformed), "{value}");
        }
        let long = format!("Basic {}", "a".repeat(ENCODED_BYTES_MAX + 1));
        assert_eq!(encoded(long.as_bytes()), Err(BasicFault::Malformed));
        for value in
            ["Basic YTpi, Bearer x", "Basic YTpi,Basic YTpj", "Bearer a, Basic YTpi", "Basic,", "a,basic b"]
        {
            assert_eq!(encoded(value.as_bytes()), Err(BasicFault::Several), "{value}");
        }
    }

    #[track_caller]
    fn check(text: &[u8], want: Option<(&str, &str)>) {
        let login = decode(STANDARD.encode(text).as_bytes());
        let got = login
            .as_ref()
            .map(|login| (login.username.as_str(), str::from_utf8(login.password.expose()).unwrap()));
        assert_eq!(got, want, "{}", String::from_utf8_lossy(text));
    }

    #[test]
    fn names_and_passwords() {
        check(b"alice:secret", Some(("alice", "secret")));
        check(b"alice:a:b", Some(("alice", "a:b")));
        check("zo\u{eb}: p\u{e4}ss ".as_bytes(), Some(("zo\u{eb}", " p\u{e4}ss ")));
        check(b"al\\00ice:pw", Some(("al\\00ice", "pw")));
        for wrong in [
            &b"alice:"[..],
            b":secret",
            b":",
            b"",
            b"alice",
            b"al\0ice:pw",
            b"alice:p\0w",
            b"alice:p\nw",
            b"alice:\x7f",
            "alice:\u{85}".as_bytes(),
            b"alice:\xff",
            b"\xfe:pw",
        ] {
            check(wrong, None);
        }
        check(format!("{}:pw", "a".repeat(257)).as_bytes(), None);
        check(format!("a:{}", "p".repeat(513)).as_bytes(), None);
    }

    #[test]
    fn a_credential_has_one_spelling() {
        assert!(decode(b"YTpi").is_some());
        for other in ["YTpi=", "YTpiYg", "YTpiYh==", "YTp i", "YTpi\n", "YTpiYg=", "YT-_"] {
            assert!(decode(other.as_bytes()).is_none(), "{other}");
        }
        assert!(!format!("{:?}", decode(b"YTpi").unwrap()).contains("98"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _found = encoded(&bytes);
            if let Some(login) = decode(STANDARD.encode(&bytes).as_bytes()) {
                prop_assert!(!login.username.is_empty() && !login.password.expose().is_empty());
            }
        }
    }
}
