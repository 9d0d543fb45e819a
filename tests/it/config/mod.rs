//! The configuration file: what loads, what is refused and with which words, and that no secret is ever shown.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use postern::config::diagnostic::ConfigErrors;
use postern::config::model::{Balance, ClientAuth, KeySetSource, Lifecycle, LimitStore, Provider};
use postern::config::{self, Loaded, ShowFormat};
use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

/// The example of the documentation, without what is not built.
const FULL: &str = include_str!("full.yaml");

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
    let authority =
        rcgen::CertifiedIssuer::self_signed(authority, rcgen::KeyPair::generate().unwrap()).unwrap();
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
    errors_in(directory().path(), text)
}

fn errors_in(directory: &Path, text: &str) -> String {
    match load_in(directory, text) {
        Ok(_) => "loads".to_owned(),
        Err(errors) => errors.to_string().replace(&format!("{}/", directory.display()), ""),
    }
}

/// The only error of a text, as `line:column: message` and `help`.
#[track_caller]
fn check_error(text: &str, want: &str) {
    let got = errors(text).replace("gateway.yaml:", "").replace("\n  help: ", " | ");
    assert_eq!(got, want, "{text}");
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
    assert_eq!(api.identity_headers.len(), 20);
    let names: Vec<String> =
        config.files.iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect();
    let want = [
        "c.key",
        "c.pem",
        "clients.crl",
        "clients.pem",
        "gateway.yaml",
        "keys.yaml",
        "policies",
        "server.key",
        "server.pem",
        "up-ca.pem",
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
    assert_eq!((api.base_path.as_str(), api.routes[0].path.as_str()), ("", "/{*rest}"));
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
        assert!(faults.is_empty(), "{faults:?}");
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
gateway.yaml:6:24: `nowhere` is not an address with a port
  help: write an IP address and a port: `0.0.0.0:8443`, `[::1]:8080`
gateway.yaml:6:51: `headers` must be a whole number, not a text
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

#[test]
fn a_file_that_is_no_configuration() {
    check_error(
        "",
        "1:1: the file is empty | a configuration begins with `version: 1`; `gatewayctl config schema` prints what it may hold",
    );
    check_error(
        "a: [",
        "2:1: not valid YAML: while parsing a node, did not find expected node content | check the indentation, quotes and brackets before this place",
    );
    check_error("[1]", "1:1: the configuration must be a mapping, not a list");
    check_error("just text", "1:1: the configuration must be a mapping, not a text");
    check_error(
        &format!("{LEAST}\n---\na: 1\n"),
        "8:1: a second document begins here | one file holds one document; take out the `---`",
    );
    check_error(
        &LEAST.replace("version: 1", "version: 2"),
        "2:10: `version` must be 1, not `2` | this gateway reads no other",
    );
    check_error(
        &LEAST.replace("version: 1", ""),
        "3:1: missing key `version` | The version of this format: `1`",
    );
    check_error(
        &LEAST.replace("version: 1", "version: 1\nversion: 1"),
        "3:1: duplicate key `version`, first given in line 2 | keep one of them",
    );
    check_error(
        &LEAST.replace("version: 1", "version:"),
        "2:8: `version` has no value | give it one, or leave the key out",
    );
    check_error(
        &format!("{LEAST}\nlimits: &a {{store: memory}}\nreload: {{<<: *a}}"),
        "9:10: unknown key `<<` | merge keys are not supported; use a plain alias, or write the keys out",
    );
    let missing = config::load(Path::new("absent.yaml"), &no_environment).unwrap_err().to_string();
    assert_eq!(missing, "absent.yaml: cannot read the configuration: No such file or directory (os error 2)");
}

/// One row of `refused.txt`.
struct Row<'a> {
    old: String,
    new: String,
    want: Vec<&'a str>,
}

/// The rows of a table: what is replaced, what by, and the errors, with empty lines between.
fn rows(table: &str) -> Vec<Row<'_>> {
    table
        .split("\n\n")
        .map(|block| block.lines().filter(|line| !line.starts_with('#')).collect::<Vec<&str>>())
        .filter(|lines| !lines.is_empty())
        .map(|lines| {
            let marked = |mark: &str| -> String {
                lines.iter().filter_map(|line| line.strip_prefix(mark)).collect::<Vec<_>>().join("\n")
            };
            Row {
                old: marked("- "),
                new: marked("+ "),
                want: lines.iter().filter(|line| !line.starts_with(['-', '+'])).copied().collect(),
            }
        })
        .collect()
}

#[test]
fn each_rule_is_refused_in_its_words() {
    let directory = directory();
    let rows = rows(include_str!("refused.txt"));
    assert!(rows.len() > 150, "the table is read");
    let mut wrong = String::new();
    for Row { old, new, want } in &rows {
        assert_eq!(FULL.matches(old.as_str()).count(), 1, "`{old}` stands once in the example");
        let got = errors_in(directory.path(), &FULL.replace(old, new)).replace("gateway.yaml:", "");
        if got.lines().ne(want.iter().copied()) {
            wrong += &format!("- {old}\n+ {new}\n{got}\n\n");
        }
    }
    assert!(wrong.is_empty(), "these rows are not as the table says:\n\n{wrong}");
}

#[test]
fn the_opposite_of_a_refusal_loads() {
    let directory = directory();
    for (old, new) in [
        ("apis: [orders]", "merge_slashes: true"),
        ("jwks_uri: \"https://idp.example/jwks\"", "jwks_uri: \"http://localhost:7000/jwks\""),
        (
            "jwks_uri: \"https://idp.example/jwks\", algorithms: [RS256, ES256]",
            "jwks_file: jwks.json, algorithms: [HS256]",
        ),
        ("balance: p2c", "balance: hash:X-User-Id"),
        ("path: /healthz", "path: \"/healthz?deep=1\""),
        ("workers: 4", "workers: 4.0"),
        ("self_test: true", "shadow: {bundle: policies, sample: 10%, budget: 0.5%}"),
        (
            "self_test: true",
            "shadow: {bundle: \"https://h/b.tar.gz\", size_limit: 1MiB, polling: {max_delay: 5m}}",
        ),
        ("self_test: true", "verify: {sample: 1%, budget: 2%}"),
        ("self_test: true", "engine: interpreter"),
        ("127.0.0.1:9901}", "127.0.0.1:9901, explain: {recent: 100, size_limit: 1MiB}}"),
        ("budget: 5ms", "budget: 250us"),
        ("body_bytes: 1MiB", "body_bytes: 65536"),
        ("hosts: [orders.example.com]", "hosts: [\"*.example.com\", \"[::1]\", 10.0.0.1]"),
        ("base_path: /v2", "base_path: /"),
        (
            "{state: active}",
            "{state: deprecated, since: 2026-01-31, sunset: \"2026-12-31T00:00:00Z\", successor: /v3, docs: \"https://d.example/x\"}",
        ),
        (
            "limits: {store: memory}",
            "  - {name: orders, version: v3, base_path: /v3, policy: main, upstream: orders}",
        ),
        ("path: /orders, methods: [POST]", "path: \"/orders/{id}\", methods: [POST]"),
        ("path: /orders, methods: [POST]", "path: \"/orders/{key}\", methods: [POST]"),
        ("path: /orders, methods: [POST]", "path: \"/{*rest}\""),
        ("path: /orders, methods: [POST]", "path: /orders, identity: []"),
        ("limits: {store: memory}", "drain_timeout: \"0\""),
    ] {
        assert_eq!(FULL.matches(old).count(), 1, "`{old}` stands once in the example");
        let loaded = load_in(directory.path(), &FULL.replace(old, new));
        assert_eq!(loaded.err().map(|errors| errors.to_string()), None, "{new}");
    }
}

#[test]
fn a_plaintext_listener_off_loopback_must_be_asked_for() {
    let exposed = LEAST.replace("127.0.0.1:8080", "0.0.0.0:8080");
    check_error(
        &exposed,
        "3:36: a listener on `0.0.0.0:8080` needs `tls` | others can reach it and read along; if something in front of it ends TLS, say `plaintext: true`",
    );
    good(&exposed.replace("8080}", "8080, plaintext: true}"));
    good(&LEAST.replace("127.0.0.1:8080", "\"[::1]:8080\""));
    good(&LEAST.replace("127.0.0.1:8080", "\"[::ffff:127.0.0.1]:8080\""));
    check_error(
        &LEAST.replace("127.0.0.1:8080", "\"[::ffff:10.0.0.1]:8080\""),
        "3:36: a listener on `[::ffff:10.0.0.1]:8080` needs `tls` | others can reach it and read along; if something in front of it ends TLS, say `plaintext: true`",
    );
}

#[test]
fn a_claim_with_dots_in_its_name() {
    let loaded = good(&FULL.replace("realm_access.roles", "[\"https://example.com/roles\"]"));
    let Provider::Jwt(jwt) = &loaded.config.identity["corp"] else { panic!("corp is a jwt provider") };
    assert_eq!(jwt.claims.roles.as_deref().unwrap(), ["https://example.com/roles"]);
}

#[test]
fn two_apis_may_share_a_host_but_no_request() {
    let api = |text: &str| {
        FULL.replace("limits: {store: memory}", &format!("  - {{{text}, policy: main, upstream: orders}}"))
    };
    let here = |text: &str| api(text).replace("apis: [orders]", "apis: [orders, twin]");
    let twin = "name: twin, hosts: [orders.example.com], base_path: /v2, routes: [{name: a, path: \"/orders/{key}\"}]";
    check_error(
        &here(twin),
        "64:88: this takes the same requests as the API in line 61 | give them different `hosts`, `base_path` or routes, or serve them on different listeners",
    );
    good(&api(twin));
    good(&here(&twin.replace("{name: a", "{name: a, methods: [PUT]")));
    good(&here(&twin.replace("[orders.example.com]", "[\"*.example.com\"]")));
    good(&here(&twin.replace("/v2", "/v3")));
    good(&here("name: twin, hosts: [orders.example.com], base_path: /v2"));
    check_error(
        &here(&twin.replace("/v2", "/").replace("/orders", "/v2/orders")),
        "64:86: this takes the same requests as the API in line 61 | give them different `hosts`, `base_path` or routes, or serve them on different listeners",
    );
    let same = "name: orders, version: v2, base_path: /other";
    check_error(
        &api(same),
        "64:12: the API `orders` in line 52 has the same version | give each version of an API its own `version`",
    );
    check_error(
        &LEAST.replace("apis: [", "apis: [{name: all, policy: main, upstream: app}, "),
        "6:50: this takes the same requests as the API in line 6 | give them different `hosts`, `base_path` or routes, or serve them on different listeners",
    );
}

#[test]
fn what_is_hardly_meant_is_a_warning() {
    let text = "
version: 1
listeners: [{name: local, address: 127.0.0.1:8080, trusted_proxies: [0.0.0.0/0], apis: [app]}]
identity: {spare: {type: api_key, keys: keys.yaml}, mutual: {type: client_certificate}}
upstreams: {app: {endpoints: [\"http://127.0.0.1:9000\"]}, spare: {endpoints: [\"http://127.0.0.1:9001\"]}}
policies: {main: {bundle: policies}, spare: {bundle: policies}}
apis: [{name: app, policy: main, upstream: app, identity: [mutual]}, {name: hidden, base_path: /h, policy: main, upstream: app}]
decision_logs: []
";
    let warnings: Vec<String> = good(text)
        .warnings
        .iter()
        .map(|warning| format!("{}: {}", warning.position.unwrap().line, warning.message))
        .collect();
    let want = [
        "3: the whole Internet is trusted to name its own address",
        "4: no API uses the identity provider `spare`",
        "5: no API uses the upstream `spare`",
        "6: no API uses the policy `spare`",
        "7: no listener of this API asks for client certificates, though it accepts them",
        "7: no listener serves the API `hidden`",
        "8: decisions are not logged anywhere",
    ];
    assert_eq!(warnings, want);
}

#[test]
fn a_fault_does_not_cause_others() {
    let old = "certificates: [{cert: server.pem, key: server.key}]";
    let errors = errors(
        &FULL
            .replace(old, "certificates: 5")
            .replace("jwks_uri: \"https://idp.example/jwks\"", "jwks_uri: 5"),
    );
    let lines: Vec<&str> = errors.lines().filter(|line| !line.starts_with(' ')).collect();
    let want = [
        "gateway.yaml:9:21: `certificates` must be a list, not a number",
        "gateway.yaml:28:83: `jwks_uri` must be a text, not a number",
    ];
    assert_eq!(lines, want);
}

#[test]
fn a_fault_does_not_hide_others() {
    let both = errors_of_listener("limits: {heders: 5}");
    assert!(both.contains("unknown key `heders`") && both.contains("needs `tls`"), "{both}");
    let mistyped = errors_of_listener("tsl: {certificates: [{cert: server.pem, key: server.key}]}");
    assert_eq!(mistyped.lines().next(), Some("gateway.yaml:3:50: unknown key `tsl`"));
    assert!(!mistyped.contains("needs `tls`"), "the mistyped key is it: {mistyped}");
}

/// The errors of a listener that others can reach, with `more` in it.
fn errors_of_listener(more: &str) -> String {
    errors(&LEAST.replace("127.0.0.1:8080}", &format!("0.0.0.0:8080, {more}}}")))
}

#[test]
fn an_api_with_a_mistyped_key_is_not_said_to_clash() {
    let text =
        LEAST.replace("apis: [", "apis: [{name: all, host: [a.example], policy: main, upstream: app}, ");
    check_error(&text, "6:20: unknown key `host` | did you mean `hosts`?");
}

#[test]
fn what_is_shown_is_a_configuration_again() {
    let directory = directory();
    for text in [FULL, LEAST] {
        let loaded = load_in(directory.path(), text).unwrap();
        let shown = config::show(&loaded, ShowFormat::Yaml);
        let again = load_in(directory.path(), &shown).unwrap_or_else(|errors| panic!("{errors}\n{shown}"));
        assert_eq!(config::show(&again, ShowFormat::Yaml), shown);
        let as_json = config::show(&loaded, ShowFormat::Json);
        let again =
            load_in(directory.path(), &as_json).unwrap_or_else(|errors| panic!("{errors}\n{as_json}"));
        assert_eq!(config::show(&again, ShowFormat::Yaml), shown);
    }
}

#[test]
fn what_is_shown_has_every_default() {
    let shown = config::show(&good(LEAST), ShowFormat::Yaml);
    assert!(shown.starts_with("version: 1\n"), "{shown}");
    for line in [
        "      header_bytes: 32KiB",
        "    allow_from:",
        "  watch: true",
        "drain_timeout: 30s",
        "  - type: stdout",
        "    preserve_host: true",
        "    decision: gateway/decision",
        "      - x-forwarded-user",
        "    apis:",
        "workers: ",
    ] {
        assert!(shown.contains(&format!("\n{line}")), "{line} in\n{shown}");
    }
}

/// Sets each text of the example in turn to a secret, and gives what can then be seen.
fn seen_with_secrets(secret: &str) -> Vec<String> {
    let directory = directory();
    std::fs::write(directory.path().join("secret"), format!("{secret}\n")).unwrap();
    let example: Value = serde_json::from_str(&config::show(&good(FULL), ShowFormat::Json)).unwrap();
    let mut seen = Vec::new();
    for (index, pointer) in texts(&example, "").iter().enumerate() {
        let mut changed = example.clone();
        let reference = if index % 2 == 0 { "${env:LEAK}" } else { "x${file:secret}" };
        *changed.pointer_mut(pointer).unwrap() = Value::from(reference);
        let environment = |name: &str| (name == "LEAK").then(|| secret.to_owned());
        let file = directory.path().join("gateway.yaml");
        seen.push(match config::parse(&file, &changed.to_string(), &environment) {
            Ok(loaded) => {
                let (yaml, json) =
                    (config::show(&loaded, ShowFormat::Yaml), config::show(&loaded, ShowFormat::Json));
                assert!(yaml.contains("[secret]") && json.contains("[secret]"), "{pointer}: {yaml}");
                format!("{loaded:?} {:?} {:?} {yaml} {json}", loaded.config, loaded.warnings)
            }
            Err(errors) => format!("{errors} {errors:?}"),
        });
    }
    seen
}

/// The JSON Pointers of all texts.
fn texts(value: &Value, at: &str) -> Vec<String> {
    match value {
        Value::String(_) => vec![at.to_owned()],
        Value::Array(items) => {
            items.iter().enumerate().flat_map(|(index, item)| texts(item, &format!("{at}/{index}"))).collect()
        }
        Value::Object(map) => {
            map.iter().flat_map(|(key, item)| texts(item, &format!("{at}/{key}"))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => vec![],
    }
}

#[test]
fn a_secret_is_never_seen() {
    let secrets = [
        "LEAKED",
        "https://LEAKED:LEAKED@LEAKED/LEAKED",
        "LEAKED.host",
        "/LEAKED//",
        "LEAKED value\u{7}",
        "99LEAKED",
        "data.leaked.x",
    ];
    for secret in secrets {
        for seen in seen_with_secrets(secret) {
            assert!(!seen.to_lowercase().contains("leaked"), "{secret}: {seen}");
        }
    }
}

#[test]
fn a_private_key_in_the_wrong_place_is_not_repeated() {
    for old in ["key: server.key", "cert: server.pem", "ca: clients.pem", "crl: clients.crl"] {
        let key = old.split_once(": ").unwrap().0;
        let errors = errors(&FULL.replace(old, &format!("{key}: not.pem")));
        assert!(errors.contains("not.pem") && !errors.contains("TOPSECRET"), "{errors}");
    }
}

#[test]
fn references_are_taken_relative_to_the_file() {
    let loaded =
        good(&LEAST.replace("version: 1", "version: 1\nlabels: {a: \"${file:pw}\", b: \"$${env:X}\"}"));
    assert_eq!(
        (loaded.config.labels["a"].as_str(), loaded.config.labels["b"].as_str()),
        ("hunter2", "${env:X}")
    );
    assert!(loaded.config.files.iter().any(|file| file.ends_with("pw")));
    check_error(
        &LEAST.replace("version: 1", "version: 1\nlabels: {a: \"${env:X}\", b: \"${vault:y}\"}"),
        "3:13: the environment variable `X` is not set | set it for the gateway's process\n3:28: unknown reference `${vault:y}` | write `${env:NAME}` or `${file:PATH}`; a plain `${` is written `$${`",
    );
}

/// Any value that might stand somewhere in a configuration.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-3_i32..10).prop_map(|number| Value::from(f64::from(number))),
        prop::sample::select(vec![
            "",
            "/",
            "a",
            "h2",
            "jwt",
            "none",
            "0",
            "10s",
            "1MiB",
            "::",
            "0.0.0.0:1",
            "https://a",
            "server.pem",
            "policies",
            "{",
            "/{a}",
            "*",
            "${env:A}",
            "$${",
            "gateway/decision",
            "GET",
            "2026-01-31",
            "memory",
            "redis://x",
            "file",
            "stdout",
            "p2c",
            "hash:",
            "ldap",
            "a.b",
            "\u{0}",
            "\u{fc}",
        ])
        .prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(
                prop::sample::select(vec!["type", "name", "path", "a b", "cert", "mode"]),
                inner,
                0..3
            )
            .prop_map(|map| Value::Object(
                map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            )),
        ]
    })
}

/// The JSON Pointers of all values.
fn places(value: &Value, at: &str) -> Vec<String> {
    let inner: Vec<String> = match value {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .flat_map(|(index, item)| places(item, &format!("{at}/{index}")))
            .collect(),
        Value::Object(map) => {
            map.iter().flat_map(|(key, item)| places(item, &format!("{at}/{key}"))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => vec![],
    };
    inner.into_iter().chain([at.to_owned()]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever stands in the file, loading ends with a configuration or with faults, and the schema and the typed form
    /// never disagree.
    #[test]
    fn nothing_in_a_configuration_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 1..4)) {
        static FILES: LazyLock<TempDir> = LazyLock::new(directory);
        static EXAMPLE: LazyLock<Value> =
            LazyLock::new(|| serde_json::from_str(&config::show(&good(FULL), ShowFormat::Json)).unwrap());
        let mut document = EXAMPLE.clone();
        for (index, value) in changes {
            let places = places(&document, "");
            *document.pointer_mut(&places[index.index(places.len())]).unwrap() = value;
        }
        let file = FILES.path().join("gateway.yaml");
        match config::parse(&file, &document.to_string(), &no_environment) {
            Ok(loaded) => drop(config::show(&loaded, ShowFormat::Yaml)),
            Err(errors) => {
                prop_assert!(!errors.diagnostics().is_empty());
                prop_assert!(!errors.to_string().contains("does not fit the schema"), "{errors}\n{document}");
            }
        }
    }

    #[test]
    fn no_text_panics(text in "[ -~\n]{0,100}") {
        drop(config::parse(Path::new("gateway.yaml"), &text, &no_environment));
    }
}
