//! The frontier of a family of policies: the least loss for the time.

use outpost_exit_policy::Outcomes;

/// The lower convex hull of policies in mean time and mean loss. A point between two of them is the
/// policy that tosses a coin for each example.
#[derive(Debug, Clone, PartialEq)]
pub struct Frontier {
    /// The policies on the hull, the fastest first, each slower than the one before and better.
    pub points: Vec<Outcomes>,
}

/// A point of a frontier: two policies and the share of the second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mixture<'a> {
    first: &'a Outcomes,
    second: &'a Outcomes,
    share: f64,
}

impl Frontier {
    /// The hull of `policies`.
    pub fn new(policies: impl IntoIterator<Item = Outcomes>) -> Self {
        let mut policies: Vec<(f64, f64, Outcomes)> = policies
            .into_iter()
            .map(|outcomes| (outcomes.mean_seconds(), outcomes.mean_loss(), outcomes))
            .collect();
        policies.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mut hull: Vec<(f64, f64, Outcomes)> = Vec::new();
        for policy in policies {
            if hull.last().is_some_and(|last| policy.1 >= last.1) {
                continue;
            }
            // Drops points above the line from the one before them to this one.
            while let [.., a, b] = hull.as_slice() {
                if (b.1 - a.1) * (policy.0 - a.0) < (policy.1 - a.1) * (b.0 - a.0) {
                    break;
                }
                hull.pop();
            }
            hull.push(policy);
        }
        Self {
            points: hull.into_iter().map(|(_, _, outcomes)| outcomes).collect(),
        }
    }

    /// The best policy of a mean time of at most `seconds`; `None` below the fastest.
    pub fn at_seconds(&self, seconds: f64) -> Option<Mixture<'_>> {
        let fast = |outcomes: &Outcomes| outcomes.mean_seconds() <= seconds;
        let last = self.points.iter().rposition(fast)?;
        let first = &self.points[last];
        Some(match self.points.get(last + 1) {
            Some(second) => Mixture {
                first,
                second,
                share: (seconds - first.mean_seconds())
                    / (second.mean_seconds() - first.mean_seconds()),
            },
            None => Mixture::of(first),
        })
    }

    /// The fastest policy with a mean loss of at most `loss`; `None` below the least.
    pub fn at_loss(&self, loss: f64) -> Option<Mixture<'_>> {
        self.at_loss_by(loss, Outcomes::mean_loss)
    }

    /// The same, losses as `by` counts them: of some of the examples, for instance.
    pub fn at_loss_by(&self, loss: f64, by: impl Fn(&Outcomes) -> f64) -> Option<Mixture<'_>> {
        // Rounding in the mean must not hide the last point.
        let allowed = loss + 1e-9;
        let losses: Vec<f64> = self.points.iter().map(by).collect();
        let met = losses.iter().position(|loss| *loss <= allowed)?;
        Some(match met.checked_sub(1) {
            Some(before) => Mixture {
                first: &self.points[before],
                second: &self.points[met],
                share: (losses[before] - allowed) / (losses[before] - losses[met]),
            },
            None => Mixture::of(&self.points[met]),
        })
    }
}

impl<'a> Mixture<'a> {
    fn of(outcomes: &'a Outcomes) -> Self {
        Self {
            first: outcomes,
            second: outcomes,
            share: 0.0,
        }
    }

    /// A mean figure of its two policies.
    pub fn mix(&self, of: impl Fn(&Outcomes) -> f64) -> f64 {
        (1.0 - self.share) * of(self.first) + self.share * of(self.second)
    }

    /// Its mean time.
    pub fn seconds(&self) -> f64 {
        self.mix(Outcomes::mean_seconds)
    }

    /// Its mean loss.
    pub fn loss(&self) -> f64 {
        self.mix(Outcomes::mean_loss)
    }

    /// Share of the examples that a node answers.
    pub fn answered(&self, node: usize) -> f64 {
        self.mix(|outcomes| outcomes.answered[node])
    }

    /// Mean seconds of the step to a node.
    pub fn node_seconds(&self, node: usize) -> f64 {
        self.mix(|outcomes| outcomes.node_seconds[node])
    }

    /// Expected loss of every example.
    pub fn losses(&self) -> Vec<f64> {
        let pairs = self.first.loss.iter().zip(&self.second.loss);
        pairs
            .map(|(&a, &b)| (1.0 - self.share) * f64::from(a) + self.share * f64::from(b))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(seconds: f32, loss: f32) -> Outcomes {
        Outcomes {
            loss: vec![loss],
            seconds: vec![seconds],
            bytes: vec![0.0],
            ..Outcomes::default()
        }
    }

    #[test]
    fn the_hull_keeps_what_no_mixture_beats() {
        let frontier = Frontier::new([
            policy(1.0, 0.5),
            policy(2.0, 0.4),
            policy(2.5, 0.45),
            policy(3.0, 0.1),
            policy(4.0, 0.2),
        ]);
        let seconds: Vec<f64> = frontier.points.iter().map(Outcomes::mean_seconds).collect();
        assert_eq!(seconds, [1.0, 3.0]);
        assert!((frontier.at_seconds(2.0).unwrap().loss() - 0.3).abs() < 1e-6);
        assert!((frontier.at_loss(0.3).unwrap().seconds() - 2.0).abs() < 1e-6);
        assert!((frontier.at_seconds(9.0).unwrap().loss() - 0.1).abs() < 1e-6);
        assert!((frontier.at_loss(0.9).unwrap().seconds() - 1.0).abs() < 1e-6);
        assert_eq!(frontier.at_seconds(0.5), None);
        assert_eq!(frontier.at_loss(0.05), None);
    }
}
