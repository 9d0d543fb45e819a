//! What it costs to know who asks: a token or key seen before, and a token seen for the first time.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark that cannot run fails"
)]

use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use aws_lc_rs::digest;
use criterion::{Criterion, criterion_group, criterion_main};
use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, HeaderValue};
use jsonwebtoken::Algorithm;
use postern::base::clock::ManualClock;
use postern::config::model::{ClaimPaths, Dpop, JwtProvider, KeySetSource, TokenBinding};
use postern::identity::api_key::ApiKeys;
use postern::identity::api_key::keys_file;
use postern::identity::cache::WorkerCache;
use postern::identity::chain::{Chain, Outcome};
use postern::identity::jwt::BearerTokens;
use postern::identity::jwt::key_sets::KeySets;
use postern::identity::provider::{self, Provider};
use postern::identity::resources::Resources;
use postern::identity::shelf::Shelf;
use postern::identity::{Presented, Target};
use serde_json::json;

#[path = "../tests/it/token.rs"]
#[expect(dead_code, reason = "shared with the integration tests, which use all of it")]
mod token;

use token::{Signer, base64url, jwks};

const NOW: Duration = Duration::from_hours(500_000);

fn bearer(signer: &Signer) -> HeaderMap {
    bearer_of(signer, "7c4c0f0e-5f0b-4b0e-9b5e-0b8f1d2c3a4e")
}

fn bearer_of(signer: &Signer, subject: &str) -> HeaderMap {
    let roles: Vec<_> = (0..8).map(|number| format!("role-{number}")).collect();
    let claims = json!({
        "iss": "https://idp.example", "aud": ["orders", "billing"], "sub": subject,
        "exp": NOW.as_secs() + 300, "iat": NOW.as_secs() - 5, "nbf": NOW.as_secs() - 5, "jti": "a1b2c3d4e5f6",
        "realm_access": {"roles": roles}, "scope": "openid profile email", "email": "alice@example.com",
    });
    let value = HeaderValue::from_str(&format!("Bearer {}", signer.sign(&claims))).unwrap();
    HeaderMap::from_iter([(AUTHORIZATION, value)])
}

fn tokens(signers: &[&Signer]) -> Chain {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), jwks(&signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>()))
        .unwrap();
    let config = JwtProvider {
        issuer: "https://idp.example".into(),
        audiences: vec!["orders".into()],
        keys: KeySetSource::File(file.path().to_owned()),
        algorithms: vec![Algorithm::RS256, Algorithm::ES256],
        claims: ClaimPaths {
            subject: vec!["sub".into()],
            roles: Some(vec!["realm_access".into(), "roles".into()]),
            groups: None,
            scopes: Some(vec!["scope".into()]),
        },
        leeway: Duration::from_secs(30),
        token_type: None,
        header: AUTHORIZATION,
        forward_credential: true,
        binding: TokenBinding::Optional,
        dpop: Some(Dpop { proof_lifetime: Duration::from_mins(1), algorithms: vec![Algorithm::ES256] }),
    };
    let (sets, _refresher) = KeySets::new(Arc::new(ManualClock::at(NOW)));
    let keys = sets.open(&config.keys).unwrap();
    Chain::new(vec![Arc::new(Provider::new("corp".into(), Box::new(BearerTokens::new(config, keys))))])
}

/// An element of BER.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x82][..], &length, content].concat()
}

/// A directory that knows one user in eight groups, whatever is asked.
fn directory() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let entry = |id: u8, dn: &str, attributes: &[(&str, &str)]| {
        let attribute = |(name, value): &(&str, &str)| {
            let values = element(0x31, &element(4, value.as_bytes()));
            element(0x30, &[element(4, name.as_bytes()), values].concat())
        };
        let attributes: Vec<u8> = attributes.iter().flat_map(attribute).collect();
        let found = element(0x64, &[element(4, dn.as_bytes()), element(0x30, &attributes)].concat());
        element(0x30, &[&[2, 1, id][..], &found].concat())
    };
    let result =
        |id: u8, tag: u8| element(0x30, &[&[2, 1, id][..], &element(tag, &[10, 1, 0, 4, 0, 4, 0])].concat());
    let serve = move |mut stream: std::net::TcpStream| -> std::io::Result<()> {
        let mut asked = [0; 1024];
        loop {
            let read = stream.read(&mut asked)?;
            if read == 0 {
                return Ok(());
            }
            // The head of a message of this size is two or three bytes long.
            let head = if asked[1] < 0x80 { 2 } else { 3 };
            let (id, operation) = (asked[head + 2], asked[head + 3]);
            let is_for_groups = asked[..read].windows(6).any(|part| part == b"member");
            let found = match operation {
                0x60 => result(id, 0x61),
                _ if is_for_groups => (0..8)
                    .flat_map(|number| {
                        let cn = format!("group-{number}");
                        entry(id, &format!("cn={cn},ou=groups,dc=x"), &[("cn", &cn)])
                    })
                    .chain(result(id, 0x65))
                    .collect(),
                _ => {
                    let known = [("uid", "alice"), ("mail", "alice@example.com"), ("departmentNumber", "7")];
                    [entry(id, "uid=alice,ou=people,dc=x", &known), result(id, 0x65)].concat()
                }
            };
            stream.write_all(&found)?;
        }
    };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || serve(stream?));
        }
    });
    address
}

/// A chain with a directory, and a worker's cache that knows alice.
fn logins(headers: &HeaderMap) -> (Chain, WorkerCache) {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("policies")).unwrap();
    let text = format!(
        "{{version: 1, listeners: [{{name: l, address: 127.0.0.1:8080}}], policies: {{p: {{bundle: policies}}}}, \
         upstreams: {{u: {{endpoints: [\"http://127.0.0.1:9000\"]}}}}, apis: [{{name: a, policy: p, upstream: u, identity: [d]}}], \
         identity: {{d: {{type: ldap, url: \"ldap://{}\", users: {{base: \"ou=people,dc=x\"}}, \
         groups: {{base: \"ou=groups,dc=x\"}}, attributes: [mail, departmentNumber]}}}}}}",
        directory()
    );
    let file = root.path().join("gateway.yaml");
    std::fs::write(&file, text).unwrap();
    let config = postern::config::load(&file, &|_| None).unwrap().config;
    let (resources, keeper) = Resources::new(Arc::new(ManualClock::at(NOW)));
    let chain = Chain::new(provider::build(&config.identity, &resources).unwrap().into_values().collect());
    let cache = WorkerCache::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::spawn(keeper.run());
        let presented = Presented { headers, query: None, tls: None, target: Target::default(), now: NOW };
        match chain.authenticate(&presented, &cache).await {
            Outcome::Proven(identity) => assert_eq!(identity.facts().groups.len(), 8),
            other @ (Outcome::Anonymous | Outcome::Refused(_) | Outcome::Unavailable(_)) => {
                panic!("{other:?}")
            }
        }
    });
    (chain, cache)
}

/// Asks as a worker does, whose answer is there at once.
fn ask(chain: &Chain, cache: &WorkerCache, headers: &HeaderMap) {
    let presented =
        Presented { headers, query: Some("page=2"), tls: None, target: Target::default(), now: NOW };
    let future = std::pin::pin!(chain.authenticate(&presented, cache));
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Outcome::Proven(identity)) => drop(black_box(identity)),
        other @ (Poll::Ready(_) | Poll::Pending) => panic!("{other:?}"),
    }
}

fn identity(criterion: &mut Criterion) {
    let (rsa, ec) = (Signer::rs256("r1"), Signer::es256("e1"));
    let chain = tokens(&[&rsa, &ec]);
    for (name, signer) in [("rs256", &rsa), ("es256", &ec)] {
        let headers = bearer(signer);
        let cache = WorkerCache::new();
        criterion.bench_function(
            &format!("{name} seen before ({} bytes)", headers[AUTHORIZATION].len()),
            |bencher| {
                bencher.iter(|| ask(&chain, &cache, black_box(&headers)));
            },
        );
        criterion.bench_function(&format!("{name} first time"), |bencher| {
            bencher.iter_batched_ref(
                WorkerCache::new,
                |cache| ask(&chain, cache, &headers),
                criterion::BatchSize::SmallInput,
            );
        });
    }
    bound(criterion, &ec);
    let text = "keys: [{id: k1, owner: acme, roles: [partner], sha256: \
                2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683}]";
    let keys =
        ApiKeys::new(HeaderName::from_static("x-api-key"), keys_file::parse("keys".as_ref(), text).unwrap());
    let chain = Chain::new(vec![Arc::new(Provider::new("partners".into(), Box::new(keys)))]);
    let headers =
        HeaderMap::from_iter([(HeaderName::from_static("x-api-key"), HeaderValue::from_static("key"))]);
    let cache = WorkerCache::new();
    criterion.bench_function("api key seen before", |bencher| bencher.iter(|| ask(&chain, &cache, &headers)));

    let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("Basic YWxpY2U6c2VjcmV0"))]);
    let (chain, cache) = logins(&headers);
    criterion.bench_function("ldap seen before", |bencher| bencher.iter(|| ask(&chain, &cache, &headers)));
}

/// A token seen before whose holder proves with each request to have the key that it is bound to (RFC 9449).
fn bound(criterion: &mut Criterion, signer: &Signer) {
    let holder = Signer::es256("unused");
    let key = holder.bare_jwk();
    let thumbprint =
        format!("{{\"crv\":{},\"kty\":{},\"x\":{},\"y\":{}}}", key["crv"], key["kty"], key["x"], key["y"]);
    let hash = |bytes: &[u8]| base64url(digest::digest(&digest::SHA256, bytes).as_ref());
    let token = signer.sign(&json!({
        "iss": "https://idp.example", "aud": "orders", "sub": "alice", "exp": NOW.as_secs() + 300,
        "cnf": {"jkt": hash(thumbprint.as_bytes())},
    }));
    let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": key}).to_string();
    let ath = hash(token.as_bytes());
    let authorization = HeaderValue::from_str(&format!("DPoP {token}")).unwrap();
    let chain = tokens(&[signer]);
    let cache = WorkerCache::new();
    let mut number = 0;
    criterion.bench_function("es256 bound to a key, seen before, with a new proof", |bencher| {
        bencher.iter_batched_ref(
            || {
                number += 1;
                let claims = json!({"htm": "GET", "htu": "http://localhost/", "iat": NOW.as_secs(),
                    "jti": format!("proof-{number}"), "ath": ath});
                let proof = holder.sign_parts(&header, &claims.to_string());
                let proof = HeaderValue::from_str(&proof).unwrap();
                HeaderMap::from_iter([
                    (AUTHORIZATION, authorization.clone()),
                    (HeaderName::from_static("dpop"), proof),
                ])
            },
            |headers| ask(&chain, &cache, headers),
            criterion::BatchSize::SmallInput,
        );
    });
}

/// What 100 000 callers take in memory, who all come to two workers; printed, for it is no time.
fn memory(criterion: &mut Criterion) {
    const CALLERS: usize = 100_000;
    let ec = Signer::es256("e1");
    let chain = tokens(&[&ec]);
    let shelf = Arc::new(Shelf::new());
    let workers = [(); 2].map(|()| WorkerCache::before(Arc::clone(&shelf)));
    let before = resident_bytes();
    for number in 0..CALLERS {
        let headers = bearer_of(&ec, &format!("{number:08x}-5f0b-4b0e-9b5e-0b8f1d2c3a4e"));
        for cache in &workers {
            ask(&chain, cache, &headers);
        }
    }
    let mebibytes = (resident_bytes().saturating_sub(before)) >> 20;
    println!("{CALLERS} callers: {} remembered, {mebibytes} MiB", shelf.len());
    let early = bearer_of(&ec, "00000001-5f0b-4b0e-9b5e-0b8f1d2c3a4e");
    criterion.bench_function("es256 seen by another worker", |bencher| {
        bencher.iter_batched_ref(
            || WorkerCache::before(Arc::clone(&shelf)),
            |cache| ask(&chain, cache, &early),
            criterion::BatchSize::SmallInput,
        );
    });
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

criterion_group!(benches, identity, memory);
criterion_main!(benches);
