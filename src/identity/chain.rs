//! A route's providers, tried in order.
//!
//! One of two rules holds. `any`: the first proven identity wins. `all`: each provider must prove one, and the policy sees
//! all of them. Under both, no credential at all is anonymous, and a bad credential ends the search: it is never passed
//! over in favour of another one or of nobody.
//!
//! What directories add to a proven identity is looked up once, when it is proven, and remembered with it.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use crate::config::model::Require;
use crate::contract::decision::FoldedNames;
use crate::contract::identity::{Facts, Failure, Identity};
use crate::identity::binding::{Binding, NotHeld};
use crate::identity::cache::{Key, Remembered, WorkerCache};
use crate::identity::digest::{Sha256, sha256};
use crate::identity::oidc::party::RelyingParty;
use crate::identity::provider::{Provider, Role, next_id};
use crate::identity::{
    Answer, Authenticator, Enricher, Presented, Proof, Rejection, Reply, Validity, Verdict,
};

/// The longest wait of a request for all its providers together; they have shorter bounds of their own.
const PATIENCE: Duration = Duration::from_secs(5);

/// The providers did not answer within [`PATIENCE`].
const TIMED_OUT: &str = "provider_timeout";

/// Some of the identities that are all required were proven, and this one's credential was not given.
const MISSING: &str = "missing_credential";

/// The providers of an API or route, immutable.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    links: Vec<Link>,
    enrichers: Vec<Arc<Provider>>,
    require: Require,
    /// What all identities together are remembered by.
    combined: u64,
    withheld: FoldedNames,
}

/// A provider that proves identities.
#[derive(Debug, Clone)]
struct Link {
    provider: Arc<Provider>,
    /// What its proofs are remembered by: its own number, or one of this chain where enrichers add to them.
    id: u64,
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
    /// What the client gets in place of the gateway's own answer.
    pub reply: Option<Arc<Reply>>,
}

/// A credential that its provider left to others.
struct Orphan {
    digest: Sha256,
    refusal: Refusal,
}

/// What one provider makes of a request.
enum Found {
    Absent,
    Proven(Proven),
    Foreign(Orphan),
    Ended(Outcome),
}

/// An identity and what it rests on.
struct Proven {
    identity: Arc<Identity>,
    validity: Validity,
    digest: Sha256,
    revision: u64,
}

/// One request at its chain.
struct Attempt<'a> {
    presented: &'a Presented<'a>,
    cache: &'a WorkerCache,
    /// Set when the first provider is waited for.
    deadline: Option<Instant>,
}

// === impl Chain ===

impl Chain {
    /// The chain of these providers, of which one must prove an identity.
    pub fn new(providers: Vec<Arc<Provider>>) -> Self {
        Self::requiring(Require::Any, providers)
    }

    /// The chain of these providers.
    pub fn requiring(require: Require, providers: Vec<Arc<Provider>>) -> Self {
        let (enrichers, providers): (Vec<_>, Vec<_>) =
            providers.into_iter().partition(|provider| matches!(provider.role, Role::Enriches(_)));
        let withheld = providers.iter().filter_map(|provider| provider.authenticator());
        let withheld = withheld.filter(|authenticator| !authenticator.forwards_credential());
        let withheld =
            withheld.flat_map(|authenticator| [authenticator.header(), authenticator.proof_header()]);
        let withheld: Vec<_> = withheld.flatten().cloned().collect();
        let id = |provider: &Provider| if enrichers.is_empty() { provider.id } else { next_id() };
        let links = providers.into_iter().map(|provider| Link { id: id(&provider), provider }).collect();
        Self { links, enrichers, require, combined: next_id(), withheld: FoldedNames::new(&withheld) }
    }

    /// Whether everyone is anonymous.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// The `WWW-Authenticate` challenges for a request without credentials, one for each provider.
    pub fn challenges(&self) -> impl Iterator<Item = HeaderValue> {
        let authenticators = self.links.iter().filter_map(|link| link.provider.authenticator());
        authenticators.map(Authenticator::challenge)
    }

    /// The headers that the upstream does not get: those of providers that say so, whichever proves the identity.
    pub fn withheld_headers(&self) -> &FoldedNames {
        &self.withheld
    }

    /// Who logs browsers in here: the first that can.
    pub fn relying_party(&self) -> Option<&Arc<RelyingParty>> {
        let mut authenticators = self.links.iter().filter_map(|link| link.provider.authenticator());
        authenticators.find_map(Authenticator::relying_party)
    }

    /// Finds out who asks. Returns without waiting unless a provider has to wait for another machine.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn authenticate(&self, presented: &Presented<'_>, cache: &WorkerCache) -> Outcome {
        let attempt = Attempt { presented, cache, deadline: None };
        match self.require {
            Require::Any => self.any(attempt).await,
            Require::All => self.all(attempt).await,
        }
    }

    async fn any(&self, mut attempt: Attempt<'_>) -> Outcome {
        let mut orphan: Option<Orphan> = None;
        for link in &self.links {
            let others = orphan.as_ref().map(|orphan| orphan.digest);
            match attempt.ask(link, &self.enrichers, others).await {
                Found::Absent => {}
                Found::Proven(proven) => return Outcome::Proven(proven.identity),
                Found::Foreign(foreign) => {
                    orphan.get_or_insert(foreign);
                }
                Found::Ended(outcome) => return outcome,
            }
        }
        orphan.map_or(Outcome::Anonymous, |orphan| Outcome::Refused(orphan.refusal))
    }

    async fn all(&self, mut attempt: Attempt<'_>) -> Outcome {
        let mut all: Vec<Proven> = Vec::with_capacity(self.links.len());
        let mut missing = None;
        for link in &self.links {
            // Enrichers add to the first identity: it is the one that stands for the request.
            let enrichers = if all.is_empty() { self.enrichers.as_slice() } else { &[] };
            match attempt.ask(link, enrichers, None).await {
                Found::Absent => missing = missing.or(Some(link)),
                Found::Proven(proven) => all.push(proven),
                Found::Foreign(orphan) => return Outcome::Refused(orphan.refusal),
                Found::Ended(outcome) => return outcome,
            }
        }
        match missing {
            None | Some(_) if all.is_empty() => Outcome::Anonymous,
            None => Outcome::Proven(self.combine(&all, &attempt)),
            Some(Link { provider, .. }) => {
                let challenge = provider.authenticator().map(Authenticator::challenge);
                let challenge = challenge.unwrap_or(HeaderValue::from_static(""));
                Outcome::Refused(refusal(provider, Rejection::plain(MISSING, challenge)))
            }
        }
    }

    /// The first identity with all of them in it. Its document is built once for as long as they hold.
    fn combine(&self, all: &[Proven], attempt: &Attempt<'_>) -> Arc<Identity> {
        let mut rests_on = Vec::with_capacity(all.len() * 48);
        for proven in all {
            rests_on.extend_from_slice(&proven.digest);
            rests_on.extend_from_slice(&proven.revision.to_le_bytes());
            rests_on.extend_from_slice(&proven.validity.until.as_nanos().to_le_bytes());
        }
        let key = Key { provider: self.combined, digest: sha256(&rests_on) };
        if let Some(remembered) = attempt.cache.get(&key, 0, attempt.presented.now) {
            return remembered.identity;
        }
        let identities: Vec<&Identity> = all.iter().map(|proven| &*proven.identity).collect();
        let identity = Arc::new(Identity::combined(&identities));
        let until = all.iter().map(|proven| proven.validity.until).min().unwrap_or_default();
        let from = all.iter().map(|proven| proven.validity.from).max().unwrap_or_default();
        let proof =
            Proof { facts: Facts::default(), validity: Validity { from, until }, binding: None, revision: 0 };
        attempt.cache.insert(key, &identity, proof, rests_on.len());
        identity
    }
}

// === impl Attempt ===

impl Attempt<'_> {
    /// Asks one provider. A credential that is not `others`' is not looked at where that one is still to be proven.
    async fn ask(&mut self, link: &Link, enrichers: &[Arc<Provider>], others: Option<Sha256>) -> Found {
        let provider = &link.provider;
        let Some(authenticator) = provider.authenticator() else { return Found::Absent };
        let credential = match authenticator.find(self.presented) {
            Ok(None) => return Found::Absent,
            Ok(Some(credential)) => credential,
            Err(rejection) => return Found::Ended(Outcome::Refused(refusal(provider, rejection))),
        };
        let digest = sha256(&credential);
        // A foreign credential must be proven itself; that another one is good does not make it good.
        if others.is_some_and(|others| others != digest) {
            return Found::Absent;
        }
        let key = Key { provider: link.id, digest };
        let revision = authenticator.revision();
        let now = self.presented.now;
        let remembered = self.cache.get(&key, revision, now);
        let remembered =
            remembered.or_else(|| self.cache.find(&key, revision, now, &provider.name, credential.len()));
        if let Some(Remembered { identity, validity, binding }) = remembered {
            return match self.check_held(provider, binding.as_deref()) {
                Ok(()) => Found::Proven(Proven { identity, validity, digest, revision }),
                Err(outcome) => Found::Ended(outcome),
            };
        }
        let answer = authenticator.verify(&credential, self.presented);
        let mut proof = match self.settle(answer).await {
            Verdict::Proven(proof) => proof,
            Verdict::Foreign(rejection) => {
                let refusal = refusal(provider, rejection);
                return Found::Foreign(Orphan { digest, refusal });
            }
            Verdict::Refused(rejection) => {
                return Found::Ended(Outcome::Refused(refusal(provider, rejection)));
            }
            Verdict::Unavailable(reason) => {
                return Found::Ended(Outcome::Unavailable(failure(provider, reason)));
            }
        };
        if let Err(outcome) = self.check_held(provider, proof.binding.as_deref()) {
            return Found::Ended(outcome);
        }
        for enricher in enrichers {
            if let Err(outcome) = self.enrich(enricher, &mut proof).await {
                return Found::Ended(outcome);
            }
        }
        let mut facts = std::mem::take(&mut proof.facts);
        facts.provider = Some(Arc::clone(&provider.name));
        let identity = Arc::new(Identity::authenticated(facts));
        let (validity, revision) = (proof.validity, proof.revision);
        // One that is good for this request only is not worth the place.
        if validity.contains(self.presented.now) {
            self.cache.keep(key, &identity, *proof, credential.len());
        }
        Found::Proven(Proven { identity, validity, digest, revision })
    }

    /// Whether the client holds what its credential is bound to, cached or not.
    fn check_held(&self, provider: &Provider, binding: Option<&Binding>) -> Result<(), Outcome> {
        binding.map_or(Ok(()), |binding| binding.check(self.presented)).map_err(|not_held| match not_held {
            NotHeld::Refused(rejection) => Outcome::Refused(refusal(provider, rejection)),
            NotHeld::Unavailable(reason) => Outcome::Unavailable(failure(provider, reason)),
        })
    }

    /// Adds what a directory knows. Where it cannot say, nobody is let in: a group that is not known may be the one that
    /// forbids.
    async fn enrich(&mut self, provider: &Arc<Provider>, proof: &mut Proof) -> Result<(), Outcome> {
        let Role::Enriches(enricher) = &provider.role else { return Ok(()) };
        let answer = Enricher::look_up(&**enricher, &proof.facts, self.presented.now);
        match self.settle(answer).await {
            Verdict::Proven(known) => {
                proof.validity.until = proof.validity.until.min(known.validity.until);
                proof.facts.enrich(known.facts);
                Ok(())
            }
            Verdict::Refused(rejection) | Verdict::Foreign(rejection) => {
                Err(Outcome::Refused(refusal(provider, rejection)))
            }
            Verdict::Unavailable(reason) => Err(Outcome::Unavailable(failure(provider, reason))),
        }
    }

    async fn settle(&mut self, answer: Answer) -> Verdict {
        match answer {
            Answer::Settled(verdict) => verdict,
            Answer::Pending(future) => {
                let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
                let verdict = tokio::time::timeout_at(deadline, future).await;
                verdict.unwrap_or(Verdict::Unavailable(TIMED_OUT))
            }
        }
    }
}

fn failure(provider: &Provider, reason: &'static str) -> Failure {
    Failure { provider: Arc::clone(&provider.name), reason }
}

fn refusal(provider: &Provider, rejection: Rejection) -> Refusal {
    let Rejection { reason, challenge, reply } = rejection;
    Refusal { failure: failure(provider, reason), challenge, reply }
}
