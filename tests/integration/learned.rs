//! Learned policies: from images to a trace, to a bundle, to the live agent, which decides as the
//! evaluation does.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use outpost_cascade::Cascade;
use outpost_exit_policy::{Bundle, OperatingPoint};
use outpost_lab::{replay::offline, trace::Trace};
use outpost_tests::{Answers, EdgeAgent, program, repository};
use tempfile::TempDir;

/// All exits of the CIFAR-10 networks, on the device.
const CASCADE: &str = "models/cascades/cifar10.toml";

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

/// The committed images in one folder, with their labels.
fn images() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut labels = "file,label\n".to_owned();
    for sample in ["cifar10", "cifar10-more"] {
        let sample = repository().join("models/samples").join(sample);
        for entry in fs::read_dir(&sample).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "jpg") {
                fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        let csv = fs::read_to_string(sample.join("labels.csv")).unwrap();
        labels.extend(csv.lines().skip(1).map(|line| format!("{line}\n")));
    }
    fs::write(folder.path().join("labels.csv"), labels).unwrap();
    folder
}

/// A folder of images, a trace of them, and a bundle learned from it.
struct Learned {
    images: TempDir,
    trace: PathBuf,
    policy: PathBuf,
}

impl Learned {
    fn new() -> Self {
        let images = images();
        let path = |name: &str| images.path().join(name);
        let (trace, policy, labels) = (path("t.parquet"), path("p.json"), path("labels.csv"));
        let traced = lab(&[
            "trace",
            "--cascade",
            CASCADE,
            "--features",
            "--images",
            text(images.path()),
            "--labels",
            text(&labels),
            "--out",
            text(&trace),
        ]);
        assert!(traced.status.success(), "{traced:?}");
        let learned = lab(&[
            "learn",
            "--cascade",
            CASCADE,
            "--trace",
            text(&trace),
            "--out",
            text(&policy),
            "--prices",
            "4",
        ]);
        assert!(learned.status.success(), "{learned:?}");
        Self {
            images,
            trace,
            policy,
        }
    }

    fn classify(&self, cascade: &str, goal: &str) -> Answers {
        EdgeAgent::classify()
            .args(["--cascade", cascade, "--policy", text(&self.policy)])
            .args(["--operating-point", goal])
            .args([self.images.path()])
            .run()
    }
}

#[test]
fn the_live_agent_decides_as_the_evaluation_does() {
    let learned = Learned::new();
    let bundle = Bundle::parse(&fs::read(&learned.policy).unwrap()).unwrap();
    // What audits are compared with: all answers are the device's here, and the largest network agrees with itself.
    let agreements = bundle.operating_points().iter();
    let agreements: Vec<f64> = agreements
        .map(|point| point.expected.agreement.unwrap())
        .collect();
    assert_eq!(agreements[0], 1.0, "{agreements:?}");
    assert!(
        agreements.iter().any(|&agreement| agreement < 1.0),
        "{agreements:?}"
    );
    let trace = Trace::load(&learned.trace).unwrap();
    let cascade = Cascade::load(&repository().join(CASCADE)).unwrap();
    let nodes: Vec<&str> = cascade.nodes().map(|(_, node)| node.name()).collect();
    // The one where the most nodes answer: it compares the most.
    let evaluate = |point: &OperatingPoint| offline(&cascade, &trace, &point.functions).unwrap();
    let answering = |point: &&OperatingPoint| {
        evaluate(point)
            .into_values()
            .collect::<HashSet<usize>>()
            .len()
    };
    let point = bundle
        .operating_points()
        .iter()
        .max_by_key(answering)
        .unwrap();
    let evaluated = evaluate(point);
    let live = learned.classify(CASCADE, &point.name);
    assert_eq!((live.code, live.records.len()), (0, 1000), "{}", live.log);
    let mut answered: HashMap<String, usize> = HashMap::new();
    for record in &live.records {
        let network = record["network"].as_str().unwrap();
        let node = match record["exit"].as_str() {
            Some(exit) => format!("{network}@{exit}"),
            None => network.to_owned(),
        };
        let file = Path::new(record["image"].as_str().unwrap())
            .file_name()
            .unwrap();
        assert_eq!(node, nodes[evaluated[file.to_str().unwrap()]], "{record}");
        *answered.entry(node).or_default() += 1;
    }
    assert!(
        answered.len() > 2,
        "too few nodes answer to compare: {answered:?}"
    );
    // Confidence is scaled by the node's temperature, the class is not.
    let top5 = live.records[0]["top5"].as_array().unwrap();
    assert_eq!(live.records[0]["class_id"], top5[0]["class_id"]);
}

#[test]
fn what_does_not_fit_is_refused_before_the_first_image() {
    let learned = Learned::new();
    let refused = |cascade: &str, goal: &str, words: &[&str]| {
        let answers = learned.classify(cascade, goal);
        assert_eq!(
            (answers.code, answers.records.len()),
            (1, 0),
            "{}",
            answers.log
        );
        for word in words {
            assert!(answers.log.contains(word), "{word}: {}", answers.log);
        }
    };
    refused(
        "models/cascades/cifar10-tree.toml",
        "loss=1",
        &[
            "learned for the cascade \"cifar10\"",
            "\"cifar10-tree\"",
            "`lab learn`",
        ],
    );
    refused(CASCADE, "p99", &["no operating point \"p99\"", "\"p00\""]);
    refused(
        CASCADE,
        "time=1us",
        &["no operating point meets time=0.001ms", "nearest"],
    );
    fs::write(&learned.policy, "{}").unwrap();
    refused(CASCADE, "loss=1", &["does not parse", "schema"]);

    // A trace that lacks the cascade's nodes, and one that is none.
    let policy = text(&learned.policy);
    let learn = |cascade: &str, trace: &str| {
        let output = lab(&[
            "learn",
            "--cascade",
            cascade,
            "--trace",
            trace,
            "--out",
            policy,
        ]);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let other = learn("models/cascades/lite0-lite2.toml", text(&learned.trace));
    assert!(
        other.contains("lacks the node \"efficientnet-lite0\""),
        "{other}"
    );
    let none = learn(CASCADE, CASCADE);
    assert!(none.contains("is no Parquet file"), "{none}");
}

#[test]
fn a_trace_goes_on_after_the_last_part_and_refuses_those_of_another() {
    let images = images();
    let path = |name: &str| images.path().join(name);
    let (out, labels) = (path("t.parquet"), path("labels.csv"));
    let parts = path("t.parquet.parts");
    let trace = |labels: &Path| {
        lab(&[
            "trace",
            "--cascade",
            "models/cascades/cifar10-tree.toml",
            "--images",
            text(images.path()),
            "--labels",
            text(labels),
            "--out",
            text(&out),
        ])
    };
    // A broken image stops the run; the first part, of 1,000 images, is kept.
    let broken = path("z-broken.jpg");
    fs::write(&broken, "no image").unwrap();
    let all = fs::read_to_string(&labels).unwrap();
    let more = path("more.csv");
    fs::write(&more, format!("{all}z-broken.jpg,3\n")).unwrap();
    let stopped = trace(&more);
    let said = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert!(
        said.contains("z-broken.jpg") && said.contains("take it out"),
        "{said}"
    );
    assert!(parts.join("00000.parquet").is_file());

    let refused = trace(&labels);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("parts of another trace"), "{said}");

    // The images of the first part are not read again.
    let first = path(all.lines().nth(1).unwrap().split(',').next().unwrap());
    fs::rename(first, &broken).unwrap();
    let done = trace(&more);
    assert!(done.status.success(), "{done:?}");
    let traced = Trace::load(&out).unwrap();
    assert_eq!(traced.len(), 1001);
    assert!(traced.rows.files.is_sorted());
    assert!(!parts.exists());
}

#[test]
fn labels_outside_the_networks_classes_are_refused() {
    let images = images();
    let labels = images.path().join("labels.csv");
    let csv = fs::read_to_string(&labels).unwrap();
    let first = csv
        .lines()
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap()
        .to_owned();
    fs::write(&labels, format!("file,label\n{first},10\n")).unwrap();
    let refused = lab(&[
        "trace",
        "--cascade",
        CASCADE,
        "--images",
        text(images.path()),
        "--labels",
        text(&labels),
        "--out",
        text(&images.path().join("t.parquet")),
    ]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        said.contains(&first) && said.contains("which has 10"),
        "{said}"
    );
}

#[test]
fn an_evaluation_is_told_in_tables_csv_and_a_page() {
    let learned = Learned::new();
    let folder = learned.images.path();
    let (csv, page) = (folder.join("csv"), folder.join("report.html"));
    let study = [
        "--cascade",
        "models/cascades/cifar10-tree.toml",
        "--trace",
        text(&learned.trace),
        "--prices",
        "3",
        "--folds",
        "2",
        "--no-features",
    ];
    let evaluated = lab(&[&["evaluate", "--csv", text(&csv)], &study[..]].concat());
    assert!(evaluated.status.success(), "{evaluated:?}");
    let said = String::from_utf8(evaluated.stdout).unwrap();
    for words in [
        "1000 images, 2 parts in turn",
        "full tree",
        "Early exits",
        "Calibration",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let curves = fs::read_to_string(csv.join("curves.csv")).unwrap();
    for policy in [
        "alone",
        "learned",
        "threshold on margin",
        "random exits",
        "soft oracle",
    ] {
        assert!(curves.contains(policy), "{policy}");
    }
    // Every image is in exactly one set of networks that are right about it.
    let overlap = fs::read_to_string(csv.join("overlap.csv")).unwrap();
    let counts = overlap
        .lines()
        .skip(1)
        .map(|line| line.rsplit(',').next().unwrap());
    assert_eq!(
        counts
            .map(|count| count.parse::<usize>().unwrap())
            .sum::<usize>(),
        1000
    );

    let reported = lab(&[&["report", "--out", text(&page)], &study[..]].concat());
    assert!(reported.status.success(), "{reported:?}");
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.matches("<svg").count() >= 8, "a plot is missing");
    assert!(!html.contains("cannot be drawn"));

    // Policies judged on what they were learned from say nothing.
    let test = ["--test", text(&learned.trace)];
    let refused = lab(&[&["evaluate"], &study[..], &test[..]].concat());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("of the same images"), "{said}");
}
