//! How a peer is reached, as configuration files have it.

use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use outpost_cascade::{Choose, CircuitConfig, EndpointsConfig};
use outpost_transport::{
    BearerToken, Channel, ClientConfig, Congestion, Identity, Transport, Trust,
};
use serde::Deserialize;
use tonic::codegen::http::Uri;

use super::{PeerError, packing::Encoding};

/// A day.
pub(super) const MOST_SECONDS: u32 = 86_400;

/// Where a peer is, and how it is asked.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// `https://host:port`; `http://` speaks plain HTTP/2, for servers behind a trusted link.
    pub url: String,
    /// `h2`, `h3` or `auto`, which prefers HTTP/3. Default `auto`.
    #[serde(default)]
    pub transport: Transport,
    /// Which algorithm says how fast may be sent: `cubic`, `bbr` or `new-reno`. Default: `cubic` over HTTP/3, what the system
    /// has over HTTP/2.
    #[serde(default)]
    pub congestion: Option<Congestion>,
    /// Seconds that a connection may be silent before it is asked for a sign of life: over HTTP/2 while an image is on its way,
    /// over HTTP/3 always. Default 5.
    #[serde(default = "five")]
    pub keep_alive_seconds: u32,
    /// Seconds without a call after which a connection is closed, so that it costs nothing; 0 keeps it open. Default 0.
    #[serde(default)]
    pub close_idle_seconds: u32,
    /// Whether an image may go out before a handshake over HTTP/3 is done, where the server took that on a connection before.
    /// Default yes.
    #[serde(default = "yes")]
    pub early_data: bool,
    /// Certificate authority to trust, PEM; the public ones where it is absent.
    #[serde(default)]
    pub certificate_authority: Option<PathBuf>,
    /// File with the token by which the peer knows its caller; over TLS only.
    #[serde(default)]
    pub token: Option<PathBuf>,
    /// Certificate chain to show to a server that asks for one, PEM; needs `client_key`.
    #[serde(default)]
    pub client_certificate: Option<PathBuf>,
    /// Private key of `client_certificate`, PEM.
    #[serde(default)]
    pub client_key: Option<PathBuf>,
    /// Name in the server's certificate, where it is not the host of `url`.
    #[serde(default)]
    pub server_name: Option<String>,
    /// What is sent. Default `auto`.
    #[serde(default)]
    pub payload: Payload,
    /// Whether encoded images are sent with all that they tell: place, time, camera, thumbnails. Default no: their
    /// pixels and their orientation alone.
    #[serde(default)]
    pub keep_metadata: bool,
    /// How encoded images are sent: `original`, as they were read; `jpeg@QUALITY`, `webp@QUALITY` or `avif@QUALITY`, shrunk
    /// to what the network sees; or `auto`, with the encoder that has the image there first. Default `original`.
    #[serde(default)]
    pub encoding: Encoding,
    /// What encoders cost and lose, a file of `lab encoders`, for `auto`. Default `encoders.json` in the network's folder.
    #[serde(default)]
    pub encoders: Option<PathBuf>,
    /// Points of top-1 accuracy that an encoder may lose for `auto` to choose it. Default 1.
    #[serde(default = "max_accuracy_loss")]
    pub max_accuracy_loss: f64,
    /// How much may be sent, to all endpoints together; no bounds by default.
    #[serde(default)]
    pub budget: BudgetConfig,
    /// Further endpoints that serve the same networks.
    #[serde(default)]
    pub others: Vec<OtherConfig>,
    /// Which of them is used: `first`, the first that is there, in the order of the file; or `fastest`, the one of the shortest
    /// round trip. Default `first`.
    #[serde(default)]
    pub choose: Choose,
    /// Milliseconds between two questions whether one that is not in use is there. Default 10000.
    #[serde(default = "ten_seconds")]
    pub health_every_ms: u64,
    /// Milliseconds that a preferred one must have been there again before it is gone back to. Default 10000.
    #[serde(default = "ten_seconds")]
    pub back_after_ms: u64,
}

/// A further endpoint. What it does not say is as for the first one, but for what tells who calls: `token`,
/// `client_certificate` and `client_key` are taken over by endpoints of the same host alone, and over TLS.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtherConfig {
    /// `https://host:port`, or `http://` as for the first one.
    pub url: String,
    /// `h2`, `h3` or `auto`.
    #[serde(default)]
    pub transport: Option<Transport>,
    /// Whether an image may go out before a handshake is done.
    #[serde(default)]
    pub early_data: Option<bool>,
    /// Certificate authority to trust, PEM.
    #[serde(default)]
    pub certificate_authority: Option<PathBuf>,
    /// File with the token by which this endpoint knows its caller.
    #[serde(default)]
    pub token: Option<PathBuf>,
    /// Certificate chain to show to it, PEM; needs `client_key`.
    #[serde(default)]
    pub client_certificate: Option<PathBuf>,
    /// Private key of `client_certificate`, PEM.
    #[serde(default)]
    pub client_key: Option<PathBuf>,
    /// Name in its certificate, where it is not the host of `url`.
    #[serde(default)]
    pub server_name: Option<String>,
}

impl OtherConfig {
    /// The endpoint at `url`, and all else as for the first one.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            transport: None,
            early_data: None,
            certificate_authority: None,
            token: None,
            client_certificate: None,
            client_key: None,
            server_name: None,
        }
    }
}

const fn yes() -> bool {
    true
}

const fn five() -> u32 {
    5
}

const fn ten_seconds() -> u64 {
    10_000
}

const fn max_accuracy_loss() -> f64 {
    1.0
}

/// How much may be sent to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetConfig {
    /// Offloads in any hour.
    pub offloads_per_hour: Option<NonZeroU32>,
    /// Bytes on the wire in any day, both ways: images, answers, handshakes, questions, with all headers from IP's on.
    pub bytes_per_day: Option<NonZeroU32>,
}

/// What is sent to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Payload {
    /// The encoded image where the server says that it takes one, else the network's input tensor.
    #[default]
    Auto,
    /// The encoded image.
    Image,
    /// The network's input tensor, made here.
    Tensor,
}

/// When an engine stops waiting for a peer that keeps failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CircuitSettings {
    /// Failures in a row that open the circuit. Default 3.
    pub failures_to_open: u32,
    /// Milliseconds until the first probe. Default 2000.
    pub open_for_ms: u64,
    /// Ceiling in milliseconds of that time, which doubles with every failed probe. Default 60000.
    pub open_for_at_most_ms: u64,
    /// Milliseconds between two questions for a sign of life while images want to be sent and are not; 0 for none. One that
    /// is answered ends the wait. Default 1000.
    pub ask_every_ms: u64,
}

impl PeerConfig {
    /// The peer at `url`, and the defaults.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            transport: Transport::default(),
            congestion: None,
            keep_alive_seconds: five(),
            close_idle_seconds: 0,
            early_data: yes(),
            certificate_authority: None,
            token: None,
            client_certificate: None,
            client_key: None,
            server_name: None,
            payload: Payload::default(),
            keep_metadata: false,
            encoding: Encoding::default(),
            encoders: None,
            max_accuracy_loss: max_accuracy_loss(),
            budget: BudgetConfig::default(),
            others: Vec::new(),
            choose: Choose::default(),
            health_every_ms: ten_seconds(),
            back_after_ms: ten_seconds(),
        }
    }

    /// The endpoints, each as if it were the only one.
    pub fn endpoints(&self) -> Vec<Self> {
        let alone = Self {
            others: Vec::new(),
            ..self.clone()
        };
        let other = |other: &OtherConfig| {
            // Who calls is told to the host that the configuration names for it.
            let is_same_host = host(&other.url).is_some_and(|h| host(&self.url) == Some(h));
            let own = |stated: &Option<PathBuf>, first: &Option<PathBuf>| {
                let inherited = || first.clone().filter(|_| is_same_host);
                stated.clone().or_else(inherited)
            };
            // A certificate and its key are one.
            let is_known = other.client_certificate.is_some() || other.client_key.is_some();
            let (certificate, key) = match is_known {
                true => (other.client_certificate.clone(), other.client_key.clone()),
                false => (
                    own(&None, &self.client_certificate),
                    own(&None, &self.client_key),
                ),
            };
            let authority = other.certificate_authority.as_ref();
            Self {
                url: other.url.clone(),
                transport: other.transport.unwrap_or(self.transport),
                early_data: other.early_data.unwrap_or(self.early_data),
                certificate_authority: authority.or(self.certificate_authority.as_ref()).cloned(),
                token: own(&other.token, &self.token),
                client_certificate: certificate,
                client_key: key,
                server_name: other.server_name.clone().or(self.server_name.clone()),
                ..alone.clone()
            }
        };
        let others = self.others.iter().map(other);
        [alone.clone()].into_iter().chain(others).collect()
    }

    /// How endpoints are chosen between.
    pub(super) fn choosing(&self) -> EndpointsConfig {
        EndpointsConfig {
            choose: self.choose,
            health_every: Duration::from_millis(self.health_every_ms),
            back_after: Duration::from_millis(self.back_after_ms),
        }
    }

    /// The files of whom it is believed and how it knows its caller, of all endpoints.
    pub fn credentials(&self) -> impl Iterator<Item = &PathBuf> {
        let others = self.others.iter().flat_map(|other| {
            [
                &other.certificate_authority,
                &other.token,
                &other.client_certificate,
                &other.client_key,
            ]
        });
        let first = [
            &self.certificate_authority,
            &self.token,
            &self.client_certificate,
            &self.client_key,
        ];
        first.into_iter().chain(others).flatten()
    }

    /// What the transport needs to reach the first endpoint, with the credentials as they are in their files now.
    ///
    /// # Errors
    /// [`PeerError`], which names the file or the field at fault.
    pub fn client(&self) -> Result<ClientConfig, PeerError> {
        let mut client = ClientConfig::new(&self.url);
        client.transport = self.transport;
        client.congestion = self.congestion;
        client.early_data = self.early_data;
        for (field, seconds) in [
            ("keep_alive_seconds", self.keep_alive_seconds),
            ("close_idle_seconds", self.close_idle_seconds),
        ] {
            if seconds > MOST_SECONDS {
                return Err(PeerError::Seconds { field, seconds });
            }
        }
        if self.keep_alive_seconds == 0 {
            return Err(PeerError::KeepAlive);
        }
        client.keep_alive = Duration::from_secs(self.keep_alive_seconds.into());
        let close_idle = Duration::from_secs(self.close_idle_seconds.into());
        client.close_idle = Some(close_idle).filter(|limit| !limit.is_zero());
        client.server_name.clone_from(&self.server_name);
        if let Some(path) = &self.certificate_authority {
            let pem = std::fs::read(path).map_err(|source| PeerError::Authority {
                path: path.clone(),
                source,
            })?;
            client.trust = Trust::Authority(pem);
        }
        client.token = self.token.as_deref().map(BearerToken::load).transpose()?;
        client.identity = match (&self.client_certificate, &self.client_key) {
            (Some(certificate), Some(key)) => Some(Identity::load(certificate, key)?),
            (None, None) => None,
            (Some(_), None) => return Err(PeerError::Incomplete("client_key")),
            (None, Some(_)) => return Err(PeerError::Incomplete("client_certificate")),
        };
        Ok(client)
    }

    /// A channel to the first endpoint; see [`PeerConfig::client`].
    pub(super) fn channel(&self) -> Result<Channel, PeerError> {
        Ok(Channel::new(self.client()?)?)
    }

    /// A channel to each endpoint, in order, for [`Upstream::replace_channels`](super::Upstream::replace_channels).
    ///
    /// # Errors
    /// [`PeerError`], which names the file or the field at fault.
    pub fn channels(&self) -> Result<Vec<Channel>, PeerError> {
        self.endpoints().iter().map(Self::channel).collect()
    }

    /// Makes relative paths relative to `folder`.
    pub fn resolve(&mut self, folder: &Path) {
        let others = self.others.iter_mut().flat_map(|other| {
            [
                &mut other.certificate_authority,
                &mut other.token,
                &mut other.client_certificate,
                &mut other.client_key,
            ]
        });
        for path in others.chain([
            &mut self.certificate_authority,
            &mut self.token,
            &mut self.client_certificate,
            &mut self.client_key,
            &mut self.encoders,
        ]) {
            *path = path.take().map(|path| folder.join(path));
        }
    }
}

/// The host of an `https://` URL, in lower case.
fn host(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let is_tls = uri.scheme_str() == Some("https");
    Some(uri.host().filter(|_| is_tls)?.to_ascii_lowercase())
}

impl Default for CircuitSettings {
    fn default() -> Self {
        let circuit = CircuitConfig::default();
        Self {
            failures_to_open: circuit.failures_to_open,
            open_for_ms: circuit.open_for.as_millis() as u64,
            open_for_at_most_ms: circuit.open_for_at_most.as_millis() as u64,
            ask_every_ms: circuit.ask_every.as_millis() as u64,
        }
    }
}

impl From<CircuitSettings> for CircuitConfig {
    fn from(settings: CircuitSettings) -> Self {
        Self {
            failures_to_open: settings.failures_to_open,
            open_for: Duration::from_millis(settings.open_for_ms),
            open_for_at_most: Duration::from_millis(settings.open_for_at_most_ms),
            ask_every: Duration::from_millis(settings.ask_every_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(others: &str) -> Vec<PeerConfig> {
        let text = format!(
            "url = \"https://a.example:8443\"\ntransport = \"h2\"\ncertificate_authority = \"ca\"\ntoken = \"t\"\n\
             client_certificate = \"c\"\nclient_key = \"k\"\nserver_name = \"n\"\n{others}"
        );
        let config: PeerConfig = toml::from_str(&text).unwrap();
        config.endpoints()
    }

    fn told(config: &PeerConfig) -> [Option<&str>; 3] {
        [
            &config.token,
            &config.client_certificate,
            &config.client_key,
        ]
        .map(|path| path.as_deref().and_then(Path::to_str))
    }

    #[test]
    fn a_further_endpoint_is_reached_as_the_first_one_but_another_host_is_not_told_who_calls() {
        let all = endpoints(
            "[[others]]\nurl = \"https://A.example\"\n[[others]]\nurl = \"https://b.example:8443\"\n\
             [[others]]\nurl = \"http://a.example:8443\"\n[[others]]\nurl = \"https://a.example.org\"",
        );
        assert_eq!(all.len(), 5);
        for endpoint in &all {
            assert_eq!(endpoint.transport, Transport::H2);
            assert_eq!(endpoint.server_name.as_deref(), Some("n"));
            assert_eq!(endpoint.certificate_authority, Some(PathBuf::from("ca")));
            assert!(endpoint.others.is_empty());
        }
        let whole = [Some("t"), Some("c"), Some("k")];
        assert_eq!(told(&all[0]), whole);
        assert_eq!(told(&all[1]), whole);
        for other in &all[2..] {
            assert_eq!(told(other), [None; 3], "{}", other.url);
        }
    }

    #[test]
    fn what_a_further_endpoint_states_is_its_own() {
        let all = endpoints(
            "[[others]]\nurl = \"https://b.example\"\ntransport = \"h3\"\nearly_data = false\ntoken = \"u\"\n\
             client_certificate = \"d\"\nclient_key = \"l\"\nserver_name = \"m\"\n\
             [[others]]\nurl = \"https://a.example\"\nclient_certificate = \"d\"",
        );
        assert_eq!(all[1].transport, Transport::H3);
        assert_eq!(
            all.iter().map(|one| one.early_data).collect::<Vec<_>>(),
            [true, false, true]
        );
        assert_eq!(all[1].server_name.as_deref(), Some("m"));
        assert_eq!(told(&all[1]), [Some("u"), Some("d"), Some("l")]);
        // A key that is missing is an error, not another's.
        assert_eq!(told(&all[2]), [Some("t"), Some("d"), None]);
    }
}
