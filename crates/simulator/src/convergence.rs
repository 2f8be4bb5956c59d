//! Convergence: in the end, healed and left alone, all members stand at the same place.
//!
//! Not here: what they must hold there (`verdict`).

use crate::cluster::{Event, Phase, World};
use crate::event_heap::MILLISECOND;
use crate::process::Node;
use crate::worker::Worker;

impl World {
    pub(crate) fn require_convergence(&mut self) {
        if self.has_converged() {
            self.judge();
            self.phase = Phase::Over;
        } else if self.heap.now().0 > self.plan.settle {
            let detail = self.describe();
            self.violate("healed members converge", detail);
        } else {
            self.heap.after(100 * MILLISECOND, Event::Converged);
        }
    }

    fn has_converged(&self) -> bool {
        let quiet = self.watchers_have_caught_up()
            && self.is_level_used()
            && self.is_membership_settled()
            && self.clients.iter().all(|client| client.pending.is_none())
            && self.workers.iter().all(Worker::is_idle);
        let occupied = self.nodes.iter().filter(|node| !node.vacant);
        let positions: Vec<Option<Vec<(u64, u64)>>> = occupied.map(positions).collect();
        quiet && positions[0].is_some() && positions.iter().all(|other| *other == positions[0])
    }

    /// Where every member stands, for people.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let status = match &node.process {
                None => "down".to_string(),
                Some(process) => format!("{:?}", process.log.status().groups),
            };
            text.push_str(&format!("node {} (paused {}): {status}; ", node.slot, node.paused));
        }
        text
    }
}

/// Applied and committed index of every group, if all that is known is applied.
fn positions(node: &Node) -> Option<Vec<(u64, u64)>> {
    let process = node.process.as_ref()?;
    let status = process.log.status();
    let settled = status.groups.iter().all(|group| group.committed == group.last_index);
    let applied = |group: &replica::GroupStatus| {
        let applied = process.applier.chain_hash(group.group).map_or(0, |(at, _)| at.index);
        (applied == group.committed).then_some((applied, group.committed))
    };
    let positions: Option<Vec<_>> = status.groups.iter().map(applied).collect();
    positions.filter(|_| settled)
}
