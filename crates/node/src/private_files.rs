//! Private files: what the node keeps is for the user alone that it runs as, whatever the umask
//! says (etcd: 0700 and 0600). There are secrets in it: values, hashes of passwords, keys.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::Error;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Of files.
pub(crate) const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// Of everybody else.
const OTHERS: u32 = 0o077;
/// Directories that are shared on purpose, such as /tmp.
const STICKY: u32 = 0o1000;

/// Makes the directory and those above it that are missing.
pub(crate) fn create_directory(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)
}

/// Makes the file, or empties it.
pub(crate) fn create_file(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(FILE_MODE).open(path)
}

/// Closes a directory to others that was made before, by somebody else or by an earlier version. If
/// that is not ours to do, it is told and stays as it is.
pub(crate) fn close_to_others(path: &Path) -> Result<(), Error> {
    let mode = std::fs::metadata(path)?.permissions().mode() & 0o7777;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    let directory = path.display();
    let closed = match mode & STICKY {
        0 => std::fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS)),
        _ => Err(Error::other("it is shared on purpose")),
    };
    match closed {
        Ok(()) => tracing::warn!("{directory} was open to other users ({mode:04o}): it is closed"),
        Err(error) => {
            tracing::warn!("{directory} is open to other users ({mode:04o}) and stays so: {error}");
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_for_one_user_and_what_was_open_is_closed() {
        let root = tempfile::tempdir().expect("a directory");
        let (above, inner) = (root.path().join("a"), root.path().join("a/b"));
        create_directory(&inner).expect("made");
        create_directory(&inner).expect("there already");
        assert_eq!((mode_of(&above), mode_of(&inner)), (0o700, 0o700));
        create_file(&inner.join("file")).expect("made");
        assert_eq!(mode_of(&inner.join("file")), 0o600);
        for (before, after) in [(0o755, 0o700), (0o2775, 0o2700), (0o500, 0o500), (0o1777, 0o1777)]
        {
            std::fs::set_permissions(&inner, Permissions::from_mode(before)).expect("set");
            close_to_others(&inner).expect("looked at");
            assert_eq!(mode_of(&inner), after, "{before:o}");
        }
    }
}
