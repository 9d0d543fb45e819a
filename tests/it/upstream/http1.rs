//! HTTP/1.1: reuse, streaming, back-pressure, cancellation, upgrades.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use postern::upstream::error::{BodyError, UpstreamError};
use postern::upstream::pool::SendOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::task::spawn_local;

use crate::upstream::support::*;

#[test]
fn one_connection_serves_one_request_after_another() {
    worker(async {
        let server = Server::answering(|head| {
            let (status, framing, body) = match head.split(' ').nth(1).unwrap() {
                "/length" => ("200 OK", "content-length: 4", "four"),
                "/chunked" => ("200 OK", "transfer-encoding: chunked", "4\r\nfour\r\n0\r\n\r\n"),
                "/none" => ("204 No Content", "x-a: b", ""),
                "/head" => ("200 OK", "content-length: 4", ""),
                other => panic!("{other}"),
            };
            format!("HTTP/1.1 {status}\r\n{framing}\r\n\r\n{body}")
        })
        .await;
        let pool = pool_of(&[server.address]);
        for _ in 0..3 {
            assert_eq!(fetch(&pool, "/length").await, (200, "four".into()));
            assert_eq!(fetch(&pool, "/chunked").await, (200, "four".into()));
            assert_eq!(fetch(&pool, "/none").await, (204, String::new()));
            let head = pool.send(request(Method::HEAD, "/head"), &SendOptions::default()).await.unwrap();
            assert_eq!(head.headers()["content-length"], "4");
            assert_eq!(text(head.into_body()).await.unwrap(), "");
        }
        assert_eq!(server.accepted(), 1);
        let endpoint = &pool.cluster().endpoints()[0];
        assert_eq!((endpoint.in_flight(), endpoint.open_connections()), (0, 1));
    });
}

#[test]
fn the_request_arrives_as_it_was_given() {
    worker(async {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let record = Rc::clone(&seen);
        let server = Server::start(move |mut peer| {
            let record = Rc::clone(&record);
            async move {
                while let Some(head) = peer.head().await {
                    let body = peer.body(if head.starts_with("POST") { 5 } else { 0 }).await.unwrap();
                    record.borrow_mut().push((head, body));
                    peer.ok("").await;
                }
            }
        })
        .await;
        let mut preserving = settings(&[server.address]);
        preserving.preserve_host = true;
        let mut request = with_body(Method::POST, "/a%20b?c=d&e", TestBody::Whole("hello".into()));
        request.headers_mut().insert("x-tenant", "acme".parse().unwrap());
        request.headers_mut().append("accept", "a".parse().unwrap());
        request.headers_mut().append("accept", "b".parse().unwrap());
        pool(preserving).send(request, &SendOptions::default()).await.unwrap();
        get(&pool_of(&[server.address]), "/").await.unwrap();
        let seen = seen.borrow();
        let (head, body) = &seen[0];
        assert!(head.starts_with("POST /a%20b?c=d&e HTTP/1.1\r\n"), "{head}");
        for field in ["host: client.example", "x-tenant: acme", "accept: a\r\naccept: b", "content-length: 5"]
        {
            assert!(head.contains(field), "{field} in {head}");
        }
        assert_eq!(body, b"hello");
        let (head, _) = &seen[1];
        assert!(
            head.contains(&format!("host: {}\r\n", server.address)),
            "the endpoint's own authority: {head}"
        );
    });
}

#[test]
fn a_get_with_a_streamed_body_keeps_it() {
    worker(async {
        let server = Server::start(|mut peer| async move {
            let head = peer.head().await.unwrap();
            assert!(head.contains("transfer-encoding: chunked"), "{head}");
            assert_eq!(peer.body(15).await.unwrap(), b"5\r\nhello\r\n0\r\n\r\n");
            peer.ok("judged").await;
        })
        .await;
        let (sender, body) = TestBody::stream();
        sender.send(Ok(Frame::data("hello".into()))).await.unwrap();
        drop(sender);
        let reply = pool_of(&[server.address])
            .send(with_body(Method::GET, "/", body), &SendOptions::default())
            .await
            .unwrap();
        assert_eq!(text(reply.into_body()).await.unwrap(), "judged");
    });
}

#[test]
fn a_connection_that_says_close_is_closed() {
    worker(async {
        for response in [
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
            "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        ] {
            let server = Server::start(move |mut peer| async move {
                peer.head().await;
                peer.send(response).await;
                peer.closed().await;
            })
            .await;
            let pool = pool_of(&[server.address]);
            assert_eq!(fetch(&pool, "/").await, (200, "ok".into()));
            assert_eq!(fetch(&pool, "/").await, (200, "ok".into()));
            assert_eq!(server.accepted(), 2, "{response}");
            assert_eq!(pool.cluster().stats().stale_connections, 0, "it was not even tried again");
        }
    });
}

#[test]
fn a_body_up_to_the_end_of_the_connection_is_whole() {
    worker(async {
        let server = Server::once("HTTP/1.1 200 OK\r\n\r\nup to the end").await;
        let pool = pool_of(&[server.address]);
        assert_eq!(fetch(&pool, "/").await, (200, "up to the end".into()));
        assert_eq!(fetch(&pool, "/").await, (200, "up to the end".into()));
        assert_eq!(server.accepted(), 2);
    });
}

#[test]
fn a_connection_closed_while_idle_is_replaced_for_any_method() {
    worker(async {
        for method in [Method::GET, Method::POST] {
            let closed = Rc::new(Notify::new());
            let close = Rc::clone(&closed);
            let server = Server::start(move |mut peer| {
                let close = Rc::clone(&close);
                async move {
                    peer.head().await;
                    peer.ok("once").await;
                    close.notified().await;
                }
            })
            .await;
            let pool = pool_of(&[server.address]);
            assert_eq!(fetch(&pool, "/").await.1, "once");
            closed.notify_one();
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            let reply = pool.send(request(method.clone(), "/"), &SendOptions::default()).await.unwrap();
            assert_eq!((reply.status().as_u16(), reply.body().tries()), (200, 1), "{method}");
            assert_eq!(server.accepted(), 2);
            assert_eq!((pool.cluster().stats().stale_connections, pool.cluster().stats().retries), (1, 0));
        }
    });
}

/// The server takes the second request of its first connection, and closes without a byte.
async fn closes_on_the_second_request() -> Server {
    Server::start(|mut peer| async move {
        let first = peer.number == 1;
        while peer.head().await.is_some() {
            peer.ok("answer").await;
            if first {
                peer.head().await;
                return;
            }
        }
    })
    .await
}

#[test]
fn a_kept_connection_that_breaks_without_a_byte_is_retried_once_if_idempotent() {
    worker(async {
        let server = closes_on_the_second_request().await;
        let pool = pool_of(&[server.address]);
        assert_eq!(fetch(&pool, "/").await.1, "answer");
        assert_eq!(fetch(&pool, "/").await.1, "answer", "no retry is configured, and none is needed");
        assert_eq!(server.accepted(), 2);
        assert_eq!((pool.cluster().stats().stale_connections, pool.cluster().stats().retries), (1, 0));
    });
}

#[test]
fn a_post_that_may_have_been_taken_is_never_sent_twice() {
    worker(async {
        let server = closes_on_the_second_request().await;
        let mut settings = settings(&[server.address]);
        settings.retries.attempts = 3;
        let pool = pool(settings);
        assert_eq!(fetch(&pool, "/").await.1, "answer");
        let error = error_of(pool.send(request(Method::POST, "/"), &SendOptions::default()).await);
        assert!(matches!(error, UpstreamError::Broken(_)), "{error:?}");
        assert_eq!(server.accepted(), 1);
    });
}

#[test]
fn trailers_arrive() {
    worker(async {
        let server = Server::once(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: grpc-status\r\n\r\n\
             2\r\nhi\r\n0\r\ngrpc-status: 0\r\n\r\n",
        )
        .await;
        let collected =
            get(&pool_of(&[server.address]), "/").await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(collected.to_bytes(), "hi");
    });
}

#[test]
fn a_dropped_body_cancels_the_exchange() {
    worker(async {
        let (cancelled, seen) = oneshot::channel();
        let cancelled = RefCell::new(Some(cancelled));
        let server = Server::start(move |mut peer| {
            let cancelled = cancelled.borrow_mut().take();
            async move {
                peer.head().await;
                peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                while peer.send("4\r\nmore\r\n").await {
                    tokio::task::yield_now().await;
                }
                cancelled.unwrap().send(()).unwrap();
            }
        })
        .await;
        let pool = pool_of(&[server.address]);
        let mut body = get(&pool, "/").await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        assert_eq!(pool.cluster().endpoints()[0].in_flight(), 1);
        drop(body);
        seen.await.unwrap();
        let endpoint = &pool.cluster().endpoints()[0];
        assert_eq!((endpoint.in_flight(), endpoint.open_connections()), (0, 0));
    });
}

#[test]
fn a_dropped_request_closes_its_connection() {
    worker(async {
        let asked = Rc::new(Notify::new());
        let closed = Rc::new(Notify::new());
        let server = Server::start({
            let (asked, closed) = (Rc::clone(&asked), Rc::clone(&closed));
            move |mut peer| {
                let (asked, closed) = (Rc::clone(&asked), Rc::clone(&closed));
                async move {
                    peer.head().await;
                    asked.notify_one();
                    peer.closed().await;
                    closed.notify_one();
                }
            }
        })
        .await;
        let pool = pool_of(&[server.address]);
        let task = spawn_local({
            let pool = Rc::clone(&pool);
            async move { get(&pool, "/").await.map(drop) }
        });
        asked.notified().await;
        task.abort();
        closed.notified().await;
        let endpoint = &pool.cluster().endpoints()[0];
        assert_eq!((endpoint.in_flight(), endpoint.open_connections()), (0, 0));
    });
}

#[test]
fn a_slow_client_slows_the_upstream_and_fills_no_memory() {
    const WHOLE: usize = 64 << 20;
    worker(async {
        let written = Rc::new(Cell::new(0));
        let count = Rc::clone(&written);
        let server = Server::start(move |mut peer| {
            let count = Rc::clone(&count);
            async move {
                socket2::SockRef::from(peer.stream()).set_send_buffer_size(64 << 10).unwrap();
                peer.head().await;
                peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {WHOLE}\r\n\r\n")).await;
                let piece = vec![7; 64 << 10];
                while count.get() < WHOLE && peer.send(&piece).await {
                    count.set(count.get() + piece.len());
                }
                peer.closed().await;
            }
        })
        .await;
        let pool = pool_of(&[server.address]);
        let mut body = get(&pool, "/").await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        // The body is not read on: the server comes to a stop once the sockets are full.
        let mut before = usize::MAX;
        while before != written.get() {
            before = written.get();
            for _ in 0..1_000 {
                tokio::task::yield_now().await;
            }
        }
        assert!(written.get() < 16 << 20, "{} bytes went somewhere", written.get());
        let rest = body.collect().await.unwrap().to_bytes();
        assert!(rest.len() > WHOLE - (16 << 20) && rest.iter().all(|byte| *byte == 7));
        assert_eq!(written.get(), WHOLE);
        assert_eq!(pool.cluster().endpoints()[0].open_connections(), 1, "it is kept");
    });
}

#[test]
fn an_upload_goes_on_while_the_response_is_read() {
    worker(async {
        let server = Server::start(|mut peer| async move {
            while peer.head().await.is_some() {
                peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                // Each chunk goes back as it comes.
                loop {
                    let chunk = peer.body(6).await.unwrap();
                    assert_eq!(chunk[0], b'1', "pieces are one byte long");
                    peer.send(&chunk).await;
                    if chunk[3] == b'z' {
                        break;
                    }
                }
                assert_eq!(peer.body(5).await.unwrap(), b"0\r\n\r\n");
                peer.send("0\r\n\r\n").await;
            }
        })
        .await;
        let pool = pool_of(&[server.address]);
        for _ in 0..2 {
            let (sender, body) = TestBody::stream();
            let reply = pool.send(with_body(Method::POST, "/", body), &SendOptions::default()).await.unwrap();
            let mut body = reply.into_body();
            for piece in ["a", "b", "z"] {
                sender.send(Ok(Frame::data(piece.into()))).await.unwrap();
                assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), piece);
            }
            drop(sender);
            assert!(body.frame().await.is_none());
            let pool = Rc::clone(&pool);
            eventually("the exchange ends", move || pool.cluster().endpoints()[0].in_flight() == 1).await;
            drop(body);
        }
    });
}

#[test]
fn a_body_that_fails_is_the_clients_fault_and_leaves_no_whole_request() {
    worker(async {
        let (received, seen) = oneshot::channel();
        let received = RefCell::new(Some(received));
        let server = Server::start(move |mut peer| {
            let received = received.borrow_mut().take();
            async move {
                peer.head().await;
                let mut body = Vec::new();
                while let Some(byte) = peer.byte().await {
                    body.push(byte);
                }
                received.unwrap().send(body).unwrap();
            }
        })
        .await;
        let (sender, body) = TestBody::stream();
        spawn_local(async move {
            sender.send(Ok(Frame::data("half".into()))).await.unwrap();
            sender.send(Err(std::io::Error::other("over the limit"))).await.unwrap();
        });
        let mut settings = settings(&[server.address]);
        settings.retries.attempts = 3;
        let error =
            error_of(pool(settings).send(with_body(Method::PUT, "/", body), &SendOptions::default()).await);
        let UpstreamError::RequestBody(error) = error else { panic!("{error:?}") };
        let source = std::error::Error::source(&error).unwrap();
        assert_eq!(source.downcast_ref::<std::io::Error>().unwrap().to_string(), "over the limit");
        assert_eq!(seen.await.unwrap(), b"4\r\nhalf\r\n", "no last chunk");
    });
}

#[test]
fn a_broken_body_is_an_error_never_an_end() {
    worker(async {
        for response in [
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\nhalf",
        ] {
            let server = Server::once(response).await;
            let pool = pool_of(&[server.address]);
            let mut body = get(&pool, "/").await.unwrap().into_body();
            let error = loop {
                match body.frame().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break error,
                    None => panic!("taken for whole: {response}"),
                }
            };
            assert!(matches!(error, BodyError::Broken(_)), "{error:?}");
            assert!(body.frame().await.is_none() && body.is_end_stream());
            let endpoint = &pool.cluster().endpoints()[0];
            assert_eq!(endpoint.open_connections(), 0);
        }
    });
}

#[test]
fn a_tunnel_opens_after_101_and_is_counted_until_it_ends() {
    worker(async {
        let server = Server::start(|mut peer| async move {
            let head = peer.head().await.unwrap();
            assert!(head.contains("upgrade: websocket"), "{head}");
            peer.send(
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhi!",
            )
            .await;
            while let Some(byte) = peer.byte().await {
                peer.send([byte.to_ascii_uppercase()]).await;
            }
        })
        .await;
        let pool = pool_of(&[server.address]);
        let mut request = request(Method::GET, "/chat");
        request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
        request.headers_mut().insert("connection", "upgrade".parse().unwrap());
        let options = SendOptions { upgrade: true, ..SendOptions::default() };
        let mut reply = pool.send(request, &options).await.unwrap();
        assert_eq!(reply.status(), StatusCode::SWITCHING_PROTOCOLS);
        let upgraded = hyper::upgrade::on(&mut reply).await.unwrap();
        drop(reply);
        let mut tunnel = TokioIo::new(upgraded);
        let mut three = [0; 3];
        tunnel.read_exact(&mut three).await.unwrap();
        assert_eq!(&three, b"hi!");
        tunnel.write_all(b"abc").await.unwrap();
        tunnel.read_exact(&mut three).await.unwrap();
        assert_eq!(&three, b"ABC");
        let endpoint = &pool.cluster().endpoints()[0];
        assert_eq!(endpoint.in_flight(), 1);
        drop(tunnel);
        assert_eq!(endpoint.in_flight(), 0);
    });
}

#[test]
fn a_refused_upgrade_is_an_ordinary_answer() {
    worker(async {
        let server = Server::echo().await;
        let pool = pool_of(&[server.address]);
        let options = SendOptions { upgrade: true, ..SendOptions::default() };
        for _ in 0..2 {
            let reply = pool.send(request(Method::GET, "/chat"), &options).await.unwrap();
            assert_eq!(text(reply.into_body()).await.unwrap(), "/chat");
        }
        assert_eq!(server.accepted(), 1);
    });
}

#[test]
fn idle_connections_are_closed_in_time() {
    worker(async {
        let (closed, seen) = oneshot::channel();
        let closed = RefCell::new(Some(closed));
        let server = Server::start(move |mut peer| {
            let closed = closed.borrow_mut().take();
            async move {
                peer.head().await;
                peer.ok("ok").await;
                peer.closed().await;
                closed.unwrap().send(()).unwrap();
            }
        })
        .await;
        let pool = pool_of(&[server.address]);
        assert_eq!(fetch(&pool, "/").await.1, "ok");
        virtual_time();
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(pool.cluster().endpoints()[0].open_connections(), 1);
        seen.await.unwrap();
        assert_eq!(pool.cluster().endpoints()[0].open_connections(), 0);
    });
}

#[test]
fn idle_connections_end_with_their_pool() {
    worker(async {
        let server = Server::echo().await;
        let pool = pool_of(&[server.address]);
        let cluster = std::sync::Arc::clone(pool.cluster());
        assert_eq!(fetch(&pool, "/").await.0, 200);
        assert_eq!(cluster.endpoints()[0].open_connections(), 1);
        let reply = get(&pool, "/last").await.unwrap();
        drop(pool);
        assert_eq!(text(reply.into_body()).await.unwrap(), "/last", "what is in flight goes on");
        assert_eq!(cluster.endpoints()[0].open_connections(), 0);
    });
}

#[test]
fn connect_and_bad_targets_are_not_sent() {
    worker(async {
        let server = Server::echo().await;
        let pool = pool_of(&[server.address]);
        for (method, target) in [(Method::CONNECT, "a:1"), (Method::GET, "http://evil.example/")] {
            let error = error_of(pool.send(request(method, target), &SendOptions::default()).await);
            assert!(matches!(error, UpstreamError::Unsendable(_)), "{error:?}");
        }
        let mut lying = with_body(Method::POST, "/", TestBody::Whole(Bytes::from_static(b"hello")));
        lying.headers_mut().insert("content-length", "2".parse().unwrap());
        let error = error_of(pool.send(lying, &SendOptions::default()).await);
        assert!(matches!(error, UpstreamError::Unsendable(_)), "{error:?}");
        assert_eq!(server.accepted(), 0);
    });
}
