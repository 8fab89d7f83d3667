//! Takes image files through the cascade: the device's front of [`outpost_engine::Engine`].

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use outpost_cascade::Site;
use outpost_engine::{
    Engine, ImageError, Offload, Peer, PeerConfig, PeerError, Picture, Plan, PolicyFile, Route,
    blocking, error_chain, load_cascade,
};
use outpost_runtime::{ImageLimits, ModelFolder, TractRuntime};

use crate::{
    config::{Config, ConfigError},
    record::{Answered, Candidate, Record, milliseconds},
};

/// The device program's engine and its bounds.
pub struct Agent {
    engine: Engine,
    deadline: Duration,
    limits: ImageLimits,
}

/// Why the agent did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration does not hold together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration of a peer is at fault.
    #[error("cannot use the {site}")]
    Peer {
        /// The peer's site.
        site: Site,
        /// What is at fault.
        source: PeerError,
    },
    /// The cascade, its policy or its networks are at fault.
    #[error(transparent)]
    Engine(#[from] outpost_engine::StartError),
}

impl Agent {
    /// Loads the cascade and its device networks, and starts to connect to the peers.
    ///
    /// Must be called in a tokio runtime; loading blocks for some 100 ms.
    ///
    /// # Errors
    /// A [`StartError`] that names the file or field at fault.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        config.check()?;
        let peer = |(site, peer): (Site, &PeerConfig)| {
            let peer = Peer::new(peer, config.circuit.into());
            let peer = peer.map_err(|source| StartError::Peer { site, source })?;
            Ok((site, peer))
        };
        let fog = config.fog.iter().map(|peer| (Site::Fog, peer));
        let peers = fog
            .chain(config.cloud.iter().map(|peer| (Site::Cloud, peer)))
            .map(peer)
            .collect::<Result<BTreeMap<_, _>, StartError>>()?;
        let goal = &config.operating_point;
        let engine = Engine::start(Plan {
            cascade: load_cascade(&config.cascade)?,
            policy: config
                .policy
                .as_deref()
                .map(|path| PolicyFile { path, goal }),
            mode: config.mode,
            here: Site::Device,
            folder: &ModelFolder::new(&config.models),
            runtime: &TractRuntime,
            turns: config.device_threads,
            peers,
        })?;
        Ok(Self {
            engine,
            deadline: Duration::from_millis(config.deadline_ms),
            limits: config.images.into(),
        })
    }

    /// Answers one image, and never fails: an image without an answer gets its reason.
    pub async fn classify(&self, path: &Path) -> Record {
        let image = path.display().to_string();
        match self.answer(path, &image).await {
            Ok(answered) => Record::Answered(Box::new(answered)),
            Err(error) => Record::Failed {
                image,
                error: error_chain(&error),
            },
        }
    }

    #[tracing::instrument(name = "image", level = "debug", skip_all, fields(file = image))]
    async fn answer(&self, path: &Path, image: &str) -> Result<Answered, ImageError> {
        let turn = self.engine.turn().await;
        let taken = Instant::now();
        let (owned, limits) = (path.to_owned(), self.limits);
        let picture = blocking(move || Picture::read(&owned, &limits)).await??;
        let route = Route {
            entry: self.engine.cascade().entry(),
            taken,
            deadline: self.deadline,
        };
        let outcome = self.engine.classify(turn, picture, route).await?;
        let labels = self.engine.labels(outcome.node);
        let top5 = Candidate::top5(&outcome.probabilities, labels);
        let offload = outcome.offload.as_ref();
        let (network, exit) = match outcome.decided_by.node.split_once('@') {
            Some((network, exit)) => (network.to_owned(), Some(exit.to_owned())),
            None => (outcome.decided_by.node, None),
        };
        Ok(Answered {
            image: image.to_owned(),
            class_id: top5[0].class_id,
            label: top5[0].label.clone(),
            confidence: top5[0].confidence,
            top5,
            site: outcome.decided_by.site,
            network,
            exit,
            reason: outcome.reason.to_string(),
            device_ms: milliseconds(outcome.local),
            link_ms: offload.map(|offload| milliseconds(offload.link())),
            cloud_ms: offload.and_then(Offload::at_peer).map(milliseconds),
            total_ms: milliseconds(outcome.total),
            bytes_sent: offload.map_or(0, |offload| offload.bytes_sent),
            transport: offload.and_then(Offload::protocol),
        })
    }
}
