//! What connections cost on the wire: every byte of every packet, IP's header included, in both directions.
//!
//! QUIC is counted at its UDP socket, datagram by datagram, handshakes that came to nothing included. TCP's packets are made
//! by the kernel, which tells how many there were ([`kernel`]): segments and the bytes in them, retransmissions and
//! acknowledgements included. What neither tells is added by a rule:
//! - a connection's end over TCP counts as two segments a way, which nobody is there to count;
//! - an attempt over TCP that came to nothing counts as the SYNs that Linux sends in its time;
//! - where the kernel does not tell, a read or a write counts as the segments of [`SEGMENT_BYTES`] that hold it, with an
//!   acknowledgement for two of them.
//!
//! Beside them it counts the handshakes of HTTP/3 ([`Handshakes`]).
//!
//! Frames of the link below IP, ICMP and name look-ups are not counted, nor options of TCP that come and go with losses
//! (SACK, 12 bytes a segment).

mod kernel;
mod tcp;
mod udp;

use std::{
    net::SocketAddr,
    ops::{Add, AddAssign},
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{EarlyData, Protocol};

pub(crate) use tcp::MeteredTcp;
pub(crate) use udp::MeteredUdp;

use tcp::TcpMeter;

/// Bytes of a segment on Ethernet, timestamps and the headers off.
const SEGMENT_BYTES: u64 = 1448;
/// TCP's header.
const TCP_HEADER_BYTES: u64 = 20;
/// The option in every segment of a connection that has timestamps.
const TIMESTAMP_BYTES: u64 = 12;
/// Options of a SYN: the largest segment, SACK, timestamps and the window's scale.
const SYN_OPTION_BYTES: u64 = 20;
/// Segments a way that end a connection: FIN, and the acknowledgement of the other's.
const SEGMENTS_OF_AN_END: u64 = 2;
/// When Linux sends the second SYN, the third, and so on.
const NEXT_SYN: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(7),
    Duration::from_secs(15),
    Duration::from_secs(31),
];

/// IP's header for packets to and from an address, without options.
const fn ip_header_bytes(address: SocketAddr) -> u64 {
    match address {
        SocketAddr::V4(_) => 20,
        SocketAddr::V6(_) => 40,
    }
}

/// IP's and UDP's headers for datagrams to and from an address.
const fn datagram_header_bytes(address: SocketAddr) -> u64 {
    ip_header_bytes(address) + 8
}

/// Bytes on the wire, of packets with all their headers from IP's on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireBytes {
    /// By this side.
    pub sent: u64,
    /// By this side, from the other.
    pub received: u64,
}

impl Add for WireBytes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            received: self.received + other.received,
        }
    }
}

impl AddAssign for WireBytes {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// Handshakes over HTTP/3 that were done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshakes {
    /// In all.
    pub done: u64,
    /// Of these, those that resumed a session, so that no certificate was sent and verified.
    pub resumed: u64,
    /// Of these, those before which calls could go out, and the service took what was sent.
    pub early_data_accepted: u64,
    /// And those where the service passed over what was sent.
    pub early_data_rejected: u64,
}

/// Counts what connections cost on the wire, those that have ended included. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct WireMeter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    sent_over_udp: AtomicU64,
    received_over_udp: AtomicU64,
    handshakes: Mutex<Handshakes>,
    tcp: Mutex<Tcp>,
}

#[derive(Debug, Default)]
struct Tcp {
    /// Of connections that have ended, and attempts that came to nothing.
    ended: WireBytes,
    open: Vec<Weak<TcpMeter>>,
}

impl WireMeter {
    /// What there was over a protocol until now. The kernel is asked about connections over TCP that are open.
    pub fn bytes(&self, protocol: Protocol) -> WireBytes {
        match protocol {
            Protocol::H1 | Protocol::H2 => {
                let tcp = self.tcp();
                let open = tcp.open.iter().filter_map(Weak::upgrade);
                open.fold(tcp.ended, |sum, open| sum + open.read())
            }
            Protocol::H3 => WireBytes {
                sent: self.0.sent_over_udp.load(Ordering::Relaxed),
                received: self.0.received_over_udp.load(Ordering::Relaxed),
            },
        }
    }

    /// The handshakes over HTTP/3 until now.
    pub fn handshakes(&self) -> Handshakes {
        *self.counted_handshakes()
    }

    /// Counts a handshake that is done.
    pub(crate) fn connected_over_quic(&self, is_resumed: bool, early_data: Option<EarlyData>) {
        let mut handshakes = self.counted_handshakes();
        handshakes.done += 1;
        handshakes.resumed += u64::from(is_resumed);
        match early_data {
            Some(EarlyData::Accepted) => handshakes.early_data_accepted += 1,
            Some(EarlyData::Rejected) => handshakes.early_data_rejected += 1,
            None => {}
        }
    }

    fn counted_handshakes(&self) -> MutexGuard<'_, Handshakes> {
        self.0
            .handshakes
            .lock()
            .expect("no holder of the lock panics")
    }

    /// Counts datagrams that went out.
    pub(crate) fn sent_over_udp(&self, peer: SocketAddr, datagrams: u64, payload_bytes: u64) {
        let bytes = payload_bytes + datagrams * datagram_header_bytes(peer);
        self.0.sent_over_udp.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts datagrams that came in.
    pub(crate) fn received_over_udp(&self, peer: SocketAddr, datagrams: u64, payload_bytes: u64) {
        let bytes = payload_bytes + datagrams * datagram_header_bytes(peer);
        self.0.received_over_udp.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts the SYNs of an attempt to connect that has taken so long and came to nothing, and the refusal where there was
    /// one.
    pub(crate) fn attempted(&self, peer: SocketAddr, took: Duration, is_refused: bool) {
        let header = ip_header_bytes(peer) + TCP_HEADER_BYTES;
        let again = NEXT_SYN.iter().filter(|next| **next < took).count() as u64;
        self.tcp().ended += WireBytes {
            sent: (1 + again) * (header + SYN_OPTION_BYTES),
            received: if is_refused { header } else { 0 },
        };
    }

    fn opened(&self, meter: &Arc<TcpMeter>) {
        self.tcp().open.push(Arc::downgrade(meter));
    }

    fn ended(&self, meter: &Arc<TcpMeter>) {
        let last = meter.read() + meter.end();
        let mut tcp = self.tcp();
        tcp.open.retain(|open| !open.ptr_eq(&Arc::downgrade(meter)));
        tcp.ended += last;
    }

    fn tcp(&self) -> MutexGuard<'_, Tcp> {
        self.0.tcp.lock().expect("no holder of the lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_counts_the_syns_of_its_time_and_the_refusal() {
        let address = ([127, 0, 0, 1], 1).into();
        let meter = WireMeter::default();
        meter.attempted(address, Duration::from_millis(1), true);
        let refused = WireBytes {
            sent: 60,
            received: 40,
        };
        assert_eq!(meter.bytes(Protocol::H2), refused);
        meter.attempted(address, Duration::from_secs(5), false);
        let silent = WireBytes {
            sent: 3 * 60,
            received: 0,
        };
        assert_eq!(meter.bytes(Protocol::H2), refused + silent);
    }

    #[test]
    fn datagrams_count_with_their_headers() {
        let meter = WireMeter::default();
        let (v4, v6) = (([127, 0, 0, 1], 1).into(), ([0; 8], 1).into());
        meter.sent_over_udp(v4, 2, 2400);
        meter.clone().received_over_udp(v6, 1, 1200);
        let bytes = meter.bytes(Protocol::H3);
        assert_eq!((bytes.sent, bytes.received), (2400 + 2 * 28, 1200 + 48));
    }
}
