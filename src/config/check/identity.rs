//! Checks of identity providers.

mod ldap;

use std::ops::RangeInclusive;
use std::time::Duration;

use http::Uri;
use jsonwebtoken::Algorithm;

use super::value::{bare_host, is_loopback_host};
use super::{Check, all};
use crate::base::spiffe::is_trust_domain;
use crate::config::model::{
    ApiKeyProvider, CertificateSubject, ClaimPaths, ClientCertificateProvider, Dpop, JwtProvider,
    KeySetSource, Provider, TokenBinding,
};
use crate::config::place::Place;
use crate::config::raw::identity as raw;
use crate::config::report::Reported;

mod external;

pub(super) const REFRESH: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);
pub(super) const LEEWAY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_mins(10);
const PROOF_LIFETIME: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_mins(5);

impl Check<'_> {
    pub(super) fn provider(&mut self, place: &Place, written: &raw::Provider) -> Result<Provider, Reported> {
        match written {
            raw::Provider::Jwt(jwt) => self.jwt(place, jwt).map(Provider::Jwt),
            raw::Provider::ApiKey(api_key) => self.api_key(place, api_key).map(Provider::ApiKey),
            raw::Provider::Ldap(ldap) => self.ldap(place, ldap).map(Provider::Ldap),
            raw::Provider::ClientCertificate(certificate) => {
                self.client_certificate(place, certificate).map(Provider::ClientCertificate)
            }
            raw::Provider::Introspection(written) => {
                self.introspection(place, written).map(Provider::Introspection)
            }
            raw::Provider::Oidc(written) => self.oidc(place, written).map(Provider::Oidc),
            raw::Provider::External(external) => self.external(place, external).map(Provider::External),
        }
    }

    fn client_certificate(
        &mut self,
        provider: &Place,
        written: &raw::ClientCertificate,
    ) -> Result<ClientCertificateProvider, Reported> {
        let subject = match written.subject {
            raw::CertificateSubject::SanUri => CertificateSubject::SanUri,
            raw::CertificateSubject::SanDns => CertificateSubject::SanDns,
            raw::CertificateSubject::SanEmail => CertificateSubject::SanEmail,
            raw::CertificateSubject::SpiffeId => CertificateSubject::SpiffeId,
            raw::CertificateSubject::CommonName => CertificateSubject::CommonName,
        };
        let place = provider.key("trust_domains");
        let written = written.trust_domains.as_deref().unwrap_or_default();
        if !written.is_empty() && subject != CertificateSubject::SpiffeId {
            let message = "`trust_domains` has no effect on this subject";
            return Err(self.together(provider, &place, message, "say `subject: spiffe_id`, or take it out"));
        }
        let trust_domains = all(written.iter().enumerate().map(|(index, name)| {
            let place = place.index(index);
            if is_trust_domain(name) {
                return Ok(name.clone());
            }
            let message = format!("`{}` is not a SPIFFE trust domain", self.shown(&place));
            Err(self.report.error_with(
                &place,
                message,
                "write `example.org`, in lower case and without `spiffe://`",
            ))
        }));
        Ok(ClientCertificateProvider { subject, trust_domains: trust_domains? })
    }

    fn api_key(&mut self, place: &Place, written: &raw::ApiKey) -> Result<ApiKeyProvider, Reported> {
        let header = self.credential_header(&place.key("header"), &written.header);
        let keys = self.file(&place.key("keys"), &written.keys);
        let forward_credential = written.forward_credential;
        Ok(ApiKeyProvider { header: header?, forward_credential, keys: keys? })
    }

    fn jwt(&mut self, place: &Place, written: &raw::Jwt) -> Result<JwtProvider, Reported> {
        let keys = self.key_set(place, written);
        let algorithms = self.algorithms(place, written);
        let claims = self.claims(&place.key("claims"), &written.claims);
        let leeway = self.duration(&place.key("leeway"), &written.leeway, LEEWAY);
        let header = self.credential_header(&place.key("header"), &written.header);
        let dpop = written.dpop.as_ref().map(|dpop| self.dpop(place, written, dpop)).transpose();
        Ok(JwtProvider {
            issuer: written.issuer.clone(),
            audiences: written.audiences.clone(),
            keys: keys?,
            algorithms: algorithms?,
            claims: claims?,
            leeway: leeway?,
            token_type: written.token_type.clone(),
            header: header?,
            forward_credential: written.forward_credential,
            binding: match written.binding {
                raw::TokenBinding::Optional => TokenBinding::Optional,
                raw::TokenBinding::Required => TokenBinding::Required,
            },
            dpop: dpop?,
        })
    }

    fn dpop(&mut self, provider: &Place, jwt: &raw::Jwt, written: &raw::Dpop) -> Result<Dpop, Reported> {
        let place = provider.key("dpop");
        if !jwt.header.eq_ignore_ascii_case("authorization") {
            let message = "`dpop` needs the `Authorization` header";
            let help = "the scheme is written there (RFC 9449 section 7.1); take `header` out";
            return Err(self.together(provider, &place, message, help));
        }
        let proof_lifetime =
            self.duration(&place.key("proof_lifetime"), &written.proof_lifetime, PROOF_LIFETIME);
        let algorithms: Vec<Algorithm> = written.algorithms.iter().copied().map(algorithm).collect();
        if algorithms.iter().copied().any(is_hmac) {
            let message = "a proof cannot be made with an HMAC algorithm";
            let help = "its key is public; write algorithms such as `ES256`";
            return Err(self.report.error_with(&place.key("algorithms"), message, help));
        }
        Ok(Dpop { proof_lifetime: proof_lifetime?, algorithms })
    }

    fn key_set(&mut self, place: &Place, written: &raw::Jwt) -> Result<KeySetSource, Reported> {
        if written.discovery {
            return self.key_set_discovered(place, written);
        }
        if !written.endpoint_hosts.is_empty() {
            let message = "`endpoint_hosts` has no effect without `discovery`";
            return Err(self.together(place, &place.key("endpoint_hosts"), message, "take it out"));
        }
        match (&written.jwks_uri, &written.jwks_file) {
            (Some(url), None) => self.key_set_url(place, written, url),
            (None, Some(file)) => {
                let path = self.file(&place.key("jwks_file"), file);
                for (key, is_given) in
                    [("jwks_ca", written.jwks_ca.is_some()), ("refresh", written.refresh.is_some())]
                {
                    if is_given {
                        let message = format!("`{key}` has no effect with `jwks_file`");
                        return Err(self.together(place, &place.key(key), message, "take it out"));
                    }
                }
                path.map(KeySetSource::File)
            }
            (Some(_), Some(_)) => {
                let message = "`jwks_uri` and `jwks_file` are both given";
                Err(self.together(place, &place.key("jwks_file"), message, "keep one of them"))
            }
            (None, None) => {
                let help =
                    "write `discovery: true`: the issuer's discovery document then says where its keys are";
                Err(self.together(place, place, "neither `jwks_uri` nor `jwks_file` is given", help))
            }
        }
    }

    fn key_set_discovered(&mut self, place: &Place, written: &raw::Jwt) -> Result<KeySetSource, Reported> {
        for (key, is_given) in
            [("jwks_uri", written.jwks_uri.is_some()), ("jwks_file", written.jwks_file.is_some())]
        {
            if is_given {
                let message = format!("`{key}` has no effect with `discovery`");
                return Err(self.together(place, &place.key(key), message, "keep one of them"));
            }
        }
        let issuer = self.issuer(&place.key("issuer"), &written.issuer);
        let hosts = self.endpoint_hosts(&place.key("endpoint_hosts"), &written.endpoint_hosts);
        let ca = written.jwks_ca.as_ref().map(|ca| self.authorities(&place.key("jwks_ca"), ca)).transpose();
        let refresh = written.refresh.clone().unwrap_or_else(raw::default_refresh);
        let refresh = self.duration(&place.key("refresh"), &refresh, REFRESH);
        Ok(KeySetSource::Discovered { issuer: issuer?, hosts: hosts?, ca: ca?, refresh: refresh? })
    }

    fn key_set_url(
        &mut self,
        place: &Place,
        written: &raw::Jwt,
        url: &str,
    ) -> Result<KeySetSource, Reported> {
        let at = place.key("jwks_uri");
        let why = "who can change the keys on the way can forge every token; use `https`";
        let url = self.protected_url(&at, url, why);
        let ca = written.jwks_ca.as_ref().map(|ca| self.authorities(&place.key("jwks_ca"), ca)).transpose();
        let refresh = written.refresh.clone().unwrap_or_else(raw::default_refresh);
        let refresh = self.duration(&place.key("refresh"), &refresh, REFRESH);
        Ok(KeySetSource::Url { url: url?, ca: ca?, refresh: refresh? })
    }

    /// A URL whose answers nobody can change on the way: `https`, or on loopback. `why` says what else could happen.
    pub(super) fn protected_url(&mut self, place: &Place, url: &str, why: &str) -> Result<Uri, Reported> {
        let url = self.web_url(place, url, "write `https://host/path`")?;
        let local = url.host().is_some_and(|host| is_loopback_host(bare_host(host)));
        if url.scheme_str() == Some("https") || local {
            return Ok(url);
        }
        let message = format!("`{}` is not protected on its way", self.shown(place));
        Err(self.report.error_with(place, message, why))
    }

    fn algorithms(&mut self, provider: &Place, written: &raw::Jwt) -> Result<Vec<Algorithm>, Reported> {
        let place = &provider.key("algorithms");
        let algorithms: Vec<Algorithm> = written.algorithms.iter().copied().map(algorithm).collect();
        let hmac = algorithms.iter().filter(|algorithm| is_hmac(**algorithm)).count();
        if hmac == 0 {
            return Ok(algorithms);
        }
        if hmac < algorithms.len() {
            let message = "HMAC and public-key algorithms are mixed";
            let help =
                "a public key could be taken for an HMAC secret, which anyone knows; use two providers";
            return Err(self.report.error_with(place, message, help));
        }
        if written.jwks_file.is_none() {
            let message = "HMAC algorithms need `jwks_file`";
            let help =
                "a secret cannot be published; use a public-key algorithm, or give the secret in a file";
            return Err(self.together(provider, place, message, help));
        }
        Ok(algorithms)
    }

    pub(super) fn claims(&mut self, place: &Place, written: &raw::Claims) -> Result<ClaimPaths, Reported> {
        let mut path = |key: &str, written: &raw::ClaimPath| self.claim_path(&place.key(key), written);
        let subject = path("subject", &written.subject);
        let roles = written.roles.as_ref().map(|roles| path("roles", roles)).transpose();
        let groups = written.groups.as_ref().map(|groups| path("groups", groups)).transpose();
        let scopes = path("scopes", &written.scopes);
        Ok(ClaimPaths { subject: subject?, roles: roles?, groups: groups?, scopes: Some(scopes?) })
    }

    fn claim_path(&mut self, place: &Place, written: &raw::ClaimPath) -> Result<Vec<String>, Reported> {
        let names: Vec<String> = match written {
            raw::ClaimPath::Dotted(text) => text.split('.').map(str::to_owned).collect(),
            raw::ClaimPath::Names(names) => names.clone(),
        };
        if names.iter().any(String::is_empty) {
            let message = format!("`{}` has an empty name", self.shown(place));
            return Err(self.report.error_with(place, message, "write `realm_access.roles`"));
        }
        if matches!(written, raw::ClaimPath::Dotted(text) if text.contains("://")) {
            let shown = self.shown(place);
            let message = format!("`{shown}` would be taken apart at its dots");
            let help = self.unless_secret(place, format!("write `[\"{shown}\"]`"));
            return Err(self.report.error_with(place, message, help));
        }
        Ok(names)
    }
}

pub(super) fn algorithm(written: raw::Algorithm) -> Algorithm {
    match written {
        raw::Algorithm::RS256 => Algorithm::RS256,
        raw::Algorithm::RS384 => Algorithm::RS384,
        raw::Algorithm::RS512 => Algorithm::RS512,
        raw::Algorithm::PS256 => Algorithm::PS256,
        raw::Algorithm::PS384 => Algorithm::PS384,
        raw::Algorithm::PS512 => Algorithm::PS512,
        raw::Algorithm::ES256 => Algorithm::ES256,
        raw::Algorithm::ES384 => Algorithm::ES384,
        raw::Algorithm::EdDSA => Algorithm::EdDSA,
        raw::Algorithm::HS256 => Algorithm::HS256,
        raw::Algorithm::HS384 => Algorithm::HS384,
        raw::Algorithm::HS512 => Algorithm::HS512,
    }
}

pub(super) fn is_hmac(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
}
