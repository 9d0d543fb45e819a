//! What the sessions of one client share over all workers and reloads: which have been ended, and which are being renewed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::revocation::Revocations;
use super::session::Session;
use crate::identity::digest::{Sha256, sha256};

/// Renewals that are under way or remembered.
const RENEWALS_MAX: usize = 4_096;

/// How long a renewed session is kept for requests that still bring the former cookie: their refresh token is used up.
const KEPT: Duration = Duration::from_mins(10);

/// After a renewal to which the provider gave no answer, it is not asked again about the session for so long.
const PAUSE: Duration = Duration::from_secs(3);

/// All clients' states that are in use.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<HashMap<(String, String), Weak<State>>>);

/// One client's state.
#[derive(Debug)]
pub(super) struct State {
    pub(super) revocations: Revocations,
    renewals: Mutex<HashMap<Sha256, Flight>>,
}

#[derive(Debug)]
struct Flight {
    landed: watch::Receiver<Option<Renewal>>,
    begun: Duration,
}

/// What came of asking the provider about a session.
#[derive(Debug, Clone)]
pub(super) enum Renewal {
    /// It goes on as this one.
    Renewed(Arc<Session>),
    /// The provider has ended it.
    Ended,
    /// The provider did not answer; the session is as good as it was.
    Unanswered {
        /// The provider is not asked again before.
        until: Duration,
    },
}

/// What to do about a session that is to be renewed.
pub(super) enum Step {
    /// This came of it.
    Done(Renewal),
    /// It is being renewed.
    Join(watch::Receiver<Option<Renewal>>),
    /// It is to be renewed, and the outcome told here.
    Ask(watch::Sender<Option<Renewal>>, watch::Receiver<Option<Renewal>>),
}

// === impl Sessions ===

impl Sessions {
    /// The state of an issuer's client.
    pub(super) fn open(&self, issuer: &str, client_id: &str) -> Arc<State> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, state| state.strong_count() > 0);
        let key = (issuer.to_owned(), client_id.to_owned());
        if let Some(state) = open.get(&key).and_then(Weak::upgrade) {
            return state;
        }
        let state = Arc::new(State { revocations: Revocations::new(), renewals: Mutex::default() });
        open.insert(key, Arc::downgrade(&state));
        state
    }
}

// === impl State ===

impl State {
    /// Whether to renew `session`: one request does, the others wait for it.
    pub(super) fn renewal(&self, session: &Session, now: Duration) -> Step {
        let key = key(session);
        let mut renewals = self.renewals();
        if let Some(flight) = renewals.get(&key) {
            let landed = flight.landed.borrow().clone();
            match landed {
                Some(Renewal::Unanswered { until }) if now >= until => {}
                Some(landed) => return Step::Done(landed),
                // One whose task was dropped will never land.
                None if flight.landed.has_changed().is_err() => {}
                None => return Step::Join(flight.landed.clone()),
            }
        }
        if renewals.len() >= RENEWALS_MAX {
            renewals.retain(|_, flight| now < flight.begun.saturating_add(KEPT));
        }
        if renewals.len() >= RENEWALS_MAX {
            return Step::Done(Renewal::Unanswered { until: pause(now) });
        }
        let (sender, landed) = watch::channel(None);
        renewals.insert(key, Flight { landed: landed.clone(), begun: now });
        Step::Ask(sender, landed)
    }

    fn renewals(&self) -> MutexGuard<'_, HashMap<Sha256, Flight>> {
        self.renewals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a provider that did not answer at `now` is asked again.
pub(super) fn pause(now: Duration) -> Duration {
    now.saturating_add(PAUSE)
}

fn key(session: &Session) -> Sha256 {
    sha256(format!("{}\0{}", session.id, session.turn).as_bytes())
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    fn session(turn: u64) -> Session {
        Session {
            id: "a".to_owned(),
            started: 0,
            seen: 0,
            turn,
            renew_at: Some(0),
            refresh_token: Some("r".to_owned()),
            claims: Map::new(),
            id_token: None,
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn one_request_renews_and_the_others_wait() {
        let state = Sessions::default().open("i", "c");
        let Step::Ask(sender, _) = state.renewal(&session(0), at(0)) else { panic!() };
        assert!(matches!(state.renewal(&session(0), at(1)), Step::Join(_)));
        assert!(
            matches!(state.renewal(&session(1), at(1)), Step::Ask(..)),
            "a later turn is another renewal"
        );
        sender.send(Some(Renewal::Renewed(Arc::new(session(1))))).unwrap();
        assert!(matches!(state.renewal(&session(0), at(500)), Step::Done(Renewal::Renewed(_))));
    }

    #[test]
    fn no_answer_is_asked_for_again_after_a_pause() {
        let state = Sessions::default().open("i", "c");
        let Step::Ask(sender, _) = state.renewal(&session(0), at(0)) else { panic!() };
        sender.send(Some(Renewal::Unanswered { until: pause(at(0)) })).unwrap();
        assert!(matches!(state.renewal(&session(0), at(2)), Step::Done(Renewal::Unanswered { .. })));
        assert!(matches!(state.renewal(&session(0), at(3)), Step::Ask(..)));
    }

    #[test]
    fn a_renewal_that_was_dropped_is_begun_anew() {
        let state = Sessions::default().open("i", "c");
        drop(state.renewal(&session(0), at(0)));
        assert!(matches!(state.renewal(&session(0), at(0)), Step::Ask(..)));
    }

    #[test]
    fn states_are_shared_as_long_as_they_are_used() {
        let sessions = Sessions::default();
        let state = sessions.open("i", "c");
        assert!(Arc::ptr_eq(&state, &sessions.open("i", "c")));
        assert!(!Arc::ptr_eq(&state, &sessions.open("i", "other")));
    }
}
