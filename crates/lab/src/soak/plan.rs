//! What happens in the course of a soak, and when: drawn from a seed, the same each time.

use std::{fmt, time::Duration};

use fastrand::Rng;

/// The link between device and cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// Carries what it is given.
    Up,
    /// Carries nothing and says nothing: connections stay, and nobody answers.
    Silent,
    /// Ends connections, and refuses new ones.
    Cut,
}

/// What is done to the programs or to what is between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happening {
    /// The link comes or goes.
    Link(Link),
    /// The cloud is killed.
    CloudDies,
    /// The cloud is started again.
    CloudReturns,
    /// The device is killed, as by `kill -9`, and started again at once.
    DeviceDies,
}

/// A happening and the time from the start to it.
pub(super) type Planned = (Duration, Happening);

impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Link(Link::Up) => "the link is back",
            Self::Link(Link::Silent) => "the link falls silent",
            Self::Link(Link::Cut) => "the link is cut",
            Self::CloudDies => "the cloud is killed",
            Self::CloudReturns => "the cloud is started again",
            Self::DeviceDies => "the device is killed, and started again",
        })
    }
}

/// What happens within `length`: the device dies twice, the cloud twice for a while, and the link is away about a third
/// of the time, silent and cut in turns. All is well for the last tenth.
pub(super) fn plan(length: Duration, seed: u64) -> Vec<Planned> {
    let mut rng = Rng::with_seed(seed);
    let mut around = |share: f64| length.mul_f64(share + 0.02 * (rng.f64() - 0.5));
    let mut plan: Vec<Planned> = [1.0 / 3.0, 2.0 / 3.0]
        .map(|share| (around(share), Happening::DeviceDies))
        .to_vec();
    for share in [0.2, 0.5] {
        let dies = around(share);
        plan.push((dies, Happening::CloudDies));
        plan.push((dies + length.mul_f64(0.02), Happening::CloudReturns));
    }
    // Some twenty outages in half an hour, and no fewer than a short soak has room for.
    let cycle = length
        .div_f64(20.0)
        .clamp(Duration::from_secs(6), Duration::from_secs(90));
    let (mut now, mut kinds) = (Duration::ZERO, [Link::Silent, Link::Cut].iter().cycle());
    loop {
        let away = now + cycle.mul_f64(0.4 + 0.5 * rng.f64());
        let back = away + cycle.mul_f64(0.2 + 0.3 * rng.f64());
        if back > length.mul_f64(0.9) {
            break;
        }
        plan.extend(kinds.next().map(|&kind| (away, Happening::Link(kind))));
        plan.push((back, Happening::Link(Link::Up)));
        now = back;
    }
    plan.sort_by_key(|planned| planned.0);
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_promised_happens_in_order_and_the_end_is_quiet() {
        for (minutes, seed) in [(1, 0), (30, 0), (30, 7), (240, 1)] {
            let length = Duration::from_secs(60 * minutes);
            let plan = plan(length, seed);
            let count = |wanted| plan.iter().filter(|planned| planned.1 == wanted).count();
            assert_eq!(count(Happening::DeviceDies), 2);
            assert_eq!(count(Happening::CloudDies), 2);
            assert_eq!(count(Happening::CloudReturns), 2);
            let (silent, cut) = (
                count(Happening::Link(Link::Silent)),
                count(Happening::Link(Link::Cut)),
            );
            assert!(silent >= 2 && cut >= 2, "{minutes}: {silent}, {cut}");
            assert_eq!(silent + cut, count(Happening::Link(Link::Up)));
            assert!(plan.is_sorted_by_key(|planned| planned.0));
            assert!(
                plan.last()
                    .is_some_and(|last| last.0 <= length.mul_f64(0.9))
            );
        }
    }

    #[test]
    fn a_seed_says_what_happens() {
        let length = Duration::from_secs(600);
        assert_eq!(plan(length, 3), plan(length, 3));
        assert_ne!(plan(length, 3), plan(length, 4));
    }
}
