//! Key sets fetched from a real server: rotation, unknown keys, outages, and servers that mean harm.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use postern::base::clock::{Clock, ManualClock};
use postern::config::model::KeySetSource;
use postern::identity::cache::WorkerCache;
use postern::identity::chain::Chain;
use postern::identity::jwt::jwk::KeyFault;
use postern::identity::jwt::key_set::{DEMAND_INTERVAL, KeySet, STALE_AFTER};
use postern::identity::jwt::key_sets::KeySets;
use postern::identity::{Presented, Target};
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::jwt::{self, NOW, claims, claims_with, verdict};
use crate::token::{Signer, base64url, hs256, jwks};

/// How the issuer answers.
#[derive(Debug, Clone)]
enum Answer {
    /// With this key set.
    Keys(String),
    /// With these bytes, whatever they are.
    Raw(String),
    /// With a redirect.
    Redirect(String),
    /// With a head, and never a body.
    Never,
    /// With a body without end.
    Endless,
    /// Not at all.
    Close,
}

/// An issuer's server for key sets.
#[derive(Debug)]
struct Issuer {
    port: u16,
    answer: Mutex<Answer>,
    hits: AtomicUsize,
}

impl Issuer {
    async fn start(answer: Answer) -> Arc<Self> {
        Self::serve(answer, None).await
    }

    async fn serve(answer: Answer, tls: Option<TlsAcceptor>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let issuer = Arc::new(Self { port, answer: Mutex::new(answer), hits: AtomicUsize::new(0) });
        let serving = Arc::clone(&issuer);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (issuer, tls) = (Arc::clone(&serving), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => issuer.respond(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                issuer.respond(stream).await;
                            }
                        }
                    }
                });
            }
        });
        issuer
    }

    async fn respond(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        self.hits.fetch_add(1, Ordering::SeqCst);
        let answer = self.answer.lock().unwrap().clone();
        let head = |status: &str, length: usize| format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n");
        // The client may hang up at any time, which is its good right.
        let _sent = match answer {
            Answer::Keys(keys) => {
                let text = format!("{}connection: close\r\n\r\n{keys}", head("200 OK", keys.len()));
                stream.write_all(text.as_bytes()).await
            }
            Answer::Raw(text) => stream.write_all(text.as_bytes()).await,
            Answer::Redirect(to) => {
                let text = format!("{}location: {to}\r\n\r\n", head("302 Found", 0));
                stream.write_all(text.as_bytes()).await
            }
            Answer::Never => {
                let sent = stream.write_all(head("200 OK\r\n", 10).as_bytes()).await;
                std::future::pending::<()>().await;
                sent
            }
            Answer::Endless => {
                let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                while sent.is_ok() {
                    sent = stream.write_all(&[b' '; 16 * 1024]).await;
                }
                sent
            }
            Answer::Close => Ok(()),
        };
        let _closed = stream.shutdown().await;
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    fn source(&self) -> KeySetSource {
        self.source_with("http", "127.0.0.1", None)
    }

    fn source_with(&self, scheme: &str, host: &str, ca: Option<PathBuf>) -> KeySetSource {
        let url = format!("{scheme}://{host}:{}/jwks", self.port).parse().unwrap();
        KeySetSource::Url { url, ca, refresh: Duration::from_hours(1) }
    }
}

/// A gateway whose provider has its keys from a URL.
struct Gateway {
    key_sets: KeySets,
    key_set: Arc<KeySet>,
    clock: Arc<ManualClock>,
    chain: Chain,
    cache: WorkerCache,
}

impl Gateway {
    fn start(source: KeySetSource) -> Self {
        let clock = Arc::new(ManualClock::at(Duration::from_secs(NOW)));
        let (key_sets, refresher) = KeySets::new(Arc::clone(&clock) as Arc<dyn Clock>);
        tokio::spawn(refresher.run());
        let key_set = key_sets.open(&source).unwrap();
        let provider = jwt::provider("corp", jwt::config(source), Arc::clone(&key_set));
        Self { key_sets, key_set, clock, chain: Chain::new(vec![provider]), cache: WorkerCache::new() }
    }

    async fn verdict(&self, token: &str) -> &'static str {
        let bearer = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        let headers = HeaderMap::from_iter([(AUTHORIZATION, bearer)]);
        let presented = Presented {
            headers: &headers,
            query: None,
            tls: None,
            target: Target::default(),
            now: self.clock.now(),
        };
        verdict(&self.chain.authenticate(&presented, &self.cache).await)
    }

    /// Fetches once more and waits for the end of it.
    async fn refresh(&self) {
        let attempts = self.key_set.status().attempts;
        self.key_set.refresh();
        self.key_set.attempted(attempts + 1).await;
    }
}

fn keys(signers: &[&Signer]) -> Answer {
    Answer::Keys(jwks(&signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>()))
}

/// A valid token but for its end, which lies beyond all that the tests do with the clock.
fn lasting(signer: &Signer) -> String {
    signer.sign(&claims_with(&json!({"exp": NOW + 100_000_000})))
}

#[tokio::test]
async fn a_token_waits_for_the_first_fetch() {
    let key = Signer::es256("a");
    let issuer = Issuer::start(keys(&[&key])).await;
    let gateway = Gateway::start(issuer.source());
    assert_eq!(gateway.verdict(&key.sign(&claims())).await, "proven");
    assert_eq!(issuer.hits(), 1);
    let status = gateway.key_set.status();
    assert_eq!(
        (status.loaded, status.renewed_at, status.last_error),
        (true, Some(gateway.clock.now()), None)
    );
}

#[tokio::test]
async fn rotation_needs_no_restart_and_a_removed_key_stops_working() {
    let (old, new) = (Signer::es256("old"), Signer::es256("new"));
    let issuer = Issuer::start(keys(&[&old])).await;
    let gateway = Gateway::start(issuer.source());
    let (by_old, by_new) = (lasting(&old), lasting(&new));
    assert_eq!(gateway.verdict(&by_old).await, "proven");
    issuer.answers(keys(&[&old, &new]));
    assert_eq!(gateway.verdict(&by_new).await, "proven", "an unknown key is fetched at once");
    assert_eq!(gateway.verdict(&by_old).await, "proven");
    issuer.answers(keys(&[&new]));
    gateway.refresh().await;
    assert_eq!(gateway.verdict(&by_new).await, "proven");
    assert_eq!(gateway.verdict(&by_old).await, "unknown_key", "remembered tokens of a removed key, too");
    assert_eq!(issuer.hits(), 3);
}

#[tokio::test]
async fn the_same_keys_fetched_again_keep_the_remembered_tokens() {
    let key = Signer::es256("a");
    let issuer = Issuer::start(keys(&[&key])).await;
    let gateway = Gateway::start(issuer.source());
    assert_eq!(gateway.verdict(&lasting(&key)).await, "proven");
    let revision = gateway.key_set.revision();
    gateway.refresh().await;
    assert_eq!(gateway.key_set.revision(), revision);
    issuer.answers(keys(&[&key, &Signer::es256("b")]));
    gateway.refresh().await;
    assert_ne!(gateway.key_set.revision(), revision);
}

#[tokio::test]
async fn unknown_keys_cost_one_fetch_in_thirty_seconds() {
    let (known, stranger) = (Signer::es256("known"), Signer::es256("x"));
    let issuer = Issuer::start(keys(&[&known])).await;
    let gateway = Gateway::start(issuer.source());
    gateway.key_set.attempted(1).await;
    let token = |number: usize| {
        let header = json!({"alg": "ES256", "kid": format!("random-{number}")}).to_string();
        stranger.sign_parts(&header, &claims().to_string())
    };
    let at_once: Vec<_> = (0..300).map(token).collect();
    for verdict in join_all(at_once.iter().map(|token| gateway.verdict(token))).await {
        assert_eq!(verdict, "unknown_key");
    }
    assert_eq!(issuer.hits(), 2, "one fetch for all who ask together");
    for number in 0..2_000 {
        assert_eq!(gateway.verdict(&token(number)).await, "unknown_key");
    }
    assert_eq!(issuer.hits(), 2, "and none for those who ask soon after");
    gateway.clock.advance(DEMAND_INTERVAL);
    assert_eq!(gateway.verdict(&token(1)).await, "unknown_key");
    assert_eq!(issuer.hits(), 3);
    assert_eq!(gateway.verdict(&known.sign(&claims())).await, "proven");
}

#[tokio::test]
async fn an_outage_keeps_the_last_good_keys_until_they_are_stale() {
    let key = Signer::es256("a");
    let issuer = Issuer::start(keys(&[&key])).await;
    let gateway = Gateway::start(issuer.source());
    gateway.key_set.attempted(1).await;
    issuer.answers(Answer::Close);
    gateway.refresh().await;
    assert!(gateway.key_set.status().last_error.is_some());
    assert_eq!(gateway.verdict(&lasting(&key)).await, "proven");
    gateway.clock.advance(STALE_AFTER);
    gateway.refresh().await;
    assert_eq!(gateway.verdict(&lasting(&key)).await, "proven");
    gateway.clock.advance(Duration::from_secs(1));
    gateway.refresh().await;
    assert_eq!(gateway.verdict(&lasting(&key)).await, "keys_unavailable", "a remembered token, too");
    issuer.answers(keys(&[&key]));
    gateway.refresh().await;
    assert_eq!(gateway.verdict(&lasting(&key)).await, "proven");
}

#[tokio::test]
async fn without_any_keys_nobody_can_say() {
    let issuer = Issuer::start(Answer::Close).await;
    let gateway = Gateway::start(issuer.source());
    let key = Signer::es256("a");
    assert_eq!(gateway.verdict(&key.sign(&claims())).await, "keys_unavailable");
    assert_eq!(gateway.verdict(&key.sign(&claims_with(&json!({"iss": "x"})))).await, "wrong_issuer");
    issuer.answers(keys(&[&key]));
    gateway.refresh().await;
    assert_eq!(gateway.verdict(&key.sign(&claims())).await, "proven");
}

#[tokio::test]
async fn hostile_answers_change_nothing() {
    let key = Signer::es256("a");
    let issuer = Issuer::start(keys(&[&key])).await;
    let gateway = Gateway::start(issuer.source());
    gateway.key_set.attempted(1).await;
    let thief = Signer::es256("a");
    let stolen = jwks(&[thief.jwk()]);
    let elsewhere = Issuer::start(keys(&[&thief])).await;
    let many = (0..101).fold(String::new(), |mut list, number| {
        write!(list, "{}{{\"kty\":\"{number}\"}}", if number > 0 { "," } else { "" }).unwrap();
        list
    });
    let status = |status: &str| {
        Answer::Raw(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{stolen}", stolen.len()))
    };
    let headed = |header: &str| {
        Answer::Raw(format!(
            "HTTP/1.1 200 OK\r\n{header}\r\ncontent-length: {}\r\n\r\n{stolen}",
            stolen.len()
        ))
    };
    let twins = jwks(&[thief.jwk(), key.jwk()]);
    let answers = [
        ("a body without end", Answer::Endless, "larger than"),
        ("a body of 2 MiB", Answer::Keys(format!("{stolen}{}", " ".repeat(2 << 20))), "larger than"),
        ("another host", Answer::Redirect(format!("http://127.0.0.1:{}/jwks", elsewhere.port)), "redirects"),
        (
            "another host, without scheme",
            Answer::Redirect(format!("//127.0.0.1:{}/", elsewhere.port)),
            "redirects",
        ),
        ("a file", Answer::Redirect("file:///etc/passwd".into()), "redirects"),
        ("nowhere", Answer::Redirect(String::new()), "redirects"),
        ("a circle", Answer::Redirect("/jwks".into()), "redirects"),
        ("a page", Answer::Keys("<!doctype html><title>Sign in</title>".into()), "not valid JSON"),
        ("noise", Answer::Raw("\u{1}\u{2}\u{3} HTTP".into()), "cannot reach"),
        (
            "an endless head",
            Answer::Raw(format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(1 << 20))),
            "cannot reach",
        ),
        ("not found", status("404 Not Found"), "404"),
        ("created", status("201 Created"), "201"),
        ("partial", status("206 Partial Content"), "206"),
        ("compressed", headed("content-encoding: gzip"), "content encoding"),
        (
            "a broken-off body",
            Answer::Raw("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{".into()),
            "broke off",
        ),
        ("101 keys", Answer::Keys(format!("{{\"keys\":[{many}]}}")), "more than 100"),
        ("no keys", Answer::Keys("{\"key\": []}".into()), "`keys` list"),
        ("a list", Answer::Keys("[]".into()), "`keys` list"),
        ("deep", Answer::Keys(format!("{{\"keys\":{}", "[".repeat(100_000))), "nested too deeply"),
        ("duplicate members", Answer::Keys(format!("{{\"keys\":[],{}", &stolen[1..])), "same member twice"),
        ("two keys of one name", Answer::Keys(twins), "must name one key"),
        ("nothing", Answer::Close, "cannot reach"),
    ];
    for (what, answer, want) in answers {
        issuer.answers(answer);
        gateway.refresh().await;
        let error = gateway.key_set.status().last_error.unwrap_or_else(|| panic!("{what} was taken"));
        assert!(error.contains(want), "{what}: {error}");
        assert_eq!(gateway.verdict(&lasting(&key)).await, "proven", "{what}");
        assert_eq!(gateway.verdict(&lasting(&thief)).await, "bad_signature", "{what}");
    }
    assert_eq!(elsewhere.hits(), 0);
}

#[tokio::test]
async fn redirects_within_the_origin_are_followed() {
    let key = Signer::es256("a");
    let issuer = Issuer::start(Answer::Redirect("/moved".into())).await;
    let gateway = Gateway::start(issuer.source());
    gateway.key_set.attempted(1).await;
    assert_eq!(issuer.hits(), 4, "the first and three redirects");
    issuer.answers(keys(&[&key]));
    gateway.refresh().await;
    assert_eq!(gateway.verdict(&key.sign(&claims())).await, "proven");
}

#[tokio::test]
async fn a_server_that_never_ends_holds_nobody_up() {
    let key = Signer::es256("a");
    let issuer = Issuer::start(keys(&[&key])).await;
    let gateway = Gateway::start(issuer.source());
    gateway.key_set.attempted(1).await;
    issuer.answers(Answer::Never);
    let unknown = Signer::es256("b").sign(&claims());
    // Time passes only while all wait, so this takes no time and still runs into every timeout.
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    assert_eq!(gateway.verdict(&unknown).await, "unknown_key");
    assert!(began.elapsed() <= Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(gateway.verdict(&lasting(&key)).await, "proven");
    gateway.key_set.attempted(2).await;
    let error = gateway.key_set.status().last_error.unwrap();
    assert!(error.contains("no complete answer"), "{error}");
}

#[tokio::test]
async fn a_failed_fetch_is_tried_again_and_a_good_one_renewed() {
    let key = Signer::es256("a");
    let issuer = Issuer::start(Answer::Close).await;
    let gateway = Gateway::start(issuer.source());
    gateway.key_set.attempted(1).await;
    tokio::time::pause();
    gateway.key_set.attempted(3).await;
    issuer.answers(keys(&[&key]));
    while !gateway.key_set.status().loaded {
        gateway.key_set.attempted(gateway.key_set.status().attempts + 1).await;
    }
    assert_eq!(gateway.verdict(&lasting(&key)).await, "proven");
    let began = tokio::time::Instant::now();
    gateway.key_set.attempted(gateway.key_set.status().attempts + 1).await;
    assert!(began.elapsed() >= Duration::from_mins(50), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_secret_on_the_network_is_none() {
    // The shared secret has the name of the real key.
    let key = Signer::es256("a");
    let secret = json!({"kty": "oct", "kid": "a", "k": base64url(&[7; 64])});
    let issuer = Issuer::start(Answer::Keys(jwks(&[key.jwk(), secret]))).await;
    let gateway = Gateway::start(issuer.source());
    assert_eq!(gateway.verdict(&key.sign(&claims())).await, "proven");
    let header = json!({"alg": "HS256", "kid": "a"}).to_string();
    let forged = hs256(&[7; 64], &header, &claims().to_string());
    assert_eq!(gateway.verdict(&forged).await, "algorithm_not_allowed");
    let keys = gateway.key_set.keys();
    assert_eq!(keys.as_ref().unwrap().left_out(), [("a".to_owned(), KeyFault::SymmetricKey)]);
}

#[tokio::test]
async fn providers_share_a_set_of_the_same_settings_and_it_ends_with_them() {
    let issuer = Issuer::start(keys(&[&Signer::es256("a")])).await;
    let gateway = Gateway::start(issuer.source());
    let again = gateway.key_sets.open(&issuer.source()).unwrap();
    assert!(Arc::ptr_eq(&again, &gateway.key_set));
    let KeySetSource::Url { url, ca, .. } = issuer.source() else { unreachable!() };
    let other = KeySetSource::Url { url, ca, refresh: Duration::from_secs(5) };
    let other = gateway.key_sets.open(&other).unwrap();
    assert!(!Arc::ptr_eq(&other, &gateway.key_set));
    gateway.key_sets.attempted(Duration::from_secs(5)).await;
    assert_eq!(gateway.key_sets.statuses().len(), 2);
    drop(other);
    assert_eq!(gateway.key_sets.statuses().len(), 1);
}

#[tokio::test]
async fn https_needs_a_trusted_issuer_and_the_right_name() {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority =
        rcgen::CertifiedIssuer::self_signed(authority, rcgen::KeyPair::generate().unwrap()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &authority).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let signer = Signer::es256("a");
    let issuer = Issuer::serve(keys(&[&signer]), Some(TlsAcceptor::from(Arc::new(tls)))).await;

    let directory = tempfile::tempdir().unwrap();
    let trusted = directory.path().join("ca.pem");
    std::fs::write(&trusted, authority.pem()).unwrap();
    let gateway = Gateway::start(issuer.source_with("https", "localhost", Some(trusted.clone())));
    assert_eq!(gateway.verdict(&signer.sign(&claims())).await, "proven");

    let other = directory.path().join("other.pem");
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&other, stranger.cert.pem()).unwrap();
    for (host, ca) in [("127.0.0.1", trusted), ("localhost", other)] {
        let gateway = Gateway::start(issuer.source_with("https", host, Some(ca)));
        assert_eq!(gateway.verdict(&signer.sign(&claims())).await, "keys_unavailable");
        let error = gateway.key_set.status().last_error.unwrap();
        assert!(error.contains("certificate"), "{error}");
    }
}

#[test]
fn a_file_must_be_usable_when_it_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    let (sets, _refresher) = KeySets::new(Arc::new(ManualClock::at(Duration::ZERO)));
    let open = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let opened = sets.open(&KeySetSource::File(path.clone()));
        opened.map_err(|error| {
            format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string))
        })
    };
    assert!(open(&jwks(&[Signer::es256("a").jwk()])).is_ok());
    assert!(open("{}").unwrap_err().contains("cannot be used"));
    assert!(open("{\"keys\":[]}").unwrap_err().contains("the list is empty"));
    let secret = json!({"kty": "oct", "kid": "s", "k": base64url(&[7; 64])});
    let (alone, mixed) =
        (open(&jwks(std::slice::from_ref(&secret))), open(&jwks(&[secret, Signer::es256("a").jwk()])));
    assert!(alone.is_ok() && mixed.unwrap_err().contains("keep them in two"));
    let weak = json!({"kty": "oct", "kid": "weak", "k": ""});
    assert!(open(&jwks(&[weak])).unwrap_err().contains("`weak` too weak or too large"));
    std::fs::remove_file(&path).unwrap();
    let error = sets.open(&KeySetSource::File(path.clone())).unwrap_err();
    assert!(error.to_string().contains("cannot read the key set"), "{error}");
}
