//! A running gateway: its threads, how it is reloaded, and how it ends.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use crate::base::clock::{Clock, SystemClock};
use crate::contract::event::Outcome;
use crate::identity::resources::Keeper;
use crate::pipeline::reject;
use crate::runtime::build_error::BuildErrors;
use crate::runtime::bundles;
use crate::runtime::control::{Control, Environment, Start, Watched};
use crate::runtime::promotion::{PromoteError, Promoted};
use crate::runtime::shared::Shared;
use crate::runtime::watch::Watch;
use crate::server::accept::{self, WorkerQueue};
use crate::server::admin;
use crate::server::drain::{self, Cutter, Drain};
use crate::server::thread::{self, WorkerThread};
use crate::telemetry::metrics::Vocabulary;
use crate::upstream::cluster::Cluster;

/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 1024;
/// New upstreams that wait for their health checks to be started.
const CLUSTER_QUEUE: usize = 1024;
/// How long the last events may take to reach their sinks.
const FLUSH: Duration = Duration::from_secs(5);
/// How long the first fetch of key sets is waited for, so that the first tokens are not refused.
const KEY_SETS: Duration = Duration::from_secs(3);

const OUTCOMES: [&str; Outcome::ALL.len()] = [
    Outcome::ALL[0].as_str(),
    Outcome::ALL[1].as_str(),
    Outcome::ALL[2].as_str(),
    Outcome::ALL[3].as_str(),
    Outcome::ALL[4].as_str(),
];
const VOCABULARY: Vocabulary = Vocabulary { outcomes: &OUTCOMES, reasons: reject::COUNTED };

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be put in force.
    #[error(transparent)]
    Build(#[from] BuildErrors),
    /// A socket cannot be opened.
    #[error("cannot listen on {address} for {what}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Listener or admin endpoint.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// A gateway that answers requests, until [`Gateway::shutdown`].
#[derive(Debug)]
pub struct Gateway {
    reloader: Reloader,
    listeners: Vec<(Arc<str>, SocketAddr)>,
    admin: Option<SocketAddr>,
    draining: watch::Sender<Drain>,
    stopped: watch::Sender<bool>,
    workers: Vec<JoinHandle<()>>,
    beside: JoinHandle<()>,
    control: JoinHandle<()>,
}

/// Puts new snapshots in force. Its calls block.
#[derive(Debug, Clone)]
pub struct Reloader {
    control: Arc<Control>,
    clusters: mpsc::Sender<Arc<Cluster>>,
}

/// What the control thread is started with.
struct ControlParts {
    reloader: Reloader,
    keeper: Keeper,
    bundle_refresher: bundles::refresher::Refresher,
    sockets: Vec<std::net::TcpListener>,
    admin: Option<std::net::TcpListener>,
    queues: Vec<WorkerQueue>,
    clusters: mpsc::Receiver<Arc<Cluster>>,
    draining: drain::Receiver,
    stopped: watch::Receiver<bool>,
}

// === impl Gateway ===

impl Gateway {
    /// Starts the gateway that the configuration at `path` describes. Once this returns, it answers.
    pub fn start(path: &Path, environment: Environment) -> Result<Self, StartError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let Start { control, keeper, bundle_refresher } =
            Control::start(path, environment, clock, VOCABULARY)?;
        let shared = Arc::clone(control.shared());
        let config = Arc::clone(&shared.current().runtime.config);
        let mut sockets = Vec::new();
        let mut listeners = Vec::new();
        for listener in &config.listeners {
            let what = || format!("listener `{}`", listener.name);
            let (socket, address) = listen(listener.address, what)?;
            listeners.push((Arc::clone(&listener.name), address));
            sockets.push(socket);
        }
        let admin =
            config.admin.as_ref().map(|admin| listen(admin.address, || "the admin endpoint".to_owned()));
        let (admin_socket, admin) = admin.transpose()?.unzip();
        let (draining, drain) = watch::channel(Drain::Serving);
        let (stopped, stop) = watch::channel(false);
        let mut workers = Vec::new();
        let mut queues = Vec::new();
        for index in 0..config.workers {
            let spawned = thread::spawn(index, Arc::clone(&shared), drain.clone());
            let WorkerThread { queue, handle } = spawned.map_err(StartError::Thread)?;
            queues.push(queue);
            workers.push(handle);
        }
        let beside = thread::spawn_beside(Arc::clone(&shared)).map_err(StartError::Thread)?;
        let (sender, clusters) = mpsc::channel(CLUSTER_QUEUE);
        let reloader = Reloader { control: Arc::new(control), clusters: sender };
        for cluster in shared.current().runtime.clusters.iter() {
            reloader.check_health(cluster);
        }
        let parts = ControlParts {
            reloader: reloader.clone(),
            keeper,
            bundle_refresher,
            sockets,
            admin: admin_socket,
            queues,
            clusters,
            draining: drain,
            stopped: stop,
        };
        let control = control_thread(parts).map_err(StartError::Thread)?;
        Ok(Self { reloader, listeners, admin, draining, stopped, workers, beside, control })
    }

    /// Where the listener `name` listens.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.listeners.iter().find(|(known, _)| **known == *name).map(|(_, address)| *address)
    }

    /// All listeners and where they listen.
    pub fn listeners(&self) -> &[(Arc<str>, SocketAddr)] {
        &self.listeners
    }

    /// Where the admin endpoint listens.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Puts new snapshots in force.
    pub fn reloader(&self) -> &Reloader {
        &self.reloader
    }

    /// What ends [`Gateway::shutdown`] at once.
    pub fn cutter(&self) -> Cutter {
        Cutter(self.draining.clone())
    }

    /// Stops accepting, lets requests in flight end, and returns when all is written. Blocks for as long as the
    /// configured `drain_timeout` and a little more.
    pub fn shutdown(self) {
        let shared = Arc::clone(self.reloader.control.shared());
        self.draining.send_replace(Drain::Draining);
        for worker in self.workers {
            if worker.join().is_err() {
                tracing::error!("Worker thread panicked");
            }
        }
        shared.beside.end();
        if self.beside.join().is_err() {
            tracing::error!("Thread beside the requests panicked");
        }
        let unwritten = shared.audit.flush(FLUSH);
        if unwritten > 0 {
            tracing::error!(unwritten, "Decision events not written at the end");
        }
        self.stopped.send_replace(true);
        if self.control.join().is_err() {
            tracing::error!("Control thread panicked");
        }
    }
}

// === impl Reloader ===

impl Reloader {
    /// Reads the configuration and its files again. On errors the snapshot in force goes on.
    pub fn reload(&self) -> Result<(), BuildErrors> {
        match self.control.reload() {
            Ok(new) => {
                tracing::info!(generation = self.shared().generation(), "Reloaded");
                for cluster in &new {
                    self.check_health(cluster);
                }
                Ok(())
            }
            Err(errors) => {
                tracing::error!(
                    errors = errors.one_line(),
                    "Reload refused, the last good configuration goes on"
                );
                Err(errors)
            }
        }
    }

    /// Goes back to the configuration and policies before these; credentials stay as their files say now. `false` where
    /// there are none.
    pub fn roll_back(&self) -> Result<bool, BuildErrors> {
        let went = self.control.roll_back();
        match &went {
            Ok(true) => tracing::info!(generation = self.shared().generation(), "Rolled back"),
            Ok(false) => {}
            Err(errors) => {
                tracing::error!(
                    errors = errors.one_line(),
                    "Rollback refused, the snapshot in force goes on"
                );
            }
        }
        went
    }

    /// Puts the candidate of a policy in force; of the only one that has a candidate, where none is named.
    pub fn promote(&self, policy: Option<&str>) -> Result<Promoted, PromoteError> {
        let promoted = self.control.promote(policy);
        match &promoted {
            Ok(told @ Promoted { policy, revision, former_revision, shown, .. }) => {
                if let Some(warning) = told.warning() {
                    tracing::warn!(policy.id = %policy, warning, "Promoted shadow has only failed");
                }
                let generation = self.shared().generation();
                tracing::info!(policy.id = %policy, from = shown, policy.revision = revision, former_revision, generation, "Shadow promoted");
            }
            Err(error) => tracing::error!(%error, "Promotion refused, the snapshot in force goes on"),
        }
        promoted
    }

    /// Opens decision log files again, after they were renamed.
    pub fn reopen_logs(&self) {
        self.shared().audit.reopen();
    }

    /// The state of the process.
    pub fn shared(&self) -> &Arc<Shared> {
        self.control.shared()
    }

    fn check_health(&self, cluster: &Arc<Cluster>) {
        if cluster.settings().health.is_some() && self.clusters.try_send(Arc::clone(cluster)).is_err() {
            tracing::error!(upstream.id = %cluster.name(), "Health checks not started");
        }
    }
}

fn listen(
    address: SocketAddr,
    what: impl Fn() -> String,
) -> Result<(std::net::TcpListener, SocketAddr), StartError> {
    let open = || -> io::Result<(std::net::TcpListener, SocketAddr)> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = std::net::TcpListener::from(socket);
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    open().map_err(|source| StartError::Listen { address, what: what(), source })
}

/// Runs what no request waits for: accepting, key sets, health checks, reloads, the admin endpoint.
fn control_thread(parts: ControlParts) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("control".to_owned()).spawn(move || {
        LocalSet::new().block_on(&runtime, control(parts));
        // A reload that is still compiling must not hold up the end.
        runtime.shutdown_background();
    })
}

async fn control(parts: ControlParts) {
    let ControlParts { reloader, sockets, admin, queues, mut clusters, mut draining, mut stopped, .. } =
        parts;
    let shared = Arc::clone(reloader.shared());
    tokio::task::spawn_local(parts.keeper.run());
    tokio::task::spawn_local(parts.bundle_refresher.run(Arc::clone(&reloader.control)));
    shared.resources.key_sets.attempted(KEY_SETS).await;
    let metrics = Rc::new(shared.metrics.worker());
    let accepting: Vec<_> = sockets
        .into_iter()
        .enumerate()
        .filter_map(|(index, socket)| {
            let socket = tokio::net::TcpListener::from_std(socket);
            let socket = socket.map_err(|error| tracing::error!(%error, "Cannot accept")).ok()?;
            let accept = accept::run(socket, index, Arc::clone(&shared), Rc::clone(&metrics), queues.clone());
            Some(tokio::task::spawn_local(accept))
        })
        .collect();
    // The workers see the end of their queues when the last acceptor is gone.
    drop(queues);
    if let Some(socket) = admin {
        tokio::task::spawn_local(admin::run(socket, reloader.clone(), draining.clone()));
    }
    let watching = tokio::task::spawn_local(watch_files(reloader));
    loop {
        tokio::select! {
            Some(cluster) = clusters.recv() => {
                tokio::spawn(cluster.health_task());
            }
            _ = draining.wait_for(|drain| drain.has_begun()) => break,
        }
    }
    for task in accepting {
        task.abort();
    }
    watching.abort();
    // An error means that the gateway itself is gone, which is an end too.
    drop(stopped.wait_for(|stopped| *stopped).await);
}

/// Reloads whenever a file that the configuration names has changed since it was last read.
async fn watch_files(reloader: Reloader) {
    let mut watched = reloader.control.watched();
    loop {
        let Watched { seen, enabled } = watched.borrow_and_update().clone();
        if enabled {
            let mut watch = Watch::new(seen);
            tokio::select! {
                () = watch.changed() => {
                    let reloading = reloader.clone();
                    // The outcome is logged and in `/status`; a refused attempt is not repeated until the next change.
                    drop(tokio::task::spawn_blocking(move || reloading.reload()).await);
                }
                changed = watched.changed() => if changed.is_err() { return },
            }
        } else if watched.changed().await.is_err() {
            return;
        }
    }
}
