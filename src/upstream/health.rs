//! Active health checks: a GET to each endpoint at an interval, on a connection of its own.
//!
//! A check sees what a request would see: name lookup, TLS, the configured HTTP version. Endpoints count as healthy
//! until enough checks in a row have failed, so that a gateway that starts does not refuse everything.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::config::model::HealthCheck;
use crate::upstream::RESPONSE_HEAD_MAX;
use crate::upstream::body::AbortOnDrop;
use crate::upstream::cluster::{Cluster, EndpointState};
use crate::upstream::connect::{self, Offer, Protocol};
use crate::upstream::error::{ConnectError, UpstreamError};

/// However often is configured: a check must never become an attack.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("no answer within the check's timeout")]
    Timeout,
    #[error("the exchange failed")]
    Exchange(#[source] UpstreamError),
    #[error("the answer was {0}")]
    Status(StatusCode),
    #[error("the check's path is not a path")]
    Path,
}

/// Successes and failures in a row.
#[derive(Debug, Default)]
struct Streak {
    successes: u32,
    failures: u32,
}

impl Streak {
    /// Counts one outcome; says up or down once there are enough of one kind in a row.
    fn count(&mut self, ok: bool, check: &HealthCheck) -> Option<bool> {
        if ok {
            *self = Self { successes: self.successes.saturating_add(1), failures: 0 };
            (self.successes >= check.healthy_after).then_some(true)
        } else {
            *self = Self { successes: 0, failures: self.failures.saturating_add(1) };
            (self.failures >= check.unhealthy_after).then_some(false)
        }
    }
}

/// Marks a cluster as watched until it is dropped.
#[derive(Debug)]
struct Watch(Weak<Cluster>);

impl Watch {
    fn start(cluster: &Arc<Cluster>) -> Option<Self> {
        let watched = cluster.watched().swap(true, Ordering::Relaxed);
        (!watched).then(|| Self(Arc::downgrade(cluster)))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(cluster) = self.0.upgrade() {
            cluster.watched().store(false, Ordering::Relaxed);
        }
    }
}

/// Checks all endpoints until the cluster is dropped. Dropping the future ends the checks.
pub(crate) async fn watch(cluster: Weak<Cluster>) {
    let Some((_watch, mut checks)) = start(&cluster) else { return };
    while checks.join_next().await.is_some() {}
}

fn start(cluster: &Weak<Cluster>) -> Option<(Watch, JoinSet<()>)> {
    let cluster = cluster.upgrade()?;
    let check = cluster.settings().health.as_ref()?;
    let watch = Watch::start(&cluster)?;
    let mut checks = JoinSet::new();
    for endpoint in cluster.endpoints() {
        checks.spawn(watch_endpoint(Arc::downgrade(&cluster), Arc::downgrade(endpoint), check.clone()));
    }
    Some((watch, checks))
}

async fn watch_endpoint(cluster: Weak<Cluster>, endpoint: Weak<EndpointState>, check: HealthCheck) {
    let mut ticks = interval(check.interval.max(INTERVAL_MIN));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut streak = Streak::default();
    loop {
        ticks.tick().await;
        let (Some(cluster), Some(endpoint)) = (cluster.upgrade(), endpoint.upgrade()) else { return };
        let outcome = timeout(check.timeout, ask(&cluster, &endpoint, &check.path))
            .await
            .unwrap_or(Err(CheckError::Timeout));
        let Some(healthy) = streak.count(outcome.is_ok(), &check) else { continue };
        if endpoint.set_healthy(healthy) {
            let (upstream, authority) = (&**cluster.name(), endpoint.authority());
            match outcome {
                Ok(()) => tracing::info!(upstream.id = upstream, endpoint = authority, "Endpoint is up"),
                Err(error) => tracing::warn!(
                    upstream.id = upstream,
                    endpoint = authority,
                    error = &error as &dyn std::error::Error,
                    "Endpoint is down"
                ),
            }
        }
    }
}

async fn ask(cluster: &Cluster, endpoint: &EndpointState, path: &str) -> Result<(), CheckError> {
    let (stream, protocol) =
        connect::open(cluster, endpoint, Offer::Configured).await.map_err(CheckError::Exchange)?;
    let broken = |error| CheckError::Exchange(UpstreamError::Broken(Some(error)));
    let handshake = |error| CheckError::Exchange(UpstreamError::Connect(ConnectError::Http(error)));
    let request = request(endpoint, path, protocol)?;
    let stream = TokioIo::new(stream);
    let (response, _task) = match protocol {
        Protocol::Http1 => {
            let (mut sender, connection) = http1::Builder::new()
                .max_header_size(RESPONSE_HEAD_MAX)
                .handshake(stream)
                .await
                .map_err(handshake)?;
            let task = AbortOnDrop(tokio::spawn(connection).abort_handle());
            (sender.send_request(request).await, task)
        }
        Protocol::Http2 => {
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), stream).await.map_err(handshake)?;
            let task = AbortOnDrop(tokio::spawn(connection).abort_handle());
            (sender.send_request(request).await, task)
        }
    };
    let status = response.map_err(broken)?.status();
    let healthy = status.is_success() || status.is_redirection();
    if healthy { Ok(()) } else { Err(CheckError::Status(status)) }
}

fn request(
    endpoint: &EndpointState,
    path: &str,
    protocol: Protocol,
) -> Result<Request<Empty<Bytes>>, CheckError> {
    let builder = Request::get(match protocol {
        Protocol::Http1 => path.to_owned(),
        Protocol::Http2 => {
            let scheme = if endpoint.settings().tls { "https" } else { "http" };
            format!("{scheme}://{}{path}", endpoint.authority())
        }
    });
    let builder = match protocol {
        Protocol::Http1 => builder.header(header::HOST, endpoint.host_header()),
        Protocol::Http2 => builder,
    };
    builder.header(header::USER_AGENT, "postern-health").body(Empty::new()).map_err(|_| CheckError::Path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_streak_changes_the_verdict() {
        let check = HealthCheck {
            path: "/".into(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            unhealthy_after: 3,
            healthy_after: 2,
        };
        let mut streak = Streak::default();
        let mut verdicts = |outcomes: &[bool]| -> Vec<Option<bool>> {
            outcomes.iter().map(|&ok| streak.count(ok, &check)).collect()
        };
        assert_eq!(verdicts(&[false, false, true, false, false]), [None; 5]);
        assert_eq!(verdicts(&[false]), [Some(false)]);
        assert_eq!(verdicts(&[true, false, true]), [None; 3]);
        assert_eq!(verdicts(&[true, true]), [Some(true); 2]);
    }
}
