//! One connection after its handshake: frames out of the outgoing queue, frames into the log
//! machine's queue.

use super::{Network, Peer};
use crate::LogInput;
use crate::injected_faults::injected;
use crate::tls::SecureStream;
use crate::update_queue::UpdateQueue;
use bytes::BytesMut;
use clocks::NodeId;
use replica::{LogEvent, PeerMessage};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Semaphore;
use wire::peer::limits::FRAME_BYTES_MAX;
use wire::peer::{FRAME_HEADER_BYTES, decode_frame, decode_message, encode_message};

/// Data that goes into one write.
const WRITE_BYTES: usize = 256 << 10;
/// Read at a time.
const READ_BYTES: usize = 64 << 10;
/// Bytes received that the log machine has not taken yet; then the socket is not read.
const ROOM_BYTES: usize = FRAME_BYTES_MAX + FRAME_HEADER_BYTES;

pub(super) struct Connection {
    stream: SecureStream,
    /// Read beyond the handshake.
    received: BytesMut,
}

/// Tells the log machine that the connection is up, and when dropped that it is down.
pub(super) struct Announced<'a> {
    peer: &'a Peer,
    log: &'a UpdateQueue<LogInput>,
}

impl<'a> Announced<'a> {
    pub(super) fn new(peer: &'a Peer, log: &'a UpdateQueue<LogInput>) -> Announced<'a> {
        peer.outgoing.set_connected(true);
        log.push(LogEvent::Connected(peer.id).into());
        Announced { peer, log }
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        self.peer.outgoing.set_connected(false);
        self.log.push(LogEvent::Disconnected(self.peer.id).into());
    }
}

impl Connection {
    pub(super) fn new(stream: SecureStream, received: BytesMut) -> Connection {
        Connection { stream, received }
    }

    /// Runs until one direction ends, and says why it did.
    pub(super) async fn run(self, peer: &Peer, network: &Network) -> String {
        let (reading, writing) = tokio::io::split(self.stream);
        tokio::select! {
            end = send(writing, peer) => end,
            end = receive(reading, self.received, peer, network) => end,
        }
    }
}

async fn send(mut stream: WriteHalf<SecureStream>, peer: &Peer) -> String {
    let mut batch = Vec::new();
    let mut bytes = BytesMut::new();
    loop {
        peer.outgoing.take(&mut batch, WRITE_BYTES).await;
        for message in batch.drain(..) {
            encode_message(&mut bytes, &message);
        }
        peer.meters.sent_bytes.add(bytes.len() as u64);
        let written = async {
            stream.write_all(&bytes).await?;
            stream.flush().await
        };
        if let Err(error) = written.await {
            return error.to_string();
        }
        // One large message does not keep its memory.
        if bytes.capacity() > 4 * WRITE_BYTES {
            bytes = BytesMut::new();
        }
        bytes.clear();
    }
}

async fn receive(
    mut stream: ReadHalf<SecureStream>,
    mut received: BytesMut,
    peer: &Peer,
    network: &Network,
) -> String {
    let room = Arc::new(Semaphore::new(ROOM_BYTES));
    loop {
        if let Err(end) = take_frames(&mut received, &room, peer, network).await {
            return end;
        }
        received.reserve(READ_BYTES);
        match stream.read_buf(&mut received).await {
            Ok(0) => return "it was closed at the other end".to_owned(),
            Ok(count) => peer.meters.received_bytes.add(count as u64),
            Err(error) => return error.to_string(),
        }
    }
}

/// Hands every whole frame to the log machine, with one wake-up as long as there is room.
async fn take_frames(
    received: &mut BytesMut,
    room: &Arc<Semaphore>,
    peer: &Peer,
    network: &Network,
) -> Result<(), String> {
    let mut batch = Vec::new();
    while let Some(frame) = decode_frame(received).map_err(|error| error.to_string())? {
        let weight = FRAME_HEADER_BYTES + frame.payload.len();
        let weight = u32::try_from(weight).expect("a frame is bounded");
        let message = decode_message(frame).map_err(|error| error.to_string())?;
        check_addresses(&message, peer.id, network.local.id)?;
        if injected().is_some_and(|faults| faults.drops_from(peer.id)) {
            continue;
        }
        let taken = match Arc::clone(room).try_acquire_many_owned(weight) {
            Ok(taken) => taken,
            Err(_) => {
                network.log.push_all(batch.drain(..));
                // The semaphore is never closed.
                Arc::clone(room).acquire_many_owned(weight).await.map_err(|e| e.to_string())?
            }
        };
        let event = LogEvent::Peer { from: peer.id, message };
        batch.push(LogInput { event, room: Some(taken) });
    }
    network.log.push_all(batch);
    Ok(())
}

/// A member speaks for itself and to us.
fn check_addresses(message: &PeerMessage, peer: NodeId, own: NodeId) -> Result<(), String> {
    let (from, to) = match message {
        PeerMessage::Consensus(message) => (message.from, message.to),
        PeerMessage::Heartbeats(heartbeats) => (heartbeats.from, heartbeats.to),
        _ => return Ok(()),
    };
    if (from, to) == (peer, own) {
        return Ok(());
    }
    Err(format!("{peer} sent a message from {from} to {to}"))
}
