//! `keyword = value` form, after `conninfo_parse` in libpq's fe-connect.c.

use super::keyword::is_secret;
use super::{ConnInfo, ConnInfoError};

/// C's `isspace` in the C locale.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

/// What is left to read of a string.
struct Reader<'a> {
    text: &'a str,
    position: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.text.get(self.position..)?.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.position += c.len_utf8();
        Some(c)
    }

    fn skip_spaces(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.next();
        }
    }
}

pub(super) fn parse(text: &str) -> Result<ConnInfo, ConnInfoError> {
    let mut conninfo = ConnInfo::new();
    let mut reader = Reader { text, position: 0 };
    let mut after_password = false;
    loop {
        reader.skip_spaces();
        let position = reader.position;
        if reader.peek().is_none() {
            return Ok(conninfo);
        }
        let Some(name) = keyword(&mut reader) else {
            return Err(if after_password {
                ConnInfoError::AfterPassword { position }
            } else {
                ConnInfoError::MissingEquals { position }
            });
        };
        let value = value(&mut reader)?;
        conninfo.store(&name, position, value).map_err(|error| error.hidden_if(after_password))?;
        after_password = is_secret(&name);
    }
}

/// The word before `=`, with the `=` taken; `None` when there is none.
fn keyword(reader: &mut Reader<'_>) -> Option<String> {
    let mut name = String::new();
    loop {
        match reader.next()? {
            '=' => return Some(name),
            c if is_space(c) => {
                reader.skip_spaces();
                return (reader.next()? == '=').then_some(name);
            }
            c => name.push(c),
        }
    }
}

fn value(reader: &mut Reader<'_>) -> Result<String, ConnInfoError> {
    reader.skip_spaces();
    let start = reader.position;
    let quoted = reader.peek() == Some('\'');
    if quoted {
        reader.next();
    }
    let mut value = String::new();
    loop {
        match reader.next() {
            None if quoted => return Err(ConnInfoError::UnterminatedQuote { position: start }),
            None => return Ok(value),
            Some('\'') if quoted => return Ok(value),
            Some(c) if !quoted && is_space(c) => return Ok(value),
            // A backslash at the very end escapes nothing, and libpq drops it.
            Some('\\') => value.extend(reader.next()),
            Some(c) => value.push(c),
        }
    }
}

/// The value as it must be written. Whatever might be read as a space in some locale is quoted too.
pub(super) fn quoted(value: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "_./:,@*+-%[]".contains(c);
    if !value.is_empty() && value.chars().all(bare) {
        return value.to_owned();
    }
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('\'');
    for c in value.chars() {
        if matches!(c, '\'' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('\'');
    quoted
}
