//! TLS to upstreams: who is trusted, who is refused, and which protocol is spoken.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use http::Method;
use postern::config::model::{CertificateFiles, Upstream, UpstreamTls};
use postern::upstream::cluster::{Cluster, Clusters};
use postern::upstream::error::{BodyError, ClusterError, ConnectError, UpstreamError};
use postern::upstream::pool::SendOptions;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;

use crate::upstream::support::*;

/// A private authority, with the files it issues.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    directory: TempDir,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), root: certificate.der().clone(), directory }
    }

    pub(super) fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        (certificate, key)
    }

    fn client_files(&self, name: &str) -> CertificateFiles {
        let (certificate, key) = self.issue(name);
        let file = |kind: &str| self.directory.path().join(format!("{name}.{kind}"));
        fs::write(file("crt"), certificate.pem()).unwrap();
        fs::write(file("key"), key.serialize_pem()).unwrap();
        CertificateFiles { cert: file("crt"), key: file("key") }
    }

    /// A server's configuration, with `name` in its certificate.
    pub(super) fn server(&self, name: &str, alpn: &[&str], client_auth: bool) -> Arc<ServerConfig> {
        let (certificate, key) = self.issue(name);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if client_auth {
            let mut roots = RootCertStore::empty();
            roots.add(self.root.clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// Serves `response` over TLS to each request, and ends each connection as told.
async fn serve(config: Arc<ServerConfig>, response: &'static str, abruptly: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(config);
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            spawn_local(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    stream.write_all(response.as_bytes()).await.unwrap();
                    stream.flush().await.unwrap();
                    if abruptly {
                        return;
                    }
                }
            });
        }
    });
    address
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

pub(super) fn over_tls(address: SocketAddr, tls: UpstreamTls) -> Upstream {
    let mut settings = settings(&[address]);
    settings.endpoints[0].tls = true;
    settings.endpoints[0].host = "localhost".into();
    settings.tls = tls;
    settings
}

fn trusting(authority: &Authority) -> UpstreamTls {
    UpstreamTls { ca: Some(authority.ca_file()), ..UpstreamTls::default() }
}

#[track_caller]
fn assert_refused(error: &UpstreamError) {
    assert!(matches!(error, UpstreamError::Connect(ConnectError::Tls(_))), "{error:?}");
}

#[test]
fn a_private_authority_is_trusted_when_named() {
    worker(async {
        let authority = Authority::new();
        let address = serve(authority.server("localhost", &[], false), OK, false).await;
        let trusted = pool(over_tls(address, trusting(&authority)));
        for _ in 0..3 {
            assert_eq!(fetch(&trusted, "/").await, (200, "ok".into()));
        }
        assert_eq!(trusted.cluster().stats().connects, 1);
        let other = Authority::new();
        assert_refused(&error_of(get(&pool(over_tls(address, trusting(&other))), "/").await));
    });
}

#[test]
fn the_system_does_not_know_a_private_authority() {
    worker(async {
        let authority = Authority::new();
        let address = serve(authority.server("localhost", &[], false), OK, false).await;
        match Cluster::new(over_tls(address, UpstreamTls::default())) {
            Ok(cluster) => {
                let pool = postern::upstream::pool::Pool::new(cluster);
                assert_refused(&error_of(get(&pool, "/").await));
            }
            Err(error) => assert!(matches!(error, ClusterError::NoSystemRoots { .. }), "{error:?}"),
        }
    });
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    worker(async {
        let authority = Authority::new();
        let address = serve(authority.server("orders.internal", &[], false), OK, false).await;
        assert_refused(&error_of(get(&pool(over_tls(address, trusting(&authority))), "/").await));
        let mut tls = trusting(&authority);
        tls.server_name = Some("orders.internal".into());
        assert_eq!(fetch(&pool(over_tls(address, tls)), "/").await, (200, "ok".into()));
    });
}

#[test]
fn the_gateways_own_certificate_is_shown_when_configured() {
    worker(async {
        let authority = Authority::new();
        let address = serve(authority.server("localhost", &[], true), OK, false).await;
        let mut tls = trusting(&authority);
        tls.client = Some(authority.client_files("gateway"));
        assert_eq!(fetch(&pool(over_tls(address, tls)), "/").await, (200, "ok".into()));
        // With TLS 1.3 the refusal comes after the client's side of the handshake.
        let error = error_of(get(&pool(over_tls(address, trusting(&authority))), "/").await);
        assert!(matches!(error, UpstreamError::Broken(_) | UpstreamError::Connect(_)), "{error:?}");
        let mut stranger = trusting(&authority);
        stranger.client = Some(Authority::new().client_files("stranger"));
        let cluster = Cluster::new(over_tls(address, stranger));
        assert!(matches!(cluster, Err(ClusterError::Pem { .. })), "its files are gone: {cluster:?}");
    });
}

#[test]
fn a_body_without_a_length_is_whole_only_with_a_proper_end() {
    worker(async {
        let authority = Authority::new();
        let config = authority.server("localhost", &[], false);
        let address = serve(config, "HTTP/1.1 200 OK\r\n\r\nhalf of it", true).await;
        let reply = get(&pool(over_tls(address, trusting(&authority))), "/").await.unwrap();
        let error = text(reply.into_body()).await.unwrap_err();
        assert!(matches!(error, BodyError::Broken(_)), "anyone could have cut it: {error:?}");
    });
}

#[test]
fn an_upstream_without_http2_is_spoken_to_in_http1() {
    worker(async {
        let authority = Authority::new();
        let address = serve(authority.server("localhost", &["http/1.1"], false), OK, false).await;
        let pool = pool(Upstream { http2: true, ..over_tls(address, trusting(&authority)) });
        for _ in 0..3 {
            assert_eq!(fetch(&pool, "/").await, (200, "ok".into()));
        }
        assert_eq!(pool.cluster().stats().connects, 1);
    });
}

#[test]
fn a_renewed_certificate_makes_a_new_cluster() {
    worker(async {
        let authority = Authority::new();
        let mut tls = trusting(&authority);
        tls.client = Some(authority.client_files("gateway"));
        let settings = over_tls(dead_address().await, tls);
        let upstreams = std::collections::BTreeMap::from([(Arc::clone(&settings.name), settings)]);
        let before = Clusters::build(&upstreams, &Clusters::default()).unwrap();
        let same = Clusters::build(&upstreams, &before).unwrap();
        authority.client_files("gateway");
        let renewed = Clusters::build(&upstreams, &before).unwrap();
        let of = |clusters: &Clusters| Arc::clone(clusters.get("orders").unwrap());
        assert!(Arc::ptr_eq(&of(&before), &of(&same)));
        assert!(!Arc::ptr_eq(&of(&before), &of(&renewed)));
    });
}

#[test]
fn all_bad_files_are_reported() {
    let authority = Authority::new();
    let mut mismatched = trusting(&authority);
    mismatched.client = Some(CertificateFiles {
        cert: authority.client_files("one").cert,
        key: authority.client_files("two").key,
    });
    let missing = UpstreamTls { ca: Some("/nowhere/ca.pem".into()), ..UpstreamTls::default() };
    let address = "127.0.0.1:1".parse().unwrap();
    let upstreams = [("a", mismatched), ("b", missing)].map(|(name, tls)| {
        let name: Arc<str> = Arc::from(name);
        (Arc::clone(&name), Upstream { name, ..over_tls(address, tls) })
    });
    let errors = Clusters::build(&upstreams.into(), &Clusters::default()).unwrap_err();
    let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown[0].starts_with("upstream `a`: ") && shown[1].contains("/nowhere/ca.pem"), "{shown:?}");
}

#[test]
fn post_over_tls_arrives_whole() {
    worker(async {
        let authority = Authority::new();
        let config = authority.server("localhost", &[], false);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let length = 3 << 20;
        let received = Rc::new(std::cell::Cell::new(0));
        let count = Rc::clone(&received);
        spawn_local(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = TlsAcceptor::from(config).accept(stream).await.unwrap();
            let mut buffer = vec![0; 64 << 10];
            let mut head = Vec::new();
            while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                let read = stream.read(&mut buffer).await.unwrap();
                head.extend_from_slice(&buffer[..read]);
            }
            let end = head.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
            count.set(head.len() - end - 4);
            while count.get() < length {
                count.set(count.get() + stream.read(&mut buffer).await.unwrap());
            }
            stream.write_all(OK.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
        });
        let body = TestBody::Whole(vec![1; length].into());
        let pool = pool(over_tls(address, trusting(&authority)));
        let reply = pool.send(with_body(Method::POST, "/", body), &SendOptions::default()).await.unwrap();
        assert_eq!((reply.status().as_u16(), received.get()), (200, length));
    });
}

#[test]
fn a_private_key_is_never_shown() {
    let authority = Authority::new();
    let files = authority.client_files("gateway");
    let key = fs::read_to_string(&files.key).unwrap();
    let mut tls = trusting(&authority);
    tls.client = Some(files);
    let shown = format!("{:?}", Cluster::new(over_tls("127.0.0.1:1".parse().unwrap(), tls)).unwrap());
    let secret: String = key.lines().filter(|line| !line.starts_with("-----")).collect();
    assert!(secret.len() > 40 && !shown.contains(&secret[40..60]));
    let bytes = KeyPair::from_pem(&key).unwrap().serialize_der();
    assert!(!shown.contains(&format!("{:?}", &bytes[40..60]).replace(['[', ']'], "")), "{shown}");
}
