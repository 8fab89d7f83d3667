//! Reports of experiments whose figures are known.

use std::fs;

use super::{super::plan::Policy, events::RESUMES_MS, figures::Times, synthetic::keep, *};

const PLAN: &str = r#"
    profiles = [
        "fibre", "office-wifi", "congested-wifi", "4g-good", "4g-weak", "3g", "satellite", "nb-iot", "lossy-1", "lossy-5",
        "cellular-trace", "steps", "outage", "new-address",
    ]
    images = 120
    seconds = 20
    repeats = 2
    seed = 1
    [[cascades]]
    name = "small"
    file = "cascade.toml"
    bundle = "bundle.json"
    images = "images"
    labels = "labels.csv"
    deadline_ms = 1000
    policies = [
        "device-only", "cloud-only", "threshold:0.8", "threshold:0.95", "learned:loss=1", "fixed:loss=1", "fixed:loss=5",
    ]
"#;

/// The plan with only these profiles and repeats.
fn plan(profiles: &str, repeats: u32) -> String {
    let (before, rest) = PLAN.split_once('[').unwrap();
    let (_, after) = rest.split_once(']').unwrap();
    let plan = format!("{before}[{profiles}]{after}");
    plan.replace("repeats = 2", &format!("repeats = {repeats}"))
}

fn store(plan: &str) -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    keep(&store, plan);
    (folder, store)
}

fn found(plan: &str) -> Findings {
    let (_folder, store) = store(plan);
    Findings::new(Experiment::load(&store).unwrap())
}

/// Changes what was kept of runs whose identifier has `of` in it.
fn tamper(
    store: &Store,
    of: &str,
    change: impl Fn(&mut super::super::rows::Record, &mut Vec<super::super::rows::Row>),
) {
    for mut record in store.records().unwrap() {
        if record.run.id.contains(of) {
            let mut rows = store.rows(&record.run.id).unwrap();
            change(&mut record, &mut rows);
            store.keep(&record, &rows).unwrap();
        }
    }
}

#[test]
fn the_page_has_its_sections_and_the_figures_of_the_rows() {
    let (folder, store) = store(PLAN);
    let page = folder.path().join("report.html");
    let words = report(&store, &page, None).unwrap();
    if let Ok(copy) = std::env::var("OUTPOST_KEEP_REPORT") {
        fs::copy(&page, copy).unwrap();
    }
    let html = fs::read_to_string(&page).unwrap();
    for anchor in [
        "found",
        "speed",
        "latency",
        "frontier",
        "offloading",
        "transports",
        "outage",
        "address",
        "following",
        "bytes",
        "counts",
        "device",
        "how",
    ] {
        assert!(html.contains(&format!("id=\"{anchor}\"")), "{anchor}");
    }
    // It needs nothing else.
    for outside in ["src=\"", "<link", "@import", "url("] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(
        html.contains(
            "lab link --from rows.parquet --out again --only outage.small.cloud-only.h3.0."
        )
    );
    assert!(!html.contains("NaN") && !html.contains("cannot be drawn"));
    let found = Findings::new(Experiment::load(&store).unwrap());
    let speed = found
        .speeds
        .iter()
        .find(|speed| speed.setting.profile == "3g")
        .unwrap();
    let faster = format!("{:.2}", speed.rival.as_ref().unwrap().faster.value);
    assert!(html.contains(&format!("<b>{faster}</b>")), "{faster}");
    assert!(words.contains(&faster), "{words}");
}

#[test]
fn a_policy_is_compared_with_the_better_rival_on_the_same_images() {
    let found = found(&plan("\"fibre\", \"3g\"", 1));
    let experiment = &found.experiment;
    assert_eq!(experiment.order, ["fibre", "3g"]);
    let speed = found
        .speeds
        .iter()
        .find(|speed| speed.setting.profile == "3g" && speed.setting.transport == "h3");
    let speed = speed.unwrap();
    let rival = speed.rival.as_ref().unwrap();
    // The device alone is too often wrong.
    assert_eq!(rival.policy, Policy::CloudOnly);
    assert_eq!(speed.needed, 1.5);
    // The ratio of the means, by hand.
    let mean = |policy: &Policy, images: usize| {
        let runs = experiment.of(&speed.setting, policy);
        let rows = runs[0].rows.iter().take(images);
        rows.map(|row| row.latency_ms).sum::<f64>() / images as f64
    };
    let images = rival.faster.images;
    let by_hand = mean(&Policy::CloudOnly, images) / mean(&speed.policy, images);
    assert!((rival.faster.value - by_hand).abs() < 1e-9, "{by_hand}");
    assert!(rival.faster.low <= by_hand && by_hand <= rival.faster.high);
    assert!(speed.points.value >= -1.0);
    // Three tenths are sent at 150 ms beside 20 of the device.
    assert!(
        by_hand > 1.5 && speed.verdict == Verdict::Holds,
        "{speed:?}"
    );
    // On fibre the cloud answers before the device's network has.
    let fibre = found
        .speeds
        .iter()
        .find(|speed| speed.setting.profile == "fibre")
        .unwrap();
    assert_eq!((fibre.needed, fibre.verdict), (1.0, Verdict::Fails));
    let why = &found.targets[0].why;
    assert!(
        why.iter()
            .any(|line| line.contains("fibre") && line.contains("20 on the device")),
        "{why:?}"
    );
    assert_eq!(found.targets[0].verdict, Verdict::Fails);
}

#[test]
fn a_policy_that_is_not_as_accurate_does_not_qualify() {
    let (_folder, store) = store(&plan("\"4g-good\"", 1));
    tamper(&store, "learned", |_, rows| {
        for row in rows.iter_mut().filter(|row| row.number % 2 == 0) {
            row.class = Some(9);
        }
    });
    let found = Findings::new(Experiment::load(&store).unwrap());
    let speed = &found.speeds[0];
    assert_eq!(
        (speed.is_as_accurate, speed.verdict),
        (false, Verdict::Fails)
    );
    assert!(
        found.targets[0].why[0].contains("no learned policy is within 1 point"),
        "{:?}",
        found.targets[0]
    );
}

#[test]
fn a_handful_of_images_tells_of_no_ratio() {
    let (_folder, store) = store(&plan("\"satellite\"", 1));
    tamper(&store, "", |_, rows| rows.truncate(7));
    let found = Findings::new(Experiment::load(&store).unwrap());
    let speed = &found.speeds[0];
    assert_eq!((&speed.rival, speed.verdict), (&None, Verdict::Open));
    let why = &found.targets[0].why[0];
    assert!(why.contains("too few images in common"), "{why}");
    assert!(!why.contains("no learned policy is within"), "{why}");
}

#[test]
fn an_outage_is_judged_by_deadline_and_by_when_the_cloud_is_back() {
    let (_folder, store) = store(&plan("\"outage\"", 1));
    let of = |found: &Findings| {
        let outages = found.outages();
        let outage = outages
            .iter()
            .find(|outage| outage.run.record.run.id.contains("cloud-only.h3"));
        let outage = outage.unwrap();
        (
            outage.images,
            outage.late,
            outage.resumed.unwrap(),
            outage.in_vain,
        )
    };
    let found = Findings::new(Experiment::load(&store).unwrap());
    let (images, late, resumed, in_vain) = of(&found);
    // Five a second for twenty seconds, and the one that comes as the path is up again.
    assert_eq!((images, late, in_vain), (101, 0, 0));
    assert!(resumed > 50.0 && resumed < 150.0, "{resumed}");
    assert_eq!(
        (found.targets[1].verdict, found.targets[2].verdict),
        (Verdict::Holds, Verdict::Holds)
    );

    tamper(&store, "cloud-only.h3", |_, rows| {
        for row in rows.iter_mut() {
            if (20_000.0..20_500.0).contains(&row.started_ms) {
                row.latency_ms = 1200.0;
            }
            if (30_000.0..32_500.0).contains(&row.started_ms) {
                row.site = "device".to_owned();
                row.reason = "fallback:circuit-open".to_owned();
            }
        }
    });
    let found = Findings::new(Experiment::load(&store).unwrap());
    let (_, late, resumed, in_vain) = of(&found);
    assert_eq!((late, in_vain), (3, 13));
    assert!(resumed > RESUMES_MS, "{resumed}");
    assert_eq!(
        (found.targets[1].verdict, found.targets[2].verdict),
        (Verdict::Fails, Verdict::Fails)
    );
    assert!(
        found.targets[1].why[0].contains("3 of 101 late"),
        "{:?}",
        found.targets[1].why
    );
}

#[test]
fn a_new_address_is_judged_by_http_3_with_http_2_beside_it() {
    let (_folder, store) = store(&plan("\"new-address\"", 1));
    let found = Findings::new(Experiment::load(&store).unwrap());
    let moves = found.moves();
    let of = |transport: &str| {
        let id = format!("cloud-only.{transport}");
        *moves
            .iter()
            .find(|moved| moved.run.record.run.id.contains(&id))
            .unwrap()
    };
    let (h2, h3) = (of("h2"), of("h3"));
    assert_eq!((h3.lost, h3.verdict()), (0, Verdict::Holds));
    // Each call took 60 ms longer than its bytes say.
    assert!((h3.stalled - 60.0).abs() < 5.0, "{}", h3.stalled);
    assert!(
        (h3.bound - 200.6).abs() < 1e-9 && h3.usual < 10.0,
        "{} {}",
        h3.bound,
        h3.usual
    );
    assert!(
        h2.lost >= 5 && h2.stalled > 800.0,
        "{} {}",
        h2.lost,
        h2.stalled
    );
    let target = &found.targets[3];
    assert_eq!(target.verdict, Verdict::Holds);
    assert!(
        target.found.starts_with("h3: 0 of ") && target.found.contains("h2: "),
        "{}",
        target.found
    );

    tamper(&store, "cloud-only.h3", |_, rows| {
        for row in rows
            .iter_mut()
            .filter(|row| (5000.0..5300.0).contains(&row.started_ms))
        {
            row.latency_ms += 400.0;
        }
    });
    let found = Findings::new(Experiment::load(&store).unwrap());
    assert_eq!(found.targets[3].verdict, Verdict::Fails);
    assert!(
        found.targets[3].why[0].contains("0 lost, stalled"),
        "{:?}",
        found.targets[3].why
    );
}

#[test]
fn bytes_are_counted_rightly_to_three_percent() {
    let (_folder, store) = store(&plan("\"fibre\"", 1));
    let found = Findings::new(Experiment::load(&store).unwrap());
    assert_eq!(found.targets[4].verdict, Verdict::Holds);
    assert!(
        found
            .counts()
            .iter()
            .all(|counted| (counted.off - 0.01).abs() < 1e-3)
    );
    let cloud = found
        .bytes
        .iter()
        .find(|bytes| bytes.policy == Policy::CloudOnly)
        .unwrap();
    assert_eq!(cloud.images, 120);
    assert!(
        (cloud.sent - 1.05 * cloud.request - 4000.0 / 120.0).abs() < 1.0,
        "{cloud:?}"
    );
    tamper(&store, "threshold-0.8.h2", |record, _| {
        record.agent_bytes.as_mut().unwrap().received *= 2;
    });
    let found = Findings::new(Experiment::load(&store).unwrap());
    assert_eq!(found.targets[4].verdict, Verdict::Fails);
    assert!(
        found.targets[4].why[0].contains("threshold-0.8.h2")
            && found.targets[4].why[0].ends_with("+100.0 %")
    );
}

#[test]
fn what_following_the_link_loses_is_told_against_the_best_point_afterwards() {
    let found = found(&plan("\"steps\"", 1));
    let regret = found
        .regrets
        .iter()
        .find(|regret| regret.setting.transport == "h3")
        .unwrap();
    let (_, saved) = regret.kept.as_ref().unwrap();
    // It sends less where that takes long.
    assert!(saved.value > 0.0 && saved.low > 0.0, "{saved:?}");
    let mean = |policy: &str| {
        let runs = found
            .experiment
            .of(&regret.setting, &policy.parse().unwrap());
        Times::of_runs(&runs).unwrap().mean
    };
    let by_hand = mean("fixed:loss=1") - mean("learned:loss=1");
    assert!((saved.value - by_hand).abs() < 1e-9, "{by_hand}");
    let (policy, _, lost) = regret.best.as_ref().unwrap();
    assert!((lost.value - (mean("learned:loss=1") - mean(&policy.to_string()))).abs() < 1e-9);
}

#[test]
fn transports_are_compared_on_the_same_images() {
    let found = found(&plan("\"4g-good\", \"lossy-5\"", 2));
    let matrix = found.matrices[0].as_ref().unwrap();
    assert_eq!(matrix.policies.len(), 4);
    let cell = |profile: &str| {
        let mut lines = matrix.lines.iter();
        let line = lines.find(|line| line.0.profile == profile).unwrap();
        line.1[0].as_ref().unwrap()
    };
    let (lossy, good) = (cell("lossy-5"), cell("4g-good"));
    assert_eq!(lossy.faster.images, 240);
    assert!(lossy.faster.low > 1.0, "{:?}", lossy.faster);
    assert!((good.faster.value - 1.0).abs() < 0.02, "{:?}", good.faster);
}

#[test]
fn runs_on_a_path_that_was_not_as_it_should_be_are_left_out_and_told() {
    let (folder, store) = store(&plan("\"fibre\", \"3g\"", 1));
    tamper(&store, "3g.small.cloud-only", |record, rows| {
        record.path.holds = false;
        rows.clear();
    });
    let page = folder.path().join("report.html");
    let words = report(&store, &page, None).unwrap();
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("<b>2</b> runs are void"), "{words}");
    assert!(words.contains("2 runs are void"), "{words}");
    let found = Findings::new(Experiment::load(&store).unwrap());
    assert!(
        found
            .speeds
            .iter()
            .all(|speed| speed.setting.profile == "fibre")
    );
}

#[test]
fn what_was_not_run_is_said() {
    let (folder, store) = store(&plan("\"fibre\"", 1).replace("\"learned:loss=1\", ", ""));
    let page = folder.path().join("report.html");
    report(&store, &page, None).unwrap();
    let html = fs::read_to_string(&page).unwrap();
    for words in [
        "No learned policy was run beside cloud-only.",
        "No run saw its path go down.",
        "No run that sends images saw the device&#39;s address change.",
        "No profile that changes was run",
        "All links that were run have one rate and one round trip.",
    ] {
        assert!(
            html.contains(words) || html.contains(&words.replace("&#39;", "'")),
            "{words}"
        );
    }
    let found = Findings::new(Experiment::load(&store).unwrap());
    let verdicts: Vec<Verdict> = found.targets.iter().map(|target| target.verdict).collect();
    let mut wanted = vec![Verdict::NotRun; 4];
    wanted.push(Verdict::Holds);
    assert_eq!(verdicts, wanted);
}

#[test]
fn folders_without_a_whole_experiment_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ask = |folder: &Path| {
        let args = LinkReportArgs {
            folder: folder.to_owned(),
            out: None,
            fleet: None,
        };
        run(&args, &mut Vec::new()).unwrap_err().to_string()
    };
    assert!(ask(folder.path()).contains("has no experiment"));
    // Asking makes nothing.
    assert!(!folder.path().join("runs").exists());

    let (folder, store) = store(&plan("\"fibre\"", 1));
    let records = store.records().unwrap();
    let csv = folder
        .path()
        .join("runs")
        .join(format!("{}.csv", records[0].run.id));
    let whole = fs::read_to_string(&csv).unwrap();
    fs::write(&csv, &whole[..whole.len() / 2]).unwrap();
    assert!(
        ask(folder.path()).contains("is damaged"),
        "{}",
        ask(folder.path())
    );
    fs::write(&csv, whole.replace(&records[0].run.id, "another-run")).unwrap();
    assert!(ask(folder.path()).contains("row of the run \"another-run\""));
    fs::remove_dir_all(folder.path().join("runs")).unwrap();
    assert!(ask(folder.path()).contains("has no run yet"));
}

#[test]
fn the_page_of_a_fleet_becomes_a_part() {
    let (folder, store) = store(&plan("\"fibre\"", 1));
    let fleet = folder.path().join("fleet.html");
    let page = folder.path().join("report.html");
    fs::write(
        &fleet,
        "<body><main><section>A fleet</section></main></body>",
    )
    .unwrap();
    report(&store, &page, Some(&fleet)).unwrap();
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("<div id=\"fleet\"><section>A fleet</section></div>"));
    fs::write(&fleet, "nothing").unwrap();
    let error = report(&store, &page, Some(&fleet)).unwrap_err();
    assert!(error.to_string().contains("no <main>"), "{error}");
}
