//! Link profiles: what a path is like, and how it changes while it is used.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// The profiles that come with the program.
const BUILT_IN: &str = include_str!("../../link-profiles.toml");

/// What a path does to packets, in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Time there and back of a small packet on an idle path, milliseconds; half of it each way.
    pub round_trip_ms: f64,
    /// Megabits a second from the device; absent for no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink_mbps: Option<f64>,
    /// The same to the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downlink_mbps: Option<f64>,
    /// Share of packets that are lost, each for itself, in each direction; 1 for a path that carries nothing.
    #[serde(default)]
    pub loss: f64,
    /// Milliseconds of its rate that the queue before a bounded direction holds; what comes beyond that is lost.
    #[serde(default = "default_queue_ms")]
    pub queue_ms: f64,
}

const fn default_queue_ms() -> f64 {
    200.0
}

/// A path by its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What it stands for.
    pub description: String,
    /// What it is like at first.
    #[serde(flatten)]
    pub condition: Condition,
    /// What changes, in the order of time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

/// A change of the path.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Seconds from the first measured image.
    pub at: f64,
    /// What happens.
    #[serde(flatten)]
    pub what: Event,
}

/// What happens to a path.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// It carries nothing from now on.
    Down(Always),
    /// It is as at first again.
    Up(Always),
    /// The device has another address, and no longer the one it had.
    NewAddress(Always),
    /// The rate from the device, megabits a second.
    UplinkMbps(f64),
    /// It is something else from now on.
    Becomes(Condition),
}

/// Stands for `true`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "bool", into = "bool")]
pub struct Always;

impl TryFrom<bool> for Always {
    type Error = &'static str;

    fn try_from(value: bool) -> Result<Self, Self::Error> {
        value.then_some(Self).ok_or("only `true` makes sense here")
    }
}

impl From<Always> for bool {
    fn from(Always: Always) -> Self {
        true
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(Always) => f.write_str("the path is down"),
            Self::Up(Always) => f.write_str("the path is up again"),
            Self::NewAddress(Always) => f.write_str("the device has another address"),
            Self::UplinkMbps(rate) => write!(f, "uplink {rate} Mbit/s"),
            Self::Becomes(condition) => write!(f, "{condition}"),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.round_trip_ms)?;
        let rate = |rate: Option<f64>| rate.map_or("any".to_owned(), |rate| rate.to_string());
        if self.uplink_mbps.is_some() || self.downlink_mbps.is_some() {
            let (up, down) = (rate(self.uplink_mbps), rate(self.downlink_mbps));
            write!(f, ", {up} Mbit/s up, {down} down")?;
        }
        if self.loss > 0.0 {
            write!(f, ", {} % lost", 100.0 * self.loss)?;
        }
        Ok(())
    }
}

impl Condition {
    /// The same path, carrying nothing.
    pub fn down(self) -> Self {
        Self { loss: 1.0, ..self }
    }

    /// Time one way.
    pub fn one_way(&self) -> Duration {
        Duration::from_secs_f64(self.round_trip_ms / 2e3)
    }

    /// Bytes that the queue before a direction of this rate holds: its time at the rate, and no less than ten large packets.
    pub fn queue_bytes(&self, mbps: f64) -> u64 {
        ((mbps * 1e6 / 8.0) * self.queue_ms / 1e3).max(15_000.0) as u64
    }

    fn problem(&self) -> Option<&'static str> {
        let is_rate = |rate: Option<f64>| rate.is_none_or(|rate| (1e-3..=1e5).contains(&rate));
        if !(0.0..=60_000.0).contains(&self.round_trip_ms) {
            return Some("`round_trip_ms` must be 0 to 60000");
        }
        if !is_rate(self.uplink_mbps) || !is_rate(self.downlink_mbps) {
            return Some("rates must be 0.001 to 100000 Mbit/s; leave one out for no bound");
        }
        if !(0.0..=1.0).contains(&self.loss) {
            return Some("`loss` is a share, 0 to 1");
        }
        if !(0.0..=60_000.0).contains(&self.queue_ms) {
            return Some("`queue_ms` must be 0 to 60000");
        }
        None
    }
}

impl Profile {
    /// The condition after `event`, where the path was in `before`; `None` where the condition stays.
    pub fn after(&self, before: Condition, event: Event) -> Option<Condition> {
        match event {
            Event::Down(Always) => Some(before.down()),
            Event::Up(Always) => Some(self.condition),
            Event::NewAddress(Always) => None,
            Event::UplinkMbps(rate) => Some(Condition {
                uplink_mbps: Some(rate),
                ..before
            }),
            Event::Becomes(condition) => Some(condition),
        }
    }

    /// Seconds until the last change.
    pub fn last_change(&self) -> f64 {
        self.changes.last().map_or(0.0, |change| change.at)
    }

    fn problem(&self) -> Option<String> {
        if let Some(problem) = self.condition.problem() {
            return Some(problem.to_owned());
        }
        if self.condition.loss >= 1.0 {
            return Some("a path that loses all from the start carries nothing".to_owned());
        }
        if !self.changes.is_sorted_by_key(|change| change.at) {
            return Some("`changes` must be in the order of time".to_owned());
        }
        self.changes.iter().find_map(|change| {
            if !(0.0..=86_400.0).contains(&change.at) {
                return Some("`at` must be 0 to 86400 seconds".to_owned());
            }
            let condition = self.after(self.condition, change.what)?;
            Some(format!("at {} s: {}", change.at, condition.problem()?))
        })
    }
}

/// Profiles by their names.
pub type Profiles = BTreeMap<String, Profile>;

/// Why profiles were refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfilesError {
    /// The file cannot be read.
    #[error("cannot read the profiles {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no TOML, or has other fields.
    #[error("{of} are at fault")]
    Toml {
        /// Whose profiles.
        of: String,
        /// What is wrong.
        source: Box<toml::de::Error>,
    },
    /// A profile makes no sense.
    #[error("the profile {name:?} makes no sense: {problem}")]
    Senseless {
        /// The profile.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

/// The profiles that come with the program, with those of the text `added` to or in place of them.
///
/// # Errors
/// Where one is at fault.
pub fn profiles(added: Option<&str>) -> Result<Profiles, ProfilesError> {
    let mut all = read(BUILT_IN, "the built-in profiles")?;
    if let Some(added) = added {
        all.extend(read(added, "the profiles of the given file")?);
    }
    for (name, profile) in &all {
        if let Some(problem) = profile.problem() {
            return Err(ProfilesError::Senseless {
                name: name.clone(),
                problem,
            });
        }
    }
    Ok(all)
}

/// The text of a file of profiles.
///
/// # Errors
/// Where it cannot be read.
pub fn load(path: &Path) -> Result<String, ProfilesError> {
    fs::read_to_string(path).map_err(|source| ProfilesError::Read {
        path: path.to_owned(),
        source,
    })
}

fn read(text: &str, of: &str) -> Result<Profiles, ProfilesError> {
    toml::from_str(text).map_err(|source| ProfilesError::Toml {
        of: of.to_owned(),
        source: source.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_built_in_make_sense() {
        let all = profiles(None).unwrap();
        for name in [
            "fibre",
            "office-wifi",
            "congested-wifi",
            "4g-good",
            "4g-weak",
            "3g",
            "satellite",
            "nb-iot",
            "lossy-1",
            "lossy-5",
            "cellular-trace",
            "outage",
            "new-address",
        ] {
            assert!(all.contains_key(name), "{name}");
        }
        let outage = &all["outage"];
        let [down, up] = outage.changes[..] else {
            panic!("{:?}", outage.changes)
        };
        assert_eq!(up.at - down.at, 20.0);
        let is_down = outage.after(outage.condition, down.what).unwrap();
        assert_eq!(is_down.loss, 1.0);
        assert_eq!(outage.after(is_down, up.what), Some(outage.condition));
        assert!(all["cellular-trace"].changes.len() > 50);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let with = |line: &str| {
            profiles(Some(&format!(
                "[mine]\ndescription = \"\"\nround_trip_ms = 10\n{line}"
            )))
        };
        assert!(with("uplink_mbps = 2.5").is_ok());
        for (line, wanted) in [
            ("loss = 1.5", "share"),
            ("loss = 1", "carries nothing"),
            ("uplink_mbps = 0", "Mbit/s"),
            (
                "changes = [{ at = 5, down = true }, { at = 1, up = true }]",
                "order",
            ),
            (
                "changes = [{ at = 5, becomes = { round_trip_ms = -1 } }]",
                "round_trip_ms",
            ),
        ] {
            let error = with(line).unwrap_err().to_string();
            assert!(error.contains(wanted), "{line}: {error}");
        }
        for line in [
            "jitter = 5",
            "changes = [{ at = 5, down = false }]",
            "changes = [{ at = 1 }]",
        ] {
            assert!(
                matches!(with(line), Err(ProfilesError::Toml { .. })),
                "{line}"
            );
        }
    }
}
