//! How long a heartbeat's answer takes, as a leader sees it: `etcd_network_peer_round_trip_time`.
//!
//! Rounds of one group are numbered; the others' travel in the same messages.

use clocks::{GroupId, NodeId};
use consensus::{Body, PeerHeartbeats};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Rounds per peer that may be under way and are timed.
const ROUNDS_MAX: usize = 32;

/// When the rounds that are unanswered were sent.
#[derive(Debug, Default)]
pub(super) struct RoundTrips {
    unanswered: BTreeMap<NodeId, VecDeque<(u64, Instant)>>,
}

impl RoundTrips {
    /// Takes note of heartbeats on their way out.
    pub(super) fn sent(&mut self, heartbeats: &PeerHeartbeats, now: Instant) {
        let round = rounds(heartbeats, |body| match body {
            Body::Heartbeat { round, .. } => Some(*round),
            _ => None,
        });
        let Some(round) = round else { return };
        let unanswered = self.unanswered.entry(heartbeats.to).or_default();
        if unanswered.len() == ROUNDS_MAX {
            unanswered.pop_front();
        }
        unanswered.push_back((round, now));
    }

    /// How long the round took that `from` answers, if it does.
    pub(super) fn answered(
        &mut self,
        from: NodeId,
        heartbeats: &PeerHeartbeats,
        now: Instant,
    ) -> Option<Duration> {
        let round = rounds(heartbeats, |body| match body {
            Body::HeartbeatReply { round } => Some(*round),
            _ => None,
        })?;
        let unanswered = self.unanswered.get_mut(&from)?;
        let at = unanswered.iter().position(|(sent, _)| *sent == round)?;
        // Those before it were lost, or are overtaken.
        let (_, sent) = unanswered.drain(..=at).next_back()?;
        Some(now.saturating_duration_since(sent))
    }
}

fn rounds(heartbeats: &PeerHeartbeats, round: impl Fn(&Body) -> Option<u64>) -> Option<u64> {
    let of_group = |group| move |beat: &&consensus::Beat| beat.group == group;
    heartbeats.beats.iter().filter(of_group(GroupId::KEYSPACE)).find_map(|beat| round(&beat.body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clocks::Term;
    use consensus::Beat;

    const PEER: NodeId = NodeId(2);

    fn reply(round: u64) -> PeerHeartbeats {
        let (group, term) = (GroupId::KEYSPACE, Term(1));
        let beats = vec![Beat { group, term, body: Body::HeartbeatReply { round } }];
        PeerHeartbeats { from: PEER, to: NodeId(1), beats }
    }

    fn heartbeat(round: u64) -> PeerHeartbeats {
        let body = Body::Heartbeat { round, committed: 0, lease: Duration::ZERO };
        let beats = vec![Beat { group: GroupId::KEYSPACE, term: Term(1), body }];
        PeerHeartbeats { from: NodeId(1), to: PEER, beats }
    }

    #[test]
    fn a_round_is_timed_once_and_lost_ones_are_forgotten() {
        let mut trips = RoundTrips::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        for round in 1..=3 {
            trips.sent(&heartbeat(round), at(round * 10));
        }
        let took = trips.answered(PEER, &reply(2), at(25));
        assert_eq!(took, Some(Duration::from_millis(5)));
        assert_eq!(trips.answered(PEER, &reply(2), at(26)), None, "a repetition");
        assert_eq!(trips.answered(PEER, &reply(1), at(26)), None, "overtaken");
        assert_eq!(trips.answered(NodeId(3), &reply(3), at(26)), None, "a stranger");
        assert_eq!(trips.answered(PEER, &reply(3), at(31)), Some(Duration::from_millis(1)));
    }

    #[test]
    fn rounds_that_nobody_answers_cost_bounded_memory() {
        let mut trips = RoundTrips::default();
        for round in 0..1000 {
            trips.sent(&heartbeat(round), Instant::now());
        }
        assert_eq!(trips.unanswered[&PEER].len(), ROUNDS_MAX);
    }
}
