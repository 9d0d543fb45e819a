//! Asks the servers of bundles again and again, and has new bundles put in force. Runs on the control runtime.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::model::Polling;
use crate::runtime::build_error::with_sources;
use crate::runtime::bundles::archive::Archive;
use crate::runtime::bundles::key::Role;
use crate::runtime::bundles::source::{Asking, Source};
use crate::runtime::control::Control;
use crate::runtime::control::activation::Activation;

/// The first pause after a failed request, unless the shortest delay is shorter; each further one is twice as long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The shortest time between two requests that a server may hold, unless the shortest delay is shorter: one that answers at
/// once all the same must not be asked without end.
const HELD_MIN: Duration = Duration::from_secs(1);

/// Fetches bundles: run [`Refresher::run`] on the control runtime.
#[derive(Debug)]
pub struct Refresher {
    pub(super) opened: mpsc::Receiver<Task>,
}

/// The fetching of one bundle.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) source: Arc<Source>,
    /// Ends when the source is no longer used.
    pub(super) closed: oneshot::Receiver<()>,
}

impl Refresher {
    /// Keeps all bundles fresh; ends with the runtime.
    pub async fn run(mut self, control: Arc<Control>) {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                opened = self.opened.recv() => match opened {
                    Some(task) => { tasks.spawn(task.run(Arc::clone(&control))); }
                    None => return,
                },
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended {
                        control.shared().metrics.task_panicked();
                        tracing::error!(%error, "Bundle refresh ended by a panic");
                    }
                }
            }
        }
    }
}

impl Task {
    async fn run(self, control: Arc<Control>) {
        tokio::select! {
            () = poll(&self.source, &control) => {}
            // An error is how it ends: nothing is ever sent.
            _closed = self.closed => {}
        }
    }
}

/// Asks without end.
async fn poll(source: &Arc<Source>, control: &Arc<Control>) {
    let polling = source.settings().polling;
    let mut failures = u32::from(source.is_unreachable());
    // A snapshot does not wait for a candidate, so that is asked for here first.
    let mut pause = if source.was_asked() {
        pause(polling, failures, source.holds_requests(), Duration::ZERO)
    } else {
        Duration::ZERO
    };
    let mut may_lack = source.key().role == Role::Candidate;
    loop {
        // Ends early where the refused bundle is to be tried again.
        drop(tokio::time::timeout(pause, source.retry_wanted()).await);
        let began = Instant::now();
        let fetched = tokio::select! {
            fetched = source.fetch(Asking::ForChange) => fetched,
            () = source.retry_wanted() => {
                pause = Duration::ZERO;
                continue;
            }
        };
        match fetched {
            Ok(archive) => {
                if failures > 0 {
                    let shadow = source.shadow_mark();
                    tracing::info!(policy.id = %source.policy(), shadow, "Bundle server answers again");
                }
                failures = 0;
                if let Some(archive) = archive {
                    activate(source, control, archive).await;
                }
            }
            Err(fault) => {
                let error = with_sources(&fault);
                let (policy, shadow, url) = (source.policy(), source.shadow_mark(), &source.settings().shown);
                if failures == 0 {
                    tracing::warn!(policy.id = %policy, shadow, url, error, "Bundle not fetched, the last good one goes on");
                } else {
                    tracing::debug!(policy.id = %policy, shadow, error, "Bundle not fetched again");
                }
                failures = failures.saturating_add(1);
            }
        }
        if std::mem::take(&mut may_lack) {
            fall_back(source, control).await;
        }
        pause = self::pause(polling, failures, source.holds_requests(), began.elapsed());
    }
}

/// Takes the persisted candidate where the server has none to give.
async fn fall_back(source: &Arc<Source>, control: &Arc<Control>) {
    if source.key().archive(&control.shared().current().runtime).is_some() {
        return;
    }
    let of = Arc::clone(source);
    let persisted = tokio::task::spawn_blocking(move || of.persisted()).await;
    match persisted {
        Ok(Ok(Some(archive))) => activate(source, control, archive).await,
        Ok(Ok(None)) => {}
        Ok(Err(fault)) => {
            let error = with_sources(&fault);
            tracing::warn!(policy.id = %source.policy(), shadow = true, error, "Persisted bundle not read");
        }
        Err(error) => {
            control.shared().metrics.task_panicked();
            tracing::error!(policy.id = %source.policy(), %error, "Persisted bundle's reading panicked");
        }
    }
}

/// Compiles and tests off the runtime's thread. The outcome is in the source's status.
async fn activate(source: &Arc<Source>, control: &Arc<Control>, archive: Archive) {
    let (of, by, tried) = (Arc::clone(source), Arc::clone(control), archive.clone());
    let activation = tokio::task::spawn_blocking(move || by.activate(&of, &tried)).await;
    let (policy, shadow) = (source.policy(), source.shadow_mark());
    match activation {
        Ok(Ok(Activation::InForce { revision })) => {
            let generation = control.shared().generation();
            tracing::info!(policy.id = %policy, shadow, policy.revision = revision, generation, "Bundle activated");
        }
        Ok(Ok(Activation::Known | Activation::Obsolete | Activation::Unfit)) => {}
        Ok(Err(errors)) => {
            let (errors, url) = (errors.one_line(), &*archive.shown);
            tracing::error!(policy.id = %policy, shadow, url, errors, "Bundle refused, the last good one goes on");
        }
        Err(error) => {
            control.shared().metrics.task_panicked();
            source.refused(&archive, vec!["its activation panicked".to_owned()]);
            tracing::error!(policy.id = %policy, shadow, %error, "Bundle activation panicked, the last good one goes on");
        }
    }
}

/// How long to wait before the next request; the last one took `elapsed`.
fn pause(polling: Polling, failures: u32, held: bool, elapsed: Duration) -> Duration {
    let Polling { min_delay, max_delay, long_polling_timeout: _ } = polling;
    if failures > 0 {
        let doubled = RETRY_AFTER.min(min_delay).saturating_mul(1 << (failures - 1).min(20));
        let longest = doubled.min(max_delay);
        return between(longest / 2, longest);
    }
    if held {
        return HELD_MIN.min(min_delay).saturating_sub(elapsed);
    }
    between(min_delay, max_delay)
}

/// A random duration, so that gateways started together do not ask together for ever.
fn between(shortest: Duration, longest: Duration) -> Duration {
    let mut bytes = [0; 2];
    if rand::fill(&mut bytes).is_err() {
        return longest;
    }
    let share = f64::from(u16::from_be_bytes(bytes)) / f64::from(u16::MAX);
    shortest + longest.saturating_sub(shortest).mul_f64(share)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn polling(min_ms: u64, max_ms: u64) -> Polling {
        Polling {
            min_delay: Duration::from_millis(min_ms),
            max_delay: Duration::from_millis(max_ms),
            long_polling_timeout: None,
        }
    }

    proptest! {
        #[test]
        fn every_pause_is_within_its_bounds(min in 100_u64..100_000, more in 0_u64..100_000, failures: u32) {
            let polling = polling(min, min + more);
            let well = pause(polling, 0, false, Duration::ZERO);
            prop_assert!((polling.min_delay..=polling.max_delay).contains(&well), "{well:?}");
            let ill = pause(polling, failures.max(1), true, Duration::ZERO);
            prop_assert!(ill >= Duration::from_millis(50) && ill <= polling.max_delay, "{ill:?}");
        }
    }

    #[test]
    fn pauses_after_failures_double() {
        let longest = |failures| pause(polling(60_000, 120_000), failures, false, Duration::ZERO);
        for (failures, seconds) in [(1, 1), (2, 2), (5, 16), (8, 120), (u32::MAX, 120)] {
            let limit = Duration::from_secs(seconds);
            assert!((limit / 2..=limit).contains(&longest(failures)), "{failures}");
        }
    }

    #[test]
    fn a_server_that_does_not_hold_requests_is_not_asked_without_end() {
        let at_once = pause(polling(60_000, 120_000), 0, true, Duration::from_millis(10));
        assert_eq!(at_once, Duration::from_millis(990));
        assert_eq!(pause(polling(60_000, 120_000), 0, true, Duration::from_secs(30)), Duration::ZERO);
    }
}
