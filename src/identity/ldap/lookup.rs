//! From a name to an identity: the user's entry, the password, the groups.
//!
//! The user's entry says who is meant, not what the client has typed: subject, name and groups come from it. Whatever is
//! wrong with name or password has one answer, and about one duration, so that nobody learns which users there are.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use regorus::Value;

use crate::base::ldap::dn::is_dn;
use crate::base::secret::Secret;
use crate::config::model::ldap::{GroupSource, LdapProvider, SubjectFrom};
use crate::contract::identity::Facts;
use crate::identity::ldap::directory::{Directory, LdapError};
use crate::identity::ldap::fault::Fault;
use crate::identity::ldap::group;
use crate::identity::ldap::message::{Entry, Filled, Request, SIZE_LIMIT_EXCEEDED, SUCCESS, Search, Values};

/// Two are one too many, and more need not come.
const USERS_MAX: u32 = 2;

/// The name that a password is tried on where there is no user: no entry has it.
const NOBODY: &str = "cn=there-is-no-such-entry-5b1f0c9e";

/// Result codes of a bind that say no (RFC 4511 appendix A): `constraintViolation` (a locked account, in some servers),
/// `noSuchObject`, `invalidDNSyntax`, `inappropriateAuthentication`, `invalidCredentials`, `insufficientAccessRights`,
/// `unwillingToPerform` (a disabled account). Any other is no answer.
const REFUSALS: [u32; 7] = [19, 32, 34, 48, 49, 50, 53];

/// Looks users up.
#[derive(Debug)]
pub(super) struct Lookup {
    config: LdapProvider,
    directory: Directory,
    wanted: Vec<String>,
}

/// A user that was found.
#[derive(Debug)]
pub(super) struct User {
    pub(super) dn: String,
    pub(super) subject: String,
    entry: Entry,
}

impl Lookup {
    pub(super) fn new(config: LdapProvider) -> Result<Self, LdapError> {
        let directory = Directory::new(&config)?;
        let mut wanted = config.attributes.clone();
        let mut want = |name: &String| {
            if !wanted.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                wanted.push(name.clone());
            }
        };
        if let SubjectFrom::Attribute(name) = &config.users.subject {
            want(name);
        }
        if let Some(GroupSource::Attribute(name)) = config.groups.as_ref().map(|groups| &groups.source) {
            want(name);
        }
        Ok(Self { config, directory, wanted })
    }

    /// Who has this name and password; `None` if nobody.
    pub(super) async fn prove(&self, username: &str, password: &[u8]) -> Result<Option<Facts>, Fault> {
        let user = self.user(username).await?;
        let nobody = format!("{NOBODY},{}", self.config.users.base);
        let dn = user.as_ref().map_or(nobody, |user| user.dn.clone());
        let bind = Request::Bind { dn, password: Secret::new(password.to_vec()) };
        let is_right = match self.directory.ask(&bind).await?.code {
            SUCCESS => true,
            code if REFUSALS.contains(&code) => false,
            code => return Err(Fault::Code(code)),
        };
        match user.filter(|_| is_right) {
            Some(user) => self.facts(user).await.map(Some),
            None => Ok(None),
        }
    }

    /// What the directory knows of somebody another provider has proven; `None` if it knows nobody of this name.
    pub(super) async fn describe(&self, name: &str) -> Result<Option<Facts>, Fault> {
        match self.user(name).await? {
            Some(user) => self.facts(user).await.map(Some),
            None => Ok(None),
        }
    }

    async fn user(&self, username: &str) -> Result<Option<User>, Fault> {
        let values = Values { username: username.to_owned(), ..Values::default() };
        let users = &self.config.users;
        let search = Search {
            base: users.base.clone(),
            scope: users.scope,
            filter: Filled::One { filter: users.filter.clone(), values },
            entries_max: USERS_MAX,
            attributes: self.wanted.clone(),
        };
        let reply = self.directory.ask(&Request::Search(search)).await?;
        let mut found = match reply.code {
            // Several, and which one is meant nobody can say.
            SIZE_LIMIT_EXCEEDED => return Ok(None),
            _ => reply.found()?,
        };
        let (Some(entry), true) = (found.pop(), found.is_empty()) else { return Ok(None) };
        // A bind without a name is one without proof (RFC 4513 section 5.1.2).
        if !is_dn(&entry.dn) {
            return Err(Fault::Malformed);
        }
        let subject = match &users.subject {
            SubjectFrom::Dn => Some(entry.dn.clone()),
            SubjectFrom::Attribute(name) => match entry.values(name) {
                [value] => String::from_utf8(value.clone()).ok(),
                // None, or several of which none is the one.
                _ => None,
            },
        };
        let subject = subject.filter(|subject| !subject.is_empty());
        Ok(subject.map(|subject| User { dn: entry.dn.clone(), subject, entry }))
    }

    async fn facts(&self, user: User) -> Result<Facts, Fault> {
        let groups = match &self.config.groups {
            None => Vec::new(),
            Some(groups) => group::of(&self.directory, groups, &user).await?,
        };
        let mut attributes = BTreeMap::from([(Value::from("dn"), Value::from(user.dn.as_str()))]);
        for name in &self.config.attributes {
            let values: Vec<Value> = user.values(name).iter().map(|value| attribute(value)).collect();
            match <[Value; 1]>::try_from(values) {
                Ok([value]) => drop(attributes.insert(Value::from(name.as_str()), value)),
                Err(values) if values.is_empty() => {}
                Err(values) => drop(attributes.insert(Value::from(name.as_str()), Value::from(values))),
            }
        }
        Ok(Facts {
            kind: Some("ldap"),
            subject: Some(user.subject),
            groups,
            attributes: Some(Value::from(attributes)),
            ..Facts::default()
        })
    }
}

impl User {
    pub(super) fn values(&self, attribute: &str) -> &[Vec<u8>] {
        self.entry.values(attribute)
    }
}

/// A text as itself; what is no text in a form that no text can be taken for.
fn attribute(value: &[u8]) -> Value {
    match str::from_utf8(value) {
        Ok(text) => Value::from(text),
        Err(_) => Value::from(BTreeMap::from([(Value::from("base64"), Value::from(STANDARD.encode(value)))])),
    }
}
