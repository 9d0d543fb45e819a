//! What a policy asks of the world outside, and what it was answered.
//!
//! An evaluation does no IO. A built-in that needs some is answered from what is [`Settled`] for the decision; where it is
//! not, the evaluation ends with the [`Question`], and who evaluates may settle it and evaluate again. Input and clock are
//! the same then, and what chance drew stays drawn, so that the policy comes the same way again. Nothing here asks anybody.

use std::collections::BTreeMap;
use std::fmt;

use regorus::Value;

/// Longest part of a question that a message shows.
const SHOWN_MAX: usize = 120;

/// A built-in whose answer lies outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outside {
    /// `http.send(request)`.
    HttpSend,
    /// `net.lookup_ip_addr(name)`.
    LookupIpAddr,
}

/// The built-ins of [`Outside`] that a policy may call; the others are refused when it is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Permitted {
    /// `http.send`.
    pub http_send: bool,
    /// `net.lookup_ip_addr`.
    pub lookup_ip_addr: bool,
}

/// A call that only the world outside can answer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// What was called.
    pub builtin: Outside,
    /// Its argument. May hold secrets.
    pub argument: Value,
}

/// What came of a question.
#[derive(Clone, PartialEq, Eq)]
pub enum Reply {
    /// The value of the call.
    Value(Value),
    /// The built-in's own error: undefined, unless errors are strict.
    Error(String),
    /// It must not be asked: the evaluation fails, whatever the policy would do without an answer.
    Refused(String),
}

/// What holds for the whole of one decision, however often it is evaluated.
#[derive(Clone, Default)]
pub struct Settled {
    replies: BTreeMap<Question, Reply>,
    /// What was drawn by chance, by built-in and arguments.
    pub(super) drawn: BTreeMap<(&'static str, Vec<Value>), Value>,
}

// === impl Outside ===

impl Outside {
    /// The name in policies.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HttpSend => "http.send",
            Self::LookupIpAddr => "net.lookup_ip_addr",
        }
    }

    /// What the configuration calls it.
    pub(crate) const fn setting(self) -> &'static str {
        match self {
            Self::HttpSend => "http_send",
            Self::LookupIpAddr => "lookup",
        }
    }

    /// The one of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::HttpSend, Self::LookupIpAddr].into_iter().find(|outside| outside.name() == name)
    }
}

// === impl Permitted ===

impl Permitted {
    /// All of them, for who develops a policy: what is not mocked ends the evaluation.
    pub const ALL: Self = Self { http_send: true, lookup_ip_addr: true };

    pub(crate) const fn allows(self, outside: Outside) -> bool {
        match outside {
            Outside::HttpSend => self.http_send,
            Outside::LookupIpAddr => self.lookup_ip_addr,
        }
    }
}

// === impl Question ===

impl Question {
    /// Whom it is for, as a message may show it: never headers, bodies, queries or user information.
    fn addressee(&self) -> Option<String> {
        let url = Value::from("url");
        let named =
            if let Value::Object(request) = &self.argument { request.get(&url)? } else { &self.argument };
        let text = named.as_string().ok()?;
        let shown = text.split(['?', '#']).next().unwrap_or_default();
        let shown = match shown.split_once("://") {
            Some((scheme, rest)) => {
                let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                let host = authority.rsplit('@').next().unwrap_or_default();
                format!("{scheme}://{host}{path}")
            }
            None => shown.to_owned(),
        };
        Some(shown.chars().filter(|shown| !shown.is_control()).take(SHOWN_MAX).collect())
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addressee() {
            Some(addressee) => write!(f, "`{}` to `{addressee}`", self.builtin.name()),
            None => write!(f, "`{}`", self.builtin.name()),
        }
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl Reply ===

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // It may hold whatever the other side keeps secret.
            Self::Value(_) => f.write_str("Value"),
            Self::Error(error) => f.debug_tuple("Error").field(error).finish(),
            Self::Refused(reason) => f.debug_tuple("Refused").field(reason).finish(),
        }
    }
}

// === impl Settled ===

impl Settled {
    /// Answers a question for the rest of the decision.
    pub fn answer(&mut self, question: Question, reply: Reply) {
        self.replies.insert(question, reply);
    }

    pub(super) fn reply(&self, question: &Question) -> Option<&Reply> {
        self.replies.get(question)
    }
}

impl fmt::Debug for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settled").field("replies", &self.replies).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_show_whom_a_question_is_for_and_nothing_secret() {
        let check = |argument: Value, builtin, want: &str| {
            let question = Question { builtin, argument };
            assert_eq!(question.to_string(), want);
            assert_eq!(format!("{question:?}"), want);
        };
        let send = |url: &str| Value::from(BTreeMap::from([(Value::from("url"), Value::from(url))]));
        let shown = "`http.send` to `https://a.test:8443/x`";
        check(send("https://user:pw@a.test:8443/x?token=s#f"), Outside::HttpSend, shown);
        check(send("nonsense"), Outside::HttpSend, "`http.send` to `nonsense`");
        check(Value::new_object(), Outside::HttpSend, "`http.send`");
        check(Value::from("a.test"), Outside::LookupIpAddr, "`net.lookup_ip_addr` to `a.test`");
    }
}
