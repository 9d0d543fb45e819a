//! The demo's upstream: tells as JSON what reached it.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// A running echo server; it ends when dropped.
#[derive(Debug)]
pub(super) struct Echo {
    address: SocketAddr,
    _running: oneshot::Sender<()>,
}

// === impl Echo ===

impl Echo {
    /// Starts it on a thread and a port of its own.
    pub(super) fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let (running, ended) = oneshot::channel();
        std::thread::Builder::new().name("demo-upstream".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener) => {}
                    _ = ended => {}
                }
            });
        })?;
        Ok(Self { address, _running: running })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(echo(&request))));
        // The gateway closes its connections as it likes.
        tokio::spawn(async move {
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

fn echo(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let told = ["x-user", "x-roles", "x-forwarded-for", "x-request-id"];
    let headers = told.iter().filter_map(|name| {
        let value = request.headers().get(*name)?.to_str().ok()?;
        Some(((*name).to_owned(), serde_json::Value::from(value)))
    });
    let document = serde_json::json!({
        "upstream_got": {
            "method": request.method().as_str(),
            "path": request.uri().path(),
            "headers": headers.collect::<serde_json::Map<_, _>>(),
        },
    });
    let mut response = Response::new(Full::new(Bytes::from(format!("{document}\n"))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
