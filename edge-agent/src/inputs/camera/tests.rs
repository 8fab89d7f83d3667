//! Cameras that are not there: what they give is written down, and the loop takes it as from a device.

use std::{collections::VecDeque, path::PathBuf, sync::mpsc};

use tokio::runtime::Runtime;

use super::*;
use crate::{
    camera::{Format, Pixels, Show},
    config::{CameraFormat, PowerConfig},
    inputs::newest::newest,
};

const SAMPLE: &[u8] = include_bytes!("../../../../models/samples/cifar10/test-airplane-0011.jpg");

/// What a camera does next.
#[derive(Clone)]
enum Step {
    Gives(Vec<u8>),
    /// A frame that was taken before it is asked for.
    Gave(Vec<u8>),
    Damaged,
    /// Nothing, for as long as it is waited for.
    Silent,
    Gone,
    /// A driver that says what cannot be.
    Crashes,
}

/// A camera that does what it is told, and then says that it is gone.
struct Fake {
    pixels: Pixels,
    steps: VecDeque<Step>,
}

impl Capture for Fake {
    fn format(&self) -> Format {
        Format {
            pixels: self.pixels,
            width: 2,
            height: 2,
            stride: 0,
        }
    }

    fn forget(&mut self) -> Result<(), CameraError> {
        while let Some(Step::Gave(_)) = self.steps.front() {
            self.steps.pop_front();
        }
        Ok(())
    }

    fn next(&mut self, within: Duration, show: &mut Show<'_>) -> Result<bool, CameraError> {
        match self.steps.pop_front().unwrap_or(Step::Gone) {
            Step::Gives(bytes) | Step::Gave(bytes) => show(Ok(&bytes)),
            Step::Damaged => show(Err(FrameError::Damaged)),
            Step::Silent => {
                self.steps.push_front(Step::Silent);
                thread::sleep(within);
                return Ok(false);
            }
            Step::Gone => return Err(CameraError::Gone),
            Step::Crashes => panic!("a number that cannot be"),
        }
        Ok(true)
    }
}

fn config(every_ms: u64, timeout_ms: u64) -> CameraConfig {
    CameraConfig {
        device: PathBuf::from("/dev/video0"),
        name: "door".to_owned(),
        width: 2,
        height: 2,
        frames_per_second: None,
        format: CameraFormat::Auto,
        every_ms,
        timeout_ms,
    }
}

fn camera(config: &CameraConfig, newest: Newest, metrics: &Metrics) -> Camera {
    let power = Power::new(&PowerConfig::default(), metrics);
    Camera::new(config, 1 << 20, newest, metrics.clone(), power)
}

/// One visit to a camera: how it ended, and the metrics.
fn visit(
    (every_ms, timeout_ms): (u64, u64),
    pixels: Pixels,
    steps: Vec<Step>,
) -> (Result<(), CameraError>, String) {
    let metrics = Metrics::default();
    let (newest, _frames) = newest("door", metrics.clone());
    let config = config(every_ms, timeout_ms);
    let mut camera = camera(&config, newest, &metrics);
    let mut open = || -> Result<Box<dyn Capture>, CameraError> {
        let steps = steps.clone().into();
        Ok(Box::new(Fake { pixels, steps }))
    };
    let runtime = Runtime::new().unwrap();
    let ended = camera.visit(&mut open, runtime.handle(), &CancellationToken::new());
    (ended, metrics.encode())
}

fn count(metrics: &str, name: &str) -> u32 {
    let line = format!("outpost_edge_{name}_total{{input=\"door\"}} ");
    let value = metrics.lines().find_map(|found| found.strip_prefix(&line));
    value.map_or(0, |value| value.parse().unwrap())
}

#[test]
fn the_newest_frame_waits_and_those_before_it_are_counted_as_dropped() {
    let steps = vec![Step::Gives(SAMPLE.to_vec()); 3];
    let (ended, metrics) = visit((0, 60_000), Pixels::Jpeg, steps);
    assert!(matches!(ended, Err(CameraError::Gone)));
    assert_eq!(count(&metrics, "dropped_images"), 2);
    assert_eq!(count(&metrics, "input_failures"), 0);
    let steps = vec![Step::Gives(vec![128; 8]); 2];
    let (_, metrics) = visit((0, 60_000), Pixels::Yuyv, steps);
    assert_eq!(count(&metrics, "dropped_images"), 1);
}

#[test]
fn frames_that_waited_meanwhile_are_forgotten() {
    let steps = vec![
        Step::Gives(SAMPLE.to_vec()),
        Step::Gave(b"garbage".to_vec()),
        Step::Gave(b"garbage".to_vec()),
        Step::Gives(SAMPLE.to_vec()),
    ];
    let (_, metrics) = visit((5, 60_000), Pixels::Jpeg, steps.clone());
    assert_eq!(count(&metrics, "dropped_images"), 1);
    assert_eq!(count(&metrics, "input_failures"), 0);
    // Where all are wanted, those are, too.
    let (_, metrics) = visit((0, 60_000), Pixels::Jpeg, steps);
    assert_eq!(count(&metrics, "input_failures"), 2);
}

#[test]
fn what_is_no_frame_is_counted_and_the_next_one_taken() {
    let steps = vec![
        Step::Gives(SAMPLE[..SAMPLE.len() / 2].to_vec()),
        Step::Gives(b"garbage".to_vec()),
        Step::Gives(Vec::new()),
        Step::Gives(vec![0xff; 2 << 20]),
        Step::Damaged,
        Step::Gives(SAMPLE.to_vec()),
        Step::Gives(SAMPLE.to_vec()),
    ];
    let (ended, metrics) = visit((0, 60_000), Pixels::Jpeg, steps);
    assert!(matches!(ended, Err(CameraError::Gone)));
    assert_eq!(count(&metrics, "input_failures"), 5);
    assert_eq!(count(&metrics, "dropped_images"), 1);
    let steps = vec![Step::Gives(vec![128; 7]), Step::Gives(vec![128; 8])];
    let (_, metrics) = visit((0, 60_000), Pixels::Yuyv, steps);
    assert_eq!(count(&metrics, "input_failures"), 1);
}

#[test]
fn a_camera_that_gives_nothing_whole_is_left_and_says_why() {
    let (ended, _) = visit((0, 10), Pixels::Jpeg, vec![Step::Silent]);
    assert!(matches!(ended, Err(CameraError::Silent)));
    let steps = vec![Step::Gives(b"garbage".to_vec()), Step::Silent];
    let (ended, _) = visit((0, 10), Pixels::Jpeg, steps);
    let ended = ended.unwrap_err();
    assert!(
        matches!(ended, CameraError::Defective(FrameError::NoImage)),
        "{ended}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_is_opened_again_until_the_program_ends() {
    let metrics = Metrics::default();
    let (newest, _frames) = newest("door", metrics.clone());
    let camera = camera(&config(0, 60_000), newest, &metrics);
    let (opened, openings) = mpsc::channel();
    let mut visits = VecDeque::from([
        // Not there, then there, then with a driver that is at fault, then silent until the end.
        None,
        Some(vec![Step::Gives(SAMPLE.to_vec())]),
        Some(vec![Step::Crashes]),
        Some(vec![Step::Silent]),
    ]);
    let open = move || -> Result<Box<dyn Capture>, CameraError> {
        let steps = visits.pop_front().expect("it is left while it is silent");
        opened.send(()).unwrap();
        let steps = steps.ok_or(CameraError::Missing(PathBuf::from("/dev/video0")))?;
        Ok(Box::new(Fake {
            pixels: Pixels::Jpeg,
            steps: steps.into(),
        }))
    };
    let ending = CancellationToken::new();
    let ended = tokio::spawn(camera.start(open, ending.clone()).unwrap());
    let openings = tokio::task::spawn_blocking(move || {
        for _ in 0..4 {
            openings.recv_timeout(Duration::from_secs(60)).unwrap();
        }
        openings
    });
    let openings = openings.await.unwrap();
    ending.cancel();
    ended.await.unwrap();
    // The thread has ended, not only been given up.
    assert_eq!(openings.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    assert_eq!(count(&metrics.encode(), "input_failures"), 3);
}
