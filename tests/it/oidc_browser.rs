//! The whole way in a real browser: headless Chromium, driven over WebDriver, and the certified provider.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::gateway::eventually;
use crate::oidc_provider::{Provider, free_address, gateway_at};
use crate::wire::{self, RecordingUpstream};

/// The key of an element's id (WebDriver section 12).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser window.
struct Chromium {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: tempfile::TempDir,
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let session = std::mem::take(&mut self.session);
        if !session.is_empty() {
            let request =
                format!("DELETE {session} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address);
            drop(wire::ask(self.address, request));
        }
        drop(self.driver.kill());
        drop(self.driver.wait());
    }
}

impl Chromium {
    /// `None` where it is not installed.
    fn start() -> Option<Self> {
        let found =
            |tool: &str| Command::new(tool).arg("--version").output().is_ok_and(|ran| ran.status.success());
        if !found("chromium") || !found("chromedriver") {
            eprintln!("skipped: chromium and chromium-driver are not installed");
            return None;
        }
        let address = free_address();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={}", address.port()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let profile = tempfile::tempdir().unwrap();
        let mut chromium = Self { driver, address, session: String::new(), _profile: profile };
        eventually("the driver listens", || TcpStream::connect(address).ok());
        let profile = format!("--user-data-dir={}", chromium._profile.path().display());
        let flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            &profile,
        ];
        let options = json!({"args": flags});
        let wanted = json!({"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}});
        let made = chromium.call("POST", "/session", &wanted);
        chromium.session =
            format!("/session/{}", made["sessionId"].as_str().unwrap_or_else(|| panic!("{made}")));
        let timeouts = json!({"implicit": 5_000, "pageLoad": 9_000, "script": 9_000});
        chromium.command("POST", "/timeouts", &timeouts);
        Some(chromium)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "GET" { String::new() } else { body.to_string() };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}",
            self.address
        );
        let answer: Value = serde_json::from_slice(&wire::ask(self.address, request).body).unwrap();
        assert!(answer["value"].get("error").is_none(), "{method} {path}: {answer}");
        answer["value"].clone()
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        self.call(method, &format!("{}{path}", self.session), body)
    }

    fn go(&self, url: &str) {
        self.command("POST", "/url", &json!({"url": url}));
    }

    fn url(&self) -> String {
        self.command("GET", "/url", &Value::Null).as_str().unwrap().to_owned()
    }

    fn find(&self, selector: &str) -> String {
        let found = self.command("POST", "/element", &json!({"using": "css selector", "value": selector}));
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    fn click(&self, selector: &str) {
        let element = self.find(selector);
        self.command("POST", &format!("/element/{element}/click"), &json!({}));
    }

    fn write(&self, selector: &str, text: &str) {
        let element = self.find(selector);
        self.command("POST", &format!("/element/{element}/value"), &json!({"text": text}));
    }

    fn run(&self, script: &str) -> Value {
        self.command("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    /// The status of a script's request.
    fn fetch(&self, path: &str, method: &str) -> u64 {
        let script = "const [path, method, done] = arguments; fetch(path, {method}).then(answer => done(answer.status), () => done(0))";
        let status =
            self.command("POST", "/execute/async", &json!({"script": script, "args": [path, method]}));
        status.as_u64().unwrap()
    }

    /// Fills in the provider's form, and comes back.
    fn log_in(&self, user: &str) {
        self.write("input[name=login]", user);
        self.write("input[name=password]", "whatever");
        self.click("button[type=submit]");
    }

    fn is_at(&self, url: &str) {
        eventually(url, || (self.url() == url).then_some(()));
        // The address is there before the page is.
        self.find("#page");
    }
}

#[test]
fn a_person_logs_in_works_and_logs_out() {
    let address = free_address();
    let Some(provider) = Provider::start(address, 5) else { return };
    let Some(chromium) = Chromium::start() else { return };
    let upstream = RecordingUpstream::answering(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 28\r\n\r\n<p id=page>the upstream's</p>",
    );
    let gateway = gateway_at(address, &upstream, provider.address);
    let own = format!("http://{address}");
    let at_provider = format!("http://{}/", provider.address);

    chromium.go(&format!("{own}/"));
    chromium.find("#page");
    assert_eq!(chromium.fetch("/private", "GET"), 401, "a script is not sent to log in");

    chromium.go(&format!("{own}/deep/link?x=1"));
    assert!(chromium.url().starts_with(&at_provider), "{}", chromium.url());
    chromium.log_in("alice");
    chromium.is_at(&format!("{own}/deep/link?x=1"));
    assert_eq!(chromium.run("return document.cookie"), json!(""), "scripts see no session");
    assert_eq!(chromium.fetch("/private", "GET"), 200);
    assert_eq!(chromium.fetch("/private", "POST"), 200, "a page of the same origin may change something");

    // A page of another origin, of the same site even, may not.
    let issued = |gateway: &crate::gateway::TestGateway| {
        let events = gateway.events(1);
        let last =
            events.iter().rev().find_map(|event| event["gateway"]["fields"]["who"]["claims"]["iat"].as_u64());
        last.unwrap()
    };
    let first = issued(&gateway);
    eventually("the session is renewed", || {
        assert_eq!(chromium.fetch("/private", "GET"), 200);
        (issued(&gateway) > first).then_some(())
    });
    chromium.go(&at_provider);
    let script = format!(
        "const done = arguments[0]; fetch('{own}/private', {{method: 'POST', mode: 'no-cors', credentials: 'include'}}).then(() => done(1), () => done(0))"
    );
    chromium.command("POST", "/execute/async", &json!({"script": script, "args": []}));
    eventually("the other page's request is refused", || {
        gateway.events(1).iter().any(|event| event["gateway"]["reason"] == "cross_site_request").then_some(())
    });

    // Logout: from a page of the gateway, over the provider, and back.
    chromium.go(&format!("{own}/deep/link"));
    chromium.run("window.location.href = '/oauth2/logout'");
    chromium.click("button[name=logout][value=yes]");
    chromium.is_at(&format!("{own}/"));
    assert_eq!(chromium.fetch("/private", "GET"), 401);
    chromium.go(&format!("{own}/deep/link"));
    assert!(chromium.url().starts_with(&at_provider), "the provider asks again: {}", chromium.url());

    // Back-channel logout: the user logs out at the provider, and the gateway is told.
    chromium.log_in("bob");
    chromium.is_at(&format!("{own}/deep/link"));
    assert_eq!(chromium.fetch("/private", "GET"), 200);
    let logouts = |gateway: &crate::gateway::TestGateway| {
        let events = gateway.events(1);
        events.iter().filter(|event| event["gateway"]["reason"] == "oidc_backchannel_logout").count()
    };
    // The provider told of the first logout too.
    let before = logouts(&gateway);
    chromium.go(&format!("{at_provider}session/end"));
    chromium.click("button[name=logout][value=yes]");
    eventually("the gateway is told", || (logouts(&gateway) > before).then_some(()));
    // A page that is still to come would take the place of the next one.
    eventually("the provider is done", || chromium.url().contains("/session/end/success").then_some(()));
    // The cookie of a session that was ended is a bad credential: once, even a public page leads to the provider.
    chromium.go(&format!("{own}/"));
    assert!(chromium.url().starts_with(&at_provider), "{}", chromium.url());
    chromium.go(&format!("{own}/"));
    chromium.is_at(&format!("{own}/"));
    assert_eq!(chromium.fetch("/private", "GET"), 401);
    let told: String = gateway.events(1).iter().map(Value::to_string).collect();
    assert!(!told.contains("postern.session"), "{told}");
    assert!(!upstream.received().contains("postern.session"));
}
