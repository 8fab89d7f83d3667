//! What an offload takes of a battery.

use std::time::Duration;

/// So much a byte, and the time for which the radio stays awake after it.
///
/// A radio that has sent something keeps awake for a while, in case that there is more: its tail. On mobile networks that is
/// the most of what a small message costs (Huang et al., "A Close Examination of Performance and Power Characteristics of 4G
/// LTE Networks", MobiSys 2012). A message within the tail of the one before only makes it longer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OffloadEnergy {
    /// Joules a byte that is sent.
    pub joules_per_byte: f64,
    /// Watts of the radio while it is awake and sends nothing.
    pub radio_watts: f64,
    /// How long it stays awake after a message.
    pub radio_tail: Duration,
}

impl OffloadEnergy {
    /// Joules of an offload of so many bytes, so long after the one before it; none where there was none.
    pub fn joules(&self, bytes: u64, since_the_last: Option<Duration>) -> f64 {
        let awake = since_the_last.map_or(self.radio_tail, |since| since.min(self.radio_tail));
        self.joules_per_byte * bytes as f64 + self.radio_watts * awake.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_paid_for_once_however_many_share_it() {
        let energy = OffloadEnergy {
            joules_per_byte: 1e-6,
            radio_watts: 2.0,
            radio_tail: Duration::from_secs(10),
        };
        let joules =
            |bytes, since: Option<f64>| energy.joules(bytes, since.map(Duration::from_secs_f64));
        assert_eq!(joules(1_000_000, None), 21.0);
        assert_eq!(joules(0, Some(3600.0)), 20.0);
        assert_eq!(joules(0, Some(10.0)), 20.0);
        assert_eq!(joules(500_000, Some(1.5)), 3.5);
        // Ten in ten seconds: the radio is awake for twenty.
        let ten = joules(0, None) + (1..=10).map(|_| joules(0, Some(1.0))).sum::<f64>();
        assert_eq!(ten, 40.0);
    }
}
