//! The end of a gateway: what is in flight ends, what is idle is told to go, and nobody can hold it up.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::edge_support::{
    Answer, DATA, End, GOAWAY, RawHttp2, gateway_with, get_fields, head, read_to_end, timed,
};
use crate::gateway::{ALLOW_ALL, TestGateway, eventually};
use crate::wire::{connect, read_response};

/// A gateway in front of an upstream whose connections the test answers itself.
fn held(drain_timeout: &str) -> (TcpListener, TestGateway) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let rest = format!("drain_timeout: {drain_timeout}\napis: [{{name: all, policy: main, upstream: up}}]");
    let gateway = gateway_with(&url, "", ALLOW_ALL, &rest, &[]);
    (listener, gateway)
}

/// A request that has reached the upstream, and not been answered.
fn in_flight(gateway: &TestGateway, upstream: &TcpListener) -> (TcpStream, TcpStream) {
    let mut client = connect(gateway.address("public"));
    client.write_all(head("GET /", "").as_bytes()).unwrap();
    (client, accepted(upstream))
}

fn accepted(upstream: &TcpListener) -> TcpStream {
    let (mut stream, _) = upstream.accept().unwrap();
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    stream
}

/// Stops `gateway` in a thread; the receiver tells how long it took.
fn stopping(mut gateway: TestGateway) -> mpsc::Receiver<(Duration, TestGateway)> {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        let ((), took) = timed(|| gateway.stop());
        drop(done.send((took, gateway)));
    });
    is_done
}

const SOON: Duration = Duration::from_secs(8);
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn a_request_in_flight_is_answered_and_its_connection_closed() {
    let (upstream, gateway) = held("20s");
    let address = gateway.address("public");
    let (mut client, mut answering) = in_flight(&gateway, &upstream);
    let mut idle = connect(address);
    idle.write_all(head("GET /", "").as_bytes()).unwrap();
    let mut answered = accepted(&upstream);
    answered.write_all(OK).unwrap();
    assert_eq!(read_response(&mut idle).unwrap().status, 200);
    let stopped = stopping(gateway);
    let (end, took) = timed(|| read_to_end(&mut idle));
    assert_eq!(end, (Vec::new(), End::Closed), "an idle connection is closed at once");
    assert!(took < Duration::from_secs(2), "{took:?}");
    eventually("new connections are refused", || TcpStream::connect(address).is_err().then_some(()));
    assert!(stopped.try_recv().is_err(), "a request is in flight");
    answering.write_all(OK).unwrap();
    let response = read_response(&mut client).unwrap();
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    assert_eq!(read_to_end(&mut client), (Vec::new(), End::Closed));
    let (took, gateway) = stopped.recv_timeout(SOON).unwrap();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(gateway.events(2).len(), 2, "all events are written");
}

#[test]
fn a_head_that_has_begun_is_still_answered() {
    let (upstream, gateway) = held("20s");
    let mut client = connect(gateway.address("public"));
    client.write_all(b"GET / HTTP/1.1\r\nHost: gw").unwrap();
    // Taken before the drain begins: a request that came later has been answered.
    let (mut other, mut answering) = in_flight(&gateway, &upstream);
    answering.write_all(OK).unwrap();
    assert_eq!(read_response(&mut other).unwrap().status, 200);
    let stopped = stopping(gateway);
    assert_eq!(read_to_end(&mut other).1, End::Closed, "it drains");
    client.write_all(b".test\r\n\r\n").unwrap();
    answering = accepted_again(answering, &upstream);
    answering.write_all(OK).unwrap();
    let response = read_response(&mut client).unwrap();
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    stopped.recv_timeout(SOON).unwrap();
}

/// The next request, on the kept connection or on a new one.
fn accepted_again(mut kept: TcpStream, upstream: &TcpListener) -> TcpStream {
    upstream.set_nonblocking(true).unwrap();
    kept.set_nonblocking(true).unwrap();
    eventually("the next request", || {
        let mut buffer = [0; 4096];
        match kept.read(&mut buffer) {
            Ok(read) if read > 0 => {
                kept.set_nonblocking(false).unwrap();
                return Some(kept.try_clone().unwrap());
            }
            Ok(_) | Err(_) => {}
        }
        let (stream, _) = upstream.accept().ok()?;
        stream.set_nonblocking(false).unwrap();
        Some(stream)
    })
}

#[test]
fn http2_is_told_to_go_and_answered_to_the_end() {
    let (upstream, gateway) = held("20s");
    let mut busy = RawHttp2::connect(gateway.address("public"), &[]);
    busy.request(1, &get_fields("/", &[]), true);
    let mut answering = accepted(&upstream);
    let mut idle = RawHttp2::connect(gateway.address("public"), &[]);
    idle.request(1, &get_fields("/", &[]), true);
    let mut answered = accepted(&upstream);
    answered.write_all(OK).unwrap();
    assert_eq!(idle.answer(1), Answer::Status(200));
    let stopped = stopping(gateway);
    assert!(idle.read_until(|frame| frame.kind == GOAWAY).is_some());
    let (_, took) = timed(|| while idle.read_until(|_| false).is_some() {});
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(busy.read_until(|frame| frame.kind == GOAWAY).is_some());
    answering.write_all(OK).unwrap();
    assert!(
        busy.read_until(|frame| frame.kind == DATA && frame.stream == 1 && frame.payload == b"ok").is_some()
    );
    let (took, _gateway) = stopped.recv_timeout(SOON).unwrap();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_client_that_has_sent_nothing_does_not_hold_it_up() {
    let (_upstream, gateway) = held("20s");
    let silent: Vec<TcpStream> = (0..3).map(|_| connect(gateway.address("public"))).collect();
    let mut deaf = RawHttp2::connect(gateway.address("public"), &[]);
    deaf.send(0x4, 0, 0, &[]).unwrap();
    let (took, _gateway) = stopping(gateway).recv_timeout(SOON).unwrap();
    assert!(took < Duration::from_secs(7), "{took:?}");
    drop(silent);
}

#[test]
fn stuck_clients_are_cut_off_at_the_drain_timeout_and_recorded() {
    let (upstream, gateway) = held("300ms");
    let (mut client, _unanswered) = in_flight(&gateway, &upstream);
    let mut streaming = RawHttp2::connect(gateway.address("public"), &[]);
    streaming.request(1, &get_fields("/", &[]), true);
    let mut endless = accepted(&upstream);
    endless.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n").unwrap();
    assert_eq!(streaming.answer(1), Answer::Status(200));
    let (took, gateway) = stopping(gateway).recv_timeout(SOON).unwrap();
    assert!(took >= Duration::from_millis(250) && took < Duration::from_secs(2), "{took:?}");
    assert_ne!(read_to_end(&mut client).1, End::Open);
    let events = gateway.events(2);
    assert!(events.iter().all(|event| event["gateway"]["outcome"] == "failed"), "{events:#?}");
}
