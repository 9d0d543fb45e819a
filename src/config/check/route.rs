//! Checks of routes: each request of an API must have one reading.

use std::collections::HashMap;

use http::Method;

use super::listener::BODY_BYTES;
use super::policy::is_identifier;
use super::{Check, Known, all};
use crate::base::path::{CanonicalPath, PathRules};
use crate::config::model::Route;
use crate::config::place::Place;
use crate::config::raw::api as raw;
use crate::config::report::Reported;

/// A route seen before.
struct Earlier<'w> {
    path: Place,
    methods: Option<&'w [String]>,
}

impl Check<'_> {
    pub(super) fn routes(
        &mut self,
        place: &Place,
        written: &[raw::Route],
        known: &Known,
    ) -> Result<Vec<Route>, Reported> {
        let routes = all(written.iter().enumerate().map(|(index, route)| {
            let place = place.index(index);
            if written.iter().take(index).any(|earlier| earlier.name == route.name) {
                let at = place.key("name");
                let message = format!("there is another route `{}` in this API", self.shown(&at));
                self.report.error_with(&at, message, "give each route its own name");
            }
            self.route(&place, route, known)
        }));
        self.distinct_routes(place, written);
        routes
    }

    fn route(&mut self, place: &Place, written: &raw::Route, known: &Known) -> Result<Route, Reported> {
        let name = self.name(&place.key("name"), &written.name);
        let path = self.pattern(&place.key("path"), &written.path);
        let methods = self.methods(&place.key("methods"), written.methods.as_deref().unwrap_or_default());
        let body_bytes = written
            .body_bytes
            .as_ref()
            .map(|size| self.size(&place.key("body_bytes"), size, BODY_BYTES))
            .transpose();
        let identity = written
            .identity
            .as_ref()
            .map(|names| {
                self.references(&place.key("identity"), names, "identity provider", &known.providers)
            })
            .transpose();
        Ok(Route {
            name: name?,
            path: path?,
            methods: methods?,
            body_bytes: body_bytes?,
            identity: identity?,
            websocket: written.websocket,
        })
    }

    fn pattern(&mut self, place: &Place, text: &str) -> Result<String, Reported> {
        match check_pattern(text) {
            Ok(()) => Ok(text.to_owned()),
            Err(error) => {
                let message = format!("`{}` is not the path of a route", self.shown(place));
                Err(self.report.error_with(place, message, error.to_string()))
            }
        }
    }

    fn methods(&mut self, place: &Place, written: &[String]) -> Result<Vec<Method>, Reported> {
        all(written.iter().enumerate().map(|(index, text)| {
            let place = place.index(index);
            let shown = self.shown(&place);
            let upper = text.to_ascii_uppercase();
            let help = if upper == "CONNECT" {
                "tunnels are not passed on".to_owned()
            } else if upper != *text {
                self.unless_secret(&place, format!("write `{upper}`"))
            } else if written.iter().take(index).any(|earlier| earlier == text) {
                "it is listed twice; keep one of them".to_owned()
            } else if let Ok(method) = Method::from_bytes(text.as_bytes()) {
                return Ok(method);
            } else {
                "write `GET`, `POST` or another method".to_owned()
            };
            Err(self.report.error_with(&place, format!("the method `{shown}` cannot be used"), help))
        }))
    }

    /// Two routes of an API must not take the same request.
    fn distinct_routes(&mut self, list: &Place, written: &[raw::Route]) {
        let mut earlier: HashMap<String, Vec<Earlier<'_>>> = HashMap::new();
        for (index, route) in written.iter().enumerate() {
            let place = list.index(index);
            if self.report.settled_in(&place).is_some() {
                continue;
            }
            let path = place.key("path");
            let methods = route.methods.as_deref();
            let same = earlier.entry(shape(&route.path)).or_default();
            if let Some(other) = same.iter().find(|other| overlap(other.methods, methods)) {
                let line = self.root.position(&other.path).line;
                let message =
                    format!("`{}` takes the same requests as the route in line {line}", self.shown(&path));
                self.report.error_with(&path, message, "give them different methods or paths");
            }
            same.push(Earlier { path, methods });
        }
    }
}

/// What tells one path from another: the names of parameters do not.
pub(super) fn shape(path: &str) -> String {
    let plain = |segment: &str| match (segment.starts_with("{*"), segment.starts_with('{')) {
        (true, _) => "{*}".to_owned(),
        (false, true) => "{}".to_owned(),
        (false, false) => segment.to_owned(),
    };
    path.split('/').map(plain).collect::<Vec<_>>().join("/")
}

/// Whether two sets of methods, `None` being all, have one in common.
fn overlap(a: Option<&[String]>, b: Option<&[String]>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.iter().any(|method| b.contains(method)),
        (Some(_) | None, None) | (None, Some(_)) => true,
    }
}

/// Why a path is no route's path.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum PatternError {
    #[error("begin with `/`")]
    NotAbsolute,
    #[error("a parameter is a whole segment: `/orders/{{id}}`, and `/files/{{*rest}}` at the end")]
    Parameter,
    #[error("a parameter's name has letters, digits and `_`, and does not begin with a digit")]
    ParameterName,
    #[error("give each parameter its own name")]
    SameName,
    #[error("`{{*name}}` takes the rest of the path, so it must be the last segment")]
    RestNotLast,
    #[error("write it in its canonical form: no `//`, `.`, `..`, and `%` only where it is needed")]
    NotCanonical,
}

/// Checks the path of a route: segments that are literal and canonical, `{name}`, and `{*name}` at the end.
fn check_pattern(text: &str) -> Result<(), PatternError> {
    let segments = text.strip_prefix('/').ok_or(PatternError::NotAbsolute)?;
    let mut names = Vec::new();
    let mut literal = String::new();
    let mut segments = segments.split('/').peekable();
    while let Some(segment) = segments.next() {
        literal.push('/');
        let parameter = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let Some(parameter) = parameter else {
            if segment.contains(['{', '}']) {
                return Err(PatternError::Parameter);
            }
            literal += segment;
            continue;
        };
        literal.push('x');
        let name = match parameter.strip_prefix('*') {
            Some(_) if segments.peek().is_some() => return Err(PatternError::RestNotLast),
            Some(name) => name,
            None => parameter,
        };
        if !is_identifier(name) {
            return Err(PatternError::ParameterName);
        }
        if names.contains(&name) {
            return Err(PatternError::SameName);
        }
        names.push(name);
    }
    match CanonicalPath::parse(&literal, PathRules::default()) {
        Ok(canonical) if canonical.as_str() == literal => Ok(()),
        Ok(_) | Err(_) => Err(PatternError::NotCanonical),
    }
}

#[cfg(test)]
mod tests {
    use matchit::Router;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns() {
        for good in ["/", "/orders", "/orders/", "/orders/{id}", "/{a}/{b}/c", "/files/{*rest}", "/caf%C3%A9"]
        {
            assert_eq!(check_pattern(good), Ok(()), "{good}");
        }
        for (bad, want) in [
            ("", PatternError::NotAbsolute),
            ("orders", PatternError::NotAbsolute),
            ("/{id}.json", PatternError::Parameter),
            ("/{", PatternError::Parameter),
            ("/{{id}}", PatternError::ParameterName),
            ("/{}", PatternError::ParameterName),
            ("/{1}", PatternError::ParameterName),
            ("/{*}", PatternError::ParameterName),
            ("/{a}/{a}", PatternError::SameName),
            ("/{*rest}/a", PatternError::RestNotLast),
            ("//", PatternError::NotCanonical),
            ("/a/../b", PatternError::NotCanonical),
            ("/%61", PatternError::NotCanonical),
            ("/a;b", PatternError::NotCanonical),
            ("/a b", PatternError::NotCanonical),
        ] {
            assert_eq!(check_pattern(bad), Err(want), "{bad}");
        }
    }

    #[test]
    fn names_of_parameters_do_not_tell_paths_apart() {
        assert_eq!(shape("/v2/orders/{id}/{*rest}"), shape("/v2/orders/{key}/{*more}"));
        assert_ne!(shape("/{id}"), shape("/{*id}"));
        assert_ne!(shape("/{id}"), shape("/id"));
    }

    proptest! {
        #[test]
        fn what_is_taken_can_be_routed(text in "/[a-z{}*/%0-9.]{0,20}") {
            if check_pattern(&text).is_ok() {
                prop_assert_eq!(Router::new().insert(text.as_str(), ()), Ok(()));
            }
        }
    }
}
