//! Who is asking: one file per provider, and the chain that tries them in order.
//!
//! A provider answers one question, "who does this credential prove?", and never decides whether that is enough:
//! the policy does. Adding one is a file that implements [`Authenticator`] and a match arm in [`provider`].
//!
//! The work is in two steps. [`Authenticator::find`] picks the provider's credential out of a request and is cheap;
//! [`Authenticator::verify`] proves it and may be dear. Between the two the [`chain`] looks into the worker's
//! [`cache`], so a credential seen before costs one hash and one look-up, whatever its provider is. `verify` answers
//! at once where it can; a provider that must wait (keys to fetch, later a directory to ask) hands out
//! [`Answer::Pending`], the only place where a future is boxed. One that must ask a server does so by [`remote`]. An
//! [`Enricher`] proves nothing: it adds what a directory knows of an identity that another provider has proven.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::contract::identity::Facts;
use crate::contract::request::{ClientCertificate, TlsFacts};
use crate::identity::binding::Binding;
use crate::identity::oidc::party::RelyingParty;
use crate::identity::oidc::visit::Visit;

pub mod api_key;
pub mod assumed;
pub mod binding;
pub mod cache;
pub mod chain;
pub mod client_certificate;
mod digest;
pub mod discovery;
pub mod external;
mod header;
pub mod introspection;
pub mod jwt;
pub mod ldap;
pub mod oauth;
pub mod oidc;
pub mod provider;
pub mod remote;
pub mod resources;
pub mod shelf;

/// What a client presented with one request, and when.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'r> {
    /// The request's headers.
    pub headers: &'r HeaderMap,
    /// The query without `?`, as it was received.
    pub query: Option<&'r str>,
    /// The connection's TLS facts, where it has TLS.
    pub tls: Option<&'r TlsFacts>,
    /// What is asked for.
    pub target: Target<'r>,
    /// Time since the Unix epoch.
    pub now: Duration,
}

/// What a request asks for, and for whom: credentials may be bound to it.
#[derive(Debug, Clone, Copy)]
pub struct Target<'r> {
    /// The method.
    pub method: &'r Method,
    /// `http` or `https`, as the client sees it.
    pub scheme: &'r str,
    /// Host and port, in lower case.
    pub authority: &'r str,
    /// The canonical path.
    pub path: &'r str,
    /// The client's address.
    pub client: IpAddr,
    /// What there is of a browser's sessions, where any provider has such.
    pub visit: Option<&'r Visit>,
}

/// `GET http://localhost/`.
impl Default for Target<'_> {
    fn default() -> Self {
        static GET: Method = Method::GET;
        let client = IpAddr::from([127, 0, 0, 1]);
        Self { method: &GET, scheme: "http", authority: "localhost", path: "/", client, visit: None }
    }
}

impl<'r> Presented<'r> {
    /// The connection's verified client certificate.
    pub fn client_certificate(&self) -> Option<&'r ClientCertificate> {
        self.tls.and_then(|tls| tls.client_certificate.as_ref())
    }
}

/// One way to prove an identity.
pub trait Authenticator: fmt::Debug + Send + Sync {
    /// The header that carries its credential, `None` where it is not in a header.
    fn header(&self) -> Option<&HeaderName>;

    /// The header with a proof that the client holds what its credential is bound to, if there is one.
    fn proof_header(&self) -> Option<&HeaderName> {
        None
    }

    /// Whether these headers go to the upstream.
    fn forwards_credential(&self) -> bool {
        true
    }

    /// The `WWW-Authenticate` challenge for a request without a credential (RFC 9110 section 11.6.1).
    fn challenge(&self) -> HeaderValue;

    /// This provider's credential in the request, `None` if there is none of its kind. One that is ambiguous or cannot
    /// even be read is refused here.
    fn find<'r>(&self, presented: &Presented<'r>) -> Result<Option<Cow<'r, [u8]>>, Rejection>;

    /// Proves a credential that [`Authenticator::find`] has found. What it is bound to is asked for by the [`chain`].
    fn verify(&self, credential: &[u8], presented: &Presented<'_>) -> Answer;

    /// Changes whenever what was proven before must be proven again, as when a signing key was withdrawn.
    fn revision(&self) -> u64 {
        0
    }

    /// Who logs browsers in, where it can.
    fn relying_party(&self) -> Option<&Arc<RelyingParty>> {
        None
    }
}

/// Adds to a proven identity what a directory knows of it.
pub trait Enricher: fmt::Debug + Send + Sync {
    /// What is known of the one whom `facts` are about: groups, roles and attributes. Refused where nobody of that name is
    /// known.
    fn look_up(&self, facts: &Facts, now: Duration) -> Answer;
}

/// What [`Authenticator::verify`] says.
pub enum Answer {
    /// The answer.
    Settled(Verdict),
    /// The answer needs something that is not here yet.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; the work it waits for goes on elsewhere.
    Pending(Pin<Box<dyn Future<Output = Verdict>>>),
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settled(verdict) => f.debug_tuple("Settled").field(verdict).finish(),
            Self::Pending(_) => f.write_str("Pending"),
        }
    }
}

/// What became of a credential.
#[derive(Debug)]
pub enum Verdict {
    /// It is good.
    Proven(Box<Proof>),
    /// It is not this provider's to judge (another issuer's token). Another provider may prove the same credential; if
    /// none does, it is bad.
    Foreign(Rejection),
    /// It is bad.
    Refused(Rejection),
    /// Nobody can say at present: a stable `snake_case` word for the cause.
    Unavailable(&'static str),
}

/// A proven identity and how long the proof holds.
#[derive(Debug, Clone)]
pub struct Proof {
    /// What was proven.
    pub facts: Facts,
    /// When it holds.
    pub validity: Validity,
    /// It holds only for requests that show this too.
    pub binding: Option<Arc<Binding>>,
    /// The provider's [`Authenticator::revision`] it rests on.
    pub revision: u64,
}

impl Proof {
    /// What its binding weighs in a memory, in bytes.
    fn binding_weight(&self) -> usize {
        self.binding.as_ref().map_or(0, |binding| binding.weight())
    }
}

/// A span of time since the Unix epoch; the end is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub from: Duration,
    /// First moment after.
    pub until: Duration,
}

impl Validity {
    /// Without an end.
    pub const ALWAYS: Self = Self { from: Duration::ZERO, until: Duration::MAX };

    /// Whether `now` is in it.
    pub fn contains(self, now: Duration) -> bool {
        self.from <= now && now < self.until
    }
}

/// Why a credential is bad, and what to tell the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// A stable `snake_case` word.
    pub reason: &'static str,
    /// The `WWW-Authenticate` challenge.
    pub challenge: HeaderValue,
    /// What the client gets in place of the gateway's own answer.
    pub reply: Option<Arc<Reply>>,
}

impl Rejection {
    /// A rejection in the gateway's own words.
    pub fn plain(reason: &'static str, challenge: HeaderValue) -> Self {
        Self { reason, challenge, reply: None }
    }
}

/// An answer to the client that an authentication service has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Its status: not a success.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}
