//! The data directory: whose it is, that only one process uses it, and what lies where.
//!
//! ```text
//! lock       held by the process that runs on it
//! identity   format, cluster, member, directory id (docs/formats.md, Data directory)
//! log-made   empty; from the moment when the log exists, and before anything is promised
//! log/       the write-ahead log
//! state/     the storage engine
//! ```
//! Invariant: nothing is written to a directory that is not known to be this member's. The
//! directory id is drawn at random when the directory is made, so that an emptied one is noticed;
//! the mark tells a log that was lost, with the votes and entries in it, from one not made yet.

use clocks::NodeId;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Error, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// Version of the directory's layout and of the identity file.
const FORMAT: u32 = 1;
const TITLE: &str = "quorate data directory";
/// The mark that the log was made.
const LOG_MADE: &str = "log-made";

/// A data directory in use; the lock goes with it.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    /// Drawn when the directory was made.
    pub directory_id: u128,
    /// Whether this start made the directory.
    pub is_new: bool,
    _lock: File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DirectoryIdentity {
    cluster: u64,
    node: NodeId,
    directory: u128,
}

impl DataDirectory {
    /// Takes the directory into use for `node` of `cluster`, making it if there is none.
    ///
    /// # Errors
    /// One plain sentence: in use, another cluster's or member's, unknown format, unreadable.
    pub fn open(path: &Path, cluster: u64, node: NodeId) -> Result<DataDirectory, String> {
        create_durably(path).map_err(|error| {
            format!("cannot make the data directory {}: {error}", path.display())
        })?;
        let lock = lock(path)?;
        let identity_path = path.join("identity");
        let (identity, is_new) = match std::fs::read_to_string(&identity_path) {
            Ok(text) => (DirectoryIdentity::parse(&text, path)?, false),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                (create_identity(path, cluster, node)?, true)
            }
            Err(error) => return Err(format!("cannot read {}: {error}", identity_path.display())),
        };
        if identity.cluster != cluster {
            return Err(format!(
                "the data directory {} belongs to cluster {:x}, not to {cluster:x}: another \
                 data-dir, or the names, peer addresses and token it was made with, are needed",
                path.display(),
                identity.cluster
            ));
        }
        if identity.node != node {
            return Err(format!(
                "the data directory {} belongs to member {}, not to {node}: members cannot share \
                 or swap directories",
                path.display(),
                identity.node
            ));
        }
        let directory_id = identity.directory;
        Ok(DataDirectory { path: path.to_owned(), directory_id, is_new, _lock: lock })
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
        let mark = self.path.join(LOG_MADE);
        if mark.exists() {
            return Ok(());
        }
        File::create(&mark)
            .and_then(|file| file.sync_all())
            .and_then(|()| File::open(&self.path)?.sync_all())
            .map_err(|error| format!("cannot write {}: {error}", mark.display()))
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

impl DirectoryIdentity {
    fn render(&self) -> String {
        let body = format!(
            "{TITLE}\nformat {FORMAT}\ncluster {:016x}\nmember {:016x}\ndirectory {:032x}\n",
            self.cluster, self.node.0, self.directory
        );
        let checksum = crc32c::crc32c(body.as_bytes());
        format!("{body}checksum {checksum:08x}\n")
    }

    fn parse(text: &str, path: &Path) -> Result<DirectoryIdentity, String> {
        let place = path.join("identity");
        let damaged = || format!("{} is damaged; the member must be replaced", place.display());
        let mut lines = text.lines();
        if lines.next() != Some(TITLE) {
            return Err(damaged());
        }
        let mut field = |name: &str| {
            let line = lines.next()?;
            line.strip_prefix(name)?.strip_prefix(' ')
        };
        // The format first: another version may have other fields and another checksum.
        let format: u32 = field("format").and_then(|f| f.parse().ok()).ok_or_else(damaged)?;
        if format != FORMAT {
            return Err(format!(
                "the data directory {} has format {format}; this version knows only format \
                 {FORMAT}: start the version that wrote it, or a newer one",
                path.display()
            ));
        }
        let mut hex = |name| field(name).and_then(|digits| u128::from_str_radix(digits, 16).ok());
        let (cluster, node, directory) = (hex("cluster"), hex("member"), hex("directory"));
        let word = |value: Option<u128>| value.and_then(|value| u64::try_from(value).ok());
        let (Some(cluster), Some(node), Some(directory)) = (word(cluster), word(node), directory)
        else {
            return Err(damaged());
        };
        let identity = DirectoryIdentity { cluster, node: NodeId(node), directory };
        // One rendering for one identity: this checks the checksum and everything else.
        if identity.render() == text { Ok(identity) } else { Err(damaged()) }
    }
}

fn holds_a_segment(log: &Path) -> bool {
    let is_segment = |entry: std::fs::DirEntry| entry.path().extension() == Some("log".as_ref());
    std::fs::read_dir(log).is_ok_and(|entries| entries.flatten().any(is_segment))
}

fn lock(path: &Path) -> Result<File, String> {
    let place = path.join("lock");
    let cannot = |error: Error| format!("cannot lock {}: {error}", place.display());
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(&place).map_err(cannot)?;
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
    file.set_len(0).map_err(cannot)?;
    writeln!(file, "{}", std::process::id()).map_err(cannot)?;
    Ok(file)
}

fn create_identity(path: &Path, cluster: u64, node: NodeId) -> Result<DirectoryIdentity, String> {
    for leftover in ["log", "state"] {
        if path.join(leftover).exists() {
            return Err(format!(
                "the data directory {} holds data but no identity file: it is damaged, and the \
                 member must be replaced",
                path.display()
            ));
        }
    }
    let directory = u128::from_be_bytes(
        random_bytes().map_err(|error| format!("cannot read /dev/urandom: {error}"))?,
    );
    let identity = DirectoryIdentity { cluster, node, directory: directory.max(1) };
    let unfinished = path.join("identity.new");
    let write = || {
        let mut file = File::create(&unfinished)?;
        file.write_all(identity.render().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&unfinished, path.join("identity"))?;
        File::open(path)?.sync_all()
    };
    write().map_err(|error| format!("cannot write {}: {error}", unfinished.display()))?;
    Ok(identity)
}

/// Makes the directory and those above it that are missing; all of them survive power loss.
fn create_durably(path: &Path) -> Result<(), Error> {
    let is_missing = |level: &&Path| !level.as_os_str().is_empty() && !level.exists();
    let missing = path.ancestors().take_while(is_missing).count();
    std::fs::create_dir_all(path)?;
    let path = path.canonicalize()?;
    path.ancestors().skip(1).take(missing).try_for_each(|above| File::open(above)?.sync_all())
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

    const CLUSTER: u64 = 0xc1;
    const NODE: NodeId = NodeId(0xa1);

    fn sentence(path: &Path, cluster: u64, node: NodeId) -> String {
        let sentence = DataDirectory::open(path, cluster, node).expect_err("it should be refused");
        assert!(!sentence.contains('\n'), "{sentence}");
        sentence
    }

    #[test]
    fn keeps_its_id_until_it_is_emptied() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("n1");
        let first = DataDirectory::open(&path, CLUSTER, NODE).expect("new");
        assert!(first.is_new);
        let id = first.directory_id;
        drop(first);
        let again = DataDirectory::open(&path, CLUSTER, NODE).expect("again");
        assert!(!again.is_new);
        assert_eq!(again.directory_id, id);
        drop(again);
        std::fs::remove_dir_all(&path).expect("emptied");
        let emptied = DataDirectory::open(&path, CLUSTER, NODE).expect("new");
        assert_ne!(emptied.directory_id, id);
    }

    #[test]
    fn a_second_start_is_refused() {
        let root = tempfile::tempdir().expect("a directory");
        let _first = DataDirectory::open(root.path(), CLUSTER, NODE).expect("first");
        let sentence = sentence(root.path(), CLUSTER, NODE);
        let expected = format!("is in use by another process (pid {})", std::process::id());
        assert!(sentence.ends_with(&expected), "{sentence}");
    }

    #[test]
    fn foreign_directories_are_refused() {
        let root = tempfile::tempdir().expect("a directory");
        drop(DataDirectory::open(root.path(), CLUSTER, NODE).expect("first"));
        assert!(sentence(root.path(), 0xc2, NODE).contains("belongs to cluster c1, not to c2"));
        let other = sentence(root.path(), CLUSTER, NodeId(0xa2));
        assert!(other.contains("belongs to member a1, not to a2"), "{other}");
    }

    #[test]
    fn an_unknown_format_is_refused_before_anything_else_is_read() {
        let root = tempfile::tempdir().expect("a directory");
        let text = format!("{TITLE}\nformat 2\nsomething else entirely\n");
        std::fs::write(root.path().join("identity"), text).expect("write");
        let sentence = sentence(root.path(), CLUSTER, NODE);
        assert!(sentence.contains("has format 2; this version knows only format 1"), "{sentence}");
    }

    #[test]
    fn any_damage_to_the_identity_is_noticed() {
        let root = tempfile::tempdir().expect("a directory");
        drop(DataDirectory::open(root.path(), CLUSTER, NODE).expect("first"));
        let file = root.path().join("identity");
        let sound = std::fs::read(&file).expect("read");
        for at in 0..sound.len() {
            let mut bent = sound.clone();
            bent[at] ^= 1;
            std::fs::write(&file, &bent).expect("write");
            sentence(root.path(), CLUSTER, NODE);
        }
        for length in 0..sound.len() {
            std::fs::write(&file, &sound[..length]).expect("write");
            sentence(root.path(), CLUSTER, NODE);
        }
        std::fs::write(&file, &sound).expect("write");
        drop(DataDirectory::open(root.path(), CLUSTER, NODE).expect("mended"));
        std::fs::remove_file(&file).expect("remove");
        std::fs::create_dir(root.path().join("log")).expect("data");
        assert!(sentence(root.path(), CLUSTER, NODE).contains("holds data but no identity file"));
    }

    #[test]
    fn a_log_that_is_gone_is_noticed_once_it_was_made() {
        let root = tempfile::tempdir().expect("a directory");
        let directory = DataDirectory::open(root.path(), CLUSTER, NODE).expect("new");
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

    #[test]
    fn golden_identity_of_format_1() {
        let identity = DirectoryIdentity { cluster: CLUSTER, node: NODE, directory: 0xd1 };
        let golden = "quorate data directory\nformat 1\ncluster 00000000000000c1\n\
                      member 00000000000000a1\ndirectory 000000000000000000000000000000d1\n\
                      checksum e0298529\n";
        assert_eq!(identity.render(), golden);
        assert_eq!(DirectoryIdentity::parse(golden, Path::new("x")), Ok(identity));
    }
}
