//! Directories.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::ClaimPath;
use crate::config::raw::quantity::{Duration, Size};

/// A directory that is asked by LDAP.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ldap {
    /// The directory's server, or a list of servers with the same content, the preferred one first. Example:
    /// `ldaps://ldap.example`, `[ldaps://ldap-1.example, ldaps://ldap-2.example]`.
    pub(crate) url: Urls,
    /// Whether connections to `ldap` URLs are protected by the `StartTLS` operation before anything else is sent. Default
    /// `false`.
    #[serde(default)]
    pub(crate) start_tls: bool,
    /// Whether passwords may travel unprotected to `ldap` URLs that are not on loopback. Default `false`.
    #[serde(default)]
    pub(crate) plaintext: bool,
    /// A PEM file with the issuers trusted for the servers' certificates. Default those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
    /// The name of the gateway's own account, which searches. It should be able to read users and groups and no more.
    /// Default none: searches are anonymous. Example: `cn=gateway,ou=services,dc=example,dc=com`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bind_dn: Option<String>,
    /// The password of `bind_dn`. Example: `${file:ldap-password}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bind_password: Option<String>,
    /// How a user is found.
    pub(crate) users: Users,
    /// How the groups of a user are found. Default none: `identity.groups` is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) groups: Option<Groups>,
    /// Attributes of the user's entry that `identity.attributes` gets: a text where there is one value, a list where
    /// there are several, `{"base64": ".."}` in place of a value that is not UTF-8. `dn` is always there. Example:
    /// `[mail, department]`.
    #[serde(default)]
    #[schemars(length(max = 100), extend("uniqueItems" = true))]
    pub(crate) attributes: Vec<String>,
    /// Take no credential, and add groups and attributes to identities that other providers of the API prove.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) enrich: Option<Enrich>,
    /// What the client is told it is asked a password for. Default `directory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) realm: Option<String>,
    /// Whether the upstream gets the `Authorization` header, with the password in it. Default `false`. Where several
    /// providers of a route take a credential from this header, one that says `false` is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) forward_credential: Option<bool>,
    /// How long a good answer is remembered: a changed password or group counts that much later. Default `60s`.
    #[serde(default = "default_cache")]
    pub(crate) cache: Duration,
    /// How long a refusal is remembered. Default `5s`.
    #[serde(default = "default_negative_cache")]
    pub(crate) negative_cache: Duration,
    /// How much longer a good answer serves while no server answers; such an identity has `stale: true`. Default `0`.
    #[serde(default = "default_stale")]
    pub(crate) stale: Duration,
    /// Good answers remembered at most, and refusals. Default 100000.
    #[serde(default = "default_cache_entries")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub(crate) cache_entries: u32,
    /// Connections.
    #[serde(default)]
    pub(crate) pool: Pool,
    /// How long the directory may take.
    #[serde(default)]
    pub(crate) timeouts: Timeouts,
    /// How large an answer may be. A larger one is an outage: a list that was cut could lack the group that forbids.
    #[serde(default)]
    pub(crate) limits: Limits,
}

/// One URL, or several.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub(crate) enum Urls {
    /// `ldaps://ldap.example`.
    One(String),
    /// `[ldaps://ldap-1.example, ldaps://ldap-2.example]`.
    Several(Vec<String>),
}

/// How a user is found.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LdapUsers")]
pub(crate) struct Users {
    /// The entry below which users are. Example: `ou=people,dc=example,dc=com`.
    pub(crate) base: String,
    /// The search filter (RFC 4515) that finds a user; `{username}` is what the client calls itself, always compared as
    /// a whole. It must find exactly one entry. Default `(uid={username})`.
    #[serde(default = "default_user_filter")]
    pub(crate) filter: String,
    /// How deep users are below `base`. Default `subtree`.
    #[serde(default)]
    pub(crate) scope: Scope,
    /// What of the user's entry is the subject: an attribute with one value, or `dn`, the entry's name. It is what stands
    /// in the directory, however the client writes it. Default the attribute that `filter` compares with `{username}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
}

/// How the groups of a user are found: by a search below `base`, or in an `attribute`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LdapGroups")]
pub(crate) struct Groups {
    /// The entry below which groups are. Either this or `attribute` is needed. Example: `ou=groups,dc=example,dc=com`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<String>,
    /// The search filter that finds groups: `{dn}` is the member's entry, `{subject}` the user's subject. Default
    /// `(member={dn})`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) filter: Option<String>,
    /// How deep groups are below `base`. Default `subtree`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<Scope>,
    /// The attribute of the user's entry that names its groups. Either this or `base` is needed. Example: `memberOf`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attribute: Option<String>,
    /// What a group is called in `identity.groups`: an attribute, or `dn`, the entry's name. Default `cn`.
    #[serde(default = "default_group_name")]
    pub(crate) name: String,
    /// Levels of groups that the groups are in themselves. Default 0: only the user's own.
    #[serde(default)]
    #[schemars(range(max = 10))]
    pub(crate) nested: u32,
}

/// How deep a search goes.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "LdapScope")]
pub(crate) enum Scope {
    /// All below the base.
    #[default]
    Subtree,
    /// Right below the base.
    One,
}

/// Whom to look up.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LdapEnrich")]
pub(crate) struct Enrich {
    /// What of the proven identity is `{username}` in the filter of `users`.
    pub(crate) by: EnrichBy,
    /// Which claim or attribute: names joined with dots, or a list. Example: `employee.id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<ClaimPath>,
}

/// What somebody is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "LdapEnrichBy")]
pub(crate) enum EnrichBy {
    /// The identity's subject.
    Subject,
    /// The claim at `path`.
    Claim,
    /// The attribute at `path`.
    Attribute,
}

/// Connections to each server.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "LdapPool")]
pub(crate) struct Pool {
    /// Connections for searches, and as many others for passwords. Default 8.
    #[schemars(range(min = 1, max = 1000))]
    pub(crate) size: u32,
    /// A connection unused that long is not used again; less than the server allows. Default `60s`.
    pub(crate) idle: Duration,
}

/// How long the directory may take.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "LdapTimeouts")]
pub(crate) struct Timeouts {
    /// For a connection, TLS included. Default `1s`.
    pub(crate) connect: Duration,
    /// For one search, or one password. Default `2s`.
    pub(crate) operation: Duration,
    /// For all that one identity needs. Default `4s`.
    pub(crate) total: Duration,
}

/// How large an answer may be.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "LdapLimits")]
pub(crate) struct Limits {
    /// Entries of one answer, and groups of one user. Default 1000.
    #[schemars(range(min = 1, max = 100_000))]
    pub(crate) entries: u32,
    /// Bytes of one answer. Default `1MiB`.
    pub(crate) bytes: Size,
}

impl JsonSchema for Urls {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "LdapUrls".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["string", "array"], "minItems": 1, "maxItems": 16, "items": {"type": "string"}})
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self { size: 8, idle: Duration::new("60s") }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::new("1s"), operation: Duration::new("2s"), total: Duration::new("4s") }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 1000, bytes: Size::new("1MiB") }
    }
}

/// What the client is told where the file does not say.
pub(crate) fn default_realm() -> String {
    "directory".to_owned()
}

/// The filter for groups where the file does not say.
pub(crate) fn default_group_filter() -> String {
    "(member={dn})".to_owned()
}

fn default_user_filter() -> String {
    "(uid={username})".to_owned()
}

fn default_group_name() -> String {
    "cn".to_owned()
}

fn default_cache() -> Duration {
    Duration::new("60s")
}

fn default_negative_cache() -> Duration {
    Duration::new("5s")
}

fn default_stale() -> Duration {
    Duration::new("0")
}

fn default_cache_entries() -> u32 {
    100_000
}
