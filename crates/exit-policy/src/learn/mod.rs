//! The learner: from the last decisions to the first, each against the outcome of those after it.
//!
//! For a node with the successors j, an example costs its loss where it exits and, where it goes on to
//! j, the price of the step plus what the policy from j on, already learned, makes of it. That is the
//! layer-by-layer reduction of Bolukbasi, Wang, Dekel and Saligrama, "Adaptive Neural Networks for
//! Efficient Inference" (ICML 2017), section 3: excess loss plus γ · time, a weighted classification
//! a node, solved bottom-up.
//!
//! A node's function is the best of its families: the constants; the myopic threshold on one measure
//! of confidence; linear on the confidence inputs; linear on these and the pooled features. Each is
//! fitted to a part of the examples and judged on the rest; the best is fitted again to all.

mod bias;
mod logistic;

use fastrand::Rng;
use logistic::{Fit, Weights, score};

use crate::{
    confidence::{Confidence, Measure},
    costs::Price,
    evaluate::Problem,
    evidence::CONFIDENCE_INPUTS,
    policy::{Decision, DecisionFunction, Function, Inputs, Linear, Score, Successor, Threshold},
};

/// From this many examples on, one part to judge on is as good as several.
const MANY: usize = 20_000;
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
    /// Strengths of the penalty on squared weights to choose from.
    pub l2: Vec<f64>,
    /// Most iterations of a fit.
    pub iterations: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            families: Family::ALL.to_vec(),
            l2: vec![1e-3, 1e-2],
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
    /// A node is right about all examples or wrong about all.
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
    let mut learner = Learner {
        problem,
        on,
        settings,
        parts: parts(on, settings.seed),
        starts: vec![vec![Vec::new(); 2 * settings.l2.len()]; nodes],
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
    parts: Vec<(Vec<u32>, Vec<u32>)>,
    /// For every node, kind of inputs and penalty, where the last fit ended.
    starts: Vec<Vec<Vec<f64>>>,
}

/// A family to fit, with its penalty.
#[derive(Clone, Copy)]
struct Candidate {
    family: Family,
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
}

impl Learner<'_> {
    fn policy(&mut self, price: Price) -> Vec<Function> {
        let graph = self.problem.graph();
        let mut functions = vec![Function::EXIT; graph.nodes()];
        // What the policy from a node on makes of every example of `on`.
        let mut outcomes: Vec<Vec<f64>> = vec![Vec::new(); graph.nodes()];
        for &node in graph.bottom_up() {
            let choices = self.choices(node, price, &outcomes);
            if choices.count > 1 {
                functions[node] = self.best(&choices);
            }
            let function = &functions[node];
            let decided = self.on.iter().enumerate().map(|(place, &example)| {
                let evidence = self.problem.examples().evidence(node, example as usize);
                choices.of(place as u32)[choice(function.decide(&evidence))]
            });
            outcomes[node] = decided.collect();
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

    /// The candidate that judges best, fitted to all examples.
    fn best(&mut self, choices: &Choices) -> Function {
        let candidates = self.candidates(choices.node);
        let mut best = (f64::INFINITY, candidates[0]);
        if candidates.len() > 1 {
            let parts = std::mem::take(&mut self.parts);
            for candidate in candidates {
                let judged = parts.iter().map(|(fit, check)| {
                    let function = self.fit(choices, candidate, fit);
                    self.cost(choices, &function, check)
                });
                let cost = judged.sum();
                if cost < best.0 - 1e-9 {
                    best = (cost, candidate);
                }
            }
            self.parts = parts;
        }
        let all: Vec<u32> = (0..self.on.len() as u32).collect();
        let function = self.fit(choices, best.1, &all);
        // Rounding aside a fit never costs more than a constant on its own examples; see `bias`.
        let constant = constant(choices, &all);
        if self.cost(choices, &constant, &all) < self.cost(choices, &function, &all) {
            return constant;
        }
        function
    }

    fn candidates(&self, node: usize) -> Vec<Candidate> {
        let has_features = self.problem.examples().feature_width(node) > 0;
        let mut candidates = Vec::new();
        for &family in &self.settings.families {
            let penalties = match family {
                Family::Constant | Family::Threshold => 1,
                Family::Features if !has_features => 0,
                Family::Confidence | Family::Features => self.settings.l2.len(),
            };
            candidates.extend((0..penalties).map(|l2| Candidate { family, l2 }));
        }
        if candidates.is_empty() {
            // Features alone were asked for, and this node has none.
            candidates.push(Candidate {
                family: Family::Constant,
                l2: 0,
            });
        }
        candidates
    }

    fn cost(&self, choices: &Choices, function: &Function, places: &[u32]) -> f64 {
        let examples = self.problem.examples();
        let cost = |&place: &u32| {
            let evidence = examples.evidence(choices.node, self.on[place as usize] as usize);
            choices.of(place)[choice(function.decide(&evidence))]
        };
        places.iter().map(cost).sum()
    }

    /// Fits one candidate to some places of `on`.
    fn fit(&mut self, choices: &Choices, candidate: Candidate, places: &[u32]) -> Function {
        match candidate.family {
            Family::Constant => constant(choices, places),
            Family::Threshold => self.threshold(choices, places),
            Family::Confidence => self.linear(choices, candidate, Inputs::Confidence, places),
            Family::Features => self.linear(choices, candidate, Inputs::Features, places),
        }
    }

    /// The best threshold on any measure, before the best successor.
    fn threshold(&self, choices: &Choices, places: &[u32]) -> Function {
        let examples = self.problem.examples();
        let mut best = (f64::INFINITY, constant(choices, places));
        for measure in Measure::ALL {
            let measured: Vec<f32> = places
                .iter()
                .map(|&place| {
                    let example = self.on[place as usize] as usize;
                    measure.of(&examples.evidence(choices.node, example)).get()
                })
                .collect();
            for successor in 0..choices.count - 1 {
                let costs: Vec<f64> = places
                    .iter()
                    .flat_map(|&place| [choices.of(place)[0], choices.of(place)[1 + successor]])
                    .collect();
                let mut doubts: Vec<f32> = measured.iter().map(|m| 1.0 - m).collect();
                let shift = bias::tune(&mut doubts, &costs, 2)[0];
                // Goes on where 1 − m + shift > 0.
                let Ok(at_least) = Confidence::try_new((1.0 + shift).clamp(0.0, 1.0)) else {
                    continue;
                };
                let function = Function::Threshold(Threshold {
                    measure,
                    at_least,
                    otherwise: Successor(successor),
                });
                let cost = self.cost(choices, &function, places);
                if cost < best.0 {
                    best = (cost, function);
                }
            }
        }
        best.1
    }

    fn linear(
        &mut self,
        choices: &Choices,
        candidate: Candidate,
        inputs: Inputs,
        places: &[u32],
    ) -> Function {
        let columns = self.problem.examples().inputs(choices.node, inputs);
        let on: Vec<u32> = places
            .iter()
            .map(|&place| self.on[place as usize])
            .collect();
        let costs = choices.some(places);
        let fit = Fit {
            inputs: &columns,
            on: &on,
            costs: &costs,
            choices: choices.count,
            l2: self.settings.l2[candidate.l2],
            iterations: self.settings.iterations,
        };
        let kind = usize::from(inputs == Inputs::Features);
        let start = &mut self.starts[choices.node][2 * candidate.l2 + kind];
        let weights = fit.run(start);
        let mut scores = Vec::with_capacity(on.len() * weights.len());
        for &example in &on {
            scores.extend(
                weights
                    .iter()
                    .map(|weights| score(weights, &columns, example)),
            );
        }
        let shifts = bias::tune(&mut scores, &costs, choices.count);
        let scores = weights.into_iter().zip(shifts).enumerate();
        let scores = scores.map(|(index, (Weights { bias, weights }, shift))| Score {
            to: Successor(index),
            bias: bias + shift,
            weights,
        });
        let width: usize = columns.iter().skip(1).map(|matrix| matrix.width()).sum();
        debug_assert_eq!(columns[0].width(), CONFIDENCE_INPUTS.len());
        match Linear::try_new(inputs, width, scores.collect()) {
            Ok(linear) => Function::Linear(linear),
            // Numbers so large that they overflow separate nothing.
            Err(_) => constant(choices, places),
        }
    }
}

/// The column of a decision in a table of costs.
fn choice(decision: Decision) -> usize {
    match decision {
        Decision::Exit => 0,
        Decision::GoTo(Successor(index)) => 1 + index,
    }
}

/// The cheapest constant.
fn constant(choices: &Choices, places: &[u32]) -> Function {
    let mut sums = vec![0.0; choices.count];
    for &place in places {
        for (sum, cost) in sums.iter_mut().zip(choices.of(place)) {
            *sum += cost;
        }
    }
    let least = (0..sums.len()).min_by(|&a, &b| sums[a].total_cmp(&sums[b]));
    match least {
        None | Some(0) => Function::EXIT,
        Some(index) => Function::go_to(Successor(index - 1)),
    }
}

#[cfg(test)]
mod tests;
