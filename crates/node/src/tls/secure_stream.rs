//! A connection, plain or under TLS: who reads and writes need not know which.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use tokio_rustls::rustls::pki_types::CertificateDer;

/// Bytes both ways.
pub(crate) enum SecureStream {
    /// As they are.
    Plain(TcpStream),
    /// Encrypted and authenticated. What was written goes out with the next flush at the latest.
    Tls(Box<TlsStream<TcpStream>>),
}

impl SecureStream {
    /// The other side's own certificate, if it showed one; its chain was verified.
    pub(crate) fn certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            SecureStream::Plain(_) => None,
            SecureStream::Tls(stream) => stream.get_ref().1.peer_certificates()?.first(),
        }
    }
}

impl AsyncRead for SecureStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            SecureStream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            SecureStream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for SecureStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            SecureStream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            SecureStream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            SecureStream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            SecureStream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            SecureStream::Plain(stream) => stream.is_write_vectored(),
            SecureStream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            SecureStream::Plain(stream) => Pin::new(stream).poll_flush(context),
            SecureStream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            SecureStream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            SecureStream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
