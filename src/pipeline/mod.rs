//! The stages a request passes, from its received head to the written response.
//!
//! ```text
//! Received -> Routed -> Identified -> Inspected -> Admitted -> Cleared -> response
//! ```
//!
//! Each stage owns the former's parts and is consumed by the next; a `Reject` may leave at any of them. To
//! add a stage, write its file, and call it in [`serve`]. Only `admitted` can make an `Admitted`, and nothing else can be
//! forwarded.

use std::rc::Rc;

use http::Response;
use hyper::Request;
use hyper::body::Incoming;

use crate::runtime::worker;

mod admitted;
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
) -> Response<ResponseBody> {
    match stages(&worker, &connection, request).await {
        Ok(response) => response,
        Err(reject) => reject.into_response(),
    }
}

async fn stages(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Reject> {
    let received = Received::read(worker, connection, request)?;
    received.route()?.identify().await?.inspect().await?.decide()?.enforce()?.forward().await
}
