//! One connection to an LDAP server: one question at a time, each answer read within bounds.
//!
//! A connection is used again only after a whole, well-formed answer to the question that was asked. Whatever else
//! happens, a fault or a question that was given up, it is closed: an answer can never be taken for another's.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::model::ldap::{LdapServer, Security};
use crate::identity::ldap::ber::{SEQUENCE, element_length};
use crate::identity::ldap::fault::Fault;
use crate::identity::ldap::message::{Entry, Request, Response, SIZE_LIMIT_EXCEEDED, SUCCESS};

/// Bytes read at once.
const READ_BYTES: usize = 8 * 1024;

/// References to other servers that one answer may hold; they are not followed.
const REFERENCES_MAX: usize = 100;

/// The largest message id (RFC 4511 section 4.1.1).
const ID_MAX: u32 = 0x7fff_ffff;

/// What a server says of its own accord has this id (RFC 4511 section 4.4).
const UNSOLICITED: u32 = 0;

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// An open connection.
pub(super) struct Connection {
    stream: Box<dyn Duplex>,
    read: BytesMut,
    last_id: u32,
}

/// How much of an answer is taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Entries of one answer.
    pub(super) entries: usize,
    /// Bytes of one answer, on the wire and in memory.
    pub(super) bytes: usize,
}

/// A whole answer.
#[derive(Debug, Default)]
pub(super) struct Reply {
    pub(super) code: u32,
    pub(super) entries: Vec<Entry>,
}

impl Connection {
    /// Connects, with TLS where the server is configured so.
    pub(super) async fn open(
        server: &LdapServer,
        tls: Option<&Arc<rustls::ClientConfig>>,
        bounds: Bounds,
    ) -> Result<Self, Fault> {
        let stream = TcpStream::connect((server.host.as_str(), server.port)).await;
        let stream = stream.map_err(|_| Fault::Unreachable)?;
        stream.set_nodelay(true).map_err(|_| Fault::Unreachable)?;
        match server.security {
            Security::Plaintext => Ok(Self::over(Box::new(stream))),
            Security::Tls => Self::secured(Box::new(stream), server, tls).await,
            Security::StartTls => {
                let mut plain = Self::over(Box::new(stream));
                let reply = plain.ask(&Request::StartTls, bounds).await?;
                // What came before the handshake is nobody's word.
                if reply.code != SUCCESS || !plain.read.is_empty() {
                    return Err(Fault::Tls);
                }
                Self::secured(plain.stream, server, tls).await
            }
        }
    }

    async fn secured(
        stream: Box<dyn Duplex>,
        server: &LdapServer,
        tls: Option<&Arc<rustls::ClientConfig>>,
    ) -> Result<Self, Fault> {
        let name = ServerName::try_from(server.host.clone()).map_err(|_| Fault::Tls)?;
        let tls = TlsConnector::from(Arc::clone(tls.ok_or(Fault::Tls)?));
        let stream = tls.connect(name, stream).await;
        stream.map(|stream| Self::over(Box::new(stream))).map_err(|_| Fault::Tls)
    }

    fn over(stream: Box<dyn Duplex>) -> Self {
        Self { stream, read: BytesMut::new(), last_id: 0 }
    }

    /// Whether the server has neither closed the connection nor said anything that nobody asked.
    pub(super) async fn is_quiet(&mut self) -> bool {
        let mut byte = [0; 1];
        let mut byte = ReadBuf::new(&mut byte);
        let read = poll_fn(|context| {
            Poll::Ready(Pin::new(&mut self.stream).poll_read(context, &mut byte).is_pending())
        });
        self.read.is_empty() && read.await
    }

    /// Asks, and reads the whole answer. After an error, and when it is dropped before its end, the connection must not
    /// be used again.
    pub(super) async fn ask(&mut self, request: &Request, bounds: Bounds) -> Result<Reply, Fault> {
        self.last_id = if self.last_id >= ID_MAX { 1 } else { self.last_id + 1 };
        self.stream.write_all(&request.encode(self.last_id)).await?;
        self.stream.flush().await?;
        let wanted = match request {
            Request::Search(search) => search.attributes.as_slice(),
            Request::Bind { .. } | Request::StartTls => &[],
        };
        let mut left = Left { entries: bounds.entries, bytes: bounds.bytes, references: REFERENCES_MAX };
        let mut entries = Vec::new();
        loop {
            match (self.receive(wanted, &mut left).await?, request) {
                (Response::Entry(entry), Request::Search(_)) => {
                    left.entries = left.entries.checked_sub(1).ok_or(Fault::TooLarge)?;
                    if entry.is_cut {
                        return Err(Fault::TooLarge);
                    }
                    entries.push(entry);
                }
                (Response::Reference, Request::Search(_)) => {
                    left.references = left.references.checked_sub(1).ok_or(Fault::TooLarge)?;
                }
                (Response::Done(code), Request::Search(_))
                | (Response::Bind(code), Request::Bind { .. })
                | (Response::Extended(code), Request::StartTls) => return Ok(Reply { code, entries }),
                (
                    Response::Entry(_)
                    | Response::Reference
                    | Response::Done(_)
                    | Response::Bind(_)
                    | Response::Extended(_),
                    Request::Search(_) | Request::Bind { .. } | Request::StartTls,
                ) => return Err(Fault::Malformed),
            }
        }
    }

    async fn receive(&mut self, wanted: &[String], left: &mut Left) -> Result<Response, Fault> {
        let length = loop {
            // What is no message is known by its first byte: the rest may never come.
            if self.read.first().is_some_and(|tag| *tag != SEQUENCE) {
                return Err(Fault::Malformed);
            }
            let length = element_length(&self.read)?;
            // Refused by its head, before its bytes are there.
            if length.is_some_and(|length| length > left.bytes) {
                return Err(Fault::TooLarge);
            }
            if let Some(length) = length.filter(|length| *length <= self.read.len()) {
                break length;
            }
            self.read.reserve(READ_BYTES);
            let mut some = (&mut self.stream).take(READ_BYTES as u64);
            if some.read_buf(&mut self.read).await? == 0 {
                return Err(Fault::Closed);
            }
        };
        let message = self.read.split_to(length);
        let (id, response) = Response::parse(&message, wanted)?;
        if id == UNSOLICITED {
            // The one thing that comes unasked is the notice that the server closes (RFC 4511 section 4.4.1).
            return Err(Fault::Closed);
        }
        if id != self.last_id {
            return Err(Fault::Malformed);
        }
        let kept = if let Response::Entry(entry) = &response { entry.bytes } else { 0 };
        left.bytes = left.bytes.checked_sub(length.max(kept)).ok_or(Fault::TooLarge)?;
        Ok(response)
    }
}

impl Reply {
    /// The entries of a search that went well.
    pub(super) fn found(self) -> Result<Vec<Entry>, Fault> {
        match self.code {
            SUCCESS => Ok(self.entries),
            SIZE_LIMIT_EXCEEDED => Err(Fault::TooLarge),
            code => Err(Fault::Code(code)),
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("last_id", &self.last_id).finish_non_exhaustive()
    }
}

/// What may still come.
struct Left {
    entries: usize,
    bytes: usize,
    references: usize,
}
