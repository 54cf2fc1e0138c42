//! libpq's password file: `host:port:database:user:password` a line.
//!
//! The rules are `passwordFromFile` in libpq's fe-connect.c: the first line that matches wins, `*` alone in a field
//! matches anything, a backslash takes the next character as it is, `#` begins a comment line, and a file that
//! others can read is not used at all.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A password. Whoever logs it sees that there is one, and no more.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Vec<u8>);

impl Password {
    /// Takes the bytes as they are.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The password itself, for the protocol only.
    #[must_use]
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

/// Whose password is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Login<'a> {
    /// As [`Endpoint::passfile_host`](crate::conninfo::Endpoint::passfile_host) has it.
    pub host: &'a str,
    /// The port.
    pub port: u16,
    /// The database; `replication` for a physical replication connection.
    pub database: &'a str,
    /// The role.
    pub user: &'a str,
}

/// Why a password file that is there is not used. libpq warns and goes on without it, and so do we.
#[derive(Debug, thiserror::Error)]
pub enum PassfileIgnored {
    /// Others could have read it.
    #[error(
        "password file {} ignored: mode {mode:04o} lets group or others in; make it 0600 or less", path.display()
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A directory, a pipe, a device.
    #[error("password file {} ignored: not a plain file", path.display())]
    NotPlain {
        /// The file.
        path: PathBuf,
    },
    /// Not readable.
    #[error("password file {} ignored: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        error: std::io::Error,
    },
}

/// The first password that the file has for this login. A file that is not there has none.
pub fn look_up(path: &Path, login: Login<'_>) -> Result<Option<Password>, PassfileIgnored> {
    let Some(contents) = read(path)? else {
        return Ok(None);
    };
    let port = login.port.to_string();
    let fields = [login.host, &port, login.database, login.user];
    Ok(contents
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.starts_with(b"#"))
        .find_map(|line| password_for(line, fields)))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, PassfileIgnored> {
    let unreadable = |error| PassfileIgnored::Unreadable { path: path.to_owned(), error };
    // The opened file is the one judged, and a pipe put in its place does not hold us up.
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(PassfileIgnored::NotPlain { path: path.to_owned() });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(PassfileIgnored::TooOpen { path: path.to_owned(), mode });
    }
    let mut contents = Vec::new();
    file.read_to_end(&mut contents).map_err(unreadable)?;
    Ok(Some(contents))
}

fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}

fn password_for(line: &[u8], fields: [&str; 4]) -> Option<Password> {
    let end = line.iter().rposition(|&byte| byte != b'\r').map_or(0, |last| last + 1);
    let mut rest = &line[..end];
    for field in fields {
        rest = after_match(rest, field.as_bytes())?;
    }
    Some(Password(unescaped_until_colon(rest)))
}

/// What follows the first field of `line`, if that field stands for `wanted`.
fn after_match<'a>(line: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    if let Some(rest) = line.strip_prefix(b"*:") {
        return Some(rest);
    }
    let mut line = line;
    let mut wanted = wanted.iter();
    loop {
        let (&first, rest) = line.split_first()?;
        let (byte, rest) = match first {
            b':' => return wanted.next().is_none().then_some(rest),
            b'\\' => {
                let (&escaped, rest) = rest.split_first()?;
                (escaped, rest)
            }
            byte => (byte, rest),
        };
        if wanted.next() != Some(&byte) {
            return None;
        }
        line = rest;
    }
}

fn unescaped_until_colon(field: &[u8]) -> Vec<u8> {
    let mut unescaped = Vec::with_capacity(field.len());
    let mut bytes = field.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b':' => break,
            // A backslash at the very end stands for itself.
            b'\\' => unescaped.push(bytes.next().unwrap_or(b'\\')),
            byte => unescaped.push(byte),
        }
    }
    unescaped
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn found(line: &str, host: &str) -> Option<String> {
        let fields = [host, "5432", "postgres", "pgha"];
        password_for(line.as_bytes(), fields).map(|password| String::from_utf8_lossy(password.reveal()).into_owned())
    }

    fn file(contents: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), contents).expect("written");
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).expect("mode set");
        file
    }

    const LOGIN: Login<'_> = Login { host: "10.0.0.1", port: 5432, database: "postgres", user: "pgha" };

    #[test]
    fn a_line_matches_as_in_libpq() {
        let a = |line| found(line, "a");
        assert_eq!(a("a:5432:postgres:pgha:secret").as_deref(), Some("secret"));
        assert_eq!(a("*:*:*:*:secret\r").as_deref(), Some("secret"));
        assert_eq!(a("a:5433:postgres:pgha:secret"), None);
        assert_eq!(a("ab:5432:postgres:pgha:secret"), None);
        assert_eq!(a(":5432:postgres:pgha:secret"), None);
        assert_eq!(a("a:5432:postgres:pgha"), None);
        assert_eq!(a("a:5432:postgres:pgha:").as_deref(), Some(""));
        assert_eq!(a(r"\a:*:*:*:a\:b\\c\").as_deref(), Some(r"a:b\c\"));
        assert_eq!(a("*:*:*:*:before:after").as_deref(), Some("before"));
        assert_eq!(a(r"\*:*:*:*:secret"), None);
        let address = "fe80::1";
        assert_eq!(found(r"fe80\:\:1:*:*:*:six", address).as_deref(), Some("six"));
        assert_eq!(found(r"fe80::1:*:*:*:six", address), None);
    }

    #[test]
    fn the_first_line_that_matches_wins_and_comments_do_not_count() {
        let file = file("#10.0.0.1:*:*:*:commented\n\nother:*:*:*:no\n10.0.0.1:*:*:*:first\n*:*:*:*:second\n", 0o600);
        let password = look_up(file.path(), LOGIN).expect("used");
        assert_eq!(password, Some(Password::new("first")));
    }

    #[test]
    fn a_file_that_is_not_there_is_no_error() {
        let look = |path| look_up(Path::new(path), LOGIN).expect("no error");
        assert_eq!(look("/nonexistent/passfile"), None);
        assert_eq!(look("/dev/null/passfile"), None);
    }

    #[test]
    fn a_world_readable_passfile_is_ignored() {
        for mode in [0o644, 0o640, 0o601, 0o660] {
            let file = file("*:*:*:*:secret\n", mode);
            let ignored = look_up(file.path(), LOGIN).expect_err("ignored").to_string();
            assert!(ignored.contains(&format!("{mode:04o}")), "{ignored}");
            assert!(ignored.contains(&file.path().display().to_string()));
            assert!(!ignored.contains("secret"));
        }
        let file = file("*:*:*:*:secret\n", 0o400);
        assert!(look_up(file.path(), LOGIN).expect("used").is_some());
    }

    #[test]
    fn a_directory_is_no_passfile() {
        let directory = tempfile::tempdir().expect("a directory");
        let ignored = look_up(directory.path(), LOGIN).expect_err("ignored");
        assert!(matches!(ignored, PassfileIgnored::NotPlain { .. }));
    }

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(format!("{:?}", Password::new("secret")), "Password(***)");
    }
}
