//! `gatewayctl demo`, as a newcomer runs it.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewayctl"));
    command.arg("demo").args(arguments);
    command
}

/// A demo with a temporary directory of its own; it ends with the test.
struct Running {
    process: Child,
    out: BufReader<ChildStdout>,
}

impl Running {
    fn start(temporary: &Path) -> Self {
        let mut command = demo(&["--port", "0"]);
        let mut process = command.env("TMPDIR", temporary).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        Self { process, out }
    }

    /// Reads up to the first line with `part`.
    fn read_to(&mut self, part: &str) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        loop {
            let mut line = String::new();
            assert!(self.out.read_line(&mut line).unwrap() > 0, "no `{part}` in {lines:#?}");
            lines.push(line.trim_end().to_owned());
            if line.contains(part) {
                return lines;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[test]
fn every_request_of_the_tour_is_answered_as_told() {
    let temporary = tempfile::tempdir().unwrap();
    let ran = demo(&["--check", "--port", "0"]).env("TMPDIR", temporary.path()).output().unwrap();
    let told = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{told}{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(String::from_utf8_lossy(&ran.stderr), "");
    assert_eq!(told.lines().filter(|line| line.starts_with("ok")).count(), 12, "{told}");
    assert!(told.ends_with("12 of 12 answers are as expected\n"), "{told}");
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0, "the demo leaves nothing");
}

#[test]
fn printed_commands_work_and_their_decisions_are_shown() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("skipped: curl is not installed");
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let mut running = Running::start(temporary.path());
    let shown = running.read_to("Ctrl-C");
    let commands: Vec<&str> =
        shown.iter().map(|line| line.trim()).filter(|line| line.contains("curl -i")).collect();
    assert_eq!(commands.len(), 12, "{shown:#?}");
    let mut expected = Vec::new();
    for (line, command) in shown.iter().zip(shown.iter().skip(1)).filter(|(_, next)| next.contains("curl -i"))
    {
        let statuses = line.split_whitespace().map_while(|word| word.parse::<u16>().ok());
        let statuses: Vec<u16> = statuses.collect();
        let ran = Command::new("sh").args(["-c", command]).output().unwrap();
        let answered = String::from_utf8_lossy(&ran.stdout);
        let got = answered.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
        assert_eq!(got.collect::<Vec<u16>>(), statuses, "{command}\n{answered}");
        assert!(!answered.contains("pst_"), "no credential on the screen: {answered}");
        expected.extend(statuses);
    }
    let decisions = running.read_to("429 limited");
    let statuses = decisions.iter().filter_map(|line| line.split_whitespace().next()?.parse().ok());
    assert_eq!(statuses.collect::<Vec<u16>>(), expected);
    let globex = decisions.iter().find(|line| line.contains("globex")).unwrap();
    assert!(globex.contains("403 denied") && globex.contains("client_not_allowed"), "{globex}");
}

#[test]
fn a_saved_rule_is_in_force_at_once() {
    let temporary = tempfile::tempdir().unwrap();
    let mut running = Running::start(temporary.path());
    let shown = running.read_to("Ctrl-C");
    let rules = shown.iter().find_map(|line| line.trim().strip_prefix("Rules")).unwrap();
    let rules = Path::new(rules.split_whitespace().next().unwrap());
    let text = std::fs::read_to_string(rules).unwrap();
    assert!(text.contains("globex: false"));
    std::fs::write(rules, text.replace("globex: false", "globex: true")).unwrap();
    running.read_to("the new rules are in force");
}

#[test]
fn a_port_that_is_taken_is_told_with_a_hint() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let ran = demo(&["--port", &port.to_string()]).output().unwrap();
    let told = String::from_utf8_lossy(&ran.stderr);
    assert_eq!((ran.status.code(), ran.stdout.as_slice()), (Some(1), &b""[..]));
    assert!(told.contains(&format!("port {port} of 127.0.0.1 is in use")), "{told}");
    assert!(told.contains("hint: ") && told.contains("gatewayctl demo --port "), "{told}");
}

#[test]
fn an_interrupt_ends_it_and_removes_its_files() {
    let temporary = tempfile::tempdir().unwrap();
    let mut running = Running::start(temporary.path());
    running.read_to("Ctrl-C");
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 1);
    let id = running.process.id().to_string();
    assert!(Command::new("sh").args(["-c", &format!("kill -INT {id}")]).status().unwrap().success());
    assert_eq!(running.process.wait().unwrap().code(), Some(0));
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
}
