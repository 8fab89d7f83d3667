//! A service to call, on a runtime of its own so that it can be killed as a process would be.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use outpost_proto::inference::{
    ModelInferRequest, ModelInferResponse,
    grpc_inference_service_client::GrpcInferenceServiceClient,
    grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
};
use tokio::{
    runtime::Runtime,
    sync::{Semaphore, oneshot},
    task::JoinHandle,
};
use tonic::{Request, Response, Status, service::Routes};

use crate::{
    Channel, ClientConfig, DEFAULT_MAX_MESSAGE_BYTES, Deadline, EarlyData, Identity, Listener,
    ListenerConfig, PeerCertificate, Protocol, ServeError, ServerTls, TlsHandle, Transport, Trust,
    development_certificates::{Certificates, Subjects, Validity},
};

pub(super) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
pub(super) const BOTH: [Transport; 2] = [Transport::H2, Transport::H3];

/// Longer than anything here takes; a test that gets there has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Answers by the name of the model.
#[derive(Clone)]
pub(super) struct Scripted {
    /// One permit for each `hold` call that has begun.
    pub(super) begun: Arc<Semaphore>,
    /// One permit for each `hold` call that may end.
    pub(super) release: Arc<Semaphore>,
    /// One permit for each `hold` call that is over, answered or not.
    pub(super) over: Arc<Semaphore>,
    /// The calls that were served, by what they sent.
    pub(super) served: Arc<Mutex<Vec<Bytes>>>,
}

impl Scripted {
    fn new() -> Self {
        let semaphore = || Arc::new(Semaphore::new(0));
        Self {
            begun: semaphore(),
            release: semaphore(),
            over: semaphore(),
            served: Arc::default(),
        }
    }
}

struct OnDrop(Arc<Semaphore>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Scripted {
    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let protocol = request.extensions().get::<Protocol>().copied();
        let deadline = request.extensions().get::<Deadline>().copied();
        let peer = request.remote_addr();
        let certificate = request.extensions().get::<Arc<PeerCertificate>>().cloned();
        let token = request.metadata().get("authorization");
        let token = token.map(|token| token.to_str().unwrap().to_owned());
        let early_data = request.extensions().get::<EarlyData>().copied();
        let request = request.into_inner();
        let sent = request.raw_input_contents.first().cloned();
        self.served.lock().unwrap().push(sent.unwrap_or_default());
        let mut response = ModelInferResponse {
            model_name: request.model_name.clone(),
            raw_output_contents: request.raw_input_contents,
            ..Default::default()
        };
        match request.model_name.as_str() {
            "echo" => {}
            "protocol" => response.id = protocol.unwrap().to_string(),
            "peer" => response.id = peer.unwrap().to_string(),
            "deadline" => response.id = deadline.unwrap().remaining().as_millis().to_string(),
            "early" => response.id = format!("{early_data:?}"),
            "names" => {
                let certificate = certificate.expect("a certificate was shown");
                response.id = certificate.names().join(" ");
            }
            "token" => response.id = token.unwrap_or_default(),
            "hold" => {
                let _over = OnDrop(self.over.clone());
                response.id = format!("{early_data:?}");
                self.begun.add_permits(1);
                self.release.acquire().await.unwrap().forget();
            }
            other => return Err(Status::not_found(other.to_owned())),
        }
        Ok(Response::new(response))
    }
}

pub(super) fn subjects() -> Subjects {
    Subjects {
        hosts: vec!["localhost".into(), "127.0.0.1".into()],
        clients: vec!["camera-7".into(), "camera-8".into()],
    }
}

pub(super) fn certificates() -> Certificates {
    Certificates::issue(&subjects(), Validity::days(1)).unwrap()
}

pub(super) fn identity(certificates: &Certificates) -> Identity {
    Identity::from_pem(
        certificates.chain_pem.as_bytes(),
        certificates.key_pem.as_bytes(),
    )
    .unwrap()
}

/// A service that runs until it is stopped or killed.
pub(super) struct Cloud {
    pub(super) address: SocketAddr,
    pub(super) script: Scripted,
    certificates: Certificates,
    runtime: Option<Runtime>,
    shutdown: Option<oneshot::Sender<()>>,
    pub(super) tls: Option<TlsHandle>,
    served: JoinHandle<Result<(), ServeError>>,
}

impl Cloud {
    pub(super) async fn start() -> Self {
        Self::start_with(certificates(), LOOPBACK, |_| {}).await
    }

    pub(super) async fn start_with(
        certificates: Certificates,
        address: SocketAddr,
        adjust: impl FnOnce(&mut ListenerConfig),
    ) -> Self {
        let mut config = ListenerConfig::new(address, Some(identity(&certificates).into()));
        adjust(&mut config);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let bound = runtime.spawn(Listener::bind(config)).await;
        let listener = bound.unwrap().unwrap();
        let address = listener.local_addr();
        let tls = listener.tls();
        let script = Scripted::new();
        let service = GrpcInferenceServiceServer::new(script.clone())
            .max_decoding_message_size(DEFAULT_MAX_MESSAGE_BYTES);
        let (shutdown, on_shutdown) = oneshot::channel();
        let served = runtime.spawn(listener.serve(Routes::new(service), async {
            let _ = on_shutdown.await;
        }));
        Self {
            address,
            script,
            certificates,
            runtime: Some(runtime),
            shutdown: Some(shutdown),
            tls,
            served,
        }
    }

    pub(super) fn config(&self, transport: Transport) -> ClientConfig {
        ClientConfig {
            transport,
            trust: Trust::Authority(self.certificates.authority_pem.clone().into()),
            ..ClientConfig::new(format!("https://{}", self.address))
        }
    }

    pub(super) fn channel(&self, transport: Transport) -> Channel {
        Channel::new(self.config(transport)).unwrap()
    }

    /// The TLS that it was started with, without a word about clients.
    pub(super) fn original_tls(&self) -> ServerTls {
        identity(&self.certificates).into()
    }

    /// Begins the shutdown.
    pub(super) fn shut_down(&mut self) {
        let _ = self.shutdown.take().unwrap().send(());
    }

    /// Waits until it has ended in order.
    pub(super) async fn ended(&mut self) {
        let served = tokio::time::timeout(PATIENCE, &mut self.served).await;
        served.unwrap().unwrap().unwrap();
    }

    /// Ends it as a killed process ends: its sockets close, and no farewell is sent.
    pub(super) async fn kill(&mut self) {
        let runtime = self.runtime.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE))
            .await
            .unwrap();
    }

    /// Starts it again where it was.
    pub(super) async fn restart(&self) -> Self {
        self.restart_with(|_| {}).await
    }

    pub(super) async fn restart_with(&self, adjust: impl FnOnce(&mut ListenerConfig)) -> Self {
        Self::start_with(self.certificates.clone(), self.address, adjust).await
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(super) type Client = GrpcInferenceServiceClient<Channel>;

pub(super) fn client(channel: Channel) -> Client {
    let max_message_bytes = channel.max_message_bytes();
    Client::new(channel)
        .max_decoding_message_size(max_message_bytes)
        .max_encoding_message_size(usize::MAX)
}

pub(super) fn request(model: &str, payload: usize) -> ModelInferRequest {
    ModelInferRequest {
        model_name: model.into(),
        raw_input_contents: vec![vec![7; payload].into()],
        ..Default::default()
    }
}

pub(super) async fn infer(
    channel: &Channel,
    model: &str,
) -> Result<Response<ModelInferResponse>, Status> {
    let mut client = client(channel.clone());
    tokio::time::timeout(PATIENCE, client.model_infer(request(model, 1000)))
        .await
        .expect("the call hangs")
}
