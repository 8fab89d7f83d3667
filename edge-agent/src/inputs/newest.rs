//! Images of an input that does not wait: a camera. The newest wins.
//!
//! One image waits for a place. Where another comes before that, it takes the place in the queue, and the one that waited is
//! dropped and counted.

use std::sync::{Arc, Mutex, PoisonError};

use outpost_engine::blocking;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{Content, Image},
    camera::Frame,
    intake::Intake,
    metrics::Metrics,
};

/// Where the images of an input go in, and where they are taken up.
pub(super) fn newest(name: &str, metrics: Metrics) -> (Newest, Frames) {
    let waiting = Arc::<Waiting>::default();
    let name = Arc::from(name);
    let newest = Newest {
        name: Arc::clone(&name),
        metrics: metrics.clone(),
        waiting: waiting.clone(),
    };
    let frames = Frames {
        name,
        metrics,
        waiting,
    };
    (newest, frames)
}

/// The image that waits, where there is one.
#[derive(Debug, Default)]
struct Waiting {
    image: Mutex<Option<Frame>>,
    came: Notify,
}

/// Takes an input's images.
#[derive(Debug)]
pub(super) struct Newest {
    name: Arc<str>,
    metrics: Metrics,
    waiting: Arc<Waiting>,
}

/// An input's images, as far as they are taken up.
#[derive(Debug)]
pub(super) struct Frames {
    name: Arc<str>,
    metrics: Metrics,
    waiting: Arc<Waiting>,
}

impl Newest {
    /// An image has come; one that still waited is dropped.
    pub(super) fn put(&self, image: Frame) {
        if self.waiting.image().replace(image).is_some() {
            self.metrics.dropped(&self.name);
        }
        self.waiting.came.notify_one();
    }
}

impl Frames {
    /// Answers images until `ending`, and then those that were taken up.
    pub(super) async fn answer(self, intake: Intake, ending: CancellationToken) {
        let mut answering = JoinSet::new();
        let mut number = 0_u64;
        let take_up = async {
            loop {
                self.waiting.came.notified().await;
                let place = intake.place().await;
                // The newest there is by now.
                let Some(image) = self.waiting.image().take() else {
                    continue;
                };
                number += 1;
                let called = format!("{}-{number}", self.name);
                let (intake, name) = (intake.clone(), self.name.clone());
                let metrics = self.metrics.clone();
                // As many as there are places at most.
                while answering.try_join_next().is_some() {}
                answering.spawn(async move {
                    let Some(content) = content(image, &name, &metrics).await else {
                        return;
                    };
                    let image = Image {
                        name: called,
                        content,
                        deadline: None,
                        id: None,
                    };
                    intake.take(place, name, image).await;
                });
            }
        };
        let _: Option<()> = ending.run_until_cancelled(take_up).await;
        while let Some(answered) = answering.join_next().await {
            if let Err(error) = answered {
                tracing::error!(%error, "the task of an image ended before its time");
            }
        }
    }
}

/// An image as it is answered, sent and kept: encoded. None where that fails.
async fn content(frame: Frame, input: &str, metrics: &Metrics) -> Option<Content> {
    let frame = match frame {
        Frame::Encoded(image) => return Some(Content::Encoded(image)),
        Frame::Yuyv(frame) => frame,
    };
    let error = match blocking(move || frame.to_jpeg()).await {
        Ok(Ok(image)) => return Some(Content::Encoded(image)),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    metrics.input_failed(input);
    tracing::error!(input, error, "a frame cannot be made an image");
    None
}

impl Waiting {
    fn image(&self) -> std::sync::MutexGuard<'_, Option<Frame>> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn encoded(image: &'static str) -> Frame {
        Frame::Encoded(Bytes::from_static(image.as_bytes()))
    }

    #[tokio::test]
    async fn the_newest_image_wins_and_those_before_it_are_counted() {
        let metrics = Metrics::default();
        let (newest, frames) = newest("door", metrics.clone());
        for image in ["1", "2", "3"] {
            newest.put(encoded(image));
        }
        frames.waiting.came.notified().await;
        assert_eq!(frames.waiting.image().take(), Some(encoded("3")));
        newest.put(encoded("4"));
        frames.waiting.came.notified().await;
        assert_eq!(frames.waiting.image().take(), Some(encoded("4")));
        let dropped = "outpost_edge_dropped_images_total{input=\"door\"} 2\n";
        assert!(metrics.encode().contains(dropped), "{}", metrics.encode());
    }
}
