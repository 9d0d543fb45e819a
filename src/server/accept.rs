//! Accepting connections and dealing them to workers.
//!
//! One task for each listener, on the control runtime. It checks what can be checked before a byte is read, and gives
//! the connection to the worker with the fewest open ones: few long-lived HTTP/2 connections then spread as evenly as
//! many short ones, which the kernel's `SO_REUSEPORT` hashing does not do.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::runtime::shared::Shared;
use crate::telemetry::metrics::{ConnectionRefusal, WorkerMetrics};

/// Waited after an error that will not go away at once (no file descriptors).
const BACK_OFF: Duration = Duration::from_millis(50);

/// A connection on its way to a worker.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: std::net::TcpStream,
    pub(crate) peer: SocketAddr,
    /// Index of the listener.
    pub(crate) listener: usize,
    pub(crate) open: OpenConnection,
}

/// Counts a connection for as long as it is open.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    of_listener: Arc<AtomicUsize>,
    of_worker: Arc<AtomicUsize>,
}

/// The way to one worker.
#[derive(Debug, Clone)]
pub(crate) struct WorkerQueue {
    pub(crate) sender: mpsc::Sender<Accepted>,
    pub(crate) open: Arc<AtomicUsize>,
}

// === impl OpenConnection ===

impl OpenConnection {
    fn new(of_listener: &Arc<AtomicUsize>, of_worker: &Arc<AtomicUsize>) -> Self {
        of_listener.fetch_add(1, Ordering::Relaxed);
        of_worker.fetch_add(1, Ordering::Relaxed);
        Self { of_listener: Arc::clone(of_listener), of_worker: Arc::clone(of_worker) }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.of_listener.fetch_sub(1, Ordering::Relaxed);
        self.of_worker.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Accepts on the listener at `index` until the task is aborted; that closes the socket.
pub(crate) async fn run(
    socket: TcpListener,
    index: usize,
    shared: Arc<Shared>,
    metrics: std::rc::Rc<WorkerMetrics>,
    workers: Vec<WorkerQueue>,
) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                if let Err(reason) = deal(stream, peer, index, &shared, &workers, &open) {
                    let name = shared.current().runtime.listener_name(index).to_owned();
                    metrics.connection_refused(shared.metrics.listener(&name), reason);
                }
            }
            // The client was gone before it was accepted: others wait.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "Accept failed");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

fn deal(
    stream: TcpStream,
    peer: SocketAddr,
    index: usize,
    shared: &Shared,
    workers: &[WorkerQueue],
    open: &Arc<AtomicUsize>,
) -> Result<(), ConnectionRefusal> {
    let in_force = shared.current();
    let config = in_force.runtime.listener(index).map(|listener| &listener.config);
    let config = config.ok_or(ConnectionRefusal::Draining)?;
    if !config.allow_from.is_empty() && !config.allow_from.contains(peer.ip()) {
        return Err(ConnectionRefusal::Source);
    }
    if open.load(Ordering::Relaxed) >= config.limits.connections {
        return Err(ConnectionRefusal::Limit);
    }
    let least_loaded = workers.iter().min_by_key(|worker| worker.open.load(Ordering::Relaxed));
    let worker = least_loaded.ok_or(ConnectionRefusal::Draining)?;
    // The socket moves to the worker's own event loop.
    let stream = stream.into_std().map_err(|_| ConnectionRefusal::Limit)?;
    let accepted = Accepted { stream, peer, listener: index, open: OpenConnection::new(open, &worker.open) };
    match worker.sender.try_send(accepted) {
        Ok(()) => Ok(()),
        Err(mpsc::error::TrySendError::Full(_)) => Err(ConnectionRefusal::Limit),
        Err(mpsc::error::TrySendError::Closed(_)) => Err(ConnectionRefusal::Draining),
    }
}
