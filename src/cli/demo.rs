//! `gatewayctl demo`: a tour of a running gateway that needs nothing but this binary.
//!
//! Everything is made at start in a directory of its own, keys included, and removed at the end.

use std::fs;
use std::io::{Read as _, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::cli::demo::upstream::Echo;
use crate::cli::output::{Exit, Paint};
use crate::cli::run;
use crate::identity::api_key::mint::{self, Grant};
use crate::server::gateway::Gateway;

mod upstream;

/// The starter policies, as they stand in `policies/`.
const POLICIES: [(&str, &str); 7] = [
    ("allowlist.rego", include_str!("../../policies/allowlist.rego")),
    ("data.yaml", include_str!("../../policies/data.yaml")),
    ("federation.rego", include_str!("../../policies/federation.rego")),
    ("gateway.rego", include_str!("../../policies/gateway.rego")),
    ("paths.rego", include_str!("../../policies/paths.rego")),
    ("rbac.rego", include_str!("../../policies/rbac.rego")),
    ("tiers.rego", include_str!("../../policies/tiers.rego")),
];
/// Who holds a key, and the role in it; `policies/data.yaml` says what the roles may do.
const HOLDERS: [(&str, &str); 4] =
    [("acme", "partner"), ("ops", "operator"), ("globex", "partner"), ("sample-app", "trial")];
const PATIENCE: Duration = Duration::from_secs(10);

/// A tour: built-in upstream, starter policies, ready-made keys; prints requests to try.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// The port to listen on, on loopback; 0 takes any that is free
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Send all requests of the tour, compare the answers, and end
    #[arg(long)]
    check: bool,
}

/// One request of the tour.
#[derive(Debug)]
struct Step {
    title: &'static str,
    method: &'static str,
    path: &'static str,
    /// Whose key it carries.
    holder: Option<&'static str>,
    /// A header that somebody makes up.
    forged: Option<&'static str>,
    /// Statuses, one for each time it is sent.
    statuses: &'static [u16],
    /// What the answer's body holds.
    says: &'static str,
}

const TOUR: [Step; 7] = [
    Step {
        title: "allowed: anyone may ask for the status",
        method: "GET",
        path: "/v2/status",
        holder: None,
        forged: None,
        statuses: &[200],
        says: "/v2/status",
    },
    Step {
        title: "unauthenticated: orders need a key",
        method: "GET",
        path: "/v2/orders/42",
        holder: None,
        forged: None,
        statuses: &[401],
        says: "unauthenticated",
    },
    Step {
        title: "allowed: a partner reads; the upstream is told who, and a forged X-User does not get through",
        method: "GET",
        path: "/v2/orders/42",
        holder: Some("acme"),
        forged: Some("X-User: root"),
        statuses: &[200],
        says: "\"x-user\":\"acme\"",
    },
    Step {
        title: "denied, with a reason: a partner cancels nothing",
        method: "DELETE",
        path: "/v2/orders/42",
        holder: Some("acme"),
        forged: None,
        statuses: &[403],
        says: "role_not_permitted",
    },
    Step {
        title: "allowed: an operator does",
        method: "DELETE",
        path: "/v2/orders/42",
        holder: Some("ops"),
        forged: None,
        statuses: &[200],
        says: "\"x-user\":\"ops\"",
    },
    Step {
        title: "denied: globex is suspended; the log says why, the client is not told",
        method: "GET",
        path: "/v2/orders/42",
        holder: Some("globex"),
        forged: None,
        statuses: &[403],
        says: "denied by policy",
    },
    Step {
        title: "limited: a trial key has two requests a minute",
        method: "GET",
        path: "/v2/orders",
        holder: Some("sample-app"),
        forged: None,
        statuses: &[200, 200, 429],
        says: "too many requests",
    },
];

/// The demo's files; removed when dropped.
#[derive(Debug)]
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed lies in the system's temporary directory, which is cleaned.
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Runs the command: until it is told to stop, or with `--check` until the tour is over.
pub fn run(
    args: &DemoArgs,
    paint: Paint,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let name = format!("postern-demo-{}", uuid::Uuid::new_v4().simple());
    let directory = Directory(std::env::temp_dir().join(name));
    let echo = Echo::start().context("cannot start the built-in upstream")?;
    let keys = prepare(&directory.0, args.port, echo.address())?;
    let gateway = match Gateway::start(&directory.0.join("gateway.yaml"), |_| None) {
        Ok(gateway) => gateway,
        Err(error) => {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            writeln!(notes, "error: {error}{}", source.unwrap_or_default())?;
            writeln!(notes, "hint: take another port with `gatewayctl demo --port 0`")?;
            return Ok(Exit::CouldNotRun);
        }
    };
    let address = gateway.address("demo").context("the demo has no listener")?;
    let exit = if args.check {
        let exit = check(address, &keys, paint, out)?;
        out.flush()?;
        exit
    } else {
        introduce(address, &directory.0, &keys, paint, out)?;
        out.flush()?;
        run::wait(gateway.reloader())?;
        Exit::Fine
    };
    gateway.shutdown();
    Ok(exit)
}

/// Writes policies, keys and configuration. Gives the keys in the order of [`HOLDERS`].
fn prepare(directory: &Path, port: u16, upstream: SocketAddr) -> anyhow::Result<Vec<String>> {
    let policy = directory.join("policies");
    fs::create_dir_all(&policy).with_context(|| format!("cannot make `{}`", policy.display()))?;
    for (name, text) in POLICIES {
        fs::write(policy.join(name), text)?;
    }
    let mut keys = Vec::new();
    for (owner, role) in HOLDERS {
        let grant = Grant {
            owner: owner.to_owned(),
            roles: vec![role.to_owned()],
            groups: Vec::new(),
            scopes: Vec::new(),
            expires: None,
        };
        keys.push(mint::mint(&directory.join("keys.yaml"), &grant)?.key.expose().clone());
    }
    let config = format!(
        "version: 1
workers: 1
labels: {{app: demo}}
listeners:
  - {{name: demo, address: 127.0.0.1:{port}}}
identity:
  partners: {{type: api_key, header: X-Api-Key, keys: keys.yaml}}
upstreams:
  orders: {{endpoints: [\"http://{upstream}\"]}}
policies:
  main: {{bundle: policies, decision: gateway/decision, response: gateway/response, budget: 1s}}
apis:
  - name: orders
    version: v2
    base_path: /v2
    identity: [partners]
    policy: main
    upstream: orders
    routes:
      - {{name: status, path: /status, methods: [GET]}}
      - {{name: list-orders, path: /orders, methods: [GET]}}
      - {{name: create-order, path: /orders, methods: [POST]}}
      - {{name: read-order, path: \"/orders/{{id}}\", methods: [GET]}}
      - {{name: cancel-order, path: \"/orders/{{id}}\", methods: [DELETE]}}
decision_logs:
  - {{type: file, path: decisions.jsonl}}
"
    );
    fs::write(directory.join("gateway.yaml"), config)?;
    Ok(keys)
}

fn key_of<'k>(holder: &str, keys: &'k [String]) -> Option<&'k str> {
    let position = HOLDERS.iter().position(|(owner, _)| *owner == holder)?;
    keys.get(position).map(String::as_str)
}

fn introduce(
    address: SocketAddr,
    directory: &Path,
    keys: &[String],
    paint: Paint,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    writeln!(out, "Postern listens on http://{address}, in front of a built-in orders API.")?;
    writeln!(out, "Every request is decided by the Rego policies in {}/policies", directory.display())?;
    writeln!(out, "and recorded in {}/decisions.jsonl\n", directory.display())?;
    for step in &TOUR {
        let statuses = step.statuses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let told = if step.statuses.iter().all(|status| *status < 300) {
            paint.good(&statuses)
        } else {
            paint.doubtful(&statuses)
        };
        writeln!(out, "# {told} {}", step.title)?;
        writeln!(out, "{}\n", command(step, address, keys))?;
    }
    writeln!(out, "Change a line in {}/policies/data.yaml,", directory.display())?;
    writeln!(
        out,
        "for instance `globex: false` to `true`, and ask again: it is live at once. Ctrl-C ends the demo."
    )?;
    Ok(())
}

fn command(step: &Step, address: SocketAddr, keys: &[String]) -> String {
    let mut command = String::from("curl -i");
    if step.method != "GET" {
        command.push_str(" -X ");
        command.push_str(step.method);
    }
    if let Some(key) = step.holder.and_then(|holder| key_of(holder, keys)) {
        command.push_str(&[" -H 'X-Api-Key: ", key, "'"].concat());
    }
    if let Some(forged) = step.forged {
        command.push_str(&[" -H '", forged, "'"].concat());
    }
    command.push_str(&[" http://", &address.to_string(), step.path].concat());
    if step.statuses.len() > 1 {
        // Quoted in full, so that it can be pasted as it stands.
        return format!("for i in $(seq {}); do {command}; done", step.statuses.len());
    }
    command
}

/// Sends the tour's requests and compares the answers.
fn check(address: SocketAddr, keys: &[String], paint: Paint, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let mut exit = Exit::Fine;
    for step in &TOUR {
        let mut statuses = Vec::new();
        let mut body = String::new();
        for _ in step.statuses {
            let (status, text) = ask(step, address, keys).with_context(|| step.title)?;
            statuses.push(status);
            body = text;
        }
        let good = statuses == step.statuses && body.contains(step.says);
        let word = if good { paint.good("ok") } else { paint.bad("WRONG") };
        writeln!(out, "{word:5} {} {}: {statuses:?} {}", step.method, step.path, step.title)?;
        if !good {
            writeln!(out, "      expected {:?} and `{}` in: {body}", step.statuses, step.says)?;
            exit = Exit::No;
        }
    }
    Ok(exit)
}

fn ask(step: &Step, address: SocketAddr, keys: &[String]) -> anyhow::Result<(u16, String)> {
    let mut head =
        format!("{} {} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n", step.method, step.path);
    if let Some(key) = step.holder.and_then(|holder| key_of(holder, keys)) {
        head.push_str(&["x-api-key: ", key, "\r\n"].concat());
    }
    if let Some(forged) = step.forged {
        head.push_str(&[forged, "\r\n"].concat());
    }
    head.push_str("\r\n");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.get(9..12).and_then(|status| status.parse().ok()).context("no HTTP response")?;
    Ok((status, answer))
}
