//! The nftables table of an agent (`inet portcullis`, unless its state directory is another than the default's): it
//! stops what the kernel would forward to or from a pod's interface.
//!
//! XDP takes a pod's packets before the kernel sees them, but it never sees what the kernel sends to a pod, and
//! an interface that nobody has claimed yet, or that was made anew a moment ago, has no program. This closes all three. What the node's own processes send
//! to a pod goes through the output hook and is not touched.

mod chains;
mod guarded;

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::interface::{InterfaceName, InterfacePattern};

pub use chains::Forwards;
pub use guarded::Guarded;

/// More interfaces than there are ports.
const MOST_READY: usize = 4096;

/// The rules of one agent in the calling thread's network namespace. Those of several agents add up: each has a
/// table of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interlock {
    table: String,
    /// What the kernel forwards of what pods send; `None` for nothing.
    forwards: Option<Forwards>,
}

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
    /// The interlock of the agent with this state directory: `/run/portcullis` has the table `portcullis`, any other
    /// one that is named after all of its path.
    #[must_use]
    pub fn of(state_dir: &Path) -> Self {
        let path = state_dir.to_string_lossy();
        if path == "/run/portcullis" {
            return Self { table: "portcullis".to_owned(), forwards: None };
        }
        let table = path.bytes().fold("portcullis".to_owned(), |mut name, byte| {
            match byte {
                b'/' => name.push('-'),
                b if b.is_ascii_alphanumeric() => name.push(char::from(b)),
                b => write!(name, "_{b:02x}").expect("a string takes everything"),
            }
            name
        });
        Self { table, forwards: None }
    }

    /// The same for a node whose kernel carries what userspace has judged: it forwards to and from interfaces that
    /// are ready, and to and from no other of the ports.
    #[must_use]
    pub fn forwarding(self, what: Forwards) -> Self {
        Self { forwards: Some(what), ..self }
    }

    /// Puts the rules for these pod ports and held interfaces in force, in one transaction: whatever rules of
    /// ours were there give way without a gap. Of the ports, nothing comes in but by the interfaces that are `ready`:
    /// those with these indices, since a name may come again with an interface that runs no program. Where the kernel
    /// forwards, uplinks are among them.
    ///
    /// # Errors
    ///
    /// `nft` is missing or refuses; nothing has changed then.
    pub fn apply(
        &self,
        ports: &[InterfaceName],
        ready: &BTreeSet<u32>,
        hold: &[InterfacePattern],
    ) -> Result<(), InterlockError> {
        nft(&self.script(ports, ready, hold))
    }

    /// The table as the kernel has it, without its counters; `None` when it is not there.
    ///
    /// # Errors
    ///
    /// `nft` is missing.
    pub fn listing(&self) -> Result<Option<String>, InterlockError> {
        let output = Command::new("nft")
            .args(["--stateless", "list", "table", "inet", &self.table])
            .output()
            .map_err(InterlockError::Missing)?;
        Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// Whether the table is there.
    ///
    /// # Errors
    ///
    /// `nft` is missing.
    pub fn present(&self) -> Result<bool, InterlockError> {
        Ok(self.listing()?.is_some())
    }

    /// Removes the table; tells whether there was one.
    ///
    /// # Errors
    ///
    /// As for [`present`](Self::present) and [`apply`](Self::apply).
    pub fn remove(&self) -> Result<bool, InterlockError> {
        let present = self.present()?;
        if present {
            nft(&format!("add table inet {0}\ndelete table inet {0}\n", self.table))?;
        }
        Ok(present)
    }

    /// Lets these interfaces go, as far as they are in the table; everything else stays.
    ///
    /// # Errors
    ///
    /// As for [`present`](Self::present) and [`apply`](Self::apply).
    pub fn release(&self, ports: &[InterfaceName]) -> Result<(), InterlockError> {
        if ports.is_empty() || !self.present()? {
            return Ok(());
        }
        // Added first, so that deleting cannot fail on one that is not there; nobody sees the step between.
        let listed = quoted(ports);
        let table = &self.table;
        nft(&format!(
            "add element inet {table} ports {{ {listed} }}\ndelete element inet {table} ports {{ {listed} }}\n"
        ))
    }

    /// The whole table. Deleting and declaring it again in one transaction also replaces what an older version of
    /// ours declared differently.
    fn script(&self, ports: &[InterfaceName], ready: &BTreeSet<u32>, hold: &[InterfacePattern]) -> String {
        let set = |kind: &str, elements: String| {
            let elements =
                if elements.is_empty() { elements } else { format!("; elements = {{ {elements} }}") };
            format!("type {kind}{elements}")
        };
        let ours = set("ifname", quoted(ports));
        // Of a known size, it is looked up at once by the kernel's faster kind of set.
        let ready = set(&format!("iface_index; size {MOST_READY}"), joined(ready.iter()));
        let table = &self.table;
        let chains = match &self.forwards {
            Some(forwards) => chains::forwarding(forwards, ports, hold),
            None => chains::closed(hold),
        };
        format!(
            "add table inet {table}
delete table inet {table}
table inet {table} {{
  set ports {{ {ours}; }}
  set ready {{ {ready}; }}
{chains}}}
",
        )
    }
}

fn quoted(names: &[InterfaceName]) -> String {
    joined(names.iter().map(|name| format!("\"{name}\"")))
}

fn joined(elements: impl Iterator<Item = impl Display>) -> String {
    elements.map(|element| element.to_string()).collect::<Vec<_>>().join(", ")
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
        let script = Interlock::of("/run/portcullis".as_ref()).script(&ports, &[7, 9].into(), &hold);
        assert!(script.starts_with("add table inet portcullis\ndelete table inet portcullis\ntable inet"));
        assert!(
            script.contains("set ports { type ifname; elements = { \"veth-a\", \"veth-b\" }; }"),
            "{script}"
        );
        assert!(
            script.contains("set ready { type iface_index; size 4096; elements = { 7, 9 }; }"),
            "{script}"
        );
        let lines: Vec<&str> = script.lines().map(str::trim).collect();
        let at =
            |line: &str| lines.iter().position(|l| *l == line).unwrap_or_else(|| panic!("{line}\n{script}"));
        let prerouting = at("chain prerouting {");
        let forward = at("chain forward {");
        let held_in = at("iifname \"veth*\" iifname != @ports counter drop comment \"held\"");
        let held_out = at("oifname \"veth*\" oifname != @ports counter drop comment \"held\"");
        let not_ready = at("iifname @ports iif != @ready counter drop comment \"not attached\"");
        assert!(prerouting < not_ready && not_ready < forward);
        assert!(prerouting < held_in && held_in < forward && forward < held_out);
        assert!(at("oifname @ports counter drop comment \"forwarded to a pod\"") > forward);
        assert!(at("iifname @ports counter drop comment \"forwarded from a pod\"") > forward);
        assert!(!script.contains("hook output"), "what the node sends to its pods passes");
    }

    #[test]
    fn a_kernel_that_forwards_asks_who_is_no_ready_port_for_its_name() {
        let interlock = Interlock::of("/run/portcullis".as_ref()).forwarding(Forwards::default());
        let script = interlock.script(&["veth-a".parse().unwrap()], &[7].into(), &["veth*".parse().unwrap()]);
        let chain = |name: &str| {
            let (_, rest) =
                script.split_once(&format!("chain {name} {{")).unwrap_or_else(|| panic!("{script}"));
            rest.split_once("  }\n").unwrap().0
        };
        for (hook, direction, others) in [
            ("input", "iif", "from_others"),
            ("forward", "iif", "from_others"),
            ("forward", "oif", "to_others"),
        ] {
            assert!(chain(hook).contains(&format!("{direction} != @ready jump {others}\n")), "{script}");
            assert!(chain(others).contains(&format!("{direction}name @ports counter drop")), "{script}");
            assert!(chain(others).contains(&format!("{direction}name \"veth*\"")), "{script}");
        }
        assert!(!script.contains("prerouting"), "{script}");
    }

    #[test]
    fn no_ports_make_an_empty_set() {
        let script = Interlock::of("/run/portcullis".as_ref()).script(&[], &[].into(), &[]);
        assert!(script.contains("set ports { type ifname; }"), "{script}");
        assert!(script.contains("set ready { type iface_index; size 4096; }"), "{script}");
        assert!(!script.contains("held"));
    }

    #[test]
    fn services_leave_by_ports_and_uplinks_alone() {
        let forwards =
            Forwards { services: vec![("10.96.0.0".parse().unwrap(), 12), ("fd96::".parse().unwrap(), 108)] };
        let interlock = Interlock::of("/run/portcullis".as_ref()).forwarding(forwards);
        let ports = ["veth-a".parse().unwrap()];
        let script = interlock.script(&ports, &[].into(), &[]);
        for service in [
            "original ip daddr { 10.96.0.0/12 }",
            "original ip6 daddr { fd96::/108 }",
            "direction original ct status dnat",
        ] {
            let rule =
                format!("    iifname @ports ct {service} counter drop comment \"a service, by no uplink\"\n");
            assert!(script.contains(&rule), "{script}");
        }
        let pretended = "ct status snat,dnat iifname != @ports iif != lo fib saddr . iif oif missing fib saddr oifname { \"veth-a\" } counter drop";
        assert!(script.contains(pretended), "{script}");
        assert!(!interlock.script(&[], &[].into(), &[]).contains("fib"), "no set is empty");
        assert!(script.contains("oif != @ready jump to_others"), "uplinks are ready, too: {script}");
        // Connections are not tracked for it where there are no services.
        let none = Interlock::of("/run/portcullis".as_ref()).forwarding(Forwards::default());
        assert!(!none.script(&ports, &[].into(), &[]).contains("ct "));
    }

    #[test]
    fn each_state_directory_has_a_table_of_its_own() {
        let name = |dir: &str| Interlock::of(dir.as_ref()).table;
        assert_eq!(name("/run/portcullis"), "portcullis");
        assert_eq!(name("/run/a.b"), "portcullis-run-a_2eb");
        assert_ne!(name("/run/a/b"), name("/run/a-b"));
    }
}
