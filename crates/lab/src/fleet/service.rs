//! How long a network takes for a batch: what was measured, and nothing beyond it.

use std::path::{Path, PathBuf};

use fastrand::Rng;
use serde::Deserialize;

/// How long batches take.
pub trait Service {
    /// Seconds of a batch of so many images.
    fn seconds(&self, images: usize, rng: &mut Rng) -> f64;
}

/// Measured times of batches, by their size.
///
/// A time is drawn from the samples of its size. Between two measured sizes it is interpolated between equal quantiles of both.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceTimes {
    /// Size and its samples in seconds, in order, both.
    sizes: Vec<(usize, Vec<f64>)>,
}

/// Why measured times are of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The file cannot be read, or is no CSV with these columns.
    #[error("cannot read the times of batches in {}", path.display())]
    Csv {
        /// The file.
        path: PathBuf,
        /// Why.
        source: csv::Error,
    },
    /// A number is none.
    #[error("{} has a batch of {batch} images in {ms} ms: sizes and times must be above 0", path.display())]
    Number {
        /// The file.
        path: PathBuf,
        /// Size of the batch.
        batch: usize,
        /// Its time.
        ms: f64,
    },
    /// There are sizes that were not measured, on both sides or beyond.
    #[error(
        "{} has times of {sizes:?} images at a time, and `max_batch` is {max_batch}: measure from 1 to `max_batch`",
        path.display()
    )]
    Range {
        /// The file.
        path: PathBuf,
        /// Sizes that were measured.
        sizes: Vec<usize>,
        /// What a batch may have.
        max_batch: usize,
    },
}

#[derive(Debug, Deserialize)]
struct Row {
    batch: usize,
    ms: f64,
}

impl ServiceTimes {
    /// Reads times for batches of up to `max_batch` images; lines that begin with `#` are for people.
    ///
    /// # Errors
    /// [`ServiceError`], which names the file.
    pub fn load(path: &Path, max_batch: usize) -> Result<Self, ServiceError> {
        let failed = |source| ServiceError::Csv {
            path: path.to_owned(),
            source,
        };
        let mut reader = csv::ReaderBuilder::new()
            .comment(Some(b'#'))
            .trim(csv::Trim::All)
            .from_path(path)
            .map_err(failed)?;
        let mut rows = Vec::new();
        for row in reader.deserialize() {
            let Row { batch, ms } = row.map_err(failed)?;
            if batch == 0 || !(ms.is_finite() && ms > 0.0) {
                return Err(ServiceError::Number {
                    path: path.to_owned(),
                    batch,
                    ms,
                });
            }
            rows.push((batch, ms / 1e3));
        }
        let times = Self::of(rows);
        let sizes: Vec<usize> = times.sizes.iter().map(|(size, _)| *size).collect();
        match (sizes.first(), sizes.last()) {
            (Some(1), Some(&most)) if most >= max_batch => Ok(times),
            _ => Err(ServiceError::Range {
                path: path.to_owned(),
                sizes,
                max_batch,
            }),
        }
    }

    /// Samples: images at a time, and seconds.
    pub fn of(samples: impl IntoIterator<Item = (usize, f64)>) -> Self {
        let mut sizes: Vec<(usize, Vec<f64>)> = Vec::new();
        for (size, seconds) in samples {
            match sizes.iter_mut().find(|(known, _)| *known == size) {
                Some((_, of_size)) => of_size.push(seconds),
                None => sizes.push((size, vec![seconds])),
            }
        }
        sizes.sort_unstable_by_key(|(size, _)| *size);
        for (_, seconds) in &mut sizes {
            seconds.sort_unstable_by(f64::total_cmp);
        }
        Self { sizes }
    }

    /// Mean seconds of a batch of so many images.
    pub fn mean_seconds(&self, images: usize) -> f64 {
        let mean = |seconds: &[f64]| seconds.iter().sum::<f64>() / seconds.len() as f64;
        self.between(images, mean)
    }

    /// The most images a second that one instance answers, over all sizes up to `max_batch`.
    pub fn most_per_second(&self, max_batch: usize) -> f64 {
        (1..=max_batch)
            .map(|images| images as f64 / self.mean_seconds(images))
            .fold(0.0, f64::max)
    }

    /// A figure of the times at `images`, interpolated between the sizes around it.
    fn between(&self, images: usize, of: impl Fn(&[f64]) -> f64) -> f64 {
        let above = self.sizes.partition_point(|(size, _)| *size < images);
        let (size, seconds) = &self.sizes[above.min(self.sizes.len() - 1)];
        if *size <= images || above == 0 {
            return of(seconds);
        }
        let (lower, lower_seconds) = &self.sizes[above - 1];
        let share = (images - lower) as f64 / (size - lower) as f64;
        (1.0 - share) * of(lower_seconds) + share * of(seconds)
    }
}

impl Service for ServiceTimes {
    fn seconds(&self, images: usize, rng: &mut Rng) -> f64 {
        let quantile = rng.f64();
        let at = |seconds: &[f64]| seconds[(quantile * seconds.len() as f64) as usize];
        self.between(images, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, max_batch: usize) -> Result<ServiceTimes, ServiceError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("times.csv");
        std::fs::write(&path, text).unwrap();
        ServiceTimes::load(&path, max_batch)
    }

    #[test]
    fn times_are_drawn_from_samples_and_interpolated_between_sizes() {
        let times = load("# measured\nbatch,ms\n1,2\n1,4\n4, 10\n", 4).unwrap();
        assert!((times.mean_seconds(1) - 3e-3).abs() < 1e-12);
        assert!((times.mean_seconds(4) - 10e-3).abs() < 1e-12);
        assert!((times.mean_seconds(2) - (3.0 + 7.0 / 3.0) * 1e-3).abs() < 1e-12);
        assert!((times.most_per_second(4) - 400.0).abs() < 1e-9);
        let mut rng = Rng::with_seed(1);
        let drawn: Vec<f64> = (0..1000).map(|_| times.seconds(1, &mut rng)).collect();
        let fast = drawn.iter().filter(|&&seconds| seconds == 2e-3).count();
        assert!((400..600).contains(&fast), "{fast}");
        assert!(
            drawn
                .iter()
                .all(|&seconds| seconds == 2e-3 || seconds == 4e-3)
        );
    }

    #[test]
    fn times_that_were_not_measured_are_refused() {
        for (text, said) in [
            ("batch,ms\n2,3\n", "[2] images"),
            ("batch,ms\n1,3\n4,9\n", "`max_batch` is 8"),
            ("batch,ms\n", "[] images"),
            ("batch,ms\n1,-3\n", "above 0"),
            ("batch,ms\n1,NaN\n", "above 0"),
            ("size,ms\n1,3\n", "cannot read"),
        ] {
            let error = load(text, 8).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
