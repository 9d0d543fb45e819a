//! A credential that was withdrawn stays withdrawn, whatever becomes of configuration and policies.

use crate::gateway::{ALLOW_ALL, TestGateway, eventually};
use crate::live_support::sha256_hex;
use crate::wire::{RecordingUpstream, get};

const KEY: &str = "pst_first";
const OTHER: &str = "pst_second";

fn keys(listed: &[&str]) -> String {
    let entry =
        |key: &&str| format!("  - {{id: {key}, sha256: \"{}\", owner: {key}}}\n", sha256_hex(key.as_bytes()));
    format!("keys:\n{}", listed.iter().map(entry).collect::<String>())
}

fn start(upstream: &RecordingUpstream, watch: bool) -> TestGateway {
    let config = format!(
        "version: 1\nworkers: 2\nlisteners: [{{name: public, address: \"127.0.0.1:0\"}}]\n\
         identity: {{partners: {{type: api_key, keys: keys.yaml}}}}\n\
         upstreams: {{up: {{endpoints: [\"{}\"]}}}}\n\
         policies: {{main: {{bundle: policy, decision: gateway/decision, budget: 5s}}}}\n\
         apis: [{{name: all, identity: [partners], policy: main, upstream: up}}]\n\
         decision_logs: []\nreload: {{watch: {watch}}}\n",
        upstream.url()
    );
    TestGateway::start(&config, &[("policy/main.rego", ALLOW_ALL), ("keys.yaml", &keys(&[KEY, OTHER]))])
}

fn status(gateway: &TestGateway, key: &str) -> u16 {
    get(gateway.address("public"), "/", &format!("X-Api-Key: {key}\r\n")).status
}

#[test]
fn rollback_does_not_bring_a_withdrawn_key_back() {
    let upstream = RecordingUpstream::start();
    let gateway = start(&upstream, false);
    assert_eq!((status(&gateway, KEY), status(&gateway, OTHER)), (200, 200));
    gateway.write("keys.yaml", &keys(&[OTHER]));
    gateway.running().reloader().reload().unwrap();
    assert_eq!((status(&gateway, KEY), status(&gateway, OTHER)), (401, 200));
    assert!(gateway.running().reloader().roll_back().unwrap());
    // On every worker: each has a cache of identities of its own.
    for _ in 0..8 {
        assert_eq!((status(&gateway, KEY), status(&gateway, OTHER)), (401, 200));
    }
}

#[test]
fn a_rollback_whose_keys_cannot_be_read_is_refused() {
    let upstream = RecordingUpstream::start();
    let gateway = start(&upstream, false);
    gateway.write("keys.yaml", &keys(&[OTHER]));
    gateway.running().reloader().reload().unwrap();
    gateway.write("keys.yaml", "keys: {");
    let refused = gateway.running().reloader().roll_back().unwrap_err().to_string();
    assert!(refused.contains("keys.yaml"), "{refused}");
    assert_eq!((status(&gateway, KEY), status(&gateway, OTHER)), (401, 200));
    gateway.write("keys.yaml", &keys(&[OTHER]));
    assert!(
        gateway.running().reloader().roll_back().unwrap(),
        "the refused one is still there to go back to"
    );
}

#[test]
fn a_policy_or_configuration_that_is_refused_does_not_hold_up_a_revocation() {
    for (file, broken) in
        [("policy/main.rego", "package gateway\n\ndecision := {{\n"), ("gateway.yaml", "version: 2\n")]
    {
        let upstream = RecordingUpstream::start();
        let gateway = start(&upstream, false);
        assert_eq!(status(&gateway, KEY), 200);
        gateway.write(file, broken);
        assert!(gateway.running().reloader().reload().is_err(), "{file}");
        assert_eq!(status(&gateway, KEY), 200, "{file}");
        gateway.write("keys.yaml", &keys(&[OTHER]));
        assert!(gateway.running().reloader().reload().is_err(), "{file}");
        assert_eq!((status(&gateway, KEY), status(&gateway, OTHER)), (401, 200), "{file}");
    }
}

#[test]
fn a_watched_keys_file_is_read_while_the_policy_is_broken() {
    let upstream = RecordingUpstream::start();
    let gateway = start(&upstream, true);
    gateway.write("policy/main.rego", "package gateway\n\ndecision := {{\n");
    gateway.write("keys.yaml", &keys(&[OTHER]));
    eventually("the revocation", || (status(&gateway, KEY) == 401).then_some(()));
    assert_eq!(status(&gateway, OTHER), 200);
}
