//! Backpressure: a reply of many parts is read no faster than its client takes them.
//!
//! As gRPC's and Reactive Streams' flow control. Each part is read beside the calls of the runtime,
//! and only once the one before it has left; so a stream costs a few parts of memory, whatever its
//! length, and no thread while its client is slow. Invariants: whoever takes nothing for a while,
//! or too little on the whole, is cut off, since what it reads from pins a snapshot of the engine;
//! a reply that does not come to its end never looks as if it had, and says why.

use super::limits::{SLOW_READER_BYTES_PER_SECOND, STALLED_READER, STREAMED_PARTS};
use super::refusal;
use crate::NodeHandle;
use prost::Message;
use std::borrow::Cow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use store::StoreFailure;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_stream::Stream;
use tonic::Status;
use wire::etcd::errors::STOPPED;
use wire::etcd::{Code, ProtocolError};

const SLOW_READER: ProtocolError = ProtocolError {
    code: Code::ResourceExhausted,
    message: Cow::Borrowed("quorate: cut off, since the client took the reply too slowly"),
};

/// A reply whose parts are read one after the other.
pub(super) struct StreamedReply<T> {
    parts: mpsc::Receiver<Part<T>>,
    /// Why no more parts come, if that is not their end.
    why: oneshot::Receiver<Status>,
    ended: bool,
}

enum Part<T> {
    Next(T),
    /// The reply was complete.
    End,
}

/// Streams what `read` takes out of `source` until it says that there is no more; `permit` is held
/// meanwhile.
pub(super) fn streamed<S, T>(
    handle: NodeHandle,
    permit: OwnedSemaphorePermit,
    source: S,
    read: impl Fn(&mut S) -> Result<Option<T>, StoreFailure> + Clone + Send + 'static,
) -> StreamedReply<T>
where
    S: Send + 'static,
    T: Message + 'static,
{
    streamed_to(Patience::new(STALLED_READER), handle, permit, source, read)
}

fn streamed_to<S, T>(
    patience: Patience,
    handle: NodeHandle,
    permit: OwnedSemaphorePermit,
    source: S,
    read: impl Fn(&mut S) -> Result<Option<T>, StoreFailure> + Clone + Send + 'static,
) -> StreamedReply<T>
where
    S: Send + 'static,
    T: Message + 'static,
{
    let (sender, parts) = mpsc::channel(STREAMED_PARTS);
    let (tell, why) = oneshot::channel();
    tokio::spawn(async move {
        let _permit = permit;
        let sent = tokio::select! {
            sent = send_all(patience, source, read, &sender) => sent,
            () = handle.stopping() => Err(refusal::status(STOPPED)),
        };
        if let Err(status) = sent {
            // Before the last part is; the client may have left.
            let _ = tell.send(status);
        }
    });
    StreamedReply { parts, why, ended: false }
}

/// How long a client may still take nothing: a time that passes while it does, and comes back with
/// what it takes, so that on the whole a slow one keeps up a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Patience {
    most: Duration,
    left: Duration,
}

impl Patience {
    fn new(most: Duration) -> Patience {
        Patience { most, left: most }
    }

    fn taken(&mut self, bytes: usize, waited: Duration) {
        let earned = Duration::from_secs(bytes as u64) / SLOW_READER_BYTES_PER_SECOND;
        self.left = (self.left.saturating_sub(waited) + earned).min(self.most);
    }
}

async fn send_all<S, T>(
    mut patience: Patience,
    mut source: S,
    read: impl Fn(&mut S) -> Result<Option<T>, StoreFailure> + Clone + Send + 'static,
    sender: &mpsc::Sender<Part<T>>,
) -> Result<(), Status>
where
    S: Send + 'static,
    T: Message + 'static,
{
    loop {
        let read = read.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let part = read(&mut source);
            (source, part)
        });
        let read = reading.await;
        let part;
        (source, part) =
            read.map_err(|error| Status::internal(format!("quorate: a read died: {error}")))?;
        let part = part.map_err(|failure| refusal::failed_read(&failure))?;
        let bytes = part.as_ref().map(Message::encoded_len);
        let part = part.map_or(Part::End, Part::Next);
        let began = Instant::now();
        let taken = tokio::time::timeout(patience.left, sender.send(part)).await;
        let taken = taken.map_err(|_| refusal::status(SLOW_READER))?;
        match bytes {
            Some(bytes) if taken.is_ok() => patience.taken(bytes, began.elapsed()),
            // It has all, or has gone.
            _ => return Ok(()),
        }
    }
}

impl<T> Stream for StreamedReply<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let part = ready!(self.parts.poll_recv(context));
        Poll::Ready(match part {
            Some(Part::Next(part)) => Some(Ok(part)),
            Some(Part::End) => {
                self.ended = true;
                None
            }
            None => {
                self.ended = true;
                let why = self.why.try_recv();
                Some(Err(why.unwrap_or_else(|_| refusal::status(STOPPED))))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::RANGE_PART_BYTES;
    use super::super::tests::{FakeCore, block_on};
    use super::*;
    use std::sync::Arc;
    use tokio::sync::Semaphore;
    use tokio_stream::StreamExt;
    use tonic::Code;
    use wire::etcd::pb::SnapshotResponse;

    fn endless(
        patience: Patience,
        core: &FakeCore,
    ) -> (StreamedReply<SnapshotResponse>, Arc<Semaphore>) {
        let permits = Arc::new(Semaphore::new(1));
        let permit = Arc::clone(&permits).try_acquire_owned().expect("nobody has it");
        let read = |_: &mut ()| Ok(Some(SnapshotResponse::default()));
        (streamed_to(patience, core.handle.clone(), permit, (), read), permits)
    }

    #[test]
    fn a_client_that_takes_nothing_is_cut_off_gives_back_its_permit_and_hears_why() {
        let core = FakeCore::start();
        block_on(async {
            let patience = Patience::new(Duration::from_millis(1));
            let (mut reply, permits) = endless(patience, &core);
            drop(permits.acquire().await.expect("it comes back"));
            for _ in 0..STREAMED_PARTS {
                assert!(reply.next().await.expect("a part").is_ok(), "what waited still arrives");
            }
            let end = reply.next().await.expect("no end as if it were all").unwrap_err();
            assert_eq!(end.code(), Code::ResourceExhausted);
            assert!(end.message().contains("too slowly"), "{end}");
            assert!(reply.next().await.is_none());
        });
    }

    #[test]
    fn whoever_reads_when_the_node_stops_hears_that() {
        let core = FakeCore::start();
        block_on(async {
            let (mut reply, permits) = endless(Patience::new(STALLED_READER), &core);
            reply.next().await.expect("a part").expect("it goes on");
            core.handle.shared.stopping.send_replace(true);
            drop(permits.acquire().await.expect("it comes back"));
            let end = loop {
                if let Err(end) = reply.next().await.expect("no end as if it were all") {
                    break end;
                }
            };
            assert_eq!(end.message(), STOPPED.message);
        });
    }

    #[test]
    fn a_slow_client_must_keep_up_a_rate_on_the_whole() {
        let second = Duration::from_secs(1);
        let mut patience = Patience::new(STALLED_READER);
        let rate = SLOW_READER_BYTES_PER_SECOND as usize;
        for _ in 0..1000 {
            patience.taken(rate, second);
        }
        assert_eq!(patience.left, STALLED_READER, "as fast as asked for, for ever");
        patience.taken(100 * rate, Duration::ZERO);
        assert_eq!(patience.left, STALLED_READER, "nothing is saved up");
        // As slowly as can be, each time.
        let mut waited = Duration::ZERO;
        for _ in 0..1000 {
            let wait = patience.left;
            waited += wait;
            patience.taken(RANGE_PART_BYTES, wait);
        }
        let allowed = Duration::from_secs(1000 * RANGE_PART_BYTES as u64 / rate as u64);
        assert!(waited <= STALLED_READER + allowed, "{waited:?}");
    }
}
