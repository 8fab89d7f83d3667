//! How long before its deadline an image is to be kept, so that it is on disk by then: learned from the latest changes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Changes that an image may wait for: the one that is under way, and its own.
const CHANGES: u32 = 2;
/// What a change that is faster than those before counts for: after some ten of them a slow one is forgotten.
const SHARE: u32 = 8;

/// What the disk takes. A slower change counts at once, faster ones by and by: the next may be slow again.
#[derive(Debug)]
pub(super) struct Reserve {
    slow: Duration,
    /// Where others read the reserve, in microseconds.
    told: Arc<AtomicU64>,
}

impl Reserve {
    pub(super) fn new(told: Arc<AtomicU64>) -> Self {
        Self {
            slow: Duration::ZERO,
            told,
        }
    }

    /// A change took so long to be on disk.
    pub(super) fn observe(&mut self, took: Duration) {
        self.slow = match self.slow.checked_sub(took) {
            None => took,
            Some(faster_by) => self.slow - faster_by / SHARE,
        };
        let reserve = self.slow * CHANGES;
        self.told
            .store(reserve.as_micros() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_disk_has_two_of_its_changes_reserved_until_it_is_faster() {
        let told = Arc::new(AtomicU64::new(0));
        let mut reserve = Reserve::new(told.clone());
        let mut after = |ms| {
            reserve.observe(Duration::from_millis(ms));
            Duration::from_micros(told.load(Ordering::Relaxed)).as_millis()
        };
        assert_eq!(after(10), 20);
        assert_eq!(after(150), 300);
        assert!((200..300).contains(&after(10)));
        let last = (0..40).map(|_| after(10)).last();
        assert!((20..24).contains(&last.unwrap()), "{last:?}");
        assert_eq!(after(150), 300);
    }
}
