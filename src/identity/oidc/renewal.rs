//! Renewing a session: the provider is asked with the refresh token whether the user is still there (RFC 6749 section 6, OpenID
//! Connect Core 1.0 section 12).
//!
//! A provider that says no ends the session. One that does not answer changes nothing: the session lasts until its own end.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use tokio::sync::watch;

use super::id_token::Login;
use super::party::{Failure, RelyingParty};
use super::session::Session;
use super::state::{Renewal, pause};
use super::token::Tokens;

impl RelyingParty {
    /// Renews `session` on the control runtime, to its end whoever still waits, and tells the outcome. `false` where nobody will
    /// do it.
    pub(super) fn renew(self: &Arc<Self>, session: Session, outcome: watch::Sender<Option<Renewal>>) -> bool {
        let party = Arc::clone(self);
        self.tasks().spawn(async move {
            let renewal = match party.ask_again(&session).await {
                Ok(renewed) => Renewal::Renewed(Arc::new(renewed)),
                Err(Failure::Refused(reason)) => {
                    tracing::debug!(provider = %party.name(), reason, "Session ended by its provider");
                    Renewal::Ended
                }
                Err(Failure::Unavailable(reason)) => {
                    tracing::warn!(provider = %party.name(), reason, "Session not renewed");
                    Renewal::Unanswered { until: pause(party.now()) }
                }
            };
            // Everyone who waited may have gone.
            drop(outcome.send(Some(renewal)));
        })
    }

    async fn ask_again(&self, session: &Session) -> Result<Session, Failure> {
        let endpoint = self.token_endpoint().await?;
        let refresh_token = session.refresh_token.as_deref().unwrap_or_default();
        let form = [("grant_type", "refresh_token"), ("refresh_token", refresh_token)];
        let answered = self.client().post(&endpoint, &form).await.map_err(Failure::of)?;
        if answered.status != StatusCode::OK {
            return Err(match answered.error() {
                Some("invalid_grant") => Failure::Refused("invalid_grant"),
                // The gateway's own fault, or the provider's: it says nothing about the user.
                Some(_) | None => Failure::Unavailable("oidc_token_refused"),
            });
        }
        let tokens = Tokens::read(&answered.document).map_err(|_| Failure::Unavailable("oidc_malformed"))?;
        let mut next = session.clone();
        next.turn += 1;
        next.renew_at = Some(self.now().saturating_add(tokens.lifetime).as_secs());
        if let Some(id_token) = &tokens.id_token {
            let login = Login { nonce: None, access_token: &tokens.access_token };
            let claims = self.verified(id_token, login).await?;
            // OpenID Connect Core 1.0 section 12.2: the same user.
            if claims.get("sub") != session.claims.get("sub") {
                return Err(Failure::Refused("oidc_other_subject"));
            }
            next.claims = claims;
            // A session at the provider keeps its name, whether or not each token says it.
            for name in ["sid", "nonce"] {
                if let (false, Some(value)) = (next.claims.contains_key(name), session.claims.get(name)) {
                    next.claims.insert(name.to_owned(), value.clone());
                }
            }
            next.id_token.clone_from(&tokens.id_token);
        }
        if self.config().user_info {
            // The refresh token is used up already: an outage of this endpoint alone must not cost the session.
            match self.user_info(&tokens.access_token, &next.claims).await {
                Ok(claims) => next.claims = claims,
                Err(Failure::Refused(reason)) => return Err(Failure::Refused(reason)),
                Err(Failure::Unavailable(_)) => {
                    for (name, value) in &session.claims {
                        next.claims.entry(name.clone()).or_insert_with(|| Value::clone(value));
                    }
                }
            }
        }
        self.facts(next.claims.clone(), None)?;
        if tokens.refresh_token.is_some() {
            next.refresh_token = tokens.refresh_token;
        }
        Ok(next)
    }

    pub(super) fn now(&self) -> Duration {
        self.clock().now()
    }
}
