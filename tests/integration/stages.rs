//! Cascades with early exits: where an answer leaves, and what is refused before the first image.

use std::fs;

use outpost_tests::{Answers, EdgeAgent, some_photos};

/// A network in two stages on the device. The word POLICY stands for the policy of its first exit.
const STAGES: &str = r#"
name = "stages"
description = "the exits of one network"
entry = "cifar10-alexnet@conv2"

[[node]]
network = "cifar10-alexnet"
exit = "conv2"
site = "device"
jumps = ["cifar10-alexnet"]
policy = { kind = "POLICY" }

[[node]]
network = "cifar10-alexnet"
site = "device"
"#;

fn classify(cascade: &str, mode: &str) -> Answers {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stages.toml");
    fs::write(&path, cascade).unwrap();
    EdgeAgent::classify()
        .args(["--cascade".as_ref(), path.as_os_str()])
        .args(["--mode", mode])
        .args(some_photos(2))
        .run()
}

fn stages(policy: &str) -> String {
    STAGES.replace("POLICY", policy)
}

#[test]
fn an_answer_names_the_exit_where_it_left() {
    for (policy, exit) in [("exit", Some("conv2")), ("go-on", None)] {
        let answers = classify(&stages(policy), "policy");
        assert_eq!(
            (answers.code, answers.records.len()),
            (0, 2),
            "{}",
            answers.log
        );
        for record in &answers.records {
            assert_eq!(record["network"], "cifar10-alexnet");
            assert_eq!(record["exit"].as_str(), exit, "{record}");
            assert_eq!(record["reason"], "confident");
            assert_eq!(record["top5"].as_array().unwrap().len(), 5);
        }
    }
}

#[test]
fn an_undecided_node_is_refused_with_what_to_do() {
    let answers = classify(&stages("learned"), "policy");
    assert_eq!(answers.code, 1);
    for word in ["\"cifar10-alexnet@conv2\"", "`lab learn`", "--policy"] {
        assert!(answers.log.contains(word), "{word}: {}", answers.log);
    }
}

#[test]
fn a_mode_that_asks_no_policy_needs_none() {
    for (mode, exit) in [("device-only", Some("conv2")), ("cloud-only", None)] {
        let answers = classify(&stages("learned"), mode);
        assert_eq!(answers.code, 0, "{}", answers.log);
        assert_eq!(answers.records[0]["exit"].as_str(), exit);
    }
}

#[test]
fn an_exit_that_the_network_lacks_is_refused_with_those_it_has() {
    let answers = classify(&stages("exit").replace("conv2", "conv9"), "policy");
    assert_eq!(answers.code, 1);
    for word in ["\"conv9\"", "\"conv1\", \"conv2\", \"conv3\", \"conv4\""] {
        assert!(answers.log.contains(word), "{word}: {}", answers.log);
    }
}
