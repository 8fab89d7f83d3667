//! The words for a connection's protocol: what a user asks for, and what a call really used.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What a user asks of a channel: one protocol, or the best that works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// HTTP/2 over TCP, nothing else.
    H2,
    /// HTTP/3 over QUIC, nothing else.
    H3,
    /// HTTP/3, or HTTP/2 where UDP does not get through.
    #[default]
    Auto,
}

impl Transport {
    /// The word used in configuration files, flags and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::H2 => "h2",
            Self::H3 => "h3",
            Self::Auto => "auto",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Transport {
    type Err = UnknownTransport;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "h2" => Ok(Self::H2),
            "h3" => Ok(Self::H3),
            "auto" => Ok(Self::Auto),
            _ => Err(UnknownTransport(word.to_owned())),
        }
    }
}

/// A word that names no transport.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no transport; write h2, h3 or auto")]
pub struct UnknownTransport(String);

/// What a connection speaks: in the extensions of every response and of every request served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1 over TCP, which listeners speak with browsers alone.
    H1,
    /// HTTP/2 over TCP.
    H2,
    /// HTTP/3 over QUIC.
    H3,
}

impl Protocol {
    /// The word used in answers, metrics and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::H1 => "h1",
            Self::H2 => "h2",
            Self::H3 => "h3",
        }
    }

    /// The identifier that TLS negotiates the protocol by.
    pub(crate) fn alpn(self) -> Vec<u8> {
        match self {
            Self::H1 => b"http/1.1".to_vec(),
            Self::H2 | Self::H3 => self.as_str().into(),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transport_reads_back_from_its_word() {
        for transport in [Transport::H2, Transport::H3, Transport::Auto] {
            assert_eq!(transport.to_string().parse(), Ok(transport));
            let json = serde_json::to_string(&transport).unwrap();
            assert_eq!(json, format!("\"{transport}\""));
            assert_eq!(serde_json::from_str::<Transport>(&json).unwrap(), transport);
        }
    }

    #[test]
    fn an_unknown_transport_is_named_in_the_error() {
        let error = "http3".parse::<Transport>().unwrap_err();
        assert!(error.to_string().contains("http3"));
    }
}
