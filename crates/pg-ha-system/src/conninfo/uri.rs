//! URI form, after `conninfo_uri_parse_options` in libpq's fe-connect.c.
//!
//! Every delimiter is an ASCII character, so cutting at their byte positions never splits a character.

use super::keyword::is_secret;
use super::{ConnInfo, ConnInfoError};

/// Where the part after `postgresql://` starts, if this is a URI.
pub(super) fn after_scheme(text: &str) -> Option<usize> {
    ["postgresql://", "postgres://"].iter().find(|scheme| text.starts_with(**scheme)).map(|scheme| scheme.len())
}

/// A URI, and how far it has been read.
struct Uri<'a> {
    text: &'a str,
    position: usize,
}

impl<'a> Uri<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.position..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Takes what comes before the first of `delimiters`, which stays.
    fn until(&mut self, delimiters: &[char]) -> &'a str {
        let rest = self.rest();
        let end = rest.find(delimiters).unwrap_or(rest.len());
        self.position += end;
        &rest[..end]
    }

    fn skip(&mut self, delimiter: char) -> bool {
        let found = self.peek() == Some(delimiter);
        if found {
            self.position += delimiter.len_utf8();
        }
        found
    }

    fn wrong(&self, what: &'static str) -> ConnInfoError {
        ConnInfoError::Uri { what, position: self.position }
    }
}

pub(super) fn parse(text: &str, start: usize) -> Result<ConnInfo, ConnInfoError> {
    let mut conninfo = ConnInfo::new();
    let mut uri = Uri { text, position: start };
    user_and_password(&mut uri, &mut conninfo)?;
    hosts_and_ports(&mut uri, &mut conninfo)?;
    if uri.skip('/') {
        let position = uri.position;
        let dbname = uri.until(&['?']);
        store_decoded(&mut conninfo, "dbname", dbname, position)?;
    }
    if uri.skip('?') {
        parameters(&mut uri, &mut conninfo)?;
    }
    Ok(conninfo)
}

fn store_decoded(conninfo: &mut ConnInfo, keyword: &str, value: &str, position: usize) -> Result<(), ConnInfoError> {
    if value.is_empty() {
        return Ok(());
    }
    conninfo.store(keyword, position, decoded(value, position)?)
}

fn user_and_password(uri: &mut Uri<'_>, conninfo: &mut ConnInfo) -> Result<(), ConnInfoError> {
    let rest = uri.rest();
    // Credentials are there only if an `@` comes before the first `/`.
    let designator = rest.find(['@', '/']);
    if !designator.is_some_and(|at| rest[at..].starts_with('@')) {
        return Ok(());
    }
    let position = uri.position;
    let user = uri.until(&[':', '@']);
    store_decoded(conninfo, "user", user, position)?;
    if uri.skip(':') {
        let position = uri.position;
        let password = uri.until(&['@']);
        store_decoded(conninfo, "password", password, position)?;
    }
    uri.skip('@');
    Ok(())
}

fn hosts_and_ports(uri: &mut Uri<'_>, conninfo: &mut ConnInfo) -> Result<(), ConnInfoError> {
    let start = uri.position;
    let mut hosts = String::new();
    let mut ports = String::new();
    loop {
        hosts.push_str(host(uri)?);
        if uri.skip(':') {
            ports.push_str(uri.until(&['/', '?', ',']));
        }
        if !uri.skip(',') {
            break;
        }
        hosts.push(',');
        ports.push(',');
    }
    store_decoded(conninfo, "host", &hosts, start)?;
    store_decoded(conninfo, "port", &ports, start)
}

fn host<'a>(uri: &mut Uri<'a>) -> Result<&'a str, ConnInfoError> {
    if !uri.skip('[') {
        let position = uri.position;
        let host = uri.until(&[':', '/', '?', ',']);
        // Never a host; most likely the tail of a password, which a resolver's error would show.
        if host.contains('@') {
            return Err(ConnInfoError::Uri { what: "a second \"@\" (within a password it is written %40)", position });
        }
        return Ok(host);
    }
    let host = uri.until(&[']']);
    if uri.peek().is_none() {
        return Err(uri.wrong("no \"]\" after an IPv6 address"));
    }
    if host.is_empty() {
        return Err(uri.wrong("an empty IPv6 address"));
    }
    uri.skip(']');
    match uri.peek() {
        None | Some(':' | '/' | '?' | ',') => Ok(host),
        Some(_) => Err(uri.wrong("an unexpected character after an IPv6 address")),
    }
}

fn parameters(uri: &mut Uri<'_>, conninfo: &mut ConnInfo) -> Result<(), ConnInfoError> {
    let mut after_password = false;
    while uri.peek().is_some() {
        let position = uri.position;
        let parameter = uri.until(&['&']);
        uri.skip('&');
        let wrong = |what| ConnInfoError::Uri { what, position };
        let (keyword, value) = parameter.split_once('=').ok_or_else(|| wrong("a query parameter without \"=\""))?;
        if value.contains('=') {
            return Err(wrong("a query parameter with a second \"=\""));
        }
        let keyword = decoded(keyword, position)?;
        let value = decoded(value, position)?;
        // JDBC's way to say it.
        if keyword == "ssl" && value == "true" {
            conninfo.store("sslmode", position, "require".to_owned())?;
        } else {
            conninfo.store(&keyword, position, value).map_err(|error| error.hidden_if(after_password))?;
        }
        after_password = is_secret(&keyword);
    }
    Ok(())
}

fn decoded(text: &str, position: usize) -> Result<String, ConnInfoError> {
    let wrong = |what| ConnInfoError::Uri { what, position };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let digit = |at: usize| after.get(at).and_then(|&c| char::from(c).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(wrong("a \"%\" that no two hexadecimal digits follow"));
        };
        match u8::try_from(high * 16 + low) {
            Ok(0) => return Err(wrong("a zero byte (%00)")),
            Ok(byte) => bytes.push(byte),
            Err(_) => return Err(wrong("a percent-encoded value out of range")),
        }
        rest = after.get(2..).unwrap_or_default();
    }
    String::from_utf8(bytes).map_err(|_| wrong("percent-encoded bytes that are not UTF-8"))
}
