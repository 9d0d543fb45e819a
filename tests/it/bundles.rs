//! Packed and signed bundles: made by the real binary, served by a real gateway.

use std::fs;
use std::path::Path;

use rcgen::KeyPair;

use crate::gateway::{ALLOW_ALL, TestGateway};
use crate::policy_cli::{Ran, files, gatewayctl};
use crate::wire::{RecordingUpstream, get};

const DENY_ALL: &str = "package gateway\n\ndecision := {\"allow\": data.allow}\n";

/// A directory with a bundle in `policy/` and a key pair.
fn workshop() -> tempfile::TempDir {
    let key = KeyPair::generate().unwrap();
    let root = files(&[
        ("policy/gateway/main.rego", DENY_ALL),
        ("policy/gateway/main_test.rego", "package gateway_test\ntest_it if true\n"),
        ("policy/data.json", "{\"allow\": false, \"n\": 1.0}"),
        ("policy/.manifest", "{\"revision\": \"first\", \"roots\": [\"\"]}"),
        ("policy/NOTES.md", "not a policy"),
        ("key.pem", &key.serialize_pem()),
        ("pub.pem", &key.public_key_pem()),
        ("other.pem", &KeyPair::generate().unwrap().public_key_pem()),
    ]);
    fs::write(root.path().join("secret"), "0123456789abcdef0123456789abcdef\n").unwrap();
    root
}

const SIGN: [&str; 4] = ["--signing-key", "key.pem", "--signing-alg", "ES256"];

fn run(root: &Path, command: &[&str], more: &[&str]) -> Ran {
    let arguments: Vec<&str> = ["policy"].iter().chain(command).chain(more).copied().collect();
    gatewayctl(root, &arguments)
}

#[track_caller]
fn fine(root: &Path, command: &[&str], more: &[&str]) -> Ran {
    let ran = run(root, command, more);
    assert_eq!(ran.code, Some(0), "{command:?}: {}{}", ran.out, ran.notes);
    ran
}

fn verify(root: &Path, bundle: &str, more: &[&str]) -> Ran {
    run(root, &["verify", bundle, "--verification-key", "pub.pem", "--signing-alg", "ES256"], more)
}

#[test]
fn a_built_bundle_is_small_and_the_same_each_time() {
    let root = workshop();
    fine(root.path(), &["build", "policy", "-r", "r7"], &[]);
    let first = fs::read(root.path().join("bundle.tar.gz")).unwrap();
    fine(root.path(), &["build", "policy", "-r", "r7", "-o", "again.tar.gz"], &[]);
    assert_eq!(first, fs::read(root.path().join("again.tar.gz")).unwrap());
    let shown = fine(root.path(), &["inspect", "bundle.tar.gz", "-f", "json"], &[]).json();
    assert_eq!(shown["manifest"]["revision"], "r7");
    assert_eq!(shown["signed"], false);
    assert_eq!(
        shown["namespaces"],
        serde_json::json!({"data": ["data.json"], "data.gateway": ["gateway/main.rego"]})
    );
    let shown = fine(root.path(), &["inspect", "policy"], &[]).out;
    assert!(shown.contains("revision: \"first\""), "{shown}");
    let asked = fine(root.path(), &["eval", "bundle.tar.gz", "-q", "data.gateway.decision.allow"], &[]);
    assert_eq!(asked.out.trim(), "false");
}

#[test]
fn no_broken_bundle_is_built() {
    let root = workshop();
    fs::write(root.path().join("policy/bad.rego"), "package bad\np if input.x ==\n").unwrap();
    let ran = run(root.path(), &["build", "policy"], &[]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.notes.contains("bad.rego:3"), "{}", ran.notes);
    assert!(!root.path().join("bundle.tar.gz").exists());
}

#[test]
fn a_signature_holds_for_exactly_what_was_signed() {
    let root = workshop();
    let path = |name: &str| root.path().join(name);
    fine(root.path(), &["sign", "policy"], &SIGN);
    assert_eq!(verify(root.path(), "policy", &[]).code, Some(0));
    #[track_caller]
    fn refused(ran: &Ran, file: &str, why: &str) {
        assert_eq!(ran.code, Some(2), "{}{}", ran.out, ran.notes);
        assert!(ran.out.contains(file) && ran.out.contains(why), "{}", ran.out);
    }
    // Documents are signed by what they say, everything else by its bytes.
    fs::write(path("policy/data.json"), "{\n \"n\": 1.0, \"allow\": false }").unwrap();
    assert_eq!(verify(root.path(), "policy", &[]).code, Some(0));
    fs::write(path("policy/data.json"), "{\"allow\": true, \"n\": 1.0}").unwrap();
    refused(&verify(root.path(), "policy", &[]), "data.json", "not what was signed");
    assert_eq!(verify(root.path(), "policy", &["--exclude-files-verify", "*.json"]).code, Some(0));
    fs::write(path("policy/data.json"), "{\"allow\": false, \"n\": 1.0}").unwrap();
    fs::write(path("policy/gateway/more.rego"), "package gateway\n").unwrap();
    refused(&verify(root.path(), "policy", &[]), "more.rego", "not in the bundle's signature");
    fs::remove_file(path("policy/gateway/more.rego")).unwrap();
    fs::rename(path("policy/NOTES.md"), path("NOTES.md")).unwrap();
    refused(&verify(root.path(), "policy", &[]), "NOTES.md", "missing");
    fs::rename(path("NOTES.md"), path("policy/NOTES.md")).unwrap();
    refused(&verify(root.path(), "policy", &["--scope", "write"]), ".signatures.json", "scope");
    fs::copy(path("other.pem"), path("pub.pem")).unwrap();
    refused(&verify(root.path(), "policy", &[]), ".signatures.json", "not signed by the key");
    fs::remove_file(path("policy/.signatures.json")).unwrap();
    refused(&verify(root.path(), "policy", &[]), "policy", "not signed");
}

#[test]
fn keys_that_do_not_fit_are_refused() {
    let root = workshop();
    let ran = run(root.path(), &["sign", "policy", "--signing-key", "key.pem"], &[]);
    assert_eq!(ran.code, Some(1), "{}", ran.notes);
    assert!(ran.notes.contains("RS256"), "{}", ran.notes);
    let ran = run(root.path(), &["sign", "policy", "--signing-key", "key.pem", "--signing-alg", "none"], &[]);
    assert!(ran.notes.contains("unknown algorithm `none`"), "{}", ran.notes);
    fs::write(root.path().join("short"), "secret").unwrap();
    let ran = run(root.path(), &["sign", "policy", "--signing-key", "short", "--signing-alg", "HS256"], &[]);
    assert!(ran.notes.contains("can be guessed"), "{}", ran.notes);
    let hmac = ["--signing-key", "secret", "--signing-alg", "HS256", "--scope", "read"];
    fine(root.path(), &["build", "policy"], &hmac);
    let ran = run(
        root.path(),
        &["verify", "bundle.tar.gz", "--verification-key", "secret", "--signing-alg", "HS256"],
        &["--scope", "read"],
    );
    assert_eq!(ran.code, Some(0), "{}", ran.out);
    // A public key taken for a secret is how tokens are forged.
    assert_eq!(verify(root.path(), "bundle.tar.gz", &[]).code, Some(2));
}

fn config(upstream: &RecordingUpstream, root: &Path, signing: &str) -> String {
    format!(
        "version: 1\nworkers: 1\nlisteners: [{{name: public, address: \"127.0.0.1:0\"}}]\n\
         upstreams: {{up: {{endpoints: [\"{}\"]}}}}\n\
         policies:\n  main:\n    bundle: {}/bundle.tar.gz\n    budget: 5s\n{signing}\
         apis: [{{name: all, policy: main, upstream: up}}]\ndecision_logs: []\nreload: {{watch: false}}\n",
        upstream.url(),
        root.display(),
    )
}

#[test]
fn a_gateway_serves_a_signed_bundle_and_takes_no_other() {
    let upstream = RecordingUpstream::start();
    let root = workshop();
    let build = |more: &[&str]| {
        fine(root.path(), &["build", "policy", "-o", "made.tar.gz"], more);
        fs::read(root.path().join("made.tar.gz")).unwrap()
    };
    let signed_by = [SIGN.as_slice(), &["--signing-key-id", "release"]].concat();
    let deny = build(&signed_by);
    fs::write(root.path().join("policy/gateway/main.rego"), ALLOW_ALL).unwrap();
    let allow = build(&signed_by);
    let unsigned = build(&[]);

    let serve = |bundle: &[u8]| fs::write(root.path().join("bundle.tar.gz"), bundle).unwrap();
    serve(&deny);
    let signing = format!(
        "    signing: {{keys: {{release: {{algorithm: ES256, file: {}/pub.pem}}}}}}\n",
        root.path().display()
    );
    let gateway = TestGateway::start(&config(&upstream, root.path(), &signing), &[]);
    let status = || get(gateway.address("public"), "/", "").status;
    assert_eq!(status(), 403);
    let reload = |bundle: &[u8]| {
        serve(bundle);
        gateway.running().reloader().reload().map_err(|errors| errors.to_string())
    };
    reload(&allow).unwrap();
    assert_eq!(status(), 200);
    let refused = reload(&unsigned).unwrap_err();
    assert!(refused.contains("bundle is not signed"), "{refused}");
    let refused = reload(&allow[..allow.len() - 9]).unwrap_err();
    assert!(refused.contains("no gzipped tar archive"), "{refused}");
    assert_eq!(status(), 200, "the last good one goes on");
    // Signed, and nobody to ask: OPA takes no such bundle on trust, nor does the gateway.
    gateway.write("gateway.yaml", &config(&upstream, root.path(), ""));
    let refused = reload(&allow).unwrap_err();
    assert!(refused.contains("bundle is signed, and no key is configured"), "{refused}");
    reload(&unsigned).unwrap();
    assert_eq!(status(), 200);
}
