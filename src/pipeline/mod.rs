//! The stages a request passes, from its received head to the written response.
//!
//! ```text
//! Received -> Routed -> Identified -> Inspected -> Admitted -> Cleared -> response
//! ```
//!
//! Each stage owns the former's parts and is consumed by the next; a `Reject` may leave at any of them. To
//! add a stage, write its file, and call it in [`serve`]. Only `admitted` can make an `Admitted`, and nothing else can be
//! forwarded.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::Response;
use hyper::Request;
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use crate::runtime::worker;

mod admitted;
mod browser;
mod cleared;
pub mod connection;
mod exchange;
mod forwarded;
pub mod framing;
mod identified;
mod inspected;
mod received;
pub mod reject;
mod request_body;
mod respond;
mod responded;
mod routed;
pub mod websocket;

pub use respond::ResponseBody;

use admitted::Admitted;
use connection::Connection;
use received::Received;
use request_body::UpstreamRequestBody;
use respond::Reject;

/// A worker that sends this pipeline's bodies upstream.
pub type Worker = worker::Worker<UpstreamRequestBody>;

/// Answers one request.
///
/// # Cancel safety
/// Dropping the future ends the request: the exchange with the upstream is cancelled and the event is written.
pub async fn serve(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let version = request.version();
    let stages = Caught { future: stages(&worker, &connection, request) };
    Ok(match stages.await {
        Some(Ok(response)) => response,
        Some(Err(reject)) => reject.into_response(),
        None => {
            worker.shared.metrics.task_panicked();
            tracing::error!("Request handler panicked");
            respond::panicked(version)
        }
    })
}

pin_project! {
    /// Gives the outcome of a future, or `None` where it panics: a bug costs one request, not those beside it.
    ///
    /// A type of its own, because an `async fn` would hold, and move, the future twice.
    struct Caught<F> {
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Caught<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self.project().future;
        // What the future has shared is in cells that unwinding leaves whole, or that panic again when they are used.
        match catch_unwind(AssertUnwindSafe(|| future.poll(context))) {
            Ok(polled) => polled.map(Some),
            Err(_) => Poll::Ready(None),
        }
    }
}

async fn stages(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Reject> {
    let received = Received::read(worker, connection, request)?.take_browser_cookies();
    // Both are rare, and every request would carry the room for them.
    if let Some((party, page)) = received.page() {
        return Err(Box::pin(received.answer(party, page)).await);
    }
    match admitted(received).await {
        Ok(admitted) => admitted.enforce()?.forward().await,
        Err(reject) if reject.wants_login() => Err(Box::pin(reject.offer_login()).await),
        Err(reject) => Err(reject),
    }
}

async fn admitted(received: Received) -> Result<Admitted, Reject> {
    received.route()?.identify().await?.inspect().await?.decide().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_caught_and_only_that() {
        assert_eq!(Caught { future: async { 1 } }.await, Some(1));
        let late = async {
            tokio::task::yield_now().await;
            panic!("a bug");
        };
        assert_eq!(Caught { future: late }.await, None::<()>);
    }
}
