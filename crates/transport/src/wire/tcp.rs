//! A TCP stream that counts its packets: by the kernel's word, else by what is read and written.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    SEGMENT_BYTES, SEGMENTS_OF_AN_END, SYN_OPTION_BYTES, TCP_HEADER_BYTES, TIMESTAMP_BYTES,
    WireBytes, WireMeter, ip_header_bytes,
    kernel::{self, Told},
};

/// What one connection cost until now.
#[derive(Debug)]
pub(super) struct TcpMeter {
    local: SocketAddr,
    peer: SocketAddr,
    written: Through,
    read: Through,
    /// What was told last, by the kernel or by the rule, and what had come through by then.
    latest: Mutex<Latest>,
}

/// What came through the stream one way.
#[derive(Debug, Default)]
struct Through {
    bytes: AtomicU64,
    segments: AtomicU64,
}

impl Through {
    fn add(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let segments = bytes.div_ceil(SEGMENT_BYTES);
        self.segments.fetch_add(segments, Ordering::Relaxed);
    }

    fn now(&self) -> (u64, u64) {
        (
            self.bytes.load(Ordering::Relaxed),
            self.segments.load(Ordering::Relaxed),
        )
    }
}

#[derive(Debug, Clone, Copy)]
struct Latest {
    wire: WireBytes,
    /// Bytes and segments.
    written: (u64, u64),
    read: (u64, u64),
    has_timestamps: bool,
}

impl TcpMeter {
    fn new(local: SocketAddr, peer: SocketAddr) -> Self {
        let header = ip_header_bytes(peer) + TCP_HEADER_BYTES;
        Self {
            local,
            peer,
            written: Through::default(),
            read: Through::default(),
            latest: Mutex::new(Latest {
                // SYN and acknowledgement out, SYN in.
                wire: WireBytes {
                    sent: 2 * header + SYN_OPTION_BYTES + TIMESTAMP_BYTES,
                    received: header + SYN_OPTION_BYTES,
                },
                written: (0, 0),
                read: (0, 0),
                has_timestamps: true,
            }),
        }
    }

    /// What there was until now; never less than before.
    pub(super) fn read(&self) -> WireBytes {
        let told = kernel::ask(self.local, self.peer);
        let (written, read) = (self.written.now(), self.read.now());
        let mut latest = self.latest.lock().expect("no holder of the lock panics");
        let wire = match told {
            Some(told) => {
                latest.has_timestamps = told.has_timestamps;
                self.of(&told)
            }
            None => self.estimate(&latest, written, read),
        };
        latest.wire.sent = latest.wire.sent.max(wire.sent);
        latest.wire.received = latest.wire.received.max(wire.received);
        (latest.written, latest.read) = (written, read);
        latest.wire
    }

    /// What the connection's end will have cost.
    pub(super) fn end(&self) -> WireBytes {
        let latest = self.latest.lock().expect("no holder of the lock panics");
        let bytes = SEGMENTS_OF_AN_END * self.header_bytes(latest.has_timestamps);
        WireBytes {
            sent: bytes,
            received: bytes,
        }
    }

    fn of(&self, told: &Told) -> WireBytes {
        let header = self.header_bytes(told.has_timestamps);
        // A SYN has more options than the segments after it.
        let syn = ip_header_bytes(self.peer) + TCP_HEADER_BYTES + SYN_OPTION_BYTES;
        let more = syn.saturating_sub(header);
        WireBytes {
            sent: told.bytes_sent + told.segments_sent * header + more,
            received: told.bytes_received + told.segments_received * header + more,
        }
    }

    /// What it was last, and what came through since by the rule.
    fn estimate(&self, latest: &Latest, written: (u64, u64), read: (u64, u64)) -> WireBytes {
        let header = self.header_bytes(latest.has_timestamps);
        let since = |now: (u64, u64), then: (u64, u64)| (now.0 - then.0, now.1 - then.1);
        let (out, into) = (since(written, latest.written), since(read, latest.read));
        let acknowledgements = |segments: u64| segments.div_ceil(2);
        latest.wire
            + WireBytes {
                sent: out.0 + (out.1 + acknowledgements(into.1)) * header,
                received: into.0 + (into.1 + acknowledgements(out.1)) * header,
            }
    }

    fn header_bytes(&self, has_timestamps: bool) -> u64 {
        let timestamps = if has_timestamps { TIMESTAMP_BYTES } else { 0 };
        ip_header_bytes(self.peer) + TCP_HEADER_BYTES + timestamps
    }
}

/// A stream whose packets a [`WireMeter`] counts.
#[derive(Debug)]
pub(crate) struct MeteredTcp {
    inner: TcpStream,
    meter: Arc<TcpMeter>,
    wire: WireMeter,
}

impl MeteredTcp {
    /// Counts what `inner`, which has just connected, costs.
    ///
    /// # Errors
    /// Where the connection is lost already.
    pub(crate) fn new(inner: TcpStream, wire: WireMeter) -> io::Result<Self> {
        let meter = Arc::new(TcpMeter::new(inner.local_addr()?, inner.peer_addr()?));
        wire.opened(&meter);
        Ok(Self { inner, meter, wire })
    }

    /// The stream itself, for its options.
    pub(crate) fn get_ref(&self) -> &TcpStream {
        &self.inner
    }
}

impl Drop for MeteredTcp {
    fn drop(&mut self) {
        // The socket is open until after this, so the kernel still tells of it.
        self.wire.ended(&self.meter);
    }
}

impl AsyncRead for MeteredTcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        self.meter.read.add(buffer.filled().len() - before);
        polled
    }
}

impl AsyncWrite for MeteredTcp {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &polled {
            self.meter.written.add(*written);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        if let Poll::Ready(Ok(written)) = &polled {
            self.meter.written.add(*written);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> TcpMeter {
        TcpMeter::new(([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into())
    }

    #[test]
    fn where_the_kernel_does_not_tell_segments_follow_from_what_came_through() {
        let meter = meter();
        let handshake = meter.latest.lock().unwrap().wire;
        meter.written.add(3000);
        meter.read.add(100);
        let latest = *meter.latest.lock().unwrap();
        let wire = meter.estimate(&latest, meter.written.now(), meter.read.now());
        // Three segments and an acknowledgement out, a segment and two acknowledgements in.
        assert_eq!(wire.sent - handshake.sent, 3000 + 4 * 52);
        assert_eq!(wire.received - handshake.received, 100 + 3 * 52);
    }

    #[test]
    fn what_the_kernel_tells_gets_its_headers() {
        let told = Told {
            bytes_sent: 1000,
            bytes_received: 2000,
            segments_sent: 4,
            segments_received: 5,
            has_timestamps: true,
        };
        let wire = meter().of(&told);
        assert_eq!(
            (wire.sent, wire.received),
            (1000 + 4 * 52 + 8, 2000 + 5 * 52 + 8)
        );
    }
}
