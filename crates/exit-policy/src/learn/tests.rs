//! The learner on small worlds whose best policies are known.

use fastrand::Rng;
use proptest::prelude::*;

use super::*;
use crate::{
    baseline::{Oracle, random_exits},
    costs::{Costs, Step},
    evaluate::Outcomes,
    evidence::Summary,
    examples::{Examples, Matrix, NodeExamples},
    graph::Graph,
    risk::{Differences, Promise},
};

fn seconds(seconds: f64) -> Step {
    Step {
        seconds,
        ..Step::default()
    }
}

/// A tree of three networks: 0 may go on to 1 and 2, 1 to 2.
fn tree() -> (Graph, Costs) {
    let graph = Graph::try_new(0, vec![vec![1, 2], vec![2], vec![]]).unwrap();
    let costs = Costs {
        entry: seconds(1.0),
        jumps: vec![
            vec![seconds(4.0), seconds(12.0)],
            vec![seconds(12.0)],
            vec![],
        ],
    };
    (graph, costs)
}

/// Three networks of growing strength on examples of varied difficulty; confidence tells, and one of
/// three features tells more.
fn examples(count: usize, seed: u64) -> Examples {
    let mut rng = Rng::with_seed(seed);
    let mut nodes: Vec<NodeExamples> = [(); 3]
        .map(|()| NodeExamples {
            loss: vec![],
            summaries: vec![],
            features: None,
        })
        .into();
    let mut features = vec![vec![]; 3];
    for _ in 0..count {
        let difficulty = rng.f64();
        for (node, strength) in [0.6, 0.85, 0.95].into_iter().enumerate() {
            let is_wrong = difficulty + 0.2 * (rng.f64() - 0.5) > strength;
            let noise = 0.25 * (rng.f64() - 0.5);
            let sure = (1.0 - 0.6 * difficulty + noise).clamp(0.15, 0.99) as f32;
            let rest = (1.0 - sure) / 9.0;
            let mut said = [rest; 10];
            said[0] = sure;
            nodes[node].loss.push(f32::from(u8::from(is_wrong)));
            nodes[node].summaries.push(Summary::new(&said).unwrap());
            features[node].extend([rng.f32(), difficulty as f32, rng.f32()]);
        }
    }
    for (node, features) in nodes.iter_mut().zip(features) {
        node.features = Matrix::new(3, features);
    }
    Examples::try_new(nodes, vec![1000; count]).unwrap()
}

fn cost(problem: &Problem<'_>, policies: &[Function], price: Price, on: &[u32]) -> f64 {
    on.iter()
        .map(|&example| {
            let outcome = problem.walk(policies, example as usize);
            f64::from(outcome.loss) + price.of(outcome.spent)
        })
        .sum()
}

/// Every policy of constants.
fn constants(graph: &Graph) -> Vec<Vec<Function>> {
    let mut all = vec![vec![]];
    for node in 0..graph.nodes() {
        let successors = graph.successors(node).len();
        let choices = (0..=successors).map(|choice| match choice {
            0 => Function::EXIT,
            _ => Function::go_to(Successor(choice - 1)),
        });
        all = choices
            .flat_map(|choice| {
                all.iter().map(move |so_far: &Vec<_>| {
                    so_far.iter().cloned().chain([choice.clone()]).collect()
                })
            })
            .collect();
    }
    all
}

#[test]
fn a_learned_policy_is_no_worse_than_the_best_constant_on_its_examples() {
    let (graph, costs) = tree();
    let examples = examples(400, 1);
    let problem = Problem::try_new(&graph, &costs, &examples).unwrap();
    let (on, prices) = (problem.all(), Price::sweep(8, 17.0));
    let learned = learn(&problem, &on, &prices, &Settings::default()).unwrap();
    for (policy, &price) in learned.iter().zip(&prices) {
        let learned = cost(&problem, policy, price, &on);
        for constant in constants(&graph) {
            let constant = cost(&problem, &constant, price, &on);
            assert!(
                learned <= constant + 1e-6,
                "{price:?}: {learned} {constant}"
            );
        }
    }
}

#[test]
fn dearer_time_buys_faster_policies_and_better_than_random_ones() {
    let (graph, costs) = tree();
    let (known, new) = (examples(3000, 2), examples(3000, 3));
    let problem = Problem::try_new(&graph, &costs, &known).unwrap();
    let test = Problem::try_new(&graph, &costs, &new).unwrap();
    let prices = Price::sweep(10, problem.dearest_seconds());
    let learned = learn(&problem, &problem.all(), &prices, &Settings::default()).unwrap();
    let outcomes: Vec<_> = learned
        .iter()
        .map(|policy| test.evaluate(policy, &test.all()))
        .collect();
    for pair in outcomes.windows(2) {
        assert!(pair[1].mean_seconds() <= pair[0].mean_seconds() + 0.3);
    }
    let middle = &outcomes[6];
    assert!(
        (1.5..8.0).contains(&middle.mean_seconds()),
        "{}",
        middle.mean_seconds()
    );
    let random = (0..=100)
        .map(|i| random_exits(&test, &test.all(), f64::from(i) / 100.0))
        .filter(|random| random.mean_seconds() <= middle.mean_seconds())
        .map(|random| random.mean_loss())
        .fold(1.0, f64::min);
    assert!(
        middle.mean_loss() < random - 0.05,
        "{} {random}",
        middle.mean_loss()
    );
}

#[test]
fn features_that_tell_more_are_used() {
    let (graph, costs) = tree();
    let examples = examples(3000, 4);
    let problem = Problem::try_new(&graph, &costs, &examples).unwrap();
    let price = [Price::of_time(0.02)];
    let learn = |families: &[Family]| {
        let settings = Settings {
            families: families.to_vec(),
            ..Settings::default()
        };
        learn(&problem, &problem.all(), &price, &settings)
            .unwrap()
            .remove(0)
    };
    let all = learn(&Family::ALL);
    assert_eq!(Family::of(&all[0]), Family::Features);
    let of = |policy: &[Function]| cost(&problem, policy, price[0], &problem.all());
    assert!(of(&all) < 0.95 * of(&learn(&[Family::Threshold])));
}

#[test]
fn equal_seeds_give_equal_policies() {
    let (graph, costs) = tree();
    let examples = examples(500, 5);
    let problem = Problem::try_new(&graph, &costs, &examples).unwrap();
    let learn = |seed| {
        let settings = Settings {
            seed,
            ..Settings::default()
        };
        learn(&problem, &problem.all(), &Price::sweep(5, 17.0), &settings).unwrap()
    };
    assert_eq!(learn(1), learn(1));
    assert_ne!(learn(1), learn(2));
}

#[test]
fn what_cannot_be_learned_from_is_refused() {
    let (graph, costs) = tree();
    let examples = examples(100, 6);
    let problem = Problem::try_new(&graph, &costs, &examples).unwrap();
    let all = problem.all();
    let learn = |on: &[u32], price: f64, families: Vec<Family>| {
        let settings = Settings {
            families,
            ..Settings::default()
        };
        learn(&problem, on, &[Price::of_time(price)], &settings).unwrap_err()
    };
    let families = Family::ALL.to_vec();
    assert_eq!(
        learn(&[], 0.1, families.clone()),
        LearnError::TooFew { found: 0 }
    );
    assert_eq!(learn(&all, f64::NAN, families.clone()), LearnError::Price);
    assert_eq!(learn(&all, 0.1, vec![]), LearnError::NoFamily);
    let alike: Vec<u32> = all
        .iter()
        .copied()
        .filter(|&example| (0..3).all(|node| examples.loss(node, example as usize) == 0.0))
        .collect();
    assert_eq!(learn(&alike, 0.1, families), LearnError::NothingToDecide);
}

#[test]
fn a_promise_holds_over_repeated_random_splits() {
    let (graph, costs) = tree();
    let (known, all) = (examples(1500, 7), examples(20_000, 8));
    let problem = Problem::try_new(&graph, &costs, &known).unwrap();
    let population = Problem::try_new(&graph, &costs, &all).unwrap();
    let prices = Price::sweep(12, problem.dearest_seconds());
    let settings = Settings {
        families: vec![Family::Constant, Family::Threshold],
        ..Settings::default()
    };
    let largest = vec![
        Function::go_to(Successor(1)),
        Function::EXIT,
        Function::EXIT,
    ];
    let learned = learn(&problem, &problem.all(), &prices, &settings).unwrap();
    let policies: Vec<_> = [largest.clone()].into_iter().chain(learned).collect();
    let losses = |policy: &Vec<Function>| population.evaluate(policy, &population.all()).loss;
    let reference = losses(&largest);
    let losses: Vec<Vec<f32>> = policies.iter().map(losses).collect();
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    let excess: Vec<f32> = losses.iter().map(|l| mean(l) - mean(&reference)).collect();
    let promise = Promise::try_new(0.02, 0.95).unwrap();
    let mut rng = Rng::with_seed(9);
    let (mut broken, mut useful) = (0, 0);
    let splits = 400;
    for _ in 0..splits {
        let drawn: Vec<usize> = (0..1000).map(|_| rng.usize(..reference.len())).collect();
        let pick = |losses: &[f32]| drawn.iter().map(|&i| losses[i]).collect::<Vec<_>>();
        let differences: Vec<Differences> = losses
            .iter()
            .map(|l| Differences::count(&pick(l), &pick(&reference)))
            .collect();
        if let Some(chosen) = promise.choose(&differences) {
            broken += usize::from(excess[..=chosen].iter().any(|excess| *excess > 0.02));
            useful += usize::from(chosen > 0);
        }
    }
    assert!(broken * 20 <= splits, "{broken} of {splits}");
    assert!(
        useful * 2 > splits,
        "only {useful} of {splits} found more than the largest network"
    );
}

#[test]
fn folds_join_to_every_example_once() {
    let (graph, costs) = tree();
    let examples = examples(90, 10);
    let problem = Problem::try_new(&graph, &costs, &examples).unwrap();
    let policy = vec![
        Function::go_to(Successor(0)),
        Function::EXIT,
        Function::EXIT,
    ];
    let fold = |rest: u32| {
        let on: Vec<u32> = (0..90).filter(|example| example % 3 == rest).collect();
        (problem.evaluate(&policy, &on), on)
    };
    let joined = Outcomes::join(&[fold(2), fold(0), fold(1)]);
    let whole = problem.evaluate(&policy, &problem.all());
    assert_eq!(joined.loss, whole.loss);
    assert_eq!(joined.answered, [0.0, 1.0, 0.0]);
    let lost = std::panic::catch_unwind(|| Outcomes::join(&[fold(0), fold(0), fold(1)]));
    assert!(lost.is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn no_policy_beats_the_oracle(seed in 0_u64..1000, price in 0.0_f64..0.2) {
        let (graph, costs) = tree();
        let examples = examples(120, seed);
        let problem = Problem::try_new(&graph, &costs, &examples).unwrap();
        let (on, price) = (problem.all(), Price::of_time(price));
        let total = |loss: &[f32], seconds: &[f32]| -> f64 {
            let loss: f64 = loss.iter().map(|&l| f64::from(l)).sum();
            loss + price.per_second * seconds.iter().map(|&s| f64::from(s)).sum::<f64>()
        };
        let settings = Settings { iterations: 10, ..Settings::default() };
        let mut policies = constants(&graph);
        policies.extend(learn(&problem, &on, &[price], &settings).unwrap());
        for oracle in [Oracle::Free, Oracle::Soft { reference: 2 }] {
            let best = oracle.evaluate(&problem, &on, price);
            prop_assert_eq!(best.loss.len(), on.len());
            for policy in &policies {
                let outcomes = problem.evaluate(policy, &on);
                let loss: Vec<f32> = on.iter().map(|&example| {
                    let node = problem.walk(policy, example as usize).node;
                    oracle.loss(&problem, node, example as usize)
                }).collect();
                let best = total(&best.loss, &best.seconds);
                prop_assert!(best <= total(&loss, &outcomes.seconds) + 1e-6);
            }
        }
    }
}
