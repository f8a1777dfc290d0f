//! The machine: its name in records, what disturbs a measurement on it, and where on it one runs.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Runs this thread on the last core, and tells which one that is. Kernel threads and interrupts like the first.
///
/// # Errors
///
/// When the kernel refuses.
pub fn pin_to_last_core() -> anyhow::Result<usize> {
    let last = cores() - 1;
    pin(last)?;
    Ok(last)
}

/// Runs this thread on one core.
///
/// # Errors
///
/// When the kernel refuses.
pub fn pin(core: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("cannot pin to a core")
}

/// Cores of the machine.
#[must_use]
pub fn cores() -> usize {
    cpuinfo("processor").len().max(1)
}

/// Bytes of the largest cache of the first core.
#[must_use]
pub fn last_level_cache() -> usize {
    let sizes = (0..8).filter_map(|index| {
        let size =
            fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size")).ok()?;
        let (number, unit) = size.trim().split_at(size.trim().find(|c: char| !c.is_ascii_digit())?);
        let unit = if unit == "M" { 1 << 20 } else { 1 << 10 };
        Some(number.parse::<usize>().ok()? * unit)
    });
    sizes.max().unwrap_or(32 << 20)
}

/// Whether the processor has all of these features.
#[must_use]
pub fn has(features: &[&str]) -> bool {
    let flags = cpuinfo("flags").into_iter().next().unwrap_or_default();
    let flags: Vec<&str> = flags.split(' ').collect();
    features.iter().all(|feature| flags.contains(feature))
}

/// `<date>-<machine>`, a folder's name: today in UTC, the processor and the number of cores.
#[must_use]
pub fn run_name() -> String {
    let model = cpuinfo("model name").into_iter().next().unwrap_or_else(|| std::env::consts::ARCH.into());
    let model = model.replace("(R)", "").replace("(TM)", "").to_lowercase();
    let words = model
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty() && !["processor", "cpu", "with"].contains(word));
    format!("{}-{}-{}cpu", today(), words.take(4).collect::<Vec<_>>().join("-"), cores())
}

/// What a reader of a record must know: the machine, and how busy it was.
#[must_use]
pub fn describe() -> Value {
    let read =
        |path: &str| fs::read_to_string(path).map_or_else(|_| String::new(), |text| text.trim().into());
    json!({
        "cpu": cpuinfo("model name").first(),
        "cores": cores(),
        "last_level_cache_bytes": last_level_cache(),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "transparent_hugepage": read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "load_average": read("/proc/loadavg"),
        "steal_ticks": steal(),
    })
}

/// Clock ticks that the hypervisor took away since boot, summed over the cores (proc(5), `/proc/stat`).
#[must_use]
pub fn steal() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let total = stat.lines().next().unwrap_or_default();
    total.split_whitespace().nth(8).and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}

/// All values of one field of `/proc/cpuinfo`.
fn cpuinfo(field: &str) -> Vec<String> {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let values = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == field).then(|| value.trim().to_owned())
    });
    values.collect()
}

fn today() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = date(since.as_secs() / 86_400);
    format!("{year}-{month:02}-{day:02}")
}

/// The civil date of a day since 1970-01-01, by whole eras of 400 years, each of which starts in March.
const fn date(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let civil = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + (civil <= 2) as u64, civil, day - (153 * month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(20_088), (2024, 12, 31));
        assert_eq!(date(20_514), (2026, 3, 2));
    }

    #[test]
    fn this_machine_has_a_name_and_a_cache() {
        let name = run_name();
        assert!(name.starts_with("20") && name.ends_with("cpu") && !name.contains([' ', '/']), "{name}");
        assert!(last_level_cache() >= 1 << 18);
        assert!(!has(&["no-such-feature"]) && has(&[]));
    }
}
