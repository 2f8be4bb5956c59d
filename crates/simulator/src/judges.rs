//! The judges of the features beside keys: fed with what workers were told, and with what the
//! members decided and did.
//!
//! Not here: the rules themselves (`checkers`).

use crate::account_worker::{self, name_of};
use crate::counter_worker::{ACCOUNTS, COUNTERS, OPENING_BALANCE, amount};
use crate::event_heap::{Instant, MILLISECOND, SECOND};
use crate::feature::Feature;
use crate::lock_contender::{REGISTER, read_register};
use crate::mark::{Mark, Marks};
use crate::membership_operator::Tenants;
use crate::swarm::Swarm;
use crate::witness::Breach;
use bytes::Bytes;
use checkers::balance::Balances;
use checkers::exactly_once::ExactlyOnce;
use checkers::fencing::{self, Fencing};
use checkers::lease::{Leases, Promise};
use checkers::membership::{self, Configuration, Memberships};
use checkers::permissions::{self, Permissions};
use clocks::{GroupId, NodeId};
use consensus::{Entry, Payload};
use std::collections::{BTreeMap, BTreeSet};
use store::command::{Command, Envelope, SessionId, Txn, TxnOp};
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
    /// Per keyspace.
    pub(crate) permissions: BTreeMap<GroupId, Permissions>,
    receivers: BTreeMap<GroupId, Receiver>,
    /// Per keyspace.
    pub(crate) balances: BTreeMap<GroupId, Balances>,
    exactly_once: ExactlyOnce,
    /// The request that each value was first asked for with, per keyspace.
    requests: BTreeMap<(GroupId, Bytes), (SessionId, u64)>,
    /// Of all groups.
    pub(crate) memberships: Memberships,
    /// Machines and members.
    pub(crate) tenants: Tenants,
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
        // To log the time takes as long as to commit anything.
        let slow = [Feature::Wan, Feature::Tangles, Feature::Ambushes, Feature::LeaseStorms];
        let is_slow = slow.iter().any(|feature| swarm.features.contains(feature));
        let commit = if is_slow { 1_500 * MILLISECOND } else { 0 };
        let promise = Promise {
            drift_ppm,
            margin: slack - slack / 1_000_000 * drift_ppm - ROUNDING,
            late: 2 * SECOND + commit,
            late_per_leader: 1_500 * MILLISECOND,
            silence: 300 * MILLISECOND,
        };
        let leases = keyspaces.iter().map(|group| (*group, Leases::new(promise))).collect();
        let fencing = keyspaces.iter().map(|group| (*group, Fencing::new())).collect();
        let memberships = Memberships::new(1..=swarm.nodes as u64);
        let tenants = Tenants::new(swarm.nodes, swarm.nodes + swarm.spares);
        let permissions = keyspaces.iter().map(|group| (*group, Permissions::new())).collect();
        Judges {
            permissions,
            receivers: BTreeMap::new(),
            balances: keyspaces
                .iter()
                .map(|group| (*group, Balances::new(OPENING_BALANCE)))
                .collect(),
            exactly_once: ExactlyOnce::new(),
            requests: BTreeMap::new(),
            leases,
            fencing,
            memberships,
            tenants,
            handed: BTreeMap::new(),
            marks: Marks::default(),
        }
    }

    /// A member is handed these committed entries; each counts when the first one is.
    pub(crate) fn decided(
        &mut self,
        group: GroupId,
        entries: &[Entry],
        now: Instant,
    ) -> Result<(), Breach> {
        let handed = self.handed.entry(group).or_default();
        let known = *handed;
        let Some(last) = entries.last().map(|entry| entry.position.index) else { return Ok(()) };
        if last <= known {
            return Ok(());
        }
        *handed = last;
        let fresh = || entries.iter().filter(|entry| entry.position.index > known);
        for entry in fresh() {
            self.marks.committed(std::slice::from_ref(entry));
        }
        for entry in fresh() {
            if let Payload::Membership(membership) = &entry.payload {
                let ids = |of: &BTreeSet<NodeId>| of.iter().map(|id| id.0).collect();
                let configuration = Configuration {
                    voters: ids(&membership.voters),
                    outgoing: ids(&membership.outgoing),
                    learners: ids(&membership.learners),
                };
                let (group, index) = (u64::from(group.0), entry.position.index);
                membership_breach(self.memberships.configured(group, index, configuration))?;
            }
        }
        let Some(leases) = self.leases.get_mut(&group) else { return Ok(()) };
        let permissions = self.permissions.get_mut(&group).expect("one per keyspace");
        let receiver = self.receivers.entry(group).or_default();
        leases.decided(now.0);
        for entry in fresh() {
            let Payload::Command(command) = &entry.payload else { continue };
            let Ok(envelope) = Envelope::decode(command.clone()) else { continue };
            for value in values_of(&envelope.command) {
                let request = (envelope.session, envelope.sequence);
                self.requests.entry((group, value)).or_insert(request);
            }
            if !matches!(envelope.command, Command::OpenSession | Command::LeaseTick { .. })
                && receiver.is_known(&envelope)
            {
                self.marks.reach(Mark::CommittedTwice);
            }
            // Whoever was let in where nobody is asked yet is nobody, and refused.
            let counts = envelope.caller.is_some() || !permissions.is_enabled();
            if receiver.is_fresh(&envelope) && counts {
                if let Some(name) = name_of(&envelope.command) {
                    permissions.decided(name);
                }
                if let Command::Auth(command) = &envelope.command {
                    account_worker::change(command)
                        .into_iter()
                        .for_each(|change| permissions.changed(change));
                }
            }
            match envelope.command {
                Command::LeaseGrant { id, ttl_s } => leases.lives_on(id, ttl_s * SECOND, now.0),
                Command::LeaseRenew { ids } => {
                    ids.into_iter().for_each(|id| leases.renewed(id, now.0));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A member leads the group now.
    pub(crate) fn led_anew(&mut self, group: GroupId, member: NodeId) -> Result<(), Breach> {
        if let Some(leases) = self.leases.get_mut(&group) {
            leases.led_anew();
        }
        membership_breach(self.memberships.led(member.0, u64::from(group.0)))
    }

    /// A keyspace changed for the first time in this way.
    pub(crate) fn changed(
        &mut self,
        group: GroupId,
        change: &RevisionEvents,
        now: Instant,
    ) -> Result<(), Breach> {
        self.executed(group, change)?;
        self.counted(group, change)?;
        self.balanced(group, change)?;
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

    /// A revision is where a request took effect.
    fn executed(&mut self, group: GroupId, change: &RevisionEvents) -> Result<(), Breach> {
        for event in change.events.iter().filter(|event| event.kind == EventKind::Put) {
            let name = (group, event.pair.value.clone());
            let Some(&(session, sequence)) = self.requests.get(&name) else { continue };
            let session = session.member.0 << 32 | session.incarnation;
            let (group, at) = (u64::from(group.0), change.revision.unsigned_abs());
            let checked = self.exactly_once.applied(group, session, sequence, at);
            checked.map_err(|violation| Breach {
                invariant: "a numbered request takes effect once",
                detail: violation.to_string(),
            })?;
        }
        Ok(())
    }

    /// Whether requests were seen to take effect.
    pub(crate) fn has_seen_effects(&self) -> bool {
        self.exactly_once.distinct_applied() > 0
    }

    fn balanced(&mut self, group: GroupId, change: &RevisionEvents) -> Result<(), Breach> {
        let Some(balances) = self.balances.get_mut(&group) else { return Ok(()) };
        let revision = change.revision.unsigned_abs();
        let mut moved: Vec<(&[u8], i64)> = Vec::new();
        for event in change.events.iter() {
            let key = &event.pair.key[..];
            let Some(amount) = amount(&event.pair) else { continue };
            if key.starts_with(COUNTERS.as_bytes()) {
                balance_breach(group, balances.counted(key, amount, revision))?;
            } else if key.starts_with(ACCOUNTS.as_bytes()) {
                moved.push((key, amount));
            }
        }
        balance_breach(group, balances.moved(&moved, revision))
    }

    /// What was acknowledged of counters is there.
    pub(crate) fn check_balances(&self) -> Result<(), Breach> {
        let mut checked =
            self.balances.iter().map(|(group, of)| balance_breach(*group, of.check()));
        checked.find(Result::is_err).unwrap_or(Ok(()))
    }

    fn counted(&mut self, group: GroupId, change: &RevisionEvents) -> Result<(), Breach> {
        let of_register = change.events.iter().filter(|event| event.pair.key == REGISTER);
        let Some(fencing) = self.fencing.get_mut(&group) else { return Ok(()) };
        let permissions = self.permissions.get(&group).expect("one per keyspace");
        for event in change.events.iter().filter(|event| event.kind == EventKind::Put) {
            let name = std::str::from_utf8(&event.pair.value).unwrap_or_default();
            permission_breach(group, permissions.took_effect(name))?;
        }
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

/// The idempotent receiver as a dumb model: no session is given up.
#[derive(Default)]
struct Receiver {
    highest: BTreeMap<NodeId, u64>,
    /// Per session: what is answered for good, and what was applied beyond.
    open: BTreeMap<SessionId, (u64, BTreeSet<u64>)>,
}

impl Receiver {
    /// Whether a request of this number stands before it.
    fn is_known(&self, envelope: &Envelope) -> bool {
        let known = self.open.get(&envelope.session);
        known.is_some_and(|(answered, applied)| {
            envelope.sequence < *answered || applied.contains(&envelope.sequence)
        })
    }

    /// Whether the request, which stands behind all those before it, is executed there.
    fn is_fresh(&mut self, envelope: &Envelope) -> bool {
        let session = envelope.session;
        if envelope.command == Command::OpenSession {
            let highest = self.highest.entry(session.member).or_default();
            if session.incarnation > *highest {
                *highest = session.incarnation;
                self.open.insert(session, (0, BTreeSet::new()));
            }
            return false;
        }
        let Some((answered, applied)) = self.open.get_mut(&session) else { return false };
        let fresh = envelope.sequence >= *answered && applied.insert(envelope.sequence);
        *answered = envelope.answered_below.max(*answered);
        *applied = applied.split_off(answered);
        fresh
    }
}

/// The values that a command may put.
fn values_of(command: &Command) -> Vec<Bytes> {
    fn of_txn(txn: &Txn, values: &mut Vec<Bytes>) {
        for op in txn.success.iter().chain(&txn.failure) {
            match op {
                TxnOp::Put(put) => values.push(put.value.clone()),
                TxnOp::Txn(txn) => of_txn(txn, values),
                TxnOp::Range(_) | TxnOp::DeleteRange(_) => {}
            }
        }
    }
    let mut values = Vec::new();
    match command {
        Command::Put(put) => values.push(put.value.clone()),
        Command::Txn(txn) => of_txn(txn, &mut values),
        _ => {}
    }
    values
}

/// Says which promise about counters and transfers is broken.
fn balance_breach(
    group: GroupId,
    checked: Result<(), checkers::balance::Violation>,
) -> Result<(), Breach> {
    checked.map_err(|violation| Breach {
        invariant: "counters count and transfers keep the sum",
        detail: format!("{group}: {violation}"),
    })
}

/// Says which promise about users is broken.
pub(crate) fn permission_breach(
    group: GroupId,
    checked: Result<(), permissions::Violation>,
) -> Result<(), Breach> {
    checked.map_err(|violation| Breach {
        invariant: "users do what they may",
        detail: format!("{group}: {violation}"),
    })
}

/// Says which promise about members is broken.
pub(crate) fn membership_breach(checked: Result<(), membership::Violation>) -> Result<(), Breach> {
    checked.map_err(|violation| Breach {
        invariant: "members change as acknowledged",
        detail: violation.to_string(),
    })
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
