//! What learned policies are compared with: the hand-written rule of one threshold, random exits, and the
//! oracle that knows the labels.
//!
//! A threshold for each node is [`Family::Threshold`](crate::Family) alone, tuned by the learner.

use crate::{
    confidence::{Confidence, Measure},
    costs::{Price, Spent},
    evaluate::{Outcome, Outcomes, Problem},
    graph::Graph,
    policy::{Function, Successor, Threshold},
};

/// The hand-written myopic rule: every node answers from the same confidence upwards, and goes on to its
/// first successor otherwise.
pub fn one_threshold(graph: &Graph, measure: Measure, at_least: Confidence) -> Vec<Function> {
    let rule = Function::Threshold(Threshold {
        measure,
        at_least,
        otherwise: Successor(0),
    });
    (0..graph.nodes())
        .map(|node| match graph.successors(node) {
            [] => Function::EXIT,
            _ => rule.clone(),
        })
        .collect()
}

/// An oracle: it knows the labels and chooses the way of least loss and price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oracle {
    /// It may answer with any node, so that networks that err in different places beat each.
    Free,
    /// The paper's soft oracle. It may not correct the largest network: an example that `reference`
    /// gets wrong is wrong wherever it exits. Like any policy it pays for the networks on the way.
    Soft {
        /// The node of the largest network.
        reference: usize,
    },
}

impl Oracle {
    /// Loss of answering `example` with `node`, as this oracle counts.
    pub fn loss(self, problem: &Problem<'_>, node: usize, example: usize) -> f32 {
        let loss = problem.examples().loss(node, example);
        match self {
            Self::Free => loss,
            Self::Soft { reference } => loss.max(problem.examples().loss(reference, example)),
        }
    }

    /// The outcome of the best way at a price. Of ways that are worth the same it takes the shorter.
    pub fn evaluate(self, problem: &Problem<'_>, on: &[u32], price: Price) -> Outcomes {
        let graph = problem.graph();
        let mut outcomes = Outcomes::with_capacity(graph.nodes(), on.len());
        let mut best = vec![(0.0_f64, None); graph.nodes()];
        for &example in on {
            let example = example as usize;
            let payload = problem.examples().payload_bytes(example);
            for &node in graph.bottom_up() {
                best[node] = (f64::from(self.loss(problem, node, example)), None);
                for (index, &to) in graph.successors(node).iter().enumerate() {
                    let step = price.of_step(&problem.costs().jumps[node][index], payload);
                    if step + best[to].0 < best[node].0 {
                        best[node] = (step + best[to].0, Some(index));
                    }
                }
            }
            let mut spent = Spent::default();
            spent.add(&problem.costs().entry, payload);
            let mut node = graph.entry();
            while let (_, Some(index)) = best[node] {
                spent.add(&problem.costs().jumps[node][index], payload);
                node = graph.successors(node)[index];
            }
            outcomes.push(Outcome {
                node,
                loss: self.loss(problem, node, example),
                spent,
            });
        }
        outcomes.finish()
    }
}

/// The expected outcome of a policy that looks at nothing: every node goes on with the probability
/// `go_on`, to each of its successors alike.
pub fn random_exits(problem: &Problem<'_>, on: &[u32], go_on: f64) -> Outcomes {
    let graph = problem.graph();
    let mut outcomes = Outcomes::with_capacity(graph.nodes(), on.len());
    let mut reach = vec![0.0_f64; graph.nodes()];
    reach[graph.entry()] = 1.0;
    // Of these, what has travelled over a link.
    let mut sent = vec![0.0_f64; graph.nodes()];
    sent[graph.entry()] = f64::from(u8::from(problem.costs().entry.sends));
    let mut exit = vec![0.0_f64; graph.nodes()];
    let mut exit_sent = 0.0;
    let mut jumps = Vec::new();
    for &node in graph.bottom_up().iter().rev() {
        let successors = graph.successors(node);
        let leaves = if successors.is_empty() { 0.0 } else { go_on };
        exit[node] = reach[node] * (1.0 - leaves);
        exit_sent += sent[node] * (1.0 - leaves);
        for (&to, step) in successors.iter().zip(&problem.costs().jumps[node]) {
            let share = leaves / successors.len() as f64;
            reach[to] += share * reach[node];
            sent[to] += share * if step.sends { reach[node] } else { sent[node] };
            jumps.push((to, share * reach[node], step));
        }
    }
    for &example in on {
        let example = example as usize;
        let payload = problem.examples().payload_bytes(example);
        let mut spent = Spent::default();
        spent.add(&problem.costs().entry, payload);
        outcomes.node_seconds[graph.entry()] += spent.seconds / on.len() as f64;
        for (to, share, step) in &jumps {
            let mut of_step = Spent::default();
            of_step.add(step, payload);
            spent.seconds += share * of_step.seconds;
            spent.bytes += share * of_step.bytes;
            outcomes.node_seconds[*to] += share * of_step.seconds / on.len() as f64;
        }
        let loss = (0..graph.nodes())
            .map(|node| exit[node] * f64::from(problem.examples().loss(node, example)));
        outcomes.loss.push(loss.sum::<f64>() as f32);
        outcomes.seconds.push(spent.seconds as f32);
        outcomes.bytes.push(spent.bytes as f32);
    }
    outcomes.answered = exit;
    outcomes.offload_rate = exit_sent;
    outcomes
}
