use std::{path::Path, sync::mpsc};

use outpost_runtime::{GraphSpec, Labels, Manifest, Network};
use tokio::{sync::mpsc::UnboundedReceiver, task::JoinSet};

use super::*;
use crate::{admission::RETRY_AFTER, metrics::Metrics};

/// Says of an image its first pixel, twice; −1 fails, −2 panics, −3 gives no rows.
struct Echo {
    spec: GraphSpec,
    /// Tells the size of a batch as it begins.
    began: tokio::sync::mpsc::UnboundedSender<usize>,
    /// A batch waits here for leave to end; at once where nobody holds the other end.
    leave: Mutex<mpsc::Receiver<()>>,
}

impl Network for Echo {
    fn spec(&self) -> &GraphSpec {
        &self.spec
    }

    fn infer(&self, batch: ArrayView<'_, f32, ndarray::Ix4>) -> Result<Array2<f32>, InferError> {
        let images = batch.len_of(Axis(0));
        let _ = self.began.send(images);
        let _ = self.leave.lock().unwrap().recv();
        let first = |image: usize| batch[[image, 0, 0, 0]];
        match first(0) {
            -1.0 => Err(InferError::Runtime("on purpose".into())),
            -2.0 => panic!("on purpose"),
            -3.0 => Ok(Array2::zeros((0, 2))),
            _ => Ok(Array2::from_shape_fn((images, 2), |(image, _)| {
                first(image)
            })),
        }
    }
}

struct Fixture {
    batcher: Arc<Batcher>,
    /// Sizes of batches as they begin.
    began: UnboundedReceiver<usize>,
    /// Lets a batch end; dropped, all end at once.
    leave: mpsc::Sender<()>,
    instances: Instances,
}

fn start(batching: &Batching) -> Fixture {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let manifest = Manifest::load(&models.join("cifar10-alexnet/model.toml")).unwrap();
    let (began_sender, began) = tokio::sync::mpsc::unbounded_channel();
    let (leave, leave_receiver) = mpsc::channel();
    let echo = Echo {
        spec: GraphSpec::from(&manifest),
        began: began_sender,
        leave: Mutex::new(leave_receiver),
    };
    let model = Arc::new(Classifier::new(manifest, Labels::default(), Box::new(echo)));
    let metrics = Metrics::default().of_model("echo");
    let instances = Instances::default();
    let batcher = Batcher::start(model, batching, metrics, &instances).unwrap();
    Fixture {
        batcher: Arc::new(batcher),
        began,
        leave,
        instances,
    }
}

fn one_instance() -> Batching {
    Batching {
        instances: 1,
        ..Batching::default()
    }
}

fn images(values: &[f32]) -> Array4<f32> {
    Array4::from_shape_fn((values.len(), 3, 2, 2), |(image, ..)| values[image])
}

async fn ask(batcher: &Batcher, values: &[f32]) -> Result<Vec<f32>, ServiceError> {
    let places = batcher.admit(values.len())?;
    let scores = batcher.run(images(values), None, places).await?;
    assert_eq!(scores.rows.ncols(), 2);
    Ok(scores.rows.column(0).to_vec())
}

/// Asks in the background.
fn send(calls: &mut JoinSet<Result<Vec<f32>, ServiceError>>, batcher: &Arc<Batcher>, value: f32) {
    let batcher = batcher.clone();
    calls.spawn(async move { ask(&batcher, &[value]).await });
}

/// A network of one instance that is at work on the image 0, and the call that waits for it.
async fn busy(batching: &Batching) -> (Fixture, JoinSet<Result<Vec<f32>, ServiceError>>) {
    let mut fixture = start(batching);
    let mut calls = JoinSet::new();
    send(&mut calls, &fixture.batcher, 0.0);
    assert_eq!(fixture.began.recv().await, Some(1));
    (fixture, calls)
}

fn waiting(batcher: &Batcher) -> usize {
    batcher.shared.lock().queue.images()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_a_thousand_callers_gets_its_own_answer_once() {
    let batching = Batching {
        max_batch: 8,
        max_delay_ms: 0.2,
        preferred: vec![4],
        max_queue: 20_000,
        instances: 3,
    };
    let Fixture {
        batcher,
        mut began,
        leave,
        ..
    } = start(&batching);
    drop(leave);
    let mut calls = JoinSet::new();
    let mut sent = 0;
    for caller in 0..1000_u16 {
        let batcher = batcher.clone();
        let count = 1 + caller % 11;
        sent += usize::from(count);
        calls.spawn(async move {
            let part = |i: u16| f32::from(caller) + f32::from(i) / 16.0;
            let values: Vec<f32> = (0..count).map(part).collect();
            assert_eq!(ask(&batcher, &values).await.unwrap(), values);
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    drop(batcher);
    let mut ran = 0;
    while let Some(batch) = began.recv().await {
        assert!(batch <= 8);
        ran += batch;
    }
    assert_eq!(ran, sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_queues_behind_a_busy_network_runs_together() {
    let batching = Batching {
        max_batch: 4,
        ..one_instance()
    };
    let (fixture, mut calls) = busy(&batching).await;
    let Fixture {
        batcher,
        mut began,
        leave,
        ..
    } = fixture;
    for value in 1..=5_u8 {
        send(&mut calls, &batcher, value.into());
    }
    while waiting(&batcher) < 5 {
        tokio::task::yield_now().await;
    }
    drop(leave);
    assert_eq!(began.recv().await, Some(4));
    assert_eq!(began.recv().await, Some(1));
    let answers = calls.join_all().await;
    let mut answers: Vec<f32> = answers.into_iter().flat_map(Result::unwrap).collect();
    answers.sort_by(f32::total_cmp);
    assert_eq!(answers, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once_and_places_that_free_are_used() {
    let batching = Batching {
        max_queue: 3,
        ..one_instance()
    };
    let Fixture { batcher, leave, .. } = start(&batching);
    drop(leave);
    // More images than places take them all.
    let places = batcher.admit(7).unwrap();
    let refused = batcher.admit(1);
    let Err(ServiceError::QueueFull { limit, retry_after }) = refused else {
        panic!("admitted");
    };
    assert_eq!(limit, 3);
    assert!(retry_after >= RETRY_AFTER.0);
    let rows = batcher
        .run(images(&[1.0; 7]), None, places)
        .await
        .unwrap()
        .rows;
    assert_eq!(rows.nrows(), 7);
    assert_eq!(ask(&batcher, &[2.0]).await.unwrap(), [2.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_fails_spoils_its_batch_alone() {
    let Fixture { batcher, leave, .. } = start(&one_instance());
    drop(leave);
    let asked = ask(&batcher, &[-1.0]).await;
    assert!(matches!(asked, Err(ServiceError::Infer(_))));
    let asked = ask(&batcher, &[-2.0]).await;
    assert!(matches!(asked, Err(ServiceError::WorkerLost)));
    let asked = ask(&batcher, &[-3.0]).await;
    assert!(matches!(asked, Err(ServiceError::Infer(_))));
    assert_eq!(ask(&batcher, &[3.0]).await.unwrap(), [3.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_go_away_make_room_and_cost_no_compute() {
    let batching = Batching {
        max_queue: 1,
        ..one_instance()
    };
    let (fixture, mut calls) = busy(&batching).await;
    let Fixture {
        batcher,
        mut began,
        leave,
        ..
    } = fixture;
    let gone = tokio::time::timeout(Duration::ZERO, ask(&batcher, &[2.0])).await;
    assert!(gone.is_err());
    assert_eq!(waiting(&batcher), 1);
    // The place of the one that has gone.
    send(&mut calls, &batcher, 3.0);
    drop(leave);
    let answers = calls.join_all().await;
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
    drop(batcher);
    assert_eq!(began.recv().await, Some(1));
    assert_eq!(began.recv().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_when_the_service_ends_is_answered() {
    let batching = Batching {
        max_batch: 64,
        max_delay_ms: 10_000.0,
        ..one_instance()
    };
    let Fixture { batcher, leave, .. } = start(&batching);
    drop(leave);
    let (reply, answer) = oneshot::channel();
    let request = Request {
        images: images(&[5.0]),
        deadline: None,
        joined: Instant::now(),
        reply,
        places: None,
    };
    batcher.shared.lock().queue.push(request);
    drop(batcher);
    let scores = answer.await.unwrap().unwrap();
    assert_eq!(scores.rows[[0, 0]], 5.0);
}

#[tokio::test]
async fn instances_count_until_their_last_batch_has_ended() {
    let (fixture, mut calls) = busy(&one_instance()).await;
    let Fixture {
        batcher,
        leave,
        instances,
        ..
    } = fixture;
    calls.detach_all();
    drop(batcher);
    instances.running.close();
    let early = tokio::time::timeout(Duration::from_millis(50), instances.running.wait()).await;
    assert!(early.is_err(), "a batch still runs");
    assert!(instances.batches.oldest() > Some(Duration::from_millis(50)));
    drop(leave);
    instances.running.wait().await;
    assert_eq!(instances.batches.oldest(), None);
}
