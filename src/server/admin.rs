//! The admin endpoint: `/health`, `/ready`, `/metrics`, `/status`, and on demand reload and rollback. Loopback only.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::audit::queue::Health;
use crate::base::clock;
use crate::base::net::is_loopback;
use crate::runtime::bundles::source::Status;
use crate::server::drain;
use crate::server::gateway::Reloader;
use crate::telemetry::exposition::{self, BundleSample, Samples};

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Waited after an error that will not go away at once (no file descriptors).
const BACK_OFF: Duration = Duration::from_millis(50);
/// One request and its answer, a reload that compiles included.
const CONNECTION_TIMEOUT: Duration = Duration::from_mins(2);
/// Connections at once; monitoring needs few.
const CONNECTIONS: usize = 64;

type Answer = Response<Full<Bytes>>;

/// Serves the endpoint until the task is dropped.
pub(crate) async fn run(socket: std::net::TcpListener, reloader: Reloader, draining: drain::Receiver) {
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "No admin endpoint");
            return;
        }
    };
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "Accept failed on the admin endpoint");
                tokio::time::sleep(BACK_OFF).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
        if !is_loopback(peer.ip()) {
            continue;
        }
        let reloader = reloader.clone();
        let draining = draining.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| {
                let answered = answer(request, reloader.clone(), draining.borrow().has_begun());
                async move { Ok::<_, Infallible>(answered.await) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).keep_alive(false);
            let served = builder.serve_connection(TokioIo::new(stream), service);
            // A client of the admin endpoint that breaks off, or dawdles, is nobody's concern.
            drop(tokio::time::timeout(CONNECTION_TIMEOUT, served).await);
            drop(permit);
        });
    }
}

async fn answer(request: Request<Incoming>, reloader: Reloader, draining: bool) -> Answer {
    if !is_local(&request) {
        return text(
            StatusCode::FORBIDDEN,
            "the admin endpoint answers only local requests for a loopback host\n",
        );
    }
    let method = request.method();
    let reads = method == Method::GET || method == Method::HEAD;
    match request.uri().path() {
        "/health" if reads => json_body(StatusCode::OK, &json!({})),
        "/ready" if reads && draining => {
            json_body(StatusCode::SERVICE_UNAVAILABLE, &json!({"ready": false, "reason": "draining"}))
        }
        "/ready" if reads => json_body(StatusCode::OK, &json!({"ready": true})),
        "/status" if reads => json_body(StatusCode::OK, &status(&reloader, draining)),
        "/metrics" if !reloader.shared().current().runtime.config.telemetry.metrics => {
            text(StatusCode::NOT_FOUND, "metrics are off: `telemetry.metrics`\n")
        }
        "/metrics" if reads => metrics(&reloader),
        "/reload" if method == Method::POST => reload(reloader).await,
        "/rollback" if method == Method::POST => roll_back(reloader).await,
        "/health" | "/ready" | "/status" | "/metrics" => not_allowed("GET, HEAD"),
        "/reload" | "/rollback" => not_allowed("POST"),
        _ => text(StatusCode::NOT_FOUND, "try /health, /ready, /metrics, /status\n"),
    }
}

/// Whether the request means this machine: a web page that a browser here shows could otherwise reload the gateway, by
/// a name of its own that leads to loopback.
fn is_local(request: &Request<Incoming>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.filter(|host| !host.contains('@')).and_then(|host| host.parse::<Authority>().ok());
    let name = host.as_ref().map(Authority::host).unwrap_or_default();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let names_loopback =
        name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(is_loopback);
    names_loopback && !request.headers().contains_key(header::ORIGIN)
}

fn not_allowed(allow: &'static str) -> Answer {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "another method is needed here\n");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

async fn reload(reloader: Reloader) -> Answer {
    let reloading =
        tokio::task::spawn_blocking(move || reloader.reload().map_err(|errors| errors.to_string()));
    match reloading.await {
        Ok(Ok(())) => json_body(StatusCode::OK, &json!({"reloaded": true})),
        Ok(Err(error)) => {
            json_body(StatusCode::UNPROCESSABLE_ENTITY, &json!({"reloaded": false, "error": error}))
        }
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the reload panicked\n"),
    }
}

async fn roll_back(reloader: Reloader) -> Answer {
    let rolling =
        tokio::task::spawn_blocking(move || reloader.roll_back().map_err(|errors| errors.to_string()));
    match rolling.await {
        Ok(Ok(true)) => json_body(StatusCode::OK, &json!({"rolled_back": true})),
        Ok(Ok(false)) => {
            json_body(StatusCode::CONFLICT, &json!({"rolled_back": false, "error": "no earlier snapshot"}))
        }
        Ok(Err(error)) => {
            json_body(StatusCode::UNPROCESSABLE_ENTITY, &json!({"rolled_back": false, "error": error}))
        }
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the rollback panicked\n"),
    }
}

fn metrics(reloader: &Reloader) -> Answer {
    let shared = reloader.shared();
    let limit_keys = u64::try_from(shared.limits.len()).unwrap_or(u64::MAX);
    let bundles = shared.bundles.statuses().into_iter().map(|(policy, status)| BundleSample {
        policy,
        downloaded: status.requests.downloaded,
        not_modified: status.requests.not_modified,
        failed: status.requests.failed,
        activated: status.activations,
        refused: status.refusals,
        last_request: status.last_request,
        last_successful_request: status.last_successful_request,
        last_successful_activation: status.last_successful_activation,
    });
    let bundles = bundles.collect();
    let samples = Samples { limit_keys, limit_keys_evicted: shared.limits.evicted(), bundles };
    let body = exposition::render(&shared.metrics, &samples);
    let mut response = text(StatusCode::OK, &body);
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn status(reloader: &Reloader, draining: bool) -> serde_json::Value {
    let shared = reloader.shared();
    let in_force = shared.current();
    let runtime = &in_force.runtime;
    let reload = shared.reload_status();
    let policies = runtime.policies.iter().map(|policy| {
        let shown = json!({"revision": policy.revision, "decision": policy.decision_path});
        (policy.name.to_string(), shown)
    });
    let upstreams = runtime.clusters.iter().map(|cluster| {
        let endpoints = cluster.endpoints().iter().map(|endpoint| {
            json!({"endpoint": endpoint.authority(), "healthy": endpoint.is_healthy(),
                "in_flight": endpoint.in_flight(), "connections": endpoint.open_connections()})
        });
        (cluster.name().to_string(), json!(endpoints.collect::<Vec<_>>()))
    });
    let key_sets = shared.key_sets.statuses().into_iter().map(|set| {
        json!({"source": set.source, "loaded": set.loaded, "renewed_at": set.renewed_at.map(time),
            "last_error": set.last_error})
    });
    let bundles = shared.bundles.statuses().into_iter().map(|(name, status)| {
        let revision =
            runtime.policies.iter().find(|policy| policy.name == name).map(|policy| policy.revision.as_str());
        (name.to_string(), bundle(&name, revision, &status))
    });
    let logs = shared.audit.status().into_iter().map(|sink| {
        let (health, error) = match sink.health {
            Health::Ok => ("ok", None),
            Health::Failing(error) => ("failing", Some(error)),
            Health::Stopped(error) => ("stopped", Some(error)),
        };
        json!({"sink": sink.name, "health": health, "error": error, "written": sink.written,
            "dropped": sink.dropped, "queued_bytes": sink.queued_bytes})
    });
    let last_error = reload.last_error.map(|failure| json!({"at": time(failure.at), "error": failure.error}));
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "draining": draining,
        "snapshot": {
            "generation": in_force.generation,
            "revision": runtime.config.revision,
            "loaded_at": time(reload.loaded_at),
            "earlier": reload.earlier,
            "last_reload_error": last_error,
        },
        "policies": policies.collect::<serde_json::Map<_, _>>(),
        "upstreams": upstreams.collect::<serde_json::Map<_, _>>(),
        "bundles": bundles.collect::<serde_json::Map<_, _>>(),
        "key_sets": key_sets.collect::<Vec<_>>(),
        "decision_logs": logs.collect::<Vec<_>>(),
    })
}

/// A fetched bundle, with the names of OPA's status. What is refused is told before what is not reached.
fn bundle(name: &str, revision: Option<&str>, status: &Status) -> serde_json::Value {
    let failure = status.refused.as_ref().or(status.unreachable.as_ref());
    json!({
        "name": name,
        "active_revision": revision,
        "type": if status.delta { "delta" } else { "snapshot" },
        "size": status.size,
        "persisted": status.persisted,
        "last_request": status.last_request.map(time),
        "last_successful_request": status.last_successful_request.map(time),
        "last_successful_download": status.last_successful_download.map(time),
        "last_successful_activation": status.last_successful_activation.map(time),
        "code": failure.map(|_| "bundle_error"),
        "message": failure.map(|failure| &failure.message),
        "http_code": failure.and_then(|failure| failure.http_code),
        "errors": failure.map(|failure| &failure.errors).filter(|errors| !errors.is_empty()),
    })
}

fn time(since_epoch: Duration) -> String {
    let mut text = String::with_capacity(30);
    clock::write_rfc3339(&mut text, since_epoch);
    text
}

fn text(status: StatusCode, body: &str) -> Answer {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn json_body(status: StatusCode, document: &serde_json::Value) -> Answer {
    let mut response = text(status, &format!("{document}\n"));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
