//! What it costs to know who asks: a token or key seen before, and a token seen for the first time.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark that cannot run fails"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, HeaderValue};
use jsonwebtoken::Algorithm;
use postern::base::clock::ManualClock;
use postern::config::model::{ClaimPaths, JwtProvider, KeySetSource};
use postern::identity::api_key::ApiKeys;
use postern::identity::api_key::keys_file;
use postern::identity::cache::WorkerCache;
use postern::identity::chain::{Chain, Outcome};
use postern::identity::jwt::BearerTokens;
use postern::identity::jwt::key_sets::KeySets;
use postern::identity::provider::Provider;
use postern::identity::shelf::Shelf;
use postern::identity::{Presented, Target};
use serde_json::json;

#[path = "../tests/it/token.rs"]
#[expect(dead_code, reason = "shared with the integration tests, which use all of it")]
mod token;

use token::{Signer, jwks};

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
    };
    let (sets, _refresher) = KeySets::new(Arc::new(ManualClock::at(NOW)));
    let keys = sets.open(&config.keys).unwrap();
    Chain::new(vec![Arc::new(Provider::new("corp".into(), Box::new(BearerTokens::new(config, keys))))])
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
    let text = "keys: [{id: k1, owner: acme, roles: [partner], sha256: \
                2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683}]";
    let keys =
        ApiKeys::new(HeaderName::from_static("x-api-key"), keys_file::parse("keys".as_ref(), text).unwrap());
    let chain = Chain::new(vec![Arc::new(Provider::new("partners".into(), Box::new(keys)))]);
    let headers =
        HeaderMap::from_iter([(HeaderName::from_static("x-api-key"), HeaderValue::from_static("key"))]);
    let cache = WorkerCache::new();
    criterion.bench_function("api key seen before", |bencher| bencher.iter(|| ask(&chain, &cache, &headers)));
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
        workers.iter().for_each(|cache| ask(&chain, cache, &headers));
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
