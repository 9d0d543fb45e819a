//! From a validated configuration to a snapshot: reads files and compiles, touches nothing that is running.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::audit::label::EncodedLabels;
use crate::config::model::{self, Config, Lifecycle, Name};
use crate::contract::decision::FoldedNames;
use crate::identity::chain::Chain;
use crate::identity::jwt::dpop::DPOP;
use crate::identity::oidc::party::RelyingParty;
use crate::identity::provider::{self, Provider};
use crate::identity::resources::Resources;
use crate::runtime::beside::candidate::{Candidate, Shadow};
use crate::runtime::build_error::{BuildError, BuildErrors};
use crate::runtime::bundles::Archives;
use crate::runtime::bundles::archive::Archive;
use crate::runtime::bundles::key::Key;
use crate::runtime::forwarded_certificate::ForwardedCertificates;
use crate::runtime::policies;
use crate::runtime::router::Router;
use crate::runtime::shadow;
use crate::runtime::snapshot::{
    Api, Listener, Policy, Route, Runtime, lifecycle_document, lifecycle_headers,
};
use crate::runtime::tls::ServerTls;
use crate::upstream::cluster::{Cluster, Clusters};

/// Gathers faults while the building goes on, so that all are reported at once.
#[derive(Debug, Default)]
pub(super) struct Faults(pub(super) Vec<BuildError>);

impl Faults {
    pub(super) fn take<T>(&mut self, outcome: Result<T, BuildError>) -> Option<T> {
        outcome.map_err(|fault| self.0.push(fault)).ok()
    }
}

/// Builds the snapshot of `config`, fetched bundles from their `archives`. What an earlier one has and this one has too
/// (connections, health) goes on.
pub fn build(
    config: Config,
    archives: &mut Archives,
    resources: &Resources,
    former: Option<&Runtime>,
) -> Result<Runtime, BuildErrors> {
    let mut faults = Faults(std::mem::take(&mut archives.faults));
    let policies = policies::build(&config, Some(archives), former, &mut faults);
    rest(config, policies, resources, former, faults)
}

/// Finds every fault of `config` that [`build`] would find, but for those of bundles that are fetched: nothing is. What is
/// wrong with candidates is no fault, and given beside the configuration.
pub fn check(config: Config, resources: &Resources) -> Result<(Arc<Config>, Vec<String>), BuildErrors> {
    let mut faults = Faults::default();
    let policies = policies::build(&config, None, None, &mut faults);
    // Without all its policies it must not serve, and is dropped.
    let unusable = rest(config, policies, resources, None, faults)?;
    let refused = unusable.policies.iter().filter_map(|policy| match &policy.shadow {
        Some(Shadow::Refused { shown, errors }) => {
            Some(format!("policy `{}`: the shadow `{shown}` is refused: {}", policy.name, errors.join("; ")))
        }
        Some(Shadow::Loaded(_) | Shadow::Awaited { .. }) | None => None,
    });
    let refused = refused.collect();
    Ok((unusable.config, refused))
}

/// Everything but policies.
fn rest(
    config: Config,
    policies: Vec<Policy>,
    resources: &Resources,
    former: Option<&Runtime>,
    mut faults: Faults,
) -> Result<Runtime, BuildErrors> {
    let none = Clusters::default();
    let clusters = Clusters::build(&config.upstreams, former.map_or(&none, |former| &former.clusters));
    let clusters = clusters.unwrap_or_else(|errors| {
        faults.0.extend(errors.into_iter().map(BuildError::Cluster));
        Clusters::default()
    });
    // As OPA's `labels.id`: the process, whatever is reloaded in it.
    let instance =
        former.map_or_else(|| uuid::Uuid::new_v4().to_string().into(), |former| former.instance.clone());
    let labels = EncodedLabels::new(&config.labels, &instance);
    let decided = Decided { config: Arc::new(config), instance, policies, clusters, labels };
    assemble(decided, resources, former, faults)
}

/// `snapshot` with the bundle of one policy replaced by `archive`, and all else as it is.
pub fn with_bundle(snapshot: &Runtime, policy: &Name, archive: &Archive) -> Result<Runtime, BuildErrors> {
    let mut faults = Faults::default();
    let former = snapshot.policies.iter().find(|former| former.name == *policy);
    let options = policies::options(&snapshot.config);
    let config = snapshot.config.policies.get(policy);
    let built = config.and_then(|config| policies::one(config, Some(archive), &options, former, &mut faults));
    let Some(mut built) = built else {
        if faults.0.is_empty() {
            faults.0.push(BuildError::Dangling(Arc::clone(policy)));
        }
        return Err(BuildErrors(faults.0));
    };
    if !faults.0.is_empty() {
        return Err(BuildErrors(faults.0));
    }
    // A candidate is not built again: no bundle waits for that.
    let shadow = former.and_then(|former| former.shadow.as_ref());
    built.shadow = shadow.map(|shadow| shadow.beside(&built));
    let mut next = snapshot.clone();
    next.policies.iter_mut().filter(|replaced| replaced.name == *policy).for_each(|replaced| {
        replaced.clone_from(&built);
    });
    Ok(next)
}

/// The candidate of `archive` for a policy of `snapshot`.
pub fn candidate(snapshot: &Runtime, policy: &Name, archive: &Archive) -> Result<Candidate, BuildErrors> {
    let options = policies::options(&snapshot.config);
    let config = snapshot.config.policies.get(policy);
    let in_force = snapshot.policies.iter().find(|built| built.name == *policy);
    let (Some(config), Some(in_force)) = (config, in_force) else {
        return Err(BuildErrors(vec![BuildError::Dangling(Arc::clone(policy))]));
    };
    shadow::fetched(config, archive, in_force, &options)
}

/// `snapshot` with `candidate`, which was made for `before`, beside its policy, and all else as it is. `None` where the policy's
/// configuration or its candidate is another by now.
pub fn with_candidate(
    snapshot: &Runtime,
    before: &Runtime,
    key: &Key,
    candidate: &Candidate,
) -> Option<Runtime> {
    let settings = |runtime: &Runtime| runtime.config.policies.get(&key.policy).cloned();
    let replaced = |runtime: &Runtime| key.archive(runtime).cloned();
    let same_archive = match (replaced(snapshot), replaced(before)) {
        (Some(now), Some(then)) => now.is_same(&then),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    if settings(snapshot) != settings(before) || !same_archive {
        return None;
    }
    let mut next = snapshot.clone();
    let policy = next.policies.iter_mut().find(|policy| policy.name == key.policy)?;
    policy.shadow = Some(Shadow::Loaded(Arc::new(candidate.beside(policy))));
    Some(next)
}

/// `snapshot` again, with its credentials as their files say now: API keys, key sets, certificates, revocation lists.
///
/// Whoever goes back to an earlier configuration, or saves a policy that is refused, does not mean to let in again who was
/// shut out meanwhile. `running` is the snapshot in force.
pub fn renew(snapshot: &Runtime, running: &Runtime, resources: &Resources) -> Result<Runtime, BuildErrors> {
    let decided = Decided {
        config: Arc::clone(&snapshot.config),
        instance: snapshot.instance.clone(),
        policies: snapshot.policies.clone(),
        clusters: snapshot.clusters.clone(),
        labels: snapshot.labels.clone(),
    };
    assemble(decided, resources, Some(running), Faults::default())
}

/// What of a snapshot does not rest on credentials.
struct Decided {
    config: Arc<Config>,
    instance: Arc<str>,
    policies: Vec<Policy>,
    clusters: Clusters,
    labels: EncodedLabels,
}

/// Reads the credentials and puts the snapshot together, unless there are faults.
fn assemble(
    decided: Decided,
    resources: &Resources,
    former: Option<&Runtime>,
    mut faults: Faults,
) -> Result<Runtime, BuildErrors> {
    let Decided { config, instance, policies, clusters, labels } = decided;
    let providers = provider::build(&config.identity, resources).map_err(BuildError::Providers);
    let providers = faults.take(providers).unwrap_or_default();
    let listeners = listeners(&config, former, &mut faults);
    if !faults.0.is_empty() {
        return Err(BuildErrors(faults.0));
    }
    let apis = config.apis.iter().filter_map(|api| {
        let built = build_api(api, &config, &providers, &clusters);
        faults.take(built.map_err(BuildError::Dangling))
    });
    let apis: Vec<Api> = apis.collect();
    if !faults.0.is_empty() {
        return Err(BuildErrors(faults.0));
    }
    let has_browsers = apis.iter().any(|api: &Api| !api.parties.is_empty());
    Ok(Runtime { config, instance, listeners, apis, policies, clusters, labels, has_browsers })
}

/// Listeners in the order of the running ones: their sockets stay as they are.
fn listeners(config: &Config, former: Option<&Runtime>, faults: &mut Faults) -> Vec<Listener> {
    let ordered: Vec<&model::Listener> = match former {
        None => config.listeners.iter().collect(),
        Some(former) => {
            let kept = former.listeners.iter().filter_map(|running| same_socket(running, config, faults));
            let kept: Vec<_> = kept.collect();
            if config.listeners.len() > former.listeners.len() {
                faults.0.push(BuildError::NeedsRestart { what: "the set of listeners".to_owned() });
            }
            if former.config.workers != config.workers {
                faults.0.push(BuildError::NeedsRestart { what: "`workers`".to_owned() });
            }
            if former.config.admin != config.admin {
                faults.0.push(BuildError::NeedsRestart { what: "`admin`".to_owned() });
            }
            kept
        }
    };
    let running = |name: &Name| former?.listeners.iter().find(|running| running.config.name == *name);
    let build = |listener: &model::Listener| {
        let tls = running(&listener.name).and_then(|running| running.tls.as_ref());
        build_listener(listener, config, tls, faults)
    };
    ordered.into_iter().filter_map(build).collect()
}

fn same_socket<'c>(
    running: &Listener,
    config: &'c Config,
    faults: &mut Faults,
) -> Option<&'c model::Listener> {
    let name = &running.config.name;
    let Some(next) = config.listeners.iter().find(|listener| listener.name == *name) else {
        faults.0.push(BuildError::NeedsRestart { what: format!("listener `{name}`: its removal") });
        return None;
    };
    if next.address != running.config.address {
        faults.0.push(BuildError::NeedsRestart { what: format!("listener `{name}`: its address") });
    }
    Some(next)
}

fn build_listener(
    listener: &model::Listener,
    config: &Config,
    running: Option<&Arc<ServerTls>>,
    faults: &mut Faults,
) -> Option<Listener> {
    let router = Router::build(&config.apis, &listener.apis).unwrap_or_else(|conflicts| {
        faults.0.extend(conflicts.into_iter().map(BuildError::Routes));
        Router::default()
    });
    let tls = listener.tls.as_ref().map(|tls| {
        let built = ServerTls::build(tls, listener.protocols, running);
        built.map_err(|source| BuildError::Tls { listener: Arc::clone(&listener.name), source })
    });
    let tls = faults.take(tls.transpose());
    let forwarded = listener.forwarded_certificates.as_ref().map(|settings| {
        let built = ForwardedCertificates::build(settings).map(Arc::new);
        built.map_err(|source| BuildError::Tls { listener: Arc::clone(&listener.name), source })
    });
    let forwarded_certificates = faults.take(forwarded.transpose())?;
    Some(Listener { config: listener.clone(), router, tls: tls?, forwarded_certificates })
}

fn build_api(
    api: &model::Api,
    config: &Config,
    providers: &BTreeMap<Name, Arc<Provider>>,
    clusters: &Clusters,
) -> Result<Api, Name> {
    let chain = |names: &[Name]| -> Result<Chain, Name> {
        let found = names.iter().map(|name| providers.get(name).cloned().ok_or_else(|| Arc::clone(name)));
        Ok(Chain::requiring(api.require, found.collect::<Result<_, _>>()?))
    };
    // Policies are built in this order, and a snapshot that lacks one is not used.
    let policy = config.policies.keys().position(|name| *name == api.policy);
    let cluster = clusters.get(&api.upstream).map(Arc::clone);
    let routes = api.routes.iter().map(|route| {
        Ok(Route {
            name: Arc::clone(&route.name),
            body_limit: route.body_bytes.map(crate::base::size::ByteLimit::bytes),
            chain: route.identity.as_deref().map(chain).transpose()?,
            websocket: route.websocket,
        })
    });
    let routes = routes.collect::<Result<Vec<_>, Name>>()?;
    let api_chain = chain(&api.identity)?;
    Ok(Api {
        name: Arc::clone(&api.name),
        version: api.version.clone(),
        parties: parties(&api_chain, &routes),
        chain: api_chain,
        on_bad_credential: api.on_bad_credential,
        anonymous: api.anonymous,
        policy: policy.ok_or_else(|| Arc::clone(&api.policy))?,
        cluster: cluster.ok_or_else(|| Arc::clone(&api.upstream))?,
        routes,
        identity_headers: FoldedNames::new(&api.identity_headers),
        credential_headers: credential_headers(config),
        retired: api.lifecycle == Lifecycle::Retired,
        lifecycle: lifecycle_document(&api.lifecycle),
        lifecycle_headers: lifecycle_headers(&api.lifecycle),
    })
}

/// Who logs browsers in for an API or one of its routes, each once.
fn parties(chain: &Chain, routes: &[Route]) -> Vec<Arc<RelyingParty>> {
    let mut parties: Vec<Arc<RelyingParty>> = Vec::new();
    let chains = routes.iter().filter_map(|route| route.chain.as_ref());
    for party in [chain].into_iter().chain(chains).filter_map(Chain::relying_party) {
        if !parties.iter().any(|known| Arc::ptr_eq(known, party)) {
            parties.push(Arc::clone(party));
        }
    }
    parties
}

/// Every header that any provider takes a credential from: a client may send one to the wrong API.
fn credential_headers(config: &Config) -> Vec<http::HeaderName> {
    let headers = config.identity.values().flat_map(|provider| match provider {
        model::Provider::Jwt(jwt) => {
            std::iter::once(jwt.header.clone()).chain(jwt.dpop.as_ref().map(|_| DPOP.clone())).collect()
        }
        model::Provider::ApiKey(key) => vec![key.header.clone()],
        model::Provider::Ldap(ldap) if ldap.enrich.is_some() => Vec::new(),
        model::Provider::Ldap(_) => vec![http::header::AUTHORIZATION],
        model::Provider::External(external) => external.forward.clone(),
        model::Provider::Introspection(tokens) => vec![tokens.header.clone()],
        // A browser's cookies never stay in a request.
        model::Provider::ClientCertificate(_) | model::Provider::Oidc(_) => Vec::new(),
    });
    headers.collect()
}

impl Cluster {
    /// Whether this is the very cluster of an earlier snapshot.
    #[must_use]
    pub fn is_in(self: &Arc<Self>, clusters: &Clusters) -> bool {
        clusters.get(self.name()).is_some_and(|other| Arc::ptr_eq(self, other))
    }
}
