//! Files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::Path;

/// Replaces `path` by a file with `content` in one step: a reader sees the old or the new, and after a power loss
/// it is one of the two. Owner and mode of a file that was there are kept.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    write(path, content, true)
}

/// As [`replace`], without waiting for a disk: for tmpfs, where a reboot is meant to lose it.
pub fn replace_in_memory(path: &Path, content: &[u8]) -> io::Result<()> {
    write(path, content, false)
}

fn write(path: &Path, content: &[u8], durable: bool) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} names no file", path.display())));
    };
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = directory.join(temporary);
    let before = fs::metadata(path).ok();
    let mode = before.as_ref().map_or(0o644, |meta| meta.mode() & 0o777);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    let written = (|| {
        file.write_all(content)?;
        // What lies in PostgreSQL's directory is PostgreSQL's, also when root writes it.
        let owner = before.map_or_else(|| fs::metadata(directory), Ok)?;
        chown(&temporary, Some(owner.uid()), Some(owner.gid()))?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if durable { sync_directory(directory) } else { Ok(()) }
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Removes `path` durably; that it is not there is no error.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => path.parent().map_or(Ok(()), sync_directory),
    }
}

/// Makes a rename or a removal in `directory` durable.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_replacement_leaves_the_old_file_and_no_other() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("standing");
        replace(&path, b"1").unwrap();
        assert!(replace(&home.path().join("no/such/standing"), b"2").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"1");
        replace(&path, b"2").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"2");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
    }
}
