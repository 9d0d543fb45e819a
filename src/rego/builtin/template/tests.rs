use proptest::prelude::*;

use super::*;

const VALUES: &str = r#"{"name": "Ada", "n": 3, "zero": 0, "list": ["a", "b"], "map": {"y": 2, "x": "1"}, "no": false, "null": null}"#;

fn rendered(template: &str) -> Result<String, Failure> {
    let answer = render(&[Value::from(template), Value::from_json_str(VALUES).unwrap()])?;
    Ok(answer.as_string().unwrap().to_string())
}

#[track_caller]
fn check(template: &str, want: &str) {
    assert_eq!(rendered(template).unwrap(), want, "{template}");
}

#[test]
fn values_are_printed_as_go_prints_them() {
    check("Hello {{.name}}!", "Hello Ada!");
    check("{{.n}} {{.list}} {{.map}} {{.no}}", "3 [a b] map[x:1 y:2] false");
    check("{{.missing}} {{.null}}", "<undefined> <undefined>");
    check("{{.map.x}} {{$.map.y}} {{(index .list 1)}} {{index .map \"x\"}}", "1 2 b 1");
    check("{{\"q\\\"\"}} {{`raw`}} {{12}} {{true}}", "q\" raw 12 true");
}

#[test]
fn blocks_choose_and_repeat() {
    check("{{if .no}}a{{else if .name}}b{{else}}c{{end}}", "b");
    check("{{if .zero}}numbers are texts{{end}}", "numbers are texts");
    check("{{range $i, $x := .list}}{{if $i}},{{end}}{{$x}}{{end}}", "a,b");
    check("{{range .list}}<{{.}}>{{else}}none{{end}}{{range .missing}}x{{else}}none{{end}}", "<a><b>none");
    check("{{range $k, $v := .map}}{{$k}}={{$v}};{{end}}", "x=1;y=2;");
    check("{{range .list}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}", "a");
    check("{{range .list}}{{if eq . \"a\"}}{{continue}}{{end}}{{.}}{{end}}", "b");
    check("{{with .map}}{{.x}}{{else}}no{{end}}{{with $y := .no}}{{$y}}{{else}}{{.name}}{{end}}", "1Ada");
    check("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2");
    check("a  {{- /* comment */ -}}  b {{- .n -}} c", "ab3c");
}

#[test]
fn functions_are_gos() {
    check("{{len .list}} {{len .name}} {{not .no}} {{and .name .n}} {{or .no .name}}", "2 3 true 3 Ada");
    check(
        "{{eq .name \"x\" \"Ada\"}} {{ne .name \"x\"}} {{lt 1 2}} {{ge \"b\" \"a\"}}",
        "true true true true",
    );
    check("{{.name | printf \"%s-%v\" .n}} {{print 1 2 \"x\"}} {{html \"<a>\"}}", "3-Ada 1 2x &lt;a&gt;");
    check("{{slice .name 1}} {{slice .list 0 1}} {{(and .map .map).x}}", "da [a] 1");
}

#[test]
fn what_go_refuses_is_an_error() {
    for wrong in [
        "{{",
        "{{.name",
        "{{if .name}}",
        "{{end}}",
        "{{else}}",
        "{{nothing}}",
        "{{.name.x}}",
        "{{.missing.x}}",
        "{{$x}}",
        "{{eq .name 1}}",
        "{{range .name}}{{end}}",
        "{{define \"a\"}}{{end}}",
        "{{break}}",
        "{{index .list 9}}",
        "{{(.name}}",
        "{{.name 1}}",
        "{{\"a}}",
        "{{1x}}",
        "{{if true}}{{else}}{{else}}{{end}}",
        "{{}}",
    ] {
        assert!(matches!(rendered(wrong), Err(Failure::Error(_))), "{wrong}");
    }
}

#[test]
fn what_grows_without_bound_is_refused() {
    let nested = format!("{}x{}", "{{if true}}".repeat(100), "{{end}}".repeat(100));
    assert!(matches!(rendered(&nested), Err(Failure::Refused(_))));
    let parentheses = format!("{{{{{}1{}}}}}", "(".repeat(100), ")".repeat(100));
    assert!(matches!(rendered(&parentheses), Err(Failure::Refused(_))));
    let list = Value::from(vec![Value::from(1); 100]);
    let loops = "{{range $.l}}".repeat(4) + "x" + &"{{end}}".repeat(4);
    let values = super::super::argument::object_of([("l", list)]);
    assert!(matches!(render(&[Value::from(loops), values]), Err(Failure::Refused(_))));
}

proptest! {
    #[test]
    fn no_template_panics(template in "(\\{\\{|\\}\\}|[ .$()|a\"`:=-]|if|end|range|é|1){0,16}") {
        drop(rendered(&template));
    }
}
