//! Ordinary policies on damaged inputs, answered by us and by OPA's own engine.
//!
//! OPA comes as a Python package (`opa-golib-python-bindings`, with OPA as a C library). Where
//! `python3` cannot import it, the comparison is skipped, and says so.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use postern::rego::{
    evaluator::Facts,
    program::{Module, Options, compile},
};
use regorus::Value;
use serde_json::{Value as Json, json};

const SCRIPT: &str = include_str!("data/opa_oracle.py");
const POLICIES: usize = 400;
const INPUTS: usize = 12;

/// A generator of our own: the same policies on every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % bound
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

/// What a rule may read.
const READS: &[&str] = &[
    "input.user",
    "input.n",
    "input.roles",
    "input.roles[0]",
    "input.path",
    "input.path[1]",
    "input.claims.sub",
    "input.claims.scopes",
    "input.ip",
    "input.missing",
    "input.flag",
    "input.claims[\"a b\"]",
    "helper(input.user)",
    "limits[input.user]",
    "allowed_roles",
    "input.claims",
];

/// Calls with one read in them.
const CALLS: &[&str] = &[
    "count($)",
    "upper($)",
    "lower($)",
    "startswith($, \"a\")",
    "endswith($, \"e\")",
    "contains($, \"d\")",
    "trim_space($)",
    "is_string($)",
    "is_array($)",
    "is_object($)",
    "is_null($)",
    "type_name($)",
    "split($, \"a\")",
    "concat(\",\", $)",
    "object.get($, \"sub\", \"none\")",
    "json.marshal($)",
    "sum($)",
    "max($)",
    "sort($)",
    "array.flatten([$, 1])",
    "sprintf(\"%v\", [$])",
    "regex.match(\"^a\", $)",
    "net.cidr_contains(\"10.0.0.0/8\", $)",
    "crypto.sha256($)",
    "crypto.hmac.sha256($, \"k\")",
    "to_number($)",
    "abs($)",
    "base64.encode($)",
    "strings.count($, \"a\")",
    "indexof($, \"d\")",
    "replace($, \"a\", \"b\")",
    "substring($, 0, 2)",
    "$\"<{$}>\"",
    "uri.is_valid($)",
    "object.keys($)",
    "array.reverse($)",
    "glob.match(\"a*\", [], $)",
    "union({{1}, {$}})",
    "json.is_valid($)",
    "numbers.range(1, $)",
    "hex.encode($)",
    "strings.split_n($, \"a\", 1)",
    "urlquery.encode($)",
    "array.slice($, 0, 1)",
    "io.jwt.decode($)",
    "format_int($, 16)",
];

fn call(chance: &mut Chance) -> String {
    let (template, read) = (chance.one(CALLS), chance.one(READS));
    match template.strip_prefix("$\"") {
        Some(rest) => format!("$\"{}", rest.replace('$', read)),
        None => template.replace('$', read),
    }
}

fn term(chance: &mut Chance) -> String {
    match chance.below(6) {
        0..=2 => chance.one(READS).to_owned(),
        3 | 4 => call(chance),
        _ => chance
            .one(&["\"ada\"", "1", "2.5", "true", "null", "[\"a\", 1]", "{\"x\"}", "{\"sub\": \"ada\"}"])
            .to_owned(),
    }
}

fn condition(chance: &mut Chance) -> String {
    let (left, right) = (term(chance), term(chance));
    match chance.below(14) {
        0 => format!("{left} == {right}"),
        1 => format!("{left} != {right}"),
        // Sets are not ordered against objects as in OPA.
        2 => format!("{left} < {right}").replace("allowed_roles", "input.roles"),
        // Not of a constant, nor `with`: OPA 1.20 takes `not true` for `true` when it is all of a body.
        3 => format!("not {}", call(chance)),
        4 => format!("not {left} == {right}"),
        5 => format!("{left} in {right}"),
        6 => format!("not {left} in {right}"),
        7 => format!("some v in {left}; v == {right}"),
        8 => format!("every v in {left} {{ v != {right} }}"),
        9 => format!("count([v | some v in {left}; v != {right}]) > 0"),
        10 => format!("v := {left}; v == {right}"),
        11 => format!("{{v | some v in {left}}} & {{{right}}} != set()"),
        12 => format!("{} with input.user as {right}", call(chance)),
        _ => left,
    }
}

fn body(chance: &mut Chance) -> String {
    let count = 1 + chance.below(2);
    let mut conditions = Vec::new();
    for index in 0..count {
        // Each condition has its own `v`.
        conditions.push(
            condition(chance)
                .replace("v ", &format!("v{index} "))
                .replace("v;", &format!("v{index};"))
                .replace("{v |", &format!("{{v{index} |"))
                .replace("[v |", &format!("[v{index} |")),
        );
    }
    conditions.join("\n\t")
}

fn policy(chance: &mut Chance) -> String {
    let mut text = String::from(
        "package t\n\nlimits := {\"ada\": 3, \"bob\": 7}\n\nallowed_roles contains r if some r in input.roles\n\nhelper(x) := upper(x)\n\n",
    );
    for rule in 0..3 {
        let name = format!("p{rule}");
        match chance.below(6) {
            0 => writeln!(text, "default {name} := false\n\n{name} if {{\n\t{}\n}}\n", body(chance)),
            1 => writeln!(text, "{name} := {} if {{\n\t{}\n}}\n", term(chance), body(chance)),
            2 => writeln!(text, "{name} contains {} if {{\n\t{}\n}}\n", term(chance), body(chance)),
            3 => writeln!(
                text,
                "{name} := {} if {{\n\t{}\n}} else := {} if {{\n\t{}\n}}\n",
                term(chance),
                body(chance),
                term(chance),
                body(chance)
            ),
            4 => writeln!(text, "{name} := [{}, {}]\n", term(chance), term(chance)),
            _ => writeln!(
                text,
                "{name} := {{x: y | some x, y in {}; {}}}\n",
                chance.one(READS),
                condition(chance)
            ),
        }
        .unwrap();
    }
    text
}

/// An input, each part of which may be missing or of another kind.
fn input(chance: &mut Chance) -> Json {
    let mut document = json!({
        "user": "ada", "n": 3, "roles": ["admin", "dev"], "path": ["v1", "ada", "x"], "ip": "10.1.2.3", "flag": true,
        "claims": {"sub": "ada", "scopes": ["read", "write"], "a b": 1},
    });
    let odd = [
        json!(null),
        json!(1),
        json!(-2.5),
        json!("bob"),
        json!(""),
        json!([]),
        json!({}),
        json!(false),
        json!(["a", null, 1]),
        json!({"sub": 1}),
        json!("é<&>"),
        json!(["ada"]),
    ];
    for _ in 0..chance.below(4) {
        let key = chance.one(&[
            "user",
            "n",
            "roles",
            "path",
            "ip",
            "flag",
            "claims",
            "claims/sub",
            "claims/scopes",
            "path/1",
        ]);
        let other = odd[chance.below(odd.len())].clone();
        let is_cut = chance.below(3) == 0;
        let (above, name) = key.rsplit_once('/').map_or(("", key), |(above, name)| (above, name));
        let pointer = if above.is_empty() { String::new() } else { format!("/{above}") };
        match document.pointer_mut(&pointer) {
            Some(Json::Object(fields)) if is_cut => drop(fields.remove(name)),
            Some(Json::Object(fields)) => drop(fields.insert(name.to_owned(), other)),
            Some(Json::Array(items)) if items.len() > 1 => items[1] = other,
            _ => {}
        }
    }
    document
}

/// Floats and sets have no form of their own in JSON.
fn comparable(value: &Json) -> Json {
    match value {
        Json::Array(items) => {
            let mut items: Vec<Json> = items.iter().map(comparable).collect();
            items.sort_by_key(Json::to_string);
            Json::Array(items)
        }
        Json::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), comparable(value))).collect(),
        Json::Number(number) => number.as_f64().map_or(Json::Null, Json::from),
        Json::Null | Json::Bool(_) | Json::String(_) => value.clone(),
    }
}

/// OPA's own engine, in a process of its own.
pub(crate) struct Oracle {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Oracle {
    /// Nothing where `python3` cannot import it.
    pub(crate) fn start() -> Option<Self> {
        let imports =
            Command::new("python3").args(["-c", "import opa_bindings"]).stderr(Stdio::null()).status();
        if !imports.is_ok_and(|status| status.success()) {
            return None;
        }
        let mut child = Command::new("python3")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (requests, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Some(Self { child, requests, answers })
    }

    /// What `data.t` of a policy is for each input.
    pub(crate) fn ask(&mut self, policy: &str, inputs: &[Json]) -> Json {
        let request = json!({"modules": [policy], "query": "t", "inputs": inputs});
        writeln!(self.requests, "{request}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn ordinary_policies_answer_as_opas_own_engine_does() {
    let Some(mut oracle) = Oracle::start() else {
        eprintln!("skipped: python3 has no opa_bindings");
        return;
    };
    let mut chance = Chance(0x005e_ed0f_9051_7e12);
    let (mut compared, mut refused, mut wrong) = (0, 0, Vec::new());
    for _ in 0..POLICIES {
        let text = policy(&mut chance);
        let inputs: Vec<Json> = (0..INPUTS).map(|_| input(&mut chance)).collect();
        let answers = oracle.ask(&text, &inputs);
        // What OPA refuses for its types has no answer to compare with.
        let Some(answers) =
            answers.as_array().filter(|answers| answers.iter().all(|one| one.get("refused").is_none()))
        else {
            refused += 1;
            continue;
        };
        let module = Module { path: "m.rego".to_owned(), text: text.clone() };
        let program = match compile(&[module], Value::new_object(), Options::default()) {
            Ok(program) => program,
            Err(errors) => {
                wrong.push(format!("refused here only: {errors}\n{text}"));
                continue;
            }
        };
        let mut evaluator = program.evaluator();
        let entrypoint = program.entrypoint("t").unwrap();
        for (input, answer) in inputs.iter().zip(answers) {
            let facts = Facts {
                input: Value::from_json_str(&input.to_string()).unwrap(),
                now_ns: 1_800_000_000_000_000_000,
                budget: Duration::from_secs(10),
            };
            let ours = evaluator.evaluate(&entrypoint, facts);
            // OPA's errors of built-ins are strict here, ours are not.
            let is_builtin_error =
                |error: &str| error.contains("eval_builtin_error") || error.contains("eval_type_error");
            if answer["error"].as_str().is_some_and(is_builtin_error) {
                continue;
            }
            let same = match (&ours, answer.get("value"), answer.get("error")) {
                (Ok(Some(value)), Some(want), _) => {
                    comparable(&serde_json::to_value(value).unwrap()) == comparable(want)
                }
                (Ok(None), None, None) | (Err(_), None, Some(_)) => true,
                _ => false,
            };
            compared += 1;
            if !same {
                let ours = ours.map(|value| value.map(|value| serde_json::to_string(&value).unwrap()));
                wrong.push(format!("input {input}\nours {ours:?}\nOPA  {answer}\n{text}"));
            }
        }
    }
    assert!(compared > POLICIES, "only {compared} answers compared, {refused} policies refused by OPA");
    let shown = wrong.iter().take(12).map(String::as_str).collect::<Vec<_>>().join("\n----\n");
    assert!(wrong.is_empty(), "{} of {compared} answers ({refused} policies refused):\n{shown}", wrong.len());
}
