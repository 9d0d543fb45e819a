//! The canonical request and where it came from: the facts that policy, routing and upstream share.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method};
use regorus::Value;

use crate::base::path::CanonicalPath;
use crate::base::spiffe::trust_domain;

/// A request's head in its one canonical form.
///
/// The gateway forwards from this object and from nothing else, so the upstream gets what the policy judged.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// The method, in the case it was sent.
    pub method: Method,
    /// `http` or `https`, as the client sees it.
    pub scheme: &'static str,
    /// Host in lower case, without port and trailing dot.
    pub host: String,
    /// `host:port` as the client sent it in lower case, for the upstream's `Host`.
    pub authority: String,
    /// Canonical path.
    pub path: CanonicalPath,
    /// The path as it was received, for the log; `None` where it equals the canonical one.
    pub raw_path: Option<String>,
    /// The query without `?`, as it was received.
    pub query: Option<String>,
    /// End-to-end headers: hop-by-hop, forwarding and identity headers are already gone.
    pub headers: HeaderMap,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'static str,
    /// Declared body length, if any.
    pub content_length: Option<u64>,
}

/// Where a request came from.
#[derive(Debug, Clone)]
pub struct Source {
    /// The connection's other end.
    pub peer: SocketAddr,
    /// The client: the peer, or the address a trusted proxy names.
    pub client_ip: IpAddr,
    /// The forwarding chain as believed, nearest client first; empty without a trusted proxy.
    pub forwarded_for: Vec<IpAddr>,
    /// TLS facts, shared by all requests of a connection.
    pub tls: Option<Arc<TlsFacts>>,
}

/// Facts of a TLS connection.
#[derive(Debug, Clone)]
pub struct TlsFacts {
    /// `TLSv1.2` or `TLSv1.3`; `None` on plaintext behind a proxy that shows the client's certificate.
    pub version: Option<&'static str>,
    /// IANA name of the cipher suite, where there is a version.
    pub cipher: Option<String>,
    /// Server name the client asked for, lower case.
    pub sni: Option<String>,
    /// The verified client certificate, from the handshake or from a trusted proxy.
    pub client_certificate: Option<ClientCertificate>,
    /// The document at `input.source.tls`, built once for the connection.
    pub document: Value,
}

impl TlsFacts {
    /// The facts with their document.
    pub fn new(
        version: &'static str,
        cipher: String,
        sni: Option<String>,
        client_certificate: Option<ClientCertificate>,
    ) -> Self {
        Self::with_document(Some(version), Some(cipher), sni, client_certificate)
    }

    /// The facts of a request that a trusted proxy passed on over a connection with the TLS of `hop`, if any: the
    /// certificate is the client's, and the proxy's own tells nothing of the client.
    pub fn behind_proxy(hop: Option<&Self>, client_certificate: Option<ClientCertificate>) -> Self {
        let (cipher, sni) = (hop.and_then(|hop| hop.cipher.clone()), hop.and_then(|hop| hop.sni.clone()));
        Self::with_document(hop.and_then(|hop| hop.version), cipher, sni, client_certificate)
    }

    fn with_document(
        version: Option<&'static str>,
        cipher: Option<String>,
        sni: Option<String>,
        client_certificate: Option<ClientCertificate>,
    ) -> Self {
        let mut facts = Self { version, cipher, sni, client_certificate, document: Value::Undefined };
        facts.document = document(&facts);
        facts
    }
}

/// A verified client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Distinguished name, RFC 4514 order as printed.
    pub subject: String,
    /// Issuer's distinguished name.
    pub issuer: String,
    /// Common name, if any.
    pub common_name: Option<String>,
    /// Serial number, lower-case hexadecimal.
    pub serial: String,
    /// SHA-256 of the DER, lower-case hexadecimal.
    pub fingerprint_sha256: String,
    /// DNS subject alternative names.
    pub san_dns: Vec<String>,
    /// URI subject alternative names.
    pub san_uri: Vec<String>,
    /// E-mail subject alternative names.
    pub san_email: Vec<String>,
    /// IP subject alternative names.
    pub san_ip: Vec<IpAddr>,
    /// End of validity, seconds since the Unix epoch.
    pub not_after: i64,
    /// The trusted proxy that showed it; `None` where the handshake on this connection did.
    pub forwarded_by: Option<IpAddr>,
    /// The certificate itself, as RFC 9440 writes it for an upstream; `None` where it is not at hand.
    pub field: Option<HeaderValue>,
}

impl ClientCertificate {
    /// The SPIFFE id: the only URI name, where it is one (SPIFFE X.509-SVID section 2).
    pub fn spiffe_id(&self) -> Option<&str> {
        match self.san_uri.as_slice() {
            [only] => trust_domain(only).map(|_| only.as_str()),
            _ => None,
        }
    }

    /// The trust domain of its SPIFFE id.
    pub fn trust_domain(&self) -> Option<&str> {
        self.spiffe_id().and_then(trust_domain)
    }
}

/// What became of a body, `input.request.body_state`.
#[derive(Debug, Clone)]
pub enum BodyFacts {
    /// The policy does not read bodies: nothing was looked at.
    Unread,
    /// There was none.
    Absent,
    /// JSON or a form, whole and well-formed.
    Parsed(Value),
    /// Text that is not JSON or a form.
    Text(Value),
    /// Bytes that are not text.
    Binary,
}

/// The API and route a request matched.
#[derive(Debug, Clone, Copy)]
pub struct ApiFacts<'a> {
    /// The API's name.
    pub name: &'a str,
    /// Its version.
    pub version: Option<&'a str>,
    /// The route's name.
    pub route: &'a str,
    /// Values of the pattern's parameters, decoded.
    pub params: &'a [(Arc<str>, String)],
    /// The document at `input.api.lifecycle`, built once for the API.
    pub lifecycle: &'a Value,
}

/// The upstream's answer, for the response phase.
#[derive(Debug, Clone, Copy)]
pub struct ResponseFacts<'a> {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Time from the request to its head, in milliseconds.
    pub latency_ms: u64,
}

/// `input.source.tls` (contract section 3).
fn document(facts: &TlsFacts) -> Value {
    let mut object = BTreeMap::new();
    let mut put = |key: &str, value: Value| object.insert(Value::from(key), value);
    if let Some(version) = facts.version {
        put("version", Value::from(version));
    }
    if let Some(cipher) = &facts.cipher {
        put("cipher", Value::from(cipher.as_str()));
    }
    if let Some(sni) = &facts.sni {
        put("sni", Value::from(sni.as_str()));
    }
    if let Some(certificate) = &facts.client_certificate {
        put("client_certificate", certificate_document(certificate));
    }
    Value::from(object)
}

fn certificate_document(certificate: &ClientCertificate) -> Value {
    let list = |names: &[String]| {
        Value::from(names.iter().map(|name| Value::from(name.as_str())).collect::<Vec<_>>())
    };
    let addresses = certificate.san_ip.iter().map(|ip| Value::from(ip.to_string())).collect::<Vec<_>>();
    let san = BTreeMap::from([
        (Value::from("dns"), list(&certificate.san_dns)),
        (Value::from("uri"), list(&certificate.san_uri)),
        (Value::from("email"), list(&certificate.san_email)),
        (Value::from("ip"), Value::from(addresses)),
    ]);
    let mut object = BTreeMap::from([
        (Value::from("subject"), Value::from(certificate.subject.as_str())),
        (Value::from("issuer"), Value::from(certificate.issuer.as_str())),
        (Value::from("serial"), Value::from(certificate.serial.as_str())),
        (Value::from("fingerprint_sha256"), Value::from(certificate.fingerprint_sha256.as_str())),
        (Value::from("not_after"), Value::from(certificate.not_after)),
        (Value::from("san"), Value::from(san)),
    ]);
    if let Some(id) = certificate.spiffe_id() {
        object.insert(Value::from("spiffe_id"), Value::from(id));
    }
    if let Some(proxy) = certificate.forwarded_by {
        object.insert(Value::from("forwarded_by"), Value::from(proxy.to_string()));
    }
    Value::from(object)
}
