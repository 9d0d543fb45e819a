//! The gateway as a relying party: it sends browsers to log in, takes them back, and ends their sessions.
//!
//! What it answers is an [`BrowserAnswer`]; how that becomes a response is the pipeline's business. Every wait for the provider is
//! bounded, and a provider that does not answer is [`Kind::Unavailable`]: it never makes a session.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode, Uri};
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::cookie::{Jar, Pair, Repeated, VALUE_BYTES_MAX};
use super::id_token::{self, Expected, TokenFault, are_equal};
use super::login::{Callback, LOGIN_MAX, Login, Request, login_id, return_path, with_parameters};
use super::revocation::Whose;
use super::seal::{Place, Sealer, random_text};
use super::session::{Lifetimes, Session};
use super::state::State;
use super::token::Tokens;
use super::visit::Visit;
use super::{BAD, ENDED, EXPIRED, OidcFault};
use crate::base::clock::Clock;
use crate::config::model::{KeySetSource, Name, OidcProvider};
use crate::contract::identity::Facts;
use crate::contract::input::form_pairs;
use crate::fetch::credentials::CredentialsError;
use crate::identity::discovery::Metadata;
use crate::identity::jwt::claims::Claims;
use crate::identity::jwt::fault::Fault;
use crate::identity::jwt::jwk::Keys;
use crate::identity::jwt::key_set::KeySet;
use crate::identity::oauth::{Client, NoAnswer};
use crate::identity::remote::tasks::Tasks;
use crate::identity::resources::Resources;

/// Logins that one browser may have begun; beyond that, all are forgotten.
const LOGINS_MAX: usize = 4;

/// The longest wait for a login's tokens, keys and claims together.
const REDEEM_MAX: Duration = Duration::from_secs(10);

/// The provider has not been reached yet, or not for long.
const UNAVAILABLE: &str = "oidc_unavailable";

/// The login was completed before.
const REPLAYED: &str = "oidc_replayed_state";

/// One client of one OpenID provider.
#[derive(Debug)]
pub struct RelyingParty {
    name: Name,
    config: OidcProvider,
    client: Client,
    key_set: Arc<KeySet>,
    sealer: Sealer,
    state: Arc<State>,
    tasks: Tasks,
    clock: Arc<dyn Clock>,
}

/// A path that the gateway answers itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// The provider sends a browser back.
    Callback,
    /// A browser asks to log in.
    Login,
    /// A browser asks to log out.
    Logout,
    /// The provider tells of a logout.
    BackchannelLogout,
}

/// What a browser, or the provider, is answered.
#[derive(Debug)]
pub struct BrowserAnswer {
    /// What became of it.
    pub kind: Kind,
    /// A stable `snake_case` word.
    pub reason: &'static str,
    /// Where the browser goes next.
    pub location: Option<HeaderValue>,
    /// What is set in the browser.
    pub cookies: Vec<HeaderValue>,
}

/// What became of a request to a [`Page`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Done.
    Done,
    /// The request is none of this browser's logins, or malformed.
    BadRequest,
    /// What the provider gave proves nobody.
    BadCredential,
    /// A page of another origin may have sent it.
    Forbidden,
    /// Not with this method.
    BadMethod,
    /// The provider does not answer.
    Unavailable,
}

/// Why the provider has given nothing to go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// It says no, or what it says is not to be believed.
    Refused(&'static str),
    /// It does not answer.
    Unavailable(&'static str),
}

/// Where a session is set: what [`Place`] is made of, and the cookies that are there.
#[derive(Debug)]
pub(super) struct Bound {
    listener: Name,
    host: String,
    scheme: &'static str,
    jar: Jar,
    held: Vec<Pair>,
}

// === impl RelyingParty ===

impl RelyingParty {
    pub(super) fn open(name: &Name, config: &OidcProvider, resources: &Resources) -> Result<Self, OidcFault> {
        let source = KeySetSource::Discovered {
            issuer: config.issuer.clone(),
            hosts: config.endpoint_hosts.clone(),
            ca: config.client.ca.clone(),
            refresh: config.refresh,
        };
        let credentials = Client::credentials(&config.client).map_err(CredentialsError::from)?;
        let client = Client::new(&config.client, credentials).map_err(CredentialsError::from)?;
        Ok(Self {
            name: Name::clone(name),
            config: config.clone(),
            client,
            key_set: resources.key_sets.open(&source)?,
            sealer: Sealer::new(&config.session.keys)?,
            state: resources.sessions.open(&config.issuer, &config.client.id),
            tasks: resources.remotes.tasks().clone(),
            clock: Arc::clone(resources.remotes.clock()),
        })
    }

    /// The provider's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Which of its pages `path` is.
    pub fn page(&self, path: &str) -> Option<Page> {
        let paths = &self.config.paths;
        let optional = |path: &Option<crate::base::path::CanonicalPath>| path.clone();
        let pages = [
            (Some(paths.redirect.clone()), Page::Callback),
            (optional(&paths.login), Page::Login),
            (Some(paths.logout.clone()), Page::Logout),
            (optional(&paths.backchannel_logout), Page::BackchannelLogout),
        ];
        pages.into_iter().find_map(|(its, page)| its.is_some_and(|its| its.as_str() == path).then_some(page))
    }

    pub(super) fn config(&self) -> &OidcProvider {
        &self.config
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(super) fn lifetimes(&self) -> Lifetimes {
        Lifetimes { absolute: self.config.session.lifetime, idle: self.config.session.idle }
    }

    // --- sessions ---

    /// What a session of `visit` is known by: its cookie, and where it holds.
    pub(super) fn credential(&self, visit: &Visit) -> Result<Option<Vec<u8>>, Repeated> {
        if !visit.may_have_session() {
            return Ok(None);
        }
        let cookie = visit.jar(&self.name).session(&visit.cookies)?;
        let place =
            |cookie: String| format!("{}\0{}\0{}\0{cookie}", visit.listener, visit.host, visit.scheme());
        Ok(cookie.map(|cookie| place(cookie).into_bytes()))
    }

    /// The session of `visit`, whether or not it is over; `None` for what is no session of this place.
    pub(super) fn session(&self, visit: &Visit) -> Option<Session> {
        let cookie = visit.jar(&self.name).session(&visit.cookies).ok()??;
        Session::decode(&self.sealer.open(&self.place(visit).of(self, "session"), &cookie)?)
    }

    /// Whether a session is over.
    pub(super) fn check(&self, session: &Session, now: Duration) -> Result<(), &'static str> {
        session.validity(self.lifetimes(), now).map_err(|_| EXPIRED)?;
        if self.state.revocations.has_ended(session) { Err(ENDED) } else { Ok(()) }
    }

    /// Whether a refusal for this reason means that the browser's cookie is of no more use.
    pub fn is_over(reason: &str) -> bool {
        [BAD, EXPIRED, ENDED].contains(&reason)
    }

    /// Takes away the browser's session.
    pub fn clear_session(&self, visit: &Visit) -> Vec<HeaderValue> {
        visit.jar(&self.name).clear_session(&visit.cookies)
    }

    pub(super) fn place(&self, visit: &Visit) -> Bound {
        Bound {
            listener: Name::clone(&visit.listener),
            host: visit.host.clone(),
            scheme: visit.scheme(),
            jar: visit.jar(&self.name),
            held: visit.cookies.clone(),
        }
    }

    /// Cookies that hold `session`. Where there is no room for its ID token, that is left out; `None` where there is no room even
    /// so.
    pub(super) fn set_session(
        &self,
        bound: &Bound,
        session: &mut Session,
        now: Duration,
    ) -> Option<Vec<HeaderValue>> {
        let place = bound.of(self, "session");
        let mut sealed = self.sealer.seal(&place, &session.encode()).ok()?;
        if sealed.len() > VALUE_BYTES_MAX && session.id_token.take().is_some() {
            sealed = self.sealer.seal(&place, &session.encode()).ok()?;
        }
        if sealed.len() > VALUE_BYTES_MAX {
            return None;
        }
        let lifetimes = self.lifetimes();
        let left = session.ends(lifetimes).saturating_sub(now).min(lifetimes.idle);
        Some(bound.jar.set_session(&sealed, left.as_secs().max(1), &bound.held))
    }

    // --- login ---

    /// Sends the browser to log in, and afterwards to `return_to`.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn begin(&self, visit: &Visit, return_to: &str, now: Duration) -> BrowserAnswer {
        if !visit.may_have_session() {
            return BrowserAnswer::no(Kind::Forbidden, "oidc_needs_tls");
        }
        let metadata = match self.metadata(now).await {
            Ok(metadata) => metadata,
            Err(reason) => return BrowserAnswer::no(Kind::Unavailable, reason),
        };
        let Some(endpoint) = &metadata.authorization_endpoint else {
            return BrowserAnswer::no(Kind::Unavailable, "oidc_no_authorization_endpoint");
        };
        let begun = Login::begin(return_to, now).and_then(|login| {
            let redirect_uri = visit.url(self.config.paths.redirect.as_str());
            let request = Request {
                client_id: self.client.id(),
                redirect_uri: &redirect_uri,
                scopes: &self.config.scopes,
            };
            let place = self.place(visit);
            let sealed = self.sealer.seal(&place.of(self, "login"), &login.encode()).ok()?;
            let jar = &place.jar;
            let mut cookies = if jar.logins(&visit.cookies) >= LOGINS_MAX {
                jar.clear_logins(&visit.cookies)
            } else {
                Vec::new()
            };
            cookies.push(jar.set_login(login.id(), &sealed, LOGIN_MAX.as_secs())?);
            Some((login.url(endpoint, &request)?, cookies))
        });
        match begun {
            Some((location, cookies)) => BrowserAnswer::to("oidc_login", location, cookies),
            None => BrowserAnswer::no(Kind::Unavailable, "oidc_login_failed"),
        }
    }

    /// A browser asks to log in: `return_to` of its query says where it goes afterwards.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn asked_to_log_in(&self, visit: &Visit, query: Option<&str>, now: Duration) -> BrowserAnswer {
        let mut wanted = form_pairs(query.unwrap_or_default()).filter(|(name, _)| name == "return_to");
        let return_to = match (wanted.next(), wanted.next()) {
            (None, _) => "/".to_owned(),
            (Some((_, path)), None) if return_path(&path).is_some() => path.into_owned(),
            (Some(_), _) => return BrowserAnswer::no(Kind::BadRequest, "oidc_bad_return"),
        };
        self.begin(visit, &return_to, now).await
    }

    /// Takes a browser back that the provider has sent.
    ///
    /// # Cancel safety
    /// May be dropped at any time: then there is no session.
    pub async fn complete(
        self: &Arc<Self>,
        visit: &Visit,
        query: Option<&str>,
        now: Duration,
    ) -> BrowserAnswer {
        let Ok(callback) = Callback::parse(query.unwrap_or_default()) else {
            return BrowserAnswer::no(Kind::BadRequest, "oidc_bad_callback");
        };
        let place = self.place(visit);
        let Some(login) = self.login_of(&place, &callback, now) else {
            return BrowserAnswer::no(Kind::BadRequest, "oidc_unknown_state");
        };
        let cleared: Vec<HeaderValue> = place.jar.clear_login(login.id()).into_iter().collect();
        let no = |kind, reason| BrowserAnswer { cookies: cleared.clone(), ..BrowserAnswer::no(kind, reason) };
        let metadata = match self.metadata(now).await {
            Ok(metadata) => metadata,
            Err(reason) => return no(Kind::Unavailable, reason),
        };
        // RFC 9207: the answer is of the provider that was asked, and not of another one.
        match &callback.issuer {
            Some(issuer) if *issuer != self.config.issuer => {
                return no(Kind::BadRequest, "oidc_wrong_issuer");
            }
            None if metadata.names_issuer => return no(Kind::BadRequest, "oidc_missing_issuer"),
            Some(_) | None => {}
        }
        let Some(code) = callback.code else { return no(Kind::BadCredential, "oidc_login_refused") };
        let return_to = login.return_to.clone();
        let redirect_uri = visit.url(self.config.paths.redirect.as_str());
        let mut session = match self.redeemed(login, code, redirect_uri).await {
            Ok(session) => session,
            Err(Failure::Refused(REPLAYED)) => return no(Kind::BadRequest, REPLAYED),
            Err(Failure::Refused(reason)) => return no(Kind::BadCredential, reason),
            Err(Failure::Unavailable(reason)) => return no(Kind::Unavailable, reason),
        };
        let Some(mut cookies) = self.set_session(&place, &mut session, self.clock.now()) else {
            return no(Kind::BadCredential, "oidc_session_too_large");
        };
        cookies.extend(cleared);
        let location = HeaderValue::try_from(return_to).unwrap_or(HeaderValue::from_static("/"));
        BrowserAnswer::to("oidc_logged_in", location, cookies)
    }

    /// The login of this browser that a callback belongs to.
    fn login_of(&self, place: &Bound, callback: &Callback, now: Duration) -> Option<Login> {
        let id = login_id(&callback.state)?;
        let cookie = place.jar.login(id, &place.held).ok()??;
        let login = Login::decode(&self.sealer.open(&place.of(self, "login"), cookie)?)?;
        let is_it = are_equal(login.state.as_bytes(), callback.state.as_bytes());
        (is_it && login.is_current(now)).then_some(login)
    }

    /// The session that a code stands for. The asking runs on the control runtime.
    async fn redeemed(
        self: &Arc<Self>,
        login: Login,
        code: String,
        redirect_uri: String,
    ) -> Result<Session, Failure> {
        let (sender, receiver) = oneshot::channel();
        let party = Arc::clone(self);
        let is_asked = self.tasks.spawn(async move {
            let session = tokio::time::timeout(REDEEM_MAX, party.redeem(&login, &code, &redirect_uri)).await;
            // The browser may have gone.
            drop(sender.send(session.unwrap_or(Err(Failure::Unavailable("oidc_timeout")))));
        });
        if !is_asked {
            return Err(Failure::Unavailable("oidc_overloaded"));
        }
        match tokio::time::timeout(REDEEM_MAX.saturating_add(Duration::from_secs(1)), receiver).await {
            Ok(Ok(session)) => session,
            Ok(Err(_)) | Err(_) => Err(Failure::Unavailable("oidc_timeout")),
        }
    }

    async fn redeem(&self, login: &Login, code: &str, redirect_uri: &str) -> Result<Session, Failure> {
        let endpoint = self.token_endpoint().await?;
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect_uri),
            ("code_verifier", login.verifier.as_str()),
        ];
        let answered = self.client.post(&endpoint, &form).await.map_err(Failure::of)?;
        if answered.status != StatusCode::OK {
            return Err(match answered.error() {
                Some("invalid_grant") => Failure::Refused("oidc_code_refused"),
                Some(_) | None => Failure::Unavailable("oidc_token_refused"),
            });
        }
        let tokens = Tokens::read(&answered.document).map_err(|_| Failure::Unavailable("oidc_malformed"))?;
        let id_token = tokens.id_token.as_deref().ok_or(Failure::Refused("oidc_no_id_token"))?;
        let expected = id_token::Login { nonce: Some(&login.nonce), access_token: &tokens.access_token };
        let mut claims = self.verified(id_token, expected).await?;
        if self.config.user_info {
            claims = self.user_info(&tokens.access_token, &claims).await?;
        }
        self.facts(claims.clone(), None)?;
        if !self.state.revocations.complete_login(&login.state) {
            return Err(Failure::Refused(REPLAYED));
        }
        let now = self.clock.now();
        let renew_at = now.saturating_add(tokens.lifetime).as_secs();
        Ok(Session {
            id: random_text::<16>().map_err(|_| Failure::Unavailable("oidc_login_failed"))?,
            started: now.as_secs(),
            seen: now.as_secs(),
            turn: 0,
            renew_at: tokens.refresh_token.is_some().then_some(renew_at),
            refresh_token: tokens.refresh_token,
            claims,
            id_token: tokens.id_token,
        })
    }

    /// The identity that `claims` say; an error where one that is asked for is of the wrong kind.
    pub(super) fn facts(&self, claims: Map<String, Value>, ends: Option<Duration>) -> Result<Facts, Failure> {
        let claims = Claims::new(claims);
        let audience = claims.audiences();
        let facts = audience.and_then(|audience| {
            claims.into_facts("oidc", &self.config.claims, audience.unwrap_or_default(), ends)
        });
        facts.map_err(|fault| Failure::Refused(fault.reason()))
    }

    // --- logout ---

    /// A page of the same origin asks to end the session: here, and at the provider.
    pub fn log_out(&self, visit: &Visit, now: Duration) -> BrowserAnswer {
        if !visit.is_own() {
            return BrowserAnswer::no(Kind::Forbidden, super::CROSS_SITE);
        }
        let session = self.session(visit);
        if let Some(session) = &session {
            self.state.revocations.end(Whose::Session(&session.id), now, self.config.session.lifetime);
        }
        let cookies = self.clear_session(visit);
        let home = self.config.post_logout_path.as_str();
        let at_provider = session.and_then(|session| {
            let endpoint = self.key_set.metadata()?.end_session_endpoint.clone()?;
            let back = visit.url(home);
            let mut parameters = vec![("client_id", self.client.id()), ("post_logout_redirect_uri", &back)];
            if let Some(id_token) = &session.id_token {
                parameters.push(("id_token_hint", id_token));
            }
            with_parameters(&endpoint, &parameters)
        });
        let location = at_provider.or_else(|| HeaderValue::from_str(home).ok());
        BrowserAnswer { kind: Kind::Done, reason: "oidc_logged_out", location, cookies }
    }

    /// The provider tells of a logout with this form.
    ///
    /// # Cancel safety
    /// May be dropped at any time; then nothing is ended.
    pub async fn told_of_logout(&self, form: &[u8], now: Duration) -> BrowserAnswer {
        let text = String::from_utf8_lossy(form);
        let mut tokens = form_pairs(&text).filter(|(name, _)| name == "logout_token");
        let (Some((_, token)), None) = (tokens.next(), tokens.next()) else {
            return BrowserAnswer::no(Kind::BadRequest, "oidc_no_logout_token");
        };
        let logout = self.with_keys(|keys, expected| id_token::logout_token(&token, keys, expected)).await;
        let logout = match logout {
            Ok(logout) => logout,
            Err(Failure::Refused(reason)) => return BrowserAnswer::no(Kind::BadRequest, reason),
            Err(Failure::Unavailable(reason)) => return BrowserAnswer::no(Kind::Unavailable, reason),
        };
        // A session that is named is the one that is meant; else all of the user's (section 2.6).
        let whose = match (&logout.session, &logout.subject) {
            (Some(session), _) => Whose::ProviderSession(session),
            (None, Some(subject)) => Whose::Subject(subject),
            (None, None) => return BrowserAnswer::no(Kind::BadRequest, "oidc_no_logout_token"),
        };
        self.state.revocations.end(whose, now, self.config.session.lifetime);
        BrowserAnswer {
            kind: Kind::Done,
            reason: "oidc_backchannel_logout",
            location: None,
            cookies: Vec::new(),
        }
    }

    // --- what the provider says ---

    /// What the provider says of itself, waited for a moment where it is not here yet.
    async fn metadata(&self, now: Duration) -> Result<Arc<Metadata>, &'static str> {
        if let Some(metadata) = self.key_set.metadata() {
            return Ok(metadata);
        }
        if let Some(fetched) = self.key_set.demand(now) {
            fetched.await;
        }
        self.key_set.metadata().ok_or(UNAVAILABLE)
    }

    pub(super) async fn token_endpoint(&self) -> Result<Uri, Failure> {
        let metadata = self.metadata(self.clock.now()).await.map_err(Failure::Unavailable)?;
        metadata.token_endpoint.clone().ok_or(Failure::Unavailable("oidc_no_token_endpoint"))
    }

    /// The claims of an ID token.
    pub(super) async fn verified(
        &self,
        token: &str,
        login: id_token::Login<'_>,
    ) -> Result<Map<String, Value>, Failure> {
        self.with_keys(|keys, expected| id_token::id_token(token, keys, expected, login)).await
    }

    /// Judges with the provider's keys, fetched anew where a token names one that is not there.
    async fn with_keys<T>(
        &self,
        judge: impl Fn(&Keys, &Expected<'_>) -> Result<T, TokenFault>,
    ) -> Result<T, Failure> {
        let attempt = || {
            let expected = Expected {
                issuer: &self.config.issuer,
                client_id: self.client.id(),
                algorithms: &self.config.algorithms,
                leeway: self.config.leeway,
                now: self.clock.now(),
            };
            self.key_set.keys().as_ref().map(|keys| judge(keys, &expected))
        };
        let first = attempt();
        let is_keyless = matches!(first, None | Some(Err(TokenFault::Token(Fault::UnknownKey))));
        let last = match is_keyless.then(|| self.key_set.demand(self.clock.now())).flatten() {
            None => first,
            Some(fetched) => {
                fetched.await;
                attempt()
            }
        };
        match last {
            None => Err(Failure::Unavailable(UNAVAILABLE)),
            Some(judged) => judged.map_err(|fault| Failure::Refused(fault.reason())),
        }
    }

    /// `claims` with those of the user info endpoint (OpenID Connect Core 1.0 section 5.3).
    pub(super) async fn user_info(
        &self,
        access_token: &str,
        claims: &Map<String, Value>,
    ) -> Result<Map<String, Value>, Failure> {
        let metadata = self.metadata(self.clock.now()).await.map_err(Failure::Unavailable)?;
        let endpoint = metadata.userinfo_endpoint.as_ref();
        let endpoint = endpoint.ok_or(Failure::Unavailable("oidc_no_userinfo_endpoint"))?;
        let answered = self.client.get(endpoint, access_token).await.map_err(Failure::of)?;
        if answered.status != StatusCode::OK {
            return Err(Failure::Unavailable("oidc_userinfo_refused"));
        }
        // Section 5.3.2: an answer about somebody else must not be used.
        if answered.document.get("sub") != claims.get("sub") {
            return Err(Failure::Refused("oidc_other_subject"));
        }
        let mut merged = answered.document;
        merged.extend(claims.iter().map(|(name, value)| (name.clone(), value.clone())));
        Ok(merged)
    }
}

// === impl Bound ===

impl Bound {
    fn of<'a>(&'a self, party: &'a RelyingParty, kind: &'static str) -> Place<'a> {
        Place {
            kind,
            provider: &party.name,
            issuer: &party.config.issuer,
            client_id: party.client.id(),
            listener: &self.listener,
            host: &self.host,
            scheme: self.scheme,
        }
    }
}

// === impl Failure ===

impl Failure {
    pub(super) fn of(none: NoAnswer) -> Self {
        Self::Unavailable(match none {
            NoAnswer::Timeout => "oidc_timeout",
            NoAnswer::Unreachable => "oidc_unreachable",
            NoAnswer::Status => "oidc_failed",
            NoAnswer::Malformed => "oidc_malformed",
        })
    }
}

// === impl BrowserAnswer ===

impl BrowserAnswer {
    /// That it is not done.
    pub fn no(kind: Kind, reason: &'static str) -> Self {
        Self { kind, reason, location: None, cookies: Vec::new() }
    }

    fn to(reason: &'static str, location: HeaderValue, cookies: Vec<HeaderValue>) -> Self {
        Self { kind: Kind::Done, reason, location: Some(location), cookies }
    }
}
