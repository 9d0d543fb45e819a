//! Upstream servers made of raw sockets, and the short forms the tests read by.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use postern::config::model::{Balance, Endpoint, Retries, Upstream, UpstreamTls};
use postern::upstream::body::{RequestBody, UpstreamBody};
use postern::upstream::cluster::Cluster;
use postern::upstream::error::{BodyError, UpstreamError};
use postern::upstream::pool::{Pool, Reply, SendOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

/// Longer than any test takes; a hang fails instead of hanging.
const TEST_LIMIT: Duration = Duration::from_secs(20);

/// Runs a test as a worker would run it: on one thread, in a `LocalSet`. The limit is real time.
pub(super) fn worker<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (done, over) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        if over.recv_timeout(TEST_LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            eprintln!("the test hangs");
            std::process::abort();
        }
    });
    let result = LocalSet::new().block_on(&runtime, test);
    drop(done);
    result
}

/// Waits, without a fixed time, until `condition` holds.
pub(super) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// From here on time is virtual: it jumps to the next timer whenever nothing else is to be done.
pub(super) fn virtual_time() {
    tokio::time::pause();
}

/// A request body of a test.
#[derive(Debug)]
pub(super) enum TestBody {
    /// Whole, to be sent as often as needed.
    Whole(Bytes),
    /// Pieces as they come; it can be sent once.
    Stream(mpsc::Receiver<Result<Frame<Bytes>, io::Error>>),
}

impl TestBody {
    /// No body.
    pub(super) fn empty() -> Self {
        Self::Whole(Bytes::new())
    }

    /// A streamed body and its writing end.
    pub(super) fn stream() -> (mpsc::Sender<Result<Frame<Bytes>, io::Error>>, Self) {
        let (sender, receiver) = mpsc::channel(1);
        (sender, Self::Stream(receiver))
    }
}

impl Body for TestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(receiver) => receiver.poll_recv(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

impl RequestBody for TestBody {
    fn try_clone(&self) -> Option<Self> {
        match self {
            Self::Whole(bytes) => Some(Self::Whole(bytes.clone())),
            Self::Stream(_) => None,
        }
    }
}

/// Settings for plaintext endpoints: no retries, default timeouts.
pub(super) fn settings(endpoints: &[SocketAddr]) -> Upstream {
    Upstream {
        name: "orders".into(),
        endpoints: endpoints
            .iter()
            .map(|address| Endpoint { tls: false, host: address.ip().to_string(), port: address.port() })
            .collect(),
        balance: Balance::RoundRobin,
        http2: false,
        connect_timeout: Duration::from_secs(2),
        response_timeout: Duration::from_secs(15),
        idle_timeout: Duration::from_mins(1),
        retries: Retries { attempts: 0, budget: 0.2 },
        health: None,
        tls: UpstreamTls::default(),
        preserve_host: false,
        forward_client_certificate: false,
    }
}

/// A pool for a new cluster.
pub(super) fn pool(settings: Upstream) -> Rc<Pool<TestBody>> {
    Pool::new(Cluster::new(settings).unwrap())
}

/// A pool for plaintext endpoints with the default settings.
pub(super) fn pool_of(endpoints: &[SocketAddr]) -> Rc<Pool<TestBody>> {
    pool(settings(endpoints))
}

/// A request without a body.
pub(super) fn request(method: Method, target: &str) -> Request<TestBody> {
    with_body(method, target, TestBody::empty())
}

/// A request with a body.
pub(super) fn with_body(method: Method, target: &str, body: TestBody) -> Request<TestBody> {
    Request::builder().method(method).uri(target).header("host", "client.example").body(body).unwrap()
}

/// Sends a GET.
pub(super) async fn get(pool: &Pool<TestBody>, target: &str) -> Result<Reply, UpstreamError> {
    pool.send(request(Method::GET, target), &SendOptions::default()).await
}

/// Sends a GET and reads the whole response: status and body.
pub(super) async fn fetch(pool: &Pool<TestBody>, target: &str) -> (u16, String) {
    let reply = get(pool, target).await.unwrap();
    let status = reply.status().as_u16();
    (status, text(reply.into_body()).await.unwrap())
}

/// The whole of a body.
pub(super) async fn text(body: UpstreamBody) -> Result<String, BodyError> {
    let bytes = body.collect().await?.to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

/// One accepted connection of a raw server.
pub(super) struct Peer {
    stream: TcpStream,
    unread: VecDeque<u8>,
    /// 1 for the server's first connection.
    pub(super) number: usize,
}

impl Peer {
    /// The next request's head; `None` when the gateway has closed the connection.
    pub(super) async fn head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.byte().await?);
        }
        Some(String::from_utf8(head).unwrap())
    }

    /// Exactly `length` bytes of a request's body.
    pub(super) async fn body(&mut self, length: usize) -> Option<Vec<u8>> {
        let mut body = Vec::with_capacity(length);
        while body.len() < length {
            body.push(self.byte().await?);
        }
        Some(body)
    }

    /// The next byte.
    pub(super) async fn byte(&mut self) -> Option<u8> {
        if self.unread.is_empty() {
            let mut buffer = [0; 4 << 10];
            let read = self.stream.read(&mut buffer).await.unwrap_or(0);
            self.unread.extend(&buffer[..read]);
        }
        self.unread.pop_front()
    }

    /// Sends bytes; `false` when the gateway has closed the connection.
    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Sends a 200 with `body`.
    pub(super) async fn ok(&mut self, body: &str) -> bool {
        self.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await
    }

    /// Waits until the gateway closes the connection.
    pub(super) async fn closed(&mut self) {
        while self.byte().await.is_some() {}
    }

    /// The socket itself.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

/// A server that does with each connection whatever a test wants.
pub(super) struct Server {
    /// Where it listens.
    pub(super) address: SocketAddr,
    accepted: Rc<Cell<usize>>,
}

impl Server {
    /// Listens, and runs `serve` for each connection, on this worker's thread.
    pub(super) async fn start<F: Future<Output = ()> + 'static>(serve: impl Fn(Peer) -> F + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Rc::new(Cell::new(0));
        let count = Rc::clone(&accepted);
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.set(count.get() + 1);
                spawn_local(serve(Peer { stream, unread: VecDeque::new(), number: count.get() }));
            }
        });
        Self { address, accepted }
    }

    /// Answers each request with 200 and the request's target.
    pub(super) async fn echo() -> Self {
        Self::answering(|head| {
            let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{target}", target.len())
        })
        .await
    }

    /// Answers each request (without body) with what `answer` makes of its head.
    pub(super) async fn answering(answer: impl Fn(&str) -> String + 'static) -> Self {
        let answer = Rc::new(answer);
        Self::start(move |mut peer| {
            let answer = Rc::clone(&answer);
            async move {
                while let Some(head) = peer.head().await {
                    if !peer.send(answer(&head)).await {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// Answers each connection's first request with `bytes`, and closes after it.
    pub(super) async fn once(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = Rc::new(bytes.into());
        Self::start(move |mut peer| {
            let bytes = Rc::clone(&bytes);
            async move {
                peer.head().await;
                peer.send(&*bytes).await;
            }
        })
        .await
    }

    /// Connections accepted so far.
    pub(super) fn accepted(&self) -> usize {
        self.accepted.get()
    }
}

/// An address at which nobody listens.
pub(super) async fn dead_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// The error of a response that must not be one.
#[track_caller]
pub(super) fn error_of(result: Result<Reply, UpstreamError>) -> UpstreamError {
    match result {
        Ok(reply) => panic!("an answer: {}", reply.status()),
        Err(error) => error,
    }
}
