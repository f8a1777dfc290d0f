//! The system calls that the agent makes once it has started. Every other one fails with EPERM, above all those that
//! start programs, trace processes, mount, enter or make namespaces, and load modules or kernels
//! (docs/decisions/0014).
//!
//! A few calls are allowed only with some arguments: threads but no processes, a few kinds of sockets, the names of
//! threads, the process's own limits.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Allowed with whatever arguments.
const ALLOWED: &[libc::c_long] = &[
    // Files: manifests, figures, claims, pins.
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_umask,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    // Sockets, whose kinds are limited below, and waiting.
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_bpf,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_membarrier,
    libc::SYS_getrandom,
    // Threads, signals, time, and the end.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_getcpu,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_tgkill,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrlimit,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Answered by `AS_IF_UNKNOWN`.
    libc::SYS_clone3,
    // What younger architectures have left out.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
];

/// Answered as by a kernel that does not have it: the flags of clone3(2) are in memory, where no filter sees them, and
/// the C library then takes clone(2).
const AS_IF_UNKNOWN: libc::c_long = libc::SYS_clone3;

/// The sockets that may be made.
const SOCKETS: [libc::c_int; 5] =
    [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_XDP];

/// How many system calls are allowed, with whatever arguments or with some.
#[must_use]
pub fn allowed() -> usize {
    ALLOWED.len() + limited().map_or(0, |limited| limited.len())
}

/// From here on every call of every thread that is not allowed fails. Sets no_new_privs as well.
///
/// # Errors
///
/// The kernel refuses, or another thread has a filter of its own.
pub fn forbid_others() -> Result<(), Error> {
    for program in programs()? {
        seccompiler::apply_filter_all_threads(&program)?;
    }
    Ok(())
}

/// The filters, in the order in which they are set: the last one forbids to set another. The kernel takes the strictest
/// answer of all.
fn programs() -> Result<[BpfProgram; 2], BackendError> {
    let here = std::env::consts::ARCH.try_into()?;
    let mut allowed: BTreeMap<_, _> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    allowed.extend(limited()?);
    let forbidden = SeccompAction::Errno(libc::EPERM as u32);
    let unknown = SeccompAction::Errno(libc::ENOSYS as u32);
    let allow = SeccompFilter::new(allowed, forbidden, SeccompAction::Allow, here)?;
    let hide = [(AS_IF_UNKNOWN, Vec::new())].into();
    let hide = SeccompFilter::new(hide, SeccompAction::Allow, unknown, here)?;
    Ok([hide.try_into()?, allow.try_into()?])
}

/// Allowed with some arguments.
fn limited() -> Result<Vec<(libc::c_long, Vec<SeccompRule>)>, BackendError> {
    let rule = |condition| SeccompRule::new(vec![condition]);
    let thread = libc::CLONE_THREAD as u64;
    let thread = rule(SeccompCondition::new(0, Qword, MaskedEq(thread), thread)?)?;
    let named = rule(SeccompCondition::new(0, Dword, Eq, libc::PR_SET_NAME as u64)?)?;
    let own = rule(SeccompCondition::new(0, Dword, Eq, 0)?)?;
    let kinds = SOCKETS.iter().map(|kind| rule(SeccompCondition::new(0, Dword, Eq, *kind as u64)?));
    let pair = rule(SeccompCondition::new(0, Dword, Eq, libc::AF_UNIX as u64)?)?;
    Ok(vec![
        (libc::SYS_clone, vec![thread]),
        (libc::SYS_prctl, vec![named]),
        (libc::SYS_prlimit64, vec![own]),
        (libc::SYS_socket, kinds.collect::<Result<_, _>>()?),
        (libc::SYS_socketpair, vec![pair]),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_and_no_call_is_listed_twice() {
        let programs = programs().unwrap();
        // A filter may have 4096 instructions (BPF_MAXINSNS).
        assert!(programs.iter().all(|program| (4..4096).contains(&program.len())));
        let mut calls: Vec<_> = ALLOWED.to_vec();
        calls.extend(limited().unwrap().into_iter().map(|(call, _)| call));
        calls.sort_unstable();
        calls.dedup();
        assert_eq!(calls.len(), allowed());
    }

    #[test]
    fn what_must_never_happen_is_not_on_the_list() {
        let never = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_kexec_load,
            libc::SYS_kexec_file_load,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_move_mount,
            libc::SYS_fsopen,
            libc::SYS_open_tree,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_setuid,
            libc::SYS_capset,
            libc::SYS_reboot,
            libc::SYS_swapon,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_io_uring_setup,
            libc::SYS_keyctl,
            libc::SYS_kill,
        ];
        for call in never {
            assert!(!ALLOWED.contains(&call), "{call}");
        }
    }
}
