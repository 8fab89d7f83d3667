//! Audits: a random share of the answers that the device gave by itself is sent to the cloud afterwards, to see whether the
//! two still agree as often as was expected.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use outpost_exit_policy::{Agreement, DriftDetector, Estimate};
use uuid::Uuid;

use crate::{
    config::AuditConfig,
    metrics::{AuditResult, Metrics},
    power::Power,
    record::Record,
};

/// Draws answers and keeps account of them. Clones share it.
#[derive(Clone)]
pub(crate) struct Auditor {
    config: AuditConfig,
    metrics: Metrics,
    power: Power,
    account: Arc<Mutex<Account>>,
}

struct Account {
    rng: Rng,
    agreement: Agreement,
    detector: DriftDetector,
    has_drifted: bool,
}

/// What the audits say.
pub(crate) struct AuditStatus {
    /// Share of the answers that are drawn.
    pub(crate) share: f64,
    /// Audits that the cloud answered.
    pub(crate) audits: u64,
    /// What they say about all answers; none before the first.
    pub(crate) estimate: Option<Estimate>,
    /// The share that should agree, where the configuration says it.
    pub(crate) expected: Option<f64>,
    /// Whether the cloud has agreed less often than was expected, beyond chance.
    pub(crate) has_drifted: bool,
}

impl Account {
    fn new(config: &AuditConfig, rng: Rng) -> Self {
        Self {
            rng,
            agreement: Agreement::default(),
            detector: DriftDetector::new(config.false_alarm_after),
            has_drifted: false,
        }
    }
}

impl Auditor {
    /// None where no answer is to be drawn.
    pub(crate) fn new(config: &AuditConfig, metrics: &Metrics, power: &Power) -> Option<Self> {
        if config.share <= 0.0 {
            return None;
        }
        // The lower half of such an identifier is random.
        let seed = Uuid::now_v7().as_u128() as u64;
        Some(Self {
            config: *config,
            metrics: metrics.clone(),
            power: power.clone(),
            account: Arc::new(Mutex::new(Account::new(config, Rng::with_seed(seed)))),
        })
    }

    /// Other networks or another policy answer from now on: what was said of those before says nothing of them.
    pub(crate) fn begin_anew(&self) {
        let account = &mut *self.account();
        *account = Account::new(&self.config, account.rng.clone());
        self.metrics.audits_say(None, None, false);
    }

    /// Whether the next answer is drawn, by lot alone; none is while what the device runs from is spared.
    pub(crate) fn draws(&self) -> bool {
        self.power.allows_audits() && self.account().rng.f64() < self.config.share
    }

    /// Takes into account what the cloud said about an answer; gives whether the two agree. `by_the_policy` is what was
    /// expected when the answer was given.
    pub(crate) fn note(&self, said: &Record, cloud: &Record, by_the_policy: Option<f64>) -> bool {
        let agrees = class(said) == class(cloud);
        let expected = self.config.expected.or(by_the_policy);
        let account = &mut *self.account();
        account.agreement.observe(agrees, self.config.share);
        let estimate = account.agreement.estimate();
        let tolerance = self.config.tolerance / 100.0;
        let is_alarm =
            expected.is_some_and(|expected| account.detector.observe(agrees, expected - tolerance));
        if is_alarm && !account.has_drifted {
            account.has_drifted = true;
            let percent = |share: f64| format!("{:.1} %", 100.0 * share);
            tracing::warn!(
                audits = account.agreement.drawn(),
                agreement = estimate.map(|estimate| percent(estimate.agreement)),
                expected = expected.map(percent),
                "the cloud agrees with this device's answers less often than was expected: look at images and camera, learn the policy \
                 anew, or choose an operating point that sends more"
            );
        }
        let result = match agrees {
            true => AuditResult::Agrees,
            false => AuditResult::Contradicts,
        };
        self.metrics.audited(result, Some(cloud));
        self.metrics
            .audits_say(estimate, expected, account.has_drifted);
        agrees
    }

    /// The cloud did not answer.
    pub(crate) fn failed(&self) {
        self.metrics.audited(AuditResult::Failed, None);
    }

    /// What they say by now.
    pub(crate) fn status(&self) -> AuditStatus {
        let account = self.account();
        AuditStatus {
            share: self.config.share,
            audits: account.agreement.drawn(),
            estimate: account.agreement.estimate(),
            expected: self.config.expected,
            has_drifted: account.has_drifted,
        }
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn class(record: &Record) -> Option<u32> {
    match record {
        Record::Answered(answered) => Some(answered.class_id.0),
        Record::Failed { .. } => None,
    }
}
