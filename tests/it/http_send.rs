//! `http.send` and `net.lookup_ip_addr` of a running gateway, against real servers: slow, endless, cut, redirecting.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use postern::base::clock::{Clock as _, SystemClock};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::gateway::TestGateway;
use crate::live_support::{Authority, metric, rustls_pem_key, send};
use crate::policy_cli::{files, gatewayctl};
use crate::wire::{self, RawResponse, RecordingUpstream};

/// Now, as a `Date` field has it (RFC 9110 section 5.6.7).
fn http_date_now() -> String {
    httpdate::fmt_http_date(std::time::UNIX_EPOCH + SystemClock.now())
}

/// Sends what the header `x-send` says, and tells what came of it in `x-got`.
const POLICY: &str = r#"package gateway

got := http.send(json.unmarshal(input.request.headers["x-send"]))

answer := object.remove(got, ["raw_body"])

decision := {"allow": true, "response": {"headers": {"set": {"x-got": json.marshal(answer)}}}} if answer

decision := {"allow": false, "reason": "undefined"} if {
	input.request.path != "/plain"
	not got
}

decision := true if input.request.path == "/plain"
"#;

/// A server that answers by path, and remembers each request's head and body.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    seen: Mutex<Vec<String>>,
    released: Mutex<bool>,
    changed: Condvar,
    away: Mutex<String>,
}

impl Server {
    fn start() -> Self {
        Self::over(None)
    }

    fn over(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = Arc::clone(&server.state);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (state, tls) = (Arc::clone(&state), tls.clone());
                thread::spawn(move || match tls {
                    None => serve(stream, &state),
                    Some(tls) => serve(StreamOwned::new(ServerConnection::new(tls).unwrap(), stream), &state),
                });
            }
        });
        server
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn seen(&self) -> Vec<String> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Waits until this many requests have come.
    fn wait_for(&self, count: usize) {
        let mut seen = self.state.seen.lock().unwrap();
        while seen.len() < count {
            seen = self.state.changed.wait(seen).unwrap();
        }
    }

    /// Lets the requests for `/held` go.
    fn release(&self) {
        *self.state.released.lock().unwrap() = true;
        self.state.changed.notify_all();
    }
}

fn serve(mut stream: impl Read + Write, state: &State) {
    while let Some((head, body)) = read_request(&mut stream) {
        state.seen.lock().unwrap().push(format!("{head}{body}"));
        state.changed.notify_all();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let answer = match path.as_str() {
            "/held" => {
                let mut released = state.released.lock().unwrap();
                while !*released {
                    released = state.changed.wait(released).unwrap();
                }
                whole("200 OK", "", "held")
            }
            "/hang" => {
                // Until the client has had enough.
                drop(stream.read(&mut [0]));
                return;
            }
            "/huge" => "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n".to_owned(),
            "/endless" => {
                let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
                drop(stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"));
                while stream.write_all(chunk.as_bytes()).is_ok() {}
                return;
            }
            "/cut" => {
                let cut = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{\"allow\": true}";
                drop(stream.write_all(cut.as_bytes()));
                return;
            }
            "/redirect" => whole("302 Found", "Location: /json\r\n", ""),
            "/away" => {
                whole("307 Gone Elsewhere", &format!("Location: {}\r\n", state.away.lock().unwrap()), "")
            }
            "/yaml" => whole("200 OK", "Content-Type: application/yaml\r\n", "a: [1, 2]\n"),
            "/bad" => whole("200 OK", "Content-Type: application/json\r\n", "{"),
            "/kept" => {
                let now = http_date_now();
                let headers = format!("Date: {now}\r\nCache-Control: max-age=60\r\n");
                whole("200 OK", &headers, "kept")
            }
            "/named" if head.to_ascii_lowercase().contains("if-none-match: \"v1\"") => {
                "HTTP/1.1 304 Not Modified\r\n\r\n".to_owned()
            }
            "/named" => {
                let now = http_date_now();
                let headers = format!("Date: {now}\r\nCache-Control: max-age=0\r\nETag: \"v1\"\r\n");
                whole("200 OK", &headers, "named")
            }
            _ => whole(
                "200 Fine",
                "Content-Type: application/json; charset=utf-8\r\nX-Two: a\r\nX-Two: b\r\n",
                "{\"n\": 1}",
            ),
        };
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn whole(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn read_request(stream: &mut impl Read) -> Option<(String, String)> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    Some((head, String::from_utf8(body).unwrap()))
}

/// A gateway whose policy may ask as `more` says.
fn gateway(policy: &str, more: &str, files: &[(&str, &str)]) -> TestGateway {
    let mut all = vec![("policy/main.rego", policy)];
    all.extend(files);
    TestGateway::start(&config(more), &all)
}

fn config(more: &str) -> String {
    // Its threads live as long as the process.
    let upstream = RecordingUpstream::start().url();
    format!(
        r#"
version: 1
workers: 1
listeners: [{{name: public, address: "127.0.0.1:0"}}]
upstreams: {{up: {{endpoints: ["{upstream}"]}}}}
policies: {{main: {{bundle: policy, budget: 1s, {more}}}}}
apis: [{{name: all, policy: main, upstream: up}}]
decision_logs: [{{type: file, path: decisions.jsonl}}]
admin: {{address: "127.0.0.1:0"}}
"#
    )
}

fn allowing(servers: &[&Server], more: &str) -> String {
    let servers: Vec<String> = servers.iter().map(|server| format!("\"{}\"", server.address)).collect();
    format!("http_send: {{allow: [{}]{more}}}", servers.join(", "))
}

fn ask(gateway: &TestGateway, request: &Value) -> RawResponse {
    send(gateway.address("public"), "GET", "/", &format!("X-Send: {request}\r\n"), "")
}

/// The result of the call, without what is different each time.
#[track_caller]
fn got(gateway: &TestGateway, request: &Value) -> Value {
    let response = ask(gateway, request);
    let got = response.header("x-got").unwrap_or_else(|| panic!("{} {}", response.head, response.text()));
    serde_json::from_str(got).unwrap()
}

#[track_caller]
fn is_undefined(gateway: &TestGateway, request: &Value) {
    let response = ask(gateway, request);
    assert_eq!((response.status, response.header("x-got")), (403, None), "{request}: {}", response.text());
}

#[test]
fn a_policy_asks_a_server_and_gets_what_opa_gets() {
    let server = Server::start();
    let gateway = gateway(POLICY, &allowing(&[&server], ""), &[]);
    let url = server.url("/json?q=1");
    let body = json!({"b": [1, null], "a": true});
    let request = json!({"method": "post", "url": url, "body": body, "headers": {"X-Own": "1"}});
    let want = json!({
        "status": "200 Fine",
        "status_code": 200,
        "body": {"n": 1},
        "headers": {
            "content-type": ["application/json; charset=utf-8"],
            "content-length": ["8"],
            "x-two": ["a", "b"],
        },
    });
    assert_eq!(got(&gateway, &request), want);
    let seen = server.seen();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].starts_with("POST /json?q=1 HTTP/1.1\r\n"), "{seen:?}");
    assert!(seen[0].ends_with("\r\n\r\n{\"a\":true,\"b\":[1,null]}"), "{seen:?}");
    let head = seen[0].to_ascii_lowercase();
    for line in ["x-own: 1\r\n", "user-agent: postern/", &format!("host: {}\r\n", server.address)] {
        assert!(head.contains(line), "{line}: {head}");
    }
    let told = &gateway.events(1)[0]["gateway"]["outside"];
    assert!(told["us"].as_u64().unwrap() > 0, "{told}");
    for (name, count) in [("sends", 1), ("cached", 0), ("lookups", 0), ("failed", 0)] {
        assert_eq!(told[name], count, "{name}");
    }
    assert_eq!(metric(&gateway, "postern_policy_outside_total{policy=\"main\",kind=\"sent\"}"), Some(1));
    assert_eq!(metric(&gateway, "postern_policy_outside_total{policy=\"main\",kind=\"failed\"}"), Some(0));
}

#[test]
fn what_was_sent_is_told_even_where_the_client_does_not_wait() {
    let server = Server::start();
    let gateway = gateway(POLICY, &allowing(&[&server], ", timeout: 20s"), &[]);
    let mut client = wire::connect(gateway.address("public"));
    let request = json!({"method": "GET", "url": server.url("/held")});
    write!(client, "GET / HTTP/1.1\r\nHost: gw.test\r\nX-Send: {request}\r\n\r\n").unwrap();
    server.wait_for(1);
    drop(client);
    let told = &gateway.events(1)[0]["gateway"];
    assert_eq!((&told["reason"], &told["outside"]["sends"]), (&json!("client_gone"), &json!(1)), "{told}");
    server.release();
}

#[test]
fn bodies_are_decoded_as_opa_decodes_them() {
    let server = Server::start();
    let gateway = gateway(POLICY, &allowing(&[&server], ""), &[]);
    let check = |path: &str, more: &Value, want: Value| {
        let mut request = json!({"method": "GET", "url": server.url(path)});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(got(&gateway, &request)["body"], want, "{path} {more}");
    };
    check("/yaml", &json!({}), json!({"a": [1, 2]}));
    check("/yaml", &json!({"force_json_decode": true}), Value::Null);
    check("/bad", &json!({}), Value::Null);
    check("/kept", &json!({}), Value::Null);
    check("/kept", &json!({"force_yaml_decode": true}), json!("kept"));
}

#[test]
fn a_slow_server_delays_nobody_else() {
    let server = Server::start();
    let gateway = gateway(POLICY, &allowing(&[&server], ", timeout: 20s"), &[]);
    let address = gateway.address("public");
    let request = json!({"method": "GET", "url": server.url("/held")});
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..3).map(|_| scope.spawn(|| got(&gateway, &request))).collect();
        server.wait_for(3);
        // One worker, three decisions that wait: others are decided all the same.
        for _ in 0..20 {
            assert_eq!(wire::get(address, "/plain", "").status, 200);
        }
        let other = json!({"method": "GET", "url": server.url("/json")});
        assert_eq!(got(&gateway, &other)["status_code"], 200);
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
        server.release();
        for waiting in waiting {
            assert_eq!(waiting.join().unwrap()["status_code"], 200);
        }
    });
}

#[test]
fn more_than_may_be_under_way_at_once_wait_for_their_turn() {
    let server = Server::start();
    let gateway = gateway(POLICY, &allowing(&[&server], ", timeout: 20s, concurrent: 1"), &[]);
    let held = json!({"method": "GET", "url": server.url("/held")});
    let next = json!({"method": "GET", "url": server.url("/json")});
    thread::scope(|scope| {
        let first = scope.spawn(|| got(&gateway, &held));
        server.wait_for(1);
        let second = scope.spawn(|| got(&gateway, &next));
        // While the first is held the second is not sent, and those that send nothing are decided.
        assert_eq!(wire::get(gateway.address("public"), "/plain", "").status, 200);
        assert_eq!(server.seen().len(), 1);
        server.release();
        assert_eq!(first.join().unwrap()["status_code"], 200);
        assert_eq!(second.join().unwrap()["status_code"], 200);
    });
}

#[test]
fn what_is_not_answered_whole_and_in_time_is_an_error_as_in_opa() {
    let server = Server::start();
    let gateway = gateway(POLICY, &allowing(&[&server], ", timeout: 2s, response_bytes: 4KiB"), &[]);
    let check = |path: &str, code: &str, message: &str| {
        let mut request = json!({"method": "GET", "url": server.url(path), "timeout": "100ms"});
        is_undefined(&gateway, &request);
        request["raise_error"] = json!(false);
        let got = got(&gateway, &request);
        assert_eq!(got["status_code"], 0, "{got}");
        assert_eq!(got["error"]["code"], code, "{got}");
        let shown = got["error"]["message"].as_str().unwrap();
        let server = format!("GET http://{}: ", server.address);
        assert!(shown.starts_with(&server) && shown.contains(message), "{got}");
        assert!(got.get("body").is_none(), "{got}");
    };
    let network = "eval_http_send_network_error";
    check("/hang", network, "request timed out");
    check("/huge", "eval_http_send_internal_error", "larger than 4096 bytes");
    check("/endless", "eval_http_send_internal_error", "larger than 4096 bytes");
    check("/cut", network, "broke off");
    let failed = &gateway.events(8)[0]["gateway"]["outside"];
    assert_eq!((&failed["sends"], &failed["failed"]), (&json!(1), &json!(1)));
}

#[test]
fn all_sends_of_a_decision_share_its_time() {
    let server = Server::start();
    let policy = "package gateway\n\nask(n) := http.send({\"method\": \"GET\", \"url\": concat(\"\", [input.request.headers[\"x-url\"], n]), \"raise_error\": false})\n\n\
        decision := {\"allow\": true, \"response\": {\"headers\": {\"set\": {\"x-got\": json.marshal(codes)}}}}\n\ncodes := [ask(n).status_code | some n in [\"json\", \"hang\", \"json?2\"]]\n";
    let gateway = gateway(policy, &allowing(&[&server], ", timeout: 300ms"), &[]);
    let response = wire::get(gateway.address("public"), "/", &format!("X-Url: {}\r\n", server.url("/")));
    // The third has no time left.
    assert_eq!(response.header("x-got"), Some("[200,0,0]"), "{}", response.head);
    assert_eq!(server.seen().len(), 2);
}

#[test]
fn nothing_is_sent_to_a_server_that_is_not_listed() {
    let (listed, other) = (Server::start(), Server::start());
    let gateway = gateway(POLICY, &allowing(&[&listed], ""), &[]);
    *listed.state.away.lock().unwrap() = other.url("/json");
    let refused = |request: &Value, reason: &str| {
        let response = ask(&gateway, request);
        assert_eq!(response.status, 503, "{request}: {}", response.head);
        let events = gateway.events(1);
        let error = events.last().unwrap()["error"]["message"].as_str().unwrap().to_owned();
        assert!(error.contains(reason) && !error.contains("limit"), "{request}: {error}");
    };
    let not_listed = format!("`{}` is not among the servers", other.address);
    refused(&json!({"method": "GET", "url": other.url("/json"), "raise_error": false}), &not_listed);
    let away = json!({"method": "GET", "url": listed.url("/away"), "enable_redirect": true});
    let response = ask(&gateway, &away);
    assert_eq!(response.status, 503);
    let error = gateway.events(2)[1]["error"]["message"].as_str().unwrap().to_owned();
    assert!(error.contains(&not_listed), "{error}");
    assert_eq!((listed.seen().len(), other.seen().len()), (1, 0));
    // A redirect that is not followed is an answer.
    let unfollowed = got(&gateway, &json!({"method": "GET", "url": listed.url("/away")}));
    assert_eq!(unfollowed["status"], "307 Gone Elsewhere");
}

#[test]
fn redirects_are_followed_where_asked_and_credentials_stay_with_their_server() {
    let (first, second) = (Server::start(), Server::start());
    let gateway = gateway(POLICY, &allowing(&[&first, &second], ""), &[]);
    let headers = json!({"Authorization": "Bearer s3cret", "X-Own": "1"});
    let ask = |path: &str, method: &str| {
        let url = first.url(path);
        let request = json!({"method": method, "url": url, "headers": headers, "raw_body": "hi", "enable_redirect": true});
        got(&gateway, &request)
    };
    assert_eq!(ask("/redirect", "POST")["body"], json!({"n": 1}));
    let seen = first.seen();
    assert!(seen[1].starts_with("GET /json ") && seen[1].ends_with("\r\n\r\n"), "{seen:?}");
    assert!(seen[1].to_ascii_lowercase().contains("authorization: bearer s3cret"), "{seen:?}");
    *first.state.away.lock().unwrap() = second.url("/json");
    assert_eq!(ask("/away", "POST")["body"], json!({"n": 1}));
    let moved = second.seen()[0].to_ascii_lowercase();
    assert!(moved.starts_with("post /json ") && moved.ends_with("\r\n\r\nhi"), "{moved}");
    assert!(moved.contains("x-own: 1") && !moved.contains("s3cret"), "{moved}");
    *first.state.away.lock().unwrap() = first.url("/away");
    is_undefined(&gateway, &json!({"method": "GET", "url": first.url("/away"), "enable_redirect": true}));
}

#[test]
fn a_request_is_sent_once_for_a_decision_however_often_it_is_asked() {
    let server = Server::start();
    let policy = r#"package gateway

request := {"method": "GET", "url": input.request.headers["x-url"], "headers": {"X-Id": uuid.rfc4122("k")}}

decision := {"allow": http.send(request).status_code == 200, "log": {"fields": {"again": again, "id": request.headers["X-Id"]}}}

again := http.send(request).body.n
"#;
    let gateway = gateway(policy, &allowing(&[&server], ""), &[]);
    let headers = format!("X-Url: {}\r\n", server.url("/json"));
    assert_eq!(wire::get(gateway.address("public"), "/", &headers).status, 200);
    assert_eq!(server.seen().len(), 1);
    let event = &gateway.events(1)[0];
    assert_eq!(event["gateway"]["fields"]["again"], 1);
    // What chance drew before the question is what it drew after the answer.
    let id = event["gateway"]["fields"]["id"].as_str().unwrap();
    assert!(server.seen()[0].contains(id));
    // The next decision asks again.
    assert_eq!(wire::get(gateway.address("public"), "/", &headers).status, 200);
    assert_eq!(server.seen().len(), 2);
}

#[test]
fn a_decision_that_asks_without_end_fails() {
    let server = Server::start();
    let policy = r#"package gateway

decision := count([1 | some n in numbers.range(1, 100); http.send({"method": "GET", "url": sprintf("%s?%d", [input.request.headers["x-url"], n])})]) > 0
"#;
    let gateway = gateway(policy, &allowing(&[&server], ", requests: 3"), &[]);
    let headers = format!("X-Url: {}\r\n", server.url("/json"));
    assert_eq!(wire::get(gateway.address("public"), "/", &headers).status, 503);
    assert_eq!(server.seen().len(), 3);
    let error = gateway.events(1)[0]["error"]["message"].as_str().unwrap().to_owned();
    assert!(error.contains("one decision may send 3 different requests"), "{error}");
}

#[test]
fn answers_are_kept_where_the_policy_asks_for_it() {
    let server = Server::start();
    let gateway = gateway(POLICY, &allowing(&[&server], ""), &[]);
    let check = |path: &str, more: &Value, sent: usize| {
        let before = server.seen().len();
        let mut request = json!({"method": "GET", "url": server.url(path)});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        for _ in 0..3 {
            assert_eq!(got(&gateway, &request)["status_code"], 200);
        }
        assert_eq!(server.seen().len() - before, sent, "{path} {more}");
    };
    check("/kept", &json!({}), 3);
    check("/kept", &json!({"cache": true}), 1);
    check("/json", &json!({"cache": true}), 3);
    check("/json", &json!({"force_cache": true, "force_cache_duration_seconds": 60}), 1);
    // Asked for each time, answered with 304: the body is the kept one.
    check("/named", &json!({"cache": true, "force_yaml_decode": true}), 3);
    let named =
        json!({"method": "GET", "url": server.url("/named"), "cache": true, "force_yaml_decode": true});
    assert_eq!(got(&gateway, &named)["body"], "named");
    assert!(server.seen().last().unwrap().to_ascii_lowercase().contains("if-none-match: \"v1\""));
    let with = |id: &str| json!({"cache": true, "headers": {"X-Id": id}, "cache_ignored_headers": ["X-Id"]});
    check("/kept", &with("1"), 1);
    check("/kept", &with("2"), 0);
    let cached = &gateway.events(6)[5]["gateway"]["outside"];
    assert_eq!((&cached["sends"], &cached["cached"]), (&json!(0), &json!(1)));
}

#[test]
fn what_opa_refuses_is_undefined_and_what_we_do_not_do_fails_the_decision() {
    let server = Server::start();
    let gateway = gateway(POLICY, &allowing(&[&server], ""), &[]);
    let with = |name: &str, value: Value| {
        let mut request = json!({"method": "GET", "url": server.url("/json")});
        request[name] = value;
        request
    };
    for invalid in [
        json!({"url": server.url("/json")}),
        json!({"method": "GET"}),
        with("methud", json!("GET")),
        with("method", json!(1)),
        with("url", json!("ftp://a/")),
        with("headers", json!(["a"])),
        with("headers", json!({"a": 1})),
        with("timeout", json!("soon")),
        with("raise_error", json!("no")),
        with("caching_mode", json!("fast")),
        with("force_cache", json!(true)),
        with("max_retry_attempts", json!(-1)),
    ] {
        is_undefined(&gateway, &invalid);
    }
    for refused in [
        with("tls_ca_cert_file", json!("/etc/ca.pem")),
        with("tls_insecure_skip_verify", json!(true)),
        with("method", json!("CONNECT")),
        with("headers", json!({"Transfer-Encoding": "chunked"})),
        with("max_retry_attempts", json!(1000)),
        with("url", json!(format!("http://u:p@{}/json", server.address))),
        with("url", json!("unix://localhost/x?socket=%2Ftmp%2Fx")),
    ] {
        assert_eq!(ask(&gateway, &refused).status, 503, "{refused}");
    }
    assert_eq!(server.seen().len(), 0);
}

#[test]
fn a_tls_server_is_trusted_by_the_configured_issuers_alone() {
    let authority = Authority::new("servers");
    let issued = authority.server(&["127.0.0.1"]);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.der.clone()], rustls_pem_key(&issued.key))
        .unwrap();
    let server = Server::over(Some(Arc::new(tls)));
    let url = format!("https://{}/json", server.address);
    let pem = authority.pem();
    let trusting = gateway(POLICY, &allowing(&[&server], ", ca: ca.pem"), &[("ca.pem", &pem)]);
    assert_eq!(got(&trusting, &json!({"method": "GET", "url": url}))["body"], json!({"n": 1}));
    let stranger = Authority::new("strangers").pem();
    let doubting = gateway(POLICY, &allowing(&[&server], ", ca: ca.pem"), &[("ca.pem", &stranger)]);
    let failed = got(&doubting, &json!({"method": "GET", "url": url, "raise_error": false}));
    assert_eq!(failed["error"]["code"], "eval_http_send_network_error");
    assert!(failed["error"]["message"].as_str().unwrap().contains("certificate"), "{failed}");
}

#[test]
fn a_failing_server_is_tried_as_often_as_the_request_says() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let served = thread::spawn(move || {
        for stream in listener.incoming().map(Result::unwrap).take(2) {
            drop::<TcpStream>(stream);
        }
        let (stream, _) = listener.accept().unwrap();
        serve(stream, &State::default());
    });
    let gateway = gateway(POLICY, &format!("http_send: {{allow: [\"{address}\"], timeout: 10s}}"), &[]);
    let request = json!({"method": "GET", "url": format!("http://{address}/json"), "max_retry_attempts": 2});
    assert_eq!(got(&gateway, &request)["status_code"], 200);
    drop(gateway);
    served.join().unwrap();
}

#[test]
fn names_are_looked_up_where_they_are_listed() {
    let policy = r#"package gateway

decision := {"allow": true, "response": {"headers": {"set": {"x-got": json.marshal(net.lookup_ip_addr(input.request.headers["x-name"]))}}}}
"#;
    let gateway = gateway(policy, "lookup: {allow: [localhost, postern.invalid]}", &[]);
    let ask = |name: &str| wire::get(gateway.address("public"), "/", &format!("X-Name: {name}\r\n"));
    let found = ask("LocalHost.");
    let addresses: Vec<String> = serde_json::from_str(found.header("x-got").unwrap()).unwrap();
    assert!(addresses.iter().any(|address| address == "127.0.0.1" || address == "::1"), "{addresses:?}");
    assert_eq!(ask("192.0.2.1").header("x-got"), Some("[\"192.0.2.1\"]"));
    // RFC 6761: `.invalid` never resolves. The call is undefined, and so the decision.
    assert_eq!(ask("postern.invalid").status, 503);
    assert_eq!(ask("example.com").status, 503);
    let events = gateway.events(4);
    assert_eq!(events[0]["gateway"]["outside"]["lookups"], 1);
    assert!(events[1]["gateway"].get("outside").is_none());
    let error = events[3]["error"]["message"].as_str().unwrap();
    assert!(error.contains("`example.com` is not among the names"), "{error}");
}

#[test]
fn without_configuration_a_policy_that_asks_is_refused() {
    let check = |more: &str, place: &str, hint: &str| {
        let refused = TestGateway::try_start(&config(more), &[("policy/main.rego", POLICY)]);
        let error = refused.err().unwrap().to_string();
        assert!(error.contains(place) && error.contains(hint), "{error}");
    };
    check("on_error: deny", "main.rego:3:8", "configure `http_send` for the policy");
    check("lookup: {allow: [localhost]}", "main.rego:3:8", "`http.send` is not configured");
    check("http_send: {allow: [\"http://a\"]}", "`http://a` is not a server", "write `host:port`");
    check("http_send: {allow: []}", "gateway.yaml", "allow");
}

#[test]
fn the_response_phase_may_ask_too_and_a_mocked_call_asks_nobody() {
    let server = Server::start();
    let policy = r#"package gateway

decision := true

response := {"allow": http.send({"method": "GET", "url": data.url}).body.n == 1}
"#;
    let tests = r#"package gateway_test

mock(request) := {"body": {"n": 1}} if request.method == "GET"

test_allowed if data.gateway.response.allow with http.send as mock

test_value if not data.gateway.response.allow with http.send as {"body": {"n": 2}}
"#;
    let data = json!({"url": server.url("/json")}).to_string();
    let more = format!("response: gateway/response, {}", allowing(&[&server], ""));
    let files = [("policy/main_test.rego", tests), ("policy/data.json", &*data)];
    let gateway = gateway(policy, &more, &files);
    // The bundle's own tests have run.
    assert_eq!(server.seen().len(), 0);
    assert_eq!(wire::get(gateway.address("public"), "/", "").status, 200);
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn eval_asks_only_whom_its_arguments_allow() {
    let server = Server::start();
    let policy = format!(
        "package gateway\n\ndecision := http.send({{\"method\": \"GET\", \"url\": \"{}\"}}).body.n == 1\n",
        server.url("/json")
    );
    let root = files(&[("p.rego", &policy)]);
    let eval = |more: &[&str]| gatewayctl(root.path(), &[&["policy", "eval", "p.rego"], more].concat());
    let ran = eval(&[]);
    assert_eq!(ran.code, Some(1));
    let notes = ran.notes;
    assert!(
        notes.contains("p.rego:3:13: `http.send` to ") && notes.contains("--allow-http HOST:PORT"),
        "{notes}"
    );
    assert_eq!(server.seen().len(), 0);
    let ran = eval(&["--allow-http", &server.address.to_string()]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "true\n"), "{}", ran.notes);
    let query =
        format!("http.send({{\"method\": \"GET\", \"url\": \"{}\"}}).status_code", server.url("/json"));
    let ran = eval(&["--allow-http", &server.address.to_string(), "--query", &query]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "200\n"), "{}", ran.notes);
    // Why it is undefined is found out without sending anything again.
    let before = server.seen().len();
    let query = query.replace("status_code", "nothing");
    let ran = eval(&["--allow-http", &server.address.to_string(), "--query", &query]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "undefined\n"), "{}", ran.notes);
    assert_eq!(server.seen().len(), before + 1);
    let ran = eval(&["--allow-http", "127.0.0.1:1"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.notes.contains("is not among the servers in `allow`"), "{}", ran.notes);
    assert_eq!(eval(&["--allow-http", "http://a"]).code, Some(64));
    let ran = eval(&["--query", "net.lookup_ip_addr(\"localhost\")", "--allow-lookup", "localhost"]);
    assert_eq!(ran.code, Some(0), "{}", ran.notes);
}

#[test]
fn tests_must_mock_it_and_check_says_what_to_configure() {
    let policy = "package gateway\n\ndecision := http.send({\"method\": \"GET\", \"url\": \"http://a.test/?key=s3cret\"}).body.n == 1\n";
    let tests = "package gateway_test\n\nimport data.gateway\n\ntest_mocked if gateway.decision with http.send as {\"body\": {\"n\": 1}}\n\ntest_bare if gateway.decision\n";
    let root = files(&[("p.rego", policy), ("p_test.rego", tests)]);
    let ran = gatewayctl(root.path(), &["policy", "test", "."]);
    assert_eq!(ran.code, Some(2), "{}", ran.notes);
    assert!(ran.out.contains("PASS: 1/2"), "{}", ran.out);
    let said = "`http.send` to `http://a.test/` has no answer here: mock it, `with http.send as ...`";
    assert!(ran.out.contains(said) && !ran.out.contains("s3cret"), "{}", ran.out);
    let ran = gatewayctl(root.path(), &["policy", "check", "."]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.notes);
    assert!(ran.out.contains("p.rego:3:13") && ran.out.contains("configure `http_send`"), "{}", ran.out);
    let ran = gatewayctl(root.path(), &["policy", "footprint", "."]);
    assert!(ran.out.contains("http.send"), "{}", ran.out);
}

#[test]
fn a_decision_that_asked_outside_cannot_be_replayed() {
    let server = Server::start();
    let gateway = gateway(POLICY, &allowing(&[&server], ""), &[]);
    got(&gateway, &json!({"method": "GET", "url": server.url("/json")}));
    assert_eq!(wire::get(gateway.address("public"), "/plain", "").status, 200);
    gateway.events(2);
    let root = gateway.path("");
    let ran = gatewayctl(
        &root,
        &["policy", "replay", "decisions.jsonl", "--against", "policy", "--format", "json"],
    );
    let report: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{}{}", ran.out, ran.notes));
    assert!(
        ran.out.contains("the candidate calls `http.send`, whose answers are not recorded"),
        "{report:#}"
    );
    assert_eq!(server.seen().len(), 1);
}
