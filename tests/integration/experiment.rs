//! `lab link`: a small plan end to end over an emulated path, and again from its own rows.
//!
//! Needs root, network namespaces, and `tc netem` or rattan (`OUTPOST_RATTAN`, else target/tools/bin/rattan). Without them it is
//! skipped; `OUTPOST_REQUIRE_LINK` makes that an error.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
    time::SystemTime,
};

use outpost_tests::{program, repository};
use serde::Deserialize;

const PROFILES: &str = r#"
    [near]
    description = "A good link"
    round_trip_ms = 30
    uplink_mbps = 8
    downlink_mbps = 16

    [away]
    description = "The same, away for a second and then with another address"
    round_trip_ms = 30
    uplink_mbps = 8
    downlink_mbps = 16
    changes = [{ at = 1, down = true }, { at = 2, up = true }, { at = 3, new-address = true }]
"#;

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Row {
    run: String,
    profile: String,
    policy: String,
    file: String,
    label: u32,
    class: Option<u32>,
    site: String,
    reason: String,
    latency_ms: f64,
    bytes_sent: u64,
    used: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Run {
    run: String,
    changes: String,
    path_sent_bytes: u64,
    path_received_bytes: u64,
    unanswered: u32,
}

fn lab(arguments: &[&str], folder: &Path) -> Output {
    Command::new(program("lab"))
        .current_dir(repository())
        .args(["link", "--out"])
        .arg(folder)
        .args(arguments)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let (out, log) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(log)
}

/// Whether this machine can emulate a path.
fn can_emulate(said: &str) -> bool {
    let lacks = ["needs root", "no network namespaces", "there is no rattan"];
    let Some(lack) = lacks.iter().find(|lack| said.contains(**lack)) else {
        return true;
    };
    assert!(
        std::env::var_os("OUTPOST_REQUIRE_LINK").is_none(),
        "an emulated path is required: {said}"
    );
    eprintln!("SKIPPED: no emulated path: {lack}");
    false
}

fn plan(repository: &Path) -> String {
    let models = repository.join("models");
    let models = models.display();
    format!(
        r#"
        profiles = ["near", "away"]
        images = 12
        warm_up = 2
        seconds = 20
        [[cascades]]
        name = "cifar10"
        file = "{models}/cascades/cifar10-alexnet-resnet.toml"
        bundle = "{models}/policies/cifar10-alexnet-resnet.json"
        images = "{models}/samples/cifar10"
        labels = "{models}/samples/cifar10/labels.csv"
        deadline_ms = 3000
        policies = ["cloud-only", "threshold:1", "learned:loss=1"]
        profiles = ["near"]
        [[cascades]]
        name = "away"
        file = "{models}/cascades/cifar10-alexnet-resnet.toml"
        images = "{models}/samples/cifar10"
        labels = "{models}/samples/cifar10/labels.csv"
        deadline_ms = 3000
        policies = ["cloud-only"]
        profiles = ["away"]
        "#
    )
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Vec<T> {
    let mut reader = csv::Reader::from_path(path).unwrap();
    reader.deserialize().map(Result::unwrap).collect()
}

#[test]
fn a_small_plan_is_run_over_an_emulated_path_and_again_from_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let plan_file = folder.path().join("plan.toml");
    let profiles_file = folder.path().join("profiles.toml");
    fs::write(&plan_file, plan(&repository())).unwrap();
    fs::write(&profiles_file, PROFILES).unwrap();
    let (plan_file, profiles_file) = (plan_file.to_str().unwrap(), profiles_file.to_str().unwrap());
    let arguments = ["--plan", plan_file, "--profiles", profiles_file];
    let out = folder.path().join("out");
    let output = lab(&arguments, &out);
    if !can_emulate(&said(&output)) {
        return;
    }
    assert!(output.status.success(), "{}", said(&output));

    let rows: Vec<Row> = read(&out.join("rows.csv"));
    let runs: Vec<Run> = read(&out.join("runs.csv"));
    assert_eq!(runs.len(), 3 * 2 + 2);
    let mut by_run: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in &rows {
        by_run.entry(&row.run).or_default().push(row);
    }
    for run in &runs {
        let rows = &by_run[&*run.run];
        assert_eq!(run.unanswered, 0, "{}", run.run);
        assert!(rows.iter().all(|row| row.class.is_some()), "{}", run.run);
        match &*rows[0].profile {
            "near" => {
                assert_eq!(rows.len(), 12);
                // What was sent passed the path, with headers and acknowledgements.
                let payload: u64 = rows.iter().map(|row| row.bytes_sent).sum();
                assert!(run.path_sent_bytes > payload, "{}", run.run);
                assert!(run.path_received_bytes > 0, "{}", run.run);
            }
            // Five a second until ten seconds after the last change.
            _ => assert_eq!(rows.len(), 65),
        }
    }
    for row in rows.iter().filter(|row| row.profile == "near") {
        if row.policy == "cloud-only" {
            assert_eq!((&*row.site, &*row.reason), ("cloud", "offloaded"));
            assert!(row.latency_ms >= 30.0, "{row:?}");
            let asked = if row.run.contains(".h3.") { "h3" } else { "h2" };
            assert_eq!(row.used.as_deref(), Some(asked));
        }
    }
    // All policies see the same images.
    let files = |policy: &str| -> Vec<&str> {
        let of = rows
            .iter()
            .filter(|row| row.profile == "near" && row.policy == policy);
        let mut files: Vec<_> = of.map(|row| &*row.file).collect();
        files.sort_unstable();
        files
    };
    assert_eq!(files("cloud-only"), files("learned:loss=1"));
    let away: Vec<&Run> = runs
        .iter()
        .filter(|run| run.run.starts_with("away"))
        .collect();
    for run in away {
        for change in [
            "the path is down",
            "the path is up again",
            "another address",
        ] {
            assert!(run.changes.contains(change), "{}", run.changes);
        }
    }

    goes_on_where_it_was(&arguments, &out);
    is_repeated_from_its_rows(&out, &rows, folder.path());
}

fn goes_on_where_it_was(arguments: &[&str], out: &Path) {
    let written = |file: &Path| -> SystemTime { fs::metadata(file).unwrap().modified().unwrap() };
    let mut files: Vec<_> = fs::read_dir(out.join("runs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == "json"))
        .collect();
    files.sort();
    let (lost, kept) = (&files[0], &files[1]);
    let before = written(kept);
    fs::remove_file(lost).unwrap();
    let output = lab(arguments, out);
    assert!(output.status.success(), "{}", said(&output));
    assert!(lost.exists());
    assert_eq!(written(kept), before, "a run that was there was made again");
}

fn is_repeated_from_its_rows(out: &Path, rows: &[Row], folder: &Path) {
    let first = rows.iter().find(|row| row.policy == "threshold:1").unwrap();
    let again = folder.join("again");
    let rows_file = out.join("rows.parquet");
    let arguments = ["--from", rows_file.to_str().unwrap(), "--only", &first.run];
    let output = lab(&arguments, &again);
    assert!(output.status.success(), "{}", said(&output));
    let repeated: Vec<Row> = read(&again.join("rows.csv"));
    let outcome = |row: &Row| (row.file.clone(), row.label, row.class, row.site.clone());
    let mut before: Vec<_> = rows
        .iter()
        .filter(|row| row.run == first.run)
        .map(outcome)
        .collect();
    let mut after: Vec<_> = repeated.iter().map(outcome).collect();
    before.sort();
    after.sort();
    assert_eq!(before, after);
}

#[test]
fn a_plan_that_cannot_be_run_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = plan(&repository());
    let profiles = write("profiles.toml", PROFILES);
    let unknown = write(
        "unknown.toml",
        &good.replace("\"near\", \"away\"", "\"5g\""),
    );
    let typed = write("typed.toml", &good.replace("warm_up", "warmup"));
    let plan = write("plan.toml", &good);
    let no_rows = write("rows.csv", "run\n");
    for (arguments, wanted) in [
        (vec!["--plan", "/nonexistent.toml"], "cannot"),
        (vec!["--plan", &plan], "there is no profile \"near\""),
        (
            vec!["--plan", &unknown, "--profiles", &profiles],
            "there is no profile \"5g\"",
        ),
        (
            vec!["--plan", &typed, "--profiles", &profiles],
            "unknown field `warmup`",
        ),
        (
            vec![
                "--plan",
                &plan,
                "--profiles",
                &profiles,
                "--only",
                "x",
                "--dry-run",
            ],
            "the plan has no run \"x\"",
        ),
        (vec!["--from", &no_rows], "is not of `lab link`"),
    ] {
        let output = lab(&arguments, &folder.path().join("out"));
        assert!(!output.status.success(), "{arguments:?}");
        let said = said(&output);
        assert!(said.contains(wanted), "{arguments:?}: {said}");
    }
    let output = lab(
        &["--plan", &plan, "--profiles", &profiles, "--dry-run"],
        &folder.path().join("out"),
    );
    assert!(
        said(&output).contains("8 runs, which take at most"),
        "{}",
        said(&output)
    );
    assert!(!folder.path().join("out").exists(), "nothing was to be run");
}
