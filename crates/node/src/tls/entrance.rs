//! What a connection passes before it is served: a look at its first byte, and on a TLS port a
//! handshake.
//!
//! Invariant: neither takes longer than its time, and no more handshakes are under way than are
//! allowed; a caller who says nothing costs a descriptor until then, and no place among them. One
//! who stops halfway keeps its place for a moment only while others wait for it.

use super::{CertificateRotation, SecureStream};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsStream};

/// How long a caller may take to say its first byte.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may then wait for a place among the handshakes …
const PLACE_TIMEOUT: Duration = Duration::from_secs(10);
/// … and take for its own …
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// … or so long, as soon as others wait for a place.
const CROWDED_TIMEOUT: Duration = Duration::from_secs(1);
/// Handshakes under way on one port; more wait.
const HANDSHAKES_MAX: usize = 256;
/// How every connection of TLS begins: a record that carries a handshake (RFC 8446, section 5.1).
const TLS_FIRST_BYTE: u8 = 22;
/// What a client without TLS is told, in the one language that most of them read.
const WRONG_LANGUAGE: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\nConnection: close\r\n\r\nThis port speaks TLS: use https.\n";
/// The beginning of a request without TLS; more of it is not looked at.
const WRONG_LANGUAGE_READ: usize = 4 << 10;

/// What a port asks of those who come; clones share it.
#[derive(Clone)]
pub(crate) enum Entrance {
    /// Nothing.
    Plain,
    /// TLS.
    Tls(Arc<TlsEntrance>),
}

/// A port under TLS.
pub(crate) struct TlsEntrance {
    rotation: Arc<CertificateRotation>,
    places: Semaphore,
    /// How many wait for one.
    waiting: watch::Sender<usize>,
}

/// Why a connection is not served.
#[derive(Debug)]
pub(crate) enum NotLetIn {
    /// It went away without a word, as probes of a port do.
    Silent,
    /// For the log.
    Because(String),
}

impl fmt::Display for NotLetIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotLetIn::Silent => f.write_str("it said nothing"),
            NotLetIn::Because(reason) => f.write_str(reason),
        }
    }
}

impl TlsEntrance {
    pub(crate) fn new(rotation: Arc<CertificateRotation>) -> TlsEntrance {
        TlsEntrance::of(rotation, HANDSHAKES_MAX)
    }

    /// One at a time.
    #[cfg(test)]
    pub(crate) fn narrow(rotation: Arc<CertificateRotation>) -> TlsEntrance {
        TlsEntrance::of(rotation, 1)
    }

    fn of(rotation: Arc<CertificateRotation>, places: usize) -> TlsEntrance {
        let waiting = watch::Sender::new(0);
        TlsEntrance { rotation, places: Semaphore::new(places), waiting }
    }

    pub(crate) fn rotation(&self) -> &CertificateRotation {
        &self.rotation
    }
}

impl Entrance {
    /// Lets a connection in, or says why not.
    pub(crate) async fn admit(&self, stream: TcpStream) -> Result<SecureStream, NotLetIn> {
        let is_tls = first_byte(&stream).await? == TLS_FIRST_BYTE;
        match self {
            Entrance::Plain if is_tls => {
                Err(because("it speaks TLS, but this port does not: say http:// there"))
            }
            Entrance::Plain => Ok(SecureStream::Plain(stream)),
            Entrance::Tls(_) if !is_tls => {
                tell(&stream);
                Err(because("it does not speak TLS, but this port does: say https:// there"))
            }
            Entrance::Tls(entrance) => {
                let _place = entrance.place().await?;
                tokio::select! {
                    shaken = timeout(HANDSHAKE_TIMEOUT, entrance.shake_hands(stream)) => {
                        shaken.map_err(|_| because("its TLS handshake took too long"))?
                    }
                    () = entrance.overdue() => {
                        Err(because("its TLS handshake took too long while others waited"))
                    }
                }
            }
        }
    }
}

/// Somebody who waits for a place, until it is dropped.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    fn among(waiting: &'a watch::Sender<usize>) -> Waiting<'a> {
        waiting.send_modify(|count| *count += 1);
        Waiting(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl TlsEntrance {
    async fn place(&self) -> Result<SemaphorePermit<'_>, NotLetIn> {
        if let Ok(place) = self.places.try_acquire() {
            return Ok(place);
        }
        let _waiting = Waiting::among(&self.waiting);
        let place = timeout(PLACE_TIMEOUT, self.places.acquire()).await;
        place.map_err(|_| because("too many TLS handshakes are under way"))?.map_err(because)
    }

    /// Waits until a place is held for longer than others have to wait for it.
    async fn overdue(&self) {
        tokio::time::sleep(CROWDED_TIMEOUT).await;
        // The sender lives in `self`.
        let _ = self.waiting.subscribe().wait_for(|waiting| *waiting > 0).await;
    }

    async fn shake_hands(&self, stream: TcpStream) -> Result<SecureStream, NotLetIn> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.rotation.in_use().server));
        let stream = acceptor.accept(stream).await;
        let stream = stream.map_err(|error| because(format!("TLS handshake: {error}")))?;
        let stream = SecureStream::Tls(Box::new(TlsStream::Server(stream)));
        self.rotation.check(stream.certificate()).map_err(because)?;
        Ok(stream)
    }
}

/// Whether it is heard makes no difference here. What the caller said is taken first: the system
/// would cut a connection off at once on which something was left unread.
fn tell(stream: &TcpStream) {
    let mut said = [0; WRONG_LANGUAGE_READ];
    let _ = stream.try_read(&mut said);
    let _ = stream.try_write(WRONG_LANGUAGE);
}

async fn first_byte(stream: &TcpStream) -> Result<u8, NotLetIn> {
    let mut byte = [0];
    let peeked = timeout(FIRST_BYTE_TIMEOUT, stream.peek(&mut byte)).await;
    match peeked.map_err(|_| NotLetIn::Silent)? {
        Ok(1..) => Ok(byte[0]),
        Ok(0) | Err(_) => Err(NotLetIn::Silent),
    }
}

fn because(reason: impl fmt::Display) -> NotLetIn {
    NotLetIn::Because(reason.to_string())
}
