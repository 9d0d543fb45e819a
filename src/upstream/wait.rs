//! How long an exchange waits for its response's head.

use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::upstream::error::UpstreamError;
use crate::upstream::outgoing::{Stage, Upload};
use crate::upstream::watchdog::{Watchdog, after};
use crate::upstream::worker::WorkerEndpoint;

/// The deadlines of one exchange. Its timer is only touched when there is something to wait for.
#[derive(Debug)]
pub(crate) struct HeadWait {
    endpoint: Rc<WorkerEndpoint>,
    started: Instant,
    response_timeout: Duration,
    deadline: Option<Instant>,
    upload: Option<Rc<Upload>>,
    watchdog: Option<Watchdog>,
}

/// What happens when a deadline passes.
#[derive(Debug, Clone, Copy)]
enum Expiry {
    /// The upstream is too slow.
    Response,
    /// The request is.
    Overall,
    /// The client is being waited for: look again later.
    Recheck,
}

impl HeadWait {
    /// The waits of an exchange that starts at `started`.
    pub(crate) fn new(
        endpoint: &Rc<WorkerEndpoint>,
        started: Instant,
        response_timeout: Duration,
        deadline: Option<Instant>,
        upload: Option<Rc<Upload>>,
    ) -> Self {
        let endpoint = Rc::clone(endpoint);
        Self { endpoint, started, response_timeout, deadline, upload, watchdog: None }
    }

    /// Ready when the wait is over without a head.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<UpstreamError> {
        loop {
            let (by, expiry) = self.next();
            let watchdog = self.watchdog.get_or_insert_with(|| self.endpoint.watchdog(by));
            ready!(watchdog.poll(cx, by));
            match expiry {
                Expiry::Response => return Poll::Ready(UpstreamError::ResponseTimeout),
                Expiry::Overall => return Poll::Ready(UpstreamError::DeadlineExceeded),
                Expiry::Recheck => {}
            }
            // The upload may have moved while the timer of an older deadline ran.
        }
    }

    /// Whether the request's own body has failed.
    pub(crate) fn request_body_failed(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.stage() == Stage::Failed)
    }

    /// Whether all of the request has been handed over.
    pub(crate) fn request_sent(&self) -> bool {
        self.upload.as_ref().is_none_or(|upload| upload.stage() == Stage::Sent)
    }

    /// The timer, for what comes after the head.
    pub(crate) fn take_watchdog(&mut self) -> Option<Watchdog> {
        self.watchdog.take()
    }

    fn next(&self) -> (Instant, Expiry) {
        let (by, expiry) = match &self.upload {
            None => (after(self.started, self.response_timeout), Expiry::Response),
            Some(upload) => match upload.stage() {
                Stage::Client => (after(Instant::now(), self.response_timeout), Expiry::Recheck),
                Stage::Upstream | Stage::Sent | Stage::Failed => {
                    (after(upload.moved(), self.response_timeout), Expiry::Response)
                }
            },
        };
        match self.deadline {
            Some(deadline) if deadline <= by => (deadline, Expiry::Overall),
            Some(_) | None => (by, expiry),
        }
    }
}

impl Drop for HeadWait {
    fn drop(&mut self) {
        if let Some(watchdog) = self.watchdog.take() {
            self.endpoint.keep(watchdog);
        }
    }
}
