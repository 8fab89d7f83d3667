//! The program that is left running: inputs, the agent, outputs, and an orderly end.

use std::{future::Future, net::SocketAddr, sync::Arc, thread, time::Duration};

use outpost_supervision::{ready, stopping, watchdog};
use tokio::{
    sync::{Semaphore, watch},
    task::spawn_blocking,
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

use crate::{
    agent::{Agent, StartError},
    allocator::give_back_in_time,
    api::{Api, ApiError, Context, MOST_LISTENERS},
    audit::Auditor,
    certificates::{self, Certificate},
    config::{ApiConfig, Config, ConfigError, Delivery},
    event::Announcer,
    follow::follow_link,
    in_charge::InCharge,
    inputs::{self, InputError},
    intake::{Bounds, Intake},
    metrics::Metrics,
    outputs::{OutputError, Outputs},
    page::{self, PageServeError},
    power::{Class, Power},
    queue::{Queue, QueueError, carry},
    reload::{ANSWERING, Reloader, Source},
    reloads::Reloads,
    resident::{keep_giving_code_back, while_loading},
};

/// What calls may take beyond the deadline of an image, once the program is to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// The running program.
pub struct Program {
    api: Option<Api>,
    page: Option<page::Served>,
    /// What watches folders and the link, and calls that may still correct an answer.
    tasks: TaskTracker,
    outputs: Outputs,
    /// The thread of the queue.
    queue: Option<thread::JoinHandle<()>>,
    ending: CancellationToken,
    agent: InCharge,
    /// Until the very end.
    _watchdog: AbortOnDropHandle<()>,
}

/// Why the program did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// The configuration does not hold together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cascade, its networks or its peers are at fault.
    #[error(transparent)]
    Agent(#[from] StartError),
    /// The HTTP API does not run.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The page is not served.
    #[error(transparent)]
    Page(#[from] PageServeError),
    /// An input cannot begin.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Images cannot be kept for later.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// An output cannot begin.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl Program {
    /// Loads the networks and opens inputs and outputs. From then on the configuration, which was loaded from `source`, and
    /// the files that it names are followed.
    ///
    /// Must be called in a tokio runtime; loading blocks for some 100 ms.
    ///
    /// # Errors
    /// A [`ProgramError`] that names the file, address or field at fault.
    pub fn start(config: &Config, source: Source) -> Result<Self, ProgramError> {
        config.check_run()?;
        let metrics = Metrics::of(config);
        let ending = CancellationToken::new();
        let (outputs, ways_in) = Outputs::start(&config.outputs, &metrics, &ending)?;
        let page = page::Loaded::load(config)?;
        let agent = InCharge::new(while_loading(|| Agent::start(config))?);
        let power = Power::new(&config.power, &metrics);
        power.enter(&agent, Class::Mains);
        let announcer = Announcer::new(ways_in);
        let bounds = Bounds {
            places: config.max_in_flight,
            callers: config.max_in_flight + config.api.as_ref().map_or(0, |api| api.max_waiting),
            bytes: config.api.as_ref().map_or(0, |api| api.max_waiting_bytes),
        };
        let tasks = TaskTracker::new();
        let (queue, thread) = match config.delivery {
            Delivery::Now => (None, None),
            Delivery::Eventually => {
                let queue = Queue::open(&config.queue, announcer.clone(), metrics.clone());
                let (queue, thread) = queue?;
                let courier = carry(
                    queue.clone(),
                    agent.clone(),
                    metrics.clone(),
                    ending.clone(),
                );
                tasks.spawn(courier);
                (Some(queue), Some(thread))
            }
        };
        let auditor = Auditor::new(&config.audit, &metrics, &power);
        let intake = Intake::new(
            agent.clone(),
            announcer.clone(),
            metrics.clone(),
            bounds,
            (queue, auditor.clone()),
            tasks.clone(),
            ending.clone(),
        );
        tasks.spawn(follow_link(agent.clone(), metrics.clone(), ending.clone()));
        tasks.spawn(power.clone().follow(agent.clone(), ending.clone()));
        inputs::watch(config, &intake, &metrics, &power, &ending, &tasks)?;
        let reloads = Reloads::default();
        let start = |api: &ApiConfig| {
            let context = Context {
                intake,
                announcer,
                metrics: metrics.clone(),
                ending: ending.clone(),
                max_image_bytes: config.images.max_bytes,
                upload: Duration::from_secs(api.upload_seconds),
                listeners: Arc::new(Semaphore::new(MOST_LISTENERS)),
                reloads: reloads.clone(),
                power: power.clone(),
            };
            Api::start(api, context)
        };
        let api = config.api.as_ref().map(start).transpose()?;
        let start = |(settings, page)| page::Served::start(settings, page, metrics.clone());
        let page = config.page.as_ref().zip(page).map(start).transpose()?;
        let (certificates, latest) = watch::channel(Certificate::all_of(config));
        let certificates_followed = certificates::follow(latest, metrics.clone());
        tasks.spawn(
            ending
                .clone()
                .run_until_cancelled_owned(certificates_followed),
        );
        let reloader = Reloader {
            config: config.clone(),
            certificates,
            auditor,
            source,
            agent: agent.clone(),
            api: api.as_ref().map(|api| api.credentials().clone()),
            page: page.as_ref().map(|page| page.in_use().clone()),
            metrics,
            reloads,
            power,
        };
        tasks.spawn(ending.clone().run_until_cancelled_owned(reloader.follow()));
        let watched = agent.clone();
        let watchdog = watchdog(move || watched.get().engine().oldest_turn());
        give_back_in_time();
        tasks.spawn(
            ending
                .clone()
                .run_until_cancelled_owned(keep_giving_code_back()),
        );
        Ok(Self {
            api,
            page,
            tasks,
            outputs,
            queue: thread,
            ending,
            agent,
            _watchdog: AbortOnDropHandle::new(tokio::spawn(watchdog)),
        })
    }

    /// The address of the API, where there is one.
    pub fn api_addr(&self) -> Option<SocketAddr> {
        self.api.as_ref().map(Api::local_addr)
    }

    /// The address of the page that is a device, where there is one.
    pub fn page_addr(&self) -> Option<SocketAddr> {
        self.page.as_ref().map(page::Served::local_addr)
    }

    /// Answers images until `shutdown`, then those that were taken up, and delivers what was said about them.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        ready(ANSWERING);
        shutdown.await;
        stopping();
        tracing::info!("ending: answering what was taken up");
        self.ending.cancel();
        self.tasks.close();
        let api = async {
            if let Some(api) = self.api {
                api.end(self.agent.get().deadline() + PATIENCE).await;
            }
        };
        let page = async {
            if let Some(page) = self.page {
                page.end(PATIENCE).await;
            }
        };
        tokio::join!(api, page, self.tasks.wait());
        if let Some(queue) = self.queue {
            // All ways to it are gone: it ends once what it was told is on disk.
            let _ = spawn_blocking(|| queue.join()).await;
        }
        self.outputs.end().await;
    }
}
