//! What is tried again, where, and how often at most.

use std::net::SocketAddr;

use http::{Method, StatusCode};
use http_body::Frame;
use postern::config::model::{Retries, Upstream};
use postern::upstream::error::UpstreamError;
use postern::upstream::pool::SendOptions;

use crate::upstream::support::*;

fn retrying(endpoints: &[SocketAddr], attempts: u32) -> Upstream {
    Upstream { retries: Retries { attempts, budget: 0.0 }, ..settings(endpoints) }
}

async fn failing(status: &'static str) -> Server {
    Server::answering(move |_| format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nno")).await
}

#[test]
fn an_idempotent_request_is_tried_elsewhere() {
    worker(async {
        for status in ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"] {
            let (bad, good) = (failing(status).await, Server::echo().await);
            let pool = pool(retrying(&[bad.address, good.address], 1));
            let reply = get(&pool, "/again").await.unwrap();
            assert_eq!((reply.status(), reply.body().tries()), (StatusCode::OK, 2));
            assert_eq!(reply.body().endpoint().authority(), good.address.to_string());
            assert_eq!(text(reply.into_body()).await.unwrap(), "/again");
            assert_eq!(pool.cluster().stats().retries, 1);
        }
    });
}

#[test]
fn whole_bodies_are_sent_again_and_streams_are_not() {
    worker(async {
        let echo_body = async || {
            Server::start(|mut peer| async move {
                while peer.head().await.is_some() {
                    let body = String::from_utf8(peer.body(4).await.unwrap()).unwrap();
                    if peer.number == 1 {
                        peer.send("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                            .await;
                        return;
                    }
                    peer.ok(&body).await;
                }
            })
            .await
        };
        let server = echo_body().await;
        let whole = with_body(Method::PUT, "/", TestBody::Whole("data".into()));
        let reply = pool(retrying(&[server.address], 1)).send(whole, &SendOptions::default()).await.unwrap();
        assert_eq!(text(reply.into_body()).await.unwrap(), "data");

        let server = echo_body().await;
        let (sender, body) = TestBody::stream();
        sender.send(Ok(Frame::data("data".into()))).await.unwrap();
        drop(sender);
        let mut stream = with_body(Method::PUT, "/", body);
        stream.headers_mut().insert("content-length", "4".parse().unwrap());
        let reply = pool(retrying(&[server.address], 1)).send(stream, &SendOptions::default()).await.unwrap();
        assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(server.accepted(), 1);
    });
}

#[test]
fn a_post_is_not_sent_again() {
    worker(async {
        let (bad, good) = (failing("503 Busy").await, Server::echo().await);
        let pool = pool(retrying(&[bad.address, good.address], 3));
        let reply = pool.send(request(Method::POST, "/"), &SendOptions::default()).await.unwrap();
        assert_eq!((reply.status(), reply.body().tries()), (StatusCode::SERVICE_UNAVAILABLE, 1));
        assert_eq!(good.accepted(), 0);
    });
}

#[test]
fn other_statuses_are_answers() {
    worker(async {
        for status in ["500 Oops", "501 No", "429 Slow", "404 None"] {
            let (bad, good) = (failing(status).await, Server::echo().await);
            let reply = get(&pool(retrying(&[bad.address, good.address], 3)), "/").await.unwrap();
            assert_eq!(reply.status().as_str(), &status[..3]);
            assert_eq!(good.accepted(), 0);
        }
    });
}

#[test]
fn a_request_that_found_no_connection_is_tried_elsewhere_whatever_its_method() {
    worker(async {
        let good = Server::echo().await;
        let pool = pool(retrying(&[dead_address().await, good.address], 1));
        let (sender, body) = TestBody::stream();
        drop(sender);
        let reply = pool.send(with_body(Method::POST, "/new", body), &SendOptions::default()).await.unwrap();
        assert_eq!(reply.body().tries(), 2);
        assert_eq!(text(reply.into_body()).await.unwrap(), "/new");
    });
}

#[test]
fn broken_and_invalid_answers_are_tried_again() {
    worker(async {
        for response in ["", "nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 1, 1\r\n\r\n"] {
            let (bad, good) = (Server::once(response).await, Server::echo().await);
            let pool = pool(retrying(&[bad.address, good.address], 1));
            assert_eq!(fetch(&pool, "/again").await, (200, "/again".into()), "{response}");
        }
    });
}

#[test]
fn the_last_answer_is_the_answer() {
    worker(async {
        let (one, two) = (failing("503 Busy").await, failing("502 Bad").await);
        let pool = pool(retrying(&[one.address, two.address], 1));
        let reply = get(&pool, "/").await.unwrap();
        assert_eq!((reply.status(), reply.body().tries()), (StatusCode::BAD_GATEWAY, 2));
        assert_eq!(text(reply.into_body()).await.unwrap(), "no");
    });
}

#[test]
fn attempts_are_bounded() {
    worker(async {
        let dead = dead_address().await;
        let pool = pool(retrying(&[dead, dead_address().await], 2));
        let error = error_of(get(&pool, "/").await);
        assert!(matches!(error, UpstreamError::Connect(_)), "{error:?}");
        let stats = pool.cluster().stats();
        assert_eq!((stats.connect_failures, stats.retries, stats.retries_refused), (3, 2, 0));
    });
}

#[test]
fn the_budget_bounds_retries() {
    worker(async {
        let bad = failing("503 Busy").await;
        let none = pool(retrying(&[bad.address], 1));
        for _ in 0..20 {
            assert_eq!(fetch(&none, "/").await, (503, "no".into()));
        }
        let stats = none.cluster().stats();
        assert_eq!((stats.retries, stats.retries_refused), (3, 17), "the floor, and no more");

        let mut half = retrying(&[bad.address], 1);
        half.retries.budget = 0.5;
        let half = pool(half);
        for _ in 0..100 {
            assert_eq!(fetch(&half, "/").await, (503, "no".into()));
        }
        assert_eq!(half.cluster().stats().retries, 53, "the floor, and half a retry for each request");
    });
}
