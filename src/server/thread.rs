//! A worker thread: one event loop with its connections, evaluators and pools, and nothing shared on the way of a request.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::{Builder, JoinHandle};

use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};

use crate::pipeline::Worker;
use crate::runtime::beside::runner;
use crate::runtime::shared::Shared;
use crate::server::accept::{Accepted, WorkerQueue};
use crate::server::{connection, drain};

/// Connections that wait for a worker to take them over.
const QUEUE: usize = 1024;
/// Known, so that the depth of rules allowed at load is safe to evaluate.
const STACK: usize = 8 * 1024 * 1024;

/// A running worker thread.
#[derive(Debug)]
pub(crate) struct WorkerThread {
    pub(crate) queue: WorkerQueue,
    pub(crate) handle: JoinHandle<()>,
}

/// Starts a worker. It ends when `drain` says so and its connections have ended, after the `drain_timeout` then in force
/// at the latest.
pub(crate) fn spawn(index: usize, shared: Arc<Shared>, drain: drain::Receiver) -> io::Result<WorkerThread> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let queue = WorkerQueue { sender, open: Arc::new(AtomicUsize::new(0)) };
    let handle = Builder::new().name(format!("worker-{index}")).stack_size(STACK).spawn(move || {
        LocalSet::new().block_on(&runtime, run(shared, receiver, drain));
    })?;
    Ok(WorkerThread { queue, handle })
}

/// Starts the thread that evaluates beside the requests; it ends with the queue.
pub(crate) fn spawn_beside(shared: Arc<Shared>) -> io::Result<JoinHandle<()>> {
    let run = move || runner::run(&shared.beside, &shared);
    Builder::new().name("beside".to_owned()).stack_size(STACK).spawn(run)
}

async fn run(shared: Arc<Shared>, mut accepted: mpsc::Receiver<Accepted>, mut drain: drain::Receiver) {
    let worker = Rc::new(Worker::new(shared));
    let recording = Rc::clone(&worker);
    tokio::task::spawn_local(async move { recording.recorder.run().await });
    let handing_over = Rc::clone(&worker);
    tokio::task::spawn_local(async move { handing_over.outbox.run(&handing_over.metrics).await });
    let mut connections = JoinSet::new();
    let told = drain.clone();
    loop {
        tokio::select! {
            next = accepted.recv() => match next {
                Some(next) => {
                    connections.spawn_local(connection::serve(Rc::clone(&worker), next, told.clone()));
                }
                None => break,
            },
            Some(ended) = connections.join_next() => note(&worker, ended),
            _ = drain.wait_for(|drain| drain.has_begun()) => break,
        }
    }
    worker.drain();
    let drain_timeout = worker.shared.current().runtime.config.drain_timeout;
    // What was accepted is served: nobody is told to go away after a handshake of the kernel's.
    accepted.close();
    while let Some(next) = accepted.recv().await {
        connections.spawn_local(connection::serve(Rc::clone(&worker), next, told.clone()));
    }
    let all = async {
        while let Some(ended) = connections.join_next().await {
            note(&worker, ended);
        }
    };
    let reason = tokio::select! {
        () = all => None,
        () = tokio::time::sleep(drain_timeout) => Some("Drain timeout, closing connections"),
        Ok(_) = drain.wait_for(|drain| drain.is_cut_short()) => Some("Drain cut short, closing connections"),
    };
    if let Some(reason) = reason {
        tracing::warn!(connections = connections.len(), "{reason}");
        connections.shutdown().await;
    }
    worker.recorder.flush();
}

/// A panicking task costs one connection; it is logged and counted.
fn note(worker: &Worker, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        worker.shared.metrics.task_panicked();
        tracing::error!(%error, "Connection task panicked");
    }
}
