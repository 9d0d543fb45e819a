//! `gatewayctl demo`, as a newcomer runs it.

use std::process::Command;

#[test]
fn every_request_of_the_tour_is_answered_as_told() {
    let ran = Command::new(env!("CARGO_BIN_EXE_gatewayctl"))
        .args(["demo", "--check", "--port", "0"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{told}{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(told.lines().filter(|line| line.starts_with("ok")).count(), 12, "{told}");
}

#[test]
fn a_port_that_is_taken_is_told_with_a_hint() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ran =
        Command::new(env!("CARGO_BIN_EXE_gatewayctl")).args(["demo", "--port", &port]).output().unwrap();
    let told = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1));
    assert!(told.contains(&port) && told.contains("hint: ") && told.contains("--port "), "{told}");
}
