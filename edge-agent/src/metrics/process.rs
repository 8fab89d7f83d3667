//! The program itself: since when it runs, and its memory.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

/// No labels: a gauge that is there once it has a value.
type Alone = [(&'static str, &'static str); 0];

/// Metrics of the process. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct ProcessMetrics {
    resident: Family<Alone, Gauge>,
}

impl ProcessMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register_with_unit(
            "resident_memory",
            "Memory of the process, that of its file included",
            Unit::Bytes,
            metrics.resident.clone(),
        );
        let start = Gauge::<i64>::default();
        // A clock before 1970 is none.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        start.set(now.map_or(0, |now| now.as_secs() as i64));
        registry.register_with_unit(
            "start_time",
            "When the program started, since 1970",
            Unit::Seconds,
            start,
        );
        metrics
    }

    /// Takes what holds now, where the system tells.
    pub(super) fn take(&self) {
        if let Some(bytes) = resident() {
            self.resident.get_or_create(&[]).set(bytes);
        }
    }
}

#[cfg(target_os = "linux")]
fn resident() -> Option<i64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let resident: i64 = pages.split(' ').nth(1)?.parse().ok()?;
    Some(resident * rustix::param::page_size() as i64)
}

#[cfg(not(target_os = "linux"))]
fn resident() -> Option<i64> {
    None
}
