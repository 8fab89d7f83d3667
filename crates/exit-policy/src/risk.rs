//! Risk control: the cheapest policy that is known to lose at most so much, with so much confidence.
//!
//! Learn-then-test (Angelopoulos, Bates, Candès, Jordan and Lei, 2021) with fixed-sequence testing:
//! the policies are put in an order that the calibration examples did not influence, the safest first,
//! and tested one after the other until one is not shown to hold. The chance that any that is let
//! through breaks the promise is at most `1 − confidence`.
//!
//! The test is for losses of 0 and 1 and needs no normal approximation. Of n calibration examples the policy gets some wrong that
//! the reference gets right, and the reverse; D is the probability that the two differ. Where the
//! promise is broken, by any margin, the balance of the two counts falls as low as observed with a
//! probability of at most p, for the D least in favour of a rejection among those up to an upper
//! confidence bound; the chance that this bound fails is added (Berger and Boos, "P values maximized
//! over a confidence set for the nuisance parameter", 1994).

/// The chance that the bound on D fails, as a part of the chance that the promise may be broken.
const BOUND_SHARE: f64 = 0.08;

/// How often a policy and the reference differ on the calibration examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Differences {
    /// Examples.
    pub examples: usize,
    /// Those that the policy alone gets wrong.
    pub worse: usize,
    /// Those that the reference alone gets wrong.
    pub better: usize,
}

impl Differences {
    /// Counts losses of a policy and of the reference, each 0 or 1, on the same examples.
    pub fn count(policy: &[f32], reference: &[f32]) -> Self {
        let pairs = || policy.iter().zip(reference);
        Self {
            examples: policy.len().min(reference.len()),
            worse: pairs().filter(|(p, r)| p > r).count(),
            better: pairs().filter(|(p, r)| p < r).count(),
        }
    }
}

/// What is promised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Promise {
    tolerance: f64,
    confidence: f64,
}

/// Numbers that promise nothing.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PromiseError {
    /// A tolerance outside 0 to 1.
    #[error("a tolerance of {0} points is none: give more than 0 and less than 100")]
    Tolerance(f64),
    /// A confidence outside 0.5 to 1.
    #[error("a confidence of {0} is none: give 0.5 or more and less than 1")]
    Confidence(f64),
}

impl Promise {
    /// Promises at most `tolerance` more loss than the reference, as a share of the examples, with a
    /// probability of at least `confidence`.
    ///
    /// # Errors
    /// [`PromiseError`] where a number is out of range.
    pub fn try_new(tolerance: f64, confidence: f64) -> Result<Self, PromiseError> {
        if !(tolerance > 0.0 && tolerance < 1.0) {
            return Err(PromiseError::Tolerance(100.0 * tolerance));
        }
        if !(0.5..1.0).contains(&confidence) {
            return Err(PromiseError::Confidence(confidence));
        }
        Ok(Self {
            tolerance,
            confidence,
        })
    }

    /// The most that may be lost, as a share of the examples.
    pub fn tolerance(&self) -> f64 {
        self.tolerance
    }

    /// The least probability that no more is lost.
    pub fn confidence(&self) -> f64 {
        self.confidence
    }

    /// The chance, at most, of differences as small as these where the promise does not hold.
    pub fn p_value(&self, differences: Differences) -> f64 {
        let Differences {
            examples,
            worse,
            better,
        } = differences;
        let logs = LogFactorials::up_to(examples);
        let bound_fails = BOUND_SHARE * (1.0 - self.confidence);
        let most = logs.upper_bound(examples, worse + better, bound_fails);
        if most <= self.tolerance {
            // They differ so rarely that the promise cannot break.
            return bound_fails;
        }
        // The more they differ, the likelier is a balance far from its mean; the points between make
        // sure of it.
        let balance = worse as i64 - better as i64;
        let likeliest = [1.0, 0.9, 0.7, 0.4]
            .map(|share| self.tolerance + share * (most - self.tolerance))
            .map(|differ| logs.balance_at_most(examples, balance, differ, self.tolerance))
            .into_iter()
            .fold(0.0, f64::max);
        (likeliest + bound_fails).min(1.0)
    }

    /// The last of `policies` for which the promise holds, and all before it; `None` where it is not
    /// shown even for the first, which should be the safest.
    pub fn choose(&self, policies: &[Differences]) -> Option<usize> {
        let holds =
            |differences: &&Differences| self.p_value(**differences) <= 1.0 - self.confidence;
        policies.iter().take_while(holds).count().checked_sub(1)
    }
}

/// ln k! for k from 0.
struct LogFactorials(Vec<f64>);

impl LogFactorials {
    fn up_to(most: usize) -> Self {
        let mut sum = 0.0;
        let logs = (1..=most).map(|k| {
            sum += (k as f64).ln();
            sum
        });
        Self([0.0].into_iter().chain(logs).collect())
    }

    /// P(X = k) of the binomial distribution of n and p.
    fn binomial(&self, n: usize, k: usize, p: f64) -> f64 {
        match p {
            _ if p <= 0.0 => f64::from(u8::from(k == 0)),
            _ if p >= 1.0 => f64::from(u8::from(k == n)),
            _ => {
                let ways = self.0[n] - self.0[k] - self.0[n - k];
                (ways + k as f64 * p.ln() + (n - k) as f64 * (-p).ln_1p()).exp()
            }
        }
    }

    /// P(X ≤ k) of the same.
    fn binomial_at_most(&self, n: usize, k: usize, p: f64) -> f64 {
        if k >= n {
            return 1.0;
        }
        // From the largest term on, until the others add nothing.
        let mode = (n as f64 * p) as usize;
        let mut sum = 0.0;
        for k in (0..=k).rev() {
            let term = self.binomial(n, k, p);
            sum += term;
            if k < mode && term < 1e-12 * sum {
                break;
            }
        }
        sum.min(1.0)
    }

    /// The p that X ≤ k falls below with a chance of `fails` (Clopper and Pearson).
    fn upper_bound(&self, n: usize, k: usize, fails: f64) -> f64 {
        let (mut low, mut high) = (k as f64 / n.max(1) as f64, 1.0);
        for _ in 0..40 {
            let middle = (low + high) / 2.0;
            if self.binomial_at_most(n, k, middle) > fails {
                low = middle;
            } else {
                high = middle;
            }
        }
        high
    }

    /// P(worse − better ≤ balance) where n examples differ with the probability `differ` each, and
    /// are worse with `excess` more probability than better.
    fn balance_at_most(&self, n: usize, balance: i64, differ: f64, excess: f64) -> f64 {
        let worse = (1.0 + excess / differ) / 2.0;
        let mean = n as f64 * differ;
        let reach = 8.0 * (mean * (1.0 - differ)).sqrt() + 20.0;
        let from = (mean - reach).max(0.0) as usize;
        let to = ((mean + reach) as usize).min(n);
        (from..=to)
            .map(|differences| {
                let most = (differences as i64 + balance).div_euclid(2);
                let below = match usize::try_from(most) {
                    Ok(most) => self.binomial_at_most(differences, most, worse),
                    Err(_) => 0.0,
                };
                self.binomial(n, differences, differ) * below
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    /// Examples that are worse with the first probability and better with the second.
    fn draw(rng: &mut Rng, worse: f64, better: f64, examples: usize) -> Differences {
        let mut drawn = Differences {
            examples,
            worse: 0,
            better: 0,
        };
        for _ in 0..examples {
            match rng.f64() {
                u if u < worse => drawn.worse += 1,
                u if u < worse + better => drawn.better += 1,
                _ => {}
            }
        }
        drawn
    }

    #[test]
    fn numbers_that_promise_nothing_are_refused() {
        assert!(Promise::try_new(0.0, 0.95).is_err());
        assert!(Promise::try_new(f64::NAN, 0.95).is_err());
        assert!(Promise::try_new(0.01, 1.0).is_err());
        assert!(Promise::try_new(0.01, f64::NAN).is_err());
    }

    #[test]
    fn binomial_probabilities_match_hand_calculations() {
        let logs = LogFactorials::up_to(10);
        assert!((logs.binomial(4, 2, 0.5) - 0.375).abs() < 1e-12);
        assert!((logs.binomial_at_most(4, 1, 0.5) - 0.3125).abs() < 1e-12);
        // No success in ten: 1 − 0.05^(1/10).
        assert!((logs.upper_bound(10, 0, 0.05) - 0.258_866).abs() < 1e-5);
        // Two examples that always differ, worse with 3/4: both worse is the only balance above 0.
        assert!((logs.balance_at_most(2, 0, 1.0, 0.5) - 7.0 / 16.0).abs() < 1e-9);
    }

    #[test]
    fn the_promise_is_broken_no_more_often_than_it_says() {
        // Policies that lose 0, 0.5, 0.9, 1 and 2 points: the last two are at or past the promise.
        let promise = Promise::try_new(0.01, 0.95).unwrap();
        let mut rng = Rng::with_seed(11);
        let trials = 2000;
        let (mut broken, mut used) = (0, 0);
        for _ in 0..trials {
            let chances = [
                (0.020, 0.02),
                (0.025, 0.02),
                (0.029, 0.02),
                (0.030, 0.02),
                (0.040, 0.02),
            ];
            let policies = chances.map(|(worse, better)| draw(&mut rng, worse, better, 2000));
            let chosen = promise.choose(&policies);
            broken += usize::from(chosen >= Some(3));
            used += usize::from(chosen.is_some());
        }
        assert!(broken * 20 <= trials, "{broken} of {trials}");
        assert!(
            used * 2 > trials,
            "{used} of {trials}: the test has no power"
        );
    }

    #[test]
    fn a_policy_at_the_edge_of_the_promise_is_let_through_in_one_of_twenty() {
        let promise = Promise::try_new(0.01, 0.95).unwrap();
        let mut rng = Rng::with_seed(12);
        for (worse, better) in [(0.01, 0.0), (0.03, 0.02), (0.105, 0.095)] {
            let through = (0..2000)
                .filter(|_| {
                    promise
                        .choose(&[draw(&mut rng, worse, better, 1500)])
                        .is_some()
                })
                .count();
            assert!(through <= 110, "{through} of 2000 at {worse} and {better}");
        }
    }

    #[test]
    fn the_reference_itself_holds_from_a_few_hundred_examples_on() {
        let promise = Promise::try_new(0.01, 0.95).unwrap();
        let same = |examples| Differences {
            examples,
            worse: 0,
            better: 0,
        };
        assert_eq!(promise.choose(&[same(1000)]), Some(0));
        assert_eq!(promise.choose(&[same(20)]), None);
        assert_eq!(promise.choose(&[same(0)]), None);
        assert_eq!(promise.choose(&[]), None);
    }
}
