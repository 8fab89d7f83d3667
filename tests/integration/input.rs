//! Bad images, models and configurations: a clear error, never a panic, never a lost image.

use std::{fs, path::Path, process::Command};

use outpost_tests::{Answers, EdgeAgent, edge_config, program, repository, some_photos};
use tempfile::TempDir;

fn classify(images: &[&Path]) -> Answers {
    EdgeAgent::classify()
        .args(["--mode", "device-only"])
        .args(images)
        .run()
}

fn write(folder: &TempDir, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// A PNG file that claims `width` × `height` pixels and brings none.
fn png_without_pixels(width: u32, height: u32) -> Vec<u8> {
    let header = [
        &width.to_be_bytes()[..],
        &height.to_be_bytes(),
        &[8, 2, 0, 0, 0],
    ]
    .concat();
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (name, data) in [(b"IHDR", header), (b"IDAT", Vec::new())] {
        let chunk = [name.as_slice(), &data].concat();
        png.extend((data.len() as u32).to_be_bytes());
        png.extend(&chunk);
        png.extend(crc32(&chunk).to_be_bytes());
    }
    png
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
        })
    })
}

#[test]
fn bad_images_get_their_reason_and_the_others_their_answer() {
    let folder = tempfile::tempdir().unwrap();
    let good = &some_photos(1)[0];
    let photo = fs::read(good).unwrap();
    let cases = [
        (write(&folder, "empty.jpg", b""), "empty"),
        (
            write(&folder, "text.jpg", b"not an image at all"),
            "neither JPEG",
        ),
        (
            write(&folder, "truncated.png", &png_without_pixels(8, 8)),
            "corrupt or truncated",
        ),
        (
            write(&folder, "huge.png", &png_without_pixels(60_000, 60_000)),
            "over the limit",
        ),
        (
            write(&folder, "header.jpg", &photo[..300]),
            "corrupt or truncated",
        ),
        (folder.path().join("missing.jpg"), "cannot read"),
        (
            folder.path().to_owned().join("empty.jpg/below"),
            "cannot read",
        ),
    ];
    let mut images: Vec<&Path> = cases.iter().map(|(path, _)| path.as_path()).collect();
    images.push(good);
    let answers = classify(&images);
    assert_eq!(answers.code, 2, "{}", answers.log);
    assert_eq!(answers.records.len(), images.len());
    for (record, (path, reason)) in answers.records.iter().zip(&cases) {
        assert_eq!(record["image"], path.to_str().unwrap());
        let error = record["error"]
            .as_str()
            .unwrap_or_else(|| panic!("{record}"));
        assert!(error.contains(reason), "{}: {error}", path.display());
    }
    assert_eq!(answers.records[cases.len()]["reason"], "confident");
}

#[test]
fn images_over_the_byte_limit_are_refused_before_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let config = write(
        &folder,
        "edge-agent.toml",
        edge_config("mode = \"device-only\"\n[images]\nmax_bytes = 1000").as_bytes(),
    );
    let answers = EdgeAgent::classify()
        .args(["--config".as_ref(), config.as_os_str()])
        .args(some_photos(1))
        .run();
    let error = answers.records[0]["error"].as_str().unwrap();
    assert!(error.contains("over the limit of 1000"), "{error}");
}

#[test]
fn a_list_on_standard_input_is_answered_line_by_line() {
    use std::{io::Write, process::Stdio};
    let mut child = EdgeAgent::classify()
        .args(["--mode", "device-only", "-"])
        .into_command()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let photos = some_photos(3);
    let mut stdin = child.stdin.take().unwrap();
    for photo in &photos {
        writeln!(stdin, "{}", photo.display()).unwrap();
    }
    drop(stdin);
    let answers = outpost_tests::answers(child.wait_with_output().unwrap());
    let images: Vec<_> = answers.records.iter().map(|r| r["image"].clone()).collect();
    let expected: Vec<_> = photos
        .iter()
        .map(|p| p.to_str().unwrap().to_owned())
        .collect();
    assert_eq!(images, expected);
}

fn refusal(program_name: &str, arguments: &[&str]) -> String {
    let output = Command::new(program(program_name))
        .current_dir(repository())
        .args(arguments)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!error.contains("panicked"), "{error}");
    error
}

#[test]
fn a_wrong_digest_stops_the_agent_before_the_first_image() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path();
    for network in ["squeezenet1.0", "efficientnet-lite2"] {
        fs::create_dir_all(models.join(network)).unwrap();
        let source = repository().join("models").join(network);
        fs::copy(
            source.join("model.toml"),
            models.join(network).join("model.toml"),
        )
        .unwrap();
    }
    fs::copy(
        repository().join("models/imagenet-labels.txt"),
        models.join("imagenet-labels.txt"),
    )
    .unwrap();
    fs::write(
        models.join("squeezenet1.0/squeezenet1.0.onnx"),
        b"other weights",
    )
    .unwrap();
    let photo = some_photos(1)[0].to_str().unwrap().to_owned();
    let models = models.to_str().unwrap();
    let error = refusal("edge-agent", &["classify", "--models", models, &photo]);
    assert!(
        error.contains("SHA-256") && error.contains("squeezenet1.0.onnx"),
        "{error}"
    );

    fs::remove_file(folder.path().join("squeezenet1.0/squeezenet1.0.onnx")).unwrap();
    let error = refusal("edge-agent", &["classify", "--models", models, &photo]);
    assert!(error.contains("missing"), "{error}");
}

#[test]
fn an_unknown_field_is_named_by_both_programs() {
    let folder = tempfile::tempdir().unwrap();
    let config = write(&folder, "config.toml", b"colour = \"blue\"\n");
    let config = config.to_str().unwrap();
    let edge = refusal("edge-agent", &["classify", "--config", config, "a.jpg"]);
    assert!(
        edge.contains("colour") && edge.contains("config.toml"),
        "{edge}"
    );
    let cloud = refusal("cloud-service", &["serve", "--config", config]);
    assert!(
        cloud.contains("colour") && cloud.contains("config.toml"),
        "{cloud}"
    );
}

#[test]
fn a_deadline_beyond_reason_is_refused() {
    let arguments = ["classify", "--deadline", "999999999999999999", "a.jpg"];
    let error = refusal("edge-agent", &arguments);
    assert!(error.contains("deadline_ms"), "{error}");
}

#[test]
fn a_service_without_certificate_says_how_to_make_one() {
    let error = refusal("cloud-service", &["serve", "--models", "models"]);
    assert!(error.contains("development-certificates"), "{error}");
}

#[test]
fn a_network_that_is_not_there_is_answered_with_those_that_are() {
    let folder = tempfile::tempdir().unwrap();
    let config = write(
        &folder,
        "c.toml",
        format!(
            "plaintext = true\nmodels = {:?}\nnetworks = [\"resnet18\"]\n",
            repository().join("models")
        )
        .as_bytes(),
    );
    let error = refusal(
        "cloud-service",
        &["serve", "--config", config.to_str().unwrap()],
    );
    assert!(
        error.contains("resnet18") && error.contains("efficientnet-lite2"),
        "{error}"
    );
}
