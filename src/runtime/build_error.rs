//! Why a snapshot cannot be built: every fault, each with its place and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::audit::sink::OpenError;
use crate::config::diagnostic::{ConfigErrors, Diagnostic, Position};
use crate::config::model::Name;
use crate::identity::api_key::keys_file::KeysFileFault;
use crate::identity::provider::{ProviderErrors, ProviderFault};
use crate::policy::bundle::signature::KeyError;
use crate::rego::fault::{BundleErrors, Fault};
use crate::rego::program::EntrypointError;
use crate::runtime::bundles::request::FetchFault;
use crate::runtime::outside::OutboundError;
use crate::runtime::router::RouteConflict;
use crate::runtime::tls::TlsError;
use crate::upstream::error::ClusterError;

/// One fault of a snapshot that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The configuration has faults.
    #[error("{0}")]
    Config(#[source] ConfigErrors),
    /// A bundle does not compile.
    #[error("policy `{policy}`: {source}")]
    Bundle {
        /// The policy.
        policy: Name,
        /// The bundle's faults.
        source: BundleErrors,
    },
    /// A bundle cannot be fetched, and there is no earlier one.
    #[error(
        "policy `{policy}`: cannot fetch the bundle `{url}`, and {}",
        if *persists { "none is persisted yet" } else { "`persist` is not configured, so there is no earlier one" }
    )]
    NotFetched {
        /// The policy.
        policy: Name,
        /// The bundle, as it may be shown.
        url: String,
        /// Whether fetched bundles are persisted.
        persists: bool,
        /// Why.
        source: FetchFault,
    },
    /// The keys that may have signed a bundle cannot be read.
    #[error("policy `{policy}`: {source}")]
    Signing {
        /// The policy.
        policy: Name,
        /// Why.
        source: SigningError,
    },
    /// A rule that is asked does not exist.
    #[error("policy `{policy}`: {source}")]
    Entrypoint {
        /// The policy.
        policy: Name,
        /// Which rule.
        source: EntrypointError,
    },
    /// A policy reads what Envoy would tell it and the gateway cannot.
    #[error("policy `{policy}`: reads `{}`, which the gateway does not provide", paths.join("`, `"))]
    NotProvided {
        /// The policy.
        policy: Name,
        /// The input paths.
        paths: Vec<String>,
    },
    /// A policy cannot ask outside as it is configured.
    #[error("policy `{policy}`: {source}")]
    Outbound {
        /// The policy.
        policy: Name,
        /// Why.
        source: OutboundError,
    },
    /// The bundle's own tests do not pass.
    #[error("policy `{policy}`: the bundle's own tests do not pass\n{details}")]
    SelfTest {
        /// The policy.
        policy: Name,
        /// Each failed test, one a line.
        details: String,
    },
    /// A listener's TLS cannot be set up.
    #[error("listener `{listener}`: {source}")]
    Tls {
        /// The listener.
        listener: Name,
        /// Why.
        source: TlsError,
    },
    /// Identity providers cannot run.
    #[error("{0}")]
    Providers(#[source] ProviderErrors),
    /// An upstream cannot be set up.
    #[error("{0}")]
    Cluster(#[source] ClusterError),
    /// Routes cannot be told apart.
    #[error("{0}")]
    Routes(#[source] RouteConflict),
    /// A decision log cannot be opened.
    #[error("{0}")]
    DecisionLog(#[source] OpenError),
    /// A reload asks for what cannot change while the gateway runs.
    #[error("{what} cannot change while the gateway runs; restart it")]
    NeedsRestart {
        /// What has changed.
        what: String,
    },
    /// A name that the configuration was to have checked.
    #[error("`{0}` does not exist")]
    Dangling(Name),
}

/// Why a bundle's signature cannot be verified at all.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// A key's file.
    #[error("`{}` cannot be read", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is in a key's file.
    #[error("`{}`", file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
    /// A pattern of files that need not be signed.
    #[error("`exclude_files`")]
    Exclude(#[from] globset::Error),
}

/// All faults of a snapshot, at least one.
#[derive(Debug)]
pub struct BuildErrors(pub Vec<BuildError>);

impl fmt::Display for BuildErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&with_sources(fault))?;
        }
        Ok(())
    }
}

impl std::error::Error for BuildErrors {}

impl BuildErrors {
    /// All faults in one line, as a log wants it.
    pub fn one_line(&self) -> String {
        self.to_string().lines().map(str::trim).collect::<Vec<_>>().join("; ")
    }

    /// What is wrong with the bundle of `policy`, one fault an item.
    pub(super) fn of_bundle(&self, policy: &Name) -> Vec<String> {
        let faults = self.0.iter().filter(|fault| fault.is_of_bundle(policy));
        faults
            .flat_map(|fault| {
                let text = with_sources(fault);
                text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Each fault with its place; one that has none of its own is one of the configuration at `path`.
    pub fn diagnostics(&self, path: &Path) -> Vec<Diagnostic> {
        self.0.iter().flat_map(|fault| fault.diagnostics(path)).collect()
    }
}

impl BuildError {
    /// Whether another bundle for `of` might not have it.
    fn is_of_bundle(&self, of: &Name) -> bool {
        match self {
            Self::Bundle { policy, .. }
            | Self::Entrypoint { policy, .. }
            | Self::NotProvided { policy, .. }
            | Self::SelfTest { policy, .. } => policy == of,
            Self::Config(_)
            | Self::NotFetched { .. }
            | Self::Signing { .. }
            | Self::Outbound { .. }
            | Self::Tls { .. }
            | Self::Providers(_)
            | Self::Cluster(_)
            | Self::Routes(_)
            | Self::DecisionLog(_)
            | Self::NeedsRestart { .. }
            | Self::Dangling(_) => false,
        }
    }

    fn diagnostics(&self, path: &Path) -> Vec<Diagnostic> {
        match self {
            Self::Config(errors) => errors.diagnostics().to_vec(),
            Self::Bundle { policy, source } => {
                let of_fault = |fault: &Fault| Diagnostic {
                    file: PathBuf::from(&*fault.place.file),
                    position: position(fault.place.line as usize, fault.place.column as usize),
                    message: format!("policy `{policy}`: {}", fault.message),
                    help: fault.hint.clone(),
                };
                source.faults().iter().map(of_fault).collect()
            }
            Self::Providers(errors) => {
                errors.faults().iter().flat_map(|(name, fault)| of_provider(name, fault, path)).collect()
            }
            Self::NotFetched { .. }
            | Self::Signing { .. }
            | Self::Outbound { .. }
            | Self::Entrypoint { .. }
            | Self::SelfTest { .. }
            | Self::Tls { .. }
            | Self::Cluster(_)
            | Self::Routes(_)
            | Self::DecisionLog(_)
            | Self::NeedsRestart { .. }
            | Self::NotProvided { .. }
            | Self::Dangling(_) => vec![whole(path, with_sources(self))],
        }
    }
}

fn of_provider(name: &Name, fault: &ProviderFault, path: &Path) -> Vec<Diagnostic> {
    match fault {
        ProviderFault::KeySet(_)
        | ProviderFault::Ldap(_)
        | ProviderFault::Credentials(_)
        | ProviderFault::Oidc(_) => {
            vec![whole(path, format!("identity provider `{name}`: {}", with_sources(fault)))]
        }
        ProviderFault::KeysFile(errors) => {
            let of_fault = |fault: &KeysFileFault| Diagnostic {
                position: fault.position.and_then(|(line, column)| position(line, column)),
                ..whole(errors.path(), format!("identity provider `{name}`: {}", fault.message))
            };
            errors.faults().iter().map(of_fault).collect()
        }
    }
}

fn whole(file: &Path, message: String) -> Diagnostic {
    Diagnostic { file: file.to_owned(), position: None, message, help: None }
}

/// Line 0 stands for a file as a whole.
fn position(line: usize, column: usize) -> Option<Position> {
    (line > 0).then_some(Position { line, column })
}

/// A fault with the causes behind it, where its own text does not already hold them.
pub(super) fn with_sources(fault: &dyn std::error::Error) -> String {
    let mut shown = fault.to_string();
    let mut source = fault.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !shown.contains(&text) {
            shown.push_str(": ");
            shown.push_str(&text);
        }
        source = error.source();
    }
    shown
}
