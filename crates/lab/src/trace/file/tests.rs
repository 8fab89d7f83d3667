//! Traces on disk: written and read again, refused with the reason, never a panic when damaged.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::trace::NodeTrace;

fn trace(images: usize) -> Trace {
    let node = |name: &str, feature_width| NodeSpec {
        name: name.to_owned(),
        network: name.to_owned(),
        stage: 0,
        digest: "d".to_owned(),
        classes: 12,
        top: 6,
        feature_width,
    };
    let said = |width: usize| NodeTrace {
        classes: (0..images)
            .flat_map(|image| (0..6).map(move |k| ((image + k) % 12) as u32))
            .collect(),
        probabilities: [0.5, 0.2, 0.1, 0.05, 0.05, 0.02].repeat(images),
        entropy: vec![1.5; images],
        label_probability: vec![0.2; images],
        seconds: (0..images)
            .map(|image| 1e-3 + image as f32 * 1e-6)
            .collect(),
        features: (0..images * width).map(|i| i as f32 / 3.0).collect(),
    };
    Trace {
        spec: TraceSpec {
            schema: SCHEMA,
            cascade: "small".to_owned(),
            images: "i".to_owned(),
            processor: String::new(),
            nodes: vec![node("a", 4), node("r", 0)],
        },
        rows: Rows {
            files: (0..images).map(|image| format!("{image}.jpg")).collect(),
            labels: (0..images).map(|image| (image % 12) as u32).collect(),
            payload_bytes: vec![900; images],
            decode_seconds: vec![1e-5; images],
            nodes: vec![said(4), said(0)],
        },
    }
}

fn written(trace: &Trace) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    write(&path, &trace.spec, [Ok(trace.rows.clone())]).unwrap();
    (folder, path)
}

#[test]
fn a_trace_is_read_as_it_was_written() {
    // More than one row group.
    let trace = trace(2 * ROWS_PER_PART + 7);
    let (_folder, path) = written(&trace);
    assert_eq!(Trace::load(&path).unwrap(), trace);
}

#[test]
fn what_is_no_trace_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let refused = |path: &Path| Trace::load(path).unwrap_err().to_string();
    assert!(refused(&path).contains("cannot read"), "{}", refused(&path));
    fs::write(&path, "no Parquet").unwrap();
    assert!(
        refused(&path).contains("no Parquet file"),
        "{}",
        refused(&path)
    );

    let schema = Arc::new(Schema::new(vec![Field::new("file", DataType::Utf8, false)]));
    let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), schema, None).unwrap();
    writer.flush().unwrap();
    writer.close().unwrap();
    assert!(
        refused(&path).contains("its metadata lacks"),
        "{}",
        refused(&path)
    );

    let mut other = trace(3);
    other.spec.schema = 9;
    let (_folder, path) = written(&other);
    assert!(
        refused(&path).contains("its schema is 9"),
        "{}",
        refused(&path)
    );
}

#[test]
fn numbers_that_cannot_be_are_refused_with_their_column() {
    type Damage = fn(&mut Rows);
    let damages: [(Damage, &str); 4] = [
        (|rows| rows.nodes[0].features[2] = f32::NAN, "a.features"),
        (|rows| rows.nodes[1].seconds[0] = -1.0, "r.seconds"),
        (
            |rows| rows.nodes[1].label_probability[0] = 1.5,
            "r.label_probability",
        ),
        (
            |rows| rows.nodes[0].probabilities[1] = 0.9,
            "a.probabilities",
        ),
    ];
    for (damage, column) in damages {
        let mut trace = trace(3);
        damage(&mut trace.rows);
        let (_folder, path) = written(&trace);
        let refused = Trace::load(&path).unwrap_err().to_string();
        assert!(refused.contains(column), "{column}: {refused}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_traces_never_panic(
        places in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let (_folder, path) = written(&trace(5));
        let mut bytes = fs::read(&path).unwrap();
        for (place, byte) in places {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        fs::write(&path, bytes).unwrap();
        let _ = Trace::load(&path);
    }
}
