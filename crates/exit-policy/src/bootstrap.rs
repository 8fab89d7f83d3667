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

impl Interval {
    /// Whether all of it lies above `value`.
    pub fn is_above(&self, value: f64) -> bool {
        self.low > value
    }

    /// Whether all of it lies below `value`.
    pub fn is_below(&self, value: f64) -> bool {
        self.high < value
    }
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

/// The 95 % interval of the mean of `values`.
///
/// # Panics
/// Without values.
pub fn mean_interval(values: &[f64], resamples: usize, seed: u64) -> Interval {
    interval(values.len(), resamples, seed, |drawn| {
        drawn.iter().map(|&i| values[i as usize]).sum::<f64>() / drawn.len() as f64
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_mean_covers_it_as_often_as_it_says() {
        let mut rng = Rng::with_seed(3);
        let covered = (0..400)
            .filter(|&seed| {
                let values: Vec<f64> = (0..200)
                    .map(|_| f64::from(u8::from(rng.f64() < 0.3)))
                    .collect();
                let interval = mean_interval(&values, 300, seed);
                (interval.low..=interval.high).contains(&0.3)
            })
            .count();
        assert!((360..=396).contains(&covered), "{covered} of 400");
    }
}
