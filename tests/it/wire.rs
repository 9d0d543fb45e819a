//! Bytes on the wire: a client that sends exactly what it is told, and an upstream that records what it gets.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The longest that a test waits for bytes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects to `address`.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A response as it came: head and body apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawResponse {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl RawResponse {
    /// A header's first value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Reads one response delimited by Content-Length, chunks, or the end of the connection.
pub(crate) fn read_response(stream: &mut impl Read) -> io::Result<RawResponse> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    let mut response = RawResponse { status, head, body: Vec::new() };
    if let Some(length) = response.header("content-length").and_then(|length| length.parse().ok()) {
        response.body.resize(length, 0);
        stream.read_exact(&mut response.body)?;
    } else if response.header("transfer-encoding").is_some() {
        response.body = read_chunks(stream)?;
    } else if !matches!(status, 100..200 | 204 | 304) {
        stream.read_to_end(&mut response.body)?;
    }
    Ok(response)
}

fn read_line(stream: &mut impl Read) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

fn read_chunks(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = usize::from_str_radix(&read_line(stream)?, 16).map_err(io::Error::other)?;
        let mut chunk = vec![0; size];
        stream.read_exact(&mut chunk)?;
        body.extend(chunk);
        if size > 0 {
            read_line(stream)?;
            continue;
        }
        while !read_line(stream)?.is_empty() {}
        return Ok(body);
    }
}

/// Sends `bytes` on a new connection and reads one response.
pub(crate) fn ask(address: SocketAddr, bytes: impl AsRef<[u8]>) -> RawResponse {
    let mut stream = connect(address);
    stream.write_all(bytes.as_ref()).unwrap();
    read_response(&mut stream).unwrap()
}

/// Sends a GET for `path` with `headers` (each line with its CRLF).
pub(crate) fn get(address: SocketAddr, path: &str, headers: &str) -> RawResponse {
    ask(address, format!("GET {path} HTTP/1.1\r\nHost: gw.test\r\n{headers}\r\n"))
}

/// An upstream that answers every request with `200` and a body of what it received, and records all bytes.
pub(crate) struct RecordingUpstream {
    address: SocketAddr,
    received: Arc<Mutex<Vec<u8>>>,
}

impl RecordingUpstream {
    pub(crate) fn start() -> Self {
        Self::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Upstream: yes\r\n\r\nok")
    }

    /// An upstream that answers each head with `answer`, whatever it is.
    pub(crate) fn answering(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&received);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let record = Arc::clone(&record);
                thread::spawn(move || serve(stream, &record, answer));
            }
        });
        Self { address, received }
    }

    /// `http://host:port`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All bytes received so far.
    pub(crate) fn received(&self) -> String {
        String::from_utf8_lossy(&self.received.lock().unwrap()).into_owned()
    }

    /// How many request heads were received so far.
    pub(crate) fn requests(&self) -> usize {
        self.received().matches(" HTTP/1.1\r\n").count()
    }
}

/// Reads heads and bodies, and answers each.
fn serve(mut stream: TcpStream, record: &Mutex<Vec<u8>>, answer: &[u8]) {
    let mut pending: Vec<u8> = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        while let Some(length) = message_length(&pending) {
            pending.drain(..length);
            if stream.write_all(answer).is_err() {
                return;
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                record.lock().unwrap().extend_from_slice(&buffer[..read]);
                pending.extend_from_slice(&buffer[..read]);
            }
        }
    }
}

/// The length of the first whole message, if it is there.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    if text.contains("transfer-encoding: chunked") {
        let end = bytes[head..].windows(5).position(|window| window == b"0\r\n\r\n")? + 5;
        return Some(head + end);
    }
    let length =
        text.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
    let whole = head + length.unwrap_or(0);
    (bytes.len() >= whole).then_some(whole)
}
