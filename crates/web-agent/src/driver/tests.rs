//! The driver between real networks and a cloud that is played.

use std::path::Path;

use outpost_cascade::CircuitState;
use outpost_offload::Failure;
use outpost_proto::{
    ContentsKind, Tensor, TensorData,
    inference::{ModelInferRequest, ModelInferResponse},
    tensor,
};
use outpost_runtime::Digested;
use tokio::{task::LocalSet, time::Instant};
use tonic::{Request, Response, Status};

use super::*;

const DEADLINE_MS: u64 = 1000;
/// A file of which the device is not sure: `models/samples/cifar10`.
const CLASS_OF_THE_CLOUD: u32 = 7;

/// What the cloud does with a call.
#[derive(Clone, Copy)]
enum Play {
    /// It answers after so long.
    Answers(Duration),
    /// It is not there.
    Refuses,
    /// It wants a pause, once.
    IsBusyOnce(Duration),
}

/// Tokio in place of a browser, and a cloud that does as it is told.
#[derive(Clone)]
struct Stage {
    origin: Instant,
    play: Rc<RefCell<Play>>,
    calls: Rc<RefCell<Vec<ModelInferRequest>>>,
}

impl Stage {
    fn new(play: Play) -> Self {
        Self {
            origin: Instant::now(),
            play: Rc::new(RefCell::new(play)),
            calls: Rc::default(),
        }
    }
}

impl Host for Stage {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn sleep(&self, time: Duration) -> LocalFuture<()> {
        Box::pin(tokio::time::sleep(time))
    }

    fn spawn(&self, future: LocalFuture<()>) {
        tokio::task::spawn_local(future);
    }

    fn infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> LocalFuture<Result<Response<ModelInferResponse>, Failure>> {
        let request = request.into_inner();
        let play = *self.play.borrow();
        let model = request.model_name.clone();
        self.calls.borrow_mut().push(request);
        if let Play::IsBusyOnce(_) = play {
            self.play.replace(Play::Answers(Duration::ZERO));
        }
        Box::pin(async move {
            match play {
                Play::Refuses => Err(Failure::of_status(Status::unavailable("gone"))),
                Play::IsBusyOnce(pause) => {
                    let mut status = Status::resource_exhausted("busy");
                    let pause = pause.as_millis().to_string().parse().unwrap();
                    status
                        .metadata_mut()
                        .insert("grpc-retry-pushback-ms", pause);
                    Err(Failure::of_status(status))
                }
                Play::Answers(after) => {
                    tokio::time::sleep(after).await;
                    let mut logits = vec![0.0; 10];
                    logits[CLASS_OF_THE_CLOUD as usize] = 9.0;
                    let logits = TensorData::Fp32(logits);
                    let output = Tensor::new("logits", vec![1, 10], logits).unwrap();
                    let contents = ContentsKind::Raw;
                    let response = tensor::infer_response(&model, "1", "", [output], contents);
                    let mut response = Response::new(response);
                    let spent = "total;dur=2.5".parse().unwrap();
                    response.metadata_mut().insert("server-timing", spent);
                    Ok(response)
                }
            }
        })
    }

    fn ready(&self) -> LocalFuture<Result<(), Failure>> {
        let is_there = matches!(*self.play.borrow(), Play::Answers(_));
        Box::pin(async move {
            match is_there {
                true => Ok(()),
                false => Err(Failure::of_status(Status::unavailable("gone"))),
            }
        })
    }
}

/// The files of the CIFAR-10 cascade with a learned policy, and what names them.
fn described() -> (Description, HashMap<String, Digested>) {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let paths = [
        "cascades/cifar10-alexnet-resnet.toml",
        "policies/cifar10-alexnet-resnet.json",
        "cifar10-alexnet/model.toml",
        "cifar10-alexnet/cifar10-alexnet.onnx",
        "cifar10-resnet/model.toml",
        "cifar10/labels.txt",
    ];
    let read = |path: &str| Digested::new(std::fs::read(models.join(path)).unwrap());
    let files: HashMap<String, Digested> = paths.map(|path| (path.to_owned(), read(path))).into();
    let entries: Vec<_> = files
        .iter()
        .map(|(path, file)| serde_json::json!({ "path": path, "sha256": file.sha256() }))
        .collect();
    let description = serde_json::json!({
        "cascade": { "name": "cifar10-alexnet-resnet", "path": paths[0] },
        "policy": { "path": paths[1] },
        "goal": "loss=1",
        "deadline_ms": DEADLINE_MS,
        "correct_within_ms": 5000,
        "files": entries,
    });
    (Description::parse(&description.to_string()).unwrap(), files)
}

fn agent(stage: &Stage, mode: Mode) -> Rc<Agent<Stage>> {
    let (description, files) = described();
    let agent = Agent::start(&description, files, stage.clone()).unwrap();
    let mode = Some(mode);
    agent.decide_by(&DecideBy { goal: None, mode }).unwrap();
    Rc::new(agent)
}

fn image() -> Bytes {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/samples/cifar10");
    let file = samples.join("test-airplane-0011.jpg");
    std::fs::read(file).unwrap().into()
}

async fn classify(agent: &Rc<Agent<Stage>>) -> Said {
    let said = agent.clone().classify("an image".to_owned(), image());
    said.await.unwrap_or_else(|error| panic!("{error}"))
}

/// Runs on one thread, with a clock that stands still but for timers.
fn played(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn the_cloud_is_asked_with_the_file_and_its_answer_is_told() {
    played(async {
        let stage = Stage::new(Play::Answers(Duration::from_millis(40)));
        let agent = agent(&stage, Mode::CloudOnly);
        let Said {
            answered,
            correction,
        } = classify(&agent).await;
        assert_eq!(answered.class_id.0, CLASS_OF_THE_CLOUD);
        assert_eq!(answered.reason, "offloaded");
        assert_eq!(answered.network, "cifar10-resnet");
        assert_eq!(answered.cloud_ms, Some(2.5));
        assert!(answered.bytes_sent as usize > image().len() / 2);
        assert!(correction.is_none());
        let calls = stage.calls.borrow();
        assert_eq!(calls.len(), 1);
        assert_eq!(calls[0].model_name, "cifar10-resnet");
        let state = serde_json::to_value(agent.state()).unwrap();
        assert_eq!(state["peers"][0]["circuit"], "closed");
        let round_trip = state["peers"][0]["link"]["round_trip_ms"].as_f64().unwrap();
        assert!((round_trip - 37.5).abs() < 1.0, "{round_trip}");
        assert!(state["policy"]["operating_points"][0]["accuracy"].is_f64());
    });
}

#[test]
fn a_reply_after_the_deadline_corrects_the_devices_answer() {
    played(async {
        let stage = Stage::new(Play::Answers(Duration::from_millis(2 * DEADLINE_MS)));
        let agent = agent(&stage, Mode::CloudOnly);
        let Said {
            answered,
            correction,
        } = classify(&agent).await;
        assert_eq!(answered.reason, "fallback:deadline");
        assert_eq!(answered.network, "cifar10-alexnet");
        assert!((answered.total_ms - DEADLINE_MS as f64).abs() < 5.0);
        let corrected = correction.unwrap().await.unwrap();
        assert_eq!(corrected.class_id.0, CLASS_OF_THE_CLOUD);
        assert_eq!(corrected.reason, "offloaded");
    });
}

#[test]
fn a_reply_that_never_comes_corrects_nothing() {
    played(async {
        let stage = Stage::new(Play::Answers(Duration::from_secs(3600)));
        let said = classify(&agent(&stage, Mode::CloudOnly)).await;
        assert!(said.correction.unwrap().await.is_none());
    });
}

#[test]
fn a_cloud_that_is_gone_opens_the_circuit_and_is_asked_again_once_it_is_back() {
    played(async {
        let stage = Stage::new(Play::Refuses);
        let agent = agent(&stage, Mode::CloudOnly);
        let mut reasons = Vec::new();
        for _ in 0..4 {
            reasons.push(classify(&agent).await.answered.reason);
        }
        let gone = "fallback:unavailable";
        assert_eq!(reasons, [gone, gone, gone, "fallback:circuit-open"]);
        assert_eq!(agent.cloud.circuit(), CircuitState::Open);
        stage.play.replace(Play::Answers(Duration::ZERO));
        // The question for a sign of life is due, and answered before the next image.
        tokio::time::sleep(Duration::from_millis(1001)).await;
        classify(&agent).await;
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(classify(&agent).await.answered.reason, "offloaded");
    });
}

#[test]
fn a_busy_cloud_is_asked_once_more_after_the_pause_that_it_wants() {
    played(async {
        let stage = Stage::new(Play::IsBusyOnce(Duration::from_millis(70)));
        let said = classify(&agent(&stage, Mode::CloudOnly)).await;
        assert_eq!(said.answered.reason, "offloaded");
        assert_eq!(stage.calls.borrow().len(), 2);
        assert!(said.answered.total_ms >= 70.0);
    });
}

#[test]
fn the_device_alone_sends_nothing_and_the_policy_decides_as_it_was_learned() {
    played(async {
        let stage = Stage::new(Play::Answers(Duration::ZERO));
        let said = classify(&agent(&stage, Mode::DeviceOnly)).await;
        assert_eq!(said.answered.reason, "confident");
        assert!(stage.calls.borrow().is_empty());
        let agent = agent(&stage, Mode::Policy);
        let goal = Some("loss=0".parse().unwrap());
        agent.decide_by(&DecideBy { goal, mode: None }).unwrap();
        let answered = classify(&agent).await.answered;
        let is_sent = !stage.calls.borrow().is_empty();
        assert_eq!(answered.reason == "offloaded", is_sent);
    });
}

#[test]
fn what_is_no_image_and_what_does_not_fit_is_refused() {
    played(async {
        let stage = Stage::new(Play::Refuses);
        let nonsense = Bytes::from_static(b"GIF89a");
        let refused = agent(&stage, Mode::Policy).classify("x".to_owned(), nonsense);
        assert!(matches!(refused.await, Err(ClassifyError::Decode(_))));
        let (description, mut files) = described();
        // Another cascade of the same networks.
        let cascade = "cascades/cifar10-alexnet-resnet.toml";
        let other = files[cascade].clone().into_bytes().to_vec();
        let other = String::from_utf8(other).unwrap();
        let other = Digested::new(other.replace("\"cloud\"", "\"fog\""));
        let digest = other.sha256().to_owned();
        files.insert(cascade.to_owned(), other);
        let refused = Agent::start(&description, files.clone(), stage.clone());
        assert!(matches!(refused.err(), Some(StartError::Description(_))));
        let mut description = description;
        let entry = description
            .files
            .iter_mut()
            .find(|file| file.path == cascade);
        entry.unwrap().sha256 = digest;
        let refused = Agent::start(&description, files, stage).err();
        assert!(matches!(refused, Some(StartError::Policy(_))));
    });
}
