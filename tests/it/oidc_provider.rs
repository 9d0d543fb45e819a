//! The certified OpenID provider of npm: logins, introspection, and what happens when it stops, stalls and comes back.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::gateway::{TestGateway, eventually};
use crate::live_support::plain_config;
use crate::oidc_support::{Browser, set_cookies};
use crate::wire::{self, RawResponse, RecordingUpstream};

pub(crate) const SECRET: &str = "a-secret-of-the-example-and-of-nothing-else";

/// Who is logged in may see all, and anybody may see the front page.
const POLICY: &str = r#"package gateway

default decision := {"allow": false}

decision := {"allow": true, "log": {"fields": {"who": input.identity}}} if {
	input.identity.authenticated
}

decision := {"allow": true} if {
	not input.identity.authenticated
	input.request.path == "/"
}
"#;

/// The provider's process.
pub(crate) struct Provider {
    process: Child,
    pub(crate) address: SocketAddr,
    gateway: SocketAddr,
    seconds: u32,
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.signal("CONT");
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Provider {
    /// On a free port, for a gateway that will be at `gateway`; access tokens hold for `seconds`. `None` where it is not
    /// installed.
    pub(crate) fn start(gateway: SocketAddr, seconds: u32) -> Option<Self> {
        if !directory().join("node_modules/oidc-provider").exists() {
            eprintln!("skipped: oidc-provider is not installed; run `npm ci` in examples/oidc");
            return None;
        }
        let address = free_address();
        let process = spawn(address, gateway, seconds);
        let provider = Self { process, address, gateway, seconds };
        provider.await_ready();
        Some(provider)
    }

    fn await_ready(&self) {
        eventually("the provider listens", || TcpStream::connect(self.address).ok());
    }

    fn signal(&self, signal: &str) {
        let id = self.process.id().to_string();
        drop(Command::new("kill").args([&format!("-{signal}"), &id]).status());
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = spawn(self.address, self.gateway, self.seconds);
        self.await_ready();
    }

    fn ask(&self, request: &str) -> RawResponse {
        wire::ask(self.address, request)
    }

    /// Follows a login of `user` from the authorization request on, and gives the URL of the gateway that it ends at.
    pub(crate) fn log_in(&self, authorize: &str, user: &str) -> String {
        let mut cookies: BTreeMap<String, String> = BTreeMap::new();
        let mut next = authorize.to_owned();
        let own = format!("http://{}", self.address);
        for _ in 0..10 {
            let Some(path) =
                next.strip_prefix(&own).map(str::to_owned).or(next.starts_with('/').then(|| next.clone()))
            else {
                return next;
            };
            let pairs: Vec<_> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let cookie = format!("Cookie: {}\r\n", pairs.join("; "));
            let form = format!("prompt=login&login={user}&password=x");
            let request = if path.starts_with("/interaction/") {
                format!(
                    "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{cookie}Content-Type: application/x-www-form-urlencoded\r\n\
                     Content-Length: {}\r\n\r\n{form}",
                    self.address,
                    form.len()
                )
            } else {
                format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{cookie}\r\n", self.address)
            };
            let response = self.ask(&request);
            for cookie in set_cookies(&response) {
                let (name, rest) = cookie.split_once('=').unwrap();
                cookies.insert(name.to_owned(), rest.split(';').next().unwrap().to_owned());
            }
            let location = response.header("location");
            next = location.unwrap_or_else(|| panic!("{}{}", response.head, response.text())).to_owned();
        }
        panic!("the login does not end: {next}");
    }

    /// An access token of the client itself.
    fn client_token(&self) -> String {
        let form = "grant_type=client_credentials&client_id=postern&client_secret=".to_owned() + SECRET;
        let response = self.ask(&format!(
            "POST /token HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            self.address,
            form.len()
        ));
        let answer: Value = serde_json::from_slice(&response.body).unwrap();
        answer["access_token"].as_str().unwrap().to_owned()
    }
}

fn directory() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/oidc")
}

fn spawn(address: SocketAddr, gateway: SocketAddr, seconds: u32) -> Child {
    Command::new("node")
        .args(["provider.mjs", &address.to_string(), &format!("http://{gateway}")])
        .current_dir(directory())
        .env("ACCESS_TOKEN_SECONDS", seconds.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A gateway at `address` whose APIs accept browsers and tokens of `provider`.
pub(crate) fn gateway_at(
    address: SocketAddr,
    upstream: &RecordingUpstream,
    provider: SocketAddr,
) -> TestGateway {
    let identity = format!(
        "identity:\n  browser: {{type: oidc, issuer: \"http://{provider}\", client_id: postern, client_secret: {SECRET}, scopes: [openid, email], \
         timeout: 1s, claims: {{groups: groups}}, backchannel_logout_path: /oauth2/backchannel-logout}}\n  \
         tokens: {{type: introspection, endpoint: \"http://{provider}/token/introspection\", client_id: postern, client_secret: {SECRET}, \
         timeout: 500ms, cache: 500ms, negative_cache: 0s, issuer: \"http://{provider}\", claims: {{subject: client_id}}}}\n"
    );
    let config = plain_config(&upstream.url(), &identity)
        .replace("address: \"127.0.0.1:0\"}]\nupstreams", &format!("address: \"{address}\"}}]\nupstreams"))
        .replace(
            "{name: all, policy: main, upstream: up}",
            "{name: all, policy: main, upstream: up, identity: [browser, tokens]}",
        );
    TestGateway::start(&config, &[("policy/main.rego", POLICY)])
}

fn logged_in(gateway: &TestGateway, provider: &Provider, user: &str) -> Browser {
    let mut browser = Browser::at(gateway);
    let response = browser.visit("/deep?x=1");
    assert_eq!(response.status, 302, "{}", response.text());
    let back = provider.log_in(response.header("location").unwrap(), user);
    let path = back.strip_prefix(&format!("http://{}", browser.host)).unwrap_or_else(|| panic!("{back}"));
    let response = browser.visit(path);
    assert_eq!(
        (response.status, response.header("location")),
        (303, Some("/deep?x=1")),
        "{}",
        response.text()
    );
    browser
}

fn ask_with(gateway: &TestGateway, token: &str) -> u16 {
    wire::get(gateway.address("public"), "/private", &format!("Authorization: Bearer {token}\r\n")).status
}

#[test]
fn a_certified_provider_logs_in_and_knows_its_tokens() {
    let address = free_address();
    let Some(provider) = Provider::start(address, 300) else { return };
    let upstream = RecordingUpstream::start();
    let gateway = gateway_at(address, &upstream, provider.address);
    let mut browser = logged_in(&gateway, &provider, "alice");
    let before = gateway.events(2).len();
    assert_eq!(browser.visit("/private").status, 200);
    let token = provider.client_token();
    assert_eq!(ask_with(&gateway, &token), 200);
    assert_eq!(ask_with(&gateway, "no-token-of-anybody"), 401);
    let events = gateway.events(before + 3);
    let who = |index: usize| events[before + index]["gateway"]["fields"]["who"].clone();
    assert_eq!(
        (&who(0)["subject"], &who(0)["groups"]),
        (&Value::from("alice"), &serde_json::json!(["staff", "managers"]))
    );
    assert_eq!(who(0)["claims"]["email"], "alice@shop.example");
    assert_eq!(
        (&who(1)["subject"], &who(1)["type"]),
        (&Value::from("postern"), &Value::from("introspection"))
    );
    assert_eq!(events[before + 2]["gateway"]["reason"], "inactive_token");
}

/// What became of requests while the provider came and went.
#[derive(Default)]
struct Tally {
    is_over: AtomicBool,
    good: AtomicUsize,
    wrong_allows: AtomicUsize,
    unavailable: AtomicUsize,
    slowest_ms: AtomicUsize,
}

#[test]
fn nobody_is_let_in_while_the_provider_is_away_and_all_is_well_soon_after() {
    let address = free_address();
    let Some(mut provider) = Provider::start(address, 5) else { return };
    let upstream = RecordingUpstream::start();
    let gateway = gateway_at(address, &upstream, provider.address);
    let browser = logged_in(&gateway, &provider, "alice");
    let token = provider.client_token();
    assert_eq!(ask_with(&gateway, &token), 200);
    let tally = Tally::default();
    thread::scope(|scope| {
        let load = |work: fn(&TestGateway, &Tally, &mut Browser, &str)| {
            let (gateway, tally, mut browser, token) = (&gateway, &tally, browser.clone(), token.clone());
            scope.spawn(move || {
                while !tally.is_over.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    work(gateway, tally, &mut browser, &token);
                    let took = usize::try_from(begun.elapsed().as_millis()).unwrap();
                    tally.slowest_ms.fetch_max(took, Ordering::Relaxed);
                }
            });
        };
        // A session lasts whatever becomes of the provider; what it restarts without, it does not know any more.
        load(|_, tally, browser, _| match browser.fetch("/private").status {
            200 => drop(tally.good.fetch_add(1, Ordering::Relaxed)),
            401 | 503 => drop(tally.unavailable.fetch_add(1, Ordering::Relaxed)),
            other => panic!("{other}"),
        });
        load(|gateway, tally, _, token| match ask_with(gateway, token) {
            200 => drop(tally.good.fetch_add(1, Ordering::Relaxed)),
            401 | 503 => drop(tally.unavailable.fetch_add(1, Ordering::Relaxed)),
            other => panic!("{other}"),
        });
        // Nobody at all, a token of nobody, and a session of nobody.
        load(|gateway, tally, browser, _| {
            let mut nobody = Browser::at(gateway);
            let name = browser.session()[0].clone();
            let mut forger = browser.clone();
            forger.cookies.insert(name.clone(), format!("{}A", &browser.cookies[&name][..200]));
            let got = [
                nobody.fetch("/private").status,
                forger.fetch("/private").status,
                ask_with(gateway, "a-token-of-nobody"),
            ];
            tally
                .wrong_allows
                .fetch_add(got.iter().filter(|status| **status == 200).count(), Ordering::Relaxed);
        });
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            disturb(&gateway, &mut provider, &token, &browser)
        }));
        tally.is_over.store(true, Ordering::Relaxed);
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    eprintln!(
        "good {}, unavailable {}, wrong allows {}, slowest {} ms",
        count(&tally.good),
        count(&tally.unavailable),
        count(&tally.wrong_allows),
        count(&tally.slowest_ms)
    );
    assert_eq!(count(&tally.wrong_allows), 0);
    assert!(count(&tally.good) > 50 && count(&tally.unavailable) > 0);
    assert!(count(&tally.slowest_ms) < 6_000, "{}", count(&tally.slowest_ms));
}

/// Stalls the provider, lets it go on, kills it, and starts it again.
fn disturb(gateway: &TestGateway, provider: &mut Provider, token: &str, browser: &Browser) {
    provider.signal("STOP");
    eventually("tokens cannot be judged", || (ask_with(gateway, token) == 503).then_some(()));
    assert_eq!(browser.clone().fetch("/private").status, 200, "the session lasts");
    provider.signal("CONT");
    within_five_seconds("tokens are judged again", || ask_with(gateway, token) == 200);
    drop(logged_in(gateway, provider, "bob"));

    provider.kill();
    eventually("tokens cannot be judged", || (ask_with(gateway, token) == 503).then_some(()));
    let mut late = Browser::at(gateway);
    assert_eq!(late.visit("/private").status, 302, "where to log in is known");
    provider.restart();
    // It has forgotten all tokens, and says so.
    within_five_seconds("tokens are judged again", || ask_with(gateway, token) == 401);
    let fresh = provider.client_token();
    within_five_seconds("new tokens are good", || ask_with(gateway, &fresh) == 200);
    let mut again = logged_in(gateway, provider, "carol");
    assert_eq!(again.fetch("/private").status, 200);
}

fn within_five_seconds(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    eventually(what, || is_so().then_some(()));
    assert!(begun.elapsed() < Duration::from_secs(5), "{what}: {:?}", begun.elapsed());
}
