use regex::Regex;

use super::*;
use crate::rego::program::Module;

const POLICY: &str = r#"package gateway

decision := {"allow": input.request.path == "/a", "reason": data.reasons[input.api.route], "labels": labels} if {
	input.request.path in {"/a", "/b"}
}

decision := {"allow": true, "status": 200} if input.request.path == "/bad"

labels := object.union({"ip": input.source.ip, "at": time.now_ns()}, object.filter(input.request, ["body", "query"]))

response := input.response.status < 500
"#;

fn run_text(policy: &str, cases: &str, options: &TestOptions) -> Result<Run, BundleErrors> {
    let bundle = Bundle {
        revision: String::new(),
        modules: vec![Module { path: "p.rego".into(), text: policy.into() }],
        tests: Vec::new(),
        case_files: vec![CaseFile { path: "p.case.yaml".into(), text: cases.into() }],
        v0: std::sync::Arc::default(),
        data: Value::from_json_str(r#"{"reasons": {"test": "x", "r": "y"}}"#).unwrap(),
        digest: [0; 32],
    };
    run(&bundle, options)
}

fn options() -> TestOptions {
    TestOptions {
        run: None,
        timeout: Duration::from_secs(5),
        coverage: false,
        conditions: false,
        parallel: 1,
        now_ns: 7,
    }
}

/// Runs one case, in flow style, and gives its outcome.
fn outcome(case: &str) -> Outcome {
    let text = format!("policy: {{response: gateway/response}}\ncases:\n- {{name: one, {case}}}\n");
    let run = run_text(POLICY, &text, &options()).unwrap_or_else(|errors| panic!("{errors}"));
    run.results.into_iter().next().unwrap().outcome
}

#[track_caller]
fn passes(case: &str) {
    assert_eq!(outcome(case), Outcome::Passed);
}

#[track_caller]
fn fails(case: &str, expression: &str, value: &str) {
    let Outcome::Failed(Some(failure)) = outcome(case) else { panic!("{:?}", outcome(case)) };
    assert_eq!(failure.expression, expression);
    let values: Vec<_> = failure.values.iter().map(|(path, value)| format!("{path} = {value}")).collect();
    assert!(values.iter().any(|shown| shown.contains(value)), "{values:?}");
}

#[test]
fn a_decision_is_compared_with_what_is_expected() {
    passes("request: {path: /a}, expect: {allow: true, reason: x, labels: {ip: 127.0.0.1, at: 7}}");
    passes("request: {path: /b}, api: {route: r}, expect: {allow: false, reason: y}");
    fails("request: {path: /b}, expect: true", "allow: true", "allow = false");
    fails("request: {path: /a}, expect: {reason: y}", "reason: \"y\"", "reason = \"x\"");
    fails("request: {path: /a}, expect: {undefined: true}", "undefined: true", "decision {\"allow\":true");
}

/// Asks whether somebody is blocked, and where `peer` is.
const ASKING: &str = r#"package gateway

default decision := {"allow": false}

decision := {"allow": true, "reason": concat(" ", net.lookup_ip_addr("peer"))} if {
	sent := http.send({"method": "GET", "url": sprintf("http://up/%s", [input.identity.subject]), "timeout": "200ms"})
	sent.status_code == 200
	not sent.body.blocked
}
"#;

fn asked(mocks: &str, expect: &str) -> Result<Outcome, String> {
    let text = format!(
        "defaults: {{request: {{path: /a}}, identity: {{type: jwt, provider: p, subject: ada}}}}\n\
         cases:\n- {{name: one, mocks: {mocks}, expect: {expect}}}\n"
    );
    let run = run_text(ASKING, &text, &options()).map_err(|errors| errors.to_string())?;
    Ok(run.results.into_iter().next().unwrap().outcome)
}

#[test]
fn what_is_asked_outside_is_answered_by_mocks() {
    let lookup = "net.lookup_ip_addr: [{when: peer, answer: [192.0.2.1, 192.0.2.2]}]";
    let allow = "{allow: true, reason: 192.0.2.1 192.0.2.2}";
    let send = |send: &str| format!("{{http.send: {send}, {lookup}}}");
    let good = "{status_code: 200, body: {blocked: false}}";
    for (mocks, expect) in [
        (send(good), allow),
        (send(&format!("[{{when: {{url: \"http://up/ada\", method: GET}}, answer: {good}}}]")), allow),
        (send(&format!("[{{when: {{url: \"http://up/eve\"}}, error: down}}, {{answer: {good}}}]")), allow),
        (send("{status_code: 200, body: {blocked: true}}"), "false"),
        (send("[{error: down}]"), "false"),
        // What nobody answers fails the decision, whatever the policy makes of an error.
        (send(&format!("[{{when: {{url: \"http://up/eve\"}}, answer: {good}}}]")), "{error: true}"),
        (format!("{{http.send: {good}}}"), "{error: true}"),
        ("{}".to_owned(), "{error: true}"),
    ] {
        assert_eq!(asked(&mocks, expect), Ok(Outcome::Passed), "{mocks}");
    }
}

#[test]
fn mocks_that_answer_nothing_are_refused() {
    for (mocks, why) in [
        ("{http.sent: {}}", "unknown key `mocks.http.sent`"),
        ("{http.send: 200}", "`mocks.http.send` must be a mapping"),
        ("{http.send: [{when: {url: a}}]}", "`mocks.http.send` needs either `answer` or `error`"),
        ("{http.send: [{answer: {}, error: down}]}", "`mocks.http.send` needs either `answer` or `error`"),
        ("{http.send: [{when: a, answer: {}}]}", "`mocks.http.send.when` must be a mapping"),
        ("{http.send: [{whn: {}, answer: {}}]}", "unknown key `mocks.http.send.whn`"),
        ("{net.lookup_ip_addr: peer}", "must be a list of addresses"),
        ("{net.lookup_ip_addr: [{answer: peer}]}", "must be a list of addresses"),
        ("[]", "`mocks` must be a mapping"),
    ] {
        let refused = asked(mocks, "true").unwrap_err();
        assert!(refused.contains(why), "{mocks}: {refused}");
    }
}

#[test]
fn answers_that_are_no_decisions_can_be_expected() {
    passes("request: {path: /c}, expect: {undefined: true}");
    passes("request: {path: /bad}, expect: {error: true}");
    fails("request: {path: /c}, expect: {allow: false}", "a decision", "answer = undefined");
    fails("request: {path: /c}, expect: {error: true}", "error: true", "answer = undefined");
    fails("request: {path: /bad}, expect: true", "a decision", "status");
    fails("request: {path: /bad}, expect: {undefined: true}", "undefined: true", "status");
}

#[test]
fn what_the_gateway_refuses_never_reaches_the_policy() {
    passes("request: {path: /x/../a}, expect: {refused: 400}");
    passes("request: {path: a}, expect: {refused: 400}");
    passes("request: {path: /a, method: TRACE}, expect: {refused: 501}");
    passes("request: {path: \"/a?x=%zz\"}, expect: {refused: 400}");
    passes("request: {path: /a, body: \"{\"}, expect: {refused: 415}");
    passes(
        "request: {path: /a, body: \"{\", headers: {content-type: application/json}}, expect: {refused: 400}",
    );
    passes("request: {path: /a, host: \"a b\"}, expect: {refused: 400}");
    passes("request: {path: /a, headers: {expect: more}}, expect: {refused: 417}");
    passes("request: {path: /a, headers: {authorization: [a, b]}}, expect: {refused: 400}");
    passes("request: {path: /a, headers: {x_user: a}}, expect: {refused: 400}");
    fails(
        "request: {path: /x/../a}, expect: {refused: 415}",
        "refused: 415",
        "refused with 400: the path has",
    );
    fails("request: {path: /x/../a}, expect: {allow: false}", "a decision", "refused with 400");
    fails("request: {path: /a}, expect: {refused: 400}", "refused: 400", "decision {\"allow\":true");
}

#[test]
fn the_policy_sees_the_canonical_request() {
    passes("request: {path: \"/%61?k=1&k=2\"}, expect: {allow: true, labels: {query: {k: [\"1\", \"2\"]}}}");
    passes("request: {path: /a, body: {n: [1, true]}}, expect: {labels: {body: {n: [1, true]}}}");
    passes(
        "request: {path: /a, body: \"a=1\", headers: {content-type: application/x-www-form-urlencoded}}, \
            expect: {labels: {body: {a: [\"1\"]}}}",
    );
    passes(
        "request: {path: /a}, source: {ip: \"::ffff:192.0.2.1\"}, expect: {labels: {ip: 192.0.2.1, body: null}}",
    );
    passes("request: {path: /a}, time: 1970-01-01T00:00:01Z, expect: {labels: {at: 1000000000}}");
}

#[test]
fn data_is_the_cases_own() {
    passes("request: {path: /a}, data: {reasons: {test: z}}, expect: {reason: z}");
    passes("request: {path: /a}, data: {reasons: {test: z}}, api: {route: r}, expect: {reason: y}");
    passes("request: {path: /a}, data: {reasons: none}, expect: {undefined: true}");
    passes("request: {path: /a}, expect: {reason: x}");
}

#[test]
fn responses_ask_the_other_rule() {
    passes("request: {path: /a}, response: {}, expect: {allow: true}");
    passes("request: {path: /a}, response: {status: 500}, expect: false");
}

#[test]
fn the_whole_input_is_that_of_the_contract() {
    let policy = "package gateway\n\ndecision := {\"allow\": true, \"labels\": {\"input\": input}}\n";
    let case = r#"
cases:
- name: all
  time: 2026-01-31T08:00:00Z
  listener: public
  request: {method: POST, path: "/a//", headers: {X-A: [1, b], connection: x-b, te: trailers}}
  expect: {refused: 400}
- name: rest
  time: 2026-01-31T08:00:00Z
  listener: public
  request:
    method: POST
    path: "/a%20b?q=1"
    host: Orders.Example.com:8443
    protocol: HTTP/2
    headers: {X-A: [1, b], connection: close, te: trailers, cookie: c=d, x-forwarded-for: 10.0.0.1}
    body: {n: 1}
  source:
    ip: 192.0.2.1
    port: 7
    forwarded_for: [192.0.2.1]
    tls: {sni: Orders.example.com, client_certificate: {subject: CN=a, spiffe_id: "spiffe://x/y"}}
  api: {name: orders, version: v2, route: read, params: {id: "42"}, lifecycle: {state: deprecated, since: "2026-01-01"}}
  identity: {provider: corp, type: jwt, subject: alice, roles: [a], claims: {n: [1]}, expires_at: 9}
  expect:
    labels:
      input:
        version: gateway/v1
        time: "2026-01-31T08:00:00.000000000Z"
        listener: public
        source:
          ip: 192.0.2.1
          port: 7
          forwarded_for: [192.0.2.1]
          tls: {version: TLSv1.3, sni: orders.example.com, client_certificate: {subject: CN=a, spiffe_id: "spiffe://x/y"}}
        request:
          method: POST
          scheme: https
          host: orders.example.com
          path: /a%20b
          raw_path: /a%20b
          segments: [a b]
          query: {q: ["1"]}
          headers: {x-a: "1, b", connection: null, te: null, host: null, x-forwarded-for: null, content-length: "7"}
          cookies: {c: d}
          protocol: HTTP/2
          content_type: application/json
          size: 7
          body: {n: 1}
          body_state: parsed
        api: {name: orders, version: v2, route: read, params: {id: "42"}, lifecycle: {state: deprecated, since: "2026-01-01"}}
        identity:
          {authenticated: true, provider: corp, type: jwt, subject: alice, roles: [a], groups: [], claims: {n: [1]}, expires_at: 9}
        response: null
- name: nobody
  request: {path: /}
  identity: {failure: {provider: corp, reason: expired}}
  expect: {labels: {input: {identity: {authenticated: false, failure: {reason: expired}}, source: {tls: null}}}}
"#;
    let run = run_text(policy, case, &options()).unwrap_or_else(|errors| panic!("{errors}"));
    for result in run.results {
        assert_eq!(result.outcome, Outcome::Passed, "{}", result.name);
    }
}

#[test]
fn defaults_are_merged_and_taken_away() {
    let cases = "policy: {decision: gateway/decision}\ndefaults:\n  request: {path: /a, method: PUT}\n  \
        identity: {provider: p, type: jwt, subject: s}\n  source: {ip: 192.0.2.9}\ncases:\n\
        - {name: as they are, expect: {labels: {ip: 192.0.2.9, m: PUT, who: true}}}\n\
        - {name: changed, request: {method: GET}, expect: {allow: true, labels: {m: GET}}}\n\
        - {name: gone, identity: null, source: {ip: null}, expect: {labels: {ip: 127.0.0.1, who: false}}}\n";
    let policy = "package gateway\n\ndecision := {\"allow\": input.request.path == \"/a\", \"labels\": {\
        \"ip\": input.source.ip, \"m\": input.request.method, \"who\": input.identity.authenticated}}\n";
    let run = run_text(policy, cases, &options()).unwrap_or_else(|errors| panic!("{errors}"));
    let outcomes: Vec<_> = run.results.iter().map(|result| (&*result.name, &result.outcome)).collect();
    let want = ["as they are", "changed", "gone"].map(|name| (name, &Outcome::Passed));
    assert_eq!(outcomes, want);
}

#[test]
fn cases_are_chosen_by_file_and_name_and_count_for_coverage() {
    let cases = "cases:\n- {name: one, request: {path: /a}, expect: true}\n- {name: two, request: {path: /b}, expect: false}\n";
    let chosen =
        TestOptions { run: Some(Regex::new("p.case.yaml: two").unwrap()), coverage: true, ..options() };
    let run = run_text(POLICY, cases, &chosen).unwrap();
    assert_eq!(run.results.iter().map(TestResult::full_name).collect::<Vec<_>>(), ["two"]);
    let lines = &run.coverage[0][0];
    assert!(lines.covered.contains(&4) && lines.not_covered.contains(&11), "{lines:?}");
}

#[track_caller]
fn refused(text: &str, want: &[&str]) {
    let errors = run_text(POLICY, text, &options()).expect_err("refused");
    let got: Vec<String> =
        errors.faults().iter().map(|fault| format!("{}: {}", fault.place, fault.message)).collect();
    assert_eq!(got, want);
    assert!(errors.faults().iter().all(|fault| fault.hint.is_some()), "{errors}");
}

#[test]
fn all_faults_come_at_once_each_with_its_place() {
    let text = "policy: {decision: gateway/nothing}\nextra: 1\ndefaults: {name: x, api: {rout: a}}\ncases:\n\
        - name: one\n  request: {path: /a, methd: GET, body: null, headers: {\"a b\": c, content-length: 3}}\n  \
        identity: {type: kerb, roles: admin}\n  source: {ip: here, port: 99999}\n  expect: {alow: true}\n\
        - name: one\n  request: {method: \"\"}\n  time: now\n  response: {}\n  expect: {refused: 400, allow: true}\n\
        - request: {path: /}\n  expect: {undefined: false}\n- 7\n";
    refused(
        text,
        &[
            "p.case.yaml:2:1: unknown key `extra`",
            "p.case.yaml:3:12: unknown key `defaults.name`",
            "p.case.yaml:3:27: unknown key `api.rout`",
            "p.case.yaml:6:23: unknown key `request.methd`",
            "p.case.yaml:6:57: `request.headers`: `a b` is no header name",
            "p.case.yaml:6:67: `request.headers`: `content-length` comes from the body",
            "p.case.yaml:7:13: `identity.provider` is missing",
            "p.case.yaml:7:20: `identity.type` cannot be `kerb`",
            "p.case.yaml:7:33: `identity.roles` must be a list",
            "p.case.yaml:8:16: `source.ip`: `here` is no IP address",
            "p.case.yaml:8:28: `source.port` is no number that fits",
            "p.case.yaml:9:12: unknown key `expect.alow`",
            "p.case.yaml:11:12: `request.path` is missing",
            "p.case.yaml:11:21: `request.method`: `` is no method",
            "p.case.yaml:12:9: `time`: `now` is no time",
            "p.case.yaml:13:13: the file names no rule for responses",
            "p.case.yaml:14:12: `expect.refused` stands alone",
            "p.case.yaml:16:23: `expect.undefined` can only be true",
            "p.case.yaml:17:3: a case must be a mapping",
        ],
    );
}

#[test]
fn names_are_unique() {
    let case = "{name: a, request: {path: /}, expect: true}";
    refused(&format!("cases: [{case}, {case}]\n"), &["p.case.yaml:1:61: another case has the name `a`"]);
}

#[test]
fn a_file_has_its_shape() {
    refused(
        "7\n",
        &["p.case.yaml:1:1: the file has no cases", "p.case.yaml:1:1: the file must be a mapping"],
    );
    refused(
        "cases: [{name: a, request: {path: /}, response: {}, expect: {refused: 400}}]\n",
        &[
            "p.case.yaml:1:49: the file names no rule for responses",
            "p.case.yaml:1:61: a response cannot be `refused`",
        ],
    );
    refused("# nothing\n", &["p.case.yaml: the file has no cases"]);
    refused("cases: []\n", &["p.case.yaml:1:8: the file has no cases"]);
    refused(
        "cases: [{name: a, request: {path: /}, expect: {}}]\n",
        &["p.case.yaml:1:47: `expect` expects nothing"],
    );
    refused(
        "policy: {decision: gateway/nothing}\ncases: [{name: a, request: {path: /}, expect: true}]\n",
        &["p.case.yaml:1:20: no rule `data.gateway.nothing`"],
    );
    refused(
        "cases: [{name: a, request: {path: /}, response: {}, expect: true}]\n",
        &["p.case.yaml:1:49: the file names no rule for responses"],
    );
    refused(
        "cases: [{name: a, name: b, request: {path: /}, expect: true}]\n",
        &["p.case.yaml:1:19: duplicate key `name`, first given in line 1"],
    );
    refused(
        "cases: [\n",
        &["p.case.yaml:2:1: not valid YAML: while parsing a node, did not find expected node content"],
    );
}
