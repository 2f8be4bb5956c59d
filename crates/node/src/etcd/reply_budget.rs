//! Bulkhead for large replies: their bytes are counted until the client has taken them, so that
//! clients who ask for much and read slowly cost bounded memory.
//!
//! As RocksDB and gRPC bound what is buffered. Invariant: the bytes of large replies that are being
//! encoded or wait in connections' buffers never exceed the budget; a reply that finds no room is
//! refused at once, and nobody else waits for the slow. Small replies are bounded by the number of
//! calls and not counted.

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body as ReplyBody;
use tonic::codegen::Body;
use tonic::codegen::http::Response;
use tonic::{Response as Reply, Status};
use wire::etcd::errors::TOO_MANY_REQUESTS;

use super::limits::{LARGE_REPLY_BYTES, REPLY_UNIT_BYTES};
use super::refusal;

/// Room for large replies; clones share it.
#[derive(Clone, Debug)]
pub(super) struct ReplyBudget {
    units: Arc<Semaphore>,
    all: usize,
}

/// The part of the budget that one reply holds; travels with it to `hold`.
#[derive(Clone, Debug)]
struct Share {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl ReplyBudget {
    pub(super) fn new(bytes: usize) -> ReplyBudget {
        let all = bytes / REPLY_UNIT_BYTES;
        ReplyBudget { units: Arc::new(Semaphore::new(all)), all }
    }

    /// Marks a reply of about `bytes` with its share of the budget.
    ///
    /// # Errors
    /// There is no room; the client may try again later.
    pub(super) fn admit<T>(&self, reply: T, bytes: usize) -> Result<Reply<T>, Status> {
        let mut reply = Reply::new(reply);
        if bytes >= LARGE_REPLY_BYTES {
            // One that is larger than the whole budget goes alone.
            let units = bytes.div_ceil(REPLY_UNIT_BYTES).min(self.all);
            let units = u32::try_from(units).unwrap_or(u32::MAX);
            let share = Arc::clone(&self.units).try_acquire_many_owned(units);
            let share = share.map_err(|_| refusal::status(TOO_MANY_REQUESTS))?;
            reply.extensions_mut().insert(Share { _permit: Arc::new(share) });
        }
        Ok(reply)
    }
}

/// Lets a reply hold its share until its last byte has left.
pub(super) fn hold(mut reply: Response<ReplyBody>) -> Response<ReplyBody> {
    match reply.extensions_mut().remove::<Share>() {
        Some(share) => reply.map(|body| ReplyBody::new(HoldingBody { body, share })),
        None => reply,
    }
}

/// Every frame holds the share: a connection keeps frames long after the body has ended.
struct HoldingBody {
    body: ReplyBody,
    share: Share,
}

struct HoldingBytes {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for HoldingBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Body for HoldingBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        let share = &self.share;
        frame.map_ok(|frame| {
            frame.map_data(|bytes| Bytes::from_owner(HoldingBytes { bytes, _share: share.clone() }))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    fn large(budget: &ReplyBudget) -> Result<Response<ReplyBody>, Status> {
        let reply = budget.admit((), LARGE_REPLY_BYTES)?;
        let mut response = Response::new(ReplyBody::new(axum::body::Body::from("reply")));
        let share = reply.extensions().get::<Share>().expect("it is large").clone();
        response.extensions_mut().insert(share);
        Ok(hold(response))
    }

    #[tokio::test]
    async fn a_reply_holds_its_share_until_its_bytes_are_gone() {
        let budget = ReplyBudget::new(LARGE_REPLY_BYTES);
        let mut reply = large(&budget).unwrap();
        assert!(large(&budget).is_err(), "there is room for one");
        let frame = poll_fn(|context| Pin::new(reply.body_mut()).poll_frame(context)).await;
        drop(reply);
        assert!(large(&budget).is_err(), "its bytes wait in the connection");
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "reply");
        assert!(large(&budget).is_ok());
    }

    #[test]
    fn small_replies_are_free_and_one_beyond_the_budget_goes_alone() {
        let budget = ReplyBudget::new(LARGE_REPLY_BYTES);
        let huge = budget.admit((), usize::MAX / 2).unwrap();
        assert!(budget.admit((), LARGE_REPLY_BYTES).is_err());
        assert!(budget.admit((), LARGE_REPLY_BYTES - 1).is_ok());
        drop(huge);
        assert!(budget.admit((), LARGE_REPLY_BYTES).is_ok());
    }
}
