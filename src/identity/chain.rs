//! A route's providers, tried in order.
//!
//! The first proven identity wins, no credential at all is anonymous, and a bad credential ends the search: it is never
//! passed over in favour of another one or of nobody.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::contract::decision::FoldedNames;
use crate::contract::identity::{Failure, Identity};
use crate::identity::cache::{Key, WorkerCache};
use crate::identity::digest::{Sha256, sha256};
use crate::identity::provider::Provider;
use crate::identity::{Answer, Presented, Proof, Rejection, Verdict};

/// The longest wait for a provider that cannot answer at once; providers have shorter bounds of their own.
const PATIENCE: Duration = Duration::from_secs(5);

/// A provider did not answer within [`PATIENCE`].
const TIMED_OUT: &str = "provider_timeout";

/// The providers of an API or route, immutable.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    providers: Vec<Arc<Provider>>,
    withheld: FoldedNames,
}

/// Who asks.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// No credential of any provider's kind was presented.
    Anonymous,
    /// A provider vouches for this identity.
    Proven(Arc<Identity>),
    /// A credential was presented and is bad: 401, or a fact for the policy.
    Refused(Refusal),
    /// A credential was presented and nobody can judge it at present: 503.
    Unavailable(Failure),
}

/// A refused credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Who refused it and why.
    pub failure: Failure,
    /// For `WWW-Authenticate`.
    pub challenge: HeaderValue,
}

/// A credential that its provider left to others.
struct Orphan {
    digest: Sha256,
    refusal: Refusal,
}

impl Chain {
    /// The chain of these providers.
    pub fn new(providers: Vec<Arc<Provider>>) -> Self {
        let withheld = providers.iter().map(|provider| &provider.authenticator);
        let withheld = withheld.filter(|authenticator| !authenticator.forwards_credential());
        let withheld: Vec<_> = withheld.filter_map(|authenticator| authenticator.header().cloned()).collect();
        Self { withheld: FoldedNames::new(&withheld), providers }
    }

    /// Whether everyone is anonymous.
    pub fn is_empty(&self) -> bool {
        self.providers.is_empty()
    }

    /// The `WWW-Authenticate` challenges for a request without credentials, one for each provider.
    pub fn challenges(&self) -> impl Iterator<Item = HeaderValue> {
        self.providers.iter().map(|provider| provider.authenticator.challenge())
    }

    /// The headers that the upstream does not get: those of providers that say so, whichever proves the identity.
    pub fn withheld_headers(&self) -> &FoldedNames {
        &self.withheld
    }

    /// Finds out who asks. Returns without waiting unless a provider has to wait for another machine.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn authenticate(&self, presented: &Presented<'_>, cache: &WorkerCache) -> Outcome {
        let mut orphan: Option<Orphan> = None;
        for provider in &self.providers {
            let credential = match provider.authenticator.find(presented) {
                Ok(None) => continue,
                Ok(Some(credential)) => credential,
                Err(rejection) => return Outcome::Refused(refusal(provider, rejection)),
            };
            let digest = sha256(&credential);
            // A foreign credential must be proven itself; that another one is good does not make it good.
            if orphan.as_ref().is_some_and(|orphan| orphan.digest != digest) {
                continue;
            }
            let key = Key { provider: provider.id, digest };
            if let Some(identity) = cache.get(&key, provider.authenticator.revision(), presented) {
                return Outcome::Proven(identity);
            }
            let verdict = match provider.authenticator.verify(&credential, presented) {
                Answer::Settled(verdict) => verdict,
                Answer::Pending(future) => match tokio::time::timeout(PATIENCE, future).await {
                    Ok(verdict) => verdict,
                    Err(_) => Verdict::Unavailable(TIMED_OUT),
                },
            };
            match verdict {
                Verdict::Proven(proof) => {
                    return Outcome::Proven(remember(cache, key, provider, *proof, credential.len()));
                }
                Verdict::Foreign(rejection) => {
                    let refusal = refusal(provider, rejection);
                    orphan.get_or_insert(Orphan { digest, refusal });
                }
                Verdict::Refused(rejection) => return Outcome::Refused(refusal(provider, rejection)),
                Verdict::Unavailable(reason) => return Outcome::Unavailable(failure(provider, reason)),
            }
        }
        orphan.map_or(Outcome::Anonymous, |orphan| Outcome::Refused(orphan.refusal))
    }
}

fn remember(
    cache: &WorkerCache,
    key: Key,
    provider: &Provider,
    mut proof: Proof,
    length: usize,
) -> Arc<Identity> {
    let mut facts = std::mem::take(&mut proof.facts);
    facts.provider = Some(Arc::clone(&provider.name));
    let identity = Arc::new(Identity::authenticated(facts));
    cache.insert(key, &identity, proof, length);
    identity
}

fn failure(provider: &Provider, reason: &'static str) -> Failure {
    Failure { provider: Arc::clone(&provider.name), reason }
}

fn refusal(provider: &Provider, rejection: Rejection) -> Refusal {
    Refusal { failure: failure(provider, rejection.reason), challenge: rejection.challenge }
}
