//! Sessions that were ended before their time: by a logout here, or by the provider (OpenID Connect Back-Channel Logout 1.0).
//!
//! Kept in memory, shared by all workers, over reloads, until the sessions would have ended anyway. Bounded: where there would be
//! too many, all sessions that have begun so far are ended at once. That is a nuisance, and nobody is let in by it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::session::Session;
use crate::identity::digest::{Sha256, sha256};

/// Ended sessions and subjects that are remembered.
const ENTRIES_MAX: usize = 100_000;

/// Logins that are remembered, so that none is completed twice.
const LOGINS_MAX: usize = 10_000;

/// Whose sessions are ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Whose<'a> {
    /// The one with the gateway's id.
    Session(&'a str),
    /// Those of a session at the provider.
    ProviderSession(&'a str),
    /// All of a user.
    Subject(&'a str),
}

/// What was ended.
#[derive(Debug)]
pub(super) struct Revocations {
    ended: Mutex<Ended>,
    /// Counts what was ended, so that what was proven before is proven again.
    revision: AtomicU64,
    entries_max: usize,
}

#[derive(Debug, Default)]
struct Ended {
    by_name: HashMap<Sha256, Entry>,
    /// Sessions that have begun at this second or before are over.
    floor: Option<u64>,
    logins: VecDeque<Sha256>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Sessions that have begun at this second or before.
    begun: u64,
    /// When the entry is not needed any more.
    until: Duration,
}

// === impl Revocations ===

impl Revocations {
    pub(super) fn new() -> Self {
        Self::bounded(ENTRIES_MAX)
    }

    fn bounded(entries_max: usize) -> Self {
        Self { ended: Mutex::default(), revision: AtomicU64::new(0), entries_max }
    }

    /// Ends the sessions that have begun by `now` and can last for `lifetime`.
    pub(super) fn end(&self, whose: Whose<'_>, now: Duration, lifetime: Duration) {
        let entry = Entry { begun: now.as_secs(), until: now.saturating_add(lifetime) };
        let mut ended = self.ended();
        if ended.by_name.len() >= self.entries_max {
            ended.by_name.retain(|_, entry| entry.until > now);
        }
        if ended.by_name.len() >= self.entries_max {
            tracing::error!("Too many ended sessions to remember: all sessions are ended");
            ended.by_name.clear();
            ended.floor = Some(now.as_secs());
        } else {
            ended.by_name.insert(whose.digest(), entry);
        }
        drop(ended);
        self.revision.fetch_add(1, Ordering::Release);
    }

    /// Whether the session was ended.
    pub(super) fn has_ended(&self, session: &Session) -> bool {
        let names = [
            Some(Whose::Session(&session.id)),
            session.provider_session().map(Whose::ProviderSession),
            session.subject().map(Whose::Subject),
        ];
        let names: Vec<Sha256> = names.into_iter().flatten().map(Whose::digest).collect();
        let ended = self.ended();
        ended.floor.is_some_and(|floor| session.started <= floor)
            || names
                .iter()
                .filter_map(|name| ended.by_name.get(name))
                .any(|entry| session.started <= entry.begun)
    }

    /// Notes that the login with this state is complete. Says whether it was the first time.
    pub(super) fn complete_login(&self, state: &str) -> bool {
        let digest = sha256(state.as_bytes());
        let mut ended = self.ended();
        if ended.logins.contains(&digest) {
            return false;
        }
        if ended.logins.len() >= LOGINS_MAX {
            ended.logins.pop_front();
        }
        ended.logins.push_back(digest);
        true
    }

    /// Changes whenever sessions are ended.
    pub(super) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    fn ended(&self) -> MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Whose ===

impl Whose<'_> {
    fn digest(self) -> Sha256 {
        let (kind, name) = match self {
            Self::Session(name) => ("session", name),
            Self::ProviderSession(name) => ("sid", name),
            Self::Subject(name) => ("sub", name),
        };
        sha256(format!("{kind}\0{name}").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LIFETIME: Duration = Duration::from_secs(100);

    fn session(id: &str, started: u64) -> Session {
        Session {
            id: id.to_owned(),
            started,
            seen: started,
            turn: 0,
            renew_at: None,
            refresh_token: None,
            claims: json!({"sub": "alice", "sid": "s1"}).as_object().unwrap().clone(),
            id_token: None,
        }
    }

    #[test]
    fn a_session_is_ended_by_each_of_its_names() {
        for whose in [Whose::Session("a"), Whose::ProviderSession("s1"), Whose::Subject("alice")] {
            let revocations = Revocations::new();
            assert!(!revocations.has_ended(&session("a", 10)));
            let before = revocations.revision();
            revocations.end(whose, Duration::from_secs(20), LIFETIME);
            assert!(revocations.has_ended(&session("a", 10)), "{whose:?}");
            assert!(revocations.has_ended(&session("a", 20)), "in doubt it is ended");
            assert!(!revocations.has_ended(&session("a", 21)), "a later login is another session");
            assert_ne!(revocations.revision(), before);
        }
        let revocations = Revocations::new();
        for whose in [Whose::Session("s1"), Whose::ProviderSession("alice"), Whose::Subject("a")] {
            revocations.end(whose, Duration::from_secs(20), LIFETIME);
        }
        assert!(!revocations.has_ended(&session("a", 10)), "names of one kind are no names of another");
    }

    #[test]
    fn where_there_are_too_many_all_are_ended() {
        let revocations = Revocations::bounded(2);
        let at = Duration::from_secs;
        revocations.end(Whose::Session("x"), at(10), LIFETIME);
        revocations.end(Whose::Session("y"), at(10), LIFETIME);
        revocations.end(Whose::Session("z"), at(111), LIFETIME);
        assert!(!revocations.has_ended(&session("other", 50)), "what is not needed any more makes room");
        revocations.end(Whose::Session("v"), at(112), LIFETIME);
        revocations.end(Whose::Session("w"), at(113), LIFETIME);
        assert!(revocations.has_ended(&session("other", 113)));
        assert!(!revocations.has_ended(&session("other", 114)));
    }

    #[test]
    fn a_login_is_completed_once() {
        let revocations = Revocations::new();
        assert!(revocations.complete_login("s"));
        assert!(!revocations.complete_login("s"));
        assert!(revocations.complete_login("t"));
    }
}
