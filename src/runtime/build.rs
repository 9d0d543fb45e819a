//! From a validated configuration to a snapshot: reads files and compiles, touches nothing that is running.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use regorus::Value;

use crate::audit::label::EncodedLabels;
use crate::base::clock::{Clock as _, SystemClock, saturating_nanos};
use crate::config::model::{self, BundleSource, Config, Lifecycle, Name, PolicyContract};
use crate::contract::decision::{FoldedNames, Phase};
use crate::contract::envoy;
use crate::contract::form::Contract;
use crate::identity::chain::Chain;
use crate::identity::jwt::key_sets::KeySets;
use crate::identity::provider::{self, Provider};
use crate::policy::bundle::signature::{Exclude, Verification, VerificationKey};
use crate::policy::bundle::{self, Bundle, Packed, Purpose};
use crate::policy::check;
use crate::policy::decide::{self, Rules};
use crate::policy::result;
use crate::policy::testing::{self, Outcome, TestOptions};
use crate::rego::fault::BundleErrors;
use crate::rego::program::{Options, Program};
use crate::runtime::build_error::{BuildError, BuildErrors, SigningError};
use crate::runtime::bundles::Candidates;
use crate::runtime::bundles::archive::Archive;
use crate::runtime::outside::Outbound;
use crate::runtime::router::Router;
use crate::runtime::snapshot::{
    Api, Listener, Policy, Route, Runtime, lifecycle_document, lifecycle_headers,
};
use crate::runtime::tls::ServerTls;
use crate::upstream::cluster::{Cluster, Clusters};

/// Time of one of the bundle's own tests.
const SELF_TEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Gathers faults while the building goes on, so that all are reported at once.
#[derive(Debug, Default)]
struct Faults(Vec<BuildError>);

impl Faults {
    fn take<T>(&mut self, outcome: Result<T, BuildError>) -> Option<T> {
        outcome.map_err(|fault| self.0.push(fault)).ok()
    }
}

/// Builds the snapshot of `config`, fetched bundles from their `archives`. What an earlier one has and this one has too
/// (connections, health) goes on.
pub fn build(
    config: Config,
    archives: &mut Candidates,
    key_sets: &KeySets,
    former: Option<&Runtime>,
) -> Result<Runtime, BuildErrors> {
    let mut faults = Faults(std::mem::take(&mut archives.faults));
    let policies = policies(&config, Some(archives), &mut faults);
    rest(config, policies, key_sets, former, faults)
}

/// Finds every fault of `config` that [`build`] would find, but for those of bundles that are fetched: nothing is.
pub fn check(config: Config, key_sets: &KeySets) -> Result<Arc<Config>, BuildErrors> {
    let mut faults = Faults::default();
    let policies = policies(&config, None, &mut faults);
    // Without all its policies it must not serve, and is dropped.
    rest(config, policies, key_sets, None, faults).map(|unusable| unusable.config)
}

/// Everything but policies.
fn rest(
    config: Config,
    policies: Vec<Policy>,
    key_sets: &KeySets,
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
    assemble(decided, key_sets, former, faults)
}

/// `snapshot` with the bundle of one policy replaced by `archive`, and all else as it is.
pub fn with_bundle(snapshot: &Runtime, policy: &Name, archive: &Archive) -> Result<Runtime, BuildErrors> {
    let mut faults = Faults::default();
    let built = snapshot
        .config
        .policies
        .get(policy)
        .and_then(|config| build_policy(config, Some(archive), &options(&snapshot.config), &mut faults));
    let Some(built) = built else {
        if faults.0.is_empty() {
            faults.0.push(BuildError::Dangling(Arc::clone(policy)));
        }
        return Err(BuildErrors(faults.0));
    };
    if !faults.0.is_empty() {
        return Err(BuildErrors(faults.0));
    }
    let mut next = snapshot.clone();
    next.policies.iter_mut().filter(|replaced| replaced.name == *policy).for_each(|replaced| {
        replaced.clone_from(&built);
    });
    Ok(next)
}

/// `snapshot` again, with its credentials as their files say now: API keys, key sets, certificates, revocation lists.
///
/// Whoever goes back to an earlier configuration, or saves a policy that is refused, does not mean to let in again who was
/// shut out meanwhile. `running` is the snapshot in force.
pub fn renew(snapshot: &Runtime, running: &Runtime, key_sets: &KeySets) -> Result<Runtime, BuildErrors> {
    let decided = Decided {
        config: Arc::clone(&snapshot.config),
        instance: snapshot.instance.clone(),
        policies: snapshot.policies.clone(),
        clusters: snapshot.clusters.clone(),
        labels: snapshot.labels.clone(),
    };
    assemble(decided, key_sets, Some(running), Faults::default())
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
    key_sets: &KeySets,
    former: Option<&Runtime>,
    mut faults: Faults,
) -> Result<Runtime, BuildErrors> {
    let Decided { config, instance, policies, clusters, labels } = decided;
    let providers = provider::build(&config.identity, key_sets).map_err(BuildError::Providers);
    let providers = faults.take(providers).unwrap_or_default();
    let listeners = listeners(&config, former, &mut faults);
    if !faults.0.is_empty() {
        return Err(BuildErrors(faults.0));
    }
    let apis = config.apis.iter().filter_map(|api| {
        let built = build_api(api, &config, &providers, &clusters);
        faults.take(built.map_err(BuildError::Dangling))
    });
    let apis = apis.collect();
    if !faults.0.is_empty() {
        return Err(BuildErrors(faults.0));
    }
    Ok(Runtime { config, instance, listeners, apis, policies, clusters, labels })
}

/// All policies; without `archives` those whose bundle is fetched are left out, once all else about them is looked at.
fn policies(config: &Config, archives: Option<&Candidates>, faults: &mut Faults) -> Vec<Policy> {
    let options = options(config);
    let built = config.policies.values().filter_map(|policy| match (&policy.bundle, archives) {
        (BundleSource::Path(_), _) => build_policy(policy, None, &options, faults),
        (BundleSource::Url(_), Some(archives)) => {
            let archive = archives.archive(&policy.name);
            // Where there is none, the reason is among the faults; if it were not, the snapshot must not serve.
            if archive.is_none() && faults.0.is_empty() {
                faults.0.push(BuildError::Dangling(Arc::clone(&policy.name)));
            }
            build_policy(policy, Some(archive?), &options, faults)
        }
        (BundleSource::Url(_), None) => {
            drop(faults.take(verification_of(policy)));
            None
        }
    });
    built.collect()
}

fn options(config: &Config) -> Options {
    let labels = config.labels.iter().map(|(k, v)| (Value::from(k.as_str()), Value::from(v.as_str())));
    let labels = Value::from(labels.collect::<BTreeMap<_, _>>());
    let of_config = Value::from(BTreeMap::from([(Value::from("labels"), labels)]));
    let runtime = Value::from(BTreeMap::from([(Value::from("config"), of_config)]));
    Options { runtime, ..Options::default() }
}

/// A mistyped input path is never there: under `not` it would open a door.
fn known_inputs(program: &Program, contract: Contract) -> Result<(), BundleErrors> {
    let unknown = check::unknown_inputs(program, Some(contract));
    if unknown.is_empty() { Ok(()) } else { Err(BundleErrors::from(unknown)) }
}

/// Who must have signed the policy's bundle.
fn verification_of(policy: &model::Policy) -> Result<Option<Verification>, BuildError> {
    let verification = policy.signing.as_ref().map(verification).transpose();
    verification.map_err(|source| BuildError::Signing { policy: Arc::clone(&policy.name), source })
}

/// Whom the policy may ask outside.
fn outbound_of(policy: &model::Policy) -> Result<Option<Outbound>, BuildError> {
    let outbound = Outbound::build(policy.http_send.as_ref(), policy.lookup.as_ref());
    outbound.map_err(|source| BuildError::Outbound { policy: Arc::clone(&policy.name), source })
}

fn contract_of(policy: &model::Policy) -> Contract {
    match policy.contract {
        PolicyContract::GatewayV1 => Contract::GatewayV1,
        PolicyContract::EnvoyV3 => Contract::EnvoyV3,
    }
}

/// Builds a policy from `archive`, or else from the path in its configuration.
fn build_policy(
    policy: &model::Policy,
    archive: Option<&Archive>,
    options: &Options,
    faults: &mut Faults,
) -> Option<Policy> {
    let name = || Arc::clone(&policy.name);
    let of_bundle = |source| BuildError::Bundle { policy: name(), source };
    let verification = faults.take(verification_of(policy))?;
    let purpose = Purpose::Serve(verification.as_ref());
    let bundle = match (archive, &policy.bundle) {
        (Some(Archive { bytes, shown, deltas, .. }), _) => {
            bundle::load_packed(&Packed { bytes, shown, deltas }, purpose)
        }
        (None, BundleSource::Path(path)) => bundle::load(&[path], purpose),
        (None, BundleSource::Url(_)) => {
            faults.0.push(BuildError::Dangling(name()));
            return None;
        }
    };
    let bundle = faults.take(bundle.map_err(of_bundle))?;
    let outbound = faults.take(outbound_of(policy))?;
    let outside = Outbound::permitted(policy.http_send.as_ref(), policy.lookup.as_ref());
    let options = Options { outside, ..options.clone() };
    let program = faults.take(bundle.compile(options).map_err(of_bundle))?;
    let contract = contract_of(policy);
    faults.take(known_inputs(&program, contract).map_err(of_bundle))?;
    let mut entrypoint = |path: &[String], phase| {
        let path = path.join("/");
        let missing = |source| BuildError::Entrypoint { policy: name(), source };
        let entrypoint = faults.take(program.entrypoint(&path).map_err(missing))?;
        let undecided = match contract {
            Contract::GatewayV1 => result::check(&program, &entrypoint, phase),
            Contract::EnvoyV3 => Vec::new(),
        };
        if contract == Contract::EnvoyV3 {
            let paths = envoy::not_provided(&decide::reads(&program.footprint(&entrypoint)));
            let provided = if paths.is_empty() {
                Ok(())
            } else {
                Err(BuildError::NotProvided { policy: name(), paths })
            };
            faults.take(provided)?;
        }
        let judged =
            if undecided.is_empty() { Ok(()) } else { Err(of_bundle(BundleErrors::from(undecided))) };
        faults.take(judged)?;
        Some((entrypoint, path))
    };
    let decision = entrypoint(&policy.decision, Phase::Request);
    let response = policy.response.as_ref().map(|path| entrypoint(path, Phase::Response));
    if policy.self_test {
        let tested = self_test(policy, &bundle);
        faults.take(tested.map_err(|details| BuildError::SelfTest { policy: name(), details }))?;
    }
    let (decision, decision_path) = decision?;
    let (response, response_path) = match response {
        Some(response) => response.map(|(entrypoint, path)| (Some(entrypoint), Some(path)))?,
        None => (None, None),
    };
    for entrypoint in [Some(&decision), response.as_ref()].into_iter().flatten() {
        if let Some(difference) = program.verify(entrypoint) {
            tracing::warn!(policy.id = %policy.name, %difference, "Plan differs from the interpreter");
        }
    }
    Some(Policy {
        name: name(),
        revision: bundle.revision,
        archive: archive.cloned(),
        decision_path,
        response_path,
        program,
        rules: Rules { decision, response, budget: policy.budget, contract, cache: policy.decision_cache },
        outbound: outbound.map(Arc::new),
        on_error: policy.on_error,
    })
}

/// Reads the keys that may have signed a bundle.
fn verification(signing: &model::Signing) -> Result<Verification, SigningError> {
    let keys = signing.keys.iter().map(|key| -> Result<_, SigningError> {
        let failed = |source| SigningError::Unreadable { file: key.file.clone(), source };
        let text = std::fs::read_to_string(&key.file).map_err(failed)?;
        let read =
            VerificationKey::new(key.algorithm, text.trim_end_matches(['\r', '\n']), key.scope.clone());
        let read = read.map_err(|source| SigningError::Key { file: key.file.clone(), source })?;
        Ok((key.id.clone(), read))
    });
    Ok(Verification {
        keys: keys.collect::<Result<_, _>>()?,
        key_id: signing.keyid.clone(),
        scope: signing.scope.clone(),
        exclude: Exclude::new(signing.exclude_files.iter().map(String::as_str))?,
    })
}

/// Runs the bundle's own tests, if it has any. The error lists the tests that do not pass.
fn self_test(policy: &model::Policy, bundle: &Bundle) -> Result<(), String> {
    let options = TestOptions {
        run: None,
        timeout: SELF_TEST_TIMEOUT,
        coverage: false,
        conditions: false,
        parallel: 1,
        now_ns: i64::try_from(saturating_nanos(SystemClock.now())).unwrap_or(i64::MAX),
    };
    let report = testing::run(bundle, &options).map_err(|errors| errors.to_string())?;
    let failed = report.tests.iter().filter_map(|test| match &test.outcome {
        Outcome::Passed | Outcome::Skipped => None,
        Outcome::Failed(_) => Some(format!("{}: {} failed", test.place, test.full_name())),
        Outcome::Errored(error) => Some(format!("{}: {}: {error}", test.place, test.full_name())),
    });
    let failed: Vec<_> = failed.collect();
    if !failed.is_empty() {
        return Err(failed.join("\n"));
    }
    let passed = report.count(|outcome| *outcome == Outcome::Passed);
    if report.tests.is_empty() {
        tracing::info!(policy.id = %policy.name, "Bundle has no tests of its own, so nothing of it was tried");
    } else {
        let skipped = report.tests.len() - passed;
        tracing::info!(policy.id = %policy.name, tests = passed, skipped, "Bundle's own tests pass");
    }
    Ok(())
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
    let tls = faults.take(tls.transpose())?;
    Some(Listener { config: listener.clone(), router, tls })
}

fn build_api(
    api: &model::Api,
    config: &Config,
    providers: &BTreeMap<Name, Arc<Provider>>,
    clusters: &Clusters,
) -> Result<Api, Name> {
    let chain = |names: &[Name]| -> Result<Chain, Name> {
        let found = names.iter().map(|name| providers.get(name).cloned().ok_or_else(|| Arc::clone(name)));
        Ok(Chain::new(found.collect::<Result<_, _>>()?))
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
    Ok(Api {
        name: Arc::clone(&api.name),
        version: api.version.clone(),
        chain: chain(&api.identity)?,
        on_bad_credential: api.on_bad_credential,
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

/// Every header that any provider takes a credential from: a client may send one to the wrong API.
fn credential_headers(config: &Config) -> Vec<http::HeaderName> {
    let headers = config.identity.values().filter_map(|provider| match provider {
        model::Provider::Jwt(jwt) => Some(jwt.header.clone()),
        model::Provider::ApiKey(key) => Some(key.header.clone()),
        model::Provider::ClientCertificate(_) => None,
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
