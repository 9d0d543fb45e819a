//! `type: ldap`.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::ldap::filter::Filter;
use crate::base::secret::Secret;
use crate::base::size::ByteLimit;

/// A directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LdapProvider {
    /// Its servers, the preferred one first; at least one.
    pub servers: Vec<LdapServer>,
    /// Trusted issuers of the servers' certificates; `None` uses the system's.
    pub ca: Option<PathBuf>,
    /// Who searches; `None` searches anonymously.
    pub account: Option<ServiceAccount>,
    /// How a user is found.
    pub users: Users,
    /// How a user's groups are found; `None` gives none.
    pub groups: Option<Groups>,
    /// Attributes of the user's entry that the identity gets.
    pub attributes: Vec<String>,
    /// For the `WWW-Authenticate` challenge, as a quoted string may hold it.
    pub realm: String,
    /// Whether the upstream gets the `Authorization` header.
    pub forward_credential: bool,
    /// Connections.
    pub pool: PoolSize,
    /// Times.
    pub timeouts: Timeouts,
    /// Bounds of one answer.
    pub limits: AnswerLimits,
    /// What is remembered.
    pub memory: Memory,
    /// It takes no credential, and tells more of whom another provider has proven.
    pub enrich: Option<EnrichBy>,
}

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LdapServer {
    /// Name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// How the connection is protected.
    pub security: Security,
}

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Not at all.
    Plaintext,
    /// TLS from the beginning: `ldaps`.
    Tls,
    /// TLS after the `StartTLS` operation (RFC 4511 section 4.14).
    StartTls,
}

/// The gateway's own account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its name.
    pub dn: String,
    /// Its password, not empty.
    pub password: Secret<String>,
}

/// How a user is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Users {
    /// Where the search begins.
    pub base: String,
    /// How deep it goes.
    pub scope: Scope,
    /// It has the place `{username}`.
    pub filter: Filter,
    /// What the subject is.
    pub subject: SubjectFrom,
}

/// What of a user's entry is the subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubjectFrom {
    /// Its name.
    Dn,
    /// The one value of this attribute.
    Attribute(String),
}

/// How far a search goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The base alone.
    Base,
    /// What is right below the base.
    One,
    /// The base and all below it.
    Subtree,
}

/// How groups are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups {
    /// Where.
    pub source: GroupSource,
    /// What a group is called.
    pub name: GroupName,
    /// Levels of groups in groups that are followed; 0 for none.
    pub nested: u32,
}

/// Where groups are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupSource {
    /// By a search for entries that name the user.
    Search {
        /// Where the search begins.
        base: String,
        /// How deep it goes.
        scope: Scope,
        /// It has the place `{dn}` or `{subject}`.
        filter: Filter,
    },
    /// In an attribute of the member, such as `memberOf`, that names the groups.
    Attribute(String),
}

/// What a group is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupName {
    /// By its whole name.
    Dn,
    /// By the one value of this attribute.
    Attribute(String),
}

/// Bounds of a pool of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSize {
    /// Connections to each server for searches, and as many for binds.
    pub size: usize,
    /// A connection unused that long is not used again.
    pub idle: Duration,
}

/// Times that are waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Name resolution, TCP and TLS.
    pub connect: Duration,
    /// One bind or search.
    pub operation: Duration,
    /// All that is needed to know who somebody is.
    pub total: Duration,
}

/// Bounds of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerLimits {
    /// Entries, and groups of one user.
    pub entries: usize,
    /// Bytes.
    pub bytes: ByteLimit,
}

/// What is remembered of a directory's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// How long a good answer is.
    pub ttl: Duration,
    /// How long a refusal is.
    pub negative_ttl: Duration,
    /// How much longer a good answer serves while no server answers.
    pub stale: Duration,
    /// Answers at most.
    pub entries: usize,
}

/// What of a proven identity is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnrichBy {
    /// Its subject.
    Subject,
    /// A claim of its token.
    Claim(Vec<String>),
    /// One of its attributes.
    Attribute(Vec<String>),
}
