//! What a request pays for its decision event, its limits and its metrics.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark may panic")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::Method;
use postern::audit::encode::encode;
use postern::audit::label::EncodedLabels;
use postern::audit::memo::Memo;
use postern::base::id::DecisionIds;
use postern::contract::event::{Bundle, Event, Gateway, LimitTaken, LogLevel, Outcome, Outside, Timings};
use postern::contract::rate::{Quota, Rate};
use postern::limits::fields::limit_fields;
use postern::limits::memory::Store;
use postern::limits::verdict::LimitRequest;
use postern::telemetry::metrics::{DecisionKind, Metrics, Stage, Vocabulary};
use regorus::Value;

const NOW: Duration = Duration::from_hours(500_000);

/// The input of a request with a verified token, as the gateway builds it.
const INPUT: &str = r#"{
    "version": "gateway/v1", "decision_id": "01890a5d-ac96-774b-bcce-b302099a8057", "time": "2026-11-24T08:00:00.000000001Z",
    "listener": "public", "source": {"ip": "10.1.2.3", "port": 51234, "forwarded_for": []},
    "request": {
        "id": "01890a5d-ac96-774b-bcce-b302099a8057", "method": "GET", "scheme": "https", "host": "orders.example.com",
        "path": "/v2/orders/42", "segments": ["v2", "orders", "42"], "query": {"page": ["2"]},
        "headers": {"accept": "*/*", "accept-encoding": "gzip, br", "authorization": "Bearer eyJhbGciOiJSUzI1NiJ9.e30.c2ln",
            "host": "orders.example.com", "user-agent": "curl/8.5.0", "x-request-id": "7d0a4c1e"},
        "cookies": {}, "protocol": "HTTP/1.1", "size": 0, "body_state": "absent"
    },
    "api": {"name": "orders", "version": "v2", "route": "read-order", "params": {"id": "42"}, "lifecycle": {"state": "active"}},
    "identity": {"authenticated": true, "provider": "corp", "type": "jwt", "subject": "alice", "issuer": "https://idp.example",
        "audience": ["orders"], "roles": ["reader"], "groups": [], "scopes": ["orders:read"],
        "claims": {"sub": "alice", "iss": "https://idp.example", "aud": "orders", "exp": 1800003600, "scope": "orders:read"},
        "expires_at": 1800003600}
}"#;

fn event_encoding(criterion: &mut Criterion) {
    let input = Value::from_json_str(INPUT).unwrap();
    let result = Value::from_json_str(
        r#"{"allow": true, "upstream": {"headers": {"set": {"x-user": "alice"}}}, "limits": [{"name": "per-client", "key": "alice", "rate": "100/1m"}]}"#,
    )
    .unwrap();
    let limits = [LimitTaken { name: "per-client".to_owned(), remaining: 99, exceeded: false }];
    let event = Event {
        decision_id: DecisionIds::new().next(NOW),
        timestamp: NOW,
        bundle: Some(Bundle { name: "main", revision: "2026-11-24.1", path: "gateway/decision" }),
        input: Some(&input),
        result: Some(&result),
        error: None,
        requested_by: "10.1.2.3:51234".parse().unwrap(),
        gateway: Gateway {
            listener: "public",
            api: Some("orders"),
            version: Some("v2"),
            route: Some("read-order"),
            method: &Method::GET,
            path: "/v2/orders/42",
            status: 200,
            outcome: Outcome::Allowed,
            reason: None,
            provider: Some("corp"),
            subject: Some("alice"),
            identity_failure: None,
            policy: Some("main"),
            upstream: Some("orders"),
            endpoint: Some("127.0.0.1:9000"),
            limits: &limits,
            fail_open: false,
            remembered: false,
            response_bytes: 1024,
            aborted: false,
            outside: Outside::default(),
            timings: Timings { total_us: 350, identity_us: 1, policy_us: 20, upstream_us: 300 },
        },
        level: LogLevel::Full,
        fields: None,
        labels: None,
        credentials: &[],
        credential_headers: &[],
    };
    // A cached identity: the cache and the request hold it beside the input.
    let identity = input[&Value::from("identity")].clone();
    let _cached = identity.clone();
    let labels =
        BTreeMap::from([("app".to_owned(), "orders".to_owned()), ("region".to_owned(), "eu-1".to_owned())]);
    let labels = EncodedLabels::new(&labels, "01890a5d-ac96-774b-bcce-b302099a8057");
    let mut out = Vec::with_capacity(64 * 1024);
    let mut memo = Memo::default();
    encode(&event, &labels, &mut memo, &mut out);
    let mut group = criterion.benchmark_group("event");
    group.throughput(Throughput::Bytes(out.len() as u64));
    group.bench_function("full", |bencher| {
        bencher.iter(|| {
            out.clear();
            encode(black_box(&event), &labels, &mut memo, &mut out);
        });
    });
    let summary = Event { level: LogLevel::Summary, ..event };
    group.bench_function("summary", |bencher| {
        bencher.iter(|| {
            out.clear();
            encode(black_box(&summary), &labels, &mut memo, &mut out);
        });
    });
}

fn limits(criterion: &mut Criterion) {
    let store = Store::new(1_000_000);
    let quota = |rate: &str| Quota::new(Rate::parse(rate).unwrap(), None, None).unwrap();
    let request = |name, key, rate| LimitRequest { name, key, quota: quota(rate) };
    let one = [request("per-client", "alice@example.com", "1000000000/1s")];
    let two = [one[0], request("per-tenant", "example.com", "1000000000/1s")];
    let refused = [request("refused", "alice@example.com", "1/366d")];
    store.take("orders", &refused, NOW);
    let mut group = criterion.benchmark_group("limits");
    for (name, requests) in [("take one", &one[..]), ("take two", &two[..]), ("refuse one", &refused[..])] {
        group.bench_function(name, |bencher| {
            let mut now = NOW;
            bencher.iter(|| {
                now += Duration::from_nanos(100);
                store.take(black_box("orders"), black_box(requests), now)
            });
        });
    }
    let keys: Vec<String> = (0..500_000).map(|index| format!("client-{index}@example.com")).collect();
    group.bench_function("take one of 500 000 keys", |bencher| {
        let mut index = 0;
        bencher.iter(|| {
            index = (index + 7_919) % keys.len();
            store.take("orders", &[request("many", &keys[index], "100/1m")], NOW)
        });
    });
    group.bench_function("parse a rate", |bencher| bencher.iter(|| Rate::parse(black_box("100/1m"))));
    let verdict = store.take("orders", &one, NOW);
    group.bench_function("response fields", |bencher| {
        bencher.iter(|| limit_fields(black_box(&one), &verdict));
    });
}

fn metrics(criterion: &mut Criterion) {
    let metrics = Metrics::new(Vocabulary { outcomes: &["allowed", "denied"], reasons: &["no_route"] });
    let (series, policy) = (metrics.series("public", Some("orders")), metrics.policy("main"));
    let worker = metrics.worker();
    criterion.bench_function("metrics/request", |bencher| {
        bencher.iter(|| {
            worker.request(black_box(series), 0, 200);
            worker.decision(policy, DecisionKind::Allow);
            for stage in Stage::ALL {
                worker.stage(*stage, black_box(350));
            }
        });
    });
}

criterion_group!(benches, event_encoding, limits, metrics);
criterion_main!(benches);
