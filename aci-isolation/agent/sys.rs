//! The system calls that neither std nor rustix offers as needed, and the
//! unsafe code of the agent, but for that of `devices`.
//!
//! The agent is single-threaded, so a child made by a bare `clone3` may run ordinary code.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_long, c_ulong, c_void};

fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn check_int(result: c_int) -> io::Result<()> {
    check(c_long::from(result)).map(drop)
}

/// `struct clone_args` of clone3(2), as of Linux 5.7.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Which side of [`clone`] this is.
pub(crate) enum Forked {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Makes a child with its own copy of memory (clone3(2)), in new namespaces by `namespaces`, with
/// default signal handlers, inside the v2 cgroup that `cgroup` is a directory descriptor of.
pub(crate) fn clone(namespaces: c_int, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    let mut pidfd: RawFd = -1;
    let mut arguments = CloneArgs {
        flags: (libc::CLONE_PIDFD as u64) | CLONE_CLEAR_SIGHAND | u64::from(namespaces as u32),
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(directory) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = directory.as_raw_fd() as u64;
    }
    // SAFETY: `arguments` is a valid clone_args of the size given, `pidfd` outlives the call, no
    // stack and no CLONE_VM are asked for, so the child runs on its own copy of this memory; the
    // process has one thread, so no lock is held by another one in that copy.
    let pid = check(unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<CloneArgs>())
    })?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: in the parent the kernel stored a new descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked::Parent {
        pid: i32::try_from(pid).unwrap_or(i32::MAX),
        pidfd,
    })
}

/// setns(2).
pub(crate) fn setns(fd: impl AsFd, kinds: c_int) -> io::Result<()> {
    // SAFETY: plain numbers; the descriptor is open.
    check_int(unsafe { libc::setns(fd.as_fd().as_raw_fd(), kinds) })
}

/// unshare(2), for a single-threaded process.
pub(crate) fn unshare(kinds: c_int) -> io::Result<()> {
    // SAFETY: plain numbers; no memory or descriptor table is unshared from another thread.
    check_int(unsafe { libc::unshare(kinds) })
}

/// kill(2).
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: plain numbers.
    check_int(unsafe { libc::kill(pid, signal) })
}

/// pidfd_send_signal(2).
pub(crate) fn pidfd_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open; a null siginfo is allowed.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<c_void>(),
            0,
        )
    })
    .map(drop)
}

/// How an ended child ended, and the CPU time that it and its waited-for children used.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) signal: Option<u8>,
    pub(crate) cpu_micros: u64,
}

/// Reaps a child if it has ended (wait4(2) with WNOHANG).
pub(crate) fn reap(pid: i32) -> io::Result<Option<(i32, Ended)>> {
    let mut status: c_int = 0;
    // SAFETY: rusage is plain numbers, for which zero is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call.
    let found = unsafe {
        libc::wait4(
            pid,
            &raw mut status,
            libc::WNOHANG | libc::__WALL,
            &raw mut usage,
        )
    };
    if found < 0 {
        return Err(io::Error::last_os_error());
    }
    if found == 0 {
        return Ok(None);
    }
    let (code, signal) = if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        (128 + signal, u8::try_from(signal).ok())
    } else {
        (libc::WEXITSTATUS(status), None)
    };
    let micros = |time: libc::timeval| {
        u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000
            + u64::try_from(time.tv_usec).unwrap_or(0)
    };
    Ok(Some((
        found,
        Ended {
            code,
            signal,
            cpu_micros: micros(usage.ru_utime) + micros(usage.ru_stime),
        },
    )))
}

/// Waits for the end of a child and reaps it; its exit code, or -1 if it has none.
pub(crate) fn wait_for(pid: i32) -> i32 {
    let mut status: c_int = 0;
    // SAFETY: the pointer is valid for the call.
    while unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) } < 0 {
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return -1;
        }
    }
    if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        -1
    }
}

/// prctl(2) with up to two numbers.
fn prctl(option: c_int, a: c_ulong, b: c_ulong) -> io::Result<()> {
    // SAFETY: the options used here take numbers only.
    check_int(unsafe { libc::prctl(option, a, b, 0 as c_ulong, 0 as c_ulong) })
}

/// Kills this process when the thread that made it ends.
pub(crate) fn die_with_parent() -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as c_ulong, 0)
}

/// Whether other processes without CAP_SYS_PTRACE may look into this one.
pub(crate) fn set_dumpable(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, c_ulong::from(on), 0)
}

/// Sets no_new_privs for ever.
pub(crate) fn no_new_privs() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
}

/// Whether permitted capabilities stay over a change to another user.
pub(crate) fn keep_capabilities(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, c_ulong::from(on), 0)
}

/// Takes a capability out of the bounding set.
pub(crate) fn drop_bounding(capability: u32) -> io::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, c_ulong::from(capability), 0)
}

/// Empties the ambient set.
pub(crate) fn clear_ambient() -> io::Result<()> {
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong,
        0,
    )
}

/// The name that `ps` shows; at most 15 bytes.
pub(crate) fn set_name(name: &CStr) {
    // SAFETY: a NUL-terminated text that the kernel copies from.
    let _ = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// This process's own pidfd, by which another one can wait for its end.
pub(crate) fn own_pidfd() -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(
        rustix::process::getpid(),
        rustix::process::PidfdFlags::empty(),
    )?)
}

/// Replaces the text of the program's only argument, for readers of a process list. What does not
/// fit into the space that it has from the start is cut off.
pub(crate) fn show_argument(text: &str) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in brackets may hold anything; arg_start and arg_end are fields 48 and 49 (proc(5)).
    let mut fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
    let mut address = |nth| fields.nth(nth).and_then(|field| field.parse::<usize>().ok());
    let (Some(start), Some(end)) = (address(45), address(0)) else {
        return;
    };
    let Some(length) = end.checked_sub(start) else {
        return;
    };
    if start == 0 || length > 4096 {
        return;
    }
    // SAFETY: the kernel says that these addresses hold the strings of argv, which are this
    // process's own writable memory; the agent has one thread and never reads its arguments, so no
    // reference to them exists.
    let area = unsafe { std::slice::from_raw_parts_mut(start as *mut u8, length) };
    let Some(first) = area.iter().position(|byte| *byte == 0) else {
        return;
    };
    // The last byte stays the end of the text.
    if let Some(argument) = area.get_mut(first + 1..length - 1) {
        let text = text.bytes().chain(std::iter::repeat(0));
        for (to, from) in argument.iter_mut().zip(text) {
            *to = from;
        }
    }
}

/// capset(2) of this thread.
pub(crate) fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let half = |shift: u32| Data {
        effective: (effective >> shift & 0xffff_ffff) as u32,
        permitted: (permitted >> shift & 0xffff_ffff) as u32,
        inheritable: (inheritable >> shift & 0xffff_ffff) as u32,
    };
    let mut header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let data = [half(0), half(32)];
    // SAFETY: header and data are the structures of version 3 and live over the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) }).map(drop)
}

/// Whether a capability is in the bounding set; unknown ones are not.
pub(crate) fn in_bounding(capability: u32) -> bool {
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_CAPBSET_READ, c_ulong::from(capability), 0, 0, 0) == 1 }
}

/// This thread's permitted capabilities (capget(2)).
pub(crate) fn permitted_capabilities() -> io::Result<u64> {
    let mut header = [0x2008_0522_u32, 0];
    let mut data = [0_u32; 6];
    // SAFETY: a header (version, pid) and two entries of three numbers, as version 3 has them.
    check(unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()) })?;
    Ok(u64::from(data[1]) | u64::from(data[4]) << 32)
}

/// Closes every descriptor from 3 on that is not in the list.
pub(crate) fn close_except(keep: &mut [RawFd]) -> io::Result<()> {
    keep.sort_unstable();
    let mut first: u32 = 3;
    for fd in keep.iter().filter_map(|fd| u32::try_from(*fd).ok()) {
        if fd > first {
            // SAFETY: the caller, a fresh child, uses no value that stands for these descriptors.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) })?;
        }
        first = first.max(fd + 1);
    }
    close_from(first, false)
}

/// Becomes another user and group with these supplementary groups.
pub(crate) fn become_user(uid: u32, gid: u32, groups: Option<&[u32]>) -> io::Result<()> {
    if let Some(groups) = groups {
        // SAFETY: pointer and length are of one slice.
        check_int(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
    }
    // SAFETY: plain numbers; the process has one thread, so no other keeps the old ids.
    check_int(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: as above.
    check_int(unsafe { libc::setresuid(uid, uid, uid) })
}

/// Installs a seccomp filter given as `struct sock_filter`s in memory order.
pub(crate) fn install_filter(program: &[u8]) -> io::Result<()> {
    let mut instructions: Vec<libc::sock_filter> = program
        .chunks_exact(8)
        .map(|bytes| libc::sock_filter {
            code: u16::from_ne_bytes([bytes[0], bytes[1]]),
            jt: bytes[2],
            jf: bytes[3],
            k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        })
        .collect();
    let filter = libc::sock_fprog {
        len: u16::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: `filter` points at `len` instructions that live over the call; the kernel checks and
    // copies them.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const filter,
        )
    })
    .map(drop)
}

/// Closes every descriptor from `first` on, or (`later`) marks them to be closed by exec.
pub(crate) fn close_from(first: u32, later: bool) -> io::Result<()> {
    let flags = if later { libc::CLOSE_RANGE_CLOEXEC } else { 0 };
    // SAFETY: the callers own no value that stands for a descriptor of this range and that is used
    // afterwards.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) }).map(drop)
}

/// Copies a descriptor onto a number below 3, which exec will not close.
pub(crate) fn put(fd: impl AsFd, number: RawFd) -> io::Result<()> {
    // SAFETY: the standard descriptors are not owned by any value in the agent.
    check_int(unsafe { libc::dup2(fd.as_fd().as_raw_fd(), number) })
}

/// Takes the ownership of a standard descriptor.
///
/// # Panics
/// Never; the number is fixed.
pub(crate) fn take_stdin() -> OwnedFd {
    // SAFETY: called once at the very beginning; the standard library only borrows descriptor 0
    // for the duration of reads, and the agent never reads through it.
    unsafe { OwnedFd::from_raw_fd(0) }
}

/// Makes a terminal the controlling one of this session (ioctl TIOCSCTTY).
pub(crate) fn control_terminal(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes a number.
    check_int(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) })
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

pub(crate) const ATTR_RDONLY: u64 = 0x1;
pub(crate) const ATTR_NOSUID: u64 = 0x2;
pub(crate) const ATTR_NODEV: u64 = 0x4;
pub(crate) const ATTR_NOEXEC: u64 = 0x8;

/// Makes the user and group that own new files others than those of this process. With
/// [`keep_rights_over_ids`] capabilities stay as they are.
pub(crate) fn own_files_as(uid: u32, gid: u32) {
    // SAFETY: plain numbers; the process has one thread.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
    }
}

/// Changes of user ids leave capabilities alone from now on (SECBIT_NO_SETUID_FIXUP), until a user
/// namespace is entered.
pub(crate) fn keep_rights_over_ids() -> io::Result<()> {
    const NO_SETUID_FIXUP: c_ulong = 1 << 2;
    prctl(libc::PR_SET_SECUREBITS, NO_SETUID_FIXUP, 0)
}

/// Shows the files of a detached mount (or tree of mounts) with the ids of a user namespace:
/// user 0 on disk is user 0 of that namespace (mount_setattr(2), MOUNT_ATTR_IDMAP).
pub(crate) fn mount_idmap(fd: impl AsFd, users: impl AsFd, recursive: bool) -> io::Result<()> {
    const IDMAP: u64 = 0x0010_0000;
    set_attributes(
        fd,
        &MountAttr {
            set: IDMAP,
            clear: 0,
            propagation: 0,
            userns: users.as_fd().as_raw_fd() as u64,
        },
        recursive,
    )
}

/// Adds mount attributes to a mount, or a whole tree of mounts, by descriptor (Linux 5.12).
pub(crate) fn mount_setattr(fd: impl AsFd, set: u64, recursive: bool) -> io::Result<()> {
    let attributes = MountAttr {
        set,
        clear: 0,
        propagation: 0,
        userns: 0,
    };
    set_attributes(fd, &attributes, recursive)
}

/// Lets a mount of the agent's own be written to.
pub(crate) fn make_writable(fd: impl AsFd) -> io::Result<()> {
    let attributes = MountAttr {
        set: 0,
        clear: ATTR_RDONLY,
        propagation: 0,
        userns: 0,
    };
    set_attributes(fd, &attributes, false)
}

/// Nanoseconds since the machine was started: a number that is never given twice.
pub(crate) fn boot_nanoseconds() -> u128 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u128::from(time.tv_sec.unsigned_abs());
    seconds * 1_000_000_000 + u128::from(time.tv_nsec.unsigned_abs())
}

/// Lets devices on a mount be opened: a deliberate hole.
pub(crate) fn allow_devices(fd: impl AsFd) -> io::Result<()> {
    let attributes = MountAttr {
        set: 0,
        clear: ATTR_NODEV,
        propagation: 0,
        userns: 0,
    };
    set_attributes(fd, &attributes, false)
}

fn set_attributes(fd: impl AsFd, attributes: &MountAttr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: an empty path, and a structure of the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// execve(2); returns only on failure.
pub(crate) fn exec(path: &CStr, arguments: &[&CStr], environment: &[&CStr]) -> io::Error {
    let list = |texts: &[&CStr]| -> Vec<*const libc::c_char> {
        texts
            .iter()
            .map(|text| text.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (arguments, environment) = (list(arguments), list(environment));
    // SAFETY: NUL-terminated texts in null-terminated lists, all of which outlive the call.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends this process at once, without running exit handlers of the memory that it was copied from.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: plain number.
    unsafe { libc::_exit(code) }
}

/// The limits that a container's processes begin with, whatever those of the program are that
/// embeds us: the most that is allowed, but for the stack and core files, whose soft limits are
/// Linux's own.
pub(crate) fn default_limits() {
    for (kind, most) in [
        (libc::RLIMIT_CPU, u64::MAX),
        (libc::RLIMIT_FSIZE, u64::MAX),
        (libc::RLIMIT_DATA, u64::MAX),
        (libc::RLIMIT_AS, u64::MAX),
        (libc::RLIMIT_RSS, u64::MAX),
        (libc::RLIMIT_NPROC, u64::MAX),
        (libc::RLIMIT_SIGPENDING, u64::MAX),
        (libc::RLIMIT_STACK, 8 << 20),
        (libc::RLIMIT_CORE, 0),
        (libc::RLIMIT_NOFILE, 1 << 20),
    ] {
        if let Ok((_, hard)) = limit(kind) {
            let _ = set_limit(kind, hard.min(most), hard);
        }
    }
}

#[cfg(target_env = "gnu")]
type LimitKind = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type LimitKind = c_int;

/// A resource limit of this process, soft and hard (getrlimit(2)).
fn limit(kind: LimitKind) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a valid pointer to a valid structure.
    check_int(unsafe { libc::getrlimit(kind, &raw mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Sets a resource limit of this process (setrlimit(2)).
pub(crate) fn set_limit(kind: LimitKind, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: a valid pointer to a valid structure.
    check_int(unsafe { libc::setrlimit(kind, &raw const limit) })
}

const LANDLOCK_CREATE: c_long = 444;
const LANDLOCK_ADD: c_long = 445;
const LANDLOCK_RESTRICT: c_long = 446;

/// The version of Landlock that the kernel has (landlock_create_ruleset(2)).
pub(crate) fn landlock_version() -> io::Result<i64> {
    const VERSION: c_long = 1;
    // SAFETY: a null pointer of length zero is what asks for the version.
    check(unsafe { libc::syscall(LANDLOCK_CREATE, std::ptr::null::<c_void>(), 0, VERSION) })
}

/// A set of rules without rules, which denies these rights on files.
pub(crate) fn landlock_rules(files: u64) -> io::Result<OwnedFd> {
    // SAFETY: the first field of landlock_ruleset_attr, and its size.
    let fd = check(unsafe {
        libc::syscall(LANDLOCK_CREATE, &raw const files, size_of::<u64>(), 0)
    })?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).unwrap_or(-1)) })
}

/// Allows rights on everything below a directory.
pub(crate) fn landlock_allow(rules: &OwnedFd, files: u64, below: impl AsFd) -> io::Result<()> {
    #[repr(C, packed)]
    struct Below {
        allowed: u64,
        parent: i32,
    }
    const PATH_BENEATH: c_long = 1;
    let rule = Below {
        allowed: files,
        parent: below.as_fd().as_raw_fd(),
    };
    // SAFETY: a landlock_path_beneath_attr that lives over the call, and open descriptors.
    check(unsafe {
        libc::syscall(
            LANDLOCK_ADD,
            rules.as_raw_fd(),
            PATH_BENEATH,
            &raw const rule,
            0,
        )
    })
    .map(drop)
}

/// Puts this thread under the rules (landlock_restrict_self(2)).
pub(crate) fn landlock_restrict(rules: &OwnedFd) -> io::Result<()> {
    // SAFETY: an open descriptor and no flags.
    check(unsafe { libc::syscall(LANDLOCK_RESTRICT, rules.as_raw_fd(), 0) }).map(drop)
}

/// Brings up the loopback interface of this network namespace.
pub(crate) fn loopback_up(socket: impl AsFd) -> io::Result<()> {
    // SAFETY: ifreq is plain bytes, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the request is a valid ifreq with a NUL-terminated name; the union's flags are what
    // SIOCGIFFLAGS stores and SIOCSIFFLAGS reads.
    unsafe {
        check_int(libc::ioctl(fd, libc::SIOCGIFFLAGS, &raw mut request))?;
        request.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check_int(libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw const request))
    }
}

/// Blocks a signal and gives a descriptor that becomes readable when it comes (signalfd(2)).
pub(crate) fn signal_descriptor(signal: c_int) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before use.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        check_int(libc::sigprocmask(
            libc::SIG_BLOCK,
            &raw const set,
            std::ptr::null_mut(),
        ))?;
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        check_int(fd)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Unblocks every signal and gives all of them their default effect.
pub(crate) fn reset_signals() {
    unblock_signals();
    for number in 1..=64 {
        // SAFETY: SIG_DFL is no handler function; unknown signal numbers only give an error.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

/// Gives a child of the agent what a program expects: the agent itself blocks SIGCHLD and ignores
/// SIGPIPE.
pub(crate) fn signals_of_a_program() {
    unblock_signals();
    // SAFETY: SIG_DFL is no handler function.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

fn unblock_signals() {
    // SAFETY: plain calls with a set that sigemptyset initialises before use.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Ignores a signal.
pub(crate) fn ignore(signal: c_int) {
    // SAFETY: SIG_IGN is no handler function.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// The user at the other end of a Unix socket, in this user namespace's terms (SO_PEERCRED). The
/// pid that comes along is 0 for processes outside of this pid namespace.
pub(crate) fn peer_user(socket: impl AsFd) -> io::Result<u32> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: a ucred and its length, both valid for the call.
    check_int(unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    })?;
    Ok(peer.uid)
}
