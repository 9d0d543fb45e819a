//! Reload and rollback of a running gateway: atomic, gated by tests, visible, and never in the way of a request.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use serde_json::{Value, json};

use crate::gateway::{ALLOW_ALL, TestGateway, eventually};
use crate::live_support::*;
use crate::wire::{RecordingUpstream, ask, connect, get, read_response};

const UNWATCHED: &str = "reload: {watch: false}";

fn status_policy(status: u16) -> String {
    format!("package gateway\n\ndecision := {{\"allow\": false, \"status\": {status}}}\n")
}

fn ask_status(gateway: &TestGateway) -> u16 {
    get(gateway.address("public"), "/", "").status
}

fn status_page(gateway: &TestGateway) -> Value {
    serde_json::from_slice(&admin(gateway, "/status").body).unwrap()
}

fn edit(gateway: &TestGateway, from: &str, to: &str) {
    let config = fs::read_to_string(gateway.path("gateway.yaml")).unwrap();
    assert!(config.contains(from), "{config}");
    gateway.write("gateway.yaml", &config.replace(from, to));
}

fn reload(gateway: &TestGateway) -> Result<(), String> {
    gateway.running().reloader().reload().map_err(|errors| errors.to_string())
}

#[test]
fn a_changed_file_is_taken_up_without_being_told() {
    let upstream = RecordingUpstream::start();
    let gateway = start(&upstream, &status_policy(401), "");
    assert_eq!(ask_status(&gateway), 401);
    gateway.write("policy/main.rego", &status_policy(402));
    eventually("the new policy", || (ask_status(&gateway) == 402).then_some(()));
    // A further file, and a broken one that is mended.
    gateway.write("policy/data.json", "{");
    eventually("the refusal", || {
        status_page(&gateway)["snapshot"]["last_reload_error"].is_object().then_some(())
    });
    assert_eq!(ask_status(&gateway), 402);
    gateway.write("policy/data.json", "{}");
    gateway.write("policy/main.rego", &status_policy(403));
    eventually("the mended policy", || (ask_status(&gateway) == 403).then_some(()));
    assert_eq!(status_page(&gateway)["snapshot"]["last_reload_error"], Value::Null);
    // The configuration itself.
    gateway.write("other/main.rego", &status_policy(404));
    edit(&gateway, "bundle: policy", "bundle: other");
    eventually("the other bundle", || (ask_status(&gateway) == 404).then_some(()));
    gateway.write("other/main.rego", &status_policy(405));
    eventually("the newly named bundle is watched", || (ask_status(&gateway) == 405).then_some(()));
}

#[test]
fn a_kubernetes_volume_is_taken_up_when_its_link_moves() {
    let upstream = RecordingUpstream::start();
    let directory = tempfile::tempdir().unwrap();
    let mount = directory.path().join("mount");
    for (version, status) in [("..v1", 401), ("..v2", 402)] {
        fs::create_dir_all(mount.join(version)).unwrap();
        fs::write(mount.join(version).join("main.rego"), status_policy(status)).unwrap();
    }
    symlink("..v1", mount.join("..data")).unwrap();
    symlink("..data/main.rego", mount.join("main.rego")).unwrap();
    let config = plain_config(&upstream.url(), "")
        .replace("bundle: policy", &format!("bundle: \"{}\"", mount.display()));
    let gateway = TestGateway::start(&config, &[]);
    assert_eq!(ask_status(&gateway), 401);
    symlink("..v2", mount.join("..data_tmp")).unwrap();
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    eventually("the new volume", || (ask_status(&gateway) == 402).then_some(()));
}

#[test]
fn a_change_right_after_the_start_is_not_missed() {
    let upstream = RecordingUpstream::start();
    for status in [401, 402, 404] {
        let gateway = start(&upstream, &status_policy(499), "");
        gateway.write("policy/main.rego", &status_policy(status));
        eventually("the new policy", || (ask_status(&gateway) == status).then_some(()));
    }
}

#[track_caller]
fn check_refused(files: &[(&str, &str)], edits: &[(&str, &str)], hints: &[&str]) {
    let upstream = RecordingUpstream::start();
    let gateway = start(&upstream, &status_policy(401), UNWATCHED);
    let before = status_page(&gateway)["snapshot"].clone();
    for (name, text) in files {
        gateway.write(name, text);
    }
    for (from, to) in edits {
        edit(&gateway, from, to);
    }
    let error = reload(&gateway).expect_err("refused");
    for hint in hints {
        assert!(error.contains(hint), "no `{hint}` in: {error}");
    }
    assert_eq!(ask_status(&gateway), 401, "the last good one goes on");
    let snapshot = status_page(&gateway)["snapshot"].clone();
    assert_eq!(snapshot["last_reload_error"]["error"], error);
    assert!(snapshot["last_reload_error"]["at"].is_string());
    for member in ["generation", "revision", "loaded_at", "earlier"] {
        assert_eq!(snapshot[member], before[member], "{member}");
    }
    assert_eq!(metric(&gateway, "postern_config_reloads_total{result=\"failed\"}"), Some(1));
    assert_eq!(metric(&gateway, "postern_config_reloads_total{result=\"ok\"}"), Some(1));
}

#[test]
fn a_bad_configuration_or_bundle_is_refused_and_visible() {
    check_refused(&[("gateway.yaml", "version: 1\nlisteners: []\n")], &[], &["gateway.yaml"]);
    check_refused(&[], &[("policy: main", "policy: mian")], &["mian", "gateway.yaml"]);
    check_refused(&[("policy/main.rego", "package gateway\n\ndecision := \n")], &[], &["main.rego:4:1"]);
    check_refused(
        &[("policy/main.rego", "package gateway\n\nother := true\n")],
        &[],
        &["data.gateway.decision"],
    );
    check_refused(
        &[("policy/main.rego", "package gateway\n\ndecision := http.send({\"url\": \"http://x\"})\n")],
        &[],
        &["http.send", "main.rego:3"],
    );
    check_refused(&[("policy/data.json", "{\"a\": ")], &[], &["data.json"]);
}

#[test]
fn a_policy_that_can_never_decide_is_refused_and_the_last_good_one_goes_on() {
    let check = |rule: &str, hints: &[&str]| {
        check_refused(&[("policy/main.rego", &format!("package gateway\n\n{rule}\n"))], &[], hints);
    };
    check("decision := \"yes\"", &["main.rego:3:13", "must be a boolean or an object"]);
    check("decision := {\"allow\": \"true\"}", &["main.rego:3:23", "`allow`: must be a boolean"]);
    check(
        "decision := {\"allow\": true, \"limit\": []} if input.request.path",
        &["main.rego:3:29", "`limit`: unknown key", "did you mean `limits`?"],
    );
    let rate = "decision := {\"allow\": true, \"limits\": [{\"name\": \"a\", \"key\": input.source.ip, \"rate\": \"10/fortnight\"}]}";
    check(rate, &["main.rego:3:86", "`10/fortnight` has no known unit of time"]);
    check("decision if 1 > 2", &["main.rego:3:1", "undefined"]);
}

#[test]
fn the_bundles_own_tests_are_a_gate() {
    let failing = "package gateway_test\n\ntest_denies if not data.gateway.decision.allow\n\ntest_odd if data.gateway.decision.status == 418\n";
    check_refused(
        &[("policy/main.rego", &status_policy(402)), ("policy/main_test.rego", failing)],
        &[],
        &["main_test.rego:5", "test_odd"],
    );
    let upstream = RecordingUpstream::start();
    let gateway = start(&upstream, &status_policy(401), UNWATCHED);
    gateway.write("policy/main_test.rego", failing);
    gateway.write("policy/main.rego", &status_policy(418));
    reload(&gateway).unwrap();
    assert_eq!(ask_status(&gateway), 418, "tests that pass let it through");
    gateway.write("policy/main.rego", &status_policy(402));
    edit(&gateway, "budget: 5s", "budget: 5s, self_test: false");
    reload(&gateway).unwrap();
    assert_eq!(ask_status(&gateway), 402, "or nobody asks them");
}

#[test]
fn a_bundle_whose_tests_fail_does_not_start() {
    let upstream = RecordingUpstream::start();
    let files = [
        ("policy/main.rego", ALLOW_ALL),
        ("policy/main_test.rego", "package gateway_test\n\ntest_no if false\n"),
    ];
    let Err(error) = TestGateway::try_start(&plain_config(&upstream.url(), ""), &files) else {
        panic!("it started")
    };
    assert!(error.to_string().contains("test_no"), "{error}");
}

#[test]
fn what_cannot_change_while_it_runs_needs_a_restart() {
    let listener = r#"{name: public, address: "127.0.0.1:0"}"#;
    let with = |more: &str| format!("{listener}, {more}");
    let second = with(r#"{name: second, address: "127.0.0.1:0"}"#);
    let cases: [(&str, &str, &str); 6] = [
        ("127.0.0.1:0\"}]", "127.0.0.2:0\"}]", "listener `public`: its address"),
        (listener, &second, "the set of listeners"),
        ("name: public", "name: renamed", "listener `public`: its removal"),
        ("workers: 1", "workers: 2", "`workers`"),
        ("admin: {address: \"127.0.0.1:0\"}", "", "`admin`"),
        ("admin: {address: \"127.0.0.1:0\"}", "admin: {address: \"127.0.0.1:1\"}", "`admin`"),
    ];
    for (from, to, what) in cases {
        check_refused(&[("policy/main.rego", &status_policy(402))], &[(from, to)], &[what, "restart"]);
    }
}

#[test]
fn a_removed_listener_needs_a_restart() {
    let upstream = RecordingUpstream::start();
    let two =
        r#"listeners: [{name: public, address: "127.0.0.1:0"}, {name: second, address: "127.0.0.1:0"}]"#;
    let one = r#"listeners: [{name: public, address: "127.0.0.1:0"}]"#;
    let config = plain_config(&upstream.url(), UNWATCHED).replace(one, two);
    let gateway = TestGateway::start(&config, &[("policy/main.rego", ALLOW_ALL)]);
    edit(&gateway, two, one);
    let error = reload(&gateway).unwrap_err();
    assert!(error.contains("listener `second`: its removal"), "{error}");
    assert_eq!(get(gateway.address("second"), "/", "").status, 200);
    // Their order does not matter.
    edit(
        &gateway,
        one,
        r#"listeners: [{name: second, address: "127.0.0.1:0", apis: [all]}, {name: public, address: "127.0.0.1:0"}]"#,
    );
    reload(&gateway).unwrap();
    assert_eq!(get(gateway.address("second"), "/", "").status, 200);
    assert_eq!(gateway.events(2)[1]["gateway"]["listener"], "second");
}

#[test]
fn rollback_goes_back_as_far_as_history_goes() {
    let upstream = RecordingUpstream::start();
    let gateway = start(&upstream, &status_policy(401), "reload: {watch: false, history: 2}");
    for status in [402, 403, 404] {
        gateway.write("policy/main.rego", &status_policy(status));
        reload(&gateway).unwrap();
        assert_eq!(ask_status(&gateway), status);
    }
    let snapshot = status_page(&gateway)["snapshot"].clone();
    assert_eq!((&snapshot["generation"], &snapshot["earlier"]), (&json!(4), &json!([3, 2])));
    assert!(gateway.running().reloader().roll_back().unwrap());
    assert_eq!(ask_status(&gateway), 403);
    let address = gateway.running().admin().unwrap();
    let post = |path: &str| {
        ask(address, format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n"))
    };
    assert_eq!(post("/rollback").status, 200);
    assert_eq!(ask_status(&gateway), 402);
    assert_eq!(post("/rollback").status, 409);
    assert!(!gateway.running().reloader().roll_back().unwrap());
    assert_eq!(ask_status(&gateway), 402);
    assert_eq!(status_page(&gateway)["snapshot"]["generation"], 6);
    assert_eq!(post("/reload").status, 200);
    assert_eq!(ask_status(&gateway), 404, "the files are as they were");
    gateway.write("policy/main.rego", "package");
    let refused = post("/reload");
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("main.rego"), "{}", refused.text());
}

#[test]
fn a_watched_gateway_stays_rolled_back_until_a_file_changes() {
    let upstream = RecordingUpstream::start();
    let gateway = start(&upstream, &status_policy(401), "");
    gateway.write("policy/main.rego", &status_policy(402));
    eventually("the new policy", || (ask_status(&gateway) == 402).then_some(()));
    assert!(gateway.running().reloader().roll_back().unwrap());
    for _ in 0..100 {
        assert_eq!(ask_status(&gateway), 401);
    }
    gateway.write("policy/main.rego", &status_policy(403));
    eventually("the third policy", || (ask_status(&gateway) == 403).then_some(()));
}

/// An upstream that holds each request until it is told to answer.
fn holding() -> (String, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, requests) = mpsc::channel();
    let (go, release) = mpsc::channel::<()>();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            while stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {
                if asked.send(()).is_err() || release.recv().is_err() {
                    return;
                }
                if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                    break;
                }
            }
        }
    });
    (url, requests, go)
}

#[test]
fn a_request_in_flight_ends_on_the_snapshot_it_began_with() {
    let (url, requests, go) = holding();
    let policy = |version: u8| {
        format!(
            "package gateway\n\ndecision := true\n\nresponse := {{\"allow\": true, \"response\": {{\"headers\": {{\"set\": \
             {{\"X-Version\": sprintf(\"{version} %v\", [input.response.status])}}}}}}}}\n"
        )
    };
    let config =
        plain_config(&url, UNWATCHED).replace("budget: 5s", "budget: 5s, response: gateway/response");
    let gateway = TestGateway::start(&config, &[("policy/main.rego", &policy(1))]);
    let mut first = connect(gateway.address("public"));
    first.write_all(b"GET / HTTP/1.1\r\nHost: gw.test\r\n\r\n").unwrap();
    requests.recv().unwrap();
    gateway.write("policy/main.rego", &policy(2));
    // The upstream it waits for is changed too.
    edit(&gateway, "endpoints:", "timeouts: {response: 14s}, endpoints:");
    reload(&gateway).unwrap();
    let mut second = connect(gateway.address("public"));
    second.write_all(b"GET / HTTP/1.1\r\nHost: gw.test\r\n\r\n").unwrap();
    // The holding upstream serves one connection after the other.
    go.send(()).unwrap();
    let response = read_response(&mut first).unwrap();
    assert_eq!((response.status, response.header("x-version")), (200, Some("1 200")));
    requests.recv().unwrap();
    go.send(()).unwrap();
    let response = read_response(&mut second).unwrap();
    assert_eq!((response.status, response.header("x-version")), (200, Some("2 200")));
    // And the connection that was open before is on the new snapshot.
    first.write_all(b"GET / HTTP/1.1\r\nHost: gw.test\r\n\r\n").unwrap();
    requests.recv().unwrap();
    go.send(()).unwrap();
    assert_eq!(read_response(&mut first).unwrap().header("x-version"), Some("2 200"));
}

#[test]
fn evaluators_of_a_new_policy_are_made_off_the_workers() {
    let upstream = RecordingUpstream::start();
    let gateway = start(&upstream, &status_policy(401), UNWATCHED);
    let left = || gateway.running().reloader().shared().current().ready.left();
    assert_eq!((ask_status(&gateway), left()), (401, 0));
    let check = |status: u16| {
        // Made on the thread that reloads, before the worker has heard of the new snapshot; then taken, not made, by it.
        assert_eq!(left(), 1, "{status}");
        assert_eq!((ask_status(&gateway), left()), (status, 0));
    };
    gateway.write("policy/main.rego", &status_policy(402));
    reload(&gateway).unwrap();
    check(402);
    gateway.write("policy/main.rego", "package");
    reload(&gateway).unwrap_err();
    check(402);
    assert!(gateway.running().reloader().roll_back().unwrap());
    check(401);
}

#[test]
fn limits_go_on_counting() {
    let upstream = RecordingUpstream::start();
    let policy = "package gateway\n\ndecision := {\"allow\": true, \"limits\": [{\"name\": \"l\", \"key\": \"k\", \"rate\": \"1/1h\"}]}\n";
    let gateway = start(&upstream, policy, UNWATCHED);
    assert_eq!(ask_status(&gateway), 200);
    gateway.write("policy/more.rego", "package more\n");
    reload(&gateway).unwrap();
    assert_eq!(ask_status(&gateway), 429);
}

#[test]
fn a_new_upstream_is_health_checked() {
    let good = RecordingUpstream::start();
    let bad =
        RecordingUpstream::answering(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n");
    let gateway = start(&good, ALLOW_ALL, UNWATCHED);
    let health = "health: {path: /healthz, interval: 1s, unhealthy_after: 1}";
    edit(
        &gateway,
        "upstreams: {up:",
        &format!("upstreams: {{sick: {{endpoints: [\"{}\"], {health}}}, up:", bad.url()),
    );
    edit(&gateway, "upstream: up}", "upstream: sick}");
    reload(&gateway).unwrap();
    eventually("the endpoint is out", || {
        let endpoint = status_page(&gateway)["upstreams"]["sick"][0].clone();
        (endpoint["healthy"] == false).then_some(())
    });
    assert!(bad.received().starts_with("GET /healthz "));
    let before = bad.requests();
    assert_eq!(ask_status(&gateway), 503);
    assert_eq!(gateway.events(1)[0]["gateway"]["reason"], "upstream_no_healthy_endpoint");
    assert!(bad.received().matches("GET / ").count() == 0, "{before}");
    // A reload that changes nothing keeps what is known.
    gateway.write("policy/more.rego", "package more\n");
    reload(&gateway).unwrap();
    assert_eq!(status_page(&gateway)["upstreams"]["sick"][0]["healthy"], false);
}

#[test]
fn watching_can_be_turned_on_while_it_runs() {
    let upstream = RecordingUpstream::start();
    let gateway = start(&upstream, &status_policy(401), UNWATCHED);
    edit(&gateway, "watch: false", "watch: true");
    reload(&gateway).unwrap();
    gateway.write("policy/main.rego", &status_policy(402));
    eventually("the new policy", || (ask_status(&gateway) == 402).then_some(()));
}

/// A process that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already where the test has gone well.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn the_binary_reloads_on_sighup_and_ends_on_sigterm() {
    let upstream = RecordingUpstream::start();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    fs::create_dir(file("policy")).unwrap();
    fs::write(file("policy/main.rego"), status_policy(401)).unwrap();
    fs::write(file("gateway.yaml"), plain_config(&upstream.url(), UNWATCHED)).unwrap();
    let process = Command::new(env!("CARGO_BIN_EXE_gatewayctl"))
        .args(["run", "--log-format", "json", "--config"])
        .arg(file("gateway.yaml"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut process = Running(process);
    let log = BufReader::new(process.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    let address: SocketAddr = log
        .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
        .find_map(|entry| {
            let fields = entry.get("fields").unwrap_or(&entry).clone();
            (fields["message"] == "Listening").then(|| fields["address"].as_str().unwrap().parse().unwrap())
        })
        .unwrap();
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &process.0.id().to_string()]).status().unwrap();
        assert!(sent.success());
    };
    assert_eq!(get(address, "/", "").status, 401);
    fs::write(file("policy/main.rego"), status_policy(402)).unwrap();
    signal("-HUP");
    eventually("the new policy", || (get(address, "/", "").status == 402).then_some(()));
    fs::write(file("policy/main.rego"), "package").unwrap();
    signal("-HUP");
    assert_eq!(get(address, "/", "").status, 402);
    signal("-TERM");
    assert_eq!(process.0.wait().unwrap().code(), Some(0));
    let events = fs::read_to_string(file("decisions.jsonl")).unwrap();
    assert!(events.lines().count() >= 3, "all events are out: {events}");
}

/// What a policy says that takes long for what it says.
pub(crate) fn dear(word: &str) -> String {
    format!(
        r#"package gateway

decision := {{"allow": count(others) > 0, "reason": sprintf("{word} %v", [input.request.headers["x-team"]])}}

others := [number |
	some number in numbers.range(1, 400)
	sprintf("/%d", [number * number]) != input.request.path
]
"#
    )
}

#[test]
fn decisions_are_remembered_for_the_same_reasons_and_forgotten_with_their_policy() {
    let upstream = RecordingUpstream::start();
    let gateway = start(&upstream, &dear("first"), UNWATCHED);
    let ask = |team: &str| get(gateway.address("public"), "/a", &format!("X-Team: {team}\r\n")).status;
    // The first decisions are timed; then what costs more than a look-up is remembered.
    for turn in 0..40 {
        assert_eq!(ask("blue"), 200, "{turn}");
    }
    assert_eq!((ask("red"), ask("red")), (200, 200));
    let events = gateway.events(42);
    let told = |event: &Value| (event["gateway"]["reason"].clone(), event["gateway"]["remembered"].clone());
    assert_eq!(told(&events[0]), (json!("first blue"), Value::Null));
    assert_eq!(told(&events[39]), (json!("first blue"), json!(true)));
    assert_eq!(told(&events[40]), (json!("first red"), Value::Null));
    assert_eq!(told(&events[41]), (json!("first red"), json!(true)));
    // A remembered decision is told with what it was made of.
    assert_eq!(events[41]["input"], events[40]["input"]);
    assert_eq!(events[41]["result"], events[40]["result"]);
    gateway.write("policy/main.rego", &dear("second"));
    reload(&gateway).unwrap();
    assert_eq!(ask("red"), 200);
    assert_eq!(told(&gateway.events(43)[42]), (json!("second red"), Value::Null));
}

#[test]
fn nothing_is_remembered_where_the_configuration_says_so() {
    let upstream = RecordingUpstream::start();
    let config =
        plain_config(&upstream.url(), UNWATCHED).replace("budget: 5s", "budget: 5s, decision_cache: 0");
    let gateway = TestGateway::start(&config, &[("policy/main.rego", &dear("first"))]);
    for _ in 0..40 {
        assert_eq!(get(gateway.address("public"), "/a", "X-Team: blue\r\n").status, 200);
    }
    assert!(gateway.events(40).iter().all(|event| event["gateway"]["remembered"] == Value::Null));
}
