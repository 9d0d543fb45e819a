//! The request of a case: its head in canonical form or the reason it is refused, its body, and where it came from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use crate::base::net::canonical_ip;
use crate::config::yaml::{Data, Node};
use crate::contract::canonical::Refusal;
use crate::contract::hop;
use crate::contract::request::{ClientCertificate, RequestHead, Source, TlsFacts};
use crate::policy::asking::Sent;
use crate::policy::case::reader::{Fields, Reader};

/// A request as it is sent.
#[derive(Debug)]
pub(super) struct Request {
    /// Its head, or why the gateway refuses it.
    pub(super) head: Result<RequestHead, Refusal>,
    /// Its body, empty where there is none.
    pub(super) body: Vec<u8>,
}

/// The upstream's answer.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) latency_ms: u64,
}

const REQUEST: [&str; 7] = ["method", "path", "scheme", "host", "protocol", "headers", "body"];
const RESPONSE: [&str; 3] = ["status", "headers", "latency_ms"];
const SOURCE: [&str; 4] = ["ip", "port", "forwarded_for", "tls"];
const TLS: [&str; 4] = ["version", "cipher", "sni", "client_certificate"];
const CERTIFICATE: [&str; 8] =
    ["subject", "issuer", "serial", "fingerprint_sha256", "san", "spiffe_id", "not_after", "forwarded_by"];
const SAN: [&str; 4] = ["dns", "uri", "email", "ip"];
/// The end of a certificate's validity that a case leaves out: 2100-01-01.
const NOT_AFTER: u32 = 4_102_444_800;

/// Reads `request`.
pub(super) fn request(reader: &mut Reader, case: &Fields<'_>) -> Option<Request> {
    let Some(fields) = reader.below(case, "request", &REQUEST) else {
        reader.fault(case.position, "`request` is missing", "add `request: {path: /}`");
        return None;
    };
    let path = reader.required(&fields, "path");
    let method = method(reader, &fields);
    let scheme = reader.word(&fields, "scheme", ["https", "http"]).unwrap_or("https");
    let protocol = reader.word(&fields, "protocol", ["HTTP/1.1", "HTTP/2", "HTTP/1.0"]).unwrap_or("HTTP/1.1");
    let host = reader.text(&fields, "host");
    let mut headers = headers(reader, &fields);
    let body = body(reader, &fields, &mut headers);
    if host.is_some() || !headers.contains_key(header::HOST) {
        match HeaderValue::from_str(host.as_deref().unwrap_or("localhost")) {
            Ok(host) => drop(headers.append(header::HOST, host)),
            Err(_) => reader.fault(fields.at("host"), "`request.host` is no host", "write a host name"),
        }
    }
    let sent = Sent { method: method?, target: path?, scheme, protocol, headers };
    Some(Request { head: sent.canonical(body.len() as u64), body })
}

fn method(reader: &mut Reader, fields: &Fields<'_>) -> Option<Method> {
    let Some(text) = reader.text(fields, "method") else { return Some(Method::GET) };
    let method = Method::from_bytes(text.as_bytes()).ok();
    if method.is_none() {
        let message = format!("`request.method`: `{text}` is no method");
        reader.fault(fields.at("method"), message, "write it as `GET`");
    }
    method
}

/// Reads `headers`: a value or a list of values by name.
fn headers(reader: &mut Reader, fields: &Fields<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let path = fields.path_of("headers");
    let Some(node) = fields.get("headers") else { return headers };
    if !matches!(node.data, Data::Mapping(_)) {
        reader.fault(node.position, format!("`{path}` must be a mapping"), "write `name: value` pairs");
    }
    for entry in node.entries() {
        let Ok(name) = HeaderName::from_bytes(entry.key.as_bytes()) else {
            let message = format!("`{path}`: `{}` is no header name", entry.key);
            reader.fault(entry.position, message, "use letters, digits and `-`");
            continue;
        };
        if name == header::CONTENT_LENGTH || name == header::TRANSFER_ENCODING {
            let message = format!("`{path}`: `{name}` comes from the body");
            reader.fault(entry.position, message, "leave it out");
            continue;
        }
        let one = std::slice::from_ref(&entry.value);
        let values = if matches!(entry.value.data, Data::Sequence(_)) { entry.value.items() } else { one };
        for value in values {
            if let Some(value) = header_value(reader, value, &format!("{path}.{name}")) {
                headers.append(name.clone(), value);
            }
        }
    }
    headers
}

fn header_value(reader: &mut Reader, node: &Node, path: &str) -> Option<HeaderValue> {
    let text = match &node.data {
        Data::Scalar(scalar) if scalar.value.is_string() || scalar.value.is_number() => &scalar.source,
        Data::Scalar(_) | Data::Sequence(_) | Data::Mapping(_) => {
            reader.fault(node.position, format!("`{path}` must be text"), "put it in quotes");
            return None;
        }
    };
    let value = HeaderValue::from_bytes(text.as_bytes()).ok();
    if value.is_none() {
        let message = format!("`{path}` has a control character");
        reader.fault(node.position, message, "no request with it gets past the gateway's parser");
    }
    value
}

/// Reads `body`: a text as it is, anything else as JSON.
fn body(reader: &mut Reader, fields: &Fields<'_>, headers: &mut HeaderMap) -> Vec<u8> {
    let Some(node) = fields.get("body") else { return Vec::new() };
    let bytes = match &node.data {
        Data::Scalar(scalar) if scalar.value.is_string() => scalar.source.clone().into_bytes(),
        Data::Scalar(_) | Data::Sequence(_) | Data::Mapping(_) => {
            let json = HeaderValue::from_static("application/json");
            headers.entry(header::CONTENT_TYPE).or_insert(json);
            serde_json::to_vec(&node.to_value()).unwrap_or_else(|error| {
                reader.fault(node.position, format!("`request.body`: {error}"), "write it as text");
                Vec::new()
            })
        }
    };
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    bytes
}

/// Reads `response`, if there is one.
pub(super) fn response(reader: &mut Reader, case: &Fields<'_>) -> Option<Response> {
    let fields = reader.below(case, "response", &RESPONSE)?;
    let status = reader.number::<u16>(&fields, "status").unwrap_or(200);
    if !(100..=599).contains(&status) {
        let message = format!("`response.status`: {status} is no HTTP status");
        reader.fault(fields.at("status"), message, "write a number from 100 to 599");
    }
    let mut headers = headers(reader, &fields);
    hop::strip_response(&mut headers);
    let latency_ms = reader.number(&fields, "latency_ms").unwrap_or(0);
    Some(Response { status, headers, latency_ms })
}

/// Reads `source`.
pub(super) fn source(reader: &mut Reader, case: &Fields<'_>) -> Source {
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let Some(fields) = reader.below(case, "source", &SOURCE) else {
        let peer = SocketAddr::new(localhost, 0);
        return Source { peer, client_ip: localhost, forwarded_for: Vec::new(), tls: None };
    };
    let client_ip = canonical_ip(reader.address(&fields, "ip").unwrap_or(localhost));
    let peer = SocketAddr::new(client_ip, reader.number(&fields, "port").unwrap_or(0));
    let forwarded_for = reader.addresses(&fields, "forwarded_for").into_iter().map(canonical_ip).collect();
    Source { peer, client_ip, forwarded_for, tls: tls(reader, &fields).map(Arc::new) }
}

fn tls(reader: &mut Reader, source: &Fields<'_>) -> Option<TlsFacts> {
    let fields = reader.below(source, "tls", &TLS)?;
    let version = reader.word(&fields, "version", ["TLSv1.3", "TLSv1.2"]).unwrap_or("TLSv1.3");
    let cipher = reader.text(&fields, "cipher").unwrap_or_else(|| "TLS_AES_256_GCM_SHA384".to_owned());
    let sni = reader.text(&fields, "sni").map(|name| name.to_ascii_lowercase());
    let certificate = reader.below(&fields, "client_certificate", &CERTIFICATE);
    let certificate = certificate.map(|fields| certificate_of(reader, &fields));
    Some(TlsFacts::new(version, cipher, sni, certificate))
}

fn certificate_of(reader: &mut Reader, fields: &Fields<'_>) -> ClientCertificate {
    let mut text = |key, default: &str| reader.text(fields, key).unwrap_or_else(|| default.to_owned());
    let mut certificate = ClientCertificate {
        subject: text("subject", "CN=test"),
        issuer: text("issuer", "CN=test"),
        common_name: None,
        serial: text("serial", "01"),
        fingerprint_sha256: text("fingerprint_sha256", &"0".repeat(64)),
        san_dns: Vec::new(),
        san_uri: Vec::new(),
        san_email: Vec::new(),
        san_ip: Vec::new(),
        not_after: i64::from(reader.number::<u32>(fields, "not_after").unwrap_or(NOT_AFTER)),
        forwarded_by: reader.address(fields, "forwarded_by").map(canonical_ip),
        field: None,
    };
    if let Some(san) = reader.below(fields, "san", &SAN) {
        certificate.san_dns = reader.texts(&san, "dns");
        certificate.san_uri = reader.texts(&san, "uri");
        certificate.san_email = reader.texts(&san, "email");
        certificate.san_ip = reader.addresses(&san, "ip");
    }
    if let Some(id) = reader.text(fields, "spiffe_id") {
        if certificate.san_uri.is_empty() {
            certificate.san_uri.push(id.clone());
        }
        if certificate.spiffe_id() != Some(id.as_str()) {
            let path = fields.path_of("spiffe_id");
            let hint = "it is the only name in `san.uri`, and begins with `spiffe://`";
            reader.fault(fields.at("spiffe_id"), format!("`{path}` cannot be `{id}`"), hint);
        }
    }
    certificate
}
