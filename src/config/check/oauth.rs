//! Checks of providers that are clients of an authorization server.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use http::Uri;

use super::Check;
use super::identity::{LEEWAY, REFRESH, algorithm, is_hmac};
use super::value::{bare_host, is_loopback_host};
use crate::base::host_port::is_host;
use crate::base::net::is_loopback;
use crate::base::path::{CanonicalPath, PathRules};
use crate::base::secret::Secret;
use crate::config::model::{
    ClientAuthentication, Config, IntrospectionProvider, Name, OAuthClient, OidcPaths, OidcProvider,
    OidcSession, Provider,
};
use crate::config::place::Place;
use crate::config::raw::oauth as raw;
use crate::config::raw::policy::ClientTls;
use crate::config::raw::quantity;
use crate::config::report::Reported;

const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(5);
const CACHE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);
const NEGATIVE_CACHE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_mins(10);
const LIFETIME: RangeInclusive<Duration> = Duration::from_mins(1)..=Duration::from_hours(24 * 30);
const IDLE: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_hours(24 * 30);

/// Characters of a secret that cookies are sealed with.
const SESSION_KEY_MIN: usize = 32;

/// What both kinds of providers write of the client.
struct Client<'w> {
    id: &'w str,
    secret: Option<&'w String>,
    authentication: Option<raw::ClientAuthentication>,
    ca: Option<&'w String>,
    tls: Option<&'w ClientTls>,
    timeout: &'w quantity::Duration,
    /// What the server is asked for without a secret.
    without_secret: raw::ClientAuthentication,
}

impl Check<'_> {
    pub(super) fn introspection(
        &mut self,
        place: &Place,
        written: &raw::Introspection,
    ) -> Result<IntrospectionProvider, Reported> {
        let endpoint = self.secret_url(&place.key("endpoint"), &written.endpoint);
        let client = self.oauth_client(
            place,
            &Client {
                id: &written.client_id,
                secret: written.client_secret.as_ref(),
                authentication: written.client_authentication,
                ca: written.ca.as_ref(),
                tls: written.client_tls.as_ref(),
                timeout: &written.timeout,
                without_secret: raw::ClientAuthentication::TlsClientAuth,
            },
        );
        let claims = self.claims(&place.key("claims"), &written.claims);
        let leeway = self.duration(&place.key("leeway"), &written.leeway, LEEWAY);
        let header = self.credential_header(&place.key("header"), &written.header);
        let cache = self.duration(&place.key("cache"), &written.cache, CACHE);
        let negative_cache =
            self.duration(&place.key("negative_cache"), &written.negative_cache, NEGATIVE_CACHE);
        let stale = self.duration(&place.key("stale"), &written.stale, CACHE);
        Ok(IntrospectionProvider {
            endpoint: endpoint?,
            client: client?,
            issuer: written.issuer.clone(),
            audiences: written.audiences.clone(),
            claims: claims?,
            leeway: leeway?,
            header: header?,
            forward_credential: written.forward_credential,
            cache: cache?,
            negative_cache: negative_cache?,
            stale: stale?,
            entries: usize::try_from(written.entries).unwrap_or(usize::MAX),
        })
    }

    pub(super) fn oidc(&mut self, place: &Place, written: &raw::Oidc) -> Result<OidcProvider, Reported> {
        let issuer = self.issuer(&place.key("issuer"), &written.issuer);
        let client = self.oauth_client(
            place,
            &Client {
                id: &written.client_id,
                secret: written.client_secret.as_ref(),
                authentication: written.client_authentication,
                ca: written.ca.as_ref(),
                tls: written.client_tls.as_ref(),
                timeout: &written.timeout,
                without_secret: raw::ClientAuthentication::None,
            },
        );
        let hosts = self.endpoint_hosts(&place.key("endpoint_hosts"), &written.endpoint_hosts);
        let paths = self.oidc_paths(place, written);
        let post_logout_path = self.own_path(&place.key("post_logout_path"), &written.post_logout_path);
        let scopes = self.oidc_scopes(&place.key("scopes"), &written.scopes);
        let algorithms: Vec<_> = written.algorithms.iter().copied().map(algorithm).collect();
        let algorithms = if algorithms.iter().any(|algorithm| is_hmac(*algorithm)) {
            let help = "a client secret is no signing key here; use a public-key algorithm such as `RS256`";
            let at = place.key("algorithms");
            Err(self.report.error_with(&at, "HMAC algorithms are not accepted for ID tokens", help))
        } else {
            Ok(algorithms)
        };
        let claims = self.claims(&place.key("claims"), &written.claims);
        let leeway = self.duration(&place.key("leeway"), &written.leeway, LEEWAY);
        let refresh = self.duration(&place.key("refresh"), &written.refresh, REFRESH);
        let session = self.oidc_session(&place.key("session"), &written.session);
        Ok(OidcProvider {
            issuer: issuer?,
            client: client?,
            endpoint_hosts: hosts?,
            paths: paths?,
            post_logout_path: post_logout_path?,
            scopes: scopes?,
            algorithms: algorithms?,
            claims: claims?,
            user_info: written.user_info,
            leeway: leeway?,
            refresh: refresh?,
            session: session?,
        })
    }

    /// No two providers may want the same path: on a host that has both, only one could answer.
    pub(super) fn distinct_oidc(&mut self, providers: &BTreeMap<Name, Provider>) {
        let mut taken: BTreeMap<String, (Name, &'static str)> = BTreeMap::new();
        for (name, provider) in providers {
            let Provider::Oidc(oidc) = provider else { continue };
            for (key, path) in oidc.paths.named() {
                let path = path.as_str().to_owned();
                if let Some((other, other_key)) = taken.get(&path) {
                    let place = Place::root().key("identity").key(name).key(key);
                    let message = format!(
                        "`{}` is the `{other_key}` of the provider `{other}` already",
                        self.shown(&place)
                    );
                    self.report.error_with(&place, message, "give each provider paths of its own");
                }
                taken.entry(path).or_insert((Name::clone(name), key));
            }
        }
    }

    /// Without TLS, sessions would be anyone's on the way.
    pub(super) fn oidc_without_tls(&mut self, config: &Config) {
        let listeners = Place::root().key("listeners");
        let is_oidc = |name: &Name| matches!(config.identity.get(name), Some(Provider::Oidc(_)));
        for (index, listener) in config.listeners.iter().enumerate() {
            let is_open = listener.tls.is_none()
                && !is_loopback(listener.address.ip())
                && listener.trusted_proxies.is_empty();
            let serves = config.apis.iter().filter(|api| listener.apis.contains(&api.name)).any(|api| {
                let routes = api.routes.iter().filter_map(|route| route.identity.as_ref()).flatten();
                api.identity.iter().chain(routes).any(is_oidc)
            });
            if is_open && serves {
                let help = "give it `tls`, or name the proxy that ends TLS in `trusted_proxies`";
                let message = "browsers cannot log in here: sessions need TLS, except on loopback";
                self.report.warning(&listeners.index(index), message, help);
            }
        }
    }

    pub(super) fn issuer(&mut self, place: &Place, text: &str) -> Result<String, Reported> {
        let url = self.secret_url(place, text)?;
        if url.query().is_some() {
            let message = format!("the issuer `{}` has a query", self.shown(place));
            return Err(self.report.error_with(place, message, "write it as its discovery document does"));
        }
        Ok(text.to_owned())
    }

    /// A URL to which secrets are sent.
    pub(super) fn secret_url(&mut self, place: &Place, text: &str) -> Result<Uri, Reported> {
        let url = self.web_url(place, text, "write `https://host/path`")?;
        let local = url.host().is_some_and(|host| is_loopback_host(bare_host(host)));
        if url.scheme_str() == Some("https") || local {
            return Ok(url);
        }
        let message = format!("`{}` is not `https`", self.shown(place));
        let help =
            "secrets and tokens are sent there, which anyone on the way could read or change; use `https`";
        Err(self.report.error_with(place, message, help))
    }

    fn oauth_client(&mut self, place: &Place, written: &Client<'_>) -> Result<OAuthClient, Reported> {
        let authentication = self.client_authentication(place, written);
        let ca = written.ca.map(|ca| self.authorities(&place.key("ca"), ca)).transpose();
        let certificate = written.tls.map(|tls| self.client(&place.key("client_tls"), tls)).transpose();
        let timeout = self.duration(&place.key("timeout"), written.timeout, TIMEOUT);
        Ok(OAuthClient {
            id: written.id.to_owned(),
            authentication: authentication?,
            ca: ca?,
            certificate: certificate?,
            timeout: timeout?,
        })
    }

    fn client_authentication(
        &mut self,
        place: &Place,
        written: &Client<'_>,
    ) -> Result<ClientAuthentication, Reported> {
        use raw::ClientAuthentication as Written;
        let method = written.authentication.unwrap_or(match written.secret {
            Some(_) => Written::ClientSecretBasic,
            None => written.without_secret,
        });
        let at = place.key("client_authentication");
        match (method, written.secret) {
            (Written::ClientSecretBasic | Written::ClientSecretPost, None) => {
                Err(self.together(place, &at, "`client_secret` is missing", "write `\"${env:SECRET}\"`"))
            }
            (Written::ClientSecretBasic | Written::ClientSecretPost, Some(secret)) if secret.is_empty() => {
                let at = place.key("client_secret");
                Err(self.report.error_with(&at, "the client secret is empty", "take it out, or set it"))
            }
            (Written::ClientSecretBasic, Some(secret)) => {
                Ok(ClientAuthentication::Basic(Secret::new(secret.clone())))
            }
            (Written::ClientSecretPost, Some(secret)) => {
                Ok(ClientAuthentication::Post(Secret::new(secret.clone())))
            }
            (Written::TlsClientAuth | Written::None, Some(_)) => {
                let message = "`client_secret` has no effect with this `client_authentication`";
                Err(self.together(place, &place.key("client_secret"), message, "take one of them out"))
            }
            (Written::TlsClientAuth, None) if written.tls.is_none() => {
                let message = "the gateway has nothing to prove who it is";
                let help = "give `client_secret`, or `client_tls` with its certificate";
                Err(self.together(place, place, message, help))
            }
            (Written::TlsClientAuth, None) => Ok(ClientAuthentication::Certificate),
            (Written::None, None) if written.without_secret != Written::None => {
                let message = "who is not authenticated cannot ask about tokens";
                let help = "give `client_secret`, or `client_tls` with a certificate";
                Err(self.together(place, &at, message, help))
            }
            (Written::None, None) => Ok(ClientAuthentication::None),
        }
    }

    pub(super) fn endpoint_hosts(
        &mut self,
        place: &Place,
        written: &[String],
    ) -> Result<Vec<String>, Reported> {
        super::all(written.iter().enumerate().map(|(index, text)| {
            if is_host(text) {
                return Ok(text.to_ascii_lowercase());
            }
            let place = place.index(index);
            let message = format!("`{}` is not the name of a host", self.shown(&place));
            Err(self.report.error_with(&place, message, "write `sso.internal`, without scheme and port"))
        }))
    }

    fn oidc_paths(&mut self, place: &Place, written: &raw::Oidc) -> Result<OidcPaths, Reported> {
        let redirect = self.own_path(&place.key("redirect_path"), &written.redirect_path);
        let logout = self.own_path(&place.key("logout_path"), &written.logout_path);
        let login = written.login_path.as_ref();
        let login = login.map(|path| self.own_path(&place.key("login_path"), path)).transpose();
        let backchannel = written.backchannel_logout_path.as_ref();
        let backchannel =
            backchannel.map(|path| self.own_path(&place.key("backchannel_logout_path"), path)).transpose();
        let paths = OidcPaths {
            redirect: redirect?,
            login: login?,
            logout: logout?,
            backchannel_logout: backchannel?,
        };
        let mut seen = Vec::new();
        for (key, path) in paths.named() {
            if seen.contains(&path.as_str()) {
                let at = place.key(key);
                let message = format!("`{}` is another path of this provider, too", self.shown(&at));
                return Err(self.report.error_with(&at, message, "give each its own"));
            }
            seen.push(path.as_str());
        }
        Ok(paths)
    }

    /// A path that the gateway answers itself.
    fn own_path(&mut self, place: &Place, text: &str) -> Result<CanonicalPath, Reported> {
        match CanonicalPath::parse(text, PathRules::default()) {
            Ok(path) if path.as_str() == text && !text.contains(['?', '#', '{', '*', '%', '\\']) => Ok(path),
            Ok(_) | Err(_) => {
                let message = format!("`{}` is not a plain path", self.shown(place));
                Err(self.report.error_with(place, message, "write `/oauth2/callback`"))
            }
        }
    }

    fn oidc_scopes(&mut self, place: &Place, written: &[String]) -> Result<Vec<String>, Reported> {
        // RFC 6749 appendix A.4.
        let is_token = |scope: &String| {
            !scope.is_empty() && scope.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte))
        };
        if let Some(index) = written.iter().position(|scope| !is_token(scope)) {
            let place = place.index(index);
            let message = format!("`{}` is not a scope", self.shown(&place));
            return Err(self.report.error_with(&place, message, "write one scope in each item"));
        }
        if !written.iter().any(|scope| scope == "openid") {
            let help = "without it the provider gives no ID token; write `[openid, email]`";
            return Err(self.report.error_with(place, "`openid` is not among the scopes", help));
        }
        Ok(written.to_vec())
    }

    fn oidc_session(&mut self, place: &Place, written: &raw::Session) -> Result<OidcSession, Reported> {
        let at = place.key("keys");
        let keys = super::all(written.keys.iter().enumerate().map(|(index, key)| {
            if key.chars().count() >= SESSION_KEY_MIN {
                return Ok(Secret::new(key.clone()));
            }
            // The text is not quoted: it is a secret, if a bad one.
            let message = format!("a session key has less than {SESSION_KEY_MIN} characters");
            let help =
                "make one with `openssl rand -hex 32 > session.key`, and write `\"${file:session.key}\"`";
            Err(self.report.error_with(&at.index(index), message, help))
        }));
        let lifetime = self.duration(&place.key("lifetime"), &written.lifetime, LIFETIME);
        let idle = self.duration(&place.key("idle"), &written.idle, IDLE);
        let (keys, lifetime, idle) = (keys?, lifetime?, idle?);
        if idle > lifetime {
            let message = "`idle` is longer than `lifetime`, and has no effect";
            return Err(self.together(place, &place.key("idle"), message, "make it shorter"));
        }
        Ok(OidcSession { keys, lifetime, idle, require_same_origin: written.require_same_origin })
    }
}
