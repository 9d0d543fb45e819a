//! Checks of policies.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Check;
use super::bundle::Written;
use crate::base::share::Share;
use crate::config::model::{
    BundleSource, Name, OnError, Policy, PolicyContract, Sampling, Shadow, Signing, SigningKey,
};
use crate::config::place::Place;
use crate::config::raw::policy as raw;
use crate::config::raw::quantity::Share as WrittenShare;
use crate::config::report::Reported;

const BUDGET: RangeInclusive<Duration> = Duration::from_micros(10)..=Duration::from_secs(10);

impl Check<'_> {
    pub(super) fn policy(
        &mut self,
        place: &Place,
        name: &Name,
        written: &raw::Policy,
    ) -> Result<Policy, Reported> {
        let bundle = self.bundle(place, &Written::own(written));
        let signing = written.signing.as_ref();
        let signing = signing.map(|signing| self.signing(&place.key("signing"), signing)).transpose();
        let contract = match written.contract {
            raw::Contract::GatewayV1 => PolicyContract::GatewayV1,
            raw::Contract::EnvoyV3 => PolicyContract::EnvoyV3,
        };
        let decision = self.rule(&place.key("decision"), &written.decision);
        let response =
            written.response.as_ref().map(|rule| self.rule(&place.key("response"), rule)).transpose();
        let budget = self.duration(&place.key("budget"), &written.budget, BUDGET);
        let http_send = written.http_send.as_ref();
        let http_send = http_send.map(|written| self.http_send(&place.key("http_send"), written)).transpose();
        let lookup = written.lookup.as_ref();
        let lookup = lookup.map(|written| self.lookup(&place.key("lookup"), written)).transpose();
        let verify = self.verify(place, written);
        let shadow = written.shadow.as_ref();
        let shadow = shadow.map(|shadow| {
            let candidate = Written::candidate(shadow, written.signing.is_some());
            self.shadow(&place.key("shadow"), shadow, &candidate)
        });
        let shadow = shadow.transpose();
        if written.response.is_some() && contract == PolicyContract::EnvoyV3 {
            let message = "`response` cannot be asked of a policy with `contract: envoy/v3`";
            return Err(self.together(place, &place.key("response"), message, "take it out"));
        }
        Ok(Policy {
            name: name.clone(),
            bundle: bundle?,
            signing: signing?,
            decision: decision?,
            response: response?,
            budget: budget?,
            http_send: http_send?,
            lookup: lookup?,
            on_error: match written.on_error {
                raw::OnError::Deny => OnError::Deny,
                raw::OnError::Allow => OnError::Allow,
            },
            self_test: written.self_test,
            decision_cache: usize::try_from(written.decision_cache).unwrap_or(usize::MAX),
            contract,
            interpreted: written.engine == raw::Engine::Interpreter,
            verify: verify?,
            shadow: shadow?,
        })
    }

    fn verify(&mut self, policy: &Place, written: &raw::Policy) -> Result<Sampling, Reported> {
        let interpreted = written.engine == raw::Engine::Interpreter;
        if interpreted && written.verify.is_some() {
            let message =
                "`verify` compares the plan with the interpreter, and `engine: interpreter` uses no plan";
            return Err(self.together(policy, &policy.key("verify"), message, "take one of them out"));
        }
        let default = raw::Verify::default();
        let place = policy.key("verify");
        let written = written.verify.as_ref().unwrap_or(&default);
        let sampling = self.sampling(&place, &written.sample, &written.budget)?;
        Ok(if interpreted { Sampling { sample: Share::NONE, ..sampling } } else { sampling })
    }

    fn shadow(
        &mut self,
        place: &Place,
        written: &raw::Shadow,
        candidate: &Written<'_>,
    ) -> Result<Shadow, Reported> {
        let bundle = self.bundle(place, candidate);
        let sampling = self.sampling(place, &written.sample, &written.budget);
        let bundle = bundle?;
        let shown = match &bundle {
            BundleSource::Path(_) => self.shown(&place.key("bundle")),
            BundleSource::Url(remote) => remote.shown.clone(),
        };
        Ok(Shadow { bundle, shown, sampling: sampling? })
    }

    fn sampling(
        &mut self,
        place: &Place,
        sample: &WrittenShare,
        budget: &WrittenShare,
    ) -> Result<Sampling, Reported> {
        let sample = self.share(&place.key("sample"), sample);
        let at = place.key("budget");
        let budget = self.share(&at, budget)?;
        if budget.is_none() {
            return Err(self.report.error_with(&at, "`0%` leaves no time", "turn it off with `sample: 0%`"));
        }
        Ok(Sampling { sample: sample?, budget })
    }

    fn signing(&mut self, place: &Place, written: &raw::Signing) -> Result<Signing, Reported> {
        let at = place.key("keys");
        let keys: Vec<_> = written
            .keys
            .iter()
            .map(|(id, key)| {
                let file = self.file(&at.key(id).key("file"), &key.file)?;
                let algorithm = super::identity::algorithm(key.algorithm);
                Ok(SigningKey { id: id.clone(), algorithm, file, scope: key.scope.clone() })
            })
            .collect();
        let keyid = written.keyid.as_ref().filter(|id| !written.keys.contains_key(*id)).map(|_| {
            let at = place.key("keyid");
            let message = format!("unknown key `{}`", self.shown(&at));
            self.report.error_with(&at, message, "name one of `keys`")
        });
        if let Some(reported) = keyid {
            return Err(reported);
        }
        Ok(Signing {
            keys: super::all(keys)?,
            keyid: written.keyid.clone(),
            scope: written.scope.clone(),
            exclude_files: written.exclude_files.clone(),
        })
    }

    /// The path of a rule, `gateway/decision`.
    fn rule(&mut self, place: &Place, text: &str) -> Result<Vec<String>, Reported> {
        let names: Vec<String> = text.split('/').map(str::to_owned).collect();
        if names.len() > 1 && names.iter().all(|name| is_identifier(name)) {
            return Ok(names);
        }
        let shown = self.shown(place);
        let spelled = shown.strip_prefix("data.").unwrap_or(&shown).replace('.', "/");
        let help = if shown.contains('.') && spelled.contains('/') {
            self.unless_secret(place, format!("write `{spelled}`"))
        } else {
            "write the package and the rule with `/` between: `gateway/decision`".to_owned()
        };
        Err(self.report.error_with(place, format!("`{shown}` is not the path of a rule"), help))
    }
}

/// Whether `text` is a name in Rego.
pub(super) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
