//! A user's groups, and the groups these are in.
//!
//! Each group is looked at once, however the groups hold each other, and down to a configured depth. Groups that cannot
//! be told wholly are no answer: a policy may deny by a group.

use std::collections::{BTreeSet, HashSet};

use crate::base::ldap::dn::{first, folded, is_dn};
use crate::base::ldap::filter::Filter;
use crate::config::model::ldap::{GroupName, GroupSource, Groups, Scope};
use crate::identity::ldap::directory::Directory;
use crate::identity::ldap::fault::Fault;
use crate::identity::ldap::lookup::User;
use crate::identity::ldap::message::{Entry, Filled, NO_SUCH_OBJECT, Request, Search, Values};

/// Groups whose own groups are asked for by one search.
const GROUPS_A_SEARCH: usize = 50;

/// The names of a user's groups, sorted.
pub(super) async fn of(directory: &Directory, groups: &Groups, user: &User) -> Result<Vec<String>, Fault> {
    let mut found = Found {
        seen: HashSet::new(),
        names: BTreeSet::new(),
        groups_max: directory.bounds().entries,
        name: &groups.name,
    };
    match &groups.source {
        GroupSource::Search { base, scope, filter } => {
            let search = GroupSearch { directory, base, scope: *scope, filter };
            search.climb(groups.nested, user, &mut found).await?;
        }
        GroupSource::Attribute(attribute) => {
            let listed = ListedGroups { directory, attribute };
            listed.climb(groups.nested, user, &mut found).await?;
        }
    }
    Ok(found.names.into_iter().collect())
}

/// The groups so far.
struct Found<'c> {
    seen: HashSet<String>,
    names: BTreeSet<String>,
    groups_max: usize,
    name: &'c GroupName,
}

impl Found<'_> {
    /// Whether the group is new.
    fn see(&mut self, dn: &str) -> Result<bool, Fault> {
        let is_new = self.seen.insert(folded(dn));
        if self.seen.len() > self.groups_max { Err(Fault::TooLarge) } else { Ok(is_new) }
    }

    /// The attributes needed to name a group.
    fn attributes(&self) -> Vec<String> {
        match self.name {
            GroupName::Dn => Vec::new(),
            GroupName::Attribute(name) => vec![name.clone()],
        }
    }

    /// Takes a group's name from its entry. With several values, it is the one that the entry is named by.
    fn add(&mut self, entry: &Entry) -> Result<(), Fault> {
        let name = match self.name {
            GroupName::Dn => entry.dn.clone(),
            GroupName::Attribute(attribute) => match (entry.values(attribute), named(&entry.dn, attribute)) {
                ([value], _) => String::from_utf8(value.clone()).map_err(|_| Fault::UnusableEntry)?,
                (_, Some(name)) => name,
                (_, None) => return Err(Fault::UnusableEntry),
            },
        };
        self.names.insert(name);
        Ok(())
    }
}

/// The value of `attribute` in an entry's name, if the name begins with it.
fn named(dn: &str, attribute: &str) -> Option<String> {
    let (first, value) = first(dn)?;
    first.eq_ignore_ascii_case(attribute).then_some(value)
}

/// Groups that name their members.
struct GroupSearch<'c> {
    directory: &'c Directory,
    base: &'c str,
    scope: Scope,
    filter: &'c Filter,
}

impl GroupSearch<'_> {
    async fn climb(&self, nested: u32, user: &User, found: &mut Found<'_>) -> Result<(), Fault> {
        let values = Values { dn: user.dn.clone(), subject: user.subject.clone(), username: String::new() };
        let mut level = self.groups_with(vec![values], found).await?;
        for _ in 0..nested {
            let mut next = Vec::new();
            for some in level.chunks(GROUPS_A_SEARCH) {
                let values = |dn: &String| Values {
                    dn: dn.clone(),
                    // A group has no other subject than its name.
                    subject: dn.clone(),
                    username: String::new(),
                };
                next.extend(self.groups_with(some.iter().map(values).collect(), found).await?);
            }
            if next.is_empty() {
                break;
            }
            level = next;
        }
        Ok(())
    }

    /// New groups with one of these members.
    async fn groups_with(&self, members: Vec<Values>, found: &mut Found<'_>) -> Result<Vec<String>, Fault> {
        let search = Search {
            base: self.base.to_owned(),
            scope: self.scope,
            filter: Filled::Each { filter: self.filter.clone(), values: members },
            entries_max: u32::try_from(found.groups_max).unwrap_or(u32::MAX >> 1),
            attributes: found.attributes(),
        };
        let entries = self.directory.ask(&Request::Search(search)).await?.found()?;
        let mut new = Vec::new();
        for entry in entries {
            if !is_dn(&entry.dn) {
                return Err(Fault::Malformed);
            }
            if found.see(&entry.dn)? {
                found.add(&entry)?;
                new.push(entry.dn);
            }
        }
        Ok(new)
    }
}

/// Groups that their members name.
struct ListedGroups<'c> {
    directory: &'c Directory,
    attribute: &'c str,
}

impl ListedGroups<'_> {
    async fn climb(&self, nested: u32, user: &User, found: &mut Found<'_>) -> Result<(), Fault> {
        let mut level = new(user.values(self.attribute), found)?;
        for depth in 0..=nested {
            let mut next = Vec::new();
            for dn in level {
                let is_last = depth == nested;
                let known = match found.name {
                    GroupName::Dn => Some(dn.clone()),
                    GroupName::Attribute(attribute) => named(&dn, attribute),
                };
                // Its entry is asked for only where the name does not tell enough.
                let entry = match &known {
                    Some(_) if is_last => None,
                    Some(_) | None => self.entry(dn, found).await?,
                };
                match (entry, known) {
                    (Some(entry), _) => {
                        found.add(&entry)?;
                        if !is_last {
                            next.extend(new(entry.values(self.attribute), found)?);
                        }
                    }
                    // The user's entry names it, whether or not the gateway may read it.
                    (None, Some(name)) => {
                        found.names.insert(name);
                    }
                    (None, None) => return Err(Fault::UnusableEntry),
                }
            }
            level = next;
        }
        Ok(())
    }

    /// A group's entry; `None` if there is none, or none that the gateway may read.
    async fn entry(&self, dn: String, found: &Found<'_>) -> Result<Option<Entry>, Fault> {
        let mut attributes = found.attributes();
        attributes.push(self.attribute.to_owned());
        let search = Search { base: dn, scope: Scope::Base, filter: Filled::Any, entries_max: 1, attributes };
        let reply = self.directory.ask(&Request::Search(search)).await?;
        if reply.code == NO_SUCH_OBJECT {
            return Ok(None);
        }
        let mut entries = reply.found()?;
        Ok(entries.pop())
    }
}

/// The groups of these names that were not seen before.
fn new(names: &[Vec<u8>], found: &mut Found<'_>) -> Result<Vec<String>, Fault> {
    let mut new = Vec::new();
    for name in names {
        let dn = str::from_utf8(name).ok().filter(|dn| is_dn(dn)).ok_or(Fault::UnusableEntry)?;
        if found.see(dn)? {
            new.push(dn.to_owned());
        }
    }
    Ok(new)
}
