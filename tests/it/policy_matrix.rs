//! Matrices computed by the real binary.

use std::fs;
use std::time::Duration;

use postern::policy::bundle::{self, Purpose};
use postern::rego::evaluator::Facts;
use postern::rego::program::Options;
use regorus::Value;
use serde_json::{Value as Json, json};

use crate::policy_cli::{files, gatewayctl};

const POLICY: &str = r#"package gateway

default decision := false

decision if {
	input.request.method in data.grants[input.identity.roles[_]]
	input.identity.authenticated == true
}

decision if {
	input.request.method == "HEAD"
	input.identity.authenticated == true
}

decision if input.request.method == "OPTIONS"
"#;
const DATA: &str = r#"{"grants": {"reader": ["GET"], "writer": ["GET", "PUT"]}}"#;

fn root() -> tempfile::TempDir {
    files(&[("p/p.rego", POLICY), ("p/data.json", DATA)])
}

/// `row/column: word` of all cells.
fn words(matrix: &Json) -> Vec<String> {
    let values = |axis: &str| matrix[axis]["values"].as_array().unwrap().clone();
    let (rows, columns) = (values("rows"), values("columns"));
    let mut words = Vec::new();
    for (row, cells) in rows.iter().zip(matrix["cells"].as_array().unwrap()) {
        for (column, cell) in columns.iter().zip(cells.as_array().unwrap()) {
            let granted = if cell["granted"] == true { "granted " } else { "" };
            words.push(format!(
                "{}/{}: {granted}{}",
                row.as_str().unwrap(),
                column.as_str().unwrap(),
                cell["allowed"].as_str().unwrap()
            ));
        }
    }
    words
}

#[test]
fn a_cell_says_what_grants_it() {
    let root = root();
    let ran = gatewayctl(root.path(), &["policy", "matrix", "p", "-f", "json"]);
    assert_eq!(ran.code, Some(0), "{}", ran.notes);
    let matrix = ran.json();
    assert_eq!(matrix["rows"]["paths"], json!(["input.request.method"]));
    assert_eq!(matrix["columns"]["paths"], json!(["input.identity.roles"]));
    let words = words(&matrix);
    for want in [
        "GET/reader: granted sometimes",
        "GET/writer: granted sometimes",
        "GET/(other): never",
        "GET/(none): never",
        "PUT/reader: never",
        "PUT/writer: granted sometimes",
        "HEAD/reader: sometimes",
        "HEAD/(none): sometimes",
        "OPTIONS/reader: always",
        "OPTIONS/(none): always",
        "(other)/writer: never",
    ] {
        assert!(words.iter().any(|word| word == want), "{want}: {words:?}");
    }
    assert_eq!(matrix["searched"]["complete"], true);
}

#[test]
fn people_see_conditions_once() {
    let root = root();
    let ran = gatewayctl(root.path(), &["policy", "matrix", "p"]);
    let want = "\
input.request.method by input.identity.roles

         reader  writer  (other)  (none)
GET      if 1    if 1    -        -
HEAD     any 2   any 2   any 2    any 2
OPTIONS  yes     yes     yes      yes
PUT      -       if 1    -        -
(other)  -       -       -        -
(none)   -       -       -        -

1  if input.identity.authenticated = true
2  if input.identity.authenticated = true, whatever the column

";
    assert!(ran.out.starts_with(want), "{}", ran.out);
    assert!(ran.out.contains("searched all "), "{}", ran.out);
    let ran = gatewayctl(root.path(), &["policy", "matrix", "p", "-f", "csv"]);
    let want = "input.request.method,reader,writer,(other),(none)\nGET,sometimes,sometimes,never,never\n";
    assert!(ran.out.starts_with(want), "{}", ran.out);
    let ran = gatewayctl(root.path(), &["policy", "matrix", "p", "-f", "markdown"]);
    let want =
        "| | reader | writer | (other) | (none) |\n|---|---|---|---|---|\n| GET | if 1 | if 1 |  |  |\n";
    assert!(ran.out.starts_with(want), "{}", ran.out);
}

#[test]
fn a_request_and_fixed_fields_answer_for_the_others() {
    let root = root();
    fs::write(root.path().join("in.json"), r#"{"identity": {"authenticated": true, "subject": "a"}}"#)
        .unwrap();
    let matrix = |more: &[&str]| {
        let ran = gatewayctl(root.path(), &[&["policy", "matrix", "p", "-f", "json"], more].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.notes);
        words(&ran.json())
    };
    for words in [matrix(&["--input", "in.json"]), matrix(&["--fix", "input.identity.authenticated=true"])] {
        for want in ["GET/reader: always", "PUT/reader: never", "HEAD/(none): always"] {
            assert!(words.iter().any(|word| word == want), "{want}: {words:?}");
        }
    }
    let words = matrix(&["--fix", "input.identity.authenticated=false"]);
    assert!(words.iter().any(|word| word == "GET/reader: never"), "{words:?}");
    let words = matrix(&["--rows", "input.identity.authenticated", "--columns", "input.request.method"]);
    assert!(words.iter().any(|word| word == "true/HEAD: always"), "{words:?}");
}

#[test]
fn what_cannot_be_rows_or_columns_is_an_error() {
    let root = root();
    let ran = gatewayctl(root.path(), &["policy", "matrix", "p", "--rows", "input.request.host"]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.notes.contains(
            "the policy does not read `input.request.host`; it reads `input.identity.authenticated`"
        ),
        "{}",
        ran.notes
    );
    let ran = gatewayctl(root.path(), &["policy", "matrix", "p", "--rows", "input.identity.roles"]);
    assert!(ran.notes.contains("rows and columns are both `input.identity.roles`"), "{}", ran.notes);
    let ran = gatewayctl(root.path(), &["policy", "matrix", "p", "--rows", "a[0]"]);
    assert_eq!(ran.code, Some(64));
    let root = files(&[("p/p.rego", "package gateway\n\ndecision := true\n")]);
    let ran = gatewayctl(root.path(), &["policy", "matrix", "p"]);
    assert!(ran.notes.contains("name an input path with `--rows`"), "{}", ran.notes);
}

#[test]
fn the_starter_policies_grant_what_their_data_says() {
    let search = ["-f", "json", "--requests", "40000", "--timeout", "5m"];
    // What the data maps nothing of has one value, so that the search is about the rest.
    let fixed = [
        "input.api.params={}",
        "input.identity.attributes={}",
        "input.identity.scopes=[]",
        "input.identity.claims={}",
        "input.identity.issuer=none",
    ];
    let fixed = fixed.iter().flat_map(|field| ["--fix", field]);
    let arguments: Vec<&str> =
        ["policy", "matrix", "policies"].into_iter().chain(fixed).chain(search).collect();
    let ran = gatewayctl(std::path::Path::new("."), &arguments);
    let matrix = ran.json();
    let words = words(&matrix);
    for want in [
        "read-order/orders.read: granted sometimes",
        "read-order/trial: granted sometimes",
        "create-order/orders.write: granted sometimes",
        "create-order/operator: granted sometimes",
        "create-order/partner: granted sometimes",
    ] {
        assert!(words.iter().any(|word| word == want), "{want}: {words:?}");
    }
    for not in
        ["create-order/orders.read", "create-order/trial", "change-order/(other)", "record-scan/partner"]
    {
        assert!(!words.iter().any(|word| word.starts_with(&format!("{not}: granted"))), "{not}: {words:?}");
    }
    // What is shown as allowed is allowed.
    let program = bundle::load(&["policies"], Purpose::Develop).unwrap().compile(Options::default()).unwrap();
    let decision = program.entrypoint("gateway/decision").unwrap();
    let mut evaluator = program.evaluator();
    let mut allowed = 0;
    for cell in matrix["cells"].as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap()) {
        if cell["input"].is_null() {
            continue;
        }
        let input = Value::from_json_str(&cell["input"].to_string()).unwrap();
        let facts = Facts { input, now_ns: 1, budget: Duration::from_secs(5) };
        let result = evaluator.evaluate(&decision, facts).unwrap().unwrap();
        assert_eq!(result["allow"], Value::from(true), "{cell}");
        allowed += 1;
    }
    assert!(allowed > 20, "only {allowed} cells");
}

#[test]
fn texts_of_a_policy_do_not_move_the_cursor() {
    let data = DATA.replace("writer", "wri\\u001b[2J\\u202eter\\nx");
    let root = files(&[("p/p.rego", POLICY), ("p/data.json", data.as_str())]);
    for format in ["pretty", "csv", "markdown"] {
        let ran = gatewayctl(root.path(), &["policy", "matrix", "p", "-f", format]);
        assert_eq!(ran.code, Some(0), "{}", ran.notes);
        assert!(ran.out.contains("wri\\u{1b}[2J\\u{202e}ter\\nx"), "{}", ran.out);
        assert!(!ran.out.contains(['\u{1b}', '\u{202e}']), "{}", ran.out);
    }
    let ran = gatewayctl(root.path(), &["policy", "matrix", "p", "-f", "json"]);
    assert!(words(&ran.json()).iter().any(|word| word.contains("wri\u{1b}[2J\u{202e}ter\nx")), "{}", ran.out);
}
