//! Who is asked for what is elsewhere: taken from the engine whenever the metrics are read.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::UNIX_EPOCH,
};

use outpost_cascade::{Presence, Site};
use outpost_engine::{EndpointStatus, Upstream};
use outpost_transport::Protocol;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::OfSite;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEndpoint {
    site: String,
    endpoint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOffloads {
    site: String,
    endpoint: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfWire {
    site: String,
    endpoint: String,
    transport: &'static str,
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfHandshakes {
    site: String,
    endpoint: String,
    kind: &'static str,
}

/// Metrics by endpoint. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct EndpointMetrics {
    up: Family<OfEndpoint, Gauge>,
    in_use: Family<OfEndpoint, Gauge>,
    offloads: Family<OfOffloads, Counter>,
    failovers: Family<OfSite, Counter>,
    questions: Family<OfEndpoint, Counter>,
    wire: Family<OfWire, Counter>,
    handshakes: Family<OfHandshakes, Counter>,
    early_data: Family<OfOffloads, Counter>,
    certificate_until: Family<OfEndpoint, Gauge>,
    /// Counts as they were last read: those of an engine that took the place of another begin at zero.
    offloads_read: Arc<Mutex<HashMap<OfOffloads, u64>>>,
    failovers_read: Arc<Mutex<HashMap<OfSite, u64>>>,
    questions_read: Arc<Mutex<HashMap<OfEndpoint, u64>>>,
    wire_read: Arc<Mutex<HashMap<OfWire, u64>>>,
    handshakes_read: Arc<Mutex<HashMap<OfHandshakes, u64>>>,
    early_data_read: Arc<Mutex<HashMap<OfOffloads, u64>>>,
}

impl EndpointMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "cloud_endpoint_up",
            "Whether an endpoint is there (1), or did not answer last (0), by site and URL; where there are several",
            metrics.up.clone(),
        );
        registry.register(
            "cloud_endpoint_in_use",
            "Whether images ask an endpoint first, by site and URL; where there are several",
            metrics.in_use.clone(),
        );
        registry.register(
            "cloud_endpoint_offloads",
            "Offloads to an endpoint, by site, URL and whether it answered; where there are several",
            metrics.offloads.clone(),
        );
        registry.register(
            "cloud_failovers",
            "Changes to another endpoint because the one in use did not answer, by site",
            metrics.failovers.clone(),
        );
        registry.register(
            "cloud_questions",
            "Questions for a sign of life while images wanted to be sent and were not, by site and URL",
            metrics.questions.clone(),
        );
        registry.register_with_unit(
            "wire",
            "Bytes of all packets to and from an endpoint, headers and handshakes included, by site, URL, transport and direction",
            Unit::Bytes,
            metrics.wire.clone(),
        );
        registry.register(
            "handshakes",
            "Handshakes over HTTP/3 with an endpoint, by site, URL and whether they resumed a session",
            metrics.handshakes.clone(),
        );
        registry.register(
            "early_data",
            "Of these, handshakes before which something was sent, by site, URL and whether the endpoint took it",
            metrics.early_data.clone(),
        );
        registry.register(
            "certificate_valid_until_timestamp_seconds",
            "Until when the certificate is valid that an endpoint showed last, seconds since 1970, by site and URL",
            metrics.certificate_until.clone(),
        );
        metrics
    }

    /// Takes what holds now.
    pub(super) fn take<'a>(&self, peers: impl Iterator<Item = (Site, &'a Upstream)>) {
        // Those that are configured no more have no state.
        self.up.clear();
        self.in_use.clear();
        self.certificate_until.clear();
        for (site, upstream) in peers {
            let endpoints = upstream.endpoints();
            let site = site.to_string();
            for status in &endpoints {
                self.take_wire(&site, status);
                self.take_handshakes(&site, status);
                self.take_certificate(&site, status);
            }
            if endpoints.len() < 2 {
                continue;
            }
            let of_site = OfSite { site: site.clone() };
            let failovers = upstream.failovers();
            advance(&self.failovers, &self.failovers_read, of_site, failovers);
            for status in endpoints {
                let of_endpoint = OfEndpoint {
                    site: site.clone(),
                    endpoint: status.url.clone(),
                };
                let is_up = status.presence == Presence::Up;
                self.up.get_or_create(&of_endpoint).set(is_up.into());
                let in_use = self.in_use.get_or_create(&of_endpoint);
                in_use.set(status.is_in_use.into());
                for (outcome, count) in [("answered", status.answered), ("failed", status.failed)] {
                    let of_offloads = OfOffloads {
                        site: site.clone(),
                        endpoint: status.url.clone(),
                        outcome,
                    };
                    advance(&self.offloads, &self.offloads_read, of_offloads, count);
                }
            }
        }
    }

    /// What an endpoint costs.
    fn take_wire(&self, site: &str, status: &EndpointStatus) {
        let of_endpoint = OfEndpoint {
            site: site.to_owned(),
            endpoint: status.url.clone(),
        };
        let (questions, read) = (&self.questions, &self.questions_read);
        advance(questions, read, of_endpoint, status.questions);
        for (protocol, wire) in [
            (Protocol::H2, status.wire_h2),
            (Protocol::H3, status.wire_h3),
        ] {
            for (direction, bytes) in [("sent", wire.sent), ("received", wire.received)] {
                let of_wire = OfWire {
                    site: site.to_owned(),
                    endpoint: status.url.clone(),
                    transport: protocol.as_str(),
                    direction,
                };
                advance(&self.wire, &self.wire_read, of_wire, bytes);
            }
        }
    }

    /// How long its certificate holds.
    fn take_certificate(&self, site: &str, status: &EndpointStatus) {
        let until = status.certificate_until;
        let since_1970 = until.and_then(|until| until.duration_since(UNIX_EPOCH).ok());
        if let Some(since_1970) = since_1970 {
            let of_endpoint = OfEndpoint {
                site: site.to_owned(),
                endpoint: status.url.clone(),
            };
            let gauge = self.certificate_until.get_or_create(&of_endpoint);
            gauge.set(since_1970.as_secs() as i64);
        }
    }

    /// How it was connected to.
    fn take_handshakes(&self, site: &str, status: &EndpointStatus) {
        let handshakes = status.handshakes;
        for (kind, count) in [
            ("full", handshakes.done - handshakes.resumed),
            ("resumed", handshakes.resumed),
        ] {
            let of_handshakes = OfHandshakes {
                site: site.to_owned(),
                endpoint: status.url.clone(),
                kind,
            };
            advance(
                &self.handshakes,
                &self.handshakes_read,
                of_handshakes,
                count,
            );
        }
        for (outcome, count) in [
            ("accepted", handshakes.early_data_accepted),
            ("rejected", handshakes.early_data_rejected),
        ] {
            let of_offloads = OfOffloads {
                site: site.to_owned(),
                endpoint: status.url.clone(),
                outcome,
            };
            advance(&self.early_data, &self.early_data_read, of_offloads, count);
        }
    }
}

/// Brings a counter forward by what a count has grown since it was last read.
fn advance<L: Clone + Eq + std::hash::Hash>(
    counters: &Family<L, Counter>,
    read: &Mutex<HashMap<L, u64>>,
    labels: L,
    count: u64,
) {
    let counter = counters.get_or_create_owned(&labels);
    let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
    let before = read.insert(labels, count).unwrap_or(0);
    counter.inc_by(count.checked_sub(before).unwrap_or(count));
}
