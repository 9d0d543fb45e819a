//! Checks across parts: two that want the same thing, and what nothing uses.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use http::Method;

use super::Check;
use super::route::shape;
use crate::config::model::{Admin, Api, ClientAuth, Config, DecisionLog, Listener, Name, Provider, Require};
use crate::config::place::Place;
use crate::config::report::{At, Reported};

impl Check<'_> {
    /// Faults that lie between two parts, each good by itself.
    pub(super) fn distinct(
        &mut self,
        listeners: Result<&[Result<Listener, Reported>], &Reported>,
        apis: Result<&[Result<Api, Reported>], &Reported>,
        logs: Result<&[Result<DecisionLog, Reported>], &Reported>,
        admin: Option<&Option<Admin>>,
    ) {
        let listeners = good(listeners.unwrap_or_default());
        self.distinct_listeners(&listeners);
        if let Some(Some(admin)) = admin {
            self.distinct_admin(&listeners, admin);
        }
        self.distinct_apis(&good(apis.unwrap_or_default()), &listeners);
        self.distinct_logs(&good(logs.unwrap_or_default()));
    }

    /// What is allowed, but hardly meant.
    pub(super) fn warnings(&mut self, config: &Config) {
        if config.decision_logs.is_empty() {
            let help = "say `[{type: stdout}]` unless you really want none";
            self.report.warning(
                &Place::root().key("decision_logs"),
                "decisions are not logged anywhere",
                help,
            );
        }
        self.unused(config);
        self.oidc_without_tls(config);
        self.unreachable(config);
        self.proven_by_nobody(config);
        self.trusted_by_all(config);
    }

    fn distinct_listeners(&mut self, listeners: &[(usize, &Listener)]) {
        let root = Place::root().key("listeners");
        for (position, (index, listener)) in listeners.iter().enumerate() {
            let place = root.index(*index);
            for (other, earlier) in listeners.iter().take(position) {
                if earlier.name == listener.name {
                    let at = place.key("name");
                    let message = format!("there is another listener `{}`", self.shown(&at));
                    self.report.error_with(&at, message, "give each listener its own name");
                }
                if overlap(earlier.address, listener.address) {
                    let at = place.key("address");
                    let line = self.root.position(&root.index(*other).key("address")).line;
                    let message = format!("`{}` is taken by the listener in line {line}", self.shown(&at));
                    self.report.error_with(&at, message, "give each listener its own port");
                }
            }
        }
    }

    fn distinct_admin(&mut self, listeners: &[(usize, &Listener)], admin: &Admin) {
        let root = Place::root();
        for (index, _) in listeners.iter().filter(|(_, listener)| overlap(admin.address, listener.address)) {
            let at = root.key("admin").key("address");
            let line = self.root.position(&root.key("listeners").index(*index).key("address")).line;
            let message = format!("`{}` is taken by the listener in line {line}", self.shown(&at));
            self.report.error_with(&at, message, "give the admin endpoint its own port");
        }
    }

    fn distinct_apis(&mut self, apis: &[(usize, &Api)], listeners: &[(usize, &Listener)]) {
        let root = Place::root().key("apis");
        // An API with a mistyped key may not be for the hosts and paths that it seems to be for.
        let apis: Vec<_> =
            apis.iter().filter(|(index, _)| self.report.settled_in(&root.index(*index)).is_none()).collect();
        for (position, (index, api)) in apis.iter().enumerate() {
            let place = root.index(*index);
            for (other, earlier) in apis.iter().take(position) {
                let line = self.root.position(&root.index(*other)).line;
                if earlier.name == api.name && earlier.version == api.version {
                    let at = place.key("name");
                    let message =
                        format!("the API `{}` in line {line} has the same version", self.shown(&at));
                    self.report.error_with(&at, message, "give each version of an API its own `version`");
                } else if share_host(earlier, api) && meet(listeners, earlier, api) {
                    self.distinct_from((&root.index(*other), earlier), (&place, api));
                }
            }
        }
    }

    /// No route of an API may take the requests of one in an earlier API on the same hosts.
    fn distinct_from(&mut self, (other_place, other): (&Place, &Api), (place, api): (&Place, &Api)) {
        for (index, route) in api.routes.iter().enumerate() {
            let path = shape(&format!("{}{}", api.base_path, route.path));
            let same = other.routes.iter().position(|earlier| {
                shape(&format!("{}{}", other.base_path, earlier.path)) == path
                    && methods_meet(&earlier.methods, &route.methods)
            });
            if let Some(same) = same {
                let line = self.root.position(&other_place.key("routes").index(same)).line;
                let at = place.key("routes").index(index).key("path");
                let message = format!("this takes the same requests as the API in line {line}");
                let help = "give them different `hosts`, `base_path` or routes, or serve them on different listeners";
                self.report.error_with(&at, message, help);
            }
        }
    }

    fn distinct_logs(&mut self, logs: &[(usize, &DecisionLog)]) {
        for (position, (index, log)) in logs.iter().enumerate() {
            if logs.iter().take(position).any(|(_, earlier)| earlier == log) {
                let message = match log {
                    DecisionLog::Stdout => "decisions are written to standard output twice",
                    DecisionLog::File { .. } => "decisions are written to this file twice",
                };
                let place = Place::root().key("decision_logs").index(*index);
                self.report.error_with(&place, message, "keep one of them");
            }
        }
    }

    /// What nothing refers to is a warning: it may be there for a policy that chooses it, or for later.
    fn unused(&mut self, config: &Config) {
        let routes = || config.apis.iter().flat_map(|api| &api.routes);
        let providers: BTreeSet<&Name> = config
            .apis
            .iter()
            .flat_map(|api| &api.identity)
            .chain(routes().filter_map(|route| route.identity.as_ref()).flatten())
            .collect();
        let policies: BTreeSet<&Name> = config.apis.iter().map(|api| &api.policy).collect();
        let upstreams: BTreeSet<&Name> = config.apis.iter().map(|api| &api.upstream).collect();
        let mut warn = |section: &str, kind: &str, name: &Name, help: &str| {
            let at = At::Key(Place::root().key(section).key(name));
            self.report.warning(at, format!("no API uses the {kind} `{name}`"), help);
        };
        for name in config.identity.keys().filter(|name| !providers.contains(name)) {
            warn("identity", "identity provider", name, "add it to the `identity` of an API, or take it out");
        }
        for name in config.upstreams.keys().filter(|name| !upstreams.contains(name)) {
            warn("upstreams", "upstream", name, "take it out, unless a policy chooses it");
        }
        for name in config.policies.keys().filter(|name| !policies.contains(name)) {
            warn("policies", "policy", name, "name it as the `policy` of an API, or take it out");
        }
    }

    fn unreachable(&mut self, config: &Config) {
        let apis = Place::root().key("apis");
        for (index, api) in config.apis.iter().enumerate() {
            let place = apis.index(index);
            let listeners: Vec<&Listener> =
                config.listeners.iter().filter(|listener| listener.apis.contains(&api.name)).collect();
            if listeners.is_empty() {
                let message = format!("no listener serves the API `{}`", self.shown(&place.key("name")));
                self.report.warning(&place, message, "add it to the `apis` of a listener");
            }
            let asks = |listener: &&Listener| {
                listener.forwarded_certificates.is_some()
                    || listener.tls.as_ref().is_some_and(|tls| match tls.client_auth {
                        ClientAuth::None => false,
                        ClientAuth::Optional { .. } | ClientAuth::Required { .. } => true,
                    })
            };
            let by_certificate = api
                .identity
                .iter()
                .any(|name| matches!(config.identity.get(name), Some(Provider::ClientCertificate(_))));
            if by_certificate && !listeners.iter().any(asks) {
                let message = "no listener of this API asks for client certificates, though it accepts them";
                self.report.warning(&place.key("identity"), message, "set `tls.client_auth` on a listener");
            }
        }
    }

    /// A directory that only adds to identities needs one that proves them.
    fn proven_by_nobody(&mut self, config: &Config) {
        let enriches = |name: &Name| matches!(config.identity.get(name), Some(Provider::Ldap(ldap)) if ldap.enrich.is_some());
        let mut lists = Vec::new();
        for (index, api) in config.apis.iter().enumerate() {
            let place = Place::root().key("apis").index(index);
            lists.push((place.key("identity"), &api.identity, api.require));
            for (index, route) in api.routes.iter().enumerate() {
                let place = place.key("routes").index(index).key("identity");
                lists.extend(route.identity.as_ref().map(|names| (place, names, api.require)));
            }
        }
        let takes_passwords = |name: &&Name| matches!(config.identity.get(*name), Some(Provider::Ldap(ldap)) if ldap.enrich.is_none());
        for (place, names, require) in lists {
            let mut directories = names.iter().filter(takes_passwords);
            if let (Some(first), Some(second), Require::Any) =
                (directories.next(), directories.next(), require)
            {
                let message = format!("`{second}` is never asked: `{first}` takes the same credential");
                let help = "a login that the first directory refuses is refused; list one of them";
                self.report.warning(&place, message, help);
            }
            if !names.is_empty() && names.iter().all(enriches) {
                let message =
                    "nobody is proven here: a provider with `enrich` adds to the identities of others";
                self.report.error_with(&place, message, "list one that takes a credential, too");
            }
        }
    }

    fn trusted_by_all(&mut self, config: &Config) {
        let listeners = Place::root().key("listeners");
        let anyone = [[1, 1, 1, 1], [203, 0, 113, 1]].map(std::net::IpAddr::from);
        for (index, listener) in config.listeners.iter().enumerate() {
            if anyone.iter().all(|address| listener.trusted_proxies.contains(*address)) {
                let place = listeners.index(index).key("trusted_proxies");
                let help = "list only your own proxies: others can forge `X-Forwarded-For`";
                self.report.warning(&place, "the whole Internet is trusted to name its own address", help);
            }
        }
    }
}

/// Whether two sockets cannot be open at once. Port 0 is a free one each time.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let covers =
        |one: SocketAddr, other: SocketAddr| one.ip().is_unspecified() && (one.is_ipv6() || other.is_ipv4());
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || covers(a, b) || covers(b, a))
}

/// Whether a host leads to both. One that is named never leads to an API that answers to any.
fn share_host(a: &Api, b: &Api) -> bool {
    match (a.hosts.as_slice(), b.hosts.as_slice()) {
        ([], []) => true,
        ([], _) | (_, []) => false,
        (a, b) => a.iter().any(|host| b.contains(host)),
    }
}

/// Whether two sets of methods, an empty one being all, have one in common.
fn methods_meet(a: &[Method], b: &[Method]) -> bool {
    a.is_empty() || b.is_empty() || a.iter().any(|method| b.contains(method))
}

/// The good ones among the items of a list, each with its place in it.
fn good<T>(items: &[Result<T, Reported>]) -> Vec<(usize, &T)> {
    items.iter().enumerate().filter_map(|(index, item)| Some((index, item.as_ref().ok()?))).collect()
}

/// Whether a listener serves both.
fn meet(listeners: &[(usize, &Listener)], a: &Api, b: &Api) -> bool {
    listeners.iter().any(|(_, listener)| listener.apis.contains(&a.name) && listener.apis.contains(&b.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_cannot_both_be_open() {
        let check = |a: &str, b: &str, want: bool| {
            let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(overlap(a, b), want, "{a} {b}");
            assert_eq!(overlap(b, a), want, "{b} {a}");
        };
        check("127.0.0.1:80", "127.0.0.1:80", true);
        check("0.0.0.0:80", "127.0.0.1:80", true);
        check("[::]:80", "10.0.0.1:80", true);
        check("[::]:80", "0.0.0.0:80", true);
        check("0.0.0.0:80", "[::1]:80", false);
        check("127.0.0.1:80", "127.0.0.2:80", false);
        check("127.0.0.1:80", "127.0.0.1:81", false);
        check("127.0.0.1:0", "127.0.0.1:0", false);
    }
}
