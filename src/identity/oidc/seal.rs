//! What the browser keeps for the gateway is sealed: nobody else can read it, make it, or use it in another place.
//!
//! AES-256-GCM-SIV with a random nonce, under keys derived from the configured secrets (HKDF-SHA256). The first key seals, all of
//! them open, so that keys can be rotated without ending sessions. Who seals says where it holds: that is authenticated, and not
//! in the cookie.

use std::fmt;
use std::sync::OnceLock;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{hkdf, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::base::secret::Secret;

/// The format, as the first byte.
const VERSION: u8 = 1;

/// What the derived keys are for.
const PURPOSE: &[u8] = b"postern browser cookies 1";

/// The secret of a process whose configuration has none.
static PROCESS_SECRET: OnceLock<[u8; 32]> = OnceLock::new();

/// Seals and opens.
pub(super) struct Sealer {
    keys: Vec<RandomizedNonceKey>,
}

/// Where a sealed text holds. Every part is authenticated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// `session` or `login`.
    pub(super) kind: &'static str,
    pub(super) provider: &'a str,
    pub(super) issuer: &'a str,
    pub(super) client_id: &'a str,
    pub(super) listener: &'a str,
    pub(super) host: &'a str,
    pub(super) scheme: &'static str,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("keys", &self.keys.len()).finish()
    }
}

// === impl Sealer ===

impl Sealer {
    /// Keys from these secrets, or from one that lives as long as the process. Fails only where the system gives no random
    /// numbers.
    pub(super) fn new(secrets: &[Secret<String>]) -> Result<Self, Unspecified> {
        let keys: Result<Vec<_>, _> = if secrets.is_empty() {
            [key(process_secret()?)].into_iter().collect()
        } else {
            secrets.iter().map(|secret| key(secret.expose().as_bytes())).collect()
        };
        Ok(Self { keys: keys? })
    }

    /// `text` sealed for `place`, in base64url.
    pub(super) fn seal(&self, place: &Place<'_>, text: &[u8]) -> Result<String, Unspecified> {
        let key = self.keys.first().ok_or(Unspecified)?;
        let mut sealed = text.to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::from(place.bytes()), &mut sealed)?;
        let mut whole = Vec::with_capacity(1 + NONCE_LEN + sealed.len());
        whole.push(VERSION);
        whole.extend_from_slice(nonce.as_ref());
        whole.append(&mut sealed);
        Ok(URL_SAFE_NO_PAD.encode(whole))
    }

    /// What was sealed for `place`; `None` for anything else.
    pub(super) fn open(&self, place: &Place<'_>, sealed: &str) -> Option<Vec<u8>> {
        let whole = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (version, rest) = whole.split_first()?;
        if *version != VERSION || rest.len() < NONCE_LEN {
            return None;
        }
        let (nonce, sealed) = rest.split_at(NONCE_LEN);
        let aad = place.bytes();
        self.keys.iter().find_map(|key| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut text = sealed.to_vec();
            let length = key.open_in_place(nonce, Aad::from(&aad), &mut text).ok()?.len();
            text.truncate(length);
            Some(text)
        })
    }
}

// === impl Place ===

impl Place<'_> {
    /// Each part with its length before it, so that no two places read alike.
    fn bytes(&self) -> Vec<u8> {
        let parts =
            [self.kind, self.provider, self.issuer, self.client_id, self.listener, self.host, self.scheme];
        let mut bytes = Vec::new();
        for part in parts {
            bytes.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }
}

/// The length of a derived key.
#[derive(Clone, Copy)]
struct KeyLength;

impl hkdf::KeyType for KeyLength {
    fn len(&self) -> usize {
        32
    }
}

fn key(secret: &[u8]) -> Result<RandomizedNonceKey, Unspecified> {
    let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(secret);
    let mut bytes = [0; 32];
    derived.expand(&[PURPOSE], KeyLength)?.fill(&mut bytes)?;
    RandomizedNonceKey::new(&AES_256_GCM_SIV, &bytes)
}

fn process_secret() -> Result<&'static [u8; 32], Unspecified> {
    if let Some(secret) = PROCESS_SECRET.get() {
        return Ok(secret);
    }
    let mut secret = [0; 32];
    rand::fill(&mut secret)?;
    // Where two threads come here at once, both take the one that is kept.
    Ok(PROCESS_SECRET.get_or_init(|| secret))
}

/// So many random bytes, in base64url.
pub(super) fn random_text<const N: usize>() -> Result<String, Unspecified> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: Place<'static> = Place {
        kind: "session",
        provider: "browser",
        issuer: "https://idp.test",
        client_id: "gw",
        listener: "public",
        host: "shop.test",
        scheme: "https",
    };

    fn sealer(secrets: &[&str]) -> Sealer {
        let secrets: Vec<_> = secrets.iter().map(|secret| Secret::new((*secret).to_owned())).collect();
        Sealer::new(&secrets).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_alone() {
        let sealer = sealer(&["0123456789abcdef0123456789abcdef"]);
        let text = sealer.seal(&PLACE, b"hello").unwrap();
        assert_eq!(sealer.open(&PLACE, &text).as_deref(), Some(&b"hello"[..]));
        for other in [
            Place { kind: "login", ..PLACE },
            Place { provider: "browser2", ..PLACE },
            Place { issuer: "https://idp2.test", ..PLACE },
            Place { client_id: "gw2", ..PLACE },
            Place { listener: "partner", ..PLACE },
            Place { host: "bank.test", ..PLACE },
            Place { scheme: "http", ..PLACE },
            // The same letters, cut elsewhere.
            Place { listener: "publics", host: "hop.test", ..PLACE },
        ] {
            assert_eq!(sealer.open(&other, &text), None, "{other:?}");
        }
    }

    #[test]
    fn keys_rotate() {
        let (old, both, new) = (sealer(&["old"]), sealer(&["new", "old"]), sealer(&["new"]));
        let by_old = old.seal(&PLACE, b"x").unwrap();
        let by_both = both.seal(&PLACE, b"x").unwrap();
        assert!(both.open(&PLACE, &by_old).is_some());
        assert!(new.open(&PLACE, &by_both).is_some(), "the first key seals");
        assert!(new.open(&PLACE, &by_old).is_none(), "a key that was taken out opens nothing");
    }

    #[test]
    fn without_a_secret_the_process_has_one() {
        let sealed = sealer(&[]).seal(&PLACE, b"x").unwrap();
        assert!(sealer(&[]).open(&PLACE, &sealed).is_some());
        assert!(sealer(&["other"]).open(&PLACE, &sealed).is_none());
    }

    #[test]
    fn no_two_are_alike() {
        let sealer = sealer(&["k"]);
        assert_ne!(sealer.seal(&PLACE, b"x").unwrap(), sealer.seal(&PLACE, b"x").unwrap());
    }

    proptest! {
        #[test]
        fn a_changed_or_cut_text_does_not_open(at in any::<prop::sample::Index>(), flip in 1_u8.., cut in any::<prop::sample::Index>()) {
            let sealer = sealer(&["k"]);
            let sealed = sealer.seal(&PLACE, b"some session").unwrap();
            let mut bytes = URL_SAFE_NO_PAD.decode(&sealed).unwrap();
            let index = at.index(bytes.len());
            bytes[index] ^= flip;
            prop_assert_eq!(sealer.open(&PLACE, &URL_SAFE_NO_PAD.encode(&bytes)), None);
            prop_assert_eq!(sealer.open(&PLACE, &sealed[..cut.index(sealed.len())]), None);
        }

        #[test]
        fn anything_may_be_shown(text in ".{0,200}") {
            prop_assert_eq!(sealer(&["k"]).open(&PLACE, &text), None);
        }
    }
}
