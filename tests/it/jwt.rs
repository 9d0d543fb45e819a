//! Bearer tokens through the chain: what proves an identity, and each trap that must not.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_lc_rs::rsa::KeySize;
use futures_util::FutureExt;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use jsonwebtoken::Algorithm;
use postern::base::clock::ManualClock;
use postern::config::model::{ClaimPaths, JwtProvider, KeySetSource, TokenBinding};
use postern::contract::identity::Identity;
use postern::contract::request::{ClientCertificate, TlsFacts};
use postern::identity::api_key::ApiKeys;
use postern::identity::api_key::keys_file;
use postern::identity::cache::WorkerCache;
use postern::identity::chain::{Chain, Outcome};
use postern::identity::jwt::BearerTokens;
use postern::identity::jwt::key_set::KeySet;
use postern::identity::jwt::key_sets::KeySets;
use postern::identity::provider::Provider;
use postern::identity::{Presented, Target};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::token::{Signer, base64url, hs256, jwks};

pub(crate) const ISSUER: &str = "https://i";
pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const LEEWAY: u64 = 30;

/// Keys are slow to make, so tests share them.
pub(crate) fn rsa() -> &'static Signer {
    static KEY: OnceLock<Signer> = OnceLock::new();
    KEY.get_or_init(|| Signer::rs256("r1"))
}

pub(crate) fn ec() -> &'static Signer {
    static KEY: OnceLock<Signer> = OnceLock::new();
    KEY.get_or_init(|| Signer::es256("e1"))
}

/// The usual provider, its keys in a file.
pub(crate) fn config(keys: KeySetSource) -> JwtProvider {
    let path = |name: &str| Some(name.split('.').map(str::to_owned).collect());
    JwtProvider {
        issuer: ISSUER.to_owned(),
        audiences: vec!["gw".to_owned()],
        keys,
        algorithms: vec![Algorithm::RS256, Algorithm::ES256],
        claims: ClaimPaths {
            subject: vec!["sub".to_owned()],
            roles: path("realm_access.roles"),
            groups: path("groups"),
            scopes: path("scope"),
        },
        leeway: Duration::from_secs(LEEWAY),
        token_type: None,
        header: AUTHORIZATION,
        forward_credential: true,
        binding: TokenBinding::Optional,
        dpop: None,
    }
}

pub(crate) fn key_set(document: &str) -> Arc<KeySet> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), document).unwrap();
    let (sets, _refresher) = KeySets::new(Arc::new(ManualClock::at(Duration::ZERO)));
    sets.open(&KeySetSource::File(file.path().to_owned())).unwrap()
}

pub(crate) fn provider(name: &str, config: JwtProvider, keys: Arc<KeySet>) -> Arc<Provider> {
    Arc::new(Provider::new(name.into(), Box::new(BearerTokens::new(config, keys))))
}

/// A gateway's worker with one provider.
pub(crate) struct World {
    pub(crate) chain: Chain,
    pub(crate) cache: WorkerCache,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(&[rsa().jwk(), ec().jwk()], |_| {})
    }

    /// A world with these keys and a changed configuration.
    pub(crate) fn with(keys: &[Value], change: impl FnOnce(&mut JwtProvider)) -> Self {
        let mut config = config(KeySetSource::File("keys.json".into()));
        change(&mut config);
        Self::of(vec![provider("corp", config, key_set(&jwks(keys)))])
    }

    pub(crate) fn of(providers: Vec<Arc<Provider>>) -> Self {
        Self { chain: Chain::new(providers), cache: WorkerCache::new() }
    }

    pub(crate) fn present(&self, presented: &Presented<'_>) -> Outcome {
        self.chain.authenticate(presented, &self.cache).now_or_never().expect("nothing to wait for")
    }

    pub(crate) fn authorize(&self, values: &[&str], now: u64) -> Outcome {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        let now = Duration::from_secs(now);
        self.present(&Presented { headers: &headers, query: None, tls: None, target: Target::default(), now })
    }

    /// Why a token is bad, or `"proven"`, `"anonymous"`.
    pub(crate) fn verdict(&self, token: &str) -> &'static str {
        verdict(&self.authorize(&[&format!("Bearer {token}")], NOW))
    }
}

pub(crate) fn verdict(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Anonymous => "anonymous",
        Outcome::Proven(_) => "proven",
        Outcome::Refused(refusal) => refusal.failure.reason,
        Outcome::Unavailable(failure) => failure.reason,
    }
}

fn proven(outcome: Outcome) -> Result<Arc<Identity>, &'static str> {
    let reason = verdict(&outcome);
    if let Outcome::Proven(identity) = outcome { Ok(identity) } else { Err(reason) }
}

pub(crate) fn claims() -> Value {
    json!({"iss": ISSUER, "aud": "gw", "sub": "alice", "exp": NOW + 300, "iat": NOW - 5})
}

/// The usual claims with these on top; `null` takes one away.
pub(crate) fn claims_with(changes: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

#[track_caller]
fn check(token: &str, want: &str) {
    assert_eq!(World::new().verdict(token), want);
}

#[track_caller]
fn check_claims(changes: &Value, want: &str) {
    check(&ec().sign(&claims_with(changes)), want);
}

#[track_caller]
fn check_header(header: &Value, want: &str) {
    check(&ec().sign_parts(&header.to_string(), &claims().to_string()), want);
}

#[test]
fn a_good_token_proves_an_identity() {
    let world = World::new();
    let changes = json!({"realm_access": {"roles": ["reader", "writer"]}, "groups": ["eu"], "scope": "a b", "x": [1.5]});
    for signer in [rsa(), ec()] {
        let claims = claims_with(&changes);
        let Outcome::Proven(identity) = world.authorize(&[&format!("Bearer {}", signer.sign(&claims))], NOW)
        else {
            panic!("not proven");
        };
        let want = json!({
            "authenticated": true, "provider": "corp", "type": "jwt", "subject": "alice", "issuer": ISSUER,
            "audience": ["gw"], "roles": ["reader", "writer"], "groups": ["eu"], "scopes": ["a", "b"],
            "claims": claims, "expires_at": NOW + 300,
        });
        assert_eq!(serde_json::to_value(identity.document()).unwrap(), want);
    }
}

#[test]
fn every_allowed_algorithm_verifies_and_no_other() {
    let signers = [
        Signer::rsa("RS384", "RS384", KeySize::Rsa2048),
        Signer::rsa("RS512", "RS512", KeySize::Rsa3072),
        Signer::rsa("PS256", "PS256", KeySize::Rsa2048),
        Signer::rsa("PS384", "PS384", KeySize::Rsa2048),
        Signer::rsa("PS512", "PS512", KeySize::Rsa2048),
        Signer::es384("ES384"),
        Signer::ed25519("EdDSA"),
    ];
    let keys: Vec<_> = signers.iter().map(Signer::jwk).collect();
    let all = World::with(&keys, |config| {
        config.algorithms = vec![
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
            Algorithm::ES384,
            Algorithm::EdDSA,
        ];
    });
    let usual = World::with(&keys, |_| {});
    for signer in &signers {
        let token = signer.sign(&claims());
        assert_eq!(all.verdict(&token), "proven", "{signer:?}");
        assert_eq!(usual.verdict(&token), "algorithm_not_allowed", "{signer:?}");
    }
}

#[test]
fn no_credential_of_its_kind_is_anonymous() {
    let world = World::new();
    for values in [&[][..], &["Basic YTpi"], &["Digest a=\"b\", c=\"d\""]] {
        assert_eq!(verdict(&world.authorize(values, NOW)), "anonymous", "{values:?}");
    }
}

#[test]
fn one_request_has_one_token() {
    let world = World::new();
    let token = ec().sign(&claims());
    let bearer = format!("Bearer {token}");
    assert_eq!(verdict(&world.authorize(&[&bearer], NOW)), "proven");
    for values in [
        &[bearer.as_str(), bearer.as_str()][..],
        &["Basic YTpi", &bearer],
        &[&bearer, "Basic YTpi"],
        &[&format!("{bearer}, {bearer}")],
        &[&format!("{bearer},Basic YTpi")],
        &[&format!("Basic YTpi, {bearer}")],
    ] {
        assert_eq!(verdict(&world.authorize(values, NOW)), "several_credentials", "{values:?}");
    }
    let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(&bearer).unwrap())]);
    let now = Duration::from_secs(NOW);
    let presented = |query| Presented {
        headers: &headers,
        query: Some(query),
        tls: None,
        target: Target::default(),
        now,
    };
    assert_eq!(verdict(&world.present(&presented("access_token=x"))), "several_credentials");
    assert_eq!(verdict(&world.present(&presented("page=access_token"))), "proven");
    let empty = HeaderMap::new();
    let query = format!("access_token={token}");
    let only_query =
        Presented { headers: &empty, query: Some(&query), tls: None, target: Target::default(), now };
    assert_eq!(verdict(&world.present(&only_query)), "anonymous", "a token in the query is no credential");
}

#[test]
fn a_public_key_is_not_an_hmac_secret() {
    let modulus = rsa().bare_jwk()["n"].as_str().unwrap().to_owned();
    let header = json!({"alg": "HS256", "kid": "r1"}).to_string();
    for secret in [modulus.as_bytes(), b"", rsa().bare_jwk().to_string().as_bytes()] {
        check(&hs256(secret, &header, &claims().to_string()), "algorithm_not_allowed");
    }
    // Not even where HMAC is what the provider expects: the set then has no such secret.
    let hmac = World::with(&[rsa().jwk()], |config| config.algorithms = vec![Algorithm::HS256]);
    assert_eq!(hmac.verdict(&hs256(modulus.as_bytes(), &header, &claims().to_string())), "unknown_key");
}

#[test]
fn a_shared_secret_from_a_file_works_for_hmac_alone() {
    let secret = [7; 32];
    let key = json!({"kty": "oct", "kid": "s1", "alg": "HS256", "k": base64url(&secret)});
    let header = json!({"alg": "HS256", "kid": "s1"}).to_string();
    let token = hs256(&secret, &header, &claims().to_string());
    let hmac = World::with(std::slice::from_ref(&key), |config| config.algorithms = vec![Algorithm::HS256]);
    assert_eq!(hmac.verdict(&token), "proven");
    assert_eq!(hmac.verdict(&hs256(&[8; 32], &header, &claims().to_string())), "bad_signature");
    assert_eq!(World::with(&[key], |_| {}).verdict(&token), "algorithm_not_allowed");
}

#[test]
fn an_unsigned_token_is_refused() {
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let header = base64url(json!({"alg": alg}).to_string().as_bytes());
        for signature in ["", "c2ln"] {
            let token = format!("{header}.{}.{signature}", base64url(claims().to_string().as_bytes()));
            check(&token, "algorithm_not_allowed");
        }
    }
    let (unsigned, _) =
        ec().sign(&claims()).rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    check(&format!("{unsigned}."), "bad_signature");
}

#[test]
fn header_parameters_that_choose_keys_or_hide_payloads_are_refused() {
    let own = json!(Signer::es256("e1").jwk());
    for (name, value) in [
        ("crit", json!(["zzz"])),
        ("crit", json!([])),
        ("crit", json!("exp")),
        ("jku", json!("https://evil/jwks")),
        ("jwk", own),
        ("x5u", json!("https://evil/cert")),
        ("x5c", json!(["MII"])),
        ("zip", json!("DEF")),
        ("enc", json!("A256GCM")),
        ("b64", json!(false)),
        ("cty", json!("JWT")),
    ] {
        let mut header = json!({"alg": "ES256", "kid": "e1"});
        header[name] = value;
        check_header(&header, "header_parameter_refused");
    }
    check_header(&json!({"alg": "ES256", "kid": "e1", "x5t": "x", "harmless": {"a": 1}}), "proven");
}

#[test]
fn duplicate_members_are_refused_in_header_and_claims() {
    let claims = claims().to_string();
    for header in [r#"{"alg":"ES256","alg":"none","kid":"e1"}"#, r#"{"alg":"ES256","kid":"e1","kid":"e1"}"#] {
        check(&ec().sign_parts(header, &claims), "duplicate_member");
    }
    let header = r#"{"alg":"ES256","kid":"e1"}"#;
    for extra in [r#""sub":"admin""#, r#""a":{"role":"user","role":"admin"}"#, r#""\u0073ub":"admin""#] {
        let claims = format!("{},{extra}}}", claims.strip_suffix('}').unwrap());
        check(&ec().sign_parts(header, &claims), "duplicate_member");
    }
}

#[test]
fn keys_are_selected_by_everything_they_say() {
    let header = |kid: Option<&str>, alg: &str| match kid {
        Some(kid) => json!({"alg": alg, "kid": kid}).to_string(),
        None => json!({"alg": alg}).to_string(),
    };
    let signed = |kid, alg| rsa().sign_parts(&header(kid, alg), &claims().to_string());
    check(&signed(Some("r1"), "RS256"), "proven");
    check(&signed(None, "RS256"), "proven");
    check(&signed(Some("R1"), "RS256"), "unknown_key");
    check(&signed(Some(""), "RS256"), "unknown_key");
    check(&signed(Some("e1"), "RS256"), "unknown_key");
    check(&signed(Some("../../../dev/null"), "RS256"), "unknown_key");
    check(&signed(Some("' UNION SELECT 1 --"), "RS256"), "unknown_key");

    let two = World::with(&[rsa().jwk(), Signer::rs256("r2").jwk()], |_| {});
    assert_eq!(two.verdict(&signed(None, "RS256")), "ambiguous_key");

    let with = |name: &str, value: Value| {
        let mut jwk = rsa().jwk();
        jwk[name] = value;
        World::with(&[jwk, ec().jwk()], |_| {}).verdict(&signed(Some("r1"), "RS256"))
    };
    assert_eq!(with("use", json!("enc")), "unknown_key");
    assert_eq!(with("key_ops", json!(["sign"])), "unknown_key");
    assert_eq!(with("key_ops", json!(["verify"])), "proven");
    assert_eq!(with("alg", json!("PS256")), "unknown_key");
    assert_eq!(with("alg", json!("ES256")), "unknown_key");
    assert_eq!(with("kty", json!("EC")), "unknown_key");
    assert_eq!(with("d", json!("AQAB")), "unknown_key");
    assert_eq!(World::with(&[rsa().bare_jwk()], |_| {}).verdict(&signed(None, "RS256")), "proven");
}

#[test]
fn times_are_required_and_checked_with_leeway() {
    check_claims(&json!({"exp": null}), "missing_claim");
    check_claims(&json!({"exp": NOW - LEEWAY + 1}), "proven");
    check_claims(&json!({"exp": NOW - LEEWAY}), "expired");
    check_claims(&json!({"exp": NOW - LEEWAY - 1}), "expired");
    for wrong in [json!("x"), json!(-1), json!(1e300), json!(u64::MAX), json!([NOW + 300]), json!({})] {
        check_claims(&json!({"exp": wrong}), "invalid_claim");
    }
    check_claims(&json!({"exp": 1_800_000_300.5}), "proven");
    check_claims(&json!({"nbf": NOW + LEEWAY}), "proven");
    check_claims(&json!({"nbf": NOW + 3_600}), "not_yet_valid");
    check_claims(&json!({"nbf": "soon"}), "invalid_claim");
    check_claims(&json!({"iat": NOW + LEEWAY + 1}), "issued_in_future");
    check_claims(&json!({"iat": null}), "proven");
}

#[test]
fn issuer_and_audience_are_required_and_exact() {
    check_claims(&json!({"iss": null}), "missing_claim");
    check_claims(&json!({"iss": ["https://evil", ISSUER]}), "invalid_claim");
    for other in ["https://i/", "https://I", "https://evil", ""] {
        check_claims(&json!({"iss": other}), "wrong_issuer");
    }
    check_claims(&json!({"aud": null}), "missing_claim");
    check_claims(&json!({"aud": ["evil", "gw"]}), "proven");
    check_claims(&json!({"aud": "evil"}), "wrong_audience");
    check_claims(&json!({"aud": "gw evil"}), "wrong_audience");
    check_claims(&json!({"aud": {"gw": true}}), "invalid_claim");
    check_claims(&json!({"aud": ["gw", 7]}), "invalid_claim");
}

#[test]
fn types_keep_kinds_of_tokens_apart() {
    for (typ, want) in [("JWT", "proven"), ("at+jwt", "proven"), ("dpop+jwt", "wrong_token_type")] {
        check_header(&json!({"alg": "ES256", "kid": "e1", "typ": typ}), want);
    }
    let access = World::with(&[ec().jwk()], |config| config.token_type = Some("at+jwt".into()));
    assert_eq!(access.verdict(&ec().sign(&claims())), "wrong_token_type");
    let header = json!({"alg": "ES256", "kid": "e1", "typ": "AT+JWT"}).to_string();
    assert_eq!(access.verdict(&ec().sign_parts(&header, &claims().to_string())), "proven");
}

#[test]
fn a_token_is_small_and_its_json_shallow() {
    check_claims(&json!({"pad": "x".repeat(8_000)}), "token_too_large");
    check_claims(&json!({"pad": "x".repeat(4_000)}), "proven");
    let deep = format!("{}1{}", "[".repeat(1_000), "]".repeat(1_000));
    let claims = format!("{},\"deep\":{deep}}}", claims().to_string().strip_suffix('}').unwrap());
    check(&ec().sign_parts(r#"{"alg":"ES256","kid":"e1"}"#, &claims), "malformed_token");
}

#[test]
fn any_change_to_a_token_breaks_it() {
    let world = World::new();
    let token = ec().sign(&claims());
    assert_eq!(world.verdict(&token), "proven");
    for index in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert_ne!(world.verdict(&changed), "proven", "at {index}: {changed}");
    }
    for end in 0..token.len() {
        assert_ne!(world.verdict(&token[..end]), "proven", "cut at {end}");
    }
}

#[test]
fn a_proven_token_is_remembered_until_it_ends() {
    let world = World::new();
    let bearer = format!("Bearer {}", ec().sign(&claims()));
    let at = |now| proven(world.authorize(&[&bearer], now));
    let first = at(NOW).unwrap();
    assert!(Arc::ptr_eq(&first, &at(NOW + 300).unwrap()));
    assert_eq!(world.cache.len(), 1);
    assert!(at(NOW + 300 + LEEWAY - 1).is_ok());
    assert_eq!(at(NOW + 300 + LEEWAY).unwrap_err(), "expired");
    assert_eq!(at(NOW - 5 - LEEWAY - 1).unwrap_err(), "issued_in_future");
}

#[test]
fn a_refused_token_is_not_remembered() {
    let world = World::new();
    world.verdict(&ec().sign(&claims_with(&json!({"exp": 1}))));
    assert!(world.cache.is_empty());
}

#[test]
fn a_bound_token_needs_its_certificate_each_time() {
    let tls = |fingerprint: u8| TlsFacts {
        version: Some("TLSv1.3"),
        cipher: Some("TLS13_AES_128_GCM_SHA256".into()),
        sni: None,
        client_certificate: Some(ClientCertificate {
            subject: "CN=a".into(),
            issuer: "CN=ca".into(),
            common_name: None,
            serial: "01".into(),
            fingerprint_sha256: format!("{fingerprint:02x}").repeat(32),
            san_dns: vec![],
            san_uri: vec![],
            san_email: vec![],
            san_ip: vec![],
            not_after: 2_000_000_000,
            forwarded_by: None,
            field: None,
        }),
        document: regorus::Value::Undefined,
    };
    let world = World::new();
    let token = ec().sign(&claims_with(&json!({"cnf": {"x5t#S256": base64url(&[0xab; 32])}})));
    let bearer = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    let headers = HeaderMap::from_iter([(AUTHORIZATION, bearer)]);
    let ask = |tls: Option<&TlsFacts>| {
        let now = Duration::from_secs(NOW);
        verdict(&world.present(&Presented {
            headers: &headers,
            query: None,
            tls,
            target: Target::default(),
            now,
        }))
    };
    let (holder, thief) = (tls(0xab), tls(0xcd));
    assert_eq!(ask(None), "holder_not_proven");
    for _ in 0..2 {
        assert_eq!(ask(Some(&holder)), "proven");
        assert_eq!(ask(Some(&thief)), "holder_not_proven");
        assert_eq!(ask(None), "holder_not_proven");
    }
    check_claims(&json!({"cnf": {"jkt": base64url(&[1; 32])}}), "holder_not_proven");
}

#[test]
fn two_issuers_share_an_api_and_a_strangers_token_is_refused() {
    let mine = provider("mine", config(KeySetSource::File("a".into())), key_set(&jwks(&[ec().jwk()])));
    let other_key = Signer::es256("e1");
    let mut other = config(KeySetSource::File("b".into()));
    other.issuer = "https://other".into();
    let other = provider("other", other, key_set(&jwks(&[other_key.jwk()])));
    let world = World::of(vec![mine, other]);
    let by = |signer: &Signer, issuer: &str| {
        let claims = claims_with(&json!({"iss": issuer}));
        world.authorize(&[&format!("Bearer {}", signer.sign(&claims))], NOW)
    };
    let provider_of = |outcome| match proven(outcome) {
        Ok(identity) => identity.facts().provider.as_deref().unwrap().to_owned(),
        Err(reason) => reason.to_owned(),
    };
    assert_eq!(provider_of(by(ec(), ISSUER)), "mine");
    assert_eq!(provider_of(by(&other_key, "https://other")), "other");
    // The same `kid`, but the key belongs to the other issuer.
    assert_eq!(provider_of(by(&other_key, ISSUER)), "bad_signature");
    assert_eq!(provider_of(by(ec(), "https://other")), "bad_signature");
    assert_eq!(provider_of(by(ec(), "https://stranger")), "wrong_issuer");
}

#[test]
fn a_bad_token_is_not_passed_over_for_a_good_key() {
    let text = "keys: [{id: k1, owner: acme, sha256: \
                2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683}]";
    let keys = keys_file::parse("keys.yaml".as_ref(), text).unwrap();
    let keys = ApiKeys::new(http::HeaderName::from_static("x-api-key"), keys);
    let keys = Arc::new(Provider::new("partners".into(), Box::new(keys)));
    let tokens = provider("corp", config(KeySetSource::File("a".into())), key_set(&jwks(&[ec().jwk()])));
    let world = World::of(vec![tokens, keys]);
    let ask = |token: Option<&str>| {
        let mut headers =
            HeaderMap::from_iter([("x-api-key".parse().unwrap(), HeaderValue::from_static("key"))]);
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
        }
        let now = Duration::from_secs(NOW);
        verdict(&world.present(&Presented {
            headers: &headers,
            query: None,
            tls: None,
            target: Target::default(),
            now,
        }))
    };
    assert_eq!(ask(None), "proven");
    assert_eq!(ask(Some(&ec().sign(&claims_with(&json!({"exp": 1}))))), "expired");
    // Neither is one that no provider knows.
    assert_eq!(ask(Some(&ec().sign(&claims_with(&json!({"iss": "https://stranger"}))))), "wrong_issuer");
    assert_eq!(ask(Some("opaque")), "malformed_token");
}

#[test]
fn the_challenge_tells_the_client_why() {
    let world = World::new();
    let outcome = world.authorize(&[&format!("Bearer {}", ec().sign(&claims_with(&json!({"exp": 1}))))], NOW);
    let Outcome::Refused(refusal) = outcome else { panic!("{outcome:?}") };
    assert_eq!(refusal.challenge, "Bearer error=\"invalid_token\", error_description=\"expired\"");
    assert_eq!(&*refusal.failure.provider, "corp");
    assert_eq!(world.chain.challenges().collect::<Vec<_>>(), ["Bearer"]);
    let failed = Identity::failed(&refusal.failure);
    let document = serde_json::to_value(failed.document()).unwrap();
    assert_eq!(document["failure"], json!({"provider": "corp", "reason": "expired"}));
}

#[test]
fn another_header_takes_the_bare_token() {
    let name = http::HeaderName::from_static("x-token");
    let world = World::with(&[ec().jwk()], |config| config.header = name.clone());
    let token = ec().sign(&claims());
    for (value, want) in [(token.clone(), "proven"), (format!("Bearer {token}"), "malformed_token")] {
        let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_str(&value).unwrap())]);
        let now = Duration::from_secs(NOW);
        let presented =
            Presented { headers: &headers, query: None, tls: None, target: Target::default(), now };
        assert_eq!(verdict(&world.present(&presented)), want);
    }
}

proptest! {
    #[test]
    fn arbitrary_authorization_never_panics_and_never_proves(bytes in prop::collection::vec(32_u8..=255, 0..300)) {
        prop_assume!(!bytes.contains(&127));
        let mut value = b"Bearer ".to_vec();
        value.extend(bytes);
        let world = World::with(&[ec().jwk()], |_| {});
        let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_bytes(&value).unwrap())]);
        let presented =
            Presented { headers: &headers, query: None, tls: None, target: Target::default(), now: Duration::from_secs(NOW) };
        let outcome = world.present(&presented);
        prop_assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    }

    #[test]
    fn arbitrary_signed_claims_never_panic(name in "iss|aud|exp|nbf|iat|sub|scope|cnf", value in any::<f64>(), text in ".{0,20}") {
        let world = World::with(&[ec().jwk()], |_| {});
        for value in [json!(value), json!(text), json!([text]), json!({"x": value})] {
            world.verdict(&ec().sign(&claims_with(&json!({name.as_str(): value}))));
        }
    }
}
