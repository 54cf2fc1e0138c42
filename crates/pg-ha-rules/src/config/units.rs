//! The values of single keys: durations and sizes with their units, whole numbers, the address with its prefix length.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserializer, Error, Unexpected, Visitor};
use serde::{Deserialize, Serialize};

use crate::names::NotA;

/// Reads a text as `T`, and says what was expected where YAML sees no text: above all a number without a unit.
struct Text<T> {
    expected: &'static str,
    read: fn(&str) -> Result<T, NotA>,
    found: PhantomData<T>,
}

impl<T> Text<T> {
    fn new(expected: &'static str, read: fn(&str) -> Result<T, NotA>) -> Self {
        Self { expected, read, found: PhantomData }
    }
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.read)(text).map_err(E::custom)
    }
}

/// Reads a whole number; its limits within `T` are for the checks.
struct Whole<T> {
    expected: &'static str,
    found: PhantomData<T>,
}

impl<T: TryFrom<u64>> Visitor<'_> for Whole<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        number.try_into().map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }
}

/// Reads a node's id.
pub(super) fn id<'de, D: Deserializer<'de>>(input: D) -> Result<u32, D::Error> {
    input.deserialize_any(Whole { expected: "a whole number from 1", found: PhantomData })
}

/// Reads a node's priority.
pub(super) fn priority<'de, D: Deserializer<'de>>(input: D) -> Result<u8, D::Error> {
    input.deserialize_any(Whole { expected: "a whole number from 1 to 154", found: PhantomData })
}

const A_DURATION: &str = "a duration with its unit: ms, s, min or h, such as `250ms` or `2 s`";

/// Reads a duration that is there.
pub(super) fn duration<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    let read = |text: &str| {
        // humantime takes "0" for a duration; here nothing goes without its unit.
        let bare = text.bytes().all(|b| b.is_ascii_digit());
        let duration = if bare { None } else { humantime::parse_duration(text).ok() };
        duration.ok_or_else(|| not(text, A_DURATION))
    };
    input.deserialize_any(Text::new(A_DURATION, read)).map(Some)
}

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Bytes(pub u64);

const A_SIZE: &str = "a size, a whole number with its unit: B, kB, MB, GB, TB (powers of 1024, as PostgreSQL means them) or KiB, MiB, GiB, TiB (the same), such as `16MiB`";

/// Largest first: the first that divides a size is the one it is written with.
const UNITS: [(&str, &str, u32); 5] =
    [("TiB", "TB", 40), ("GiB", "GB", 30), ("MiB", "MB", 20), ("KiB", "kB", 10), ("B", "B", 0)];

impl FromStr for Bytes {
    type Err = NotA;

    fn from_str(text: &str) -> Result<Self, NotA> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = UNITS.iter().find(|(iec, postgres, _)| [iec, postgres].contains(&&unit.trim_start()));
        let size = number.parse::<u64>().ok().zip(shift).and_then(|(n, (_, _, shift))| n.checked_mul(1 << shift));
        size.map(Self).ok_or_else(|| not(text, A_SIZE))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fitting = UNITS.iter().find(|(_, _, shift)| self.0 > 0 && self.0.trailing_zeros() >= *shift);
        let (unit, _, shift) = fitting.unwrap_or(&("B", "B", 0));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(Text::new(A_SIZE, str::parse))
    }
}

/// A virtual address with its prefix length: `10.99.0.100/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Vip {
    /// The address.
    pub ip: IpAddr,
    /// The length of the network's prefix.
    pub prefix: u8,
}

const A_VIP: &str = "one IPv4 or IPv6 address with the prefix length of its network, such as `10.99.0.100/24`";

impl FromStr for Vip {
    type Err = NotA;

    fn from_str(text: &str) -> Result<Self, NotA> {
        let parts = text.split_once('/').and_then(|(ip, prefix)| Some((ip.parse().ok()?, prefix.parse().ok()?)));
        let (ip, prefix): (IpAddr, u8) = parts.ok_or_else(|| not(text, A_VIP))?;
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let usable = !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast();
        if usable && (1..=longest).contains(&prefix) { Ok(Self { ip, prefix }) } else { Err(not(text, A_VIP)) }
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl<'de> Deserialize<'de> for Vip {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(Text::new(A_VIP, str::parse))
    }
}

fn not(text: &str, expected: &'static str) -> NotA {
    NotA { text: text.chars().take(80).collect(), expected }
}
