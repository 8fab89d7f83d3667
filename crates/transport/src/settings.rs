//! The sizes that both sides of a connection and both protocols share, and QUIC's settings.

use std::{io, net::SocketAddr, time::Duration};

use quinn::{IdleTimeout, TransportConfig};
use socket2::SockRef;

use crate::Congestion;

/// Bytes of one message that may be under way unacknowledged, on both protocols.
///
/// 4 MiB over a round trip of 100 ms are 335 Mbit/s, more than the uplinks of most devices; a batch
/// of four 260×260 images as FP32 pixels (3.2 MB) fits whole, so it never waits for permission.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes that all calls of a connection may have under way: four whole streams. It bounds what a
/// peer can make this side hold.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 4 * STREAM_WINDOW_BYTES;
/// Calls at a time of an HTTP/3 connection, whatever more is allowed. QUIC's implementation keeps a place for each, and
/// in it room for the packets of the largest message that it ever took (some 2 KB for 50 KB): a device has a few images
/// under way, and a service thousands of devices.
const MAX_QUIC_CALLS: u32 = 32;
/// HTTP/3 opens three unidirectional streams; some stacks add one or two of unknown type.
const UNIDIRECTIONAL_STREAMS: u32 = 8;

/// Bytes that the kernel should hold for a UDP socket: a full connection window's burst would
/// overrun the usual 208 KiB. The kernel grants what its limits allow.
const SOCKET_BUFFER_BYTES: usize = 2 << 20;

/// Opens the UDP socket of an endpoint.
pub(crate) fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    let options = SockRef::from(&socket);
    // Smaller buffers cost speed, not correctness.
    let _ = options.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = options.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    Ok(socket)
}

/// The settings of a QUIC connection that gives up after `idle_timeout` of silence.
pub(crate) fn transport_config(
    idle_timeout: Duration,
    keep_alive: Option<Duration>,
    max_concurrent_calls: u32,
    congestion: Option<Congestion>,
) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(CONNECTION_WINDOW_BYTES.into())
        .max_concurrent_bidi_streams(max_concurrent_calls.min(MAX_QUIC_CALLS).into())
        .max_concurrent_uni_streams(UNIDIRECTIONAL_STREAMS.into())
        // Only HTTP/3 streams are spoken here.
        .datagram_receive_buffer_size(None)
        // A duration too long for QUIC's integers (146 million years in ms) means none at all.
        .max_idle_timeout(IdleTimeout::try_from(idle_timeout).ok())
        .keep_alive_interval(keep_alive);
    if let Some(congestion) = congestion {
        config.congestion_controller_factory(congestion.quic());
    }
    config
}
