//! `type: external`: a service of one's own says who sends a request, asked over HTTP as Envoy's `ext_authz` filter asks
//! it, so that a service written for Envoy works unchanged.
//!
//! The service gets the request's method, path and query, `Host`, and the headers that the configuration lists; no other,
//! and no body. `200` vouches for the request. A status below 500 refuses it, and the client gets that answer: status, body
//! and listed headers. Anything else is an outage: it says nothing, and lets nobody in.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use regorus::Value;

use crate::config::model::{self, ExternalAsked, ExternalProvider, KeyPart, Name};
use crate::contract::identity::Facts;
use crate::fetch::credentials::{Credentials, CredentialsError};
use crate::fetch::exchange::{ExchangeError, Exchanger, Outgoing, Received};
use crate::identity::digest::sha256;
use crate::identity::remote::remotes::{Remotes, Settings};
use crate::identity::remote::{Asking, Finding, Inquiry, Outage, Patience, Refused, Remote};
use crate::identity::{Answer, Authenticator, Presented, Rejection, Reply};

/// The largest answer of a service.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Items of a list in an answer's header, and bytes of a header that becomes part of an identity.
const LIST_MAX: usize = 1_000;

/// What a client of a service that says nothing itself is told.
const CHALLENGE: HeaderValue = HeaderValue::from_static("External");

/// The service has refused the request.
const REFUSED: &str = "refused_by_service";

/// Asks a service.
#[derive(Debug)]
pub struct External {
    config: ExternalProvider,
    remote: Arc<Remote<Service>>,
}

/// The service and the way to it.
#[derive(Debug)]
struct Service {
    config: ExternalProvider,
    exchanger: Exchanger,
}

// === impl External ===

impl External {
    /// The provider `name` as configured; its answers go on where its settings are the same.
    pub fn open(name: &Name, config: &ExternalProvider, remotes: &Remotes) -> Result<Self, CredentialsError> {
        let shown = config.client.as_ref().map(|files| (files.cert.as_path(), files.key.as_path()));
        let credentials = Credentials::read(config.ca.as_deref(), shown)?;
        let files = credentials.contents();
        let settings = Settings { config: model::Provider::External(config.clone()), files };
        let remote = remotes.open(name, settings, patience(config), || -> Result<_, CredentialsError> {
            Ok(Service { config: config.clone(), exchanger: Exchanger::new(&credentials.trust()?) })
        })?;
        Ok(Self { config: config.clone(), remote })
    }

    /// What an answer depends on, each part told from the next: what the configuration says, or else all that the service
    /// gets.
    fn key(&self, presented: &Presented<'_>) -> Vec<u8> {
        let mut key = Vec::new();
        let mut put = |part: &[u8]| {
            key.extend_from_slice(&part.len().to_le_bytes());
            key.extend_from_slice(part);
        };
        let mut put_header = |name: &HeaderName| {
            let values: Vec<_> = presented.headers.get_all(name).iter().collect();
            put(&values.len().to_le_bytes());
            for value in values {
                put(value.as_bytes());
            }
        };
        let (mut method, mut authority, mut path) = (false, false, false);
        if let Some(memory) = &self.config.memory {
            for part in &memory.key {
                match part {
                    KeyPart::Method => method = true,
                    KeyPart::Authority => authority = true,
                    KeyPart::Path => path = true,
                    KeyPart::Header(name) => put_header(name),
                }
            }
        } else {
            (method, authority, path) = (true, true, true);
            self.config.forward.iter().for_each(put_header);
        }
        let target = &presented.target;
        if method {
            put(target.method.as_str().as_bytes());
        }
        if authority {
            put(target.authority.as_bytes());
        }
        if path {
            put(target.path.as_bytes());
            put(presented.query.unwrap_or_default().as_bytes());
        }
        key
    }
}

impl Authenticator for External {
    fn header(&self) -> Option<&HeaderName> {
        self.config.forward.first()
    }

    fn forwards_credential(&self) -> bool {
        self.config.forward_credential
    }

    fn challenge(&self) -> HeaderValue {
        CHALLENGE
    }

    fn find<'r>(&self, presented: &Presented<'r>) -> Result<Option<Cow<'r, [u8]>>, Rejection> {
        let has_credential = || self.config.forward.iter().any(|name| presented.headers.contains_key(name));
        let is_asked = match self.config.asked {
            ExternalAsked::Always => true,
            ExternalAsked::Credential => has_credential(),
        };
        Ok(is_asked.then(|| Cow::Owned(self.key(presented))))
    }

    fn verify(&self, credential: &[u8], presented: &Presented<'_>) -> Answer {
        let Some(question) = question(&self.config, presented) else {
            return Answer::Settled(crate::identity::Verdict::Refused(Rejection::plain(
                "malformed_target",
                CHALLENGE,
            )));
        };
        self.remote.verify(sha256(credential), question, CHALLENGE, presented.now)
    }
}

/// The request that the service gets; `None` where its target cannot be written into the service's URL.
fn question(config: &ExternalProvider, presented: &Presented<'_>) -> Option<Outgoing> {
    let target = &presented.target;
    let url = if config.append_path {
        let mut path = config.url.path().trim_end_matches('/').to_owned();
        path.push_str(target.path);
        if let Some(query) = presented.query.filter(|query| !query.is_empty()) {
            path.extend(["?", query]);
        }
        let mut parts = config.url.clone().into_parts();
        parts.path_and_query = Some(path.parse().ok()?);
        Uri::from_parts(parts).ok()?
    } else {
        config.url.clone()
    };
    let mut headers = HeaderMap::new();
    for name in &config.forward {
        for value in presented.headers.get_all(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers.insert(HOST, HeaderValue::from_str(target.authority).ok()?);
    Some(Outgoing { method: target.method.clone(), url, headers, body: Bytes::new() })
}

/// Without a memory, an answer holds for the request that it was given to.
fn patience(config: &ExternalProvider) -> Patience {
    let timeout = config.timeout;
    match &config.memory {
        Some(memory) => Patience {
            timeout,
            ttl: memory.ttl,
            negative_ttl: memory.negative_ttl,
            stale: memory.stale,
            entries: memory.entries,
        },
        None => Patience {
            timeout,
            ttl: Duration::ZERO,
            negative_ttl: Duration::ZERO,
            stale: Duration::ZERO,
            entries: 1,
        },
    }
}

// === impl Service ===

impl Inquiry for Service {
    type Question = Outgoing;

    fn ask<'a>(&'a self, question: &'a Outgoing) -> Asking<'a> {
        Box::pin(async move {
            match self.exchanger.exchange(question.clone(), ANSWER_BYTES_MAX).await {
                Ok(received) => self.read(&question.method, received),
                Err(ExchangeError::Unreachable(_)) => Err(Outage { reason: "external_unreachable" }),
                Err(ExchangeError::TooLarge(_)) => Err(Outage { reason: "external_answer_too_large" }),
                Err(ExchangeError::Body(_) | ExchangeError::Request(_)) => {
                    Err(Outage { reason: "external_failed" })
                }
            }
        })
    }
}

impl Service {
    fn read(&self, method: &Method, answer: Received) -> Result<Finding, Outage> {
        if answer.status == StatusCode::OK {
            return match self.facts(&answer.headers) {
                Some(facts) => Ok(Finding::Proven { facts: Box::new(facts), until: None }),
                None => Err(Outage { reason: "external_answer_malformed" }),
            };
        }
        // Envoy takes 5xx for an error of the service; what is neither a refusal nor a redirect is none of its answers.
        if !answer.status.is_client_error() && !answer.status.is_redirection() {
            return Err(Outage { reason: "external_failed" });
        }
        let mut headers = HeaderMap::new();
        let always = [CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE];
        for name in always.iter().chain(&self.config.client_headers) {
            for value in answer.headers.get_all(name) {
                headers.append(name.clone(), value.clone());
            }
        }
        let body = if *method == Method::HEAD { Bytes::new() } else { answer.body };
        let reply = Arc::new(Reply { status: answer.status, headers, body });
        Ok(Finding::Refused(Refused { reason: REFUSED, reply: Some(reply) }))
    }

    /// Who it is; `None` where the answer does not say what the configuration wants to know.
    fn facts(&self, headers: &HeaderMap) -> Option<Facts> {
        let config = &self.config;
        let subject = match &config.subject {
            Some(name) => Some(text(headers, name)?.to_owned()).filter(|subject| !subject.is_empty()),
            None => None,
        };
        if config.subject.is_some() && subject.is_none() {
            return None;
        }
        let mut attributes = BTreeMap::new();
        for name in &config.attributes {
            if headers.contains_key(name) {
                attributes.insert(Value::from(name.as_str()), Value::from(text(headers, name)?));
            }
        }
        Some(Facts {
            kind: Some("external"),
            subject,
            roles: list(headers, config.roles.as_ref())?,
            groups: list(headers, config.groups.as_ref())?,
            scopes: list(headers, config.scopes.as_ref())?,
            attributes: (!attributes.is_empty()).then(|| Value::from(attributes)),
            ..Facts::default()
        })
    }
}

/// The header's only value.
fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { value.to_str().ok().map(str::trim) }
}

/// The items of a header, over all its lines, separated by commas.
fn list(headers: &HeaderMap, name: Option<&HeaderName>) -> Option<Vec<String>> {
    let Some(name) = name else { return Some(Vec::new()) };
    let mut items = Vec::new();
    for value in headers.get_all(name) {
        let parts = value.to_str().ok()?.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.extend(parts.map(str::to_owned));
    }
    (items.len() <= LIST_MAX).then_some(items)
}
