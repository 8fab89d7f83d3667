//! What decides about images: one operating point, or two by lot.

use std::fmt;

use twox_hash::XxHash64;

use super::{Expected, OperatingPoint};

/// Below this share of the images, or above the rest of it, one point decides about all.
const LEAST_SHARE: f64 = 0.01;

/// An operating point that decides about images, or two of which each decides about a share of them.
///
/// What two points do on average is a mean of what each does, so that a goal between them is met without a policy of its
/// own. Which of them decides about an image is drawn by [`lot`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice<'a> {
    /// The one.
    pub point: &'a OperatingPoint,
    /// The other, and the share of images that it decides about, above 0 and below 1.
    pub other: Option<(&'a OperatingPoint, f64)>,
}

impl<'a> From<&'a OperatingPoint> for Choice<'a> {
    fn from(point: &'a OperatingPoint) -> Self {
        Self { point, other: None }
    }
}

impl<'a> Choice<'a> {
    /// Two points, the second for a share of the images, of which the first keeps some; none where the second would hardly be
    /// asked.
    pub(super) fn mixed(
        point: &'a OperatingPoint,
        other: &'a OperatingPoint,
        share: f64,
    ) -> Option<Self> {
        (share >= LEAST_SHARE).then_some(Self {
            point,
            other: Some((other, share.min(1.0 - LEAST_SHARE))),
        })
    }

    /// What it does, on average.
    pub fn expected(&self) -> Expected {
        let one = self.point.expected;
        let Some((other, share)) = self.other else {
            return one;
        };
        let other = other.expected;
        let mean = |one: f64, other: f64| one + share * (other - one);
        // Each by how many it answers before a link.
        let here = [
            (1.0 - share) * (1.0 - one.offload_rate),
            share * (1.0 - other.offload_rate),
        ];
        let agreement = match (one.agreement, other.agreement) {
            (Some(a), Some(b)) => Some((here[0] * a + here[1] * b) / (here[0] + here[1])),
            (Some(a), None) if here[1] <= 0.0 => Some(a),
            (None, Some(b)) if here[0] <= 0.0 => Some(b),
            _ => None,
        };
        Expected {
            agreement: agreement.filter(|agreement| agreement.is_finite()),
            accuracy: mean(one.accuracy, other.accuracy),
            seconds: mean(one.seconds, other.seconds),
            local_seconds: mean(one.local_seconds, other.local_seconds),
            bytes: mean(one.bytes, other.bytes),
            offload_rate: mean(one.offload_rate, other.offload_rate),
        }
    }

    /// The point that decides about an image of this [`lot`].
    pub fn of(&self, lot: f64) -> &'a OperatingPoint {
        match self.other {
            Some((other, share)) if lot < share => other,
            _ => self.point,
        }
    }
}

impl fmt::Display for Choice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.point.name)?;
        match self.other {
            Some((other, share)) => write!(f, ", {} for {:.0} %", other.name, 100.0 * share),
            None => Ok(()),
        }
    }
}

/// A number from 0 up to 1 for an image, by its pixels: as good as drawn by lot, and the same at every site, in an
/// evaluation and in a live agent.
pub fn lot(pixels: &[u8]) -> f64 {
    // Enough to tell images apart; a large one costs no more.
    const MOST: usize = 4096;
    let step = pixels.len().div_ceil(MOST).max(1);
    let some: Vec<u8> = pixels.iter().step_by(step).copied().collect();
    // The upper bits, as many as a float holds.
    (XxHash64::oneshot(0, &some) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(offload_rate: f64, agreement: Option<f64>) -> OperatingPoint {
        OperatingPoint {
            name: "p".to_owned(),
            price_per_second: 0.0,
            price_per_byte: 0.0,
            expected: Expected {
                accuracy: 0.9,
                seconds: 1.0,
                local_seconds: 0.5,
                bytes: 100.0,
                offload_rate,
                agreement,
            },
            functions: Vec::new(),
        }
    }

    #[test]
    fn the_agreement_of_two_points_counts_each_by_its_answers_before_a_link() {
        let agreement = |one: &OperatingPoint, other: &OperatingPoint| {
            let choice = Choice::mixed(one, other, 0.5).unwrap();
            choice.expected().agreement
        };
        let (half, none) = (point(0.5, Some(0.9)), point(0.0, Some(0.6)));
        let mixed = agreement(&half, &none).unwrap();
        assert!((mixed - 0.7).abs() < 1e-9, "{mixed}");
        // One that sends everything has nothing to agree about; of an older one nothing is known.
        let all = point(1.0, None);
        assert_eq!(agreement(&half, &all), Some(0.9));
        assert_eq!(agreement(&all, &half), Some(0.9));
        assert_eq!(agreement(&half, &point(0.2, None)), None);
        assert_eq!(agreement(&all, &all), None);
    }

    #[test]
    fn lots_spread_evenly_and_stay_the_same() {
        let images: Vec<Vec<u8>> = (0..10_000u32)
            .map(|i| i.to_le_bytes().repeat(800))
            .collect();
        let mut tenths = [0; 10];
        for image in &images {
            tenths[(10.0 * lot(image)) as usize] += 1;
        }
        // Five standard deviations.
        assert!(
            tenths.iter().all(|count| (850..1150).contains(count)),
            "{tenths:?}"
        );
        assert_eq!(lot(&images[7]), lot(&images[7]));
        assert_eq!(lot(&[]), lot(&[]));
        // Every version of the program draws the same: by the hash's published definition.
        assert_eq!(
            lot(b"abc"),
            (0x44BC_2CF5_AD77_0999u64 >> 11) as f64 / (1u64 << 53) as f64
        );
    }
}
