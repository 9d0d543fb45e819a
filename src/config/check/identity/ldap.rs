//! Checks of directories.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::Uri;

use super::super::value::{bare_host, is_loopback_host};
use super::super::{Check, all};
use crate::base::host_port::is_host;
use crate::base::ldap::dn::{is_attribute, is_dn};
use crate::base::ldap::filter::{Filter, Place as FilterPlace};
use crate::base::secret::Secret;
use crate::config::model::ldap::{
    AnswerLimits, EnrichBy, GroupName, GroupSource, Groups, LdapProvider, LdapServer, Memory, PoolSize,
    Scope, Security, ServiceAccount, SubjectFrom, Timeouts, Users,
};
use crate::config::place::Place;
use crate::config::raw::identity::ldap as raw;
use crate::config::report::Reported;

/// Bounded by how long a request waits for its identity.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(5);
const IDLE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);
const CACHE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(24);
const NEGATIVE_CACHE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_mins(10);
const ANSWER_BYTES: RangeInclusive<u64> = 4 << 10..=256 << 20;

/// The entry's name, where an attribute could stand.
const DN: &str = "dn";

impl Check<'_> {
    pub(super) fn ldap(&mut self, place: &Place, written: &raw::Ldap) -> Result<LdapProvider, Reported> {
        let servers = self.ldap_servers(place, written);
        let ca = written.ca.as_ref().map(|ca| self.authorities(&place.key("ca"), ca)).transpose();
        let account = self.ldap_account(place, written);
        let users = self.ldap_users(&place.key("users"), &written.users);
        let groups = place.key("groups");
        let groups = written.groups.as_ref().map(|written| self.ldap_groups(&groups, written)).transpose();
        let attributes = self.ldap_attributes(&place.key("attributes"), &written.attributes);
        let enrich = self.ldap_enrich(place, written);
        let realm = self.ldap_realm(&place.key("realm"), written);
        let pool = place.key("pool");
        let idle = self.duration(&pool.key("idle"), &written.pool.idle, IDLE);
        let timeouts = self.ldap_timeouts(&place.key("timeouts"), &written.timeouts);
        let bytes = self.size(&place.key("limits").key("bytes"), &written.limits.bytes, ANSWER_BYTES);
        let memory = self.ldap_memory(place, written);
        let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Ok(LdapProvider {
            servers: servers?,
            ca: ca?,
            account: account?,
            users: users?,
            groups: groups?,
            attributes: attributes?,
            realm: realm?,
            forward_credential: written.forward_credential.unwrap_or(false),
            pool: PoolSize { size: number(written.pool.size), idle: idle? },
            timeouts: timeouts?,
            limits: AnswerLimits { entries: number(written.limits.entries), bytes: bytes? },
            memory: memory?,
            enrich: enrich?,
        })
    }

    fn ldap_servers(&mut self, place: &Place, written: &raw::Ldap) -> Result<Vec<LdapServer>, Reported> {
        let at = place.key("url");
        let servers = match &written.url {
            raw::Urls::One(url) => self.ldap_server(&at, url, written).map(|server| vec![server]),
            raw::Urls::Several(urls) => all(urls
                .iter()
                .enumerate()
                .map(|(index, url)| self.ldap_server(&at.index(index), url, written))),
        }?;
        if written.start_tls && written.plaintext {
            let message = "`start_tls` and `plaintext` are both `true`";
            return Err(self.together(place, &place.key("plaintext"), message, "keep one of them"));
        }
        let has_tls = servers.iter().any(|server| server.security != Security::Plaintext);
        let has_ldap = servers.iter().any(|server| server.security != Security::Tls);
        let is_remote =
            |server: &LdapServer| server.security == Security::Plaintext && !is_loopback_host(&server.host);
        let idle = [
            ("start_tls", written.start_tls && !has_ldap, "an `ldaps` URL is protected from the beginning"),
            ("plaintext", written.plaintext && !servers.iter().any(is_remote), "no server needs it"),
            (
                "ca",
                written.ca.is_some() && !has_tls,
                "no connection has TLS; use `ldaps` or `start_tls: true`",
            ),
        ];
        for (key, is_idle, help) in idle {
            if is_idle {
                let message = format!("`{key}` has no effect");
                return Err(self.together(place, &place.key(key), message, help));
            }
        }
        Ok(servers)
    }

    fn ldap_server(&mut self, at: &Place, text: &str, written: &raw::Ldap) -> Result<LdapServer, Reported> {
        let parsed = text.parse::<Uri>().ok().and_then(|url| server(&url, written.start_tls));
        // The text is not quoted where it may hold a password.
        let Some(server) = parsed else {
            let shown = self.shown(at);
            let message = if shown.contains('@') {
                "not a server's URL".to_owned()
            } else {
                format!("`{shown}` is not a server's URL")
            };
            return Err(self.report.error_with(at, message, "write `ldaps://host` or `ldaps://host:port`"));
        };
        let is_open = server.security == Security::Plaintext && !is_loopback_host(&server.host);
        if is_open && !written.plaintext {
            let message = format!("passwords would travel unprotected to `{}`", self.shown(at));
            let help = "use `ldaps` or `start_tls: true`; `plaintext: true` allows it all the same";
            return Err(self.report.error_with(at, message, help));
        }
        Ok(server)
    }

    fn ldap_account(
        &mut self,
        place: &Place,
        written: &raw::Ldap,
    ) -> Result<Option<ServiceAccount>, Reported> {
        match (&written.bind_dn, &written.bind_password) {
            (None, None) => Ok(None),
            (Some(dn), Some(password)) => {
                let dn = self.ldap_dn(&place.key("bind_dn"), dn);
                if password.is_empty() || password.contains('\0') {
                    let message = "`bind_password` is empty, or has a NUL";
                    let help = "a server may take a bind without a password for a good one";
                    return Err(self.report.error_with(&place.key("bind_password"), message, help));
                }
                Ok(Some(ServiceAccount { dn: dn?, password: Secret::new(password.clone()) }))
            }
            (dn, _) => {
                let (given, missing) =
                    if dn.is_some() { ("bind_dn", "bind_password") } else { ("bind_password", "bind_dn") };
                let message = format!("`{given}` is given without `{missing}`");
                let help = "give both, or neither to search anonymously";
                Err(self.together(place, &place.key(given), message, help))
            }
        }
    }

    fn ldap_users(&mut self, place: &Place, written: &raw::Users) -> Result<Users, Reported> {
        let base = self.ldap_dn(&place.key("base"), &written.base);
        let at = place.key("filter");
        let filter = self.ldap_filter(&at, &written.filter, &[FilterPlace::Username], "{username}");
        let subject_at = place.key("subject");
        let subject = match (&written.subject, &filter) {
            (Some(name), _) if name == DN => Ok(SubjectFrom::Dn),
            (Some(name), _) => self.ldap_attribute(&subject_at, name).map(SubjectFrom::Attribute),
            (None, Ok(filter)) => {
                if let Some(name) = filter.attribute_of(FilterPlace::Username) {
                    // Options select values of an attribute; the subject is the attribute's.
                    let name = name.split(';').next().unwrap_or(name);
                    Ok(SubjectFrom::Attribute(name.to_owned()))
                } else {
                    let help = "name an attribute with one value, or `dn`";
                    Err(self.together(
                        place,
                        place,
                        "`subject` is missing, and the filter does not tell it",
                        help,
                    ))
                }
            }
            (None, Err(reported)) => Err(*reported),
        };
        Ok(Users { base: base?, scope: scope(written.scope), filter: filter?, subject: subject? })
    }

    fn ldap_groups(&mut self, place: &Place, written: &raw::Groups) -> Result<Groups, Reported> {
        let source = match (&written.base, &written.attribute) {
            (Some(base), None) => self.ldap_group_search(place, written, base),
            (None, Some(attribute)) => {
                let attribute = self.ldap_attribute(&place.key("attribute"), attribute);
                for (key, is_given) in
                    [("filter", written.filter.is_some()), ("scope", written.scope.is_some())]
                {
                    if is_given {
                        let message = format!("`{key}` has no effect with `attribute`");
                        return Err(self.together(place, &place.key(key), message, "take it out"));
                    }
                }
                attribute.map(GroupSource::Attribute)
            }
            (Some(_), Some(_)) => {
                let message = "`base` and `attribute` are both given";
                Err(self.together(place, &place.key("attribute"), message, "keep one of them"))
            }
            (None, None) => {
                let help = "say below which `base` groups are searched, or in which `attribute` a user's are";
                Err(self.together(place, place, "neither `base` nor `attribute` is given", help))
            }
        };
        let name = if written.name == DN {
            Ok(GroupName::Dn)
        } else {
            self.ldap_attribute(&place.key("name"), &written.name).map(GroupName::Attribute)
        };
        Ok(Groups { source: source?, name: name?, nested: written.nested })
    }

    fn ldap_group_search(
        &mut self,
        place: &Place,
        written: &raw::Groups,
        base: &str,
    ) -> Result<GroupSource, Reported> {
        let base = self.ldap_dn(&place.key("base"), base);
        let text = written.filter.clone().unwrap_or_else(raw::default_group_filter);
        let at = place.key("filter");
        let places = [FilterPlace::Dn, FilterPlace::Subject];
        let filter = self.ldap_filter(&at, &text, &places, "{dn}` or `{subject}")?;
        if written.nested > 0 && !filter.has(FilterPlace::Dn) {
            let message = "`nested` needs a filter with `{dn}`";
            let help = "a group in a group is known by its name";
            return Err(self.together(place, &place.key("nested"), message, help));
        }
        Ok(GroupSource::Search { base: base?, scope: scope(written.scope.unwrap_or_default()), filter })
    }

    /// A filter that has one of `places`, and no other.
    fn ldap_filter(
        &mut self,
        at: &Place,
        text: &str,
        places: &[FilterPlace],
        named: &str,
    ) -> Result<Filter, Reported> {
        let filter = Filter::parse(text).map_err(|error| {
            let help = self
                .unless_secret(at, "write `(uid={username})`, `(&(objectClass=person)(mail={username}))`");
            self.report.error_with(at, error.to_string(), help)
        })?;
        let known = [FilterPlace::Username, FilterPlace::Dn, FilterPlace::Subject];
        let is_strange = known.iter().any(|place| filter.has(*place) && !places.contains(place));
        if is_strange || !places.iter().any(|place| filter.has(*place)) {
            let message =
                format!("`{}` must compare with `{named}`, and with no other place", self.shown(at));
            let help = "without it, it finds the same entries for everyone";
            return Err(self.report.error_with(at, message, help));
        }
        Ok(filter)
    }

    fn ldap_attributes(&mut self, place: &Place, written: &[String]) -> Result<Vec<String>, Reported> {
        all(written.iter().enumerate().map(|(index, name)| {
            let at = place.index(index);
            if name.eq_ignore_ascii_case(DN) {
                return Err(self.report.error_with(&at, "the attribute `dn` is always there", "take it out"));
            }
            let earlier = written.get(..index).unwrap_or_default();
            if earlier.iter().any(|earlier| earlier.eq_ignore_ascii_case(name)) {
                let message = format!("the attribute `{}` is listed twice", self.shown(&at));
                return Err(self.report.error_with(&at, message, "names of attributes have no case"));
            }
            self.ldap_attribute(&at, name)
        }))
    }

    fn ldap_attribute(&mut self, at: &Place, name: &str) -> Result<String, Reported> {
        if is_attribute(name) {
            return Ok(name.to_owned());
        }
        let message = format!("`{}` is not the name of an attribute", self.shown(at));
        Err(self.report.error_with(
            at,
            message,
            "write `mail`, or a number such as `2.5.4.3`, without options",
        ))
    }

    fn ldap_dn(&mut self, at: &Place, dn: &str) -> Result<String, Reported> {
        if is_dn(dn) {
            return Ok(dn.to_owned());
        }
        let message = format!("`{}` is not a distinguished name", self.shown(at));
        let help = "write `ou=people,dc=example,dc=com`, with a `\\` before a comma in a value";
        Err(self.report.error_with(at, message, help))
    }

    fn ldap_enrich(&mut self, place: &Place, written: &raw::Ldap) -> Result<Option<EnrichBy>, Reported> {
        let Some(enrich) = &written.enrich else { return Ok(None) };
        for (key, is_given) in
            [("realm", written.realm.is_some()), ("forward_credential", written.forward_credential.is_some())]
        {
            if is_given {
                let message = format!("`{key}` has no effect with `enrich`: no credential is taken");
                return Err(self.together(place, &place.key(key), message, "take it out"));
            }
        }
        let at = place.key("enrich");
        let path_at = at.key("path");
        let path = enrich.path.as_ref().map(|path| self.claim_path(&path_at, path)).transpose()?;
        match (enrich.by, path) {
            (raw::EnrichBy::Subject, None) => Ok(Some(EnrichBy::Subject)),
            (raw::EnrichBy::Claim, Some(path)) => Ok(Some(EnrichBy::Claim(path))),
            (raw::EnrichBy::Attribute, Some(path)) => Ok(Some(EnrichBy::Attribute(path))),
            (raw::EnrichBy::Subject, Some(_)) => {
                let message = "`path` has no effect with `by: subject`";
                Err(self.together(&at, &path_at, message, "take it out, or write `by: claim`"))
            }
            (raw::EnrichBy::Claim | raw::EnrichBy::Attribute, None) => Err(self.together(
                &at,
                &at,
                "`path` is missing",
                "say which claim or attribute names the user",
            )),
        }
    }

    fn ldap_realm(&mut self, at: &Place, written: &raw::Ldap) -> Result<String, Reported> {
        let realm = written.realm.clone().unwrap_or_else(raw::default_realm);
        let fits = |byte: u8| (byte.is_ascii_graphic() || byte == b' ') && !matches!(byte, b'"' | b'\\');
        if (1..=64).contains(&realm.len()) && realm.bytes().all(fits) {
            return Ok(realm);
        }
        let message = format!("`{}` cannot be a realm", self.shown(at));
        let help = "write 1 to 64 printable ASCII characters without `\"` and `\\`";
        Err(self.report.error_with(at, message, help))
    }

    fn ldap_timeouts(&mut self, place: &Place, written: &raw::Timeouts) -> Result<Timeouts, Reported> {
        let total = self.duration(&place.key("total"), &written.total, TIMEOUT)?;
        let connect = self.duration(&place.key("connect"), &written.connect, TIMEOUT);
        let operation = self.duration(&place.key("operation"), &written.operation, TIMEOUT);
        let timeouts = Timeouts { connect: connect?, operation: operation?, total };
        for (key, time) in [("connect", timeouts.connect), ("operation", timeouts.operation)] {
            if time > total {
                let message = format!("`{key}` is longer than `total`");
                let help = "a part cannot take longer than the whole; set both";
                return Err(self.report.error_with(place, message, help));
            }
        }
        Ok(timeouts)
    }

    fn ldap_memory(&mut self, place: &Place, written: &raw::Ldap) -> Result<Memory, Reported> {
        let ttl = self.duration(&place.key("cache"), &written.cache, CACHE);
        let negative_ttl =
            self.duration(&place.key("negative_cache"), &written.negative_cache, NEGATIVE_CACHE);
        let stale = self.duration(&place.key("stale"), &written.stale, CACHE);
        let entries = usize::try_from(written.cache_entries).unwrap_or(usize::MAX);
        Ok(Memory { ttl: ttl?, negative_ttl: negative_ttl?, stale: stale?, entries })
    }
}

fn scope(written: raw::Scope) -> Scope {
    match written {
        raw::Scope::Subtree => Scope::Subtree,
        raw::Scope::One => Scope::One,
    }
}

/// The server of a URL that names nothing more.
fn server(url: &Uri, start_tls: bool) -> Option<LdapServer> {
    let (security, port) = match url.scheme_str()? {
        "ldaps" => (Security::Tls, 636),
        "ldap" if start_tls => (Security::StartTls, 389),
        "ldap" => (Security::Plaintext, 389),
        _ => return None,
    };
    let authority = url.authority()?.as_str();
    let host = bare_host(url.host()?);
    let after_host = authority.strip_prefix(url.host()?)?;
    let port = if after_host.is_empty() { port } else { url.port_u16().filter(|port| *port > 0)? };
    let is_bare = url.query().is_none() && matches!(url.path(), "" | "/");
    (is_host(host) && is_bare).then(|| LdapServer { host: host.to_ascii_lowercase(), port, security })
}
