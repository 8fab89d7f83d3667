//! What a channel needs to know, checked once.

use std::time::Duration;

use http::{Uri, uri::Authority, uri::Scheme};
use rustls::pki_types;

use super::{
    token::BearerToken,
    trust::{ClientTls, Trust},
};
use crate::{Congestion, Identity, Transport, UnavailableCongestion};

/// How to reach one service.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `https://HOST:PORT`, or `http://HOST:PORT` for HTTP/2 in the clear. The port defaults to
    /// 443 and 80.
    pub url: String,
    /// The protocol to use. Default: [`Transport::Auto`].
    pub transport: Transport,
    /// Whose signature on the server's certificate to believe. Default:
    /// [`Trust::PublicAuthorities`]. Of no effect for `http://`.
    pub trust: Trust,
    /// The name that the server's certificate must carry. Default: the host of the URL.
    pub server_name: Option<String>,
    /// The certificate to show to a server that asks for one. Default: none.
    pub identity: Option<Identity>,
    /// The token to send with every call, over TLS only. Default: none.
    pub token: Option<BearerToken>,
    /// The longest that connecting may take, name look-up and handshakes included. Default: 5 s.
    pub connect_timeout: Duration,
    /// The largest message to accept, for [`Channel::max_message_bytes`]. Default:
    /// [`DEFAULT_MAX_MESSAGE_BYTES`].
    ///
    /// [`Channel::max_message_bytes`]: crate::Channel::max_message_bytes
    /// [`DEFAULT_MAX_MESSAGE_BYTES`]: crate::DEFAULT_MAX_MESSAGE_BYTES
    pub max_message_bytes: usize,
    /// How long a connection may be silent before it is asked for a sign of life. Default: 5 s.
    ///
    /// HTTP/2 asks only while calls are in flight, QUIC always. A connection that stays silent for
    /// three times as long is given up.
    pub keep_alive: Duration,
    /// How long a connection is kept without a call; the next one connects anew. Default: as long as the server keeps it.
    ///
    /// On a metered link it saves the keep-alives of either side, for a handshake before the next call.
    pub close_idle: Option<Duration>,
    /// The algorithm that says how fast may be sent. Default: QUIC's is CUBIC, TCP's what the system has.
    pub congestion: Option<Congestion>,
    /// Whether calls marked [`Idempotent`](crate::Idempotent) may go out before a handshake of HTTP/3 is done, where the
    /// service allowed that on a connection before. Default: they may.
    pub early_data: bool,
}

impl ClientConfig {
    /// The defaults for the service at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            transport: Transport::default(),
            trust: Trust::PublicAuthorities,
            server_name: None,
            identity: None,
            token: None,
            connect_timeout: Duration::from_secs(5),
            max_message_bytes: crate::DEFAULT_MAX_MESSAGE_BYTES,
            // Often enough to notice a dead path within one patient user's wait, and longer than
            // the slowest usual round trip many times over.
            keep_alive: Duration::from_secs(5),
            close_idle: None,
            congestion: None,
            early_data: true,
        }
    }
}

/// What is wrong with a [`ClientConfig`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The URL does not parse.
    #[error("`{url}` is no URL; write https://HOST:PORT")]
    Url {
        /// As it was given.
        url: String,
        /// What the parser said.
        source: http::uri::InvalidUri,
    },
    /// The URL has no scheme and host, or another scheme.
    #[error("`{0}` names no service; write https://HOST:PORT, or http://HOST:PORT in the clear")]
    Scheme(String),
    /// The URL has a path or a query.
    #[error("`{0}` has a path, and gRPC services have none; end it after the port")]
    Path(String),
    /// The URL has a user name.
    #[error("`{0}` has a user name, which nothing here sends; remove it")]
    UserInfo(String),
    /// HTTP/3 was asked for in the clear.
    #[error("`{0}` asks for HTTP/3 in the clear, which does not exist; write https://, or h2")]
    PlaintextHttp3(String),
    /// A token or a certificate would go out in the clear, or to nobody.
    #[error(
        "`{0}` is in the clear, where a token would be read by all and a certificate is not asked for; write https://"
    )]
    CredentialsInTheClear(String),
    /// The server name is neither a DNS name nor an IP address.
    #[error("`{0}` is neither a host name nor an IP address")]
    ServerName(String),
    /// The authority's PEM text does not parse.
    #[error("the authority's certificate is no PEM text; give the file ca.pem or the like")]
    AuthorityPem(#[source] pki_types::pem::Error),
    /// The authority's certificate does not parse.
    #[error("the authority's certificate is malformed; issue it anew")]
    Authority(#[source] rustls::Error),
    /// The PEM text holds no certificate.
    #[error("the authority's PEM text holds no certificate; give the file ca.pem or the like")]
    NoAuthority,
    /// The system's TCP cannot go by the congestion control.
    #[error(transparent)]
    Congestion(#[from] UnavailableCongestion),
    /// A duration or a limit is zero.
    #[error("`{0}` must not be zero")]
    Zero(&'static str),
}

/// A checked [`ClientConfig`].
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
    /// Without the brackets that a URL puts around an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) transport: Transport,
    /// None for HTTP/2 in the clear.
    pub(super) tls: Option<ClientTls>,
    pub(super) token: Option<BearerToken>,
    pub(super) connect_timeout: Duration,
    pub(super) max_message_bytes: usize,
    pub(super) keep_alive: Duration,
    pub(super) close_idle: Option<Duration>,
    pub(super) congestion: Option<Congestion>,
    pub(super) early_data: bool,
}

impl Target {
    pub(super) fn new(config: ClientConfig) -> Result<Self, ConfigError> {
        let url = config.url;
        let parsed: Uri = url.parse().map_err(|source| ConfigError::Url {
            url: url.clone(),
            source,
        })?;
        let (Some(scheme), Some(authority)) = (parsed.scheme(), parsed.authority()) else {
            return Err(ConfigError::Scheme(url));
        };
        if authority.as_str().contains('@') {
            return Err(ConfigError::UserInfo(url));
        }
        if parsed.path() != "/" && !parsed.path().is_empty() || parsed.query().is_some() {
            return Err(ConfigError::Path(url));
        }
        for (name, zero) in [
            ("connect_timeout", config.connect_timeout.is_zero()),
            ("keep_alive", config.keep_alive.is_zero()),
            ("close_idle", config.close_idle == Some(Duration::ZERO)),
            ("max_message_bytes", config.max_message_bytes == 0),
        ] {
            if zero {
                return Err(ConfigError::Zero(name));
            }
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let (tls, transport, default_port) = if *scheme == Scheme::HTTPS {
            let name = config.server_name.as_deref().unwrap_or(&host);
            let tls = ClientTls::new(&config.trust, config.identity.as_ref(), name)?;
            (Some(tls), config.transport, 443)
        } else if *scheme == Scheme::HTTP {
            if config.transport == Transport::H3 {
                return Err(ConfigError::PlaintextHttp3(url));
            }
            if config.token.is_some() || config.identity.is_some() {
                return Err(ConfigError::CredentialsInTheClear(url));
            }
            (None, Transport::H2, 80)
        } else {
            return Err(ConfigError::Scheme(url));
        };
        if let Some(congestion) = config.congestion
            && transport != Transport::H3
        {
            congestion.check()?;
        }
        Ok(Self {
            scheme: scheme.clone(),
            authority: authority.clone(),
            port: authority.port_u16().unwrap_or(default_port),
            host,
            transport,
            tls,
            token: config.token,
            connect_timeout: config.connect_timeout,
            max_message_bytes: config.max_message_bytes,
            keep_alive: config.keep_alive,
            close_idle: config.close_idle,
            congestion: config.congestion,
            early_data: config.early_data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, transport: Transport) -> Result<Target, ConfigError> {
        Target::new(ClientConfig {
            transport,
            ..ClientConfig::new(url)
        })
    }

    #[test]
    fn urls_that_name_no_service_are_refused() {
        use ConfigError as E;
        let auto = |url| check(url, Transport::Auto);
        assert!(matches!(auto("not a url"), Err(E::Url { .. })));
        assert!(matches!(auto("cloud:8001"), Err(E::Scheme(_))));
        assert!(matches!(auto("ftp://cloud"), Err(E::Scheme(_))));
        assert!(matches!(auto("https://cloud/models"), Err(E::Path(_))));
        assert!(matches!(auto("https://cloud/?a=b"), Err(E::Path(_))));
        assert!(matches!(auto("https://me@cloud"), Err(E::UserInfo(_))));
        assert!(matches!(
            check("http://cloud", Transport::H3),
            Err(E::PlaintextHttp3(_))
        ));
    }

    #[test]
    fn a_token_is_not_sent_in_the_clear() {
        let config = ClientConfig {
            token: Some(BearerToken::new("secret").unwrap()),
            ..ClientConfig::new("http://cloud")
        };
        let error = Target::new(config).unwrap_err();
        assert!(matches!(error, ConfigError::CredentialsInTheClear(_)));
    }

    #[test]
    fn the_port_defaults_to_that_of_the_scheme() {
        let target = check("https://cloud", Transport::Auto).unwrap();
        assert_eq!((target.port, target.transport), (443, Transport::Auto));
        let target = check("http://cloud/", Transport::Auto).unwrap();
        assert_eq!((target.port, target.transport), (80, Transport::H2));
        let target = check("https://[::1]:8001", Transport::H3).unwrap();
        assert_eq!((target.host.as_str(), target.port), ("::1", 8001));
    }

    #[test]
    fn an_authority_without_a_certificate_is_refused() {
        let config = ClientConfig {
            trust: Trust::Authority(b"no PEM text at all".to_vec()),
            ..ClientConfig::new("https://cloud")
        };
        assert!(matches!(Target::new(config), Err(ConfigError::NoAuthority)));
    }
}
