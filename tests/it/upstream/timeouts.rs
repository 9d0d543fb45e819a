//! Each deadline, in virtual time once the exchange is where the test wants it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use http::Method;
use http_body::Frame;
use http_body_util::BodyExt;
use postern::upstream::error::{BodyError, ErrorClass, UpstreamError};
use postern::upstream::pool::{Reply, SendOptions};
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::Instant;

use crate::upstream::support::*;

/// Sends in a task of its own, so that the test can look on.
fn sending(
    pool: &Rc<postern::upstream::pool::Pool<TestBody>>,
    request: http::Request<TestBody>,
    options: SendOptions,
) -> JoinHandle<Result<Reply, UpstreamError>> {
    let pool = Rc::clone(pool);
    spawn_local(async move { pool.send(request, &options).await })
}

/// A server that takes a request, tells so, and is silent until the gateway closes.
async fn silent() -> (Server, Rc<Notify>) {
    let asked = Rc::new(Notify::new());
    let tell = Rc::clone(&asked);
    let server = Server::start(move |mut peer| {
        let tell = Rc::clone(&tell);
        async move {
            peer.head().await;
            tell.notify_one();
            peer.closed().await;
        }
    })
    .await;
    (server, asked)
}

#[test]
fn refused_connections_are_unavailable() {
    worker(async {
        let pool = pool_of(&[dead_address().await]);
        let error = error_of(get(&pool, "/").await);
        assert!(matches!(error, UpstreamError::Connect(_)), "{error:?}");
        assert_eq!(error.class(), ErrorClass::Unavailable);
        assert_eq!(pool.cluster().stats().connect_failures, 1);
    });
}

#[test]
fn a_name_that_does_not_resolve_is_unavailable() {
    worker(async {
        let mut settings = settings(&[dead_address().await]);
        settings.endpoints[0].host = "postern.invalid".into();
        let error = error_of(get(&pool(settings), "/").await);
        assert!(matches!(error, UpstreamError::Connect(_)), "{error:?}");
    });
}

#[test]
fn a_name_resolves() {
    worker(async {
        let server = Server::echo().await;
        let mut settings = settings(&[server.address]);
        settings.endpoints[0].host = "localhost".into();
        assert_eq!(fetch(&pool(settings), "/named").await, (200, "/named".into()));
    });
}

#[test]
fn the_connect_timeout_covers_the_tls_handshake() {
    worker(async {
        let connected = Rc::new(Notify::new());
        let tell = Rc::clone(&connected);
        let server = Server::start(move |mut peer| {
            let tell = Rc::clone(&tell);
            async move {
                peer.byte().await;
                tell.notify_one();
                peer.closed().await;
            }
        })
        .await;
        let mut settings = settings(&[server.address]);
        settings.endpoints[0].tls = true;
        let task = sending(&pool(settings), request(Method::GET, "/"), SendOptions::default());
        connected.notified().await;
        virtual_time();
        let start = Instant::now();
        let error = error_of(task.await.unwrap());
        assert!(matches!(error, UpstreamError::ConnectTimeout), "{error:?}");
        assert!(start.elapsed() <= Duration::from_millis(2_001), "{:?}", start.elapsed());
    });
}

#[test]
fn the_deadline_covers_connecting() {
    worker(async {
        let connected = Rc::new(Notify::new());
        let tell = Rc::clone(&connected);
        let server = Server::start(move |mut peer| {
            let tell = Rc::clone(&tell);
            async move {
                peer.byte().await;
                tell.notify_one();
                peer.closed().await;
            }
        })
        .await;
        let mut settings = settings(&[server.address]);
        settings.endpoints[0].tls = true;
        let deadline = Some(Instant::now() + Duration::from_secs(1));
        let options = SendOptions { deadline, ..SendOptions::default() };
        let task = sending(&pool(settings), request(Method::GET, "/"), options);
        connected.notified().await;
        virtual_time();
        let error = error_of(task.await.unwrap());
        assert!(matches!(error, UpstreamError::DeadlineExceeded), "{error:?}");
    });
}

#[test]
fn endless_timeouts_are_no_panic() {
    worker(async {
        let server = Server::echo().await;
        let mut settings = settings(&[server.address]);
        settings.connect_timeout = Duration::MAX;
        settings.response_timeout = Duration::MAX;
        settings.idle_timeout = Duration::MAX;
        let pool = pool(settings);
        for _ in 0..2 {
            assert_eq!(fetch(&pool, "/").await.0, 200);
        }
        assert_eq!(server.accepted(), 1);
    });
}

#[test]
fn no_answer_within_the_response_timeout() {
    worker(async {
        let (server, asked) = silent().await;
        let pool = pool_of(&[server.address]);
        let task = sending(&pool, request(Method::GET, "/"), SendOptions::default());
        asked.notified().await;
        virtual_time();
        let start = Instant::now();
        let error = error_of(task.await.unwrap());
        assert!(matches!(error, UpstreamError::ResponseTimeout), "{error:?}");
        assert_eq!(error.class(), ErrorClass::Timeout);
        let elapsed = start.elapsed();
        assert!(elapsed > Duration::from_secs(14) && elapsed < Duration::from_millis(15_010), "{elapsed:?}");
        let endpoint = &pool.cluster().endpoints()[0];
        assert_eq!((endpoint.in_flight(), endpoint.open_connections()), (0, 0));
        assert_eq!(pool.cluster().stats().timeouts, 1);
    });
}

#[test]
fn a_request_may_set_its_own_response_timeout() {
    worker(async {
        let (server, asked) = silent().await;
        let options =
            SendOptions { response_timeout: Some(Duration::from_secs(3)), ..SendOptions::default() };
        let task = sending(&pool_of(&[server.address]), request(Method::GET, "/"), options);
        asked.notified().await;
        virtual_time();
        let start = Instant::now();
        let error = error_of(task.await.unwrap());
        assert!(matches!(error, UpstreamError::ResponseTimeout), "{error:?}");
        assert!(start.elapsed() < Duration::from_millis(3_010));
    });
}

#[test]
fn the_deadline_ends_everything() {
    worker(async {
        let (server, asked) = silent().await;
        let deadline = Instant::now() + Duration::from_secs(4);
        let options = SendOptions { deadline: Some(deadline), ..SendOptions::default() };
        let mut settings = settings(&[server.address]);
        settings.retries.attempts = 5;
        let pool = pool(settings);
        let task = sending(&pool, request(Method::GET, "/"), options);
        asked.notified().await;
        virtual_time();
        let error = error_of(task.await.unwrap());
        assert!(matches!(error, UpstreamError::DeadlineExceeded), "{error:?}");
        assert_eq!(error.class(), ErrorClass::Timeout);
        assert!(deadline.elapsed() < Duration::from_millis(10));
        assert_eq!(pool.cluster().stats().retries, 0);
    });
}

#[test]
fn a_body_that_stalls_is_an_error() {
    worker(async {
        let server = Server::start(|mut peer| async move {
            peer.head().await;
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
            peer.closed().await;
        })
        .await;
        let pool = pool_of(&[server.address]);
        let mut body = get(&pool, "/").await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
        virtual_time();
        let start = Instant::now();
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(matches!(error, BodyError::Stalled), "{error:?}");
        assert!(start.elapsed() < Duration::from_millis(15_010));
        assert!(body.frame().await.is_none());
        assert_eq!(pool.cluster().endpoints()[0].open_connections(), 0);
    });
}

#[test]
fn a_slow_but_steady_body_is_no_stall() {
    worker(async {
        let go = Rc::new(Notify::new());
        let paused = Rc::clone(&go);
        let server = Server::start(move |mut peer| {
            let paused = Rc::clone(&paused);
            async move {
                peer.head().await;
                peer.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await;
                for piece in ["s", "l", "o", "w"] {
                    paused.notified().await;
                    peer.send(piece).await;
                }
            }
        })
        .await;
        let mut body = get(&pool_of(&[server.address]), "/").await.unwrap().into_body();
        virtual_time();
        for want in ["s", "l", "o", "w"] {
            let piece = spawn_local(async move {
                let frame = body.frame().await.unwrap().unwrap();
                (body, frame)
            });
            // Each piece takes most of the timeout; all together take more than one.
            tokio::time::advance(Duration::from_secs(14)).await;
            tokio::time::resume();
            go.notify_one();
            let (back, frame) = piece.await.unwrap();
            assert_eq!(frame.into_data().unwrap(), want);
            body = back;
            virtual_time();
        }
    });
}

#[test]
fn an_upstream_that_takes_no_body_is_too_slow() {
    worker(async {
        let (asked, seen) = oneshot::channel();
        let asked = RefCell::new(Some(asked));
        let (never, forever) = oneshot::channel::<()>();
        let forever = RefCell::new(Some(forever));
        let server = Server::start(move |mut peer| {
            let (asked, forever) = (asked.borrow_mut().take(), forever.borrow_mut().take());
            async move {
                peer.head().await;
                asked.unwrap().send(()).unwrap();
                drop(forever.unwrap().await);
            }
        })
        .await;
        let (sender, body) = TestBody::stream();
        let task =
            sending(&pool_of(&[server.address]), with_body(Method::POST, "/", body), SendOptions::default());
        seen.await.unwrap();
        let piece = bytes::Bytes::from(vec![0; 1 << 20]);
        // The client always has more; the sockets are full before long.
        let feeding =
            spawn_local(async move { while sender.send(Ok(Frame::data(piece.clone()))).await.is_ok() {} });
        for _ in 0..2_000 {
            tokio::task::yield_now().await;
        }
        virtual_time();
        let error = error_of(task.await.unwrap());
        assert!(matches!(error, UpstreamError::ResponseTimeout), "{error:?}");
        feeding.await.unwrap();
        drop(never);
    });
}

#[test]
fn a_slow_client_is_not_the_upstreams_fault() {
    worker(async {
        let asked = Rc::new(Notify::new());
        let tell = Rc::clone(&asked);
        let server = Server::start(move |mut peer| {
            let tell = Rc::clone(&tell);
            async move {
                peer.head().await;
                tell.notify_one();
                peer.body(b"4\r\nslow\r\n0\r\n\r\n".len()).await;
                peer.ok("at last").await;
            }
        })
        .await;
        let (sender, body) = TestBody::stream();
        let task =
            sending(&pool_of(&[server.address]), with_body(Method::POST, "/", body), SendOptions::default());
        asked.notified().await;
        virtual_time();
        for _ in 0..10 {
            tokio::time::advance(Duration::from_secs(14)).await;
        }
        tokio::time::resume();
        assert!(!task.is_finished());
        sender.send(Ok(Frame::data("slow".into()))).await.unwrap();
        drop(sender);
        let reply = task.await.unwrap().unwrap();
        assert_eq!(text(reply.into_body()).await.unwrap(), "at last");
    });
}

#[test]
fn an_old_timer_does_not_end_a_later_request() {
    worker(async {
        let (second, go) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let (tell, wait) = (Rc::clone(&second), Rc::clone(&go));
        let server = Server::start(move |mut peer| {
            let (tell, wait) = (Rc::clone(&tell), Rc::clone(&wait));
            async move {
                peer.head().await;
                tell.notify_one();
                wait.notified().await;
                peer.ok("first").await;
                peer.head().await;
                tell.notify_one();
                wait.notified().await;
                peer.ok("second").await;
            }
        })
        .await;
        let pool = pool_of(&[server.address]);
        let first = sending(&pool, request(Method::GET, "/"), SendOptions::default());
        second.notified().await;
        go.notify_one();
        assert_eq!(text(first.await.unwrap().unwrap().into_body()).await.unwrap(), "first");
        virtual_time();
        tokio::time::advance(Duration::from_secs(10)).await;
        tokio::time::resume();
        let later = sending(&pool, request(Method::GET, "/"), SendOptions::default());
        second.notified().await;
        virtual_time();
        // The first request's timer would have gone off by now.
        tokio::time::advance(Duration::from_secs(10)).await;
        tokio::time::resume();
        assert!(!later.is_finished());
        go.notify_one();
        assert_eq!(text(later.await.unwrap().unwrap().into_body()).await.unwrap(), "second");
        assert_eq!(server.accepted(), 1);
    });
}
