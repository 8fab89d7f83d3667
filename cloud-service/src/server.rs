//! Putting the program together: models, listener, health, reflection, an orderly end.

use std::{future::Future, net::SocketAddr, sync::Arc};

use outpost_proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use outpost_runtime::{OpenError, TractRuntime};
use outpost_transport::{
    BindError, IdentityError, Listener, ListenerConfig, ServeError, ServerIdentity,
};
use tonic::service::Routes;

use crate::{
    config::{Config, ConfigError},
    models::Models,
    service::InferenceService,
};

/// Why the service did not start or did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The configuration does not hold together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A network could not be loaded.
    #[error(transparent)]
    Model(#[from] OpenError),
    /// There is no network to serve.
    #[error("no network in {0} has its weights: run `lab fetch NAME`, or name another folder")]
    NoModels(String),
    /// The certificate or key is at fault.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The address is not to be had.
    #[error(transparent)]
    Bind(#[from] BindError),
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
    models: Vec<String>,
    health: tonic_health::server::HealthReporter,
}

type InferenceServer = GrpcInferenceServiceServer<InferenceService>;

impl Server {
    /// Loads the networks, then binds the address.
    ///
    /// # Errors
    /// A [`ServerError`] that names the file or address at fault.
    pub async fn start(config: Config) -> Result<Self, ServerError> {
        config.check()?;
        let identity = config
            .tls
            .as_ref()
            .map(|tls| ServerIdentity::load(&tls.certificate, &tls.key))
            .transpose()?;
        let config = Arc::new(config);
        let models = {
            let config = config.clone();
            tokio::task::spawn_blocking(move || Models::load(&config, &TractRuntime))
                .await
                .expect("loading networks does not panic")?
        };
        let names = models.names();
        if names.is_empty() {
            return Err(ServerError::NoModels(config.models.display().to_string()));
        }
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<InferenceServer>().await;
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(outpost_proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let inference = InferenceServer::new(InferenceService::new(models, config.limits.clone()))
            .max_decoding_message_size(config.limits.max_message_bytes)
            .max_encoding_message_size(config.limits.max_message_bytes);
        let mut routes = Routes::builder();
        routes
            .add_service(inference)
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            // Older tools know only this one.
            .add_service(reflection().build_v1alpha()?);
        let mut listener = ListenerConfig::new(config.address, identity);
        listener.http3 &= config.http3;
        listener.drain_timeout = config.limits.drain_timeout();
        Ok(Self {
            listener: Listener::bind(listener).await?,
            routes: routes.routes(),
            models: names,
            health,
        })
    }

    /// The bound address of both transports.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Names of the networks served.
    pub fn models(&self) -> &[String] {
        &self.models
    }

    /// Serves until `shutdown` completes; then health says "not serving", and what was accepted is
    /// answered.
    ///
    /// # Errors
    /// [`ServerError::Serve`] when the sockets fail.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServerError> {
        let health = self.health;
        let shutdown = async move {
            shutdown.await;
            health.set_not_serving::<InferenceServer>().await;
            // The empty name stands for the server as a whole.
            health
                .set_service_status("", tonic_health::ServingStatus::NotServing)
                .await;
        };
        Ok(self.listener.serve(self.routes, shutdown).await?)
    }
}
