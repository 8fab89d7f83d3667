//! The link of a soak: relays TCP and UDP on loopback between a device and a cloud, until it is told not to.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream, UdpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::sleep,
};

use super::plan::Link;

/// Largest piece that is carried at a time; no datagram is larger.
const PIECE: usize = 1 << 16;
/// After this time without a datagram, the way back for one device's port is forgotten.
const IDLE: Duration = Duration::from_secs(120);

/// Where the relay listens, and how the link is changed.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    pub(super) link: watch::Sender<Link>,
}

impl Relay {
    /// One before `cloud`, on a port of its own for both TCP and UDP; it ends with the runtime.
    ///
    /// # Errors
    /// Where the system gives no port.
    pub(super) async fn start(cloud: SocketAddr) -> io::Result<Self> {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = tcp.local_addr()?;
        let udp = UdpSocket::bind(address).await?;
        let (link, state) = watch::channel(Link::Up);
        tokio::spawn(accept(tcp, cloud, state.clone()));
        tokio::spawn(carry_datagrams(Arc::new(udp), cloud, state));
        Ok(Self { address, link })
    }
}

async fn accept(listener: TcpListener, cloud: SocketAddr, link: watch::Receiver<Link>) {
    loop {
        let Ok((device, _)) = listener.accept().await else {
            // The system is out of something for a moment.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        if *link.borrow() != Link::Cut {
            tokio::spawn(carry(device, cloud, link.clone()));
        }
    }
}

/// Carries one connection until either side ends it or the link is cut.
async fn carry(device: TcpStream, cloud: SocketAddr, mut link: watch::Receiver<Link>) {
    let carried = async {
        let mut seen = link.clone();
        up(&mut seen).await;
        let cloud = TcpStream::connect(cloud).await?;
        let _ = (device.set_nodelay(true), cloud.set_nodelay(true));
        let ((from_device, to_device), (from_cloud, to_cloud)) =
            (device.into_split(), cloud.into_split());
        let there = pass(from_device, to_cloud, link.clone());
        let back = pass(from_cloud, to_device, link.clone());
        tokio::try_join!(there, back).map(drop)
    };
    let mut cut = link.clone();
    // What ends a connection is for its two ends to see.
    tokio::select! {
        _ = carried => {}
        _ = cut.wait_for(|link| *link == Link::Cut) => {}
    }
    drop(link.borrow_and_update());
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut link: watch::Receiver<Link>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let count = from.read(&mut piece).await?;
        up(&mut link).await;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..count]).await?;
    }
}

/// Waits until the link carries; without end where nobody changes it any more.
async fn up(link: &mut watch::Receiver<Link>) {
    if link.wait_for(|link| *link == Link::Up).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Carries datagrams; those that come while the link is away are lost.
async fn carry_datagrams(device: Arc<UdpSocket>, cloud: SocketAddr, link: watch::Receiver<Link>) {
    let mut ways: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut datagram = vec![0; PIECE];
    loop {
        let Ok((count, from)) = device.recv_from(&mut datagram).await else {
            continue;
        };
        if *link.borrow() != Link::Up {
            continue;
        }
        // The task of a way that is over has let go of its socket.
        ways.retain(|_, way| Arc::strong_count(way) > 1);
        let way = match ways.entry(from) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let Ok(way) = way_to(cloud).await else {
                    continue;
                };
                let way = new.insert(Arc::new(way));
                tokio::spawn(carry_back(way.clone(), device.clone(), from, link.clone()));
                way
            }
        };
        // Nobody listens there while the cloud is away.
        let _ = way.send(&datagram[..count]).await;
    }
}

async fn way_to(cloud: SocketAddr) -> io::Result<UdpSocket> {
    let way = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    way.connect(cloud).await?;
    Ok(way)
}

async fn carry_back(
    way: Arc<UdpSocket>,
    device: Arc<UdpSocket>,
    to: SocketAddr,
    link: watch::Receiver<Link>,
) {
    let mut datagram = vec![0; PIECE];
    while let Ok(received) = tokio::time::timeout(IDLE, way.recv(&mut datagram)).await {
        if let Ok(count) = received
            && *link.borrow() == Link::Up
        {
            let _ = device.send_to(&datagram[..count], to).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with what it gets.
    async fn echo() -> SocketAddr {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).await.unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let (mut from, mut to) = stream.split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
        tokio::spawn(async move {
            let mut datagram = [0; 64];
            loop {
                let (count, from) = udp.recv_from(&mut datagram).await.unwrap();
                udp.send_to(&datagram[..count], from).await.unwrap();
            }
        });
        address
    }

    const SOON: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(10);

    async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; 64];
        let count = stream.read(&mut bytes).await?;
        bytes.truncate(count);
        Ok(bytes)
    }

    #[tokio::test]
    async fn a_silent_link_holds_what_a_connection_sends_and_a_cut_one_ends_it() {
        let relay = Relay::start(echo().await).await.unwrap();
        let mut device = TcpStream::connect(relay.address).await.unwrap();
        device.write_all(b"one").await.unwrap();
        assert_eq!(read(&mut device).await.unwrap(), b"one");
        relay.link.send_replace(Link::Silent);
        device.write_all(b"two").await.unwrap();
        let nothing = tokio::time::timeout(SOON, read(&mut device)).await;
        assert!(nothing.is_err(), "{nothing:?}");
        relay.link.send_replace(Link::Up);
        let held = tokio::time::timeout(LONG, read(&mut device)).await;
        assert_eq!(held.unwrap().unwrap(), b"two");
        relay.link.send_replace(Link::Cut);
        let end = tokio::time::timeout(LONG, read(&mut device)).await.unwrap();
        assert!(end.is_err() || end.is_ok_and(|bytes| bytes.is_empty()));
    }

    #[tokio::test]
    async fn datagrams_are_lost_while_the_link_is_away() {
        let relay = Relay::start(echo().await).await.unwrap();
        let device = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        device.connect(relay.address).await.unwrap();
        let mut bytes = [0; 64];
        device.send(b"one").await.unwrap();
        let count = tokio::time::timeout(LONG, device.recv(&mut bytes)).await;
        assert_eq!(count.unwrap().unwrap(), 3);
        relay.link.send_replace(Link::Silent);
        device.send(b"lost").await.unwrap();
        let nothing = tokio::time::timeout(SOON, device.recv(&mut bytes)).await;
        assert!(nothing.is_err());
        relay.link.send_replace(Link::Up);
        device.send(b"three").await.unwrap();
        let count = tokio::time::timeout(LONG, device.recv(&mut bytes)).await;
        assert_eq!(count.unwrap().unwrap(), 5);
    }
}
