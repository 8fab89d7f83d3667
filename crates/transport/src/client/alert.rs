//! What the server said about this client's certificate, on a connection of HTTP/2.
//!
//! The alert arrives as an I/O error of the stream, of which the layers above keep only the text.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use crate::wire::MeteredTcp;

/// A stream that remembers the alert that ended it.
pub(super) struct AlertStream {
    inner: TlsStream<MeteredTcp>,
    alert: Alert,
}

/// The alert that ended a stream, once one did.
#[derive(Clone, Debug, Default)]
pub(super) struct Alert(Arc<OnceLock<AlertDescription>>);

impl Alert {
    pub(super) fn get(&self) -> Option<AlertDescription> {
        self.0.get().copied()
    }
}

impl AlertStream {
    pub(super) fn new(inner: TlsStream<MeteredTcp>) -> (Self, Alert) {
        let alert = Alert::default();
        let stream = Self {
            inner,
            alert: alert.clone(),
        };
        (stream, alert)
    }

    fn note(&self, error: &io::Error) {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
        if let Some(rustls::Error::AlertReceived(alert)) = tls {
            // The first one says why.
            let _ = self.alert.0.set(*alert);
        }
    }
}

impl AsyncRead for AlertStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if let Poll::Ready(Err(error)) = &polled {
            self.note(error);
        }
        polled
    }
}

impl AsyncWrite for AlertStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
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
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
