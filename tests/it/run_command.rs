//! `gatewayctl run` and `config check` of the real binary: they agree on what is wrong, and the log is one line a record.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use serde_json::Value;

use crate::gateway::ALLOW_ALL;
use crate::policy_cli::{files, gatewayctl};
use crate::wire::connect;

const CONFIG: &str = "version: 1
workers: 1
listeners: [{name: public, address: \"127.0.0.1:0\"}]
identity: {partners: {type: api_key, keys: keys.yaml}}
upstreams: {up: {endpoints: [\"http://127.0.0.1:9\"]}}
policies: {main: {bundle: policy}}
apis: [{name: all, policy: main, upstream: up, identity: [partners]}]
";
const KEYS: (&str, &str) = ("keys.yaml", "keys: []\n");

/// `gatewayctl run` on `gateway.yaml` of a directory; it does not outlive its test.
struct Running {
    process: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Running {
    fn start(root: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_gatewayctl"))
            .args(["run", "--log-format", "json"])
            .current_dir(root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(process.stderr.take().unwrap()).lines();
        Self { process, log }
    }

    /// The records up to the first with `message`, that one included.
    fn until(&mut self, message: &str) -> Vec<Value> {
        let mut records = Vec::new();
        for line in self.log.by_ref() {
            let line = line.unwrap();
            let record: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let is_last = record["message"] == message;
            records.push(record);
            if is_last {
                return records;
            }
        }
        panic!("it ends without `{message}`: {records:?}");
    }

    fn address(&mut self) -> SocketAddr {
        self.until("Listening").pop().unwrap()["address"].as_str().unwrap().parse().unwrap()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already where the test has gone well.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[test]
fn config_check_finds_all_that_run_refuses() {
    let config = CONFIG.replace(
        "{bundle: policy}",
        "{bundle: policy}, other: {bundle: other, decision: other/decision}, late: {bundle: late}",
    ) + "decision_logs: [{type: file, path: pipe}]\n";
    let root = files(&[
        ("gateway.yaml", &config),
        ("policy/main.rego", "package gateway\n\ndecision := nothing\n"),
        ("other/main.rego", ALLOW_ALL),
        ("late/main.rego", "package gateway\n\ndecision := \"yes\"\n"),
        ("late/main_test.rego", "package gateway_test\n\ntest_no if false\n"),
        ("keys.yaml", "keys: [{id: a}]\n"),
    ]);
    assert!(Command::new("mkfifo").arg(root.path().join("pipe")).status().unwrap().success());
    let checked = gatewayctl(root.path(), &["config", "check"]);
    assert_eq!((checked.code, checked.out.as_str()), (Some(1), ""));
    let want = [
        "policy/main.rego:3:13: policy `main`: ",
        "policy `other`: no rule `data.other.decision`",
        "late/main.rego:3:13: policy `late`: ",
        "late/main_test.rego:3:1: data.gateway_test.test_no failed",
        "keys.yaml:1:8: identity provider `partners`: ",
        "is no file; name a regular file",
    ];
    for part in want {
        assert!(checked.notes.contains(part), "no `{part}` in {}", checked.notes);
    }
    let ran = gatewayctl(root.path(), &["run"]);
    assert_eq!(ran.code, Some(1));
    assert!(!ran.notes.contains("config check"), "{}", ran.notes);
    let json = gatewayctl(root.path(), &["config", "check", "--format", "json"]);
    let errors = json.json()["errors"].as_array().unwrap().clone();
    assert!(errors.len() >= want.len(), "{errors:?}");
    let placed = errors.iter().find(|error| error["message"].as_str().unwrap().contains("`late`: decision"));
    assert_eq!((&placed.unwrap()["line"], &placed.unwrap()["column"]), (&3.into(), &13.into()));
}

#[test]
fn config_check_leaves_no_trace_and_needs_no_network() {
    let jwt = "corp: {type: jwt, issuer: \"https://idp\", audiences: [a], jwks_uri: \"http://127.0.0.1:9/jwks\"}, partners";
    let config = CONFIG.replace("partners: {type", &format!("{jwt}: {{type"))
        + "decision_logs: [{type: file, path: decisions.jsonl}]\n";
    let root = files(&[("gateway.yaml", &config), ("policy/main.rego", ALLOW_ALL), KEYS]);
    let checked = gatewayctl(root.path(), &["config", "check"]);
    assert_eq!(checked.code, Some(0), "{}", checked.notes);
    assert!(!root.path().join("decisions.jsonl").exists());
}

#[test]
fn a_bundle_without_tests_is_not_said_to_pass_them() {
    let root = files(&[("gateway.yaml", CONFIG), ("policy/main.rego", ALLOW_ALL), KEYS]);
    let mut running = Running::start(root.path());
    let told = running.until("Listening");
    let about =
        |part: &str| told.iter().filter(|record| record["message"].as_str().unwrap().contains(part)).count();
    assert_eq!((about("has no tests of its own"), about("tests pass")), (1, 0), "{told:?}");
}

#[test]
fn a_keys_file_that_everyone_can_read_is_warned_of() {
    let root = files(&[("gateway.yaml", CONFIG), ("policy/main.rego", ALLOW_ALL), KEYS]);
    let warned = |mode: u32| {
        let keys = root.path().join("keys.yaml");
        fs::set_permissions(&keys, fs::Permissions::from_mode(mode)).unwrap();
        let checked = gatewayctl(root.path(), &["config", "check"]);
        assert_eq!(checked.code, Some(0), "{}", checked.notes);
        checked.notes
    };
    assert_eq!(warned(0o640), "");
    assert!(warned(0o644).contains("warning: identity provider `partners`: the keys file"));
    assert!(warned(0o602).contains("can be written by every user"));
    let mut running = Running::start(root.path());
    let told = running.until("Listening");
    let warning = told.iter().find(|record| record["message"] == "Configuration warning").unwrap();
    assert!(warning["warning"].as_str().unwrap().contains("can be written by every user"), "{warning}");
}

#[test]
fn a_refused_reload_is_one_line_of_the_log() {
    let root = files(&[("gateway.yaml", CONFIG), ("policy/main.rego", ALLOW_ALL), KEYS]);
    let mut running = Running::start(root.path());
    running.address();
    fs::write(root.path().join("gateway.yaml"), CONFIG.replace("policy: main", "policy: mian")).unwrap();
    let refused = running.until("Reload refused, the last good configuration goes on").pop().unwrap();
    let errors = refused["errors"].as_str().unwrap();
    assert!(errors.contains("unknown policy `mian`; help: did you mean `main`?"), "{errors}");
    assert!(!errors.contains('\n'), "{errors}");
}

#[test]
fn a_second_signal_cuts_the_drain_short_and_the_event_is_written() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = CONFIG
        .replace("127.0.0.1:9", &upstream.local_addr().unwrap().to_string())
        .replace(", identity: [partners]", "")
        + "decision_logs: [{type: file, path: decisions.jsonl}]\ndrain_timeout: 10m\n";
    let root = files(&[("gateway.yaml", &config), ("policy/main.rego", ALLOW_ALL), KEYS]);
    let mut running = Running::start(root.path());
    let mut client = connect(running.address());
    client.write_all(b"GET / HTTP/1.1\r\nHost: gw.test\r\n\r\n").unwrap();
    // It has reached the upstream, which never answers.
    let (held, _) = upstream.accept().unwrap();
    held.peek(&mut [0]).unwrap();
    running.signal("-TERM");
    running.until("Draining");
    running.signal("-INT");
    running.until("Told again to end");
    running.until("Stopped");
    assert_eq!(running.process.wait().unwrap().code(), Some(0));
    let events = fs::read_to_string(root.path().join("decisions.jsonl")).unwrap();
    let event: Value = serde_json::from_str(events.trim()).unwrap();
    assert_eq!(
        (&event["gateway"]["aborted"], &event["gateway"]["outcome"]),
        (&true.into(), &"failed".into())
    );
}
