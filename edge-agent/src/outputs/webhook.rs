//! Events as calls of a web server: a webhook.
//!
//! An event is the body of one `POST`, as JSON. It has been taken once the server answers with a status of success. A
//! server that is away, fails or says that it is too busy is called again; one that refuses an event (another status from
//! 300 to 499) would refuse it again: the event is dropped. `Idempotency-Key` names an event, so that a server can tell
//! one that it took though its answer was lost.

use std::{
    collections::BTreeSet,
    future::ready,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use outpost_offload::Kind;
use reqwest::{Method, Response, StatusCode, header};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    WEBHOOK, is_for,
    patience::{Patience, body},
};
use crate::{
    config::WebhookOutput,
    event::Event,
    metrics::Metrics,
    pauses::pauses,
    web::{Access, Server, WebError, failure},
};

/// The name of an event to its receiver, as the draft of the IETF has it.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The longest that a server's `Retry-After` is obeyed.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// The longest answer that is read, for the sake of the connection.
const MOST_ANSWER_BYTES: u64 = 4096;

/// The server that takes events.
pub(super) struct Webhook {
    server: Server,
    timeout: Duration,
    kinds: Vec<Kind>,
    at_a_time: usize,
    metrics: Metrics,
    /// Whether it was said that events wait.
    is_waiting: AtomicBool,
    /// The refusals that were told of.
    refusals: Mutex<BTreeSet<StatusCode>>,
}

/// Why a call did not bring an event to its receiver.
enum Failure {
    /// It would not take it another time either.
    Refused(StatusCode),
    /// It may take it another time.
    Away {
        error: String,
        retry_after: Option<Duration>,
    },
}

impl Webhook {
    pub(super) fn open(config: &WebhookOutput, metrics: Metrics) -> Result<Self, WebError> {
        let timeout = Duration::from_millis(config.timeout_ms);
        let server = Server::new(Access {
            section: "outputs.webhook",
            url: &config.url,
            token: config.token.as_deref(),
            username: None,
            password: None,
            certificate_authority: config.certificate_authority.as_deref(),
            plain_http: config.plain_http,
            timeout,
            // Most clients would make a `GET` of it.
            redirects: 0,
        })?;
        Ok(Self {
            server,
            timeout,
            kinds: config.events.clone(),
            at_a_time: config.at_a_time,
            metrics,
            is_waiting: AtomicBool::new(false),
            refusals: Mutex::default(),
        })
    }

    /// Delivers events until there are no more.
    pub(super) async fn deliver_all(self, events: mpsc::Receiver<Arc<Event>>, patience: Patience) {
        let webhook = &self;
        ReceiverStream::new(events)
            .filter(|event| ready(is_for(&webhook.kinds, event)))
            .map(|event| {
                let delivery = webhook.deliver(event.clone());
                patience.deliver(event, delivery)
            })
            .buffer_unordered(webhook.at_a_time)
            .for_each(ready)
            .await;
    }

    /// Calls until an event is taken or refused.
    async fn deliver(&self, event: Arc<Event>) {
        let key = format!("\"{}.{}\"", event.id, event.kind.as_str());
        let body = Bytes::from(body(&event));
        let mut pauses = pauses();
        loop {
            match self.call(&key, body.clone()).await {
                Ok(()) => {
                    if self.is_waiting.swap(false, Ordering::Relaxed) {
                        tracing::info!(server = self.server.name(), "events are taken again");
                    }
                    return;
                }
                Err(Failure::Refused(status)) => return self.refused(status),
                Err(Failure::Away { error, retry_after }) => {
                    self.metrics.output_failed(WEBHOOK);
                    if !self.is_waiting.swap(true, Ordering::Relaxed) {
                        tracing::error!(
                            server = self.server.name(),
                            error,
                            "events wait for the webhook"
                        );
                    }
                    let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
                    sleep(pause.max(retry_after.unwrap_or_default())).await;
                }
            }
        }
    }

    async fn call(&self, key: &str, body: Bytes) -> Result<(), Failure> {
        let call = self.server.request(Method::POST);
        let call = call
            .header(header::CONTENT_TYPE, "application/json")
            .header(IDEMPOTENCY_KEY, key)
            .body(body)
            .send();
        let away = |error| Failure::Away {
            error,
            retry_after: None,
        };
        let response = match timeout(self.timeout, call).await {
            Ok(response) => response.map_err(|error| away(failure(error)))?,
            Err(_) => return Err(away("it did not answer in time (`timeout_ms`)".to_owned())),
        };
        let status = response.status();
        let answer = match status {
            status if status.is_success() => Ok(()),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Err(())
            }
            status if status.is_redirection() || status.is_client_error() => {
                return Err(Failure::Refused(status));
            }
            _ => Err(()),
        };
        let retry_after = retry_after(&response);
        if response
            .content_length()
            .is_some_and(|bytes| bytes <= MOST_ANSWER_BYTES)
        {
            // A connection whose answers were read is used again.
            let _ = timeout(self.timeout, response.bytes()).await;
        }
        answer.map_err(|()| Failure::Away {
            error: format!("it answered {status}"),
            retry_after,
        })
    }

    /// Counts an event that is dropped, and tells of the first with that status.
    fn refused(&self, status: StatusCode) {
        self.metrics.output_refused(WEBHOOK);
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.insert(status) {
            let advice = match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    "give the token that it knows as `outputs.webhook.token`"
                }
                status if status.is_redirection() => "it has moved: change `outputs.webhook.url`",
                _ => "see `outputs.webhook` and what the server expects",
            };
            tracing::warn!(
                server = self.server.name(),
                %status,
                "events that the webhook refuses are dropped: {advice}"
            );
        }
    }
}

/// How long a server asks to wait.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    let pause = Duration::from_secs(seconds.trim().parse().ok()?);
    Some(pause.min(LONGEST_PAUSE))
}
