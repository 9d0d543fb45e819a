//! Providers that must ask a server: one machine for directories, introspection endpoints and the like.
//!
//! It owns what such a provider must not get wrong, so that no provider has its own version of it: each question has a
//! deadline, equal questions are asked once at a time, answers are remembered within bounds, and a server that does not
//! answer is left alone for a while instead of being waited for by every request. The asking itself runs on the control
//! runtime, where connections are shared by all workers.
//!
//! **An outage lets nobody in.** Only an answer that was good once may be used again while the server is down, for as
//! long as the configuration says (`stale`, by default not at all), and it is marked.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::watch;

use crate::base::clock::Clock;
use crate::contract::identity::Facts;
use crate::identity::digest::Sha256;
use crate::identity::remote::breaker::{Breaker, Pass};
use crate::identity::remote::kept::{Kept, Known};
use crate::identity::remote::tasks::Tasks;
use crate::identity::{Answer, Proof, Rejection, Reply, Validity, Verdict};

mod breaker;
mod kept;
pub mod remotes;
pub mod tasks;

/// Questions that one provider may have open at once; beyond that, nobody is asked.
const FLIGHTS_MAX: usize = 1024;

/// How long an answer of the past serves a worker while the server is down: soon enough asked again to notice its return.
const STALE_STEP: Duration = Duration::from_secs(1);

/// The server has failed too often in a row, and is not asked for the moment.
const CIRCUIT_OPEN: &str = "provider_circuit_open";

/// More questions are open than a server can be expected to answer.
const OVERLOADED: &str = "provider_overloaded";

/// The server has not answered in time.
const TIMED_OUT: &str = "provider_timeout";

/// Nobody is there to ask: the gateway is stopping.
const STOPPED: &str = "provider_stopped";

/// What a provider asks its server.
pub trait Inquiry: fmt::Debug + Send + Sync + 'static {
    /// All that an answer depends on.
    type Question: Send + 'static;

    /// Asks. Whoever calls this bounds it in time and may drop it; it bounds what it reads.
    fn ask<'a>(&'a self, question: &'a Self::Question) -> Asking<'a>;

    /// Whether an outage is one for every question. One that comes of what is asked about says nothing of the server, and
    /// must not open the circuit for everybody.
    fn is_for_all(&self, _outage: Outage) -> bool {
        true
    }
}

/// A question on its way.
pub type Asking<'a> = Pin<Box<dyn Future<Output = Result<Finding, Outage>> + Send + 'a>>;

/// What a server said.
#[derive(Debug)]
pub enum Finding {
    /// The credential is good.
    Proven {
        /// For whom.
        facts: Box<Facts>,
        /// Until when at most, since the Unix epoch; `None` where the server does not say.
        until: Option<Duration>,
    },
    /// The credential is bad: a stable `snake_case` word.
    Refused(Refused),
}

/// A refusal of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// A stable `snake_case` word.
    pub reason: &'static str,
    /// What the client gets in place of the gateway's own words, where the server says so.
    pub reply: Option<Arc<Reply>>,
}

impl Refused {
    /// A refusal in the gateway's own words.
    pub fn plain(reason: &'static str) -> Self {
        Self { reason, reply: None }
    }
}

/// A server gave no answer, or none that can be used: a stable `snake_case` word. It says nothing about the credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// The word, such as `ldap_unreachable`.
    pub reason: &'static str,
}

/// How long answers are waited for and remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The longest wait for an answer.
    pub timeout: Duration,
    /// How long a good answer is remembered.
    pub ttl: Duration,
    /// How long a refusal is remembered.
    pub negative_ttl: Duration,
    /// How much longer a good answer serves while the server is down.
    pub stale: Duration,
    /// Answers remembered at most.
    pub entries: usize,
}

/// How a provider's server is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// `closed` (it is asked), `open` (it is left alone), or `half_open` (one question finds out).
    pub circuit: &'static str,
    /// Questions asked.
    pub asked: u64,
    /// Questions that ended in an outage.
    pub outages: u64,
    /// Requests that were answered from the past because of one.
    pub stale: u64,
    /// The last outage's word, and when it was, since the Unix epoch.
    pub last_outage: Option<(&'static str, Duration)>,
    /// Answers remembered.
    pub remembered: usize,
}

/// One provider's questions and answers, shared by all workers.
#[derive(Debug)]
pub struct Remote<I: Inquiry> {
    inquiry: I,
    patience: Patience,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    kept: Kept,
    breaker: Breaker,
    flights: foldhash::HashMap<Sha256, watch::Receiver<Option<Settled>>>,
    status: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    asked: u64,
    outages: u64,
    stale: u64,
    last_outage: Option<(&'static str, Duration)>,
}

/// What came of a question.
#[derive(Debug, Clone)]
pub(in crate::identity) enum Settled {
    /// A good credential.
    Proven(Arc<Known>),
    /// A bad one.
    Refused(Refused),
    /// No answer.
    Outage(Outage),
}

/// What to do about a question.
enum Step {
    Done(Verdict),
    Join(watch::Receiver<Option<Settled>>),
    Ask(watch::Sender<Option<Settled>>, watch::Receiver<Option<Settled>>),
}

// === impl Remote ===

impl<I: Inquiry> Remote<I> {
    /// Asks `inquiry`'s server on `tasks`.
    pub fn new(inquiry: I, patience: Patience, clock: Arc<dyn Clock>, tasks: Tasks) -> Self {
        let state = State {
            kept: Kept::new(patience.entries),
            breaker: Breaker::default(),
            flights: foldhash::HashMap::default(),
            status: Counts::default(),
        };
        Self { inquiry, patience, clock, tasks, state: Mutex::new(state) }
    }

    /// What the server says to `question`, whose answer is known by `digest`: all that it depends on must be in there.
    pub fn verify(
        self: &Arc<Self>,
        digest: Sha256,
        question: I::Question,
        challenge: HeaderValue,
        now: Duration,
    ) -> Answer {
        let receiver = match self.step(digest, &challenge, now) {
            Step::Done(verdict) => return Answer::Settled(verdict),
            Step::Join(receiver) => receiver,
            Step::Ask(sender, receiver) => {
                let remote = Arc::clone(self);
                let asked = self.tasks.spawn(async move { remote.ask(digest, question, sender).await });
                if !asked {
                    self.state().flights.remove(&digest);
                    return Answer::Settled(Verdict::Unavailable(STOPPED));
                }
                receiver
            }
        };
        let remote = Arc::clone(self);
        Answer::Pending(Box::pin(async move { remote.landed(digest, receiver, challenge, now).await }))
    }

    /// How the server is doing.
    pub fn status(&self) -> Status {
        let state = self.state();
        let Counts { asked, outages, stale, last_outage } = state.status;
        let circuit = state.breaker.word(self.clock.now());
        Status { circuit, asked, outages, stale, last_outage, remembered: state.kept.len() }
    }

    fn step(&self, digest: Sha256, challenge: &HeaderValue, now: Duration) -> Step {
        let mut state = self.state();
        match state.kept.fresh(&digest, now) {
            Some(Settled::Proven(known)) => return Step::Done(Self::proven(&known, now, false)),
            Some(Settled::Refused(refused)) => return Step::Done(refusal(refused, challenge.clone())),
            Some(Settled::Outage(_)) | None => {}
        }
        // One whose task was dropped will never land.
        if let Some(flight) = state.flights.get(&digest).filter(|flight| flight.has_changed().is_ok()) {
            return Step::Join(flight.clone());
        }
        if state.flights.len() >= FLIGHTS_MAX {
            return Step::Done(Self::past(&mut state, &digest, now, OVERLOADED));
        }
        match state.breaker.pass(now) {
            Pass::Refused => Step::Done(Self::past(&mut state, &digest, now, CIRCUIT_OPEN)),
            Pass::Granted => {
                let (sender, receiver) = watch::channel(None);
                state.flights.insert(digest, receiver.clone());
                state.status.asked += 1;
                Step::Ask(sender, receiver)
            }
        }
    }

    /// Runs on the control runtime, to its end whoever still waits for it.
    async fn ask(&self, digest: Sha256, question: I::Question, sender: watch::Sender<Option<Settled>>) {
        let answered = tokio::time::timeout(self.patience.timeout, self.inquiry.ask(&question)).await;
        let finding = answered.unwrap_or(Err(Outage { reason: TIMED_OUT }));
        let now = self.clock.now();
        let mut state = self.state();
        let settled = match finding {
            Ok(Finding::Proven { facts, until }) => {
                let end = until.unwrap_or(Duration::MAX);
                let fresh = now.saturating_add(self.patience.ttl).min(end);
                let last = fresh.saturating_add(self.patience.stale).min(end);
                Settled::Proven(Arc::new(Known { facts: *facts, fresh, stale: last }))
            }
            Ok(Finding::Refused(refused)) => Settled::Refused(refused),
            Err(outage) => Settled::Outage(outage),
        };
        match &settled {
            Settled::Proven(known) => {
                state.breaker.succeeded();
                state.kept.prove(digest, Arc::clone(known), now);
            }
            Settled::Refused(refused) => {
                state.breaker.succeeded();
                let until = now.saturating_add(self.patience.negative_ttl);
                state.kept.refuse(digest, refused.clone(), until);
            }
            Settled::Outage(outage) => {
                if self.inquiry.is_for_all(*outage) {
                    state.breaker.failed(now);
                } else {
                    state.breaker.succeeded();
                }
                state.status.outages += 1;
                state.status.last_outage = Some((outage.reason, now));
            }
        }
        state.flights.remove(&digest);
        drop(state);
        // Everyone who waited may have gone.
        drop(sender.send(Some(settled)));
    }

    /// The answer to a question that is on its way.
    async fn landed(
        &self,
        digest: Sha256,
        mut receiver: watch::Receiver<Option<Settled>>,
        challenge: HeaderValue,
        now: Duration,
    ) -> Verdict {
        // The asking has its own deadline; this one is for the case that its task never gets to run.
        let patience = self.patience.timeout.saturating_add(STALE_STEP);
        let landed = tokio::time::timeout(patience, receiver.wait_for(Option::is_some)).await;
        let settled = match &landed {
            Ok(Ok(settled)) => (**settled).clone(),
            Ok(Err(_)) => Some(Settled::Outage(Outage { reason: STOPPED })),
            Err(_) => Some(Settled::Outage(Outage { reason: TIMED_OUT })),
        };
        drop(landed);
        match settled {
            Some(Settled::Proven(known)) => Self::proven(&known, now, false),
            Some(Settled::Refused(refused)) => refusal(refused, challenge),
            Some(Settled::Outage(Outage { reason })) => Self::past(&mut self.state(), &digest, now, reason),
            None => Verdict::Unavailable(STOPPED),
        }
    }

    /// What is left while the server is down: an answer of the past, where the configuration allows it.
    fn past(state: &mut State, digest: &Sha256, now: Duration, reason: &'static str) -> Verdict {
        match state.kept.stale(digest, now) {
            Some(known) => {
                state.status.stale += 1;
                Self::proven(&known, now, true)
            }
            None => Verdict::Unavailable(reason),
        }
    }

    fn proven(known: &Known, now: Duration, is_stale: bool) -> Verdict {
        let until = if is_stale { now.saturating_add(STALE_STEP).min(known.stale) } else { known.fresh };
        let mut facts = known.facts.clone();
        facts.stale = is_stale;
        let validity = Validity { from: Duration::ZERO, until };
        Verdict::Proven(Box::new(Proof { facts, validity, binding: None, revision: 0 }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refusal(refused: Refused, challenge: HeaderValue) -> Verdict {
    let Refused { reason, reply } = refused;
    Verdict::Refused(Rejection { reason, challenge, reply })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::base::clock::ManualClock;
    use crate::identity::remote::tasks::Runner;

    const NOW: Duration = Duration::from_secs(1_000);

    /// A server that gives its answers in turn; without one it never answers.
    #[derive(Debug, Default)]
    struct Scripted(Mutex<VecDeque<Result<&'static str, &'static str>>>);

    impl Inquiry for Scripted {
        type Question = ();

        fn ask<'a>(&'a self, (): &'a ()) -> Asking<'a> {
            Box::pin(async {
                let next = self.0.lock().unwrap().pop_front();
                match next {
                    Some(Ok("no")) => Ok(Finding::Refused(Refused::plain("no"))),
                    Some(Ok(subject)) => {
                        let facts = Facts { subject: Some(subject.to_owned()), ..Facts::default() };
                        Ok(Finding::Proven { facts: Box::new(facts), until: None })
                    }
                    Some(Err(reason)) => Err(Outage { reason }),
                    None => std::future::pending().await,
                }
            })
        }
    }

    struct World {
        remote: Arc<Remote<Scripted>>,
        clock: Arc<ManualClock>,
    }

    impl World {
        fn new(stale: u64) -> (Self, Runner) {
            let clock = Arc::new(ManualClock::at(NOW));
            let (tasks, runner) = Tasks::new();
            let seconds = Duration::from_secs;
            let patience = Patience {
                timeout: seconds(1),
                ttl: seconds(10),
                negative_ttl: seconds(5),
                stale: seconds(stale),
                entries: 100,
            };
            let remote =
                Remote::new(Scripted::default(), patience, Arc::clone(&clock) as Arc<dyn Clock>, tasks);
            (Self { remote: Arc::new(remote), clock }, runner)
        }

        fn script(&self, answers: &[Result<&'static str, &'static str>]) {
            self.remote.inquiry.0.lock().unwrap().extend(answers);
        }

        async fn ask(&self, who: u8) -> String {
            let challenge = HeaderValue::from_static("Test");
            let verdict = match self.remote.verify([who; 32], (), challenge, self.clock.now()) {
                Answer::Settled(verdict) => verdict,
                Answer::Pending(future) => future.await,
            };
            match verdict {
                Verdict::Proven(proof) => {
                    let mark = if proof.facts.stale { " (stale)" } else { "" };
                    proof.facts.subject.unwrap() + mark
                }
                Verdict::Refused(rejection) | Verdict::Foreign(rejection) => {
                    assert_eq!(rejection.challenge, "Test");
                    rejection.reason.to_owned()
                }
                Verdict::Unavailable(reason) => format!("503 {reason}"),
            }
        }
    }

    fn block_on(test: impl Future<Output = ()>) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(test);
    }

    #[test]
    fn equal_questions_are_asked_once_and_remembered() {
        block_on(async {
            let (world, runner) = World::new(0);
            tokio::spawn(runner.run());
            world.script(&[Ok("alice"), Ok("bob"), Ok("alice again")]);
            let (first, second) = tokio::join!(world.ask(1), world.ask(1));
            assert_eq!((first.as_str(), second.as_str()), ("alice", "alice"));
            assert_eq!(world.ask(2).await, "bob");
            assert_eq!(world.ask(1).await, "alice");
            world.clock.advance(Duration::from_secs(10));
            assert_eq!(world.ask(1).await, "alice again");
            assert_eq!(world.remote.status().asked, 3);
        });
    }

    #[test]
    fn a_refusal_is_remembered_for_its_own_question_alone() {
        block_on(async {
            let (world, runner) = World::new(0);
            tokio::spawn(runner.run());
            world.script(&[Ok("no"), Ok("alice"), Ok("late")]);
            assert_eq!(world.ask(1).await, "no");
            assert_eq!(world.ask(2).await, "alice");
            assert_eq!(world.ask(1).await, "no");
            world.clock.advance(Duration::from_secs(5));
            assert_eq!(world.ask(1).await, "late");
        });
    }

    #[test]
    fn an_outage_lets_nobody_in_and_is_not_waited_for_again() {
        block_on(async {
            let (world, runner) = World::new(0);
            tokio::spawn(runner.run());
            world.script(&[Ok("alice")]);
            assert_eq!(world.ask(1).await, "alice");
            world.clock.advance(Duration::from_secs(10));
            for _ in 0..5 {
                assert_eq!(world.ask(1).await, "503 provider_timeout");
            }
            assert_eq!(world.ask(1).await, "503 provider_circuit_open");
            assert_eq!(world.remote.status().circuit, "open");
            world.clock.advance(Duration::from_secs(1));
            world.script(&[Ok("alice")]);
            assert_eq!(world.ask(1).await, "alice");
            assert_eq!(world.remote.status().circuit, "closed");
        });
    }

    #[test]
    fn a_good_answer_serves_while_the_server_is_down_and_only_then() {
        block_on(async {
            let (world, runner) = World::new(100);
            tokio::spawn(runner.run());
            world.script(&[Ok("alice"), Err("down"), Ok("no"), Err("down")]);
            assert_eq!(world.ask(1).await, "alice");
            world.clock.advance(Duration::from_secs(10));
            assert_eq!(world.ask(1).await, "alice (stale)");
            assert_eq!(world.ask(1).await, "no");
            world.clock.advance(Duration::from_secs(5));
            assert_eq!(world.ask(1).await, "503 down");
            assert_eq!(world.ask(2).await, "503 provider_timeout");
        });
    }

    #[test]
    fn stale_answers_end() {
        block_on(async {
            let (world, runner) = World::new(100);
            tokio::spawn(runner.run());
            world.script(&[Ok("alice"), Err("down"), Err("down")]);
            assert_eq!(world.ask(1).await, "alice");
            world.clock.advance(Duration::from_secs(109));
            assert_eq!(world.ask(1).await, "alice (stale)");
            world.clock.advance(Duration::from_secs(1));
            assert_eq!(world.ask(1).await, "503 down");
        });
    }

    #[test]
    fn without_anybody_to_ask_nobody_gets_in() {
        block_on(async {
            let (world, runner) = World::new(0);
            drop(runner);
            assert_eq!(world.ask(1).await, "503 provider_stopped");
            assert_eq!(world.ask(1).await, "503 provider_stopped");
        });
    }
}
