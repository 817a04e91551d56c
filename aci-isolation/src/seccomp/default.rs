//! The default profile: the same decisions as Docker's (moby, `profiles/seccomp/default.json`),
//! written as our own table for the two architectures that we know.

use super::profile::{Action, Argument, Compare, Profile, Rule};

/// Allowed to every container.
const ALLOWED: &str = "accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown \
     chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
     clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect \
     copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old \
     epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit \
     exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir \
     fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr \
     flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 \
     fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv \
     futex_wake futimesat getcpu getcwd getdents getdents64 getegid getegid32 geteuid \
     geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp \
     getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 \
     getrlimit get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid \
     gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init \
     inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents \
     io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule \
     landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat \
     listen listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr \
     lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore \
     mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr \
     mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
     mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock \
     munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat openat2 \
     pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll \
     ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 \
     pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv \
     recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat \
     rename renameat renameat2 restart_syscall riscv_hwprobe rmdir rseq rt_sigaction \
     rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
     rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam \
     sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval \
     sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam \
     sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop \
     semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 \
     setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority \
     setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 \
     setrlimit set_robust_list setsid setsockopt set_thread_area set_tid_address setuid \
     setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd \
     signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 \
     statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time \
     timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime \
     timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
     timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat \
     uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid \
     write writev";

/// Allowed on one architecture.
const ARCHITECTURES: [(&str, &str); 2] = [
    ("amd64", "arch_prctl modify_ldt"),
    ("arm64", "sync_file_range2"),
];

/// Allowed with a capability.
const WITH_CAPABILITY: [(&str, &str); 13] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie \
         lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount \
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog \
         umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    (
        "CAP_SYS_PTRACE",
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    ),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    (
        "CAP_SYS_TIME",
        "settimeofday stime clock_settime clock_settime64",
    ),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    (
        "CAP_SYS_NICE",
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
];

/// Namespace flags of clone(2): NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const CLONE_NAMESPACES: u64 = 0x7E02_0000;

/// Address families: AF_ALG (38) and AF_VSOCK (40) stay closed.
const SOCKETS: [Compare; 3] = [Compare::Less(38), Compare::Equal(39), Compare::Greater(40)];

/// personality(2): PER_LINUX and PER_LINUX32, with and without UNAME26, and the question for the
/// present value.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

fn names(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn first(compare: Compare) -> Vec<Argument> {
    vec![Argument { index: 0, compare }]
}

/// The profile.
pub(crate) fn profile() -> Profile {
    let allow = |text: &str| Rule::new(names(text), Action::Allow);
    let mut rules = vec![allow(ALLOWED)];
    // A tracer could get around the filter before Linux 4.8.
    rules.push(Rule {
        min_kernel: Some((4, 8)),
        ..allow("process_vm_readv process_vm_writev ptrace")
    });
    for compare in SOCKETS {
        rules.push(Rule {
            arguments: first(compare),
            ..allow("socket")
        });
    }
    for value in PERSONALITIES {
        rules.push(Rule {
            arguments: first(Compare::Equal(value)),
            ..allow("personality")
        });
    }
    for (architecture, text) in ARCHITECTURES {
        rules.push(Rule {
            architectures: vec![architecture.to_owned()],
            ..allow(text)
        });
    }
    for (capability, text) in WITH_CAPABILITY {
        rules.push(Rule {
            capabilities: vec![capability.to_owned()],
            ..allow(text)
        });
    }
    rules.push(Rule {
        capabilities: vec!["CAP_PERFMON".to_owned()],
        ..allow("perf_event_open")
    });
    let without_admin = vec!["CAP_SYS_ADMIN".to_owned()];
    rules.push(Rule {
        arguments: first(Compare::Masked {
            mask: CLONE_NAMESPACES,
            value: 0,
        }),
        without_capabilities: without_admin.clone(),
        ..allow("clone")
    });
    rules.push(Rule {
        without_capabilities: without_admin,
        ..Rule::new(names("clone3"), Action::Errno(38))
    });
    Profile {
        default: Action::Errno(1),
        rules,
    }
}
