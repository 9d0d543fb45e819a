//! Asks outside what policies need to know: servers by HTTP, and names' addresses.
//!
//! Whom a policy may ask, how long, how much and how often is its configuration's business; whatever is not listed there is
//! refused before anything is sent. Waiting never holds a worker up: other requests go on meanwhile.

mod kept;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use regorus::Value;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use self::kept::{Kept, Shelf};
use crate::base::host_port::HostPort;
use crate::base::pem::PemError;
use crate::config::model;
use crate::contract::event::Outside as Told;
use crate::fetch::TrustError;
use crate::fetch::credentials::Credentials;
use crate::fetch::exchange::{ExchangeError, Exchanger, Outgoing, Received, Trust};
use crate::policy::http_send::{self, Keeping, Kind, Send, redirect};
use crate::rego::outside::{Outside, Permitted, Question, Reply};
use crate::upstream::resolve::Addresses;

/// Redirects followed, as Go's client does.
const REDIRECTS_MAX: usize = 10;

/// Names that one decision may look up, each in as many spellings as it likes.
const LOOKUPS_MAX: u32 = 32;

/// The pause after the first failed try; each further one is twice as long.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Why a policy cannot ask as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// A certificate or key.
    #[error("http_send: {0}")]
    Pem(#[from] PemError),
    /// No TLS client can be made.
    #[error("http_send: {0}")]
    Trust(#[from] TrustError),
}

/// Whom a policy may ask, shared by all workers.
#[derive(Debug)]
pub struct Outbound {
    http: Option<Http>,
    lookups: Option<Lookups>,
}

#[derive(Debug)]
struct Http {
    settings: model::HttpSend,
    trust: Trust,
    permits: Semaphore,
    shelf: Mutex<Shelf>,
}

#[derive(Debug)]
struct Lookups {
    names: BTreeMap<String, Addresses>,
    timeout: Duration,
}

/// A policy's way outside on one worker: it owns its connections.
#[derive(Debug)]
pub struct Asker {
    outbound: Arc<Outbound>,
    exchanger: OnceCell<Exchanger>,
}

/// What one decision has asked so far.
#[derive(Debug, Default)]
pub struct Spent {
    sends: usize,
    lookups: u32,
    sending: Duration,
    looking_up: Duration,
}

/// What came of sending.
enum Failed {
    /// Nobody may be asked this.
    Refused(String),
    /// There is no answer.
    Unanswered(Kind, String),
}

// === impl Outbound ===

impl Outbound {
    /// As configured; `None` where nobody may be asked.
    pub fn build(
        http_send: Option<&model::HttpSend>,
        lookup: Option<&model::Lookup>,
    ) -> Result<Option<Self>, OutboundError> {
        if http_send.is_none() && lookup.is_none() {
            return Ok(None);
        }
        let lookups = lookup.map(|lookup| Lookups {
            names: lookup.allow.iter().map(|name| (name.clone(), Addresses::new(name, 0))).collect(),
            timeout: lookup.timeout,
        });
        Ok(Some(Self { http: http_send.map(Http::build).transpose()?, lookups }))
    }

    /// What a policy with these settings may call.
    pub fn permitted(http_send: Option<&model::HttpSend>, lookup: Option<&model::Lookup>) -> Permitted {
        Permitted { http_send: http_send.is_some(), lookup_ip_addr: lookup.is_some() }
    }
}

// === impl Http ===

impl Http {
    fn build(settings: &model::HttpSend) -> Result<Self, OutboundError> {
        let shown = settings.client.as_ref().map(|files| (files.cert.as_path(), files.key.as_path()));
        let trust = Credentials::read(settings.ca.as_deref(), shown)?.trust()?;
        Ok(Self {
            trust,
            permits: Semaphore::new(settings.concurrent),
            shelf: Mutex::new(Shelf::new(settings.cache_bytes.bytes())),
            settings: settings.clone(),
        })
    }

    fn check(&self, request: &Outgoing) -> Result<(), Failed> {
        let server = HostPort::of(&request.url);
        match server {
            Some(server) if self.settings.allow.contains(&server) => Ok(()),
            Some(server) => Err(Failed::Refused(format!("`{server}` is not among the servers in `allow`"))),
            None => Err(Failed::Refused("the URL names no server".to_owned())),
        }
    }

    fn kept(&self, name: &Value, now: Duration) -> Option<(Kept, bool)> {
        let mut answers = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(name).map(|kept| (kept.clone(), kept.is_fresh(now)))
    }

    fn keep(&self, send: &Send, received: &Received, now: Duration) {
        let (name, kept) = match &send.keeping {
            Keeping::No => return,
            Keeping::AsToldBy(name) => (name, Kept::as_told(received, now)),
            Keeping::For(name, duration) => (name, Kept::until(received, now.saturating_add(*duration))),
        };
        let mut answers = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        match kept {
            Some(kept) => answers.put(name.clone(), kept, now),
            // What was kept before is no longer what the server says.
            None => answers.remove(name),
        }
    }
}

// === impl Asker ===

impl Asker {
    /// A way outside without connections.
    pub fn new(outbound: Arc<Outbound>) -> Self {
        Self { outbound, exchanger: OnceCell::new() }
    }

    /// Asks, at `now` since the Unix epoch, within what the decision has not `spent` yet; what is done is `told` at once.
    ///
    /// # Cancel safety
    /// May be dropped at any time; what was sent stays sent.
    pub async fn answer(
        &self,
        question: &Question,
        spent: &mut Spent,
        told: &mut Told,
        now: Duration,
    ) -> Reply {
        let started = Instant::now();
        let reply = match question.builtin {
            Outside::HttpSend => self.send(&question.argument, spent, told, now).await,
            Outside::LookupIpAddr => self.look_up(&question.argument, spent, told).await,
        };
        let took = started.elapsed();
        match question.builtin {
            Outside::HttpSend => spent.sending += took,
            Outside::LookupIpAddr => spent.looking_up += took,
        }
        told.us += u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        reply
    }

    async fn send(&self, argument: &Value, spent: &mut Spent, told: &mut Told, now: Duration) -> Reply {
        let Some(http) = &self.outbound.http else {
            return Reply::Refused("`http_send` is not configured".to_owned());
        };
        spent.sends += 1;
        if spent.sends > http.settings.requests {
            let most = http.settings.requests;
            return Reply::Refused(format!("one decision may send {most} different requests"));
        }
        let send = match http_send::parse(argument) {
            Ok(send) => send,
            Err(reply) => return reply,
        };
        let left = http.settings.timeout.saturating_sub(spent.sending);
        let limit = send.timeout.map_or(left, |own| own.min(left));
        let shown = shown(&send.request);
        let late = || Err(Failed::Unanswered(Kind::Network, "request timed out".to_owned()));
        let answered = if limit.is_zero() {
            // Nothing is sent that nobody would wait for.
            late()
        } else {
            let answered = timeout(limit, self.exchange(http, &send, now, told)).await;
            answered.unwrap_or_else(|_| late())
        };
        match answered {
            Ok(received) => Reply::Value(http_send::result(&received, send.decoding)),
            Err(Failed::Refused(reason)) => Reply::Refused(reason),
            Err(Failed::Unanswered(kind, message)) => {
                told.failed += 1;
                send.raising.reply(kind, &format!("{shown}: {message}"))
            }
        }
    }

    /// The answer to a request: one that was kept, or a new one.
    async fn exchange(
        &self,
        http: &Http,
        send: &Send,
        now: Duration,
        told: &mut Told,
    ) -> Result<Received, Failed> {
        // What was kept under other settings may not be asked any more.
        http.check(&send.request)?;
        let kept = match &send.keeping {
            Keeping::No => None,
            Keeping::AsToldBy(name) | Keeping::For(name, _) => http.kept(name, now),
        };
        let mut request = send.request.clone();
        let stale = match kept {
            Some((kept, true)) => {
                told.cached += 1;
                return Ok(kept.received);
            }
            Some((kept, false)) if kept.put_conditions(&mut request.headers) => Some(kept),
            Some((_, false)) | None => None,
        };
        let permit = http.permits.acquire().await;
        let _permit = permit.map_err(|_| Failed::Unanswered(Kind::Internal, "shutting down".to_owned()))?;
        told.sends += 1;
        let mut received = self.persist(http, send, request).await?;
        if let Some(stale) = stale
            && received.status == StatusCode::NOT_MODIFIED
        {
            received = stale.renewed(&received);
        }
        http.keep(send, &received, now);
        Ok(received)
    }

    /// Tries, as often as the request says.
    async fn persist(&self, http: &Http, send: &Send, request: Outgoing) -> Result<Received, Failed> {
        let mut tries = 0;
        loop {
            match self.follow(http, send, request.clone()).await {
                Err(Failed::Unanswered(Kind::Network, _)) if tries < send.retries => {
                    sleep(RETRY_DELAY * 2_u32.saturating_pow(tries)).await;
                    tries += 1;
                }
                answered => return answered,
            }
        }
    }

    /// Sends, and follows redirects where the request says so.
    async fn follow(&self, http: &Http, send: &Send, mut request: Outgoing) -> Result<Received, Failed> {
        let exchanger = self.exchanger.get_or_init(|| Exchanger::new(&http.trust));
        let bytes_max = usize::try_from(http.settings.response_bytes.bytes()).unwrap_or(usize::MAX);
        for _ in 0..=REDIRECTS_MAX {
            http.check(&request)?;
            let received = exchanger.exchange(request.clone(), bytes_max).await.map_err(Failed::from)?;
            let next = if send.follows { redirect::redirect(&request, &received) } else { None };
            match next {
                None => return Ok(received),
                Some(Ok(next)) => request = next,
                Some(Err(message)) => return Err(Failed::Unanswered(Kind::Network, message)),
            }
        }
        let message = format!("more than {REDIRECTS_MAX} redirects");
        Err(Failed::Unanswered(Kind::Network, message))
    }

    async fn look_up(&self, argument: &Value, spent: &mut Spent, told: &mut Told) -> Reply {
        let Some(lookups) = &self.outbound.lookups else {
            return Reply::Refused("`lookup` is not configured".to_owned());
        };
        let written = argument.as_string().map(ToString::to_string).unwrap_or_default();
        let name = written.strip_suffix('.').unwrap_or(&written).to_ascii_lowercase();
        let Some(addresses) = lookups.names.get(&name) else {
            let shown: String = written.escape_default().take(100).collect();
            return Reply::Refused(format!("`{shown}` is not among the names in `allow`"));
        };
        spent.lookups += 1;
        if spent.lookups > LOOKUPS_MAX {
            return Reply::Refused(format!("one decision may look up {LOOKUPS_MAX} different names"));
        }
        told.lookups += 1;
        let left = lookups.timeout.saturating_sub(spent.looking_up);
        let failed = match timeout(left, addresses.get()).await {
            Ok(Ok(found)) => {
                let found = found.iter().map(|address| Value::from(address.ip().to_string()));
                return Reply::Value(Value::from(found.collect::<BTreeSet<_>>()));
            }
            Ok(Err(_)) => "not found",
            Err(_) => "no answer in time",
        };
        told.failed += 1;
        Reply::Error(format!("lookup {name}: {failed}"))
    }
}

// === impl Failed ===

impl From<ExchangeError> for Failed {
    fn from(error: ExchangeError) -> Self {
        let kind = match error {
            ExchangeError::Unreachable(_) | ExchangeError::Body(_) => Kind::Network,
            ExchangeError::Request(_) | ExchangeError::TooLarge(_) => Kind::Internal,
        };
        Self::Unanswered(kind, error.to_string())
    }
}

/// A request as a message may show it: paths and queries hold secrets.
fn shown(request: &Outgoing) -> String {
    let scheme = request.url.scheme_str().unwrap_or_default();
    let server = HostPort::of(&request.url).map(|server| server.to_string()).unwrap_or_default();
    let method: String = request.method.as_str().chars().take(20).collect();
    format!("{method} {scheme}://{server}")
}
