//! Bodies on their way to and from an upstream.

use bytes::Bytes;

/// A request body that can be sent upstream, and perhaps sent again.
pub trait RequestBody: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Unpin + 'static {
    /// A copy that yields the same bytes from the start, for a retry. `None` when the body is a stream, or any of it
    /// has been read: then it is sent once only.
    fn try_clone(&self) -> Option<Self>
    where
        Self: Sized;
}

/// The error of any body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A response's body as it arrives: back-pressure, trailers, and the stall timeout.
///
/// It holds the connection: dropping it before its end closes the connection (HTTP/1.1) or resets the stream.
#[derive(Debug)]
pub struct UpstreamBody {}
