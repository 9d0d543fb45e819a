//! The addresses of an endpoint: its literal address, or what its name resolves to, kept for a while.
//!
//! One answer is kept for one endpoint, so the cache is as large as the configuration. The last good answer is kept
//! when the name service fails: an upstream that runs is not lost to a resolver that does not.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::upstream::error::ConnectError;

/// How long an answer is used. `getaddrinfo` does not tell the record's own time to live.
const FRESH: Duration = Duration::from_secs(30);
/// How long a kept answer is used after a failure before the name is asked for again.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Addresses kept of one answer.
const ADDRESSES_MAX: usize = 8;

/// A few addresses.
pub(crate) type AddressList = SmallVec<[SocketAddr; 2]>;

/// Where an endpoint is.
#[derive(Debug)]
pub(crate) enum Addresses {
    /// The configuration says it.
    Literal(SocketAddr),
    /// A name.
    Named {
        /// The name.
        host: String,
        /// The port.
        port: u16,
        /// The last good answer. Held while the name is asked for, so that many connects ask once; workers wait for it
        /// without blocking, and only when they connect.
        known: Mutex<Option<Answer>>,
    },
}

/// A kept answer.
#[derive(Debug)]
pub(crate) struct Answer {
    addresses: AddressList,
    until: Instant,
}

impl Addresses {
    /// The addresses of `host` at `port`.
    pub(crate) fn new(host: &str, port: u16) -> Self {
        match host.parse::<IpAddr>() {
            Ok(address) => Self::Literal(SocketAddr::new(address, port)),
            Err(_) => Self::Named { host: host.to_owned(), port, known: Mutex::new(None) },
        }
    }

    /// At least one address, to be tried in order.
    pub(crate) async fn get(&self) -> Result<AddressList, ConnectError> {
        let (host, port, known) = match self {
            Self::Literal(address) => return Ok(SmallVec::from_slice(&[*address])),
            Self::Named { host, port, known } => (host, *port, known),
        };
        let mut known = known.lock().await;
        let now = Instant::now();
        if let Some(answer) = known.as_ref().filter(|answer| now < answer.until) {
            return Ok(answer.addresses.clone());
        }
        let fresh = lookup(host, port).await;
        match (fresh, known.as_mut()) {
            (Ok(addresses), _) => {
                *known = Some(Answer { addresses: addresses.clone(), until: now + FRESH });
                Ok(addresses)
            }
            (Err(error), Some(old)) => {
                tracing::warn!(host, error = &error as &dyn std::error::Error, "Name lookup failed");
                old.until = now + RETRY_AFTER;
                Ok(old.addresses.clone())
            }
            (Err(error), None) => Err(error),
        }
    }
}

async fn lookup(host: &str, port: u16) -> Result<AddressList, ConnectError> {
    let failed = |source: Option<io::Error>| ConnectError::Resolve { host: host.to_owned(), source };
    let found = tokio::net::lookup_host((host, port)).await.map_err(|error| failed(Some(error)))?;
    let addresses: AddressList = found.take(ADDRESSES_MAX).collect();
    if addresses.is_empty() { Err(failed(None)) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn literals_need_no_lookup() {
        for (host, want) in [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80")] {
            let addresses = Addresses::new(host, 80).get().await.unwrap();
            assert_eq!(addresses.as_slice(), [want.parse().unwrap()]);
        }
    }

    #[tokio::test]
    async fn the_last_good_answer_outlives_a_failing_resolver() {
        let kept: SocketAddr = "192.0.2.7:80".parse().unwrap();
        let answer = Answer { addresses: SmallVec::from_slice(&[kept]), until: Instant::now() };
        // RFC 6761: `.invalid` never resolves.
        let named =
            Addresses::Named { host: "postern.invalid".into(), port: 80, known: Mutex::new(Some(answer)) };
        assert_eq!(named.get().await.unwrap().as_slice(), [kept]);
        let unknown = Addresses::new("postern.invalid", 80).get().await;
        assert!(matches!(unknown, Err(ConnectError::Resolve { .. })));
    }
}
