//! Figures of rows: pure, and each with how sure it is.

use std::collections::{BTreeMap, HashMap, HashSet};

use fastrand::Rng;
use outpost_exit_policy::bootstrap::{Interval, interval};

use super::{
    super::{
        plan::{CascadePlan, Plan, Policy},
        rows::Row,
    },
    experiment::{Experiment, Measured, Setting, may_send},
};
use crate::percentile::nearest_rank;

/// Draws of a bootstrap, and the seed of their order.
const RESAMPLES: usize = 1000;
const SEED: u64 = 6;
/// Images below which a figure is marked as one of few.
pub(super) const FEW: usize = 30;

/// Times of images as their callers saw them, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Times {
    pub(super) images: usize,
    pub(super) mean: f64,
    pub(super) median: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
}

impl Times {
    /// `None` without images.
    pub(super) fn of(latencies: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = latencies.into_iter().collect();
        let mean = mean(&values)?;
        let images = values.len();
        let mut at = |percent| nearest_rank(&mut values, percent);
        Some(Self {
            images,
            mean,
            median: at(50)?,
            p95: at(95)?,
            p99: at(99)?,
        })
    }

    /// Of all images of some runs.
    pub(super) fn of_runs(runs: &[&Measured]) -> Option<Self> {
        Self::of(rows(runs).map(|row| row.latency_ms))
    }
}

/// The images of some runs.
pub(super) fn rows<'a>(runs: &[&'a Measured]) -> impl Iterator<Item = &'a Row> {
    runs.iter().flat_map(|run| &run.rows)
}

/// The mean; `None` of nothing.
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The share of rows that are so; `None` without rows.
pub(super) fn share<'a>(
    rows: impl Iterator<Item = &'a Row>,
    is: impl Fn(&Row) -> bool,
) -> Option<f64> {
    let (mut all, mut so) = (0, 0);
    for row in rows {
        all += 1;
        so += usize::from(is(row));
    }
    (all > 0).then(|| so as f64 / all as f64)
}

/// What is drawn again for an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drawn {
    /// Images of the one run.
    Images,
    /// Runs of several repeats, then images of each.
    Runs,
}

/// A figure and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Estimate {
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    /// Images, or pairs of the same image, that it is of.
    pub(super) images: usize,
    pub(super) drawn: Drawn,
}

impl Estimate {
    /// Whether it is of so few images that it says little.
    pub(super) const fn is_of_few(&self) -> bool {
        self.images < FEW
    }
}

/// A statistic of what several repeats saw, with its percentile interval. Of one repeat its images are drawn; of several the
/// repeats are drawn, and then images of each, so that what differs between repeats counts. `None` where nothing was seen.
pub(super) fn estimate<T: Copy>(
    repeats: &[Vec<T>],
    statistic: impl Fn(&[T]) -> f64,
) -> Option<Estimate> {
    let repeats: Vec<&Vec<T>> = repeats.iter().filter(|seen| !seen.is_empty()).collect();
    let all: Vec<T> = repeats
        .iter()
        .flat_map(|seen| seen.iter().copied())
        .collect();
    let (ends, drawn) = match repeats.len() {
        0 => return None,
        1 => {
            let mut again = Vec::with_capacity(all.len());
            let ends = interval(all.len(), RESAMPLES, SEED, |numbers| {
                again.clear();
                again.extend(numbers.iter().map(|&number| all[number as usize]));
                statistic(&again)
            });
            (ends, Drawn::Images)
        }
        count => {
            let mut rng = Rng::with_seed(SEED);
            let mut values: Vec<f64> = (0..RESAMPLES)
                .map(|_| {
                    let mut again = Vec::with_capacity(all.len());
                    for _ in 0..count {
                        let seen = repeats[rng.usize(..count)];
                        again.extend((0..seen.len()).map(|_| seen[rng.usize(..seen.len())]));
                    }
                    statistic(&again)
                })
                .collect();
            (ends_of(&mut values), Drawn::Runs)
        }
    };
    Some(Estimate {
        value: statistic(&all),
        low: ends.low,
        high: ends.high,
        images: all.len(),
        drawn,
    })
}

fn ends_of(values: &mut [f64]) -> Interval {
    values.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| values[((share * values.len() as f64) as usize).min(values.len() - 1)];
    Interval {
        low: at(0.025),
        high: at(0.975),
    }
}

/// Of each repeat, the images that both had, as both saw them.
pub(super) fn pairs<'a>(
    first: &[&'a Measured],
    second: &[&'a Measured],
) -> Vec<Vec<(&'a Row, &'a Row)>> {
    first
        .iter()
        .filter_map(|one| {
            let repeat = one.record.run.repeat;
            let other = second.iter().find(|run| run.record.run.repeat == repeat)?;
            let by_number: HashMap<u32, &Row> =
                other.rows.iter().map(|row| (row.number, row)).collect();
            let both = one.rows.iter().filter_map(|row| {
                let same = by_number.get(&row.number)?;
                (same.file == row.file).then_some((row, *same))
            });
            Some(both.collect())
        })
        .collect()
}

/// Fewer images than this may all be easy ones, and no interval knows of it: of 8 that are in one time of twenty, where three
/// tenths are hard.
const LEAST_IMAGES: usize = 8;

/// How many times the mean latency of the first is that of the second, over the same images; `None` where they are too few to tell.
pub(super) fn times_faster(pairs: &[Vec<(&Row, &Row)>]) -> Option<Estimate> {
    let files: HashSet<&str> = pairs
        .iter()
        .flatten()
        .map(|pair| pair.0.file.as_str())
        .collect();
    if files.len() < LEAST_IMAGES {
        return None;
    }
    let latencies: Vec<Vec<(f64, f64)>> = latencies(pairs);
    estimate(&latencies, |pairs| {
        let first: f64 = pairs.iter().map(|pair| pair.0).sum();
        let second: f64 = pairs.iter().map(|pair| pair.1).sum();
        first / second.max(f64::MIN_POSITIVE)
    })
}

/// The latencies of pairs.
pub(super) fn latencies(pairs: &[Vec<(&Row, &Row)>]) -> Vec<Vec<(f64, f64)>> {
    let of_one = |pairs: &Vec<(&Row, &Row)>| {
        let both = pairs
            .iter()
            .map(|(first, second)| (first.latency_ms, second.latency_ms));
        both.collect()
    };
    pairs.iter().map(of_one).collect()
}

/// What the cloud says of each image, whatever the link: what policies' accuracy is told against.
#[derive(Debug, Clone, Default)]
pub(super) struct Reference {
    /// By cascade and payload: of each file how often the cloud was right, and how often it was asked. Cascades of the same file and
    /// images have the same.
    right: HashMap<(String, String), HashMap<String, (u32, u32)>>,
}

impl Reference {
    /// Of all answers of the cloud under `cloud-only`.
    pub(super) fn new(experiment: &Experiment) -> Self {
        let mut right: HashMap<_, HashMap<String, (u32, u32)>> = HashMap::new();
        for measured in &experiment.runs {
            let run = &measured.record.run;
            if run.policy != Policy::CloudOnly {
                continue;
            }
            for cascade in alike(&experiment.plan, &run.cascade) {
                let files = right.entry((cascade, run.payload.clone())).or_default();
                for row in measured.rows.iter().filter(|row| row.site == "cloud") {
                    let seen = files.entry(row.file.clone()).or_default();
                    seen.0 += u32::from(row.is_right());
                    seen.1 += 1;
                }
            }
        }
        Self { right }
    }

    /// The cloud's accuracy over all its images, and how many those are; `None` where it was never asked alone.
    pub(super) fn top1(&self, cascade: &str, payload: &str) -> Option<(f64, usize)> {
        let files = self.right.get(&(cascade.to_owned(), payload.to_owned()))?;
        let shares: Vec<f64> = files.values().map(share_of).collect();
        Some((mean(&shares)?, shares.len()))
    }

    /// How many points a policy is more accurate than the cloud in a setting: over all links that stay as they are and on which none
    /// of its images fell back, if none did here, else here.
    pub(super) fn accuracy(
        &self,
        experiment: &Experiment,
        setting: &Setting,
        policy: &Policy,
    ) -> Option<Accuracy> {
        let runs = experiment.of(setting, policy);
        let here = self.points(&runs, &setting.payload)?;
        let told = match runs.iter().all(|run| is_whole(run)) {
            true => self.pooled(experiment, setting, policy).unwrap_or(here),
            false => here,
        };
        Some(Accuracy { told, here })
    }

    /// Over all links; an image that was seen several times counts once, as its mean.
    fn pooled(
        &self,
        experiment: &Experiment,
        setting: &Setting,
        policy: &Policy,
    ) -> Option<Estimate> {
        let key = (setting.cascade.clone(), setting.payload.clone());
        let cloud = self.right.get(&key)?;
        let runs = experiment.runs.iter().filter(|measured| {
            let run = &measured.record.run;
            let is_of = run.cascade == setting.cascade && run.policy == *policy;
            let is_alike = run.payload == setting.payload || !may_send(policy);
            is_of && is_alike && is_whole(measured) && !experiment.changes(&run.profile)
        });
        let mut files: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        for row in runs.flat_map(|run| &run.rows) {
            if let Some(seen) = cloud.get(&row.file) {
                let file = files.entry(&row.file).or_default();
                file.0 += f64::from(u8::from(row.is_right())) - share_of(seen);
                file.1 += 1.0;
            }
        }
        let points = files.values().map(|(sum, count)| 100.0 * sum / count);
        estimate(&[points.collect::<Vec<f64>>()], |points| {
            mean(points).unwrap_or_default()
        })
    }

    /// How many points runs are more accurate than the cloud on the same images, as delivered: fallbacks count as what they are.
    fn points(&self, runs: &[&Measured], payload: &str) -> Option<Estimate> {
        let run = &runs.first()?.record.run;
        let files = self.right.get(&(run.cascade.clone(), payload.to_owned()))?;
        let of_run = |measured: &&Measured| {
            let of_row = |row: &Row| {
                let cloud = share_of(files.get(&row.file)?);
                Some(100.0 * (f64::from(u8::from(row.is_right())) - cloud))
            };
            measured.rows.iter().filter_map(of_row).collect()
        };
        let differences: Vec<Vec<f64>> = runs.iter().map(of_run).collect();
        estimate(&differences, |differences| {
            mean(differences).unwrap_or_default()
        })
    }
}

/// Whether all images of a run have the answer that the policy wanted.
fn is_whole(run: &Measured) -> bool {
    let mut rows = run.rows.iter();
    rows.all(|row| !row.is_fallback() && row.class.is_some())
}

/// How many points a policy is more accurate than the cloud on the same images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Accuracy {
    /// As it is told.
    pub(super) told: Estimate,
    /// In the setting alone.
    pub(super) here: Estimate,
}

/// Cascades of a plan that have the same networks and images as this one, itself among them.
fn alike(plan: &Plan, name: &str) -> Vec<String> {
    let Some(this) = plan.cascade(name) else {
        return Vec::new();
    };
    let key = |cascade: &CascadePlan| {
        let CascadePlan {
            file,
            images,
            labels,
            ..
        } = cascade;
        (file.clone(), images.clone(), labels.clone())
    };
    let same = plan.cascades.iter().filter(|other| key(other) == key(this));
    same.map(|cascade| cascade.name.clone()).collect()
}

fn share_of(seen: &(u32, u32)) -> f64 {
    f64::from(seen.0) / f64::from(seen.1)
}

/// The straight line of least squares through points, as (at 0, slope); level where all have one x, `None` without points.
pub(super) fn line(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let xs: Vec<f64> = points.iter().map(|point| point.0).collect();
    let ys: Vec<f64> = points.iter().map(|point| point.1).collect();
    let (x, y) = (mean(&xs)?, mean(&ys)?);
    let spread: f64 = xs.iter().map(|v| (v - x).powi(2)).sum();
    let together: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let slope = if spread > 0.0 { together / spread } else { 0.0 };
    Some((y - slope * x, slope))
}

/// Latencies of images by the second in which they began: the middle of each second and the mean.
pub(super) fn by_second<'a>(rows: impl Iterator<Item = &'a Row>) -> Vec<(f64, f64)> {
    let mut seconds: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for row in rows {
        let second = (row.started_ms / 1e3).max(0.0) as u64;
        seconds.entry(second).or_default().push(row.latency_ms);
    }
    let point =
        |(second, latencies): (u64, Vec<f64>)| Some((second as f64 + 0.5, mean(&latencies)?));
    seconds.into_iter().filter_map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_one_repeat_is_of_its_images_and_of_several_is_wider() {
        let mut rng = Rng::with_seed(1);
        let mut repeat = |shift: f64| -> Vec<f64> { (0..200).map(|_| shift + rng.f64()).collect() };
        let (low, high) = (repeat(0.0), repeat(4.0));
        let average = |values: &[f64]| mean(values).unwrap();
        let one = estimate(&[low.clone(), vec![]], average).unwrap();
        assert_eq!((one.images, one.drawn), (200, Drawn::Images));
        assert!(
            one.low < one.value && one.value < one.high && one.high - one.low < 0.15,
            "{one:?}"
        );
        let two = estimate(&[low, high], average).unwrap();
        assert_eq!((two.images, two.drawn), (400, Drawn::Runs));
        // Draws of two repeats are of one alone half of the time.
        assert!(two.low < 0.7 && two.high > 4.3, "{two:?}");
        assert_eq!(estimate::<f64>(&[vec![]], average), None);
    }

    #[test]
    fn the_interval_of_two_repeats_covers_what_they_were_drawn_from() {
        let mut rng = Rng::with_seed(2);
        let covered = (0..200)
            .filter(|_| {
                let repeat = |rng: &mut Rng| (0..60).map(|_| rng.f64()).collect::<Vec<_>>();
                let repeats = [repeat(&mut rng), repeat(&mut rng), repeat(&mut rng)];
                let found = estimate(&repeats, |values| mean(values).unwrap()).unwrap();
                (found.low..=found.high).contains(&0.5)
            })
            .count();
        assert!(covered >= 180, "{covered} of 200");
    }

    #[test]
    fn times_are_those_that_were_measured() {
        let times = Times::of((1..=100).map(f64::from)).unwrap();
        assert_eq!(
            times,
            Times {
                images: 100,
                mean: 50.5,
                median: 50.0,
                p95: 95.0,
                p99: 99.0,
            }
        );
        assert_eq!(Times::of([]), None);
    }

    #[test]
    fn a_line_goes_through_its_points() {
        assert_eq!(
            line(&[(0.0, 1.0), (2.0, 5.0), (4.0, 9.0)]),
            Some((1.0, 2.0))
        );
        assert_eq!(line(&[(3.0, 1.0), (3.0, 5.0)]), Some((3.0, 0.0)));
        assert_eq!(line(&[]), None);
    }
}
