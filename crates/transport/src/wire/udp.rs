//! A UDP socket of QUIC that counts its datagrams.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use super::WireMeter;

/// Passes datagrams on, and counts them.
pub(crate) struct MeteredUdp {
    inner: Arc<dyn AsyncUdpSocket>,
    meter: WireMeter,
}

impl MeteredUdp {
    /// Counts the datagrams of `inner` with `meter`.
    pub(crate) fn new(inner: Arc<dyn AsyncUdpSocket>, meter: WireMeter) -> Self {
        Self { inner, meter }
    }
}

impl fmt::Debug for MeteredUdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl AsyncUdpSocket for MeteredUdp {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit) -> io::Result<()> {
        self.inner.try_send(transmit)?;
        let bytes = transmit.contents.len();
        let datagrams = match transmit.segment_size {
            Some(size) => bytes.div_ceil(size.max(1)),
            None => 1,
        };
        self.meter
            .sent_over_udp(transmit.destination, datagrams as u64, bytes as u64);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.inner.poll_recv(cx, buffers, meta))?;
        for received in &meta[..count] {
            let datagrams = received.len.div_ceil(received.stride.max(1)).max(1);
            self.meter
                .received_over_udp(received.addr, datagrams as u64, received.len as u64);
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
