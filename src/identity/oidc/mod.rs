//! `type: oidc`: browsers that log in at an OpenID provider (OpenID Connect Core 1.0, authorization code flow with PKCE).
//!
//! The gateway keeps no table of sessions: a session is in the browser's cookie, sealed (`seal`) and bound to listener, host and
//! provider. What must be known beside it is small and bounded ([`state`]): sessions that were ended before their time, and
//! renewals under way. [`Oidc`] proves who a cookie stands for; [`party`] logs in and out.
//!
//! Written on the same pieces as bearer tokens rather than on a library: those read tokens leniently where `jwt` is strict,
//! bring their own HTTP client, and leave cookies, sessions, renewals and logouts to their user.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::error::Unspecified;
use http::{HeaderName, HeaderValue};
use tokio::sync::watch;

use crate::config::model::{Name, OidcProvider};
use crate::fetch::credentials::CredentialsError;
use crate::identity::jwt::key_sets::OpenError;
use crate::identity::oidc::party::{Failure, RelyingParty};
use crate::identity::oidc::session::Session;
use crate::identity::oidc::state::{Renewal, Step};
use crate::identity::oidc::visit::{Setter, Visit};
use crate::identity::resources::Resources;
use crate::identity::{Answer, Authenticator, Presented, Proof, Rejection, Validity, Verdict};

mod cookie;
mod id_token;
mod login;
pub mod party;
mod renewal;
mod revocation;
mod seal;
mod session;
pub mod state;
mod token;
pub mod visit;

/// The longest that a request waits for its session's renewal; without an answer the session is as good as it was.
const RENEWAL_WAIT_MAX: Duration = Duration::from_secs(4);

/// A proof that rests on a cookie which is to be replaced is looked at again after this, for the browser may not take the new
/// one.
const RECHECK: Duration = Duration::from_secs(5);

/// There is no scheme of RFC 9110 for a browser's session; this is its customary name.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Cookie");

/// A cookie of a session that is none: changed, cut, another host's, sealed with a key that is not used any more.
const BAD: &str = "bad_session";

/// It has lasted as long as it may.
const EXPIRED: &str = "session_expired";

/// The user or the provider has ended it.
const ENDED: &str = "session_ended";

/// A page of another origin may have sent the request.
const CROSS_SITE: &str = "cross_site_request";

/// Why the provider cannot run.
#[derive(Debug, thiserror::Error)]
pub enum OidcFault {
    /// Its client cannot be made.
    #[error(transparent)]
    Client(#[from] CredentialsError),
    /// Its keys cannot be had.
    #[error(transparent)]
    Keys(#[from] OpenError),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandom,
}

impl From<Unspecified> for OidcFault {
    fn from(_: Unspecified) -> Self {
        Self::NoRandom
    }
}

/// Proves the sessions of browsers.
#[derive(Debug)]
pub struct Oidc {
    party: Arc<RelyingParty>,
}

impl Oidc {
    /// The provider `name` as configured. Does not wait for the network.
    pub fn open(name: &Name, config: &OidcProvider, resources: &Resources) -> Result<Self, OidcFault> {
        Ok(Self { party: Arc::new(RelyingParty::open(name, config, resources)?) })
    }

    fn judge(&self, visit: &Visit, now: Duration) -> Result<Session, &'static str> {
        let session = self.party.session(visit).ok_or(BAD)?;
        self.party.check(&session, now)?;
        Ok(session)
    }
}

impl Authenticator for Oidc {
    fn header(&self) -> Option<&HeaderName> {
        None
    }

    fn challenge(&self) -> HeaderValue {
        CHALLENGE
    }

    fn find<'r>(&self, presented: &Presented<'r>) -> Result<Option<Cow<'r, [u8]>>, Rejection> {
        let Some(visit) = presented.target.visit else { return Ok(None) };
        match self.party.credential(visit) {
            Ok(None) => Ok(None),
            Ok(Some(_)) if self.party.config().session.require_same_origin && visit.is_forgeable() => {
                Err(rejection(CROSS_SITE))
            }
            Ok(Some(credential)) => Ok(Some(Cow::Owned(credential))),
            Err(cookie::Repeated) => Err(rejection("several_credentials")),
        }
    }

    fn verify(&self, _credential: &[u8], presented: &Presented<'_>) -> Answer {
        let refused = |reason| Answer::Settled(Verdict::Refused(rejection(reason)));
        let Some(visit) = presented.target.visit else { return refused(BAD) };
        let now = presented.now;
        // Before anything is judged by it: what is ended meanwhile is then judged again.
        let revision = self.revision();
        let session = match self.judge(visit, now) {
            Ok(session) => session,
            Err(reason) => return refused(reason),
        };
        let bearer = Bearer {
            party: Arc::clone(&self.party),
            place: self.party.place(visit),
            setter: visit.setter(),
            now,
            revision,
        };
        if !session.is_renewal_due(now) {
            return Answer::Settled(bearer.conclude(session, false, None));
        }
        let landed = match self.party.state().renewal(&session, now) {
            Step::Done(renewal) => return Answer::Settled(bearer.renewed(session, renewal)),
            Step::Join(landed) => landed,
            Step::Ask(sender, landed) => {
                if !self.party.renew(session.clone(), sender) {
                    return Answer::Settled(bearer.conclude(session, false, Some(state::pause(now))));
                }
                landed
            }
        };
        Answer::Pending(Box::pin(async move {
            let renewal = waited(landed, now).await;
            bearer.renewed(session, renewal)
        }))
    }

    fn revision(&self) -> u64 {
        self.party.state().revocations.revision()
    }

    fn relying_party(&self) -> Option<&Arc<RelyingParty>> {
        Some(&self.party)
    }
}

async fn waited(mut landed: watch::Receiver<Option<Renewal>>, now: Duration) -> Renewal {
    let unanswered = Renewal::Unanswered { until: state::pause(now) };
    match tokio::time::timeout(RENEWAL_WAIT_MAX, landed.wait_for(Option::is_some)).await {
        Ok(Ok(landed)) => landed.clone().unwrap_or(unanswered),
        Ok(Err(_)) | Err(_) => unanswered,
    }
}

/// A request that bears a good session.
struct Bearer {
    party: Arc<RelyingParty>,
    place: party::Bound,
    setter: Setter,
    now: Duration,
    /// What was ended when the session was judged.
    revision: u64,
}

impl Bearer {
    fn renewed(&self, session: Session, renewal: Renewal) -> Verdict {
        match renewal {
            Renewal::Renewed(next) => match self.party.check(&next, self.now) {
                Ok(()) => self.conclude((*next).clone(), true, None),
                Err(reason) => Verdict::Refused(rejection(reason)),
            },
            Renewal::Ended => Verdict::Refused(rejection(ENDED)),
            Renewal::Unanswered { until } => self.conclude(session, false, Some(until)),
        }
    }

    /// The identity of a session; its cookie is set anew where it has changed or where the request is to be noted in it.
    /// `ask_at` is when a provider that did not answer is asked again.
    fn conclude(&self, mut session: Session, has_changed: bool, ask_at: Option<Duration>) -> Verdict {
        let revision = self.revision;
        let lifetimes = self.party.lifetimes();
        let is_noted = self.now >= session.note_at(lifetimes);
        if is_noted {
            session.seen = self.now.as_secs();
        }
        let Ok(validity) = session.validity(lifetimes, self.now) else {
            return Verdict::Refused(rejection(EXPIRED));
        };
        let mut until = validity.until.min(session.note_at(lifetimes));
        if let Some(renew_at) = session.renew_at {
            until = until.min(ask_at.unwrap_or(Duration::from_secs(renew_at)));
        }
        if has_changed || is_noted {
            if let Some(cookies) = self.party.set_session(&self.place, &mut session, self.now) {
                self.setter.set(cookies);
            }
            // Whoever brings the former cookie is to get the new one, so nobody remembers what the former one proves.
            let recheck = if has_changed { self.now } else { self.now.saturating_add(RECHECK) };
            until = until.min(recheck);
        }
        let ends = session.ends(lifetimes);
        let facts = self.party.facts(session.claims, Some(ends));
        match facts {
            Ok(facts) => {
                let validity = Validity {
                    until: until.max(self.now.saturating_add(Duration::from_nanos(1))),
                    ..validity
                };
                Verdict::Proven(Box::new(Proof { facts, validity, binding: None, revision }))
            }
            Err(Failure::Refused(reason) | Failure::Unavailable(reason)) => {
                Verdict::Refused(rejection(reason))
            }
        }
    }
}

fn rejection(reason: &'static str) -> Rejection {
    Rejection::plain(reason, CHALLENGE)
}
