//! Names of interfaces, checked once: what passes here is safe in a path and in an nftables script.

use std::fmt;
use std::str::FromStr;

/// The longest name that the kernel gives an interface, in bytes (IFNAMSIZ without its final zero).
pub const LONGEST: usize = 15;

/// The name of one interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceName(String);

/// Interfaces by name: exactly one, or all that begin alike (`veth*`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfacePattern(String);

/// The text is no name of an interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterfaceNameError {
    /// Empty, or a pattern that begins with its star.
    #[error("a name of an interface is missing")]
    Empty,
    /// Longer than the kernel allows.
    #[error("`{0}` is longer than the {LONGEST} characters that the kernel allows for an interface")]
    TooLong(String),
    /// A character that the kernel or our own files and rules do not allow.
    #[error("`{0}` contains {1:?}, which is not allowed in the name of an interface")]
    Character(String, char),
    /// The name of a folder.
    #[error("`{0}` is not the name of an interface")]
    Reserved(String),
}

impl InterfaceName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl InterfacePattern {
    /// Whether the interface of this name is meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == self.0,
        }
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = InterfaceNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check(text, text)?;
        match text {
            "." | ".." => Err(InterfaceNameError::Reserved(text.to_owned())),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl FromStr for InterfacePattern {
    type Err = InterfaceNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check(text.strip_suffix('*').unwrap_or(text), text)?;
        Ok(Self(text.to_owned()))
    }
}

fn check(name: &str, shown: &str) -> Result<(), InterfaceNameError> {
    if name.is_empty() {
        return Err(InterfaceNameError::Empty);
    }
    if let Some(odd) = name.chars().find(|c| !c.is_ascii_graphic() || "/:*\"\\".contains(*c)) {
        return Err(InterfaceNameError::Character(shown.to_owned(), odd));
    }
    if name.len() > LONGEST {
        return Err(InterfaceNameError::TooLong(shown.to_owned()));
    }
    Ok(())
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for InterfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_kernel_and_our_rules_allow() {
        for good in ["eth0", "veth1a2b3c@x", "fifteen-letters", "br_1.5"] {
            assert_eq!(good.parse::<InterfaceName>().unwrap().as_str(), good);
        }
        for bad in
            ["", ".", "..", "sixteen-letters-", "a b", "a/b", "a:b", "veth*", "a\"b", "a\\b", "ä", "a\nb"]
        {
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_star_stands_for_any_end() {
        let pattern: InterfacePattern = "veth*".parse().unwrap();
        assert!(pattern.matches("veth") && pattern.matches("veth0"));
        assert!(!pattern.matches("eveth0"));
        let exact: InterfacePattern = "tap0".parse().unwrap();
        assert!(exact.matches("tap0") && !exact.matches("tap01"));
        for bad in ["", "*", "v*h", "veth**"] {
            assert!(bad.parse::<InterfacePattern>().is_err(), "{bad:?}");
        }
    }
}
