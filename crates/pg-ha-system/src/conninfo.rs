//! libpq's connection strings: `host=pg1 user=pgha` and `postgresql://pgha@pg1/postgres`.
//!
//! `PostgreSQL`'s own programs, repmgr and pg-ha are given the same strings, so they must read the same way here: quoting,
//! escapes, several hosts, and every keyword of libpq 15 to 17. What a session does with each keyword is in
//! [`crate::session`]; `service` alone is refused, because it names settings kept in another file.
//!
//! Neither [`Debug`](fmt::Debug) nor [`Display`](fmt::Display) nor an error shows a password.

mod endpoint;
mod keyword;
mod keyword_value;
mod uri;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

pub use endpoint::{DEFAULT_PORT, DEFAULT_SOCKET_DIRECTORY, Endpoint, Place};
use keyword::{KEYWORDS, Keyword};

/// A parsed connection string: the keywords that were given, and their values as given.
///
/// Two of them are equal when they give the same keywords the same values, whatever the order or the form.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConnInfo {
    values: BTreeMap<&'static str, String>,
}

/// A connection string that libpq would refuse, or one that we must.
///
/// Positions are bytes from the start of the string, from 0. Values are quoted only where they cannot be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnInfoError {
    /// libpq does not know this keyword either.
    #[error("unknown keyword \"{keyword}\" at position {position} of the connection string")]
    UnknownKeyword {
        /// As written.
        keyword: String,
        /// Where it starts.
        position: usize,
    },
    /// A word after a password is no keyword. It is probably the rest of that password, so it is not shown.
    #[error(
        "what follows the password at position {position} of the connection string is no keyword; \
         put a password with spaces in single quotes"
    )]
    AfterPassword {
        /// Where it starts.
        position: usize,
    },
    /// A word that is not followed by `=`.
    #[error("missing \"=\" after the word at position {position} of the connection string")]
    MissingEquals {
        /// Where the word starts.
        position: usize,
    },
    /// A quote that does not end.
    #[error("unterminated quoted value at position {position} of the connection string")]
    UnterminatedQuote {
        /// Where the quote starts.
        position: usize,
    },
    /// A URI that is none.
    #[error("{what} at position {position} of the connection URI")]
    Uri {
        /// What is wrong.
        what: &'static str,
        /// Where.
        position: usize,
    },
    /// A C string cannot hold it, and so libpq cannot have meant it.
    #[error("a zero byte in the connection string")]
    ZeroByte,
    /// `service=`, or `PGSERVICE`.
    #[error(
        "\"service\" is not supported: it names settings in a file that may change by itself; \
         write host, port and the others out"
    )]
    Service,
    /// A value that its keyword does not take.
    #[error("{keyword}: {what}")]
    Value {
        /// The keyword.
        keyword: &'static str,
        /// What is wrong with the value.
        what: String,
    },
}

impl ConnInfoError {
    /// An unknown keyword after a password is told without its name.
    fn hidden_if(self, after_password: bool) -> Self {
        match self {
            Self::UnknownKeyword { position, .. } if after_password => Self::AfterPassword { position },
            other => other,
        }
    }
}

impl ConnInfo {
    /// An empty connection string: all defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads either form, as libpq does: a URI begins with `postgresql://` or `postgres://`.
    pub fn parse(text: &str) -> Result<Self, ConnInfoError> {
        if text.contains('\0') {
            return Err(ConnInfoError::ZeroByte);
        }
        match uri::after_scheme(text) {
            Some(start) => uri::parse(text, start),
            None => keyword_value::parse(text),
        }
    }

    /// The value given for a keyword; `None` when it was not given, or libpq knows no such keyword.
    #[must_use]
    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.values.get(keyword).map(String::as_str)
    }

    /// The value given for a keyword, unless it is empty: libpq takes most empty values for "the default".
    #[must_use]
    pub fn given(&self, keyword: &str) -> Option<&str> {
        self.get(keyword).filter(|value| !value.is_empty())
    }

    /// Gives a keyword a value, in place of the one it had.
    pub fn set(&mut self, keyword: &str, value: impl Into<String>) -> Result<&mut Self, ConnInfoError> {
        self.store(keyword, 0, value.into())?;
        Ok(self)
    }

    /// Takes a keyword away; no matter whether it was given.
    pub fn remove(&mut self, keyword: &str) -> &mut Self {
        self.values.remove(keyword);
        self
    }

    /// The same without `password` and `sslpassword`, for a file that others can read.
    #[must_use]
    pub fn without_password(&self) -> Self {
        let mut without = self.clone();
        for keyword in KEYWORDS.iter().filter(|keyword| keyword.secret) {
            without.values.remove(keyword.name);
        }
        without
    }

    /// Fills what was not given from libpq's `PG*` variables, as `variable` tells them.
    pub fn with_environment(mut self, variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConnInfoError> {
        if variable("PGSERVICE").is_some_and(|service| !service.is_empty()) {
            return Err(ConnInfoError::Service);
        }
        for keyword in KEYWORDS {
            if self.values.contains_key(keyword.name) {
                continue;
            }
            if let Some(value) = keyword.variable.and_then(&variable) {
                if value.contains('\0') {
                    return Err(ConnInfoError::ZeroByte);
                }
                self.values.insert(keyword.name, value);
            }
        }
        // Older than PGSSLMODE, and still read by libpq.
        if !self.values.contains_key("sslmode") && variable("PGREQUIRESSL").is_some_and(|value| value.starts_with('1'))
        {
            self.values.insert("sslmode", "require".to_owned());
        }
        Ok(self)
    }

    /// Fills what was not given from this process's own environment.
    pub fn with_process_environment(self) -> Result<Self, ConnInfoError> {
        self.with_environment(|name| std::env::var(name).ok())
    }

    /// The string in keyword/value form, **passwords included**: for files and programs, never for a log.
    #[must_use]
    pub fn render(&self) -> String {
        self.rendered(|_, value| keyword_value::quoted(value))
    }

    /// Where to connect, in the order to try.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>, ConnInfoError> {
        endpoint::endpoints(self)
    }

    fn rendered(&self, show: impl Fn(&Keyword, &str) -> String) -> String {
        KEYWORDS
            .iter()
            .filter_map(|keyword| {
                let value = self.values.get(keyword.name)?;
                Some(format!("{}={}", keyword.name, show(keyword, value)))
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn store(&mut self, name: &str, position: usize, value: String) -> Result<(), ConnInfoError> {
        if value.contains('\0') {
            return Err(ConnInfoError::ZeroByte);
        }
        if name == "service" {
            return Err(ConnInfoError::Service);
        }
        let keyword = KEYWORDS
            .iter()
            .find(|keyword| keyword.name == name)
            .ok_or_else(|| ConnInfoError::UnknownKeyword { keyword: name.to_owned(), position })?;
        self.values.insert(keyword.name, value);
        Ok(())
    }
}

impl FromStr for ConnInfo {
    type Err = ConnInfoError;

    fn from_str(text: &str) -> Result<Self, ConnInfoError> {
        Self::parse(text)
    }
}

/// Keyword/value form with `***` for passwords. The same as [`ConnInfo::render`] where there are none.
impl fmt::Display for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rendered(
            |keyword, value| {
                if keyword.secret { "***".to_owned() } else { keyword_value::quoted(value) }
            },
        ))
    }
}

impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnInfo({self})")
    }
}

#[cfg(test)]
mod tests;
