//! Answers kept for later decisions, as OPA's inter-query cache keeps them: pure, and bounded in bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName};
use regorus::Value;

use crate::fetch::exchange::Received;

/// Answers kept, whatever their size.
const KEPT_MAX: usize = 4_096;

/// Bytes that an answer takes beside its body, headers and request.
const OVERHEAD: usize = 512;

/// Longest time an answer is fresh.
const FRESH_MAX: Duration = Duration::from_hours(24 * 30);

/// Statuses whose answers are kept (RFC 9110 section 15.1), as OPA does.
const KEPT_STATUSES: [u16; 11] = [200, 203, 204, 206, 300, 301, 404, 405, 410, 414, 501];

/// An answer that may be given again. Times are since the Unix epoch.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) received: Received,
    until: Duration,
}

/// The kept answers of one policy, by request.
#[derive(Debug)]
pub(super) struct Shelf {
    kept: BTreeMap<Value, (Kept, usize, u64)>,
    bytes: usize,
    bytes_max: usize,
    /// Counts looks, so that what was not asked for longest goes first.
    turn: u64,
}

// === impl Kept ===

impl Kept {
    /// Kept as long as the server says; `None` where it says that it must not be kept, or not how long.
    pub(super) fn as_told(received: &Received, now: Duration) -> Option<Self> {
        let directives = Directives::of(&received.headers);
        if directives.no_store {
            return None;
        }
        let until = match directives.max_age {
            Some(age) => date(&received.headers, header::DATE)?.saturating_add(age),
            None => date(&received.headers, header::EXPIRES).unwrap_or(Duration::ZERO),
        };
        // Without a way to ask whether it still holds, a stale answer is of no use.
        let kept = Self::until(received, until.min(now.saturating_add(FRESH_MAX)))?;
        (kept.is_fresh(now) || kept.put_conditions(&mut HeaderMap::new())).then_some(kept)
    }

    /// Kept until then.
    pub(super) fn until(received: &Received, until: Duration) -> Option<Self> {
        let is_kept = KEPT_STATUSES.contains(&received.status.as_u16());
        is_kept.then(|| Self { received: received.clone(), until })
    }

    pub(super) fn is_fresh(&self, now: Duration) -> bool {
        now < self.until
    }

    /// Asks for an answer only if it is another one; `false` where this one has no name.
    pub(super) fn put_conditions(&self, headers: &mut HeaderMap) -> bool {
        let conditions =
            [(header::ETAG, header::IF_NONE_MATCH), (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE)];
        let mut is_named = false;
        for (name, condition) in conditions {
            if let Some(value) = self.received.headers.get(name) {
                headers.insert(condition, value.clone());
                is_named = true;
            }
        }
        is_named
    }

    /// This answer with what the server says anew of it.
    pub(super) fn renewed(self, unchanged: &Received) -> Received {
        let mut received = self.received;
        for name in unchanged.headers.keys() {
            received.headers.remove(name);
        }
        received.headers.extend(unchanged.headers.clone());
        received
    }

    fn size(&self, name: &Value) -> usize {
        let headers = self.received.headers.iter();
        let headers: usize = headers.map(|(name, value)| name.as_str().len() + value.len()).sum();
        OVERHEAD + headers + self.received.body.len() + weight(name)
    }
}

/// What `Cache-Control` says.
#[derive(Debug, Default)]
struct Directives {
    no_store: bool,
    max_age: Option<Duration>,
}

impl Directives {
    fn of(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
        for part in values.flat_map(|value| value.split(',')) {
            let (name, value) = part.trim().split_once('=').unwrap_or((part.trim(), ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "no-store" => directives.no_store = true,
                // Must be asked for again each time.
                "no-cache" => directives.max_age = Some(Duration::ZERO),
                "max-age" if directives.max_age.is_none() => {
                    let seconds = value.trim().trim_matches('"').parse().unwrap_or(0);
                    directives.max_age = Some(Duration::from_secs(seconds));
                }
                _ => {}
            }
        }
        directives
    }
}

fn date(headers: &HeaderMap, name: HeaderName) -> Option<Duration> {
    let date = httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()?;
    date.duration_since(std::time::UNIX_EPOCH).ok()
}

/// About how many bytes a value takes.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => 32 + text.len(),
        Value::Array(items) => 32 + items.iter().map(weight).sum::<usize>(),
        Value::Set(items) => 32 + items.iter().map(weight).sum::<usize>(),
        Value::Object(fields) => {
            32 + fields.iter().map(|(key, value)| weight(key) + weight(value)).sum::<usize>()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Undefined => 32,
    }
}

// === impl Shelf ===

impl Shelf {
    pub(super) fn new(bytes_max: u64) -> Self {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        Self { kept: BTreeMap::new(), bytes: 0, bytes_max, turn: 0 }
    }

    pub(super) fn get(&mut self, name: &Value) -> Option<&Kept> {
        self.turn += 1;
        let (kept, _, turn) = self.kept.get_mut(name)?;
        *turn = self.turn;
        Some(kept)
    }

    /// Keeps an answer, unless it alone is larger than the shelf; what is stale, or was not asked for longest, goes.
    pub(super) fn put(&mut self, name: Value, kept: Kept, now: Duration) {
        self.remove(&name);
        let size = kept.size(&name);
        if size > self.bytes_max {
            return;
        }
        while self.bytes + size > self.bytes_max || self.kept.len() >= KEPT_MAX {
            let order = |(kept, _, turn): &(Kept, usize, u64)| (kept.is_fresh(now), *turn);
            let next = self.kept.iter().min_by_key(|(_, kept)| order(kept)).map(|(name, _)| name.clone());
            let Some(next) = next else { break };
            self.remove(&next);
        }
        self.turn += 1;
        self.bytes += size;
        self.kept.insert(name, (kept, size, self.turn));
    }

    pub(super) fn remove(&mut self, name: &Value) {
        if let Some((_, size, _)) = self.kept.remove(name) {
            self.bytes -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;

    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const NOW: Duration = Duration::from_secs(784_111_777);
    const DATE: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");

    fn received(status: u16, headers: &[(&str, &str)]) -> Received {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        Received {
            status: StatusCode::from_u16(status).unwrap(),
            reason: String::new(),
            headers: headers.collect(),
            body: Bytes::from_static(b"body"),
        }
    }

    #[test]
    fn an_answer_is_kept_as_long_as_the_server_says() {
        let check = |headers: &[(&str, &str)], fresh: Option<u64>| {
            let kept = Kept::as_told(&received(200, headers), NOW);
            let until = kept.map(|kept| kept.until.saturating_sub(NOW).as_secs());
            assert_eq!(until, fresh, "{headers:?}");
        };
        check(&[DATE, ("cache-control", "max-age=60")], Some(60));
        check(&[DATE, ("cache-control", "public, Max-Age=\"60\"")], Some(60));
        check(&[DATE, ("expires", "Sun, 06 Nov 1994 08:50:37 GMT")], Some(60));
        check(&[DATE, ("cache-control", "max-age=5"), ("expires", "Sun, 06 Nov 1994 08:50:37 GMT")], Some(5));
        check(&[("cache-control", "max-age=60")], None);
        check(&[DATE, ("cache-control", "max-age=60, no-store")], None);
        check(&[DATE, ("cache-control", "max-age=60, no-cache")], None);
        check(&[DATE, ("cache-control", "no-cache"), ("etag", "\"a\"")], Some(0));
        check(&[DATE], None);
        check(&[DATE, ("expires", "0")], None);
        check(&[DATE, ("cache-control", "max-age=9999999999")], Some(FRESH_MAX.as_secs()));
        assert!(Kept::as_told(&received(500, &[DATE, ("cache-control", "max-age=60")]), NOW).is_none());
    }

    #[test]
    fn the_shelf_keeps_to_its_size_and_gives_up_what_is_stale_first() {
        let kept = |seconds| Kept::until(&received(200, &[]), NOW + Duration::from_secs(seconds)).unwrap();
        let size = kept(1).size(&Value::from("a"));
        let mut shelf = Shelf::new(u64::try_from(size * 2).unwrap());
        shelf.put(Value::from("a"), kept(9), NOW);
        shelf.put(Value::from("b"), kept(0), NOW);
        shelf.put(Value::from("c"), kept(9), NOW);
        let has =
            |shelf: &mut Shelf| ["a", "b", "c", "d"].map(|name| shelf.get(&Value::from(name)).is_some());
        assert_eq!(has(&mut shelf), [true, false, true, false]);
        shelf.get(&Value::from("a"));
        shelf.put(Value::from("d"), kept(9), NOW);
        assert_eq!(has(&mut shelf), [true, false, false, true]);
        assert!(shelf.bytes <= size * 2);
        shelf.put(Value::from("x".repeat(size * 2).as_str()), kept(9), NOW);
        assert_eq!(has(&mut shelf), [true, false, false, true]);
    }

    #[test]
    fn an_unchanged_answer_takes_the_new_headers() {
        let kept = Kept::until(&received(200, &[("etag", "\"a\""), ("x", "1"), ("y", "1")]), NOW).unwrap();
        let mut headers = HeaderMap::new();
        assert!(kept.put_conditions(&mut headers));
        assert_eq!(headers.get("if-none-match").unwrap(), "\"a\"");
        let renewed = kept.renewed(&received(304, &[("x", "2")]));
        assert_eq!(renewed.status, StatusCode::OK);
        assert_eq!(
            (renewed.headers["x"].as_bytes(), renewed.headers["y"].as_bytes()),
            (&b"2"[..], &b"1"[..])
        );
    }
}
