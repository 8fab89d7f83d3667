//! Peers that connect and do not begin.

use std::{future::pending, time::Duration};

use tokio::{io::AsyncRead, time::timeout};
use tokio_util::{io::InspectReader, sync::CancellationToken};

/// Bytes that every HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;

/// Watches for a connection's preface: the stream to read from instead, and a future that ends where the preface was
/// not there within `limit`, and else never.
pub(super) fn watch<S: AsyncRead>(
    stream: S,
    limit: Duration,
) -> (
    InspectReader<S, impl FnMut(&[u8])>,
    impl Future<Output = ()>,
) {
    let begun = CancellationToken::new();
    let begins = begun.clone();
    let mut missing = PREFACE_BYTES;
    let stream = InspectReader::new(stream, move |bytes: &[u8]| {
        if missing > 0 {
            missing = missing.saturating_sub(bytes.len());
            if missing == 0 {
                begins.cancel();
            }
        }
    });
    let overdue = async move {
        if timeout(limit, begun.cancelled()).await.is_ok() {
            pending::<()>().await;
        }
    };
    (stream, overdue)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::{Instant, sleep},
    };

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// How long a peer that sends `pieces`, a second apart, is waited for, if not for ever.
    async fn waited(pieces: &'static [&'static [u8]]) -> Option<Duration> {
        let (mut peer, stream) = duplex(1024);
        let (mut stream, overdue) = watch(stream, 10 * SECOND);
        let started = Instant::now();
        tokio::spawn(async move {
            for piece in pieces {
                peer.write_all(piece).await.unwrap();
                sleep(SECOND).await;
            }
            sleep(100 * SECOND).await;
        });
        let read = async move {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.unwrap();
        };
        tokio::select! {
            () = overdue => Some(started.elapsed()),
            () = read => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_whole_preface_is_a_beginning() {
        assert_eq!(waited(&[]).await, Some(10 * SECOND));
        assert_eq!(
            waited(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"]).await,
            Some(10 * SECOND)
        );
        assert_eq!(
            waited(&[b"PRI * HTTP/2.0\r\n", b"\r\nSM\r\n\r\n"]).await,
            None
        );
    }
}
