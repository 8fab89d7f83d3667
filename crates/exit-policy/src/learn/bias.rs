//! The biases of scores, set to what costs least on the examples themselves.
//!
//! Logistic regression finds a direction; where along it to cut is a search in one dimension, done
//! exactly: between two neighbouring examples every cut is alike. Its ends are the constants, so that
//! with two choices a tuned function never costs more than the best constant on the examples that it is
//! tuned on.

/// A saving is smoothed over this part of the examples on either side of a cut. Among thousands of cuts
/// the one that looks best is the one that chance favours most, and as the price moves it leaps from one
/// lucky place to the next.
const SMOOTHING: usize = 40;
/// Fewer examples are not smoothed over: their cuts are few, and a window would blur what little they tell.
const LEAST_SMOOTHED: usize = 1000;

/// Sets each of the biases in turn so that the total cost of the choices is least. `scores` are, row by
/// row, those of choices 1 and up; choice 0 has the score 0. `costs` are those of all choices, row by
/// row. Gives what is to be added to every score; 0 where nothing is better.
pub(super) fn tune(scores: &mut [f32], costs: &[f64], choices: usize) -> Vec<f32> {
    let mut shifts = vec![0.0; choices - 1];
    // One choice has one cut; with several, the second round sees the others' new cuts.
    let rounds = if choices > 2 { 2 } else { 1 };
    for _ in 0..rounds {
        for choice in 1..choices {
            let shift = best_shift(scores, costs, choices, choice);
            shifts[choice - 1] += shift;
            for row in scores.chunks_exact_mut(choices - 1) {
                row[choice - 1] += shift;
            }
        }
    }
    shifts
}

/// What to add to the score of `choice`.
fn best_shift(scores: &[f32], costs: &[f64], choices: usize, choice: usize) -> f32 {
    // By how much the choice leads the best of the others, and what it would save.
    let mut rows: Vec<(f32, f64)> = scores
        .chunks_exact(choices - 1)
        .zip(costs.chunks_exact(choices))
        .map(|(scores, costs)| {
            let mut best = (0.0_f32, 0);
            for (k, &score) in scores.iter().enumerate() {
                if k + 1 != choice && score > best.0 {
                    best = (score, k + 1);
                }
            }
            (scores[choice - 1] - best.0, costs[best.1] - costs[choice])
        })
        .collect();
    rows.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
        return 0.0;
    };
    // What is saved where the choice is taken by the first so many.
    let saved = sums_of_first(rows.iter().map(|row| row.1));
    let now = rows.partition_point(|row| row.0 > 0.0);
    let shift = |cut: usize| {
        let margin = |lead: f32| 1e-3 * (1.0 + lead.abs());
        let shift = match (cut.checked_sub(1), rows.get(cut)) {
            (None, _) => -first.0 - margin(first.0),
            (_, None) => -last.0 + margin(last.0),
            // Equal leads cannot be told apart.
            (Some(before), Some(after)) if rows[before].0 == after.0 => return None,
            (Some(before), Some(after)) => -f32::midpoint(rows[before].0, after.0),
        };
        // Rounding must not move the cut over the example.
        (cut == 0 || rows[cut - 1].0 + shift > 0.0).then_some(shift)
    };
    let best = |value: &dyn Fn(usize) -> f64| {
        let mut best = (value(now), now, 0.0);
        for cut in 0..=rows.len() {
            if value(cut) > best.0 + 1e-12
                && let Some(shift) = shift(cut)
            {
                best = (value(cut), cut, shift);
            }
        }
        best
    };
    let reach = if rows.len() < LEAST_SMOOTHED {
        0
    } else {
        rows.len() / SMOOTHING
    };
    let smooth = smoothed(&saved, reach);
    let (_, cut, shift_to) = best(&|cut| smooth[cut]);
    let end = saved[rows.len()].max(0.0).max(saved[now]);
    if saved[cut] >= end {
        return shift_to;
    }
    best(&|cut| saved[cut]).2
}

/// The sums of the first 0, 1, … values.
fn sums_of_first(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let sums = values.scan(0.0, |sum, value| {
        *sum += value;
        Some(*sum)
    });
    std::iter::once(0.0).chain(sums).collect()
}

/// Every value becomes the mean of those up to `reach` places away; fewer near the ends, as many on
/// either side.
fn smoothed(values: &[f64], reach: usize) -> Vec<f64> {
    let sums = sums_of_first(values.iter().copied());
    (0..values.len())
        .map(|i| {
            let reach = reach.min(i).min(values.len() - 1 - i);
            (sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1) as f64
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn total(scores: &[f32], costs: &[f64], choices: usize) -> f64 {
        let rows = scores
            .chunks_exact(choices - 1)
            .zip(costs.chunks_exact(choices));
        rows.map(|(scores, costs)| {
            let mut best = (0.0, 0);
            for (k, &score) in scores.iter().enumerate() {
                if score > best.0 {
                    best = (score, k + 1);
                }
            }
            costs[best.1]
        })
        .sum()
    }

    #[test]
    fn the_cut_separates_what_should_go_on() {
        let mut scores = [3.0, 2.0, 1.0, 0.5];
        // Going on saves for the first two, and costs for the others.
        let costs = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0];
        let shifts = tune(&mut scores, &costs, 2);
        assert_eq!(shifts, [-1.5]);
        assert_eq!(total(&scores, &costs, 2), 0.0);
    }

    #[test]
    fn among_many_a_lucky_place_does_not_draw_the_cut() {
        // Going on saves where the score is above 0, and costs below; far below, chance favours a few.
        let mut scores: Vec<f32> = (0..4000_i16)
            .map(|i| f32::from(2000 - i) / 1000.0)
            .collect();
        let lucky = |i: usize| (3000..3010).contains(&i);
        let costs: Vec<f64> = (0..4000)
            .flat_map(|i| {
                let saved = if lucky(i) {
                    102.0
                } else if i < 2000 {
                    1.0
                } else {
                    -1.0
                };
                [saved, 0.0]
            })
            .collect();
        let shift = tune(&mut scores, &costs, 2)[0];
        assert!(shift.abs() < 0.1, "{shift}");
    }

    proptest! {
        #[test]
        fn tuning_costs_no_more_than_before_or_than_the_constants(
            (choices, rows) in (2_usize..4).prop_flat_map(|choices| {
                let row = (
                    proptest::collection::vec(-2.0_f32..2.0, choices - 1),
                    proptest::collection::vec(0.0_f64..1.0, choices),
                );
                (Just(choices), proptest::collection::vec(row, 1..40))
            })
        ) {
            let mut scores: Vec<f32> = rows.iter().flat_map(|row| row.0.clone()).collect();
            let costs: Vec<f64> = rows.iter().flat_map(|row| row.1.clone()).collect();
            let before = total(&scores, &costs, choices);
            tune(&mut scores, &costs, choices);
            let after = total(&scores, &costs, choices);
            prop_assert!(after <= before + 1e-9, "{after} {before}");
            if choices == 2 {
                for constant in 0..2 {
                    let of_constant: f64 = costs.chunks_exact(2).map(|row| row[constant]).sum();
                    prop_assert!(after <= of_constant + 1e-9, "{after} {of_constant}");
                }
            }
        }
    }
}
