//! The cascade, its networks on the device and their speed, and the policy.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use image::RgbImage;
use outpost_cascade::{Cascade, Site};
use outpost_engine::{error_chain, load_policy};
use outpost_exit_policy::Bundle;
use outpost_runtime::{
    Features, LocalNetworks, ModelFolder, Place, Progress, Runtime, RuntimeError, TractRuntime,
};
use tokio::task::spawn_blocking;

use super::{Examination, Finding};
use crate::config::Config;

/// Runs whose median is a network's time, after one that warms caches up.
const RUNS: usize = 5;
/// A device this many times slower than the one that a policy was learned for is warned of: its operating points are
/// then chosen by times that do not hold here.
const MUCH_SLOWER: f64 = 2.0;

/// Where the package has its models.
const PACKAGE: &str = "/usr/share/outpost";

/// Looks at what runs here.
pub(super) async fn examine(config: &Config, examination: &mut Examination<'_>) {
    let runtime = runtime(config, examination);
    let subject = Finding::new("configuration", "cascade");
    let cascade = match Cascade::load(&config.cascade) {
        Ok(cascade) => cascade,
        Err(error) => {
            let found = format!("{}: {}", config.cascade.display(), error_chain(&error));
            examination
                .add(subject.failed(found, "correct the file, or name another as `cascade`"));
            return;
        }
    };
    examination.add(subject.good(format!(
        "{}, {} nodes",
        cascade.name(),
        cascade.nodes().count()
    )));
    let folder = ModelFolder::new(&config.models);
    let bundle = policy(config, &cascade, &folder, examination);
    let mut networks: Vec<&str> = Vec::new();
    for (_, node) in cascade.nodes() {
        if !networks.contains(&node.network()) {
            networks.push(node.network());
        }
    }
    let mut times = Vec::new();
    for network in networks {
        let mut here: Vec<(String, Option<String>)> = Vec::new();
        for (_, node) in cascade.nodes() {
            if node.network() == network && node.site() == Site::Device {
                here.push((node.name().to_owned(), node.exit().map(str::to_owned)));
            }
        }
        if here.is_empty() {
            elsewhere(&folder, network, examination);
        } else {
            times.extend(load(&folder, network, here, runtime.clone(), examination).await);
        }
    }
    if runtime.is_none() {
        return;
    }
    let entry = cascade.node(cascade.entry()).name();
    if let Some((_, seconds)) = times.iter().find(|(node, _)| node == entry) {
        examination.add(deadline(config, entry, *seconds));
    }
    if let Some(bundle) = &bundle {
        speed(bundle, entry, &times, examination);
    }
}

/// What is to run the networks; none where it is missing.
fn runtime(config: &Config, examination: &mut Examination<'_>) -> Option<Arc<dyn Runtime>> {
    let subject = Finding::new("runtime", config.runtime.kind.as_str());
    match config.runtime.open(config.device_threads) {
        Ok(runtime) => {
            examination.add(subject.good(format!("version {}", runtime.version())));
            Some(runtime.into())
        }
        Err(error) => {
            let advice = match error {
                RuntimeError::Threads(_) => "give fewer as `runtime.threads`",
                _ => {
                    "do what the message says, or set `runtime.kind` to \"tract\", which is built in"
                }
            };
            examination.add(subject.failed(error_chain(&error), advice));
            None
        }
    }
}

fn policy(
    config: &Config,
    cascade: &Cascade,
    folder: &ModelFolder,
    examination: &mut Examination<'_>,
) -> Option<Bundle> {
    let path = config.policy.as_ref()?;
    let subject = Finding::new("policy", path.display().to_string());
    match load_policy(path, cascade, folder) {
        Ok(bundle) => {
            match bundle.choose(&config.operating_point) {
                Ok(choice) => {
                    examination.add(subject.good(format!("fits the cascade; decides by {choice}")))
                }
                Err(error) => examination
                    .add(subject.failed(error_chain(&error), "choose another `operating_point`")),
            }
            Some(bundle)
        }
        Err(error) => {
            let advice = "learn one for this cascade with `lab learn`, or leave `policy` out";
            examination.add(subject.failed(error_chain(&error), advice));
            None
        }
    }
}

/// A network that is only asked for: its manifest and labels are needed here.
fn elsewhere(folder: &ModelFolder, network: &str, examination: &mut Examination<'_>) {
    let subject = Finding::new("model", network);
    let known = folder
        .manifest(network)
        .and_then(|manifest| folder.labels(&manifest));
    examination.add(match known {
        Ok(_) => subject.good("manifest and labels; runs elsewhere"),
        Err(error) => subject.failed(
            error_chain(&error),
            "copy the network's folder, without its weights, into `models`",
        ),
    });
}

/// Loads a network as it would run, or on tract where its runtime is missing, and takes its time; gives the median seconds
/// up to each of its nodes.
async fn load(
    folder: &ModelFolder,
    network: &str,
    nodes: Vec<(String, Option<String>)>,
    runtime: Option<Arc<dyn Runtime>>,
    examination: &mut Examination<'_>,
) -> Vec<(String, f64)> {
    examination.look_at(&format!("the network {network}"));
    let subject = Finding::new("model", network);
    let (owned, name) = (folder.clone(), network.to_owned());
    let runtime = runtime.unwrap_or_else(|| Arc::new(TractRuntime::default()));
    let runs_on = runtime.name();
    let measured = spawn_blocking(move || {
        let places: Vec<Place<'_>> = nodes
            .iter()
            .map(|(_, exit)| Place {
                network: &name,
                exit: exit.as_deref(),
            })
            .collect();
        let opened = LocalNetworks::open(&owned, &places, Features::Omit, &*runtime);
        let opened = opened.map_err(|error| error_chain(&error))?;
        let size = opened.classifier(0).manifest().input.size;
        let image = RgbImage::from_pixel(size, size, image::Rgb([127, 127, 127]));
        let mut times = Vec::new();
        for (place, (node, _)) in nodes.iter().enumerate() {
            let time = median(&opened, place, &image).map_err(|error| error_chain(&error))?;
            times.push((node.clone(), time.as_secs_f64()));
        }
        Ok::<_, String>(times)
    });
    let measured = measured
        .await
        .unwrap_or_else(|_| Err("a library crashed over the network; please report it".to_owned()));
    match measured {
        Ok(times) => {
            let words: Vec<String> = times
                .iter()
                .map(|(node, seconds)| format!("{node} {:.1} ms", seconds * 1e3))
                .collect();
            examination.add(subject.good(format!(
                "weights are those of the manifest, and run on {runs_on}: {}",
                words.join(", ")
            )));
            times
        }
        Err(found) => {
            examination.add(subject.failed(found, restore(folder, network)));
            Vec::new()
        }
    }
}

/// What to do about a network with a file that is missing or wrong.
fn restore(folder: &ModelFolder, network: &str) -> String {
    let manifest = folder.manifest(network).ok();
    match manifest.and_then(|manifest| manifest.download) {
        Some(address) => format!(
            "have its weights fetched by `lab fetch {network}`, or fetch {address} yourself, or make the manifest and its files fit"
        ),
        None if folder.path().starts_with(PACKAGE) => {
            "put the package's files back: `sudo apt install --reinstall ./outpost-edge-agent_VERSION_arm64.deb`".to_owned()
        }
        None => format!(
            "put the files in {} back from where they came from, or make the manifest and its files fit",
            folder.path().join(network).display()
        ),
    }
}

fn median(
    networks: &LocalNetworks,
    place: usize,
    image: &RgbImage,
) -> Result<Duration, outpost_runtime::ClassifyError> {
    networks.run(place, image, &mut Progress::default())?;
    let mut times = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let started = Instant::now();
        networks.run(place, image, &mut Progress::default())?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    Ok(times[RUNS / 2])
}

/// Whether the first network, which takes up every image, leaves time before the deadline, for an answer from elsewhere, too.
fn deadline(config: &Config, entry: &str, seconds: f64) -> Finding {
    let subject = Finding::new("configuration", "deadline_ms");
    let given = Duration::from_millis(config.deadline_ms).as_secs_f64();
    let found = format!(
        "{entry} takes {:.1} of {} ms",
        seconds * 1e3,
        config.deadline_ms
    );
    let has_peers = config.cloud.is_some() || config.fog.is_some();
    let lost = if seconds >= given {
        "no image is answered in time"
    } else if config.mode.offloads() && has_peers && seconds > given / 2.0 {
        "little is left for an answer from elsewhere"
    } else {
        return subject.good(found);
    };
    subject.warning(
        format!("{found}: {lost}"),
        "raise `deadline_ms`, name a cascade with a smaller first network, or give it more cores by `runtime.threads`",
    )
}

/// Compares the device with the one that a policy was learned for: every image goes through the first node, so that no
/// operating point can have taken less time here than that; and the largest network where it is here.
fn speed(bundle: &Bundle, entry: &str, times: &[(String, f64)], examination: &mut Examination<'_>) {
    let points = bundle.operating_points().iter();
    let least = points.map(|point| point.expected.local_seconds);
    let least = least.min_by(f64::total_cmp).filter(|least| *least > 0.0);
    let reference = bundle.reference();
    let largest = (reference.node.as_str(), reference.seconds);
    let learned = least.map(|least| (entry, least)).into_iter();
    for (node, seconds) in learned.chain((reference.node != entry).then_some(largest)) {
        let Some((_, here)) = times.iter().find(|(name, _)| name == node) else {
            continue;
        };
        let ratio = here / seconds;
        let found = format!(
            "{node} takes {:.1} ms here, and {:.1} ms where the policy was learned: {ratio:.1} times as long",
            here * 1e3,
            seconds * 1e3
        );
        let subject = Finding::new("policy", format!("speed of {node}"));
        examination.add(match ratio > MUCH_SLOWER {
            true => subject.warning(
                found,
                "learn the policy again from a trace of this device (`lab trace`, `lab learn`), or choose a goal without a time, such as loss=1",
            ),
            false => subject.good(found),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_first_network_that_leaves_too_little_of_the_deadline_is_warned_of() {
        let alone = Config::default();
        let with_cloud: Config = toml::from_str("[cloud]\nurl = \"https://cloud\"").unwrap();
        let of_the_device: Config =
            toml::from_str("mode = \"device-only\"\n[cloud]\nurl = \"https://cloud\"").unwrap();
        for (config, seconds, verdict) in [
            (&alone, 0.9, Verdict::Good),
            (&alone, 1.0, Verdict::Warning),
            (&with_cloud, 0.4, Verdict::Good),
            (&with_cloud, 0.6, Verdict::Warning),
            (&of_the_device, 0.6, Verdict::Good),
        ] {
            let finding = deadline(config, "small", seconds);
            assert_eq!(finding.verdict, verdict, "{finding:?}");
        }
    }

    #[test]
    fn missing_files_come_from_where_they_came_from() {
        let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../models");
        for (folder, network, says) in [
            (models, "resnet50", "https://"),
            (models, "squeezenet1.0", "back from where"),
            ("/usr/share/outpost/models", "none", "apt install"),
        ] {
            let advice = restore(&ModelFolder::new(folder), network);
            assert!(advice.contains(says), "{advice}");
        }
    }
}
