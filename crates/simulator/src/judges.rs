//! The judges of the features beside keys: fed with what workers were told, and with what the
//! members decided and did.
//!
//! Not here: the rules themselves (`checkers`).

use crate::event_heap::{Instant, MILLISECOND, SECOND};
use crate::lock_contender::{REGISTER, read_register};
use crate::mark::{Mark, Marks};
use crate::swarm::Swarm;
use crate::witness::Breach;
use bytes::Bytes;
use checkers::fencing::{self, Fencing};
use checkers::lease::{Leases, Promise};
use clocks::GroupId;
use consensus::{Entry, Payload};
use std::collections::BTreeMap;
use store::command::{Command, Envelope};
use store::limits::LEASE_SLACK_MS;
use store::{EventKind, RevisionEvents};

/// Keys that nobody deletes but the end of their lease.
pub(crate) const LEASED: &[u8] = b"lease/";

/// Time that millisecond clocks may lack by rounding down, once at each end.
const ROUNDING: u64 = 2 * MILLISECOND;

/// All of them.
pub(crate) struct Judges {
    /// Per keyspace.
    pub(crate) leases: BTreeMap<GroupId, Leases>,
    /// Per keyspace, of the one lock there.
    pub(crate) fencing: BTreeMap<GroupId, Fencing>,
    /// The last index of each group that anybody was handed.
    handed: BTreeMap<GroupId, u64>,
    /// Rare branches that they saw.
    pub(crate) marks: Marks,
}

impl Judges {
    /// Judges of a world that has not begun.
    pub(crate) fn new(swarm: &Swarm, keyspaces: &[GroupId]) -> Judges {
        let drift_ppm = u64::from(swarm.timing.drift_ppm);
        let slack = LEASE_SLACK_MS * MILLISECOND;
        let promise = Promise {
            drift_ppm,
            margin: slack - slack / 1_000_000 * drift_ppm - ROUNDING,
            late: 2 * SECOND,
            late_per_leader: 1_500 * MILLISECOND,
            silence: 300 * MILLISECOND,
        };
        let leases = keyspaces.iter().map(|group| (*group, Leases::new(promise))).collect();
        let fencing = keyspaces.iter().map(|group| (*group, Fencing::new())).collect();
        Judges { leases, fencing, handed: BTreeMap::new(), marks: Marks::default() }
    }

    /// A member is handed these committed entries; each counts when the first one is.
    pub(crate) fn decided(&mut self, group: GroupId, entries: &[Entry], now: Instant) {
        let handed = self.handed.entry(group).or_default();
        let known = *handed;
        let Some(last) = entries.last().map(|entry| entry.position.index) else { return };
        if last <= known {
            return;
        }
        *handed = last;
        let Some(leases) = self.leases.get_mut(&group) else { return };
        leases.decided(now.0);
        for entry in entries.iter().filter(|entry| entry.position.index > known) {
            let Payload::Command(command) = &entry.payload else { continue };
            let Ok(envelope) = Envelope::decode(command.clone()) else { continue };
            match envelope.command {
                Command::LeaseGrant { id, ttl_s } => leases.lives_on(id, ttl_s * SECOND, now.0),
                Command::LeaseRenew { ids } => {
                    ids.into_iter().for_each(|id| leases.renewed(id, now.0));
                }
                _ => {}
            }
        }
    }

    /// A node leads the group now.
    pub(crate) fn led_anew(&mut self, group: GroupId) {
        if let Some(leases) = self.leases.get_mut(&group) {
            leases.led_anew();
        }
    }

    /// A keyspace changed for the first time in this way.
    pub(crate) fn changed(
        &mut self,
        group: GroupId,
        change: &RevisionEvents,
        now: Instant,
    ) -> Result<(), Breach> {
        self.counted(group, change)?;
        let Some(leases) = self.leases.get_mut(&group) else { return Ok(()) };
        let mut deleted: Vec<&[u8]> = Vec::new();
        for event in change.events.iter().filter(|event| event.pair.key.starts_with(LEASED)) {
            let key: &Bytes = &event.pair.key;
            match event.kind {
                EventKind::Put => {
                    leases.attached(key, Some(event.pair.lease).filter(|lease| *lease != 0));
                }
                EventKind::Delete => deleted.push(key),
            }
        }
        if deleted.is_empty() {
            return Ok(());
        }
        self.marks.reach(Mark::KeysWentWithLease);
        let checked = leases.deleted(&deleted, change.revision.unsigned_abs(), now.0);
        lease_breach(group, checked)
    }

    fn counted(&mut self, group: GroupId, change: &RevisionEvents) -> Result<(), Breach> {
        let of_register = change.events.iter().filter(|event| event.pair.key == REGISTER);
        let Some(fencing) = self.fencing.get_mut(&group) else { return Ok(()) };
        for write in of_register.filter_map(|event| read_register(&event.pair.value)) {
            fencing_breach(group, fencing.written(write))?;
        }
        Ok(())
    }

    /// Whatever should have happened by now.
    pub(crate) fn check(&mut self, now: Instant) -> Result<(), Breach> {
        for (group, leases) in &self.leases {
            lease_breach(*group, leases.check(now.0))?;
        }
        Ok(())
    }
}

/// Says which promise about locks is broken.
pub(crate) fn fencing_breach(
    group: GroupId,
    checked: Result<(), fencing::Violation>,
) -> Result<(), Breach> {
    checked.map_err(|violation| Breach {
        invariant: "a fenced lock loses no update",
        detail: format!("{group}: {violation}"),
    })
}

/// Says which promise about leases is broken.
pub(crate) fn lease_breach(
    group: GroupId,
    checked: Result<(), checkers::lease::Violation>,
) -> Result<(), Breach> {
    checked.map_err(|violation| Breach {
        invariant: "leases live as long as promised",
        detail: format!("{group}: {violation}"),
    })
}
