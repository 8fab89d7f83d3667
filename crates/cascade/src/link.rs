//! What an offload over a link costs now, from what the latest ones took.

use std::time::Duration;

/// Offloads after which one counts half: enough to smooth a busy link, few enough to see it change.
const HALF_LIFE_OFFLOADS: f64 = 8.0;
/// Time after which one counts half.
const HALF_LIFE: Duration = Duration::from_secs(30);
/// A link that nothing was sent over for so long may be another by now.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// Sizes must spread by this share of their mean before the time of a byte that they tell is believed; below, it shrinks
/// towards what a question's round trip leaves of the time. Where none is known that is zero, and the time counts as round
/// trip, which is as good for messages of such sizes.
const LEAST_SPREAD: f64 = 0.1;
/// For how long a question's round trip holds where a longer one comes: the link may be another by then.
const ROUND_TRIP_HOLDS: Duration = Duration::from_secs(60);

/// What came of one offload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// Bytes sent.
    pub bytes: u64,
    /// Bytes of the image as it was read, where it came so.
    pub image_bytes: Option<u64>,
    /// Time that encoding the image anew took.
    pub encoding: Duration,
    /// Time that was neither the peer's nor encoding; for one that failed, the time that was waited.
    pub link: Duration,
    /// Time at the peer, its queues included, where it told it.
    pub at_peer: Option<Duration>,
    /// Of that, the time in its queues, where it told it.
    pub queued: Option<Duration>,
    /// Whether a reply came.
    pub is_answered: bool,
}

/// An estimate of a link and of the peer behind it.
///
/// The time on the link is taken for a round trip and a time a byte, fitted by least squares in which older offloads
/// count for less. Where sizes are much the same, as those of a camera that sees the same, the round trip of a question tells
/// the two apart. A failed offload counts with the time that it cost.
#[derive(Debug, Clone, Default)]
pub struct LinkEstimate {
    latest: Option<Duration>,
    weight: f64,
    bytes: f64,
    link: f64,
    /// Of the time on the link, that before the request went out: connecting, say.
    before: f64,
    /// The least of a question's, and when it was.
    round_trip: Option<(f64, Duration)>,
    /// What was sent of a byte that was read, and seconds of encoding.
    sent_share: f64,
    encoding: f64,
    /// Of bytes and of bytes with times, about their means.
    variance: f64,
    covariance: f64,
    peer: ToldMean,
    queue: ToldMean,
    failed: f64,
}

/// Mean seconds of what peers may tell.
#[derive(Debug, Clone, Copy, Default)]
struct ToldMean {
    weight: f64,
    mean: f64,
}

impl ToldMean {
    fn observe(&mut self, told: Option<Duration>, decay: f64) {
        self.weight *= decay;
        if let Some(told) = told {
            self.weight += 1.0;
            self.mean += (told.as_secs_f64() - self.mean) / self.weight;
        }
    }
}

/// A [`LinkEstimate`] as of a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Seconds of a message without bytes.
    pub round_trip: f64,
    /// Seconds of a byte; 0 where neither sizes that differ nor a question's round trip tell it.
    pub per_byte: f64,
    /// Seconds at the peer.
    pub at_peer: f64,
    /// Of these, seconds in its queues; 0 where it does not tell.
    pub queued: f64,
    /// Bytes sent for each of an image as it was read.
    pub sent_share: f64,
    /// Seconds of encoding an image.
    pub encoding: f64,
    /// Share of the offloads that failed, 0 to 1.
    pub failed: f64,
}

impl Link {
    /// A link that costs nothing.
    pub(crate) const NONE: Self = Self {
        round_trip: 0.0,
        per_byte: 0.0,
        at_peer: 0.0,
        queued: 0.0,
        sent_share: 1.0,
        encoding: 0.0,
        failed: 0.0,
    };

    /// Seconds that an offload of so many bytes costs.
    pub fn offload(&self, bytes: f64) -> f64 {
        self.round_trip + self.per_byte * bytes + self.at_peer
    }

    /// Seconds that an offload of an image costs that has so many bytes as it was read, encoded as the latest were.
    pub fn offload_of(&self, image_bytes: f64) -> f64 {
        self.encoding + self.offload(self.sent_share * image_bytes)
    }
}

impl LinkEstimate {
    /// Takes into account that a question, which waited behind no image, was answered in that round trip.
    pub fn answered_in(&mut self, round_trip: Duration, now: Duration) {
        let seconds = round_trip.as_secs_f64();
        let is_least = self.round_trip.is_none_or(|(least, _)| seconds <= least);
        if is_least || self.wants_round_trip(now) {
            self.round_trip = Some((seconds, now));
        }
    }

    /// Whether no round trip of a question is known, or only one from long ago.
    pub fn wants_round_trip(&self, now: Duration) -> bool {
        let is_old = |(_, at): (f64, Duration)| now.saturating_sub(at) >= ROUND_TRIP_HOLDS;
        self.round_trip.is_none_or(is_old)
    }

    /// Takes an offload into account that ended at `now`, a time since any origin.
    pub fn observe(&mut self, observation: &Observation, now: Duration) {
        self.observe_after(Duration::ZERO, observation, now);
    }

    /// The same, of one whose request went out only after so much of the time that counts as the link's.
    pub fn observe_after(&mut self, before: Duration, observation: &Observation, now: Duration) {
        let idle = self.idle(now);
        if idle.is_some_and(|idle| idle >= FORGOTTEN_AFTER) {
            *self = Self {
                round_trip: self.round_trip,
                ..Self::default()
            };
        }
        let idle = idle.unwrap_or_default();
        let decay =
            0.5_f64.powf(1.0 / HALF_LIFE_OFFLOADS + idle.as_secs_f64() / HALF_LIFE.as_secs_f64());
        self.latest = Some(now);
        let (bytes, link) = (observation.bytes as f64, observation.link.as_secs_f64());
        // West's update of weighted means and moments.
        self.weight = self.weight * decay + 1.0;
        let share = 1.0 / self.weight;
        let (off_bytes, off_link) = (bytes - self.bytes, link - self.link);
        self.bytes += share * off_bytes;
        self.link += share * off_link;
        self.before += share * (before.as_secs_f64() - self.before);
        self.variance = (1.0 - share) * (self.variance + share * off_bytes * off_bytes);
        self.covariance = (1.0 - share) * (self.covariance + share * off_bytes * off_link);
        let failed = f64::from(u8::from(!observation.is_answered));
        self.failed += share * (failed - self.failed);
        self.encoding += share * (observation.encoding.as_secs_f64() - self.encoding);
        let image_bytes = observation.image_bytes.filter(|&bytes| bytes > 0);
        let sent_share = match image_bytes {
            Some(image) if observation.is_answered => bytes / image as f64,
            // One that failed may not have got so far as to send.
            _ if share < 1.0 => self.sent_share,
            _ => 1.0,
        };
        self.sent_share += share * (sent_share - self.sent_share);
        self.peer.observe(observation.at_peer, decay);
        self.queue.observe(observation.queued, decay);
    }

    /// The estimate at `now`; none where nothing was sent for long.
    pub fn at(&self, now: Duration) -> Option<Link> {
        self.idle(now).filter(|idle| *idle < FORGOTTEN_AFTER)?;
        let spread = (LEAST_SPREAD * self.bytes).powi(2);
        let beyond = self.round_trip.map_or(0.0, |(round_trip, _)| {
            (self.link - self.before - round_trip).max(0.0)
        });
        let expected = beyond / self.bytes.max(1.0);
        let per_byte =
            (self.covariance + spread * expected) / (self.variance + spread).max(f64::MIN_POSITIVE);
        // Neither part can be less than nothing.
        let per_byte = per_byte.clamp(0.0, self.link / self.bytes.max(1.0));
        Some(Link {
            round_trip: self.link - per_byte * self.bytes,
            per_byte,
            at_peer: self.peer.mean,
            queued: self.queue.mean,
            sent_share: self.sent_share,
            encoding: self.encoding,
            failed: self.failed,
        })
    }

    fn idle(&self, now: Duration) -> Option<Duration> {
        Some(now.saturating_sub(self.latest?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A link of a round trip and an uplink, in seconds and bytes a second.
    fn sent(bytes: u64, round_trip: f64, uplink: f64) -> Observation {
        Observation {
            bytes,
            image_bytes: Some(bytes),
            encoding: Duration::ZERO,
            link: Duration::from_secs_f64(round_trip + bytes as f64 / uplink),
            at_peer: Some(Duration::from_millis(20)),
            queued: Some(Duration::from_millis(5)),
            is_answered: true,
        }
    }

    #[test]
    fn round_trip_and_uplink_are_told_apart_where_sizes_differ() {
        let mut estimate = LinkEstimate::default();
        assert_eq!(estimate.at(SECOND), None);
        for i in 0..40 {
            let bytes = 5_000 + 40_000 * (i % 3);
            estimate.observe(&sent(bytes, 0.05, 1e6), SECOND * i as u32);
        }
        let link = estimate.at(40 * SECOND).unwrap();
        assert!((link.round_trip - 0.05).abs() < 0.005, "{link:?}");
        assert!((1.0 / link.per_byte - 1e6).abs() < 1e5, "{link:?}");
        assert!((link.offload(30_000.0) - 0.1).abs() < 0.005, "{link:?}");
        assert_eq!(link.failed, 0.0);
        assert!((link.at_peer - 0.02).abs() < 1e-9 && (link.queued - 0.005).abs() < 1e-9);
    }

    #[test]
    fn equal_sizes_tell_what_such_a_message_costs() {
        let mut estimate = LinkEstimate::default();
        for i in 0..10 {
            estimate.observe(&sent(20_000, 0.05, 1e6), SECOND * i);
        }
        let link = estimate.at(10 * SECOND).unwrap();
        assert_eq!(link.per_byte, 0.0);
        assert!((link.offload(20_000.0) - 0.09).abs() < 1e-9, "{link:?}");
    }

    #[test]
    fn equal_sizes_tell_the_uplink_where_the_round_trip_of_a_question_is_known() {
        let mut estimate = LinkEstimate::default();
        estimate.answered_in(Duration::from_millis(50), SECOND);
        for i in 0..14 {
            // The first one waited for the handshake.
            let before = Duration::from_millis(if i == 0 { 300 } else { 0 });
            let mut sent = sent(30_000, 0.05, 25e3);
            sent.link += before;
            estimate.observe_after(before, &sent, SECOND * i);
        }
        let link = estimate.at(14 * SECOND).unwrap();
        assert!((1.0 / link.per_byte - 25e3).abs() < 1e3, "{link:?}");
        assert!(link.round_trip < 0.1, "{link:?}");
        // Sizes that differ are believed as before.
        let mut differing = LinkEstimate::default();
        differing.answered_in(Duration::from_millis(1), SECOND);
        for i in 0..40 {
            let sent = sent(5_000 + 40_000 * (u64::from(i) % 3), 0.05, 1e6);
            differing.observe(&sent, SECOND * i);
        }
        let link = differing.at(40 * SECOND).unwrap();
        assert!((link.round_trip - 0.05).abs() < 0.005, "{link:?}");
    }

    #[test]
    fn of_questions_the_shortest_round_trip_of_a_minute_counts() {
        let mut estimate = LinkEstimate::default();
        assert!(estimate.wants_round_trip(SECOND));
        let ms = Duration::from_millis;
        estimate.answered_in(ms(50), SECOND);
        estimate.answered_in(ms(400), 2 * SECOND);
        assert_eq!(estimate.round_trip, Some((0.05, SECOND)));
        assert!(!estimate.wants_round_trip(60 * SECOND));
        assert!(estimate.wants_round_trip(61 * SECOND));
        estimate.answered_in(ms(400), 61 * SECOND);
        assert_eq!(estimate.round_trip, Some((0.4, 61 * SECOND)));
        // It does not go with what offloads took.
        estimate.observe(&sent(20_000, 0.05, 1e6), 62 * SECOND);
        estimate.observe(&sent(20_000, 0.05, 1e6), 200 * SECOND);
        assert_eq!(estimate.round_trip, Some((0.4, 61 * SECOND)));
    }

    #[test]
    fn images_that_are_made_smaller_cost_their_encoding_and_fewer_bytes() {
        let mut estimate = LinkEstimate::default();
        for i in 0..40 {
            let bytes = 5_000 + 10_000 * (i % 3);
            let smaller = Observation {
                image_bytes: Some(4 * bytes),
                encoding: Duration::from_millis(10),
                ..sent(bytes, 0.05, 1e6)
            };
            estimate.observe(&smaller, SECOND * i as u32);
        }
        let link = estimate.at(40 * SECOND).unwrap();
        let expected = 0.01 + link.offload(10_000.0);
        assert!((link.offload_of(40_000.0) - expected).abs() < 1e-9);
    }

    #[test]
    fn a_link_that_changes_is_followed_within_a_dozen_offloads_and_one_not_used_is_forgotten() {
        let mut estimate = LinkEstimate::default();
        let mut now = SECOND;
        for _ in 0..50 {
            estimate.observe(&sent(20_000, 0.02, 2e6), now);
            now += SECOND;
        }
        for _ in 0..12 {
            estimate.observe(&sent(20_000, 0.4, 1e5), now);
            now += SECOND;
        }
        let slow = estimate.at(now).unwrap().offload(20_000.0);
        assert!(slow > 0.4, "{slow}");
        assert_eq!(estimate.at(now + FORGOTTEN_AFTER), None);
        estimate.observe(&sent(20_000, 0.02, 2e6), now + FORGOTTEN_AFTER);
        let fresh = estimate
            .at(now + FORGOTTEN_AFTER)
            .unwrap()
            .offload(20_000.0);
        assert!((fresh - 0.05).abs() < 1e-9, "{fresh}");
    }

    #[test]
    fn what_fails_costs_the_time_that_was_waited() {
        let mut estimate = LinkEstimate::default();
        for i in 0..20 {
            estimate.observe(&sent(20_000, 0.02, 2e6), SECOND * i);
        }
        let good = estimate.at(20 * SECOND).unwrap().offload(20_000.0);
        for i in 20..24 {
            let lost = Observation {
                link: Duration::from_secs(1),
                at_peer: None,
                queued: None,
                is_answered: false,
                ..sent(20_000, 0.0, 1.0)
            };
            estimate.observe(&lost, SECOND * i);
        }
        let bad = estimate.at(24 * SECOND).unwrap();
        assert!(bad.offload(20_000.0) > 5.0 * good, "{bad:?}");
        assert!(bad.failed > 0.2, "{bad:?}");
    }
}
