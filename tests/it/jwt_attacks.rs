//! Group JWT of the hostile requests, each case as the tokens it stands for. A case that is not about one provider's
//! judgement of one token is listed with the test that covers it.

use std::collections::BTreeSet;
use std::path::Path;

use aws_lc_rs::rsa::KeySize;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::jwt::{ISSUER, LEEWAY, NOW, World, claims, claims_with, ec, rsa, verdict};
use crate::token::{Signer, base64url, hs256};

const CASES: &str = "../shared/data/attacks/cases.jsonl";

/// `(case, why it is not here)`.
const ELSEWHERE: [(&str, &str); 6] = [
    ("JWT-016", "jwt_key_set::unknown_keys_cost_one_fetch_in_thirty_seconds"),
    ("JWT-018", "jwt_key_set::a_secret_on_the_network_is_none"),
    ("JWT-061", "jwt_key_set::hostile_answers_change_nothing"),
    ("JWT-062", "jwt_key_set::an_outage_keeps_the_last_good_keys_until_they_are_stale"),
    ("JWT-063", "jwt_key_set::rotation_needs_no_restart_and_a_removed_key_stops_working"),
    ("JWT-065", "jwt_wycheproof::every_signature_is_judged_as_labelled_or_listed"),
];

/// What is sent to which gateway, and what becomes of it.
struct Attempt {
    world: World,
    authorization: String,
    want: &'static str,
}

/// Attempts at the gateway of the cases' precondition.
fn usual(want: &'static str, tokens: impl IntoIterator<Item = String>) -> Vec<Attempt> {
    let attempt = |token| Attempt { world: World::new(), authorization: format!("Bearer {token}"), want };
    tokens.into_iter().map(attempt).collect()
}

/// One attempt at a gateway with these keys.
fn with_keys(want: &'static str, keys: &[Value], token: &str) -> Vec<Attempt> {
    let authorization = format!("Bearer {token}");
    vec![Attempt { world: World::with(keys, |_| {}), authorization, want }]
}

fn header(changes: &Value) -> String {
    let mut header = json!({"alg": "RS256", "kid": "r1"});
    for (name, value) in changes.as_object().unwrap() {
        header[name] = value.clone();
    }
    header.to_string()
}

fn with_header(changes: &Value) -> String {
    rsa().sign_parts(&header(changes), &claims().to_string())
}

fn with_claims(changes: &Value) -> String {
    rsa().sign(&claims_with(changes))
}

/// Valid claims with this text before the closing brace.
fn with_claims_text(extra: &str) -> String {
    let claims = claims().to_string();
    rsa().sign_parts(&header(&json!({})), &format!("{},{extra}}}", claims.strip_suffix('}').unwrap()))
}

fn public_key_der() -> Vec<u8> {
    let modulus = URL_SAFE_NO_PAD.decode(rsa().bare_jwk()["n"].as_str().unwrap()).unwrap();
    // SubjectPublicKeyInfo of RFC 8017 with a 2048 bit modulus and the exponent 65537.
    let mut der = URL_SAFE_NO_PAD.decode("MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA").unwrap();
    der.extend(modulus);
    der.extend([2, 3, 1, 0, 1]);
    der
}

fn confused(secret: &[u8]) -> String {
    hs256(secret, &header(&json!({"alg": "HS256"})), &claims().to_string())
}

fn signatures(case: &str) -> Option<Vec<Attempt>> {
    Some(match case {
        "JWT-003" => {
            let der = STANDARD.encode(public_key_der());
            let lines: Vec<_> = der.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
            let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", lines.join("\n"));
            let secrets = [pem.clone(), format!("{pem}\n")];
            usual("algorithm_not_allowed", secrets.map(|secret| confused(secret.as_bytes())))
        }
        "JWT-004" => usual("algorithm_not_allowed", [confused(&public_key_der())]),
        "JWT-005" => usual("algorithm_not_allowed", [confused(b"")]),
        "JWT-008" => {
            // The order of P-256, and a harmless `s`.
            let order = "FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551";
            let order: Vec<_> =
                (0..64).step_by(2).map(|at| u8::from_str_radix(&order[at..at + 2], 16).unwrap()).collect();
            let token = ec().sign(&claims());
            let unsigned = token.rsplit_once('.').unwrap().0;
            let forged = |r: &[u8]| format!("{unsigned}.{}", base64url(&[r, &[1; 32]].concat()));
            usual("bad_signature", [forged(&order), forged(&[0xff; 32])])
        }
        _ => return None,
    })
}

fn encodings(case: &str) -> Option<Vec<Attempt>> {
    let (unsigned, signature) = {
        let token = with_claims(&json!({}));
        let (unsigned, signature) = token.rsplit_once('.').unwrap();
        (unsigned.to_owned(), signature.to_owned())
    };
    Some(match case {
        "JWT-022" => {
            let thief = Signer::rs256("r1");
            let header = header(&json!({"jwk": thief.jwk()}));
            usual("header_parameter_refused", [thief.sign_parts(&header, &claims().to_string())])
        }
        "JWT-023" => usual("header_parameter_refused", [with_header(&json!({"x5c": ["MIIB"]}))]),
        "JWT-024" => usual("header_parameter_refused", [with_header(&json!({"crit": ["zzz"]}))]),
        "JWT-025" => {
            usual("header_parameter_refused", [with_header(&json!({"b64": false, "crit": ["b64"]}))])
        }
        "JWT-026" => usual(
            "header_parameter_refused",
            [json!([]), json!("exp"), json!({}), json!(null)].map(|crit| with_header(&json!({"crit": crit}))),
        ),
        "JWT-028" => {
            let inner = format!(
                "{}.{}.",
                base64url(b"{\"alg\":\"none\"}"),
                base64url(claims().to_string().as_bytes())
            );
            [
                usual(
                    "header_parameter_refused",
                    [rsa().sign_parts(&header(&json!({"cty": "JWT"})), &inner)],
                ),
                usual("malformed_token", [rsa().sign_parts(&header(&json!({})), &inner)]),
            ]
            .into_iter()
            .flatten()
            .collect()
        }
        "JWT-029" => {
            let (protected, payload) = unsigned.split_once('.').unwrap();
            let parts = json!({"protected": protected, "signature": signature});
            let general = json!({"payload": payload, "signatures": [parts]}).to_string();
            [
                usual("several_credentials", [general.clone()]),
                usual("malformed_token", [base64url(general.as_bytes())]),
            ]
            .into_iter()
            .flatten()
            .collect()
        }
        "JWT-032" => {
            let token = format!("{unsigned}.{signature}");
            let split = format!("{unsigned}. {signature}");
            usual(
                "malformed_token",
                [format!(" {token}"), format!("{token} "), split, token.replace('.', ".\t")],
            )
        }
        "JWT-034" => {
            // The same signature in the other alphabet; drawn again until it has a letter that differs.
            let standard = (0..1_000)
                .map(|number| ec().sign(&claims_with(&json!({"number": number}))))
                .find(|token| token.rsplit('.').next().unwrap().contains(['-', '_']))
                .map(|token| token.replace('-', "+").replace('_', "/"))
                .unwrap();
            usual("malformed_token", [standard])
        }
        _ => return None,
    })
}

fn keys(case: &str) -> Option<Vec<Attempt>> {
    let token = with_claims(&json!({}));
    let with = |name: &str, value: Value| {
        let mut jwk = rsa().jwk();
        jwk[name] = value;
        jwk
    };
    Some(match case {
        "JWT-012" => {
            let header = header(&json!({"alg": "HS256", "kid": "../../../dev/null"}));
            let unsigned = hs256(b"", &header, &claims().to_string());
            [
                usual("algorithm_not_allowed", [unsigned]),
                usual("unknown_key", [with_header(&json!({"kid": "../../../dev/null"}))]),
            ]
            .into_iter()
            .flatten()
            .collect()
        }
        "JWT-013" => usual(
            "unknown_key",
            ["' UNION SELECT", "*)(uid=*", "|id", "r1\u{0}", "r1 "]
                .map(|kid| with_header(&json!({"kid": kid}))),
        ),
        "JWT-017" => {
            let unnamed = rsa().sign_parts(&json!({"alg": "RS256"}).to_string(), &claims().to_string());
            with_keys("ambiguous_key", &[rsa().jwk(), Signer::rs256("r2").jwk()], &unnamed)
        }
        "JWT-019" => with_keys("unknown_key", &[with("use", json!("enc")), ec().jwk()], &token),
        "JWT-058" => {
            let huge = base64url(&[0xff; 2_048]);
            with_keys("unknown_key", &[with("n", json!(huge)), ec().jwk()], &token)
        }
        "JWT-060" => {
            let point = |x: &[u8], y: &[u8]| json!({"kty": "EC", "crv": "P-256", "kid": "bad", "x": base64url(x), "y": base64url(y)});
            let header = json!({"alg": "ES256", "kid": "bad"}).to_string();
            let token = ec().sign_parts(&header, &claims().to_string());
            let points = [
                point(&[1; 32], &[1; 32]),
                point(&[0; 32], &[0; 32]),
                point(&[], &[]),
                point(&[0xff; 32], &[1; 32]),
            ];
            points.into_iter().flat_map(|bad| with_keys("unknown_key", &[bad, rsa().jwk()], &token)).collect()
        }
        _ => return None,
    })
}

fn claim_sets(case: &str) -> Option<Vec<Attempt>> {
    Some(match case {
        "JWT-036" => usual("duplicate_member", [with_claims_text(r#""sub":"admin""#)]),
        "JWT-037" => usual("duplicate_member", [with_claims_text(r#""role":"user","role":"admin""#)]),
        "JWT-038" => {
            let header = r#"{"alg":"RS256","alg":"none","kid":"r1"}"#;
            usual("duplicate_member", [rsa().sign_parts(header, &claims().to_string())])
        }
        "JWT-039" => usual("missing_claim", [with_claims(&json!({"exp": null}))]),
        "JWT-041" => {
            let wrong = ["1e300", "-1", "18446744073709551616", "1e400"];
            let signed = wrong.map(|exp| {
                let claims = format!(r#"{{"iss":"{ISSUER}","aud":"gw","exp":{exp}}}"#);
                rsa().sign_parts(&header(&json!({})), &claims)
            });
            let [huge, negative, large, infinite] = signed;
            [
                usual("invalid_claim", [huge, negative, large]),
                usual("malformed_token", [infinite]),
                usual("proven", [with_claims(&json!({"exp": 1_800_000_100.25}))]),
            ]
            .into_iter()
            .flatten()
            .collect()
        }
        "JWT-042" => usual("expired", [with_claims(&json!({"exp": NOW - LEEWAY - 1}))]),
        "JWT-044" => usual("not_yet_valid", [with_claims(&json!({"nbf": NOW + 3_600}))]),
        "JWT-048" => usual("invalid_claim", [with_claims(&json!({"iss": ["https://evil", ISSUER]}))]),
        "JWT-049" => usual(
            "wrong_issuer",
            ["https://i/", "HTTPS://I", "https://I"].map(|iss| with_claims(&json!({"iss": iss}))),
        ),
        "JWT-050" => usual("missing_claim", [with_claims(&json!({"aud": null}))]),
        "JWT-052" => usual("proven", [with_claims(&json!({"aud": ["evil", "gw"]}))]),
        "JWT-053" => {
            let token = with_claims(&json!({"nonce": "n", "at_hash": "h"}));
            let world = World::with(&[rsa().jwk()], |config| config.token_type = Some("at+jwt".into()));
            vec![Attempt { world, authorization: format!("Bearer {token}"), want: "wrong_token_type" }]
        }
        "JWT-055" => {
            let theirs = Signer::rsa("r1", "RS256", KeySize::Rsa2048);
            usual("bad_signature", [theirs.sign(&claims())])
        }
        "JWT-056" => {
            usual("token_too_large", ["a".repeat(1 << 20), with_claims(&json!({"pad": "x".repeat(1 << 20)}))])
        }
        "JWT-064" => {
            let bound = |cnf: Value| with_claims(&json!({"cnf": cnf}));
            let certificate = bound(json!({"x5t#S256": base64url(&[1; 32])}));
            usual(
                "holder_not_proven",
                [certificate, bound(json!({"jkt": base64url(&[1; 32])})), bound(json!({"jwk": {}}))],
            )
        }
        "JWT-066" => {
            let token = with_claims(&json!({}));
            let form = |authorization: String, want| Attempt { world: World::new(), authorization, want };
            vec![
                form(format!("bearer {token}"), "proven"),
                form(format!("Bearer\t{token}"), "malformed_token"),
                form(format!("Bearer  {token}"), "malformed_token"),
                form("Bearer \"\"".into(), "malformed_token"),
                form("Bearer".into(), "malformed_token"),
                // Another scheme is no credential of this kind: the policy sees nobody, and decides.
                form(format!("Basic {token}"), "anonymous"),
            ]
        }
        _ => return None,
    })
}

#[test]
fn every_hostile_token_gets_what_it_deserves() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(CASES);
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: {CASES} is not here");
        return;
    };
    let mut elsewhere: BTreeSet<_> = ELSEWHERE.into_iter().map(|(case, _)| case).collect();
    let cases = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut seen = 0;
    for case in cases.filter(|case| case["group"] == "JWT") {
        let id = case["id"].as_str().unwrap();
        seen += 1;
        if elsewhere.remove(id) {
            continue;
        }
        let attempts =
            signatures(id).or_else(|| encodings(id)).or_else(|| keys(id)).or_else(|| claim_sets(id));
        let attempts = attempts.unwrap_or_else(|| panic!("{id} `{}` is not covered", case["title"]));
        assert!(!attempts.is_empty());
        for (index, attempt) in attempts.iter().enumerate() {
            let outcome = attempt.world.authorize(&[&attempt.authorization], NOW);
            assert_eq!(verdict(&outcome), attempt.want, "{id} `{}`, attempt {index}", case["title"]);
            // Neither the outcome nor the cache, as a log would show them, repeat the credential.
            let shown = format!("{outcome:?} {:?}", attempt.world.cache);
            let signature = attempt.authorization.rsplit(['.', ' ']).next().unwrap();
            assert!(signature.len() < 20 || !shown.contains(signature), "{id} shows the token");
        }
    }
    assert_eq!(seen, 41, "the cases have changed");
    assert!(elsewhere.is_empty(), "listed, but no case: {elsewhere:?}");
}
