//! Candidates that are fetched from a real server, nginx: compared and replaced while the policy decides on undisturbed, whatever
//! their server does.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use serde_json::{Value, json};

use crate::bundles_remote::{Holding, LONG_POLLING, POLLING, Server, TOKEN};
use crate::gateway::{TestGateway, eventually};
use crate::live_reload::dear;
use crate::live_support::{Authority, admin, metric, plain_config};
use crate::policy_cli::gatewayctl;
use crate::wire::{RecordingUpstream, get};

const ALLOW: &str = "package gateway\n\ndecision := true\n";

/// A policy `main` of these keys.
fn config(upstream: &RecordingUpstream, policy: &str) -> String {
    plain_config(&upstream.url(), "reload: {watch: false}").replace("bundle: policy, budget: 5s", policy)
}

/// A policy of the directory `policy`, with a candidate from `url`.
fn beside(upstream: &RecordingUpstream, url: &str, more: &str) -> String {
    config(upstream, &format!("bundle: policy, budget: 5s, shadow: {{bundle: \"{url}\", {more}}}"))
}

fn start(config: &str) -> TestGateway {
    TestGateway::start(config, &[("policy/main.rego", ALLOW)])
}

fn ask(gateway: &TestGateway) -> u16 {
    get(gateway.address("public"), "/", "").status
}

fn page(gateway: &TestGateway) -> Value {
    serde_json::from_slice(&admin(gateway, "/status").body).unwrap()
}

fn policy(gateway: &TestGateway) -> Value {
    page(gateway)["policies"]["main"].clone()
}

fn shadow(gateway: &TestGateway) -> Value {
    policy(gateway)["shadow"].clone()
}

/// The shadow, once it is of `revision`.
fn candidate(gateway: &TestGateway, revision: &str) -> Value {
    eventually(&format!("candidate {revision}"), || {
        Some(shadow(gateway)).filter(|shadow| shadow["revision"] == revision)
    })
}

/// How fetching it is doing, once that says `why`.
fn troubled(gateway: &TestGateway, why: &str) -> Value {
    eventually(why, || Some(shadow(gateway)).filter(|shadow| shadow["fetch"].to_string().contains(why)))
}

/// Once the candidate has decided on something.
fn counted(gateway: &TestGateway, direction: &str, count: u64) -> Value {
    eventually(&format!("{count} {direction}"), || {
        Some(shadow(gateway)).filter(|shadow| shadow["decisions"][direction] == count)
    })
}

fn generation(gateway: &TestGateway) -> u64 {
    gateway.running().reloader().shared().generation()
}

fn reload(gateway: &TestGateway) {
    gateway.running().reloader().reload().unwrap();
}

#[test]
fn a_candidate_is_fetched_and_replaced_beside_a_policy_that_notices_nothing() {
    let Some(server) = Server::start("") else { return };
    let upstream = RecordingUpstream::start();
    let policy_text = dear("first");
    server.publish(&server.pack_text(&policy_text, "same", &[]));
    let text = beside(&upstream, &server.url(), &format!("{POLLING}, budget: 100%"));
    let gateway = TestGateway::start(&text, &[("policy/main.rego", &policy_text)]);
    let seen = candidate(&gateway, "same");
    assert_eq!((&seen["state"], &seen["bundle"]), (&json!("evaluated"), &json!(server.url())));
    assert_eq!((&seen["fetch"]["active_revision"], &seen["fetch"]["code"]), (&json!("same"), &Value::Null));
    assert_eq!(page(&gateway)["bundles"], json!({}), "it is no bundle of the policy");
    let blue = || get(gateway.address("public"), "/a", "X-Team: blue\r\n").status;
    // The first decisions are timed; then what costs more than a look-up is remembered.
    for _ in 0..40 {
        assert_eq!(blue(), 200);
    }
    counted(&gateway, "same", 40);
    server.answers_twice_more("304");
    assert_eq!(server.asked().iter().filter(|line| line.starts_with("200")).count(), 1);
    server.publish(&server.pack_text(&dear("second"), "other", &[]));
    let replaced = candidate(&gateway, "other");
    assert_eq!(replaced["decisions"]["same"], 0, "another candidate, other counts");
    assert_ne!(replaced["since"], seen["since"]);
    assert_eq!(generation(&gateway), 1, "nothing that decides has changed");
    assert!(!gateway.running().reloader().roll_back().unwrap(), "and there is nothing to roll back");
    assert_eq!(blue(), 200);
    counted(&gateway, "obligations", 1);
    let events = eventually("the event after that", || {
        let lines = fs::read_to_string(gateway.path("decisions.jsonl")).unwrap();
        let whole = lines.lines().map_while(|line| serde_json::from_str::<Value>(line).ok());
        let events: Vec<_> = whole.filter(|line| line.get("decision_id").is_some()).collect();
        (events.len() == 41).then_some(events)
    });
    assert_eq!(events[40]["gateway"]["remembered"], true, "what was remembered before still is");
    let count = |series: &str| metric(&gateway, series);
    assert_eq!(count("postern_shadow_bundle_requests_total{policy=\"main\",result=\"downloaded\"}"), Some(2));
    assert_eq!(count("postern_shadow_bundle_activations_total{policy=\"main\",result=\"ok\"}"), Some(2));
    assert_eq!(count("postern_bundle_activations_total{policy=\"main\",result=\"ok\"}"), None);
    // A reload keeps it, and its counts, and does not fetch it anew.
    let before = server.asked().iter().filter(|line| line.starts_with("200")).count();
    reload(&gateway);
    assert_eq!(counted(&gateway, "obligations", 1)["revision"], "other");
    server.answers_twice_more("304");
    assert_eq!(server.asked().iter().filter(|line| line.starts_with("200")).count(), before);
}

#[test]
fn no_outage_of_a_candidates_server_is_felt() {
    let Some(mut server) = Server::start("") else { return };
    let upstream = RecordingUpstream::start();
    server.stop();
    let text = beside(&upstream, &server.url(), POLLING);
    let gateway = start(&text);
    assert_eq!((ask(&gateway), admin(&gateway, "/ready").status), (200, 200));
    let shown = troubled(&gateway, "cannot reach the server");
    assert_eq!((&shown["state"], &shown["fetch"]["code"]), (&json!("awaited"), &json!("bundle_error")));
    let refused = gateway.running().reloader().promote(None).unwrap_err().to_string();
    assert!(refused.contains("no bundle of the shadow") && refused.contains(&server.url()), "{refused}");
    reload(&gateway);
    assert!(
        metric(&gateway, "postern_shadow_bundle_requests_total{policy=\"main\",result=\"failed\"}") > Some(0)
    );
    server.publish(&server.pack(false, "first", &[]));
    server.resume();
    candidate(&gateway, "first");
    assert_eq!(ask(&gateway), 200);
    counted(&gateway, "allow_to_deny", 1);

    server.stop();
    let shown = troubled(&gateway, "cannot reach the server");
    assert_eq!((&shown["state"], &shown["revision"]), (&json!("evaluated"), &json!("first")));
    reload(&gateway);
    // Settings of the same policy change, and the candidate that is here is built anew.
    gateway.write("gateway.yaml", &text.replace("budget: 5s", "budget: 4s"));
    reload(&gateway);
    let shown = shadow(&gateway);
    assert_eq!((&shown["revision"], &shown["decisions"]["allow_to_deny"]), (&json!("first"), &json!(1)));
    server.publish(&server.pack(true, "second", &[]));
    server.resume();
    candidate(&gateway, "second");
    assert_eq!(shadow(&gateway)["fetch"]["message"], Value::Null);
    let failed = metric(&gateway, "postern_config_reloads_total{result=\"failed\"}");
    assert_eq!(failed, Some(0), "nothing of this is a fault of the configuration");
}

#[test]
fn a_server_that_never_answers_keeps_nothing_waiting() {
    let upstream = RecordingUpstream::start();
    // It takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/b.tar.gz", silent.local_addr().unwrap());
    let gateway = start(&beside(&upstream, &url, POLLING));
    let _held = eventually("it is asked", || silent.accept().ok());
    assert_eq!((ask(&gateway), admin(&gateway, "/ready").status), (200, 200));
    reload(&gateway);
    assert_eq!(shadow(&gateway)["state"], "awaited");
    // A request may take ten seconds; nothing of the above has waited for one.
    assert_eq!(shadow(&gateway)["fetch"]["message"], Value::Null);
}

#[test]
fn a_bad_candidate_is_refused_once_and_neither_the_policy_nor_the_last_good_one_is_touched() {
    let (Some(server), Some(next)) = (Server::start(""), Server::start("")) else { return };
    let upstream = RecordingUpstream::start();
    let key = ["--signing-key", "key.pem", "--signing-alg", "ES256", "--signing-key-id", "release"];
    fs::copy(server.path("key.pem"), next.path("key.pem")).unwrap();
    server.publish(&server.pack(true, "main", &key));
    let broken_first = next.pack(false, "first", &key);
    next.publish(&broken_first[..broken_first.len() - 9]);
    let signing =
        format!("signing: {{keys: {{release: {{algorithm: ES256, file: {}}}}}}}", server.path("pub.pem"));
    let gateway = start(&config(
        &upstream,
        &format!(
            "bundle: \"{}\", budget: 5s, {POLLING}, {signing}, shadow: {{bundle: \"{}\", {POLLING}, size_limit: 4KiB}}",
            server.url(),
            next.url()
        ),
    ));
    let shown = troubled(&gateway, "no gzipped tar archive");
    assert_eq!((ask(&gateway), &shown["state"]), (200, &json!("awaited")));
    let good = next.pack(false, "good", &key);
    next.publish(&good);
    candidate(&gateway, "good");
    let stranger = rcgen::KeyPair::generate().unwrap();
    fs::write(next.path("stranger.pem"), stranger.serialize_pem()).unwrap();
    let forged = next.pack(
        false,
        "forged",
        &["--signing-key", "stranger.pem", "--signing-alg", "ES256", "--signing-key-id", "release"],
    );
    for (bad, why) in [
        (next.pack(false, "unsigned", &[]), "bundle is not signed"),
        (forged, "not signed by the key"),
        ([good.as_slice(), &[0; 8_192]].concat(), "larger than `size_limit`, 4096 bytes"),
        (next.pack_text("package other\n", "other", &key), "gateway.decision"),
    ] {
        next.publish(&bad);
        let shown = troubled(&gateway, why);
        assert_eq!((&shown["state"], &shown["revision"]), (&json!("evaluated"), &json!("good")), "{why}");
        let before = next.asked().iter().filter(|line| line.starts_with("200")).count();
        next.answers_twice_more("304");
        let after = next.asked().iter().filter(|line| line.starts_with("200")).count();
        assert_eq!(before, after, "{why}: it is not fetched again");
    }
    assert!(next.asked().iter().all(|line| !line.contains("delta")), "no delta is signed");
    let shown = page(&gateway);
    assert_eq!((ask(&gateway), &shown["bundles"]["main"]["message"]), (200, &Value::Null));
    assert_eq!(shown["snapshot"]["last_reload_error"], Value::Null);
    assert_eq!(generation(&gateway), 1);
    assert_eq!(metric(&gateway, "postern_config_reloads_total{result=\"failed\"}"), Some(0));
    let refused =
        metric(&gateway, "postern_shadow_bundle_activations_total{policy=\"main\",result=\"refused\"}");
    assert_eq!(refused, Some(5));
    // The policy's own bundle changes beside the refused one.
    server.publish(&server.pack(false, "newer", &key));
    eventually("the newer one", || (ask(&gateway) == 403).then_some(()));
    assert_eq!(shadow(&gateway)["revision"], "good");
    next.publish(&next.pack(true, "better", &key));
    assert_eq!(candidate(&gateway, "better")["fetch"]["message"], Value::Null);
}

#[test]
fn a_promoted_candidate_stays_in_force_until_the_policys_own_bundle_changes() {
    let (Some(server), Some(next)) = (Server::start(""), Server::start("")) else { return };
    let upstream = RecordingUpstream::start();
    let own = server.pack(true, "own", &[]);
    server.publish(&own);
    next.publish(&next.pack(false, "next", &[]));
    let text = config(
        &upstream,
        &format!(
            "bundle: \"{}\", budget: 5s, {POLLING}, shadow: {{bundle: \"{}\", {POLLING}}}",
            server.url(),
            next.url()
        ),
    );
    let gateway = start(&text);
    candidate(&gateway, "next");
    let address = gateway.running().admin().unwrap().to_string();
    let ran = gatewayctl(&gateway.path(""), &["policy", "promote", "--admin", &address]);
    assert_eq!(ran.code, Some(0), "{}", ran.notes);
    let told = format!(
        "policy `main`: revision `next` of `{}` is in force in place of `own` (generation 2)\n",
        next.url()
    );
    assert_eq!(ran.out, told);
    assert!(ran.notes.contains("publish it where the policy's own bundle comes from"), "{}", ran.notes);
    let in_force = |status: u16| {
        let shown = policy(&gateway);
        assert_eq!((ask(&gateway), &shown["promoted"]["bundle"]), (status, &json!(next.url())), "{shown}");
        shown["shadow"].clone()
    };
    assert_eq!(in_force(403)["state"], "in_force");
    // Both are asked again, and have nothing new; nor is the same bundle with another `ETag` anything new.
    server.answers_twice_more("304");
    next.answers_twice_more("304");
    server.publish(&own);
    server.answers_twice_more("304");
    assert_eq!(in_force(403)["state"], "in_force");
    reload(&gateway);
    in_force(403);
    // A new candidate is the next one, beside what was promoted.
    next.publish(&next.pack(true, "after", &[]));
    candidate(&gateway, "after");
    assert_eq!(in_force(403)["state"], "evaluated");
    counted(&gateway, "deny_to_allow", 1);
    // Rolled back, the reload and then the promotion, the policy's own bundle is in force, beside the candidate that the
    // server has.
    assert!(gateway.running().reloader().roll_back().unwrap());
    in_force(403);
    assert!(gateway.running().reloader().roll_back().unwrap());
    assert_eq!((ask(&gateway), &policy(&gateway)["promoted"]), (200, &Value::Null));
    candidate(&gateway, "after");
    // Promoted again, until the policy's own bundle changes: then that is in force.
    next.publish(&next.pack(false, "last", &[]));
    candidate(&gateway, "last");
    gateway.running().reloader().promote(None).unwrap();
    in_force(403);
    let status_451 = "package gateway\n\ndecision := {\"allow\": false, \"status\": 451}\n";
    server.publish(&server.pack_text(status_451, "own again", &[]));
    eventually("the policy's own bundle", || (ask(&gateway) == 451).then_some(()));
    let shown = policy(&gateway);
    assert_eq!((&shown["promoted"], &shown["revision"]), (&Value::Null, &json!("own again")));
    assert_eq!(shown["shadow"]["revision"], "last");
    // A restart knows nothing of promotions.
    gateway.running().reloader().promote(None).unwrap();
    drop(gateway);
    let gateway = start(&text);
    assert_eq!((ask(&gateway), &policy(&gateway)["promoted"]), (451, &Value::Null));
}

#[test]
fn a_candidate_is_kept_apart_for_a_start_without_its_server() {
    let Some(mut server) = Server::start("") else { return };
    let upstream = RecordingUpstream::start();
    server.publish(&server.pack(false, "kept", &[]));
    let text = beside(&upstream, &server.url(), &format!("{POLLING}, persist: {}", server.path("kept")));
    let gateway = start(&text);
    candidate(&gateway, "kept");
    drop(gateway);
    assert!(fs::metadata(server.path("kept/shadows/main/bundle.tar.gz")).is_ok());
    assert!(fs::metadata(server.path("kept/bundles")).is_err());

    server.stop();
    let gateway = start(&text);
    let shown = candidate(&gateway, "kept");
    assert_eq!((&shown["fetch"]["persisted"], &shown["state"]), (&json!(true), &json!("evaluated")));
    assert!(shown["fetch"]["message"].as_str().unwrap().contains("cannot reach the server"), "{shown}");
    assert_eq!(ask(&gateway), 200);
    counted(&gateway, "allow_to_deny", 1);
    reload(&gateway);
    assert_eq!(candidate(&gateway, "kept")["decisions"]["allow_to_deny"], 1);
    // The server is back with the very same one: nothing changes but where it is known to be from.
    server.resume();
    eventually("it is the server's", || (shadow(&gateway)["fetch"]["persisted"] == false).then_some(()));
    assert_eq!(shadow(&gateway)["decisions"]["allow_to_deny"], 1);
    drop(gateway);

    // A bad one does not replace what is kept, and is told of beside it.
    server.publish(b"broken");
    let gateway = start(&text);
    let shown = candidate(&gateway, "kept");
    assert!(shown["fetch"].to_string().contains("no gzipped tar archive"), "{shown}");
    server.answers_twice_more("304");
    server.publish(&server.pack(true, "newer", &[]));
    candidate(&gateway, "newer");
}

#[test]
fn one_url_for_both_is_harmless() {
    let Some(server) = Server::start("") else { return };
    let upstream = RecordingUpstream::start();
    server.publish(&server.pack(true, "first", &[]));
    let persist = format!("{POLLING}, persist: {}", server.path("kept"));
    let url = server.url();
    let gateway = start(&config(
        &upstream,
        &format!("bundle: \"{url}\", budget: 5s, {persist}, shadow: {{bundle: \"{url}\", {persist}}}"),
    ));
    assert_eq!(candidate(&gateway, "first")["state"], "in_force");
    assert_eq!(ask(&gateway), 200);
    for kept in ["kept/bundles/main/bundle.tar.gz", "kept/shadows/main/bundle.tar.gz"] {
        assert!(fs::metadata(server.path(kept)).is_ok(), "{kept}");
    }
    server.publish(&server.pack(false, "second", &[]));
    let settled = || {
        let shown = policy(&gateway);
        let in_force = shown["revision"] == "second" && shown["shadow"]["state"] == "in_force";
        in_force.then_some(shown["shadow"]["decisions"].clone())
    };
    let decisions = eventually("both have it", settled);
    assert_eq!((ask(&gateway), &decisions["error"]), (403, &json!(0)));
    let refused = gateway.running().reloader().promote(None).unwrap_err().to_string();
    assert!(refused.contains("in force already"), "{refused}");
}

#[test]
fn a_candidates_server_is_shown_its_own_credentials_and_no_others() {
    let authority = Authority::new("Bundles");
    let (server_cert, client) = (authority.server(&["localhost"]), authority.client("gateway"));
    let extra = format!(
        "ssl_certificate {{dir}}/server.pem; ssl_certificate_key {{dir}}/server.key;\n\
         ssl_client_certificate {{dir}}/ca.pem; ssl_verify_client on;\n\
         if ($http_authorization != \"Bearer {TOKEN}\") {{ return 401; }}"
    );
    let prepare = |root: &Path| {
        for (name, text) in [
            ("server.pem", &server_cert.cert),
            ("server.key", &server_cert.key),
            ("client.pem", &client.cert),
            ("client.key", &client.key),
            ("ca.pem", &authority.pem()),
        ] {
            fs::write(root.join(name), text).unwrap();
        }
    };
    let Some(next) = Server::start_with(&extra, true, prepare) else { return };
    let Some(server) = Server::start("if ($http_authorization) { return 400; }") else { return };
    let upstream = RecordingUpstream::start();
    server.publish(&server.pack(true, "own", &[]));
    next.publish(&next.pack(false, "next", &[]));
    let credentials = format!(
        "ca: {}, credentials: {{bearer: {{token_file: {}}}, client_tls: {{cert: {}, private_key: {}}}}}",
        next.path("ca.pem"),
        next.path("token"),
        next.path("client.pem"),
        next.path("client.key")
    );
    let url = format!("{}?token={TOKEN}", next.url());
    let gateway = start(&config(
        &upstream,
        &format!(
            "bundle: \"{}\", budget: 5s, {POLLING}, shadow: {{bundle: \"{url}\", {POLLING}, {credentials}}}",
            server.url()
        ),
    ));
    candidate(&gateway, "next");
    fs::write(next.path("token"), "wr0ng-t0k3n").unwrap();
    let shown = troubled(&gateway, "401 Unauthorized");
    assert_eq!((&shown["fetch"]["http_code"], &shown["state"]), (&json!(401), &json!("evaluated")));
    let all = page(&gateway).to_string();
    assert!(!all.contains("wr0ng") && !all.contains(TOKEN), "{all}");
    assert!(server.asked().iter().all(|line| !line.starts_with("400")), "nobody else's token is shown");
}

#[test]
fn a_candidate_is_changed_by_deltas_over_held_requests() {
    let Some(workshop) = Server::start("") else { return };
    let upstream = RecordingUpstream::start();
    let whole = |allow: bool, revision: &str| {
        fs::create_dir_all(workshop.path("policy")).unwrap();
        fs::write(workshop.path("policy/data.json"), format!("{{\"allow\": {allow}}}")).unwrap();
        workshop.pack_text("package gateway\n\ndecision := {\"allow\": data.allow}\n", revision, &[])
    };
    let delta = |allow: bool, revision: &str| {
        let change = format!("{{\"op\": \"upsert\", \"path\": \"/allow\", \"value\": {allow}}}");
        workshop.pack_delta(revision, &change)
    };
    let server = Holding::start(whole(true, "first"));
    let gateway = start(&beside(&upstream, &server.url(), LONG_POLLING));
    candidate(&gateway, "first");
    for (allow, revision) in [(false, "second"), (true, "third"), (false, "fourth")] {
        server.publish(whole(allow, "not asked for"), delta(allow, revision));
        assert_eq!(candidate(&gateway, revision)["fetch"]["type"], "delta");
        assert_eq!(ask(&gateway), 200);
        counted(&gateway, if allow { "same" } else { "allow_to_deny" }, 1);
    }
    reload(&gateway);
    assert_eq!(candidate(&gateway, "fourth")["decisions"]["allow_to_deny"], 1);
    let unfit = workshop.pack_delta("unfit", "{\"op\": \"remove\", \"path\": \"/nothing\"}");
    server.publish(whole(true, "fifth"), unfit);
    let shown = candidate(&gateway, "fifth");
    assert_eq!((&shown["fetch"]["type"], &shown["fetch"]["message"]), (&json!("snapshot"), &Value::Null));
    assert!(server.asked.lock().unwrap().iter().any(|asked| asked.ends_with("wait=1")));
}

#[test]
fn a_candidate_that_no_longer_fits_the_policys_settings_is_tried_again_with_each_reload() {
    let Some(server) = Server::start("") else { return };
    let upstream = RecordingUpstream::start();
    server.publish(&server.pack(false, "first", &[]));
    let text = beside(&upstream, &server.url(), POLLING);
    let both = "package gateway\n\ndecision := true\n\nother := true\n";
    let gateway = TestGateway::start(&text, &[("policy/main.rego", both)]);
    candidate(&gateway, "first");
    gateway.write("gateway.yaml", &text.replace("budget: 5s", "budget: 5s, decision: gateway/other"));
    reload(&gateway);
    let shown = shadow(&gateway);
    assert_eq!((ask(&gateway), &shown["state"]), (200, &json!("refused")), "{shown}");
    troubled(&gateway, "gateway.other");
    server.publish(&server.pack_text("package gateway\n\nother := false\n", "fits", &[]));
    candidate(&gateway, "fits");
    // Back again, and with the bundle that was refused for it.
    server.publish(&server.pack(false, "second", &[]));
    troubled(&gateway, "gateway.other");
    assert_eq!(shadow(&gateway)["revision"], "fits");
    gateway.write("gateway.yaml", &text);
    reload(&gateway);
    candidate(&gateway, "second");
}

#[test]
fn a_check_of_the_configuration_says_that_no_candidate_was_fetched() {
    let Some(mut server) = Server::start("") else { return };
    let upstream = RecordingUpstream::start();
    server.stop();
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("policy")).unwrap();
    fs::write(directory.path().join("policy/main.rego"), ALLOW).unwrap();
    let url = format!("{}?token={TOKEN}", server.url());
    fs::write(directory.path().join("gateway.yaml"), beside(&upstream, &url, POLLING)).unwrap();
    let ran = gatewayctl(directory.path(), &["config", "check"]);
    assert_eq!(ran.code, Some(0), "{}", ran.notes);
    let want =
        format!("the shadow `{}` is not fetched here, so its signature, policies and tests", server.url());
    assert!(ran.notes.contains(&want) && !ran.notes.contains(TOKEN), "{}", ran.notes);
    assert_eq!(server.asked(), [""; 0]);
}
