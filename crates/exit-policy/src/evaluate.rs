//! Policies on labelled examples: the same decisions as in a live agent, and what they come to.

use crate::{
    costs::{Costs, Spent},
    examples::Examples,
    graph::Graph,
    policy::{Decision, DecisionFunction, Function, Successor},
};

/// A graph, what its steps cost, and examples that its nodes have seen.
#[derive(Debug, Clone, Copy)]
pub struct Problem<'a> {
    graph: &'a Graph,
    costs: &'a Costs,
    examples: &'a Examples,
}

/// Why parts make no problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProblemError {
    /// The examples are of other nodes.
    #[error("the graph has {graph} nodes, the examples are of {examples}: trace this cascade")]
    Nodes {
        /// Of the graph.
        graph: usize,
        /// Of the examples.
        examples: usize,
    },
    /// A step of the graph has no cost.
    #[error("the costs are not those of the graph's jumps")]
    Costs,
    /// A cost is negative, NaN or infinite.
    #[error("a cost is negative or not finite")]
    Cost,
}

/// What became of one example.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// The node that answered.
    pub node: usize,
    /// Loss of the answer.
    pub loss: f32,
    /// What it took.
    pub spent: Spent,
}

/// What became of a number of examples, in their order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcomes {
    /// Loss of every answer; an expectation where a policy draws lots.
    pub loss: Vec<f32>,
    /// Seconds of every answer.
    pub seconds: Vec<f32>,
    /// Bytes sent for every answer.
    pub bytes: Vec<f32>,
    /// Share of the examples that each node answered.
    pub answered: Vec<f64>,
    /// Mean seconds an example of the step to each node, its network and link included.
    pub node_seconds: Vec<f64>,
    /// Share of the examples that travelled over a link.
    pub offload_rate: f64,
}

impl<'a> Problem<'a> {
    /// Checks that the parts fit.
    ///
    /// # Errors
    /// [`ProblemError`] where they do not.
    pub fn try_new(
        graph: &'a Graph,
        costs: &'a Costs,
        examples: &'a Examples,
    ) -> Result<Self, ProblemError> {
        if graph.nodes() != examples.nodes() {
            return Err(ProblemError::Nodes {
                graph: graph.nodes(),
                examples: examples.nodes(),
            });
        }
        let fits = costs.jumps.len() == graph.nodes()
            && (0..graph.nodes()).all(|n| costs.jumps[n].len() == graph.successors(n).len());
        if !fits {
            return Err(ProblemError::Costs);
        }
        let valid = |cost: f64| cost.is_finite() && cost >= 0.0;
        let mut steps = costs.jumps.iter().flatten().chain([&costs.entry]);
        if !steps.all(|step| valid(step.seconds) && valid(step.seconds_per_byte)) {
            return Err(ProblemError::Cost);
        }
        Ok(Self {
            graph,
            costs,
            examples,
        })
    }

    /// The graph.
    pub fn graph(&self) -> &'a Graph {
        self.graph
    }

    /// The costs.
    pub fn costs(&self) -> &'a Costs {
        self.costs
    }

    /// The examples.
    pub fn examples(&self) -> &'a Examples {
        self.examples
    }

    /// Seconds of the longest way, for an example of mean size.
    pub fn dearest_seconds(&self) -> f64 {
        let n = self.examples.len();
        let mean = (0..n)
            .map(|i| f64::from(self.examples.payload_bytes(i)))
            .sum::<f64>()
            / n as f64;
        let mean = mean as u32;
        let step = |step| {
            let mut spent = Spent::default();
            spent.add(step, mean);
            spent.seconds
        };
        let mut rest = vec![0.0_f64; self.graph.nodes()];
        for &node in self.graph.bottom_up() {
            let jumps = self
                .graph
                .successors(node)
                .iter()
                .zip(&self.costs.jumps[node]);
            rest[node] = jumps
                .map(|(&to, jump)| step(jump) + rest[to])
                .fold(0.0, f64::max);
        }
        step(&self.costs.entry) + rest[self.graph.entry()]
    }

    /// Takes an example through the graph, one function a node.
    ///
    /// # Panics
    /// When there are fewer functions than nodes, or no such example.
    pub fn walk(&self, policies: &[Function], example: usize) -> Outcome {
        self.walk_noting(policies, example, |_, _| {})
    }

    /// The same; tells `note` every node that is reached with the seconds of the step to it.
    ///
    /// # Panics
    /// As [`Problem::walk`].
    pub fn walk_noting(
        &self,
        policies: &[Function],
        example: usize,
        mut note: impl FnMut(usize, f64),
    ) -> Outcome {
        let payload = self.examples.payload_bytes(example);
        let mut spent = Spent::default();
        spent.add(&self.costs.entry, payload);
        let mut node = self.graph.entry();
        note(node, spent.seconds);
        loop {
            let decision = policies[node].decide(&self.examples.evidence(node, example));
            let Some((to, step)) = self.next(node, decision) else {
                return Outcome {
                    node,
                    loss: self.examples.loss(node, example),
                    spent,
                };
            };
            let before = spent.seconds;
            spent.add(&self.costs.jumps[node][step], payload);
            note(to, spent.seconds - before);
            node = to;
        }
    }

    /// Where a decision leads; a successor that the node lacks is an exit, as in a live cascade.
    pub(crate) fn next(&self, node: usize, decision: Decision) -> Option<(usize, usize)> {
        match decision {
            Decision::Exit => None,
            Decision::GoTo(Successor(index)) => self
                .graph
                .successors(node)
                .get(index)
                .map(|&to| (to, index)),
        }
    }

    /// Takes the examples `on` through the graph.
    ///
    /// # Panics
    /// As [`Problem::walk`].
    pub fn evaluate(&self, policies: &[Function], on: &[u32]) -> Outcomes {
        let mut outcomes = Outcomes::with_capacity(self.graph.nodes(), on.len());
        for &example in on {
            let note = |node: usize, seconds| outcomes.node_seconds[node] += seconds;
            let outcome = self.walk_noting(policies, example as usize, note);
            outcomes.push(outcome);
        }
        outcomes.finish()
    }

    /// Mean seconds of the examples `on` until they are sent over a link, or answered where they are not.
    ///
    /// # Panics
    /// As [`Problem::walk`].
    pub fn local_seconds(&self, policies: &[Function], on: &[u32]) -> f64 {
        let local = |&example: &u32| self.walk(policies, example as usize).spent.local_seconds;
        on.iter().map(local).sum::<f64>() / on.len() as f64
    }

    /// Numbers of all examples.
    pub fn all(&self) -> Vec<u32> {
        (0..self.examples.len() as u32).collect()
    }
}

impl Outcomes {
    pub(crate) fn with_capacity(nodes: usize, examples: usize) -> Self {
        Self {
            loss: Vec::with_capacity(examples),
            seconds: Vec::with_capacity(examples),
            bytes: Vec::with_capacity(examples),
            answered: vec![0.0; nodes],
            node_seconds: vec![0.0; nodes],
            offload_rate: 0.0,
        }
    }

    pub(crate) fn push(&mut self, outcome: Outcome) {
        self.loss.push(outcome.loss);
        self.seconds.push(outcome.spent.seconds as f32);
        self.bytes.push(outcome.spent.bytes as f32);
        self.answered[outcome.node] += 1.0;
        self.offload_rate += f64::from(u8::from(outcome.spent.bytes > 0.0));
    }

    /// Turns counts into shares.
    pub(crate) fn finish(mut self) -> Self {
        let count = self.loss.len().max(1) as f64;
        self.answered
            .iter_mut()
            .for_each(|answered| *answered /= count);
        self.node_seconds
            .iter_mut()
            .for_each(|seconds| *seconds /= count);
        self.offload_rate /= count;
        self
    }

    /// Joins the outcomes of folds, each of the examples numbered beside it, into those of all
    /// examples in their order.
    ///
    /// # Panics
    /// When an example is missing or stands twice.
    pub fn join(folds: &[(Self, Vec<u32>)]) -> Self {
        let count = folds.iter().map(|(_, on)| on.len()).sum::<usize>();
        let mut place = vec![None; count];
        for (fold, (_, on)) in folds.iter().enumerate() {
            for (row, &example) in on.iter().enumerate() {
                let previous = place[example as usize].replace((fold, row));
                assert!(previous.is_none(), "example {example} stands in two folds");
            }
        }
        let place: Vec<_> = place
            .into_iter()
            .map(|p| p.expect("every example once"))
            .collect();
        let column = |of: fn(&Self) -> &Vec<f32>| {
            place
                .iter()
                .map(|&(fold, row)| of(&folds[fold].0)[row])
                .collect()
        };
        let mean = |of: &dyn Fn(&Self) -> f64| {
            let weighted = folds.iter().map(|(fold, on)| of(fold) * on.len() as f64);
            weighted.sum::<f64>() / count as f64
        };
        Self {
            loss: column(|o| &o.loss),
            seconds: column(|o| &o.seconds),
            bytes: column(|o| &o.bytes),
            answered: (0..folds[0].0.answered.len())
                .map(|n| mean(&|o| o.answered[n]))
                .collect(),
            node_seconds: (0..folds[0].0.node_seconds.len())
                .map(|n| mean(&|o| o.node_seconds[n]))
                .collect(),
            offload_rate: mean(&|o| o.offload_rate),
        }
    }

    /// Mean loss.
    pub fn mean_loss(&self) -> f64 {
        mean(&self.loss)
    }

    /// Mean seconds.
    pub fn mean_seconds(&self) -> f64 {
        mean(&self.seconds)
    }

    /// Mean bytes.
    pub fn mean_bytes(&self) -> f64 {
        mean(&self.bytes)
    }
}

/// Mean of a column; NaN of none.
pub(crate) fn mean(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64
}
