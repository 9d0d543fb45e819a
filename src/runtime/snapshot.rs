//! The immutable state that one generation of the configuration stands for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderName, HeaderValue};
use regorus::Value;

use crate::audit::label::EncodedLabels;
use crate::config::model::{self, Anonymous, BadCredential, Config, Lifecycle, Name, OnError};
use crate::contract::decision::FoldedNames;
use crate::contract::decision::Phase;
use crate::identity::chain::Chain;
use crate::identity::oidc::party::RelyingParty;
use crate::policy::bundle::Bundle;
use crate::policy::decide::Rules;
use crate::rego::differential::Verification;
use crate::rego::program::Program;
use crate::runtime::beside::candidate::{Shadow, Verifier};
use crate::runtime::bundles::archive::Archive;
use crate::runtime::forwarded_certificate::ForwardedCertificates;
use crate::runtime::outside::Outbound;
use crate::runtime::router::Router;
use crate::runtime::tls::{ServerTls, Shown};
use crate::upstream::cluster::{Cluster, Clusters};

/// A whole gateway, built from one configuration. A request sees exactly one.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// What it was built from.
    pub config: Arc<Config>,
    /// Id of this process in events.
    pub instance: Arc<str>,
    /// In the order of the first configuration, so that an index means the same over reloads.
    pub listeners: Vec<Listener>,
    /// In the configuration's order.
    pub apis: Vec<Api>,
    /// In the order of their names.
    pub policies: Vec<Policy>,
    /// Upstreams.
    pub clusters: Clusters,
    /// Labels of every event.
    pub labels: EncodedLabels,
    /// Browsers may have sessions.
    pub has_browsers: bool,
}

/// A listener of a generation.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its configuration.
    pub config: model::Listener,
    /// Its APIs' routes.
    pub router: Router,
    /// TLS, where it has it.
    pub tls: Option<Arc<ServerTls>>,
    /// Client certificates that trusted proxies show, where they may.
    pub forwarded_certificates: Option<Arc<ForwardedCertificates>>,
}

/// An API of a generation.
#[derive(Debug, Clone)]
pub struct Api {
    /// Its name.
    pub name: Name,
    /// Its version.
    pub version: Option<Arc<str>>,
    /// Providers it accepts.
    pub chain: Chain,
    /// Who logs browsers in on its hosts.
    pub parties: Vec<Arc<RelyingParty>>,
    /// What a bad credential means.
    pub on_bad_credential: BadCredential,
    /// What a request without a credential means.
    pub anonymous: Anonymous,
    /// Index of its policy.
    pub policy: usize,
    /// Its default upstream.
    pub cluster: Arc<Cluster>,
    /// Its routes.
    pub routes: Vec<Route>,
    /// Headers that only the gateway may set.
    pub identity_headers: FoldedNames,
    /// Headers that carry credentials here, kept out of events.
    pub credential_headers: Vec<HeaderName>,
    /// It answers 410.
    pub retired: bool,
    /// The document at `input.api.lifecycle`.
    pub lifecycle: Value,
    /// `Deprecation`, `Sunset` and `Link` of its responses.
    pub lifecycle_headers: Vec<(HeaderName, HeaderValue)>,
}

/// A route of a generation.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name.
    pub name: Name,
    /// Its own bound on bodies, in bytes.
    pub body_limit: Option<u64>,
    /// Its own providers.
    pub chain: Option<Chain>,
    /// It passes WebSocket handshakes on.
    pub websocket: bool,
}

/// A policy of a generation.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Its name.
    pub name: Name,
    /// Its bundle's revision.
    pub revision: String,
    /// Its bundle, if that was fetched.
    pub archive: Option<Archive>,
    /// The decision rule as in events, `gateway/decision`.
    pub decision_path: String,
    /// The response rule as in events, if there is one.
    pub response_path: Option<String>,
    /// The compiled bundle.
    pub program: Program,
    /// The rules asked.
    pub rules: Rules,
    /// Whom it may ask outside, if anybody.
    pub outbound: Option<Arc<Outbound>>,
    /// What a failure means.
    pub on_error: OnError,
    /// Which building of a policy this is, unique in the process.
    pub built: u64,
    /// What it was compiled from.
    pub bundle: Arc<Bundle>,
    /// Tells apart who may have signed it, by their keys; `None` where nobody must have.
    pub signers: Option<[u8; 32]>,
    /// What came of comparing plan and interpreter when it was built.
    pub verification: Verification,
    /// It was a candidate, and was put in force in place of the configured bundle.
    pub promoted: Option<Arc<Promotion>>,
    /// The candidate beside it.
    pub shadow: Option<Shadow>,
    /// What compares its live decisions with the interpreter's.
    pub verifier: Option<Arc<Verifier>>,
}

/// How a candidate came to be in force.
#[derive(Debug)]
pub struct Promotion {
    /// Where its bundle came from.
    pub shown: String,
    /// When, since the Unix epoch.
    pub at: Duration,
    /// The configured bundle at that time. The promotion holds until that changes.
    pub instead_of: [u8; 32],
    /// The revision of that bundle.
    pub former_revision: String,
}

// === impl Listener ===

impl Listener {
    /// Whether a client that has `shown` this in its handshake would still be accepted `now`, since the Unix epoch.
    pub fn accepts(&self, shown: &Shown, now: Duration) -> bool {
        // Without TLS nobody vouches for a certificate any more.
        self.tls.as_ref().is_some_and(|tls| tls.accepts(shown, now))
    }
}

// === impl Policy ===

impl Policy {
    /// It, with nothing beside it.
    #[must_use]
    pub fn alone(&self) -> Self {
        Self { promoted: None, shadow: None, verifier: None, archive: None, ..self.clone() }
    }

    /// The rule that is asked in `phase`, as in events.
    pub fn path(&self, phase: Phase) -> &str {
        match (phase, &self.response_path) {
            (Phase::Response, Some(path)) => path,
            (Phase::Request, _) | (Phase::Response, None) => &self.decision_path,
        }
    }
}

// === impl Runtime ===

impl Runtime {
    /// The listener at `index`.
    pub fn listener(&self, index: usize) -> Option<&Listener> {
        self.listeners.get(index)
    }

    /// The name of the listener at `index`.
    pub fn listener_name(&self, index: usize) -> &str {
        self.listener(index).map(|listener| &*listener.config.name).unwrap_or_default()
    }
}

/// `input.api.lifecycle`.
pub fn lifecycle_document(lifecycle: &Lifecycle) -> Value {
    let mut document = BTreeMap::new();
    let mut put = |key: &str, value: &str| document.insert(Value::from(key), Value::from(value));
    match lifecycle {
        Lifecycle::Active => drop(put("state", "active")),
        Lifecycle::Retired => drop(put("state", "retired")),
        Lifecycle::Deprecated { since, sunset, .. } => {
            put("state", "deprecated");
            if let Some(since) = since {
                put("since", since);
            }
            if let Some(sunset) = sunset {
                put("sunset", sunset);
            }
        }
    }
    Value::from(document)
}

/// `Deprecation` (RFC 9745), `Sunset` (RFC 8594) and `Link` for a deprecated API.
pub(super) fn lifecycle_headers(lifecycle: &Lifecycle) -> Vec<(HeaderName, HeaderValue)> {
    let Lifecycle::Deprecated { since, sunset, successor, docs } = lifecycle else { return Vec::new() };
    let mut headers = Vec::new();
    let mut put = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.push((HeaderName::from_static(name), value));
        }
    };
    // A structured-field date; without a date, that it is deprecated is still told.
    let since = since.as_deref().and_then(instant).map_or(0, jiff::Timestamp::as_second);
    put("deprecation", format!("@{since}"));
    if let Some(sunset) = sunset.as_deref().and_then(instant) {
        put("sunset", httpdate::fmt_http_date(system_time(sunset)));
    }
    if let Some(successor) = successor {
        put("link", format!("<{successor}>; rel=\"successor-version\""));
    }
    if let Some(docs) = docs {
        put("link", format!("<{docs}>; rel=\"deprecation\""));
    }
    headers
}

/// A date or a time, RFC 3339.
fn instant(text: &str) -> Option<jiff::Timestamp> {
    text.parse().ok().or_else(|| format!("{text}T00:00:00Z").parse().ok())
}

fn system_time(instant: jiff::Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(instant.as_second()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deprecated_api_says_so() {
        let lifecycle = Lifecycle::Deprecated {
            since: Some("2026-01-31".to_owned()),
            sunset: Some("2027-01-31T00:00:00Z".to_owned()),
            successor: Some("/v3".to_owned()),
            docs: None,
        };
        let headers = lifecycle_headers(&lifecycle);
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        let want = [
            ("deprecation", "@1769817600"),
            ("sunset", "Sun, 31 Jan 2027 00:00:00 GMT"),
            ("link", "</v3>; rel=\"successor-version\""),
        ];
        assert_eq!(headers, want);
        let document = serde_json::to_value(lifecycle_document(&lifecycle)).unwrap();
        assert_eq!(
            document,
            serde_json::json!({"state": "deprecated", "since": "2026-01-31", "sunset": "2027-01-31T00:00:00Z"})
        );
        assert!(lifecycle_headers(&Lifecycle::Active).is_empty());
    }
}
