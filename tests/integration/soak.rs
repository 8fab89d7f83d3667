//! `lab soak`: what it promises about images holds in a short one, and its page tells all.

use std::{fs, process::Command};

use outpost_tests::{program, repository};

#[test]
fn every_image_has_one_final_answer_while_all_around_it_dies() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("soak.html");
    let output = Command::new(program("lab"))
        .current_dir(repository())
        .args(["soak", "--minutes", "0.3", "--deadline", "1000", "--out"])
        .arg(&page)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    // Whether answers are in time to 20 ms is for a quiet machine to say.
    let holds = |promise: &str| {
        let mut lines = said.lines();
        let line = lines.find(|line| line.contains(promise));
        line.is_some_and(|line| line.contains("holds"))
    };
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(holds("exactly one final answer"), "{said}{log}");
    assert!(holds("no image fails"), "{said}{log}");
    assert!(
        holds("every call is answered while the device lives"),
        "{said}{log}"
    );
    assert!(said.contains("too short to tell"), "{said}");
    let page = fs::read_to_string(page).unwrap();
    for part in [
        "Who answered",
        "too short to tell",
        "the device is killed",
        "the cloud is started again",
        "<polyline",
    ] {
        assert!(page.contains(part), "{part} is missing");
    }
}

#[test]
fn a_soak_that_cannot_be_says_why() {
    for (arguments, said) in [
        (&["--minutes", "0"][..], "--minutes must be above 0"),
        (&["--images", "proto"], "has no JPEG files"),
        (
            &["--cascade", "models/cascades/cifar10-exits.toml"],
            "has no network in the cloud",
        ),
        (
            &["--edge-agent", "/nonexistent"],
            "cannot start /nonexistent",
        ),
    ] {
        let output = Command::new(program("lab"))
            .current_dir(repository())
            .args(["soak", "--minutes", "0.1", "--out", "/dev/null"])
            .args(arguments)
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(log.contains(said), "{arguments:?}: {log}");
    }
}
