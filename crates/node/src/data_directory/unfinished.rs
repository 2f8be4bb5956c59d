//! Work on a data directory that takes several steps: a mark says that it is under way, and while
//! it is there no node starts.
//!
//! Invariants: the mark is durable before the first step and goes after the last one; each step
//! may be done again.

use super::{DataDirectory, KnownMember, LOG_MADE};
use crate::private_files::create_file;
use clocks::NodeId;
use std::fs::File;
use std::io::{Error, ErrorKind, Write};
use std::path::Path;

/// The mark.
const UNFINISHED: &str = "unfinished";
/// The log of a cluster that is given up, until it is deleted.
const DISCARDED_LOG: &str = "log.discarded";

/// Which work is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfinished {
    /// A directory is made from a backup.
    Restore,
    /// A member becomes a cluster of its own.
    ForceNewCluster,
}

impl Unfinished {
    fn word(self) -> &'static str {
        match self {
            Unfinished::Restore => "restore",
            Unfinished::ForceNewCluster => "force-new-cluster",
        }
    }
}

impl DataDirectory {
    /// Refuses a directory that holds anything; one that does not exist is as good as empty.
    pub(crate) fn refuse_if_not_empty(path: &Path) -> Result<(), String> {
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        // A fresh file system has the one, a directory that was only looked at the other.
        let is_nothing = |name: &std::ffi::OsStr| name == "lost+found" || name == "lock";
        let mut held = entries.flatten().filter(|entry| !is_nothing(&entry.file_name()));
        match held.next() {
            None => Ok(()),
            Some(_) => Err(format!(
                "the directory {} is not empty: a restore needs an empty one, or none yet",
                path.display()
            )),
        }
    }

    /// Notes, durably, that work is under way.
    pub(crate) fn begin(&self, work: Unfinished) -> Result<(), String> {
        let mark = self.path.join(UNFINISHED);
        let write = || {
            let mut file = create_file(&mark)?;
            writeln!(file, "{}", work.word())?;
            file.sync_all()?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|error| format!("cannot write {}: {error}", mark.display()))
    }

    /// The work that is under way, or was interrupted.
    pub(crate) fn unfinished(&self) -> Option<Unfinished> {
        let word = match std::fs::read_to_string(self.path.join(UNFINISHED)) {
            Ok(word) => word,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            // There is something: to be on the safe side, that which cannot go on.
            Err(_) => return Some(Unfinished::Restore),
        };
        let forced = word.trim() == Unfinished::ForceNewCluster.word();
        Some(if forced { Unfinished::ForceNewCluster } else { Unfinished::Restore })
    }

    /// Refuses a directory on which work was interrupted.
    ///
    /// # Errors
    /// One plain sentence.
    pub(crate) fn check_finished(&self) -> Result<(), String> {
        let path = self.path.display();
        match self.unfinished() {
            None => Ok(()),
            Some(Unfinished::Restore) => Err(format!(
                "the restore into {path} was interrupted: remove that directory, and restore again"
            )),
            Some(Unfinished::ForceNewCluster) => Err(format!(
                "making a new cluster of {path} was interrupted: start once more with \
                 --force-new-cluster"
            )),
        }
    }

    /// Notes, durably, that the work is done.
    pub(crate) fn finish(&self) -> Result<(), String> {
        let mark = self.path.join(UNFINISHED);
        let remove = || {
            std::fs::remove_file(&mark)?;
            File::open(&self.path)?.sync_all()
        };
        remove().map_err(|error| format!("cannot remove {}: {error}", mark.display()))
    }

    /// Gives the log up, durably: the state holds all that is wanted of it.
    pub(crate) fn discard_log(&self) -> Result<(), String> {
        let sync = || File::open(&self.path)?.sync_all();
        let discarded = self.path.join(DISCARDED_LOG);
        let discard = || {
            // Without this mark a directory may be without a log.
            missing_is_fine(std::fs::remove_file(self.path.join(LOG_MADE)))?;
            sync()?;
            missing_is_fine(std::fs::remove_dir_all(&discarded))?;
            missing_is_fine(std::fs::rename(self.log(), &discarded))?;
            sync()?;
            missing_is_fine(std::fs::remove_dir_all(&discarded))
        };
        discard()
            .map_err(|error| format!("cannot discard the log of {}: {error}", self.path.display()))
    }

    /// Makes the directory another member's, of another cluster, with a directory id of its own.
    pub(crate) fn become_another(
        &mut self,
        cluster: u64,
        node: NodeId,
        known: Vec<KnownMember>,
    ) -> Result<(), String> {
        assert!(self.unfinished().is_some(), "a member is itself for life, or until it is lost");
        self.identity = None;
        self.record(cluster, node, known).map(drop)
    }
}

fn missing_is_fine(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: u64 = 0xc1;
    const NODE: NodeId = NodeId(0xa1);

    fn made(path: &Path) -> DataDirectory {
        let mut directory = DataDirectory::open(path).expect("new");
        directory.record(CLUSTER, NODE, Vec::new()).expect("recorded");
        directory
    }

    #[test]
    fn no_node_starts_while_work_is_under_way() {
        let root = tempfile::tempdir().expect("a directory");
        for (work, words) in [
            (Unfinished::Restore, "restore again"),
            (Unfinished::ForceNewCluster, "once more with --force-new-cluster"),
        ] {
            let directory = DataDirectory::open(root.path()).expect("open");
            directory.check_finished().expect("nothing is under way");
            directory.begin(work).expect("begun");
            drop(directory);
            let interrupted = DataDirectory::open(root.path()).expect("open");
            assert_eq!(interrupted.unfinished(), Some(work));
            let sentence = interrupted.check_finished().expect_err("interrupted");
            assert!(sentence.contains(words) && !sentence.contains('\n'), "{sentence}");
            interrupted.finish().expect("finished");
            interrupted.check_finished().expect("done");
        }
    }

    #[test]
    fn an_unreadable_mark_counts() {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::write(root.path().join(UNFINISHED), [0xff]).expect("written");
        let directory = DataDirectory::open(root.path()).expect("open");
        directory.check_finished().expect_err("something is under way");
    }

    #[test]
    fn a_member_becomes_another_with_a_directory_id_of_its_own() {
        let root = tempfile::tempdir().expect("a directory");
        let mut directory = made(root.path());
        let old = directory.identity().expect("recorded").clone();
        directory.begin(Unfinished::ForceNewCluster).expect("begun");
        directory.become_another(0xc2, NodeId(0xa2), Vec::new()).expect("another");
        directory.finish().expect("finished");
        drop(directory);
        let again = DataDirectory::open(root.path()).expect("again");
        let identity = again.identity().expect("recorded");
        assert_eq!((identity.cluster, identity.node), (0xc2, NodeId(0xa2)));
        assert_ne!(identity.directory, old.directory);
    }

    #[test]
    fn a_log_is_discarded_with_its_mark_and_again_after_a_crash() {
        let root = tempfile::tempdir().expect("a directory");
        let directory = made(root.path());
        for crashed_before in [false, true] {
            std::fs::create_dir(directory.log()).expect("a log");
            std::fs::write(directory.log().join("0000000000000001.log"), "").expect("a segment");
            directory.log_is_made().expect("marked");
            if crashed_before {
                std::fs::create_dir(root.path().join(DISCARDED_LOG)).expect("a leftover");
            }
            directory.discard_log().expect("discarded");
            assert!(!directory.log().exists() && !root.path().join(DISCARDED_LOG).exists());
            directory.check_log().expect("none is missed");
        }
        directory.discard_log().expect("nothing to discard");
    }

    #[test]
    fn a_restore_goes_only_into_what_is_empty() {
        let root = tempfile::tempdir().expect("a directory");
        DataDirectory::refuse_if_not_empty(&root.path().join("none")).expect("not there");
        DataDirectory::refuse_if_not_empty(root.path()).expect("empty");
        std::fs::create_dir(root.path().join("lost+found")).expect("a directory");
        DataDirectory::refuse_if_not_empty(root.path()).expect("a fresh file system");
        std::fs::write(root.path().join("precious"), "").expect("a file");
        let sentence = DataDirectory::refuse_if_not_empty(root.path()).expect_err("not empty");
        assert!(sentence.contains("is not empty"), "{sentence}");
    }
}
