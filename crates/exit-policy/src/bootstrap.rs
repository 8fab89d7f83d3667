//! Confidence intervals by the bootstrap over examples.

use fastrand::Rng;

/// A range that holds a figure with some confidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// The 95 % percentile interval of a statistic of `count` examples: `statistic` is given the numbers
/// of as many examples, drawn with replacement, `resamples` times.
///
/// # Panics
/// Without examples or resamples.
pub fn interval(
    count: usize,
    resamples: usize,
    seed: u64,
    mut statistic: impl FnMut(&[u32]) -> f64,
) -> Interval {
    assert!(count > 0 && resamples > 0, "nothing to resample");
    let mut rng = Rng::with_seed(seed);
    let mut drawn = vec![0; count];
    let mut values: Vec<f64> = (0..resamples)
        .map(|_| {
            drawn
                .iter_mut()
                .for_each(|example| *example = rng.u32(..count as u32));
            statistic(&drawn)
        })
        .collect();
    values.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| values[((share * resamples as f64) as usize).min(resamples - 1)];
    Interval {
        low: at(0.025),
        high: at(0.975),
    }
}

/// Intervals of the means of several columns over the same examples that all hold at once with 95 %
/// confidence: each mean, plus and minus its standard error times the 95 % quantile of the largest
/// deviation of any column.
///
/// # Panics
/// Without examples or resamples.
pub fn simultaneous_intervals(columns: &[Vec<f64>], resamples: usize, seed: u64) -> Vec<Interval> {
    let Some(count) = columns.first().map(Vec::len) else {
        return Vec::new();
    };
    assert!(count > 0 && resamples > 0, "nothing to resample");
    let scale = |column: &Vec<f64>| {
        let mean = column.iter().sum::<f64>() / count as f64;
        let variance = column.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count as f64;
        (mean, (variance / count as f64).sqrt())
    };
    let scales: Vec<(f64, f64)> = columns.iter().map(scale).collect();
    let mut rng = Rng::with_seed(seed);
    let mut times_drawn = vec![0.0; count];
    let mut largest: Vec<f64> = (0..resamples)
        .map(|_| {
            times_drawn.fill(0.0);
            for _ in 0..count {
                times_drawn[rng.usize(..count)] += 1.0;
            }
            let deviations = columns.iter().zip(&scales).map(|(column, (mean, error))| {
                let sum: f64 = column.iter().zip(&times_drawn).map(|(v, n)| v * n).sum();
                match *error > 0.0 {
                    true => (sum / count as f64 - mean).abs() / error,
                    false => 0.0,
                }
            });
            deviations.fold(0.0, f64::max)
        })
        .collect();
    largest.sort_unstable_by(f64::total_cmp);
    let reach = largest[((0.95 * resamples as f64) as usize).min(resamples - 1)];
    scales
        .into_iter()
        .map(|(mean, error)| Interval {
            low: mean - reach * error,
            high: mean + reach * error,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simultaneous_intervals_hold_at_once_as_often_as_they_say() {
        let mut rng = Rng::with_seed(4);
        let covered = (0..400)
            .filter(|&seed| {
                let column = |_| {
                    (0..200)
                        .map(|_| f64::from(u8::from(rng.f64() < 0.3)))
                        .collect()
                };
                let columns: Vec<Vec<f64>> = (0..8).map(column).collect();
                let intervals = simultaneous_intervals(&columns, 300, seed);
                intervals.iter().all(|i| (i.low..=i.high).contains(&0.3))
            })
            .count();
        assert!((360..=396).contains(&covered), "{covered} of 400");
        assert_eq!(simultaneous_intervals(&[], 10, 1), vec![]);
    }

    #[test]
    fn the_interval_of_a_mean_covers_it_as_often_as_it_says() {
        let mut rng = Rng::with_seed(3);
        let covered = (0..400)
            .filter(|&seed| {
                let values: Vec<f64> = (0..200)
                    .map(|_| f64::from(u8::from(rng.f64() < 0.3)))
                    .collect();
                let interval = interval(values.len(), 300, seed, |drawn| {
                    drawn.iter().map(|&i| values[i as usize]).sum::<f64>() / drawn.len() as f64
                });
                (interval.low..=interval.high).contains(&0.3)
            })
            .count();
        assert!((360..=396).contains(&covered), "{covered} of 400");
    }
}
