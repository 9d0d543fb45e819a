//! `type: ldap`: a user name and a password that a directory knows, or what a directory knows of a proven identity.
//!
//! The client of LDAP is its own, about five messages long, and not a crate's: what a hostile server can do to it is bounded
//! by what it reads, and it reads only what must come next (`ber`). Nothing a server sends is nested, kept or awaited
//! beyond a bound; no other server is asked because one says so (referrals).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use regorus::Value;

use self::basic::{BasicFault, Login};
pub use self::directory::LdapError;
use self::fault::Fault;
use self::lookup::Lookup;
use crate::config::model::ldap::{EnrichBy, LdapProvider};
use crate::config::model::{self, Name};
use crate::contract::identity::Facts;
use crate::identity::digest::sha256;
use crate::identity::header::{self, Ambiguous};
use crate::identity::provider::Role;
use crate::identity::remote::remotes::{Remotes, Settings};
use crate::identity::remote::{Asking, Finding, Inquiry, Outage, Patience, Refused, Remote};
use crate::identity::{Answer, Authenticator, Enricher, Presented, Rejection, Verdict};

mod basic;
mod ber;
mod connection;
mod directory;
mod fault;
mod group;
mod lookup;
mod message;
mod server;

/// Name or password, and which of them is nobody's business.
const INVALID_CREDENTIALS: &str = "invalid_credentials";

/// Longest name that somebody is looked up by.
const NAME_BYTES_MAX: usize = 1024;

/// Proves user names and passwords.
#[derive(Debug)]
struct Passwords {
    remote: Arc<Remote<Logins>>,
    challenge: HeaderValue,
    forward_credential: bool,
}

/// Tells more of proven identities.
#[derive(Debug)]
struct Entries {
    remote: Arc<Remote<Names>>,
    by: EnrichBy,
}

/// Asks who has a name and a password.
#[derive(Debug)]
struct Logins(Lookup);

/// Asks who has a name.
#[derive(Debug)]
struct Names(Lookup);

/// The provider `name`. It goes on with its connections and what it remembers where its settings are those of before.
pub(super) fn open(name: &Name, config: &LdapProvider, remotes: &Remotes) -> Result<Role, LdapError> {
    let files = config.ca.iter().map(std::fs::read).collect::<Result<_, _>>()?;
    let settings = Settings { config: model::Provider::Ldap(config.clone()), files };
    let patience = Patience {
        timeout: config.timeouts.total,
        ttl: config.memory.ttl,
        negative_ttl: config.memory.negative_ttl,
        stale: config.memory.stale,
        entries: config.memory.entries,
    };
    let lookup = || Lookup::new(config.clone());
    Ok(match &config.enrich {
        None => Role::Authenticates(Box::new(Passwords {
            remote: remotes.open(name, settings, patience, || lookup().map(Logins))?,
            challenge: challenge(&config.realm),
            forward_credential: config.forward_credential,
        })),
        Some(by) => Role::Enriches(Box::new(Entries {
            remote: remotes.open(name, settings, patience, || lookup().map(Names))?,
            by: by.clone(),
        })),
    })
}

/// RFC 7617 section 2. The realm was checked to fit.
fn challenge(realm: &str) -> HeaderValue {
    let challenge = HeaderValue::from_str(&format!("Basic realm=\"{realm}\", charset=\"UTF-8\""));
    challenge.unwrap_or(HeaderValue::from_static("Basic realm=\"directory\", charset=\"UTF-8\""))
}

// === impl Passwords ===

impl Passwords {
    fn rejection(&self, reason: &'static str) -> Rejection {
        Rejection::plain(reason, self.challenge.clone())
    }
}

impl Authenticator for Passwords {
    fn header(&self) -> Option<&HeaderName> {
        Some(&AUTHORIZATION)
    }

    fn forwards_credential(&self) -> bool {
        self.forward_credential
    }

    fn challenge(&self) -> HeaderValue {
        self.challenge.clone()
    }

    fn find<'r>(&self, presented: &Presented<'r>) -> Result<Option<Cow<'r, [u8]>>, Rejection> {
        let found = match header::only(presented.headers, &AUTHORIZATION) {
            Ok(None) => return Ok(None),
            Ok(Some(value)) => basic::encoded(value),
            Err(Ambiguous) => Err(BasicFault::Several),
        };
        match found {
            Ok(encoded) => Ok(encoded.map(Cow::Borrowed)),
            Err(BasicFault::Several) => Err(self.rejection("several_credentials")),
            Err(BasicFault::Malformed) => Err(self.rejection("malformed_credential")),
        }
    }

    fn verify(&self, encoded: &[u8], presented: &Presented<'_>) -> Answer {
        match basic::decode(encoded) {
            // The digest is of name and password: a wrong password says nothing of a right one.
            Some(login) => self.remote.verify(sha256(encoded), login, self.challenge.clone(), presented.now),
            None => Answer::Settled(Verdict::Refused(self.rejection("malformed_credential"))),
        }
    }
}

impl Inquiry for Logins {
    type Question = Login;

    fn ask<'a>(&'a self, login: &'a Login) -> Asking<'a> {
        Box::pin(async { finding(self.0.prove(&login.username, login.password.expose()).await) })
    }

    fn is_for_all(&self, outage: Outage) -> bool {
        !Fault::is_of_one(outage.reason)
    }
}

// === impl Entries ===

impl Enricher for Entries {
    fn look_up(&self, facts: &Facts, now: Duration) -> Answer {
        let challenge = HeaderValue::from_static("");
        match name(&self.by, facts) {
            Some(name) => self.remote.verify(sha256(name.as_bytes()), name, challenge, now),
            None => Answer::Settled(Verdict::Refused(Rejection::plain("no_name_to_look_up", challenge))),
        }
    }
}

impl Inquiry for Names {
    type Question = String;

    fn ask<'a>(&'a self, name: &'a String) -> Asking<'a> {
        Box::pin(async {
            let found = self.0.describe(name).await;
            match finding(found)? {
                Finding::Refused(_) => Ok(Finding::Refused(Refused::plain("not_in_directory"))),
                proven @ Finding::Proven { .. } => Ok(proven),
            }
        })
    }

    fn is_for_all(&self, outage: Outage) -> bool {
        !Fault::is_of_one(outage.reason)
    }
}

fn finding(found: Result<Option<Facts>, Fault>) -> Result<Finding, Outage> {
    match found {
        Ok(Some(facts)) => Ok(Finding::Proven { facts: Box::new(facts), until: None }),
        Ok(None) => Ok(Finding::Refused(Refused::plain(INVALID_CREDENTIALS))),
        Err(fault) => Err(Outage { reason: fault.reason() }),
    }
}

/// What somebody is looked up by: one text, as strictly as a user name that a client types.
fn name(by: &EnrichBy, facts: &Facts) -> Option<String> {
    let name = match by {
        EnrichBy::Subject => facts.subject.clone(),
        EnrichBy::Claim(path) => text_at(facts.claims.as_ref(), path),
        EnrichBy::Attribute(path) => text_at(facts.attributes.as_ref(), path),
    };
    name.filter(|name| (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control))
}

fn text_at(document: Option<&Value>, path: &[String]) -> Option<String> {
    let mut value = document?;
    for step in path {
        value = value.as_object().ok()?.get(&Value::from(step.as_str()))?;
    }
    value.as_string().ok().map(std::string::ToString::to_string)
}
