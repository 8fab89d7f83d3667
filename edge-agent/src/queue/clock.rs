//! How long images have waited, whatever happens to the machine's clock.
//!
//! While the program runs its time is that of a clock that nobody sets. Over its end and its next start, time goes on as the
//! system counted it since it was started, or, where it was started again, by the machine's clock.

use std::{
    fs,
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

/// Milliseconds from 1970 to the year 2025: a clock that shows less has not been set since the machine was switched on.
const NOT_SET_MS: u64 = 1_735_689_600_000;

/// The queue's time: milliseconds from any origin, which go on over restarts.
#[derive(Debug)]
pub(super) struct QueueClock {
    at_start: u64,
    started: Instant,
}

/// The queue's time at some moment, and what the machine's clocks showed then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    queue_ms: u64,
    machine: Machine,
}

/// What the machine's clocks show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Machine {
    /// Milliseconds since 1970, by the clock that people and the network set.
    since_1970_ms: u64,
    /// Time since the system was started, where it tells.
    uptime: Option<Uptime>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Uptime {
    /// The name of this start of the system.
    boot: String,
    ms: u64,
}

impl QueueClock {
    /// Goes on after `mark`; one that never went begins with the machine's clock.
    pub(super) fn after(mark: Option<&Mark>) -> Self {
        Self {
            at_start: resumed(mark, &Machine::now()),
            started: Instant::now(),
        }
    }

    pub(super) fn now(&self) -> Duration {
        Duration::from_millis(self.at_start) + self.started.elapsed()
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.now().as_millis() as u64
    }

    pub(super) fn mark(&self) -> Mark {
        Mark {
            queue_ms: self.now_ms(),
            machine: Machine::now(),
        }
    }
}

impl Machine {
    fn now() -> Self {
        Self {
            since_1970_ms: since_1970_ms(),
            uptime: uptime(),
        }
    }
}

/// The queue's time now. Where time cannot be told, none has passed: an image that waits too long costs room, of which there
/// is a bound, and one that is given up at once is lost to the cloud.
fn resumed(mark: Option<&Mark>, now: &Machine) -> u64 {
    let Some(Mark { queue_ms, machine }) = mark else {
        return now.since_1970_ms;
    };
    let passed = match (&machine.uptime, &now.uptime) {
        (Some(then), Some(now)) if then.boot == now.boot => now.ms.saturating_sub(then.ms),
        _ if machine.since_1970_ms < NOT_SET_MS => 0,
        _ => now.since_1970_ms.saturating_sub(machine.since_1970_ms),
    };
    queue_ms.saturating_add(passed)
}

/// Milliseconds since 1970 by the machine's clock.
fn since_1970_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default().as_millis() as u64
}

/// As Linux tells it; time asleep counts.
fn uptime() -> Option<Uptime> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Some(Uptime {
        boot: boot.trim().to_owned(),
        ms: (seconds * 1e3) as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: u64 = 365 * 24 * 3_600_000;
    const NOW: u64 = 1_800_000_000_000;

    fn machine(since_1970_ms: u64, boot: &str, ms: u64) -> Machine {
        Machine {
            since_1970_ms,
            uptime: Some(Uptime {
                boot: boot.to_owned(),
                ms,
            }),
        }
    }

    fn mark(machine: Machine) -> Mark {
        Mark {
            queue_ms: 7_000,
            machine,
        }
    }

    #[test]
    fn a_clock_that_jumps_by_years_makes_no_image_older_or_younger() {
        let before = mark(machine(NOW, "a", 1_000));
        for jumped in [NOW + 20 * YEAR, NOW - 20 * YEAR, 0, NOW] {
            let after = resumed(Some(&before), &machine(jumped, "a", 61_000));
            assert_eq!(after, 67_000, "{jumped}");
        }
        // Begun with a clock that had not been set, which it was since.
        let before = mark(machine(60_000, "a", 1_000));
        assert_eq!(resumed(Some(&before), &machine(NOW, "a", 2_000)), 8_000);
    }

    #[test]
    fn over_a_start_of_the_system_the_clock_counts_where_it_can_be_right() {
        let before = mark(machine(NOW, "a", 1_000));
        let after = |since_1970_ms| resumed(Some(&before), &machine(since_1970_ms, "b", 500));
        assert_eq!(after(NOW + 60_000), 67_000);
        // Switched on without a clock.
        assert_eq!(after(0), 7_000);
        let not_set = mark(machine(60_000, "a", 1_000));
        assert_eq!(resumed(Some(&not_set), &machine(NOW, "b", 500)), 7_000);
        assert_eq!(resumed(None, &machine(NOW, "a", 1)), NOW);
    }

    #[test]
    fn while_the_program_runs_nobody_sets_its_clock() {
        let clock = QueueClock::after(Some(&mark(Machine::now())));
        let (first, second) = (clock.now(), clock.now());
        assert!(first >= Duration::from_secs(7) && second >= first);
        assert!(clock.mark().queue_ms >= 7_000);
    }
}
