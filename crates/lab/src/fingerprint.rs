//! Names for what is cached: a hash of all that goes in.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use anyhow::{Context, Result};

/// The hash so far.
#[derive(Default)]
pub(crate) struct Fingerprint(DefaultHasher);

impl Fingerprint {
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        text.hash(&mut self.0);
        self
    }

    /// A file's content, or a directory's files with their names.
    pub(crate) fn tree(&mut self, path: &Path) -> Result<&mut Self> {
        let failed = || format!("failed to read {}", path.display());
        path.file_name().hash(&mut self.0);
        if path.is_dir() {
            let mut entries = fs::read_dir(path).with_context(failed)?.collect::<Result<Vec<_>, _>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                self.tree(&entry.path())?;
            }
        } else {
            fs::read(path).with_context(failed)?.hash(&mut self.0);
        }
        Ok(self)
    }

    pub(crate) fn name(&self) -> String {
        format!("{:016x}", self.0.finish())
    }
}

/// Deletes what an earlier fingerprint named: nobody will ask for it again.
pub(crate) fn forget_others(cache: &Path, prefix: &str, keep: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let path = entry.path();
        let old = entry.file_name().to_string_lossy().starts_with(prefix) && path != keep;
        if old && path.extension().is_none() {
            let _ = fs::remove_dir_all(path);
        }
    }
}
