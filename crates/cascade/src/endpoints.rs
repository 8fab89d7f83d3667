//! Which of several peers that serve the same networks is asked: the one in use, and when another takes its place.
//!
//! A peer is left when it cannot be reached, or when it falls silent: it has not answered a call in the time that it
//! usually takes, and then gives no sign of life when asked for one. It is gone back to once it has been there again for a
//! while. Times are durations since an origin of the driver's choice.

use std::time::Duration;

use crate::follower::Follower;

/// Silence, at least and at most, after which a peer is asked for a sign of life. Below, answers of a loaded peer would
/// often cost a question; above, no time would be left for another's answer within a second.
const QUIET: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(300));
/// How long a sign of life may take, at least and at most, where it waits behind nothing: with the longest silence 0.8 s, and
/// 0.2 s are left for another's answer. Below, a machine that is busy for a moment would be taken for away.
const SIGN_WITHIN: (Duration, Duration) = (Duration::from_millis(400), Duration::from_millis(500));
/// Of a link whose round trip is longer, so many of them.
const SIGN_WITHIN_ROUND_TRIPS: f64 = 1.5;
/// And at most, where it waits behind the bytes of an image.
const SIGN_WITHIN_AT_MOST: Duration = Duration::from_secs(10);
/// The first time's deviation, as a share of it: half of what RFC 6298 has. Who is left too soon costs one image a second call.
const FIRST_DEVIATION: f64 = 0.25;
/// With [`Choose::Fastest`] another must be faster by this share of the round trip, and by this time. Less is noise.
const FASTER_BY: (f64, Duration) = (0.2, Duration::from_millis(2));
/// A peer that is left again within so many times the wait before it was gone back to has to be there for twice that wait
/// next time, up to 32 times the first one.
const STAYS: u32 = 6;
const DOUBLED_AT_MOST: u32 = 5;

/// Which one is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choose {
    /// The first that is there.
    #[default]
    First,
    /// The one of the shortest round trip.
    Fastest,
}

/// How peers are chosen between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointsConfig {
    /// Which one is preferred.
    pub choose: Choose,
    /// Time between two questions whether one that is not in use is there.
    pub health_every: Duration,
    /// How long a better one must have been there, or the faster one, before it is used.
    pub back_after: Duration,
}

/// Whether a peer is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    /// Nothing is known yet.
    Unknown,
    /// It answered last.
    Up,
    /// It could not be reached, was silent or not ready.
    Down,
}

/// That another one is used from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The one before.
    pub from: usize,
    /// The one in use.
    pub to: usize,
    /// Whether it was left because it did not answer; else the other is preferred and there again, or faster.
    pub is_failover: bool,
}

/// A mean, and a value that hardly any exceeds: the mean and four times the mean deviation, much as TCP has it for its
/// retransmissions (RFC 6298).
#[derive(Debug, Clone, Copy, Default)]
struct Usual {
    mean: f64,
    deviation: f64,
    is_known: bool,
}

impl Usual {
    fn observe(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        if !self.is_known {
            (self.mean, self.deviation) = (seconds, FIRST_DEVIATION * seconds);
            self.is_known = true;
            return;
        }
        self.deviation += ((seconds - self.mean).abs() - self.deviation) / 4.0;
        self.mean += (seconds - self.mean) / 8.0;
    }

    fn mean(&self) -> Option<Duration> {
        self.is_known.then(|| Duration::from_secs_f64(self.mean))
    }

    fn most(&self) -> Option<Duration> {
        let most = self.mean + 4.0 * self.deviation;
        self.is_known.then(|| Duration::from_secs_f64(most))
    }
}

#[derive(Debug)]
struct Endpoint {
    presence: Presence,
    /// Since when it is so.
    since: Duration,
    /// How often it was found away.
    falls: u64,
    /// Calls that are under way.
    calls: u32,
    /// Since when a call waits without a sign of life.
    silent_since: Option<Duration>,
    asked_at: Option<Duration>,
    /// Of calls, the part of them that was the link's once they had gone out, and questions.
    call: Usual,
    link: Usual,
    round_trip: Usual,
    /// When it was gone back to, while it is in use since then, and how often the wait before that doubles.
    back_since: Option<Duration>,
    doubled: u32,
}

impl Endpoint {
    /// The silence after which it is asked for a sign of life.
    fn quiet(&self) -> Duration {
        let usual = self.call.most().unwrap_or(QUIET.1);
        usual.clamp(QUIET.0, QUIET.1)
    }
}

/// The state of all.
#[derive(Debug)]
pub struct Endpoints {
    config: EndpointsConfig,
    endpoints: Vec<Endpoint>,
    in_use: usize,
    /// A faster one, and with what patience it is followed.
    faster: Follower,
}

impl Endpoints {
    /// So many, in order of preference, of which nothing is known yet.
    ///
    /// # Panics
    /// For none.
    pub fn new(config: EndpointsConfig, count: usize) -> Self {
        assert!(count > 0, "one at least");
        let endpoint = || Endpoint {
            presence: Presence::Unknown,
            since: Duration::ZERO,
            falls: 0,
            calls: 0,
            silent_since: None,
            asked_at: None,
            call: Usual::default(),
            link: Usual::default(),
            round_trip: Usual::default(),
            back_since: None,
            doubled: 0,
        };
        Self {
            config,
            endpoints: (0..count).map(|_| endpoint()).collect(),
            in_use: 0,
            faster: Follower::new(config.back_after),
        }
    }

    /// The one in use.
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    /// Whether one is there.
    pub fn presence(&self, endpoint: usize) -> Presence {
        self.endpoints[endpoint].presence
    }

    /// How often one was found away: a call that began before a change of this number waits in vain.
    pub fn falls(&self, endpoint: usize) -> u64 {
        self.endpoints[endpoint].falls
    }

    /// The round trip of a question; none before the first.
    pub fn round_trip(&self, endpoint: usize) -> Option<Duration> {
        self.endpoints[endpoint].round_trip.mean()
    }

    /// In which order an image asks: the one in use, others that may be there, those that are away last.
    pub fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.endpoints.len()).collect();
        order.sort_by_key(|&endpoint| {
            let is_down = self.presence(endpoint) == Presence::Down;
            (endpoint != self.in_use, is_down, self.preference(endpoint))
        });
        order
    }

    /// What makes one preferred, the least first.
    fn preference(&self, endpoint: usize) -> (Duration, usize) {
        let time = match self.config.choose {
            Choose::First => None,
            Choose::Fastest => Some(self.round_trip(endpoint).unwrap_or(Duration::MAX)),
        };
        (time.unwrap_or_default(), endpoint)
    }

    /// A call was made.
    pub fn began(&mut self, endpoint: usize, now: Duration) {
        let endpoint = &mut self.endpoints[endpoint];
        endpoint.calls += 1;
        endpoint.silent_since.get_or_insert(now);
    }

    /// A call is over, or nobody waits for it any more. What it said, if anything, is told before.
    pub fn ended(&mut self, endpoint: usize) {
        let endpoint = &mut self.endpoints[endpoint];
        endpoint.calls = endpoint.calls.saturating_sub(1);
    }

    /// A call was not made after all: it waits for nothing.
    pub fn not_made(&mut self, endpoint: usize) {
        let endpoint = &mut self.endpoints[endpoint];
        if endpoint.calls <= 1 {
            endpoint.silent_since = None;
        }
    }

    /// A call took so long, of which a part was the link's once it had gone out.
    pub fn took(&mut self, endpoint: usize, call: Duration, link: Duration) {
        let endpoint = &mut self.endpoints[endpoint];
        endpoint.call.observe(call);
        endpoint.link.observe(link);
    }

    /// When the one should be asked for a sign of life, where calls at it wait; the time may have come.
    pub fn ask_at(&self, endpoint: usize) -> Option<Duration> {
        let endpoint = &self.endpoints[endpoint];
        Some(endpoint.silent_since? + endpoint.quiet())
    }

    /// How long a sign of life may take before the one is taken for away: its round trip, and what bytes of an image are
    /// usually still ahead of the question.
    pub fn sign_within(&self, endpoint: usize) -> Duration {
        let endpoint = &self.endpoints[endpoint];
        let (least, most) = SIGN_WITHIN;
        let round_trip = endpoint.round_trip.mean().unwrap_or_default();
        let usual = endpoint.round_trip.most().unwrap_or(most);
        let alone = usual.clamp(least, most);
        let alone = alone.max(round_trip.mul_f64(SIGN_WITHIN_ROUND_TRIPS));
        let link = endpoint.link.most().unwrap_or_default();
        let ahead = link.saturating_sub(round_trip + endpoint.quiet());
        (alone + ahead).min(SIGN_WITHIN_AT_MOST)
    }

    /// One gave a sign of life: it answered a call that is about to end, be it with a refusal, or the question for one, with that
    /// round trip.
    pub fn heard(
        &mut self,
        endpoint: usize,
        round_trip: Option<Duration>,
        now: Duration,
    ) -> Option<Change> {
        let heard = &mut self.endpoints[endpoint];
        let others = match round_trip {
            Some(_) => heard.calls,
            None => heard.calls.saturating_sub(1),
        };
        heard.silent_since = (others > 0).then_some(now);
        if let Some(round_trip) = round_trip {
            heard.round_trip.observe(round_trip);
        }
        if heard.presence != Presence::Up {
            (heard.presence, heard.since) = (Presence::Up, now);
        }
        if self.presence(self.in_use) == Presence::Down {
            // It was the last resort.
            return self.change(endpoint, true, now);
        }
        self.prefer(now)
    }

    /// One is away: a call or a question was not answered, or it says that it is not ready, or serves something else.
    pub fn failed(&mut self, endpoint: usize, now: Duration) -> Option<Change> {
        let stays = self.config.back_after * STAYS;
        let failed = &mut self.endpoints[endpoint];
        failed.falls += 1;
        failed.silent_since = None;
        if failed.presence != Presence::Down {
            (failed.presence, failed.since) = (Presence::Down, now);
            if let Some(since) = failed.back_since.take() {
                failed.doubled = match now < since + stays {
                    true => (failed.doubled + 1).min(DOUBLED_AT_MOST),
                    false => 0,
                };
            }
        }
        if endpoint != self.in_use {
            return None;
        }
        let next = self.order()[1..].first().copied();
        let next = next.filter(|&next| self.presence(next) != Presence::Down)?;
        self.change(next, true, now)
    }

    /// Those to ask whether they are there, which are then taken for asked: all but the one in use, which its calls tell of;
    /// that one too with [`Choose::Fastest`], where it is away, and until its round trip is known.
    pub fn due(&mut self, now: Duration) -> Vec<usize> {
        let every = self.config.health_every;
        let due = (0..self.endpoints.len()).filter(|&endpoint| {
            let is_due = |asked: Duration| now >= asked + every;
            self.is_asked(endpoint) && self.endpoints[endpoint].asked_at.is_none_or(is_due)
        });
        let due: Vec<usize> = due.collect();
        for &endpoint in &due {
            self.endpoints[endpoint].asked_at = Some(now);
        }
        due
    }

    fn is_asked(&self, endpoint: usize) -> bool {
        let is_in_use = endpoint == self.in_use && self.presence(endpoint) != Presence::Down;
        let is_known = self.round_trip(endpoint).is_some();
        !is_in_use || !is_known || self.config.choose == Choose::Fastest
    }

    /// Goes over to a better one that has been there for long enough.
    fn prefer(&mut self, now: Duration) -> Option<Change> {
        let is_there = |endpoint: &usize| {
            let Endpoint {
                presence,
                since,
                doubled,
                ..
            } = self.endpoints[*endpoint];
            let wait = self.config.back_after * (1 << doubled);
            presence == Presence::Up && now.saturating_sub(since) >= wait
        };
        match self.config.choose {
            Choose::First => {
                let better = (0..self.in_use).find(is_there)?;
                self.change(better, false, now)
            }
            Choose::Fastest => {
                let others = (0..self.endpoints.len()).filter(|&other| other != self.in_use);
                let best = others
                    .filter(is_there)
                    .min_by_key(|&other| self.preference(other));
                let is_faster = best.is_some_and(|best| {
                    let times = [best, self.in_use].map(|one| self.round_trip(one));
                    let [Some(best), Some(present)] = times else {
                        return false;
                    };
                    best + FASTER_BY.1 < present && best < present.mul_f64(1.0 - FASTER_BY.0)
                });
                match (self.faster.look(is_faster, now), best) {
                    (true, Some(best)) => self.change(best, false, now),
                    _ => None,
                }
            }
        }
    }

    fn change(&mut self, to: usize, is_failover: bool, now: Duration) -> Option<Change> {
        let from = self.in_use;
        if from == to {
            return None;
        }
        self.endpoints[from].back_since = None;
        self.endpoints[to].back_since = (!is_failover).then_some(now);
        self.in_use = to;
        self.faster = Follower::new(self.config.back_after);
        Some(Change {
            from,
            to,
            is_failover,
        })
    }
}

#[cfg(test)]
mod tests;
