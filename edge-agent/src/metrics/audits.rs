//! What audits come to.

use std::sync::atomic::AtomicU64;

use outpost_exit_policy::Estimate;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAudit {
    result: &'static str,
}

/// No labels: a gauge that is there once it has a value.
type Alone = [(&'static str, &'static str); 0];

/// What came of an audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AuditResult {
    /// The cloud says the same class.
    Agrees,
    /// It says another.
    Contradicts,
    /// It did not answer.
    Failed,
}

impl AuditResult {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Agrees => "agrees",
            Self::Contradicts => "contradicts",
            Self::Failed => "failed",
        }
    }
}

/// Metrics of audits. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct AuditMetrics {
    audits: Family<OfAudit, Counter>,
    agreement: Family<Alone, Gauge<f64, AtomicU64>>,
    low: Family<Alone, Gauge<f64, AtomicU64>>,
    high: Family<Alone, Gauge<f64, AtomicU64>>,
    expected: Family<Alone, Gauge<f64, AtomicU64>>,
    alarm: Gauge,
}

impl AuditMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "audits",
            "Answers of the device that the cloud was asked about afterwards, by what came of it",
            metrics.audits.clone(),
        );
        registry.register(
            "audit_agreement",
            "Share of the device's answers that the cloud agrees with, as audits estimate it",
            metrics.agreement.clone(),
        );
        registry.register(
            "audit_agreement_low",
            "The lower end of its 95 % interval",
            metrics.low.clone(),
        );
        registry.register(
            "audit_agreement_high",
            "The upper end of its 95 % interval",
            metrics.high.clone(),
        );
        registry.register(
            "audit_expected_agreement",
            "That share as it was expected",
            metrics.expected.clone(),
        );
        registry.register(
            "audit_drift_alarm",
            "Whether the cloud has agreed less often than was expected, beyond chance",
            metrics.alarm.clone(),
        );
        metrics
    }

    pub(super) fn audited(&self, result: AuditResult) {
        let result = result.as_str();
        self.audits.get_or_create(&OfAudit { result }).inc();
    }

    /// What audits say by now; none before the first.
    pub(super) fn say(&self, estimate: Option<Estimate>, expected: Option<f64>, has_drifted: bool) {
        for (gauge, value) in [
            (&self.agreement, estimate.map(|estimate| estimate.agreement)),
            (&self.low, estimate.map(|estimate| estimate.low)),
            (&self.high, estimate.map(|estimate| estimate.high)),
            (&self.expected, expected),
        ] {
            match value {
                Some(value) => drop(gauge.get_or_create(&[]).set(value)),
                None => gauge.clear(),
            }
        }
        self.alarm.set(has_drifted.into());
    }
}
