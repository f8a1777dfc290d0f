//! The peer: `dpdk-test-acl`, which builds DPDK's rte_acl from a file of rules and looks up a file of keys.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use flow::{FlowKey, Verdict};
use tempfile::TempDir;

use crate::expansion::FiveTuple;
use crate::machine;

/// Debian's name of the program, and of the package that brings it.
const PROGRAM: &str = "dpdk-test-acl";
/// Keys of one call.
pub const STEP: usize = 32;

/// One list of rules and one trace, ready to be looked up as often as wanted.
pub struct RteAcl {
    folder: TempDir,
    keys: usize,
    core: usize,
    algorithm: &'static str,
}

/// The widest algorithm of this machine: DPDK's own order of preference.
#[must_use]
pub fn widest() -> &'static str {
    if machine::has(&["avx512f", "avx512vl", "avx512cd", "avx512bw"]) {
        "avx512x32"
    } else if machine::has(&["avx2"]) {
        "avx2"
    } else if cfg!(target_arch = "aarch64") {
        "neon"
    } else {
        "sse"
    }
}

impl RteAcl {
    /// Writes the files. The program will run on `core`.
    ///
    /// # Errors
    ///
    /// When a key is not IPv4 TCP, UDP or the like, or the files cannot be written.
    pub fn prepare(rules: &[FiveTuple], trace: &[FlowKey], core: usize) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (mut list, mut keys) = (String::new(), String::new());
        for rule in rules {
            writeln!(list, "{rule}")?;
        }
        for key in trace {
            let (IpAddr::V4(src), IpAddr::V4(dst)) = (key.src.address.ip(), key.dst.address.ip()) else {
                bail!("{key} is not IPv4");
            };
            let (src, dst) = (u32::from(src), u32::from(dst));
            writeln!(keys, "{src} {dst} {} {} {}", key.src.port, key.dst.port, key.protocol.0)?;
        }
        fs::write(folder.path().join("rules"), list)?;
        fs::write(folder.path().join("trace"), keys)?;
        Ok(Self { folder, keys: trace.len(), core, algorithm: widest() })
    }

    /// What it says about each key of the trace: allowed if and only if a rule matches.
    ///
    /// # Errors
    ///
    /// When the program is missing, fails, or prints something else than expected.
    pub fn verdicts(&self) -> anyhow::Result<Vec<Verdict>> {
        // The result is the number of the rule less one; none wraps around to the largest number.
        let none = u32::MAX.to_string();
        let (printed, _) = self.run(1, 2)?;
        let results = printed.lines().filter(|line| line.starts_with("ipv4_5tuple:"));
        let verdicts: Vec<_> = results
            .filter_map(|line| line.rsplit(' ').next())
            .map(|result| if result == none { Verdict::Deny } else { Verdict::Allow })
            .collect();
        ensure!(verdicts.len() == self.keys, "{} results for {} keys", verdicts.len(), self.keys);
        Ok(verdicts)
    }

    /// Looks the whole trace up `iterations` times, [`STEP`] keys a call. How many nanoseconds a key took, by the
    /// time stamp counter as DPDK reads it.
    ///
    /// # Errors
    ///
    /// As [`verdicts`](Self::verdicts).
    pub fn nanoseconds(&self, iterations: usize) -> anyhow::Result<f64> {
        let (printed, _) = self.run(iterations, 0)?;
        let (keys, rate) = parse(&printed).with_context(|| format!("unexpected output: {printed}"))?;
        ensure!(keys == self.keys * iterations, "{keys} lookups instead of {}", self.keys * iterations);
        Ok(1e9 / rate)
    }

    /// The bytes of its runtime structures, as it reports them.
    ///
    /// # Errors
    ///
    /// As [`verdicts`](Self::verdicts).
    pub fn bytes(&self) -> anyhow::Result<usize> {
        let (_, logged) = self.run(1, 0)?;
        let sizes = logged.lines().filter(|line| line.contains("bytes used: "));
        let sizes: Vec<usize> =
            sizes.filter_map(|line| line.rsplit('/').next()?.trim().parse().ok()).collect();
        ensure!(!sizes.is_empty(), "no sizes: {logged}");
        Ok(sizes.iter().sum())
    }

    /// What the program printed and what it logged.
    fn run(&self, iterations: usize, verbose: usize) -> anyhow::Result<(String, String)> {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let output = Command::new(PROGRAM)
            .args(["-l", &self.core.to_string(), "--no-huge", "-m", "2048", "--no-pci", "--no-telemetry"])
            .args(["--no-shconf", "--log-level=lib.acl:debug", "--force-max-simd-bitwidth=512", "--"])
            .arg(format!("--rulesf={}", path("rules")))
            .arg(format!("--tracef={}", path("trace")))
            .arg(format!("--tracenum={}", self.keys))
            .arg(format!("--tracestep={STEP}"))
            .arg(format!("--alg={}", self.algorithm))
            // One category, as we ask for one verdict.
            .args(["--bldcat=1", "--runcat=1"])
            .arg(format!("--iter={iterations}"))
            .arg(format!("--verbose={verbose}"))
            .output()
            .with_context(|| format!("cannot run {PROGRAM} (Debian: dpdk-dev)"))?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let logged = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{PROGRAM}: {}: {}", output.status, logged.trim());
        Ok((printed, logged))
    }
}

/// The lookups and the lookups per second of the line that sums up.
fn parse(printed: &str) -> Option<(usize, f64)> {
    let line =
        printed.lines().find(|line| line.starts_with("search_ip5tuples ") && line.contains("pkt/sec"))?;
    let number = |unit: &str| {
        let part = line.split(", ").find(|part| part.ends_with(unit))?;
        part.split_whitespace().next()
    };
    Some((number(" pkts")?.parse().ok()?, number(" pkt/sec")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_sums_up_is_read() {
        let printed = "rte_acl_build(1) finished with 0\n\
            search_ip5tuples  @lcore 1: 20000 iterations, 20480000 pkts, 1 categories, 714347462 cycles (0.26 sec), \
            34.88 cycles/pkt, 77407708.35 pkt/sec\n";
        assert_eq!(parse(printed), Some((20_480_000, 77_407_708.35)));
        assert_eq!(parse("rte_acl_build(1) finished with -12\n"), None);
    }
}
