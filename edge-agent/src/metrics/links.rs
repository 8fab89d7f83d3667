//! What an offload costs now, and what may still be sent: taken from the engine whenever the metrics are read.

use std::sync::atomic::AtomicU64;

use outpost_cascade::{CircuitState, Site};
use outpost_engine::Upstream;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::OfSite;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCircuit {
    site: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBudget {
    site: String,
    budget: &'static str,
}

type Real = Gauge<f64, AtomicU64>;

/// Metrics by peer. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct LinkMetrics {
    round_trip: Family<OfSite, Real>,
    uplink: Family<OfSite, Real>,
    at_peer: Family<OfSite, Real>,
    queue: Family<OfSite, Real>,
    failed: Family<OfSite, Real>,
    circuit: Family<OfCircuit, Gauge>,
    budget_left: Family<OfBudget, Real>,
}

impl LinkMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for (name, help, gauge) in [
            (
                "link_round_trip",
                "Estimate of the time of a message without bytes, by site; absent where nothing was sent in the last minute, as all of these",
                &metrics.round_trip,
            ),
            (
                "link_at_peer",
                "Estimate of the time at the peer, by site",
                &metrics.at_peer,
            ),
            (
                "link_queue",
                "Of that, in the peer's queues, by site; 0 where it does not tell",
                &metrics.queue,
            ),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, gauge.clone());
        }
        registry.register(
            "link_uplink_bytes_per_second",
            "Estimate of the uplink's bandwidth, by site; absent where sizes did not differ enough to tell",
            metrics.uplink.clone(),
        );
        registry.register(
            "link_failed_ratio",
            "Share of the latest offloads that failed, by site",
            metrics.failed.clone(),
        );
        registry.register(
            "circuit",
            "Whether a peer is asked (closed), is not (open), or one call shows whether it is back (half-open): 1 for the state that holds, by site",
            metrics.circuit.clone(),
        );
        registry.register(
            "budget_left",
            "What is left of a budget in force: offloads, bytes or joules, by site and name",
            metrics.budget_left.clone(),
        );
        metrics
    }

    /// Takes what holds now.
    pub(super) fn take<'a>(&self, peers: impl Iterator<Item = (Site, &'a Upstream)>) {
        // What is not known now has no value, and a peer that is configured no more none at all.
        for family in [
            &self.round_trip,
            &self.uplink,
            &self.at_peer,
            &self.queue,
            &self.failed,
        ] {
            family.clear();
        }
        self.circuit.clear();
        self.budget_left.clear();
        for (site, upstream) in peers {
            let site = site.to_string();
            let now = upstream.circuit();
            for state in CircuitState::ALL {
                let of_circuit = OfCircuit {
                    site: site.clone(),
                    state: state.as_str(),
                };
                let holds = self.circuit.get_or_create(&of_circuit);
                holds.set((state == now).into());
            }
            for budget in upstream.budgets() {
                let of_budget = OfBudget {
                    site: site.clone(),
                    budget: budget.name,
                };
                self.budget_left.get_or_create(&of_budget).set(budget.left);
            }
            let Some(link) = upstream.link() else {
                continue;
            };
            let of_site = OfSite { site };
            for (family, value) in [
                (&self.round_trip, Some(link.round_trip)),
                (
                    &self.uplink,
                    (link.per_byte > 0.0).then(|| 1.0 / link.per_byte),
                ),
                (&self.at_peer, Some(link.at_peer)),
                (&self.queue, Some(link.queued)),
                (&self.failed, Some(link.failed)),
            ] {
                if let Some(value) = value {
                    family.get_or_create(&of_site).set(value);
                }
            }
        }
    }
}
