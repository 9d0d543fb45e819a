//! The examples, with their services, as their `requests.yaml` describe them (see `examples/README.md`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use regorus::Value as Yaml;
use serde::Deserialize;
use serde_json::Value;

use crate::wire::{RawResponse, ask};

/// `requests.yaml`; a mistyped key would otherwise be an expectation that always holds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    config: String,
    addresses: Addresses,
    #[serde(default)]
    beside: Vec<Beside>,
    service: Service,
    requests: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Addresses {
    gateway: String,
    service: String,
    admin: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    command: Vec<String>,
    ready: String,
}

/// A server that speaks no HTTP; it is up when it takes connections.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Beside {
    address: String,
    command: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    request: Request,
    #[serde(default = "once")]
    repeat: usize,
    expect: Option<Expect>,
    expect_last: Option<Expect>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    #[serde(default = "get")]
    method: String,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
}

/// What an answer has to have; what is left out may be anything.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Expect {
    status: Option<u16>,
    /// A value, `*` for any, `null` for none.
    headers: BTreeMap<String, Option<String>>,
    body: Vec<String>,
    body_without: Vec<String>,
}

fn once() -> usize {
    1
}

fn get() -> String {
    "GET".to_owned()
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap().path();
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &target);
        } else {
            fs::copy(&entry, &target).unwrap();
        }
    }
}

fn describe(example: &Path) -> Described {
    let text = fs::read_to_string(example.join("requests.yaml")).unwrap();
    let document = serde_json::to_value(Yaml::from_yaml_str(&text).unwrap()).unwrap();
    serde_json::from_value(document).unwrap_or_else(|error| panic!("{}: {error}", example.display()))
}

/// A copy of the example, in which the service has a free port and the gateway takes one for itself.
fn prepare(name: &str, root: &Path) -> (PathBuf, Described) {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = root.join("examples").join(name);
    copy(&project.join("examples").join(name), &example);
    copy(&project.join("policies"), &root.join("policies"));
    let mut described = describe(&example);
    let service = free_address().to_string();
    let config = example.join(&described.config);
    let mut text = fs::read_to_string(&config).unwrap();
    let mut replace = |old: &str, new: &str| {
        assert!(text.contains(old), "{} does not name {old}", config.display());
        text = text.replace(old, new);
    };
    replace(&described.addresses.service, &service);
    replace(&described.addresses.gateway, "127.0.0.1:0");
    described.addresses.admin.iter().for_each(|admin| replace(admin, "127.0.0.1:0"));
    for beside in &mut described.beside {
        let address = free_address().to_string();
        replace(&beside.address, &address);
        for word in &mut beside.command {
            *word = word.replace(&beside.address, &address);
        }
        beside.address = address;
    }
    // A busy machine and an unoptimised build may need longer than the default budget of an evaluation.
    replace("    decision: ", "    budget: 5s\n    decision: ");
    fs::write(&config, text).unwrap();
    for word in &mut described.service.command {
        *word = word.replace(&described.addresses.service, &service);
    }
    described.addresses.service = service;
    (example, described)
}

/// Starts a server of the example, and waits until it takes connections at `address`.
fn start_server(example: &Path, command: &[String], address: &str, patience: Duration) -> Running {
    let (program, arguments) = command.split_first().unwrap();
    let program = if program.starts_with("./") { example.join(program) } else { program.into() };
    let server = Command::new(program)
        .args(arguments)
        .current_dir(example)
        // Kept between runs: the service is installed into it.
        .env("VENV", std::env::temp_dir().join("postern-example-venv"))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut server = Running(server);
    let deadline = Instant::now() + patience;
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "{command:?} does not start");
        assert!(server.0.try_wait().unwrap().is_none(), "{command:?} has ended");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    server
}

fn start_service(example: &Path, described: &Described, patience: Duration) -> Running {
    let address = &described.addresses.service;
    let service = start_server(example, &described.service.command, address, patience);
    let ready =
        format!("GET {} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n", described.service.ready);
    assert_eq!(ask(address.parse().unwrap(), ready).status, 200);
    service
}

/// Starts the real binary, and gives the address that it tells in its log.
fn start_gateway(example: &Path, described: &Described) -> (Running, SocketAddr) {
    let mut gateway = Command::new(env!("CARGO_BIN_EXE_gatewayctl"))
        .args(["run", "--log-format", "json", "--config", &described.config])
        .current_dir(example)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(gateway.stderr.take().unwrap());
    let running = Running(gateway);
    let mut told = String::new();
    let address = loop {
        let before = told.len();
        assert!(log.read_line(&mut told).unwrap() > 0, "the gateway does not start: {told}");
        let entry: Value = serde_json::from_str(&told[before..]).unwrap_or_default();
        if entry["message"] == "Listening" {
            break entry["address"].as_str().unwrap().parse().unwrap();
        }
    };
    // What follows is read, so that the gateway never waits for a reader.
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    (running, address)
}

fn send(address: SocketAddr, request: &Request) -> RawResponse {
    let mut message = format!("{} {} HTTP/1.1\r\nHost: {address}\r\n", request.method, request.path);
    for (name, value) in &request.headers {
        message.extend([name, ": ", value, "\r\n"]);
    }
    if !request.body.is_empty() {
        message.extend(["Content-Length: ", &request.body.len().to_string(), "\r\n"]);
    }
    message.extend(["\r\n", &request.body]);
    ask(address, message)
}

/// What of `expect` does not hold of `answer`.
fn faults(expect: &Expect, answer: &RawResponse) -> Vec<String> {
    let mut faults = Vec::new();
    if let Some(status) = expect.status.filter(|status| *status != answer.status) {
        faults.push(format!("status {} instead of {status}", answer.status));
    }
    for (name, wanted) in &expect.headers {
        let got = answer.header(name);
        let good = match wanted.as_deref() {
            None => got.is_none(),
            Some("*") => got.is_some(),
            Some(wanted) => got == Some(wanted),
        };
        if !good {
            faults.push(format!("header {name}: {got:?} instead of {wanted:?}"));
        }
    }
    let body = answer.text();
    let missing = expect.body.iter().filter(|part| !body.contains(*part));
    faults.extend(missing.map(|part| format!("body without `{part}`")));
    let present = expect.body_without.iter().filter(|part| body.contains(*part));
    faults.extend(present.map(|part| format!("body with `{part}`")));
    faults
}

fn run(name: &str, patience: Duration) {
    let root = tempfile::tempdir().unwrap();
    let (example, described) = prepare(name, root.path());
    let start = |beside: &Beside| start_server(&example, &beside.command, &beside.address, patience);
    let _beside: Vec<Running> = described.beside.iter().map(start).collect();
    let _service = start_service(&example, &described, patience);
    let (_gateway, address) = start_gateway(&example, &described);
    let mut wrong = Vec::new();
    assert!(!described.requests.is_empty());
    for case in &described.requests {
        assert!(case.expect.is_some() || case.expect_last.is_some(), "`{}` expects nothing", case.name);
        for time in 1..=case.repeat {
            let last = case.expect_last.as_ref().filter(|_| time == case.repeat);
            let answer = send(address, &case.request);
            let expect = last.or(case.expect.as_ref());
            let faults = expect.map_or_else(Vec::new, |expect| faults(expect, &answer));
            if !faults.is_empty() {
                let faults = faults.join("; ");
                wrong.push(format!("{}: {faults}\n{}{}", case.name, answer.head, answer.text()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn has_python() -> bool {
    let found = Command::new("python3").args(["-c", "import venv, ensurepip"]).output();
    let found = found.is_ok_and(|ran| ran.status.success());
    if !found {
        eprintln!("skipped: python3 with venv is not installed");
    }
    found
}

#[test]
fn quickstart() {
    if has_python() {
        run("quickstart", Duration::from_secs(10));
    }
}

#[test]
fn sidecar() {
    if has_python() {
        // The first start installs the service.
        run("sidecar", Duration::from_secs(150));
    }
}

#[test]
fn ldap() {
    if !fs::exists("/usr/sbin/slapd").unwrap() {
        eprintln!("skipped: slapd is not installed");
    } else if has_python() {
        run("ldap", Duration::from_secs(10));
    }
}

#[test]
fn oidc() {
    let found = Command::new("npm").arg("--version").output().is_ok_and(|ran| ran.status.success());
    if found {
        // The first start installs the provider.
        run("oidc", Duration::from_secs(150));
    } else {
        eprintln!("skipped: npm is not installed");
    }
}

#[test]
fn every_example_is_run() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let found = fs::read_dir(examples).unwrap().map(|entry| entry.unwrap().path());
    let found = found.filter(|path| path.join("requests.yaml").exists());
    let names: BTreeSet<_> = found.map(|path| path.file_name().unwrap().to_owned()).collect();
    // An example that is not here needs a test above.
    assert_eq!(names, ["ldap", "oidc", "quickstart", "sidecar"].into_iter().map(Into::into).collect());
}
