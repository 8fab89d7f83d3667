//! Which algorithm says how fast a connection may send, over either protocol.

use std::{fmt, io, str::FromStr, sync::Arc};

use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockRef, Socket, Type};

/// An algorithm of congestion control. Over HTTP/3 it is QUIC's own here, over HTTP/2 the kernel's of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Congestion {
    /// Grows with the time since the last loss (RFC 9438).
    Cubic,
    /// Goes by the bandwidth and the round trip that it measures, not by losses: for links that lose packets without being
    /// full. QUIC's is the first version of it, which its authors call experimental.
    Bbr,
    /// Halves at a loss and grows by a segment a round trip (RFC 6582).
    NewReno,
}

impl Congestion {
    /// The word used in configuration files and flags.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
            Self::NewReno => "new-reno",
        }
    }

    /// What QUIC makes its controllers with.
    pub(crate) fn quic(self) -> Arc<dyn ControllerFactory + Send + Sync> {
        match self {
            Self::Cubic => Arc::new(CubicConfig::default()),
            Self::Bbr => Arc::new(BbrConfig::default()),
            Self::NewReno => Arc::new(NewRenoConfig::default()),
        }
    }

    /// Has a TCP socket go by it; one that listens hands it on to those that it accepts.
    #[cfg(target_os = "linux")]
    pub(crate) fn set(self, socket: SockRef<'_>) -> io::Result<()> {
        let kernels = match self {
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
            Self::NewReno => "reno",
        };
        socket.set_tcp_congestion(kernels.as_bytes())
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn set(self, _: SockRef<'_>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Whether the system's TCP has it, for this program.
    ///
    /// # Errors
    /// [`UnavailableCongestion`] where it has not.
    pub fn check(self) -> Result<(), UnavailableCongestion> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None);
        let set = socket.and_then(|socket| self.set(SockRef::from(&socket)));
        set.map_err(|source| UnavailableCongestion {
            congestion: self,
            source,
        })
    }
}

/// That the kernel's TCP does not have an algorithm, or not for this program.
#[derive(Debug, thiserror::Error)]
#[error(
    "this system's TCP has no congestion control `{congestion}` for this program: have it loaded and named in \
     net.ipv4.tcp_allowed_congestion_control, choose another, or speak HTTP/3 alone"
)]
pub struct UnavailableCongestion {
    congestion: Congestion,
    source: io::Error,
}

impl fmt::Display for Congestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Congestion {
    type Err = UnknownCongestion;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        [Self::Cubic, Self::Bbr, Self::NewReno]
            .into_iter()
            .find(|known| known.as_str() == word)
            .ok_or_else(|| UnknownCongestion(word.to_owned()))
    }
}

/// A word that names no congestion control.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no congestion control; write cubic, bbr or new-reno")]
pub struct UnknownCongestion(String);

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use quinn::congestion::{Bbr, Controller, Cubic, NewReno};

    use super::*;

    fn controller(congestion: Congestion) -> Box<dyn Controller> {
        congestion.quic().build(Instant::now(), 1200)
    }

    #[test]
    fn an_algorithm_reads_back_from_its_word_and_an_unknown_one_is_named() {
        for congestion in [Congestion::Cubic, Congestion::Bbr, Congestion::NewReno] {
            assert_eq!(congestion.to_string().parse(), Ok(congestion));
            let json = serde_json::to_string(&congestion).unwrap();
            assert_eq!(json, format!("\"{congestion}\""));
        }
        let error = "vegas".parse::<Congestion>().unwrap_err();
        assert!(error.to_string().contains("vegas"));
    }

    #[test]
    fn quic_goes_by_the_one_that_is_named() {
        let of = |congestion| controller(congestion).into_any();
        assert!(of(Congestion::Cubic).is::<Cubic>());
        assert!(of(Congestion::Bbr).is::<Bbr>());
        assert!(of(Congestion::NewReno).is::<NewReno>());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn tcp_goes_by_the_one_that_is_named_and_hands_it_on() {
        use std::net::{TcpListener, TcpStream};
        // Every kernel has it.
        let reno = Congestion::NewReno;
        reno.check().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        reno.set(SockRef::from(&listener)).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let named = SockRef::from(&accepted).tcp_congestion().unwrap();
        assert!(named.starts_with(b"reno"), "{named:?}");
    }
}
