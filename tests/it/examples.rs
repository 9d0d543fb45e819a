//! The examples, with their services, as their `requests.yaml` describe them (see `examples/README.md`).

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use regorus::Value as Yaml;
use serde_json::Value;

use crate::wire::{RawResponse, ask};

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

fn yaml(path: &Path) -> Value {
    serde_json::to_value(Yaml::from_yaml_str(&fs::read_to_string(path).unwrap()).unwrap()).unwrap()
}

/// A copy of the example with free ports in the place of its own.
fn prepare(name: &str, root: &Path) -> (PathBuf, Value) {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = root.join("examples").join(name);
    copy(&project.join("examples").join(name), &example);
    copy(&project.join("policies"), &root.join("policies"));
    let addresses = yaml(&example.join("requests.yaml"))["addresses"].clone();
    for address in addresses.as_object().unwrap().values() {
        let free = free_address().to_string();
        for file in ["gateway.yaml", "requests.yaml"] {
            let path = example.join(file);
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text.replace(address.as_str().unwrap(), &free)).unwrap();
        }
    }
    // A busy machine and an unoptimised build may need longer than the default budget of an evaluation.
    let path = example.join("gateway.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("    decision: ", "    budget: 5s\n    decision: ")).unwrap();
    let described = yaml(&example.join("requests.yaml"));
    (example, described)
}

fn start_service(example: &Path, described: &Value, patience: Duration) -> Running {
    let command: Vec<&str> = described["service"]["command"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect();
    let program = if command[0].starts_with("./") { example.join(command[0]) } else { command[0].into() };
    let service = Command::new(program)
        .args(&command[1..])
        .current_dir(example)
        .env("VENV", std::env::temp_dir().join("postern-example-venv"))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let service = Running(service);
    let address: SocketAddr = described["addresses"]["service"].as_str().unwrap().parse().unwrap();
    let deadline = Instant::now() + patience;
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "the service does not start");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let ready = described["service"]["ready"].as_str().unwrap();
    assert_eq!(
        ask(address, format!("GET {ready} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")).status,
        200
    );
    service
}

fn start_gateway(example: &Path, described: &Value) -> Running {
    let mut gateway = Command::new(env!("CARGO_BIN_EXE_gatewayctl"))
        .args(["run", "--log-format", "json", "--config", described["config"].as_str().unwrap()])
        .current_dir(example)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(gateway.stderr.take().unwrap());
    let running = Running(gateway);
    let mut line = String::new();
    while !line.contains("Listening") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "the gateway does not start");
    }
    // What follows is read, so that the gateway never waits for a reader.
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    running
}

fn send(address: SocketAddr, request: &Value) -> RawResponse {
    let text = |key: &str, default: &str| request[key].as_str().unwrap_or(default).to_owned();
    let mut head = format!("{} {} HTTP/1.1\r\nHost: {address}\r\n", text("method", "GET"), text("path", "/"));
    for (name, value) in request["headers"].as_object().into_iter().flatten() {
        head.push_str(&format!("{name}: {}\r\n", value.as_str().unwrap()));
    }
    let body = text("body", "");
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    ask(address, format!("{head}\r\n{body}"))
}

/// What of `expect` does not hold of `answer`.
fn faults(expect: &Value, answer: &RawResponse) -> Vec<String> {
    let mut faults = Vec::new();
    if expect["status"].as_u64().is_some_and(|status| status != u64::from(answer.status)) {
        faults.push(format!("status {} instead of {}", answer.status, expect["status"]));
    }
    for (name, wanted) in expect["headers"].as_object().into_iter().flatten() {
        let got = answer.header(name);
        let good = match wanted.as_str() {
            None => got.is_none(),
            Some("*") => got.is_some(),
            Some(wanted) => got == Some(wanted),
        };
        if !good {
            faults.push(format!("header {name}: {got:?} instead of {wanted}"));
        }
    }
    let parts = |key: &str| expect[key].as_array().cloned().unwrap_or_default();
    let holds = |part: &Value| answer.text().contains(part.as_str().unwrap());
    faults
        .extend(parts("body").iter().filter(|part| !holds(part)).map(|part| format!("body without {part}")));
    faults.extend(
        parts("body_without").iter().filter(|part| holds(part)).map(|part| format!("body with {part}")),
    );
    faults
}

fn run(name: &str, patience: Duration) {
    let root = tempfile::tempdir().unwrap();
    let (example, described) = prepare(name, root.path());
    let _service = start_service(&example, &described, patience);
    let _gateway = start_gateway(&example, &described);
    let address: SocketAddr = described["addresses"]["gateway"].as_str().unwrap().parse().unwrap();
    let mut wrong = Vec::new();
    let requests = described["requests"].as_array().unwrap();
    assert!(!requests.is_empty());
    for case in requests {
        let times = case["repeat"].as_u64().unwrap_or(1);
        for time in 1..=times {
            let last = time == times && !case["expect_last"].is_null();
            let expect = if last { &case["expect_last"] } else { &case["expect"] };
            let answer = send(address, &case["request"]);
            let faults = faults(expect, &answer);
            if !faults.is_empty() {
                wrong.push(format!(
                    "{}: {}\n{}{}",
                    case["name"],
                    faults.join("; "),
                    answer.head,
                    answer.text()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn has_python() -> bool {
    let found = Command::new("python3").args(["-c", "import venv, ensurepip"]).output();
    let found = found.is_ok_and(|ran| ran.status.success());
    if !found {
        eprintln!("SKIPPED: python3 with venv is not installed");
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
