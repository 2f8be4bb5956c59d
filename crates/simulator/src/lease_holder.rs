//! Lease holders: grant a lease, attach keys to it, keep it alive for a while, and then let it go,
//! forget about it, or come back too late.
//!
//! Invariant: no lease id and no value is used twice. Not here: judging what they are told
//! (`checkers::lease`).

use crate::event_heap::{Instant, MILLISECOND, SECOND};
use crate::judges::{Judges, lease_breach};
use crate::mark::Mark;
use crate::rng::Rng;
use crate::witness::Breach;
use crate::worker::{Behaviour, Heard, Span, What, Wish};
use bytes::Bytes;
use clocks::GroupId;
use store::command::{Command, Put};
use store::range::{KeyRange, Range};
use store::reply::{Outcome, StoreError};

/// Keys that a holder uses per lease.
const KEYS: u64 = 3;

/// What a holder asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    Grant,
    /// A key with the lease, or (rarely) with none.
    Attach,
    Renew,
    Revoke,
    Look,
}

/// One holder.
pub(crate) struct LeaseHolder {
    number: u64,
    group: GroupId,
    rng: Rng,
    lives: i64,
    written: u64,
    /// The lease, its time to live in seconds, and until when it is kept alive.
    lease: Option<(i64, u64, Instant)>,
    /// Until when the holder counts on it, roughly.
    counted: Instant,
    asking: Asking,
    forgetting: bool,
    revoked: bool,
}

impl LeaseHolder {
    /// A holder without a lease.
    pub(crate) fn new(number: u64, group: GroupId, rng: Rng) -> LeaseHolder {
        LeaseHolder {
            number,
            group,
            rng,
            lives: 0,
            written: 0,
            lease: None,
            counted: Instant::default(),
            asking: Asking::Grant,
            forgetting: false,
            revoked: false,
        }
    }

    fn begin_life(&mut self, now: Instant) -> Command {
        self.lives += 1;
        let id = (i64::try_from(self.number).expect("small") + 1) << 32 | self.lives;
        let ttl_s = self.rng.between(2, 4);
        let kept = now.after(self.rng.exponential(4 * SECOND));
        self.lease = Some((id, ttl_s, kept));
        (self.forgetting, self.revoked) = (false, false);
        self.asking = Asking::Grant;
        Command::LeaseGrant { id, ttl_s }
    }

    fn attach(&mut self, id: i64) -> Command {
        self.asking = Asking::Attach;
        self.written += 1;
        let key = format!("lease/{}/{}/{}", self.number, self.lives, self.rng.below(KEYS));
        let value = format!("lease {}.{}", self.number, self.written);
        // Writing without the lease detaches the key: it stays when the lease ends.
        let lease = if self.rng.below(8) == 0 { 0 } else { id };
        Command::Put(Put { key: Bytes::from(key), value: value.into(), lease, ..Put::default() })
    }

    fn renew(&mut self, id: i64) -> Command {
        self.asking = Asking::Renew;
        Command::LeaseRenew { ids: vec![id] }
    }

    /// Reads its keys.
    fn look(&mut self, id: i64) -> Wish {
        self.asking = Asking::Look;
        let start = format!("lease/{}/{}/", self.number, id & 0xffff_ffff);
        let end = format!("lease/{}/{}0", self.number, id & 0xffff_ffff);
        let keys = KeyRange::Span { start: start.into(), end: end.into() };
        Wish { group: self.group, caller: None, what: What::Read(Range::of(keys)) }
    }

    /// The lease is no more to be used.
    fn give_up(&mut self) {
        self.lease = None;
    }
}

impl Behaviour for LeaseHolder {
    fn wish(&mut self, now: Instant, judges: &mut Judges) -> Wish {
        if let Some((id, ..)) = self.lease.filter(|_| self.rng.below(6) == 0) {
            return self.look(id);
        }
        let command = match self.lease {
            None => self.begin_life(now),
            Some((id, _, kept)) if now < kept && !self.revoked => match self.rng.below(5) {
                0 | 1 => self.attach(id),
                _ => self.renew(id),
            },
            // Once more after it was let go, or at about the time at which it ends.
            Some((id, ..)) if self.revoked || self.forgetting => self.renew(id),
            Some((id, ..)) => {
                self.revoked = self.rng.flip();
                self.forgetting = !self.revoked;
                if self.revoked {
                    self.asking = Asking::Revoke;
                    let leases = judges.leases.get_mut(&self.group).expect("one per keyspace");
                    leases.revoking(id, now.0);
                    Command::LeaseRevoke { id }
                } else {
                    self.renew(id)
                }
            }
        };
        Wish { group: self.group, caller: None, what: What::Write(command) }
    }

    fn hear(&mut self, heard: Heard, span: Span, judges: &mut Judges) -> Result<(), Breach> {
        let (asked, told) = (span.asked.0, span.heard.0);
        let (id, ttl_s, _) = self.lease.expect("it asked about one");
        let leases = judges.leases.get_mut(&self.group).expect("one per keyspace");
        let checked = match heard {
            Heard::Written(Outcome::LeaseGranted { .. }) => {
                self.counted = span.heard.after(ttl_s * SECOND);
                leases.promised(id, ttl_s * SECOND, asked, told)
            }
            Heard::Written(Outcome::LeasesRenewed { ttls_s, .. }) if ttls_s == [0] => {
                judges.marks.reach(Mark::RenewedTooLate);
                self.give_up();
                leases.lost(id, told)
            }
            Heard::Written(Outcome::LeasesRenewed { ttls_s, .. }) => {
                self.counted = span.heard.after(ttl_s * SECOND);
                leases.promised(id, ttls_s[0] * SECOND, asked, told)
            }
            Heard::Written(Outcome::LeaseRevoked { .. }) => leases.lost(id, told),
            Heard::Refused(StoreError::LeaseNotFound) => {
                self.give_up();
                // Granting it may have failed.
                if self.asking == Asking::Grant { Ok(()) } else { leases.lost(id, told) }
            }
            Heard::Refused(StoreError::LeaseExists) | Heard::Written(_) => Ok(()),
            Heard::Refused(_) | Heard::Undone | Heard::Unknown => {
                if self.asking == Asking::Grant || (self.revoked && self.asking != Asking::Look) {
                    self.give_up();
                }
                Ok(())
            }
            Heard::LeaderMoved => unreachable!("a holder moves no leader"),
            Heard::Read(reply) => match reply.pairs.iter().find(|pair| pair.lease == id) {
                Some(_) => leases.seen(id, asked),
                None => Ok(()),
            },
        };
        lease_breach(self.group, checked)
    }

    fn pause(&mut self, now: Instant) -> u64 {
        let about_its_end = self.forgetting && self.lease.is_some() && self.counted > now;
        if about_its_end {
            let left = self.counted.0 - now.0;
            return (left + self.rng.below(3 * SECOND)).saturating_sub(SECOND);
        }
        self.rng.exponential(150 * MILLISECOND)
    }
}
