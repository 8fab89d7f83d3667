//! The real service of a validation, and its callers.

use std::{
    fs,
    time::{Duration, Instant},
};

use outpost_proto::{
    ContentsKind, Tensor, TensorData,
    inference::{ModelInferRequest, grpc_inference_service_client::GrpcInferenceServiceClient},
    tensor,
};
use outpost_runtime::ModelFolder;
use outpost_transport::{
    Channel, ClientConfig, Trust,
    development_certificates::{Certificates, ExistingFiles, Subjects, Validity},
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, task::JoinSet, time::sleep_until};
use tonic::{Request, metadata::MetadataMap};

use super::{Scheduled, ValidateArgs, ValidateError, file};

use crate::{
    fleet::statistics::mean,
    programs::{Program, beside, free_address},
};

/// The service's `limits.decoders`: one core decodes and one computes.
pub(super) const DECODERS: u32 = 1;
/// The service's `batching.max_queue`, its default.
pub(super) const MAX_QUEUE: usize = 256;
/// Calls before those that are measured.
const WARM_UP_CALLS: usize = 5;
/// From the first call of a run to the origin of its times: until all is ready.
const AHEAD: Duration = Duration::from_millis(200);

/// The service, and what it is asked.
pub(super) struct Real {
    runtime: Runtime,
    cloud: Program,
    config: ClientConfig,
    network: String,
    tensor: String,
    images: Vec<Vec<u8>>,
    deadline: Duration,
    _folder: TempDir,
}

/// What the service takes.
#[derive(Debug, Clone, Default)]
pub(super) struct Timings {
    /// Images of a batch, and its seconds.
    pub(super) batches: Vec<(usize, f64)>,
    /// Seconds to decode an image, by call.
    decoding: Vec<f64>,
    /// Seconds of a call of one image that are neither decoding nor the network.
    calls: Vec<f64>,
}

impl Timings {
    /// What those of a run's calls tell that count, and batches all of whose calls do. Those of one batch are told the same time of
    /// it, to the microsecond, one after another or with calls of other `instances` in between.
    pub(super) fn of(called: &[Called], instances: u32, counts: impl Fn(&Called) -> bool) -> Self {
        let mut called: Vec<&Called> = called.iter().collect();
        called.sort_by(|a, b| a.done.total_cmp(&b.done));
        let mut timings = Self::default();
        // Images, seconds, and whether all of its calls count.
        let mut batches: Vec<(usize, f64, bool)> = Vec::new();
        for call in called {
            let (times, counts) = (call.times, counts(call));
            let mut latest = batches.iter_mut().rev().take(instances as usize);
            match latest.find(|(_, seconds, _)| *seconds == times.infer) {
                Some((images, _, all)) => {
                    *images += 1;
                    *all &= counts;
                }
                None => batches.push((1, times.infer, counts)),
            }
            if counts {
                timings.decoding.push(times.decode);
                let rest = call.took - times.queue - times.decode - times.infer;
                timings.calls.push(rest.max(0.0));
            }
        }
        let counted = batches.into_iter().filter(|(_, _, all)| *all);
        timings.batches = counted
            .map(|(images, seconds, _)| (images, seconds))
            .collect();
        timings
    }

    /// The same, with what was measured before for sizes of batches that came up less than so often, as much longer as single
    /// images take now; and for all else where nothing was answered.
    pub(super) fn with_rare(mut self, before: &Self, often: usize) -> Self {
        let count = |size: usize| self.batches.iter().filter(|(of, _)| *of == size).count();
        let is_rare = |&&(size, _): &&(usize, f64)| count(size) < often;
        let longer = self.batch_seconds(1) / before.batch_seconds(1);
        let longer = if longer.is_finite() { longer } else { 1.0 };
        let rare = before.batches.iter().filter(is_rare);
        let rare: Vec<(usize, f64)> = rare.map(|(size, s)| (*size, longer * s)).collect();
        self.batches.extend(rare);
        if self.calls.is_empty() {
            self.decoding.clone_from(&before.decoding);
            self.calls.clone_from(&before.calls);
        }
        self
    }

    /// This and what was measured later.
    pub(super) fn and(&self, later: &Self) -> Self {
        Self {
            batches: [&self.batches[..], &later.batches].concat(),
            decoding: [&self.decoding[..], &later.decoding].concat(),
            calls: [&self.calls[..], &later.calls].concat(),
        }
    }

    /// Mean seconds of a batch of so many images.
    pub(super) fn batch_seconds(&self, images: usize) -> f64 {
        let of_size = self.batches.iter().filter(|(size, _)| *size == images);
        mean(of_size.map(|(_, seconds)| *seconds)).unwrap_or(f64::NAN)
    }

    /// Mean seconds to decode an image.
    pub(super) fn decode_seconds(&self) -> f64 {
        mean(self.decoding.iter().copied()).unwrap_or(f64::NAN)
    }

    /// Mean seconds of the rest of a call.
    pub(super) fn call_seconds(&self) -> f64 {
        mean(self.calls.iter().copied()).unwrap_or(f64::NAN)
    }
}

/// An image that was to be sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    /// When it came, in seconds since the origin.
    pub(super) taken: f64,
    /// Seconds from then to its answer.
    pub(super) seconds: f64,
    /// Whether the cloud answered in time.
    pub(super) is_answered: bool,
}

/// An answered call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Called {
    /// When its image came, in seconds since the origin.
    pub(super) taken: f64,
    /// When it was answered.
    done: f64,
    /// Seconds from when it was to be sent to then.
    took: f64,
    times: Times,
}

/// The images of a run that were to be sent.
#[derive(Debug, Clone)]
pub(super) struct Served(pub(super) Vec<Sent>);

/// Where the time of a call went, in seconds, as the service told.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Times {
    queue: f64,
    decode: f64,
    infer: f64,
}

impl Real {
    /// Starts the service.
    pub(super) fn start(
        args: &ValidateArgs,
        network: &str,
        images: Vec<Vec<u8>>,
    ) -> Result<Self, ValidateError> {
        let folder = tempfile::tempdir().map_err(file(&std::env::temp_dir()))?;
        let certificates = Certificates::issue(&Subjects::host("127.0.0.1"), Validity::days(30))?;
        certificates.write(folder.path(), ExistingFiles::Keep)?;
        let address = free_address().map_err(file(folder.path()))?;
        let models = fs::canonicalize(&args.models).map_err(file(&args.models))?;
        let path = folder.path().join("cloud-service.toml");
        let config = format!(
            "address = \"{address}\"\nmodels = {models:?}\nnetworks = [{network:?}]\n\
             [tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n\
             [batching]\nmax_batch = {}\nmax_delay_ms = {:?}\nmax_queue = {MAX_QUEUE}\ninstances = {}\n\
             [limits]\ndecoders = {DECODERS}\n",
            args.max_batch, args.max_delay, args.instances
        );
        fs::write(&path, config).map_err(file(&path))?;
        let program = args.cloud_service.clone();
        let mut cloud = Program::new(
            "cloud-service",
            program.unwrap_or_else(|| beside("cloud-service")),
            vec![
                "serve".to_owned(),
                "--config".to_owned(),
                path.display().to_string(),
            ],
            address,
            folder.path(),
        );
        cloud.start()?;
        let authority = folder.path().join("ca.pem");
        let authority = fs::read(&authority).map_err(file(&authority))?;
        let manifest = ModelFolder::new(&args.models).manifest(network);
        let manifest = manifest.map_err(|error| ValidateError::Call(error.into()))?;
        Ok(Self {
            runtime: Runtime::new().map_err(file(folder.path()))?,
            cloud,
            config: ClientConfig {
                trust: Trust::Authority(authority),
                ..ClientConfig::new(format!("https://{address}"))
            },
            network: network.to_owned(),
            tensor: manifest.input.tensor,
            images,
            deadline: Duration::from_secs_f64(args.deadline / 1e3),
            _folder: folder,
        })
    }

    /// Ends the service.
    pub(super) fn end(&mut self) -> Result<(), ValidateError> {
        Ok(self.cloud.end()?)
    }

    async fn channel(&self) -> Result<Channel, ValidateError> {
        let channel =
            Channel::new(self.config.clone()).map_err(|error| ValidateError::Call(error.into()))?;
        let connected = channel.connect().await;
        connected.map_err(|error| ValidateError::Call(error.into()))?;
        Ok(channel)
    }

    fn request(&self, images: &[usize]) -> Result<ModelInferRequest, ValidateError> {
        let data = images
            .iter()
            .map(|&image| self.images[image].clone().into());
        let data = TensorData::Bytes(data.collect());
        let input = Tensor::new(&self.tensor, vec![images.len()], data)
            .map_err(|error| ValidateError::Call(error.into()))?;
        let request = tensor::infer_request(&self.network, "", [input], ContentsKind::Typed);
        Ok(request)
    }

    /// Measures the service without load: batches of 1 to `max_batch` images, in turn.
    pub(super) fn alone(&self, max_batch: usize, of_each: usize) -> Result<Timings, ValidateError> {
        self.runtime.block_on(async {
            let channel = self.channel().await?;
            let mut next = 0;
            let mut timings = Timings::default();
            for round in 0..of_each + WARM_UP_CALLS {
                for images in 1..=max_batch {
                    let chosen: Vec<usize> = (0..images)
                        .map(|image| (next + image) % self.images.len())
                        .collect();
                    next += images;
                    let request = self.request(&chosen)?;
                    let started = Instant::now();
                    let called = call(channel.clone(), request, Duration::from_secs(60)).await;
                    let took = started.elapsed().as_secs_f64();
                    let times = called.map_err(|status| ValidateError::Call(status.into()))?;
                    if round < WARM_UP_CALLS {
                        continue;
                    }
                    timings.batches.push((images, times.infer));
                    timings.decoding.push(times.decode / images as f64);
                    if images == 1 {
                        let rest = took - times.decode - times.infer;
                        timings.calls.push(rest);
                    }
                }
            }
            Ok(timings)
        })
    }

    /// Lets so many devices send what a schedule says, when it says it, and tells how many seconds of it have passed.
    pub(super) fn serve(
        &self,
        devices: u32,
        schedule: &[Scheduled],
        passed: impl Fn(f64),
    ) -> Result<(Served, Vec<Called>), ValidateError> {
        self.runtime.block_on(async {
            let mut channels = Vec::new();
            for _ in 0..devices {
                channels.push(self.channel().await?);
            }
            let mut sends: Vec<(f64, &Scheduled)> = schedule
                .iter()
                .filter_map(|one| Some((one.sends_at?, one)))
                .collect();
            sends.sort_by(|a, b| a.0.total_cmp(&b.0));
            let origin = tokio::time::Instant::now() + AHEAD;
            let mut running = JoinSet::new();
            let mut sent = Vec::new();
            for (at, one) in sends {
                let request = self.request(&[one.arrival.image as usize])?;
                let (taken, deadline) = (one.arrival.at.0, self.deadline);
                let left = deadline.saturating_sub(Duration::from_secs_f64(at - taken));
                passed(at);
                sleep_until(origin + Duration::from_secs_f64(at)).await;
                let channel = channels[one.arrival.device as usize].clone();
                running.spawn(async move {
                    let called = tokio::time::timeout(left, call(channel, request, left)).await;
                    let done = origin.elapsed().as_secs_f64();
                    let times = called.ok().and_then(Result::ok);
                    let sent = Sent {
                        taken,
                        seconds: (done - taken).min(deadline.as_secs_f64()),
                        is_answered: times.is_some(),
                    };
                    let called = times.map(|times| Called {
                        taken,
                        done,
                        took: done - at,
                        times,
                    });
                    (sent, called)
                });
                while let Some(one) = running.try_join_next() {
                    sent.push(one.expect("calls do not panic"));
                }
            }
            sent.extend(running.join_all().await);
            sent.sort_by(|a: &(Sent, _), b| a.0.taken.total_cmp(&b.0.taken));
            let (sent, called): (Vec<Sent>, Vec<Option<Called>>) = sent.into_iter().unzip();
            Ok((Served(sent), called.into_iter().flatten().collect()))
        })
    }
}

async fn call(
    channel: Channel,
    request: ModelInferRequest,
    left: Duration,
) -> Result<Times, tonic::Status> {
    let limit = channel.max_message_bytes();
    let mut client = GrpcInferenceServiceClient::new(channel)
        .max_decoding_message_size(limit)
        .max_encoding_message_size(limit);
    let mut request = Request::new(request);
    request.set_timeout(left);
    let response = client.model_infer(request).await?;
    times(response.metadata())
        .ok_or_else(|| tonic::Status::internal("the service does not tell its times"))
}

/// What the service says of its times.
fn times(metadata: &MetadataMap) -> Option<Times> {
    let header = metadata.get("server-timing")?.to_str().ok()?;
    let of = |name: &str| {
        let entry = header.split(',').find_map(|entry| {
            let value = entry.trim().strip_prefix(name)?;
            value.strip_prefix(";dur=")
        });
        let milliseconds: f64 = entry?.parse().ok()?;
        Some(milliseconds / 1e3)
    };
    Some(Times {
        queue: of("queue")?,
        decode: of("decode")?,
        infer: of("infer")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_one_batch_are_known_by_its_time() {
        let called = |done: f64, infer: f64| Called {
            taken: 0.0,
            done,
            took: infer + 0.004,
            times: Times {
                queue: 0.001,
                decode: 0.002,
                infer,
            },
        };
        let run = [
            called(0.3, 0.030),
            called(0.1, 0.020),
            called(0.2, 0.020),
            called(0.4, 0.020),
        ];
        let timings = Timings::of(&run, 1, |_| true);
        assert_eq!(timings.batches, [(2, 0.020), (1, 0.030), (1, 0.020)]);
        assert!((timings.decode_seconds() - 0.002).abs() < 1e-12);
        assert!((timings.call_seconds() - 0.001).abs() < 1e-12);
        let before = Timings {
            batches: vec![(1, 0.010), (3, 0.060)],
            decoding: vec![0.5],
            calls: vec![0.5],
        };
        let of_none = Timings::default().with_rare(&before, 2);
        assert_eq!(
            (of_none.decode_seconds(), of_none.call_seconds()),
            (0.5, 0.5)
        );
        let both = timings.with_rare(&before, 2);
        // Single images take 25 ms where they took 10.
        assert!((both.batch_seconds(3) - 0.150).abs() < 1e-9);
        assert!((both.batch_seconds(1) - 0.025).abs() < 1e-9);
        // Two instances answer in turns.
        let turns = [called(0.1, 0.02), called(0.2, 0.03), called(0.3, 0.02)];
        let all = Timings::of(&turns, 2, |_| true);
        assert_eq!(all.batches, [(2, 0.02), (1, 0.03)]);
        // Of a batch some of whose calls do not count, the size is not known.
        let later = Timings::of(&turns, 2, |call| call.done > 0.15);
        assert_eq!(later.batches, [(1, 0.03)]);
        assert_eq!(later.decoding.len(), 2);
    }

    #[test]
    fn the_services_own_times_are_read() {
        let mut metadata = MetadataMap::new();
        assert_eq!(times(&metadata), None);
        let header = "queue;dur=0.1, decode;dur=2.000, infer;dur=25.500, total;dur=28";
        metadata.insert("server-timing", header.parse().unwrap());
        let expected = Times {
            queue: 0.0001,
            decode: 0.002,
            infer: 0.0255,
        };
        assert_eq!(times(&metadata), Some(expected));
    }
}
