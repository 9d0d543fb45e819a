//! New API keys: made, shown once, and remembered only by their hash.
//!
//! The keys file is replaced as a whole, by a rename: a gateway that reads it meanwhile sees the old one or the new one.
//! The new text is read back before it replaces the old one, so no entry can be lost or changed on the way.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::rand;

use crate::base::hex::hex;
use crate::base::secret::Secret;
use crate::identity::api_key::keys_file::{self, KeyRecord, KeysFileErrors};
use crate::identity::digest::sha256;

/// What each key begins with, so that scanners of logs and repositories can tell one.
pub const PREFIX: &str = "pst_";

/// 62 to the power of 43 is just above 2 to the power of 256.
const KEY_CHARACTERS: usize = 43;

const ID_CHARACTERS: usize = 10;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Why a key could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The system gave no randomness.
    #[error("the system has no randomness to make a key from")]
    NoRandomness,
    /// A name that would be misread in logs and headers.
    #[error("the {what} {text:?} has a control character or a space at an end; write it without")]
    Name {
        /// Owner, role, group or scope.
        what: &'static str,
        /// What was given.
        text: String,
    },
    /// The key would never be good.
    #[error("the key would have expired already: {0} is not in the future")]
    Expired(jiff::Timestamp),
    /// The file that is there is not usable.
    #[error("the keys file has faults; mend them first")]
    Faulty(#[from] KeysFileErrors),
    /// The entry cannot be appended to this file as it is written.
    #[error(
        "cannot append to `{0}`: its `keys` must be the last thing in it and a list in block style, \
         one `- id: ..` under the other"
    )]
    Layout(PathBuf),
    /// The file could not be read or replaced.
    #[error("cannot write `{path}`")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What a new key's owner may be.
#[derive(Debug, Clone, Default)]
pub struct Grant {
    /// Who holds the key.
    pub owner: String,
    /// The owner's roles.
    pub roles: Vec<String>,
    /// The owner's groups.
    pub groups: Vec<String>,
    /// The key's scopes.
    pub scopes: Vec<String>,
    /// When it ends.
    pub expires: Option<jiff::Timestamp>,
}

impl Grant {
    /// Refuses what cannot be meant, as of `now`, since the Unix epoch.
    pub fn check(&self, now: Duration) -> Result<(), MintError> {
        let owner = [&self.owner].into_iter().map(|text| ("owner", text));
        let roles = self.roles.iter().map(|text| ("role", text));
        let groups = self.groups.iter().map(|text| ("group", text));
        let scopes = self.scopes.iter().map(|text| ("scope", text));
        for (what, text) in owner.chain(roles).chain(groups).chain(scopes) {
            if text.chars().any(char::is_control) || text.trim() != text {
                return Err(MintError::Name { what, text: text.clone() });
            }
        }
        let now = i128::try_from(now.as_nanos()).unwrap_or(i128::MAX);
        match self.expires {
            Some(expires) if expires.as_nanosecond() <= now => Err(MintError::Expired(expires)),
            Some(_) | None => Ok(()),
        }
    }
}

/// A new key.
#[derive(Debug)]
pub struct Minted {
    /// Its name in the file and in logs.
    pub id: String,
    /// The key itself; nothing else holds it.
    pub key: Secret<String>,
}

/// Makes a key and appends its hash to the keys file, which is created (readable by its owner alone) if it is absent.
pub fn mint(keys_file: &Path, grant: &Grant) -> Result<Minted, MintError> {
    let id = format!("key-{}", random_text(ID_CHARACTERS)?);
    let key = Secret::new(format!("{PREFIX}{}", random_text(KEY_CHARACTERS)?));
    append(keys_file, &entry(&id, &key, grant))?;
    Ok(Minted { id, key })
}

/// Characters drawn evenly from [`ALPHABET`].
fn random_text(characters: usize) -> Result<String, MintError> {
    let mut text = String::with_capacity(characters);
    while text.len() < characters {
        let mut bytes = [0_u8; 64];
        rand::fill(&mut bytes).map_err(|_| MintError::NoRandomness)?;
        // 248 is the largest multiple of 62 in a byte: what is above would favour the first characters.
        let fair = bytes.iter().filter(|byte| **byte < 248);
        let drawn = fair.filter_map(|byte| ALPHABET.get(usize::from(*byte) % ALPHABET.len()));
        text.extend(drawn.take(characters - text.len()).map(|byte| char::from(*byte)));
    }
    Ok(text)
}

/// The lines of an entry, not indented. JSON strings are YAML strings.
fn entry(id: &str, key: &Secret<String>, grant: &Grant) -> Vec<String> {
    let quote = |text: &str| serde_json::Value::from(text).to_string();
    let list = |texts: &[String]| {
        let quoted: Vec<_> = texts.iter().map(|text| quote(text)).collect();
        format!("[{}]", quoted.join(", "))
    };
    let hash = hex(&sha256(key.expose().as_bytes()));
    let mut lines = vec![
        format!("- id: {id}"),
        format!("  sha256: \"{hash}\""),
        format!("  owner: {}", quote(&grant.owner)),
    ];
    for (name, texts) in [("roles", &grant.roles), ("groups", &grant.groups), ("scopes", &grant.scopes)] {
        if !texts.is_empty() {
            lines.push(format!("  {name}: {}", list(texts)));
        }
    }
    if let Some(expires) = grant.expires {
        lines.push(format!("  expires: {expires}"));
    }
    lines
}

fn append(path: &Path, entry: &[String]) -> Result<(), MintError> {
    let failed = |source| MintError::Io { path: path.to_owned(), source };
    // A link is followed, so that the file behind it is replaced and not the link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = match target.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(failed)?;
    // Two commands at once must not lose one another's entry. The lock goes with the handle.
    let lock = File::open(&directory).map_err(failed)?;
    lock.lock().map_err(failed)?;
    let old = match fs::read_to_string(&target) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => "keys: []\n".to_owned(),
        Err(error) => return Err(failed(error)),
    };
    let before = keys_file::parse(path, &old)?;
    let new = with_entry(&old, entry);
    let after = keys_file::parse(path, &new).map_err(|_| MintError::Layout(path.to_owned()))?;
    if !is_one_more(&before, &after) {
        return Err(MintError::Layout(path.to_owned()));
    }
    replace(&target, &directory, &new).map_err(failed)
}

fn is_one_more(before: &[KeyRecord], after: &[KeyRecord]) -> bool {
    after.split_last().is_some_and(|(_, rest)| rest == before)
}

/// The text with the entry at its end, indented as those before it.
fn with_entry(old: &str, entry: &[String]) -> String {
    let mut text = String::with_capacity(old.len() + 512);
    for line in old.lines() {
        text.push_str(if line.trim_end() == "keys: []" { "keys:" } else { line });
        text.push('\n');
    }
    let item = old.lines().find(|line| line.trim_start().starts_with("- "));
    let indent = item.map_or(2, |line| line.len() - line.trim_start().len());
    for line in entry {
        text.push_str(&" ".repeat(indent));
        text.push_str(line);
        text.push('\n');
    }
    text
}

fn replace(target: &Path, directory: &Path, text: &str) -> io::Result<()> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}.new", std::process::id()));
    let written = write_beside(target, &temporary, text).and_then(|()| fs::rename(&temporary, target));
    if written.is_err() {
        // The first error is the one to tell; a stray file holds only hashes.
        drop(fs::remove_file(&temporary));
        return written;
    }
    File::open(directory)?.sync_all()
}

fn write_beside(target: &Path, temporary: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(temporary)?;
    if let Ok(old) = fs::metadata(target) {
        // Who could read the file still can, also when an administrator appends to a service's file.
        let new = file.metadata()?;
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
            std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn grant() -> Grant {
        Grant {
            owner: "acme: \"quoted\" é".into(),
            roles: vec!["a, b".into(), "c".into()],
            ..Grant::default()
        }
    }

    #[test]
    fn a_key_has_a_prefix_256_bits_and_no_twin() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.yaml");
        let mut keys = HashSet::new();
        for count in 1..=20 {
            let minted = mint(&path, &grant()).unwrap();
            let key = minted.key.expose().clone();
            let body = key.strip_prefix(PREFIX).unwrap();
            assert_eq!(body.len(), KEY_CHARACTERS);
            assert!(body.bytes().all(|byte| byte.is_ascii_alphanumeric()));
            let records = keys_file::load(&path).unwrap();
            assert_eq!(records.len(), count);
            let record = records.last().unwrap();
            assert_eq!((&record.id, record.sha256), (&minted.id, sha256(key.as_bytes())));
            assert_eq!((&record.owner, &record.roles), (&grant().owner, &grant().roles));
            assert!(!fs::read_to_string(&path).unwrap().contains(body));
            assert!(!format!("{minted:?}").contains(body));
            assert!(keys.insert(key));
        }
        let left = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 1, "temporary files are gone");
    }

    #[test]
    fn a_new_file_is_for_its_owner_alone_and_an_old_one_keeps_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/keys.yaml");
        mint(&path, &grant()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        mint(&path, &grant()).unwrap();
        assert_eq!(mode(&path), 0o640);
    }

    #[track_caller]
    fn check_append(old: &str, want: Option<&str>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.yaml");
        fs::write(&path, old).unwrap();
        let key = Secret::new("x".to_owned());
        let grant = Grant { owner: "b".into(), ..Grant::default() };
        let appended = append(&path, &entry("k2", &key, &grant));
        let hash = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
        let text = fs::read_to_string(&path).unwrap();
        if let Some(want) = want {
            appended.unwrap();
            assert_eq!(text, want.replace("HASH2", &format!("\"{hash}\"")));
        } else {
            assert!(matches!(appended, Err(MintError::Layout(_) | MintError::Faulty(_))), "{appended:?}");
            assert_eq!(text, old);
        }
    }

    #[test]
    fn an_entry_is_appended_and_all_else_stays() {
        let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let old = format!("# ours\nkeys:\n- id: k1  # first\n  sha256: {hash}\n  owner: a");
        let want = format!("{old}\n- id: k2\n  sha256: HASH2\n  owner: \"b\"\n");
        check_append(&old, Some(&want));
        check_append(
            "# none yet\nkeys: []\n",
            Some("# none yet\nkeys:\n  - id: k2\n    sha256: HASH2\n    owner: \"b\"\n"),
        );
        check_append(&format!("keys: [{{id: k1, sha256: {hash}, owner: a}}]\n"), None);
        check_append("keys: 7\n", None);
    }

    #[test]
    fn a_link_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("real.yaml"), directory.path().join("keys.yaml"));
        fs::write(&file, "keys: []\n").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        mint(&link, &grant()).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(keys_file::load(&file).unwrap().len(), 1);
    }
}
