//! The learner: from the last decisions to the first, each against the outcome of those after it.
//!
//! For a node with the successors j, an example costs its loss where it exits and, where it goes on to
//! j, the price of the step plus what the policy from j on, already learned, makes of it. That is the
//! layer-by-layer reduction of Bolukbasi, Wang, Dekel and Saligrama, "Adaptive Neural Networks for
//! Efficient Inference" (ICML 2017), section 3: excess loss plus γ · time, a weighted classification
//! a node, solved bottom-up.
//!
//! A node's function is the best of its families: the constants; the myopic threshold on one measure
//! of confidence; linear on the confidence inputs; linear on these and the pooled features. Each linear
//! one is fitted to a part of the examples and scores the rest, in turn; on these scores its biases are
//! tuned and it is judged. The best is fitted again to all. What the earlier decisions see of a node are
//! its decisions on examples that it was not fitted to: those that it was fitted to would promise too
//! much. From 20,000 examples on, a quarter of them judges and the others are trusted.

mod bias;
mod logistic;

use std::{borrow::Cow, collections::HashMap};

use fastrand::Rng;
use logistic::{Fit, Weights, score};

use crate::{
    confidence::{Confidence, Measure},
    costs::Price,
    evaluate::Problem,
    policy::{Decision, DecisionFunction, Function, Inputs, Linear, Score, Successor, Threshold},
};

/// From this many examples on, one part to judge on is as good as several, and the weakest penalty as
/// good as stronger ones.
const MANY: usize = 20_000;
/// As many examples as a fit that is only to be judged looks at.
const MOST_JUDGED_FITS: usize = 200_000;
/// Parts of which each in turn judges what the others fitted.
const PARTS: usize = 4;
/// Fewer examples than this teach nothing.
pub(crate) const LEAST: usize = 20;

/// How to learn.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Draws the parts to judge on. Equal seeds give equal policies.
    pub seed: u64,
    /// Families to choose from, the simpler first.
    pub families: Vec<Family>,
    /// Measures of confidence that thresholds may look at.
    pub measures: Vec<Measure>,
    /// Strengths of the penalty on squared weights to choose from, the weakest first.
    pub l2: Vec<f64>,
    /// Most iterations of a fit.
    pub iterations: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            families: Family::ALL.to_vec(),
            measures: Measure::ALL.to_vec(),
            l2: vec![1e-3, 1e-2, 1e-1],
            iterations: 60,
        }
    }
}

/// A family of decision functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Always the same.
    Constant,
    /// The myopic rule on a measure of confidence.
    Threshold,
    /// Linear on confidence.
    Confidence,
    /// Linear on confidence and pooled features.
    Features,
}

impl Family {
    /// All, the simpler first.
    pub const ALL: [Self; 4] = [
        Self::Constant,
        Self::Threshold,
        Self::Confidence,
        Self::Features,
    ];

    /// Its word in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Threshold => "threshold",
            Self::Confidence => "confidence",
            Self::Features => "features",
        }
    }

    /// The family of a function.
    pub fn of(function: &Function) -> Self {
        match function {
            Function::Constant(_) => Self::Constant,
            Function::Threshold(_) => Self::Threshold,
            Function::Linear(linear) => match linear.inputs() {
                Inputs::Confidence => Self::Confidence,
                Inputs::Features => Self::Features,
            },
        }
    }
}

/// Why nothing was learned.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LearnError {
    /// Too few examples.
    #[error("{found} examples are too few to learn from: give {LEAST} or more")]
    TooFew {
        /// Examples given.
        found: usize,
    },
    /// All nodes are right about the same examples.
    #[error(
        "no node is ever right and another wrong about the same example: there is nothing to \
         decide. Check the labels"
    )]
    NothingToDecide,
    /// A price that is negative, NaN or infinite.
    #[error("a price is negative or not finite")]
    Price,
    /// No family to choose from.
    #[error("no family of decision functions to choose from")]
    NoFamily,
}

/// Learns a policy for each of `prices` from the examples `on`: one function a node.
///
/// Prices in order help: a fit begins where that of the price before it ended.
///
/// # Errors
/// A [`LearnError`] that says what is missing.
///
/// # Panics
/// For an example that there is not.
pub fn learn(
    problem: &Problem<'_>,
    on: &[u32],
    prices: &[Price],
    settings: &Settings,
) -> Result<Vec<Vec<Function>>, LearnError> {
    if on.len() < LEAST {
        return Err(LearnError::TooFew { found: on.len() });
    }
    if settings.families.is_empty() || settings.l2.is_empty() {
        return Err(LearnError::NoFamily);
    }
    let valid = |price: f64| price.is_finite() && price >= 0.0;
    if !prices
        .iter()
        .all(|p| valid(p.per_second) && valid(p.per_byte))
    {
        return Err(LearnError::Price);
    }
    let nodes = problem.graph().nodes();
    let differs = |&example: &u32| {
        let loss = |node| problem.examples().loss(node, example as usize);
        (1..nodes).any(|node| loss(node) != loss(0))
    };
    if nodes > 1 && !on.iter().any(differs) {
        return Err(LearnError::NothingToDecide);
    }
    let parts = parts(on, settings.seed);
    let mut learner = Learner {
        problem,
        on,
        settings,
        judged: parts.iter().flat_map(|(_, judge)| judge).copied().collect(),
        parts,
        starts: HashMap::new(),
    };
    Ok(prices.iter().map(|&price| learner.policy(price)).collect())
}

/// For every part that judges, the places in `on` that fit and those that judge.
fn parts(on: &[u32], seed: u64) -> Vec<(Vec<u32>, Vec<u32>)> {
    let mut order: Vec<u32> = (0..on.len() as u32).collect();
    Rng::with_seed(seed).shuffle(&mut order);
    let judges = if on.len() < MANY { PARTS } else { 1 };
    (0..judges)
        .map(|judge| {
            let (mut fit, mut check) = (Vec::new(), Vec::new());
            for (i, &place) in order.iter().enumerate() {
                let part = if i % PARTS == judge {
                    &mut check
                } else {
                    &mut fit
                };
                part.push(place);
            }
            fit.truncate(MOST_JUDGED_FITS);
            fit.sort_unstable();
            check.sort_unstable();
            (fit, check)
        })
        .collect()
}

struct Learner<'a> {
    problem: &'a Problem<'a>,
    on: &'a [u32],
    settings: &'a Settings,
    /// For every part that judges, the places that fit and those that judge.
    parts: Vec<(Vec<u32>, Vec<u32>)>,
    /// The places that judge, part by part.
    judged: Vec<u32>,
    /// For every node, kind of inputs, penalty and part left out, where the last such fit ended.
    starts: HashMap<(usize, Inputs, usize, Option<usize>), Vec<f64>>,
}

/// Inputs of a linear function and the number of its penalty.
#[derive(Clone, Copy)]
struct Candidate {
    inputs: Inputs,
    l2: usize,
}

/// One node's decision, as a table of costs.
struct Choices {
    node: usize,
    /// Exiting, then going on to each successor.
    count: usize,
    /// Of every example of `on`, row by row.
    costs: Vec<f64>,
}

impl Choices {
    fn of(&self, place: u32) -> &[f64] {
        &self.costs[place as usize * self.count..][..self.count]
    }

    fn some(&self, places: &[u32]) -> Vec<f64> {
        places
            .iter()
            .flat_map(|&place| self.of(place))
            .copied()
            .collect()
    }

    /// The choice that costs least as a constant.
    fn cheapest(&self) -> u32 {
        let mut sums = vec![0.0; self.count];
        for row in self.costs.chunks_exact(self.count) {
            sums.iter_mut()
                .zip(row)
                .for_each(|(sum, cost)| *sum += cost);
        }
        let least = (0..sums.len()).min_by(|&a, &b| sums[a].total_cmp(&sums[b]));
        least.unwrap_or(0) as u32
    }

    /// Cost of every example by what is chosen for it.
    fn outcomes(&self, choice: impl Fn(usize) -> u32) -> Vec<f64> {
        let rows = self.costs.chunks_exact(self.count).enumerate();
        rows.map(|(place, costs)| costs[choice(place) as usize])
            .collect()
    }
}

/// A function of a node, and the choices that it stands for on the examples of `on`.
struct Fitted {
    function: Function,
    choices: Vec<u32>,
}

/// A linear candidate's scores of examples that it was not fitted to, and what they come to.
struct Judged {
    candidate: Candidate,
    /// Cost of the choice for every judged example.
    costs: Vec<f64>,
    /// What was added to the scores.
    shifts: Vec<f32>,
    /// The scores with their shifts, row by row, in the order of [`Learner::judged`].
    scores: Vec<f32>,
}

impl<'a> Learner<'a> {
    fn policy(&mut self, price: Price) -> Vec<Function> {
        let graph = self.problem.graph();
        let mut functions = vec![Function::EXIT; graph.nodes()];
        // What the policy from a node on makes of every example of `on`.
        let mut outcomes: Vec<Vec<f64>> = vec![Vec::new(); graph.nodes()];
        // What the best policy of constants makes of them, and its functions.
        let mut constants = vec![Function::EXIT; graph.nodes()];
        let mut of_constants = outcomes.clone();
        for &node in graph.bottom_up() {
            let choices = self.choices(node, price, &outcomes);
            let fitted = self.best(&choices);
            functions[node] = fitted.function;
            outcomes[node] = choices.outcomes(|place| fitted.choices[place]);

            let choices = self.choices(node, price, &of_constants);
            let choice = choices.cheapest();
            constants[node] = as_function(choice);
            of_constants[node] = choices.outcomes(|_| choice);
        }
        // What is tuned to examples that a function has not seen may cost more on those it has.
        let constant: f64 = of_constants[graph.entry()].iter().sum();
        let cost = |&example: &u32| {
            let outcome = self.problem.walk(&functions, example as usize);
            f64::from(outcome.loss) + price.of(outcome.spent)
        };
        let entry = price_of_entry(self.problem, self.on, price);
        if self.on.iter().map(cost).sum::<f64>() > constant + entry {
            return constants;
        }
        functions
    }

    fn choices(&self, node: usize, price: Price, outcomes: &[Vec<f64>]) -> Choices {
        let (problem, examples) = (self.problem, self.problem.examples());
        let successors = problem.graph().successors(node);
        let count = 1 + successors.len();
        let mut costs = Vec::with_capacity(self.on.len() * count);
        for (place, &example) in self.on.iter().enumerate() {
            let example = example as usize;
            costs.push(f64::from(examples.loss(node, example)));
            for (to, step) in successors.iter().zip(&problem.costs().jumps[node]) {
                let step = price.of_step(step, examples.payload_bytes(example));
                costs.push(step + outcomes[*to][place]);
            }
        }
        Choices { node, count, costs }
    }

    /// The best of all candidates.
    fn best(&mut self, choices: &Choices) -> Fitted {
        let constant = choices.cheapest();
        let mut best = Fitted {
            function: as_function(constant),
            choices: vec![constant; self.on.len()],
        };
        if choices.count == 1 {
            return best;
        }
        // A family must beat the simpler ones by more than chance is likely to give it.
        let mut costs = self.judged_costs(choices, &best);
        let settings: &'a Settings = self.settings;
        let families = &settings.families;
        if families.contains(&Family::Threshold) {
            let function = self.threshold(choices);
            let fitted = Fitted {
                choices: self.decide(choices.node, &function),
                function,
            };
            let of_threshold = self.judged_costs(choices, &fitted);
            if !families.contains(&Family::Constant) || is_cheaper(&of_threshold, &costs) {
                (best, costs) = (fitted, of_threshold);
            }
        }
        let mut linear: Option<Judged> = None;
        for inputs in self.linear_inputs(choices.node) {
            let penalties = if self.on.len() < MANY {
                self.settings.l2.len()
            } else {
                1
            };
            let candidates = (0..penalties).map(|l2| Candidate { inputs, l2 });
            let judged = candidates.map(|candidate| self.judge(choices, candidate));
            let total = |judged: &Judged| judged.costs.iter().sum::<f64>();
            let Some(judged) = judged.min_by(|a, b| total(a).total_cmp(&total(b))) else {
                continue;
            };
            if families.len() == 1 || is_cheaper(&judged.costs, &costs) {
                costs.clone_from(&judged.costs);
                linear = Some(judged);
            }
        }
        match linear {
            Some(judged) => self.fit_to_all(choices, &judged).unwrap_or(best),
            None => best,
        }
    }

    /// Cost of every judged example.
    fn judged_costs(&self, choices: &Choices, fitted: &Fitted) -> Vec<f64> {
        let choice = |place: u32| fitted.choices[place as usize] as usize;
        self.judged
            .iter()
            .map(|&place| choices.of(place)[choice(place)])
            .collect()
    }

    /// What linear functions of a node may look at.
    fn linear_inputs(&self, node: usize) -> Vec<Inputs> {
        let has_features = self.problem.examples().feature_width(node) > 0;
        let inputs = self
            .settings
            .families
            .iter()
            .filter_map(|family| match family {
                Family::Constant | Family::Threshold => None,
                Family::Confidence => Some(Inputs::Confidence),
                Family::Features => has_features.then_some(Inputs::Features),
            });
        inputs.collect()
    }

    /// The choices of a function on every example of `on`.
    fn decide(&self, node: usize, function: &Function) -> Vec<u32> {
        let examples = self.problem.examples();
        let choice =
            |&example: &u32| match function.decide(&examples.evidence(node, example as usize)) {
                Decision::Exit => 0,
                Decision::GoTo(Successor(index)) => 1 + index as u32,
            };
        self.on.iter().map(choice).collect()
    }

    /// The best threshold on any measure, before the best successor.
    fn threshold(&self, choices: &Choices) -> Function {
        let examples = self.problem.examples();
        let mut best = (f64::INFINITY, as_function(choices.cheapest()));
        for &measure in &self.settings.measures {
            let measured: Vec<f32> = self
                .on
                .iter()
                .map(|&example| {
                    measure
                        .of(&examples.evidence(choices.node, example as usize))
                        .get()
                })
                .collect();
            for successor in 1..choices.count {
                let rows = choices.costs.chunks_exact(choices.count);
                let costs: Vec<f64> = rows.flat_map(|row| [row[0], row[successor]]).collect();
                let mut doubts: Vec<f32> = measured.iter().map(|m| 1.0 - m).collect();
                let shift = bias::tune(&mut doubts, &costs, 2)[0];
                // Goes on where 1 − m + shift > 0.
                let Ok(at_least) = Confidence::try_new((1.0 + shift).clamp(0.0, 1.0)) else {
                    continue;
                };
                let cost: f64 = measured
                    .iter()
                    .zip(costs.chunks_exact(2))
                    .map(|(&measured, costs)| costs[usize::from(measured < at_least.get())])
                    .sum();
                if cost < best.0 {
                    let function = Function::Threshold(Threshold {
                        measure,
                        at_least,
                        otherwise: Successor(successor - 1),
                    });
                    best = (cost, function);
                }
            }
        }
        best.1
    }

    /// Fits a candidate without each part in turn, and judges it on that part.
    fn judge(&mut self, choices: &Choices, candidate: Candidate) -> Judged {
        let mut scores = Vec::with_capacity(self.judged.len() * (choices.count - 1));
        for part in 0..self.parts.len() {
            let weights = self.fit(choices, candidate, Some(part));
            scores.extend(self.scores(
                choices.node,
                candidate.inputs,
                &weights,
                &self.parts[part].1,
            ));
        }
        let costs = choices.some(&self.judged);
        let shifts = bias::tune(&mut scores, &costs, choices.count);
        let rows = scores
            .chunks_exact(choices.count - 1)
            .zip(costs.chunks_exact(choices.count));
        let chosen = rows.map(|(scores, costs)| costs[largest(scores) as usize]);
        Judged {
            candidate,
            costs: chosen.collect(),
            shifts,
            scores,
        }
    }

    /// Fits the candidate that judged best to all examples. `None` where its numbers overflow.
    fn fit_to_all(&mut self, choices: &Choices, judged: &Judged) -> Option<Fitted> {
        let inputs = judged.candidate.inputs;
        let weights = self.fit(choices, judged.candidate, None);
        let scores = weights.into_iter().zip(&judged.shifts).enumerate();
        let scores = scores.map(|(index, (Weights { bias, weights }, shift))| Score {
            to: Successor(index),
            bias: bias + shift,
            weights,
        });
        let width = self.problem.examples().feature_width(choices.node);
        let linear = Linear::try_new(inputs, width, scores.collect()).ok()?;
        let function = Function::Linear(linear);
        let mut decided = self.decide(choices.node, &function);
        let rows = judged.scores.chunks_exact(choices.count - 1);
        for (&place, scores) in self.judged.iter().zip(rows) {
            decided[place as usize] = largest(scores);
        }
        Some(Fitted {
            function,
            choices: decided,
        })
    }

    /// Fits a candidate to all examples, or to those outside a part.
    fn fit(
        &mut self,
        choices: &Choices,
        candidate: Candidate,
        without: Option<usize>,
    ) -> Vec<Weights> {
        let (on, costs) = match without {
            None => (Cow::Borrowed(self.on), Cow::Borrowed(&choices.costs[..])),
            Some(part) => {
                let places = &self.parts[part].0;
                let on = places.iter().map(|&place| self.on[place as usize]);
                (Cow::Owned(on.collect()), Cow::Owned(choices.some(places)))
            }
        };
        let columns = self
            .problem
            .examples()
            .inputs(choices.node, candidate.inputs);
        let fit = Fit {
            inputs: &columns,
            on: &on,
            costs: &costs,
            choices: choices.count,
            l2: self.settings.l2[candidate.l2],
            iterations: self.settings.iterations,
        };
        let start = (choices.node, candidate.inputs, candidate.l2, without);
        fit.run(self.starts.entry(start).or_default())
    }

    fn scores(&self, node: usize, inputs: Inputs, weights: &[Weights], places: &[u32]) -> Vec<f32> {
        let columns = self.problem.examples().inputs(node, inputs);
        let examples = places.iter().map(|&place| self.on[place as usize]);
        examples
            .flat_map(|example| weights.iter().map(move |w| (w, example)))
            .map(|(weights, example)| score(weights, &columns, example))
            .collect()
    }
}

/// Whether the mean of `new` lies below that of `old` by more than the standard error of the
/// difference: the rule of Breiman, Friedman, Olshen and Stone, "Classification and Regression Trees"
/// (1984), which keeps the simpler of two that are hard to tell apart.
fn is_cheaper(new: &[f64], old: &[f64]) -> bool {
    let count = new.len() as f64;
    let saved = || old.iter().zip(new).map(|(old, new)| old - new);
    let mean = saved().sum::<f64>() / count;
    let variance = saved().map(|saved| (saved - mean).powi(2)).sum::<f64>() / count;
    mean > (variance / count).sqrt().max(1e-12)
}

/// The choice of the largest score, the first choice's being 0.
fn largest(scores: &[f32]) -> u32 {
    let mut best = (0.0, 0);
    for (index, &score) in scores.iter().enumerate() {
        if score > best.0 {
            best = (score, 1 + index as u32);
        }
    }
    best.1
}

/// A choice as a constant.
fn as_function(choice: u32) -> Function {
    match choice.checked_sub(1) {
        None => Function::EXIT,
        Some(index) => Function::go_to(Successor(index as usize)),
    }
}

/// What it is worth to get all examples to the entry.
fn price_of_entry(problem: &Problem<'_>, on: &[u32], price: Price) -> f64 {
    let bytes = |&example: &u32| problem.examples().payload_bytes(example as usize);
    on.iter()
        .map(|example| price.of_step(&problem.costs().entry, bytes(example)))
        .sum()
}

#[cfg(test)]
mod tests;
