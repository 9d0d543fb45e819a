//! Asking what a configuration would decide: its router, its providers, its policies.
//!
//! What the gateway refuses before it asks a policy is an answer here, too. No network, no key set, no listener is opened.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use http::{HeaderMap, StatusCode};
use regorus::Value;

use crate::cli::policy_eval::caller::{CallerArgs, Line, Met};
use crate::config;
use crate::config::interpolate::process_environment;
use crate::config::model::{
    Anonymous, Api, BundleSource, Config, Lifecycle, Listener, Policy, PolicyContract, Provider, Require,
    Route,
};
use crate::config::suggest;
use crate::contract::decision::FoldedNames;
use crate::contract::form::Contract;
use crate::contract::request::{ApiFacts, RequestHead};
use crate::identity::assumed;
use crate::pipeline::reject::Cause;
use crate::policy::asking::Question;
use crate::policy::bundle::Bundle;
use crate::runtime::policies;
use crate::runtime::router::{Match, NoMatch, Router};
use crate::runtime::snapshot::lifecycle_document;

/// What becomes of a request.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A policy is asked.
    Asked(Box<Asked>),
    /// The gateway refuses it by itself.
    Refused(Refused),
}

/// What a policy is asked.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) bundle: Bundle,
    pub(super) query: String,
    pub(super) input: Value,
}

/// Why no policy is asked.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) reason: String,
    /// What to do about it.
    pub(super) hint: Option<String>,
}

/// A route of a configuration, and the listener it is asked by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'c> {
    pub(super) listener: &'c Listener,
    pub(super) api: &'c Api,
    pub(super) route: &'c Route,
}

impl From<Cause> for Refused {
    fn from(cause: Cause) -> Self {
        Self { status: cause.status(), reason: cause.reason().to_owned(), hint: None }
    }
}

/// Reads the configuration; the error has all its faults.
pub(super) fn load(path: &Path) -> anyhow::Result<Config> {
    Ok(config::load(path, &process_environment)?.config)
}

/// One request, from its line to the question to its policy.
pub(super) fn ask(args: &CallerArgs, config: &Config, line: &Line, now: Duration) -> anyhow::Result<Outcome> {
    if !args.params.is_empty() {
        bail!("`--param` is for requests without `--config`: here the route's parameters are in the path");
    }
    let met = meet(args, config, now)?;
    let chosen = args.api.as_deref().map(|name| api_named(config, name)).transpose()?;
    let host = chosen.map_or_else(|| LOCALHOST.to_owned(), host_of);
    let mut refused = None;
    for listener in listeners(args, config)? {
        let router = Router::build(&config.apis, &listener.apis)
            .map_err(|conflicts| anyhow::anyhow!("{}", shown(&conflicts)))?;
        let sent = args.sent(line.clone(), scheme(listener), &host)?;
        let head = match sent.canonical_by(listener.path_rules, 0) {
            Ok(head) => head,
            Err(refusal) => return Ok(Outcome::Refused(Cause::from(refusal).into())),
        };
        match router.find(&head.host, head.path.as_str(), &head.method) {
            Ok(found) => return routed(args, config, listener, head, &found, met, now),
            Err(no_match) => {
                let better = matches!(no_match, NoMatch::Method { .. });
                if refused.is_none() || better {
                    refused = Some(not_found(config, &head, no_match));
                }
            }
        }
    }
    Ok(Outcome::Refused(refused.context("the configuration has no listener")?))
}

fn routed(
    args: &CallerArgs,
    config: &Config,
    listener: &Listener,
    head: RequestHead,
    found: &Match,
    met: Met,
    now: Duration,
) -> anyhow::Result<Outcome> {
    let api = config.apis.get(found.api).context("the route has no API")?;
    let route = api.routes.get(found.route).context("the route is not there")?;
    if args.api.as_deref().is_some_and(|name| name != &*api.name) {
        bail!("the request is for API `{}`, route `{}`; leave `--api` out", api.name, route.name);
    }
    let place = Place { listener, api, route };
    if let Err(refused) = admits(args, config, place)? {
        return Ok(Outcome::Refused(refused));
    }
    let policy = policy_of(config, api)?;
    let head = without_identity(api, head);
    let identity = met.identity_at(api.require, accepted(place));
    let source = args.source(met.certificate);
    let lifecycle = lifecycle_document(&api.lifecycle);
    let question = Question {
        time: now,
        listener: &listener.name,
        source: &source,
        head: &head,
        api: facts(place, &found.params, &lifecycle),
        identity: &identity,
    };
    let input = question.input(contract(policy));
    let query = format!("data.{}", policy.decision.join("."));
    Ok(Outcome::Asked(Box::new(Asked { bundle: bundle(policy)?, query, input })))
}

/// Whoever asks, as the providers of the configuration know them.
pub(super) fn meet(args: &CallerArgs, config: &Config, now: Duration) -> anyhow::Result<Met> {
    args.meet(|name, said| {
        let Some(provider) = config.identity.get(name) else {
            let names: Vec<&str> = config.identity.keys().map(|name| &**name).collect();
            let hint =
                suggest::suggestion(name, names.iter().copied()).unwrap_or_else(|| match names.as_slice() {
                    [] => "the configuration has none; ask as `anonymous`".to_owned(),
                    names => format!("there are {}", suggest::listed(names)),
                });
            bail!("unknown provider `{name}`: {hint}");
        };
        assumed::assume(provider, said, now).with_context(|| format!("provider `{name}`"))
    })
}

/// Whether the gateway lets a request as this caller get as far as the policy; an error where the caller cannot be one here.
pub(super) fn admits(
    args: &CallerArgs,
    config: &Config,
    place: Place<'_>,
) -> anyhow::Result<Result<(), Refused>> {
    let Place { api, route, .. } = place;
    if api.lifecycle == Lifecycle::Retired {
        return Ok(Err(Cause::Retired.into()));
    }
    let accepted = accepted(place);
    if let Some(stranger) = args.providers().find(|name| accepted.iter().all(|known| **known != **name)) {
        let names: Vec<&str> = accepted.iter().map(|name| &**name).collect();
        let hint = if names.is_empty() {
            "it accepts nobody but `anonymous`".to_owned()
        } else {
            format!("it accepts {}", suggest::listed(&names))
        };
        bail!("API `{}`, route `{}` does not accept `{stranger}`: {hint}", api.name, route.name);
    }
    let is_anonymous = args.providers().next().is_none();
    if is_anonymous && api.anonymous == Anonymous::Reject && !accepted.is_empty() {
        return Ok(Err(Cause::CredentialRequired.into()));
    }
    if api.require == Require::Any && args.callers.len() > 1 {
        bail!("API `{}` takes one identity, the first that is proven: leave the other `--as` out", api.name);
    }
    if !is_anonymous && api.require == Require::All {
        let missing = accepted.iter().filter(|name| config.identity.get(*name).is_some_and(proves));
        let missing: Vec<&str> =
            missing.map(|name| &**name).filter(|name| args.providers().all(|given| given != *name)).collect();
        if !missing.is_empty() {
            let hint = format!("add `--as {}:SUBJECT`", missing.join(":SUBJECT --as "));
            bail!(
                "API `{}` asks for all of its identities, {} too: {hint}",
                api.name,
                suggest::listed(&missing)
            );
        }
    }
    Ok(Ok(()))
}

/// The providers that a route accepts.
pub(super) fn accepted(place: Place<'_>) -> &[config::model::Name] {
    place.route.identity.as_deref().unwrap_or(&place.api.identity)
}

/// Whether a provider proves identities, rather than adding to those of others.
fn proves(provider: &Provider) -> bool {
    match provider {
        Provider::Ldap(config) => config.enrich.is_none(),
        Provider::Jwt(_)
        | Provider::ApiKey(_)
        | Provider::ClientCertificate(_)
        | Provider::Introspection(_)
        | Provider::Oidc(_)
        | Provider::External(_) => true,
    }
}

/// The listeners that are asked, in order.
pub(super) fn listeners<'c>(args: &CallerArgs, config: &'c Config) -> anyhow::Result<Vec<&'c Listener>> {
    let Some(name) = &args.listener else { return Ok(config.listeners.iter().collect()) };
    let found: Vec<&Listener> = config.listeners.iter().filter(|listener| *listener.name == **name).collect();
    if found.is_empty() {
        let names: Vec<&str> = config.listeners.iter().map(|listener| &*listener.name).collect();
        bail!("unknown listener `{name}`: there are {}", suggest::listed(&names));
    }
    Ok(found)
}

/// The first API of a name.
pub(super) fn api_named<'c>(config: &'c Config, name: &str) -> anyhow::Result<&'c Api> {
    config.apis.iter().find(|api| *api.name == *name).with_context(|| {
        let names: Vec<&str> = config.apis.iter().map(|api| &*api.name).collect();
        format!("unknown API `{name}`: there are {}", suggest::listed(&names))
    })
}

/// The policy that decides for an API.
pub(super) fn policy_of<'c>(config: &'c Config, api: &Api) -> anyhow::Result<&'c Policy> {
    config.policies.get(&api.policy).with_context(|| format!("there is no policy `{}`", api.policy))
}

/// A policy's bundle, from where the configuration has it, its signature checked.
pub(super) fn bundle(policy: &Policy) -> anyhow::Result<Bundle> {
    match &policy.bundle {
        BundleSource::Path(_) => Ok(policies::bundle(policy)?),
        BundleSource::Url(_) => bail!(
            "the bundle of policy `{}` is on a server: fetch it, and give its path instead of `--config`",
            policy.name
        ),
    }
}

/// What a policy is written for.
pub(super) fn contract(policy: &Policy) -> Contract {
    match policy.contract {
        PolicyContract::GatewayV1 => Contract::GatewayV1,
        PolicyContract::EnvoyV3 => Contract::EnvoyV3,
    }
}

/// A host that an API answers to.
pub(super) fn host_of(api: &Api) -> String {
    api.hosts.first().map_or_else(|| LOCALHOST.to_owned(), |host| host.replacen('*', "any", 1))
}

/// How clients of a listener speak.
pub(super) fn scheme(listener: &Listener) -> &'static str {
    if listener.tls.is_some() { "https" } else { "http" }
}

/// The head as the policy sees it: what only the gateway may say is gone.
pub(super) fn without_identity(api: &Api, mut head: RequestHead) -> RequestHead {
    let headers: &mut HeaderMap = &mut head.headers;
    FoldedNames::new(&api.identity_headers).remove_from(headers);
    head
}

/// What a route is to a policy.
pub(super) fn facts<'a>(
    place: Place<'a>,
    params: &'a [(Arc<str>, String)],
    lifecycle: &'a Value,
) -> ApiFacts<'a> {
    ApiFacts {
        name: &place.api.name,
        version: place.api.version.as_deref(),
        route: &place.route.name,
        params,
        lifecycle,
    }
}

fn not_found(config: &Config, head: &RequestHead, no_match: NoMatch) -> Refused {
    match no_match {
        NoMatch::Method { allow } => {
            let hint = format!("routes of this path take {}", allow.to_str().unwrap_or_default());
            Refused { hint: Some(hint), ..Cause::MethodNotAllowed { allow }.into() }
        }
        NoMatch::Path => {
            let all = config.apis.iter().map(|api| {
                let hosts = if api.hosts.is_empty() { "any host".to_owned() } else { api.hosts.join(", ") };
                format!("`{}` at `{}/` of {hosts}", api.name, api.base_path)
            });
            let all: Vec<String> = all.take(SHOWN_MAX).collect();
            let hint = format!("host `{}` has no such path; APIs are {}", head.host, all.join("; "));
            Refused { hint: Some(hint), ..Cause::NoRoute.into() }
        }
    }
}

fn shown<T: ToString>(errors: &[T]) -> String {
    errors.iter().map(T::to_string).collect::<Vec<_>>().join("\n")
}

/// The host of requests that name none.
const LOCALHOST: &str = "localhost";
/// APIs named in a hint.
const SHOWN_MAX: usize = 10;
