//! Work that workers hand to the control runtime.

use std::fmt;
use std::pin::Pin;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Tasks that may wait to be taken up; beyond that they are refused.
const WAITING_MAX: usize = 4096;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Hands out work. Cheap to clone.
#[derive(Clone)]
pub struct Tasks(mpsc::Sender<Task>);

/// Does the work: run [`Runner::run`] on the control runtime.
pub struct Runner(mpsc::Receiver<Task>);

impl Tasks {
    /// No work yet, and what will do it.
    pub fn new() -> (Self, Runner) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self(sender), Runner(receiver))
    }

    /// Hands `task` over; `false` where nobody will do it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        self.0.try_send(Box::pin(task)).is_ok()
    }
}

impl Runner {
    /// Does all work side by side until every [`Tasks`] is dropped.
    pub async fn run(mut self) {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                task = self.0.recv() => match task {
                    Some(task) => { tasks.spawn(task); }
                    None => return,
                },
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "A question to an identity server ended by a panic");
                    }
                }
            }
        }
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tasks")
    }
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runner")
    }
}
