//! Free disk space against a reserve: below it the node says so to the log machine, which then
//! refuses writes before proposing them; the reserve is what compaction and the log still need.

use crate::LogInput;
use crate::update_queue::UpdateQueue;
use replica::LogEvent;
use std::path::{Path, PathBuf};
use std::time::Duration;
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
        log: UpdateQueue<LogInput>,
        mut stopping: watch::Receiver<bool>,
    ) {
        let mut short = false;
        loop {
            match self.measure() {
                Ok(free) if self.is_short(free, short) != short => {
                    short = !short;
                    let mib = free >> 20;
                    tracing::warn!(short, "{mib} MiB of disk space are free");
                    log.push(LogEvent::ShortOfSpace(short).into());
                }
                Ok(_) => {}
                Err(error) => tracing::warn!("{error}"),
            }
            let stopped = tokio::time::timeout(INTERVAL, stopping.wait_for(|stopping| *stopping));
            if stopped.await.is_ok() {
                return;
            }
        }
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
