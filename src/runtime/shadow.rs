//! From a shadow's configuration to the candidate beside a policy: reads, compiles and tests its bundle.
//!
//! A fault of a candidate refuses the candidate and nothing else: the policy goes on without one, or with the one before.

use std::sync::Arc;

use crate::base::clock::{Clock as _, SystemClock};
use crate::config::model::{self, BundleSource};
use crate::rego::program::Options;
use crate::runtime::beside::candidate::{Candidate, Shadow};
use crate::runtime::beside::tally::Tally;
use crate::runtime::build::Faults;
use crate::runtime::build_error::{BuildError, BuildErrors};
use crate::runtime::bundles::Kept;
use crate::runtime::bundles::archive::Archive;
use crate::runtime::policies::{self, Files};
use crate::runtime::snapshot::Policy;

/// The shadow of `policy` beside `in_force`: of the path in its configuration, or of what was fetched and `kept`. `options`
/// are those of all policies; `former` is what is in force under its name.
pub(super) fn build(
    policy: &model::Policy,
    in_force: &Policy,
    kept: Option<&Kept>,
    options: &Options,
    former: Option<&Policy>,
) -> Option<Shadow> {
    let configured = policy.shadow.as_ref()?;
    let shown = || configured.shown.clone();
    let (files, archive) = match (&configured.bundle, kept) {
        (BundleSource::Path(path), _) => (Files::Path(path), None),
        (BundleSource::Url(_), Some(Kept { archive, .. })) => (Files::Archive(archive), Some(archive)),
        (BundleSource::Url(_), None) => return Some(Shadow::Awaited { shown: shown() }),
    };
    let former = former.and_then(|former| former.shadow.as_ref()).and_then(Shadow::candidate);
    let same_settings = kept.is_some_and(|kept| kept.same_settings);
    if let Some(former) = former.filter(|former| same_settings && is_still_good(policy, former, archive)) {
        return Some(Shadow::Loaded(Arc::new(former.beside(in_force))));
    }
    Some(match candidate(policy, configured, files, in_force, options, former) {
        Ok(candidate) => Shadow::Loaded(Arc::new(candidate)),
        Err(errors) => {
            let prefix = format!("policy `{}`: ", policy.name);
            let errors = errors.to_string();
            let errors = errors.lines().map(|line| line.trim().trim_start_matches(&prefix).to_owned());
            let (errors, shown): (Vec<String>, _) = (errors.collect(), shown());
            tracing::error!(policy.id = %policy.name, shadow = shown, errors = errors.join("; "), "Shadow refused, the policy goes on without it");
            Shadow::Refused { shown, errors }
        }
    })
}

/// The candidate of a fetched `archive` beside `in_force`. What is beside that now is left alone.
pub(super) fn fetched(
    policy: &model::Policy,
    archive: &Archive,
    in_force: &Policy,
    options: &Options,
) -> Result<Candidate, BuildErrors> {
    let dangling = || BuildErrors(vec![BuildError::Dangling(Arc::clone(&policy.name))]);
    let configured = policy.shadow.as_ref().ok_or_else(dangling)?;
    let former = in_force.shadow.as_ref().and_then(Shadow::candidate);
    candidate(policy, configured, Files::Archive(archive), in_force, options, former)
}

/// Whether `former` need not be compiled and tested again, so that no reload waits for that: it is of the same archive, and
/// no file that it was built with can have changed.
fn is_still_good(policy: &model::Policy, former: &Candidate, archive: Option<&Archive>) -> bool {
    let same_archive = archive
        .zip(former.policy.archive.as_ref())
        .is_some_and(|(archive, of_former)| archive.is_same(of_former));
    same_archive && former.policy.outbound.is_none() && former.policy.signers == policies::signers(policy)
}

fn candidate(
    policy: &model::Policy,
    configured: &model::Shadow,
    files: Files<'_>,
    in_force: &Policy,
    options: &Options,
    former: Option<&Candidate>,
) -> Result<Candidate, BuildErrors> {
    let mut faults = Faults::default();
    let options = policies::options_of(policy, options);
    let bundle = policies::load(policy, files, &mut faults).map(Arc::new);
    let built = bundle.and_then(|bundle| {
        // What is in force is compiled and tested already.
        if in_force.bundle.digest == bundle.digest {
            return Some(in_force.alone());
        }
        policies::compile(policy, bundle, &options, &mut faults)
    });
    match built {
        Some(mut built) if faults.0.is_empty() => {
            built.archive = match files {
                Files::Archive(archive) => Some(archive.clone()),
                Files::Path(_) => None,
            };
            let tally = || Tally::new(SystemClock.now());
            let shown = (configured.shown.clone(), configured.sampling);
            Ok(Candidate::new(built, in_force, shown, former, tally))
        }
        Some(_) | None => Err(BuildErrors(faults.0)),
    }
}
