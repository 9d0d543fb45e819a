//! Which API and route a request is for.
//!
//! The most specific host group wins and there is no falling through to another: a path that the API of `a.example` does
//! not have is not looked for in an API that answers to any host.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use http::{HeaderValue, Method};
use smallvec::SmallVec;

use crate::config::model::Api;

/// Parameters of a matched pattern, names as configured, values decoded.
pub type Params = SmallVec<[(Arc<str>, String); 2]>;

/// A matched route.
#[derive(Debug, PartialEq, Eq)]
pub struct Match {
    /// Index of the API in the configuration.
    pub api: usize,
    /// Index of its route.
    pub route: usize,
    /// The pattern's parameters.
    pub params: Params,
}

/// Why no route matched.
#[derive(Debug, PartialEq, Eq)]
pub enum NoMatch {
    /// No API has the path, on this host.
    Path,
    /// Routes have it for other methods.
    Method {
        /// `Allow`.
        allow: HeaderValue,
    },
}

/// A set of routes that cannot be told apart.
#[derive(Debug, thiserror::Error)]
#[error("route `{route}` of API `{api}`: pattern `{pattern}` conflicts with another route on the same host")]
pub struct RouteConflict {
    /// The API.
    pub api: String,
    /// The route.
    pub route: String,
    /// Base path and path.
    pub pattern: String,
    /// What the matcher says.
    #[source]
    pub source: matchit::InsertError,
}

/// The routes of one listener.
#[derive(Debug, Clone, Default)]
pub struct Router {
    exact: BTreeMap<String, Paths>,
    /// By the part after `*`, with its dot.
    wildcard: BTreeMap<String, Paths>,
    any: Paths,
}

type Paths = matchit::Router<Vec<Candidate>>;

/// Patterns of a host by their shape, each with its routes in the order they are tried.
type Shapes = BTreeMap<String, Vec<(String, Candidate)>>;

#[derive(Debug, Clone)]
struct Candidate {
    api: usize,
    route: usize,
    /// Empty: any.
    methods: Vec<Method>,
    params: Vec<Arc<str>>,
}

// === impl Router ===

impl Router {
    /// The router of the APIs named.
    pub fn build(apis: &[Api], names: &[Arc<str>]) -> Result<Self, Vec<RouteConflict>> {
        let mut gathered: BTreeMap<&str, Shapes> = BTreeMap::new();
        for (index, api) in apis.iter().enumerate().filter(|(_, api)| names.contains(&api.name)) {
            let hosts =
                if api.hosts.is_empty() { vec![""] } else { api.hosts.iter().map(String::as_str).collect() };
            for host in hosts {
                let group = gathered.entry(host).or_default();
                for (pattern, candidate) in candidates(index, api) {
                    let (shape, params) = shape(&pattern);
                    let candidate = Candidate { params, ..candidate };
                    group.entry(shape).or_default().push((pattern, candidate));
                }
            }
        }
        let mut router = Self::default();
        let mut conflicts = Vec::new();
        for (host, group) in gathered {
            let mut paths = Paths::new();
            for (shape, entries) in group {
                let first = entries.first().map(|(pattern, candidate)| (pattern.clone(), candidate.clone()));
                let tried = entries.into_iter().map(|(_, candidate)| candidate).collect();
                if let (Err(source), Some((pattern, candidate))) = (paths.insert(shape, tried), first) {
                    conflicts.push(conflict(apis, &candidate, pattern, source));
                }
            }
            match host.strip_prefix('*') {
                _ if host.is_empty() => router.any = paths,
                Some(suffix) => drop(router.wildcard.insert(suffix.to_owned(), paths)),
                None => drop(router.exact.insert(host.to_owned(), paths)),
            }
        }
        if conflicts.is_empty() { Ok(router) } else { Err(conflicts) }
    }

    /// Finds the route for a canonical `path` on `host` (lower case, without port).
    pub fn find(&self, host: &str, path: &str, method: &Method) -> Result<Match, NoMatch> {
        let found = self.group(host).at(path).map_err(|_| NoMatch::Path)?;
        let takes =
            |candidate: &&Candidate| candidate.methods.is_empty() || candidate.methods.contains(method);
        let Some(candidate) = found.value.iter().find(takes) else {
            return Err(NoMatch::Method { allow: allow(found.value) });
        };
        let values = found.params.iter().map(|(_, value)| decode(value));
        let params = candidate.params.iter().cloned().zip(values).collect();
        Ok(Match { api: candidate.api, route: candidate.route, params })
    }

    fn group(&self, host: &str) -> &Paths {
        if let Some(paths) = self.exact.get(host) {
            return paths;
        }
        let suffix = host.find('.').and_then(|dot| host.get(dot..));
        suffix.and_then(|suffix| self.wildcard.get(suffix)).unwrap_or(&self.any)
    }

    /// The host of the configuration that leads to the APIs for `host`; empty for those that answer to any.
    pub fn group_of<'h>(&self, host: &'h str) -> std::borrow::Cow<'h, str> {
        use std::borrow::Cow;
        if self.exact.contains_key(host) {
            return Cow::Borrowed(host);
        }
        let suffix = host.find('.').and_then(|dot| host.get(dot..));
        let suffix = suffix.filter(|suffix| self.wildcard.contains_key(*suffix));
        suffix.map_or(Cow::Borrowed(""), |suffix| Cow::Owned(format!("*{suffix}")))
    }

    /// Whether an API answers to just this host.
    pub fn names_host(&self, host: &str) -> bool {
        self.exact.contains_key(host)
    }
}

/// All patterns of an API. A catch-all takes the base path itself too, as the prefix it reads like, unless a route
/// names that: routes that are written come before those that follow from others.
fn candidates(index: usize, api: &Api) -> Vec<(String, Candidate)> {
    let candidate = |route, methods: &[Method]| Candidate {
        api: index,
        route,
        methods: methods.to_vec(),
        params: Vec::new(),
    };
    let base = &api.base_path;
    let mut written = Vec::new();
    let mut implied = Vec::new();
    for (route, config) in api.routes.iter().enumerate() {
        written.push((format!("{base}{}", config.path), candidate(route, &config.methods)));
        if config.path.starts_with("/{*") {
            implied.push((format!("{base}/"), candidate(route, &config.methods)));
            if !base.is_empty() {
                implied.push((base.clone(), candidate(route, &config.methods)));
            }
        }
    }
    written.extend(implied);
    written
}

/// A pattern with its parameters named by position, so that two routes may call the same place differently.
fn shape(pattern: &str) -> (String, Vec<Arc<str>>) {
    let mut shape = String::with_capacity(pattern.len());
    let mut params = Vec::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, tail)) = after.split_once('}') else { break };
        let (star, name) = name.strip_prefix('*').map_or(("", name), |name| ("*", name));
        shape.push_str(before);
        // Writing to a `String` cannot fail.
        let _infallible = write!(shape, "{{{star}p{}}}", params.len());
        params.push(Arc::from(name));
        rest = tail;
    }
    shape.push_str(rest);
    (shape, params)
}

fn decode(value: &str) -> String {
    percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned()
}

fn allow(candidates: &[Candidate]) -> HeaderValue {
    let mut methods: Vec<&str> = candidates.iter().flat_map(|c| &c.methods).map(Method::as_str).collect();
    methods.sort_unstable();
    methods.dedup();
    // Method names are tokens, so the list is a header value.
    HeaderValue::from_str(&methods.join(", ")).unwrap_or(HeaderValue::from_static(""))
}

fn conflict(
    apis: &[Api],
    candidate: &Candidate,
    pattern: String,
    source: matchit::InsertError,
) -> RouteConflict {
    let api = apis.get(candidate.api);
    let route = api.and_then(|api| api.routes.get(candidate.route));
    RouteConflict {
        api: api.map(|api| api.name.to_string()).unwrap_or_default(),
        route: route.map(|route| route.name.to_string()).unwrap_or_default(),
        pattern,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{Anonymous, BadCredential, Lifecycle, Require, Route};

    fn route(name: &str, path: &str, methods: &[Method]) -> Route {
        Route {
            name: name.into(),
            path: path.to_owned(),
            methods: methods.to_vec(),
            body_bytes: None,
            identity: None,
            websocket: false,
        }
    }

    fn api(name: &str, hosts: &[&str], base_path: &str, routes: Vec<Route>) -> Api {
        Api {
            name: name.into(),
            version: None,
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            base_path: base_path.to_owned(),
            lifecycle: Lifecycle::Active,
            identity: Vec::new(),
            on_bad_credential: BadCredential::Reject,
            require: Require::Any,
            anonymous: Anonymous::Allow,
            policy: "main".into(),
            upstream: "up".into(),
            routes,
            identity_headers: Vec::new(),
        }
    }

    fn router() -> Router {
        let orders = vec![
            route("list", "/orders", &[Method::GET]),
            route("create", "/orders", &[Method::POST]),
            route("read", "/orders/{id}", &[Method::GET]),
            route("lines", "/orders/{order}/lines/{*rest}", &[]),
            route("special", "/orders/special", &[Method::GET]),
        ];
        let apis = [
            api("orders", &["a.example", "*.b.example"], "/v2", orders),
            api(
                "whole",
                &[],
                "/files",
                vec![route("all", "/{*path}", &[]), route("root", "/", &[Method::GET])],
            ),
            api("hidden", &[], "/hidden", vec![route("all", "/{*rest}", &[])]),
        ];
        Router::build(&apis, &["orders".into(), "whole".into()]).unwrap()
    }

    type Wanted<'a> = Option<(usize, usize, &'a [(&'a str, &'a str)])>;

    #[track_caller]
    fn check(host: &str, path: &str, method: &Method, want: Wanted<'_>) {
        let got = router().find(host, path, method).ok();
        let got = got.as_ref().map(|found| (found.api, found.route, found.params.as_slice()));
        let want = want.map(|(api, route, params)| {
            let params: Params = params.iter().map(|(k, v)| (Arc::from(*k), (*v).to_owned())).collect();
            (api, route, params)
        });
        assert_eq!(
            got,
            want.as_ref().map(|(api, route, params)| (*api, *route, params.as_slice())),
            "{host}{path}"
        );
    }

    #[test]
    fn routes_by_host_path_and_method() {
        check("a.example", "/v2/orders", &Method::GET, Some((0, 0, &[])));
        check("a.example", "/v2/orders", &Method::POST, Some((0, 1, &[])));
        check("x.b.example", "/v2/orders/a%20b", &Method::GET, Some((0, 2, &[("id", "a b")])));
        check("a.example", "/v2/orders/special", &Method::GET, Some((0, 4, &[])));
        check(
            "a.example",
            "/v2/orders/7/lines/1/2",
            &Method::PUT,
            Some((0, 3, &[("order", "7"), ("rest", "1/2")])),
        );
        check("other", "/files", &Method::GET, Some((1, 0, &[])));
        check("other", "/files/", &Method::GET, Some((1, 1, &[])));
        check("other", "/files/", &Method::PUT, Some((1, 0, &[])));
        check("other", "/files/a/b", &Method::GET, Some((1, 0, &[("path", "a/b")])));
    }

    #[test]
    fn what_is_not_routed_is_not_found() {
        check("a.example", "/v2/orders/", &Method::GET, None);
        check("a.example", "/V2/orders", &Method::GET, None);
        check("a.example", "/files/a", &Method::GET, None);
        check("y.x.b.example", "/v2/orders", &Method::GET, None);
        check("b.example", "/v2/orders", &Method::GET, None);
        check("other", "/filesystem", &Method::GET, None);
        check("other", "/hidden/a", &Method::GET, None);
    }

    #[test]
    fn another_method_is_told_which_are_allowed() {
        let refused = router().find("a.example", "/v2/orders", &Method::DELETE);
        assert_eq!(refused, Err(NoMatch::Method { allow: HeaderValue::from_static("GET, POST") }));
        let get = Method::from_bytes(b"get").unwrap();
        assert!(router().find("a.example", "/v2/orders", &get).is_err());
    }
}
