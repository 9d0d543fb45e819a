//! From the configured providers to running ones: the one place that knows every kind.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::model::{self, Name};
use crate::fetch::credentials::CredentialsError;
use crate::identity::api_key::ApiKeys;
use crate::identity::api_key::keys_file::{self, KeysFileErrors};
use crate::identity::client_certificate::ClientCertificates;
use crate::identity::external::External;
use crate::identity::introspection::Introspection;
use crate::identity::jwt::BearerTokens;
use crate::identity::jwt::key_sets::OpenError;
use crate::identity::ldap::{self, LdapError};
use crate::identity::oidc::{Oidc, OidcFault};
use crate::identity::resources::Resources;
use crate::identity::{Authenticator, Enricher};

/// Numbers providers over the life of the process, so that no cache takes one for another.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// A running provider.
#[derive(Debug)]
pub struct Provider {
    pub(super) id: u64,
    pub(super) name: Name,
    pub(super) role: Role,
}

/// What a provider does.
#[derive(Debug)]
pub enum Role {
    /// Proves identities.
    Authenticates(Box<dyn Authenticator>),
    /// Adds to identities that others prove.
    Enriches(Box<dyn Enricher>),
}

/// Why a provider cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ProviderFault {
    /// Its key set cannot be opened.
    #[error(transparent)]
    KeySet(#[from] OpenError),
    /// Its keys file is not usable.
    #[error(transparent)]
    KeysFile(#[from] KeysFileErrors),
    /// Its directory cannot be asked.
    #[error(transparent)]
    Ldap(#[from] LdapError),
    /// It cannot ask its server.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// It cannot log browsers in.
    #[error(transparent)]
    Oidc(#[from] OidcFault),
}

/// All providers that cannot run, at least one.
#[derive(Debug)]
pub struct ProviderErrors(Vec<(Name, ProviderFault)>);

impl Provider {
    /// A provider called `name` that proves identities.
    pub fn new(name: Name, authenticator: Box<dyn Authenticator>) -> Self {
        Self::of(name, Role::Authenticates(authenticator))
    }

    fn of(name: Name, role: Role) -> Self {
        Self { id: next_id(), name, role }
    }

    /// What proves identities, if it does that.
    pub(super) fn authenticator(&self) -> Option<&dyn Authenticator> {
        match &self.role {
            Role::Authenticates(authenticator) => Some(&**authenticator),
            Role::Enriches(_) => None,
        }
    }

    /// Its configured name.
    pub fn name(&self) -> &Name {
        &self.name
    }
}

/// Makes every configured provider. Reads key files; does not wait for the network.
pub fn build(
    configured: &BTreeMap<Name, model::Provider>,
    resources: &Resources,
) -> Result<BTreeMap<Name, Arc<Provider>>, ProviderErrors> {
    let mut providers = BTreeMap::new();
    let mut faults = Vec::new();
    for (name, config) in configured {
        match role(name, config, resources) {
            Ok(role) => {
                let provider = Provider::of(Arc::clone(name), role);
                providers.insert(Arc::clone(name), Arc::new(provider));
            }
            Err(fault) => faults.push((Arc::clone(name), fault)),
        }
    }
    if faults.is_empty() { Ok(providers) } else { Err(ProviderErrors(faults)) }
}

/// What of the configured providers works and is hardly meant.
pub fn warnings(configured: &BTreeMap<Name, model::Provider>) -> Vec<String> {
    let warning = |(name, provider): (&Name, &model::Provider)| match provider {
        model::Provider::ApiKey(config) => {
            let exposure = keys_file::exposure(&config.keys)?;
            Some(format!("identity provider `{name}`: {exposure}"))
        }
        model::Provider::Jwt(_)
        | model::Provider::ClientCertificate(_)
        | model::Provider::Ldap(_)
        | model::Provider::External(_)
        | model::Provider::Introspection(_)
        | model::Provider::Oidc(_) => None,
    };
    configured.iter().filter_map(warning).collect()
}

/// A number that no provider and no chain has had before.
pub(super) fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

fn role(name: &Name, config: &model::Provider, resources: &Resources) -> Result<Role, ProviderFault> {
    Ok(Role::Authenticates(match config {
        model::Provider::Jwt(config) => {
            let key_set = resources.key_sets.open(&config.keys)?;
            Box::new(BearerTokens::sharing(config.clone(), key_set, &resources.proofs))
        }
        model::Provider::ApiKey(config) => Box::new(ApiKeys::load(config)?),
        model::Provider::ClientCertificate(config) => Box::new(ClientCertificates::new(config.clone())),
        model::Provider::Ldap(config) => return Ok(ldap::open(name, config, &resources.remotes)?),
        model::Provider::External(config) => Box::new(External::open(name, config, &resources.remotes)?),
        model::Provider::Introspection(config) => {
            Box::new(Introspection::open(name, config, &resources.remotes)?)
        }
        model::Provider::Oidc(config) => Box::new(Oidc::open(name, config, resources)?),
    }))
}

impl ProviderErrors {
    /// Each provider that cannot run, and why.
    pub fn faults(&self) -> &[(Name, ProviderFault)] {
        &self.0
    }
}

impl fmt::Display for ProviderErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, fault)) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "identity provider `{name}`: {fault}")?;
            let mut source = std::error::Error::source(fault);
            while let Some(error) = source {
                write!(f, ": {error}")?;
                source = error.source();
            }
        }
        Ok(())
    }
}

impl std::error::Error for ProviderErrors {}
