//! Notices that this machine's address has gone from under a connection, as when a device changes from one network to
//! another: nothing that is sent to the old one comes any more, and the kernel tells nobody who only waits.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Mutex,
    time::Duration,
};

use tokio::time::sleep;

use super::refusal::any_local;

/// How often is looked while a call waits: half of what leaving a dead address may take beyond two round trips. A look
/// costs microseconds.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The address that this machine has towards a peer.
#[derive(Debug)]
pub(super) struct LocalAddress {
    peer: SocketAddr,
    /// None where there was no way to the peer.
    present: Mutex<Option<SocketAddr>>,
}

impl LocalAddress {
    /// The one that there is now.
    pub(super) fn towards(peer: SocketAddr) -> Self {
        Self {
            peer,
            present: Mutex::new(source(peer).ok()),
        }
    }

    /// Whether it is this machine's no more, while another leads to the peer. As long as there is no way at all,
    /// nothing is gained by leaving it.
    pub(super) fn is_replaced(&self) -> bool {
        self.replacement().is_some()
    }

    /// Takes the one that leads to the peer now, where the one before is gone; whether it was.
    pub(super) fn replace(&self) -> bool {
        let Some(replacement) = self.replacement() else {
            return false;
        };
        *self.present.lock().expect("no holder of the lock panics") = Some(replacement);
        true
    }

    /// Waits until it is replaced.
    pub(super) async fn replaced(&self) {
        loop {
            sleep(LOOK_EVERY).await;
            if self.is_replaced() {
                return;
            }
        }
    }

    fn replacement(&self) -> Option<SocketAddr> {
        let present = *self.present.lock().expect("no holder of the lock panics");
        if present.is_some_and(is_here) {
            return None;
        }
        source(self.peer).ok().filter(|new| is_here(*new))
    }
}

/// The address that the kernel would send from to a peer; nothing is sent.
fn source(peer: SocketAddr) -> io::Result<SocketAddr> {
    let socket = UdpSocket::bind(any_local(peer))?;
    socket.connect(peer)?;
    let mut source = socket.local_addr()?;
    source.set_port(0);
    Ok(source)
}

/// Whether an address is this machine's.
fn is_here(address: SocketAddr) -> bool {
    match UdpSocket::bind(address) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: ([u8; 4], u16) = ([127, 0, 0, 1], 9);

    /// An address for documents alone (RFC 5737), which no machine has.
    fn gone() -> LocalAddress {
        LocalAddress {
            peer: PEER.into(),
            present: Mutex::new(Some(([192, 0, 2, 1], 0).into())),
        }
    }

    #[test]
    fn an_address_that_is_here_is_not_left() {
        let address = LocalAddress::towards(PEER.into());
        let present = *address.present.lock().unwrap();
        assert_eq!(present, Some(([127, 0, 0, 1], 0).into()));
        assert!(!address.is_replaced());
        assert!(!address.replace());
    }

    #[tokio::test]
    async fn an_address_that_is_gone_is_left_once() {
        let address = gone();
        address.replaced().await;
        assert!(address.replace());
        assert!(!address.replace());
    }
}
