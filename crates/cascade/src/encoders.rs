//! With which encoder an image is there first, at the accuracy that was asked for.
//!
//! What an encoder is does not matter here: `E` is its name.

use serde::{Deserialize, Serialize};

use crate::link::Link;

/// Version of the format of a profile.
const SCHEMA: u32 = 1;

/// The link that is assumed while none is known: 10 Mbit/s. Its round trip is everyone's.
const ASSUMED: Link = Link {
    round_trip: 0.0,
    per_byte: 0.8e-6,
    ..Link::NONE
};

/// Encodings after which the pace of this machine counts half.
const HALF_LIFE_ENCODINGS: f64 = 8.0;

/// What encoders make of images that a network is then asked about, as `lab encoders` measures it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderProfile<E> {
    /// Version of the format.
    pub schema: u32,
    /// The network that sees the images.
    pub network: String,
    /// SHA-256 of its weights.
    pub digest: String,
    /// Number of images.
    pub images: usize,
    /// The processor that the times are of; empty where the system does not tell.
    pub processor: String,
    /// The images as they were read.
    pub original: Original,
    /// The encoders.
    pub encoders: Vec<Measured<E>>,
}

/// Images as they were read, without their metadata.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Original {
    /// Mean size in bytes.
    pub bytes: f64,
    /// Share of the images that the network is right about, 0 to 1.
    pub top1: f64,
}

/// An encoder as it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured<E> {
    /// The encoder.
    pub encoder: E,
    /// Mean size in bytes.
    pub bytes: f64,
    /// Share of the images that the network is right about, 0 to 1.
    pub top1: f64,
    /// Points of that share lost against the original; negative where it was gained.
    pub lost_points: f64,
    /// Ends of its 95 % interval.
    pub lost_points_low: f64,
    /// See `lost_points_low`.
    pub lost_points_high: f64,
    /// Median milliseconds of shrinking an image to what the network sees.
    pub resize_ms: f64,
    /// Median milliseconds of encoding that.
    pub encode_ms: f64,
}

/// Why a profile is of no use.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// It is of another version of the format.
    #[error(
        "the profile is of schema {found}, and this program reads {SCHEMA}: make it again with `lab encoders`"
    )]
    Schema {
        /// Its version.
        found: u32,
    },
    /// A number in it is impossible.
    #[error("the profile has impossible numbers for {0}: make it again with `lab encoders`")]
    Number(String),
    /// No encoder is within the loss.
    #[error(
        "no encoder of the profile that this build has loses at most {max_lost_points} points: raise `max_accuracy_loss`, or choose an `encoding`"
    )]
    NoneWithin {
        /// The bound.
        max_lost_points: f64,
    },
}

/// Chooses an encoder for one image after the other, by the link as it is then.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderChoice<E> {
    within: Vec<Measured<E>>,
    /// How long encoding takes here, as a multiple of what the profile says.
    pace: f64,
}

impl<E> EncoderProfile<E> {
    /// A profile of the present format.
    pub fn new(
        network: String,
        digest: String,
        images: usize,
        processor: String,
        original: Original,
        encoders: Vec<Measured<E>>,
    ) -> Self {
        Self {
            schema: SCHEMA,
            network,
            digest,
            images,
            processor,
            original,
            encoders,
        }
    }
}

impl<E> Measured<E> {
    /// Seconds of making the image ready to send.
    pub fn seconds(&self) -> f64 {
        (self.resize_ms + self.encode_ms) / 1e3
    }

    fn is_possible(&self) -> bool {
        let is_finite = [self.bytes, self.lost_points, self.resize_ms, self.encode_ms]
            .iter()
            .all(|number| number.is_finite());
        is_finite && self.bytes > 0.0 && self.resize_ms >= 0.0 && self.encode_ms >= 0.0
    }
}

impl<E: Copy + PartialEq + ToString> EncoderChoice<E> {
    /// Chooses among the encoders of a profile that `is_built` names and that lose at most `max_lost_points`.
    ///
    /// # Errors
    /// [`ProfileError`], where the profile is of no use.
    pub fn new(
        profile: &EncoderProfile<E>,
        max_lost_points: f64,
        is_built: impl Fn(E) -> bool,
    ) -> Result<Self, ProfileError> {
        if profile.schema != SCHEMA {
            let found = profile.schema;
            return Err(ProfileError::Schema { found });
        }
        if let Some(wrong) = profile.encoders.iter().find(|one| !one.is_possible()) {
            return Err(ProfileError::Number(wrong.encoder.to_string()));
        }
        let is_within =
            |one: &&Measured<E>| one.lost_points <= max_lost_points && is_built(one.encoder);
        let within: Vec<Measured<E>> = profile.encoders.iter().filter(is_within).copied().collect();
        if within.is_empty() {
            return Err(ProfileError::NoneWithin { max_lost_points });
        }
        Ok(Self { within, pace: 1.0 })
    }

    /// The encoder with which an image is there first over `link`, of those that the peer takes; without a link, over one
    /// of 10 Mbit/s. None where the peer takes none.
    pub fn choose(&self, link: Option<&Link>, is_taken: impl Fn(E) -> bool) -> Option<E> {
        let link = link.unwrap_or(&ASSUMED);
        let seconds = |one: &Measured<E>| self.pace * one.seconds() + link.offload(one.bytes);
        let taken = self.within.iter().filter(|one| is_taken(one.encoder));
        let first = taken.min_by(|a, b| {
            // On a link without a time a byte, of two that are as fast the smaller.
            let by_time = seconds(a).total_cmp(&seconds(b));
            by_time.then(a.bytes.total_cmp(&b.bytes))
        });
        first.map(|one| one.encoder)
    }

    /// Takes into account how many seconds an encoder took here, more than none.
    pub fn took(&mut self, encoder: E, seconds: f64) {
        let expected = self.within.iter().find(|one| one.encoder == encoder);
        let expected = expected.map_or(0.0, Measured::seconds);
        if expected > 0.0 && seconds > 0.0 {
            let share = 1.0 - 0.5_f64.powf(1.0 / HALF_LIFE_ENCODINGS);
            // A mean of ratios by their logarithms: one that was held up counts for little.
            self.pace *= (seconds / (self.pace * expected)).powf(share);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::link::{LinkEstimate, Observation};

    fn measured(
        encoder: &'static str,
        bytes: f64,
        lost_points: f64,
        ms: f64,
    ) -> Measured<&'static str> {
        Measured {
            encoder,
            bytes,
            top1: 0.9,
            lost_points,
            lost_points_low: lost_points - 1.0,
            lost_points_high: lost_points + 1.0,
            resize_ms: 1.0,
            encode_ms: ms,
        }
    }

    fn profile() -> EncoderProfile<&'static str> {
        let original = Original {
            bytes: 110e3,
            top1: 0.9,
        };
        let encoders = vec![
            measured("jpeg", 34e3, 0.0, 0.4),
            measured("webp", 20.5e3, 0.0, 9.0),
            measured("avif", 18e3, 0.4, 36.0),
            measured("tiny", 11e3, 2.4, 30.0),
        ];
        EncoderProfile::new("n".into(), "d".into(), 500, "p".into(), original, encoders)
    }

    fn link(bytes_a_second: f64) -> Link {
        Link {
            round_trip: 0.05,
            per_byte: 1.0 / bytes_a_second,
            ..Link::NONE
        }
    }

    fn chosen(points: f64, link: Option<Link>) -> &'static str {
        let choice = EncoderChoice::new(&profile(), points, |_| true).unwrap();
        choice.choose(link.as_ref(), |_| true).unwrap()
    }

    #[test]
    fn a_fast_link_gets_what_is_encoded_soonest_and_a_thin_one_what_is_smallest() {
        assert_eq!(chosen(1.0, Some(link(100e6))), "jpeg");
        assert_eq!(chosen(1.0, Some(link(1e6))), "webp");
        assert_eq!(chosen(1.0, Some(link(20e3))), "avif");
        // A link of which only the round trip is known carries bytes for nothing.
        assert_eq!(chosen(1.0, Some(link(f64::INFINITY))), "jpeg");
    }

    #[test]
    fn a_thin_link_gets_what_is_smallest_where_all_images_have_one_size() {
        let chosen_over = |bytes_a_second: f64| {
            let mut estimate = LinkEstimate::default();
            estimate.answered_in(Duration::from_millis(50), Duration::ZERO);
            for second in 0..14 {
                let sent = Observation {
                    bytes: 34_000,
                    image_bytes: Some(110_000),
                    encoding: Duration::from_millis(1),
                    link: Duration::from_secs_f64(0.05 + 34e3 / bytes_a_second),
                    at_peer: None,
                    queued: None,
                    is_answered: true,
                };
                estimate.observe(&sent, Duration::from_secs(second));
            }
            chosen(1.0, estimate.at(Duration::from_secs(14)))
        };
        assert_eq!(chosen_over(25e3), "avif");
        assert_eq!(chosen_over(100e6), "jpeg");
    }

    #[test]
    fn what_loses_more_than_was_asked_for_is_never_chosen() {
        assert_eq!(chosen(3.0, Some(link(20e3))), "tiny");
        assert_eq!(chosen(2.3, Some(link(20e3))), "avif");
        assert_eq!(chosen(0.0, Some(link(20e3))), "webp");
        let refused = EncoderChoice::new(&profile(), -0.1, |_| true);
        let max_lost_points = -0.1;
        assert_eq!(refused, Err(ProfileError::NoneWithin { max_lost_points }));
    }

    #[test]
    fn what_this_build_has_not_or_the_peer_does_not_take_is_left_out() {
        let thin = link(20e3);
        let built = EncoderChoice::new(&profile(), 1.0, |e| e != "avif").unwrap();
        assert_eq!(built.choose(Some(&thin), |_| true), Some("webp"));
        assert_eq!(built.choose(Some(&thin), |e| e == "jpeg"), Some("jpeg"));
        assert_eq!(built.choose(Some(&thin), |_| false), None);
        assert!(EncoderChoice::new(&profile(), 1.0, |_| false).is_err());
    }

    #[test]
    fn without_a_link_one_of_ten_megabits_is_assumed() {
        assert_eq!(chosen(1.0, None), chosen(1.0, Some(link(1.25e6))));
    }

    #[test]
    fn a_slower_machine_than_the_profiles_is_noticed() {
        let mut choice = EncoderChoice::new(&profile(), 1.0, |_| true).unwrap();
        let link = link(1e6);
        assert_eq!(choice.choose(Some(&link), |_| true), Some("webp"));
        for _ in 0..30 {
            choice.took("webp", 0.08);
        }
        assert_eq!(choice.choose(Some(&link), |_| true), Some("jpeg"));
        for _ in 0..60 {
            choice.took("jpeg", 1.4e-3);
        }
        assert_eq!(choice.choose(Some(&link), |_| true), Some("webp"));
    }

    #[test]
    fn profiles_with_impossible_numbers_or_of_another_format_are_refused() {
        for wrong in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
            let mut profile = profile();
            profile.encoders[1].bytes = wrong;
            let refused = EncoderChoice::new(&profile, 1.0, |_| true);
            assert_eq!(refused, Err(ProfileError::Number("webp".into())));
        }
        let mut profile = profile();
        profile.schema = 2;
        let refused = EncoderChoice::new(&profile, 1.0, |_| true);
        assert_eq!(refused, Err(ProfileError::Schema { found: 2 }));
    }
}
