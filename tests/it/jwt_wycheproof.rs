//! Wycheproof's vectors for signatures and for key sets. Every vector where the gateway and the label disagree is
//! listed with its reason; one that starts to agree, or a new one, fails the test.

use std::collections::BTreeMap;
use std::path::Path;

use jsonwebtoken::Algorithm;
use postern::identity::jwt::jwk::{Keys, Origin};
use postern::identity::jwt::jws::Jws;
use serde_json::{Value, json};

const DIRECTORY: &str = "../shared/data/wycheproof";

/// `(tcId, why the gateway disagrees with the label)`.
type Exceptions = &'static [(u64, &'static str)];

const SIGNATURE_EXCEPTIONS: Exceptions = &[
    (346, "labelled valid, but a PS384 token under a key that says `alg: PS256`: a key has one algorithm"),
    (350, "as 346"),
    (347, "labelled valid, but ES512 is not supported, and the key's `alg: ES521` is no algorithm's name"),
    (351, "as 347"),
    (367, "labelled invalid for its padding, but there is none: byte for byte the valid vector 357"),
    (370, "as 367"),
    (372, "labelled valid with a `?` inside its header: base64url is never repaired"),
    (373, "as 372, inside its payload"),
];

const KEY_EXCEPTIONS: Exceptions = &[(
    7,
    "labelled invalid for the ROCA weakness (CVE-2017-15361) of the device that made the key: the issuer's to find out",
)];

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

fn accepts(set: &Value, token: &str) -> bool {
    let symmetric = set["keys"].as_array().unwrap().iter().any(|key| key["kty"] == "oct");
    let allowed: &[Algorithm] = if symmetric { &SHARED } else { &PUBLIC };
    let Ok(keys) = Keys::parse(set.to_string().as_bytes(), Origin::File) else { return false };
    Jws::parse(token.as_bytes()).and_then(|jws| jws.verify(&keys, allowed)).is_ok()
}

/// The group's keys as one set, the private parts taken out.
fn key_set(group: &Value) -> Value {
    let given = group.get("public").unwrap_or(&group["private"]);
    let mut set = if given.get("keys").is_some() { given.clone() } else { json!({"keys": [given]}) };
    for key in set["keys"].as_array_mut().unwrap() {
        for private in ["d", "p", "q", "dp", "dq", "qi"] {
            key.as_object_mut().unwrap().remove(private);
        }
    }
    set
}

#[track_caller]
fn check(file: &str, counts: (u32, u32), exceptions: Exceptions) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DIRECTORY).join(file);
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: {DIRECTORY}/{file} is not here");
        return;
    };
    let vectors: Value = serde_json::from_str(&text).unwrap();
    let (mut seen, mut valid) = (0, 0);
    let mut surprises = BTreeMap::new();
    for group in vectors["testGroups"].as_array().unwrap() {
        let set = key_set(group);
        for vector in group["tests"].as_array().unwrap() {
            let token = vector["jws"].as_str().map_or_else(|| vector["jws"].to_string(), str::to_owned);
            let expected = vector["result"] == "valid";
            seen += 1;
            valid += u32::from(expected);
            if accepts(&set, &token) != expected {
                surprises
                    .insert(vector["tcId"].as_u64().unwrap(), json!([group["comment"], vector["comment"]]));
            }
        }
    }
    assert_eq!((seen, valid), counts, "the vectors have changed");
    let listed: BTreeMap<_, _> = exceptions.iter().copied().collect();
    for (id, what) in &surprises {
        assert!(listed.contains_key(id), "vector {id} is a new exception: {what} (all: {surprises:#?})");
    }
    for (id, reason) in listed {
        assert!(surprises.contains_key(&id), "vector {id} behaves now; strike it off the list ({reason})");
    }
}

#[test]
fn every_signature_is_judged_as_labelled_or_listed() {
    check("json_web_signature_test.json", (401, 46), SIGNATURE_EXCEPTIONS);
}

#[test]
fn every_key_set_is_judged_as_labelled_or_listed() {
    check("json_web_key_test.json", (26, 5), KEY_EXCEPTIONS);
}
