//! Accepts clients on a bound listener and serves each connection until it ends: HTTP/2 and
//! HTTP/1.1 on the same port, told apart by their first bytes.
//!
//! One per runtime, each with a listener of its own; connections never move between runtimes.

use super::authentication::Authentication;
use super::call_meters::CallMeters;
use super::client_common_name::ClientCommonName;
use super::complaints::Complaints;
use super::dispatch::Dispatch;
use super::lenient_authority::LenientAuthority;
use super::limits::{
    ACCEPT_PAUSE, CONNECTION_WINDOW_BYTES, HEAD_TIMEOUT, HTTP2_FRAME_BYTES, KEEP_ALIVE_INTERVAL,
    KEEP_ALIVE_TIMEOUT, PENDING_RESETS, SEND_BUFFER_BYTES, SHUTDOWN_GRACE, STREAM_WINDOW_BYTES,
    STREAMS_PER_CONNECTION,
};
use crate::NodeHandle;
use crate::tls::{Entrance, NotLetIn, SecureStream, common_name};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};

/// Serves etcd clients; clones share what is counted.
#[derive(Clone)]
pub struct EtcdFrontEnd {
    handle: NodeHandle,
    meters: Arc<CallMeters>,
    complaints: Arc<Complaints>,
    authentication: Arc<Authentication>,
}

impl EtcdFrontEnd {
    /// A front end of this node. Clone it for every runtime.
    #[must_use]
    pub fn new(handle: NodeHandle, authentication: Authentication) -> EtcdFrontEnd {
        let (meters, complaints) = (Arc::default(), Arc::default());
        let authentication = Arc::new(authentication);
        EtcdFrontEnd { handle, meters, complaints, authentication }
    }

    /// Serves connections of `listener`, without TLS, on the current runtime until the node stops,
    /// and then until the calls under way are answered or their grace is over: the runtime may end
    /// with it.
    ///
    /// # Errors
    /// If the listener cannot be used at all.
    pub async fn serve(&self, listener: std::net::TcpListener) -> io::Result<()> {
        self.serve_behind(listener, Entrance::Plain).await
    }

    /// The same behind an entrance.
    pub(crate) async fn serve_behind(
        &self,
        listener: std::net::TcpListener,
        entrance: Entrance,
    ) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let dispatch = Dispatch::new(
            self.handle.clone(),
            Arc::clone(&self.meters),
            Arc::clone(&self.authentication),
        );
        let mut connections = JoinSet::new();
        let mut stopping = pin!(self.handle.stopping());
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(ended) = connections.join_next() => {
                    report(ended);
                    continue;
                }
                () = &mut stopping => break,
            };
            match accepted {
                Ok((stream, from)) => {
                    let connection = Connection {
                        handle: self.handle.clone(),
                        dispatch: dispatch.clone(),
                        complaints: Arc::clone(&self.complaints),
                    };
                    connections.spawn(connection.come_in(stream, from, entrance.clone()));
                }
                // Out of descriptors, or the client is gone already: others can still be served.
                Err(error) => {
                    tracing::warn!(%error, "a client could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        // Each ends by itself within its grace.
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
        Ok(())
    }
}

/// A connection that panics ends alone, and is a fault of ours.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "serving a client's connection failed");
    }
}

struct Connection {
    handle: NodeHandle,
    dispatch: Dispatch,
    complaints: Arc<Complaints>,
}

impl Connection {
    /// Passes the entrance in a task of its own: nobody else waits for it.
    async fn come_in(mut self, stream: TcpStream, from: SocketAddr, entrance: Entrance) {
        tune(&stream);
        let admitted = tokio::select! {
            admitted = entrance.admit(stream) => admitted,
            () = self.handle.stopping() => return,
        };
        match admitted {
            Ok(stream) => {
                self.dispatch.set_caller(user(&entrance, &stream));
                self.serve(stream).await;
            }
            Err(NotLetIn::Silent) => {}
            Err(NotLetIn::Because(reason)) => {
                // Somebody else's fault, and perhaps many times a second.
                if self.complaints.may_tell() {
                    tracing::warn!(%from, "a client was not let in: {reason}");
                } else {
                    tracing::debug!(%from, "a client was not let in: {reason}");
                }
            }
        }
    }

    async fn serve(self, stream: SecureStream) {
        let authority = LenientAuthority::new();
        let stream = TokioIo::new(MeteredStream { stream, authority, handle: self.handle.clone() });
        let builder = connection_builder();
        let service = TowerToHyperService::new(self.dispatch);
        let mut connection = pin!(builder.serve_connection(stream, service));
        let result = tokio::select! {
            result = &mut connection => result,
            () = self.handle.stopping() => {
                connection.as_mut().graceful_shutdown();
                let rest = tokio::time::timeout(SHUTDOWN_GRACE, connection).await;
                rest.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "a client's connection broke");
        }
    }
}

/// Without these a connection is slower to answer or to be found dead, but serves.
fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(KEEP_ALIVE_INTERVAL);
    let tuned =
        stream.set_nodelay(true).and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = tuned {
        tracing::debug!(%error, "a client's socket could not be tuned");
    }
}

/// Who the client is, if its certificate says so and is asked.
fn user(entrance: &Entrance, stream: &SecureStream) -> Option<ClientCommonName> {
    let Entrance::Tls(tls) = entrance else { return None };
    let certificate = stream.certificate().filter(|_| tls.rotation().port().names_users)?;
    common_name(certificate).map(ClientCommonName)
}

fn connection_builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}

/// A client's socket whose bytes are counted.
struct MeteredStream {
    stream: SecureStream,
    authority: LenientAuthority,
    handle: NodeHandle,
}

impl AsyncRead for MeteredStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        self.authority.repair(&mut buffer.filled_mut()[before..]);
        self.handle.meters().client_received_bytes.add(read as u64);
        polled
    }
}

impl AsyncWrite for MeteredStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.count_sent(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.count_sent(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl MeteredStream {
    fn count_sent(&self, polled: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(sent)) = polled {
            self.handle.meters().client_sent_bytes.add(*sent as u64);
        }
    }
}
