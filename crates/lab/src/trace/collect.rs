//! Runs every node of a cascade on an image and notes what it says and when.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use outpost_cascade::Cascade;
use outpost_exit_policy::Summary;
use outpost_runtime::{
    Features, ImageLimits, LocalNetworks, ModelFolder, Place, Progress, RgbImage, Said,
    TractRuntime, decode, sha256_hex,
};

use super::{
    CollectError, file,
    table::{NodeSpec, Rows, TraceSpec},
};
use crate::host::cpu_model;

/// Rounds before the first image, so that it finds caches and pages as the others do.
const WARM_UP: usize = 3;

/// The networks of a cascade and what is traced of them.
pub(super) struct Collector {
    spec: TraceSpec,
    networks: LocalNetworks,
    /// The nodes, every network's together and from its first stage to its end.
    order: Vec<usize>,
    is_warm: bool,
}

impl Collector {
    pub(super) fn open(
        cascade: &Cascade,
        models: &ModelFolder,
        features: Features,
        top: usize,
        images: &[(String, u32)],
    ) -> Result<Self, CollectError> {
        let places: Vec<Place<'_>> = cascade
            .nodes()
            .map(|(_, node)| Place {
                network: node.network(),
                exit: node.exit(),
            })
            .collect();
        let networks = LocalNetworks::open(models, &places, features, &TractRuntime::default())?;
        let nodes = cascade.nodes().enumerate().map(|(place, (_, node))| {
            let manifest = networks.classifier(place).manifest();
            NodeSpec {
                name: node.name().to_owned(),
                network: node.network().to_owned(),
                stage: networks.stage(place),
                digest: manifest.sha256.clone(),
                classes: manifest.output.classes,
                top: top.min(manifest.output.classes),
                feature_width: networks.feature_width(place).unwrap_or(0),
            }
        });
        let nodes: Vec<NodeSpec> = nodes.collect();
        for node in &nodes {
            if let Some((file, label)) = images.iter().find(|(_, l)| *l as usize >= node.classes) {
                return Err(CollectError::Label {
                    file: file.clone(),
                    label: *label,
                    network: node.network.clone(),
                    classes: node.classes,
                });
            }
        }
        let mut order: Vec<usize> = (0..nodes.len()).collect();
        order.sort_by_key(|&node| (&nodes[node].network, nodes[node].stage));
        let listed: String = images
            .iter()
            .map(|(file, label)| format!("{file} {label}\n"))
            .collect();
        Ok(Self {
            spec: TraceSpec {
                schema: file::SCHEMA,
                cascade: cascade.name().to_owned(),
                images: sha256_hex(listed.as_bytes()),
                processor: cpu_model().unwrap_or_default(),
                nodes,
            },
            order,
            networks,
            is_warm: false,
        })
    }

    pub(super) fn spec(&self) -> &TraceSpec {
        &self.spec
    }

    pub(super) fn empty_rows(&self) -> Rows {
        Rows::new(self.spec.nodes.len())
    }

    /// Adds a row.
    pub(super) fn trace(
        &mut self,
        path: &Path,
        file: &str,
        label: u32,
        rows: &mut Rows,
    ) -> Result<(), CollectError> {
        let encoded = fs::read(path).map_err(|source| CollectError::Read {
            path: path.to_owned(),
            source,
        })?;
        let started = Instant::now();
        let image =
            decode(&encoded, &ImageLimits::default()).map_err(|source| CollectError::Decode {
                path: path.to_owned(),
                source,
            })?;
        let decoded = started.elapsed();
        if !self.is_warm {
            for _ in 0..WARM_UP {
                self.run(path, &image, |_, _, _| {})?;
            }
            self.is_warm = true;
        }
        rows.files.push(file.to_owned());
        rows.labels.push(label);
        rows.payload_bytes
            .push(u32::try_from(encoded.len()).unwrap_or(u32::MAX));
        rows.decode_seconds.push(decoded.as_secs_f32());
        self.run(path, &image, |node, said, time| {
            let spec = &self.spec.nodes[node];
            let probabilities = said.probabilities.as_slice();
            // The runtime has checked that these are probabilities of two classes at least.
            let summary = Summary::new(probabilities).expect("a distribution over classes");
            let row = &mut rows.nodes[node];
            for class in said.probabilities.top(spec.top) {
                row.classes.push(class.class_id.0);
                row.probabilities.push(class.probability);
            }
            row.entropy.push(summary.entropy());
            row.label_probability.push(probabilities[label as usize]);
            row.seconds.push(time.as_secs_f32());
            row.features.extend(said.features.unwrap_or_default());
        })
    }

    fn run(
        &self,
        path: &Path,
        image: &RgbImage,
        mut note: impl FnMut(usize, Said, Duration),
    ) -> Result<(), CollectError> {
        let mut progress = Progress::default();
        let mut started = Instant::now();
        let mut network = "";
        // What is noted between two stages is not their time.
        let mut running = Duration::ZERO;
        for &node in &self.order {
            let spec = &self.spec.nodes[node];
            if spec.network != network {
                network = &spec.network;
                running = Duration::ZERO;
                started = Instant::now();
            }
            let said = self.networks.run(node, image, &mut progress);
            running += started.elapsed();
            let said = said.map_err(|source| CollectError::Classify {
                node: spec.name.clone(),
                path: path.to_owned(),
                source,
            })?;
            note(node, said, running);
            started = Instant::now();
        }
        Ok(())
    }
}
