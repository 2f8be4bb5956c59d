//! The first words of a connection, either way, and the checks that need more than the words:
//! whether the other is a member, whose turn it is to call, and whose data directory speaks.

use super::connection::Connection;
use super::{Network, Peer, discovery};
use crate::config::listen_url;
use crate::tls::{SecureStream, is_valid_for};
use bytes::{Bytes, BytesMut};
use clocks::NodeId;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::peer::{
    Frame, Hello, LocalMember, PREAMBLE, PROTOCOL_VERSION, Question, Refusal, RefusalReason,
    check_preamble, decode_frame, decode_welcome, encode_welcome,
};

/// The whole exchange takes no longer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(3);
/// No word of it is longer.
const WORD_BYTES_MAX: usize = 4 << 10;

/// Why a connection did not come about.
#[derive(Debug)]
pub(super) enum HandshakeError {
    /// The network, or bytes that are no handshake.
    Failed(String),
    /// One side said no.
    Refused(Refusal),
    /// The other side knows this member by another data directory.
    OwnDirectoryRefused,
    /// The other side knows that this member was removed from the cluster.
    OwnRemoval,
    /// The caller only had a question, and got its answer.
    Answered,
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandshakeError::Failed(reason) => f.write_str(reason),
            HandshakeError::Refused(refusal) => write!(f, "refused: {refusal}"),
            HandshakeError::OwnDirectoryRefused => {
                f.write_str("it knows this member by another data directory")
            }
            HandshakeError::OwnRemoval => f.write_str("this member was removed from the cluster"),
            HandshakeError::Answered => f.write_str("it asked who the members are"),
        }
    }
}

/// The caller's side.
pub(super) async fn introduce(
    network: &Arc<Network>,
    to: NodeId,
    stream: SecureStream,
) -> Result<Connection, HandshakeError> {
    let mut talk = Talk::new(stream, WORD_BYTES_MAX);
    let exchange = async {
        let mut words = BytesMut::from(&PREAMBLE[..]);
        hello(network, to).encode(&mut words);
        talk.say(words).await?;
        talk.hear_preamble().await?;
        let frame = talk.hear().await?;
        let answer = Hello::decode(frame).map_err(failed)?.map_err(refused_by_other)?;
        let mut last_word = BytesMut::new();
        if let Err(refusal) = check_answer(network, to, &answer) {
            refusal.encode(&mut last_word);
            talk.say(last_word).await?;
            return Err(HandshakeError::Refused(refusal));
        }
        encode_welcome(&mut last_word);
        talk.say(last_word).await
    };
    in_time(exchange).await?;
    Ok(Connection::new(talk.stream, talk.received))
}

/// The called one's side. An error comes with the caller's id if it was told.
pub(super) async fn receive(
    network: &Arc<Network>,
    stream: SecureStream,
) -> Result<(Arc<Peer>, Connection), (Option<NodeId>, HandshakeError)> {
    let mut talk = Talk::new(stream, WORD_BYTES_MAX);
    let mut caller = None;
    let exchange = async {
        talk.hear_preamble().await?;
        let frame = talk.hear().await?;
        if Question::is_asked_by(&frame) {
            discovery::answer(network, frame, &mut talk).await?;
            return Err(HandshakeError::Answered);
        }
        let mut words = BytesMut::from(&PREAMBLE[..]);
        let checked = Hello::decode(frame).map_err(failed)?.and_then(|hello| {
            caller = Some(hello.sender);
            check_caller(network, &hello).and_then(|peer| {
                check_certificate(network, peer.id, &talk.stream)?;
                Ok(peer)
            })
        });
        let peer = match checked {
            Ok(peer) => peer,
            Err(refusal) => {
                refusal.encode(&mut words);
                talk.say(words).await?;
                return Err(HandshakeError::Refused(refusal));
            }
        };
        hello(network, peer.id).encode(&mut words);
        talk.say(words).await?;
        let frame = talk.hear().await?;
        decode_welcome(frame).map_err(failed)?.map_err(refused_by_other)?;
        Ok(peer)
    };
    match in_time(exchange).await {
        Ok(peer) => Ok((peer, Connection::new(talk.stream, talk.received))),
        Err(error) => Err((caller, error)),
    }
}

pub(super) async fn in_time<T>(
    exchange: impl Future<Output = Result<T, HandshakeError>>,
) -> Result<T, HandshakeError> {
    let too_slow = || HandshakeError::Failed("the handshake took too long".to_owned());
    tokio::time::timeout(TIMEOUT, exchange).await.unwrap_or_else(|_| Err(too_slow()))
}

fn hello(network: &Network, receiver: NodeId) -> Hello {
    Hello {
        protocol_version: PROTOCOL_VERSION,
        cluster_id: network.local.cluster,
        sender: network.local.id,
        receiver,
        feature_level: network.local.feature_level,
        directory_id: network.local.directory_id,
    }
}

fn check_caller(network: &Network, hello: &Hello) -> Result<Arc<Peer>, Refusal> {
    check_words(network, hello)?;
    let own = network.local.id;
    let Some(peer) = network.peer(hello.sender) else {
        // One that was removed is listened to for as long as a group still needs it.
        let settled = network.tells_removed.load(Ordering::Acquire);
        if settled && network.directory.is_removed(hello.sender) {
            let text = format!("member {} was removed from the cluster", hello.sender);
            return Err(Refusal { reason: RefusalReason::Removed, text });
        }
        let text = format!("{} is not a member that {own} knows", hello.sender);
        return Err(Refusal { reason: RefusalReason::NotAMember, text });
    };
    if hello.sender > own {
        let text = format!("{own} calls {}, not the other way round", hello.sender);
        return Err(Refusal { reason: RefusalReason::ImpossibleSender, text });
    }
    check_directory(network, hello)?;
    Ok(peer)
}

/// Which member calls is known only now: its certificate must be valid for where the others reach
/// that member, as it would have to be if it were called.
fn check_certificate(
    network: &Network,
    caller: NodeId,
    stream: &SecureStream,
) -> Result<(), Refusal> {
    let checks = network.tls.as_ref().is_some_and(|tls| tls.port().checks_callers_host);
    let Some(certificate) = stream.certificate().filter(|_| checks) else { return Ok(()) };
    let addresses = network.directory.addresses(caller);
    let mut hosts = addresses.iter().map(|address| listen_url::host(address));
    if hosts.any(|host| is_valid_for(certificate, host)) {
        return Ok(());
    }
    let reached = addresses.join(", ");
    let text = format!("the certificate shown is not valid where {caller} is reached: {reached}");
    Err(Refusal { reason: RefusalReason::NotAMember, text })
}

fn check_answer(network: &Network, called: NodeId, hello: &Hello) -> Result<(), Refusal> {
    check_words(network, hello)?;
    if hello.sender != called {
        let text = format!("{called} was called, {} answered", hello.sender);
        return Err(Refusal { reason: RefusalReason::OtherMember, text });
    }
    check_directory(network, hello)
}

fn check_words(network: &Network, hello: &Hello) -> Result<(), Refusal> {
    let local = LocalMember {
        cluster_id: network.local.cluster,
        id: network.local.id,
        cluster_feature_level: network.directory.feature_level(),
    };
    local.check(hello)
}

fn check_directory(network: &Network, hello: &Hello) -> Result<(), Refusal> {
    let known = network.directory.directory_id(hello.sender);
    if known == 0 || known == hello.directory_id {
        return Ok(());
    }
    let text = format!("member {} had another data directory", hello.sender);
    Err(Refusal { reason: RefusalReason::OtherDirectory, text })
}

fn refused_by_other(refusal: Refusal) -> HandshakeError {
    match refusal.reason {
        RefusalReason::OtherDirectory => HandshakeError::OwnDirectoryRefused,
        RefusalReason::Removed => HandshakeError::OwnRemoval,
        _ => HandshakeError::Refused(refusal),
    }
}

pub(super) fn failed(error: impl fmt::Display) -> HandshakeError {
    HandshakeError::Failed(error.to_string())
}

/// The words of one exchange.
pub(super) struct Talk {
    stream: SecureStream,
    received: BytesMut,
    /// No word of the other side is longer.
    bytes_max: usize,
}

impl Talk {
    pub(super) fn new(stream: SecureStream, bytes_max: usize) -> Talk {
        Talk { stream, received: BytesMut::new(), bytes_max }
    }

    pub(super) async fn say(&mut self, words: BytesMut) -> Result<(), HandshakeError> {
        self.stream.write_all(&words).await.map_err(failed)?;
        self.stream.flush().await.map_err(failed)
    }

    pub(super) async fn hear_preamble(&mut self) -> Result<(), HandshakeError> {
        loop {
            if check_preamble(&mut self.received).map_err(failed)? {
                return Ok(());
            }
            self.read().await?;
        }
    }

    pub(super) async fn hear(&mut self) -> Result<Frame, HandshakeError> {
        loop {
            if let Some(frame) = decode_frame(&mut self.received).map_err(failed)? {
                // Not to keep the buffer of the handshake alive.
                let payload = Bytes::copy_from_slice(&frame.payload);
                return Ok(Frame { kind: frame.kind, payload });
            }
            if self.received.len() > self.bytes_max {
                return Err(failed("the handshake is too long"));
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), HandshakeError> {
        match self.stream.read_buf(&mut self.received).await.map_err(failed)? {
            0 => Err(failed("the connection was closed during the handshake")),
            _ => Ok(()),
        }
    }
}
