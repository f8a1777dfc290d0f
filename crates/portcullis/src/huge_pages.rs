//! Huge pages for the tables: a lookup that misses the caches then rarely misses the TLB as well.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use tracing::debug;

/// Where glibc looks, once, when a process starts ("Memory Allocation Tunables" of its manual).
const VARIABLE: &str = "GLIBC_TUNABLES";
/// The allocator asks the kernel for huge pages, where transparent ones are to be had for the asking.
const TUNABLE: &str = "glibc.malloc.hugetlb=1";

/// Starts this program again, as the same process, with an allocator that asks for huge pages. Does nothing where
/// somebody has chosen the allocator's settings already, and goes on without where it cannot be done.
pub fn ask_for() {
    if env::var_os(VARIABLE).is_some() {
        return;
    }
    let Ok(program) = env::current_exe() else { return };
    let mut arguments = env::args_os();
    let mut again = Command::new(program);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    let error = again.args(arguments).env(VARIABLE, TUNABLE).exec();
    debug!(%error, "no huge pages for the tables");
}
