//! What waits to be sent to one peer, in two classes: what is small and urgent (heartbeats, votes,
//! acknowledgements) overtakes what carries data. Full, or without a connection, it drops: the
//! protocols above repeat themselves.

use consensus::Body;
use replica::PeerMessage;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Bytes of data that wait; one message beyond it is possible.
const DATA_BYTES_MAX: usize = 32 << 20;
/// Urgent messages that wait.
const URGENT_MAX: usize = 8192;
/// What a small message counts.
const SMALL: usize = 64;

#[derive(Default)]
pub(super) struct OutgoingQueue {
    state: Mutex<State>,
    arrival: Notify,
}

#[derive(Default)]
struct State {
    connected: bool,
    urgent: VecDeque<PeerMessage>,
    data: VecDeque<(usize, PeerMessage)>,
    data_bytes: usize,
}

impl OutgoingQueue {
    /// Returns whether the message was taken.
    pub(super) fn push(&self, message: PeerMessage) -> bool {
        let weight = data_weight(&message);
        let mut state = self.state();
        if !state.connected {
            return false;
        }
        match weight {
            None if state.urgent.len() >= URGENT_MAX => return false,
            None => state.urgent.push_back(message),
            Some(_) if state.data_bytes >= DATA_BYTES_MAX => return false,
            Some(weight) => {
                state.data_bytes += weight;
                state.data.push_back((weight, message));
            }
        }
        drop(state);
        self.arrival.notify_one();
        true
    }

    /// Begins (empty) or ends the life of a connection.
    pub(super) fn set_connected(&self, connected: bool) {
        *self.state() = State { connected, ..State::default() };
    }

    /// Waits for messages and moves them into `batch`: everything urgent, then data of about
    /// `data_bytes`.
    pub(super) async fn take(&self, batch: &mut Vec<PeerMessage>, data_bytes: usize) {
        loop {
            self.take_waiting(batch, data_bytes);
            if !batch.is_empty() {
                return;
            }
            self.arrival.notified().await;
        }
    }

    fn take_waiting(&self, batch: &mut Vec<PeerMessage>, data_bytes: usize) {
        let mut state = self.state();
        batch.extend(state.urgent.drain(..));
        let mut taken = 0;
        while taken < data_bytes {
            let Some((weight, message)) = state.data.pop_front() else { return };
            state.data_bytes -= weight;
            taken += weight;
            batch.push(message);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// About how many bytes a message of the data class takes; none for an urgent one.
fn data_weight(message: &PeerMessage) -> Option<usize> {
    match message {
        PeerMessage::Consensus(message) => match &message.body {
            Body::Append { entries, .. } if !entries.is_empty() => {
                Some(SMALL + entries.iter().map(consensus::Entry::weight).sum::<usize>())
            }
            Body::SnapshotChunk { data, .. } => Some(SMALL + data.len()),
            _ => None,
        },
        PeerMessage::Propose { commands, .. } => {
            Some(SMALL + commands.iter().map(|command| SMALL + command.len()).sum::<usize>())
        }
        PeerMessage::StateHashes { hashes, .. } => Some(SMALL + 16 * hashes.len()),
        PeerMessage::Heartbeats(_)
        | PeerMessage::ProposeRefused { .. }
        | PeerMessage::ReadIndex { .. }
        | PeerMessage::ReadIndexReply { .. }
        | PeerMessage::MemberCondition { .. }
        | PeerMessage::LearnersInSync { .. }
        | PeerMessage::Removed => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use clocks::GroupId;

    const GROUP: GroupId = GroupId(1);

    fn data(bytes: usize) -> PeerMessage {
        PeerMessage::Propose { group: GROUP, commands: vec![Bytes::from(vec![0; bytes])] }
    }

    fn urgent(round: u64) -> PeerMessage {
        PeerMessage::ReadIndex { group: GROUP, round }
    }

    fn take(queue: &OutgoingQueue, data_bytes: usize) -> Vec<PeerMessage> {
        let mut batch = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(queue.take(&mut batch, data_bytes));
        batch
    }

    #[test]
    fn the_urgent_overtakes_data_and_data_goes_in_portions() {
        let queue = OutgoingQueue::default();
        queue.set_connected(true);
        for message in [data(1000), data(2000), urgent(1), data(3000), urgent(2)] {
            assert!(queue.push(message));
        }
        assert_eq!(take(&queue, 1200), [urgent(1), urgent(2), data(1000), data(2000)]);
        assert!(queue.push(urgent(3)));
        assert_eq!(take(&queue, 1200), [urgent(3), data(3000)]);
    }

    #[test]
    fn is_bounded_in_bytes_of_data_and_the_urgent_still_passes() {
        let queue = OutgoingQueue::default();
        queue.set_connected(true);
        let taken = (0..100).filter(|_| queue.push(data(1 << 20))).count();
        assert_eq!(taken, 32);
        assert!(queue.push(urgent(1)), "data does not crowd out the urgent");
        let taken = (0..2 * URGENT_MAX as u64).filter(|round| queue.push(urgent(*round))).count();
        assert_eq!(taken, URGENT_MAX - 1);
    }

    #[test]
    fn nothing_of_an_old_connection_is_sent_on_a_new_one() {
        let queue = OutgoingQueue::default();
        assert!(!queue.push(urgent(1)), "not connected");
        queue.set_connected(true);
        assert!(queue.push(urgent(2)) && queue.push(data(10)));
        queue.set_connected(false);
        assert!(!queue.push(urgent(3)));
        queue.set_connected(true);
        assert!(queue.push(urgent(4)));
        assert_eq!(take(&queue, 1 << 20), [urgent(4)]);
    }
}
