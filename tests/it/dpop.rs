//! Tokens bound to a key of their holder (RFC 9449): what counts as a proof, and that nothing else does, cached or not.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use jsonwebtoken::Algorithm;
use postern::config::model::{Dpop, JwtProvider, KeySetSource, TokenBinding};
use postern::identity::chain::{Chain, Outcome};
use postern::identity::jwt::BearerTokens;
use postern::identity::jwt::replay::SeenProofs;
use postern::identity::provider::Provider;
use postern::identity::{Presented, Target};
use serde_json::{Value, json};

use crate::gateway::TestGateway;
use crate::jwt::{LEEWAY, NOW, World, claims_with, config, ec, key_set, rsa, verdict};
use crate::live_support::{plain_config, sha256};
use crate::token::{Signer, base64url, hs256, jwks};
use crate::wire::{RecordingUpstream, get};

const URI: &str = "https://gw.test/pay";

fn dpop() -> Dpop {
    let algorithms = vec![Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA, Algorithm::RS256];
    Dpop { proof_lifetime: Duration::from_secs(60), algorithms }
}

fn speaking(config: &mut JwtProvider) {
    config.dpop = Some(dpop());
}

/// The thumbprint of a key (RFC 7638), computed apart from the gateway.
fn thumbprint(jwk: &Value) -> String {
    let names: &[&str] = match jwk["kty"].as_str().unwrap() {
        "RSA" => &["e", "kty", "n"],
        "EC" => &["crv", "kty", "x", "y"],
        "OKP" => &["crv", "kty", "x"],
        other => panic!("{other}"),
    };
    let members: Vec<_> = names.iter().map(|name| format!("\"{name}\":{}", jwk[name])).collect();
    base64url(&sha256(format!("{{{}}}", members.join(",")).as_bytes()))
}

/// A client with a key, a token bound to it, and proofs.
struct Holder {
    key: Signer,
    algorithm: &'static str,
    token: String,
}

impl Holder {
    fn new() -> Self {
        Self::with(Signer::es256("unused"), "ES256")
    }

    fn with(key: Signer, algorithm: &'static str) -> Self {
        let token = ec().sign(&claims_with(&json!({"cnf": {"jkt": thumbprint(&key.bare_jwk())}})));
        Self { key, algorithm, token }
    }

    fn header(&self) -> Value {
        json!({"typ": "dpop+jwt", "alg": self.algorithm, "jwk": self.key.bare_jwk()})
    }

    fn claims(&self, id: &str) -> Value {
        let hash = base64url(&sha256(self.token.as_bytes()));
        json!({"htm": "POST", "htu": URI, "iat": NOW, "jti": id, "ath": hash})
    }

    fn proof(&self, id: &str) -> String {
        self.key.sign_parts(&self.header().to_string(), &self.claims(id).to_string())
    }

    /// A proof with these members of header and claims changed; `null` takes one away.
    fn changed(&self, id: &str, header: &Value, claims: &Value) -> String {
        let merge = |mut whole: Value, changes: &Value| {
            for (name, value) in changes.as_object().unwrap() {
                if value.is_null() {
                    whole.as_object_mut().unwrap().remove(name);
                } else {
                    whole[name] = value.clone();
                }
            }
            whole.to_string()
        };
        self.key.sign_parts(&merge(self.header(), header), &merge(self.claims(id), claims))
    }
}

/// Sends `POST https://gw.test/pay` with this `Authorization` and these proofs.
fn post_at(world: &World, authorization: &str, proofs: &[&str], now: u64) -> Outcome {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_str(authorization).unwrap());
    for proof in proofs {
        headers.append(HeaderName::from_static("dpop"), HeaderValue::from_str(proof).unwrap());
    }
    let client = [192, 0, 2, 1].into();
    let target = Target {
        method: &Method::POST,
        scheme: "https",
        authority: "gw.test",
        path: "/pay",
        client,
        ..Target::default()
    };
    let now = Duration::from_secs(now);
    world.present(&Presented { headers: &headers, query: None, tls: None, target, now })
}

fn post(world: &World, holder: &Holder, proofs: &[&str]) -> &'static str {
    verdict(&post_at(world, &format!("DPoP {}", holder.token), proofs, NOW))
}

fn world() -> World {
    World::with(&[ec().jwk(), rsa().jwk()], speaking)
}

#[test]
fn a_bound_token_counts_with_a_new_proof_each_time() {
    let keys = [
        (Signer::es256("k"), "ES256"),
        (Signer::es384("k"), "ES384"),
        (Signer::ed25519("k"), "EdDSA"),
        (Signer::rs256("k"), "RS256"),
    ];
    for (key, algorithm) in keys {
        let (world, holder) = (world(), Holder::with(key, algorithm));
        // The first proves the token, the others find it remembered.
        for id in ["a", "b", "c"] {
            let proof = holder.proof(id);
            assert_eq!(post(&world, &holder, &[&proof]), "proven", "{algorithm}");
            assert_eq!(post(&world, &holder, &[&proof]), "dpop_proof_replayed", "{algorithm}");
        }
        assert_eq!(world.cache.len(), 1);
    }
}

#[test]
fn without_its_proof_a_bound_token_is_nobodys() {
    let (world, holder) = (world(), Holder::new());
    let bearer = format!("Bearer {}", holder.token);
    // Before and after the token is remembered.
    for id in ["a", "b"] {
        assert_eq!(post(&world, &holder, &[]), "dpop_proof_missing");
        assert_eq!(verdict(&post_at(&world, &bearer, &[], NOW)), "holder_not_proven");
        assert_eq!(verdict(&post_at(&world, &bearer, &[&holder.proof("x")], NOW)), "holder_not_proven");
        let proofs = [holder.proof("y"), holder.proof("z")];
        assert_eq!(post(&world, &holder, &[&proofs[0], &proofs[1]]), "several_credentials");
        assert_eq!(post(&world, &holder, &[&format!("{},{}", proofs[0], proofs[1])]), "dpop_proof_malformed");
        assert_eq!(post(&world, &holder, &[&holder.proof(id)]), "proven");
    }
    let deaf = World::with(&[ec().jwk()], |_| {});
    assert_eq!(post(&deaf, &holder, &[&holder.proof("c")]), "anonymous", "the scheme is not spoken");
    assert_eq!(verdict(&post_at(&deaf, &bearer, &[&holder.proof("d")], NOW)), "holder_not_proven");
}

#[test]
fn a_proof_of_anything_else_does_not_count() {
    let (world, holder, thief) = (world(), Holder::new(), Holder::new());
    let none = json!({});
    let claims = [
        (json!({"htm": "GET"}), "dpop_proof_of_another_request"),
        (json!({"htm": "post"}), "dpop_proof_of_another_request"),
        (json!({"htu": "https://gw.test/refund"}), "dpop_proof_of_another_request"),
        (json!({"htu": "https://other.test/pay"}), "dpop_proof_of_another_request"),
        (json!({"htu": "http://gw.test/pay"}), "dpop_proof_of_another_request"),
        (json!({"ath": base64url(&sha256(b"another"))}), "dpop_proof_of_another_request"),
        (json!({"iat": NOW - 60}), "dpop_proof_expired"),
        (json!({"iat": NOW + LEEWAY + 1}), "dpop_proof_expired"),
        (json!({"jti": ""}), "dpop_proof_malformed"),
        (json!({"jti": "x".repeat(257)}), "dpop_proof_malformed"),
        (json!({"jti": 7}), "dpop_proof_malformed"),
        (json!({"iat": "now"}), "dpop_proof_malformed"),
        (json!({"htu": ["https://gw.test/pay"]}), "dpop_proof_malformed"),
    ];
    let absent =
        ["htm", "htu", "iat", "jti", "ath"].map(|name| (json!({name: null}), "dpop_proof_malformed"));
    let mut private = holder.key.bare_jwk();
    private["d"] = json!("AAAA");
    let mut misnamed = holder.key.bare_jwk();
    misnamed["use"] = json!("enc");
    let headers = [
        (json!({"typ": null}), "dpop_proof_malformed"),
        (json!({"typ": "JWT"}), "dpop_proof_malformed"),
        (json!({"typ": "at+jwt"}), "dpop_proof_malformed"),
        (json!({"jwk": null}), "dpop_proof_malformed"),
        (json!({"jwk": "x"}), "dpop_proof_malformed"),
        (json!({"jwk": private}), "dpop_proof_malformed"),
        (json!({"jwk": misnamed}), "dpop_proof_malformed"),
        (json!({"jwk": {"kty": "oct", "k": "AAAA"}}), "dpop_proof_malformed"),
        (json!({"jwk": thief.key.bare_jwk()}), "holder_not_proven"),
        (json!({"alg": "none"}), "dpop_proof_malformed"),
        (json!({"alg": "HS256"}), "dpop_algorithm_not_allowed"),
        (json!({"alg": "PS256"}), "dpop_algorithm_not_allowed"),
        (json!({"alg": "ES384"}), "dpop_proof_malformed"),
        (json!({"crit": ["exp"]}), "dpop_proof_malformed"),
        (json!({"jku": "https://evil.test"}), "dpop_proof_malformed"),
    ];
    // Before and after the token, and with it the key, is remembered.
    for round in ["a", "b"] {
        for (index, (changes, want)) in claims.iter().chain(&absent).enumerate() {
            let proof = holder.changed(&format!("{round}{index}"), &none, changes);
            assert_eq!(post(&world, &holder, &[&proof]), *want, "{changes}");
        }
        for (changes, want) in &headers {
            assert_eq!(post(&world, &holder, &[&holder.changed("h", changes, &none)]), *want, "{changes}");
        }
        assert_eq!(post(&world, &holder, &[&thief.proof("t")]), "holder_not_proven");
        let forged = thief.key.sign_parts(&holder.header().to_string(), &holder.claims("f").to_string());
        assert_eq!(post(&world, &holder, &[&forged]), "dpop_bad_signature");
        for garbage in ["", "a.b.c", "{}", &holder.token, &"a".repeat(20_000)] {
            assert_eq!(post(&world, &holder, &[garbage]), "dpop_proof_malformed", "{garbage:.20}");
        }
        assert_eq!(post(&world, &holder, &[&holder.proof(round)]), "proven");
    }
    // The public key taken for a secret.
    let secret = STANDARD.decode("AAAA").unwrap();
    let confused = hs256(
        &secret,
        &holder.header().to_string().replace("ES256", "HS256"),
        &holder.claims("s").to_string(),
    );
    assert_eq!(post(&world, &holder, &[&confused]), "dpop_algorithm_not_allowed");
}

#[test]
fn a_proof_counts_once_wherever_and_whenever_it_is_shown() {
    let seen = Arc::new(SeenProofs::new());
    let worker = || {
        let mut config = config(KeySetSource::File("keys.json".into()));
        speaking(&mut config);
        let tokens = BearerTokens::sharing(config, key_set(&jwks(&[ec().jwk()])), &seen);
        World::of(vec![Arc::new(Provider::new("corp".into(), Box::new(tokens)))])
    };
    // Two workers; the second might as well be the first after a reload.
    let (one, two, holder) = (worker(), worker(), Holder::new());
    let proof = holder.proof("a");
    assert_eq!(post(&one, &holder, &[&proof]), "proven");
    assert_eq!(post(&two, &holder, &[&proof]), "dpop_proof_replayed");
    let authorization = format!("DPoP {}", holder.token);
    let at = |now| verdict(&post_at(&two, &authorization, &[&proof], now));
    assert_eq!(at(NOW + 59), "dpop_proof_replayed");
    assert_eq!(at(NOW + 60), "dpop_proof_expired");
    // Another holder may have chosen the same `jti`.
    let other = Holder::new();
    assert_eq!(post(&two, &other, &[&other.proof("a")]), "proven");
}

#[test]
fn a_token_that_says_nothing_of_a_holder_is_not_a_bound_one() {
    let world = world();
    let holder = Holder::new();
    let free = Holder { token: ec().sign(&claims_with(&json!({}))), ..Holder::new() };
    assert_eq!(post(&world, &free, &[&free.proof("a")]), "token_not_bound");
    assert_eq!(world.verdict(&free.token), "proven");
    assert_eq!(post(&world, &free, &[&free.proof("b")]), "token_not_bound", "remembered as a bearer's");
    let certified = claims_with(&json!({"cnf": {"x5t#S256": base64url(&[7; 32])}}));
    let certified = Holder { token: ec().sign(&certified), ..Holder::new() };
    assert_eq!(post(&world, &certified, &[&certified.proof("a")]), "holder_not_proven");

    let strict = World::with(&[ec().jwk()], |config| {
        speaking(config);
        config.binding = TokenBinding::Required;
    });
    assert_eq!(strict.verdict(&free.token), "token_not_bound");
    assert_eq!(post(&strict, &holder, &[&holder.proof("r")]), "proven");
}

#[test]
fn the_client_is_told_what_to_do() {
    let (world, holder) = (world(), Holder::new());
    let challenge = |outcome: Outcome| match outcome {
        Outcome::Refused(refusal) => refusal.challenge.to_str().unwrap().to_owned(),
        other @ (Outcome::Anonymous | Outcome::Proven(_) | Outcome::Unavailable(_)) => panic!("{other:?}"),
    };
    let algorithms = "algs=\"ES256 ES384 EdDSA RS256\"";
    let bound = format!("DPoP {}", holder.token);
    assert_eq!(
        challenge(post_at(&world, &bound, &[], NOW)),
        format!("DPoP error=\"invalid_dpop_proof\", error_description=\"dpop proof missing\", {algorithms}")
    );
    let expired = Holder { token: ec().sign(&claims_with(&json!({"exp": 1}))), ..Holder::new() };
    assert_eq!(
        challenge(post_at(&world, &format!("DPoP {}", expired.token), &[], NOW)),
        format!("DPoP error=\"invalid_token\", error_description=\"expired\", {algorithms}")
    );
    let challenges: Vec<_> = world.chain.challenges().collect();
    assert_eq!(challenges, [format!("Bearer, DPoP {algorithms}")]);
}

#[test]
fn a_proof_is_kept_from_the_upstream_like_its_token() {
    let chain = |forward| -> Chain {
        World::with(&[ec().jwk()], |config| {
            speaking(config);
            config.forward_credential = forward;
        })
        .chain
    };
    let left = |chain: &Chain| {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("DPoP a"));
        headers.insert("dpop", HeaderValue::from_static("b"));
        chain.withheld_headers().remove_from(&mut headers);
        headers.len()
    };
    assert_eq!((left(&chain(true)), left(&chain(false))), (2, 0));
}

#[test]
fn a_running_gateway_asks_for_a_proof_with_each_request() {
    let upstream = RecordingUpstream::start();
    let (issuer, now) = (Signer::es256("k1"), crate::live_identity::now());
    let config = plain_config(
        &upstream.url(),
        "identity: {corp: {type: jwt, issuer: \"https://idp.test\", audiences: [gw], jwks_file: jwks.json, algorithms: [ES256], \
         dpop: {}, binding: required, forward_credential: false}}\nreload: {watch: false}",
    );
    let config = config.replace("upstream: up}]", "upstream: up, identity: [corp]}]");
    let policy =
        "package gateway\n\ndecision := {\"allow\": input.identity.authenticated, \"status\": 401}\n";
    let files = [("policy/main.rego", policy), ("jwks.json", &jwks(&[issuer.jwk()]))];
    let gateway = TestGateway::start(&config, &files);
    let key = Signer::es256("unused");
    let claims = json!({"iss": "https://idp.test", "aud": "gw", "sub": "alice", "exp": now + 300, "iat": now,
        "cnf": {"jkt": thumbprint(&key.bare_jwk())}});
    let holder = Holder { token: issuer.sign(&claims), key, algorithm: "ES256" };
    let proof = |id: &str, path: &str| {
        let uri = format!("http://gw.test{path}");
        holder.changed(id, &json!({}), &json!({"htm": "GET", "htu": uri, "iat": now}))
    };
    let ask = |path: &str, proof: &str| {
        let headers = format!("Authorization: DPoP {}\r\nDPoP: {proof}\r\n", holder.token);
        get(gateway.address("public"), path, &headers)
    };
    let first = proof("1", "/a");
    assert_eq!(ask("/a?page=2", &first).status, 200);
    assert_eq!(ask("/a", &first).status, 401);
    // What was shown stays shown over a reload, and on all workers.
    gateway.running().reloader().reload().unwrap();
    let refused = ask("/a", &first);
    assert_eq!(refused.status, 401);
    let challenge = refused.header("www-authenticate").unwrap();
    assert!(challenge.starts_with("DPoP error=\"invalid_dpop_proof\""), "{challenge}");
    assert_eq!(ask("/b", &proof("2", "/a")).status, 401);
    assert_eq!(ask("/b", &proof("3", "/b")).status, 200);
    assert_eq!(
        get(gateway.address("public"), "/b", &format!("Authorization: Bearer {}\r\n", holder.token)).status,
        401
    );
    let nobody = get(gateway.address("public"), "/b", "");
    assert_eq!(nobody.status, 401);
    assert!(nobody.header("www-authenticate").unwrap().contains("DPoP algs="), "{}", nobody.head);

    let events = gateway.events(7);
    assert_eq!(events[2]["gateway"]["reason"], "dpop_proof_replayed");
    let log = std::fs::read_to_string(gateway.path("decisions.jsonl")).unwrap();
    assert!(!log.contains(&first) && !log.contains(&holder.token), "neither token nor proof is written down");
    let received = upstream.received().to_ascii_lowercase();
    assert_eq!(upstream.requests(), 2);
    assert!(!received.contains("dpop") && !received.contains("authorization"), "{received}");
}
