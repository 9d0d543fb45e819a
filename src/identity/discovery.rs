//! OpenID Connect Discovery 1.0 and RFC 8414: what an issuer publishes about itself, read so that it can send the gateway
//! nowhere it should not go.
//!
//! The document must name the very issuer that was asked for. Its endpoints are `https`, unless issuer and endpoint are on
//! loopback, and are on the issuer's own host, on a public name, or on a host that the configuration lists: a document must not
//! turn the gateway's requests against the network it stands in.

use http::Uri;
use serde_json::{Map, Value};

use crate::base::json::{self, StrictJsonError};
use crate::base::net::is_loopback;

/// Largest document read.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

const JSON_DEPTH_MAX: usize = 16;
const URL_BYTES_MAX: usize = 2048;

/// What is taken from a discovery document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Where the keys are.
    pub jwks_uri: Uri,
    /// Where browsers are sent to log in.
    pub authorization_endpoint: Option<Uri>,
    /// Where codes and refresh tokens become tokens.
    pub token_endpoint: Option<Uri>,
    /// Where claims about the user are.
    pub userinfo_endpoint: Option<Uri>,
    /// Where browsers are sent to log out.
    pub end_session_endpoint: Option<Uri>,
    /// The issuer names itself in its authorization responses (RFC 9207).
    pub names_issuer: bool,
}

/// Why a discovery document is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryFault {
    /// Not strict JSON.
    #[error("not a discovery document: {0}")]
    NotJson(#[from] StrictJsonError),
    /// Not an object.
    #[error("not a discovery document: an object is expected")]
    NoObject,
    /// A member is missing or of the wrong kind.
    #[error("`{0}` is missing or of the wrong kind")]
    Member(&'static str),
    /// It is another issuer's.
    #[error("the document names the issuer `{0}`, which is not the configured one, letter by letter")]
    OtherIssuer(String),
    /// A URL that is none, or that has credentials or a fragment.
    #[error("`{0}` is not a usable URL")]
    Url(&'static str),
    /// A URL without TLS.
    #[error("`{0}` is not `https`")]
    Plaintext(&'static str),
    /// A URL on a host that is not the issuer's and not public.
    #[error(
        "`{name}` is on `{host}`, which is neither the issuer's host nor a public name; list it in `endpoint_hosts` if it is meant"
    )]
    Host {
        /// The member.
        name: &'static str,
        /// The host, shortened.
        host: String,
    },
}

/// Where an issuer's discovery document is (OpenID Connect Discovery 1.0 section 4). `None` if the issuer is not a URL.
pub fn document_url(issuer: &str) -> Option<Uri> {
    let base = issuer.strip_suffix('/').unwrap_or(issuer);
    format!("{base}/.well-known/openid-configuration").parse().ok()
}

impl Metadata {
    /// Reads the document of `issuer`, whose endpoints may also be on `hosts`.
    pub fn parse(document: &[u8], issuer: &str, hosts: &[String]) -> Result<Self, DiscoveryFault> {
        let Value::Object(document) = json::parse(document, JSON_DEPTH_MAX)? else {
            return Err(DiscoveryFault::NoObject);
        };
        let named = text(&document, "issuer")?.ok_or(DiscoveryFault::Member("issuer"))?;
        if named != issuer {
            return Err(DiscoveryFault::OtherIssuer(named.chars().take(200).collect()));
        }
        let issuer: Uri = issuer.parse().map_err(|_| DiscoveryFault::Url("issuer"))?;
        let endpoint = |name| {
            let url = text(&document, name)?;
            url.map(|url| self::endpoint(name, url, &issuer, hosts)).transpose()
        };
        let names_issuer = match document.get("authorization_response_iss_parameter_supported") {
            None => false,
            Some(Value::Bool(names_issuer)) => *names_issuer,
            Some(_) => return Err(DiscoveryFault::Member("authorization_response_iss_parameter_supported")),
        };
        Ok(Self {
            jwks_uri: endpoint("jwks_uri")?.ok_or(DiscoveryFault::Member("jwks_uri"))?,
            authorization_endpoint: endpoint("authorization_endpoint")?,
            token_endpoint: endpoint("token_endpoint")?,
            userinfo_endpoint: endpoint("userinfo_endpoint")?,
            end_session_endpoint: endpoint("end_session_endpoint")?,
            names_issuer,
        })
    }
}

fn text<'d>(document: &'d Map<String, Value>, name: &'static str) -> Result<Option<&'d str>, DiscoveryFault> {
    match document.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(DiscoveryFault::Member(name)),
    }
}

fn endpoint(name: &'static str, url: &str, issuer: &Uri, hosts: &[String]) -> Result<Uri, DiscoveryFault> {
    let plain = url.len() <= URL_BYTES_MAX && !url.contains(['#', '\\']);
    let parsed = url.parse::<Uri>().ok().filter(|parsed| {
        plain && parsed.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    });
    let Some(parsed) = parsed else { return Err(DiscoveryFault::Url(name)) };
    let host = bare_host(&parsed);
    let issuer_host = bare_host(issuer);
    match parsed.scheme_str() {
        Some("https") => {}
        Some("http") if is_loopback_host(&host) && is_loopback_host(&issuer_host) => {}
        Some("http") => return Err(DiscoveryFault::Plaintext(name)),
        Some(_) | None => return Err(DiscoveryFault::Url(name)),
    }
    let both_local = is_loopback_host(&host) && is_loopback_host(&issuer_host);
    if host == issuer_host || both_local || hosts.contains(&host) || is_public_name(&host) {
        return Ok(parsed);
    }
    Err(DiscoveryFault::Host { name, host: host.chars().take(100).collect() })
}

/// The host in lower case, without brackets.
fn bare_host(url: &Uri) -> String {
    let host = url.host().unwrap_or_default();
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_ascii_lowercase()
}

fn is_loopback_host(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(is_loopback)
}

/// A name of several labels whose last one is not for networks of one's own (RFC 6761, RFC 6762, RFC 8375), and not an address
/// in any spelling.
fn is_public_name(host: &str) -> bool {
    const PRIVATE: [&str; 12] = [
        "local",
        "localhost",
        "internal",
        "intranet",
        "lan",
        "home",
        "corp",
        "private",
        "localdomain",
        "arpa",
        "onion",
        "svc",
    ];
    let name = host.strip_suffix('.').unwrap_or(host);
    match name.rsplit_once('.') {
        // The last label of an address is a number.
        Some((rest, last)) => {
            !rest.is_empty()
                && !PRIVATE.contains(&last)
                && !name.contains(':')
                && last.starts_with(|letter: char| letter.is_ascii_alphabetic())
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ISSUER: &str = "https://idp.example/realm";

    fn document(change: &Value) -> Vec<u8> {
        let mut document = json!({"issuer": ISSUER, "jwks_uri": "https://idp.example/realm/jwks",
            "authorization_endpoint": "https://idp.example/authorize", "token_endpoint": "https://idp.example/token"});
        for (name, value) in change.as_object().unwrap() {
            document[name] = value.clone();
        }
        document.to_string().into_bytes()
    }

    fn parse(change: &Value) -> Result<Metadata, DiscoveryFault> {
        Metadata::parse(&document(change), ISSUER, &["sso.corp".to_owned()])
    }

    #[test]
    fn where_the_document_is() {
        for issuer in ["https://idp.example/realm", "https://idp.example/realm/"] {
            assert_eq!(
                document_url(issuer).unwrap(),
                "https://idp.example/realm/.well-known/openid-configuration"
            );
        }
    }

    #[test]
    fn a_usual_document() {
        let metadata = parse(&json!({"end_session_endpoint": "https://logout.example.com/x?y=z",
            "authorization_response_iss_parameter_supported": true, "whatever": [1]}))
        .unwrap();
        assert!(metadata.names_issuer);
        assert_eq!(metadata.end_session_endpoint.unwrap(), "https://logout.example.com/x?y=z");
        assert_eq!(metadata.userinfo_endpoint, None);
    }

    #[test]
    fn another_issuer_is_another_issuer_to_the_letter() {
        for other in ["https://evil.example", "https://idp.example/realm/", "https://IDP.example/realm", ""] {
            let got = parse(&json!({"issuer": other}));
            assert_eq!(got, Err(DiscoveryFault::OtherIssuer(other.to_owned())));
        }
        assert_eq!(parse(&json!({"issuer": [ISSUER]})), Err(DiscoveryFault::Member("issuer")));
    }

    #[test]
    fn endpoints_have_tls() {
        for name in [
            "jwks_uri",
            "authorization_endpoint",
            "token_endpoint",
            "userinfo_endpoint",
            "end_session_endpoint",
        ] {
            assert!(matches!(
                parse(&json!({name: "http://idp.example/x"})),
                Err(DiscoveryFault::Plaintext(_))
            ));
            for bad in [
                "",
                "/x",
                "idp.example",
                "ftp://idp.example/x",
                "https://u:p@idp.example/",
                "https://idp.example/#x",
                "https://idp.example\\@evil/",
            ] {
                assert!(matches!(parse(&json!({name: bad})), Err(DiscoveryFault::Url(_))), "{bad}");
            }
            assert!(matches!(parse(&json!({name: 1})), Err(DiscoveryFault::Member(_))));
            assert!(matches!(parse(&json!({name: null})), Err(DiscoveryFault::Member(_))));
        }
    }

    #[test]
    fn a_document_cannot_point_into_the_network() {
        for bad in [
            "https://127.0.0.1/x",
            "https://localhost/x",
            "https://169.254.169.254/latest",
            "https://[::1]/x",
            "https://10.0.0.1/x",
            "https://metadata/x",
            "https://vault.internal/x",
            "https://db.local./x",
            "https://2130706433/x",
            "https://0x7f.1/x",
            "https://kubernetes.default.svc/x",
            "https://8.8.8.8/x",
        ] {
            assert!(
                matches!(parse(&json!({"token_endpoint": bad})), Err(DiscoveryFault::Host { .. })),
                "{bad}"
            );
        }
        for good in ["https://idp.example:8443/x", "https://oauth2.example.com/x", "https://sso.corp/x"] {
            assert!(parse(&json!({"token_endpoint": good})).is_ok(), "{good}");
        }
    }

    #[test]
    fn on_loopback_nothing_needs_tls() {
        let issuer = "http://127.0.0.1:3000";
        let document = |url: &str| json!({"issuer": issuer, "jwks_uri": url}).to_string().into_bytes();
        assert!(Metadata::parse(&document("http://127.0.0.1:3000/jwks"), issuer, &[]).is_ok());
        assert!(Metadata::parse(&document("http://localhost:3000/jwks"), issuer, &[]).is_ok());
        assert!(Metadata::parse(&document("http://idp.example/jwks"), issuer, &[]).is_err());
    }

    #[test]
    fn keys_are_needed_and_members_come_once() {
        assert_eq!(
            Metadata::parse(br#"{"issuer":"https://idp.example/realm"}"#, ISSUER, &[]),
            Err(DiscoveryFault::Member("jwks_uri"))
        );
        let twice = br#"{"issuer":"https://idp.example/realm","issuer":"https://evil"}"#;
        assert!(matches!(Metadata::parse(twice, ISSUER, &[]), Err(DiscoveryFault::NotJson(_))));
        assert_eq!(Metadata::parse(b"[]", ISSUER, &[]), Err(DiscoveryFault::NoObject));
    }
}
