//! What Linux knows of a TCP connection: asked over netlink (`NETLINK_SOCK_DIAG`, sock_diag(7)), as `ss -ti` does, for the
//! fields of `struct tcp_info` that count segments and bytes. It needs no rights for the connections of its own network
//! namespace, and is not to be had elsewhere than on Linux from 4.19 on, nor where a sandbox forbids the address family.

use std::net::SocketAddr;

/// What the kernel counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    /// Of the payload, retransmissions included.
    pub(super) bytes_sent: u64,
    /// Of the payload, in order.
    pub(super) bytes_received: u64,
    pub(super) segments_sent: u64,
    pub(super) segments_received: u64,
    pub(super) has_timestamps: bool,
}

/// Asks about the connection of this process between two addresses; none where nothing is told.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn ask(local: SocketAddr, peer: SocketAddr) -> Option<Told> {
    netlink::ask(local, peer)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn ask(_: SocketAddr, _: SocketAddr) -> Option<Told> {
    None
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod netlink {
    use std::{
        io::{Read as _, Write as _},
        net::{IpAddr, SocketAddr},
        time::Duration,
    };

    use socket2::{Domain, Protocol, Socket, Type};

    use super::Told;

    /// `AF_NETLINK` and `NETLINK_SOCK_DIAG`.
    const NETLINK: (i32, i32) = (16, 4);
    /// `SOCK_DIAG_BY_FAMILY`.
    const BY_FAMILY: u16 = 20;
    /// `NLM_F_REQUEST`.
    const REQUEST: u16 = 1;
    /// `IPPROTO_TCP`.
    const TCP: u8 = 6;
    /// `INET_DIAG_INFO`, and the bit that asks for it.
    const INFO: (u16, u8) = (2, 1 << 1);
    /// `AF_INET` and `AF_INET6`.
    const FAMILIES: (u8, u8) = (2, 10);
    /// Of `struct nlmsghdr`, `struct inet_diag_req_v2` and `struct inet_diag_msg`.
    const HEADER_BYTES: usize = 16;
    const REQUEST_BYTES: usize = 56;
    const MESSAGE_BYTES: usize = 72;
    /// Places in `struct tcp_info`, the same on every architecture.
    const OPTIONS: usize = 5;
    const BYTES_RECEIVED: usize = 128;
    const SEGMENTS_OUT: usize = 136;
    const SEGMENTS_IN: usize = 140;
    const BYTES_SENT: usize = 200;
    /// `TCPI_OPT_TIMESTAMPS`.
    const TIMESTAMPS: u8 = 1;
    /// The kernel answers within the call that asks; this is for one that does not.
    const WITHIN: Duration = Duration::from_millis(100);

    pub(super) fn ask(local: SocketAddr, peer: SocketAddr) -> Option<Told> {
        let (domain, protocol) = NETLINK;
        let kind = Type::DGRAM.cloexec();
        let socket = Socket::new(Domain::from(domain), kind, Some(Protocol::from(protocol)));
        let mut socket = socket.ok()?;
        socket.set_read_timeout(Some(WITHIN)).ok()?;
        socket.write_all(&request(local, peer)).ok()?;
        let mut answer = [0; 2048];
        let length = socket.read(&mut answer).ok()?;
        read(&answer[..length])
    }

    /// Whoever sends on a netlink socket that is connected to nobody speaks to the kernel.
    fn request(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
        let family = match local {
            SocketAddr::V4(_) => FAMILIES.0,
            SocketAddr::V6(_) => FAMILIES.1,
        };
        let mut bytes = Vec::with_capacity(HEADER_BYTES + REQUEST_BYTES);
        let length = (HEADER_BYTES + REQUEST_BYTES) as u32;
        bytes.extend(length.to_ne_bytes());
        bytes.extend(BY_FAMILY.to_ne_bytes());
        bytes.extend(REQUEST.to_ne_bytes());
        // A sequence number, and the sender's, which the kernel fills in.
        bytes.extend([0; 8]);
        bytes.extend([family, TCP, INFO.1, 0]);
        // Any state.
        bytes.extend(u32::MAX.to_ne_bytes());
        bytes.extend(local.port().to_be_bytes());
        bytes.extend(peer.port().to_be_bytes());
        for address in [local.ip(), peer.ip()] {
            let mut place = [0; 16];
            match address {
                IpAddr::V4(address) => place[..4].copy_from_slice(&address.octets()),
                IpAddr::V6(address) => place = address.octets(),
            }
            bytes.extend(place);
        }
        // The interface: any. The cookie: unknown.
        bytes.extend([0; 4]);
        bytes.extend([0xff; 8]);
        bytes
    }

    fn read(answer: &[u8]) -> Option<Told> {
        let length = u32_at(answer, 0)? as usize;
        let is_told = u16_at(answer, 4)? == BY_FAMILY;
        let message = answer.get(HEADER_BYTES..length).filter(|_| is_told)?;
        let mut attributes = message.get(MESSAGE_BYTES..)?;
        loop {
            let length = usize::from(u16_at(attributes, 0)?);
            let kind = u16_at(attributes, 2)?;
            let value = attributes.get(4..length)?;
            if kind == INFO.0 {
                return told(value);
            }
            // Each begins at a multiple of four.
            attributes = attributes.get(length.next_multiple_of(4)..)?;
        }
    }

    fn told(info: &[u8]) -> Option<Told> {
        Some(Told {
            bytes_sent: u64_at(info, BYTES_SENT)?,
            bytes_received: u64_at(info, BYTES_RECEIVED)?,
            segments_sent: u32_at(info, SEGMENTS_OUT)?.into(),
            segments_received: u32_at(info, SEGMENTS_IN)?.into(),
            has_timestamps: info.get(OPTIONS)? & TIMESTAMPS != 0,
        })
    }

    fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
        let bytes = bytes.get(at..at + 2)?;
        Some(u16::from_ne_bytes(bytes.try_into().ok()?))
    }

    fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
        let bytes = bytes.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    }

    fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
        let bytes = bytes.get(at..at + 8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    }

    #[cfg(test)]
    mod tests {
        use std::net::{TcpListener, TcpStream};

        use super::*;

        #[test]
        fn the_kernel_tells_of_a_connection() {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            client.write_all(&[7; 5000]).unwrap();
            server.read_exact(&mut [0; 5000]).unwrap();
            server.write_all(&[7; 300]).unwrap();
            client.read_exact(&mut [0; 300]).unwrap();
            let (local, peer) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let told = ask(local, peer).expect("Linux tells");
            assert_eq!((told.bytes_sent, told.bytes_received), (5000, 300));
            // SYN, acknowledgement and data; SYN and data.
            assert!(told.segments_sent >= 3, "{told:?}");
            assert!(told.segments_received >= 2, "{told:?}");
            // The other side has the same from its end.
            let other = ask(peer, local).expect("Linux tells");
            assert_eq!((other.bytes_sent, other.bytes_received), (300, 5000));
        }

        #[test]
        fn nothing_is_told_of_a_connection_that_is_not_there() {
            let nowhere = ([127, 0, 0, 1], 1).into();
            assert_eq!(ask(nowhere, ([127, 0, 0, 1], 2).into()), None);
        }

        #[test]
        fn an_answer_that_ends_early_is_none() {
            let full = {
                let mut bytes = vec![0; HEADER_BYTES + MESSAGE_BYTES];
                let info = vec![1; 208];
                bytes.extend(212_u16.to_ne_bytes());
                bytes.extend(INFO.0.to_ne_bytes());
                bytes.extend(info);
                let length = bytes.len() as u32;
                bytes[..4].copy_from_slice(&length.to_ne_bytes());
                bytes[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
                bytes
            };
            assert!(read(&full).is_some());
            for length in 0..full.len() {
                assert_eq!(read(&full[..length]), None, "{length}");
            }
        }
    }
}
