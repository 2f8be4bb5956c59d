//! Correlation Identifier: a number that travels with a request, by which its answer finds the
//! caller who waits.
//!
//! Used by Kafka's protocol, AMQP and JSON-RPC; named in Hohpe and Woolf's "Enterprise Integration
//! Patterns". Invariant: an identifier is never reused while the process lives, so a late answer
//! finds nobody rather than somebody else.

use replica::{Reply, RequestError, RequestId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// Callers are spread over this many locks by identifier.
const SHARDS: usize = 16;

type Answer = Result<Reply, RequestError>;
type Shard = Mutex<BTreeMap<RequestId, oneshot::Sender<Answer>>>;

/// Who waits for which answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct PendingReplies {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    next: AtomicU64,
    shards: [Shard; SHARDS],
}

/// One caller's place; gives it up when dropped.
#[derive(Debug)]
pub(crate) struct PendingReply {
    request: RequestId,
    answer: oneshot::Receiver<Answer>,
    shared: Arc<Shared>,
}

impl PendingReplies {
    /// A place for one answer.
    #[must_use]
    pub(crate) fn register(&self) -> PendingReply {
        let request = RequestId(self.shared.next.fetch_add(1, Ordering::Relaxed));
        let (sender, answer) = oneshot::channel();
        self.shared
            .shard(request)
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(request, sender);
        PendingReply { request, answer, shared: Arc::clone(&self.shared) }
    }

    /// Hands the answer to whoever waits; nobody does after a cancellation.
    pub(crate) fn resolve(&self, request: RequestId, answer: Answer) {
        if let Some(sender) = self.shared.take(request) {
            // The caller may have gone between our taking and our sending.
            let _ = sender.send(answer);
        }
    }

    /// Callers that wait.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        let lens = self.shared.shards.iter();
        lens.map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// Tells everybody that the node is stopping.
    pub(crate) fn resolve_all_stopping(&self) {
        for shard in &self.shared.shards {
            let waiting =
                std::mem::take(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner));
            for sender in waiting.into_values() {
                let _ = sender.send(Err(RequestError::Stopping));
            }
        }
    }
}

impl Shared {
    fn shard(&self, request: RequestId) -> &Shard {
        &self.shards[(request.0 % SHARDS as u64) as usize]
    }

    fn take(&self, request: RequestId) -> Option<oneshot::Sender<Answer>> {
        self.shard(request).lock().unwrap_or_else(PoisonError::into_inner).remove(&request)
    }
}

impl PendingReply {
    /// The identifier to send along.
    #[must_use]
    pub(crate) fn request(&self) -> RequestId {
        self.request
    }

    /// Waits for the answer.
    pub(crate) async fn answer(&mut self) -> Answer {
        // A sender that is dropped unused means that the node stopped.
        (&mut self.answer).await.unwrap_or(Err(RequestError::Stopping))
    }
}

impl Drop for PendingReply {
    fn drop(&mut self) {
        self.shared.take(self.request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("runtime").block_on(future)
    }

    #[test]
    fn an_answer_finds_its_caller_and_a_late_one_nobody() {
        let replies = PendingReplies::default();
        let mut first = replies.register();
        let second = replies.register();
        assert_ne!(first.request(), second.request());
        let late = second.request();
        drop(second);
        replies.resolve(late, Ok(Reply::ReadReady));
        replies.resolve(first.request(), Err(RequestError::Overloaded));
        let answer = block_on(first.answer());
        assert_eq!(answer.expect_err("the refusal"), RequestError::Overloaded);
        drop(first);
        assert_eq!(replies.len(), 0, "nothing is kept for callers that left");
    }

    #[test]
    fn stopping_answers_everybody() {
        let replies = PendingReplies::default();
        let mut waiting = replies.register();
        replies.resolve_all_stopping();
        assert_eq!(block_on(waiting.answer()).expect_err("stopping"), RequestError::Stopping);
    }
}
