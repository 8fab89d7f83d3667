//! What operators see: counts and times of requests, in the formats of Prometheus.
//!
//! Names follow the conventions of Prometheus: a unit, `_total` for counters, the prefix `outpost_cloud`.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use outpost_cascade::Cascade;
use outpost_engine::Outcome;
use outpost_transport::{Deadline, Protocol, ServerTls};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use crate::error::ServiceError;

/// The cause of a request that was answered.
const ANSWERED: &str = "";
/// The cause of a request whose caller went away.
const CALLER_GONE: &str = "caller-gone";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfModel {
    model: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTransport {
    model: String,
    transport: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCause {
    model: String,
    transport: &'static str,
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfIdentity {
    identity: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDecision {
    model: String,
    site: String,
    node: String,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRefusal {
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    outcome: &'static str,
}

type Histograms = Family<OfModel, Histogram, fn() -> Histogram>;

/// All metrics of the service. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<OfTransport, Counter>,
    early_data_requests: Counter,
    failures: Family<OfCause, Counter>,
    decided: Family<OfDecision, Counter>,
    images: Family<OfIdentity, Counter>,
    page_tokens_issued: Counter,
    page_tokens_refused: Family<OfRefusal, Counter>,
    page_tokens: Gauge,
    credentials_read: Family<OfOutcome, Counter>,
    certificate_expiry: Gauge,
    received: Family<OfTransport, Counter>,
    sent: Family<OfTransport, Counter>,
    waiting: Family<OfModel, Gauge>,
    queue: Histograms,
    decode: Histograms,
    compute: Histograms,
    batch: Histograms,
}

/// The metrics of one model that its queue and its instances keep.
#[derive(Debug, Clone)]
pub(crate) struct ModelMetrics {
    /// Images that have a place in the queue.
    pub(crate) waiting: Gauge,
    queue: Histogram,
    decode: Histogram,
    compute: Histogram,
    batch: Histogram,
}

/// A request that is counted once it ends, whatever its end.
pub(crate) struct Counted<'a> {
    metrics: &'a Metrics,
    labels: OfTransport,
    deadline: Option<Deadline>,
    cause: &'static str,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        // 0.1 ms to 26 s.
        let times: fn() -> Histogram = || Histogram::new(exponential_buckets(1e-4, 2.0, 19));
        // 1 to 256 images.
        let sizes: fn() -> Histogram = || Histogram::new(exponential_buckets(1.0, 2.0, 9));
        let [queue, decode, compute] = [times; 3].map(Histograms::new_with_constructor);
        let batch = Histograms::new_with_constructor(sizes);
        let (requests, received, sent) = (Family::default(), Family::default(), Family::default());
        let failures = Family::default();
        let waiting = Family::default();
        let mut registry = Registry::with_prefix("outpost_cloud");
        registry.register(
            "build",
            "The program",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "requests",
            "Inference requests that ended, by model and transport",
            requests.clone(),
        );
        let early_data_requests = Counter::default();
        registry.register(
            "early_data_requests",
            "Of these, requests that came before their handshake was done",
            early_data_requests.clone(),
        );
        registry.register(
            "failures",
            "Of these, requests that were not answered, by cause",
            failures.clone(),
        );
        let decided = Family::default();
        registry.register(
            "decided_images",
            "Images that a cascade answered, by who did and why",
            decided.clone(),
        );
        let (images, credentials_read) = (Family::default(), Family::default());
        registry.register(
            "identity_images",
            "Images within the limit of their caller, by its identity",
            images.clone(),
        );
        registry.register(
            "credentials_read",
            "How often certificates and identities were read, by outcome",
            credentials_read.clone(),
        );
        let (page_tokens_issued, page_tokens_refused) = (Counter::default(), Family::default());
        registry.register(
            "page_tokens_issued",
            "Tokens that were issued to pages",
            page_tokens_issued.clone(),
        );
        registry.register(
            "page_tokens_refused",
            "Tokens that were not issued to pages, by cause",
            page_tokens_refused.clone(),
        );
        let page_tokens = Gauge::default();
        registry.register(
            "page_tokens",
            "Tokens of pages that are good",
            page_tokens.clone(),
        );
        let certificate_expiry = Gauge::default();
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "When the certificate ends, in Unix time",
            Unit::Seconds,
            certificate_expiry.clone(),
        );
        for (name, help, family) in [
            ("received", "Bytes of inference requests", &received),
            ("sent", "Bytes of inference responses", &sent),
        ] {
            registry.register_with_unit(name, help, Unit::Bytes, family.clone());
        }
        registry.register(
            "waiting_images",
            "Images that were admitted and do not run yet",
            waiting.clone(),
        );
        for (name, help, family) in [
            (
                "queue",
                "Time of a request that was neither decoding nor the network's",
                &queue,
            ),
            ("decode", "Time to make a request's input tensor", &decode),
            ("compute", "Time of a batch in the network", &compute),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, family.clone());
        }
        registry.register("batch_images", "Images of a batch", batch.clone());
        Self {
            registry: Arc::new(registry),
            requests,
            early_data_requests,
            failures,
            decided,
            images,
            page_tokens_issued,
            page_tokens_refused,
            page_tokens,
            credentials_read,
            certificate_expiry,
            received,
            sent,
            waiting,
            queue,
            decode,
            compute,
            batch,
        }
    }
}

impl Metrics {
    /// The metrics of a model; they show from now on.
    pub(crate) fn of_model(&self, model: &str) -> ModelMetrics {
        let labels = OfModel {
            model: model.to_owned(),
        };
        let of = |family: &Histograms| family.get_or_create(&labels).clone();
        ModelMetrics {
            waiting: self.waiting.get_or_create(&labels).clone(),
            queue: of(&self.queue),
            decode: of(&self.decode),
            compute: of(&self.compute),
            batch: of(&self.batch),
        }
    }

    /// Begins to count a request of `bytes`. A name that is not served counts as the empty one, so that
    /// peers cannot make series.
    pub(crate) fn request(
        &self,
        model: Option<&str>,
        transport: Option<Protocol>,
        deadline: Option<Deadline>,
        bytes: usize,
    ) -> Counted<'_> {
        let labels = OfTransport {
            model: model.unwrap_or_default().to_owned(),
            transport: transport.map_or("", Protocol::as_str),
        };
        self.received.get_or_create(&labels).inc_by(bytes as u64);
        Counted {
            metrics: self,
            labels,
            deadline,
            cause: CALLER_GONE,
        }
    }

    /// A request came before its handshake was done.
    pub(crate) fn came_early(&self) {
        self.early_data_requests.inc();
    }

    /// Images of an identity were within its limit.
    pub(crate) fn admitted(&self, identity: &str, images: usize) {
        let labels = OfIdentity {
            identity: identity.to_owned(),
        };
        self.images.get_or_create(&labels).inc_by(images as u64);
    }

    /// A token was issued to a page.
    pub(crate) fn page_token_issued(&self) {
        self.page_tokens_issued.inc();
    }

    /// None was.
    pub(crate) fn page_token_refused(&self, cause: &'static str) {
        let refused = self.page_tokens_refused.get_or_create(&OfRefusal { cause });
        refused.inc();
    }

    /// So many tokens of pages are good.
    pub(crate) fn page_tokens(&self, count: usize) {
        self.page_tokens
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A cascade answered an image.
    pub(crate) fn decided(&self, cascade: &Cascade, outcome: &Outcome) {
        let labels = OfDecision {
            model: cascade.name().to_owned(),
            site: outcome.decided_by.site.to_string(),
            // A peer may name anything, and makes no series by it.
            node: cascade.node(outcome.node).name().to_owned(),
            reason: outcome.reason.to_string(),
        };
        self.decided.get_or_create(&labels).inc();
    }

    /// The credentials were read and are in use.
    pub(crate) fn credentials_loaded(&self, tls: Option<&ServerTls>) {
        self.count_credentials("loaded");
        let until = tls.and_then(|tls| Some(tls.identity.facts()?.valid_until));
        if let Some(until) = until.and_then(|until| until.duration_since(UNIX_EPOCH).ok()) {
            self.certificate_expiry.set(until.as_secs() as i64);
        }
    }

    /// The credentials were read and do not hold.
    pub(crate) fn credentials_refused(&self) {
        self.count_credentials("refused");
    }

    fn count_credentials(&self, outcome: &'static str) {
        let read = self.credentials_read.get_or_create(&OfOutcome { outcome });
        read.inc();
    }

    /// All metrics as text, in the format of OpenMetrics.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes all that is written");
        text
    }
}

impl Counted<'_> {
    /// The request was answered, with `bytes`.
    pub(crate) fn answered(mut self, bytes: usize) {
        self.cause = ANSWERED;
        let sent = self.metrics.sent.get_or_create(&self.labels);
        sent.inc_by(bytes as u64);
    }

    /// The request was refused or failed.
    pub(crate) fn failed(mut self, error: &ServiceError) {
        self.cause = error.cause();
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.metrics.requests.get_or_create(&self.labels).inc();
        // At its deadline a call ends like one whose caller has gone.
        let is_over = |deadline: Deadline| deadline.remaining().is_zero();
        if self.cause == CALLER_GONE && self.deadline.is_some_and(is_over) {
            self.cause = ServiceError::DeadlinePassed.cause();
        }
        if self.cause != ANSWERED {
            let labels = OfCause {
                model: std::mem::take(&mut self.labels.model),
                transport: self.labels.transport,
                cause: self.cause,
            };
            self.metrics.failures.get_or_create(&labels).inc();
        }
    }
}

impl ModelMetrics {
    /// A request was decoded and run.
    pub(crate) fn request(&self, queued: Duration, decoded: Duration) {
        self.queue.observe(queued.as_secs_f64());
        self.decode.observe(decoded.as_secs_f64());
    }

    /// A batch was run.
    pub(crate) fn batch(&self, images: usize, computed: Duration) {
        self.batch.observe(images as f64);
        self.compute.observe(computed.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_once_whatever_its_end() {
        let metrics = Metrics::default();
        let request = || metrics.request(Some("m"), Some(Protocol::H3), None, 100);
        request().answered(40);
        request().failed(&ServiceError::DeadlinePassed);
        drop(request());
        let text = metrics.encode();
        for line in [
            r#"outpost_cloud_requests_total{model="m",transport="h3"} 3"#,
            r#"outpost_cloud_failures_total{model="m",transport="h3",cause="deadline"} 1"#,
            r#"outpost_cloud_failures_total{model="m",transport="h3",cause="caller-gone"} 1"#,
            r#"outpost_cloud_received_bytes_total{model="m",transport="h3"} 300"#,
            r#"outpost_cloud_sent_bytes_total{model="m",transport="h3"} 40"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains(r#"cause="""#));
    }

    #[test]
    fn a_models_times_are_in_seconds_and_its_batches_in_images() {
        let metrics = Metrics::default();
        let model = metrics.of_model("m");
        model.request(Duration::from_millis(3), Duration::from_millis(1));
        model.batch(8, Duration::from_millis(20));
        let text = metrics.encode();
        for line in [
            r#"outpost_cloud_queue_seconds_sum{model="m"} 0.003"#,
            r#"outpost_cloud_compute_seconds_sum{model="m"} 0.02"#,
            r#"outpost_cloud_batch_images_sum{model="m"} 8.0"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn the_dashboard_names_metrics_that_there_are() {
        let metrics = Metrics::default();
        let model = metrics.of_model("m");
        model.request(Duration::ZERO, Duration::ZERO);
        model.batch(1, Duration::ZERO);
        metrics.request(Some("m"), None, None, 1).answered(1);
        metrics
            .request(Some("m"), None, None, 1)
            .failed(&ServiceError::DeadlinePassed);
        let text = metrics.encode();
        let dashboard = include_str!("../../deploy/grafana/cloud-service.json");
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
        let names: std::collections::BTreeSet<&str> = dashboard
            .match_indices("outpost_cloud_")
            .map(|(from, _)| {
                let name = &dashboard[from..];
                &name[..name.find(|c| !is_name(c)).unwrap()]
            })
            .collect();
        assert!(names.len() >= 10, "{names:?}");
        for name in names {
            let is_there = text
                .lines()
                .any(|line| line.starts_with(&format!("{name}{{")));
            assert!(is_there, "{name} is no metric");
        }
    }
}
