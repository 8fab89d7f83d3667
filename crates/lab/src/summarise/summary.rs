//! Counts answers. Pure: answers and labels go in, figures come out.

use outpost_exit_policy::{Bundle, Choice, Expected};
use serde::{Deserialize, Serialize};

use super::answers::{Answer, Labels, Site};
use crate::percentile::nearest_rank;

/// Figures of one list of answers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// Images asked, unreadable ones included.
    pub images: usize,
    /// Images that the device answered, fallbacks included.
    pub answered_by_device: usize,
    /// Images that the cloud answered.
    pub answered_by_cloud: usize,
    /// Images that the device answered because the cloud did not.
    pub fallbacks: usize,
    /// Images that could not be read.
    pub unreadable: usize,
    /// Readable images whose class is not known.
    pub unlabelled: usize,
    /// Bytes that went over the link, of all images.
    pub bytes_sent: u64,
    correct: usize,
    /// Total milliseconds of the answers that state them, sorted.
    total_ms: Vec<f64>,
}

/// What `summary.json` holds of a cascade.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Images asked, unreadable ones included.
    pub images: usize,
    /// Images that the device answered, fallbacks included.
    pub answered_by_device: usize,
    /// Images that the cloud answered.
    pub answered_by_cloud: usize,
    /// Images that the device answered because the cloud did not.
    pub fallbacks: usize,
    /// Share of right answers, 0 to 1; `None` where no image has a label.
    pub top1: Option<f64>,
    /// The same for the device alone; `None` where it was not given.
    pub device_only_top1: Option<f64>,
    /// The same for the cloud alone; `None` where it was not given.
    pub cloud_only_top1: Option<f64>,
    /// Mean time from the image to the answer.
    pub mean_total_ms: Option<f64>,
    /// The time that 95 % of the answers do not exceed, by nearest rank.
    pub p95_total_ms: Option<f64>,
    /// Bytes that went over the link, of all images.
    pub bytes_sent: u64,
    /// The learned policy that ran; absent where it was the cascade's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
}

/// A learned policy and where on its frontier it ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// The operating point that ran, or both where there were two.
    pub ran: FrontierPoint,
    /// All its operating points, as they were expected to do.
    pub frontier: Vec<FrontierPoint>,
}

/// An operating point as it was expected to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrontierPoint {
    /// Its name.
    pub name: String,
    /// Share of right answers.
    pub top1: f64,
    /// Share of the images offloaded.
    pub offload_rate: f64,
    /// Mean milliseconds.
    pub mean_ms: f64,
}

impl Policy {
    /// The frontier of a bundle, and what of it ran.
    pub fn new(bundle: &Bundle, ran: &Choice<'_>) -> Self {
        let points = bundle.operating_points().iter();
        Self {
            ran: FrontierPoint::new(ran.to_string(), ran.expected()),
            frontier: points
                .map(|point| FrontierPoint::new(point.name.clone(), point.expected))
                .collect(),
        }
    }
}

impl FrontierPoint {
    fn new(name: String, expected: Expected) -> Self {
        Self {
            name,
            top1: expected.accuracy,
            offload_rate: expected.offload_rate,
            mean_ms: 1e3 * expected.seconds,
        }
    }
}

impl Tally {
    /// Counts `answers` against `labels`.
    pub fn new(answers: &[Answer], labels: &Labels) -> Self {
        let mut tally = Self {
            images: answers.len(),
            ..Self::default()
        };
        for answer in answers {
            let Some(given) = &answer.given else {
                tally.unreadable += 1;
                continue;
            };
            match given.site {
                Site::Device => tally.answered_by_device += 1,
                Site::Cloud => tally.answered_by_cloud += 1,
            }
            match labels.get(&answer.file) {
                Some(label) => tally.correct += usize::from(label == given.class_id),
                None => tally.unlabelled += 1,
            }
            tally.fallbacks += usize::from(given.is_fallback);
            tally.bytes_sent += given.bytes_sent;
            tally.total_ms.extend(given.total_ms);
        }
        tally.total_ms.sort_unstable_by(f64::total_cmp);
        tally
    }

    /// Share of right answers, 0 to 1, of the images that have a label or could not be read: an
    /// unreadable image is wrong, whatever it shows. `None` where no answer has a label.
    pub fn top1(&self) -> Option<f64> {
        let labelled = self.images - self.unlabelled;
        (labelled > self.unreadable).then(|| self.correct as f64 / labelled as f64)
    }

    /// Mean time from the image to the answer.
    pub fn mean_total_ms(&self) -> Option<f64> {
        let sum: f64 = self.total_ms.iter().sum();
        (!self.total_ms.is_empty()).then(|| sum / self.total_ms.len() as f64)
    }

    /// The time that 95 % of the answers do not exceed, by nearest rank.
    pub fn p95_total_ms(&self) -> Option<f64> {
        nearest_rank(&mut self.total_ms.clone(), 95)
    }

    /// Bytes that went over the link an image.
    pub fn bytes_per_image(&self) -> Option<f64> {
        self.share_of_images(self.bytes_sent as f64)
    }

    /// Share of the images that the cloud answered; a fallback is the device's.
    pub fn offload_rate(&self) -> Option<f64> {
        self.share_of_images(self.answered_by_cloud as f64)
    }

    /// Whether both sites answered.
    pub(super) fn is_of_a_cascade(&self) -> bool {
        self.answered_by_device > 0 && self.answered_by_cloud > 0
    }

    fn share_of_images(&self, of_all: f64) -> Option<f64> {
        (self.images > 0).then(|| of_all / self.images as f64)
    }
}

impl Summary {
    /// Sums up Outpost's answers beside those of each site alone.
    pub fn new(outpost: &Tally, device_only: Option<&Tally>, cloud_only: Option<&Tally>) -> Self {
        Self {
            images: outpost.images,
            answered_by_device: outpost.answered_by_device,
            answered_by_cloud: outpost.answered_by_cloud,
            fallbacks: outpost.fallbacks,
            top1: outpost.top1(),
            device_only_top1: device_only.and_then(Tally::top1),
            cloud_only_top1: cloud_only.and_then(Tally::top1),
            mean_total_ms: outpost.mean_total_ms(),
            p95_total_ms: outpost.p95_total_ms(),
            bytes_sent: outpost.bytes_sent,
            policy: None,
        }
    }

    /// Share of the images that the cloud answered.
    pub fn offload_rate(&self) -> Option<f64> {
        (self.images > 0).then(|| self.answered_by_cloud as f64 / self.images as f64)
    }
}
