use serde_json::{Value as Json, json};

use super::*;

fn parse(text: &str) -> Result<Json, Failure> {
    let tree = parse_module(&[Value::from("x.rego"), Value::from(text)])?;
    Ok(serde_json::to_value(tree).unwrap())
}

/// The value of the only rule `p`.
#[track_caller]
fn value(text: &str, want: &Json) {
    let tree = parse(&format!("package a\np := {text}\n")).unwrap();
    assert_eq!(&tree["rules"][0]["head"]["value"], want, "{text}");
}

#[test]
fn a_module_has_package_imports_rules_and_comments() {
    let tree = parse("package a.b\nimport data.x as y\n# é\np if not q[_] # end\n").unwrap();
    let var = |name: &str| json!({"type": "var", "value": name});
    let string = |text: &str| json!({"type": "string", "value": text});
    let want = json!({
        "package": {"path": [var("data"), string("a"), string("b")]},
        "imports": [{"path": {"type": "ref", "value": [var("data"), string("x")]}, "alias": "y"}],
        "rules": [{
            "head": {"name": "p", "ref": [var("p")], "value": {"type": "boolean", "value": true}},
            "body": [{"index": 0, "negated": true, "terms": {"type": "ref", "value": [var("q"), var("$0")]}}],
        }],
        "comments": [
            {"Location": {"file": "x.rego", "row": 3, "col": 1}, "Text": "IMOp"},
            {"Location": {"file": "x.rego", "row": 4, "col": 15}, "Text": "IGVuZA=="},
        ],
    });
    assert_eq!(tree, want);
}

#[test]
fn terms_are_read_as_opa_reads_them() {
    let number = |value: i64| json!({"type": "number", "value": value});
    let var = |name: &str| json!({"type": "var", "value": name});
    let call = |name: &str, arguments: &[Json]| {
        let function = json!({"type": "ref", "value": [var(name)]});
        json!({"type": "call", "value": Json::from([&[function], arguments].concat())})
    };
    value(
        "1 - -x * 2",
        &call("minus", &[number(1), call("mul", &[call("minus", &[number(0), var("x")]), number(2)])]),
    );
    value("{2, x, 1, 2}", &json!({"type": "set", "value": [number(1), number(2), var("x")]}));
    value(
        "{2: 1, 1: 2, 2: 3}",
        &json!({"type": "object", "value": [
            [number(1), number(2)], [number(2), number(1)], [number(2), number(3)],
        ]}),
    );
    value("null", &json!({"type": "null", "value": {}}));
    value(r#""\ud83d\ude00\ud800""#, &json!({"type": "string", "value": "😀\u{fffd}"}));
    value(
        "$\"a{1}\"",
        &json!({"type": "templatestring", "value": {
            "parts": [{"type": "string", "value": "a"}, number(1)], "multi_line": false,
        }}),
    );
}

#[test]
fn what_opa_refuses_is_an_error_with_its_place() {
    for text in [
        "",
        "p := 1",
        "package a\np := 01",
        "package a\np { q }",
        "package a\np := \"\\x\"",
        "package a\np[1]",
        "package a\npackage b",
        "package a\np := $\"{",
        "package a\nimport x.y",
        "package a\ndefault p := x",
        "package a\np := 1e99999",
        "package a\nimport future.keywords.or",
    ] {
        assert!(matches!(parse(text), Err(Failure::Error(_))), "{text}");
    }
    let Err(Failure::Error(message)) = parse("package a\n\np := [\"é\", ]]") else { panic!("not refused") };
    assert!(message.starts_with("x.rego:3:13: rego_parse_error: "), "{message}");
}

#[test]
fn what_is_too_long_or_too_deep_is_refused_before_it_costs() {
    let refused = |text: &str| assert!(matches!(parse(text), Err(Failure::Refused(_))), "{text:.60}");
    refused(&format!("package a\n# {}", "x".repeat(BYTES_MAX)));
    refused(&format!("package a\np := [{}]", "1,".repeat(40_000)));
    for (open, close) in [
        ("[", "]"),
        ("{", "}"),
        ("{1: ", "}"),
        ("(", ")"),
        ("f(", ")"),
        ("[1 | ", "]"),
        ("a[", "]"),
        ("$\"{", "}\""),
    ] {
        refused(&format!("package a\np := {}1{}", open.repeat(12_000), close.repeat(12_000)));
        assert!(parse(&format!("package a\np := {}1", open.repeat(12_000))).is_err());
    }
    refused(&format!("package a\np := {}1", "1 + ".repeat(20_000)));
    refused(&format!("package a\np := f(1){}", ".f(1)".repeat(9_000)));
    refused(&format!("package a\np := 1 if x{}", " else := 2 if x".repeat(5_000)));
    refused(&format!("package a\np if {}x{}", "every x in y { ".repeat(5_000), "}".repeat(5_000)));
}

#[test]
fn deep_brackets_within_the_bound_do_not_double_the_time() {
    let nested = format!("{}1{}", "[{x | y}, {\"k\": ".repeat(20), "}]".repeat(20));
    assert!(parse(&format!("package a\np := {nested}")).is_ok());
    assert!(parse(&format!("package a\np := {}", &nested[..nested.len() - 1])).is_err());
}

#[test]
fn a_backslash_at_the_end_ends_nothing() {
    for text in ["package a\np := \"\\", "package a\np := $\"\\", "package a\np := $`\\", "\"\\"] {
        assert!(parse(text).is_err(), "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "(package a\n)?[ a-f{}\"`$\\\\\n.;:=#(|)\\[\\],_0-9é]{0,60}") {
        drop(parse(&text));
    }

    #[test]
    fn no_row_of_words_panics(words in proptest::collection::vec(proptest::sample::select(&[
        "p", "if", "x", "_", "{", "}", "[", "]", "(", ")", "|", ":=", "=", "in", "some", "every", "not", "else",
        "contains", "default", "with", "as", ".", ",", ":", "1", "-", "\n", "$\"", "\"", "data", "import", ";",
    ][..]), 0..40)) {
        drop(parse(&format!("package a\n{}", words.join(" "))));
    }
}
