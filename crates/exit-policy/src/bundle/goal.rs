//! Choosing an operating point by what a user wants of it.

use std::{fmt, str::FromStr, time::Duration};

use serde::Deserialize;

use super::{Bundle, Choice, Expected, OperatingPoint};

const HAS_A_POINT: &str = "a bundle has an operating point";

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
    /// Whether it is worth its while to change from what does one thing to what does another and meets the goal better,
    /// where the mean times are those that `seconds` says: for half a point of accuracy, or the price of one, or a tenth
    /// of the time.
    pub fn is_worth_changing(
        &self,
        from: &Expected,
        to: &Expected,
        seconds: impl Fn(&Expected) -> f64,
    ) -> bool {
        let gained = 100.0 * (to.accuracy - from.accuracy);
        let (before, after) = (seconds(from), seconds(to));
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

/// A bound on what is expected of a choice.
struct Bound<'f> {
    of: &'f dyn Fn(&Expected) -> f64,
    most: f64,
    /// Half of the last digit that is printed, so that a figure as it was printed picks its point.
    slack: f64,
    /// Words for a value.
    says: &'f dyn Fn(f64) -> String,
}

impl Bundle {
    /// What meets `goal` best: an operating point, or two by lot.
    ///
    /// # Errors
    /// [`GoalError`] where none does, with the one that comes nearest.
    pub fn choose(&self, goal: &Goal) -> Result<Choice<'_>, GoalError> {
        self.choose_at(goal, |expected| expected.seconds)
    }

    /// What meets `goal` best where the mean times are those that `seconds` says, which is linear in what it looks at.
    ///
    /// # Errors
    /// [`GoalError`] where none does, with the one that comes nearest.
    pub fn choose_at(
        &self,
        goal: &Goal,
        seconds: impl Fn(&Expected) -> f64,
    ) -> Result<Choice<'_>, GoalError> {
        let points = self.operating_points();
        let lost = |expected: &Expected| 100.0 * (self.reference().accuracy - expected.accuracy);
        let wrong = |expected: &Expected| -expected.accuracy;
        match goal {
            Goal::Name(name) => points
                .iter()
                .find(|point| point.name == *name)
                .map(Choice::from)
                .ok_or_else(|| GoalError::NoSuchPoint {
                    name: name.clone(),
                    known: points.iter().map(|point| point.name.clone()).collect(),
                }),
            Goal::MaxLoss(most) => {
                let bound = Bound {
                    of: &lost,
                    most: *most,
                    slack: 0.005,
                    says: &|lost| format!("a loss of {lost:.2}"),
                };
                self.cheapest(goal, &bound, seconds)
            }
            Goal::Time(most) => {
                let bound = Bound {
                    of: &seconds,
                    most: most.as_secs_f64(),
                    slack: 0.5e-6,
                    says: &|seconds| format!("{:.3} ms", 1e3 * seconds),
                };
                self.cheapest(goal, &bound, wrong)
            }
            Goal::OffloadRate(most) => {
                let bound = Bound {
                    of: &|expected| expected.offload_rate,
                    most: *most,
                    slack: 0.0005,
                    says: &|rate| format!("{:.1} %", 100.0 * rate),
                };
                self.cheapest(goal, &bound, wrong)
            }
            Goal::Price(worth) => {
                let cost = |point: &&OperatingPoint| {
                    lost(&point.expected) + worth * seconds(&point.expected)
                };
                let best = points.iter().min_by(|a, b| cost(a).total_cmp(&cost(b)));
                Ok(best.expect(HAS_A_POINT).into())
            }
        }
    }

    /// What costs least of what keeps a bound. With one bound, two operating points are enough: one that keeps it, and a
    /// cheaper one that does not, for the share of images that takes their mean to the bound.
    fn cheapest(
        &self,
        goal: &Goal,
        bound: &Bound<'_>,
        cost: impl Fn(&Expected) -> f64,
    ) -> Result<Choice<'_>, GoalError> {
        let value = |point: &OperatingPoint| (bound.of)(&point.expected);
        let keeps = |point: &&OperatingPoint| value(point) <= bound.most + bound.slack;
        let (within, beyond): (Vec<&OperatingPoint>, Vec<_>) =
            self.operating_points().iter().partition(keeps);
        let mixed = within.iter().flat_map(|&point| {
            beyond.iter().filter_map(move |&other| {
                let share = (bound.most - value(point)) / (value(other) - value(point));
                Choice::mixed(point, other, share)
            })
        });
        let alone = within.iter().map(|&point| Choice::from(point));
        let best = alone
            .chain(mixed)
            .min_by(|a, b| cost(&a.expected()).total_cmp(&cost(&b.expected())));
        best.ok_or_else(|| {
            let nearest = beyond.iter().min_by(|a, b| value(a).total_cmp(&value(b)));
            let nearest = nearest.expect(HAS_A_POINT);
            GoalError::Unmet {
                goal: goal.clone(),
                nearest: nearest.name.clone(),
                has: (bound.says)(value(nearest)),
            }
        })
    }
}
