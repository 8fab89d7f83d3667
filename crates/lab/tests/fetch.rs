//! `lab fetch` against a server that keeps, breaks and ignores its promises.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod server;

use std::{fs, net::TcpListener, path::PathBuf, time::Duration};

use outpost_lab::fetch::{FetchError, Fetcher, Outcome, Progress, Retry, WrongFile};
use outpost_runtime::{ModelFolder, sha256_hex};
use tempfile::TempDir;

use server::{Reply, Server};

/// A model folder with one network, `net`, whose file is `net.onnx`.
struct Models {
    folder: TempDir,
    weights: Vec<u8>,
}

impl Models {
    /// 300 kB that do not repeat, so that a piece in the wrong place shows.
    fn new() -> Self {
        let weights = (0..75_000_u32).flat_map(u32::to_le_bytes).collect();
        let models = Self {
            folder: tempfile::tempdir().unwrap(),
            weights,
        };
        models.write_manifest(Some("http://unused.invalid/net.onnx"));
        models
    }

    fn write_manifest(&self, download: Option<&str>) {
        let download = download.map_or(String::new(), |url| format!("download = {url:?}"));
        let text = format!(
            r#"
            name = "net"
            description = "A network"
            file = "net.onnx"
            sha256 = "{}"
            bytes = {}
            licence = "MIT"
            sources = []
            {download}
            multiply_adds = 1
            [input]
            tensor = "x"
            size = 2
            channel_order = "rgb"
            mean = [0.0, 0.0, 0.0]
            deviation = [1.0, 1.0, 1.0]
            resize = {{ method = "stretch", to = 2, filter = "bilinear" }}
            [output]
            tensor = "y"
            kind = "logits"
            classes = 2
            "#,
            sha256_hex(&self.weights),
            self.weights.len()
        );
        fs::create_dir_all(self.folder.path().join("net")).unwrap();
        fs::write(self.folder.path().join("net/model.toml"), text).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("net/net.onnx")
    }

    fn part(&self) -> PathBuf {
        self.folder.path().join("net/net.onnx.part")
    }

    fn fetcher(&self, base: &str) -> Fetcher {
        Fetcher::new(ModelFolder::new(self.folder.path()))
            .from_mirror(base)
            .with_retry(Retry {
                attempts: 3,
                first_pause: Duration::from_millis(1),
            })
    }

    fn fetch(&self, base: &str) -> Result<Outcome, FetchError> {
        self.fetcher(base).fetch("net", &mut Progress::Silent)
    }

    fn assert_in_place(&self) {
        assert_eq!(fs::read(self.path()).unwrap(), self.weights);
        assert!(!self.part().exists());
    }
}

#[test]
fn a_whole_download_is_put_in_place() {
    let models = Models::new();
    let server = Server::start(vec![Reply::ok(&models.weights)]);
    let outcome = models.fetch(&server.base()).unwrap();
    assert_eq!(
        outcome,
        Outcome::Fetched {
            path: models.path(),
            bytes: 300_000,
            resumed_from: 0,
        }
    );
    models.assert_in_place();
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert!(
        requests[0].starts_with("get /net.onnx http/1.1"),
        "{requests:?}"
    );
    assert!(!requests[0].contains("range:"), "{requests:?}");
    assert!(!requests[0].contains("accept-encoding"), "{requests:?}");
}

#[test]
fn a_cut_download_goes_on_where_it_was_cut() {
    let models = Models::new();
    let half = 150_000;
    let server = Server::start(vec![
        Reply::ok(&models.weights).cut_after(half),
        Reply::partial(&models.weights, half),
    ]);
    models.fetch(&server.base()).unwrap();
    models.assert_in_place();
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert!(
        requests[1].contains("range: bytes=150000-\r\n"),
        "{requests:?}"
    );
}

#[test]
fn an_earlier_runs_part_is_gone_on_from() {
    let models = Models::new();
    fs::write(models.part(), &models.weights[..1000]).unwrap();
    let server = Server::start(vec![Reply::partial(&models.weights, 1000)]);
    let outcome = models.fetch(&server.base()).unwrap();
    assert!(matches!(
        outcome,
        Outcome::Fetched {
            resumed_from: 1000,
            ..
        }
    ));
    models.assert_in_place();
    assert!(server.requests()[0].contains("range: bytes=1000-\r\n"));
}

#[test]
fn a_complete_part_needs_no_request() {
    let models = Models::new();
    fs::write(models.part(), &models.weights).unwrap();
    let server = Server::start(vec![]);
    models.fetch(&server.base()).unwrap();
    models.assert_in_place();
    assert!(server.requests().is_empty());
}

#[test]
fn a_server_that_ignores_the_range_is_read_from_the_start() {
    let models = Models::new();
    fs::write(models.part(), b"left by another file").unwrap();
    let server = Server::start(vec![Reply::ok(&models.weights)]);
    models.fetch(&server.base()).unwrap();
    models.assert_in_place();
    assert!(server.requests()[0].contains("range: bytes=20-\r\n"));
}

#[test]
fn a_range_that_is_refused_or_answered_wrongly_starts_again() {
    for reply in [
        Reply::status(416),
        Reply::partial(&Models::new().weights, 7),
    ] {
        let models = Models::new();
        fs::write(models.part(), &models.weights[..1000]).unwrap();
        let server = Server::start(vec![reply, Reply::ok(&models.weights)]);
        models.fetch(&server.base()).unwrap();
        models.assert_in_place();
        assert!(!server.requests()[1].contains("range:"));
    }
}

#[test]
fn a_part_longer_than_the_file_is_another_files() {
    let models = Models::new();
    fs::write(models.part(), vec![1; 300_001]).unwrap();
    let server = Server::start(vec![Reply::ok(&models.weights)]);
    models.fetch(&server.base()).unwrap();
    models.assert_in_place();
    assert!(!server.requests()[0].contains("range:"));
}

#[test]
fn a_wrong_digest_deletes_the_part_and_says_both_digests() {
    let models = Models::new();
    let other = vec![9; models.weights.len()];
    let server = Server::start(vec![Reply::ok(&other)]);
    let error = models.fetch(&server.base()).unwrap_err().to_string();
    assert!(error.contains(&sha256_hex(&other)), "{error}");
    assert!(error.contains(&sha256_hex(&models.weights)), "{error}");
    assert!(!models.part().exists() && !models.path().exists());
}

#[test]
fn more_bytes_than_the_manifest_states_are_refused() {
    let mut models = Models::new();
    let long = [&*models.weights, b"x"].concat();
    let server = Server::start(vec![Reply::ok(&long), Reply::ok(&long).without_length()]);
    let error = models.fetch(&server.base()).unwrap_err();
    assert!(
        matches!(
            error,
            FetchError::OtherSize {
                offered: 300_001,
                ..
            }
        ),
        "{error}"
    );
    let error = models.fetch(&server.base()).unwrap_err();
    assert!(matches!(error, FetchError::TooLong { .. }), "{error}");
    assert!(!models.part().exists() && !models.path().exists());

    models.weights.truncate(10);
    let server = Server::start(vec![Reply::ok(&models.weights)]);
    let error = models.fetch(&server.base()).unwrap_err();
    assert!(
        matches!(error, FetchError::OtherSize { offered: 10, .. }),
        "{error}"
    );
}

#[test]
fn a_missing_file_is_not_asked_for_again() {
    let models = Models::new();
    let server = Server::start(vec![Reply::status(404), Reply::status(404)]);
    let error = models.fetch(&server.base()).unwrap_err();
    assert!(
        matches!(error, FetchError::Status { status: 404, .. }),
        "{error}"
    );
    assert_eq!(server.requests().len(), 1);
    assert!(!models.part().exists());
}

#[test]
fn a_busy_server_is_asked_again_and_not_for_ever() {
    let models = Models::new();
    let server = Server::start(vec![Reply::status(503), Reply::ok(&models.weights)]);
    models.fetch(&server.base()).unwrap();
    models.assert_in_place();

    let models = Models::new();
    let server = Server::start((0..9).map(|_| Reply::status(503)).collect());
    let error = models.fetch(&server.base()).unwrap_err();
    assert!(
        matches!(error, FetchError::Status { status: 503, .. }),
        "{error}"
    );
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn a_connection_cut_again_and_again_ends_and_keeps_what_came() {
    let models = Models::new();
    let cut = Reply::ok(&models.weights).cut_after(1000);
    let server = Server::start(vec![
        cut,
        Reply::partial(&models.weights, 1000).cut_after(0),
        Reply::partial(&models.weights, 1000).cut_after(0),
    ]);
    let error = models.fetch(&server.base()).unwrap_err();
    assert!(
        matches!(error, FetchError::Cut { received: 1000, .. }),
        "{error}"
    );
    assert_eq!(fs::read(models.part()).unwrap(), &models.weights[..1000]);
}

#[test]
fn without_a_network_one_line_names_address_cause_and_path() {
    let models = Models::new();
    let refused = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = models.fetch(&format!("http://{refused}")).unwrap_err();
    let text = format!("{:#}", anyhow::Error::from(error));
    assert!(
        text.contains(&format!("http://{refused}/net.onnx")),
        "{text}"
    );
    assert!(
        text.contains(&models.path().display().to_string()),
        "{text}"
    );
    assert!(text.contains("refused"), "{text}");
    assert!(!text.contains('\n'), "{text}");
    assert!(!models.part().exists());
}

#[test]
fn a_file_that_is_there_and_right_is_left_alone() {
    let models = Models::new();
    fs::write(models.path(), &models.weights).unwrap();
    let server = Server::start(vec![]);
    let outcome = models.fetch(&server.base()).unwrap();
    assert_eq!(
        outcome,
        Outcome::AlreadyThere {
            path: models.path()
        }
    );
    assert!(server.requests().is_empty());
}

#[test]
fn a_file_that_is_there_and_wrong_is_replaced_only_when_told_to() {
    let models = Models::new();
    fs::write(models.path(), b"mine").unwrap();
    let server = Server::start(vec![Reply::ok(&models.weights)]);
    let error = models.fetch(&server.base()).unwrap_err();
    assert!(error.to_string().contains("--force"), "{error}");
    assert_eq!(fs::read(models.path()).unwrap(), b"mine");
    models
        .fetcher(&server.base())
        .on_wrong_file(WrongFile::Replace)
        .fetch("net", &mut Progress::Silent)
        .unwrap();
    models.assert_in_place();
}

#[test]
fn weights_that_come_with_the_repository_are_not_fetched() {
    let models = Models::new();
    models.write_manifest(None);
    let error = models.fetch("http://unused.invalid").unwrap_err();
    assert!(
        matches!(error, FetchError::NotAsInRepository { .. }),
        "{error}"
    );
    fs::write(models.path(), &models.weights).unwrap();
    let outcome = models.fetch("http://unused.invalid").unwrap();
    assert!(outcome.to_string().contains("come with the repository"));
}

#[test]
fn an_unknown_network_is_told_the_names_there_are() {
    let models = Models::new();
    let fetcher = models.fetcher("http://unused.invalid");
    let error = fetcher.fetch("other", &mut Progress::Silent).unwrap_err();
    assert!(error.to_string().contains("[\"net\"]"), "{error}");
}
