//! Upstreams that lie, flood and smuggle.

use std::cell::Cell;
use std::rc::Rc;

use postern::upstream::error::{ErrorClass, UpstreamError};
use postern::upstream::{INTERIM_RESPONSES_MAX, RESPONSE_HEAD_MAX};

use crate::upstream::support::*;

const EARLY: &str = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[track_caller]
fn refused(response: impl Into<Vec<u8>>, is_expected: impl Fn(&UpstreamError) -> bool) {
    let response = response.into();
    worker(async {
        let server = Server::once(response.clone()).await;
        let pool = pool_of(&[server.address]);
        let error = error_of(get(&pool, "/").await);
        let shown = String::from_utf8_lossy(&response[..response.len().min(200)]).into_owned();
        assert!(is_expected(&error), "{error:?} for {shown}");
        assert_eq!(error.class(), ErrorClass::BadGateway);
        assert_eq!(pool.cluster().endpoints()[0].open_connections(), 0, "closed: {shown}");
    });
}

#[test]
fn a_flood_of_interim_responses_is_cut_off() {
    worker(async {
        let sent = Rc::new(Cell::new(0u32));
        let count = Rc::clone(&sent);
        let server = Server::start(move |mut peer| {
            let count = Rc::clone(&count);
            async move {
                peer.head().await;
                while count.get() < 100_000 && peer.send(EARLY).await {
                    count.set(count.get() + 1);
                }
                peer.send(OK).await;
            }
        })
        .await;
        let pool = pool_of(&[server.address]);
        let error = error_of(get(&pool, "/").await);
        assert!(matches!(error, UpstreamError::TooManyInterim), "{error:?}");
        assert!(sent.get() < 100_000);
    });
    let flood = "HTTP/1.1 100 Continue\r\n\r\n".repeat(100_000);
    refused(flood, |error| matches!(error, UpstreamError::TooManyInterim));
}

#[test]
fn a_few_interim_responses_are_skipped() {
    worker(async {
        let response = EARLY.repeat(INTERIM_RESPONSES_MAX as usize) + OK;
        let server = Server::answering(move |_| response.clone()).await;
        let pool = pool_of(&[server.address]);
        for _ in 0..3 {
            assert_eq!(fetch(&pool, "/").await, (200, "ok".into()));
        }
        assert_eq!(server.accepted(), 1);
    });
}

#[test]
fn ambiguous_framing_is_refused() {
    for fields in [
        "content-length: 2\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 2",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding: identity",
        "content-length: 2\r\ncontent-length: 2",
        "content-length: 2, 2",
    ] {
        refused(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n2\r\nok\r\n0\r\n\r\n"), |error| {
            matches!(error, UpstreamError::AmbiguousFraming)
        });
    }
}

#[test]
fn invalid_heads_are_refused() {
    for response in [
        "SSH-2.0-OpenSSH_9.9\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nx: a\r\n folded\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 099 Low\r\n\r\n",
        "HTTP/3.0 200 OK\r\n\r\n",
        "<html>hello</html>\r\n\r\n",
    ] {
        refused(response, |error| matches!(error, UpstreamError::InvalidResponse(_)));
    }
}

#[test]
fn large_heads_are_refused() {
    let long = "a".repeat(RESPONSE_HEAD_MAX);
    refused(format!("HTTP/1.1 200 OK\r\nx: {long}\r\ncontent-length: 2\r\n\r\nok"), |error| {
        matches!(error, UpstreamError::InvalidResponse(_))
    });
    let many = "x: a\r\n".repeat(200);
    refused(format!("HTTP/1.1 200 OK\r\n{many}content-length: 2\r\n\r\nok"), |error| {
        matches!(error, UpstreamError::InvalidResponse(_))
    });
}

#[test]
fn a_head_without_end_is_cut_off() {
    worker(async {
        let server = Server::start(|mut peer| async move {
            peer.head().await;
            peer.send("HTTP/1.1 200 OK\r\n").await;
            while peer.send("x: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa").await {}
        })
        .await;
        let error = error_of(get(&pool_of(&[server.address]), "/").await);
        assert!(matches!(error, UpstreamError::InvalidResponse(_)), "{error:?}");
    });
}

#[test]
fn a_closed_connection_is_no_answer() {
    for response in ["", "HTTP/1.1 200 OK\r\ncontent-le"] {
        refused(response, |error| matches!(error, UpstreamError::Broken(_)));
    }
}

#[test]
fn nobody_asked_for_another_protocol() {
    refused(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        |error| matches!(error, UpstreamError::UnexpectedUpgrade),
    );
}

#[test]
fn a_second_answer_never_reaches_another_request() {
    let smuggled = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsmuggled";
    let firsts = [
        OK,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 0\r\n\r\n",
    ];
    for first in firsts {
        for at_once in [true, false] {
            worker(async {
                let server = Server::start(move |mut peer| async move {
                    while let Some(head) = peer.head().await {
                        if !head.starts_with("GET /first ") {
                            peer.ok("mine").await;
                            continue;
                        }
                        if at_once {
                            peer.send([first, smuggled].concat()).await;
                        } else {
                            peer.send(first).await;
                            tokio::task::yield_now().await;
                            peer.send(smuggled).await;
                        }
                    }
                })
                .await;
                let pool = pool_of(&[server.address]);
                get(&pool, "/first").await.unwrap();
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
                assert_eq!(fetch(&pool, "/second").await, (200, "mine".into()), "{first}, {at_once}");
                assert_eq!(server.accepted(), 2);
            });
        }
    }
}

#[test]
fn a_longer_body_than_declared_is_cut_and_its_rest_never_seen() {
    worker(async {
        let server = Server::start(|mut peer| async move {
            while let Some(head) = peer.head().await {
                let longer = head.starts_with("GET /longer ");
                peer.send(if longer {
                    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200"
                } else {
                    OK
                })
                .await;
            }
        })
        .await;
        let pool = pool_of(&[server.address]);
        assert_eq!(fetch(&pool, "/longer").await, (200, "ok".into()));
        assert_eq!(fetch(&pool, "/").await, (200, "ok".into()));
        assert_eq!(server.accepted(), 2);
    });
}

/// An HTTP/2 frame without payload checks: kind, flags, stream, payload.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// An HTTP/2 server that greets, waits for a request, and then sends one frame without end.
async fn flooding(flood: Vec<u8>) -> (Server, Rc<Cell<usize>>) {
    let sent = Rc::new(Cell::new(0));
    let count = Rc::clone(&sent);
    let server = Server::start(move |mut peer| {
        let (flood, count) = (flood.repeat(100), Rc::clone(&count));
        async move {
            peer.send(frame(4, 0, 0, &[])).await;
            // The preface, and something of the request.
            peer.body(100).await;
            while peer.send(&flood).await {
                count.set(count.get() + 100);
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    (server, sent)
}

#[test]
fn http2_control_frame_floods_are_cut_off() {
    for flood in [frame(6, 0, 0, &[0; 8]), frame(4, 0, 0, &[])] {
        worker(async {
            let (server, sent) = flooding(flood).await;
            let mut settings = settings(&[server.address]);
            settings.http2 = true;
            let pool = pool(settings);
            let error = error_of(get(&pool, "/").await);
            assert!(matches!(error, UpstreamError::Broken(_)), "{error:?}");
            assert!(sent.get() < 200_000, "{} frames", sent.get());
        });
    }
}

#[test]
fn an_http2_flood_of_interim_responses_is_cut_off() {
    worker(async {
        // `:status: 103`, not indexed.
        let early = frame(1, 4, 1, b"\x08\x03103");
        let (server, sent) = flooding(early).await;
        let mut settings = settings(&[server.address]);
        settings.http2 = true;
        let error = error_of(get(&pool(settings), "/").await);
        assert!(matches!(error, UpstreamError::Broken(_)), "{error:?}");
        assert!(sent.get() < 200_000, "{} frames", sent.get());
    });
}
