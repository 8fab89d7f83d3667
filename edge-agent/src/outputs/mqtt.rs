//! Events as messages at an MQTT broker.
//!
//! A message counts as delivered once the broker has acknowledged it (QoS 1). Sessions are clean: what was not acknowledged
//! when a connection broke is published again over the next, also where the broker has forgotten all. A retained message
//! says whether this device is there; the broker says so itself when the connection breaks (last will).

use std::{
    future::{pending, ready},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use outpost_offload::Kind;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, EventLoop, Incoming, InvalidTopic, LastWill,
    MqttOptions, Outgoing, PublishOptions, QoS, TlsConfiguration, Transport, ValidatedTopic,
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::{
    MQTT, is_for,
    patience::{Patience, body},
};
use crate::{
    config::MqttOutput,
    event::Undelivered,
    metrics::Metrics,
    pauses::pauses,
    web::{WebError, secret, trust},
};

/// Messages that may be under way without an acknowledgement.
const UNDER_WAY: u16 = 32;
/// Seconds of silence after which the broker is asked for a sign of life; without one the connection is given up after as
/// many again.
const KEEP_ALIVE: u16 = 15;
/// Far more than an event has.
const MOST_PACKET_BYTES: usize = 1 << 20;
/// The longest that leaving may take.
const FAREWELL: Duration = Duration::from_secs(2);
const ONLINE: &str = "online";
const OFFLINE: &str = "offline";

/// The broker that takes events.
pub(super) struct Mqtt {
    options: MqttOptions,
    broker: String,
    topic: ValidatedTopic,
    availability: ValidatedTopic,
    kinds: Vec<Kind>,
    metrics: Metrics,
}

/// Why the configuration of a broker was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MqttError {
    /// A name, a topic or an identifier is empty.
    #[error("`outputs.mqtt.{0}` is empty: give one, or leave the line out where it may be")]
    Empty(&'static str),
    /// A topic that nothing can be published under.
    #[error("`outputs.mqtt.{field}` names no single topic: write one without `#` and `+`")]
    Topic {
        /// Which.
        field: &'static str,
        /// Why.
        source: InvalidTopic,
    },
    /// A name without its password, or a password without its name.
    #[error("`outputs.mqtt.{0}` is missing: a name and its password go together")]
    Incomplete(&'static str),
    /// Both are asked for.
    #[error(
        "`outputs.mqtt` has `plain` and a `certificate_authority`: without TLS there is no certificate; remove one of them"
    )]
    PlainWithAuthority,
    /// The file with the password or with the authority is at fault.
    #[error("cannot use a file of `outputs.mqtt`")]
    File(#[from] WebError),
    /// The certificate authority is at fault.
    #[error("cannot use {}", path.display())]
    Authority {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: outpost_transport::ConfigError,
    },
}

impl Mqtt {
    pub(super) fn open(config: &MqttOutput, metrics: Metrics) -> Result<Self, MqttError> {
        let availability = match &config.availability_topic {
            Some(topic) => topic.clone(),
            None => format!("{}/availability", config.topic),
        };
        let client_id = match &config.client_id {
            Some(id) => id.clone(),
            None => format!("outpost{}", Uuid::now_v7().simple()),
        };
        for (field, text) in [
            ("host", &config.host),
            ("topic", &config.topic),
            ("availability_topic", &availability),
            ("client_id", &client_id),
        ] {
            if text.is_empty() {
                return Err(MqttError::Empty(field));
            }
        }
        let topic = |field, topic: &str| {
            ValidatedTopic::new(topic).map_err(|source| MqttError::Topic { field, source })
        };
        let port = config
            .port
            .unwrap_or(if config.plain { 1883 } else { 8883 });
        let mut options = MqttOptions::new(client_id, (config.host.as_str(), port));
        options
            .set_clean_session(true)
            .set_keep_alive(KEEP_ALIVE)
            .set_inflight(UNDER_WAY)
            .set_max_packet_size(MOST_PACKET_BYTES, MOST_PACKET_BYTES)
            .set_transport(transport(config)?)
            .set_last_will(LastWill::new(
                &availability,
                OFFLINE,
                QoS::AtLeastOnce,
                true,
            ));
        match (&config.username, &config.password) {
            (Some(username), Some(path)) => {
                options.set_credentials(username, secret(path)?);
            }
            (Some(_), None) => return Err(MqttError::Incomplete("password")),
            (None, Some(_)) => return Err(MqttError::Incomplete("username")),
            (None, None) => {}
        }
        Ok(Self {
            options,
            broker: format!("{}:{port}", config.host),
            topic: topic("topic", &config.topic)?,
            availability: topic("availability_topic", &availability)?,
            kinds: config.events.clone(),
            metrics,
        })
    }

    /// Publishes events until there are no more.
    pub(super) async fn deliver_all(self, events: mpsc::Receiver<Undelivered>, patience: Patience) {
        // Room for all that is under way, and for words about this device.
        let capacity = usize::from(UNDER_WAY) + 8;
        let builder = AsyncClient::builder(self.options.clone());
        let (client, connection) = builder.capacity(capacity).build();
        let deliveries = async {
            ReceiverStream::new(events)
                .filter(|event| ready(is_for(&self.kinds, event)))
                .map(|event| {
                    let message = Bytes::from(body(&event));
                    let options = PublishOptions::at_least_once();
                    let delivery = publish(&client, &self.topic, message, options);
                    patience.deliver(event, delivery)
                })
                .buffer_unordered(UNDER_WAY.into())
                .for_each(ready)
                .await;
            let leave = async {
                let offline = Bytes::from_static(OFFLINE.as_bytes());
                publish(&client, &self.availability, offline, retained()).await;
                let _ = client.disconnect().await;
                // Until it is on its way, which ends the connection.
                pending::<()>().await;
            };
            let _ = timeout(FAREWELL, leave).await;
        };
        tokio::select! {
            () = deliveries => {}
            () = self.stay_connected(&client, connection) => {}
        }
    }

    /// Connects, again and again, until the connection is left.
    async fn stay_connected(&self, client: &AsyncClient, mut connection: EventLoop) {
        let mut pauses = pauses();
        // What was said last about an outage.
        let mut said = None;
        loop {
            match connection.poll().await {
                Ok(rumqttc::Event::Incoming(Incoming::ConnAck(_))) => {
                    pauses = crate::pauses::pauses();
                    if said.take().is_some() {
                        tracing::info!(broker = self.broker, "events are taken again");
                    }
                    let online = Bytes::from_static(ONLINE.as_bytes());
                    // There is room: the bound is above what may be under way.
                    let _ = client.try_publish(self.availability.clone(), online, retained());
                }
                Ok(rumqttc::Event::Outgoing(Outgoing::Disconnect))
                | Err(ConnectionError::RequestsDone) => return,
                Ok(_) => {}
                Err(error) => {
                    self.metrics.output_failed(MQTT);
                    let says = error.to_string();
                    if said.as_ref() != Some(&says) {
                        tracing::error!(
                            broker = self.broker,
                            error = says,
                            "events wait for the MQTT broker: {}",
                            advice(&error)
                        );
                        said = Some(says);
                    }
                    sleep(pauses.next().unwrap_or_default()).await;
                }
            }
        }
    }
}

/// Publishes a message until it is acknowledged.
async fn publish(
    client: &AsyncClient,
    topic: &ValidatedTopic,
    message: Bytes,
    options: PublishOptions,
) {
    loop {
        let sent = client.publish_tracked(topic.clone(), message.clone(), options);
        let Ok(notice) = sent.await else {
            // The connection was left for good, and nothing is taken any more.
            return pending().await;
        };
        if notice.wait_completion_async().await.is_ok() {
            return;
        }
    }
}

const fn retained() -> PublishOptions {
    PublishOptions::at_least_once().retained()
}

fn transport(config: &MqttOutput) -> Result<Transport, MqttError> {
    let authority = config.certificate_authority.as_deref();
    if config.plain {
        return match authority {
            Some(_) => Err(MqttError::PlainWithAuthority),
            None => Ok(Transport::tcp()),
        };
    }
    let tls = trust(authority)?.web_client_config();
    let tls = tls.map_err(|source| MqttError::Authority {
        path: authority.map(Into::into).unwrap_or_default(),
        source,
    })?;
    let tls = TlsConfiguration::Rustls(Arc::new(tls));
    Ok(Transport::tls_with_config(tls))
}

/// What to do about an outage.
fn advice(error: &ConnectionError) -> &'static str {
    match error {
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
        ) => "give the `username` and `password` that it knows",
        ConnectionError::ConnectionRefused(ConnectReturnCode::BadClientId) => {
            "give a `client_id` that it takes"
        }
        ConnectionError::Tls(_) => {
            "see that it speaks TLS there, give the authority of its certificate as `certificate_authority`, and as `host` a name in the certificate"
        }
        _ => "see that it runs there, and whether it speaks TLS",
    }
}
