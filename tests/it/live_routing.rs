//! Routing of a running gateway: hosts, patterns, methods, listeners, versions and their lives.

use serde_json::{Value, json};

use crate::gateway::{ALLOW_ALL, TestGateway};
use crate::live_support::*;
use crate::wire::{RawResponse, RecordingUpstream, ask, get};

const TELLS_API: &str =
    "package gateway\n\ndecision := {\"allow\": true, \"log\": {\"fields\": {\"api\": input.api}}}\n";

fn config(upstream: &RecordingUpstream, apis: &str) -> String {
    let all = "apis: [{name: all, policy: main, upstream: up}]";
    plain_config(&upstream.url(), "").replace(all, apis)
}

fn with_host(gateway: &TestGateway, listener: &str, host: &str, line: &str) -> RawResponse {
    ask(gateway.address(listener), format!("{line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"))
}

/// Which API and route answered `line` on `host`, or the status.
struct Routes {
    gateway: TestGateway,
    asked: usize,
}

impl Routes {
    fn start(apis: &str) -> Self {
        let upstream = RecordingUpstream::start();
        let gateway = TestGateway::start(&config(&upstream, apis), &[("policy/main.rego", TELLS_API)]);
        // The upstream's threads go on without their handle.
        drop(upstream);
        Self { gateway, asked: 0 }
    }

    fn api(&mut self, host: &str, line: &str) -> Value {
        let response = with_host(&self.gateway, "public", host, line);
        self.asked += 1;
        let event = self.gateway.events(self.asked).pop().unwrap();
        assert_eq!(event["gateway"]["status"], response.status);
        match response.status {
            200 => event["gateway"]["fields"]["api"].clone(),
            status => json!(status),
        }
    }

    #[track_caller]
    fn check(&mut self, host: &str, line: &str, api: &str, route: &str, params: &Value) {
        let got = self.api(host, line);
        let want = json!({"name": api, "route": route, "params": params, "lifecycle": {"state": "active"}});
        assert_eq!(got, want, "{host} {line}");
    }

    #[track_caller]
    fn refuses(&mut self, host: &str, line: &str, status: u16) {
        assert_eq!(self.api(host, line), json!(status), "{host} {line}");
    }
}

#[test]
fn requests_find_their_api_by_host_and_their_route_by_path_and_method() {
    let mut routes = Routes::start(
        r#"apis:
  - name: orders
    hosts: [orders.test, "*.shop.test"]
    base_path: /v2
    policy: main
    upstream: up
    routes:
      - {name: list, path: /orders, methods: [GET, HEAD]}
      - {name: create, path: /orders, methods: [POST]}
      - {name: read, path: "/orders/{id}", methods: [GET]}
      - {name: files, path: "/orders/{id}/files/{*rest}"}
  - {name: one-host, hosts: [one.shop.test], policy: main, upstream: up, routes: [{name: root, path: /}]}
  - {name: rest, policy: main, upstream: up, base_path: /other}"#,
    );
    let none = json!({});
    routes.check("orders.test", "GET /v2/orders", "orders", "list", &none);
    routes.check("ORDERS.test:80", "POST /v2/orders", "orders", "create", &none);
    routes.check("eu.shop.test", "GET /v2/orders/a%20b%C3%A9", "orders", "read", &json!({"id": "a b\u{e9}"}));
    routes.check(
        "orders.test",
        "PATCH /v2/orders/7/files/a/b%2Bc",
        "orders",
        "files",
        &json!({"id": "7", "rest": "a/b+c"}),
    );
    routes.check("one.shop.test", "GET /", "one-host", "root", &none);
    routes.check("elsewhere.test", "GET /other", "rest", "all", &none);
    routes.check("elsewhere.test", "GET /other/a/b", "rest", "all", &json!({"rest": "a/b"}));
    routes.refuses("one.shop.test", "GET /v2/orders", 404);
    routes.refuses("orders.test", "GET /other/a", 404);
    routes.refuses("a.b.shop.test", "GET /v2/orders", 404);
    routes.refuses("shop.test", "GET /v2/orders", 404);
    routes.refuses("orders.test", "GET /v2/orders/", 404);
    routes.refuses("orders.test", "GET /V2/orders", 404);
    routes.refuses("orders.test", "DELETE /v2/orders", 405);
    routes.refuses("orders.test", "PROPFIND /v2/orders/7", 405);
    let refused = with_host(&routes.gateway, "public", "orders.test", "DELETE /v2/orders");
    assert_eq!(refused.header("allow"), Some("GET, HEAD, POST"));
    let problem: Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!(problem["reason"], "method_not_allowed");
}

#[test]
fn unrouted_requests_are_recorded_without_a_policy() {
    let upstream = RecordingUpstream::start();
    let apis = "apis: [{name: a, base_path: /a, policy: main, upstream: up}]";
    let gateway = TestGateway::start(&config(&upstream, apis), &[("policy/main.rego", ALLOW_ALL)]);
    assert_eq!(get(gateway.address("public"), "/b?token=hush", "").status, 404);
    let event = &gateway.events(1)[0];
    let told = &event["gateway"];
    assert_eq!(
        (&told["path"], &told["outcome"], &told["reason"]),
        (&json!("/b"), &json!("refused"), &json!("no_route"))
    );
    assert!(event.get("input").is_none() && event.get("bundles").is_none() && told.get("api").is_none());
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn each_listener_has_its_own_apis() {
    let upstream = RecordingUpstream::start();
    let apis = "apis: [{name: open, base_path: /open, policy: main, upstream: up}, \
        {name: inner, base_path: /inner, policy: main, upstream: up}]";
    let listeners = r#"listeners: [{name: public, address: "127.0.0.1:0", apis: [open]}, {name: internal, address: "127.0.0.1:0"}]"#;
    let config =
        config(&upstream, apis).replace(r#"listeners: [{name: public, address: "127.0.0.1:0"}]"#, listeners);
    let gateway = TestGateway::start(&config, &[("policy/main.rego", ALLOW_ALL)]);
    let status = |listener: &str, path: &str| get(gateway.address(listener), path, "").status;
    assert_eq!((status("public", "/open"), status("public", "/inner")), (200, 404));
    assert_eq!((status("internal", "/open"), status("internal", "/inner")), (200, 200));
    let listeners: Vec<_> =
        gateway.events(4).iter().map(|event| event["gateway"]["listener"].clone()).collect();
    assert_eq!(listeners, ["public", "public", "internal", "internal"]);
}

#[test]
fn two_versions_stand_side_by_side_each_with_its_own_bundle() {
    let upstream = RecordingUpstream::start();
    let config = plain_config(&upstream.url(), "")
        .replace(
            "policies: {main: {bundle: policy, budget: 5s}}",
            "policies: {old: {bundle: v1, budget: 5s}, new: {bundle: v2, budget: 5s, decision: shop/verdict}}",
        )
        .replace(
            "apis: [{name: all, policy: main, upstream: up}]",
            "apis: [{name: shop-1, version: v1, base_path: /v1, policy: old, upstream: up}, \
             {name: shop-2, version: v2, base_path: /v2, policy: new, upstream: up}]",
        );
    let old =
        "package gateway\n\ndecision := {\"allow\": input.api.version == \"v1\", \"reason\": \"old\"}\n";
    let new = "package shop\n\nverdict := {\"allow\": false, \"status\": 402, \"reason\": \"new\"}\n";
    let manifest = r#"{"revision": "r2"}"#;
    let files = [("v1/p.rego", old), ("v2/p.rego", new), ("v2/.manifest", manifest)];
    let gateway = TestGateway::start(&config, &files);
    assert_eq!(get(gateway.address("public"), "/v1/x", "").status, 200);
    assert_eq!(get(gateway.address("public"), "/v2/x", "").status, 402);
    let events = gateway.events(2);
    let told = |index: usize| {
        let event: &Value = &events[index];
        json!([
            event["path"],
            event["gateway"]["policy"],
            event["gateway"]["version"],
            event["gateway"]["reason"]
        ])
    };
    assert_eq!(told(0), json!(["gateway/decision", "old", "v1", "old"]));
    assert_eq!(told(1), json!(["shop/verdict", "new", "v2", "new"]));
    assert_eq!(events[1]["bundles"], json!({"new": {"revision": "r2"}}));

    // A new bundle for one leaves the other's revision as it is.
    let before = events[0]["bundles"].clone();
    gateway.write("v2/.manifest", r#"{"revision": "r3"}"#);
    gateway.running().reloader().reload().unwrap();
    assert_eq!(get(gateway.address("public"), "/v1/x", "").status, 200);
    assert_eq!(get(gateway.address("public"), "/v2/x", "").status, 402);
    let events = gateway.events(4);
    assert_eq!(events[2]["bundles"], before);
    assert_eq!(events[3]["bundles"], json!({"new": {"revision": "r3"}}));
}

#[test]
fn versions_of_one_name_are_told_apart() {
    let upstream = RecordingUpstream::start();
    let apis = "apis: [{name: shop, version: v1, base_path: /v1, policy: main, upstream: up}, \
        {name: shop, version: v2, base_path: /v2, policy: main, upstream: up}]";
    let gateway = match TestGateway::try_start(&config(&upstream, apis), &[("policy/main.rego", TELLS_API)]) {
        Ok(gateway) => gateway,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(get(gateway.address("public"), "/v1/x", "").status, 200);
    assert_eq!(get(gateway.address("public"), "/v2/x", "").status, 200);
    let versions: Vec<_> =
        gateway.events(2).iter().map(|event| event["gateway"]["version"].clone()).collect();
    assert_eq!(versions, ["v1", "v2"]);
}

#[test]
fn a_retired_api_is_gone_and_a_deprecated_one_says_so() {
    let upstream = RecordingUpstream::answering(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nLink: </a>; rel=\"next\"\r\nDeprecation: @1\r\n\r\nok",
    );
    let apis = r#"apis:
  - {name: v1, base_path: /v1, policy: main, upstream: up, lifecycle: {state: retired}}
  - name: v2
    base_path: /v2
    policy: main
    upstream: up
    lifecycle: {state: deprecated, since: "2026-01-31", sunset: "2027-01-31", successor: /v3, docs: "https://docs.test/v2"}"#;
    let gateway = TestGateway::start(&config(&upstream, apis), &[("policy/main.rego", TELLS_API)]);
    let gone = get(gateway.address("public"), "/v1/x", "");
    assert_eq!((gone.status, upstream.requests()), (410, 0));
    let deprecated = get(gateway.address("public"), "/v2/x", "");
    assert_eq!(deprecated.header("sunset"), Some("Sun, 31 Jan 2027 00:00:00 GMT"));
    let told = |name: &str| {
        let lines = deprecated.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect::<Vec<_>>()
    };
    assert_eq!(told("deprecation"), ["@1769817600"], "one date, and it is the gateway's");
    let links = [
        "</a>; rel=\"next\"",
        "</v3>; rel=\"successor-version\"",
        "<https://docs.test/v2>; rel=\"deprecation\"",
    ];
    assert_eq!(told("link"), links);
    let events = gateway.events(2);
    assert_eq!(events[0]["gateway"]["reason"], "api_retired");
    assert_eq!(events[0]["gateway"]["api"], "v1");
    assert_eq!(
        events[1]["gateway"]["fields"]["api"]["lifecycle"],
        json!({"state": "deprecated", "since": "2026-01-31", "sunset": "2027-01-31"})
    );
}
