//! The admin endpoint: `/health`, `/ready`, `/metrics`, `/status`, and on demand reload, promotion, rollback and why a
//! recent decision. Loopback only.

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
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::base::net::is_loopback;
use crate::policy::explain::render;
use crate::runtime::bundles::key::Role;
use crate::runtime::explain::{self, ExplainError, Explained};
use crate::runtime::promotion::Promoted;
use crate::server::drain;
use crate::server::gateway::Reloader;
use crate::server::status;
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
    if request.headers().get_all(header::HOST).iter().nth(1).is_some() {
        return text(StatusCode::BAD_REQUEST, "the request has more than one Host (RFC 9112, section 3.2)\n");
    }
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
        "/status" if reads => json_body(StatusCode::OK, &status::status(reloader.shared(), draining)),
        "/metrics" if !reloader.shared().current().runtime.config.telemetry.metrics => {
            text(StatusCode::NOT_FOUND, "metrics are off: `telemetry.metrics`\n")
        }
        "/metrics" if reads => metrics(&reloader),
        "/reload" if method == Method::POST => reload(reloader).await,
        "/rollback" if method == Method::POST => roll_back(reloader).await,
        path if is_promotion(path) && method == Method::POST => {
            let policy = path.strip_prefix("/promote/").map(decoded);
            promote(reloader, policy).await
        }
        path if path.starts_with("/explain/") && reads => {
            let id = decoded(path.trim_start_matches("/explain/"));
            explain(reloader, id, request.uri().query().unwrap_or_default()).await
        }
        "/health" | "/ready" | "/status" | "/metrics" => not_allowed("GET, HEAD"),
        path if path.starts_with("/explain/") => not_allowed("GET, HEAD"),
        "/reload" | "/rollback" => not_allowed("POST"),
        path if is_promotion(path) => not_allowed("POST"),
        _ => text(StatusCode::NOT_FOUND, "try /health, /ready, /metrics, /status, /explain/ID\n"),
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
    let shared = Arc::clone(reloader.shared());
    let rolling =
        tokio::task::spawn_blocking(move || reloader.roll_back().map_err(|errors| errors.to_string()));
    let rolled = rolling.await;
    let in_force = shared.current();
    let policies = in_force.runtime.policies.iter();
    let policies = policies.map(|policy| (policy.name.to_string(), json!(policy.revision)));
    let policies = policies.collect::<serde_json::Map<_, _>>();
    let rolled_back = json!({"rolled_back": true, "generation": in_force.generation, "policies": policies});
    match rolled {
        Ok(Ok(true)) => json_body(StatusCode::OK, &rolled_back),
        Ok(Ok(false)) => {
            json_body(StatusCode::CONFLICT, &json!({"rolled_back": false, "error": "no earlier snapshot"}))
        }
        Ok(Err(error)) => {
            json_body(StatusCode::UNPROCESSABLE_ENTITY, &json!({"rolled_back": false, "error": error}))
        }
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the rollback panicked\n"),
    }
}

/// `/promote`, or `/promote/POLICY`.
fn is_promotion(path: &str) -> bool {
    path == "/promote" || path.starts_with("/promote/")
}

fn decoded(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

async fn promote(reloader: Reloader, policy: Option<String>) -> Answer {
    let shared = Arc::clone(reloader.shared());
    let promoting = tokio::task::spawn_blocking(move || reloader.promote(policy.as_deref()));
    match promoting.await {
        Ok(Ok(promoted)) => {
            let warning = promoted.warning();
            let Promoted { policy, revision, former_revision, shown, compared, failed } = promoted;
            let mut document = json!({"promoted": true, "policy": *policy, "revision": revision,
                "former_revision": former_revision, "bundle": shown, "generation": shared.generation(),
                "compared": compared, "failed": failed});
            if let (Some(warning), Some(fields)) = (warning, document.as_object_mut()) {
                fields.insert("warning".to_owned(), json!(warning));
            }
            json_body(StatusCode::OK, &document)
        }
        Ok(Err(error)) => {
            let document = json!({"promoted": false, "error": error.to_string()});
            json_body(StatusCode::CONFLICT, &document)
        }
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the promotion panicked\n"),
    }
}

async fn explain(reloader: Reloader, id: String, query: &str) -> Answer {
    // One at a time: each compiles the policy many times over.
    static PERMITS: Semaphore = Semaphore::const_new(1);
    let options = match ExplainOptions::parse(query) {
        Ok(options) => options,
        Err(error) => return json_body(StatusCode::BAD_REQUEST, &json!({"error": error})),
    };
    // The semaphore is never closed.
    let permit = PERMITS.acquire().await;
    let shared = Arc::clone(reloader.shared());
    let asked = id.clone();
    let explaining = tokio::task::spawn_blocking(move || explain::explain(&shared, &asked)).await;
    drop(permit);
    let explained = match explaining {
        Ok(Ok(explained)) => explained,
        Ok(Err(error)) => {
            let status = match &error {
                ExplainError::Off | ExplainError::Unknown { .. } => StatusCode::NOT_FOUND,
                ExplainError::Gone { .. } => StatusCode::GONE,
                ExplainError::NoInput | ExplainError::Failed(_) => StatusCode::UNPROCESSABLE_ENTITY,
            };
            return json_body(status, &json!({"error": error.to_string()}));
        }
        Err(_) => return text(StatusCode::INTERNAL_SERVER_ERROR, "the explanation panicked\n"),
    };
    options.render(&id, &explained)
}

/// How an explanation is wanted.
#[derive(Debug, Clone, Copy, Default)]
struct ExplainOptions {
    text: bool,
    redacted: bool,
}

impl ExplainOptions {
    fn parse(query: &str) -> Result<Self, String> {
        let mut options = Self::default();
        let mut seen = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let name = pair.split_once('=').map_or(pair, |(name, _)| name);
            if seen.contains(&name) {
                return Err(format!("`{name}` is given twice"));
            }
            seen.push(name);
            match pair {
                "format=text" => options.text = true,
                "format=json" => options.text = false,
                "redacted" | "redacted=true" => options.redacted = true,
                "redacted=false" => options.redacted = false,
                // A misspelt `redacted` must not show what was to be hidden.
                _ => return Err("use `format=json|text` and `redacted=true|false`".to_owned()),
            }
        }
        Ok(options)
    }

    fn render(self, id: &str, explained: &Explained) -> Answer {
        let Self { text: as_text, redacted } = self;
        if as_text {
            let mut out = Vec::new();
            // Writing to a buffer cannot fail.
            drop(match explained {
                Explained::Refused(refused) => render::refused_text(refused, &mut out),
                Explained::Decided { explanation, missing, .. } => {
                    let plain = |_, text: &str| text.to_owned();
                    let written = render::text(explanation, redacted, &plain, &mut out);
                    let notes = missing.iter().map(|pointer| format!("note: {}\n", render::missing(pointer)));
                    notes.for_each(|note| out.extend_from_slice(note.as_bytes()));
                    written
                }
            });
            return text(StatusCode::OK, &String::from_utf8_lossy(&out));
        }
        let mut document = match explained {
            Explained::Refused(refused) => render::refused_document(refused),
            Explained::Decided { explanation, .. } => render::document(explanation, redacted),
        };
        if let Some(fields) = document.as_object_mut() {
            fields.insert("decision_id".to_owned(), json!(id));
            if let Explained::Decided { revision, missing, .. } = explained {
                fields.insert("revision".to_owned(), json!(revision));
                fields.insert("missing".to_owned(), json!(missing));
            }
        }
        json_body(StatusCode::OK, &document)
    }
}

fn metrics(reloader: &Reloader) -> Answer {
    let shared = reloader.shared();
    let limit_keys = u64::try_from(shared.limits.len()).unwrap_or(u64::MAX);
    let bundles = shared.bundles.statuses().into_iter().map(|(key, status)| BundleSample {
        policy: key.policy,
        shadow: key.role == Role::Candidate,
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
