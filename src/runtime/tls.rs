//! TLS on a listener: certificates by SNI, client authentication, and the facts of a finished handshake.
//!
//! Each listener has its own session store, made anew with its certificates and CAs: a session never resumes where a
//! client certificate would have been asked for (ARCHITECTURE.md, Edge). A connection outlives a reload; the certificate
//! it showed is judged again when those who vouch for it have changed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::base::hex::hex;
use crate::base::pem::{self, PemError};
use crate::config::model::{CertificateFiles, ClientAuth, ListenerTls, Protocols};
use crate::contract::request::{ClientCertificate, TlsFacts};

/// Sessions remembered for resumption, for each listener.
const SESSIONS: usize = 4096;

/// TLS of a listener that could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// A certificate and its key do not fit, or the key is of an unsupported kind.
    #[error("certificate `{path}` cannot be used with its key")]
    Certificate {
        /// The certificate's file.
        path: String,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// A certificate has no name that SNI could choose.
    #[error("certificate `{0}` cannot be parsed")]
    Names(String),
    /// A CA certificate is no trust anchor.
    #[error("`{path}` holds a certificate that is no trust anchor")]
    TrustAnchor {
        /// The CA file.
        path: String,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The client verifier refused its CA or CRL.
    #[error("client certificates cannot be verified")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The protocol versions and the provider do not fit.
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
}

/// TLS of a listener.
#[derive(Debug)]
pub struct ServerTls {
    /// For handshakes.
    pub config: Arc<ServerConfig>,
    clients: Arc<Clients>,
    source: Source,
}

/// Whom a listener accepts by certificate.
#[derive(Debug)]
enum Clients {
    Unasked,
    Optional(Arc<dyn ClientCertVerifier>),
    Required(Arc<dyn ClientCertVerifier>),
}

/// SHA-256 of the settings and the files that TLS was built from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Source([u8; 32]);

/// The certificate a client has shown in its handshake, if any, and who accepted it.
#[derive(Debug)]
pub struct Shown {
    chain: Vec<CertificateDer<'static>>,
    accepted_by: RefCell<Arc<Clients>>,
}

// === impl ServerTls ===

impl ServerTls {
    /// Reads the files of `tls`. Where nothing has changed since `former` was built, that goes on, and its sessions with
    /// it.
    pub(crate) fn build(
        tls: &ListenerTls,
        protocols: Protocols,
        former: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, TlsError> {
        // Before the files are read: what changes meanwhile is taken up next time.
        let source = Source::of(tls, protocols);
        if let Some(former) = former.filter(|former| former.source == source) {
            return Ok(Arc::clone(former));
        }
        let provider = Arc::new(provider::default_provider());
        let clients = Clients::build(&tls.client_auth, &provider)?;
        let config = server_config(tls, protocols, &provider, &clients)?;
        Ok(Arc::new(Self { config, clients: Arc::new(clients), source }))
    }

    /// What the client of a finished handshake has shown.
    pub(crate) fn shown(&self, session: &ServerConnection) -> Shown {
        let chain = session.peer_certificates().unwrap_or_default();
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        Shown { chain, accepted_by: RefCell::new(Arc::clone(&self.clients)) }
    }

    /// Whether a client that has `shown` this would still be accepted `now`, since the Unix epoch. It costs something
    /// only when authorities or revocation lists have changed since it was last asked.
    pub(crate) fn accepts(&self, shown: &Shown, now: Duration) -> bool {
        if Arc::ptr_eq(&self.clients, &shown.accepted_by.borrow()) {
            return true;
        }
        let accepted = match (&*self.clients, shown.chain.split_first()) {
            (Clients::Unasked | Clients::Optional(_), None) => true,
            (Clients::Unasked, Some(_)) | (Clients::Required(_), None) => false,
            (Clients::Optional(verifier) | Clients::Required(verifier), Some((leaf, issuers))) => {
                verifier.verify_client_cert(leaf, issuers, UnixTime::since_unix_epoch(now)).is_ok()
            }
        };
        if accepted {
            *shown.accepted_by.borrow_mut() = Arc::clone(&self.clients);
        }
        accepted
    }
}

// === impl Clients ===

impl Clients {
    fn build(config: &ClientAuth, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        Ok(match config {
            ClientAuth::None => Self::Unasked,
            ClientAuth::Optional { ca, crl } => {
                let verifier = verifier(provider, ca, crl.as_deref())?;
                Self::Optional(verifier.allow_unauthenticated().build()?)
            }
            ClientAuth::Required { ca, crl } => {
                Self::Required(verifier(provider, ca, crl.as_deref())?.build()?)
            }
        })
    }
}

// === impl Source ===

impl Source {
    fn of(tls: &ListenerTls, protocols: Protocols) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(format!("{tls:?} {protocols:?}").as_bytes());
        let pairs = tls.certificates.iter().flat_map(|pair| [&pair.cert, &pair.key]);
        let clients: Vec<&PathBuf> = match &tls.client_auth {
            ClientAuth::None => Vec::new(),
            ClientAuth::Optional { ca, crl } | ClientAuth::Required { ca, crl } => {
                std::iter::once(ca).chain(crl).collect()
            }
        };
        for file in pairs.chain(clients) {
            // A file that cannot be read is reported where it is needed.
            let text = std::fs::read(file).unwrap_or_default();
            hash.update(digest::digest(&digest::SHA256, &text).as_ref());
        }
        let mut source = Self([0; 32]);
        source.0.iter_mut().zip(hash.finish().as_ref()).for_each(|(to, from)| *to = *from);
        source
    }
}

fn server_config(
    tls: &ListenerTls,
    protocols: Protocols,
    provider: &Arc<CryptoProvider>,
    clients: &Clients,
) -> Result<Arc<ServerConfig>, TlsError> {
    let versions: &[&rustls::SupportedProtocolVersion] = if tls.tls12 {
        &[&rustls::version::TLS13, &rustls::version::TLS12]
    } else {
        &[&rustls::version::TLS13]
    };
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(provider)).with_protocol_versions(versions)?;
    let builder = match clients {
        Clients::Unasked => builder.with_no_client_auth(),
        Clients::Optional(verifier) | Clients::Required(verifier) => {
            builder.with_client_cert_verifier(Arc::clone(verifier))
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(Certificates::load(&tls.certificates, provider)?));
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    config.ticketer = provider::Ticketer::new()?;
    config.alpn_protocols = alpn(protocols);
    // Early data can be replayed, and a policy's limits and decisions must not be.
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

fn alpn(protocols: Protocols) -> Vec<Vec<u8>> {
    let offered = [(protocols.http2, b"h2".as_slice()), (protocols.http1, b"http/1.1")];
    offered.iter().filter(|(offered, _)| *offered).map(|(_, name)| name.to_vec()).collect()
}

pub(super) fn verifier(
    provider: &Arc<CryptoProvider>,
    ca: &Path,
    crl: Option<&Path>,
) -> Result<rustls::server::ClientCertVerifierBuilder, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in pem::certificates(ca)? {
        let refused = |source| TlsError::TrustAnchor { path: ca.display().to_string(), source };
        roots.add(certificate).map_err(refused)?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if let Some(crl) = crl {
        // An expired list must not let a revoked certificate in: the check fails closed.
        builder = builder.with_crls(pem::revocation_lists(crl)?).enforce_revocation_expiration();
        builder = builder.only_check_end_entity_revocation();
    }
    Ok(builder)
}

/// The certificates of a listener, chosen by server name.
#[derive(Debug)]
struct Certificates {
    by_name: BTreeMap<String, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

// === impl Certificates ===

impl Certificates {
    fn load(files: &[CertificateFiles], provider: &CryptoProvider) -> Result<Self, TlsError> {
        let mut certificates = Self { by_name: BTreeMap::new(), default: None };
        for pair in files {
            let chain = pem::certificates(&pair.cert)?;
            let path = pair.cert.display().to_string();
            let key = pem::private_key(&pair.key)?;
            let leaf = chain.first().map(|leaf| leaf.to_vec()).unwrap_or_default();
            let certified = CertifiedKey::from_der(chain, key, provider)
                .map_err(|source| TlsError::Certificate { path: path.clone(), source })?;
            let certified = Arc::new(certified);
            for name in dns_names(&leaf).ok_or(TlsError::Names(path))? {
                certificates.by_name.entry(name).or_insert_with(|| Arc::clone(&certified));
            }
            certificates.default.get_or_insert(certified);
        }
        Ok(certificates)
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        self.by_name.get(&name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        })
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.find(name));
        named.or(self.default.as_ref()).cloned()
    }
}

fn dns_names(der: &[u8]) -> Option<Vec<String>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut names = alternative_names(&certificate).0;
    for name in &mut names {
        name.make_ascii_lowercase();
    }
    Some(names)
}

/// The facts of a finished handshake.
pub(crate) fn facts(connection: &ServerConnection) -> TlsFacts {
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLSv1.3",
    };
    let cipher = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    let leaf = connection.peer_certificates().and_then(|chain| chain.first());
    // rustls prefixes TLS 1.3 suites with `TLS13_`; IANA names them `TLS_`.
    let cipher = cipher.unwrap_or("unknown").replace("TLS13_", "TLS_");
    let sni = connection.server_name().map(str::to_ascii_lowercase);
    TlsFacts::new(version, cipher, sni, leaf.and_then(|der| client_certificate(der)))
}

/// What a certificate says, `None` for one that cannot be read.
pub(super) fn client_certificate(der: &[u8]) -> Option<ClientCertificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let (san_dns, san_uri, san_email, san_ip) = alternative_names(&certificate);
    let common_name = certificate.subject().iter_common_name().next();
    Some(ClientCertificate {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        common_name: common_name.and_then(|name| name.as_str().ok()).map(str::to_owned),
        serial: hex(certificate.raw_serial()),
        fingerprint_sha256: hex(digest::digest(&digest::SHA256, der).as_ref()),
        san_dns,
        san_uri,
        san_email,
        san_ip,
        not_after: certificate.validity().not_after.timestamp(),
        forwarded_by: None,
        field: HeaderValue::try_from(format!(":{}:", STANDARD.encode(der))).ok(),
    })
}

/// DNS, URI, e-mail and IP alternative names.
fn alternative_names(
    certificate: &X509Certificate<'_>,
) -> (Vec<String>, Vec<String>, Vec<String>, Vec<IpAddr>) {
    let (mut dns, mut uri, mut email, mut ip) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let extension = certificate.subject_alternative_name().ok().flatten();
    for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => dns.push((*name).to_owned()),
            GeneralName::URI(name) => uri.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => email.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => ip.extend(ip_address(bytes)),
            GeneralName::OtherName(..)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::Invalid(..) => {}
        }
    }
    (dns, uri, email, ip)
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
