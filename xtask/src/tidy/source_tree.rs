//! The tree that the rules read: every text file of the workspace, loaded once.
//!
//! Invariant: paths are relative, use `/`, and are visited in order, so that the output of a run
//! does not depend on the file system.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::masked_source::mask;

/// Directories that hold nothing of ours.
const SKIPPED: [&str; 3] = ["target", ".git", "quorate-data"];

/// One text file.
pub(crate) struct SourceFile {
    /// As written.
    pub(crate) text: String,
    /// With comments and literals blanked, for Rust files; equal to `text` otherwise.
    pub(crate) masked: String,
}

/// All text files below one root, by path.
pub(crate) struct SourceTree {
    files: BTreeMap<String, SourceFile>,
    /// Files that are not UTF-8: known to exist, never read.
    binaries: Vec<String>,
}

impl SourceTree {
    /// Reads every file below `root`.
    pub(crate) fn load(root: &Path) -> io::Result<SourceTree> {
        let mut tree = SourceTree { files: BTreeMap::new(), binaries: Vec::new() };
        tree.load_directory(root, "")?;
        Ok(tree)
    }

    fn load_directory(&mut self, directory: &Path, prefix: &str) -> io::Result<()> {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            let kind = entry.file_type()?;
            if kind.is_dir() {
                if !SKIPPED.contains(&name.as_str()) {
                    self.load_directory(&entry.path(), &format!("{path}/"))?;
                }
            } else if kind.is_file() {
                self.insert(path, std::fs::read(entry.path())?);
            }
        }
        Ok(())
    }

    fn insert(&mut self, path: String, bytes: Vec<u8>) {
        let Ok(text) = String::from_utf8(bytes) else {
            self.binaries.push(path);
            return;
        };
        let masked = if path.ends_with(".rs") { mask(&text) } else { text.clone() };
        self.files.insert(path, SourceFile { text, masked });
    }

    /// How many text files there are.
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// The file at exactly this path.
    pub(crate) fn get(&self, path: &str) -> Option<&SourceFile> {
        self.files.get(path)
    }

    /// Whether a file, or a directory with files in it, has this path.
    pub(crate) fn exists(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let inside = format!("{path}/");
        self.files.contains_key(path)
            || self.binaries.iter().any(|known| known == path || known.starts_with(&inside))
            || self
                .files
                .range(inside.clone()..)
                .next()
                .is_some_and(|(p, _)| p.starts_with(&inside))
    }

    /// Every text file in order.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &SourceFile)> {
        self.files.iter().map(|(path, file)| (path.as_str(), file))
    }

    /// Every Rust file in order.
    pub(crate) fn rust_files(&self) -> impl Iterator<Item = (&str, &SourceFile)> {
        self.files().filter(|(path, _)| path.ends_with(".rs"))
    }
}
