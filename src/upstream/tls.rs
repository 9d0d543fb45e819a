//! TLS to upstreams: one client configuration for a cluster, and the digest of the files it came from.
//!
//! Verification is never weakened: there is no option to skip it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};

use crate::base::pem;
use crate::config::model::{Upstream, UpstreamTls};
use crate::upstream::error::ClusterError;

/// The client configurations of a cluster with `https` endpoints.
#[derive(Debug)]
pub(crate) struct ClientTls {
    /// Offers `h2` and `http/1.1`, or `http/1.1` alone, as the cluster is configured.
    pub(crate) configured: Arc<ClientConfig>,
    /// Offers `http/1.1` alone, for requests that switch protocols.
    pub(crate) http1: Arc<ClientConfig>,
}

impl ClientTls {
    /// Reads the files of `upstream`; `None` when no endpoint speaks TLS.
    pub(crate) fn build(upstream: &Upstream) -> Result<Option<Self>, ClusterError> {
        if !upstream.endpoints.iter().any(|endpoint| endpoint.tls) {
            return Ok(None);
        }
        let bad_pem = |source| ClusterError::Pem { upstream: upstream.name.clone(), source };
        let bad_tls = |source| ClusterError::Tls { upstream: upstream.name.clone(), source };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(bad_tls)?
            .with_root_certificates(roots(upstream)?);
        let mut config = match &upstream.tls.client {
            Some(files) => {
                let chain = pem::certificates(&files.cert).map_err(bad_pem)?;
                let key = pem::private_key(&files.key).map_err(bad_pem)?;
                builder.with_client_auth_cert(chain, key).map_err(bad_tls)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http1 = Arc::new(config.clone());
        let configured = if upstream.http2 {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Arc::new(config)
        } else {
            Arc::clone(&http1)
        };
        Ok(Some(Self { configured, http1 }))
    }
}

fn roots(upstream: &Upstream) -> Result<RootCertStore, ClusterError> {
    let mut roots = RootCertStore::empty();
    if let Some(ca) = &upstream.tls.ca {
        let certificates = pem::certificates(ca)
            .map_err(|source| ClusterError::Pem { upstream: upstream.name.clone(), source })?;
        for certificate in certificates {
            roots
                .add(certificate)
                .map_err(|source| ClusterError::Tls { upstream: upstream.name.clone(), source })?;
        }
    } else {
        // Some system stores hold entries that webpki cannot use; those are left out, as every client does.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err(ClusterError::NoSystemRoots { upstream: upstream.name.clone() });
    }
    Ok(roots)
}

/// The name expected in the certificate of an endpoint at `host`.
pub(crate) fn server_name(upstream: &Upstream, host: &str) -> Result<ServerName<'static>, ClusterError> {
    let name = upstream.tls.server_name.as_deref().unwrap_or(host);
    ServerName::try_from(name.to_owned()).map_err(|_| ClusterError::ServerName {
        upstream: upstream.name.clone(),
        server_name: name.to_owned(),
    })
}

/// A digest of the files that `tls` names, so that a renewed certificate is noticed on reload. An unreadable file
/// counts as empty: building the cluster reports it.
pub(crate) fn files_digest(tls: &UpstreamTls) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let client = tls.client.as_ref().map(|files| [&files.cert, &files.key]);
    let files: Vec<&PathBuf> = tls.ca.iter().chain(client.into_iter().flatten()).collect();
    for file in files {
        let bytes = fs::read(file).unwrap_or_default();
        context.update(&bytes.len().to_be_bytes());
        context.update(&bytes);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}
