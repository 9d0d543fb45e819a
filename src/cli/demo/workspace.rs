//! The demo's files: the starter policies, a configuration, and credentials made for this one run.
//!
//! All of them lie in one directory that only its owner can read, and that is removed when the workspace is dropped.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::cli::demo::token::{Claims, Issuer};
use crate::identity::api_key::mint::{self, Grant};

/// The starter policies, `policies/` of the repository.
const POLICIES: [(&str, &str); 10] = [
    ("allowlist.rego", include_str!("../../../policies/allowlist.rego")),
    ("data.yaml", include_str!("../../../policies/data.yaml")),
    ("federation.rego", include_str!("../../../policies/federation.rego")),
    ("gateway.rego", include_str!("../../../policies/gateway.rego")),
    ("paths.rego", include_str!("../../../policies/paths.rego")),
    ("proven.rego", include_str!("../../../policies/proven.rego")),
    ("rbac.rego", include_str!("../../../policies/rbac.rego")),
    ("revocation.rego", include_str!("../../../policies/revocation.rego")),
    ("tenants.rego", include_str!("../../../policies/tenants.rego")),
    ("tiers.rego", include_str!("../../../policies/tiers.rego")),
];
const CONFIG: &str = include_str!("gateway.yaml");
/// Whose API keys are made, and the role in each; `policies/data.yaml` says what the roles may do.
const KEYS: [(&str, &str); 4] =
    [("acme", "partner"), ("ops", "operator"), ("globex", "partner"), ("sample-app", "trial")];
/// How often a name for the directory is drawn.
const DIRECTORY_TRIES: usize = 16;

/// The directory and what is in it.
#[derive(Debug)]
pub(super) struct Workspace {
    directory: PathBuf,
}

impl Workspace {
    /// Writes everything for a gateway on `port` of the loopback address, in front of `upstream`.
    pub(super) fn create(port: u16, upstream: SocketAddr) -> anyhow::Result<Self> {
        let directory = make_directory().context("cannot make a directory for the demo's files")?;
        let workspace = Self { directory };
        workspace.fill(port, upstream).context("cannot write the demo's files")?;
        Ok(workspace)
    }

    fn fill(&self, port: u16, upstream: SocketAddr) -> anyhow::Result<()> {
        fs::create_dir(self.path("policies"))?;
        for (name, text) in POLICIES {
            fs::write(self.path("policies").join(name), text)?;
        }
        let config = CONFIG.replace("{port}", &port.to_string()).replace("{upstream}", &upstream.to_string());
        fs::write(self.config(), config)?;
        for (owner, role) in KEYS {
            let grant = Grant { owner: owner.to_owned(), roles: vec![role.to_owned()], ..Grant::default() };
            let minted = mint::mint(&self.path("keys.yaml"), &grant)?;
            fs::write(self.path(owner), format!("X-Api-Key: {}\n", minted.key.expose()))?;
        }
        let issuer = Issuer::generate()?;
        fs::write(self.path("jwks.json"), issuer.key_set())?;
        let alice = Claims::of("alice@example.com", "orders.read");
        let writer = Claims::of("alice@example.com", "orders.write");
        let tokens = [
            ("alice", issuer.token(&alice)?),
            ("alice-expired", issuer.token(&alice.expired())?),
            ("alice-tampered", issuer.tampered(&alice, &writer)?),
        ];
        for (name, token) in tokens {
            fs::write(self.path(name), format!("Authorization: Bearer {token}\n"))?;
        }
        Ok(())
    }

    /// The directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A file in it. A credential's file holds the header line that carries it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The configuration.
    pub(super) fn config(&self) -> PathBuf {
        self.path("gateway.yaml")
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // What cannot be removed was made unreadable for others from the start.
        drop(fs::remove_dir_all(&self.directory));
    }
}

/// A new directory under the system's temporary one. Its name is short, for it is typed and read.
fn make_directory() -> io::Result<PathBuf> {
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for _ in 0..DIRECTORY_TRIES {
        let random = uuid::Uuid::new_v4().simple().to_string();
        let name: String = random.chars().take(4).collect();
        let directory = std::env::temp_dir().join(format!("postern-{name}"));
        // Fails where anything has this name already, a link of somebody else's included.
        match DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => return Ok(directory),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn all_starter_policies_are_there() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
        let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.retain(|name| name != "README.md");
        names.sort();
        assert_eq!(names, POLICIES.map(|(name, _)| name));
    }

    #[test]
    fn a_workspace_is_its_owners_and_leaves_nothing() {
        let workspace = Workspace::create(0, "127.0.0.1:9".parse().unwrap()).unwrap();
        let directory = workspace.directory().to_owned();
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        let acme = fs::read_to_string(workspace.path("acme")).unwrap();
        assert!(acme.starts_with("X-Api-Key: pst_"));
        assert!(!fs::read_to_string(workspace.path("keys.yaml")).unwrap().contains(acme[11..].trim()));
        drop(workspace);
        assert!(!directory.exists());
    }
}
