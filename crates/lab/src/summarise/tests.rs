use super::*;

const LABELS: &str = "\
id,file,label
1,a.jpg,7
2,b.jpg,8
3,c.jpg,9
4,d.jpg,10
";

const ANSWERS: &str = r#"
{"image":"photos/a.jpg","class_id":7,"label":"x","confidence":0.9,"top5":[],"site":"device","network":"n","reason":"confident","device_ms":10.0,"link_ms":null,"cloud_ms":null,"total_ms":10.0,"bytes_sent":0,"transport":null}
{"image":"C:\\photos\\b.jpg","class_id":8,"site":"cloud","reason":"offloaded","total_ms":40.0,"bytes_sent":1000}
{"image":"c.jpg","class_id":1,"site":"device","reason":"fallback:deadline","total_ms":100.0,"bytes_sent":600}

{"image":"d.jpg","error":"the image is corrupt or truncated"}
{"image":"e.jpg","class_id":3,"site":"device","reason":"confident","total_ms":null,"bytes_sent":0}
"#;

fn labels(csv: &str) -> Result<Labels, ReadError> {
    Labels::read(csv.as_bytes(), Path::new("labels.csv"))
}

fn tally(answers: &str) -> Tally {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.jsonl");
    fs::write(&path, answers).unwrap();
    Tally::new(&answers::load(&path).unwrap(), &labels(LABELS).unwrap())
}

#[test]
fn figures_are_those_counted_by_hand() {
    let outpost = tally(ANSWERS);
    let cloud = tally(r#"{"image":"a.jpg","class_id":7,"site":"cloud","reason":"offloaded"}"#);
    // a and b are right; c is wrong, d unreadable and so wrong, e has no label.
    assert_eq!(
        Summary::new(&outpost, None, Some(&cloud)),
        Summary {
            images: 5,
            answered_by_device: 3,
            answered_by_cloud: 1,
            fallbacks: 1,
            top1: Some(0.5),
            device_only_top1: None,
            cloud_only_top1: Some(1.0),
            mean_total_ms: Some(50.0),
            p95_total_ms: Some(100.0),
            bytes_sent: 1600,
            policy: None,
        }
    );
    assert_eq!(outpost.bytes_per_image(), Some(320.0));
    assert_eq!(outpost.offload_rate(), Some(0.2));
}

#[test]
fn p95_is_the_nineteenth_of_twenty() {
    let lines: String = (1..=20)
        .map(|ms| {
            format!(
                "{{\"image\":\"a.jpg\",\"class_id\":7,\"site\":\"device\",\"reason\":\"confident\",\"total_ms\":{ms}}}\n"
            )
        })
        .collect();
    let tally = tally(&lines);
    assert_eq!(tally.p95_total_ms(), Some(19.0));
    assert_eq!(tally.mean_total_ms(), Some(10.5));
}

#[test]
fn nothing_known_is_null_rather_than_zero() {
    let unlabelled = tally(
        r#"{"image":"z.jpg","class_id":7,"site":"device","reason":"confident","bytes_sent":0}
           {"image":"y.jpg","error":"empty"}"#,
    );
    assert_eq!(unlabelled.top1(), None);
    assert_eq!(unlabelled.p95_total_ms(), None);
    let nothing = tally("");
    let json = serde_json::to_value(Summary::new(&nothing, None, None)).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "images": 0,
            "answered_by_device": 0,
            "answered_by_cloud": 0,
            "fallbacks": 0,
            "top1": null,
            "device_only_top1": null,
            "cloud_only_top1": null,
            "mean_total_ms": null,
            "p95_total_ms": null,
            "bytes_sent": 0,
        })
    );
}

#[test]
fn a_broken_answer_names_its_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.jsonl");
    let good = r#"{"image":"a.jpg","error":"empty"}"#;
    for (broken, cause) in [
        (r#"{"image":"#, "EOF"),
        (r#"{"image":"a.jpg","class_id":7}"#, "neither"),
        (
            r#"{"image":"a.jpg","class_id":7,"site":"fog","reason":"confident"}"#,
            "fog",
        ),
        (
            r#"{"image":"a.jpg","class_id":7,"site":"cloud","reason":"offloaded","total_ms":-1}"#,
            "below 0",
        ),
    ] {
        fs::write(&path, format!("{good}\n\n{broken}\n")).unwrap();
        let error = anyhow::Error::from(answers::load(&path).unwrap_err());
        let text = format!("{error:#}");
        assert!(text.contains("answers.jsonl, line 3"), "{text}");
        assert!(text.contains(cause), "{text}");
    }
}

#[test]
fn broken_labels_name_their_file_and_line() {
    for (csv, wanted) in [
        ("name,label\na,1\n", "line 1: there is no column \"file\""),
        ("file,label\na,1\nb,cat\n", "line 3: the label \"cat\""),
        (
            "file,label\na,1\nx/a,2\n",
            "line 3: \"a\" has two labels, 1 and 2",
        ),
        ("file,label\na,1\nb\n", "line 3: not a line of CSV"),
    ] {
        let text = labels(csv).unwrap_err().to_string();
        assert!(text.contains("labels.csv, "), "{text}");
        assert!(text.contains(wanted), "{text}");
    }
}

#[test]
fn the_table_has_a_row_for_each_file_given_and_the_json_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("answers.jsonl"), ANSWERS).unwrap();
    fs::write(path("labels.csv"), LABELS).unwrap();
    let args = SummariseArgs {
        answers: path("answers.jsonl"),
        labels: path("labels.csv"),
        device_only: Some(path("answers.jsonl")),
        cloud_only: None,
        cascade: "small".to_owned(),
        policy: None,
        operating_point: None,
        out: path("summary.json"),
        page: Some(path("index.html")),
    };
    let mut out = Vec::new();
    run(&args, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(
        text.contains("device only") && text.contains("Outpost"),
        "{text}"
    );
    assert!(!text.contains("cloud only"), "{text}");
    assert!(text.contains("The device answered 3 of 5 images (1 as fallback); 50.0 % are right"));
    assert!(text.contains("Outpost: 1 unreadable, counted as wrong; 1 without a label"));
    // An entry a cascade; that of another one stays.
    let other = SummariseArgs {
        cascade: "other".to_owned(),
        device_only: None,
        ..args
    };
    run(&other, &mut Vec::new()).unwrap();
    let json: serde_json::Value =
        serde_json::from_slice(&fs::read(path("summary.json")).unwrap()).unwrap();
    assert_eq!(json["small"]["device_only_top1"], 0.5);
    assert_eq!(json["other"]["device_only_top1"], serde_json::Value::Null);
    let page = fs::read_to_string(path("index.html")).unwrap();
    assert!(page.contains("small") && page.contains("other"), "{page}");

    fs::write(path("summary.json"), "[]").unwrap();
    let refused = run(&other, &mut Vec::new()).unwrap_err().to_string();
    assert!(refused.contains("holds no summaries"), "{refused}");
}
