//! `/status`: what is in force and how each part is doing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use crate::audit::queue::Health;
use crate::base::clock;
use crate::policy::decide::Failure;
use crate::policy::divergence::{Divergence, Effect};
use crate::runtime::beside::candidate::{Candidate, Shadow};
use crate::runtime::beside::tally::{Counts, Directions, Verifications};
use crate::runtime::bundles::key::{Key, Role};
use crate::runtime::bundles::source::Status;
use crate::runtime::shared::Shared;
use crate::runtime::snapshot::Policy;
use crate::telemetry::metrics::{Comparison, Direction, Unshadowed};

/// The page.
pub(super) fn status(shared: &Shared, draining: bool) -> Json {
    let in_force = shared.current();
    let runtime = &in_force.runtime;
    let reload = shared.reload_status();
    let upstreams = runtime.clusters.iter().map(|cluster| {
        let endpoints = cluster.endpoints().iter().map(|endpoint| {
            json!({"endpoint": endpoint.authority(), "healthy": endpoint.is_healthy(),
                "in_flight": endpoint.in_flight(), "connections": endpoint.open_connections()})
        });
        (cluster.name().to_string(), json!(endpoints.collect::<Vec<_>>()))
    });
    let key_sets = shared.resources.key_sets.statuses().into_iter().map(|set| {
        json!({"source": set.source, "loaded": set.loaded, "renewed_at": set.renewed_at.map(time),
            "last_error": set.last_error})
    });
    let servers = shared.resources.remotes.statuses().into_iter().map(|(name, server)| {
        let last_outage = server.last_outage.map(|(reason, at)| json!({"reason": reason, "at": time(at)}));
        let status = json!({"circuit": server.circuit, "asked": server.asked, "outages": server.outages,
            "stale": server.stale, "remembered": server.remembered, "last_outage": last_outage});
        (name.to_string(), status)
    });
    let fetched = shared.bundles.statuses();
    let bundles = fetched.iter().filter(|(key, _)| key.role == Role::Main).map(|(key, status)| {
        let policy = runtime.policies.iter().find(|policy| policy.name == key.policy);
        let revision = policy.map(|policy| policy.revision.as_str());
        (key.policy.to_string(), bundle(&key.policy, revision, status))
    });
    let policies = runtime.policies.iter().map(|policy| {
        let is_its = |key: &Key| key.role == Role::Candidate && key.policy == policy.name;
        let candidate = fetched.iter().find(|(key, _)| is_its(key)).map(|(_, status)| status);
        (policy.name.to_string(), self::policy(shared, policy, candidate))
    });
    let logs = shared.audit.status().into_iter().map(|sink| {
        let (health, error) = match sink.health {
            Health::Ok => ("ok", None),
            Health::Failing(error) => ("failing", Some(error)),
            Health::Stopped(error) => ("stopped", Some(error)),
        };
        json!({"sink": sink.name, "health": health, "error": error, "written": sink.written,
            "dropped": sink.dropped, "queued_bytes": sink.queued_bytes})
    });
    let last_error = reload.last_error.map(|failure| json!({"at": time(failure.at), "error": failure.error}));
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "draining": draining,
        "snapshot": {
            "generation": in_force.generation,
            "revision": runtime.config.revision,
            "loaded_at": time(reload.loaded_at),
            "earlier": reload.earlier,
            "last_reload_error": last_error,
        },
        "policies": policies.collect::<Map<_, _>>(),
        "upstreams": upstreams.collect::<Map<_, _>>(),
        "bundles": bundles.collect::<Map<_, _>>(),
        "identities_remembered": shared.resources.shelf.len(),
        "identity_servers": servers.collect::<Map<_, _>>(),
        "key_sets": key_sets.collect::<Vec<_>>(),
        "decision_logs": logs.collect::<Vec<_>>(),
    })
}

/// A policy in force, and what is evaluated beside it, which may be `fetched`.
fn policy(shared: &Shared, policy: &Policy, fetched: Option<&Status>) -> Json {
    let promoted = policy.promoted.as_ref().map(|promotion| {
        json!({
            "bundle": promotion.shown,
            "at": time(promotion.at),
            "former_revision": promotion.former_revision,
            "until": "the policy's own bundle changes, or the gateway is started anew",
        })
    });
    let shadow = policy.shadow.as_ref().map(|shadow| {
        let mut shown = match shadow {
            Shadow::Awaited { shown } => json!({"state": "awaited", "bundle": shown}),
            Shadow::Refused { shown, errors } => {
                json!({"state": "refused", "bundle": shown, "errors": errors})
            }
            Shadow::Loaded(candidate) => self::shadow(shared, policy, candidate),
        };
        let revision = shadow.candidate().map(|candidate| candidate.policy.revision.as_str());
        if let (Some(members), Some(status)) = (shown.as_object_mut(), fetched) {
            members.insert("fetch".to_owned(), bundle(&policy.name, revision, status));
        }
        shown
    });
    json!({
        "revision": policy.revision,
        "decision": policy.decision_path,
        "promoted": promoted,
        "engine": engine(policy),
        "shadow": shadow,
    })
}

/// Which engine decides, and whether the other one agrees.
fn engine(policy: &Policy) -> Json {
    let rules = [Some(&policy.rules.decision), policy.rules.response.as_ref()];
    let is_planned = rules.into_iter().flatten().all(|rule| policy.program.is_planned(rule));
    let verification = &policy.verification;
    let live = policy.verifier.as_ref().map(|verifier| {
        let Verifications { counts, last } = verifier.verified.counts();
        let mut shown: Map<_, _> = Comparison::ALL
            .iter()
            .map(|kind| kind.as_str())
            .zip(counts.map(Json::from))
            .map(|(kind, count)| (kind.to_owned(), count))
            .collect();
        shown.insert("last_different".to_owned(), json!(last.map(|id| id.to_string())));
        shown.insert("sample".to_owned(), json!(verifier.sampling.sample.to_string()));
        Json::from(shown)
    });
    let differs = verification.differing > 0
        || live.as_ref().is_some_and(|live| live["different"].as_u64().is_some_and(|count| count > 0));
    let warning =
        differs.then_some("plan and interpreter differ; `engine: interpreter` takes the plan out of use");
    json!({
        "kind": if is_planned { "plan" } else { "interpreter" },
        "load": {"compared": verification.asked, "different": verification.differing},
        "live": live,
        "warning": warning,
    })
}

/// A candidate, and how its decisions differ.
fn shadow(shared: &Shared, policy: &Policy, candidate: &Candidate) -> Json {
    let Counts { since, all, routes, recent, spent, unrecorded } = candidate.tally.counts();
    let directions = |counts: Directions| -> Map<_, _> {
        let named = Direction::ALL.iter().zip(counts);
        named.map(|(direction, count)| (direction.as_str().to_owned(), json!(count))).collect()
    };
    let routes =
        routes.into_iter().map(|((api, route), counts)| (format!("{api}/{route}"), directions(counts)));
    let routes: BTreeMap<_, _> = routes.collect();
    let skipped = shared.metrics.skipped(&policy.name);
    let skipped = Unshadowed::ALL.iter().zip(skipped).filter(|(_, count)| *count > 0);
    let skipped: BTreeMap<_, _> = skipped.map(|(why, count)| (why.as_str(), count)).collect();
    let side = |effect: Effect| json!({"allow": effect.allow, "status": effect.status, "error": effect.failure.map(Failure::as_str)});
    let recent = recent.into_iter().map(|seen| {
        let Divergence { direction, differs, decided, candidate } = seen.divergence;
        json!({"decision_id": seen.decision_id.to_string(), "at": time(seen.time),
            "route": format!("{}/{}", seen.api, seen.route), "direction": direction.as_str(), "differs": differs,
            "decided": side(decided), "candidate": side(candidate)})
    });
    json!({
        "state": if candidate.is_in_force(policy) { "in_force" } else { "evaluated" },
        "bundle": candidate.shown,
        "revision": candidate.policy.revision,
        "sample": candidate.sampling.sample.to_string(),
        "budget": candidate.sampling.budget.to_string(),
        "since": time(since),
        "decisions": directions(all),
        "routes": routes,
        "skipped": skipped,
        "spent_us": u64::try_from(spent.as_micros()).unwrap_or(u64::MAX),
        "unrecorded": unrecorded,
        "recent": recent.collect::<Vec<_>>(),
    })
}

/// A fetched bundle, with the names of OPA's status. What is refused is told before what is not reached.
fn bundle(name: &str, revision: Option<&str>, status: &Status) -> Json {
    let failure = status.refused.as_ref().or(status.unreachable.as_ref());
    json!({
        "name": name,
        "active_revision": revision,
        "type": if status.delta { "delta" } else { "snapshot" },
        "size": status.size,
        "persisted": status.persisted,
        "last_request": status.last_request.map(time),
        "last_successful_request": status.last_successful_request.map(time),
        "last_successful_download": status.last_successful_download.map(time),
        "last_successful_activation": status.last_successful_activation.map(time),
        "code": failure.map(|_| "bundle_error"),
        "message": failure.map(|failure| &failure.message),
        "http_code": failure.and_then(|failure| failure.http_code),
        "errors": failure.map(|failure| &failure.errors).filter(|errors| !errors.is_empty()),
    })
}

fn time(since_epoch: Duration) -> String {
    let mut text = String::with_capacity(30);
    clock::write_rfc3339(&mut text, since_epoch);
    text
}
