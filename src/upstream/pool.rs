//! One worker's connections to one cluster, and how a request is sent over them.

use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use tokio::time::Instant;

use crate::upstream::body::{RequestBody, UpstreamBody};
use crate::upstream::cluster::Cluster;
use crate::upstream::error::UpstreamError;

/// What one request asks of the pool beyond the request itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct SendOptions {
    /// No response head by then: [`UpstreamError::DeadlineExceeded`]. Retries end there too; the response's body is
    /// not bound by it.
    pub deadline: Option<Instant>,
    /// Overrides the upstream's `timeouts.response`.
    pub response_timeout: Option<Duration>,
    /// The request asks to switch protocols (WebSocket): it goes over HTTP/1.1, and a 101 is accepted.
    pub upgrade: bool,
}

/// A response from upstream. [`UpstreamBody`] also tells the endpoint and the number of tries; after a 101,
/// `hyper::upgrade::on(response)` gives the tunnel.
pub type Reply = Response<UpstreamBody>;

/// One worker's pool for one cluster. To be used inside a `LocalSet`.
#[derive(Debug)]
pub struct Pool<B> {
    _cluster: Arc<Cluster>,
    _body: PhantomData<B>,
}

impl<B: RequestBody> Pool<B> {
    /// An empty pool.
    pub fn new(cluster: Arc<Cluster>) -> Rc<Self> {
        Rc::new(Self { _cluster: cluster, _body: PhantomData })
    }

    /// Sends `request` (origin-form target, hop-by-hop fields already removed) and waits for the response's head.
    /// `Host` is set to the endpoint's authority unless the upstream says `preserve_host`.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the exchange; its connection is closed, not reused.
    #[expect(clippy::unused_async, reason = "the signature, before its body")]
    pub async fn send(&self, _request: Request<B>, _options: &SendOptions) -> Result<Reply, UpstreamError> {
        Err(UpstreamError::NoHealthyEndpoint)
    }
}

/// One worker's pools, found by cluster.
#[derive(Debug)]
pub struct Pools<B> {
    _body: PhantomData<B>,
}

impl<B: RequestBody> Pools<B> {
    /// None yet.
    #[expect(clippy::new_without_default, reason = "the signature, before its body")]
    pub fn new() -> Self {
        Self { _body: PhantomData }
    }

    /// The pool for `cluster`, made when first asked for.
    pub fn get(&self, cluster: &Arc<Cluster>) -> Rc<Pool<B>> {
        Pool::new(Arc::clone(cluster))
    }

    /// Drops the pools of clusters that are not among `current`; exchanges in flight go on.
    pub fn retain(&self, _current: &crate::upstream::cluster::Clusters) {}
}
