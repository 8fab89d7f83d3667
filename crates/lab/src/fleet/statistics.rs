//! Figures of a simulated run with what is uncertain about them: by parts of it, one after another.
//!
//! Images that come close to one another wait for one another, so that their latencies are not independent. A figure is
//! therefore taken of [`PARTS`] long parts of the run, and its interval is that of the mean of as many independent numbers
//! (batch means).

use crate::percentile::nearest_rank;

/// Parts of a run.
pub const PARTS: usize = 20;
/// The 97.5 % quantile of Student's distribution with one degree of freedom less than there are parts.
const STUDENT: f64 = 2.093;

/// A figure and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Estimate {
    /// Half of the interval's width, as a share of the figure.
    pub fn relative_half_width(&self) -> f64 {
        match self.value == 0.0 {
            true => 0.0,
            false => (self.high - self.low) / 2.0 / self.value.abs(),
        }
    }
}

/// A figure of all items, with the interval that its values in parts of them give; none where it has none, in all or in a part.
pub fn estimate<T>(items: &[T], of: impl Fn(&[T]) -> Option<f64>) -> Option<Estimate> {
    let value = of(items)?;
    let parts: Option<Vec<f64>> = (0..PARTS)
        .map(|part| {
            let at = |part: usize| part * items.len() / PARTS;
            of(&items[at(part)..at(part + 1)])
        })
        .collect();
    let parts = parts?;
    let count = PARTS as f64;
    let mean = parts.iter().sum::<f64>() / count;
    let variance = parts.iter().map(|part| (part - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let half = STUDENT * (variance / count).sqrt();
    Some(Estimate {
        value,
        low: value - half,
        high: value + half,
    })
}

/// Mean of numbers; none of none.
pub fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values
        .into_iter()
        .fold((0_u64, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count > 0).then(|| sum / count as f64)
}

/// The smallest number that `percent` % do not exceed; none of none.
pub fn percentile(values: impl IntoIterator<Item = f64>, percent: u32) -> Option<f64> {
    nearest_rank(&mut values.into_iter().collect::<Vec<_>>(), percent)
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    #[test]
    fn an_interval_holds_its_figure_as_often_as_it_says() {
        let mut rng = Rng::with_seed(1);
        let covered = (0..400)
            .filter(|_| {
                let values: Vec<f64> = (0..2000).map(|_| rng.f64()).collect();
                let estimate = estimate(&values, |part| mean(part.iter().copied())).unwrap();
                (estimate.low..=estimate.high).contains(&0.5)
            })
            .count();
        assert!((364..=396).contains(&covered), "{covered} of 400");
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values = || (1..=200).rev().map(f64::from);
        assert_eq!(percentile(values(), 99), Some(198.0));
        assert_eq!(percentile(values(), 50), Some(100.0));
        assert_eq!(percentile([], 50), None);
        assert_eq!(mean([]), None);
        assert_eq!(
            estimate(&[1.0; 10], |part| mean(part.iter().copied())),
            None
        );
    }
}
