//! Backpressure: a reply of many parts is read no faster than its client takes them.
//!
//! As gRPC's and Reactive Streams' flow control. Each part is read beside the calls of the runtime,
//! and only once the one before it has left; so a stream costs a few parts of memory, whatever its
//! length, and no thread while its client is slow. Invariants: whoever takes nothing for a while is
//! cut off, since what it reads from pins a snapshot of the engine; a reply that does not come to
//! its end never looks as if it had.

use super::limits::{STALLED_READER, STREAMED_PARTS};
use super::refusal;
use crate::NodeHandle;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use store::StoreFailure;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::Stream;
use tonic::Status;
use wire::etcd::errors::STOPPED;

/// A reply whose parts are read one after the other.
pub(super) struct StreamedReply<T> {
    parts: mpsc::Receiver<Part<T>>,
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
    T: Send + 'static,
{
    let (sender, parts) = mpsc::channel(STREAMED_PARTS);
    tokio::spawn(async move {
        let _permit = permit;
        tokio::select! {
            () = send_all(source, read, sender) => {}
            () = handle.stopping() => {}
        }
    });
    StreamedReply { parts, ended: false }
}

async fn send_all<S, T>(
    mut source: S,
    read: impl Fn(&mut S) -> Result<Option<T>, StoreFailure> + Clone + Send + 'static,
    sender: mpsc::Sender<Part<T>>,
) where
    S: Send + 'static,
    T: Send + 'static,
{
    loop {
        let read = read.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let part = read(&mut source);
            (source, part)
        });
        // A panic has been reported by the panic hook.
        let Ok((rest, part)) = reading.await else { return };
        source = rest;
        let part = match part {
            Ok(Some(part)) => Part::Next(part),
            Ok(None) => Part::End,
            Err(failure) => return drop(refusal::failed_read(&failure)),
        };
        let ends = matches!(part, Part::End);
        let taken = tokio::time::timeout(STALLED_READER, sender.send(part)).await;
        // It has all, has gone, or takes nothing.
        if ends || !matches!(taken, Ok(Ok(()))) {
            return;
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
                Some(Err(refusal::status(STOPPED)))
            }
        })
    }
}
