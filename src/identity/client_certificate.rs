//! `type: client_certificate`: the TLS handshake has proven possession of a certificate that a trusted issuer signed;
//! this takes the subject's name from it.
//!
//! A certificate without the configured name is a bad credential, not an anonymous client. The handshake checked the
//! end of validity once; a connection may outlive it, so it is checked again for each request.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use regorus::Value;

use crate::config::model::{CertificateSubject, ClientCertificateProvider};
use crate::contract::identity::Facts;
use crate::contract::request::ClientCertificate;
use crate::identity::{Answer, Authenticator, Presented, Proof, Rejection, Validity, Verdict};

/// No scheme is registered for certificates, and RFC 9110 section 15.5.2 wants a challenge with each 401.
const CHALLENGE: HeaderValue = HeaderValue::from_static("ClientCertificate");

/// Identifies clients by their certificate.
#[derive(Debug)]
pub struct ClientCertificates {
    config: ClientCertificateProvider,
}

impl ClientCertificates {
    /// As configured.
    pub fn new(config: ClientCertificateProvider) -> Self {
        Self { config }
    }

    pub(super) fn prove(&self, certificate: &ClientCertificate, now: Duration) -> Verdict {
        let refused = |reason| Verdict::Refused(Rejection::plain(reason, CHALLENGE));
        let until = Duration::from_secs(u64::try_from(certificate.not_after).unwrap_or(0));
        // RFC 5280 section 4.1.2.5: the last second is still valid.
        let validity = Validity { from: Duration::ZERO, until: until.saturating_add(Duration::from_secs(1)) };
        if !validity.contains(now) {
            return refused("expired");
        }
        let Some(subject) = self.name(certificate) else {
            return refused("no_subject_name");
        };
        let domains = &self.config.trust_domains;
        let is_foreign = |domain: &str| !domains.iter().any(|known| known == domain);
        if !domains.is_empty() && certificate.trust_domain().is_none_or(is_foreign) {
            return refused("foreign_trust_domain");
        }
        let facts = Facts {
            kind: Some("client_certificate"),
            subject: Some(subject.to_owned()),
            issuer: Some(certificate.issuer.clone()),
            attributes: Some(attributes(certificate)),
            expires_at: Some(until),
            ..Facts::default()
        };
        Verdict::Proven(Box::new(Proof { facts, validity, binding: None, revision: 0 }))
    }

    fn name<'c>(&self, certificate: &'c ClientCertificate) -> Option<&'c str> {
        let name = match self.config.subject {
            CertificateSubject::SanUri => certificate.san_uri.first().map(String::as_str),
            CertificateSubject::SanDns => certificate.san_dns.first().map(String::as_str),
            CertificateSubject::SanEmail => certificate.san_email.first().map(String::as_str),
            CertificateSubject::SpiffeId => certificate.spiffe_id(),
            CertificateSubject::CommonName => certificate.common_name.as_deref(),
        };
        // Another reader may take a name for ended at its first NUL.
        name.filter(|name| !name.is_empty() && !name.contains('\0'))
    }
}

impl Authenticator for ClientCertificates {
    fn header(&self) -> Option<&HeaderName> {
        None
    }

    fn challenge(&self) -> HeaderValue {
        CHALLENGE
    }

    fn find<'r>(&self, presented: &Presented<'r>) -> Result<Option<Cow<'r, [u8]>>, Rejection> {
        let certificate = presented.client_certificate();
        Ok(certificate.map(|certificate| Cow::Borrowed(certificate.fingerprint_sha256.as_bytes())))
    }

    fn verify(&self, _fingerprint: &[u8], presented: &Presented<'_>) -> Answer {
        Answer::Settled(match presented.client_certificate() {
            Some(certificate) => self.prove(certificate, presented.now),
            None => Verdict::Refused(Rejection::plain("no_certificate", CHALLENGE)),
        })
    }
}

fn attributes(certificate: &ClientCertificate) -> Value {
    let texts = |names: &[String]| names.iter().map(|name| Value::from(name.as_str())).collect::<Vec<_>>();
    let addresses = certificate.san_ip.iter().map(|ip| Value::from(ip.to_string())).collect::<Vec<_>>();
    let names = [
        ("dns", texts(&certificate.san_dns)),
        ("uri", texts(&certificate.san_uri)),
        ("email", texts(&certificate.san_email)),
        ("ip", addresses),
    ];
    let names: BTreeMap<_, _> =
        names.into_iter().map(|(kind, list)| (Value::from(kind), Value::from(list))).collect();
    let mut attributes = BTreeMap::from([
        (Value::from("distinguished_name"), Value::from(certificate.subject.as_str())),
        (Value::from("fingerprint_sha256"), Value::from(certificate.fingerprint_sha256.as_str())),
        (Value::from("issuer"), Value::from(certificate.issuer.as_str())),
        (Value::from("san"), Value::from(names)),
        (Value::from("serial"), Value::from(certificate.serial.as_str())),
    ]);
    if let Some(common_name) = &certificate.common_name {
        attributes.insert(Value::from("common_name"), Value::from(common_name.as_str()));
    }
    if let Some(spiffe_id) = certificate.spiffe_id() {
        attributes.insert(Value::from("spiffe_id"), Value::from(spiffe_id));
    }
    Value::from(attributes)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use serde_json::json;

    use super::*;
    use crate::contract::request::TlsFacts;
    use crate::identity::Target;

    fn certificate() -> ClientCertificate {
        ClientCertificate {
            subject: "CN=robot,O=Example".into(),
            issuer: "CN=Example CA".into(),
            common_name: Some("robot".into()),
            serial: "0a".into(),
            fingerprint_sha256: "f00d".into(),
            san_dns: vec!["robot.example".into(), "other.example".into()],
            san_uri: vec!["spiffe://example/robot".into()],
            san_email: vec!["robot@example".into()],
            san_ip: vec!["192.0.2.1".parse().unwrap()],
            not_after: 1_000,
            forwarded_by: None,
            field: None,
        }
    }

    fn tls(client_certificate: Option<ClientCertificate>) -> TlsFacts {
        TlsFacts {
            version: Some("TLSv1.3"),
            cipher: Some("TLS13_AES_128_GCM_SHA256".into()),
            sni: None,
            client_certificate,
            document: Value::Undefined,
        }
    }

    fn ask(subject: CertificateSubject, held: Option<ClientCertificate>, now: u64) -> Option<Verdict> {
        let provider = ClientCertificates::new(ClientCertificateProvider { subject, trust_domains: vec![] });
        let (headers, tls) = (HeaderMap::new(), tls(held));
        let now = Duration::from_secs(now);
        let presented =
            Presented { headers: &headers, query: None, tls: Some(&tls), target: Target::default(), now };
        let credential = provider.find(&presented).unwrap()?;
        match provider.verify(&credential, &presented) {
            Answer::Settled(verdict) => Some(verdict),
            Answer::Pending(_) => panic!("a certificate needs no waiting"),
        }
    }

    #[test]
    fn the_configured_name_is_the_subject() {
        let names = [
            (CertificateSubject::SanUri, "spiffe://example/robot"),
            (CertificateSubject::SanDns, "robot.example"),
            (CertificateSubject::SanEmail, "robot@example"),
            (CertificateSubject::SpiffeId, "spiffe://example/robot"),
            (CertificateSubject::CommonName, "robot"),
        ];
        for (subject, want) in names {
            let Some(Verdict::Proven(proof)) = ask(subject, Some(certificate()), 1_000) else { panic!() };
            assert_eq!(proof.facts.subject.as_deref(), Some(want));
            assert_eq!(proof.facts.issuer.as_deref(), Some("CN=Example CA"));
            let want = json!({
                "common_name": "robot", "distinguished_name": "CN=robot,O=Example", "fingerprint_sha256": "f00d",
                "issuer": "CN=Example CA", "serial": "0a", "spiffe_id": "spiffe://example/robot",
                "san": {"dns": ["robot.example", "other.example"], "uri": ["spiffe://example/robot"],
                    "email": ["robot@example"], "ip": ["192.0.2.1"]},
            });
            assert_eq!(serde_json::to_value(proof.facts.attributes.unwrap()).unwrap(), want);
        }
    }

    #[test]
    fn without_a_certificate_there_is_no_credential() {
        assert!(ask(CertificateSubject::SanUri, None, 0).is_none());
    }

    #[track_caller]
    fn check_refused(subject: CertificateSubject, held: ClientCertificate, now: u64, want: &str) {
        match ask(subject, Some(held), now) {
            Some(Verdict::Refused(rejection)) => assert_eq!(rejection.reason, want),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_certificate_without_the_name_is_a_bad_credential() {
        let bare = ClientCertificate { san_uri: vec![], san_dns: vec![], common_name: None, ..certificate() };
        for subject in
            [CertificateSubject::SanUri, CertificateSubject::SanDns, CertificateSubject::CommonName]
        {
            check_refused(subject, bare.clone(), 0, "no_subject_name");
        }
    }

    #[test]
    fn a_certificate_that_ends_during_a_connection_is_refused() {
        check_refused(CertificateSubject::SanUri, certificate(), 1_001, "expired");
        check_refused(
            CertificateSubject::SanUri,
            ClientCertificate { not_after: -5, ..certificate() },
            2,
            "expired",
        );
    }
}
