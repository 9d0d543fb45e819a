#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_docs_in_private_items,
    reason = "a benchmark stops at the first surprise"
)]
//! What one decision costs by kind of policy: on its plan, and on the interpreter beside it.
//!
//! Each figure includes building the input from the request's facts and reading the decision out
//! of the result. Requests go round a set of different ones.

use std::{
    fmt::Write as _,
    hint::black_box,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use postern::{
    base::{
        id::DecisionIds,
        path::{CanonicalPath, PathRules},
    },
    contract::{
        decision::{Decision, Phase},
        identity::{Facts as IdentityFacts, Identity},
        input::Facts,
        request::{ApiFacts, BodyFacts, RequestHead, Source},
    },
    policy::decide::{Decider, Keep, Rules},
    rego::program::{EngineKind, Module, Options, Program, compile},
};
use regorus::Value;
use serde_json::{Value as Json, json};

// As the gateway has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const REQUESTS: usize = 256;
const NOW: Duration = Duration::from_hours(500_000);

struct Request {
    head: RequestHead,
    source: Source,
    identity: Identity,
    params: Vec<(Arc<str>, String)>,
}

fn request(index: usize) -> Request {
    let mut headers = HeaderMap::new();
    for (name, value) in [("accept", "application/json"), ("user-agent", "bench/1"), ("x-tenant", "t1")] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let number = u8::try_from(index % 200).unwrap();
    let client = IpAddr::V4(Ipv4Addr::new(10, number % 100, 1, number));
    Request {
        head: RequestHead {
            method: if index.is_multiple_of(5) { Method::PUT } else { Method::GET },
            scheme: "https",
            host: "orders.example.com".to_owned(),
            authority: "orders.example.com".to_owned(),
            path: CanonicalPath::parse(&format!("/r{}/{index}", index % 100), PathRules::default()).unwrap(),
            raw_path: None,
            query: Some(format!("page={index}")),
            headers,
            protocol: "HTTP/1.1",
            content_length: Some(0),
        },
        source: Source {
            peer: SocketAddr::from(([192, 0, 2, 1], 40_000)),
            client_ip: client,
            forwarded_for: Vec::new(),
            tls: None,
        },
        identity: Identity::authenticated(IdentityFacts {
            provider: Some("corp".into()),
            kind: Some("jwt"),
            subject: Some(format!("user-{index}")),
            roles: vec!["employee".to_owned(), format!("role-{}", index % 7)],
            ..IdentityFacts::default()
        }),
        params: vec![("id".into(), index.to_string())],
    }
}

/// A policy, its data, and whether its decision allows the requests above.
struct Case {
    name: &'static str,
    parameter: String,
    text: String,
    data: Json,
}

fn case(name: &'static str, parameter: &dyn ToString, text: impl Into<String>, data: Json) -> Case {
    Case { name, parameter: parameter.to_string(), text: text.into(), data }
}

fn rbac(grants: usize) -> Case {
    let mut by_role = serde_json::Map::new();
    for grant in 0..grants {
        let role = format!("role-{}", grant % (grants / 10).max(7));
        let routes = by_role.entry(role).or_insert_with(|| json!({}));
        routes[format!("route-{grant}")] = json!(["GET"]);
    }
    for role in 0..7 {
        by_role[&format!("role-{role}")]["read-order"] = json!(["GET", "PUT"]);
    }
    let text = "default decision := false\n\
        decision if {\n\
            some role in input.identity.roles\n\
            input.request.method in data.grants[role][input.api.route]\n\
        }\n";
    case("rbac", &grants, text, json!({"grants": by_role}))
}

fn hundred_rules(matches: usize) -> Case {
    let mut text = String::from("default decision := false\n");
    for rule in 0..100 {
        // The requests' own segments stand at the rule asked for, whatever its number.
        let route = if rule == matches { "read-order".to_owned() } else { format!("route-{rule}") };
        writeln!(
            text,
            "decision if {{ input.request.method in {{\"GET\", \"PUT\"}}; input.api.route == \"{route}\"; input.identity.authenticated == true }}"
        )
        .unwrap();
    }
    case("hundred rules", &format!("match {matches}"), text, json!({}))
}

fn decision_object() -> Case {
    let text = "default decision := {\"allow\": false, \"reason\": \"no_role\"}\n\
        decision := {\n\
            \"allow\": true,\n\
            \"reason\": \"role\",\n\
            \"limits\": [{\"name\": \"subject\", \"key\": input.identity.subject, \"rate\": \"100/1s\"}],\n\
            \"upstream\": {\"headers\": {\"set\": {\"x-user\": input.identity.subject, \"x-provider\": input.identity.provider}}}\n\
        } if {\n\
            some role in input.identity.roles\n\
            input.request.method in data.grants[role][input.api.route]\n\
        }\n";
    let grants: serde_json::Map<String, Json> =
        (0..7).map(|n| (format!("role-{n}"), json!({"read-order": ["GET", "PUT"]}))).collect();
    case("decision object", &"", text, json!({"grants": grants}))
}

fn networks_and_globs() -> Case {
    let text = "default decision := {\"allow\": false, \"reason\": \"outside\"}\n\
        decision := {\n\
            \"allow\": true,\n\
            \"reason\": \"inside\",\n\
            \"limits\": [object.union(limit, {\"key\": input.identity.subject})],\n\
            \"response\": {\"headers\": {\"remove\": data.redactions}}\n\
        } if {\n\
            inside\n\
            published\n\
            limit := data.limits[input.api.route]\n\
        }\n\
        inside if { some network in data.networks; net.cidr_contains(network, input.source.ip) }\n\
        published if { some pattern in data.globs; glob.match(pattern, [\"/\"], input.request.path) }\n";
    let networks: Vec<String> = (0..100).map(|n| format!("10.{n}.0.0/16")).collect();
    let globs: Vec<String> = (0..9).map(|n| format!("/api{n}/*/x")).chain(["/r*/*".to_owned()]).collect();
    let data = json!({
        "networks": networks, "globs": globs, "redactions": ["server", "x-powered-by", "via"],
        "limits": {"read-order": {"name": "route", "rate": "100/1s"}},
    });
    case("100 networks, 10 globs", &"", text, data)
}

fn program(case: &Case, engine: EngineKind) -> Program {
    let text = format!("package gateway\n{}", case.text);
    let modules = vec![Module { path: "bench.rego".to_owned(), text }];
    let data = Value::from_json_str(&case.data.to_string()).unwrap();
    compile(&modules, data, Options { engine, ..Options::default() }).unwrap()
}

fn decisions(criterion: &mut Criterion) {
    let cases = [
        rbac(10),
        rbac(1_000),
        rbac(100_000),
        hundred_rules(0),
        hundred_rules(50),
        hundred_rules(99),
        decision_object(),
        networks_and_globs(),
    ];
    let requests: Vec<_> = (0..REQUESTS).map(request).collect();
    let lifecycle = Value::new_object();
    let mut ids = DecisionIds::new();
    for case in &cases {
        let mut group = criterion.benchmark_group(case.name);
        for (engine, name) in [(EngineKind::Auto, "plan"), (EngineKind::Interpreter, "interpreter")] {
            let program = program(case, engine);
            let decision = program.entrypoint("gateway/decision").unwrap();
            assert_eq!(
                program.is_planned(&decision),
                engine == EngineKind::Auto,
                "{:?}",
                program.not_planned()
            );
            let rules = Rules {
                decision,
                response: None,
                budget: Duration::from_secs(5),
                contract: postern::contract::form::Contract::GatewayV1,
                cache: 0,
            };
            let mut decider = Decider::new(&program, &rules);
            let mut turn = requests.iter().cycle();
            group.bench_function(BenchmarkId::new(name, &case.parameter), |bencher| {
                bencher.iter(|| {
                    let request = turn.next().unwrap();
                    let facts = Facts {
                        decision_id: ids.next(NOW),
                        time: NOW,
                        listener: "public",
                        request_id: "0190a5d4-0000-7000-8000-000000000000",
                        source: &request.source,
                        head: &request.head,
                        body: &BodyFacts::Unread,
                        api: ApiFacts {
                            name: "orders",
                            version: Some("v2"),
                            route: "read-order",
                            params: &request.params,
                            lifecycle: &lifecycle,
                        },
                        identity: &request.identity,
                        response: None,
                    };
                    let ruling = decider.decide(&facts, Phase::Request, Keep::Nothing);
                    assert!(matches!(ruling.decision, Ok(Decision::Allow(_))), "{:?}", ruling.error);
                    black_box(ruling)
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
