//! The nftables table `inet portcullis`: it stops what the kernel would forward to or from a pod's interface.
//!
//! XDP takes a pod's packets before the kernel sees them, but it never sees what the kernel sends to a pod, and
//! an interface that nobody has claimed yet has no program. This closes both. What the node's own processes send
//! to a pod goes through the output hook and is not touched.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::interface::{InterfaceName, InterfacePattern};

/// The table's name, in the family `inet`.
const TABLE: &str = "portcullis";

/// The rules in force in the calling thread's network namespace.
#[derive(Clone, Copy, Debug, Default)]
pub struct Interlock;

/// The rules could not be changed or read.
#[derive(Debug, thiserror::Error)]
pub enum InterlockError {
    /// There is no `nft` to run.
    #[error("cannot run `nft`: {0}; install the nftables package")]
    Missing(#[source] std::io::Error),
    /// `nft` refused; the rules are what they were.
    #[error("nft refused the interlock: {0}; is nf_tables in the kernel, and does CAP_NET_ADMIN hold here?")]
    Refused(String),
}

impl Interlock {
    /// Puts the rules for these pod ports and held interfaces in force, in one transaction: whatever rules of
    /// ours were there give way without a gap.
    ///
    /// # Errors
    ///
    /// `nft` is missing or refuses; nothing has changed then.
    pub fn apply(ports: &[InterfaceName], hold: &[InterfacePattern]) -> Result<(), InterlockError> {
        nft(&script(ports, hold))
    }

    /// Whether the table is there.
    ///
    /// # Errors
    ///
    /// `nft` is missing or refuses to list the tables.
    pub fn present() -> Result<bool, InterlockError> {
        let output =
            Command::new("nft").args(["list", "tables", "inet"]).output().map_err(InterlockError::Missing)?;
        if !output.status.success() {
            return Err(refused(&output.stderr));
        }
        let wanted = format!("table inet {TABLE}");
        Ok(String::from_utf8_lossy(&output.stdout).lines().any(|line| line.trim() == wanted))
    }

    /// Removes the table; tells whether there was one.
    ///
    /// # Errors
    ///
    /// As for [`present`](Self::present) and [`apply`](Self::apply).
    pub fn remove() -> Result<bool, InterlockError> {
        let present = Self::present()?;
        if present {
            nft(&format!("add table inet {TABLE}\ndelete table inet {TABLE}\n"))?;
        }
        Ok(present)
    }

    /// Lets these interfaces go, as far as they are in the table; everything else stays.
    ///
    /// # Errors
    ///
    /// As for [`present`](Self::present) and [`apply`](Self::apply).
    pub fn release(ports: &[InterfaceName]) -> Result<(), InterlockError> {
        if ports.is_empty() || !Self::present()? {
            return Ok(());
        }
        // Added first, so that deleting cannot fail on one that is not there; nobody sees the step between.
        let listed = elements(ports.iter().map(InterfaceName::as_str));
        nft(&format!(
            "add element inet {TABLE} ports {{ {listed} }}\ndelete element inet {TABLE} ports {{ {listed} }}\n"
        ))
    }
}

/// The whole table. Deleting and declaring it again in one transaction also replaces what an older version of
/// ours declared differently.
fn script(ports: &[InterfaceName], hold: &[InterfacePattern]) -> String {
    let mut ours = String::from("type ifname");
    if !ports.is_empty() {
        write!(ours, "; elements = {{ {} }}", elements(ports.iter().map(InterfaceName::as_str)))
            .expect("a string takes everything");
    }
    let held = |direction: &str| -> String {
        hold.iter()
            .map(|pattern| {
                format!("    {direction} \"{pattern}\" {direction} != @ports counter drop comment \"held\"\n")
            })
            .collect()
    };
    // Prerouting at -300 comes before connection tracking; forward at -150 before every ordinary filter (0).
    format!(
        "add table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
  set ports {{ {ours}; }}
  chain prerouting {{
    type filter hook prerouting priority -300; policy accept;
{}  }}
  chain forward {{
    type filter hook forward priority -150; policy accept;
    oifname @ports counter drop comment \"forwarded to a pod\"
    iifname @ports counter drop comment \"forwarded from a pod\"
{}  }}
}}
",
        held("iifname"),
        held("oifname"),
    )
}

fn elements<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

fn nft(script: &str) -> Result<(), InterlockError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(InterlockError::Missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A failure to write shows in the exit status, with nft's own words.
        drop(stdin.write_all(script.as_bytes()));
    }
    let output = child.wait_with_output().map_err(InterlockError::Missing)?;
    if output.status.success() { Ok(()) } else { Err(refused(&output.stderr)) }
}

fn refused(stderr: &[u8]) -> InterlockError {
    let text = String::from_utf8_lossy(stderr);
    InterlockError::Refused(text.lines().next().unwrap_or("no reason given").trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_replaces_the_table_whole() {
        let ports = ["veth-a", "veth-b"].map(|name| name.parse().unwrap());
        let hold = ["veth*".parse().unwrap()];
        let script = script(&ports, &hold);
        assert!(script.starts_with("add table inet portcullis\ndelete table inet portcullis\ntable inet"));
        assert!(
            script.contains("set ports { type ifname; elements = { \"veth-a\", \"veth-b\" }; }"),
            "{script}"
        );
        let lines: Vec<&str> = script.lines().map(str::trim).collect();
        let at =
            |line: &str| lines.iter().position(|l| *l == line).unwrap_or_else(|| panic!("{line}\n{script}"));
        let prerouting = at("chain prerouting {");
        let forward = at("chain forward {");
        let held_in = at("iifname \"veth*\" iifname != @ports counter drop comment \"held\"");
        let held_out = at("oifname \"veth*\" oifname != @ports counter drop comment \"held\"");
        assert!(prerouting < held_in && held_in < forward && forward < held_out);
        assert!(at("oifname @ports counter drop comment \"forwarded to a pod\"") > forward);
        assert!(at("iifname @ports counter drop comment \"forwarded from a pod\"") > forward);
        assert!(!script.contains("hook output"), "what the node sends to its pods passes");
    }

    #[test]
    fn no_ports_make_an_empty_set() {
        let script = script(&[], &[]);
        assert!(script.contains("set ports { type ifname; }"), "{script}");
        assert!(!script.contains("held"));
    }
}
