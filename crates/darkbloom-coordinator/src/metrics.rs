//! What the coordinator counts, for Prometheus: one catalogue, from which the page and the board are made as well.
//!
//! Labels are from closed lists, never ids. Money is read from the ledger itself: whatever way it moved, it is counted once.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use darkbloom_registry::Ineligible;
use darkbloom_store::StoreError;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::api::internal;
use crate::state::Shared;

/// How a metric is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows, until the process starts again.
    Counter,
    /// It is as it is at this moment.
    Gauge,
    /// How often it took how long.
    Histogram,
}

/// One metric of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, without the ending that a counter or a histogram gets.
    pub name: &'static str,
    /// How it is read.
    pub kind: MetricKind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

const fn metric(name: &'static str, kind: MetricKind, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind, labels, help }
}

use MetricKind::{Counter as COUNTER, Gauge as GAUGE, Histogram as HISTOGRAM};

/// Every metric, in the order in which they are shown.
pub const METRICS: [Metric; 18] = [
    metric(
        "darkbloom_http_requests",
        COUNTER,
        &["route", "status"],
        "HTTP requests answered, by route and class of status",
    ),
    metric(
        "darkbloom_requests",
        COUNTER,
        &["outcome"],
        "sealed requests that ended: settled, resealed, or the reason of their refusal",
    ),
    metric("darkbloom_requests_live", GAUGE, &[], "sealed requests that are being relayed"),
    metric(
        "darkbloom_attempts",
        COUNTER,
        &["outcome"],
        "providers that were asked: accepted, or the reason of their refusal",
    ),
    metric("darkbloom_frames_relayed", COUNTER, &[], "frames of answers relayed to clients"),
    metric("darkbloom_tokens", COUNTER, &["kind"], "tokens charged, input and output apart"),
    metric(
        "darkbloom_reserve_seconds",
        HISTOGRAM,
        &[],
        "time to keep a request's money aside, the durable commit included",
    ),
    metric("darkbloom_settle_seconds", HISTOGRAM, &[], "time to charge a request, the durable commit included"),
    metric("darkbloom_route_seconds", HISTOGRAM, &[], "time to choose a provider, waiting for the lock included"),
    metric("darkbloom_queue_seconds", HISTOGRAM, &[], "time that requests waited for room, of those that waited"),
    metric(
        "darkbloom_first_content_seconds",
        HISTOGRAM,
        &[],
        "time from a request's arrival to its first relayed content",
    ),
    metric("darkbloom_providers", GAUGE, &["state"], "providers: connected, routable, untrusted"),
    metric(
        "darkbloom_providers_ineligible",
        GAUGE,
        &["reason"],
        "connected providers that get no work, by the first reason",
    ),
    metric("darkbloom_queue_requests", GAUGE, &["model"], "requests that wait for room, by the model's name"),
    metric("darkbloom_ledger_transfers", COUNTER, &["movement"], "movements of money"),
    metric(
        "darkbloom_ledger_moved_nano_dollars",
        COUNTER,
        &["movement", "book", "direction"],
        "nano-dollars moved into and out of books of a kind",
    ),
    metric(
        "darkbloom_ledger_book_nano_dollars",
        GAUGE,
        &["book"],
        "nano-dollars in all books of a kind together; all of them sum to zero",
    ),
    metric("darkbloom_ledger_clamped", COUNTER, &[], "receipts that counted more than was held for: should be zero"),
];

/// What is asked of the database for a look at the numbers is asked no more often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Upper ends of a histogram's classes, in seconds: from ten microseconds to half a minute, each three or so times the last.
const CLASSES: [f64; 14] =
    [0.000_01, 0.000_03, 0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];

type One = [(&'static str, &'static str); 1];
type Three = [(&'static str, &'static str); 3];
type Named = [(&'static str, String); 1];

/// All numbers, each with its place in the catalogue.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    http: Family<[(&'static str, String); 2], Counter>,
    requests: Family<One, Counter>,
    live: Gauge,
    attempts: Family<One, Counter>,
    frames: Counter<u64, AtomicU64>,
    tokens: Family<One, Counter>,
    /// Time to keep money aside.
    pub reserve: Histogram,
    /// Time to charge.
    pub settle: Histogram,
    /// Time to route.
    pub route: Histogram,
    /// Time in the queue.
    pub queue: Histogram,
    /// Time to the first content.
    pub first_content: Histogram,
    providers: Family<One, Gauge>,
    ineligible: Family<One, Gauge>,
    queued: Family<Named, Gauge>,
    transfers: Family<One, Counter>,
    moved: Family<Three, Counter>,
    books: Family<One, Gauge>,
    clamped: Counter<u64, AtomicU64>,
    seen: tokio::sync::Mutex<Seen>,
}

/// How far the ledger was read.
#[derive(Debug, Default)]
struct Seen {
    until: i64,
    at: Option<Instant>,
}

impl Metrics {
    /// With nothing counted. What moved up to this transfer was counted by an earlier process.
    pub fn new(until: i64) -> Self {
        let histogram = || Histogram::new(CLASSES);
        let mut metrics = Self {
            registry: Registry::default(),
            http: Family::default(),
            requests: Family::default(),
            live: Gauge::default(),
            attempts: Family::default(),
            frames: Counter::default(),
            tokens: Family::default(),
            reserve: histogram(),
            settle: histogram(),
            route: histogram(),
            queue: histogram(),
            first_content: histogram(),
            providers: Family::default(),
            ineligible: Family::default(),
            queued: Family::default(),
            transfers: Family::default(),
            moved: Family::default(),
            books: Family::default(),
            clamped: Counter::default(),
            seen: tokio::sync::Mutex::new(Seen { until, at: None }),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let mut catalogue = METRICS.iter();
        let registry = &mut self.registry;
        macro_rules! register {
            ($($metric:expr),* $(,)?) => {
                $(if let Some(Metric { name, help, .. }) = catalogue.next() {
                    registry.register(*name, *help, $metric.clone());
                })*
            };
        }
        register!(
            self.http,
            self.requests,
            self.live,
            self.attempts,
            self.frames,
            self.tokens,
            self.reserve,
            self.settle,
            self.route,
            self.queue,
            self.first_content,
            self.providers,
            self.ineligible,
            self.queued,
            self.transfers,
            self.moved,
            self.books,
            self.clamped,
        );
    }

    /// A request was answered. The route is a pattern of the router, never what was asked for.
    pub fn answered(&self, route: &str, status: u16) {
        let class = match status {
            ..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            500.. => "5xx",
        };
        self.http.get_or_create(&[("route", route.to_owned()), ("status", class.to_owned())]).inc();
    }

    /// A sealed request ended: `settled`, `resealed`, or a reason's name.
    pub fn ended(&self, outcome: &'static str) {
        self.requests.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// A provider answered an offer: `accepted`, or a reason's name.
    pub fn attempted(&self, outcome: &'static str) {
        self.attempts.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// A frame of an answer went to its client.
    pub fn relayed(&self) {
        self.frames.inc();
    }

    /// So many tokens were charged.
    pub fn charged(&self, input: u32, output: u32) {
        self.tokens.get_or_create(&[("kind", "input")]).inc_by(input.into());
        self.tokens.get_or_create(&[("kind", "output")]).inc_by(output.into());
    }

    /// A receipt counted more than was held for.
    pub fn clamped(&self) {
        self.clamped.inc();
    }

    /// All numbers as text (OpenMetrics).
    async fn text(&self, shared: &Shared) -> Result<String, StoreError> {
        self.look_at_ledger(shared).await?;
        self.look_at_providers(shared);
        let mut text = String::new();
        // Writing into a text cannot fail.
        let _ = encode(&mut text, &self.registry);
        Ok(text)
    }

    async fn look_at_ledger(&self, shared: &Shared) -> Result<(), StoreError> {
        let mut seen = self.seen.lock().await;
        if seen.at.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return Ok(());
        }
        let flows = shared.store.flows(seen.until).await?;
        let unsigned = |amount: i64| u64::try_from(amount).unwrap_or(0);
        for moved in &flows.moved {
            self.transfers.get_or_create(&[("movement", moved.movement.name())]).inc_by(moved.count);
        }
        for flow in &flows.flows {
            let direction = if flow.inwards { "in" } else { "out" };
            let labels = [("movement", flow.movement.name()), ("book", flow.book), ("direction", direction)];
            self.moved.get_or_create(&labels).inc_by(unsigned(flow.amount.0));
        }
        seen.until = flows.until;
        for (book, sum) in shared.store.book_sums().await? {
            self.books.get_or_create(&[("book", book)]).set(sum.0);
        }
        seen.at = Some(Instant::now());
        Ok(())
    }

    fn look_at_providers(&self, shared: &Shared) {
        let views = shared.provider_views();
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let routable = views.iter().filter(|view| view.eligible.is_ok()).count();
        let untrusted = views.iter().filter(|view| !view.standing.is_trusted()).count();
        for (state, number) in [("connected", views.len()), ("routable", routable), ("untrusted", untrusted)] {
            self.providers.get_or_create(&[("state", state)]).set(count(number));
        }
        for reason in Ineligible::ALL {
            let number = views.iter().filter(|view| view.eligible == Err(reason)).count();
            self.ineligible.get_or_create(&[("reason", reason.name())]).set(count(number));
        }
        self.live.set(count(shared.live_requests()));
        self.queued.clear();
        for item in shared.catalogue().items() {
            let waiting = shared.with_registry(|registry| registry.queued(&item.digest));
            self.queued.get_or_create(&[("model", item.entry.name.clone())]).set(count(waiting));
        }
    }
}

/// What a listener of its own serves.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(shared)
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    match shared.metrics.text(&shared).await {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(error) => internal(error).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_counted_is_what_the_catalogue_says() {
        let metrics = Metrics::new(0);
        metrics.answered("/v1/key", 200);
        metrics.ended("settled");
        metrics.attempted("accepted");
        metrics.charged(1, 2);
        metrics.providers.get_or_create(&[("state", "connected")]).set(1);
        metrics.ineligible.get_or_create(&[("reason", "silent")]).set(1);
        metrics.queued.get_or_create(&[("model", "small".to_owned())]).set(1);
        metrics.transfers.get_or_create(&[("movement", "hold")]).inc();
        metrics.moved.get_or_create(&[("movement", "hold"), ("book", "held"), ("direction", "in")]).inc();
        metrics.books.get_or_create(&[("book", "held")]).set(1);
        let mut text = String::new();
        encode(&mut text, &metrics.registry).unwrap();
        let kind = |kind| match kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let said: BTreeSet<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let named: Vec<_> = METRICS.iter().map(|metric| format!("{} {}", metric.name, kind(metric.kind))).collect();
        assert_eq!(said, named.iter().map(String::as_str).collect());
        for metric in METRICS {
            for label in metric.labels {
                let line =
                    text.lines().find(|line| line.starts_with(metric.name) && line.contains('{')).unwrap_or_default();
                assert!(line.contains(&format!("{label}=\"")), "{}: {label} in {line}", metric.name);
            }
        }
    }
}
