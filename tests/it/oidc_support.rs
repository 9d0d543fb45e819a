//! An OpenID provider and authorization server that answers whatever a test wants, and a browser without a window.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::gateway::{TestGateway, eventually};
use crate::live_support::plain_config;
use crate::token::{Signer, jwks};
use crate::wire::{self, RawResponse, RecordingUpstream};

pub(crate) const CLIENT: &str = "postern";
pub(crate) const SECRET: &str = "a-client-secret";

/// Who is logged in may see all, and anybody may see `/public`.
pub(crate) const POLICY: &str = r#"package gateway

default decision := {"allow": false}

decision := {"allow": true, "log": {"fields": {"who": input.identity, "cookies": object.get(input.request.headers, "cookie", "none")}}} if {
	input.identity.authenticated
}

decision := {"allow": true} if {
	not input.identity.authenticated
	input.request.path == "/public"
}
"#;

/// What the provider answers at one path.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A status and JSON.
    Json(u16, Value),
    /// Bytes as they are.
    Raw(String),
    /// Nothing, but the connection stays open.
    Stall,
    /// The connection is closed.
    Close,
}

/// A request that the provider has got.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) path: String,
    pub(crate) head: String,
    pub(crate) form: BTreeMap<String, String>,
}

/// A provider on a port of its own.
pub(crate) struct FakeProvider {
    pub(crate) address: SocketAddr,
    replies: Arc<Mutex<HashMap<String, Reply>>>,
    got: Arc<Mutex<Vec<Got>>>,
}

pub(crate) fn signer() -> &'static Signer {
    static SIGNER: OnceLock<Signer> = OnceLock::new();
    SIGNER.get_or_init(|| Signer::es256("k1"))
}

pub(crate) fn now() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a test's tokens are for the real clock")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

// === impl FakeProvider ===

impl FakeProvider {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let provider = Self { address, replies: Arc::default(), got: Arc::default() };
        let (replies, got) = (Arc::clone(&provider.replies), Arc::clone(&provider.got));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (replies, got) = (Arc::clone(&replies), Arc::clone(&got));
                thread::spawn(move || serve(stream, &replies, &got));
            }
        });
        provider.reply("/.well-known/openid-configuration", Reply::Json(200, provider.discovery()));
        provider.reply("/jwks", Reply::Raw(json_response(200, &jwks(&[signer().jwk()]))));
        provider
    }

    pub(crate) fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn discovery(&self) -> Value {
        let issuer = self.issuer();
        json!({"issuer": issuer, "jwks_uri": format!("{issuer}/jwks"), "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"), "userinfo_endpoint": format!("{issuer}/me"),
            "end_session_endpoint": format!("{issuer}/logout")})
    }

    pub(crate) fn reply(&self, path: &str, reply: Reply) {
        self.replies.lock().unwrap().insert(path.to_owned(), reply);
    }

    pub(crate) fn got(&self, path: &str) -> Vec<Got> {
        self.got.lock().unwrap().iter().filter(|got| got.path == path).cloned().collect()
    }

    /// Claims of a good ID token.
    pub(crate) fn claims(&self, nonce: &str) -> Value {
        json!({"iss": self.issuer(), "aud": CLIENT, "sub": "alice", "nonce": nonce, "iat": now(), "exp": now() + 600,
            "sid": "provider-session-1", "groups": ["staff"]})
    }

    /// A good answer of the token endpoint with these claims.
    pub(crate) fn tokens(claims: &Value) -> Value {
        json!({"access_token": "an-access-token", "token_type": "Bearer", "expires_in": 300, "id_token": signer().sign(claims)})
    }
}

pub(crate) fn json_response(status: u16, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

fn serve(mut stream: TcpStream, replies: &Mutex<HashMap<String, Reply>>, got: &Mutex<Vec<Got>>) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let (head, body) = loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.to_ascii_lowercase();
        let length =
            length.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        if body.len() >= length.unwrap_or(0) {
            break (head.to_owned(), body.to_owned());
        }
    };
    let target = head.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    got.lock().unwrap().push(Got { path: path.clone(), head, form: query(&body) });
    let reply = replies.lock().unwrap().get(&path).cloned();
    match reply {
        Some(Reply::Json(status, body)) => {
            drop(stream.write_all(json_response(status, &body.to_string()).as_bytes()))
        }
        Some(Reply::Raw(text)) => drop(stream.write_all(text.as_bytes())),
        // Until the gateway gives up.
        Some(Reply::Stall) => drop(stream.read(&mut buffer)),
        Some(Reply::Close) => {}
        None => drop(
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        ),
    }
}

/// The parameters of a query or form.
pub(crate) fn query(text: &str) -> BTreeMap<String, String> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8().unwrap().into_owned();
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

/// The parameters of a URL.
pub(crate) fn parameters(url: &str) -> BTreeMap<String, String> {
    query(url.split_once('?').unwrap().1)
}

/// A gateway whose only API accepts sessions of `provider`; `more` are further settings of the provider, `api` of the API.
pub(crate) fn gateway(upstream: &RecordingUpstream, issuer: &str, more: &str, api: &str) -> TestGateway {
    TestGateway::start(&config(upstream, issuer, more, api), &[("policy/main.rego", POLICY)])
}

pub(crate) fn config(upstream: &RecordingUpstream, issuer: &str, more: &str, api: &str) -> String {
    let identity = format!(
        "identity:\n  browser: {{type: oidc, issuer: \"{issuer}\", client_id: {CLIENT}, client_secret: {SECRET}, algorithms: [ES256], \
         claims: {{groups: groups}}, timeout: 1s, backchannel_logout_path: /oauth2/backchannel-logout, login_path: /oauth2/login{more}}}\n"
    );
    plain_config(&upstream.url(), &identity).replace(
        "{name: all, policy: main, upstream: up}",
        &format!("{{name: all, policy: main, upstream: up, identity: [browser]{api}}}"),
    )
}

/// A browser without a window: it keeps cookies, and asks for pages.
#[derive(Clone)]
pub(crate) struct Browser {
    address: SocketAddr,
    pub(crate) host: String,
    pub(crate) cookies: BTreeMap<String, String>,
}

impl Browser {
    pub(crate) fn at(gateway: &TestGateway) -> Self {
        let address = gateway.address("public");
        Self { address, host: address.to_string(), cookies: BTreeMap::new() }
    }

    /// A navigation.
    pub(crate) fn visit(&mut self, path: &str) -> RawResponse {
        self.send(
            "GET",
            path,
            "Accept: text/html,*/*\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: none\r\n",
            "",
        )
    }

    /// A script's request.
    pub(crate) fn fetch(&mut self, path: &str) -> RawResponse {
        self.send("GET", path, "Accept: */*\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Site: same-origin\r\n", "")
    }

    pub(crate) fn send(&mut self, method: &str, path: &str, headers: &str, body: &str) -> RawResponse {
        let pairs: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookie =
            if pairs.is_empty() { String::new() } else { format!("Cookie: {}\r\n", pairs.join("; ")) };
        let (host, length) = (&self.host, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n{cookie}{headers}\r\n{body}"
        );
        let response = wire::ask(self.address, request);
        self.take(&response);
        response
    }

    fn take(&mut self, response: &RawResponse) {
        for cookie in set_cookies(response) {
            let (name, rest) = cookie.split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            if rest.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    /// Begins a login at `path`, and gives the parameters of the authorization request.
    pub(crate) fn begin(&mut self, path: &str) -> BTreeMap<String, String> {
        let response = self.visit(path);
        assert_eq!(response.status, 302, "{}{}", response.head, response.text());
        parameters(response.header("location").unwrap())
    }

    /// A whole login with good answers of `provider`.
    pub(crate) fn log_in(&mut self, provider: &FakeProvider) -> RawResponse {
        self.log_in_with(provider, |_| {}, |_| {})
    }

    /// A login in which claims and answer are changed.
    pub(crate) fn log_in_with(
        &mut self,
        provider: &FakeProvider,
        claims: impl FnOnce(&mut Value),
        answer: impl FnOnce(&mut Value),
    ) -> RawResponse {
        let asked = self.begin("/deep/link?x=1");
        let mut told = provider.claims(&asked["nonce"]);
        claims(&mut told);
        let mut tokens = FakeProvider::tokens(&told);
        answer(&mut tokens);
        provider.reply("/token", Reply::Json(200, tokens));
        self.visit(&format!("/oauth2/callback?code=the-code&state={}", asked["state"]))
    }

    /// The names of the session's cookies.
    pub(crate) fn session(&self) -> Vec<String> {
        self.cookies.keys().filter(|name| name.contains(".session.")).cloned().collect()
    }
}

pub(crate) fn set_cookies(response: &RawResponse) -> Vec<String> {
    let lines = response.head.lines().filter_map(|line| line.split_once(": "));
    lines
        .filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"))
        .map(|(_, value)| value.to_owned())
        .collect()
}

/// Waits until the gateway knows the provider.
pub(crate) fn ready(gateway: &TestGateway) {
    eventually("the provider is known", || {
        (Browser::at(gateway).visit("/private").status == 302).then_some(())
    });
}
