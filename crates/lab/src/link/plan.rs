//! Plans: which combinations an experiment runs, in which order.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use fastrand::Rng;
use outpost_transport::Protocol;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::profile::{Profile, Profiles};

/// Seconds that a run takes beside its images: programs, path, its check.
const AROUND: f64 = 5.0;
/// Seconds after the last change of a path that are measured.
const AFTER_CHANGES: f64 = 10.0;

/// A plan file: every profile is run with every cascade, policy, transport, payload, arrival process and concurrency.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Link profiles, by name.
    pub profiles: Vec<String>,
    /// What is run on them.
    pub cascades: Vec<CascadePlan>,
    /// How images travel.
    #[serde(default = "both")]
    pub transports: Vec<Protocol>,
    /// How images come: `closed`, `periodic:RATE` or `poisson:RATE`, images a second.
    #[serde(default = "closed")]
    pub arrivals: Vec<Arrivals>,
    /// Callers of a closed run; of others, most images under way.
    #[serde(default = "one")]
    pub concurrency: Vec<u32>,
    /// Measured images of a run; the same for all policies on a profile, drawn without repetition as far as there are as many.
    pub images: u32,
    /// Images before those, that are not measured.
    #[serde(default)]
    pub warm_up: u32,
    /// Seconds after which a run ends, whatever it has measured. Where the path changes, a run goes on until ten seconds after the
    /// last change, and its images come by `changing_arrivals`.
    pub seconds: f64,
    /// How images come where the path changes, so that its times mean the same to all.
    #[serde(default = "periodic")]
    pub changing_arrivals: Arrivals,
    /// How often all is run.
    #[serde(default = "once")]
    pub repeats: u32,
    /// What the order of runs and images is drawn from.
    #[serde(default)]
    pub seed: u32,
}

fn both() -> Vec<Protocol> {
    vec![Protocol::H2, Protocol::H3]
}

fn closed() -> Vec<Arrivals> {
    vec![Arrivals::Closed]
}

fn one() -> Vec<u32> {
    vec![1]
}

fn periodic() -> Arrivals {
    Arrivals::Periodic(5.0)
}

const fn once() -> u32 {
    1
}

/// A cascade of a plan, with its images.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CascadePlan {
    /// What it is called in rows and plots.
    pub name: String,
    /// The cascade file.
    pub file: PathBuf,
    /// The policy bundle for learned policies.
    pub bundle: Option<PathBuf>,
    /// The folder of the images.
    pub images: PathBuf,
    /// Their true classes: a CSV file with the columns `file` and `label`.
    pub labels: PathBuf,
    /// Policies.
    pub policies: Vec<Policy>,
    /// How images are sent: `original`, `jpeg@80` and the like, or `auto`.
    #[serde(default = "original")]
    pub payloads: Vec<String>,
    /// Milliseconds from taking up an image to its answer.
    pub deadline_ms: u64,
    /// Profiles that it is run on, of those of the plan; all by default.
    pub profiles: Option<Vec<String>>,
    /// How its images travel, in place of what the plan says.
    pub transports: Option<Vec<Protocol>>,
}

fn original() -> Vec<String> {
    vec!["original".to_owned()]
}

/// Who decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Policy {
    /// `device-only`.
    DeviceOnly,
    /// `cloud-only`.
    CloudOnly,
    /// `threshold:P`: every node exits where its most probable class has at least `P`, 0 to 1.
    Threshold(f32),
    /// `learned:GOAL`: the operating point of the bundle for the goal, following the link.
    Learned(String),
    /// `fixed:GOAL`: the same point throughout.
    Fixed(String),
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "device-only" => Ok(Self::DeviceOnly),
            None if text == "cloud-only" => Ok(Self::CloudOnly),
            Some(("threshold", share)) => match share.parse() {
                Ok(share) if (0.0..=1.0).contains(&share) => Ok(Self::Threshold(share)),
                _ => Err(format!("the threshold {share:?} is not from 0 to 1")),
            },
            Some(("learned", goal)) if !goal.is_empty() => Ok(Self::Learned(goal.to_owned())),
            Some(("fixed", goal)) if !goal.is_empty() => Ok(Self::Fixed(goal.to_owned())),
            _ => Err(format!(
                "{text:?} is no policy: device-only, cloud-only, threshold:0.8, learned:loss=1 or fixed:loss=1"
            )),
        }
    }
}

impl TryFrom<String> for Policy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Policy> for String {
    fn from(policy: Policy) -> Self {
        policy.to_string()
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeviceOnly => f.write_str("device-only"),
            Self::CloudOnly => f.write_str("cloud-only"),
            Self::Threshold(share) => write!(f, "threshold:{share}"),
            Self::Learned(goal) => write!(f, "learned:{goal}"),
            Self::Fixed(goal) => write!(f, "fixed:{goal}"),
        }
    }
}

/// How images come.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Arrivals {
    /// `closed`: each caller brings the next once the last is answered.
    Closed,
    /// `periodic:RATE`: one at a time, evenly.
    Periodic(f64),
    /// `poisson:RATE`: each for itself, at this mean rate a second.
    Poisson(f64),
}

impl FromStr for Arrivals {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rate = |rate: &str| match rate.parse() {
            Ok(rate) if (1e-3..=1e4).contains(&rate) => Ok(rate),
            _ => Err(format!(
                "the rate {rate:?} is not from 0.001 to 10000 a second"
            )),
        };
        match text.split_once(':') {
            None if text == "closed" => Ok(Self::Closed),
            Some(("periodic", text)) => Ok(Self::Periodic(rate(text)?)),
            Some(("poisson", text)) => Ok(Self::Poisson(rate(text)?)),
            _ => Err(format!(
                "{text:?} is no way to come: closed, periodic:5 or poisson:5"
            )),
        }
    }
}

impl TryFrom<String> for Arrivals {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Arrivals> for String {
    fn from(arrivals: Arrivals) -> Self {
        arrivals.to_string()
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::Periodic(rate) => write!(f, "periodic:{rate}"),
            Self::Poisson(rate) => write!(f, "poisson:{rate}"),
        }
    }
}

/// One combination, once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Made of all that follows; the same for the same combination.
    pub id: String,
    /// The link profile.
    pub profile: String,
    /// The cascade, by the plan's name for it.
    pub cascade: String,
    /// Who decides.
    pub policy: Policy,
    /// How images travel.
    pub transport: Protocol,
    /// How images are sent.
    pub payload: String,
    /// How images come.
    pub arrivals: Arrivals,
    /// Callers, or most images under way.
    pub concurrency: u32,
    /// Which repeat, from 0.
    pub repeat: u32,
    /// What the order and the times of images are drawn from; the same for all runs on a profile in a repeat.
    pub seed: u32,
    /// Seconds after which it ends.
    pub seconds: f64,
}

/// Why a plan was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The file cannot be read.
    #[error("cannot read the plan {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no TOML, or has other fields.
    #[error("the plan {} is at fault", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<toml::de::Error>,
    },
    /// It makes no sense.
    #[error("the plan {} makes no sense: {problem}", path.display())]
    Senseless {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// The text of a plan file.
///
/// # Errors
/// Where it cannot be read.
pub fn load(path: &Path) -> Result<String, PlanError> {
    fs::read_to_string(path).map_err(|source| PlanError::Read {
        path: path.to_owned(),
        source,
    })
}

impl Plan {
    /// The plan in `text`, which was read from `path`, as far as it makes sense with these profiles.
    ///
    /// # Errors
    /// Where it is at fault.
    pub fn parse(text: &str, path: &Path, profiles: &Profiles) -> Result<Self, PlanError> {
        let plan: Self = toml::from_str(text).map_err(|source| PlanError::Toml {
            path: path.to_owned(),
            source: source.into(),
        })?;
        match plan.problem(profiles) {
            None => Ok(plan),
            Some(problem) => Err(PlanError::Senseless {
                path: path.to_owned(),
                problem,
            }),
        }
    }

    fn problem(&self, profiles: &Profiles) -> Option<String> {
        let of_cascades = self
            .cascades
            .iter()
            .filter_map(|cascade| cascade.profiles.as_ref());
        for name in self.profiles.iter().chain(of_cascades.flatten()) {
            if !profiles.contains_key(name) {
                let known: Vec<_> = profiles.keys().map(String::as_str).collect();
                return Some(format!(
                    "there is no profile {name:?}; there are {}",
                    known.join(", ")
                ));
            }
        }
        let is_empty = self.profiles.is_empty()
            || self.cascades.is_empty()
            || self.transports.is_empty()
            || self.arrivals.is_empty()
            || self.concurrency.is_empty();
        if is_empty {
            return Some("it has an empty list, so that nothing is run".to_owned());
        }
        if !(1..=1_000_000).contains(&self.images) || self.warm_up > 1_000_000 {
            return Some("`images` must be 1 to a million, `warm_up` at most that".to_owned());
        }
        if !(0.1..=86_400.0).contains(&self.seconds) {
            return Some("`seconds` must be 0.1 to 86400".to_owned());
        }
        if !(1..=1000).contains(&self.repeats) {
            return Some("`repeats` must be 1 to 1000".to_owned());
        }
        if self
            .concurrency
            .iter()
            .any(|&callers| !(1..=256).contains(&callers))
        {
            return Some("`concurrency` must be 1 to 256".to_owned());
        }
        let mut names = BTreeSet::new();
        for cascade in &self.cascades {
            if !names.insert(&cascade.name) {
                return Some(format!("two cascades are called {:?}", cascade.name));
            }
            let learned =
                |policy: &&Policy| matches!(policy, Policy::Learned(_) | Policy::Fixed(_));
            let of_bundle = cascade.policies.iter().find(learned);
            if let (Some(policy), None) = (of_bundle, &cascade.bundle) {
                return Some(format!("{policy} of {:?} wants a `bundle`", cascade.name));
            }
            if cascade.policies.is_empty() || cascade.payloads.is_empty() {
                return Some(format!("{:?} has no policies or payloads", cascade.name));
            }
        }
        None
    }

    /// The cascade of this name.
    pub fn cascade(&self, name: &str) -> Option<&CascadePlan> {
        self.cascades.iter().find(|cascade| cascade.name == name)
    }

    /// All runs in the order in which they are made. Those that share a profile, a cascade and a repeat follow each other, so
    /// that they share a cloud and a path; within that and between, the order is drawn.
    pub fn runs(&self, profiles: &Profiles) -> Vec<Run> {
        let mut rng = Rng::with_seed(u64::from(self.seed));
        let mut runs = Vec::new();
        for repeat in 0..self.repeats {
            let mut blocks = Vec::new();
            for (of_profiles, profile) in self.profiles.iter().enumerate() {
                // Other images for every profile: compared are runs on one, and together they see more.
                let seed = self
                    .seed
                    .wrapping_mul(1_000_003)
                    .wrapping_add(1009 * repeat + of_profiles as u32);
                for cascade in &self.cascades {
                    let of = (&**profile, &profiles[profile]);
                    let mut block = self.block(of, cascade, repeat, seed);
                    rng.shuffle(&mut block);
                    blocks.push(block);
                }
            }
            rng.shuffle(&mut blocks);
            runs.extend(blocks.into_iter().flatten());
        }
        runs
    }

    fn block(
        &self,
        (name, profile): (&str, &Profile),
        cascade: &CascadePlan,
        repeat: u32,
        seed: u32,
    ) -> Vec<Run> {
        let is_left_out = cascade
            .profiles
            .as_ref()
            .is_some_and(|of| !of.iter().any(|of| of == name));
        if is_left_out {
            return Vec::new();
        }
        let changes = !profile.changes.is_empty();
        let (arrivals, seconds) = match changes {
            true => (
                std::slice::from_ref(&self.changing_arrivals),
                profile.last_change() + AFTER_CHANGES,
            ),
            false => (&self.arrivals[..], self.seconds),
        };
        let transports = cascade.transports.as_ref().unwrap_or(&self.transports);
        let mut block = Vec::new();
        for policy in &cascade.policies {
            for (of_transports, &transport) in transports.iter().enumerate() {
                for (of_payloads, payload) in cascade.payloads.iter().enumerate() {
                    // Nothing is sent, so that it makes no difference how.
                    if *policy == Policy::DeviceOnly && (of_transports > 0 || of_payloads > 0) {
                        continue;
                    }
                    for &arrivals in arrivals {
                        for &concurrency in &self.concurrency {
                            // Images that come at their times are not held back by a lack of callers.
                            let concurrency = if changes {
                                concurrency.max(16)
                            } else {
                                concurrency
                            };
                            let mut run = Run {
                                id: String::new(),
                                profile: name.to_owned(),
                                cascade: cascade.name.clone(),
                                policy: policy.clone(),
                                transport,
                                payload: payload.clone(),
                                arrivals,
                                concurrency,
                                repeat,
                                seed,
                                seconds,
                            };
                            run.id = identifier(&run);
                            if !block.contains(&run) {
                                block.push(run);
                            }
                        }
                    }
                }
            }
        }
        block
    }
}

/// Seconds that runs take at the most, by the bounds on each.
pub fn at_most(runs: &[Run]) -> f64 {
    runs.iter().map(|run| run.seconds + AROUND).sum()
}

/// Words to read and a digest, so that no two runs share it.
fn identifier(run: &Run) -> String {
    let text = format!("{run:?}");
    let digest = Sha256::digest(text.as_bytes());
    let short: String = digest[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let words = format!(
        "{}.{}.{}.{}.{}",
        run.profile,
        run.cascade,
        run.policy,
        run.transport.as_str(),
        run.repeat
    );
    let plain = |letter: char| match letter {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_' => letter,
        _ => '-',
    };
    let words: String = words.chars().map(plain).collect();
    format!("{words}.{short}")
}

#[cfg(test)]
mod tests {
    use super::{super::profile::profiles, *};

    const PLAN: &str = r#"
        profiles = ["4g-good", "outage"]
        images = 20
        seconds = 5
        repeats = 2
        [[cascades]]
        name = "small"
        file = "cascade.toml"
        bundle = "bundle.json"
        images = "images"
        labels = "labels.csv"
        deadline_ms = 1000
        policies = ["device-only", "cloud-only", "threshold:0.8", "learned:loss=1", "fixed:loss=1"]
    "#;

    fn parse(text: &str) -> Result<Plan, PlanError> {
        Plan::parse(text, Path::new("plan.toml"), &profiles(None).unwrap())
    }

    #[test]
    fn every_combination_is_run_once_a_repeat_in_an_order_that_the_seed_says() {
        let profiles = profiles(None).unwrap();
        let plan = parse(PLAN).unwrap();
        let runs = plan.runs(&profiles);
        // Two profiles and repeats; four policies by two transports, and the device alone.
        assert_eq!(runs.len(), 2 * 2 * (4 * 2 + 1));
        let ids: BTreeSet<_> = runs.iter().map(|run| &run.id).collect();
        assert_eq!(ids.len(), runs.len());
        assert_eq!(runs, plan.runs(&profiles));
        let other = parse(&PLAN.replace("repeats = 2", "repeats = 2\nseed = 1")).unwrap();
        assert_ne!(runs, other.runs(&profiles));
        let changing = runs.iter().find(|run| run.profile == "outage").unwrap();
        assert_eq!(changing.arrivals, Arrivals::Periodic(5.0));
        assert_eq!(changing.seconds, 40.0);
        assert_eq!(
            at_most(&runs),
            18.0 * (5.0 + AROUND) + 18.0 * (40.0 + AROUND)
        );
        let seeds: BTreeSet<_> = runs.iter().map(|run| (run.repeat, run.seed)).collect();
        assert_eq!(seeds.len(), 4);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (from, to, wanted) in [
            ("4g-good", "5g", "no profile \"5g\""),
            ("images = 20", "images = 0", "`images`"),
            ("seconds = 5", "seconds = 0", "`seconds`"),
            ("repeats = 2", "repeats = 0", "`repeats`"),
            ("bundle = \"bundle.json\"", "", "wants a `bundle`"),
            ("[\"4g-good\", \"outage\"]", "[]", "empty"),
        ] {
            let error = parse(&PLAN.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(wanted), "{to}: {error}");
        }
        for (from, to, wanted) in [
            ("threshold:0.8", "threshold:8", "from 0 to 1"),
            ("cloud-only", "fog-only", "no policy"),
            (
                "seconds = 5",
                "seconds = 5\narrivals = [\"often\"]",
                "no way to come",
            ),
            ("seconds = 5", "second = 5", "unknown field"),
        ] {
            let Err(PlanError::Toml { source, .. }) = parse(&PLAN.replace(from, to)) else {
                panic!("{to} is taken")
            };
            assert!(source.to_string().contains(wanted), "{to}: {source}");
        }
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for text in [
            "device-only",
            "cloud-only",
            "threshold:0.85",
            "learned:loss=1",
            "fixed:p03",
        ] {
            assert_eq!(text.parse::<Policy>().unwrap().to_string(), text);
        }
        for text in ["closed", "periodic:2.5", "poisson:10"] {
            assert_eq!(text.parse::<Arrivals>().unwrap().to_string(), text);
        }
    }
}
