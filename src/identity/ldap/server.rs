//! One server of the directory: its two pools of connections, bounded and apart.
//!
//! Searches go over connections that are bound to the gateway's own account and stay so. Passwords are tried on others:
//! each such bind changes for whom a connection speaks, so no search ever goes over one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::base::secret::Secret;
use crate::config::model::ldap::{LdapServer, PoolSize, ServiceAccount, Timeouts};
use crate::identity::ldap::connection::{Bounds, Connection, Reply};
use crate::identity::ldap::fault::Fault;
use crate::identity::ldap::message::{Request, SUCCESS};

/// How long a server that failed is asked only after all others.
const PAUSE: Duration = Duration::from_secs(2);

/// Result codes of a server that cannot do what another may (RFC 4511 appendix A): `operationsError`, `timeLimitExceeded`,
/// `busy`, `unavailable`, `other`.
const UNABLE: [u32; 5] = [1, 3, 51, 52, 80];

/// What a server needs to know besides its address.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) account: Option<ServiceAccount>,
    pub(super) pool: PoolSize,
    pub(super) timeouts: Timeouts,
    pub(super) bounds: Bounds,
}

/// A server.
#[derive(Debug)]
pub(super) struct Server {
    address: LdapServer,
    searching: Pool,
    binding: Pool,
    paused_until: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Pool {
    permits: Semaphore,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

impl Server {
    pub(super) fn new(address: LdapServer, pool: &PoolSize) -> Self {
        let new = || Pool { permits: Semaphore::new(pool.size), idle: Mutex::new(Vec::new()) };
        Self { address, searching: new(), binding: new(), paused_until: Mutex::new(None) }
    }

    /// Whether it has failed just now.
    pub(super) fn is_paused(&self) -> bool {
        lock(&self.paused_until).is_some_and(|until| Instant::now() < until)
    }

    /// Asks, within the timeouts; a fault of the server pauses it.
    ///
    /// # Cancel safety
    /// May be dropped at any time: the connection is then closed.
    pub(super) async fn ask(&self, request: &Request, settings: &Settings) -> Result<Reply, Fault> {
        let answer = self.ask_pooled(request, settings).await;
        let answer = answer.and_then(|reply| match reply.code {
            code if UNABLE.contains(&code) => Err(Fault::Code(code)),
            _ => Ok(reply),
        });
        match &answer {
            Ok(_) => *lock(&self.paused_until) = None,
            Err(fault) if fault.is_the_servers() => {
                tracing::debug!(
                    server.address = %self.address.host,
                    server.port = self.address.port,
                    reason = fault.reason(),
                    fault = ?fault,
                    "Directory server failed"
                );
                *lock(&self.paused_until) = Some(Instant::now() + PAUSE);
            }
            Err(_) => {}
        }
        answer
    }

    async fn ask_pooled(&self, request: &Request, settings: &Settings) -> Result<Reply, Fault> {
        let pool = match request {
            Request::Bind { .. } => &self.binding,
            Request::Search(_) | Request::StartTls => &self.searching,
        };
        let operation = settings.timeouts.operation;
        // One permit for each connection, held until it is idle again or closed.
        let permit = timeout(operation, pool.permits.acquire()).await.map_err(|_| Fault::Busy)?;
        let _permit = permit.map_err(|_| Fault::Busy)?;
        while let Some(mut connection) = pool.take(settings.pool.idle) {
            if !connection.is_quiet().await {
                continue;
            }
            match pool.ask(connection, request, settings).await {
                // It was closed in the very moment; what was asked changes nothing and may be asked again.
                Err(Fault::Closed) => break,
                answer => return answer,
            }
        }
        let connection = self.connect(request, settings).await?;
        pool.ask(connection, request, settings).await
    }

    async fn connect(&self, request: &Request, settings: &Settings) -> Result<Connection, Fault> {
        let open = Connection::open(&self.address, settings.tls.as_ref(), settings.bounds);
        let mut connection = timeout(settings.timeouts.connect, open).await.unwrap_or(Err(Fault::Timeout))?;
        if let (Request::Search(_), Some(account)) = (request, &settings.account) {
            let password = Secret::new(account.password.expose().clone().into_bytes());
            let bind = Request::Bind { dn: account.dn.clone(), password };
            let bound = timeout(settings.timeouts.operation, connection.ask(&bind, settings.bounds));
            let reply = bound.await.unwrap_or(Err(Fault::Timeout))?;
            if reply.code != SUCCESS {
                return Err(Fault::ServiceAccount);
            }
        }
        Ok(connection)
    }
}

impl Pool {
    fn take(&self, idle_max: Duration) -> Option<Connection> {
        let mut idle = lock(&self.idle);
        let now = Instant::now();
        idle.retain(|idle| now.duration_since(idle.since) < idle_max);
        // The one used last: the others may go out of use.
        idle.pop().map(|idle| idle.connection)
    }

    async fn ask(
        &self,
        mut connection: Connection,
        request: &Request,
        settings: &Settings,
    ) -> Result<Reply, Fault> {
        let answer = timeout(settings.timeouts.operation, connection.ask(request, settings.bounds));
        let reply = answer.await.unwrap_or(Err(Fault::Timeout))?;
        lock(&self.idle).push(Idle { connection, since: Instant::now() });
        Ok(reply)
    }
}

/// Nothing is left half done under these locks.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
