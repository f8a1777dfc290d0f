//! Values that have a form of their own in the file.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use policy::model::ObjectName;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// What becomes of frames with a VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vlan {
    /// They are dropped.
    Deny,
    /// One priority tag is taken off; the rest is dropped.
    Strip0,
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deny => "deny",
            Self::Strip0 => "strip0",
        })
    }
}

impl<'de> Deserialize<'de> for Vlan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Word(String),
            Lists(HashMap<String, serde::de::IgnoredAny>),
            Other(serde::de::IgnoredAny),
        }
        let allows = match Written::deserialize(deserializer)? {
            Written::Word(word) if word == "deny" => return Ok(Self::Deny),
            Written::Word(word) if word == "strip0" => return Ok(Self::Strip0),
            Written::Word(word) => word.starts_with("allow"),
            Written::Lists(lists) => lists.contains_key("allow"),
            Written::Other(_) => false,
        };
        Err(D::Error::custom(if allows {
            "`allow` is not supported: no port has an address in a VLAN, and policy is about addresses; use `deny`, or \
             in mode `router` `strip0`"
        } else {
            "`vlan` is `deny` or `strip0`"
        }))
    }
}

/// A value that is written as text of its own form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parsed<T>(pub(super) T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

/// `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodName(pub(super) ObjectName);

impl FromStr for PodName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('/');
        match parts.filter(|(space, name)| !space.is_empty() && !name.is_empty() && !name.contains('/')) {
            Some((space, name)) => Ok(Self(ObjectName::new(space, name))),
            None => Err(format!("`{text}` does not name a pod as namespace/name")),
        }
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A whole number with bounds, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Within<const LEAST: u32, const MOST: u32>(pub(super) u32);

impl<'de, const LEAST: u32, const MOST: u32> Deserialize<'de> for Within<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        match u32::try_from(number) {
            Ok(number) if (LEAST..=MOST).contains(&number) => Ok(Self(number)),
            _ => Err(D::Error::custom(format!("{number} is not between {LEAST} and {MOST}"))),
        }
    }
}

impl<const LEAST: u32, const MOST: u32> fmt::Display for Within<LEAST, MOST> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A duration with its unit: `500ms`, `30s`, `5m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

/// The engine remembers a connection that policy has cut for ten minutes; while it does, no packet in mid-stream can
/// open it from its other end.
const LONGEST: Duration = Duration::from_secs(300);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match duration(&text) {
            Some(span) if span <= LONGEST => Ok(Self(span)),
            Some(_) => Err(D::Error::custom(format!("`{text}` is longer than {} s", LONGEST.as_secs()))),
            None => Err(D::Error::custom(format!("`{text}` is not a duration such as 30s or 500ms"))),
        }
    }
}

/// A duration with its unit: `500ms`, `30s`, `10m`, `1h`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number = digits.parse::<u32>().ok()?.into();
    match &text[digits.len()..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number * 60)),
        "h" => Some(Duration::from_secs(number * 3600)),
        _ => None,
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_millis() > 0 {
            write!(f, "{}ms", self.0.as_millis())
        } else {
            write!(f, "{}s", self.0.as_secs())
        }
    }
}

/// On this node alone, unless it is said otherwise.
pub(super) const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9471);

/// Where to listen, if anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listen(pub(super) Option<SocketAddr>);

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match &*String::deserialize(deserializer)? {
            "none" => Ok(Self(None)),
            text => text.parse().map(|address| Self(Some(address))).map_err(|_not_one| {
                D::Error::custom(format!(
                    "`{text}` is neither address:port, such as 127.0.0.1:9471, nor `none`"
                ))
            }),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("none"),
        }
    }
}

/// A path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(super) struct Folder(pub(super) PathBuf);

impl Deref for Folder {
    type Target = PathBuf;

    fn deref(&self) -> &PathBuf {
        &self.0
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_their_unit() {
        let read = |text: &str| serde_saphyr::from_str::<Span>(text).ok().map(|span| span.0);
        assert_eq!(read("30s"), Some(Duration::from_secs(30)));
        assert_eq!(read("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(read("2m"), Some(Duration::from_secs(120)));
        for bad in ["30", "s", "-1s", "1.5s", "30 s", "9999999999s", "1h", "301s"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(Span(Duration::from_millis(1500)).to_string(), "1500ms");
    }
}
