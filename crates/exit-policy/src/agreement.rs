//! How often answers that were given here agree with another network's, from a random sample of them, and whether that is
//! less often than was expected.
//!
//! Each answer is drawn with a known probability p that does not look at the image. The mean over all answers is then
//! estimated without bias by weighting each drawn one by 1/p, and the ratio of weighted sums (Hájek, 1971) needs no count of
//! those that were not drawn:
//!
//! > agreement = Σ xᵢ/pᵢ ÷ Σ 1/pᵢ, with xᵢ 1 where the two agree, else 0.
//!
//! Its interval is Wilson's (1927) for a binomial share, with Kish's (1965) effective number of draws,
//! (Σ 1/pᵢ)² ÷ Σ 1/pᵢ², which is their number where all pᵢ are equal.
//!
//! The alarm is a Shiryaev-Roberts e-detector (Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for
//! sequential change detection", 2024). After every draw R ← (R + 1) · L, with the likelihood ratio L of a fall to a lower
//! agreement against the least one that is still as expected; R is the mean over several such falls. Where nothing has fallen, R
//! less the number of draws is a supermartingale, so that R reaches the bound c after c draws on average, at the earliest.

/// Falls that are looked for, as shares of the way from the expected agreement to none.
const FALLS: [f64; 5] = [1.0 / 32.0, 1.0 / 16.0, 1.0 / 8.0, 1.0 / 4.0, 1.0 / 2.0];
/// An expectation above it is taken for it: a single disagreement must not be an alarm.
const MOST_EXPECTED: f64 = 0.995;
/// Of the standard normal distribution, for 95 %.
const Z: f64 = 1.959_964;

/// What a sample says about all answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Share that agrees, 0 to 1.
    pub agreement: f64,
    /// Its 95 % interval.
    pub low: f64,
    /// As `low`.
    pub high: f64,
}

/// A sample of answers, one after the other.
#[derive(Debug, Clone, Copy, Default)]
pub struct Agreement {
    drawn: u64,
    weight: f64,
    squares: f64,
    agreeing: f64,
}

impl Agreement {
    /// Takes an answer into account that was drawn with a probability above 0 and up to 1.
    ///
    /// # Panics
    /// For another probability.
    pub fn observe(&mut self, agrees: bool, probability: f64) {
        assert!(probability > 0.0 && probability <= 1.0, "{probability}");
        let weight = 1.0 / probability;
        self.drawn += 1;
        self.weight += weight;
        self.squares += weight * weight;
        self.agreeing += if agrees { weight } else { 0.0 };
    }

    /// Answers that were drawn.
    pub fn drawn(&self) -> u64 {
        self.drawn
    }

    /// What they say about all; none before the first.
    pub fn estimate(&self) -> Option<Estimate> {
        if self.drawn == 0 {
            return None;
        }
        let share = self.agreeing / self.weight;
        let n = self.weight * self.weight / self.squares;
        let middle = share + Z * Z / (2.0 * n);
        let reach = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        let scale = 1.0 + Z * Z / n;
        Some(Estimate {
            agreement: share,
            low: ((middle - reach) / scale).max(0.0),
            high: ((middle + reach) / scale).min(1.0),
        })
    }
}

/// Sounds an alarm once answers agree less often than was expected.
#[derive(Debug, Clone)]
pub struct DriftDetector {
    bound: f64,
    evidence: [f64; FALLS.len()],
}

impl DriftDetector {
    /// One that sounds a false alarm after `draws` draws on average, at the earliest.
    pub fn new(draws: u32) -> Self {
        Self {
            bound: f64::from(draws),
            evidence: [0.0; FALLS.len()],
        }
    }

    /// Takes a draw into account, of answers of which at least a share `at_least`, 0 to 1, should agree; it may differ from
    /// draw to draw, but not look at the draw. Gives whether there is an alarm, after which it begins anew.
    pub fn observe(&mut self, agrees: bool, at_least: f64) -> bool {
        let expected = at_least.clamp(0.0, MOST_EXPECTED);
        for (evidence, fall) in self.evidence.iter_mut().zip(FALLS) {
            let fallen = expected * (1.0 - fall);
            let likelihood = match agrees {
                // Where none need agree, none can have fallen.
                true if expected > 0.0 => fallen / expected,
                true => 1.0,
                false => (1.0 - fallen) / (1.0 - expected),
            };
            *evidence = (*evidence + 1.0) * likelihood;
        }
        let is_alarm = self.evidence.iter().sum::<f64>() / FALLS.len() as f64 >= self.bound;
        if is_alarm {
            self.evidence = [0.0; FALLS.len()];
        }
        is_alarm
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    #[test]
    fn the_estimate_is_of_all_answers_however_they_were_drawn() {
        let mut rng = Rng::with_seed(1);
        let mut covered = 0;
        let (mut sum, runs) = (0.0, 400);
        for _ in 0..runs {
            let mut sample = Agreement::default();
            // Half of the answers agree in 95 of 100 and are drawn rarely, half in 75.
            for image in 0..20_000 {
                let (agree, probability) = [(0.95, 0.02), (0.75, 0.1)][image % 2];
                let agrees = rng.f64() < agree;
                if rng.f64() < probability {
                    sample.observe(agrees, probability);
                }
            }
            let estimate = sample.estimate().unwrap();
            sum += estimate.agreement;
            covered += usize::from(estimate.low <= 0.85 && 0.85 <= estimate.high);
        }
        let mean = sum / f64::from(runs);
        assert!((mean - 0.85).abs() < 0.003, "{mean}");
        let covered = covered as f64 / f64::from(runs);
        assert!(covered > 0.9, "{covered}");
    }

    #[test]
    fn no_draw_says_nothing_and_one_says_little() {
        let mut sample = Agreement::default();
        assert_eq!(sample.estimate(), None);
        sample.observe(true, 0.01);
        let estimate = sample.estimate().unwrap();
        assert_eq!((sample.drawn(), estimate.agreement), (1, 1.0));
        assert!(estimate.low < 0.3 && estimate.high > 0.99, "{estimate:?}");
    }

    /// Draws until the alarm, or `most`.
    fn until_alarm(rng: &mut Rng, detector: &mut DriftDetector, agree: f64, most: u32) -> u32 {
        for draw in 1..=most {
            if detector.observe(rng.f64() < agree, 0.9) {
                return draw;
            }
        }
        most
    }

    #[test]
    fn false_alarms_are_no_more_frequent_than_was_said() {
        let mut rng = Rng::with_seed(2);
        for agree in [0.9, 0.95] {
            let runs = 300;
            // Cut off where it says: the mean is then below that of whole runs.
            let draws: u64 = (0..runs)
                .map(|_| {
                    let mut detector = DriftDetector::new(1000);
                    u64::from(until_alarm(&mut rng, &mut detector, agree, 20_000))
                })
                .sum();
            let mean = draws as f64 / f64::from(runs);
            assert!(mean >= 1000.0, "{agree}: {mean}");
        }
    }

    #[test]
    fn a_fall_is_found_soon_also_after_a_long_time_without_one() {
        let mut rng = Rng::with_seed(3);
        for (agree, within) in [(0.8, 250), (0.7, 100), (0.5, 50)] {
            let runs = 50;
            let mut draws = 0;
            for _ in 0..runs {
                let mut detector = DriftDetector::new(100_000);
                let before = until_alarm(&mut rng, &mut detector, 0.93, 5000);
                assert_eq!(before, 5000);
                draws += until_alarm(&mut rng, &mut detector, agree, 10_000);
            }
            let mean = draws / runs;
            assert!(mean < within, "{agree}: {mean}");
        }
    }

    #[test]
    fn a_single_disagreement_is_no_alarm_whatever_was_expected() {
        for expected in [0.0, 0.5, 1.0] {
            let mut detector = DriftDetector::new(10_000);
            assert!(!detector.observe(false, expected), "{expected}");
            assert!(!detector.observe(true, expected));
        }
        let mut detector = DriftDetector::new(10_000);
        assert!((0..20).any(|_| detector.observe(false, 1.0)));
    }
}
