use proptest::prelude::*;

use super::*;
use crate::graph::Mode;

const THREE: &str = r#"
name = "three"
description = "two networks on the device, one in the cloud"
entry = "small"

[[node]]
network = "small"
site = "device"
jumps = ["middle", "large"]
policy = { kind = "threshold", measure = "max-probability", at_least = 0.9 }

[[node]]
network = "middle"
site = "device"
jumps = ["large"]
policy = { kind = "threshold", measure = "max-probability", at_least = 0.5 }

[[node]]
network = "large"
site = "cloud"
"#;

const DEADLINE: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_millis(10);
const SURE: [f32; 2] = [0.95, 0.05];
const UNSURE: [f32; 3] = [0.4, 0.3, 0.3];

fn node(cascade: &Cascade, network: &str) -> NodeId {
    cascade
        .nodes()
        .find(|(_, node)| node.network() == network)
        .unwrap()
        .0
}

fn evidence(probabilities: &[f32]) -> Evidence<'_> {
    Evidence::new(probabilities).unwrap()
}

#[test]
fn a_confident_network_answers_at_once() {
    let cascade = Cascade::parse(THREE).unwrap();
    let small = node(&cascade, "small");
    let (mut walk, action) = Walk::start(&cascade, cascade.entry(), Site::Device, DEADLINE);
    assert_eq!(action, Action::Run(small));
    assert_eq!(
        walk.said(small, &evidence(&SURE), SOON),
        answer(small, Reason::Confident)
    );
}

#[test]
fn hard_images_go_from_network_to_network_and_then_elsewhere() {
    let cascade = Cascade::parse(THREE).unwrap();
    let [small, middle, large] = ["small", "middle", "large"].map(|n| node(&cascade, n));
    let (mut walk, _) = Walk::start(&cascade, cascade.entry(), Site::Device, DEADLINE);
    let action = walk.said(small, &evidence(&UNSURE), SOON);
    assert_eq!(action, Action::Run(middle));
    let action = walk.said(middle, &evidence(&UNSURE), SOON);
    let deadline = DEADLINE;
    assert_eq!(
        action,
        Action::Offload {
            node: large,
            deadline
        }
    );
    assert_eq!(
        walk.said(large, &evidence(&UNSURE), SOON),
        answer(large, Reason::Offloaded)
    );
}

#[test]
fn the_latest_word_here_stands_in_for_a_cloud_that_fails() {
    let cascade = Cascade::parse(THREE).unwrap();
    let (small, middle) = (node(&cascade, "small"), node(&cascade, "middle"));
    let (mut walk, _) = Walk::start(&cascade, cascade.entry(), Site::Device, DEADLINE);
    walk.said(small, &evidence(&UNSURE), SOON);
    walk.said(middle, &evidence(&UNSURE), SOON);
    let action = walk.offload_failed(FallbackCause::Unreachable);
    let reason = Reason::Fallback(FallbackCause::Unreachable);
    assert_eq!(action, answer(middle, reason));
    assert_eq!(reason.to_string(), "fallback:unreachable");
}

#[test]
fn nothing_new_is_started_after_the_deadline() {
    let cascade = Cascade::parse(THREE).unwrap();
    let small = node(&cascade, "small");
    let (mut walk, _) = Walk::start(&cascade, cascade.entry(), Site::Device, DEADLINE);
    assert_eq!(
        walk.said(small, &evidence(&UNSURE), DEADLINE),
        answer(small, Reason::Fallback(FallbackCause::Deadline))
    );
    // Who was to be asked elsewhere is told.
    let (middle, large) = (node(&cascade, "middle"), node(&cascade, "large"));
    let (mut walk, _) = Walk::start(&cascade, cascade.entry(), Site::Device, DEADLINE);
    walk.said(small, &evidence(&UNSURE), SOON);
    let Action::Answer(late) = walk.said(middle, &evidence(&UNSURE), DEADLINE) else {
        panic!("something new was started");
    };
    assert_eq!((late.node, late.unasked), (middle, Some(large)));
    assert_eq!(late.reason, Reason::Fallback(FallbackCause::Deadline));
}

#[test]
fn the_cloud_is_asked_when_the_device_network_fails() {
    let cascade = Cascade::parse(THREE).unwrap();
    let (small, large) = (node(&cascade, "small"), node(&cascade, "large"));
    let (mut walk, _) = Walk::start(&cascade, cascade.entry(), Site::Device, DEADLINE);
    let deadline = DEADLINE;
    assert_eq!(
        walk.failed(small, SOON),
        Action::Offload {
            node: large,
            deadline
        }
    );
    assert_eq!(
        walk.offload_failed(FallbackCause::NoCloud),
        Action::NoAnswer(NoAnswer::OffloadFailed(FallbackCause::NoCloud))
    );
}

#[test]
fn a_network_that_fails_after_another_spoke_is_a_fallback() {
    let alone = THREE.replace("jumps = [\"large\"]\npolicy = { kind = \"threshold\", measure = \"max-probability\", at_least = 0.5 }", "");
    let cascade = Cascade::parse(&alone).unwrap();
    let (small, middle) = (node(&cascade, "small"), node(&cascade, "middle"));
    let (mut walk, _) = Walk::start(&cascade, cascade.entry(), Site::Device, DEADLINE);
    walk.said(small, &evidence(&UNSURE), SOON);
    let reason = Reason::Fallback(FallbackCause::NetworkFailed);
    assert_eq!(walk.failed(middle, SOON), answer(small, reason));
}

#[test]
fn modes_put_constants_in_place_of_the_policy() {
    let device = Cascade::parse(THREE).unwrap().with_mode(Mode::DeviceOnly);
    let small = node(&device, "small");
    let (mut walk, _) = Walk::start(&device, device.entry(), Site::Device, DEADLINE);
    let action = walk.said(small, &evidence(&UNSURE), SOON);
    assert_eq!(action, answer(small, Reason::Confident));

    let cloud = Cascade::parse(THREE).unwrap().with_mode(Mode::CloudOnly);
    let (mut walk, _) = Walk::start(&cloud, cloud.entry(), Site::Device, DEADLINE);
    let action = walk.said(small, &evidence(&SURE), SOON);
    assert!(matches!(action, Action::Offload { .. }));
}

proptest! {
    /// Whatever the networks say, whenever and however they fail, a walk ends with one answer as
    /// soon as any network has spoken, and never visits a node twice.
    #[test]
    fn every_walk_ends_in_one_answer(
        events in proptest::collection::vec((0..4_u8, 0..150_u64), 8)
    ) {
        let cascade = Cascade::parse(THREE).unwrap();
        let (mut walk, mut action) = Walk::start(&cascade, cascade.entry(), Site::Device, DEADLINE);
        let mut visited = Vec::new();
        let mut spoken = false;
        for (event, milliseconds) in events {
            let now = Duration::from_millis(milliseconds);
            action = match action {
                Action::Run(node) | Action::Offload { node, .. } => {
                    prop_assert!(!visited.contains(&node));
                    visited.push(node);
                    let here = matches!(action, Action::Run(_));
                    match event {
                        0 => { spoken = true; walk.said(node, &evidence(&SURE), now) }
                        1 | 2 => { spoken = true; walk.said(node, &evidence(&UNSURE), now) }
                        _ if here => walk.failed(node, now),
                        _ => walk.offload_failed(FallbackCause::ConnectionLost),
                    }
                }
                Action::Answer(answer) => {
                    prop_assert!(visited.contains(&answer.node));
                    return Ok(());
                }
                Action::NoAnswer(_) => {
                    prop_assert!(!spoken);
                    return Ok(());
                }
            };
        }
        prop_assert!(false, "the walk did not end: {action:?}");
    }
}
