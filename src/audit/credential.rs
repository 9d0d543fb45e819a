//! Which names carry credentials, and where in the policy's input and result they can stand.
//!
//! Names are compared without ASCII case and with `_` and `-` as one. Beside the known names, a name is a credential's
//! when it contains a word such as `token` or `secret`: to leave out too much costs a reader a look at the erased list,
//! to leave out too little costs a breach. A new shape of input or result adds its rows to the trees here.

use http::HeaderName;
use smallvec::SmallVec;

/// Words that make a name a credential's. Each holds a `k`, `w` or `z`, or one of the pairs `cr` and `ss`: see
/// [`may_have_word`].
const WORDS: [&str; 17] = [
    "token",
    "cookie",
    "apikey",
    "api-key",
    "access-key",
    "auth-key",
    "master-key",
    "private-key",
    "subscription-key",
    "functions-key",
    "passw",
    "jwt",
    "authorization",
    "secret",
    "credential",
    "session",
    "assertion",
];

/// Headers that carry credentials: the frequent ones, which then need no search for words, and those that hold no word.
const HEADERS: [&str; 8] =
    ["authorization", "cookie", "set-cookie", "x-api-key", "auth", "x-auth", "dpop", "x-amzn-oidc-data"];

/// Query parameters that carry credentials and hold none of the words.
const PARAMETERS: [&str; 16] = [
    "auth",
    "code",
    "code-verifier",
    "key",
    "otp",
    "pass",
    "pin",
    "pwd",
    "samlrequest",
    "samlresponse",
    "sid",
    "sig",
    "signature",
    "ticket",
    "x-amz-signature",
    "x-goog-signature",
];

/// Schemes of a credential that stands in a header whose name does not tell.
const SCHEMES: [&str; 3] = ["bearer ", "basic ", "dpop "];

/// What is left out of a part of a document.
#[derive(Debug, Clone, Copy)]
pub enum Rule {
    /// Nothing.
    Keep,
    /// An object whose members have rules of their own; members not listed are kept.
    Members(&'static [(&'static str, Rule)]),
    /// An object of headers: those that carry credentials.
    Headers,
    /// An object of query parameters: those that carry credentials.
    Query,
    /// A URL or path: the whole of it where its query carries a credential.
    Url,
    /// The whole, unless it is empty.
    Secret,
    /// The whole where its text is longer than 16 KiB.
    Body,
    /// Nothing, and requests share it: its text is remembered.
    Shared,
}

/// Rules of the policy's input: that of `gateway/v1` (contract section 3), and beside it that of `envoy/v3`, whose members
/// have other names.
pub const INPUT: Rule = Rule::Members(&[
    REQUEST,
    RESPONSE,
    ("identity", Rule::Shared),
    SOURCE,
    (
        "attributes",
        Rule::Members(&[(
            "request",
            Rule::Members(&[("http", Rule::Members(&[("headers", Rule::Headers), ("path", Rule::Url)]))]),
        )]),
    ),
    ("parsed_query", Rule::Query),
    ("parsed_body", Rule::Body),
    ("gateway", Rule::Members(&[REQUEST, RESPONSE, ("identity", Rule::Shared), SOURCE])),
]);

const REQUEST: (&str, Rule) = (
    "request",
    Rule::Members(&[
        ("headers", Rule::Headers),
        ("cookies", Rule::Secret),
        ("query", Rule::Query),
        ("body", Rule::Body),
        ("raw_path", Rule::Url),
    ]),
);
const RESPONSE: (&str, Rule) = ("response", Rule::Members(&[("headers", Rule::Headers)]));
const SOURCE: (&str, Rule) = ("source", Rule::Members(&[("tls", Rule::Shared)]));

/// Rules of the policy's result (contract section 4).
pub const RESULT: Rule = Rule::Members(&[
    ("response_headers_to_add", Rule::Headers),
    ("query_parameters_to_set", Rule::Query),
    ("headers", Rule::Headers),
    ("body", Rule::Body),
    (
        "upstream",
        Rule::Members(&[
            ("headers", Rule::Members(&[("set", Rule::Headers), ("add", Rule::Headers)])),
            ("query", Rule::Members(&[("set", Rule::Query)])),
            ("path", Rule::Url),
        ]),
    ),
    (
        "response",
        Rule::Members(&[("headers", Rule::Members(&[("set", Rule::Headers), ("add", Rule::Headers)]))]),
    ),
]);

/// Whether a header of this name carries a credential; `configured` are the gateway's own API-key headers.
pub fn is_credential_header(name: &str, configured: &[HeaderName]) -> bool {
    has_word(name)
        || is_one_of(name, &HEADERS)
        || configured.iter().any(|header| is_same(name, header.as_str()))
}

/// Whether a query parameter of this name carries a credential.
pub fn is_credential_parameter(name: &str) -> bool {
    is_one_of(name, &PARAMETERS) || has_word(name)
}

/// Whether a header's value carries a credential whatever its name is: an authentication scheme, or a URL with a
/// credential in its query or fragment (`Referer`, `Location`).
pub fn is_credential_value(value: &str) -> bool {
    let scheme = |scheme: &&str| {
        value
            .as_bytes()
            .get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
    };
    SCHEMES.iter().any(scheme) || is_credential_url(value)
}

/// Whether a URL carries a credential in its query or fragment.
pub fn is_credential_url(url: &str) -> bool {
    let Some(at) = memchr::memchr2(b'?', b'#', url.as_bytes()) else { return false };
    let (_, query) = url.split_at(at);
    query.split(['?', '#', '&', ';']).any(|pair| {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        is_credential_parameter(&percent_encoding::percent_decode_str(name).decode_utf8_lossy())
    })
}

const fn fold(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() }
}

fn is_same(name: &str, other: &str) -> bool {
    name.len() == other.len() && name.bytes().zip(other.bytes()).all(|(one, other)| fold(one) == fold(other))
}

fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|known| is_same(name, known))
}

fn has_word(name: &str) -> bool {
    if !may_have_word(name) {
        return false;
    }
    let folded: SmallVec<[u8; 64]> = name.bytes().map(fold).collect();
    let begins_with_word = |at: usize| {
        let rest = folded.get(at..).unwrap_or_default();
        // The first byte rules out most words without a call.
        WORDS.iter().any(|word| rest.first() == word.as_bytes().first() && rest.starts_with(word.as_bytes()))
    };
    (0..folded.len()).any(begins_with_word)
}

/// Whether `name` can hold one of the [`WORDS`] at all; a cheap test that most names fail.
fn may_have_word(name: &str) -> bool {
    let (mut may, mut previous) = (0, 0);
    for byte in name.bytes() {
        let class = CLASSES.get(usize::from(byte)).copied().unwrap_or_default();
        may |= class & ALONE | (previous & class & S) | ((previous & C) << 1 & class);
        previous = class;
    }
    may != 0
}

/// `k`, `w` and `z`.
const ALONE: u8 = 1;
/// `s`.
const S: u8 = 2;
/// `c`, which must be followed by the next bit.
const C: u8 = 4;
/// `r`.
const R: u8 = C << 1;

/// What a byte can mean for [`may_have_word`].
static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let letters = [(b'k', ALONE), (b'w', ALONE), (b'z', ALONE), (b's', S), (b'c', C), (b'r', R)];
    let mut index = 0;
    #[expect(clippy::indexing_slicing, reason = "evaluated when the program is compiled")]
    while index < letters.len() {
        let (letter, class) = letters[index];
        classes[letter as usize] = class;
        classes[letter.to_ascii_uppercase() as usize] = class;
        index += 1;
    }
    classes
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credential_headers_are_known_in_any_spelling() {
        let names = [
            "authorization",
            "Proxy-Authorization",
            "cookie",
            "set-cookie",
            "x-api-key",
            "X_API_KEY",
            "api-key",
            "apikey",
            "x-auth-token",
            "x-csrf-token",
            "x-xsrf-token",
            "x-amz-security-token",
            "x-access-token",
            "private-token",
            "x-forwarded-access-token",
            "x-vault-token",
            "x-goog-api-key",
            "ocp-apim-subscription-key",
            "x-functions-key",
            "x-client-secret",
            "x-password",
            "dpop",
            "x-auth",
            "x-session-id",
            "x-goog-iap-jwt-assertion",
            "x-amzn-oidc-data",
            "x-amz-credential",
            "xauthtoken",
        ];
        for name in names {
            assert!(is_credential_header(name, &[]), "{name}");
        }
    }

    #[test]
    fn ordinary_headers_stay() {
        let names = [
            "accept",
            "accept-encoding",
            "host",
            "user-agent",
            "content-type",
            "content-length",
            "x-request-id",
            "traceparent",
            "x-forwarded-for",
            "cache-control",
            "keep-alive",
            "if-none-match",
            "sec-websocket-key",
            "idempotency-key",
            "www-authenticate",
            "access-control-request-method",
            "author",
            "x-author",
            "",
        ];
        for name in names {
            assert!(!is_credential_header(name, &[]), "{name}");
        }
    }

    #[test]
    fn configured_headers_are_credentials() {
        let configured = [HeaderName::from_static("x-partner_id")];
        assert!(is_credential_header("X-Partner-Id", &configured));
        assert!(!is_credential_header("x-partner-ids", &configured));
    }

    #[test]
    fn credential_parameters() {
        let names = [
            "access_token",
            "id_token",
            "token",
            "api_key",
            "apikey",
            "key",
            "password",
            "secret",
            "client_secret",
            "code",
            "signature",
            "sig",
            "X-Amz-Signature",
            "SAMLResponse",
            "client_assertion",
            "jwt",
            "Session-ID",
            "refresh_token",
        ];
        for name in names {
            assert!(is_credential_parameter(name), "{name}");
        }
        for name in ["page", "q", "country_code", "sort-key", "state", "design", "keyword", ""] {
            assert!(!is_credential_parameter(name), "{name}");
        }
    }

    #[test]
    fn values_that_tell_themselves() {
        for value in [
            "Bearer abc",
            "basic dTpw",
            "https://x/?a=1&access_token=t",
            "/cb#id_token=t",
            "/?acc%65ss_token=t",
        ] {
            assert!(is_credential_value(value), "{value}");
        }
        for value in
            ["bearer", "https://x/?page=2", "https://x/token=1", "text/html;q=0.8", "", "\u{e4}\u{e4}\u{e4}?"]
        {
            assert!(!is_credential_value(value), "{value}");
        }
    }

    #[test]
    fn every_word_passes_the_cheap_test() {
        for word in WORDS {
            assert!(may_have_word(word), "{word}");
        }
    }
}
