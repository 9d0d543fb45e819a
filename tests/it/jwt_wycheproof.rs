//! Wycheproof's JSON Web Signature vectors. Every vector where the gateway and the label disagree is listed with its
//! reason; one that starts to agree, or a new one, fails the test.

use std::collections::BTreeMap;
use std::path::Path;

use jsonwebtoken::Algorithm;
use postern::identity::jwt::jwk::{Keys, Origin};
use postern::identity::jwt::jws::Jws;
use serde_json::{Value, json};

use crate::token::jwks;

const VECTORS: &str = "../shared/data/wycheproof/json_web_signature_test.json";

/// `(tcId, why the gateway disagrees with the label)`.
const EXCEPTIONS: [(u64, &str); 8] = [
    (346, "labelled valid, but a PS384 token under a key that says `alg: PS256`: a key has one algorithm"),
    (350, "as 346"),
    (347, "labelled valid, but ES512 is not supported, and the key's `alg: ES521` is no algorithm's name"),
    (351, "as 347"),
    (367, "labelled invalid for its padding, but there is none: byte for byte the valid vector 357"),
    (370, "as 367"),
    (372, "labelled valid with a `?` inside its header: base64url is never repaired"),
    (373, "as 372, inside its payload"),
];

const PUBLIC: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

const SHARED: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];

fn accepts(key: &Value, token: &str) -> bool {
    let allowed: &[Algorithm] = if key["kty"] == "oct" { &SHARED } else { &PUBLIC };
    let keys = Keys::parse(jwks(&[key.clone()]).as_bytes(), Origin::File).unwrap();
    Jws::parse(token.as_bytes()).and_then(|jws| jws.verify(&keys, allowed)).is_ok()
}

#[test]
fn every_vector_is_judged_as_labelled_or_listed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(VECTORS);
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("SKIPPED: {VECTORS} is not here");
        return;
    };
    let vectors: Value = serde_json::from_str(&text).unwrap();
    let (mut seen, mut valid) = (0, 0);
    let mut surprises = BTreeMap::new();
    for group in vectors["testGroups"].as_array().unwrap() {
        let key = group.get("public").unwrap_or(&group["private"]);
        for vector in group["tests"].as_array().unwrap() {
            let token = vector["jws"].as_str().map_or_else(|| vector["jws"].to_string(), str::to_owned);
            seen += 1;
            valid += u32::from(vector["result"] == "valid");
            let accepted = accepts(key, &token);
            if accepted != (vector["result"] == "valid") {
                surprises.insert(
                    vector["tcId"].as_u64().unwrap(),
                    json!([accepted, group["comment"], vector["comment"]]),
                );
            }
        }
    }
    assert_eq!((seen, valid), (401, 46), "the vectors have changed");
    let listed: BTreeMap<_, _> = EXCEPTIONS.into_iter().collect();
    for (id, what) in &surprises {
        assert!(listed.contains_key(id), "vector {id} is a new exception: {what} (all: {surprises:#?})");
    }
    for (id, reason) in listed {
        assert!(surprises.contains_key(&id), "vector {id} behaves now; strike it off the list ({reason})");
    }
}
