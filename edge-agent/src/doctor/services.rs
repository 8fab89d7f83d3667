//! The services: whether they are reached over either protocol, who they say they are, what time it is there, whether they
//! know this device, and whether they serve what the cascade needs.

use std::time::{Duration, Instant, SystemTime};

use outpost_engine::{
    Answer, Asked, PeerConfig, ServedModel, ask_about_model, ask_whether_live, error_chain,
};
use outpost_transport::{CallError, Channel, ConnectError, Protocol, Transport};
use tonic::{Code, Status};

use super::{
    Examination, Finding,
    credentials::{date, validity},
    report::Subject,
};
use crate::{Agent, config::Config};

/// A clock that is off by more is warned of: certificates, tokens and the times of answers go by it.
const CLOCK_MAY_BE_OFF: Duration = Duration::from_secs(60);

/// Asks the services of a configuration; what the cascade needs of them only an agent that started knows.
pub(super) async fn examine(
    config: &Config,
    agent: Option<&Agent>,
    examination: &mut Examination<'_>,
) {
    for (site, peer) in [("fog", &config.fog), ("cloud", &config.cloud)] {
        let Some(peers) = peer else { continue };
        let asked: Vec<Asked<'_>> = agent
            .iter()
            .flat_map(|agent| agent.engine().asked_of_peers())
            .filter(|asked| asked.peer.to_string() == site)
            .collect();
        let endpoints = peers.endpoints();
        for peer in &endpoints {
            let name = match endpoints.len() {
                1 => site.to_owned(),
                _ => format!("{site} {}", peer.url),
            };
            let service = Service { site, name, peer };
            service.examine(&asked, examination).await;
        }
    }
}

struct Service<'a> {
    site: &'static str,
    /// What it is called: the site, with its URL where there are several.
    name: String,
    peer: &'a PeerConfig,
}

impl Service<'_> {
    fn subject(&self, what: &str) -> Subject {
        let subject = match self.name == self.site {
            true => what.to_owned(),
            false => format!("{what}, {}", self.peer.url),
        };
        Finding::new(self.site, subject)
    }

    async fn examine(&self, asked: &[Asked<'_>], examination: &mut Examination<'_>) {
        let transports: &[Transport] = match self.peer.transport {
            _ if self.is_plain() => &[Transport::H2],
            Transport::H2 => &[Transport::H2],
            Transport::H3 => &[Transport::H3],
            Transport::Auto => &[Transport::H2, Transport::H3],
        };
        let mut reached = None;
        let mut has_shown = false;
        for &transport in transports {
            let protocol = match transport {
                Transport::H3 => Protocol::H3,
                _ => Protocol::H2,
            };
            let what = format!("the {} over {}", self.name, name(protocol));
            examination.look_at(&what);
            let subject = self.subject(&format!("reached over {}", name(protocol)));
            let client = self.peer.client();
            let channel = client
                .map_err(|error| error_chain(&error))
                .and_then(|mut client| {
                    client.transport = transport;
                    Channel::new(client).map_err(|error| error_chain(&error))
                });
            let channel = match channel {
                Ok(channel) => channel,
                Err(found) => {
                    examination.add(subject.failed(found, format!("correct `[{}]`", self.site)));
                    return;
                }
            };
            let started = Instant::now();
            let connected = channel.connect().await;
            let took = started.elapsed();
            if !has_shown {
                has_shown = self.certificate(&channel, examination);
            }
            match connected {
                Ok(_) => {
                    let live = ask_whether_live(&channel).await;
                    if let Some(error) = no_reply(&live) {
                        examination.add(subject.failed(error_chain(error), self.unheard(error)));
                        continue;
                    }
                    let takes_early_data = self.peer.early_data && takes_early_data(&channel).await;
                    examination.add(subject.good(format!(
                        "connects in {:.0} ms, a round trip takes {:.1} ms{}",
                        milliseconds(took),
                        milliseconds(live.round_trip),
                        match takes_early_data {
                            true => "; takes images before a handshake is done",
                            false => "",
                        }
                    )));
                    if reached.is_none() {
                        self.clock(&live, examination);
                        reached = Some((channel, live));
                    }
                }
                Err(error) => {
                    let found = error_chain(&error);
                    examination.add(match (protocol, &reached) {
                        // HTTP/2 goes on without it.
                        (Protocol::H3, Some(_)) => subject.warning(
                            found,
                            format!("images go over HTTP/2; for HTTP/3 let UDP through to {}, or set `transport = \"h2\"`", self.peer.url),
                        ),
                        _ => subject.failed(found, self.advice(&error)),
                    });
                }
            }
        }
        if let Some((channel, live)) = reached {
            self.access(&live, examination);
            for asked in asked {
                self.model(&channel, asked, examination).await;
            }
        }
    }

    /// What to do where a connection was made and no reply came.
    fn unheard(&self, error: &CallError) -> String {
        match error {
            CallError::Connect(error) => self.advice(error),
            CallError::Interrupted { .. } if self.is_plain() => self.wants_tls(),
            CallError::Interrupted { .. } => {
                "look at `client_certificate`, which the service may want, or not accept, and at the log of the service".to_owned()
            }
            _ => "look at the log of the service".to_owned(),
        }
    }

    fn wants_tls(&self) -> String {
        format!(
            "write https:// in place of http:// in the `url` of `[{}]`, as the service may speak TLS; or see what listens there",
            self.site
        )
    }

    fn is_plain(&self) -> bool {
        self.peer.url.starts_with("http://")
    }

    fn advice(&self, error: &ConnectError) -> String {
        let url = &self.peer.url;
        match error {
            ConnectError::Closed { .. } if self.is_plain() => self.wants_tls(),
            ConnectError::Tls(_) => format!(
                "look at the certificates and the clock in the other lines; `[{}]` has `certificate_authority` and `server_name`",
                self.site
            ),
            ConnectError::Refused { .. } => {
                format!("nobody listens at {url}: start the service, or correct the port")
            }
            ConnectError::UnknownHost { .. } => {
                format!("the name in {url} is not known: correct it, or look at this machine's DNS")
            }
            _ => format!("look at the network and the firewall between this machine and {url}"),
        }
    }

    /// Looks at the certificate that was shown; gives whether one was.
    fn certificate(&self, channel: &Channel, examination: &mut Examination<'_>) -> bool {
        let Some(facts) = channel.server_certificate() else {
            return false;
        };
        let subject = self.subject("certificate");
        let renew = "tell whoever runs the service to renew its certificate";
        examination.add(validity(subject, &facts, SystemTime::now(), renew));
        true
    }

    fn clock(&self, live: &Answer<()>, examination: &mut Examination<'_>) {
        let Some(there) = live.date else { return };
        let subject = Finding::new("device", format!("clock, by the {}", self.name));
        let here = SystemTime::now();
        let off = match here.duration_since(there) {
            Ok(ahead) => ahead,
            Err(behind) => behind.duration(),
        };
        // Its clock is told to the second, before the way back.
        let off = off.saturating_sub(Duration::from_secs(1) + live.round_trip);
        examination.add(match off > CLOCK_MAY_BE_OFF {
            true => subject.warning(
                format!("it is {} here and {} there", date(here), date(there)),
                "set the clock of this machine or of the service (`timedatectl set-ntp true`)",
            ),
            false => subject.good("within a minute"),
        });
    }

    /// Whether the service knows this device.
    fn access(&self, live: &Answer<()>, examination: &mut Examination<'_>) {
        let subject = self.subject("access");
        let has_credentials = self.peer.token.is_some() || self.peer.client_certificate.is_some();
        examination.add(match &live.said {
            Ok(()) if has_credentials => subject.good("the service takes calls with these credentials"),
            Ok(()) => subject.good("the service takes calls without credentials"),
            Err(status) => {
                let advice = match status.code() {
                    Code::Unauthenticated => "have a token issued for this device at the service (`cloud-service new-token`), and give its file as `token`",
                    _ => "look at the log of the service, or of the proxy before it",
                };
                subject.failed(said(status), advice)
            }
        });
    }

    async fn model(&self, channel: &Channel, asked: &Asked<'_>, examination: &mut Examination<'_>) {
        examination.look_at(&format!("the model {} at the {}", asked.model, self.name));
        let subject = self.subject(&format!("model {}", asked.model));
        let answer = ask_about_model(channel, asked.model).await;
        examination.add(match answer.said {
            Ok(ServedModel { sha256: Some(there), .. }) if asked.sha256.is_some_and(|here| here != there) => {
                subject.failed(
                    "it has other weights than the manifest here says",
                    "copy the network's folder from the service, and learn policies again; or have the service load the version that is here",
                )
            }
            Ok(served) => {
                let versions = served.versions.join(", ");
                let weights = match (served.sha256, asked.sha256) {
                    (Some(_), Some(_)) => ", with the weights of the manifest here",
                    _ => "",
                };
                subject.good(format!("served, version {versions}{weights}"))
            }
            Err(status) => {
                let advice = match status.code() {
                    Code::NotFound => "have the service serve it, or let its identity for this device use it",
                    Code::Unauthenticated | Code::PermissionDenied => "have the service let this device use it",
                    _ => "look at the log of the service",
                };
                subject.failed(said(&status), advice)
            }
        });
    }
}

/// Why nobody replied to a question; none where the service did, or a proxy before it.
fn no_reply(live: &Answer<()>) -> Option<&CallError> {
    let error = CallError::of(live.said.as_ref().err()?)?;
    let is_none = matches!(
        error,
        CallError::Connect(_) | CallError::Interrupted { .. } | CallError::DeadlineExceeded { .. }
    );
    is_none.then_some(error)
}

/// Connects once more, as a device that was there before.
async fn takes_early_data(channel: &Channel) -> bool {
    channel.retire();
    channel.connect().await.is_ok() && channel.wire().handshakes().early_data_accepted > 0
}

/// What a service said, or why it said nothing.
fn said(status: &Status) -> String {
    match CallError::of(status) {
        Some(error) => error_chain(error),
        None => format!("{:?}: {}", status.code(), status.message()),
    }
}

fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::H1 => "HTTP/1.1",
        Protocol::H2 => "HTTP/2",
        Protocol::H3 => "HTTP/3",
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
