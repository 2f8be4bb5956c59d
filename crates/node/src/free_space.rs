//! Free disk space against a reserve, and the state against its quota: when either is short the
//! node says so to the log machine, which then refuses writes before proposing them; the reserve is
//! what compaction and the log still need.

use crate::LogInput;
use crate::injected_faults::injected;
use crate::state_quota::StateQuota;
use crate::update_queue::UpdateQueue;
use replica::LogEvent;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use store::Engine;
use tokio::sync::watch;

const INTERVAL: Duration = Duration::from_secs(1);

/// What to look at.
#[derive(Clone, Debug)]
pub(crate) struct FreeSpace {
    pub(crate) directory: PathBuf,
    pub(crate) reserve_bytes: u64,
    /// For tests: a file that holds the number of free bytes.
    pub(crate) pretended: Option<PathBuf>,
}

impl FreeSpace {
    /// Free bytes, or what is wrong with asking.
    fn measure(&self) -> Result<u64, String> {
        if let Some(free) = injected().and_then(|faults| faults.free_bytes()) {
            return Ok(free);
        }
        if let Some(file) = &self.pretended {
            return pretended(file);
        }
        let status = rustix::fs::statvfs(&self.directory)
            .map_err(|error| format!("cannot ask for free space: {error}"))?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }

    /// Whether space is short, given whether it was: it must rise an eighth above the reserve
    /// before it no longer counts as short.
    fn is_short(&self, free: u64, was_short: bool) -> bool {
        let hysteresis = if was_short { self.reserve_bytes / 8 } else { 0 };
        free < self.reserve_bytes.saturating_add(hysteresis)
    }

    /// Looks once a second until the node stops, and tells of every change.
    pub(crate) async fn watch(
        self,
        state: StateSize,
        log: UpdateQueue<LogInput>,
        mut stopping: watch::Receiver<bool>,
    ) {
        let (mut short, mut full, mut told) = (false, false, false);
        loop {
            match self.measure() {
                Ok(free) => {
                    state.quota.note_room(free.saturating_sub(self.reserve_bytes));
                    if self.is_short(free, short) != short {
                        short = !short;
                        let mib = free >> 20;
                        tracing::warn!(short, "{mib} MiB of disk space are free");
                    }
                }
                Err(error) => tracing::warn!("{error}"),
            }
            full = state.look(full);
            if told != (short || full) {
                told = !told;
                log.push(LogEvent::ShortOfSpace(told).into());
            }
            let stopped = tokio::time::timeout(INTERVAL, stopping.wait_for(|stopping| *stopping));
            if stopped.await.is_ok() {
                return;
            }
        }
    }
}

/// The state, and what it may take.
pub(crate) struct StateSize {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) quota: Arc<StateQuota>,
}

impl StateSize {
    /// Whether the state is too large, given whether it was; then what was deleted is to make room.
    fn look(&self, was_full: bool) -> bool {
        let size = self.engine.disk_bytes();
        let full = self.quota.is_exceeded(size, was_full);
        if full != was_full {
            let quota = self.quota.bytes();
            tracing::warn!(full, "the state takes {size} bytes of its quota of {quota}");
        }
        if full {
            self.engine.reclaim();
        }
        full
    }
}

fn pretended(file: &Path) -> Result<u64, String> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        // Nothing pretended yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(u64::MAX),
        Err(error) => return Err(format!("cannot read {}: {error}", file.display())),
    };
    text.trim().parse().map_err(|_| format!("{} holds no number", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortness_has_hysteresis() {
        let directory = PathBuf::from("/");
        let space = FreeSpace { directory, reserve_bytes: 800, pretended: None };
        assert!(!space.is_short(800, false));
        assert!(space.is_short(799, false));
        assert!(space.is_short(899, true));
        assert!(!space.is_short(900, true));
        assert!(space.measure().expect("the root has a file system") > 0);
    }

    #[test]
    fn free_space_can_be_pretended() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("free");
        let space = FreeSpace {
            directory: directory.path().to_owned(),
            reserve_bytes: 1,
            pretended: Some(file.clone()),
        };
        assert_eq!(space.measure(), Ok(u64::MAX));
        std::fs::write(&file, "4096\n").expect("write");
        assert_eq!(space.measure(), Ok(4096));
        std::fs::write(&file, "lots").expect("write");
        assert!(space.measure().is_err());
    }
}
