use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    KeyPair, KeyUsagePurpose, NameConstraints,
};

use super::*;
use crate::rego::outside::Settled;

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str, constraints: Option<NameConstraints>, above: Option<&Issuer>) -> Issuer {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.name_constraints = constraints;
    let key = KeyPair::generate().unwrap();
    match above {
        Some(above) => CertifiedIssuer::signed_by(params, key, above).unwrap(),
        None => CertifiedIssuer::self_signed(params, key).unwrap(),
    }
}

fn leaf(host: &str, purpose: ExtendedKeyUsagePurpose, issuer: &Issuer) -> (String, String) {
    let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "leaf");
    params.extended_key_usages = vec![purpose];
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
}

fn is_verified(parts: &[&str], options: &str) -> bool {
    super::super::evaluation::start(1_800_000_000_000_000_000, &Value::new_object(), Settled::default());
    let options = Value::from_json_str(options).unwrap();
    let answer = parse_and_verify_with_options(&[Value::from(parts.concat()), options]).unwrap();
    answer.as_array().unwrap()[0] == Value::from(true)
}

#[test]
fn chains_end_at_the_root_and_are_good_for_what_is_asked() {
    let root = authority("root", None, None);
    let between = authority("between", None, Some(&root));
    let other = authority("root", None, None);
    let (server, _) = leaf("a.example.com", ExtendedKeyUsagePurpose::ServerAuth, &between);
    let (client, _) = leaf("a.example.com", ExtendedKeyUsagePurpose::ClientAuth, &between);
    let (root, between, other) = (root.pem(), between.pem(), other.pem());

    assert!(is_verified(&[&root, &between, &server], "{}"));
    assert!(!is_verified(&[&root, &server], "{}"), "the link is missing");
    assert!(!is_verified(&[&other, &between, &server], "{}"), "another root of the same name");
    assert!(!is_verified(&[&server], "{}") && !is_verified(&["nonsense"], "{}"));
    assert!(!is_verified(&[&root, &between, &client], "{}"), "servers are the default");
    assert!(is_verified(&[&root, &between, &client], r#"{"KeyUsages": ["KeyUsageClientAuth"]}"#));
    assert!(is_verified(&[&root, &between, &client], r#"{"KeyUsages": ["KeyUsageAny"]}"#));
    assert!(is_verified(&[&root, &between, &server], r#"{"DNSName": "a.example.com"}"#));
    assert!(!is_verified(&[&root, &between, &server], r#"{"DNSName": "b.example.com"}"#));
    assert!(!is_verified(&[&root, &between, &server], r#"{"CurrentTime": 1}"#), "not yet valid");
    let wrong = Value::from_json_str(r#"{"KeyUsages": ["KeyUsageNonsense"]}"#).unwrap();
    assert!(parse_and_verify_with_options(&[Value::from(root), wrong]).is_err());
}

#[test]
fn a_leaf_signs_nothing_and_a_damaged_signature_is_none() {
    let root = authority("root", None, None);
    let (server, _) = leaf("a.example.com", ExtendedKeyUsagePurpose::ServerAuth, &root);
    assert!(is_verified(&[&root.pem(), &server], "{}"));
    let at = server.len() - 60;
    let mut damaged: Vec<u8> = server.clone().into_bytes();
    damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
    assert!(!is_verified(&[&root.pem(), &String::from_utf8(damaged).unwrap()], "{}"));
    assert!(!is_verified(&[&server, &root.pem()], "{}"));
}

#[test]
fn constrained_authorities_sign_only_what_they_may() {
    let constraints = NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("example.com".to_owned())],
        excluded_subtrees: vec![GeneralSubtree::DnsName("bad.example.com".to_owned())],
    };
    let root = authority("root", Some(constraints), None);
    for (host, want) in [("a.example.com", true), ("example.org", false), ("x.bad.example.com", false)] {
        let (server, _) = leaf(host, ExtendedKeyUsagePurpose::ServerAuth, &root);
        assert_eq!(is_verified(&[&root.pem(), &server], "{}"), want, "{host}");
    }
}

#[test]
fn key_pairs_have_to_match() {
    let root = authority("root", None, None);
    let (certificate, key) = leaf("a", ExtendedKeyUsagePurpose::ServerAuth, &root);
    let (_, other) = leaf("a", ExtendedKeyUsagePurpose::ServerAuth, &root);
    let pair = parse_keypair(&[certificate.as_str().into(), key.as_str().into()]).unwrap();
    assert_eq!(pair["Leaf"]["Subject"]["CommonName"], Value::from("leaf"));
    assert!(parse_keypair(&[certificate.as_str().into(), other.as_str().into()]).is_err());
    assert!(parse_keypair(&[key.as_str().into(), certificate.as_str().into()]).is_err());
    let jwk = parse_private_key_as_jwk(&[key.as_str().into()]).unwrap();
    assert_eq!(jwk["crv"], Value::from("P-256"));
    assert_eq!(jwk["d"].as_string().unwrap().len(), 43);
}

proptest! {
    #[test]
    fn no_damage_panics(at in 0_usize..600, to in any::<u8>(), cut in 0_usize..700) {
        let root = authority("root", None, None);
        let mut der = root.der().to_vec();
        let at = at % der.len();
        der[at] = to;
        der.truncate(cut.max(1));
        let text = Value::from(to_base64(&der));
        drop(parse_certificates(std::slice::from_ref(&text)));
        drop(parse_and_verify(std::slice::from_ref(&text)));
        drop(parse_request(std::slice::from_ref(&text)));
        drop(parse_private_keys(std::slice::from_ref(&text)));
        drop(parse_keypair(&[text.clone(), text]));
    }
}
