//! The gateway's own cookies: their names, how they are taken out of a request, and how they are set.
//!
//! On `https` the names begin with `__Host-`, which browsers take only from the host itself, for all paths, and over TLS
//! (RFC 6265bis section 4.1.3.2); without TLS, which is for loopback alone, they cannot. What is too large for one cookie is cut
//! into several. No cookie of these names ever stays in a request.

use http::{HeaderMap, HeaderValue, header};

/// With TLS.
const SECURE: &str = "__Host-postern.";

/// Without.
const PLAIN: &str = "postern.";

/// Bytes of one cookie's value; browsers take 4096 for name, value and attributes together.
const CHUNK_BYTES: usize = 3_700;

/// Cookies of one session at the most: a listener's heads must have room for them.
pub(super) const CHUNKS_MAX: usize = 4;

/// The largest value that fits.
pub(super) const VALUE_BYTES_MAX: usize = CHUNK_BYTES * CHUNKS_MAX;

/// A cookie as the browser sent it.
pub(super) type Pair = (String, String);

/// Takes the gateway's own cookies out of a request's headers.
pub(super) fn take(headers: &mut HeaderMap) -> Vec<Pair> {
    let is_marked = |value: &HeaderValue| memchr::memmem::find(value.as_bytes(), PLAIN.as_bytes()).is_some();
    if !headers.get_all(header::COOKIE).iter().any(is_marked) {
        return Vec::new();
    }
    let lines: Vec<HeaderValue> = headers.get_all(header::COOKIE).iter().cloned().collect();
    headers.remove(header::COOKIE);
    let mut taken = Vec::new();
    for line in lines {
        let Ok(text) = std::str::from_utf8(line.as_bytes()) else { continue };
        let mut kept = Vec::new();
        for pair in text.split(';') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = name.trim();
            if name.starts_with(SECURE) || name.starts_with(PLAIN) {
                taken.push((name.to_owned(), value.trim().to_owned()));
            } else if !pair.trim().is_empty() {
                kept.push(pair.trim());
            }
        }
        if let Ok(kept) = HeaderValue::try_from(kept.join("; "))
            && !kept.is_empty()
        {
            headers.append(header::COOKIE, kept);
        }
    }
    taken
}

/// The names of a provider's cookies over one scheme.
#[derive(Debug, Clone)]
pub(super) struct Jar {
    prefix: String,
    login: String,
    attributes: &'static str,
}

/// More than one cookie of one name: nobody can tell which is the gateway's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Repeated;

// === impl Jar ===

impl Jar {
    /// The cookies of `provider`, with TLS or without.
    pub(super) fn new(provider: &str, is_secure: bool) -> Self {
        let (prefix, attributes) = if is_secure {
            (SECURE, "; Path=/; Secure; HttpOnly; SameSite=Lax")
        } else {
            (PLAIN, "; Path=/; HttpOnly; SameSite=Lax")
        };
        // Names of providers have no dot, so no name can be read in two ways.
        Self {
            prefix: format!("{prefix}session.{provider}."),
            login: format!("{prefix}login.{provider}."),
            attributes,
        }
    }

    /// The session's value, put together again.
    pub(super) fn session(&self, cookies: &[Pair]) -> Result<Option<String>, Repeated> {
        let mut value = String::new();
        for index in 0..CHUNKS_MAX {
            match only(cookies, &format!("{}{index}", self.prefix))? {
                None => break,
                Some(chunk) => value.push_str(chunk),
            }
        }
        Ok((!value.is_empty()).then_some(value))
    }

    /// Sets the session to `value`, of at most [`VALUE_BYTES_MAX`] bytes, for `seconds`, and takes away what an earlier one had
    /// beside.
    pub(super) fn set_session(&self, value: &str, seconds: u64, held: &[Pair]) -> Vec<HeaderValue> {
        let mut set = Vec::new();
        let mut rest = value;
        for index in 0..CHUNKS_MAX {
            let name = format!("{}{index}", self.prefix);
            let (chunk, tail) = rest.split_at_checked(rest.len().min(CHUNK_BYTES)).unwrap_or((rest, ""));
            rest = tail;
            if !chunk.is_empty() {
                set.extend(self.set(&name, chunk, seconds));
            } else if held.iter().any(|(held, _)| *held == name) {
                set.extend(self.set(&name, "", 0));
            }
        }
        set
    }

    /// Takes away whatever the browser holds of a session.
    pub(super) fn clear_session(&self, held: &[Pair]) -> Vec<HeaderValue> {
        self.clear(&self.prefix, held)
    }

    /// The login that `id` began.
    pub(super) fn login<'c>(&self, id: &str, cookies: &'c [Pair]) -> Result<Option<&'c str>, Repeated> {
        only(cookies, &format!("{}{id}", self.login))
    }

    /// How many logins the browser has begun and not ended.
    pub(super) fn logins(&self, cookies: &[Pair]) -> usize {
        cookies.iter().filter(|(name, _)| name.starts_with(&self.login)).count()
    }

    /// Sets the login that `id` begins.
    pub(super) fn set_login(&self, id: &str, value: &str, seconds: u64) -> Option<HeaderValue> {
        self.set(&format!("{}{id}", self.login), value, seconds)
    }

    /// Takes away one login.
    pub(super) fn clear_login(&self, id: &str) -> Option<HeaderValue> {
        self.set(&format!("{}{id}", self.login), "", 0)
    }

    /// Takes away all logins.
    pub(super) fn clear_logins(&self, held: &[Pair]) -> Vec<HeaderValue> {
        self.clear(&self.login, held)
    }

    fn clear(&self, prefix: &str, held: &[Pair]) -> Vec<HeaderValue> {
        let mut names: Vec<&String> =
            held.iter().map(|(name, _)| name).filter(|name| name.starts_with(prefix)).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().filter_map(|name| self.set(name, "", 0)).collect()
    }

    /// `None` only for a name that no header can hold, as a stranger may have sent one.
    fn set(&self, name: &str, value: &str, seconds: u64) -> Option<HeaderValue> {
        let text = format!("{name}={value}; Max-Age={seconds}{}", self.attributes);
        let mut value = HeaderValue::try_from(text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

fn only<'c>(cookies: &'c [Pair], name: &str) -> Result<Option<&'c str>, Repeated> {
    let mut found = cookies.iter().filter(|(held, _)| held == name).map(|(_, value)| value.as_str());
    match (found.next(), found.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(Repeated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (header::COOKIE, HeaderValue::try_from(*line).unwrap())).collect()
    }

    #[track_caller]
    fn check_taken(lines: &[&str], kept: &[&str], taken: &[(&str, &str)]) {
        let mut headers = headers(lines);
        let found = take(&mut headers);
        let left: Vec<_> =
            headers.get_all(header::COOKIE).iter().map(|value| value.to_str().unwrap().to_owned()).collect();
        assert_eq!(left, kept);
        let found: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, taken);
    }

    #[test]
    fn own_cookies_never_stay_in_a_request() {
        check_taken(&["a=1; b=2"], &["a=1; b=2"], &[]);
        check_taken(
            &["a=1; __Host-postern.session.x.0=s; b=2"],
            &["a=1; b=2"],
            &[("__Host-postern.session.x.0", "s")],
        );
        check_taken(&["postern.session.x.0=s"], &[], &[("postern.session.x.0", "s")]);
        check_taken(
            &["a=1;postern.login.x.y=s==", "postern.session.x.0"],
            &["a=1"],
            &[("postern.login.x.y", "s=="), ("postern.session.x.0", "")],
        );
        // The value of another's cookie may hold our words.
        check_taken(&["a=postern.session.x.0"], &["a=postern.session.x.0"], &[]);
    }

    fn held(set: &[HeaderValue]) -> Vec<Pair> {
        let mut pairs = Vec::new();
        for value in set {
            let text = value.to_str().unwrap();
            let (name, rest) = text.split_once('=').unwrap();
            let (value, attributes) = rest.split_once(';').unwrap();
            if !attributes.contains("Max-Age=0") {
                pairs.push((name.to_owned(), value.to_owned()));
            }
        }
        pairs
    }

    #[test]
    fn a_session_is_cut_and_put_together() {
        let jar = Jar::new("browser", true);
        for length in [1, CHUNK_BYTES, CHUNK_BYTES + 1, VALUE_BYTES_MAX] {
            let value = "v".repeat(length);
            let set = jar.set_session(&value, 60, &[]);
            assert!(set.iter().all(|set| set.len() <= 4096 && set.is_sensitive()));
            assert_eq!(jar.session(&held(&set)), Ok(Some(value)));
        }
        assert_eq!(jar.session(&[]), Ok(None));
    }

    #[test]
    fn a_smaller_session_takes_the_larger_ones_rest_away() {
        let jar = Jar::new("browser", true);
        let large = held(&jar.set_session(&"v".repeat(CHUNK_BYTES * 2), 60, &[]));
        let set = jar.set_session("v", 60, &large);
        assert_eq!(set.len(), 2);
        assert!(set[1].to_str().unwrap().starts_with("__Host-postern.session.browser.1=; Max-Age=0"));
        assert_eq!(jar.clear_session(&large).len(), 2);
    }

    #[test]
    fn attributes() {
        let set = Jar::new("b", true).set_session("v", 60, &[]);
        assert_eq!(
            set[0],
            "__Host-postern.session.b.0=v; Max-Age=60; Path=/; Secure; HttpOnly; SameSite=Lax"
        );
        let set = Jar::new("b", false).set_session("v", 60, &[]);
        assert_eq!(set[0], "postern.session.b.0=v; Max-Age=60; Path=/; HttpOnly; SameSite=Lax");
    }

    #[test]
    fn of_two_cookies_with_one_name_neither_counts() {
        let jar = Jar::new("b", false);
        let twice = vec![
            ("postern.session.b.0".to_owned(), "x".to_owned()),
            ("postern.session.b.0".to_owned(), "y".to_owned()),
        ];
        assert_eq!(jar.session(&twice), Err(Repeated));
    }

    #[test]
    fn another_scheme_has_other_cookies() {
        let plain = vec![("postern.session.b.0".to_owned(), "x".to_owned())];
        assert_eq!(Jar::new("b", true).session(&plain), Ok(None));
        assert_eq!(Jar::new("other", false).session(&plain), Ok(None));
    }
}
