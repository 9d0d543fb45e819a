//! Who asks and for what, as the command line says it in place of an input document.
//!
//! Nothing here decides what a provider proves or what a request is: that is `identity::assumed` and `policy::asking`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde_json::{Map, Value as Json};

use crate::base::net::canonical_ip;
use crate::config::model::{CertificateSubject, ClientCertificateProvider, Name, Require};
use crate::contract::identity::{Identity, KINDS};
use crate::contract::request::{ClientCertificate, Source, TlsFacts};
use crate::identity::assumed::{self, Assumed, Said};
use crate::policy::asking::Sent;

/// Ask as somebody.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Asking as somebody")]
pub struct CallerArgs {
    /// Who asks: a provider and a subject, or `anonymous`. Where several identities meet (`require: all`) it is repeated, and
    /// the options below are about the first.
    #[arg(long = "as", value_name = "PROVIDER:SUBJECT", value_parser = caller, requires = "wanted", conflicts_with = "input")]
    pub callers: Vec<Caller>,
    /// What is asked for, such as `GET /v2/orders/42`; without a method it is GET.
    #[arg(long, value_name = "REQUEST", value_parser = request, requires = "callers", group = "wanted")]
    pub request: Option<Line>,
    /// A table of all routes of the configuration and their methods.
    #[arg(long, requires_all = ["callers", "config"], group = "wanted", conflicts_with_all = ["paths", "fail_defined", "engine"])]
    pub all_routes: bool,
    /// A configuration, in place of paths: its router finds API and route, its providers say who is who, its policy decides.
    #[arg(long, value_name = "FILE", requires = "callers")]
    pub config: Option<PathBuf>,
    /// The listener that is asked. Default: the first one that has the route.
    #[arg(long, value_name = "NAME", requires = "config", conflicts_with = "paths")]
    pub listener: Option<String>,
    /// A role; may be repeated, as may all that follow.
    #[arg(long = "role", value_name = "ROLE", requires = "callers")]
    pub roles: Vec<String>,
    /// A group.
    #[arg(long = "group", value_name = "GROUP", requires = "callers")]
    pub groups: Vec<String>,
    /// A scope.
    #[arg(long = "scope", value_name = "SCOPE", requires = "callers")]
    pub scopes: Vec<String>,
    /// A claim; what is no JSON is a text.
    #[arg(long = "claim", value_name = "NAME=JSON", value_parser = claim, requires = "callers")]
    pub claims: Vec<(String, Json)>,
    /// An attribute, such as a key's `key_id`; given twice it is a list.
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = pair, requires = "callers")]
    pub attributes: Vec<(String, String)>,
    /// The provider's type, where there is no configuration to say it.
    #[arg(long = "type", value_name = "TYPE", default_value = "jwt", value_parser = kinds(), requires = "callers", conflicts_with = "config")]
    pub kind: String,
    /// A header of the request.
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = field, requires = "callers")]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The client's address.
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), requires = "callers")]
    pub source: IpAddr,
    /// The API's name, `test` without a configuration; with one, only its routes are asked for.
    #[arg(long, value_name = "NAME", requires = "callers")]
    pub api: Option<String>,
    /// The route's name, where there is no configuration to find it. Default: `test`.
    #[arg(long, value_name = "NAME", requires = "callers", conflicts_with = "config")]
    pub route: Option<String>,
    /// A parameter of the route. With `--all-routes` those that are not given have their own names as values.
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = pair, requires = "callers")]
    pub params: Vec<(String, String)>,
}

/// Somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Nobody in particular.
    Anonymous,
    /// Known to a provider.
    Known {
        /// Its name.
        provider: String,
        /// Who it is there.
        subject: String,
    },
}

/// Method and target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: String,
}

/// Who was meant: each identity, and the certificate their connection is made with.
#[derive(Debug)]
pub(super) struct Met {
    identities: Vec<Identity>,
    pub(super) certificate: Option<ClientCertificate>,
}

// === impl CallerArgs ===

impl CallerArgs {
    /// The providers that are named, in order; none for nobody.
    pub(super) fn providers(&self) -> impl Iterator<Item = &str> {
        self.callers.iter().filter_map(|caller| match caller {
            Caller::Known { provider, .. } => Some(provider.as_str()),
            Caller::Anonymous => None,
        })
    }

    /// Whoever asks, each as `assume` knows their provider.
    pub(super) fn meet(
        &self,
        mut assume: impl FnMut(&str, Said) -> anyhow::Result<Assumed>,
    ) -> anyhow::Result<Met> {
        let mut identities = Vec::new();
        let mut certificate = None;
        for (index, caller) in self.callers.iter().enumerate() {
            let Caller::Known { provider, subject } = caller else { continue };
            if self.providers().take(identities.len()).any(|other| other == provider) {
                bail!("`{provider}` is asked for two identities; it proves one");
            }
            let assumed = assume(provider, self.said(subject, index == 0))?;
            certificate = certificate.or(assumed.certificate);
            let mut facts = assumed.facts;
            facts.provider = Some(Arc::from(provider.as_str()));
            identities.push(Identity::authenticated(facts));
        }
        if identities.len() < self.callers.len() && (self.callers.len() > 1 || self.says_more()) {
            bail!("`anonymous` is nobody: leave the other identities and what they have out");
        }
        Ok(Met { identities, certificate })
    }

    /// Whoever asks, by what is said alone.
    pub(super) fn meet_plainly(&self, now: std::time::Duration) -> anyhow::Result<Met> {
        let kind = KINDS.into_iter().find(|kind| *kind == self.kind).unwrap_or_default();
        self.meet(|_, said| {
            if kind != CERTIFICATE {
                return Ok(Assumed { facts: assumed::plain(kind, said), certificate: None });
            }
            let is_uri = said.subject.contains("://");
            let subject = if is_uri { CertificateSubject::SanUri } else { CertificateSubject::CommonName };
            let config = ClientCertificateProvider { subject, trust_domains: Vec::new() };
            Ok(assumed::certificate(&config, said, now)?)
        })
    }

    fn says_more(&self) -> bool {
        let lists = [&self.roles, &self.groups, &self.scopes];
        lists.into_iter().any(|list| !list.is_empty())
            || !self.claims.is_empty()
            || !self.attributes.is_empty()
    }

    fn said(&self, subject: &str, is_first: bool) -> Said {
        let mut said = Said { subject: subject.to_owned(), ..Said::default() };
        if is_first {
            said.roles.clone_from(&self.roles);
            said.groups.clone_from(&self.groups);
            said.scopes.clone_from(&self.scopes);
            said.claims = self.claims.iter().cloned().collect();
            said.attributes = attributes(&self.attributes);
        }
        said
    }

    /// A request as it is sent, for `host` unless a header says otherwise.
    pub(super) fn sent(&self, line: Line, scheme: &'static str, host: &str) -> anyhow::Result<Sent> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        if !headers.contains_key(header::HOST) {
            headers.insert(header::HOST, HeaderValue::from_str(host)?);
        }
        Ok(Sent { method: line.method, target: line.target, scheme, protocol: "HTTP/1.1", headers })
    }

    /// Where it comes from; a certificate was shown in a TLS handshake.
    pub(super) fn source(&self, certificate: Option<ClientCertificate>) -> Source {
        let client_ip = canonical_ip(self.source);
        let tls = certificate.map(|certificate| {
            Arc::new(TlsFacts::new("TLSv1.3", "TLS_AES_256_GCM_SHA384".to_owned(), None, Some(certificate)))
        });
        Source { peer: SocketAddr::new(client_ip, 0), client_ip, forwarded_for: Vec::new(), tls }
    }

    /// The parameters given.
    pub(super) fn params(&self) -> Vec<(Arc<str>, String)> {
        self.params.iter().map(|(name, value)| (Arc::from(name.as_str()), value.clone())).collect()
    }

    /// Who asks, as it was written.
    pub(super) fn shown(&self) -> String {
        let shown = self.callers.iter().map(|caller| match caller {
            Caller::Anonymous => ANONYMOUS.to_owned(),
            Caller::Known { provider, subject } => format!("{provider}:{subject}"),
        });
        shown.collect::<Vec<_>>().join(" and ")
    }
}

// === impl Met ===

impl Met {
    /// Who asks, where nobody says how identities meet: the only one, or all of them with the first one first.
    pub(super) fn identity(&self) -> Identity {
        match self.identities.as_slice() {
            [] => Identity::anonymous(),
            [only] => only.clone(),
            several => Identity::combined(&several.iter().collect::<Vec<_>>()),
        }
    }

    /// Who asks an API with these providers, in their order.
    pub(super) fn identity_at(&self, require: Require, providers: &[Name]) -> Identity {
        let position = |identity: &&Identity| {
            let own = identity.facts().provider.as_ref();
            own.and_then(|own| providers.iter().position(|name| name == own))
        };
        let mut all: Vec<&Identity> = self.identities.iter().collect();
        all.sort_by_key(position);
        match require {
            Require::Any => all.first().map_or_else(Identity::anonymous, |first| (*first).clone()),
            Require::All => Identity::combined(&all),
        }
    }
}

const ANONYMOUS: &str = "anonymous";
const CERTIFICATE: &str = "client_certificate";

fn kinds() -> clap::builder::PossibleValuesParser {
    KINDS.into()
}

fn caller(text: &str) -> Result<Caller, String> {
    if text == ANONYMOUS {
        return Ok(Caller::Anonymous);
    }
    match text.split_once(':') {
        Some((provider, subject)) if !provider.is_empty() && !subject.is_empty() => {
            Ok(Caller::Known { provider: provider.to_owned(), subject: subject.to_owned() })
        }
        Some(_) | None => Err("write a provider and a subject, as `corp:alice`, or `anonymous`".to_owned()),
    }
}

fn request(text: &str) -> Result<Line, String> {
    let (method, target) = match text.trim().split_once(char::is_whitespace) {
        Some((method, target)) => (method, target.trim()),
        None => ("GET", text.trim()),
    };
    if !target.starts_with('/') {
        return Err("write a method and a path, as `GET /v2/orders/42`".to_owned());
    }
    let known = Method::from_bytes(method.as_bytes()).map_err(|_| format!("`{method}` is no method"))?;
    Ok(Line { method: known, target: target.to_owned() })
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("write a name and a value, as `name=value`".to_owned()),
    }
}

fn claim(text: &str) -> Result<(String, Json), String> {
    let (name, value) = pair(text)?;
    let value = serde_json::from_str(&value).unwrap_or(Json::String(value));
    Ok((name, value))
}

fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || "write it as `Name: value`".to_owned();
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
    let value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
    Ok((name, value))
}

/// By name; of several values a list.
fn attributes(given: &[(String, String)]) -> Map<String, Json> {
    let mut attributes = Map::new();
    for (name, value) in given {
        let value = Json::from(value.as_str());
        match attributes.get_mut(name) {
            None => drop(attributes.insert(name.clone(), value)),
            Some(Json::Array(list)) => list.push(value),
            Some(known) => *known = Json::Array(vec![known.take(), value]),
        }
    }
    attributes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_subject_may_hold_colons_and_neither_part_may_be_empty() {
        let known = |provider: &str, subject: &str| {
            Ok(Caller::Known { provider: provider.to_owned(), subject: subject.to_owned() })
        };
        assert_eq!(caller("corp:alice"), known("corp", "alice"));
        assert_eq!(caller("devices:spiffe://example.org/7"), known("devices", "spiffe://example.org/7"));
        assert_eq!(caller("anonymous"), Ok(Caller::Anonymous));
        for wrong in ["", "alice", ":alice", "corp:"] {
            assert!(caller(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_request_has_a_method_and_a_path() {
        let line = |method, target: &str| Ok(Line { method, target: target.to_owned() });
        assert_eq!(request("GET /v2/orders/42"), line(Method::GET, "/v2/orders/42"));
        assert_eq!(request(" DELETE  /a?b=c d "), line(Method::DELETE, "/a?b=c d"));
        assert_eq!(request("/a"), line(Method::GET, "/a"));
        for wrong in ["", "GET", "GET orders", "G@T /a", "GET\t"] {
            assert!(request(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_claim_is_json_or_a_text() {
        assert_eq!(claim("a=[1]"), Ok(("a".to_owned(), json!([1]))));
        assert_eq!(claim("a=b=c"), Ok(("a".to_owned(), json!("b=c"))));
        assert!(claim("a").is_err() && claim("=a").is_err());
    }

    #[test]
    fn an_attribute_given_again_is_a_list() {
        let given = [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4")];
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(Json::Object(attributes(&given)), json!({"a": ["1", "3", "4"], "b": "2"}));
    }
}
