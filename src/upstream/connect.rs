//! Makes a connection to an endpoint: name, TCP, TLS, and which HTTP it will speak.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::upstream::cluster::{Cluster, Counters, EndpointState};
use crate::upstream::error::{ConnectError, UpstreamError};
use crate::upstream::stream::Stream;
use crate::upstream::watchdog::after;

/// Idle time after which the kernel probes a silent peer, so that a tunnel to a vanished host ends.
const KEEPALIVE: Duration = Duration::from_mins(1);

/// Which HTTP a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, by ALPN or prior knowledge.
    Http2,
}

/// Which protocols a caller can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// What the upstream is configured for.
    Configured,
    /// HTTP/1.1 alone, for requests that switch protocols.
    Http1Only,
}

/// Connects within the cluster's connect timeout, TLS included, and counts the outcome.
pub(crate) async fn open(
    cluster: &Cluster,
    endpoint: &EndpointState,
    offer: Offer,
) -> Result<(Stream, Protocol), UpstreamError> {
    let deadline = after(Instant::now(), cluster.settings().connect_timeout);
    let result = match timeout_at(deadline, establish(cluster, endpoint, offer, deadline)).await {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(error)) => Err(UpstreamError::Connect(error)),
        Err(_elapsed) => Err(UpstreamError::ConnectTimeout),
    };
    let counters = cluster.counters();
    Counters::add(if result.is_ok() { &counters.connects } else { &counters.connect_failures });
    result
}

async fn establish(
    cluster: &Cluster,
    endpoint: &EndpointState,
    offer: Offer,
    deadline: Instant,
) -> Result<(Stream, Protocol), ConnectError> {
    let tcp = tcp(endpoint, deadline).await?;
    let (Some(tls), Some(name)) = (cluster.tls(), endpoint.server_name()) else {
        let http2 = cluster.settings().http2 && offer == Offer::Configured;
        return Ok((Stream::Plain(tcp), if http2 { Protocol::Http2 } else { Protocol::Http1 }));
    };
    let config = match offer {
        Offer::Configured => &tls.configured,
        Offer::Http1Only => &tls.http1,
    };
    let connector = TlsConnector::from(Arc::clone(config));
    let stream = connector.connect(name.clone(), tcp).await.map_err(ConnectError::Tls)?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok((Stream::Tls(Box::new(stream)), if http2 { Protocol::Http2 } else { Protocol::Http1 }))
}

/// Tries the addresses in turn; each but the last gets an equal share of the time that is left.
async fn tcp(endpoint: &EndpointState, deadline: Instant) -> Result<TcpStream, ConnectError> {
    let addresses = endpoint.addresses().get().await?;
    let Some((last, others)) = addresses.split_last() else {
        return Err(ConnectError::Tcp(io::ErrorKind::AddrNotAvailable.into()));
    };
    for (address, left) in others.iter().zip((2..=addresses.len()).rev()) {
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / u32::try_from(left).unwrap_or(u32::MAX);
        if let Ok(Ok(stream)) = timeout_at(now + share, connect(*address)).await {
            return Ok(stream);
        }
    }
    // The last one has the rest; the caller's timeout ends it.
    connect(*last).await.map_err(ConnectError::Tcp)
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    Ok(stream)
}
