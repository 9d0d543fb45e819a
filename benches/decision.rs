#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_docs_in_private_items,
    reason = "a benchmark stops at the first surprise"
)]
//! What one decision costs: building its input and evaluating the policy. `audit` has what its event costs.
//!
//! Requests go round a set of different ones, so that nothing is measured on repeated identical input.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use postern::base::id::DecisionIds;
use postern::base::path::{CanonicalPath, PathRules};
use postern::contract::decision::Phase;
use postern::contract::identity::{Facts as IdentityFacts, Identity};
use postern::contract::input::{Facts, InputBuilder};
use postern::contract::reads::Reads;
use postern::contract::request::{ApiFacts, BodyFacts, RequestHead, Source};
use postern::policy::bundle::{self, Purpose};
use postern::policy::decide::{Decider, Keep, Rules, reads};
use postern::rego::program::{Options, Program};
use regorus::Value;

const REQUESTS: usize = 256;
const NOW: Duration = Duration::from_hours(500_000);

/// One request's facts, owned.
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
    let peer = SocketAddr::from(([192, 0, 2, 1], 40_000));
    let role = ["reader", "writer", "admin"][index % 3];
    Request {
        head: RequestHead {
            method: if index.is_multiple_of(5) { Method::PUT } else { Method::GET },
            scheme: "https",
            host: "orders.example.com".to_owned(),
            authority: "orders.example.com".to_owned(),
            path: CanonicalPath::parse(&format!("/orders/{index}"), PathRules::default()).unwrap(),
            raw_path: None,
            query: Some(format!("page={index}")),
            headers,
            protocol: "HTTP/1.1",
            content_length: Some(0),
        },
        source: Source { peer, client_ip: peer.ip(), forwarded_for: Vec::new(), tls: None },
        identity: Identity::authenticated(IdentityFacts {
            provider: Some("corp".into()),
            kind: Some("jwt"),
            subject: Some(format!("user-{index}")),
            roles: vec!["employee".to_owned(), role.to_owned()],
            ..IdentityFacts::default()
        }),
        params: vec![("id".into(), index.to_string())],
    }
}

fn facts<'a>(request: &'a Request, ids: &mut DecisionIds, lifecycle: &'a Value) -> Facts<'a> {
    Facts {
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
            lifecycle,
        },
        identity: &request.identity,
        response: None,
    }
}

fn program(directory: &str) -> Program {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    bundle::load(&[path], Purpose::Serve(None)).unwrap().compile(Options::default()).unwrap()
}

fn rules(program: &Program) -> Rules {
    Rules {
        decision: program.entrypoint("gateway/decision").unwrap(),
        response: None,
        budget: Duration::from_millis(50),
        contract: postern::contract::form::Contract::GatewayV1,
        cache: 0,
    }
}

fn input(criterion: &mut Criterion) {
    let requests: Vec<_> = (0..REQUESTS).map(request).collect();
    let lifecycle = Value::new_object();
    let mut ids = DecisionIds::new();
    let mut group = criterion.benchmark_group("input");
    let rbac = program("benches/proxy/policy");
    let footprint = reads(&rbac.footprint(&rules(&rbac).decision));
    for (name, reads) in [("footprint of a role check", footprint), ("everything", Reads::Whole)] {
        let builder = InputBuilder::new(&reads);
        let mut turn = requests.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let request = turn.next().unwrap();
                black_box(builder.build(&facts(request, &mut ids, &lifecycle)))
            });
        });
    }
    group.finish();
}

fn decision(criterion: &mut Criterion) {
    let requests: Vec<_> = (0..REQUESTS).map(request).collect();
    let lifecycle = Value::new_object();
    let mut ids = DecisionIds::new();
    let mut group = criterion.benchmark_group("decision");
    for (name, directory) in [
        ("constant", "benches/proxy/allow"),
        ("roles and a limit", "benches/proxy/policy"),
        ("starter library", "policies"),
    ] {
        let program = program(directory);
        let mut decider = Decider::new(&program, &rules(&program));
        let mut turn = requests.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let request = turn.next().unwrap();
                let ruling =
                    decider.decide(&facts(request, &mut ids, &lifecycle), Phase::Request, Keep::Nothing);
                assert!(ruling.decision.is_ok(), "{:?}", ruling.error);
                black_box(ruling)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, input, decision);
criterion_main!(benches);
