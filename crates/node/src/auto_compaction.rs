//! Auto-compaction: the leader forgets history that is old enough, by etcd's rules and settings
//! (etcd `server/etcdserver/api/v3compactor`).
//!
//! *Periodic* keeps a period's worth: every member notes revisions at even intervals, and the one
//! that leads compacts at what was current a period ago. *Revision* keeps a number of revisions.
//! Invariant: what is decided depends on the clock handed in and the revisions noted, nothing else;
//! a member that does not lead only takes notes, so that it can go on where the leader stopped.

use crate::NodeHandle;
use clocks::GroupId;
use replica::RequestError;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use store::command::{Caller, Command};
use store::range::Revision;
use store::reply::StoreError;

/// A period is divided into so many notes, as far as it is no longer than an hour.
const NOTES_PER_INTERVAL: u32 = 10;
/// Compactions are no further apart, however long the period.
const INTERVAL_MAX: Duration = Duration::from_secs(60 * 60);
/// Notes are no closer together, however short the period.
const NOTE_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Most notes kept, and with them the longest period.
const NOTES_MAX: usize = 100_000;
/// How often the number of revisions is looked at.
const REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// How long a compaction may take to be agreed on.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// The history of this long.
    Period(Duration),
    /// So many revisions.
    Revisions(u64),
}

impl Retention {
    /// Reads etcd's settings; `None` is off.
    ///
    /// # Errors
    /// One sentence about the setting that is wrong.
    pub fn parse(mode: Option<&str>, retention: Option<&str>) -> Result<Option<Retention>, String> {
        let retention = retention.unwrap_or("0").trim();
        let wrong =
            |form: &str| format!("auto-compaction-retention is {retention:?}; it should be {form}");
        match mode.unwrap_or("periodic") {
            "periodic" => {
                let form = "a number of hours, or a duration like 30m";
                let period = period(retention).ok_or_else(|| wrong(form))?;
                if notes_of(period) > NOTES_MAX {
                    return Err(wrong("shorter"));
                }
                Ok((!period.is_zero()).then_some(Retention::Period(period)))
            }
            "revision" => {
                let revisions: u64 =
                    retention.parse().map_err(|_| wrong("a number of revisions"))?;
                Ok((revisions > 0).then_some(Retention::Revisions(revisions)))
            }
            other => {
                Err(format!("auto-compaction-mode is {other:?}; it should be periodic or revision"))
            }
        }
    }
}

/// Hours, or a duration.
fn period(text: &str) -> Option<Duration> {
    if let Ok(hours) = text.parse::<u64>() {
        return hours.checked_mul(3600).map(Duration::from_secs);
    }
    go_duration(text)
}

/// Numbers with units one behind the other, as Go writes durations.
pub(crate) fn go_duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|at: char| !(at.is_ascii_digit() || at == '.'))?;
        let number: f64 = rest[..digits].parse().ok()?;
        let behind = &rest[digits..];
        let units = [("ms", 0.001), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        let (unit, seconds) = units.into_iter().find(|(unit, _)| behind.starts_with(unit))?;
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &behind[unit.len()..];
    }
    (!text.is_empty()).then_some(total)
}

fn compaction_interval(period: Duration) -> Duration {
    period.min(INTERVAL_MAX)
}

fn note_interval(period: Duration) -> Duration {
    (compaction_interval(period) / NOTES_PER_INTERVAL).max(NOTE_INTERVAL_MIN)
}

fn notes_of(period: Duration) -> usize {
    let notes = period.as_nanos() / note_interval(period).as_nanos();
    usize::try_from(notes).unwrap_or(usize::MAX).saturating_add(1)
}

/// Decides; the clock is an argument.
#[derive(Debug)]
struct Compactor {
    retention: Retention,
    /// Revisions at even intervals, the oldest first.
    notes: VecDeque<Revision>,
    last_compacted: Revision,
    last_success: Duration,
}

impl Compactor {
    fn new(retention: Retention) -> Compactor {
        let (notes, last_compacted) = (VecDeque::new(), 0);
        Compactor { retention, notes, last_compacted, last_success: Duration::ZERO }
    }

    /// How long to wait before the next look.
    fn interval(&self) -> Duration {
        match self.retention {
            Retention::Period(period) => note_interval(period),
            Retention::Revisions(_) => REVISION_INTERVAL,
        }
    }

    /// Takes note of the current revision.
    fn note(&mut self, revision: Revision) {
        if let Retention::Period(period) = self.retention {
            self.notes.push_back(revision);
            if self.notes.len() > notes_of(period) {
                self.notes.pop_front();
            }
        }
    }

    /// What a leader is to compact at `now` (since the start), if anything.
    fn due(&self, now: Duration, current: Revision) -> Option<Revision> {
        let revision = match self.retention {
            Retention::Period(period) => {
                let waited = now.saturating_sub(self.last_success) >= compaction_interval(period);
                // Only a full row of notes goes back a whole period.
                let full = self.notes.len() >= notes_of(period);
                *self.notes.front().filter(|_| waited && full)?
            }
            Retention::Revisions(kept) => current - Revision::try_from(kept).ok()?,
        };
        (revision > 0 && revision != self.last_compacted).then_some(revision)
    }

    fn done(&mut self, now: Duration, revision: Revision) {
        self.last_compacted = revision;
        self.last_success = now;
    }
}

/// Compacts until the node stops, whenever this member leads.
pub(crate) async fn compact_while_leading(handle: NodeHandle, retention: Retention) {
    let begun = Instant::now();
    let mut compactor = Compactor::new(retention);
    let revision = || handle.reader(GroupId::KEYSPACE).map(|reader| reader.revision());
    loop {
        // A state that cannot be read stops the node through the applier.
        let Ok(current) = revision() else { return };
        compactor.note(current);
        tokio::select! {
            () = tokio::time::sleep(compactor.interval()) => {}
            () = handle.stopping() => return,
        }
        if handle.leader(GroupId::KEYSPACE) != Some(handle.member_id()) {
            continue;
        }
        let (now, Ok(current)) = (begun.elapsed(), revision()) else { return };
        let Some(due) = compactor.due(now, current) else { continue };
        let command = Command::Compact { revision: due };
        let caller = on_behalf_of_the_cluster(&handle);
        match handle.write_as(caller, GroupId::KEYSPACE, command, TIMEOUT).await {
            Ok(_) | Err(RequestError::Refused(StoreError::Compacted { .. })) => {
                tracing::info!(revision = due, "compacted, as auto-compaction asks");
                compactor.done(now, due);
            }
            Err(error) => tracing::warn!(revision = due, %error, "auto-compaction failed"),
        }
    }
}

/// Nobody's while there is no authentication: older members would not understand it.
fn on_behalf_of_the_cluster(handle: &NodeHandle) -> Option<Caller> {
    let level = handle.reader(GroupId::CONSISTENT_CORE).map_or(0, |reader| reader.feature_level());
    (level >= Caller::FEATURE_LEVEL).then_some(Caller::Cluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn retention(mode: &str, retention: &str) -> Result<Option<Retention>, String> {
        Retention::parse(Some(mode), Some(retention))
    }

    #[test]
    fn settings_are_read_as_etcd_reads_them() {
        let hours = |hours| Ok(Some(Retention::Period(MINUTE * 60 * hours)));
        assert_eq!(Retention::parse(None, None), Ok(None), "off by default");
        assert_eq!(Retention::parse(None, Some("8")), hours(8));
        assert_eq!(retention("periodic", "1h"), hours(1));
        assert_eq!(retention("periodic", "1h30m"), Ok(Some(Retention::Period(MINUTE * 90))));
        let short = Retention::Period(Duration::from_millis(1500));
        assert_eq!(retention("periodic", "1.5s"), Ok(Some(short)));
        assert_eq!(retention("periodic", "0"), Ok(None));
        assert_eq!(retention("revision", "1000"), Ok(Some(Retention::Revisions(1000))));
        assert_eq!(retention("revision", "0"), Ok(None));
        for (mode, kept) in [
            ("sometimes", "1"),
            ("periodic", "soon"),
            ("periodic", "h"),
            ("periodic", "1d"),
            ("periodic", "-1h"),
            ("periodic", ""),
            ("periodic", "99999999"),
            ("periodic", "18446744073709551615"),
            ("revision", "1h"),
        ] {
            let sentence = retention(mode, kept).expect_err("it makes no sense");
            assert!(sentence.contains("auto-compaction"), "{sentence}");
        }
    }

    /// Compactions by minute, if the revision is ten times the minute.
    fn compacted(period: Duration, minutes: u32, leads: impl Fn(u32) -> bool) -> Vec<(u32, i64)> {
        let mut compactor = Compactor::new(Retention::Period(period));
        let mut compacted = Vec::new();
        let mut at = Duration::ZERO;
        while at < MINUTE * minutes {
            compactor.note(i64::try_from(at.as_secs() / 6).expect("small") + 1);
            at += compactor.interval();
            let minute = u32::try_from(at.as_secs() / 60).expect("small");
            let current = i64::from(minute) * 10 + 1;
            if leads(minute)
                && let Some(due) = compactor.due(at, current)
            {
                compactor.done(at, due);
                compacted.push((minute, due));
            }
        }
        compacted
    }

    #[test]
    fn periodic_keeps_a_period() {
        // Noted every minute: after ten there is one that is ten minutes old.
        let every_ten = compacted(MINUTE * 10, 31, |_| true);
        assert_eq!(every_ten, [(11, 1), (21, 101), (31, 201)]);
    }

    #[test]
    fn only_a_leader_compacts_and_a_new_one_goes_on_where_the_old_one_stopped() {
        assert_eq!(compacted(MINUTE * 10, 60, |_| false), []);
        let took_over = compacted(MINUTE * 10, 32, |minute| minute > 30);
        assert_eq!(took_over.len(), 1);
        assert_eq!(took_over[0], (31, 201), "ten minutes before, not what is current");
    }

    #[test]
    fn long_periods_are_compacted_every_hour_and_notes_are_bounded() {
        let period = MINUTE * 60 * 24;
        let daily = compacted(period, 60 * 27, |_| true);
        assert_eq!(daily.len(), 3, "{daily:?}");
        assert_eq!(notes_of(period), 241);
        let longest = Retention::parse(None, Some("9000")).expect("it fits");
        assert!(
            matches!(longest, Some(Retention::Period(period)) if notes_of(period) <= NOTES_MAX)
        );
    }

    #[test]
    fn revision_keeps_a_number_of_them() {
        let mut compactor = Compactor::new(Retention::Revisions(100));
        assert_eq!(compactor.due(MINUTE, 100), None);
        assert_eq!(compactor.due(MINUTE, 150), Some(50));
        compactor.done(MINUTE, 50);
        assert_eq!(compactor.due(MINUTE * 6, 150), None, "nothing new");
        assert_eq!(compactor.due(MINUTE * 6, 151), Some(51));
        assert_eq!(compactor.interval(), MINUTE * 5);
    }
}
