//! The configuration file: what loads, what is refused and with which words, and that no secret is ever shown.

use std::path::Path;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use postern::config::diagnostic::ConfigErrors;
use postern::config::model::{Balance, ClientAuth, KeySetSource, Lifecycle, LimitStore, Provider};
use postern::config::{self, Loaded, ShowFormat};
use proptest::prelude::*;
use tempfile::TempDir;

/// The example of the documentation, without what is not built.
const FULL: &str = r#"
version: 1
labels: {app: orders, region: eu-1}
workers: 4

listeners:
  - name: public
    address: 0.0.0.0:8443
    tls:
      certificates: [{cert: server.pem, key: server.key}]
      client_auth: {mode: optional, ca: clients.pem, crl: clients.crl}
      min_version: "1.2"
    protocols: [h2, http/1.1]
    trusted_proxies: [10.0.0.0/8]
    allow_from: [0.0.0.0/0]
    apis: [orders]
    limits:
      connections: 10000
      header_bytes: 32KiB
      headers: 100
      body_bytes: 1MiB
      handshake_timeout: 10s
      header_timeout: 10s
      body_timeout: 30s
      idle_timeout: 60s
      streams: 100

identity:
  corp: {type: jwt, issuer: "https://idp.example", audiences: [orders], jwks_uri: "https://idp.example/jwks", algorithms: [RS256, ES256], claims: {subject: sub, roles: realm_access.roles, groups: groups, scopes: scope}, leeway: 30s}
  partners: {type: api_key, header: X-Api-Key, keys: keys.yaml}
  devices: {type: client_certificate, subject: san_uri}

upstreams:
  orders:
    endpoints: ["https://127.0.0.1:9000"]
    balance: p2c
    timeouts: {connect: 2s, response: 15s, idle: 60s}
    retries: {attempts: 2, budget: 0.2}
    health: {path: /healthz, interval: 5s}
    tls: {ca: up-ca.pem, cert: c.pem, key: c.key, server_name: orders.internal}

policies:
  main:
    bundle: policies
    decision: gateway/decision
    response: gateway/response
    contract: gateway/v1
    budget: 5ms
    on_error: deny
    self_test: true

apis:
  - name: orders
    version: v2
    hosts: [orders.example.com]
    base_path: /v2
    lifecycle: {state: active}
    identity: [corp, partners, devices]
    policy: main
    upstream: orders
    routes:
      - {name: read-order, path: "/orders/{id}", methods: [GET]}
      - {name: create-order, path: /orders, methods: [POST], body_bytes: 64KiB}

limits: {store: memory}

decision_logs:
  - {type: stdout}
  - {type: file, path: decisions.jsonl}

telemetry: {metrics: true}
admin: {address: 127.0.0.1:9901}
"#;

/// The least that loads.
const LEAST: &str = "
version: 1
listeners: [{name: local, address: 127.0.0.1:8080}]
upstreams: {app: {endpoints: [\"http://127.0.0.1:9000\"]}}
policies: {main: {bundle: policies}}
apis: [{name: app, policy: main, upstream: app}]
";

/// A directory with every file that the examples name.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| std::fs::write(directory.path().join(name), text).unwrap();
    for (cert, key) in [("server.pem", "server.key"), ("c.pem", "c.key")] {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        write(cert, made.cert.pem());
        write(key, made.signing_key.serialize_pem());
    }
    let mut authority = rcgen::CertificateParams::new(vec![]).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign, rcgen::KeyUsagePurpose::KeyCertSign];
    let authority = rcgen::CertifiedIssuer::self_signed(authority, rcgen::KeyPair::generate().unwrap()).unwrap();
    let revoked = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2026, 1, 1),
        next_update: rcgen::date_time_ymd(2046, 1, 1),
        crl_number: 1_u64.into(),
        issuing_distribution_point: None,
        revoked_certs: vec![],
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    write("clients.crl", revoked.signed_by(&authority).unwrap().pem().unwrap());
    write("clients.pem", authority.pem());
    write("up-ca.pem", authority.pem());
    write("keys.yaml", "keys: []\n".to_owned());
    write("jwks.json", "{\"keys\": []}\n".to_owned());
    write("not.pem", "-----BEGIN PRIVATE KEY----- TOPSECRETKEY -----END PRIVATE KEY-----\n".to_owned());
    write("pw", "hunter2\n".to_owned());
    write("bundle.tar.gz", String::new());
    std::fs::create_dir(directory.path().join("policies")).unwrap();
    directory
}

fn no_environment(_: &str) -> Option<String> {
    None
}

fn load_in(directory: &Path, text: &str) -> Result<Loaded, ConfigErrors> {
    let file = directory.join("gateway.yaml");
    std::fs::write(&file, text).unwrap();
    config::load(&file, &no_environment)
}

#[track_caller]
fn good(text: &str) -> Loaded {
    load_in(directory().path(), text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The errors, one a line, without the directory.
fn errors(text: &str) -> String {
    let directory = directory();
    match load_in(directory.path(), text) {
        Ok(_) => "loads".to_owned(),
        Err(errors) => errors.to_string().replace(&format!("{}/", directory.path().display()), ""),
    }
}

/// The only error of a text, as `line:column: message` and `help`.
#[track_caller]
fn check_error(text: &str, want: &str) {
    assert_eq!(errors(text).replace("gateway.yaml:", "").replace("\n  help: ", " | "), want, "{text}");
}

/// The only error once `old` is replaced by `new` in the full example; lines and columns left out.
#[track_caller]
fn check(old: &str, new: &str, want: &str) {
    assert_eq!(FULL.matches(old).count(), 1, "`{old}` stands once in the example");
    let errors = errors(&FULL.replace(old, new));
    let got = errors.split_once(": ").map_or(errors.as_str(), |(_, message)| message);
    assert_eq!(got.replace("\n  help: ", " | "), want, "{new}");
}

#[test]
fn the_full_example_loads() {
    let loaded = good(FULL);
    let config = &loaded.config;
    assert_eq!(loaded.warnings, []);
    assert_eq!((config.workers, config.labels["app"].as_str()), (4, "orders"));
    let listener = &config.listeners[0];
    assert!(matches!(listener.tls.as_ref().unwrap().client_auth, ClientAuth::Optional { crl: Some(_), .. }));
    assert!(listener.trusted_proxies.contains("10.9.9.9".parse().unwrap()));
    assert_eq!(listener.limits.header_bytes.bytes(), 32 * 1024);
    let Provider::Jwt(jwt) = &config.identity["corp"] else { panic!("corp is a jwt provider") };
    assert_eq!(jwt.algorithms, [Algorithm::RS256, Algorithm::ES256]);
    assert_eq!(jwt.claims.roles.as_deref().unwrap(), ["realm_access", "roles"]);
    let KeySetSource::Url { refresh, .. } = jwt.keys else { panic!("keys from a URL") };
    assert_eq!(refresh, Duration::from_mins(5));
    let upstream = &config.upstreams["orders"];
    assert_eq!((upstream.endpoints[0].tls, upstream.endpoints[0].port), (true, 9000));
    assert_eq!(upstream.balance, Balance::PowerOfTwo);
    assert_eq!(config.policies["main"].decision, ["gateway", "decision"]);
    let api = &config.apis[0];
    assert_eq!((api.base_path.as_str(), api.lifecycle.clone()), ("/v2", Lifecycle::Active));
    assert_eq!(api.routes[1].body_bytes.unwrap().bytes(), 64 * 1024);
    assert_eq!(api.identity_headers.len(), 15);
    let names: Vec<String> = config
        .files
        .iter()
        .map(|file| file.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    let want = [
        "c.key", "c.pem", "clients.crl", "clients.pem", "gateway.yaml", "keys.yaml", "policies", "server.key",
        "server.pem", "up-ca.pem",
    ];
    assert_eq!(names, want);
    assert!(config.files.iter().all(|file| file.is_absolute()));
}

#[test]
fn the_least_example_gets_the_defaults() {
    let loaded = good(LEAST);
    let config = &loaded.config;
    assert!(config.workers >= 1);
    assert_eq!(config.drain_timeout, Duration::from_secs(30));
    assert_eq!((config.reload.watch, config.reload.history), (true, 5));
    assert_eq!(config.limits, LimitStore::Memory { keys: 100_000 });
    assert_eq!(config.admin, None);
    assert_eq!(config.decision_logs.len(), 1);
    assert!(config.telemetry.metrics);
    let listener = &config.listeners[0];
    assert_eq!(listener.apis.iter().map(|name| &**name).collect::<Vec<_>>(), ["app"]);
    assert!(listener.protocols.http1 && listener.protocols.http2);
    assert!(listener.allow_from.is_empty(), "an empty set is everyone");
    let api = &config.apis[0];
    assert_eq!((api.base_path.as_str(), api.routes.len()), ("", 0));
    assert!(config.upstreams["app"].preserve_host);
}

#[test]
fn the_schema_accepts_the_examples() {
    let validator = jsonschema::draft202012::new(config::schema()).unwrap();
    assert!(jsonschema::draft202012::meta::is_valid(config::schema()));
    for text in [FULL, LEAST] {
        let shown = config::show(&good(text), ShowFormat::Json);
        let document = serde_json::from_str(&shown).unwrap();
        let faults: Vec<String> = validator.iter_errors(&document).map(|error| error.to_string()).collect();
        assert_eq!(faults, [String::new(); 0]);
    }
}

#[test]
fn all_errors_come_at_once_in_the_order_of_the_file() {
    let text = "
version: 1
lisseners: []
listeners:
  - {name: a, address: 0.0.0.0:80}
  - {name: b, address: nowhere, limits: {headers: many}}
upstreams: {app: {endpoints: [\"http://h/path\"]}}
policies: {main: {bundle: absent}}
apis: [{name: app, policy: mian, upstream: app, identity: [nobody]}]
";
    let want = "\
gateway.yaml:3:1: unknown key `lisseners`
  help: did you mean `listeners`?
gateway.yaml:5:24: a listener on `0.0.0.0:80` needs `tls`
  help: others can reach it and read along; if something in front of it ends TLS, say `plaintext: true`
gateway.yaml:6:50: expected a whole number, found a text
gateway.yaml:7:31: the endpoint `http://h/path` has a path
  help: write `http://host:port` or `https://host:port`, without a path
gateway.yaml:8:27: there is no directory `absent`
  help: relative paths begin at the directory of the configuration file
gateway.yaml:9:28: unknown policy `mian`
  help: did you mean `main`?
gateway.yaml:9:60: unknown identity provider `nobody`
  help: there is no identity provider yet";
    assert_eq!(errors(text), want);
}
