//! Pauses between attempts to reach who is away.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Half a second to a minute, twice as long each time, and up to as much again by chance: devices that lost one server do
/// not come back all at once. They never end.
pub(crate) fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(500))
        .with_max_delay(Duration::from_secs(60))
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_never_end() {
        let pauses: Vec<Duration> = pauses().take(100).collect();
        assert_eq!(pauses.len(), 100);
        assert!(pauses[0] <= Duration::from_secs(1));
        assert!((60..=120).contains(&pauses[99].as_secs()), "{pauses:?}");
    }
}
