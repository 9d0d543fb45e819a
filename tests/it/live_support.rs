//! Certificates, clients and configurations for the tests of a running gateway.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::LocalSet;

use crate::gateway::TestGateway;
use crate::wire::{self, RawResponse, RecordingUpstream, read_response};

/// Longer than any test takes; a hang fails instead of hanging.
const TEST_LIMIT: Duration = Duration::from_secs(20);

static SERIAL: AtomicU64 = AtomicU64::new(1000);

/// A private certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// A certificate that an [`Authority`] has signed, with its key.
pub(crate) struct Issued {
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) der: CertificateDer<'static>,
    serial: SerialNumber,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    /// An authority with whatever `change` makes of its fields.
    pub(crate) fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn root(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    /// A certificate with these alternative names and whatever `change` makes of its fields.
    pub(crate) fn issue(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let key = KeyPair::generate().unwrap();
        let serial = SerialNumber::from(SERIAL.fetch_add(1, Ordering::Relaxed));
        params.serial_number = Some(serial.clone());
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued {
            cert: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().clone(),
            serial: params.serial_number.unwrap_or(serial),
        }
    }

    /// A server's certificate.
    pub(crate) fn server(&self, names: &[&str]) -> Issued {
        self.issue(names, |_| {})
    }

    /// A client's certificate with a common name.
    pub(crate) fn client(&self, name: &str) -> Issued {
        self.issue(&[], |params| {
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        })
    }

    /// A revocation list, good until the first of January of `until`.
    pub(crate) fn crl(&self, revoked: &[&Issued], until: i32) -> String {
        let revoked = revoked.iter().map(|issued| RevokedCertParams {
            serial_number: issued.serial.clone(),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// A TLS client that trusts `authority`, offers `alpn`, and shows `certificate`.
pub(crate) fn tls_client(
    authority: &Authority,
    alpn: &[&str],
    certificate: Option<&Issued>,
) -> Arc<ClientConfig> {
    tls_client_with(authority, alpn, certificate, &[&rustls::version::TLS13, &rustls::version::TLS12])
}

pub(crate) fn tls_client_with(
    authority: &Authority,
    alpn: &[&str],
    certificate: Option<&Issued>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.root()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(issued) => {
            let key = rustls_pem_key(&issued.key);
            builder.with_client_auth_cert(vec![issued.der.clone()], key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

pub(crate) fn rustls_pem_key(pem: &str) -> PrivateKeyDer<'static> {
    use rustls::pki_types::pem::PemObject as _;
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// A blocking TLS connection.
pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// Connects and shakes hands as `name`. With TLS 1.3 a refused client certificate shows only when reading.
pub(crate) fn tls_connect(
    client: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
) -> io::Result<TlsStream> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let session = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut stream = StreamOwned::new(session, wire::connect(address));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// Sends a GET over an open connection.
pub(crate) fn get_over(
    stream: &mut (impl io::Read + Write),
    host: &str,
    path: &str,
) -> io::Result<RawResponse> {
    send_over(stream, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
}

/// Sends bytes over an open connection and reads one response.
pub(crate) fn send_over(stream: &mut (impl io::Read + Write), text: &str) -> io::Result<RawResponse> {
    stream.write_all(text.as_bytes())?;
    stream.flush()?;
    read_response(stream)
}

/// Sends a GET over a new TLS connection.
pub(crate) fn tls_get(
    client: &Arc<ClientConfig>,
    address: SocketAddr,
    host: &str,
    path: &str,
) -> io::Result<RawResponse> {
    get_over(&mut tls_connect(client, address, host)?, host, path)
}

/// Sends a request with a body and headers (each line with its CRLF) on a new plaintext connection.
pub(crate) fn send(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> RawResponse {
    let length = body.len();
    wire::ask(
        address,
        format!(
            "{method} {path} HTTP/1.1\r\nHost: gw.test\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        ),
    )
}

/// Runs a test's asynchronous part on one thread; a hang fails.
pub(crate) fn block_on<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new()
        .block_on(&runtime, async { tokio::time::timeout(TEST_LIMIT, test).await.expect("no hang") })
}

/// A whole HTTP/2 response.
#[derive(Debug)]
pub(crate) struct H2Response {
    pub(crate) head: Response<()>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl H2Response {
    pub(crate) fn status(&self) -> u16 {
        self.head.status().as_u16()
    }
}

/// An HTTP/2 client on a connection of its own. To be used inside [`block_on`].
pub(crate) struct H2Client {
    sender: h2::client::SendRequest<Bytes>,
}

impl H2Client {
    pub(crate) async fn plaintext(address: SocketAddr) -> Self {
        Self::over(tokio::net::TcpStream::connect(address).await.unwrap()).await
    }

    pub(crate) async fn tls(client: &Arc<ClientConfig>, address: SocketAddr, name: &str) -> Self {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let stream =
            tokio_rustls::TlsConnector::from(Arc::clone(client)).connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Self::over(stream).await
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + 'static) -> Self {
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::task::spawn_local(async move { drop(connection.await) });
        Self { sender }
    }

    /// Sends a request and reads the whole response.
    pub(crate) async fn send(&mut self, request: Request<()>, body: &[u8]) -> Result<H2Response, h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut stream) = sender.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            stream.send_data(Bytes::copy_from_slice(body), true)?;
        }
        let (parts, mut incoming) = response.await?.into_parts();
        let mut body = Vec::new();
        while let Some(chunk) = incoming.data().await {
            let chunk = chunk?;
            incoming.flow_control().release_capacity(chunk.len())?;
            body.extend_from_slice(&chunk);
        }
        let trailers = incoming.trailers().await?;
        Ok(H2Response { head: Response::from_parts(parts, ()), body, trailers })
    }

    /// Sends a GET, and gives the stream to be reset.
    pub(crate) async fn begin(&mut self, uri: &str) -> h2::SendStream<Bytes> {
        let mut sender = self.sender.clone().ready().await.unwrap();
        let (response, stream) = sender.send_request(Request::get(uri).body(()).unwrap(), true).unwrap();
        tokio::task::spawn_local(async move { drop(response.await) });
        stream
    }

    pub(crate) async fn get(&mut self, uri: &str) -> Result<H2Response, h2::Error> {
        self.send(Request::get(uri).body(()).unwrap(), b"").await
    }
}

/// The SHA-256 of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec()
}

/// The SHA-256 of `bytes` in lower-case hexadecimal.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    sha256(bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// A gateway with one plaintext listener `public`, one API for everything and an admin endpoint; `policy` is the text of
/// its only policy, `more` further top-level keys.
pub(crate) fn start(upstream: &RecordingUpstream, policy: &str, more: &str) -> TestGateway {
    TestGateway::start(&plain_config(&upstream.url(), more), &[("policy/main.rego", policy)])
}

pub(crate) fn plain_config(upstream: &str, more: &str) -> String {
    format!(
        r#"
version: 1
workers: 1
listeners: [{{name: public, address: "127.0.0.1:0"}}]
upstreams: {{up: {{endpoints: ["{upstream}"]}}}}
policies: {{main: {{bundle: policy, budget: 5s, response: {{response}}}}}}
apis: [{{name: all, policy: main, upstream: up}}]
decision_logs: [{{type: file, path: decisions.jsonl}}]
admin: {{address: "127.0.0.1:0"}}
{more}
"#
    )
    .replace(", response: {response}", "")
}

/// The admin endpoint's answer to a GET.
pub(crate) fn admin(gateway: &TestGateway, path: &str) -> RawResponse {
    let address = gateway.running().admin().unwrap();
    wire::ask(address, format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n"))
}

/// The value of the metric's sample whose line begins with `series`.
pub(crate) fn metric(gateway: &TestGateway, series: &str) -> Option<u64> {
    let text = admin(gateway, "/metrics").text();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(line.parse().unwrap())
}
