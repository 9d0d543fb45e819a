//! All servers of one directory, as one that is asked.

use std::io;
use std::sync::Arc;

use crate::base::pem::{self, PemError};
use crate::config::model::ldap::{LdapProvider, Security};
use crate::fetch::{TrustError, client_tls};
use crate::identity::ldap::connection::{Bounds, Reply};
use crate::identity::ldap::fault::Fault;
use crate::identity::ldap::message::Request;
use crate::identity::ldap::server::{Server, Settings};

/// Why a directory cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum LdapError {
    /// The file of trusted issuers.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// The file of trusted issuers, which was just there.
    #[error("cannot read the `ca` again")]
    Read(#[from] io::Error),
    /// No TLS client can be made.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// The servers of one directory.
#[derive(Debug)]
pub(super) struct Directory {
    servers: Vec<Server>,
    settings: Settings,
}

impl Directory {
    pub(super) fn new(config: &LdapProvider) -> Result<Self, LdapError> {
        let issuers = config.ca.as_ref().map(|file| pem::certificates(file)).transpose()?;
        // Whoever needs no certificates need not have any to trust.
        let needs_tls = config.servers.iter().any(|server| server.security != Security::Plaintext);
        let bytes = usize::try_from(config.limits.bytes.bytes()).unwrap_or(usize::MAX);
        let settings = Settings {
            tls: needs_tls.then(|| client_tls(issuers).map(Arc::new)).transpose()?,
            account: config.account.clone(),
            pool: config.pool,
            timeouts: config.timeouts,
            bounds: Bounds { entries: config.limits.entries, bytes },
        };
        let servers = config.servers.iter().map(|server| Server::new(server.clone(), &config.pool)).collect();
        Ok(Self { servers, settings })
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.settings.bounds
    }

    /// The answer of the first server that has one. Servers that failed just now come last, not never: with none left,
    /// a pause would only make an outage longer.
    pub(super) async fn ask(&self, request: &Request) -> Result<Reply, Fault> {
        let (paused, ready): (Vec<_>, Vec<_>) = self.servers.iter().partition(|server| server.is_paused());
        let mut first = None;
        for server in ready.into_iter().chain(paused) {
            match server.ask(request, &self.settings).await {
                Err(fault) if fault.is_the_servers() => first = first.or(Some(fault)),
                answer => return answer,
            }
        }
        Err(first.unwrap_or(Fault::Unreachable))
    }
}
