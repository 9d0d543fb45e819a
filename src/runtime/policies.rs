//! From a policy's configuration to the policy: reads, compiles and tests its bundle.
//!
//! A fault of a policy refuses the snapshot. A fault of the candidate beside it does not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::digest;
use regorus::Value;

use crate::base::clock::{Clock as _, SystemClock, saturating_nanos};
use crate::config::model::{self, BundleSource, Config, PolicyContract};
use crate::contract::decision::Phase;
use crate::contract::envoy;
use crate::contract::form::Contract;
use crate::policy::bundle::signature::{Exclude, Verification, VerificationKey};
use crate::policy::bundle::{self, Bundle, Packed, Purpose};
use crate::policy::check;
use crate::policy::decide::{self, Rules};
use crate::policy::result;
use crate::policy::testing::{self, Outcome, TestOptions};
use crate::rego::differential;
use crate::rego::fault::BundleErrors;
use crate::rego::program::{EngineKind, Entrypoint, Options, Program};
use crate::runtime::beside::candidate::Verifier;
use crate::runtime::build::Faults;
use crate::runtime::build_error::{BuildError, BuildErrors, SigningError};
use crate::runtime::bundles::Archives;
use crate::runtime::bundles::archive::Archive;
use crate::runtime::outside::Outbound;
use crate::runtime::shadow;
use crate::runtime::snapshot::{Policy, Promotion, Runtime};

/// Time of one of the bundle's own tests.
const SELF_TEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How many policies were built.
static BUILT: AtomicU64 = AtomicU64::new(0);

/// All policies; without `archives` those whose bundle is fetched are left out, once all else about them is looked at.
pub(super) fn build(
    config: &Config,
    archives: Option<&Archives>,
    former: Option<&Runtime>,
    faults: &mut Faults,
) -> Vec<Policy> {
    let options = options(config);
    let former = |policy: &model::Policy| former?.policies.iter().find(|former| former.name == policy.name);
    let configured = config.policies.values().filter_map(|policy| match (&policy.bundle, archives) {
        (BundleSource::Path(_), _) => {
            one(policy, None, &options, former(policy), faults).map(|one| (policy, one))
        }
        (BundleSource::Url(_), Some(archives)) => {
            let archive = archives.archive(&policy.name);
            // Where there is none, the reason is among the faults; if it were not, the snapshot must not serve.
            if archive.is_none() && faults.0.is_empty() {
                faults.0.push(BuildError::Dangling(Arc::clone(&policy.name)));
            }
            one(policy, Some(archive?), &options, former(policy), faults).map(|one| (policy, one))
        }
        (BundleSource::Url(_), None) => {
            drop(faults.take(verification_of(policy)));
            None
        }
    });
    let built = configured.map(|(policy, mut built)| {
        let kept = archives.and_then(|archives| archives.shadow(&policy.name));
        built.shadow = shadow::build(policy, &built, kept, &options, former(policy));
        built
    });
    built.collect()
}

/// The bundle of a policy whose configuration names a path, its signature checked; for asking it without serving it.
pub fn bundle(policy: &model::Policy) -> Result<Bundle, BuildErrors> {
    let mut faults = Faults::default();
    let BundleSource::Path(path) = &policy.bundle else {
        return Err(BuildErrors(vec![BuildError::Dangling(Arc::clone(&policy.name))]));
    };
    load(policy, Files::Path(path), &mut faults).ok_or(BuildErrors(faults.0))
}

/// What a bundle is read from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Files<'a> {
    /// A directory or a packed file.
    Path(&'a Path),
    /// What was fetched.
    Archive(&'a Archive),
}

/// One policy without its candidate, from `archive` or else from the path in its configuration. `former` is what is in force
/// under its name.
pub(super) fn one(
    policy: &model::Policy,
    archive: Option<&Archive>,
    options: &Options,
    former: Option<&Policy>,
    faults: &mut Faults,
) -> Option<Policy> {
    let options = options_of(policy, options);
    let files = match (archive, &policy.bundle) {
        (Some(archive), _) => Files::Archive(archive),
        (None, BundleSource::Path(path)) => Files::Path(path),
        (None, BundleSource::Url(_)) => {
            faults.0.push(BuildError::Dangling(Arc::clone(&policy.name)));
            return None;
        }
    };
    let configured = Arc::new(load(policy, files, faults)?);
    let promoted = former.and_then(|former| still_promoted(former, policy, &configured));
    let bundle = promoted.map_or(configured, |(bundle, _)| Arc::clone(bundle));
    let mut built = compile(policy, bundle, &options, faults)?;
    built.archive = archive.cloned();
    built.promoted = promoted.map(|(_, promotion)| Arc::clone(promotion));
    let former_verifier = former.and_then(|former| former.verifier.as_deref());
    built.verifier = Verifier::new(&built, policy.verify, former_verifier).map(Arc::new);
    Some(built)
}

/// A promotion holds until the configured bundle changes: whoever changes that means it to be in force. It ends as well where
/// others must have signed now, for its signature cannot be looked at again.
fn still_promoted<'a>(
    former: &'a Policy,
    policy: &model::Policy,
    configured: &Bundle,
) -> Option<(&'a Arc<Bundle>, &'a Arc<Promotion>)> {
    let promotion = former.promoted.as_ref()?;
    if promotion.instead_of == configured.digest && former.signers == signers(policy) {
        return Some((&former.bundle, promotion));
    }
    let (from, revision) = (&*promotion.shown, &*configured.revision);
    tracing::info!(policy.id = %former.name, promoted = from, policy.revision = revision, "Promotion ends, the policy's own bundle or its signers have changed");
    None
}

/// A digest of who may have signed, with the keys as their files are now.
pub(super) fn signers(policy: &model::Policy) -> Option<[u8; 32]> {
    let signing = policy.signing.as_ref()?;
    let mut hash = digest::Context::new(&digest::SHA256);
    // With its field names and quotes it says one thing only; the keys themselves are not in it.
    hash.update(format!("{signing:?}").as_bytes());
    for key in &signing.keys {
        // Who cannot be read is a fault, elsewhere.
        let text = std::fs::read(&key.file).unwrap_or_default();
        hash.update(&(text.len() as u64).to_be_bytes());
        hash.update(&text);
    }
    let mut signers = [0; 32];
    signers.copy_from_slice(hash.finish().as_ref());
    Some(signers)
}

/// How `policy` evaluates, where all evaluate as `options` say.
pub(super) fn options_of(policy: &model::Policy, options: &Options) -> Options {
    let engine = if policy.interpreted { EngineKind::Interpreter } else { EngineKind::Auto };
    let outside = Outbound::permitted(policy.http_send.as_ref(), policy.lookup.as_ref());
    Options { engine, outside, ..options.clone() }
}

/// How policies of `config` evaluate.
pub(super) fn options(config: &Config) -> Options {
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

/// Reads a bundle for a policy, with its signature.
pub(super) fn load(policy: &model::Policy, files: Files<'_>, faults: &mut Faults) -> Option<Bundle> {
    let verification = faults.take(verification_of(policy))?;
    let purpose = Purpose::Serve(verification.as_ref());
    let loaded = match files {
        Files::Path(path) => bundle::load(&[path], purpose),
        Files::Archive(Archive { bytes, shown, deltas, .. }) => {
            bundle::load_packed(&Packed { bytes, shown, deltas }, purpose)
        }
    };
    faults.take(loaded.map_err(|source| of_bundle(policy, source)))
}

fn of_bundle(policy: &model::Policy, source: BundleErrors) -> BuildError {
    BuildError::Bundle { policy: Arc::clone(&policy.name), source }
}

/// Compiles and tests a bundle with the policy's settings.
pub(super) fn compile(
    policy: &model::Policy,
    bundle: Arc<Bundle>,
    options: &Options,
    faults: &mut Faults,
) -> Option<Policy> {
    let name = || Arc::clone(&policy.name);
    let outbound = faults.take(outbound_of(policy))?;
    let program = faults.take(bundle.compile(options.clone()).map_err(|source| of_bundle(policy, source)))?;
    let contract = match policy.contract {
        PolicyContract::GatewayV1 => Contract::GatewayV1,
        PolicyContract::EnvoyV3 => Contract::EnvoyV3,
    };
    faults.take(known_inputs(&program, contract).map_err(|source| of_bundle(policy, source)))?;
    let decision = entrypoint(policy, &program, contract, (&policy.decision, Phase::Request), faults);
    let response = policy.response.as_ref().map(|path| {
        let asked = (path.as_slice(), Phase::Response);
        entrypoint(policy, &program, contract, asked, faults)
    });
    if policy.self_test {
        let tested = self_test(policy, &bundle);
        faults.take(tested.map_err(|details| BuildError::SelfTest { policy: name(), details }))?;
    }
    let (decision, decision_path) = decision?;
    let (response, response_path) = match response {
        Some(response) => response.map(|(entrypoint, path)| (Some(entrypoint), Some(path)))?,
        None => (None, None),
    };
    let verification = verify(policy, &program, [Some(&decision), response.as_ref()]);
    Some(Policy {
        name: name(),
        revision: bundle.revision.clone(),
        archive: None,
        decision_path,
        response_path,
        program,
        rules: Rules { decision, response, budget: policy.budget, contract, cache: policy.decision_cache },
        outbound: outbound.map(Arc::new),
        on_error: policy.on_error,
        built: BUILT.fetch_add(1, Ordering::Relaxed),
        bundle,
        signers: signers(policy),
        verification,
        promoted: None,
        shadow: None,
        verifier: None,
    })
}

/// A rule that is asked, and its path as in events.
fn entrypoint(
    policy: &model::Policy,
    program: &Program,
    contract: Contract,
    (path, phase): (&[String], Phase),
    faults: &mut Faults,
) -> Option<(Entrypoint, String)> {
    let name = || Arc::clone(&policy.name);
    let path = path.join("/");
    let missing = |source| BuildError::Entrypoint { policy: name(), source };
    let entrypoint = faults.take(program.entrypoint(&path).map_err(missing))?;
    let undecided = match contract {
        Contract::GatewayV1 => result::check(program, &entrypoint, phase),
        Contract::EnvoyV3 => Vec::new(),
    };
    if contract == Contract::EnvoyV3 {
        let paths = envoy::not_provided(&decide::reads(&program.footprint(&entrypoint)));
        let provided =
            if paths.is_empty() { Ok(()) } else { Err(BuildError::NotProvided { policy: name(), paths }) };
        faults.take(provided)?;
    }
    let judged =
        if undecided.is_empty() { Ok(()) } else { Err(of_bundle(policy, BundleErrors::from(undecided))) };
    faults.take(judged)?;
    Some((entrypoint, path))
}

/// Compares plan and interpreter on made-up inputs.
fn verify(
    policy: &model::Policy,
    program: &Program,
    entrypoints: [Option<&Entrypoint>; 2],
) -> differential::Verification {
    let mut all = differential::Verification::default();
    for entrypoint in entrypoints.into_iter().flatten() {
        let differential::Verification { asked, differing, first } = program.verify(entrypoint);
        if let Some(difference) = &first {
            tracing::warn!(policy.id = %policy.name, %difference, differing, asked, "Plan differs from the interpreter");
        }
        all.asked += asked;
        all.differing += differing;
        all.first = all.first.or(first);
    }
    all
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
