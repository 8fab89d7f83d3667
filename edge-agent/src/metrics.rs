//! What operators see: counts and times of images, in the formats of Prometheus.
//!
//! Names follow the conventions of Prometheus: a unit, `_total` for counters, the prefix `outpost_edge`.

mod audits;
mod endpoints;
mod links;
mod power;
mod process;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use axum::http::StatusCode;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use outpost_engine::Engine;
use outpost_exit_policy::Estimate;
use outpost_offload::Answered;
use outpost_transport::CertificateFacts;

use crate::{
    certificates::Certificate,
    config::{API, Config},
    outputs::{FILE, MQTT, WEBHOOK},
    power::{Power, Present},
    record::Record,
};
use audits::AuditMetrics;
pub(crate) use audits::AuditResult;
use endpoints::EndpointMetrics;
use links::LinkMetrics;
use power::PowerMetrics;
use process::ProcessMetrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfInput {
    input: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFailure {
    input: String,
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAnswer {
    site: String,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSite {
    site: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEncoding {
    encoding: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCorrection {
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutput {
    output: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfQueue {
    outcome: QueueOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReload {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStatus {
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRuntime {
    runtime: &'static str,
    version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCredential {
    credential: String,
}

/// What came of an image that found no cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum QueueOutcome {
    /// The cloud answered.
    Answered,
    /// The cloud was there and did not take it.
    Refused,
    /// It waited too long.
    TooOld,
    /// It made way for images that are worth more.
    NoRoom,
    /// It could not be kept.
    NotKept,
}

type Times = Family<OfSite, Histogram, fn() -> Histogram>;

/// All metrics of the program. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    taken: Family<OfInput, Counter>,
    dropped: Family<OfInput, Counter>,
    failures: Family<OfFailure, Counter>,
    answers: Family<OfAnswer, Counter>,
    corrections: Family<OfCorrection, Counter>,
    in_flight: Gauge,
    followed: Counter,
    answer: Times,
    wait: Histogram,
    device: Histogram,
    encode: Histogram,
    link: Histogram,
    cloud: Histogram,
    sent: Family<OfEncoding, Counter>,
    output_failures: Family<OfOutput, Counter>,
    output_waiting: Family<OfOutput, Gauge>,
    queue_images: Gauge,
    queue_bytes: Gauge,
    queue_left: Family<OfQueue, Counter>,
    queue_failures: Counter,
    queue_undelivered: Gauge,
    queue_commit: Histogram,
    output_refusals: Family<OfOutput, Counter>,
    input_failures: Family<OfInput, Counter>,
    endpoints: EndpointMetrics,
    links: LinkMetrics,
    audits: AuditMetrics,
    power: PowerMetrics,
    reloads: Family<OfReload, Counter>,
    page: Family<OfStatus, Counter>,
    credential_until: Family<OfCredential, Gauge>,
    process: ProcessMetrics,
    listeners: Gauge,
    runtime: Family<OfRuntime, Gauge>,
}

/// An image that has been taken up, until it is dropped.
pub(crate) struct InFlight(Gauge);

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        // 0.1 ms to 26 s.
        let times: fn() -> Histogram = || Histogram::new(exponential_buckets(1e-4, 2.0, 19));
        let (taken, dropped) = (Family::default(), Family::default());
        let (failures, answers) = (Family::default(), Family::default());
        let (output_failures, corrections) = (Family::default(), Family::default());
        let (output_refusals, input_failures) = (Family::default(), Family::default());
        let output_waiting = Family::default();
        let in_flight = Gauge::default();
        let (sent, followed) = (Family::default(), Counter::default());
        let (queue_images, queue_bytes) = (Gauge::default(), Gauge::default());
        let (queue_left, queue_failures) = (Family::default(), Counter::default());
        let (queue_undelivered, queue_commit) = (Gauge::default(), times());
        let answer = Times::new_with_constructor(times);
        let [wait, device, encode, link, cloud] = [(); 5].map(|()| times());
        let mut registry = Registry::with_prefix("outpost_edge");
        registry.register(
            "build",
            "The program",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        let runtime = Family::default();
        registry.register(
            "runtime_info",
            "What runs the networks on the device",
            runtime.clone(),
        );
        registry.register("images", "Images taken up, by input", taken.clone());
        registry.register(
            "dropped_images",
            "Images not taken up because too many waited, by input",
            dropped.clone(),
        );
        registry.register(
            "failures",
            "Images without an answer, by input and cause",
            failures.clone(),
        );
        registry.register(
            "answers",
            "Images answered, by the site that did and why",
            answers.clone(),
        );
        registry.register(
            "corrections",
            "Answers of the cloud that came after the deadline, by whether the class is the same or another",
            corrections.clone(),
        );
        registry.register(
            "in_flight_images",
            "Images taken up and not answered yet",
            in_flight.clone(),
        );
        registry.register(
            "operating_point_changes",
            "How often the operating point followed the link",
            followed.clone(),
        );
        registry.register_with_unit(
            "answer",
            "From taking up an image to its answer, by the site that gave it",
            Unit::Seconds,
            answer.clone(),
        );
        for (name, help, histogram) in [
            ("wait", "Waiting for a turn on the device", &wait),
            (
                "device",
                "Reading, decoding and networks on the device",
                &device,
            ),
            ("encode", "Encoding images that were sent", &encode),
            (
                "link",
                "The part of an offload that was neither encoding nor the cloud's",
                &link,
            ),
            (
                "cloud",
                "The cloud's part of an offload, as it tells it",
                &cloud,
            ),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
        registry.register_with_unit(
            "sent",
            "Bytes of the requests that were sent, without headers, by how the image was encoded",
            Unit::Bytes,
            sent.clone(),
        );
        registry.register(
            "output_failures",
            "Events that an output could not deliver at once, by output",
            output_failures.clone(),
        );
        registry.register(
            "output_waiting_events",
            "Events that an output has still to deliver, by output",
            output_waiting.clone(),
        );
        registry.register(
            "queue_images",
            "Images that wait on disk for a cloud",
            queue_images.clone(),
        );
        registry.register_with_unit("queue", "Their bytes", Unit::Bytes, queue_bytes.clone());
        registry.register(
            "queue_left",
            "Images that wait no longer, or were not kept, by what came of them",
            queue_left.clone(),
        );
        registry.register(
            "queue_failures",
            "How often the queue's file could not be read or written",
            queue_failures.clone(),
        );
        registry.register(
            "queue_undelivered_events",
            "Last events about images that are on disk until every output has delivered them",
            queue_undelivered.clone(),
        );
        registry.register_with_unit(
            "queue_commit",
            "Writing a change to the queue's file until it is on the disk",
            Unit::Seconds,
            queue_commit.clone(),
        );
        registry.register(
            "output_refusals",
            "Events that the receiver of an output will never take, by output",
            output_refusals.clone(),
        );
        registry.register(
            "input_failures",
            "Attempts to get images that failed, by input",
            input_failures.clone(),
        );
        let endpoints = EndpointMetrics::register(&mut registry);
        let links = LinkMetrics::register(&mut registry);
        let audits = AuditMetrics::register(&mut registry);
        let power = PowerMetrics::register(&mut registry);
        let reloads = Family::default();
        registry.register(
            "reloads",
            "How often the configuration and its files were read again, by what came of it",
            reloads.clone(),
        );
        let page = Family::default();
        registry.register(
            "page_requests",
            "Requests of browsers for the page that is a device and its files, by status",
            page.clone(),
        );
        let credential_until = Family::default();
        registry.register(
            "credential_valid_until_timestamp_seconds",
            "Until when a certificate of this device, or an authority that it trusts, is valid, seconds since 1970, by field of the configuration",
            credential_until.clone(),
        );
        let process = ProcessMetrics::register(&mut registry);
        let listeners = Gauge::default();
        registry.register(
            "listeners",
            "Who listens to all answers by the HTTP API",
            listeners.clone(),
        );
        Self {
            registry: Arc::new(registry),
            taken,
            dropped,
            failures,
            answers,
            corrections,
            in_flight,
            followed,
            answer,
            wait,
            device,
            encode,
            link,
            cloud,
            sent,
            output_failures,
            output_waiting,
            queue_images,
            queue_bytes,
            queue_left,
            queue_failures,
            queue_undelivered,
            queue_commit,
            output_refusals,
            input_failures,
            endpoints,
            links,
            audits,
            power,
            reloads,
            page,
            credential_until,
            process,
            listeners,
            runtime,
        }
    }
}

impl Metrics {
    /// Those of a program with that configuration: what may be counted is there from the start, so that its first increase is
    /// seen.
    pub(crate) fn of(config: &Config) -> Self {
        let metrics = Self::default();
        let api = config.api.iter().map(|_| API);
        let folders = config.folders.iter().map(|folder| &*folder.name);
        let urls = config.urls.iter().map(|url| &*url.name);
        let cameras = config.cameras.iter().map(|camera| &*camera.name);
        for input in api.chain(folders).chain(urls).chain(cameras) {
            let labels = OfInput {
                input: input.to_owned(),
            };
            for family in [&metrics.taken, &metrics.dropped, &metrics.input_failures] {
                drop(family.get_or_create(&labels));
            }
        }
        let outputs = &config.outputs;
        for (output, is_there) in [
            (FILE, outputs.file.is_some()),
            (WEBHOOK, outputs.webhook.is_some()),
            (MQTT, outputs.mqtt.is_some()),
        ] {
            if is_there {
                let labels = OfOutput {
                    output: output.to_owned(),
                };
                drop(metrics.output_failures.get_or_create(&labels));
                drop(metrics.output_refusals.get_or_create(&labels));
                drop(metrics.output_waiting.get_or_create(&labels));
            }
        }
        for class in ["same", "other"] {
            drop(metrics.corrections.get_or_create(&OfCorrection { class }));
        }
        for result in ["applied", "refused"] {
            drop(metrics.reloads.get_or_create(&OfReload { result }));
        }
        for outcome in [
            QueueOutcome::Answered,
            QueueOutcome::Refused,
            QueueOutcome::TooOld,
            QueueOutcome::NoRoom,
            QueueOutcome::NotKept,
        ] {
            drop(metrics.queue_left.get_or_create(&OfQueue { outcome }));
        }
        metrics
    }

    /// An image was taken up.
    pub(crate) fn taken(&self, input: &str) -> InFlight {
        let labels = OfInput {
            input: input.to_owned(),
        };
        self.taken.get_or_create(&labels).inc();
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// An image was not taken up: too many waited.
    pub(crate) fn dropped(&self, input: &str) {
        let labels = OfInput {
            input: input.to_owned(),
        };
        self.dropped.get_or_create(&labels).inc();
    }

    /// An image was answered, or has no answer.
    pub(crate) fn said(&self, input: &str, record: &Record) {
        let seconds = |milliseconds: f64| milliseconds / 1e3;
        match record {
            Record::Answered(answered) => {
                let site = answered.site.to_string();
                let labels = OfAnswer {
                    site: site.clone(),
                    reason: answered.reason.clone(),
                };
                self.answers.get_or_create(&labels).inc();
                let answer = self.answer.get_or_create(&OfSite { site });
                answer.observe(seconds(answered.total_ms));
                self.wait.observe(seconds(answered.wait_ms));
                self.device.observe(seconds(answered.device_ms));
                for (histogram, part) in [
                    (&self.encode, answered.encode_ms),
                    (&self.link, answered.link_ms),
                    (&self.cloud, answered.cloud_ms),
                ] {
                    if let Some(part) = part {
                        histogram.observe(seconds(part));
                    }
                }
                self.sent(answered);
            }
            Record::Failed { cause, .. } => {
                let labels = OfFailure {
                    input: input.to_owned(),
                    cause: cause.as_str(),
                };
                self.failures.get_or_create(&labels).inc();
            }
        }
    }

    /// An answer was corrected.
    pub(crate) fn corrected(&self, said: &Record, correction: &Record) {
        let class = |record: &Record| match record {
            Record::Answered(answered) => Some(answered.class_id),
            Record::Failed { .. } => None,
        };
        let class = if class(said) == class(correction) {
            "same"
        } else {
            "other"
        };
        self.corrections
            .get_or_create(&OfCorrection { class })
            .inc();
    }

    /// The operating point followed the link.
    pub(crate) fn followed(&self) {
        self.followed.inc();
    }

    /// A browser was answered that asked for the page or one of its files.
    pub(crate) fn page_answered(&self, status: StatusCode) {
        let labels = OfStatus {
            status: status.as_u16(),
        };
        self.page.get_or_create(&labels).inc();
    }

    /// An output could not deliver an event at once.
    pub(crate) fn output_failed(&self, output: &str) {
        let labels = OfOutput {
            output: output.to_owned(),
        };
        self.output_failures.get_or_create(&labels).inc();
    }

    /// Events that an output has still to deliver.
    pub(crate) fn output_waiting(&self, output: &str) -> Gauge {
        let labels = OfOutput {
            output: output.to_owned(),
        };
        self.output_waiting.get_or_create_owned(&labels)
    }

    /// So many images, of so many bytes, wait on disk.
    pub(crate) fn queued(&self, images: usize, bytes: u64) {
        self.queue_images.set(images as i64);
        self.queue_bytes.set(bytes as i64);
    }

    /// Images that wait on disk.
    pub(crate) fn queue_images(&self) -> u64 {
        self.queue_images.get() as u64
    }

    /// An image waits no longer, or was not kept.
    pub(crate) fn left_queue(&self, outcome: QueueOutcome) {
        self.queue_left.get_or_create(&OfQueue { outcome }).inc();
    }

    /// The queue's file could not be read or written.
    pub(crate) fn queue_failed(&self) {
        self.queue_failures.inc();
    }

    /// So many last events are on disk that outputs have not delivered yet.
    pub(crate) fn queue_undelivered(&self, events: usize) {
        self.queue_undelivered.set(events as i64);
    }

    /// A change took so long to be on the disk.
    pub(crate) fn queue_committed(&self, took: Duration) {
        self.queue_commit.observe(took.as_secs_f64());
    }

    /// The receiver of an output will never take an event.
    pub(crate) fn output_refused(&self, output: &str) {
        let labels = OfOutput {
            output: output.to_owned(),
        };
        self.output_refusals.get_or_create(&labels).inc();
    }

    /// An attempt to get images failed.
    pub(crate) fn input_failed(&self, input: &str) {
        let labels = OfInput {
            input: input.to_owned(),
        };
        self.input_failures.get_or_create(&labels).inc();
    }

    fn sent(&self, answered: &Answered) {
        if let Some(encoding) = answered.encoding.clone() {
            let sent = self.sent.get_or_create(&OfEncoding { encoding });
            sent.inc_by(answered.bytes_sent);
        }
    }

    /// An answer was audited, with what the cloud said.
    pub(crate) fn audited(&self, result: AuditResult, cloud: Option<&Record>) {
        self.audits.audited(result);
        if let Some(Record::Answered(answered)) = cloud {
            self.sent(answered);
        }
    }

    /// What audits say by now.
    pub(crate) fn audits_say(
        &self,
        estimate: Option<Estimate>,
        expected: Option<f64>,
        has_drifted: bool,
    ) {
        self.audits.say(estimate, expected, has_drifted);
    }

    /// What runs networks here now, and what the endpoints of the peers are.
    pub(crate) fn look_at(&self, engine: &Engine) {
        self.endpoints.take(engine.peers());
        self.links.take(engine.peers());
        self.power.take(Power::energy(engine));
        self.process.take();
        let here = engine.runtime();
        let labels = OfRuntime {
            runtime: here.name,
            version: here.version.clone(),
        };
        // A reload may have put it in the place of another.
        self.runtime.clear();
        self.runtime.get_or_create(&labels).set(1);
    }

    /// So many listen to all answers.
    pub(crate) fn listen(&self, listeners: usize) {
        self.listeners.set(listeners as i64);
    }

    /// What the device runs from now.
    pub(crate) fn runs_from(&self, present: Present, has_changed: bool) {
        self.power.say(present, has_changed);
    }

    /// The configuration and its files were read again, and were applied or refused.
    pub(crate) fn reloaded(&self, result: &'static str) {
        self.reloads.get_or_create(&OfReload { result }).inc();
    }

    /// Certificates of this device, and authorities that it trusts, with what they say.
    pub(crate) fn certificates_are_valid_until(&self, found: &[(Certificate, CertificateFacts)]) {
        // Those that are configured no more are not.
        self.credential_until.clear();
        for (certificate, facts) in found {
            let labels = OfCredential {
                credential: certificate.field.clone(),
            };
            let since_1970 = facts.valid_until.duration_since(UNIX_EPOCH);
            let gauge = self.credential_until.get_or_create(&labels);
            gauge.set(since_1970.map_or(0, |since| since.as_secs() as i64));
        }
    }

    /// All metrics as text, in the format of OpenMetrics.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes all that is written");
        text
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
