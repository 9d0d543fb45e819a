//! HTTP/2 upstreams: shared connections, trailers, flow control, connections that go away.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use postern::config::model::Upstream;
use postern::upstream::error::{BodyError, UpstreamError};
use postern::upstream::pool::SendOptions;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;

use crate::upstream::support::*;
use crate::upstream::tls::{Authority, over_tls};

type Answer = Pin<Box<dyn Future<Output = Response<TestBody>>>>;

#[derive(Clone)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// An HTTP/2 server with prior knowledge.
struct Http2Server {
    address: SocketAddr,
    accepted: Rc<Cell<usize>>,
    /// Asks all open connections to go away gracefully.
    go_away: Rc<Notify>,
}

impl Http2Server {
    async fn start(answer: impl Fn(Request<Incoming>) -> Answer + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, go_away) = (Rc::new(Cell::new(0)), Rc::new(Notify::new()));
        let (count, leave, answer) = (Rc::clone(&accepted), Rc::clone(&go_away), Rc::new(answer));
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.set(count.get() + 1);
                let (leave, answer) = (Rc::clone(&leave), Rc::clone(&answer));
                spawn_local(async move {
                    let service = service_fn(move |request| {
                        let answer = answer(request);
                        async move { Ok::<_, Infallible>(answer.await) }
                    });
                    let mut connection = std::pin::pin!(
                        hyper::server::conn::http2::Builder::new(LocalExecutor)
                            .serve_connection(TokioIo::new(stream), service)
                    );
                    tokio::select! {
                        _ = connection.as_mut() => return,
                        () = leave.notified() => connection.as_mut().graceful_shutdown(),
                    }
                    drop(connection.await);
                });
            }
        });
        Self { address, accepted, go_away }
    }

    async fn echo() -> Self {
        Self::start(|request| Box::pin(async move { whole(&request.uri().to_string()) })).await
    }
}

fn http2(address: SocketAddr) -> Upstream {
    Upstream { http2: true, ..settings(&[address]) }
}

fn whole(text: &str) -> Response<TestBody> {
    Response::new(TestBody::Whole(text.to_owned().into()))
}

#[test]
fn many_exchanges_share_one_connection() {
    worker(async {
        let server = Http2Server::echo().await;
        let pool = pool(http2(server.address));
        let tasks: Vec<_> = (0..50)
            .map(|n| {
                let pool = Rc::clone(&pool);
                spawn_local(async move { fetch(&pool, &format!("/{n}?q")).await })
            })
            .collect();
        for (n, task) in tasks.into_iter().enumerate() {
            let want = format!("http://{}/{n}?q", server.address);
            assert_eq!(task.await.unwrap(), (200, want), "origin form becomes scheme and authority");
        }
        assert_eq!(server.accepted.get(), 1);
        let endpoint = &pool.cluster().endpoints()[0];
        assert_eq!((endpoint.in_flight(), endpoint.open_connections()), (0, 1));
    });
}

#[test]
fn a_full_connection_gets_company() {
    worker(async {
        let go = Rc::new(Semaphore::new(0));
        let asked = Rc::new(Cell::new(0));
        let (wait, count) = (Rc::clone(&go), Rc::clone(&asked));
        let server = Http2Server::start(move |_| {
            let wait = Rc::clone(&wait);
            count.set(count.get() + 1);
            Box::pin(async move {
                wait.acquire().await.unwrap().forget();
                whole("")
            })
        })
        .await;
        let pool = pool(http2(server.address));
        let tasks: Vec<_> = (0..250)
            .map(|_| {
                let pool = Rc::clone(&pool);
                spawn_local(async move { fetch(&pool, "/").await.0 })
            })
            .collect();
        eventually("all are asked", || asked.get() == 250).await;
        assert_eq!(server.accepted.get(), 3, "100 exchanges each");
        go.add_permits(250);
        for task in tasks {
            assert_eq!(task.await.unwrap(), 200);
        }
    });
}

#[test]
fn grpc_passes_both_ways_with_its_trailers() {
    worker(async {
        let server = Http2Server::start(|request| {
            Box::pin(async move {
                assert_eq!(request.headers()["te"], "trailers");
                let (sender, body) = TestBody::stream();
                spawn_local(async move {
                    let mut messages = request.into_body();
                    while let Some(frame) = messages.frame().await {
                        if let Ok(data) = frame.unwrap().into_data() {
                            sender.send(Ok(Frame::data(data))).await.unwrap();
                        }
                    }
                    let trailers = [("grpc-status".parse().unwrap(), "0".parse().unwrap())];
                    let trailers = Frame::trailers(trailers.into_iter().collect());
                    sender.send(Ok(trailers)).await.unwrap();
                });
                Response::new(body)
            })
        })
        .await;
        let (sender, body) = TestBody::stream();
        let mut request = with_body(Method::POST, "/orders.Orders/Watch", body);
        request.headers_mut().insert("te", "trailers".parse().unwrap());
        request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        let pool = pool(http2(server.address));
        let mut body = pool.send(request, &SendOptions::default()).await.unwrap().into_body();
        for message in ["one", "two", "three"] {
            sender.send(Ok(Frame::data(message.into()))).await.unwrap();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), message);
        }
        drop(sender);
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert!(body.frame().await.is_none());
        assert_eq!(pool.cluster().endpoints()[0].in_flight(), 1, "until the body is dropped");
        drop(body);
        assert_eq!(pool.cluster().endpoints()[0].in_flight(), 0);
    });
}

#[test]
fn a_dropped_body_resets_its_stream_only() {
    worker(async {
        let reset = Rc::new(Notify::new());
        let tell = Rc::clone(&reset);
        let server = Http2Server::start(move |request| {
            let tell = Rc::clone(&tell);
            Box::pin(async move {
                if request.uri().path() == "/short" {
                    return whole("short");
                }
                let (sender, body) = TestBody::stream();
                spawn_local(async move {
                    while sender.send(Ok(Frame::data(Bytes::from_static(&[0; 1024])))).await.is_ok() {}
                    tell.notify_one();
                });
                Response::new(body)
            })
        })
        .await;
        let pool = pool(http2(server.address));
        let mut body = get(&pool, "/endless").await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        drop(body);
        reset.notified().await;
        assert_eq!(fetch(&pool, "/short").await, (200, "short".into()));
        assert_eq!(server.accepted.get(), 1);
    });
}

#[test]
fn a_slow_client_holds_up_neither_memory_nor_others() {
    worker(async {
        let sent = Rc::new(Cell::new(0usize));
        let count = Rc::clone(&sent);
        let server = Http2Server::start(move |request| {
            let count = Rc::clone(&count);
            Box::pin(async move {
                if request.uri().path() == "/short" {
                    return whole("short");
                }
                let (sender, body) = TestBody::stream();
                spawn_local(async move {
                    while sender.send(Ok(Frame::data(Bytes::from_static(&[0; 16 << 10])))).await.is_ok() {
                        count.set(count.get() + (16 << 10));
                    }
                });
                Response::new(body)
            })
        })
        .await;
        let pool = pool(http2(server.address));
        let mut slow = Vec::new();
        for _ in 0..50 {
            slow.push(get(&pool, "/endless").await.unwrap());
        }
        let mut before = usize::MAX;
        while before != sent.get() {
            before = sent.get();
            assert_eq!(fetch(&pool, "/short").await, (200, "short".into()));
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
        }
        // A window of 256 KiB each, and what the server itself buffers.
        assert!(sent.get() < 50 * (1 << 20), "{} bytes went somewhere", sent.get());
        assert_eq!(server.accepted.get(), 1);
    });
}

#[test]
fn a_connection_that_goes_away_is_replaced() {
    worker(async {
        let server = Http2Server::echo().await;
        let pool = pool(http2(server.address));
        for round in 1..=3 {
            for _ in 0..3 {
                assert_eq!(fetch(&pool, "/").await.0, 200);
            }
            assert_eq!(server.accepted.get(), round);
            server.go_away.notify_waiters();
            let endpoint = Arc::clone(&pool.cluster().endpoints()[0]);
            // Nobody sends: that the connection is gone is noticed by the next request.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            assert_eq!(endpoint.in_flight(), 0);
        }
    });
}

#[test]
fn a_silent_connection_takes_no_new_exchanges() {
    worker(async {
        let asked = Rc::new(Notify::new());
        let tell = Rc::clone(&asked);
        let server = Http2Server::start(move |request| {
            tell.notify_one();
            Box::pin(async move {
                if request.uri().path() == "/silent" {
                    std::future::pending::<()>().await;
                }
                whole("")
            })
        })
        .await;
        let pool = pool(http2(server.address));
        let options =
            SendOptions { response_timeout: Some(Duration::from_secs(3)), ..SendOptions::default() };
        let task = spawn_local({
            let pool = Rc::clone(&pool);
            async move { pool.send(request(Method::GET, "/silent"), &options).await }
        });
        asked.notified().await;
        virtual_time();
        let error = error_of(task.await.unwrap());
        tokio::time::resume();
        assert!(matches!(error, UpstreamError::ResponseTimeout), "{error:?}");
        assert_eq!(fetch(&pool, "/").await.0, 200);
        assert_eq!(server.accepted.get(), 2);
    });
}

#[test]
fn a_body_that_stalls_is_an_error() {
    worker(async {
        // Kept, so that the body does not end.
        let senders = Rc::new(RefCell::new(Vec::new()));
        let server = Http2Server::start(move |_| {
            let (sender, body) = TestBody::stream();
            let senders = Rc::clone(&senders);
            spawn_local(async move {
                sender.send(Ok(Frame::data(Bytes::from("half")))).await.unwrap();
                senders.borrow_mut().push(sender);
            });
            Box::pin(async move { Response::new(body) })
        })
        .await;
        let pool = pool(http2(server.address));
        let mut body = get(&pool, "/").await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
        virtual_time();
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(matches!(error, BodyError::Stalled), "{error:?}");
        drop(body);
        assert_eq!(pool.cluster().endpoints()[0].in_flight(), 0);
    });
}

#[test]
fn a_request_body_that_fails_is_the_clients_fault() {
    worker(async {
        let server = Http2Server::start(|request| {
            Box::pin(async move {
                let body = request.into_body().collect().await;
                assert!(body.is_err(), "half a body is no body");
                whole("")
            })
        })
        .await;
        let (sender, body) = TestBody::stream();
        spawn_local(async move {
            sender.send(Ok(Frame::data("half".into()))).await.unwrap();
            sender.send(Err(std::io::Error::other("client gone"))).await.unwrap();
        });
        let request = with_body(Method::POST, "/", body);
        let error = error_of(pool(http2(server.address)).send(request, &SendOptions::default()).await);
        assert!(matches!(error, UpstreamError::RequestBody(_)), "{error:?}");
    });
}

#[test]
fn idle_connections_are_closed_in_time() {
    worker(async {
        let server = Http2Server::echo().await;
        let pool = pool(http2(server.address));
        assert_eq!(fetch(&pool, "/").await.0, 200);
        let endpoint = &pool.cluster().endpoints()[0];
        assert_eq!(endpoint.open_connections(), 1);
        virtual_time();
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(endpoint.open_connections(), 1);
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(endpoint.open_connections(), 0);
    });
}

#[test]
fn an_upgrade_goes_over_http1() {
    worker(async {
        let server = Server::start(|mut peer| async move {
            let head = peer.head().await.unwrap();
            assert!(head.starts_with("GET /chat HTTP/1.1\r\n"), "{head}");
            peer.send(
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
            )
            .await;
            peer.closed().await;
        })
        .await;
        let options = SendOptions { upgrade: true, ..SendOptions::default() };
        let reply = pool(http2(server.address)).send(request(Method::GET, "/chat"), &options).await.unwrap();
        assert_eq!(reply.status().as_u16(), 101);
    });
}

#[test]
fn http2_is_chosen_by_alpn() {
    worker(async {
        let authority = Authority::new();
        let acceptor = TlsAcceptor::from(authority.server("localhost", &["h2", "http/1.1"], false));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let stream = acceptor.accept(stream).await.unwrap();
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                spawn_local(hyper::server::conn::http2::Builder::new(LocalExecutor).serve_connection(
                    TokioIo::new(stream),
                    service_fn(|request: Request<Incoming>| async move {
                        let target = request.uri().to_string();
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(target))))
                    }),
                ));
            }
        });
        let tls = postern::config::model::UpstreamTls { ca: Some(authority.ca_file()), ..Default::default() };
        let pool = pool(Upstream { http2: true, ..over_tls(address, tls) });
        for _ in 0..3 {
            let want = format!("https://localhost:{}/secure", address.port());
            assert_eq!(fetch(&pool, "/secure").await, (200, want));
        }
        assert_eq!(pool.cluster().stats().connects, 1);
    });
}
