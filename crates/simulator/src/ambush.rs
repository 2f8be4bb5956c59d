//! Ambush: a process crashes at a step chosen for it, where a mistake would cost most: right after
//! it has given a vote, acknowledged entries, come to lead, applied something, or written a part of
//! a snapshot.
//!
//! Whatever was said at such a moment had to be durable before. Not here: crashes at any moment
//! (`faults`).

use crate::cluster::World;
use crate::disk::Crash;
use crate::mark::Mark;
use crate::network::Slot;
use crate::rng::Rng;
use consensus::{Body, Role};
use replica::{ApplierEffect, LogEffect, LogEvent, PeerMessage};

/// A step of the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A vote was given.
    Voted,
    /// Entries were acknowledged.
    Acknowledged,
    /// An election was won.
    Elected,
    /// Entries were applied.
    Applied,
    /// Part of a snapshot was written, the last one perhaps.
    SnapshotWritten,
}

/// Where a process crashes next, and how.
pub(crate) type Ambush = (Step, Crash);

/// One of them.
pub(crate) fn draw(rng: &mut Rng) -> Ambush {
    let steps =
        [Step::Voted, Step::Acknowledged, Step::Elected, Step::Applied, Step::SnapshotWritten];
    (rng.pick(&steps), rng.pick(&[Crash::Kill, Crash::PowerLoss]))
}

/// The step that an effect of the log machine ends.
pub(crate) fn of_log(effect: &LogEffect) -> Option<Step> {
    match effect {
        LogEffect::Send { message: PeerMessage::Consensus(message), .. } => match message.body {
            Body::VoteReply { granted: true } => Some(Step::Voted),
            Body::AppendOk { .. } => Some(Step::Acknowledged),
            _ => None,
        },
        LogEffect::RoleChanged { role: Role::Leader, .. } => Some(Step::Elected),
        _ => None,
    }
}

/// The step that an effect of the applier ends.
pub(crate) fn of_applier(effect: &ApplierEffect) -> Option<Step> {
    match effect {
        ApplierEffect::Log(LogEvent::Applied { .. }) => Some(Step::Applied),
        ApplierEffect::Log(LogEvent::SnapshotWritten { .. }) => Some(Step::SnapshotWritten),
        _ => None,
    }
}

impl World {
    /// Lays an ambush for a member.
    pub(crate) fn lay_ambush(&mut self, slot: Slot) {
        let ambush = draw(&mut self.fault_rng);
        if let Some(process) = &mut self.nodes[slot].process {
            process.ambush = Some(ambush);
        }
    }

    /// The step is done: crashes the process if that is where it is waited for.
    pub(crate) fn spring_ambush(&mut self, slot: Slot, step: Option<Step>) {
        let Some(process) = &mut self.nodes[slot].process else { return };
        let sprung = process.ambush.take_if(|(waited, _)| Some(*waited) == step);
        if let Some((_, crash)) = sprung {
            self.marks.reach(Mark::Ambushed);
            self.crash_and_restart(slot, crash);
        }
    }
}
