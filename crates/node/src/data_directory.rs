//! The data directory: whose it is, that only one process uses it, and what lies where.
//!
//! ```text
//! lock       held by the process that runs on it
//! identity   whose it is (`directory_identity`)
//! log-made   empty; from the moment when the log exists, and before anything is promised
//! unfinished work in several steps is under way: no node starts (`unfinished`)
//! forced     empty; force-new-cluster has had its effect, and is not wanted again
//! removed    empty; the member is none any more
//! log/       the write-ahead log
//! state/     the storage engine
//! fixtures/  certificates of the node's own making, which prove nothing
//! ```
//! Whoever started the node may keep `addresses` there, where it listens; nothing here reads it.
//!
//! Invariant: nothing but the lock and the fixtures is written to a directory before its identity,
//! so that a first start that is refused leaves a directory that is nobody's. The directory id
//! in it is drawn at random, so that an emptied directory is noticed; the mark tells a log that was
//! lost, with the votes and entries in it, from one not made yet.

mod unfinished;

pub(crate) use unfinished::Unfinished;
use unfinished::read_mark;

use crate::directory_identity::{DirectoryIdentity, KnownMember};
use crate::private_files::{FILE_MODE, close_to_others, create_directory, create_file};
use clocks::NodeId;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{Error, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

/// The mark that the log was made.
const LOG_MADE: &str = "log-made";
/// Certificates of the node's own making.
const FIXTURES: &str = "fixtures";
/// The mark that the member was removed from its cluster.
const REMOVED: &str = "removed";

/// The identity, until it is whole.
const IDENTITY_NEW: &str = "identity.new";

/// A data directory in use; the lock goes with it.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    identity: Option<DirectoryIdentity>,
    /// Levels of the path that were made for it, the innermost first.
    made: Vec<PathBuf>,
    lock: Lock,
}

impl DataDirectory {
    /// Takes the directory into use, making it if there is none. Whose it is, it says itself; a new
    /// one is nobody's until [`DataDirectory::record`].
    ///
    /// # Errors
    /// One plain sentence: in use, removed, unknown format, damaged, unreadable.
    pub fn open(path: &Path) -> Result<DataDirectory, String> {
        let made = create_durably(path).map_err(|error| {
            format!("cannot make the data directory {}: {error}", path.display())
        })?;
        let lock = lock(path)?;
        let place = path.join("identity");
        let identity = match std::fs::read_to_string(&place) {
            Ok(text) => Some(DirectoryIdentity::parse(&text, path)?),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // A restore that was interrupted has its own sentence (`check_finished`).
                if read_mark(path)?.is_none() {
                    refuse_leftovers(path)?;
                }
                None
            }
            Err(error) => return Err(format!("cannot read {}: {error}", place.display())),
        };
        if path.join(REMOVED).exists() {
            return Err(format!(
                "the data directory {} is of a member that was removed from its cluster: to join \
                 again, as a new member, start with an empty directory",
                path.display()
            ));
        }
        // One that holds something else, and nothing of a member, was named by mistake.
        if identity.is_some() || DataDirectory::refuse_if_not_empty(path).is_ok() {
            close_to_others(path)
                .map_err(|error| format!("cannot look at {}: {error}", path.display()))?;
        }
        Ok(DataDirectory { path: path.to_owned(), identity, made, lock })
    }

    /// Whose it is; nobody's if it is new.
    #[must_use]
    pub fn identity(&self) -> Option<&DirectoryIdentity> {
        self.identity.as_ref()
    }

    /// Makes a new directory this member's, durably. Returns its identity, with the directory id
    /// that was drawn for it.
    ///
    /// # Errors
    /// One plain sentence.
    ///
    /// # Panics
    /// If it is somebody's already.
    pub fn record(
        &mut self,
        cluster: u64,
        node: NodeId,
        known: Vec<KnownMember>,
    ) -> Result<DirectoryIdentity, String> {
        assert!(self.identity.is_none(), "an identity is for life");
        let drawn = random_bytes().map_err(|error| format!("cannot read /dev/urandom: {error}"))?;
        let directory = u128::from_be_bytes(drawn).max(1);
        let identity = DirectoryIdentity { cluster, node, directory, known };
        replace_durably(&self.path, "identity", &identity.render())?;
        self.identity = Some(identity.clone());
        Ok(identity)
    }

    /// Ends a start that was refused: a directory in which nothing but the lock was written is left
    /// as it was found. What cannot be removed stays, and is in nobody's way.
    pub(crate) fn give_back(self) {
        let is_nothing = |name: std::ffi::OsString| name == "lock" || name == IDENTITY_NEW;
        let only_lock = |entries: std::fs::ReadDir| {
            entries.flatten().all(|entry| is_nothing(entry.file_name()))
        };
        let is_ours = self.identity.is_none() && self.lock.made;
        if !is_ours || !std::fs::read_dir(&self.path).is_ok_and(only_lock) {
            return;
        }
        // Still locked: whoever opened this file meanwhile finds that it is another one (`lock`).
        let remove = || {
            std::fs::remove_file(self.path.join("lock"))?;
            self.made.iter().try_for_each(std::fs::remove_dir)
        };
        drop(remove());
    }

    /// Where the log lives.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Refuses a directory whose log was made at an earlier start and is gone.
    ///
    /// # Errors
    /// One plain sentence.
    pub fn check_log(&self) -> Result<(), String> {
        if !self.path.join(LOG_MADE).exists() || holds_a_segment(&self.log()) {
            return Ok(());
        }
        Err(format!(
            "the data directory {} has lost its log, and with it what this member promised: \
             restore the log from where it went, or replace the member",
            self.path.display()
        ))
    }

    /// Notes, durably, that the log exists: call it before anything is promised to anybody.
    ///
    /// # Errors
    /// One plain sentence.
    pub fn log_is_made(&self) -> Result<(), String> {
        mark(&self.path, LOG_MADE)
    }

    /// Notes, durably, that the member was removed from its cluster: it is not started again.
    ///
    /// # Errors
    /// One plain sentence.
    pub(crate) fn member_is_removed(path: &Path) -> Result<(), String> {
        mark(path, REMOVED)
    }

    /// Where self-signed certificates are kept, as etcd keeps its own.
    #[must_use]
    pub(crate) fn fixtures(&self) -> PathBuf {
        self.path.join(FIXTURES)
    }

    /// Where the storage engine lives.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A file with this text, durably, and never with a part of it.
fn replace_durably(path: &Path, name: &str, text: &str) -> Result<(), String> {
    let unfinished = path.join(format!("{name}.new"));
    let write = || {
        let mut file = create_file(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&unfinished, path.join(name))?;
        File::open(path)?.sync_all()
    };
    write().map_err(|error| {
        // It is ours, and of no use; if it stays, it is in nobody's way.
        drop(std::fs::remove_file(&unfinished));
        format!("cannot write {}: {error}", unfinished.display())
    })
}

/// An empty file, durably.
fn mark(path: &Path, name: &str) -> Result<(), String> {
    let mark = path.join(name);
    if mark.exists() {
        return Ok(());
    }
    create_file(&mark)
        .and_then(|file| file.sync_all())
        .and_then(|()| File::open(path)?.sync_all())
        .map_err(|error| format!("cannot write {}: {error}", mark.display()))
}

/// A directory without an identity holds nothing of a member.
fn refuse_leftovers(path: &Path) -> Result<(), String> {
    for leftover in ["log", "state"] {
        if path.join(leftover).exists() {
            return Err(format!(
                "the data directory {} holds data but no identity file: it is damaged, and the \
                 member must be replaced",
                path.display()
            ));
        }
    }
    Ok(())
}

fn holds_a_segment(log: &Path) -> bool {
    let is_segment = |entry: std::fs::DirEntry| entry.path().extension() == Some("log".as_ref());
    std::fs::read_dir(log).is_ok_and(|entries| entries.flatten().any(is_segment))
}

#[derive(Debug)]
struct Lock {
    _file: File,
    /// The file is of this process's making.
    made: bool,
}

fn lock(path: &Path) -> Result<Lock, String> {
    let place = path.join("lock");
    let cannot = |error: Error| format!("cannot lock {}: {error}", place.display());
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(FILE_MODE);
    let (made, mut file) = match options.clone().create_new(true).open(&place) {
        Ok(file) => (true, file),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            (false, options.open(&place).map_err(cannot)?)
        }
        Err(error) => return Err(cannot(error)),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Only for the sentence; the file may be empty still.
            let _ = (&file).take(32).read_to_string(&mut holder);
            return Err(format!(
                "the data directory {} is in use by another process (pid {})",
                path.display(),
                holder.trim()
            ));
        }
        Err(TryLockError::Error(error)) => return Err(cannot(error)),
    }
    let is_current = |now: Metadata| Ok(now.ino() == file.metadata()?.ino());
    if !std::fs::metadata(&place).and_then(is_current).unwrap_or(false) {
        return Err(format!(
            "the data directory {} was just given up by another process: try again",
            path.display()
        ));
    }
    file.set_len(0).map_err(cannot)?;
    writeln!(file, "{}", std::process::id()).map_err(cannot)?;
    Ok(Lock { _file: file, made })
}

/// Makes the directory and those above it that are missing; all of them survive power loss.
/// Returns those that it made, the innermost first.
fn create_durably(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let resolved = resolved(path)?;
    let missing = resolved.ancestors().take_while(|level| !level.exists());
    let missing: Vec<PathBuf> = missing.map(Path::to_owned).collect();
    create_directory(path)?;
    let mut above = resolved.ancestors().skip(1).take(missing.len());
    above.try_for_each(|above| File::open(above)?.sync_all())?;
    Ok(missing)
}

/// Absolute and without `..`. A level that is missing will be a directory, and no link.
fn resolved(path: &Path) -> Result<PathBuf, Error> {
    let mut resolved = PathBuf::new();
    for component in std::path::absolute(path)?.components() {
        if component == Component::ParentDir {
            resolved = resolved.canonicalize().unwrap_or(resolved);
            resolved.pop();
        } else {
            resolved.push(component);
        }
    }
    Ok(resolved)
}

/// Unpredictable bytes, for ids and seeds.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::private_files::mode_of;

    const CLUSTER: u64 = 0xc1;
    const NODE: NodeId = NodeId(0xa1);

    fn sentence(path: &Path) -> String {
        let sentence = DataDirectory::open(path).expect_err("it should be refused");
        assert!(!sentence.contains('\n'), "{sentence}");
        sentence
    }

    fn made(path: &Path) -> DataDirectory {
        let mut directory = DataDirectory::open(path).expect("new");
        assert_eq!(directory.identity(), None);
        directory.record(CLUSTER, NODE, Vec::new()).expect("recorded");
        directory
    }

    #[test]
    fn keeps_its_identity_until_it_is_emptied() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("n1");
        let first = made(&path);
        let identity = first.identity().expect("recorded").clone();
        assert_eq!((identity.cluster, identity.node), (CLUSTER, NODE));
        drop(first);
        let again = DataDirectory::open(&path).expect("again");
        assert_eq!(again.identity(), Some(&identity));
        drop(again);
        std::fs::remove_dir_all(&path).expect("emptied");
        let emptied = made(&path);
        assert_ne!(emptied.identity().expect("recorded").directory, identity.directory);
    }

    #[test]
    fn it_is_closed_to_other_users() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("n1");
        let directory = made(&path);
        directory.log_is_made().expect("marked");
        directory.begin(Unfinished::Restore).expect("marked");
        assert_eq!(mode_of(&path), 0o700);
        for file in ["lock", "identity", LOG_MADE, "unfinished"] {
            assert_eq!(mode_of(&path.join(file)), 0o600, "{file}");
        }
        drop(directory);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
        drop(DataDirectory::open(&path).expect("again"));
        assert_eq!(mode_of(&path), 0o700);
        let open = |path: &Path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("set");
            drop(DataDirectory::open(path).expect("new"));
            mode_of(path)
        };
        let other = root.path().join("etc");
        std::fs::create_dir(&other).expect("made");
        assert_eq!(open(&other), 0o700, "an empty one");
        std::fs::write(other.join("passwd"), "").expect("written");
        assert_eq!(open(&other), 0o755, "named by mistake");
    }

    #[test]
    fn a_second_start_is_refused() {
        let root = tempfile::tempdir().expect("a directory");
        let _first = DataDirectory::open(root.path()).expect("first");
        let sentence = sentence(root.path());
        let expected = format!("is in use by another process (pid {})", std::process::id());
        assert!(sentence.ends_with(&expected), "{sentence}");
    }

    #[test]
    fn a_refused_start_leaves_no_trace() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("data/n1");
        let open = || DataDirectory::open(&path).expect("new");
        open().give_back();
        assert!(!root.path().join("data").exists(), "nor what was made above it");
        std::fs::create_dir_all(&path).expect("made");
        open().give_back();
        assert_eq!(std::fs::read_dir(&path).expect("it was there before").count(), 0);
        std::fs::write(path.join("notes"), "").expect("written");
        open().give_back();
        assert!(path.join("notes").exists());
        std::fs::remove_file(path.join("notes")).expect("removed");
        made(&path).give_back();
        assert!(path.join("identity").exists(), "it is somebody's");
    }

    #[test]
    fn a_refused_start_removes_nothing_that_was_there() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("n1");
        let open = |path: &Path| DataDirectory::open(path).expect("new");
        std::fs::create_dir(&path).expect("made");
        std::fs::write(path.join("lock"), "").expect("another program's");
        open(&path).give_back();
        assert!(path.join("lock").exists());
        std::fs::remove_file(path.join("lock")).expect("removed");
        // By way of what is not there: all of this path was missing, and most of it existed.
        open(&root.path().join("none/../n1/new")).give_back();
        assert!(path.exists() && !path.join("new").exists());
    }

    #[test]
    fn an_identity_that_could_not_be_written_is_in_nobodys_way() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("n1");
        let mut directory = DataDirectory::open(&path).expect("new");
        std::fs::create_dir(path.join("identity")).expect("in its way");
        directory.record(CLUSTER, NODE, Vec::new()).expect_err("it cannot be written");
        assert!(!path.join(IDENTITY_NEW).exists());
        std::fs::remove_dir(path.join("identity")).expect("removed");
        // As a crash leaves it.
        std::fs::write(path.join(IDENTITY_NEW), "").expect("written");
        DataDirectory::refuse_if_not_empty(&path).expect("as good as empty");
        directory.give_back();
        assert!(!path.join("lock").exists());
    }

    #[test]
    fn an_unknown_format_is_refused_before_anything_else_is_read() {
        let root = tempfile::tempdir().expect("a directory");
        let text = "quorate data directory\nformat 3\nsomething else entirely\n";
        std::fs::write(root.path().join("identity"), text).expect("write");
        let sentence = sentence(root.path());
        assert!(sentence.contains("has format 3; this version knows only formats up to 2"));
    }

    #[test]
    fn an_identity_that_is_damaged_or_gone_is_noticed() {
        let root = tempfile::tempdir().expect("a directory");
        drop(made(root.path()));
        let file = root.path().join("identity");
        let sound = std::fs::read(&file).expect("read");
        std::fs::write(&file, &sound[1..]).expect("write");
        assert!(sentence(root.path()).contains("identity is damaged"));
        std::fs::write(&file, &sound).expect("write");
        drop(DataDirectory::open(root.path()).expect("mended"));
        std::fs::remove_file(&file).expect("remove");
        std::fs::create_dir(root.path().join("log")).expect("data");
        assert!(sentence(root.path()).contains("holds data but no identity file"));
    }

    #[test]
    fn a_removed_member_is_not_started_again() {
        let root = tempfile::tempdir().expect("a directory");
        drop(made(root.path()));
        DataDirectory::member_is_removed(root.path()).expect("marked");
        assert!(sentence(root.path()).contains("was removed from its cluster"));
    }

    #[test]
    fn a_log_that_is_gone_is_noticed_once_it_was_made() {
        let root = tempfile::tempdir().expect("a directory");
        let directory = made(root.path());
        directory.check_log().expect("a crash may have come before the log was made");
        std::fs::create_dir(directory.log()).expect("a log");
        let segment = directory.log().join("0000000000000001.log");
        std::fs::write(&segment, "").expect("a segment");
        directory.log_is_made().expect("marked");
        directory.check_log().expect("it is there");
        std::fs::remove_file(segment).expect("lost");
        let sentence = directory.check_log().expect_err("it is gone");
        assert!(sentence.contains("has lost its log"), "{sentence}");
        std::fs::remove_dir(directory.log()).expect("lost");
        directory.check_log().expect_err("it is gone");
    }
}
