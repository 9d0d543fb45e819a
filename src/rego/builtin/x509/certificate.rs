//! Certificates and requests, as Go's `x509.Certificate` and `x509.CertificateRequest`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use regorus::Value;
use x509_parser::{
    certification_request::X509CertificationRequest,
    der_parser::oid::Oid,
    extensions::{DistributionPointName, GeneralName, GeneralSubtree, ParsedExtension, X509Extension},
    num_bigint::BigUint,
    prelude::X509Certificate,
    time::ASN1Time,
    x509::{AlgorithmIdentifier, SubjectPublicKeyInfo},
};

use super::{
    super::{
        Failure,
        argument::object_of,
        der::{OBJECT_ID, Reader},
        encoding::to_base64,
        jwt::key::{Key, of_subject},
        uri,
    },
    name,
};

/// Extended key usages by the numbers Go gives them.
pub(super) const KEY_USAGES: [&str; 14] = [
    "2.5.29.37.0",
    "1.3.6.1.5.5.7.3.1",
    "1.3.6.1.5.5.7.3.2",
    "1.3.6.1.5.5.7.3.3",
    "1.3.6.1.5.5.7.3.4",
    "1.3.6.1.5.5.7.3.5",
    "1.3.6.1.5.5.7.3.6",
    "1.3.6.1.5.5.7.3.7",
    "1.3.6.1.5.5.7.3.8",
    "1.3.6.1.5.5.7.3.9",
    "1.3.6.1.4.1.311.10.3.3",
    "2.16.840.1.113730.4.1",
    "1.3.6.1.4.1.311.2.1.22",
    "1.3.6.1.4.1.311.61.1.1",
];
const EXTENDED_KEY_USAGE: &str = "2.5.29.37";
const SUBJECT_ALTERNATIVE_NAME: &str = "2.5.29.17";

/// The components of an object identifier.
pub(super) fn object_id(oid: &Oid<'_>) -> Value {
    let components = oid.to_id_string();
    let numbers = components.split('.').map(number_of);
    Value::from(numbers.collect::<Vec<_>>())
}

fn number_of(digits: &str) -> Value {
    Value::from_numeric_string(digits).unwrap_or(Value::Null)
}

/// A big-endian number, exact.
pub(super) fn big_number(bytes: &[u8]) -> Value {
    number_of(&BigUint::from_bytes_be(bytes).to_string())
}

/// A list as Go writes it: null if it is empty.
fn list(values: Vec<Value>) -> Value {
    if values.is_empty() { Value::Null } else { Value::from(values) }
}

fn bytes(bytes: &[u8]) -> Value {
    Value::from(to_base64(bytes))
}

fn texts(texts: &[String]) -> Value {
    list(texts.iter().map(|text| Value::from(text.as_str())).collect())
}

fn time(time: &ASN1Time) -> Value {
    let stamp = jiff::Timestamp::from_second(time.timestamp()).unwrap_or_default();
    Value::from(stamp.to_string())
}

/// The names a certificate or a request is for.
#[derive(Default)]
pub(super) struct AlternativeNames {
    pub(super) dns: Vec<String>,
    pub(super) emails: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) uris: Vec<String>,
}

impl AlternativeNames {
    pub(super) fn read(names: &[GeneralName<'_>]) -> Self {
        let mut read = Self::default();
        for name in names {
            match name {
                GeneralName::DNSName(text) => read.dns.push((*text).to_owned()),
                GeneralName::RFC822Name(text) => read.emails.push((*text).to_owned()),
                GeneralName::URI(text) => read.uris.push((*text).to_owned()),
                GeneralName::IPAddress(bytes) => read.addresses.extend(address(bytes)),
                GeneralName::OtherName(..)
                | GeneralName::X400Address(_)
                | GeneralName::DirectoryName(_)
                | GeneralName::EDIPartyName(_)
                | GeneralName::RegisteredID(_)
                | GeneralName::Invalid(..) => {}
            }
        }
        read
    }

    fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.emails.is_empty() && self.addresses.is_empty() && self.uris.is_empty()
    }

    fn fields(&self) -> Result<[(&'static str, Value); 4], Failure> {
        let addresses = self.addresses.iter().map(|address| Value::from(address.to_string()));
        let uris = self.uris.iter().map(|text| uri_object(text)).collect::<Result<Vec<_>, _>>()?;
        Ok([
            ("DNSNames", texts(&self.dns)),
            ("EmailAddresses", texts(&self.emails)),
            ("IPAddresses", list(addresses.collect())),
            ("URIs", list(uris)),
        ])
    }
}

pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::V4(Ipv4Addr::from(bytes)));
    }
    <[u8; 16]>::try_from(bytes).ok().map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)))
}

/// A URI as Go's `url.URL`.
fn uri_object(text: &str) -> Result<Value, Failure> {
    let uri = uri::split(text).map_err(|reason| Failure::Error(format!("cannot parse URI: {reason}")))?;
    Ok(uri.to_go())
}

/// Extended key usages in order: those Go knows, by number, and the others.
pub(super) fn key_usages(extension: &X509Extension<'_>) -> (Vec<usize>, Vec<Oid<'static>>) {
    let mut known = Vec::new();
    let mut unknown = Vec::new();
    let mut usages = Reader(extension.value).sequence().unwrap_or(Reader(&[]));
    while let Some(body) = usages.next(OBJECT_ID) {
        let oid = Oid::new(body.to_vec().into());
        match KEY_USAGES.iter().position(|usage| *usage == oid.to_id_string()) {
            Some(number) => known.push(number),
            None => unknown.push(oid),
        }
    }
    (known, unknown)
}

pub(super) fn extended_key_usage<'a>(certificate: &'a X509Certificate<'a>) -> Option<&'a X509Extension<'a>> {
    certificate.extensions().iter().find(|extension| extension.oid.to_id_string() == EXTENDED_KEY_USAGE)
}

/// A critical extension that nobody here looks at.
pub(super) fn unhandled(certificate: &X509Certificate<'_>) -> Vec<Value> {
    let is_unhandled = |extension: &&X509Extension<'_>| {
        let is_known = match extension.parsed_extension() {
            ParsedExtension::KeyUsage(_)
            | ParsedExtension::BasicConstraints(_)
            | ParsedExtension::ExtendedKeyUsage(_)
            | ParsedExtension::CRLDistributionPoints(_)
            | ParsedExtension::AuthorityKeyIdentifier(_)
            | ParsedExtension::SubjectKeyIdentifier(_)
            | ParsedExtension::CertificatePolicies(_)
            | ParsedExtension::PolicyMappings(_)
            | ParsedExtension::PolicyConstraints(_)
            | ParsedExtension::InhibitAnyPolicy(_)
            | ParsedExtension::AuthorityInfoAccess(_) => true,
            ParsedExtension::SubjectAlternativeName(names) => {
                !AlternativeNames::read(&names.general_names).is_empty()
            }
            ParsedExtension::NameConstraints(constraints) => {
                let trees = constraints.permitted_subtrees.iter().chain(&constraints.excluded_subtrees);
                trees.flatten().all(|tree| Subtrees::is_known(&tree.base))
            }
            _ => false,
        };
        extension.critical && !is_known
    };
    certificate.extensions().iter().filter(is_unhandled).map(|extension| object_id(&extension.oid)).collect()
}

/// One half of name constraints, by the kind of name.
#[derive(Default)]
struct Subtrees {
    dns: Vec<Value>,
    emails: Vec<Value>,
    ranges: Vec<Value>,
    uris: Vec<Value>,
}

impl Subtrees {
    fn is_known(name: &GeneralName<'_>) -> bool {
        matches!(
            name,
            GeneralName::DNSName(_)
                | GeneralName::RFC822Name(_)
                | GeneralName::URI(_)
                | GeneralName::IPAddress(_)
        )
    }

    fn read(trees: Option<&Vec<GeneralSubtree<'_>>>) -> Self {
        let mut read = Self::default();
        for tree in trees.into_iter().flatten() {
            match &tree.base {
                GeneralName::DNSName(text) => read.dns.push(Value::from(*text)),
                GeneralName::RFC822Name(text) => read.emails.push(Value::from(*text)),
                GeneralName::URI(text) => read.uris.push(Value::from(*text)),
                GeneralName::IPAddress(range) => {
                    let (ip, mask) = range.split_at(range.len() / 2);
                    if let Some(ip) = address(ip) {
                        let ip = Value::from(ip.to_string());
                        read.ranges.push(object_of([("IP", ip), ("Mask", bytes(mask))]));
                    }
                }
                GeneralName::OtherName(..)
                | GeneralName::X400Address(_)
                | GeneralName::DirectoryName(_)
                | GeneralName::EDIPartyName(_)
                | GeneralName::RegisteredID(_)
                | GeneralName::Invalid(..) => {}
            }
        }
        read
    }
}

fn public_key(info: &SubjectPublicKeyInfo<'_>) -> (i64, Value) {
    match of_subject(info) {
        Key::Rsa { modulus, exponent } => {
            (1, object_of([("N", big_number(&modulus)), ("E", big_number(&exponent))]))
        }
        Key::Ec { curve, point } => {
            let (x, y) =
                point.get(1..).unwrap_or_default().split_at(curve.field_bytes().min(point.len() - 1));
            let fields = [("Curve", Value::new_object()), ("X", big_number(x)), ("Y", big_number(y))];
            (3, object_of(fields))
        }
        Key::Ed25519(key) => (4, bytes(&key)),
        Key::Secret(_) | Key::Unusable => (0, Value::Null),
    }
}

/// Go's number of a signature algorithm; 0 for those it does not know.
pub(super) fn signature_algorithm(algorithm: &AlgorithmIdentifier<'_>) -> i64 {
    match algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.4" => 2,
        "1.2.840.113549.1.1.5" | "1.3.14.3.2.29" => 3,
        "1.2.840.113549.1.1.11" => 4,
        "1.2.840.113549.1.1.12" => 5,
        "1.2.840.113549.1.1.13" => 6,
        "1.2.840.10040.4.3" => 7,
        "2.16.840.1.101.3.4.3.2" => 8,
        "1.2.840.10045.4.1" => 9,
        "1.2.840.10045.4.3.2" => 10,
        "1.2.840.10045.4.3.3" => 11,
        "1.2.840.10045.4.3.4" => 12,
        "1.2.840.113549.1.1.10" => pss_algorithm(algorithm),
        "1.3.101.112" => 16,
        _ => 0,
    }
}

fn pss_algorithm(algorithm: &AlgorithmIdentifier<'_>) -> i64 {
    use x509_parser::signature_algorithm::SignatureAlgorithm;
    let Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) = SignatureAlgorithm::try_from(algorithm) else {
        return 0;
    };
    match parameters.hash_algorithm_oid().to_id_string().as_str() {
        "2.16.840.1.101.3.4.2.1" => 13,
        "2.16.840.1.101.3.4.2.2" => 14,
        "2.16.840.1.101.3.4.2.3" => 15,
        _ => 0,
    }
}

fn extension_object(extension: &X509Extension<'_>) -> Value {
    object_of([
        ("Id", object_id(&extension.oid)),
        ("Critical", Value::from(extension.critical)),
        ("Value", bytes(extension.value)),
    ])
}

/// A certificate, and its URIs as texts besides.
pub(super) fn with_uri_strings(certificate: &X509Certificate<'_>) -> Result<Value, Failure> {
    let mut object = to_value(certificate)?;
    let uris = texts(&alternative_names(certificate).uris);
    if let Ok(fields) = object.as_object_mut() {
        fields.insert(Value::from("URIStrings"), uris);
    }
    Ok(object)
}

/// The names a certificate is for.
pub(super) fn alternative_names(certificate: &X509Certificate<'_>) -> AlternativeNames {
    let names = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(AlternativeNames::read(&names.general_names)),
        _ => None,
    });
    names.unwrap_or_default()
}

pub(super) fn to_value(certificate: &X509Certificate<'_>) -> Result<Value, Failure> {
    let tbs = &certificate.tbs_certificate;
    let (key_algorithm, key) = public_key(certificate.public_key());
    let extensions = certificate.extensions().iter().map(extension_object).collect();
    let fields = [
        ("ExtraExtensions", Value::Null),
        ("Extensions", list(extensions)),
        ("Issuer", name::to_value(certificate.issuer())),
        ("NotAfter", time(&certificate.validity().not_after)),
        ("NotBefore", time(&certificate.validity().not_before)),
        ("PublicKey", key),
        ("PublicKeyAlgorithm", Value::from(key_algorithm)),
        ("Raw", bytes(certificate.as_raw())),
        ("RawIssuer", bytes(certificate.issuer().as_raw())),
        ("RawSubject", bytes(certificate.subject().as_raw())),
        ("RawSubjectPublicKeyInfo", bytes(certificate.public_key().raw)),
        ("RawTBSCertificate", bytes(tbs.as_ref())),
        ("SerialNumber", big_number(tbs.raw_serial())),
        ("Signature", bytes(&certificate.signature_value.data)),
        ("SignatureAlgorithm", Value::from(signature_algorithm(&certificate.signature_algorithm))),
        ("Subject", name::to_value(certificate.subject())),
        ("UnhandledCriticalExtensions", list(unhandled(certificate))),
        ("Version", Value::from(i64::from(certificate.version().0) + 1)),
    ];
    let names = alternative_names(certificate).fields()?;
    let all = fields.into_iter().chain(names).chain(usage_fields(certificate));
    Ok(object_of(all.chain(constraint_fields(certificate)).chain(policy_fields(certificate))))
}

/// What the key is for, and where to ask about the certificate.
fn usage_fields(certificate: &X509Certificate<'_>) -> Vec<(&'static str, Value)> {
    let mut key_usage = 0_i64;
    let (mut authority, mut subject) = (Value::Null, Value::Null);
    let (mut ocsp, mut issuers, mut lists) = (Vec::new(), Vec::new(), Vec::new());
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::KeyUsage(usage) => key_usage = i64::from(usage.flags),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                authority = id.key_identifier.as_ref().map_or(Value::Null, |id| bytes(id.0));
            }
            ParsedExtension::SubjectKeyIdentifier(id) => subject = bytes(id.0),
            ParsedExtension::AuthorityInfoAccess(access) => {
                for description in access.iter() {
                    let GeneralName::URI(text) = description.access_location else { continue };
                    match description.access_method.to_id_string().as_str() {
                        "1.3.6.1.5.5.7.48.1" => ocsp.push(Value::from(text)),
                        "1.3.6.1.5.5.7.48.2" => issuers.push(Value::from(text)),
                        _ => {}
                    }
                }
            }
            ParsedExtension::CRLDistributionPoints(points) => {
                for point in points.iter() {
                    let Some(DistributionPointName::FullName(names)) = &point.distribution_point else {
                        continue;
                    };
                    let uris = AlternativeNames::read(names).uris;
                    lists.extend(uris.into_iter().map(Value::from));
                }
            }
            _ => {}
        }
    }
    let (known, unknown) = extended_key_usage(certificate).map(key_usages).unwrap_or_default();
    vec![
        ("AuthorityKeyId", authority),
        ("CRLDistributionPoints", list(lists)),
        ("ExtKeyUsage", list(known.into_iter().map(Value::from).collect())),
        ("IssuingCertificateURL", list(issuers)),
        ("KeyUsage", Value::from(key_usage)),
        ("OCSPServer", list(ocsp)),
        ("SubjectKeyId", subject),
        ("UnknownExtKeyUsage", list(unknown.iter().map(object_id).collect())),
    ]
}

/// Basic constraints and name constraints.
fn constraint_fields(certificate: &X509Certificate<'_>) -> Vec<(&'static str, Value)> {
    let (mut is_valid, mut is_ca, mut path) = (false, false, 0_i64);
    let mut is_critical = false;
    let (mut permitted, mut excluded) = (Subtrees::default(), Subtrees::default());
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) => {
                is_valid = true;
                is_ca = constraints.ca;
                path = constraints.path_len_constraint.map_or(-1, i64::from);
            }
            ParsedExtension::NameConstraints(constraints) => {
                is_critical = extension.critical;
                permitted = Subtrees::read(constraints.permitted_subtrees.as_ref());
                excluded = Subtrees::read(constraints.excluded_subtrees.as_ref());
            }
            _ => {}
        }
    }
    vec![
        ("BasicConstraintsValid", Value::from(is_valid)),
        ("ExcludedDNSDomains", list(excluded.dns)),
        ("ExcludedEmailAddresses", list(excluded.emails)),
        ("ExcludedIPRanges", list(excluded.ranges)),
        ("ExcludedURIDomains", list(excluded.uris)),
        ("IsCA", Value::from(is_ca)),
        ("MaxPathLen", Value::from(path)),
        ("MaxPathLenZero", Value::from(is_valid && path == 0)),
        ("PermittedDNSDomains", list(permitted.dns)),
        ("PermittedDNSDomainsCritical", Value::from(is_critical)),
        ("PermittedEmailAddresses", list(permitted.emails)),
        ("PermittedIPRanges", list(permitted.ranges)),
        ("PermittedURIDomains", list(permitted.uris)),
    ]
}

/// Certificate policies.
fn policy_fields(certificate: &X509Certificate<'_>) -> Vec<(&'static str, Value)> {
    let (mut ids, mut names, mut mappings) = (Vec::new(), Vec::new(), Vec::new());
    let (mut require, mut inhibit_mapping, mut inhibit_any) = (None, None, None);
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::CertificatePolicies(policies) => {
                for policy in policies {
                    ids.push(object_id(&policy.policy_id));
                    names.push(Value::from(policy.policy_id.to_id_string()));
                }
            }
            ParsedExtension::PolicyMappings(all) => {
                mappings.extend(all.mappings.iter().map(|mapping| {
                    let domain = |oid: &Oid<'_>| Value::from(oid.to_id_string());
                    object_of([
                        ("IssuerDomainPolicy", domain(&mapping.issuer_domain_policy)),
                        ("SubjectDomainPolicy", domain(&mapping.subject_domain_policy)),
                    ])
                }));
            }
            ParsedExtension::PolicyConstraints(constraints) => {
                require = constraints.require_explicit_policy;
                inhibit_mapping = constraints.inhibit_policy_mapping;
            }
            ParsedExtension::InhibitAnyPolicy(inhibit) => inhibit_any = Some(inhibit.skip_certs),
            _ => {}
        }
    }
    let count = |number: Option<u32>| Value::from(number.unwrap_or(0));
    let is_zero = |number: Option<u32>| Value::from(number == Some(0));
    vec![
        ("InhibitAnyPolicy", count(inhibit_any)),
        ("InhibitAnyPolicyZero", is_zero(inhibit_any)),
        ("InhibitPolicyMapping", count(inhibit_mapping)),
        ("InhibitPolicyMappingZero", is_zero(inhibit_mapping)),
        ("Policies", list(names)),
        ("PolicyIdentifiers", list(ids)),
        ("PolicyMappings", list(mappings)),
        ("RequireExplicitPolicy", count(require)),
        ("RequireExplicitPolicyZero", is_zero(require)),
    ]
}

pub(super) fn request_to_value(request: &X509CertificationRequest<'_>) -> Result<Value, Failure> {
    use x509_parser::cri_attributes::ParsedCriAttribute;
    let info = &request.certification_request_info;
    let (key_algorithm, key) = public_key(&info.subject_pki);
    let requested: Vec<&X509Extension<'_>> = info
        .attributes()
        .iter()
        .filter_map(|attribute| match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(request) => Some(&request.extensions),
            _ => None,
        })
        .flatten()
        .collect();
    let names = requested.iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names)
            if extension.oid.to_id_string() == SUBJECT_ALTERNATIVE_NAME =>
        {
            Some(AlternativeNames::read(&names.general_names))
        }
        _ => None,
    });
    let attributes = info.attributes().iter().filter_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(request) => {
            let extensions = request.extensions.iter().map(|extension| {
                object_of([("Type", object_id(&extension.oid)), ("Value", bytes(extension.value))])
            });
            let values = Value::from(vec![Value::from(extensions.collect::<Vec<_>>())]);
            Some(object_of([("Type", object_id(&attribute.oid)), ("Value", values)]))
        }
        _ => None,
    });
    let fields = [
        ("Attributes", list(attributes.collect())),
        ("Extensions", list(requested.iter().map(|extension| extension_object(extension)).collect())),
        ("ExtraExtensions", Value::Null),
        ("PublicKey", key),
        ("PublicKeyAlgorithm", Value::from(key_algorithm)),
        ("Raw", bytes(request.as_raw())),
        ("RawSubject", bytes(info.subject.as_raw())),
        ("RawSubjectPublicKeyInfo", bytes(info.subject_pki.raw)),
        ("RawTBSCertificateRequest", bytes(info.raw)),
        ("Signature", bytes(&request.signature_value.data)),
        ("SignatureAlgorithm", Value::from(signature_algorithm(&request.signature_algorithm))),
        ("Subject", name::to_value(&info.subject)),
        ("Version", Value::from(i64::from(info.version.0))),
    ];
    Ok(object_of(fields.into_iter().chain(names.unwrap_or_default().fields()?)))
}
