//! What the edge tests share: a gateway with given limits, a client that sees how a connection ends, raw HTTP/2 frames.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::gateway::TestGateway;
use crate::wire::{RawResponse, connect, read_response};

/// A gateway whose only listener has `listener` (more keys of a flow mapping, each after a comma), before `upstream`, with
/// `policy`; every event goes to `decisions.jsonl`.
pub(crate) fn gateway(upstream: &str, listener: &str, policy: &str) -> TestGateway {
    gateway_with(upstream, listener, policy, "apis: [{name: all, policy: main, upstream: up}]", &[])
}

/// As [`gateway`], with the text of the `apis` and whatever else belongs to the top level, and more files.
pub(crate) fn gateway_with(
    upstream: &str,
    listener: &str,
    policy: &str,
    rest: &str,
    files: &[(&str, &str)],
) -> TestGateway {
    let config = format!(
        r#"
version: 1
workers: 1
listeners: [{{name: public, address: "127.0.0.1:0"{listener}}}]
upstreams: {{up: {{endpoints: ["{upstream}"], retries: {{attempts: 0}}}}}}
policies: {{main: {{bundle: policy, decision: gateway/decision, budget: 5s}}}}
decision_logs: [{{type: file, path: decisions.jsonl}}]
{rest}
"#
    );
    let mut files = files.to_vec();
    files.push(("policy/main.rego", policy));
    TestGateway::start(&config, &files)
}

/// How a connection ended, as the client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// An orderly end.
    Closed,
    /// A reset.
    Reset,
    /// Not at all, within the patience of the client.
    Open,
}

/// Reads `stream` to its end: what came, and how it ended.
pub(crate) fn read_to_end(stream: &mut impl Read) -> (Vec<u8>, End) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (bytes, End::Closed),
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return (bytes, End::Reset),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return (bytes, End::Open);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Sends `bytes` on a new connection. Gives the responses until the gateway closes, and how it ended.
pub(crate) fn converse(address: SocketAddr, bytes: impl AsRef<[u8]>) -> (Vec<RawResponse>, End) {
    let mut stream = connect(address);
    // A gateway that has refused already may be gone before all is sent.
    drop(stream.write_all(bytes.as_ref()));
    responses(&mut stream)
}

/// The responses on `stream` until it ends.
pub(crate) fn responses(stream: &mut impl Read) -> (Vec<RawResponse>, End) {
    let (bytes, end) = read_to_end(stream);
    let mut rest = bytes.as_slice();
    let mut responses = Vec::new();
    while !rest.is_empty() {
        responses.push(read_response(&mut rest).unwrap_or_else(|error| {
            panic!("{error} after {responses:?} in {:?}", String::from_utf8_lossy(&bytes))
        }));
    }
    (responses, end)
}

/// The statuses of `responses`.
pub(crate) fn statuses(responses: &[RawResponse]) -> Vec<u16> {
    responses.iter().map(|response| response.status).collect()
}

/// A request's head with `Host: gw.test` and `headers` (each line with its CRLF).
pub(crate) fn head(line: &str, headers: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: gw.test\r\n{headers}\r\n")
}

/// Runs `action` and gives how long it took.
pub(crate) fn timed<T>(action: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let outcome = action();
    (outcome, started.elapsed())
}

/// A certificate for `gw.test` in the files of a gateway, and a client that trusts it.
pub(crate) struct TestTls {
    pub(crate) cert: String,
    pub(crate) key: String,
    root: CertificateDer<'static>,
}

impl TestTls {
    pub(crate) fn new() -> Self {
        let certified = rcgen::generate_simple_self_signed(vec!["gw.test".to_owned()]).unwrap();
        Self {
            cert: certified.cert.pem(),
            key: certified.signing_key.serialize_pem(),
            root: certified.cert.der().clone(),
        }
    }

    /// The gateway's files.
    pub(crate) fn files(&self) -> [(&'static str, &str); 2] {
        [("server.pem", &self.cert), ("server.key", &self.key)]
    }

    /// A client's configuration that offers `alpn`.
    pub(crate) fn client(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// A connection for `gw.test` that offers `alpn`.
    pub(crate) fn connect(
        &self,
        address: SocketAddr,
        alpn: &[&str],
    ) -> StreamOwned<ClientConnection, TcpStream> {
        let name = ServerName::try_from("gw.test").unwrap();
        let session = ClientConnection::new(self.client(alpn), name).unwrap();
        let mut stream = StreamOwned::new(session, connect(address));
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        stream
    }
}

/// `tls` of a listener whose files are those of a [`TestTls`].
pub(crate) const TLS: &str = ", tls: {certificates: [{cert: server.pem, key: server.key}]}";

/// A client that speaks HTTP/2 frame by frame (RFC 9113), and may break every rule.
pub(crate) struct RawHttp2 {
    pub(crate) stream: TcpStream,
}

/// A frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawFrame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) const DATA: u8 = 0x0;
pub(crate) const HEADERS: u8 = 0x1;
pub(crate) const RST_STREAM: u8 = 0x3;
pub(crate) const SETTINGS: u8 = 0x4;
pub(crate) const PING: u8 = 0x6;
pub(crate) const GOAWAY: u8 = 0x7;
pub(crate) const WINDOW_UPDATE: u8 = 0x8;
pub(crate) const CONTINUATION: u8 = 0x9;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const ACK: u8 = 0x1;
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a stream was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A response with this status.
    Status(u16),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code, or the end of the connection (no code).
    Gone(Option<u32>),
}

impl Answer {
    /// Whether it is a refusal: 400, a reset or a GOAWAY.
    pub(crate) fn refuses(self) -> bool {
        !matches!(self, Self::Status(status) if status != 400)
    }
}

impl RawHttp2 {
    /// Connects with prior knowledge; `settings` are (identifier, value) pairs.
    pub(crate) fn connect(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut client = Self { stream: connect(address) };
        client.stream.write_all(PREFACE).unwrap();
        // No dynamic table, so that a response's status can be read by itself.
        let payload: Vec<u8> = [(1, 0)]
            .iter()
            .chain(settings)
            .flat_map(|(id, value)| [id.to_be_bytes().to_vec(), value.to_be_bytes().to_vec()].concat())
            .collect();
        client.send(SETTINGS, 0, 0, &payload).unwrap();
        client
    }

    /// Sends a frame.
    pub(crate) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.stream.write_all(&frame(kind, flags, stream, payload))
    }

    /// Sends a request's HEADERS, of `fields` as they are.
    pub(crate) fn request(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) {
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        self.send(HEADERS, flags, stream, &block(fields)).unwrap();
    }

    /// Reads a frame; `None` at the end of the connection, whichever it is.
    pub(crate) fn read(&mut self) -> Option<RawFrame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).ok()?;
        let [a, b, c, kind, flags, s0, s1, s2, s3] = head;
        let mut payload = vec![0; usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)];
        self.stream.read_exact(&mut payload).ok()?;
        Some(RawFrame { kind, flags, stream: u32::from_be_bytes([s0, s1, s2, s3]), payload })
    }

    /// Reads until a frame satisfies `wanted`; acknowledges settings on the way. `None` at the end.
    pub(crate) fn read_until(&mut self, mut wanted: impl FnMut(&RawFrame) -> bool) -> Option<RawFrame> {
        loop {
            let frame = self.read()?;
            if wanted(&frame) {
                return Some(frame);
            }
            if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                drop(self.send(SETTINGS, ACK, 0, &[]));
            }
            if frame.kind == PING && frame.flags & ACK == 0 {
                drop(self.send(PING, ACK, 0, &frame.payload));
            }
        }
    }

    /// How `stream` is answered.
    pub(crate) fn answer(&mut self, stream: u32) -> Answer {
        let found = self.read_until(|frame| {
            frame.kind == GOAWAY || (frame.stream == stream && matches!(frame.kind, HEADERS | RST_STREAM))
        });
        let Some(frame) = found else { return Answer::Gone(None) };
        match frame.kind {
            HEADERS => Answer::Status(status(&frame.payload)),
            RST_STREAM => Answer::Reset(u32_at(&frame.payload, 0)),
            _ => Answer::Gone(Some(u32_at(&frame.payload, 4))),
        }
    }
}

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// A header block of literal fields, not indexed, with plain strings (RFC 7541 section 6.2.2).
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        string(name, &mut bytes);
        string(value, &mut bytes);
    }
    bytes
}

fn string(text: &str, out: &mut Vec<u8>) {
    let mut length = text.len();
    if length < 127 {
        out.push(u8::try_from(length).unwrap());
    } else {
        out.push(127);
        length -= 127;
        while length >= 128 {
            out.push(u8::try_from(length % 128).unwrap() | 128);
            length /= 128;
        }
        out.push(u8::try_from(length).unwrap());
    }
    out.extend_from_slice(text.as_bytes());
}

/// The status in a response's header block, which begins with it.
fn status(block: &[u8]) -> u16 {
    let size_updates = block.iter().take_while(|byte| *byte & 0xe0 == 0x20).count();
    match block[size_updates..] {
        [index @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)],
        // A literal with the indexed name `:status`; three digits, perhaps Huffman coded.
        [0x48 | 0x08, 3, a, b, c, ..] => std::str::from_utf8(&[a, b, c]).unwrap().parse().unwrap(),
        [0x48 | 0x08, length, ref rest @ ..] if length & 0x80 != 0 => {
            huffman_digits(&rest[..usize::from(length & 0x7f)])
        }
        ref other => panic!("no status in {other:?}"),
    }
}

fn huffman_digits(coded: &[u8]) -> u16 {
    let bits: Vec<u8> = coded.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let take = |from: usize, count: usize| bits[from..from + count].iter().fold(0, |all, bit| all << 1 | bit);
    let mut at = 0;
    let mut number = 0;
    for _ in 0..3 {
        let short = take(at, 5);
        let digit = if short <= 2 {
            at += 5;
            short
        } else {
            at += 6;
            take(at - 6, 6) - 0b01_1001 + 3
        };
        number = number * 10 + u16::from(digit);
    }
    number
}

/// The pseudo-header fields of a GET for `path` at `gw.test`, and `more` after them.
pub(crate) fn get_fields<'a>(path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields =
        vec![(":method", "GET"), (":scheme", "http"), (":authority", "gw.test"), (":path", path)];
    fields.extend_from_slice(more);
    fields
}
