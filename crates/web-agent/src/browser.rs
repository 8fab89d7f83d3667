//! What JavaScript sees, and the browser as a [`Host`].
//!
//! Objects cross as JSON: what is said about an image is a few hundred bytes, and its shape is that of `edge-agent`.

#[cfg(target_feature = "atomics")]
mod threads;

use std::{
    cell::RefCell,
    collections::HashMap,
    error::Error as _,
    panic,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::try_join_all;
use js_sys::{Date, Error, Function, JSON, Map, Promise, Reflect, Uint8Array};
use outpost_cascade::{DecideBy, FallbackCause, Mode};
use outpost_exit_policy::Goal;
use outpost_offload::{Failure, Kind, error_chain};
use outpost_proto::inference::{
    ModelInferRequest, ModelInferResponse, ServerReadyRequest,
    grpc_inference_service_client::GrpcInferenceServiceClient,
};
use outpost_runtime::Digested;
use serde::Serialize;
use tonic::{Code, Request, Response, Status, metadata::AsciiMetadataValue};
use tonic_web_wasm_client::{Client, Error as CallError};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, future_to_promise, spawn_local};

use crate::{Agent as Driver, Description, Event, Host, LocalFuture, Said};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(handler: &Function, milliseconds: f64) -> JsValue;
    #[wasm_bindgen(js_name = clearTimeout)]
    fn clear_timeout(timer: &JsValue);
    #[wasm_bindgen(js_namespace = performance, js_name = now)]
    fn performance_now() -> f64;
    #[wasm_bindgen(js_namespace = ["crypto", "subtle"], catch)]
    async fn digest(algorithm: &str, bytes: &Uint8Array) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn console_error(words: &str);
}

/// Has a panic say where it was before it ends the program.
#[wasm_bindgen(start)]
fn begin() {
    panic::set_hook(Box::new(|panic| console_error(&panic.to_string())));
}

/// Files with their digests.
#[wasm_bindgen]
pub struct Files(HashMap<String, Digested>);

#[wasm_bindgen]
impl Files {
    /// Takes a `Map` of paths to `Uint8Array`s, and has the browser compute their digests: several times as fast as in
    /// WebAssembly, and beside it. They must not change until it is done.
    ///
    /// # Errors
    /// An `Error` where the browser computes none: it does so for pages that came over TLS, or from this machine.
    pub async fn take(files: Map) -> Result<Files, JsValue> {
        let mut taken = Vec::new();
        files.for_each(&mut |bytes, path| {
            if let (Some(path), Ok(bytes)) = (path.as_string(), bytes.dyn_into::<Uint8Array>()) {
                taken.push((path, bytes));
            }
        });
        let digested = taken.into_iter().map(|(path, bytes)| async move {
            let digest = Uint8Array::new(&digest("SHA-256", &bytes).await?);
            let mut sha256 = [0; 32];
            if digest.length() != 32 {
                return Err(Error::new("the browser's SHA-256 does not have 32 bytes").into());
            }
            digest.copy_to(&mut sha256);
            Ok::<_, JsValue>((path, Digested::with_digest(bytes.to_vec(), sha256)))
        });
        Ok(Self(try_join_all(digested).await?.into_iter().collect()))
    }
}

/// The device program: takes one image after the other through the cascade of its description.
#[wasm_bindgen]
pub struct Agent {
    driver: Rc<Driver<Browser>>,
}

#[wasm_bindgen]
impl Agent {
    /// Checks `files` by the digests of `description`, the text of `agent.json`, and loads the cascade. `options.cloud` is the
    /// origin that has the service. `heard` is told of what comes after an answer, a correction or a confirmation, and of
    /// `{kind: "unauthenticated"}` where the service does not know the token.
    ///
    /// # Errors
    /// An `Error` whose message says what does not fit, and what to do.
    #[wasm_bindgen(constructor)]
    pub fn new(
        description: &str,
        files: Files,
        options: &JsValue,
        heard: Function,
    ) -> Result<Agent, JsValue> {
        let description = Description::parse(description).map_err(thrown)?;
        let cloud = Reflect::get(options, &"cloud".into())?;
        let cloud = cloud.as_string().ok_or_else(|| {
            Error::new("`cloud` is missing: give the origin that has the service")
        })?;
        let browser = Browser {
            // The paths of calls begin with a slash.
            cloud: cloud.trim_end_matches('/').to_owned(),
            token: RefCell::default(),
            heard: Rc::new(heard),
        };
        let driver = Driver::start(&description, files.0, browser).map_err(thrown)?;
        Ok(Self {
            driver: Rc::new(driver),
        })
    }

    /// Shows this token to the cloud from now on; none where it is empty.
    ///
    /// # Errors
    /// An `Error` where it cannot be in a header.
    pub fn set_token(&self, token: &str) -> Result<(), JsValue> {
        let bearer = match token {
            "" => None,
            token => Some(format!("Bearer {token}").parse().map_err(thrown)?),
        };
        self.driver.host.token.replace(bearer);
        Ok(())
    }

    /// Whose decisions count: `device`, `policy` or `cloud`.
    ///
    /// # Errors
    /// An `Error` where it is none of these, or not for this cascade.
    pub fn set_mode(&self, mode: &str) -> Result<(), JsValue> {
        let mode = match mode {
            "device" | "device-only" => Mode::DeviceOnly,
            "policy" => Mode::Policy,
            "cloud" | "cloud-only" => Mode::CloudOnly,
            _ => {
                let words = format!("{mode:?} is no mode: give device, policy or cloud");
                return Err(Error::new(&words).into());
            }
        };
        self.decide_by(None, Some(mode))
    }

    /// What the operating point is to meet: `loss=POINTS`, `time=5ms`, `offload=20%`, `price=POINTS`, or its name.
    ///
    /// # Errors
    /// An `Error` where no operating point meets it.
    pub fn set_goal(&self, goal: &str) -> Result<(), JsValue> {
        self.decide_by(Some(goal.parse().map_err(thrown)?), None)
    }

    /// Decides by the operating point of this name.
    ///
    /// # Errors
    /// An `Error` where there is none.
    pub fn set_point(&self, name: &str) -> Result<(), JsValue> {
        self.decide_by(Some(Goal::Name(name.to_owned())), None)
    }

    /// Answers an image, a JPEG, PNG or WebP file: a promise of exactly one answer by the deadline, rejected with an `Error` for
    /// what is no image.
    pub fn classify(&self, id: String, image: Vec<u8>) -> Promise {
        let driver = self.driver.clone();
        future_to_promise(async move {
            let heard = driver.host.heard.clone();
            let said = driver.classify(id.clone(), image.into()).await;
            let Said {
                answered,
                correction,
            } = said.map_err(thrown)?;
            let first = event(&id, (Kind::Answer, correction.is_none()), answered.clone())?;
            if let Some(correction) = correction {
                spawn_local(async move {
                    let (kind, answered) = match correction.await {
                        Some(corrected) => (Kind::Correction, corrected),
                        None => (Kind::Confirmation, answered),
                    };
                    if let Ok(event) = event(&id, (kind, true), answered) {
                        tell(&heard, &event);
                    }
                });
            }
            Ok(first)
        })
    }

    /// What images are decided by and how the cloud is reached, as `GET /v1/state` of `edge-agent` has it.
    ///
    /// # Errors
    /// None that is known.
    pub fn state(&self) -> Result<JsValue, JsValue> {
        object(&self.driver.state())
    }

    fn decide_by(&self, goal: Option<Goal>, mode: Option<Mode>) -> Result<(), JsValue> {
        let change = DecideBy { goal, mode };
        self.driver.decide_by(&change).map_err(thrown)
    }
}

/// The page that the agent runs in.
pub(crate) struct Browser {
    cloud: String,
    token: RefCell<Option<AsciiMetadataValue>>,
    heard: Rc<Function>,
}

impl Browser {
    fn client(&self) -> GrpcInferenceServiceClient<Client> {
        GrpcInferenceServiceClient::new(Client::new(self.cloud.clone()))
    }

    fn request<T>(&self, mut request: Request<T>) -> Request<T> {
        if let Some(token) = &*self.token.borrow() {
            let metadata = request.metadata_mut();
            metadata.insert("authorization", token.clone());
        }
        request
    }
}

impl Host for Browser {
    #[cfg(target_feature = "atomics")]
    fn threads(&self) -> outpost_runtime::Threads {
        threads::of_this_thread()
    }

    fn now(&self) -> Duration {
        Duration::from_secs_f64(performance_now() / 1e3)
    }

    fn sleep(&self, time: Duration) -> LocalFuture<()> {
        Box::pin(Sleep::new(time))
    }

    fn spawn(&self, future: LocalFuture<()>) {
        spawn_local(future);
    }

    fn infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> LocalFuture<Result<Response<ModelInferResponse>, Failure>> {
        let (mut client, request) = (self.client(), self.request(request));
        let heard = self.heard.clone();
        Box::pin(async move {
            client.model_infer(request).await.map_err(|status| {
                if status.code() == Code::Unauthenticated
                    && let Ok(event) = JSON::parse(r#"{"kind":"unauthenticated"}"#)
                {
                    tell(&heard, &event);
                }
                failure_of(status)
            })
        })
    }

    fn ready(&self) -> LocalFuture<Result<(), Failure>> {
        let mut client = self.client();
        let request = self.request(Request::new(ServerReadyRequest {}));
        Box::pin(async move {
            let ready = client.server_ready(request).await.map_err(failure_of)?;
            match ready.get_ref().ready {
                true => Ok(()),
                false => Err(Failure::of_status(Status::unavailable(
                    "the server says that it is not ready",
                ))),
            }
        })
    }
}

/// Why a call gave nothing: a browser tells no more of a request that failed than that it did.
fn failure_of(status: Status) -> Failure {
    let call = status.source().and_then(|source| source.downcast_ref());
    match call {
        Some(CallError::JsError(_)) => Failure::of_call(FallbackCause::Unreachable, status),
        _ => Failure::of_status(status),
    }
}

/// A timer, which ends with what waits for it.
struct Sleep {
    timer: JsValue,
    over: JsFuture,
}

impl Sleep {
    fn new(time: Duration) -> Self {
        let mut timer = JsValue::UNDEFINED;
        let over = Promise::new(&mut |resolve, _| {
            timer = set_timeout(&resolve, time.as_secs_f64() * 1e3);
        });
        Self {
            over: over.into(),
            timer,
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.over).poll(context).map(|_| ())
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        clear_timeout(&self.timer);
    }
}

fn event(
    id: &str,
    kind: (Kind, bool),
    answered: outpost_offload::Answered,
) -> Result<JsValue, JsValue> {
    let at = Date::new_0().to_iso_string().into();
    object(&Event::new(id.to_owned(), at, kind, answered))
}

/// A plain object of JavaScript.
fn object(of: &impl Serialize) -> Result<JsValue, JsValue> {
    let json = serde_json::to_string(of).map_err(thrown)?;
    JSON::parse(&json)
}

/// Whoever hears throws into nobody's hands.
fn tell(heard: &Function, event: &JsValue) {
    if let Err(error) = heard.call1(&JsValue::NULL, event) {
        console_error(&format!("what hears the agent failed: {error:?}"));
    }
}

/// An `Error` of JavaScript, with the causes of `error` in its message.
fn thrown(error: impl std::error::Error + 'static) -> JsValue {
    Error::new(&error_chain(&error)).into()
}
