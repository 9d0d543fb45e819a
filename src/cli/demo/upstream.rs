//! The demo's upstream: an orders API that answers with what reached it.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};

const BODY_BYTES_MAX: usize = 1 << 20;
const CONNECTIONS_MAX: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// A running upstream; it stops when dropped.
#[derive(Debug)]
pub(super) struct Upstream {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Starts it on a free port of the loopback address.
    pub(super) fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("demo-upstream".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // Dropping the sender stops the thread.
        drop(self.stop.take());
        // A panic of its own was printed by then.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

async fn accept(listener: TcpListener) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        // A connection that is gone before it is accepted is nothing to stop for.
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            let serving = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service_fn(echo));
            // The gateway closes connections as it likes.
            drop(serving.await);
            drop(permit);
        });
    }
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
        let mut refusal = Response::new(Full::default());
        *refusal.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        return Ok(refusal);
    };
    // Who asks is shown; the credential itself is not, for terminals are looked at by many.
    let shown = |name: &str| name.starts_with("x-") && name != "x-api-key";
    let headers = head.headers.iter().filter(|(name, _)| shown(name.as_str()));
    let headers = headers.map(|(name, value)| {
        (name.as_str().to_owned(), Value::from(String::from_utf8_lossy(value.as_bytes())))
    });
    let mut reached = Map::new();
    reached.insert("method".to_owned(), Value::from(head.method.as_str()));
    reached.insert("target".to_owned(), Value::from(head.uri.to_string()));
    reached.insert("headers".to_owned(), Value::Object(headers.collect()));
    let body = body.to_bytes();
    if !body.is_empty() {
        reached.insert("body".to_owned(), Value::from(String::from_utf8_lossy(&body)));
    }
    let answer = json!({"what reached the upstream": reached});
    let mut response = Response::new(Full::from(format!("{answer:#}\n")));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Something for the response phase to take away.
    headers.insert("x-powered-by", HeaderValue::from_static("orders 1.4.2"));
    Ok(response)
}
