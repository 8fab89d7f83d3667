//! What a version of a network has done so far, as the protocol's statistics extension tells it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use outpost_proto::inference::{
    InferBatchStatistics, InferStatistics, ModelStatistics, StatisticDuration,
};

/// Counts and times of a version.
#[derive(Debug, Default)]
pub(crate) struct Statistics(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    last: Option<SystemTime>,
    images: u64,
    success: Sum,
    fail: Sum,
    queue: Sum,
    decode: Sum,
    compute: Sum,
    /// By the images of a batch; a peer chooses the size, within the limits.
    batches: BTreeMap<usize, Sum>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    count: u64,
    time: Duration,
}

impl Sum {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.time = self.time.saturating_add(time);
    }

    fn message(self) -> Option<StatisticDuration> {
        Some(StatisticDuration {
            count: self.count,
            ns: u64::try_from(self.time.as_nanos()).unwrap_or(u64::MAX),
        })
    }
}

/// Where the time of an answered request went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestTimes {
    pub(crate) total: Duration,
    pub(crate) queued: Duration,
    pub(crate) decoded: Duration,
    pub(crate) computed: Duration,
}

impl Statistics {
    /// A request was answered.
    pub(crate) fn answered(&self, times: RequestTimes) {
        let mut counts = self.lock();
        counts.last = Some(SystemTime::now());
        counts.success.add(times.total);
        counts.queue.add(times.queued);
        counts.decode.add(times.decoded);
        counts.compute.add(times.computed);
    }

    /// A request failed.
    pub(crate) fn failed(&self, total: Duration) {
        self.lock().fail.add(total);
    }

    /// A batch ran.
    pub(crate) fn ran(&self, images: usize, computed: Duration) {
        let mut counts = self.lock();
        counts.images += images as u64;
        counts.batches.entry(images).or_default().add(computed);
    }

    /// The message of the protocol. Making an output takes no time of note, so that its sums are 0.
    pub(crate) fn message(&self, name: &str, version: u64) -> ModelStatistics {
        let counts = self.lock();
        let none = |count| {
            Sum {
                count,
                time: Duration::ZERO,
            }
            .message()
        };
        let since_1970 = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok();
        let last = counts.last.and_then(since_1970).unwrap_or_default();
        ModelStatistics {
            name: name.to_owned(),
            version: version.to_string(),
            last_inference: u64::try_from(last.as_millis()).unwrap_or(u64::MAX),
            inference_count: counts.images,
            execution_count: counts.batches.values().map(|sum| sum.count).sum(),
            inference_stats: Some(InferStatistics {
                success: counts.success.message(),
                fail: counts.fail.message(),
                queue: counts.queue.message(),
                compute_input: counts.decode.message(),
                compute_infer: counts.compute.message(),
                compute_output: none(counts.success.count),
            }),
            batch_stats: counts
                .batches
                .iter()
                .map(|(&images, &sum)| InferBatchStatistics {
                    batch_size: images as u64,
                    compute_input: none(sum.count),
                    compute_infer: sum.message(),
                    compute_output: none(sum.count),
                })
                .collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_times_add_up() {
        let statistics = Statistics::default();
        assert_eq!(statistics.message("m", 3).last_inference, 0);
        let milliseconds = Duration::from_millis;
        for _ in 0..2 {
            statistics.answered(RequestTimes {
                total: milliseconds(10),
                queued: milliseconds(3),
                decoded: milliseconds(2),
                computed: milliseconds(5),
            });
        }
        statistics.failed(milliseconds(1));
        statistics.ran(2, milliseconds(5));
        statistics.ran(2, milliseconds(5));
        statistics.ran(1, milliseconds(4));
        let message = statistics.message("m", 3);
        assert_eq!(
            (message.name.as_str(), message.version.as_str()),
            ("m", "3")
        );
        assert!(message.last_inference > 1_700_000_000_000);
        assert_eq!((message.inference_count, message.execution_count), (5, 3));
        let requests = message.inference_stats.unwrap();
        let sum = |sum: Option<StatisticDuration>| sum.map(|sum| (sum.count, sum.ns)).unwrap();
        assert_eq!(sum(requests.success), (2, 20_000_000));
        assert_eq!(sum(requests.fail), (1, 1_000_000));
        assert_eq!(sum(requests.queue), (2, 6_000_000));
        assert_eq!(sum(requests.compute_input), (2, 4_000_000));
        assert_eq!(sum(requests.compute_infer), (2, 10_000_000));
        let sizes: Vec<u64> = message.batch_stats.iter().map(|b| b.batch_size).collect();
        assert_eq!(sizes, [1, 2]);
        assert_eq!(sum(message.batch_stats[1].compute_infer), (2, 10_000_000));
    }
}
