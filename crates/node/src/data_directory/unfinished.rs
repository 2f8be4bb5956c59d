//! Work on a data directory that takes several steps: a mark says that it is under way, and while
//! it is there no node starts.
//!
//! Invariants: the mark is durable before the first step and goes after the last one; each step
//! may be done again.

use super::{DataDirectory, FIXTURES, IDENTITY_NEW, KnownMember, LOG_MADE, mark, replace_durably};
use clocks::NodeId;
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::path::Path;

/// The mark.
const UNFINISHED: &str = "unfinished";
/// The mark, until it is whole.
const UNFINISHED_NEW: &str = "unfinished.new";
/// The mark that force-new-cluster has had its effect.
const FORCED: &str = "forced";
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
        // Of a fresh file system; of a first start that was refused; of a mark or an identity that
        // could not be written.
        let nothing = ["lost+found", "lock", FIXTURES, UNFINISHED_NEW, IDENTITY_NEW];
        let is_nothing = |name: &std::ffi::OsStr| nothing.iter().any(|nothing| name == *nothing);
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
        replace_durably(&self.path, UNFINISHED, &format!("{}\n", work.word()))
    }

    /// The work that is under way, or was interrupted.
    ///
    /// # Errors
    /// One plain sentence: something is under way, and nobody knows what.
    pub(crate) fn unfinished(&self) -> Result<Option<Unfinished>, String> {
        read_mark(&self.path)
    }

    /// Refuses a directory on which work was interrupted.
    ///
    /// # Errors
    /// One plain sentence.
    pub(crate) fn check_finished(&self) -> Result<(), String> {
        let path = self.path.display();
        match self.unfinished()? {
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

    /// Whether force-new-cluster has had its effect, and was asked for at every start since.
    pub(crate) fn was_forced(&self) -> bool {
        self.path.join(FORCED).exists()
    }

    /// Notes, durably, that force-new-cluster has had its effect.
    pub(crate) fn force_is_done(&self) -> Result<(), String> {
        mark(&self.path, FORCED)
    }

    /// Nobody asks for it any more: whoever does again, means it.
    pub(crate) fn force_is_not_wanted(&self) -> Result<(), String> {
        missing_is_fine(std::fs::remove_file(self.path.join(FORCED)))
            .map_err(|error| format!("cannot write to {}: {error}", self.path.display()))
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
        assert!(
            read_mark(&self.path) == Ok(Some(Unfinished::ForceNewCluster)),
            "a member is itself for life, or until it is lost"
        );
        self.identity = None;
        self.record(cluster, node, known).map(drop)
    }
}

/// The mark is written whole or not at all: one that says nothing known is another version's, or
/// damaged, and what it means nobody can tell from here.
pub(super) fn read_mark(path: &Path) -> Result<Option<Unfinished>, String> {
    let mark = path.join(UNFINISHED);
    let word = match std::fs::read(&mark) {
        Ok(word) => word,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read {}: {error}", mark.display())),
    };
    let known = [Unfinished::Restore, Unfinished::ForceNewCluster];
    let work = known.into_iter().find(|work| word.trim_ascii() == work.word().as_bytes());
    work.map(Some).ok_or_else(|| {
        format!(
            "{} does not say which work was interrupted: it is damaged, or of another version of \
             quorate; keep the directory, and start the version that wrote it",
            mark.display()
        )
    })
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
            assert_eq!(interrupted.unfinished(), Ok(Some(work)));
            let sentence = interrupted.check_finished().expect_err("interrupted");
            assert!(sentence.contains(words) && !sentence.contains('\n'), "{sentence}");
            interrupted.finish().expect("finished");
            interrupted.check_finished().expect("done");
        }
    }

    #[test]
    fn a_mark_that_says_nothing_known_counts_and_nobody_is_told_to_remove_anything() {
        let root = tempfile::tempdir().expect("a directory");
        drop(made(root.path()));
        for words in [&b""[..], b"restore it", b"force", &[0xff]] {
            std::fs::write(root.path().join(UNFINISHED), words).expect("written");
            let directory = DataDirectory::open(root.path()).expect("open");
            let sentence = directory.check_finished().expect_err("something is under way");
            assert!(sentence.contains("keep the directory"), "{sentence}");
            assert!(!sentence.contains("remove") && !sentence.contains('\n'), "{sentence}");
        }
    }

    #[test]
    fn a_mark_is_whole_or_not_there() {
        let root = tempfile::tempdir().expect("a directory");
        let directory = made(root.path());
        // Where nothing can be written, as on a full disk.
        std::fs::create_dir(root.path().join(UNFINISHED_NEW)).expect("a directory in its way");
        directory.begin(Unfinished::ForceNewCluster).expect_err("it cannot be written");
        assert_eq!(directory.unfinished(), Ok(None), "it is as it was");
        std::fs::remove_dir(root.path().join(UNFINISHED_NEW)).expect("the disk has room again");
        // As a crash leaves it.
        std::fs::write(root.path().join(UNFINISHED_NEW), "").expect("written");
        assert_eq!(directory.unfinished(), Ok(None));
        directory.begin(Unfinished::ForceNewCluster).expect("begun");
        assert_eq!(directory.unfinished(), Ok(Some(Unfinished::ForceNewCluster)));
        assert!(!root.path().join(UNFINISHED_NEW).exists());
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
        std::fs::write(root.path().join(UNFINISHED_NEW), "").expect("a file");
        DataDirectory::refuse_if_not_empty(root.path()).expect("a restore that never began");
        std::fs::write(root.path().join("precious"), "").expect("a file");
        let sentence = DataDirectory::refuse_if_not_empty(root.path()).expect_err("not empty");
        assert!(sentence.contains("is not empty"), "{sentence}");
    }
}
