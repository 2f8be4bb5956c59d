//! Lease storms: many leases that are granted together, hold a key each, and end together.
//!
//! Whoever storms keeps nothing alive: at each beat a new lease is granted, and its predecessor is
//! left to end, or revoked. Judged as all leases are (`checkers::lease`).

use crate::event_heap::{Instant, MILLISECOND, SECOND};
use crate::judges::{Judges, lease_breach};
use crate::rng::{Chance, Rng};
use crate::witness::Breach;
use crate::worker::{Behaviour, Heard, Span, What, Wish};
use bytes::Bytes;
use clocks::GroupId;
use store::command::{Command, Put};
use store::reply::Outcome;

/// True time between two storms.
const BEAT: u64 = 4 * SECOND;
/// Seconds that a lease lives.
const TTL_S: u64 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Grant,
    Attach(i64),
    Revoke(i64),
}

/// One of the many.
pub(crate) struct LeaseStorm {
    number: u64,
    group: GroupId,
    rng: Rng,
    lives: i64,
    next: Next,
    asked: Next,
}

impl LeaseStorm {
    /// One that waits for the first beat.
    pub(crate) fn new(number: u64, group: GroupId, rng: Rng) -> LeaseStorm {
        LeaseStorm { number, group, rng, lives: 0, next: Next::Grant, asked: Next::Grant }
    }
}

impl Behaviour for LeaseStorm {
    fn wish(&mut self, now: Instant, judges: &mut Judges) -> Wish {
        self.asked = std::mem::replace(&mut self.next, Next::Grant);
        let command = match self.asked {
            Next::Grant => {
                self.lives += 1;
                // Apart from those of holders and contenders.
                let own = 1 << 61 | i64::try_from(self.number).expect("small") << 32;
                Command::LeaseGrant { id: own | self.lives, ttl_s: TTL_S }
            }
            Next::Attach(lease) => {
                let key = Bytes::from(format!("lease/storm/{lease:x}"));
                let value = Bytes::from(format!("storm {lease:x}"));
                Command::Put(Put { key, value, lease, ..Put::default() })
            }
            Next::Revoke(id) => {
                let leases = judges.leases.get_mut(&self.group).expect("one per keyspace");
                leases.revoking(id, now.0);
                Command::LeaseRevoke { id }
            }
        };
        Wish { group: self.group, caller: None, what: What::Write(command) }
    }

    fn hear(&mut self, heard: Heard, span: Span, judges: &mut Judges) -> Result<(), Breach> {
        let leases = judges.leases.get_mut(&self.group).expect("one per keyspace");
        let checked = match (self.asked, heard) {
            (_, Heard::Written(Outcome::LeaseGranted { id, ttl_s, .. })) => {
                self.next = Next::Attach(id);
                leases.promised(id, ttl_s * SECOND, span.asked.0, span.heard.0)
            }
            (Next::Attach(id), Heard::Written(_)) if self.rng.chance(Chance::percent(20)) => {
                self.next = Next::Revoke(id);
                Ok(())
            }
            (Next::Revoke(id), Heard::Written(_)) => leases.lost(id, span.heard.0),
            _ => Ok(()),
        };
        lease_breach(self.group, checked)
    }

    fn pause(&mut self, now: Instant) -> u64 {
        match self.next {
            Next::Attach(_) => self.rng.below(20 * MILLISECOND),
            // All at the same moment.
            Next::Grant | Next::Revoke(_) => BEAT - now.0 % BEAT,
        }
    }
}
