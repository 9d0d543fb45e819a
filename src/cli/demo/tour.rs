//! The requests of the demo, and how they are shown.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::cli::demo::workspace::Workspace;
use crate::cli::output::Paint;

/// One request to try.
#[derive(Debug)]
pub(super) struct Step {
    /// What it shows.
    pub(super) title: &'static str,
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    /// The file in the workspace with the header line that carries the credential.
    pub(super) credential: Option<&'static str>,
    /// Another header.
    pub(super) header: Option<(&'static str, &'static str)>,
    /// The statuses of the answers; more than one where it is sent several times.
    pub(super) statuses: &'static [u16],
    /// A part of the last answer's body.
    pub(super) body: &'static str,
    /// A header of the last answer.
    pub(super) answer_header: Option<&'static str>,
}

const GET: Step = Step {
    title: "",
    method: "GET",
    path: "/v2/orders/42",
    credential: None,
    header: None,
    statuses: &[200],
    body: "",
    answer_header: None,
};

/// All of them, in an order that tells a story.
pub(super) const STEPS: [Step; 12] = [
    Step {
        title: "anyone may ask for the status",
        path: "/v2/status",
        body: "\"target\": \"/v2/status\"",
        ..GET
    },
    Step {
        title: "an order needs a credential",
        statuses: &[401],
        body: "unauthenticated",
        answer_header: Some("www-authenticate"),
        ..GET
    },
    Step {
        title: "acme, a partner, reads one with its API key",
        credential: Some("acme"),
        body: "\"x-user\": \"acme\"",
        ..GET
    },
    Step {
        title: "and cannot pretend to be root: the upstream still sees `x-user: acme`",
        credential: Some("acme"),
        header: Some(("X-User", "root")),
        body: "\"x-user\": \"acme\"",
        ..GET
    },
    Step {
        title: "a partner cancels nothing: role_not_permitted",
        method: "DELETE",
        credential: Some("acme"),
        statuses: &[403],
        body: "role_not_permitted",
        ..GET
    },
    Step {
        title: "an operator does",
        method: "DELETE",
        credential: Some("ops"),
        body: "\"x-user\": \"ops\"",
        ..GET
    },
    Step {
        title: "globex is suspended; the log says why, the client is not told",
        credential: Some("globex"),
        statuses: &[403],
        body: "denied by policy",
        ..GET
    },
    Step {
        title: "alice reads it with a token of her identity provider (JWT, ES256)",
        credential: Some("alice"),
        body: "\"x-user\": \"alice@example.com\"",
        ..GET
    },
    Step {
        title: "yesterday's token has expired",
        credential: Some("alice-expired"),
        statuses: &[401],
        answer_header: Some("www-authenticate"),
        ..GET
    },
    Step {
        title: "a token into which she has written another role",
        credential: Some("alice-tampered"),
        statuses: &[401],
        answer_header: Some("www-authenticate"),
        ..GET
    },
    Step {
        title: "a path that two servers could read in two ways",
        path: "/v2/orders/../status",
        statuses: &[400],
        body: "dot segment",
        ..GET
    },
    Step {
        title: "a trial key has two requests a minute",
        path: "/v2/orders",
        credential: Some("sample-app"),
        statuses: &[200, 200, 429],
        answer_header: Some("retry-after"),
        ..GET
    },
];

// === impl Step ===

impl Step {
    /// The statuses as they are shown.
    pub(super) fn expected(&self) -> String {
        self.statuses.iter().map(u16::to_string).collect::<Vec<_>>().join(" ")
    }

    /// The command that sends it.
    pub(super) fn command(&self, gateway: SocketAddr, workspace: &Workspace) -> String {
        let mut command = "curl -i".to_owned();
        let mut push = |word: &str| {
            command.push(' ');
            command.push_str(&quoted(word));
        };
        if self.method != "GET" {
            push("-X");
            push(self.method);
        }
        if self.path.contains("..") {
            push("--path-as-is");
        }
        if let Some(credential) = self.credential {
            push("-H");
            push(&format!("@{}", workspace.path(credential).display()));
        }
        if let Some((name, value)) = self.header {
            push("-H");
            push(&format!("{name}: {value}"));
        }
        push(&format!("{gateway}{}", self.path));
        match self.statuses.len() {
            1 => command,
            times => format!("for i in $(seq {times}); do {command}; done"),
        }
    }
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@=%+,".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// What the demo prints first.
pub(super) fn introduction(
    gateway: SocketAddr,
    admin: Option<SocketAddr>,
    workspace: &Workspace,
    paint: Paint,
) -> String {
    let mut out = String::new();
    let mut line = |text: &str| {
        out.push_str(text);
        out.push('\n');
    };
    let title = paint.strong(&format!("Postern on http://{gateway}"));
    line(&format!("\n{title}, in front of an orders API. Ask it in another terminal:\n"));
    for step in &STEPS {
        let (first, rest) =
            step.statuses.split_first().map_or((200, &[][..]), |(first, rest)| (*first, rest));
        let last = rest.last().copied().unwrap_or(first);
        let expected = if last < 400 { paint.good(&step.expected()) } else { paint.bad(&step.expected()) };
        line(&format!("  {expected}  {}", step.title));
        line(&format!("       {}", paint.faint(&step.command(gateway, workspace))));
    }
    let shown = |name: &str| workspace.path(name).display().to_string();
    line(&format!("\n  Rules      {}   live when you save: try globex: true", shown("policies/data.yaml")));
    line(&format!("  Decisions  {}", shown("decisions.jsonl")));
    if let Some(admin) = admin {
        line(&format!("  Status     http://{admin}/status   /metrics"));
    }
    let directory = workspace.directory().display();
    line(&format!("\nCtrl-C stops the demo and removes {directory}. Decisions as they are made:\n"));
    out
}

/// One decision event on one line.
pub(super) fn decision(event: &serde_json::Value, paint: Paint) -> String {
    let gateway = event.get("gateway");
    let field = |name: &str| gateway.and_then(|gateway| gateway.get(name));
    let text = |name: &str| field(name).and_then(serde_json::Value::as_str).unwrap_or_default();
    let status = field("status").and_then(serde_json::Value::as_u64).unwrap_or_default();
    let subject = field("identity").and_then(|identity| identity.get("subject"));
    let subject = subject.and_then(serde_json::Value::as_str).unwrap_or("-");
    let policy_us = field("timings_us").and_then(|timings| timings.get("policy"));
    let policy_us = policy_us.and_then(serde_json::Value::as_u64).filter(|policy_us| *policy_us > 0);
    let outcome = format!("{status} {:<8}", text("outcome"));
    let outcome = if text("outcome") == "allowed" { paint.good(&outcome) } else { paint.bad(&outcome) };
    let request = format!("{} {}", text("method"), text("path"));
    let mut line = format!("  {outcome} {subject:<18} {request:<24} {}", text("reason"));
    if let Some(policy_us) = policy_us {
        // Writing to a string cannot fail.
        let _infallible = write!(line, "  {}", paint.faint(&format!("decided in {policy_us} us")));
    }
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("@/tmp/postern-1a2b/acme"), "@/tmp/postern-1a2b/acme");
        assert_eq!(quoted("X-User: root"), "'X-User: root'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn a_decision_reads_as_one_line() {
        let event = json!({"gateway": {"status": 403, "outcome": "denied", "method": "DELETE", "path": "/v2/orders/42",
            "reason": "role_not_permitted", "identity": {"subject": "acme"}, "timings_us": {"policy": 41}}});
        let line = decision(&event, Paint::plain());
        let want =
            "  403 denied   acme               DELETE /v2/orders/42     role_not_permitted  decided in 41 us";
        assert_eq!(line, want);
        let refused =
            json!({"gateway": {"status": 400, "outcome": "refused", "method": "GET", "path": "/x"}});
        assert_eq!(decision(&refused, Paint::plain()), "  400 refused  -                  GET /x");
    }
}
