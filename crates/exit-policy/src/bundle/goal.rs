//! Choosing an operating point by what a user wants of it.

use std::{fmt, str::FromStr, time::Duration};

use serde::Deserialize;

use super::{Bundle, Expected, OperatingPoint};

/// What a user wants of an operating point.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub enum Goal {
    /// The one of that name.
    Name(String),
    /// The fastest that is expected to be at most so many points less accurate than the largest
    /// network alone.
    MaxLoss(f64),
    /// The most accurate that is expected to take at most so long on average.
    Time(Duration),
    /// The most accurate that is expected to offload at most this share of the images, 0 to 1.
    OffloadRate(f64),
    /// The best at this price: so many points of accuracy are worth a second of mean time, the γ of the paper.
    Price(f64),
}

/// Why there is no such operating point.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GoalError {
    /// The words are no goal.
    #[error(
        "{0:?} is no operating point: give its name, `loss=POINTS`, `time=5ms`, `offload=20%` or `price=POINTS`, those that a second is worth"
    )]
    Parse(String),
    /// No point has that name.
    #[error("the policy has no operating point {name:?}; it has {known:?}")]
    NoSuchPoint {
        /// The name.
        name: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// No point meets the goal.
    #[error("no operating point meets {goal}: the nearest is {nearest:?} with {has}")]
    Unmet {
        /// What was wanted.
        goal: Goal,
        /// Name of the point that comes nearest.
        nearest: String,
        /// What that one has.
        has: String,
    },
}

impl TryFrom<String> for Goal {
    type Error = GoalError;

    fn try_from(words: String) -> Result<Self, GoalError> {
        words.parse()
    }
}

impl FromStr for Goal {
    type Err = GoalError;

    fn from_str(words: &str) -> Result<Self, GoalError> {
        let refused = || GoalError::Parse(words.to_owned());
        let number = |text: &str| -> Option<f64> {
            text.trim()
                .parse()
                .ok()
                .filter(|n: &f64| n.is_finite() && *n >= 0.0)
        };
        let Some((what, value)) = words.split_once('=') else {
            let is_name = !words.is_empty() && !words.contains(char::is_whitespace);
            return is_name
                .then(|| Self::Name(words.to_owned()))
                .ok_or_else(refused);
        };
        match what {
            "loss" => number(value).map(Self::MaxLoss),
            "price" => number(value).map(Self::Price),
            "offload" => match value.strip_suffix('%') {
                Some(percent) => number(percent).map(|percent| percent / 100.0),
                None => number(value),
            }
            .filter(|share| *share <= 1.0)
            .map(Self::OffloadRate),
            "time" => [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)]
                .iter()
                .find_map(|(unit, seconds)| number(value.strip_suffix(unit)?).map(|n| n * seconds))
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .map(Self::Time),
            _ => None,
        }
        .ok_or_else(refused)
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::MaxLoss(points) => write!(f, "loss={points}"),
            Self::Time(time) => write!(f, "time={}ms", time.as_secs_f64() * 1e3),
            Self::OffloadRate(share) => write!(f, "offload={}%", share * 100.0),
            Self::Price(points) => write!(f, "price={points}"),
        }
    }
}

impl Goal {
    /// Whether it is worth its while to change from one operating point to another that meets the goal better, where the
    /// mean times are those that `seconds` says: for half a point of accuracy, or the price of one, or a tenth of the
    /// time.
    pub fn is_worth_changing(
        &self,
        from: &OperatingPoint,
        to: &OperatingPoint,
        seconds: impl Fn(&Expected) -> f64,
    ) -> bool {
        let gained = 100.0 * (to.expected.accuracy - from.expected.accuracy);
        let (before, after) = (seconds(&from.expected), seconds(&to.expected));
        let (least_points, less_time) = (0.5, after < 0.9 * before);
        match self {
            Self::Name(_) | Self::OffloadRate(_) => false,
            Self::MaxLoss(_) => less_time,
            Self::Time(most) if before > 1.1 * most.as_secs_f64() => less_time,
            Self::Time(_) => gained >= least_points,
            Self::Price(points) => gained + points * (before - after) >= least_points,
        }
    }
}

impl Bundle {
    /// The operating point that meets `goal` best.
    ///
    /// # Errors
    /// [`GoalError`] where none does, with the one that comes nearest.
    pub fn choose(&self, goal: &Goal) -> Result<&OperatingPoint, GoalError> {
        self.choose_at(goal, |expected| expected.seconds)
    }

    /// The operating point that meets `goal` best where the mean times are those that `seconds` says.
    ///
    /// # Errors
    /// [`GoalError`] where none does, with the one that comes nearest.
    pub fn choose_at(
        &self,
        goal: &Goal,
        seconds: impl Fn(&Expected) -> f64,
    ) -> Result<&OperatingPoint, GoalError> {
        let points = self.operating_points();
        let seconds = |point: &OperatingPoint| seconds(&point.expected);
        let lost =
            |point: &OperatingPoint| 100.0 * (self.reference().accuracy - point.expected.accuracy);
        // Half of the last digit that is printed, so that a figure as it was printed picks its point.
        let (loss_slack, seconds_slack, rate_slack) = (0.005, 0.5e-6, 0.0005);
        match goal {
            Goal::Name(name) => points
                .iter()
                .find(|point| point.name == *name)
                .ok_or_else(|| GoalError::NoSuchPoint {
                    name: name.clone(),
                    known: points.iter().map(|point| point.name.clone()).collect(),
                }),
            Goal::MaxLoss(most) => {
                let has = |point: &OperatingPoint| format!("a loss of {:.2}", lost(point));
                self.pick(goal, |p| lost(p) <= most + loss_slack, seconds, lost, has)
            }
            Goal::Time(most) => {
                let has = |point: &OperatingPoint| format!("{:.3} ms", 1e3 * seconds(point));
                let met = |p: &OperatingPoint| seconds(p) <= most.as_secs_f64() + seconds_slack;
                self.pick(goal, met, |p| -p.expected.accuracy, seconds, has)
            }
            Goal::OffloadRate(most) => {
                let rate = |point: &OperatingPoint| point.expected.offload_rate;
                let has = |point: &OperatingPoint| format!("{:.1} %", 100.0 * rate(point));
                let met = |p: &OperatingPoint| rate(p) <= most + rate_slack;
                self.pick(goal, met, |p| -p.expected.accuracy, rate, has)
            }
            Goal::Price(points) => {
                let cost = |point: &OperatingPoint| lost(point) + points * seconds(point);
                self.pick(goal, |_| true, cost, cost, |_| String::new())
            }
        }
    }

    /// Of the points that are `met` the one of least `cost`; else an error with that of least
    /// `distance`.
    fn pick(
        &self,
        goal: &Goal,
        met: impl Fn(&OperatingPoint) -> bool,
        cost: impl Fn(&OperatingPoint) -> f64,
        distance: impl Fn(&OperatingPoint) -> f64,
        has: impl Fn(&OperatingPoint) -> String,
    ) -> Result<&OperatingPoint, GoalError> {
        let points = self.operating_points();
        let least = |of: &dyn Fn(&OperatingPoint) -> f64,
                     a: &&OperatingPoint,
                     b: &&OperatingPoint| { of(a).total_cmp(&of(b)) };
        let best = points
            .iter()
            .filter(|point| met(point))
            .min_by(|a, b| least(&cost, a, b));
        best.ok_or_else(|| {
            let nearest = points.iter().min_by(|a, b| least(&distance, a, b));
            let nearest = nearest.expect("a bundle has an operating point");
            GoalError::Unmet {
                goal: goal.clone(),
                nearest: nearest.name.clone(),
                has: has(nearest),
            }
        })
    }
}
