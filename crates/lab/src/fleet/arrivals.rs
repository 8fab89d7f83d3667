//! When images come to the devices of a fleet: drawn from a seed, in the order of time, without a timer a device.
//!
//! Poisson streams of equal rate add up to one Poisson stream whose images belong to each device with equal chance, so that one
//! is drawn and then the device. Periodic streams with beginnings at random are a cycle of these beginnings. Both are exact.

use std::{cmp::Reverse, collections::BinaryHeap};

use fastrand::Rng;

use super::{
    plan::{ArrivalKind, ArrivalPlan},
    time::Time,
};

/// An image that comes to a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrival {
    /// Seconds since the beginning.
    pub at: Time,
    /// The device.
    pub device: u32,
    /// Number of the image in the trace.
    pub image: u32,
    /// Which of two operating points decides, 0 to 1; see `exit_policy::lot`.
    pub lot: f64,
}

/// The images of a fleet, without end.
#[derive(Debug, Clone)]
pub struct Arrivals {
    stream: Stream,
    rng: Rng,
    devices: u32,
    images: u32,
}

#[derive(Debug, Clone)]
enum Stream {
    Poisson {
        now: f64,
        per_second: f64,
    },
    Periodic {
        /// When in the cycle each device has its image, in order.
        phases: Vec<(f64, u32)>,
        next: usize,
        cycle: f64,
        /// Cycles that are over.
        begun: f64,
    },
    Bursts {
        next: f64,
        bursts_per_second: f64,
        images: u32,
        apart: f64,
        /// Images of bursts that have begun: when, whose, and how many are left after it.
        to_come: BinaryHeap<Reverse<(Time, u32, u32)>>,
    },
}

impl Arrivals {
    /// The images of so many devices in the busiest hour of a plan, each one of `images` of a trace.
    ///
    /// # Panics
    /// Without devices or images.
    pub fn new(plan: &ArrivalPlan, devices: u32, images: u32, seed: u64) -> Self {
        assert!(devices > 0 && images > 0, "nothing comes to nobody");
        let mut rng = Rng::with_seed(seed);
        let per_device = plan.per_device_hour * plan.peak_over_mean / 3600.0;
        let per_second = per_device * f64::from(devices);
        let stream = match plan.kind {
            ArrivalKind::Poisson => Stream::Poisson {
                now: 0.0,
                per_second,
            },
            ArrivalKind::Periodic => {
                let cycle = 1.0 / per_device;
                let mut phases: Vec<(f64, u32)> = (0..devices)
                    .map(|device| (cycle * rng.f64(), device))
                    .collect();
                phases.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                Stream::Periodic {
                    phases,
                    next: 0,
                    cycle,
                    begun: 0.0,
                }
            }
            ArrivalKind::Bursts => {
                let images = plan.burst_images.unwrap_or(1);
                let bursts_per_second = per_second / f64::from(images);
                Stream::Bursts {
                    next: exponential(&mut rng, bursts_per_second),
                    bursts_per_second,
                    images,
                    apart: plan.burst_apart_ms.unwrap_or(0.0) / 1e3,
                    to_come: BinaryHeap::new(),
                }
            }
        };
        Self {
            stream,
            rng,
            devices,
            images,
        }
    }

    fn next_of_stream(&mut self) -> (Time, u32) {
        let (rng, devices) = (&mut self.rng, self.devices);
        match &mut self.stream {
            Stream::Poisson { now, per_second } => {
                *now += exponential(rng, *per_second);
                (Time(*now), rng.u32(..devices))
            }
            Stream::Periodic {
                phases,
                next,
                cycle,
                begun,
            } => {
                let (phase, device) = phases[*next];
                let at = *begun * *cycle + phase;
                *next += 1;
                if *next == phases.len() {
                    *next = 0;
                    *begun += 1.0;
                }
                (Time(at), device)
            }
            Stream::Bursts {
                next,
                bursts_per_second,
                images,
                apart,
                to_come,
            } => {
                let follows = to_come
                    .peek()
                    .is_some_and(|Reverse((at, _, _))| at.0 <= *next);
                let (at, device, left) = match follows.then(|| to_come.pop()).flatten() {
                    Some(Reverse(one)) => one,
                    None => {
                        let begins = (Time(*next), rng.u32(..devices), *images - 1);
                        *next += exponential(rng, *bursts_per_second);
                        begins
                    }
                };
                if left > 0 {
                    to_come.push(Reverse((Time(at.0 + *apart), device, left - 1)));
                }
                (at, device)
            }
        }
    }
}

impl Iterator for Arrivals {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let (at, device) = self.next_of_stream();
        Some(Arrival {
            at,
            device,
            image: self.rng.u32(..self.images),
            lot: self.rng.f64(),
        })
    }
}

/// A time to the next of what happens so often a second, at random.
pub(super) fn exponential(rng: &mut Rng, per_second: f64) -> f64 {
    -(1.0 - rng.f64()).ln() / per_second
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(kind: ArrivalKind) -> ArrivalPlan {
        let is_bursts = kind == ArrivalKind::Bursts;
        ArrivalPlan {
            kind,
            per_device_hour: 1800.0,
            peak_over_mean: 2.0,
            burst_images: is_bursts.then_some(4),
            burst_apart_ms: is_bursts.then_some(100.0),
        }
    }

    #[test]
    fn all_kinds_come_in_order_at_their_rate_to_all_devices() {
        for kind in [
            ArrivalKind::Poisson,
            ArrivalKind::Periodic,
            ArrivalKind::Bursts,
        ] {
            let arrivals: Vec<Arrival> =
                Arrivals::new(&plan(kind), 10, 7, 3).take(40_000).collect();
            assert!(arrivals.is_sorted_by_key(|arrival| arrival.at), "{kind:?}");
            let rate = 40_000.0 / arrivals[39_999].at.0;
            assert!((rate - 10.0).abs() < 0.4, "{kind:?}: {rate}");
            let of_last = arrivals
                .iter()
                .filter(|arrival| arrival.device == 9)
                .count();
            assert!((3_500..4_500).contains(&of_last), "{kind:?}: {of_last}");
            assert!(arrivals.iter().all(|arrival| arrival.image < 7));
        }
    }

    #[test]
    fn a_device_of_a_periodic_fleet_has_an_image_every_cycle() {
        let arrivals = Arrivals::new(&plan(ArrivalKind::Periodic), 5, 1, 1);
        let of_one: Vec<f64> = arrivals
            .take(50)
            .filter(|arrival| arrival.device == 2)
            .map(|arrival| arrival.at.0)
            .collect();
        assert!(
            of_one
                .windows(2)
                .all(|two| (two[1] - two[0] - 1.0).abs() < 1e-9)
        );
    }

    #[test]
    fn a_superposed_stream_is_as_random_as_one_of_each_device() {
        // The distances of one device's images are exponential: their mean is their deviation.
        let arrivals = Arrivals::new(&plan(ArrivalKind::Poisson), 20, 1, 5);
        let of_one: Vec<f64> = arrivals
            .take(200_000)
            .filter(|arrival| arrival.device == 11)
            .map(|arrival| arrival.at.0)
            .collect();
        let distances: Vec<f64> = of_one.windows(2).map(|two| two[1] - two[0]).collect();
        let count = distances.len() as f64;
        let mean = distances.iter().sum::<f64>() / count;
        let variance = distances.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / count;
        assert!((mean - 1.0).abs() < 0.05, "{mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{variance}");
    }

    #[test]
    fn equal_seeds_give_equal_images() {
        let plan = plan(ArrivalKind::Bursts);
        let take = |seed| {
            Arrivals::new(&plan, 9, 5, seed)
                .take(500)
                .collect::<Vec<_>>()
        };
        assert_eq!(take(4), take(4));
        assert_ne!(take(4), take(5));
    }
}
