//! Notices that nothing listens at a UDP address.
//!
//! A host answers a datagram to a closed port with an ICMP message, but quinn's sockets serve many
//! peers and so never hear of it: a QUIC handshake with a stopped service would wait for its
//! timeout. The kernel does report it to a socket that is connected to the one address.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{net::UdpSocket, time::timeout};

use crate::{Protocol, WireMeter, error::ConnectError};

/// The first wait for an ICMP message before asking again, as either may get lost; doubled each
/// time. Hosts limit how many they send (Linux: one per destination in about a second, after a burst
/// of six), so asking faster gains nothing.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// A datagram that no QUIC server answers: it is neither a valid long header nor long enough for a
/// packet of a connection.
const PROBE: [u8; 1] = [0];

/// Waits until the host says that nothing listens at `address`, or that it cannot be reached; for
/// ever if it never does. What that costs is counted with `wire`.
pub(super) async fn refusal(address: SocketAddr, wire: &WireMeter) -> ConnectError {
    match listen(address, wire).await {
        Ok(never) => match never {},
        Err(error) => ConnectError::from_io(address, Protocol::H3, error),
    }
}

async fn listen(address: SocketAddr, wire: &WireMeter) -> io::Result<std::convert::Infallible> {
    let socket = UdpSocket::bind(any_local(address)).await?;
    socket.connect(address).await?;
    let mut wait = FIRST_WAIT;
    loop {
        socket.send(&PROBE).await?;
        wire.sent_over_udp(address, 1, PROBE.len() as u64);
        if let Ok(received) = timeout(wait, socket.recv(&mut [0; 64])).await {
            // Something answers, whatever it says; it is no refusal.
            wire.received_over_udp(address, 1, received? as u64);
            tokio::time::sleep(wait).await;
        }
        wait *= 2;
    }
}

/// The unspecified local address of the family of `remote`.
pub(super) fn any_local(remote: SocketAddr) -> SocketAddr {
    match remote {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_is_noticed() {
        let closed = {
            let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            socket.local_addr().unwrap()
        };
        let wire = WireMeter::default();
        let error = refusal(closed, &wire).await;
        assert!(matches!(error, ConnectError::Refused { address } if address == closed));
        assert_eq!(wire.bytes(Protocol::H3).sent, 29);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_port_is_no_refusal() {
        let silent = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = silent.local_addr().unwrap();
        let wire = WireMeter::default();
        let waited = timeout(Duration::from_secs(60), refusal(address, &wire)).await;
        assert!(waited.is_err());
    }
}
