//! Events as calls of a web server: a webhook.
//!
//! An event is the body of one `POST`, as JSON. It has been taken once the server answers with a status of success. A
//! server that is away, fails, says that it is too busy, or does not let this device in or know the address (a token that has
//! ended, a proxy whose server is restarted) is called again; one that refuses the event itself (another status from 400 to
//! 499) would refuse it again: the event is dropped. `Idempotency-Key` names an event, so that a server can tell one that it
//! took though its answer was lost.

use std::{
    collections::BTreeSet,
    future::ready,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    event::{Event, Undelivered},
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
    told: Mutex<Told>,
}

/// What the log was told since an event was taken.
#[derive(Debug, Default)]
struct Told {
    /// That events wait.
    is_waiting: bool,
    /// What is to be done about these.
    statuses: BTreeSet<StatusCode>,
}

/// Why a call did not bring an event to its receiver.
enum Failure {
    /// It would not take it another time either.
    Refused(StatusCode),
    /// It may take it another time.
    Away {
        error: String,
        status: Option<StatusCode>,
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
            told: Mutex::default(),
        })
    }

    /// Delivers events until there are no more.
    pub(super) async fn deliver_all(self, events: mpsc::Receiver<Undelivered>, patience: Patience) {
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
                Ok(()) => return self.taken(),
                Err(Failure::Refused(status)) => return self.refused(status),
                Err(Failure::Away {
                    error,
                    status,
                    retry_after,
                }) => {
                    self.away(&error, status);
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
            status: None,
            retry_after: None,
        };
        let response = match timeout(self.timeout, call).await {
            Ok(response) => response.map_err(|error| away(failure(error)))?,
            Err(_) => return Err(away("it did not answer in time (`timeout_ms`)".to_owned())),
        };
        let status = response.status();
        if is_about_the_event(status) {
            return Err(Failure::Refused(status));
        }
        let retry_after = retry_after(&response);
        if response
            .content_length()
            .is_some_and(|bytes| bytes <= MOST_ANSWER_BYTES)
        {
            // A connection whose answers were read is used again.
            let _ = timeout(self.timeout, response.bytes()).await;
        }
        if status.is_success() {
            return Ok(());
        }
        Err(Failure::Away {
            error: format!("it answered {status}"),
            status: Some(status),
            retry_after,
        })
    }

    /// An event was taken: what was told until then is told again where it comes again.
    fn taken(&self) {
        if mem::take(&mut *self.told()).is_waiting {
            tracing::info!(server = self.server.name(), "events are taken again");
        }
    }

    /// Counts a call in vain, and tells of the first, and of the first with each status that says what to do.
    fn away(&self, error: &str, status: Option<StatusCode>) {
        self.metrics.output_failed(WEBHOOK);
        let server = self.server.name();
        let mut told = self.told();
        let is_first = !mem::replace(&mut told.is_waiting, true);
        let advice = status.and_then(|status| {
            let advice = advice(status)?;
            told.statuses.insert(status).then_some(advice)
        });
        match advice {
            Some(advice) => {
                tracing::error!(server, error, "events wait for the webhook: {advice}");
            }
            None if is_first => tracing::error!(server, error, "events wait for the webhook"),
            None => {}
        }
    }

    /// Counts an event that is dropped, and tells of the first with that status.
    fn refused(&self, status: StatusCode) {
        self.metrics.output_refused(WEBHOOK);
        if self.told().statuses.insert(status) {
            tracing::warn!(
                server = self.server.name(),
                %status,
                "events that the webhook refuses are dropped: see `outputs.webhook` and what the server expects"
            );
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a server says by a status that it will never take the event that it got. Others are about who called, where, or
/// when: a person, or time, may mend that.
fn is_about_the_event(status: StatusCode) -> bool {
    let is_about_the_call = matches!(
        status,
        StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::PROXY_AUTHENTICATION_REQUIRED
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_EARLY
            | StatusCode::TOO_MANY_REQUESTS
    );
    status.is_client_error() && !is_about_the_call
}

/// What a person may do about a status.
fn advice(status: StatusCode) -> Option<&'static str> {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Some("give the token that it knows as `outputs.webhook.token`")
        }
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            Some("see that its receiver runs, and that `outputs.webhook.url` is its address")
        }
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            Some("let this device through the proxy on the way")
        }
        status if status.is_redirection() => Some("it has moved: change `outputs.webhook.url`"),
        _ => None,
    }
}

/// How long a server asks to wait.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    let pause = Duration::from_secs(seconds.trim().parse().ok()?);
    Some(pause.min(LONGEST_PAUSE))
}
