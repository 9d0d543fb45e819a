//! A request that nobody sends: its head as a client would send it, and the question about it as the gateway would ask it.
//!
//! It goes the way of traffic: `contract` brings the head into canonical form or refuses it, and builds the input, so
//! that test cases and `policy eval --as` show a policy what traffic would. Nothing here opens a socket.

use std::time::Duration;

use http::{HeaderMap, Method, Uri};
use regorus::Value;

use crate::base::id::DecisionIds;
use crate::base::path::PathRules;
use crate::contract::canonical::{self, Refusal};
use crate::contract::decision::Phase;
use crate::contract::form::Contract;
use crate::contract::identity::Identity;
use crate::contract::input::Facts;
use crate::contract::reads::Reads;
use crate::contract::request::{ApiFacts, BodyFacts, RequestHead, Source};
use crate::policy::decide::{Decider, Keep, Ruling};

/// A head as it is sent.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The method.
    pub method: Method,
    /// The request target: `/path?query`.
    pub target: String,
    /// `https` or `http`.
    pub scheme: &'static str,
    /// `HTTP/1.1`, `HTTP/2` or `HTTP/1.0`.
    pub protocol: &'static str,
    /// Headers, `Host` among them.
    pub headers: HeaderMap,
}

/// A request without a body, what it matched, and who asks.
#[derive(Debug)]
pub struct Question<'a> {
    /// When it comes, since the Unix epoch.
    pub time: Duration,
    /// By which listener.
    pub listener: &'a str,
    /// From where.
    pub source: &'a Source,
    /// Its head.
    pub head: &'a RequestHead,
    /// The API and the route.
    pub api: ApiFacts<'a>,
    /// Who asks.
    pub identity: &'a Identity,
}

// === impl Sent ===

impl Sent {
    /// The head in canonical form, or why the gateway refuses it before any policy is asked.
    ///
    /// A listener's own leniency about paths is not known here, so that what holds is the strictest.
    pub fn canonical(self, body_bytes: u64) -> Result<RequestHead, Refusal> {
        self.canonical_by(PathRules::default(), body_bytes)
    }

    /// As [`Sent::canonical`], by a listener's rules for paths.
    pub fn canonical_by(self, rules: PathRules, body_bytes: u64) -> Result<RequestHead, Refusal> {
        let uri = Uri::try_from(self.target).map_err(|_| Refusal::Target)?;
        let mut parts = http::Request::new(()).into_parts().0;
        (parts.method, parts.uri, parts.headers) = (self.method, uri, self.headers);
        canonical::check_method(&parts.method)?;
        let authority = canonical::authority(&parts)?;
        let target = canonical::target(&parts.uri, rules)?;
        canonical::headers(&mut parts.headers)?;
        Ok(RequestHead {
            method: parts.method,
            scheme: self.scheme,
            host: canonical::host_of(&authority).to_owned(),
            authority,
            path: target.path,
            raw_path: target.raw_path,
            query: target.query,
            headers: parts.headers,
            protocol: self.protocol,
            content_length: Some(body_bytes),
        })
    }
}

// === impl Question ===

impl Question<'_> {
    /// The whole input document.
    pub fn input(&self, contract: Contract) -> Value {
        self.with_facts(|facts| contract.inputs(&Reads::Whole).build(facts))
    }

    /// The decision. A policy that asks outside fails.
    pub fn decide(&self, decider: &mut Decider) -> Ruling {
        self.with_facts(|facts| decider.decide(facts, Phase::Request, Keep::Nothing))
    }

    fn with_facts<T>(&self, ask: impl FnOnce(&Facts<'_>) -> T) -> T {
        let decision_id = DecisionIds::new().next(self.time);
        let request_id = decision_id.to_string();
        ask(&Facts {
            decision_id,
            time: self.time,
            listener: self.listener,
            request_id: &request_id,
            source: self.source,
            head: self.head,
            body: &BodyFacts::Absent,
            api: self.api,
            identity: self.identity,
            response: None,
        })
    }
}
