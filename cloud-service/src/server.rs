//! Putting the program together: models, listener, health, reflection, an orderly end.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use outpost_proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use outpost_supervision::{Digests, ready as tell_ready, stopping, watchdog};
use outpost_transport::{
    BindError, ClientAuthentication, Listener, ListenerConfig, ServeError, ServerTls,
};
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::{Routes, interceptor::InterceptedService};

use crate::{
    access::{Access, PageTokens},
    cascade::CascadeError,
    config::{Batching, Config, ConfigError, Mode},
    credentials::{Credentials, CredentialsError, Follower, SERVING, Users, files},
    metrics::Metrics,
    operations::{Operations, Ready},
    page::{self, Page, PageError},
    repository::{LoadError, Repository},
    service::InferenceService,
    web::beside,
};

/// The calls that may come before a handshake is done: they change nothing, so that a copy of one costs its time alone.
const MAY_RUN_TWICE: &[&str] = &[
    "/inference.GRPCInferenceService/ModelInfer",
    "/inference.GRPCInferenceService/ModelReady",
    "/inference.GRPCInferenceService/ModelMetadata",
    "/inference.GRPCInferenceService/ModelStatistics",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
    "/inference.GRPCInferenceService/ServerMetadata",
    "/inference.GRPCInferenceService/RepositoryIndex",
    "/grpc.health.v1.Health/Check",
];

/// Why the service did not start or did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The configuration does not hold together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A network could not be loaded.
    #[error(transparent)]
    Model(#[from] LoadError),
    /// A cascade could not be loaded.
    #[error(transparent)]
    Cascade(#[from] CascadeError),
    /// The page, or what it runs, is at fault.
    #[error(transparent)]
    Page(#[from] PageError),
    /// There is no network to serve.
    #[error("no network in {0} has its weights: run `lab fetch NAME`, or name another folder")]
    NoModels(String),
    /// A certificate, a key, an authority or the identities are at fault.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The address is not to be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The address of metrics, health and the status page is not to be had.
    #[error(
        "cannot listen on {address} for metrics and health: stop what listens there, or change `operations_address`"
    )]
    Operations {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Reflection could not be set up.
    #[error("the protocol's descriptors are broken")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Serving failed.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// A service that is bound and ready to serve.
pub struct Server {
    listener: Listener,
    routes: Routes,
    repository: Arc<Repository>,
    config: Arc<Config>,
    health: tonic_health::server::HealthReporter,
    operations: Option<Operations>,
    ready: Ready,
    credentials: Follower,
    page_tokens: Option<PageTokens>,
}

type InferenceServer = GrpcInferenceServiceServer<InferenceService>;

/// What a configuration comes to, where nothing is at fault; its text says so to a person.
#[derive(Debug)]
pub struct Checked {
    networks: Vec<(String, Batching)>,
    cascades: Vec<String>,
    tls: Option<TlsChecked>,
    /// How many may call; everybody where it is `None`.
    identities: Option<usize>,
    page: Option<String>,
}

#[derive(Debug)]
struct TlsChecked {
    days_left: Option<u64>,
    clients: &'static str,
    takes_early_data: bool,
}

impl TlsChecked {
    fn of(tls: &ServerTls, takes_early_data: bool) -> Self {
        let left = |until: SystemTime| until.duration_since(SystemTime::now()).unwrap_or_default();
        Self {
            days_left: tls
                .identity
                .facts()
                .map(|facts| left(facts.valid_until).as_secs() / 86_400),
            clients: match tls.clients {
                ClientAuthentication::None => "clients are not asked for certificates",
                ClientAuthentication::Optional(_) => "clients may show certificates",
                ClientAuthentication::Required(_) => "clients must show certificates",
            },
            takes_early_data,
        }
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the configuration holds")?;
        match &self.tls {
            Some(tls) => {
                write!(f, "  TLS, with a certificate and a key that fit")?;
                if let Some(days) = tls.days_left {
                    write!(f, ", for another {days} days")?;
                }
                writeln!(f, "; {}", tls.clients)?;
                if tls.takes_early_data {
                    let words = "calls that change nothing are taken before a handshake is done";
                    writeln!(f, "  {words}")?;
                }
            }
            None => {
                let words = "no TLS: for the inside of a network, behind a proxy that adds it";
                writeln!(f, "  {words}")?;
            }
        }
        match self.identities {
            Some(count) => writeln!(f, "  {count} identities may call")?,
            None => writeln!(f, "  everybody may call who reaches the address")?,
        }
        for name in &self.cascades {
            writeln!(f, "  {name}: a cascade, from this site on")?;
        }
        for (name, batching) in &self.networks {
            writeln!(
                f,
                "  {name}: batches of up to {}, {} at a time, {} images may wait",
                batching.max_batch, batching.instances, batching.max_queue
            )?;
        }
        if let Some(page) = &self.page {
            writeln!(f, "  {page}")?;
        }
        Ok(())
    }
}

/// Loads the networks off the async threads.
async fn load_networks(
    config: &Arc<Config>,
    metrics: &Metrics,
) -> Result<Arc<Repository>, ServerError> {
    let (for_loading, metrics) = (config.clone(), metrics.clone());
    let runtime = tokio::runtime::Handle::current();
    let load = move || {
        // Peers of cascades connect meanwhile.
        let _entered = runtime.enter();
        Repository::load(for_loading, metrics)
    };
    let repository = tokio::task::spawn_blocking(load)
        .await
        .expect("loading networks does not panic")?;
    let is_empty = repository.names().is_empty() && repository.cascades().is_empty();
    if is_empty && config.repository.mode == Mode::Fixed {
        return Err(ServerError::NoModels(config.models.display().to_string()));
    }
    Ok(Arc::new(repository))
}

/// Reads the page, off the async threads, where there is one; what its device asks for must be served.
async fn load_page(
    config: &Arc<Config>,
    repository: &Repository,
) -> Result<Option<outpost_page::Page>, ServerError> {
    let Some(page) = config.page.clone() else {
        return Ok(None);
    };
    let for_loading = config.clone();
    let load = move || page::load(&page, &for_loading);
    let files = tokio::task::spawn_blocking(load)
        .await
        .expect("reading the page does not panic")?;
    // Elsewhere what is served may still come.
    if config.repository.mode == Mode::Fixed {
        page::check_served(&files, repository)?;
    }
    Ok(Some(files))
}

/// Follows the model folder.
async fn follow_folder(repository: Arc<Repository>, every: Duration) {
    let mut looks = tokio::time::interval(every);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first look is at once, and the networks were just loaded.
    looks.tick().await;
    loop {
        looks.tick().await;
        let repository = repository.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || repository.follow_folder()).await {
            tracing::error!(%error, "a look at the model folder failed");
        }
    }
}

impl Server {
    /// Checks what [`Server::start`] checks, without listening.
    ///
    /// # Errors
    /// The [`ServerError`] with which `start` would refuse.
    pub async fn check(config: Config) -> Result<Checked, ServerError> {
        config.check()?;
        let Credentials {
            tls, identities, ..
        } = Credentials::load(&config)?;
        let config = Arc::new(config);
        let repository = load_networks(&config, &Metrics::default()).await?;
        let page = load_page(&config, &repository).await?;
        let batching = |name: String| {
            let batching = config.batching(&name).clone();
            (name, batching)
        };
        Ok(Checked {
            networks: repository.names().into_iter().map(batching).collect(),
            cascades: repository.cascades(),
            tls: tls
                .as_ref()
                .map(|tls| TlsChecked::of(tls, config.early_data)),
            identities: identities.map(|identities| identities.count()),
            page: page.map(|page| page.summary()),
        })
    }

    /// Loads the networks, then binds the address.
    ///
    /// # Errors
    /// A [`ServerError`] that names the file or address at fault.
    pub async fn start(config: Config) -> Result<Self, ServerError> {
        config.check()?;
        let seen = Digests::of(files(&config));
        let Credentials {
            tls, identities, ..
        } = Credentials::load(&config)?;
        let config = Arc::new(config);
        let metrics = Metrics::default();
        metrics.credentials_loaded(tls.as_ref());
        let mut access = identities.map(|identities| Access::new(identities, metrics.clone()));
        let ready = Ready::default();
        // First, so that it says "not ready" while the networks load.
        let operations = match config.operations_address {
            Some(address) => {
                let started = Operations::start(address, metrics.clone(), ready.clone()).await;
                Some(started.map_err(|source| ServerError::Operations { address, source })?)
            }
            None => None,
        };
        let repository = load_networks(&config, &metrics).await?;
        let page = load_page(&config, &repository).await?;
        let page = page.zip(config.page.as_ref()).map(|(files, settings)| {
            let tokens = PageTokens::new(
                settings,
                files.may_ask_for().iter().cloned().collect(),
                metrics.clone(),
            );
            (files, tokens)
        });
        if let Some((files, tokens)) = &page {
            let known = access.unwrap_or_else(|| Access::open(metrics.clone()));
            access = Some(known.with_page(tokens.clone()));
            tracing::info!("{}", files.summary());
        }
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<InferenceServer>().await;
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(outpost_proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let service = InferenceService::new(
            repository.clone(),
            config.limits.clone(),
            metrics.clone(),
            ready.clone(),
        );
        let inference = InferenceServer::new(service)
            .max_decoding_message_size(config.limits.max_message_bytes)
            .max_encoding_message_size(config.limits.max_message_bytes);
        let mut routes = Routes::builder();
        match &access {
            Some(access) => routes.add_service(InterceptedService::new(inference, access.clone())),
            None => routes.add_service(inference),
        };
        routes
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            // Older tools know only this one.
            .add_service(reflection().build_v1alpha()?);
        let mut routes = routes.routes();
        let web = config.web();
        let page_tokens = page.as_ref().map(|(_, tokens)| tokens.clone());
        if let Some(web) = &web {
            let page = page.map(|(files, tokens)| Page::new(files, tokens, web.origins.clone()));
            routes = beside(routes, page);
        }
        let mut listener = ListenerConfig::new(config.address, tls);
        listener.web = web;
        listener.http3 &= config.http3;
        listener.congestion = config.congestion;
        if config.early_data {
            listener.early_data = MAY_RUN_TWICE;
        }
        config.limits.apply_to(&mut listener);
        let listener = Listener::bind(listener).await?;
        let users = Users {
            tls: listener.tls(),
            access,
            repository: repository.clone(),
        };
        let credentials = Follower::new(config.clone(), seen, users, metrics);
        // From here on a connection is accepted, and answered once `serve` runs.
        ready.set(true);
        Ok(Self {
            listener,
            routes,
            repository,
            config,
            health,
            operations,
            ready,
            credentials,
            page_tokens,
        })
    }

    /// The bound address of both transports.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// The bound address of metrics, health and the status page; `None` where there is none.
    pub fn operations_addr(&self) -> Option<SocketAddr> {
        self.operations.as_ref().map(Operations::local_addr)
    }

    /// Whether the page is served.
    pub fn has_page(&self) -> bool {
        self.page_tokens.is_some()
    }

    /// Names of the networks and cascades served.
    pub fn models(&self) -> Vec<String> {
        let mut names = self.repository.names();
        names.extend(self.repository.cascades());
        names
    }

    /// Serves until `shutdown` completes; then health says "not serving", and what was accepted is
    /// answered.
    ///
    /// # Errors
    /// [`ServerError::Serve`] when the sockets fail.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServerError> {
        let (health, ready) = (self.health, self.ready);
        let draining = ready.clone();
        let delay = Duration::from_secs(self.config.limits.drain_delay_seconds);
        let shutdown = async move {
            shutdown.await;
            stopping();
            draining.set(false);
            health.set_not_serving::<InferenceServer>().await;
            // The empty name stands for the server as a whole.
            health
                .set_service_status("", tonic_health::ServingStatus::NotServing)
                .await;
            tokio::time::sleep(delay).await;
        };
        let _credentials = AbortOnDropHandle::new(tokio::spawn(self.credentials.follow()));
        let follower = (self.config.repository.mode == Mode::Poll).then(|| {
            let every = Duration::from_secs(self.config.repository.poll_seconds);
            AbortOnDropHandle::new(tokio::spawn(follow_folder(self.repository.clone(), every)))
        });
        let tokens = self.page_tokens;
        let _tokens = tokens.map(|tokens| AbortOnDropHandle::new(tokio::spawn(tokens.follow())));
        let watched = self.repository.clone();
        let _watchdog = AbortOnDropHandle::new(tokio::spawn(watchdog(move || watched.oldest())));
        tell_ready(SERVING);
        let served = self.listener.serve(self.routes, shutdown).await;
        ready.set(false);
        // Metrics and health are there until the last call is answered.
        drop(self.operations);
        drop(follower);
        self.repository.end().await;
        Ok(served?)
    }
}
