//! A browser's session as its cookie holds it: who logged in, since when, and with what it is renewed.
//!
//! Pure: reading, writing, and when what is due. Everything in it was sealed by a gateway with the same keys, so reading is strict
//! only to notice formats that are not this one.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::base::json;
use crate::identity::Validity;

const JSON_DEPTH_MAX: usize = 34;

/// How long a session may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lifetimes {
    /// From the login on, whatever happens.
    pub(super) absolute: Duration,
    /// Without a request.
    pub(super) idle: Duration,
}

/// A session. Times are whole seconds since the Unix epoch.
#[derive(Clone, PartialEq)]
pub(super) struct Session {
    /// Random; the same over renewals.
    pub(super) id: String,
    /// The login.
    pub(super) started: u64,
    /// The last request that was noted.
    pub(super) seen: u64,
    /// Counts renewals.
    pub(super) turn: u64,
    /// When the provider is asked again; `None` where there is no refresh token.
    pub(super) renew_at: Option<u64>,
    pub(super) refresh_token: Option<String>,
    /// What was proven of the user: the ID token's claims, and those of the user info endpoint.
    pub(super) claims: Map<String, Value>,
    /// The ID token itself, for the logout at the provider; left out where a cookie has no room.
    pub(super) id_token: Option<String>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("started", &self.started)
            .field("turn", &self.turn)
            .finish_non_exhaustive()
    }
}

// === impl Session ===

impl Session {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut document = json!({
            "id": self.id, "at": self.started, "seen": self.seen, "turn": self.turn, "claims": self.claims,
        });
        if let Some(fields) = document.as_object_mut() {
            let optional = [
                ("renew", self.renew_at.map(Value::from)),
                ("refresh", self.refresh_token.clone().map(Value::from)),
                ("token", self.id_token.clone().map(Value::from)),
            ];
            fields.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        }
        document.to_string().into_bytes()
    }

    pub(super) fn decode(text: &[u8]) -> Option<Self> {
        let Ok(Value::Object(mut document)) = json::parse(text, JSON_DEPTH_MAX) else { return None };
        let number = |document: &Map<String, Value>, name: &str| document.get(name)?.as_u64();
        let (started, seen) = (number(&document, "at")?, number(&document, "seen")?);
        let (turn, renew_at) = (number(&document, "turn")?, number(&document, "renew"));
        let mut text = |name: &str| match document.remove(name) {
            Some(Value::String(text)) => Some(text),
            Some(_) | None => None,
        };
        let (id, refresh_token, id_token) = (text("id")?, text("refresh"), text("token"));
        let Some(Value::Object(claims)) = document.remove("claims") else { return None };
        Some(Self { id, started, seen, turn, renew_at, refresh_token, claims, id_token })
    }

    /// The end that no request puts off.
    pub(super) fn ends(&self, lifetimes: Lifetimes) -> Duration {
        Duration::from_secs(self.started).saturating_add(lifetimes.absolute)
    }

    /// When it holds, should there be no further request. An error where that is over.
    pub(super) fn validity(&self, lifetimes: Lifetimes, now: Duration) -> Result<Validity, Ended> {
        let idle_end = Duration::from_secs(self.seen).saturating_add(lifetimes.idle);
        let until = self.ends(lifetimes).min(idle_end);
        if now < until { Ok(Validity { from: Duration::ZERO, until }) } else { Err(Ended) }
    }

    /// When a request is noted in the cookie again: after a quarter of the idle time, so that few responses carry cookies.
    pub(super) fn note_at(&self, lifetimes: Lifetimes) -> Duration {
        Duration::from_secs(self.seen).saturating_add(lifetimes.idle / 4)
    }

    /// Whether the provider is to be asked again.
    pub(super) fn is_renewal_due(&self, now: Duration) -> bool {
        self.renew_at.is_some_and(|at| now >= Duration::from_secs(at))
    }

    /// The session id of the provider (`sid`, OpenID Connect Front-Channel Logout 1.0).
    pub(super) fn provider_session(&self) -> Option<&str> {
        self.claims.get("sid").and_then(Value::as_str)
    }

    pub(super) fn subject(&self) -> Option<&str> {
        self.claims.get("sub").and_then(Value::as_str)
    }
}

/// The session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended;

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIMES: Lifetimes =
        Lifetimes { absolute: Duration::from_hours(1), idle: Duration::from_mins(10) };

    fn session() -> Session {
        Session {
            id: "abc".to_owned(),
            started: 1_000,
            seen: 1_000,
            turn: 3,
            renew_at: Some(1_300),
            refresh_token: Some("r".to_owned()),
            claims: json!({"sub": "alice", "sid": "s1", "nested": {"a": [1, null]}})
                .as_object()
                .unwrap()
                .clone(),
            id_token: Some("a.b.c".to_owned()),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for session in
            [session(), Session { renew_at: None, refresh_token: None, id_token: None, ..session() }]
        {
            assert_eq!(Session::decode(&session.encode()), Some(session));
        }
        for text in [
            "",
            "{}",
            "[]",
            r#"{"id":"a","at":1,"seen":1,"turn":0}"#,
            r#"{"id":"a","at":-1,"seen":1,"turn":0,"claims":{}}"#,
        ] {
            assert_eq!(Session::decode(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_session_ends_idle_or_old() {
        let at = |seconds| Duration::from_secs(seconds);
        let until =
            |session: &Session, now| session.validity(LIFETIMES, at(now)).map(|validity| validity.until);
        assert_eq!(until(&session(), 1_599), Ok(at(1_600)));
        assert_eq!(until(&session(), 1_600), Err(Ended));
        let busy = Session { seen: 4_500, ..session() };
        assert_eq!(until(&busy, 4_599), Ok(at(4_600)), "no request puts off the absolute end");
        assert_eq!(until(&busy, 4_600), Err(Ended));
        assert_eq!(session().note_at(LIFETIMES), at(1_150));
    }

    #[test]
    fn renewal_is_due_where_it_can_be() {
        assert!(!session().is_renewal_due(Duration::from_secs(1_299)));
        assert!(session().is_renewal_due(Duration::from_secs(1_300)));
        let without = Session { renew_at: None, ..session() };
        assert!(!without.is_renewal_due(Duration::MAX));
    }

    #[test]
    fn nothing_of_it_is_shown() {
        let shown = format!("{:?}", session());
        assert!(!shown.contains("alice") && !shown.contains("a.b.c"), "{shown}");
    }
}
