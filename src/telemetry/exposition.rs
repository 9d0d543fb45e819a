//! The Prometheus text exposition (format 0.0.4) of all metrics.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::telemetry::metrics::{
    ACCEPTED, CLOSED, Comparison, ConnectionRefusal, DecisionKind, Direction, HANDSHAKES_FAILED,
    HANDSHAKES_OK, Metrics, OutsideKind, RETRIES, STATUS_CLASSES, Stage, Unshadowed, UpstreamOutcome,
};
use crate::telemetry::shard::{BUCKETS_US, HistogramSums, Rows};

/// The media type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is asked of others when metrics are rendered, rather than counted.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    /// Limit counters kept.
    pub limit_keys: u64,
    /// Limit counters given up before they were full again.
    pub limit_keys_evicted: u64,
    /// Bundles that are fetched.
    pub bundles: Vec<BundleSample>,
}

/// How the fetching of one bundle is doing. Times are since the Unix epoch.
#[derive(Debug, Clone)]
pub struct BundleSample {
    /// The policy it is for.
    pub policy: Arc<str>,
    /// It is that of the policy's candidate.
    pub shadow: bool,
    /// Requests that were answered with a bundle.
    pub downloaded: u64,
    /// Requests that were answered with 304.
    pub not_modified: u64,
    /// All other requests.
    pub failed: u64,
    /// Bundles put in force.
    pub activated: u64,
    /// Bundles refused.
    pub refused: u64,
    /// The last request.
    pub last_request: Option<Duration>,
    /// The last one that was answered with 200 or 304.
    pub last_successful_request: Option<Duration>,
    /// The last bundle put in force.
    pub last_successful_activation: Option<Duration>,
}

/// What a metric counts.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Renders all metrics.
pub fn render(metrics: &Metrics, samples: &Samples) -> String {
    let mut text = Exposition { out: String::with_capacity(16 * 1024) };
    render_process(metrics, samples, &mut text);
    render_requests(metrics, &mut text);
    render_policy(metrics, &mut text);
    render_shadows(metrics, &mut text);
    for shadow in [false, true] {
        render_bundles(&samples.bundles, shadow, &mut text);
    }
    render_listeners(metrics, &mut text);
    render_upstreams(metrics, &mut text);
    render_sinks(metrics, &mut text);
    text.out
}

fn render_process(metrics: &Metrics, samples: &Samples, text: &mut Exposition) {
    let names = metrics.names();
    text.family("postern_build_info", Kind::Gauge, "Version of the gateway.");
    text.sample("postern_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    text.family("postern_config_info", Kind::Gauge, "Revision of the configuration in force.");
    if let Some(revision) = &names.config_revision {
        text.sample("postern_config_info", &[("revision", revision)], 1);
    }
    text.family("postern_policy_info", Kind::Gauge, "Bundle revision of each policy in force.");
    for (policy, revision) in &names.policy_revisions {
        text.sample("postern_policy_info", &[("policy", policy), ("revision", revision)], 1);
    }
    text.family(
        "postern_config_reloads_total",
        Kind::Counter,
        "Configurations and bundles loaded, by result.",
    );
    for (result, count) in [("ok", &metrics.reloads_ok), ("failed", &metrics.reloads_failed)] {
        text.sample("postern_config_reloads_total", &[("result", result)], count.load(Ordering::Relaxed));
    }
    text.family("postern_task_panics_total", Kind::Counter, "Tasks and threads that panicked.");
    text.sample("postern_task_panics_total", &[], metrics.task_panics.load(Ordering::Relaxed));
    text.family("postern_limit_keys", Kind::Gauge, "Rate limit counters kept in memory.");
    text.sample("postern_limit_keys", &[], samples.limit_keys);
    let help = "Rate limit counters given up before they were full again, for want of room.";
    text.family("postern_limit_keys_evicted_total", Kind::Counter, help);
    text.sample("postern_limit_keys_evicted_total", &[], samples.limit_keys_evicted);
}

fn render_requests(metrics: &Metrics, text: &mut Exposition) {
    let (names, shards) = (metrics.names(), metrics.shards());
    let name = "postern_requests_total";
    text.family(name, Kind::Counter, "Requests, by listener, API, outcome and status class.");
    for (row, (listener, api)) in names.series.iter().enumerate() {
        let sums = sum(row, shards.iter().map(|shard| &shard.requests));
        let classes = metrics
            .vocabulary
            .outcomes
            .iter()
            .flat_map(|outcome| STATUS_CLASSES.iter().map(move |class| (*outcome, *class)));
        for ((outcome, status), count) in classes.zip(sums).filter(|(_, count)| *count > 0) {
            let api = api.as_deref().unwrap_or("");
            let labels = [("listener", &**listener), ("api", api), ("outcome", outcome), ("status", status)];
            text.sample(name, &labels, count);
        }
    }
    let name = "postern_refusals_total";
    text.family(name, Kind::Counter, "Requests that the gateway itself refused, by reason.");
    for (index, reason) in metrics.vocabulary.reasons.iter().enumerate() {
        let counts = shards.iter().filter_map(|shard| shard.refusals.get(index));
        text.sample(name, &[("reason", reason)], counts.map(super::shard::Count::get).sum());
    }
    let name = "postern_stage_duration_seconds";
    text.family(name, Kind::Histogram, "Time of a request, by stage.");
    for (index, stage) in Stage::ALL.iter().enumerate() {
        let mut sums = HistogramSums::default();
        for histogram in shards.iter().filter_map(|shard| shard.stages.get(index)) {
            histogram.add_to(&mut sums);
        }
        text.histogram(name, ("stage", stage.as_str()), &sums);
    }
}

fn render_policy(metrics: &Metrics, text: &mut Exposition) {
    let (names, shards) = (metrics.names(), metrics.shards());
    let name = "postern_policy_decisions_total";
    text.family(name, Kind::Counter, "Policy evaluations, by how they ended.");
    for (row, policy) in names.policies.iter().enumerate() {
        let sums = sum(row, shards.iter().map(|shard| &shard.decisions));
        for (kind, count) in DecisionKind::ALL.iter().zip(sums) {
            text.sample(name, &[("policy", policy), ("kind", kind.as_str())], count);
        }
    }
    let name = "postern_policy_outside_total";
    text.family(name, Kind::Counter, "Requests and lookups of policies, and what came of them.");
    for (row, policy) in names.policies.iter().enumerate() {
        let sums = sum(row, shards.iter().map(|shard| &shard.outside));
        for (kind, count) in OutsideKind::ALL.iter().zip(sums) {
            text.sample(name, &[("policy", policy), ("kind", kind.as_str())], count);
        }
    }
}

fn render_shadows(metrics: &Metrics, text: &mut Exposition) {
    let (names, shards) = (metrics.names(), metrics.shards());
    let name = "postern_shadow_decisions_total";
    text.family(
        name,
        Kind::Counter,
        "Decisions of candidate policies, by how they differ from those in force.",
    );
    for (row, [policy, api, route]) in names.shadows.iter().enumerate() {
        let sums = sum(row, shards.iter().map(|shard| &shard.shadows));
        for (direction, count) in Direction::ALL.iter().zip(sums) {
            let labels =
                [("policy", &**policy), ("api", api), ("route", route), ("direction", direction.as_str())];
            text.sample(name, &labels, count);
        }
    }
    let name = "postern_shadow_skipped_total";
    text.family(
        name,
        Kind::Counter,
        "Decisions for which the candidate policy was not evaluated, by reason.",
    );
    for (row, policy) in names.policies.iter().enumerate() {
        let sums = sum(row, shards.iter().map(|shard| &shard.unshadowed));
        for (reason, count) in Unshadowed::ALL.iter().zip(sums).filter(|(_, count)| *count > 0) {
            text.sample(name, &[("policy", policy), ("reason", reason.as_str())], count);
        }
    }
    let name = "postern_policy_engine_load_inputs";
    let help =
        "Made-up inputs that plan and interpreter of each policy in force were both asked about at load.";
    text.family(name, Kind::Gauge, help);
    for (policy, counts) in &names.verified {
        for (result, count) in [Comparison::Same, Comparison::Different].iter().zip(counts) {
            text.sample(name, &[("policy", &**policy), ("result", result.as_str())], *count);
        }
    }
    let name = "postern_policy_engine_comparisons_total";
    text.family(name, Kind::Counter, "Decisions made on a plan that the interpreter was asked for too.");
    for (row, policy) in names.policies.iter().enumerate() {
        let sums = sum(row, shards.iter().map(|shard| &shard.comparisons));
        for (result, count) in Comparison::ALL.iter().zip(sums) {
            text.sample(name, &[("policy", &**policy), ("result", result.as_str())], count);
        }
    }
}

/// One of a bundle's times.
type BundleTime = fn(&BundleSample) -> Option<Duration>;

/// Bundles of policies, or of their candidates: names of their own, so that no alarm about the one is raised by the other.
fn render_bundles(bundles: &[BundleSample], shadow: bool, text: &mut Exposition) {
    let bundles: Vec<_> = bundles.iter().filter(|bundle| bundle.shadow == shadow).collect();
    if shadow && bundles.is_empty() {
        return;
    }
    let (prefix, whose) =
        if shadow { ("postern_shadow_bundle", "candidate") } else { ("postern_bundle", "policy") };
    let name = format!("{prefix}_requests_total");
    text.family(
        &name,
        Kind::Counter,
        &format!("Requests for the bundle of a {whose}, by policy and result."),
    );
    for bundle in &bundles {
        let counts = [
            ("downloaded", bundle.downloaded),
            ("not_modified", bundle.not_modified),
            ("failed", bundle.failed),
        ];
        for (result, count) in counts {
            text.sample(&name, &[("policy", &bundle.policy), ("result", result)], count);
        }
    }
    let name = format!("{prefix}_activations_total");
    let help = format!("Fetched bundles of a {whose}, by policy and whether they were taken.");
    text.family(&name, Kind::Counter, &help);
    for bundle in &bundles {
        for (result, count) in [("ok", bundle.activated), ("refused", bundle.refused)] {
            text.sample(&name, &[("policy", &bundle.policy), ("result", result)], count);
        }
    }
    let times: [(&str, &str, BundleTime); 3] = [
        ("request", "of the last request for the bundle", |bundle| bundle.last_request),
        ("successful_request", "of the last request that was answered well for the bundle", |bundle| {
            bundle.last_successful_request
        }),
        ("successful_activation", "at which a fetched bundle was last taken", |bundle| {
            bundle.last_successful_activation
        }),
    ];
    for (time, help, value) in times {
        let name = format!("{prefix}_last_{time}_seconds");
        text.family(&name, Kind::Gauge, &format!("Unix time {help} of a {whose}."));
        for bundle in &bundles {
            if let Some(time) = value(bundle) {
                text.sample(&name, &[("policy", &bundle.policy)], time.as_secs());
            }
        }
    }
}

fn render_listeners(metrics: &Metrics, text: &mut Exposition) {
    let (names, shards) = (metrics.names(), metrics.shards());
    let rows: Vec<_> = names
        .listeners
        .iter()
        .enumerate()
        .map(|(row, name)| (name, sum(row, shards.iter().map(|shard| &shard.listeners))))
        .collect();
    let at = |sums: &[u64], column: usize| sums.get(column).copied().unwrap_or_default();
    let name = "postern_connections_open";
    text.family(name, Kind::Gauge, "Client connections that are open.");
    for (listener, sums) in &rows {
        let open = at(sums, ACCEPTED).saturating_sub(at(sums, CLOSED));
        text.sample(name, &[("listener", listener)], open);
    }
    let name = "postern_connections_accepted_total";
    text.family(name, Kind::Counter, "Client connections accepted.");
    for (listener, sums) in &rows {
        text.sample(name, &[("listener", listener)], at(sums, ACCEPTED));
    }
    let name = "postern_connections_refused_total";
    text.family(name, Kind::Counter, "Client connections closed at once, by reason.");
    for (listener, sums) in &rows {
        for (reason, count) in ConnectionRefusal::ALL.iter().zip(sums) {
            text.sample(name, &[("listener", listener), ("reason", reason.as_str())], *count);
        }
    }
    let name = "postern_tls_handshakes_total";
    text.family(name, Kind::Counter, "TLS handshakes with clients, by result.");
    for (listener, sums) in &rows {
        for (result, column) in [("ok", HANDSHAKES_OK), ("failed", HANDSHAKES_FAILED)] {
            text.sample(name, &[("listener", listener), ("result", result)], at(sums, column));
        }
    }
}

fn render_upstreams(metrics: &Metrics, text: &mut Exposition) {
    let (names, shards) = (metrics.names(), metrics.shards());
    let rows: Vec<_> = names
        .upstreams
        .iter()
        .enumerate()
        .map(|(row, name)| (name, sum(row, shards.iter().map(|shard| &shard.upstreams))))
        .collect();
    let name = "postern_upstream_requests_total";
    text.family(name, Kind::Counter, "Requests to upstreams, each try for itself, by how they ended.");
    for (upstream, sums) in &rows {
        for (outcome, count) in UpstreamOutcome::ALL.iter().zip(sums) {
            text.sample(name, &[("upstream", upstream), ("outcome", outcome.as_str())], *count);
        }
    }
    let name = "postern_upstream_retries_total";
    text.family(name, Kind::Counter, "Tries after the first.");
    for (upstream, sums) in &rows {
        text.sample(name, &[("upstream", upstream)], sums.get(RETRIES).copied().unwrap_or_default());
    }
}

fn render_sinks(metrics: &Metrics, text: &mut Exposition) {
    let name = "postern_decision_log_events_total";
    text.family(name, Kind::Counter, "Decision events, by log and by whether they were written or lost.");
    for sink in metrics.names().sinks {
        for (result, count) in [("written", sink.written()), ("dropped", sink.dropped())] {
            text.sample(name, &[("sink", sink.name()), ("result", result)], count);
        }
    }
}

fn sum<'a, const N: usize>(row: usize, tables: impl Iterator<Item = &'a Rows<N>>) -> [u64; N] {
    let mut sums = [0; N];
    tables.for_each(|table| table.add_to(&mut sums, row));
    sums
}

/// The text so far.
struct Exposition {
    out: String,
}

impl Exposition {
    fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.out.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.out.push(if index == 0 { '{' } else { ',' });
            self.out.push_str(label);
            self.out.push_str("=\"");
            for c in text.chars() {
                match c {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    c => self.out.push(c),
                }
            }
            self.out.push('"');
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        self.line(format_args!(" {value}"));
    }

    fn histogram(&mut self, name: &str, (label, text): (&str, &str), sums: &HistogramSums) {
        let bounds = BUCKETS_US.iter().map(|bound| Seconds(*bound).to_string()).chain(["+Inf".to_owned()]);
        let bucket = format!("{name}_bucket");
        let mut count = 0_u64;
        for (bound, bucket_count) in bounds.zip(sums.buckets) {
            count = count.wrapping_add(bucket_count);
            self.sample(&bucket, &[(label, text), ("le", &bound)], count);
        }
        self.line(format_args!("{name}_sum{{{label}=\"{text}\"}} {}", Seconds(sums.sum_us)));
        self.sample(&format!("{name}_count"), &[(label, text)], count);
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        if writeln!(self.out, "{text}").is_err() {}
    }
}

/// Microseconds, printed as exact seconds without trailing zeros.
struct Seconds(u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fraction = format!("{:06}", self.0 % 1_000_000);
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{}", self.0 / 1_000_000),
            fraction => write!(f, "{}.{fraction}", self.0 / 1_000_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Vocabulary;

    const VOCABULARY: Vocabulary =
        Vocabulary { outcomes: &["allowed", "denied"], reasons: &["no_route", "bad_host"] };

    #[track_caller]
    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|known| known == line), "no line `{line}` in\n{text}");
    }

    #[test]
    fn counts_of_all_workers_are_summed() {
        let metrics = Metrics::new(VOCABULARY);
        let series = metrics.series("public", Some("orders"));
        let unrouted = metrics.series("public", None);
        let (policy, listener) = (metrics.policy("main"), metrics.listener("public"));
        let upstream = metrics.upstream("orders");
        let workers = [metrics.worker(), metrics.worker()];
        for worker in &workers {
            worker.request(series, 0, 200);
            worker.decision(policy, DecisionKind::Allow);
            worker.connection_opened(listener);
        }
        let [first, second] = &workers;
        first.request(series, 1, 403);
        first.request(unrouted, 1, 0);
        first.refusal(1);
        first.connection_closed(listener);
        first.connection_refused(listener, ConnectionRefusal::Source);
        first.handshake_failed(listener);
        second.handshake_completed(listener);
        second.upstream_request(upstream, UpstreamOutcome::of_status(204));
        second.upstream_request(upstream, UpstreamOutcome::Timeout);
        second.upstream_retry(upstream);
        let text = render(&metrics, &Samples::default());
        let public = r#"{listener="public",api="orders","#;
        has(&text, &format!(r#"postern_requests_total{public}outcome="allowed",status="2xx"}} 2"#));
        has(&text, &format!(r#"postern_requests_total{public}outcome="denied",status="4xx"}} 1"#));
        has(&text, r#"postern_requests_total{listener="public",api="",outcome="denied",status="none"} 1"#);
        has(&text, r#"postern_refusals_total{reason="no_route"} 0"#);
        has(&text, r#"postern_refusals_total{reason="bad_host"} 1"#);
        has(&text, r#"postern_policy_decisions_total{policy="main",kind="allow"} 2"#);
        has(&text, r#"postern_policy_decisions_total{policy="main",kind="fail_open"} 0"#);
        has(&text, r#"postern_connections_open{listener="public"} 1"#);
        has(&text, r#"postern_connections_accepted_total{listener="public"} 2"#);
        has(&text, r#"postern_connections_refused_total{listener="public",reason="source"} 1"#);
        has(&text, r#"postern_tls_handshakes_total{listener="public",result="ok"} 1"#);
        has(&text, r#"postern_tls_handshakes_total{listener="public",result="failed"} 1"#);
        has(&text, r#"postern_upstream_requests_total{upstream="orders",outcome="2xx"} 1"#);
        has(&text, r#"postern_upstream_requests_total{upstream="orders",outcome="timeout"} 1"#);
        has(&text, r#"postern_upstream_retries_total{upstream="orders"} 1"#);
    }

    #[test]
    fn candidates_and_engines_are_counted_beside_the_decisions() {
        let metrics = Metrics::new(VOCABULARY);
        let policy = metrics.policy("main");
        let series = metrics.shadow("main", "orders", "read");
        assert_eq!(metrics.shadow("main", "orders", "read"), series);
        assert_ne!(metrics.shadow("main", "orders", "write"), series);
        let (first, second) = (metrics.worker(), metrics.worker());
        first.shadowed(series, Direction::DenyToAllow);
        second.shadowed(series, Direction::DenyToAllow);
        first.unshadowed(policy, Unshadowed::Body);
        second.compared(policy, Comparison::Different);
        metrics.verified([("old", [1, 1])]);
        metrics.verified([("main", [159, 1])]);
        let text = render(&metrics, &Samples::default());
        let labels = r#"policy="main",api="orders",route="read",direction="deny_to_allow""#;
        has(&text, &format!("postern_shadow_decisions_total{{{labels}}} 2"));
        has(&text, r#"postern_shadow_skipped_total{policy="main",reason="not_comparable_body"} 1"#);
        has(&text, r#"postern_policy_engine_comparisons_total{policy="main",result="different"} 1"#);
        has(&text, r#"postern_policy_engine_load_inputs{policy="main",result="same"} 159"#);
        assert!(!text.contains("\"old\""), "{text}");
        assert_eq!(metrics.skipped("main").iter().sum::<u64>(), 1);
        for index in 0..2_000 {
            metrics.shadow("main", "orders", &index.to_string());
        }
        assert_eq!(metrics.shadow("main", "a", "late"), metrics.shadow("main", "b", "later"));
    }

    #[test]
    fn histograms_are_cumulative_in_seconds() {
        let metrics = Metrics::new(VOCABULARY);
        let worker = metrics.worker();
        for micros in [3, 40, 1_500_000, 20_000_000] {
            worker.stage(Stage::Policy, micros);
        }
        let text = render(&metrics, &Samples::default());
        let bucket = |le: &str, count: u64| {
            has(
                &text,
                &format!(r#"postern_stage_duration_seconds_bucket{{stage="policy",le="{le}"}} {count}"#),
            );
        };
        bucket("0.000002", 0);
        bucket("0.000005", 1);
        bucket("0.00005", 2);
        bucket("2.5", 3);
        bucket("10", 3);
        bucket("+Inf", 4);
        has(&text, r#"postern_stage_duration_seconds_sum{stage="policy"} 21.500043"#);
        has(&text, r#"postern_stage_duration_seconds_count{stage="policy"} 4"#);
    }

    #[test]
    fn what_is_in_force_replaces_what_was() {
        let metrics = Metrics::new(VOCABULARY);
        metrics.reloaded("one", [("main", "a")]);
        metrics.reloaded("t\"wo", [("main", "b")]);
        metrics.reload_failed();
        metrics.sink("stdout").wrote(3);
        metrics.sink("stdout").lost(1);
        let text = render(&metrics, &Samples { limit_keys: 7, limit_keys_evicted: 2, ..Samples::default() });
        has(&text, r#"postern_config_info{revision="t\"wo"} 1"#);
        has(&text, r#"postern_policy_info{policy="main",revision="b"} 1"#);
        assert!(!text.contains("\"one\""));
        has(&text, r#"postern_config_reloads_total{result="ok"} 2"#);
        has(&text, r#"postern_config_reloads_total{result="failed"} 1"#);
        has(&text, r#"postern_decision_log_events_total{sink="stdout",result="written"} 3"#);
        has(&text, r#"postern_decision_log_events_total{sink="stdout",result="dropped"} 1"#);
        has(&text, "postern_limit_keys 7");
        has(&text, "postern_limit_keys_evicted_total 2");
    }

    #[test]
    fn names_keep_their_number_and_too_many_share_one() {
        let metrics = Metrics::new(VOCABULARY);
        let first = metrics.upstream("first");
        for index in 0..2_000 {
            metrics.upstream(&index.to_string());
        }
        assert_eq!(metrics.upstream("first"), first);
        assert_eq!(metrics.upstream("late"), metrics.upstream("later"));
        let worker = metrics.worker();
        worker.upstream_retry(metrics.upstream("late"));
        has(&render(&metrics, &Samples::default()), r#"postern_upstream_retries_total{upstream="other"} 1"#);
    }

    #[test]
    fn every_line_is_a_comment_or_a_sample() {
        let metrics = Metrics::new(VOCABULARY);
        metrics.worker().request(metrics.series("public", Some("orders")), 0, 200);
        for line in render(&metrics, &Samples::default()).lines() {
            let sample = line
                .rsplit_once(' ')
                .is_some_and(|(name, value)| name.starts_with("postern_") && value.parse::<f64>().is_ok());
            assert!(sample || line.starts_with("# "), "{line}");
        }
    }
}
