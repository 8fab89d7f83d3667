//! `lab fleet`: from a trace and a plan to tables, rows and a page; the real service beside the simulator; and what is refused.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use outpost_tests::{program, repository};
use tempfile::TempDir;

const CASCADE: &str = "models/cascades/cifar10-alexnet-resnet.toml";
const POLICY: &str = "models/policies/cifar10-alexnet-resnet.json";
const IMAGES: &str = "models/samples/cifar10";

/// A folder with a trace of some images, a plan about them and times of batches.
struct Small {
    folder: TempDir,
}

fn lab(arguments: &[&str]) -> Output {
    let mut command = Command::new(program("lab"));
    command
        .current_dir(repository())
        .args(arguments)
        .output()
        .unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn said(output: &Output) -> String {
    let words = [&output.stdout, &output.stderr];
    words.map(|words| String::from_utf8_lossy(words)).concat()
}

impl Small {
    fn new() -> Self {
        let small = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let labels = format!("{IMAGES}/labels.csv");
        let traced = lab(&[
            "trace",
            "--cascade",
            CASCADE,
            "--features",
            "--images",
            IMAGES,
            "--labels",
            &labels,
            "--out",
            text(&small.path("trace.parquet")),
        ]);
        assert!(traced.status.success(), "{}", said(&traced));
        fs::write(small.path("times.csv"), "batch,ms\n1,5\n4,12\n").unwrap();
        small
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The example, made small, with the first place of `from` in it replaced.
    fn plan(&self, from: &str, to: &str) -> PathBuf {
        let example = repository().join("crates/lab/plans/photos.toml");
        let example = fs::read_to_string(example).unwrap();
        let cascade = format!("cascade = {:?}", repository().join(CASCADE));
        let policy = format!("policy = {:?}", repository().join(POLICY));
        let mut plan = String::new();
        for line in example.lines() {
            plan += match line.split(' ').next() {
                Some("devices") => "devices = [10, 2_000]",
                Some("file") => "file = \"trace.parquet\"",
                Some("cascade") => &cascade,
                Some("policy") => &policy,
                Some("service_times") => "service_times = \"times.csv\"",
                Some("images") => "images = 2_000",
                Some("most_images") => "most_images = 4_000",
                _ => line,
            };
            plan.push('\n');
        }
        assert!(plan.contains(from), "{from} is not in {plan}");
        let path = self.path("plan.toml");
        fs::write(&path, plan.replacen(from, to, 1)).unwrap();
        path
    }

    fn simulate(&self, plan: &Path, further: &[&str]) -> Output {
        let arguments = [&["fleet", "simulate", text(plan)], further].concat();
        lab(&arguments)
    }
}

#[test]
fn a_plan_becomes_tables_rows_and_a_page() {
    let small = Small::new();
    let plan = small.plan("seed = 1", "seed = 7");
    let (csv, parquet, page) = (
        small.path("rows.csv"),
        small.path("rows.parquet"),
        small.path("page.html"),
    );
    let files = [
        "--csv",
        text(&csv),
        "--parquet",
        text(&parquet),
        "--out",
        text(&page),
    ];
    let output = small.simulate(&plan, &files);
    assert!(output.status.success(), "{}", said(&output));
    let table = said(&output);
    for words in [
        "cloud-only",
        "device-only",
        "loss=0",
        "loss=1",
        "Not validated",
    ] {
        assert!(table.contains(words), "{words} is missing: {table}");
    }
    let rows = fs::read_to_string(&csv).unwrap();
    // Two numbers of devices, four policies, and the header.
    assert_eq!(rows.lines().count(), 9, "{rows}");
    assert!(rows.starts_with("devices,policy,"), "{rows}");
    assert_eq!(&fs::read(&parquet).unwrap()[..4], b"PAR1");
    let page = fs::read_to_string(&page).unwrap();
    for part in ["<polyline", "2,000 devices", "Points lost", "USD"] {
        let is_there = page.to_lowercase().contains(&part.to_lowercase());
        assert!(is_there, "{part} is missing");
    }
    // A seed says all that is random.
    let again = small.path("again.csv");
    let output = small.simulate(&plan, &["--csv", text(&again)]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(fs::read_to_string(again).unwrap(), rows);
}

#[test]
fn a_plan_that_cannot_be_says_why() {
    let small = Small::new();
    for (from, to, why) in [
        ("trace.parquet", "nowhere.parquet", "nowhere.parquet"),
        ("\"loss=1\"", "\"p99\"", "no operating point \"p99\""),
        (
            "per_device_hour = 60.0",
            "per_device_hour = -60.0",
            "`arrivals.per_device_hour` is -60",
        ),
        ("seed = 1", "sead = 1", "unknown field `sead`"),
        ("times.csv", "nowhere.csv", "nowhere.csv"),
        (
            "max_batch = 4",
            "max_batch = 9",
            "measure from 1 to `max_batch`",
        ),
        (
            "cifar10-alexnet-resnet.toml",
            "cifar10-tree.toml",
            "lacks the node",
        ),
        ("alexnet-resnet.json", "tree.json", "cannot use the policy"),
    ] {
        let plan = small.plan(from, to);
        let output = small.simulate(&plan, &[]);
        let words = said(&output);
        assert!(!output.status.success(), "{to}: {words}");
        assert!(words.contains(why), "{to}: {words}");
    }
    let output = small.simulate(&small.path("nowhere.toml"), &[]);
    assert!(said(&output).contains("nowhere.toml"), "{}", said(&output));
}

#[test]
fn the_real_service_is_measured_and_vouches_for_small_fleets_only() {
    let small = Small::new();
    let (found, times) = (small.path("found.json"), small.path("measured.csv"));
    let trace = small.path("trace.parquet");
    let validate = |further: &[&str]| {
        let arguments = [
            "fleet",
            "validate",
            "--cascade",
            CASCADE,
            "--policy",
            POLICY,
            "--images",
            IMAGES,
            "--trace",
            text(&trace),
            "--sent",
            "200",
            "--batches",
            "3",
            "--device-scale",
            "10",
            "--out",
            text(&found),
            "--service-times",
            text(&times),
        ];
        lab(&[&arguments[..], further].concat())
    };
    let output = validate(&["--devices", "1,3"]);
    assert!(output.status.success(), "{}", said(&output));
    let words = said(&output);
    for figure in [
        "p99 ms",
        "mean ms",
        "share answered by the cloud",
        "cloud's answers a second",
    ] {
        assert!(words.contains(figure), "{figure} is missing: {words}");
    }
    // How near it comes is for a quiet machine to say; that images were answered is not.
    let record: serde_json::Value = serde_json::from_slice(&fs::read(&found).unwrap()).unwrap();
    assert_eq!(record["points"][1]["devices"], 3);
    let share = &record["points"][1]["compared"][1];
    assert!(share["real"].as_f64().unwrap() > 0.0, "{share}");
    assert!(share["simulated"].as_f64().unwrap() > 0.0, "{share}");
    // What it measured is the simulator's input, and what it did not cover is said.
    let plan = small.plan("times.csv", "measured.csv");
    let output = small.simulate(&plan, &["--validation", text(&found)]);
    assert!(output.status.success(), "{}", said(&output));
    for reason in ["with a GPU", "with links other than loopback"] {
        assert!(
            said(&output).contains(reason),
            "{reason}: {}",
            said(&output)
        );
    }
    let output = validate(&["--sent", "10"]);
    assert!(
        said(&output).contains("--sent must be"),
        "{}",
        said(&output)
    );
    let output = validate(&["--cloud-service", "/nonexistent"]);
    assert!(
        said(&output).contains("cannot start /nonexistent"),
        "{}",
        said(&output)
    );
}
