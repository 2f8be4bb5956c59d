//! Injected Faults: what a node pretends when it is told to, so that chaos runs can try its clocks,
//! its disk and its links. Dangerous, and only there with `enable-faults`.
//!
//! Process-wide, as the clocks are. Without the setting nothing is ever stored here, and each look
//! costs one load of a pointer that is never written. Invariant: the monotonic clock never goes
//! back and never jumps, whatever rate it is told to run at. Not here: the endpoint by which this
//! is set (`admin`).

use clocks::{Monotonic, NodeId, WallTime};
use serde::{Deserialize, Serialize};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

/// No crystal is a hundredth of this wrong; runs beyond what is promised still fit.
const RATE_PPM_MAX: i64 = 100_000;
/// A year.
const WALL_OFFSET_MS_MAX: i64 = 366 * 24 * 3_600_000;
const DISK_DELAY_MS_MAX: u64 = 60_000;
const MILLION: u128 = 1_000_000;

static INJECTED: OnceLock<InjectedFaults> = OnceLock::new();

/// What is pretended; the default is nothing. Set as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PretendedFaults {
    /// Added to what the wall clock shows.
    wall_offset_ms: i64,
    /// How much faster the monotonic clock runs, in parts per million.
    monotonic_rate_ppm: i64,
    /// Added to every synced write of the log.
    disk_delay_ms: u64,
    /// Free disk space; nothing: what there is.
    free_bytes: Option<u64>,
    /// Members, by id in hexadecimal, to whom nothing is sent.
    drop_to: Vec<String>,
    /// Members from whom nothing is heard.
    drop_from: Vec<String>,
}

/// The switches of this process.
#[derive(Debug, Default)]
pub(crate) struct InjectedFaults {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    pretended: PretendedFaults,
    drop_to: Vec<NodeId>,
    drop_from: Vec<NodeId>,
    clock: SkewedClock,
}

/// Shows `shown` at `real` and runs on from there at its own rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SkewedClock {
    real: Monotonic,
    shown: Monotonic,
    rate_ppm: i64,
}

/// From now on faults can be injected into this process.
pub(crate) fn enable() -> &'static InjectedFaults {
    INJECTED.get_or_init(InjectedFaults::default)
}

/// The switches, if there are any.
pub(crate) fn injected() -> Option<&'static InjectedFaults> {
    INJECTED.get()
}

impl PretendedFaults {
    /// Reads what was asked for.
    ///
    /// # Errors
    /// One sentence about the field that is wrong.
    pub(crate) fn from_json(text: &str) -> Result<PretendedFaults, String> {
        let faults: PretendedFaults =
            serde_json::from_str(text).map_err(|error| format!("not a setting: {error}"))?;
        let rules = [
            (faults.monotonic_rate_ppm.saturating_abs() <= RATE_PPM_MAX, "monotonic_rate_ppm"),
            (faults.wall_offset_ms.saturating_abs() <= WALL_OFFSET_MS_MAX, "wall_offset_ms"),
            (faults.disk_delay_ms <= DISK_DELAY_MS_MAX, "disk_delay_ms"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            None => Ok(faults),
            Some((_, field)) => Err(format!("{field} is out of its bounds")),
        }
    }
}

impl InjectedFaults {
    /// Pretends this from now on; `now` reads the real clock, once nobody else is shown the time:
    /// what is shown never goes back.
    ///
    /// # Errors
    /// One sentence about an id that is none.
    pub(crate) fn pretend(
        &self,
        faults: PretendedFaults,
        now: impl FnOnce() -> Monotonic,
    ) -> Result<(), String> {
        let (drop_to, drop_from) = (ids(&faults.drop_to)?, ids(&faults.drop_from)?);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let now = now();
        let shown = state.clock.show(now);
        let clock = SkewedClock { real: now, shown, rate_ppm: faults.monotonic_rate_ppm };
        *state = State { pretended: faults, drop_to, drop_from, clock };
        Ok(())
    }

    /// What is pretended now, as JSON.
    pub(crate) fn to_json(&self) -> String {
        let pretended = &self.state().pretended;
        serde_json::to_string(pretended).expect("numbers and strings are always JSON")
    }

    pub(crate) fn monotonic(&self, real: Monotonic) -> Monotonic {
        self.state().clock.show(real)
    }

    pub(crate) fn wall(&self, real: WallTime) -> WallTime {
        WallTime(real.0.saturating_add_signed(self.state().pretended.wall_offset_ms))
    }

    pub(crate) fn disk_delay(&self) -> Duration {
        Duration::from_millis(self.state().pretended.disk_delay_ms)
    }

    pub(crate) fn free_bytes(&self) -> Option<u64> {
        self.state().pretended.free_bytes
    }

    pub(crate) fn drops_to(&self, member: NodeId) -> bool {
        self.state().drop_to.contains(&member)
    }

    pub(crate) fn drops_from(&self, member: NodeId) -> bool {
        self.state().drop_from.contains(&member)
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SkewedClock {
    fn show(&self, real: Monotonic) -> Monotonic {
        let passed = u128::from(real.0.saturating_sub(self.real.0));
        let rate = MILLION.saturating_add_signed(self.rate_ppm.into());
        let shown = u128::from(self.shown.0) + passed * rate / MILLION;
        Monotonic(u64::try_from(shown).unwrap_or(u64::MAX))
    }
}

fn ids(texts: &[String]) -> Result<Vec<NodeId>, String> {
    let id = |text: &String| {
        u64::from_str_radix(text, 16).map(NodeId).map_err(|_| format!("{text:?} is no member's id"))
    };
    texts.iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(faults: &InjectedFaults, json: &str, now: u64) {
        let pretended = PretendedFaults::from_json(json).expect("it makes sense");
        faults.pretend(pretended, || Monotonic(now)).expect("it makes sense");
    }

    #[test]
    fn nothing_is_pretended_at_first() {
        let faults = InjectedFaults::default();
        assert_eq!(faults.monotonic(Monotonic(12_345)), Monotonic(12_345));
        assert_eq!(faults.wall(WallTime(99)), WallTime(99));
        assert_eq!((faults.disk_delay(), faults.free_bytes()), (Duration::ZERO, None));
        assert!(!faults.drops_to(NodeId(1)) && !faults.drops_from(NodeId(1)));
        assert!(injected().is_none(), "no test of this process may enable it");
    }

    #[test]
    fn a_rate_changes_without_a_step_and_never_back() {
        let faults = InjectedFaults::default();
        set(&faults, r#"{"monotonic_rate_ppm": 200}"#, 1_000_000);
        assert_eq!(faults.monotonic(Monotonic(1_000_000)), Monotonic(1_000_000));
        assert_eq!(faults.monotonic(Monotonic(2_000_000)), Monotonic(2_000_200));
        set(&faults, r#"{"monotonic_rate_ppm": -200}"#, 2_000_000);
        assert_eq!(faults.monotonic(Monotonic(2_000_000)), Monotonic(2_000_200));
        assert_eq!(faults.monotonic(Monotonic(3_000_000)), Monotonic(3_000_000));
        set(&faults, "{}", 3_000_000);
        assert_eq!(faults.monotonic(Monotonic(4_000_000)), Monotonic(4_000_000));
        assert_eq!(faults.monotonic(Monotonic(2_999_999)), Monotonic(3_000_000), "read before");
    }

    #[test]
    fn everything_else_is_as_set_last() {
        let faults = InjectedFaults::default();
        let json = r#"{"wall_offset_ms": -50, "disk_delay_ms": 7, "free_bytes": 0,
                       "drop_to": ["a"], "drop_from": ["ff"]}"#;
        set(&faults, json, 0);
        assert_eq!(faults.wall(WallTime(120)), WallTime(70));
        assert_eq!(faults.wall(WallTime(20)), WallTime(0), "1970 is the least");
        assert_eq!(faults.disk_delay(), Duration::from_millis(7));
        assert_eq!(faults.free_bytes(), Some(0));
        assert!(faults.drops_to(NodeId(10)) && !faults.drops_to(NodeId(255)));
        assert!(faults.drops_from(NodeId(255)) && !faults.drops_from(NodeId(10)));
        assert!(faults.to_json().contains("\"wall_offset_ms\":-50"));
        set(&faults, "{}", 0);
        assert_eq!(faults.free_bytes(), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refusal = |json| PretendedFaults::from_json(json).expect_err("it makes no sense");
        assert!(refusal("{").contains("not a setting"));
        assert!(refusal(r#"{"wall_offset": 1}"#).contains("wall_offset"));
        assert!(refusal(r#"{"monotonic_rate_ppm": 100001}"#).contains("monotonic_rate_ppm"));
        assert!(refusal(r#"{"monotonic_rate_ppm": -9223372036854775808}"#).contains("bounds"));
        assert!(refusal(r#"{"disk_delay_ms": 60001}"#).contains("disk_delay_ms"));
        let unknown = PretendedFaults::from_json(r#"{"drop_to": ["n1"]}"#).expect("a word");
        let refusal = InjectedFaults::default().pretend(unknown, || Monotonic(0));
        assert!(refusal.expect_err("not an id").contains("\"n1\""));
    }
}
