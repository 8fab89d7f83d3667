use std::sync::atomic::{AtomicUsize, Ordering};

use outpost_runtime::{GraphSpec, Labels, Manifest, Network};
use tokio::task::JoinSet;

use super::*;

/// Says of an image its first pixel, twice; `-1` fails, `-2` panics.
struct Echo {
    spec: GraphSpec,
    delay: Duration,
    images: Arc<AtomicUsize>,
    largest: Arc<AtomicUsize>,
}

impl Network for Echo {
    fn spec(&self) -> &GraphSpec {
        &self.spec
    }

    fn infer(&self, batch: ArrayView4<'_, f32>) -> Result<Array2<f32>, InferError> {
        let images = batch.len_of(Axis(0));
        self.images.fetch_add(images, Ordering::Relaxed);
        self.largest.fetch_max(images, Ordering::Relaxed);
        thread::sleep(self.delay);
        let first = |image: usize| batch[[image, 0, 0, 0]];
        assert!((0..images).all(|image| first(image) != -2.0), "on purpose");
        if (0..images).any(|image| first(image) == -1.0) {
            return Err(InferError::Runtime("on purpose".into()));
        }
        Ok(Array2::from_shape_fn((images, 2), |(image, _)| {
            first(image)
        }))
    }
}

struct Fixture {
    batcher: Batcher,
    images: Arc<AtomicUsize>,
    largest: Arc<AtomicUsize>,
}

fn start(delay: Duration, batching: Batching) -> Fixture {
    let manifest: Manifest = Manifest::load(
        &std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../models/cifar10-alexnet/model.toml"),
    )
    .unwrap();
    let (images, largest) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let echo = Echo {
        spec: GraphSpec::from(&manifest),
        delay,
        images: images.clone(),
        largest: largest.clone(),
    };
    let model = Classifier::new(manifest, Labels::default(), Box::new(echo));
    Fixture {
        batcher: Batcher::start(Arc::new(model), &batching),
        images,
        largest,
    }
}

fn images(values: &[f32]) -> Array4<f32> {
    Array4::from_shape_fn((values.len(), 3, 2, 2), |(image, ..)| values[image])
}

async fn ask(batcher: &Batcher, values: &[f32]) -> Result<Vec<f32>, ServiceError> {
    let place = batcher.admit()?;
    let scores = batcher.run(images(values), None, place).await?;
    assert_eq!(scores.rows.ncols(), 2);
    Ok(scores.rows.column(0).to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_a_thousand_callers_gets_its_own_answer_once() {
    let batching = Batching {
        max_batch: 8,
        max_delay_ms: 0.2,
        preferred: vec![4],
        max_queue: 2000,
        instances: 3,
    };
    let Fixture {
        batcher,
        images,
        largest,
    } = start(Duration::from_micros(200), batching);
    let batcher = Arc::new(batcher);
    let mut calls = JoinSet::new();
    let mut sent = 0;
    for caller in 0..1000_u16 {
        let batcher = batcher.clone();
        let count = 1 + caller % 11;
        sent += usize::from(count);
        calls.spawn(async move {
            let values: Vec<f32> = (0..count)
                .map(|i| f32::from(caller) + f32::from(i) / 16.0)
                .collect();
            assert_eq!(ask(&batcher, &values).await.unwrap(), values);
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    assert_eq!(images.load(Ordering::Relaxed), sent);
    assert_eq!(largest.load(Ordering::Relaxed), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once_and_a_place_that_frees_is_used() {
    let batching = Batching {
        max_queue: 1,
        instances: 1,
        ..Batching::default()
    };
    let Fixture { batcher, .. } = start(Duration::ZERO, batching);
    let place = batcher.admit().unwrap();
    let refused = batcher.admit();
    let Err(ServiceError::QueueFull {
        limit: 1,
        retry_after,
    }) = refused
    else {
        panic!("admitted");
    };
    assert!(retry_after >= RETRY_AFTER.0);
    batcher.run(images(&[1.0]), None, place).await.unwrap();
    assert_eq!(ask(&batcher, &[2.0]).await.unwrap(), [2.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_fails_or_panics_spoils_its_batch_alone() {
    let batching = Batching {
        instances: 1,
        ..Batching::default()
    };
    let Fixture { batcher, .. } = start(Duration::ZERO, batching);
    assert!(matches!(
        ask(&batcher, &[-1.0]).await,
        Err(ServiceError::Infer(_))
    ));
    assert!(matches!(
        ask(&batcher, &[-2.0]).await,
        Err(ServiceError::WorkerLost)
    ));
    assert_eq!(ask(&batcher, &[3.0]).await.unwrap(), [3.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_go_away_cost_no_compute() {
    let batching = Batching {
        instances: 1,
        ..Batching::default()
    };
    let fixture = start(Duration::from_millis(50), batching);
    let batcher = Arc::new(fixture.batcher);
    let busy = tokio::spawn({
        let batcher = batcher.clone();
        async move { ask(&batcher, &[1.0]).await }
    });
    while fixture.images.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    let gone = tokio::time::timeout(Duration::ZERO, ask(&batcher, &[2.0])).await;
    assert!(gone.is_err());
    busy.await.unwrap().unwrap();
    assert_eq!(ask(&batcher, &[3.0]).await.unwrap(), [3.0]);
    assert_eq!(fixture.images.load(Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_when_the_service_ends_is_answered() {
    let batching = Batching {
        max_batch: 64,
        max_delay_ms: 10_000.0,
        instances: 1,
        ..Batching::default()
    };
    let Fixture { batcher, .. } = start(Duration::ZERO, batching);
    let (reply, answer) = oneshot::channel();
    let now = Instant::now();
    let request = Request {
        images: images(&[5.0]),
        deadline: None,
        joined: now,
        reply,
        place: None,
    };
    batcher.shared.lock().queue.push(request, now);
    drop(batcher);
    let scores = answer.await.unwrap().unwrap();
    assert_eq!(scores.rows[[0, 0]], 5.0);
}
