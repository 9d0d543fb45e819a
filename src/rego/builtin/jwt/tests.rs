use proptest::prelude::*;

use super::*;
use crate::rego::outside::Settled;

const SECRET: &str = r#"{"kty": "oct", "k": "c2VjcmV0"}"#;
const HEADER: &str = r#"{"alg": "HS256", "typ": "JWT"}"#;

fn signed(payload: &str) -> String {
    let json = |text: &str| Value::from_json_str(text).unwrap();
    let token = sign::encode_sign(&[json(HEADER), json(payload), json(SECRET)]).unwrap();
    token.as_string().unwrap().to_string()
}

fn constraints(text: &str) -> Value {
    Value::from_json_str(text).unwrap()
}

#[track_caller]
fn verified(payload: &str, required: &str, want: bool) {
    let answer = decode_verify(&[Value::from(signed(payload)), constraints(required)]).unwrap();
    assert_eq!(answer.as_array().unwrap()[0], Value::from(want), "{payload} {required}");
    assert_eq!(
        answer.as_array().unwrap()[2] == Value::new_object(),
        !want,
        "nothing unverified is given out"
    );
}

#[test]
fn claims_have_to_hold() {
    evaluation::start(1_000_000_000_000, &Value::new_object(), Settled::default());
    verified(r#"{"a": 1}"#, r#"{"secret": "secret"}"#, true);
    verified(r#"{"a": 1}"#, r#"{"secret": "other"}"#, false);
    verified(r#"{"a": 1}"#, r#"{"secret": "secret", "alg": "HS512"}"#, false);
    verified(r#"{"exp": 1000}"#, r#"{"secret": "secret"}"#, false);
    verified(r#"{"exp": 1000.5}"#, r#"{"secret": "secret"}"#, true);
    verified(r#"{"exp": 1001, "nbf": 1000}"#, r#"{"secret": "secret"}"#, true);
    verified(r#"{"exp": 1002, "nbf": 1001}"#, r#"{"secret": "secret"}"#, false);
    verified(r#"{"exp": 1000}"#, r#"{"secret": "secret", "time": 1}"#, true);
    verified(r#"{"iss": "a"}"#, r#"{"secret": "secret", "iss": "a"}"#, true);
    verified(r#"{"iss": "b"}"#, r#"{"secret": "secret", "iss": "a"}"#, false);
    verified(r#"{"iss": 1}"#, r#"{"secret": "secret", "iss": "a"}"#, false);
    verified(r#"{"b": 1}"#, r#"{"secret": "secret", "iss": "a"}"#, false);
    verified(r#"{"aud": "x"}"#, r#"{"secret": "secret"}"#, false);
    verified(r#"{"aud": ["y", "x"]}"#, r#"{"secret": "secret", "aud": "x"}"#, true);
    verified(r#"{"aud": ["y"]}"#, r#"{"secret": "secret", "aud": "x"}"#, false);
    verified(r#"{"b": 1}"#, r#"{"secret": "secret", "aud": "x"}"#, false);
}

#[test]
fn constraints_nobody_knows_and_missing_keys_are_errors() {
    let token = Value::from(signed("{}"));
    for wrong in [r#"{"secret": "s", "issuer": "a"}"#, "{}", r#"{"secret": ""}"#, r#"{"secret": 1}"#] {
        assert!(decode_verify(&[token.clone(), constraints(wrong)]).is_err(), "{wrong}");
    }
    assert!(decode_verify(&[token, constraints(r#"{"secret": "s", "exp": 1}"#)]).is_err());
}

#[test]
fn a_public_key_is_never_a_shared_secret() {
    // The classic confusion: a token signed with the text of the RSA key as the secret.
    let key = include_str!("testdata/rsa_public.pem");
    let header = Value::from_json_str(HEADER).unwrap();
    let secret = Value::from_json_str(&format!(
        r#"{{"kty": "oct", "k": "{}"}}"#,
        super::super::encoding::to_base64url(key.as_bytes())
    ))
    .unwrap();
    let forged = sign::encode_sign(&[header, constraints("{}"), secret]).unwrap();
    let required = constraints(&format!(r#"{{"cert": {}}}"#, serde_json::Value::from(key)));
    let answer = decode_verify(&[forged, required]).unwrap();
    assert_eq!(answer.as_array().unwrap()[0], Value::from(false));
}

#[test]
fn tokens_without_a_signature_do_not_verify() {
    let none = "eyJhbGciOiJub25lIn0.e30.";
    let answer = decode_verify(&[Value::from(none), constraints(r#"{"secret": "s"}"#)]).unwrap();
    assert_eq!(answer.as_array().unwrap()[0], Value::from(false));
}

#[test]
fn deep_nesting_and_long_tokens_are_refused() {
    let mut token = signed("{}");
    for _ in 0..=NESTING_MAX {
        let header = r#"{"alg": "HS256", "typ": "x", "cty": "JWT"}"#;
        let wrapped = sign::encode_sign_raw(&[header.into(), token.as_str().into(), SECRET.into()]).unwrap();
        token = wrapped.as_string().unwrap().to_string();
    }
    let required = constraints(r#"{"secret": "secret"}"#);
    assert!(matches!(decode(&[Value::from(token.as_str())]), Err(Failure::Refused(_))));
    assert!(matches!(decode_verify(&[Value::from(token), required]), Err(Failure::Refused(_))));
    let long = Value::from("a".repeat(TOKEN_BYTES_MAX + 1));
    assert!(matches!(decode(&[long]), Err(Failure::Refused(_))));
}

proptest! {
    #[test]
    fn no_token_and_no_key_panics(token in ".{0,80}", key in ".{0,80}") {
        let arguments = [Value::from(token.as_str()), Value::from(key.as_str())];
        drop(decode(&arguments[..1]));
        drop(verify_with(&arguments, "RS256"));
        drop(verify_secret(&arguments, "HS256"));
        let parts = [HEADER.into(), Value::from(token), Value::from(key)];
        drop(sign::encode_sign_raw(&parts));
    }

    #[test]
    fn no_damaged_token_verifies(at in 0_usize..80, to in prop::char::range('A', 'Z')) {
        let token = signed(r#"{"sub": "somebody"}"#);
        let mut damaged: Vec<char> = token.chars().collect();
        let at = at % damaged.len();
        prop_assume!(damaged[at] != to && damaged[at] != '.');
        // The last character of each part holds bits nobody reads.
        prop_assume!(damaged.get(at + 1).is_some_and(|next| *next != '.'));
        damaged[at] = to;
        let damaged: String = damaged.into_iter().collect();
        let answer = verify_secret(&[Value::from(damaged), Value::from("secret")], "HS256");
        prop_assert!(!matches!(answer, Ok(Value::Bool(true))));
    }
}
