//! Relays between a client and a service: they count what comes through, keep it back, fall silent, and move.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket, tcp},
    sync::watch,
};
use tokio_util::task::AbortOnDropHandle;

use super::fixture::LOOPBACK;
use crate::{WireBytes, settings};

/// IP's and UDP's.
const DATAGRAM_HEADER_BYTES: u64 = 28;

/// What came through: from the client, and to it.
#[derive(Default)]
pub(super) struct Counts {
    up: AtomicU64,
    down: AtomicU64,
}

impl Counts {
    /// As the client sees it: of datagrams with their headers, of streams without.
    pub(super) fn wire(&self) -> WireBytes {
        WireBytes {
            sent: self.up.load(Ordering::Relaxed),
            received: self.down.load(Ordering::Relaxed),
        }
    }
}

/// Whether what comes is passed on, for those that there are.
struct Passing(Mutex<watch::Sender<bool>>);

impl Passing {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(watch::Sender::new(true))))
    }

    fn subscribe(&self) -> watch::Receiver<bool> {
        self.0.lock().unwrap().subscribe()
    }

    /// Nothing more is passed on for those that there are, for ever; those to come are as new.
    fn stick(&self) {
        let mut present = self.0.lock().unwrap();
        present.send_replace(false);
        *present = watch::Sender::new(true);
    }
}

/// A relay of datagrams.
pub(super) struct UdpRelay {
    pub(super) address: SocketAddr,
    pub(super) counts: Arc<Counts>,
    passing: Arc<Passing>,
    /// Whether what the service sends is kept back.
    holding: watch::Sender<bool>,
    /// Whether nothing comes through any more, from whomever.
    blocking: Arc<AtomicBool>,
    /// What clients sent, while it is kept.
    flight: Arc<Mutex<Option<Vec<Vec<u8>>>>>,
    /// Where it sends to the service, by client.
    ways: Arc<Mutex<HashMap<SocketAddr, Way>>>,
    /// The address that it sends to the service from.
    from: Arc<Mutex<SocketAddr>>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Clone)]
struct Way {
    socket: Arc<UdpSocket>,
    passing: watch::Receiver<bool>,
    _answers: Arc<AbortOnDropHandle<()>>,
}

fn socket(address: SocketAddr) -> Arc<UdpSocket> {
    let socket = settings::bind(address).unwrap();
    socket.set_nonblocking(true).unwrap();
    Arc::new(UdpSocket::from_std(socket).unwrap())
}

impl UdpRelay {
    pub(super) fn to(service: SocketAddr) -> Self {
        Self::at(LOOPBACK, service)
    }

    pub(super) fn at(address: SocketAddr, service: SocketAddr) -> Self {
        let front = socket(address);
        let address = front.local_addr().unwrap();
        let holding = watch::Sender::new(false);
        let blocking = Arc::<AtomicBool>::default();
        let flight = Arc::<Mutex<Option<Vec<Vec<u8>>>>>::default();
        let (counts, passing) = (Arc::new(Counts::default()), Passing::new());
        let ways = Arc::<Mutex<HashMap<SocketAddr, Way>>>::default();
        let from = Arc::new(Mutex::new(LOOPBACK));
        let task = {
            let (counts, passing) = (counts.clone(), passing.clone());
            let (ways, from) = (ways.clone(), from.clone());
            let (holding, blocking) = (holding.subscribe(), blocking.clone());
            let flight = flight.clone();
            async move {
                let mut buffer = vec![0; 65_536];
                loop {
                    let (length, client) = front.recv_from(&mut buffer).await.unwrap();
                    if blocking.load(Ordering::Relaxed) {
                        continue;
                    }
                    if let Some(flight) = &mut *flight.lock().unwrap() {
                        flight.push(buffer[..length].to_vec());
                    }
                    let bytes = length as u64 + DATAGRAM_HEADER_BYTES;
                    counts.up.fetch_add(bytes, Ordering::Relaxed);
                    let way = {
                        let from = *from.lock().unwrap();
                        let mut ways = ways.lock().unwrap();
                        let way = ways.entry(client);
                        way.or_insert_with(|| {
                            let ends = (front.clone(), client, socket(from));
                            let passing = passing.subscribe();
                            Way::new(ends, (passing, holding.clone()), counts.clone())
                        })
                        .clone()
                    };
                    if *way.passing.borrow() {
                        // A service that is gone refuses it, which the client learns in other ways.
                        let _ = way.socket.send_to(&buffer[..length], service).await;
                    }
                }
            }
        };
        Self {
            address,
            counts,
            passing,
            holding,
            blocking,
            flight,
            ways,
            from,
            _task: AbortOnDropHandle::new(tokio::spawn(task)),
        }
    }

    /// Loses all that clients that there are send and are sent from now on.
    pub(super) fn stick(&self) {
        self.passing.stick();
    }

    /// Keeps back what the service sends, until `release`.
    pub(super) fn hold(&self) {
        self.holding.send_replace(true);
    }

    pub(super) fn release(&self) {
        self.holding.send_replace(false);
    }

    /// Loses all that is sent from now on, as a network that blocks UDP.
    pub(super) fn block(&self) {
        self.blocking.store(true, Ordering::Relaxed);
    }

    /// Keeps a copy of what clients send from now on.
    pub(super) fn record(&self) {
        *self.flight.lock().unwrap() = Some(Vec::new());
    }

    /// What clients sent since, datagram by datagram.
    pub(super) fn recorded(&self) -> Vec<Vec<u8>> {
        self.flight.lock().unwrap().take().unwrap()
    }

    /// Sends to the service from another address from now on, as a NAT that has forgotten; what is still sent to the one
    /// before is lost.
    pub(super) fn move_to(&self, from: SocketAddr) {
        *self.from.lock().unwrap() = from;
        self.ways.lock().unwrap().clear();
    }
}

impl Way {
    fn new(
        (front, client, socket): (Arc<UdpSocket>, SocketAddr, Arc<UdpSocket>),
        (passing, mut holding): (watch::Receiver<bool>, watch::Receiver<bool>),
        counts: Arc<Counts>,
    ) -> Self {
        let (from, passes) = (socket.clone(), passing.clone());
        let answers = async move {
            let mut buffer = vec![0; 65_536];
            while let Ok(length) = from.recv(&mut buffer).await {
                // The relay ends with the test.
                if holding.wait_for(|holding| !holding).await.is_err() {
                    return;
                }
                if *passes.borrow() {
                    let bytes = length as u64 + DATAGRAM_HEADER_BYTES;
                    counts.down.fetch_add(bytes, Ordering::Relaxed);
                    let _ = front.send_to(&buffer[..length], client).await;
                }
            }
        };
        Self {
            socket,
            passing,
            _answers: Arc::new(AbortOnDropHandle::new(tokio::spawn(answers))),
        }
    }
}

/// A relay of streams.
pub(super) struct TcpRelay {
    pub(super) address: SocketAddr,
    pub(super) counts: Arc<Counts>,
    passing: Arc<Passing>,
    _task: AbortOnDropHandle<()>,
}

impl TcpRelay {
    pub(super) async fn to(service: SocketAddr) -> Self {
        let listener = TcpListener::bind(LOOPBACK).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (counts, passing) = (Arc::new(Counts::default()), Passing::new());
        let task = {
            let (counts, passing) = (counts.clone(), passing.clone());
            async move {
                // Ends with the test's runtime.
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    let Ok(service) = TcpStream::connect(service).await else {
                        continue;
                    };
                    let (from_client, to_client) = client.into_split();
                    let (from_service, to_service) = service.into_split();
                    let (up, down) = (counts.clone(), counts.clone());
                    tokio::spawn(pass(
                        (from_client, to_service),
                        passing.subscribe(),
                        move |bytes| up.up.fetch_add(bytes, Ordering::Relaxed),
                    ));
                    tokio::spawn(pass(
                        (from_service, to_client),
                        passing.subscribe(),
                        move |bytes| down.down.fetch_add(bytes, Ordering::Relaxed),
                    ));
                }
            }
        };
        Self {
            address,
            counts,
            passing,
            _task: AbortOnDropHandle::new(tokio::spawn(task)),
        }
    }

    /// Takes nothing more from the connections that there are, for ever, and leaves them open.
    pub(super) fn stick(&self) {
        self.passing.stick();
    }
}

/// Waits until nothing is passed on any more.
async fn stuck(passing: &mut watch::Receiver<bool>) {
    // It is told before the sender goes.
    let _ = passing.wait_for(|passing| !passing).await;
}

async fn pass(
    (mut from, mut to): (tcp::OwnedReadHalf, tcp::OwnedWriteHalf),
    mut passing: watch::Receiver<bool>,
    count: impl Fn(u64) -> u64,
) {
    let mut buffer = vec![0; 16_384];
    loop {
        let length = tokio::select! {
            biased;
            () = stuck(&mut passing) => return std::future::pending().await,
            read = from.read(&mut buffer) => read.unwrap_or(0),
        };
        if length == 0 || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
        count(length as u64);
    }
}
