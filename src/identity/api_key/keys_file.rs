//! The file that lists API keys: hashes, owners and what the owners may be, never a key.
//!
//! ```yaml
//! keys:
//!   - id: key-1f0c9a3b
//!     sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
//!     owner: acme
//!     roles: [partner]
//!     groups: [eu]                      # optional, as are scopes, attributes and expires
//!     scopes: [orders:read]
//!     attributes: {tier: gold}
//!     expires: 2027-01-01T00:00:00Z
//! ```
//! All faults are reported at once, each with its line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use saphyr::{AnnotatedMapping, LoadableYamlNode, MarkedYaml, Marker, Scalar, YamlData};
use serde_json::{Map, Value};

/// Largest keys file.
const FILE_BYTES_MAX: u64 = 16 << 20;

const FIELDS: &str = "id, sha256, owner, roles, groups, scopes, attributes, expires";

/// Attributes that the gateway itself sets.
const RESERVED_ATTRIBUTES: [&str; 2] = ["key_id", "owner"];

/// One listed key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Its name in logs.
    pub id: String,
    /// The SHA-256 of the key.
    pub sha256: [u8; 32],
    /// Who holds it: the identity's subject.
    pub owner: String,
    /// The owner's roles.
    pub roles: Vec<String>,
    /// The owner's groups.
    pub groups: Vec<String>,
    /// The key's scopes.
    pub scopes: Vec<String>,
    /// Further attributes for the policy.
    pub attributes: Map<String, Value>,
    /// First moment at which it is no longer good, since the Unix epoch.
    pub expires: Option<Duration>,
}

/// A keys file that cannot be used: everything that is wrong with it.
#[derive(Debug)]
pub struct KeysFileErrors {
    path: PathBuf,
    faults: Vec<KeysFileFault>,
}

/// One thing that is wrong with a keys file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysFileFault {
    /// Line and column, from 1; absent when the file could not be read at all.
    pub position: Option<(usize, usize)>,
    /// What is wrong and what to do.
    pub message: String,
}

impl KeysFileErrors {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything that is wrong, in the file's order.
    pub fn faults(&self) -> &[KeysFileFault] {
        &self.faults
    }
}

impl fmt::Display for KeysFileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}", self.path.display())?;
            if let Some((line, column)) = fault.position {
                write!(f, ":{line}:{column}")?;
            }
            write!(f, ": {}", fault.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for KeysFileErrors {}

/// Reads a keys file.
pub fn load(path: &Path) -> Result<Vec<KeyRecord>, KeysFileErrors> {
    let unreadable = |message: String| KeysFileErrors {
        path: path.to_owned(),
        faults: vec![KeysFileFault { position: None, message }],
    };
    let size = std::fs::metadata(path).map_err(|error| unreadable(format!("cannot be read: {error}")))?.len();
    if size > FILE_BYTES_MAX {
        return Err(unreadable(format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    let text =
        std::fs::read_to_string(path).map_err(|error| unreadable(format!("cannot be read: {error}")))?;
    parse(path, &text)
}

/// What to say of a keys file that others than its owner and group may read or write.
pub fn exposure(path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.mode();
    let what = match (mode & 0o004, mode & 0o002) {
        (0, 0) => return None,
        (_, 0) => "read",
        (0, _) => "written",
        (_, _) => "read and written",
    };
    let shown = path.display();
    Some(format!(
        "the keys file `{shown}` can be {what} by every user of this machine; run `chmod o= {shown}`"
    ))
}

/// Reads the text of a keys file; `path` is for messages.
pub fn parse(path: &Path, text: &str) -> Result<Vec<KeyRecord>, KeysFileErrors> {
    let mut reader = Reader::default();
    let records = match MarkedYaml::load_from_str(text) {
        Ok(documents) => reader.documents(&documents),
        Err(error) => {
            reader.fault(*error.marker(), format!("not valid YAML: {}", error.info()));
            Vec::new()
        }
    };
    if reader.faults.is_empty() {
        return Ok(records);
    }
    reader.faults.sort_by_key(|fault| fault.position);
    Err(KeysFileErrors { path: path.to_owned(), faults: reader.faults })
}

/// Walks the document and notes what is wrong on the way.
#[derive(Debug, Default)]
struct Reader {
    faults: Vec<KeysFileFault>,
}

/// The fields of one entry as far as they were readable.
#[derive(Debug, Default)]
struct Draft {
    id: Option<String>,
    sha256: Option<[u8; 32]>,
    owner: Option<String>,
    roles: Vec<String>,
    groups: Vec<String>,
    scopes: Vec<String>,
    attributes: Map<String, Value>,
    expires: Option<Duration>,
}

impl Reader {
    fn fault(&mut self, at: Marker, message: impl Into<String>) {
        let position = Some((at.line(), at.col() + 1));
        self.faults.push(KeysFileFault { position, message: message.into() });
    }

    fn documents(&mut self, documents: &[MarkedYaml<'_>]) -> Vec<KeyRecord> {
        let root = match documents {
            [root] => root,
            [] => {
                self.fault(Marker::new(0, 1, 0), "the file is empty; it needs `keys: []`");
                return Vec::new();
            }
            [_, second, ..] => {
                self.fault(second.span.start, "only one YAML document is expected");
                return Vec::new();
            }
        };
        let Some(mapping) = self.mapping(root, "the file") else { return Vec::new() };
        let mut records = None;
        for (name, value) in mapping {
            match name.data.as_str() {
                Some("keys") => records = Some(self.entries(value)),
                Some(other) => {
                    self.fault(name.span.start, format!("unknown key `{other}`; only `keys` is known"));
                }
                None => self.fault(name.span.start, "a key must be text"),
            }
        }
        records.unwrap_or_else(|| {
            self.fault(root.span.start, "`keys` is missing");
            Vec::new()
        })
    }

    fn entries(&mut self, list: &MarkedYaml<'_>) -> Vec<KeyRecord> {
        let YamlData::Sequence(list) = &list.data else {
            self.fault(list.span.start, "`keys` must be a list");
            return Vec::new();
        };
        let (mut ids, mut hashes) = (BTreeSet::new(), BTreeSet::new());
        let mut records = Vec::new();
        for entry in list {
            let at = entry.span.start;
            let Some(record) = self.entry(entry) else { continue };
            if !ids.insert(record.id.clone()) {
                self.fault(at, format!("the id `{}` is used before; each key needs its own", record.id));
            }
            if !hashes.insert(record.sha256) {
                self.fault(at, format!("`{}` has the same key as an entry before", record.id));
            }
            records.push(record);
        }
        records
    }

    fn entry(&mut self, entry: &MarkedYaml<'_>) -> Option<KeyRecord> {
        let at = entry.span.start;
        let before = self.faults.len();
        let mapping = self.mapping(entry, "an entry of `keys`")?;
        let mut draft = Draft::default();
        for (name, value) in mapping {
            match name.data.as_str() {
                Some("id") => draft.id = self.word(value, "id"),
                Some("sha256") => draft.sha256 = self.sha256(value),
                Some("owner") => draft.owner = self.word(value, "owner"),
                Some("roles") => draft.roles = self.words(value, "roles"),
                Some("groups") => draft.groups = self.words(value, "groups"),
                Some("scopes") => draft.scopes = self.words(value, "scopes"),
                Some("attributes") => draft.attributes = self.attributes(value),
                Some("expires") => draft.expires = self.expires(value),
                Some(other) => {
                    self.fault(name.span.start, format!("unknown key `{other}`; known are {FIELDS}"));
                }
                None => self.fault(name.span.start, "a key must be text"),
            }
        }
        for name in ["id", "sha256", "owner"] {
            if !mapping.iter().any(|(key, _)| key.data.as_str() == Some(name)) {
                self.fault(at, format!("`{name}` is missing"));
            }
        }
        if self.faults.len() > before {
            return None;
        }
        Some(KeyRecord {
            id: draft.id?,
            sha256: draft.sha256?,
            owner: draft.owner?,
            roles: draft.roles,
            groups: draft.groups,
            scopes: draft.scopes,
            attributes: draft.attributes,
            expires: draft.expires,
        })
    }

    fn mapping<'n, 'i>(
        &mut self,
        node: &'n MarkedYaml<'i>,
        what: &str,
    ) -> Option<&'n AnnotatedMapping<'i, MarkedYaml<'i>>> {
        let mapping = node.data.as_mapping();
        if mapping.is_none() {
            self.fault(node.span.start, format!("{what} must be a mapping"));
        }
        mapping
    }

    fn word(&mut self, node: &MarkedYaml<'_>, name: &str) -> Option<String> {
        let word = node.data.as_str().filter(|word| !word.trim().is_empty()).map(str::to_owned);
        if word.is_none() {
            self.fault(node.span.start, format!("`{name}` must be text, not empty; put it in quotes"));
        }
        if word.as_ref().is_some_and(|word| word.chars().any(char::is_control)) {
            self.fault(node.span.start, format!("`{name}` has a control character; write it without"));
        }
        word
    }

    fn words(&mut self, node: &MarkedYaml<'_>, name: &str) -> Vec<String> {
        let YamlData::Sequence(list) = &node.data else {
            self.fault(node.span.start, format!("`{name}` must be a list of texts"));
            return Vec::new();
        };
        list.iter().filter_map(|item| self.word(item, name)).collect()
    }

    fn sha256(&mut self, node: &MarkedYaml<'_>) -> Option<[u8; 32]> {
        let hash = node.data.as_str().and_then(parse_sha256);
        if hash.is_none() {
            // Not quoted: somebody may have put the key itself here.
            self.fault(
                node.span.start,
                "`sha256` must be the SHA-256 of the key in 64 hexadecimal digits, in quotes; \
                 `gatewayctl key new` writes it",
            );
        }
        hash
    }

    fn expires(&mut self, node: &MarkedYaml<'_>) -> Option<Duration> {
        let time = node.data.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        let since_epoch =
            time.and_then(|time| Duration::try_from(time.duration_since(jiff::Timestamp::UNIX_EPOCH)).ok());
        if since_epoch.is_none() {
            self.fault(node.span.start, "`expires` must be an RFC 3339 time such as 2027-01-01T00:00:00Z");
        }
        since_epoch
    }

    fn attributes(&mut self, node: &MarkedYaml<'_>) -> Map<String, Value> {
        let Some(mapping) = self.mapping(node, "`attributes`") else { return Map::new() };
        for (name, _) in mapping {
            if let Some(reserved) = name.data.as_str().filter(|name| RESERVED_ATTRIBUTES.contains(name)) {
                self.fault(name.span.start, format!("the attribute `{reserved}` is set by the gateway"));
            }
        }
        match self.json(node) {
            Some(Value::Object(attributes)) => attributes,
            _ => Map::new(),
        }
    }

    /// A YAML value as JSON, `None` with a fault where it has no JSON form.
    fn json(&mut self, node: &MarkedYaml<'_>) -> Option<Value> {
        match &node.data {
            YamlData::Value(Scalar::Null) => Some(Value::Null),
            YamlData::Value(Scalar::Boolean(value)) => Some(Value::Bool(*value)),
            YamlData::Value(Scalar::Integer(value)) => Some(Value::from(*value)),
            YamlData::Value(Scalar::String(value)) => Some(Value::from(value.as_ref())),
            YamlData::Value(Scalar::FloatingPoint(value)) if value.is_finite() => Some(Value::from(value.0)),
            YamlData::Sequence(list) => list.iter().map(|item| self.json(item)).collect(),
            YamlData::Mapping(mapping) => {
                let mut object = BTreeMap::new();
                for (name, value) in mapping {
                    let Some(name) = name.data.as_str() else {
                        self.fault(name.span.start, "a key must be text");
                        return None;
                    };
                    object.insert(name.to_owned(), self.json(value)?);
                }
                Some(Value::Object(object.into_iter().collect()))
            }
            YamlData::Value(Scalar::FloatingPoint(_))
            | YamlData::Representation(..)
            | YamlData::Tagged(..)
            | YamlData::Alias(_)
            | YamlData::BadValue => {
                self.fault(node.span.start, "this value has no JSON form");
                None
            }
        }
    }
}

fn parse_sha256(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits =
            str::from_utf8(digits).ok().filter(|pair| pair.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn a_whole_entry() {
        let text = format!(
            "keys:\n  - id: k1\n    sha256: {HASH}\n    owner: acme\n    roles: [partner, reader]\n    groups: [eu]\n    \
             scopes: [\"orders:read\"]\n    attributes: {{tier: gold, quota: 5, tags: [a, 1.5, true, null], deep: {{x: y}}}}\n    \
             expires: 2027-01-01T00:00:00+01:00\n  - {{id: k2, sha256: \"{}\", owner: bob}}\n",
            HASH.to_uppercase().replace('9', "8"),
        );
        let records = parse(Path::new("keys.yaml"), &text).unwrap();
        assert_eq!(records.len(), 2);
        let first = &records[0];
        assert_eq!((first.id.as_str(), first.owner.as_str(), first.sha256[0]), ("k1", "acme", 0x9f));
        assert_eq!(first.roles, ["partner", "reader"]);
        assert_eq!(first.expires.unwrap().as_secs(), 1_798_758_000);
        let want = json!({"tier": "gold", "quota": 5, "tags": ["a", 1.5, true, null], "deep": {"x": "y"}});
        assert_eq!(Value::Object(first.attributes.clone()), want);
        assert_eq!((records[1].owner.as_str(), records[1].expires), ("bob", None));
        assert_eq!(parse(Path::new("keys.yaml"), "keys: []").unwrap(), []);
    }

    #[track_caller]
    fn check(text: &str, want: &[&str]) {
        let text = text.replace("HASH", &format!("\"{HASH}\""));
        let errors = parse(Path::new("keys.yaml"), &text).unwrap_err().to_string();
        let lines: Vec<_> = errors.lines().collect();
        assert_eq!(lines.len(), want.len(), "{errors}");
        for (line, want) in lines.iter().zip(want) {
            assert!(line.starts_with(want), "{line}\n  is not\n{want}");
        }
    }

    #[test]
    fn all_faults_come_at_once_each_with_its_place() {
        check(
            "keys:\n  - id: k1\n    sha256: HASH\n    owner: a\n    role: [x]\n  - id: k2\n    sha256: abc\n  - 7\nother: 1\n",
            &[
                "keys.yaml:5:5: unknown key `role`; known are id,",
                "keys.yaml:6:5: `owner` is missing",
                "keys.yaml:7:13: `sha256` must be",
                "keys.yaml:8:5: an entry of `keys` must be a mapping",
                "keys.yaml:9:1: unknown key `other`",
            ],
        );
    }

    #[test]
    fn fields_have_their_kinds() {
        let entry = |field: &str| format!("keys:\n- id: k\n  sha256: HASH\n  owner: a\n  {field}\n");
        check(&entry("roles: admin"), &["keys.yaml:5:10: `roles` must be a list"]);
        check(&entry("roles: [admin, 7]"), &["keys.yaml:5:18: `roles` must be text"]);
        check(&entry("scopes: ['']"), &["keys.yaml:5:12: `scopes` must be text"]);
        check(&entry("expires: tomorrow"), &["keys.yaml:5:12: `expires` must be"]);
        check(&entry("expires: 1960-01-01T00:00:00Z"), &["keys.yaml:5:12: `expires` must be"]);
        check(&entry("attributes: [a]"), &["keys.yaml:5:15: `attributes` must be a mapping"]);
        check(&entry("attributes: {owner: b}"), &["keys.yaml:5:16: the attribute `owner`"]);
        check(&entry("attributes: {a: .inf}"), &["keys.yaml:5:19: this value has no JSON form"]);
        check(&entry("id: again"), &["keys.yaml:5:3: not valid YAML: duplicated key"]);
    }

    #[test]
    fn the_file_has_its_shape() {
        check("", &["keys.yaml:1:1: the file is empty"]);
        check("keys: {}", &["keys.yaml:1:7: `keys` must be a list"]);
        check("{}", &["keys.yaml:1:1: `keys` is missing"]);
        check("keys: []\n---\nkeys: []\n", &["keys.yaml:3:1: only one"]);
        check("keys: [", &["keys.yaml:2:1: not valid YAML"]);
    }

    #[test]
    fn ids_and_keys_are_unique() {
        let entry = |id: &str| format!("- {{id: {id}, sha256: HASH, owner: a}}\n");
        check(
            &format!("keys:\n{}{}", entry("k1"), entry("k1")),
            &["keys.yaml:3:3: the id `k1` is used before", "keys.yaml:3:3: `k1` has the same key"],
        );
    }

    #[test]
    fn a_plain_key_in_the_wrong_place_is_not_repeated_in_the_message() {
        let error = parse(Path::new("k"), "keys: [{id: a, owner: b, sha256: pst_secret}]").unwrap_err();
        assert!(!error.to_string().contains("pst_secret"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load(Path::new("/nonexistent/keys.yaml")).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/keys.yaml: cannot be read"), "{error}");
    }
}
