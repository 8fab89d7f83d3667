//! `[audit]` of the configuration.

use serde::Deserialize;

use super::ConfigError;

/// How answers that the device gave by itself are compared with the cloud's, in `edge-agent run`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// Share of them that is sent to the cloud afterwards, 0 to 1. Default 0: none.
    pub share: f64,
    /// Share of them that the cloud should agree with, 0 to 1. Default what the policy bundle expects, where it says that.
    pub expected: Option<f64>,
    /// Points below it that are no alarm. Default 2.
    pub tolerance: f64,
    /// Audits after which a false alarm comes on average, at the earliest. Default 100000.
    pub false_alarm_after: u32,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            share: 0.0,
            expected: None,
            tolerance: 2.0,
            false_alarm_after: 100_000,
        }
    }
}

impl AuditConfig {
    /// Checks what types cannot.
    pub(super) fn check(&self, has_cloud: bool) -> Result<(), ConfigError> {
        for (name, value, most) in [
            ("audit.share", self.share, 1.0),
            ("audit.expected", self.expected.unwrap_or(1.0), 1.0),
            ("audit.tolerance", self.tolerance, 100.0),
        ] {
            if !(0.0..=most).contains(&value) {
                return Err(ConfigError::Range { name, value, most });
            }
        }
        if self.false_alarm_after == 0 {
            return Err(ConfigError::NoPatience);
        }
        if self.share > 0.0 && !has_cloud {
            return Err(ConfigError::NobodyToAudit);
        }
        Ok(())
    }
}
