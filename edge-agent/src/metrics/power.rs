//! What the device runs from, and the energy of offloads.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use outpost_engine::EnergyUse;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::power::{Class, Present};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfClass {
    class: &'static str,
}

/// No labels: a metric that is there once it has a value.
type Alone = [(&'static str, &'static str); 0];

/// Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct PowerMetrics {
    class: Family<OfClass, Gauge>,
    changes: Counter,
    charge: Family<Alone, Gauge<f64, AtomicU64>>,
    spent: Family<Alone, Counter<f64, AtomicU64>>,
    /// Joules as they were last read: those of an engine that took the place of another may begin at zero.
    read: Arc<AtomicU64>,
}

impl PowerMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "power_class",
            "What the device runs from (1): mains, battery, or a battery that is to be saved",
            metrics.class.clone(),
        );
        registry.register(
            "power_class_changes",
            "How often that changed",
            metrics.changes.clone(),
        );
        registry.register(
            "battery_charge",
            "The battery's charge, 0 to 1, where the system tells it and is asked",
            metrics.charge.clone(),
        );
        registry.register_with_unit(
            "offload_energy",
            "Energy of offloads, by what one takes as configured",
            Unit::Joules,
            metrics.spent.clone(),
        );
        metrics
    }

    /// What the device runs from now.
    pub(super) fn say(&self, present: Present, has_changed: bool) {
        for class in Class::ALL {
            let labels = OfClass {
                class: class.as_str(),
            };
            let is_it = class == present.class;
            self.class.get_or_create(&labels).set(is_it.into());
        }
        if has_changed {
            self.changes.inc();
        }
        if let Some(charge) = present.charge {
            let gauge = self.charge.get_or_create(&[]);
            gauge.set(f64::from(charge) / 100.0);
        } else {
            self.charge.clear();
        }
    }

    /// Takes the energy that offloads took by now.
    pub(super) fn take(&self, energy: Option<EnergyUse>) {
        let Some(EnergyUse { spent, .. }) = energy else {
            return;
        };
        let before = f64::from_bits(self.read.swap(spent.to_bits(), Ordering::Relaxed));
        let grown = if spent >= before {
            spent - before
        } else {
            spent
        };
        self.spent.get_or_create(&[]).inc_by(grown);
    }
}
