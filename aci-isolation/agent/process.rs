//! From a fresh child of the agent to the container's program: this code runs in the child only.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};

use crate::cgroup::tree::Door;
use crate::protocol::{Failure, Hidden, Kind, Program, Rights};
use crate::init::Handles;
use crate::user::{self, User};
use crate::{holes, landlock, root, sys, users, weak};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The most bytes of `/etc/passwd` and `/etc/group` that are read.
const MAX_USER_FILE: u64 = 4 << 20;

/// CAP_SYS_ADMIN.
const ADMIN: u32 = 21;

/// Where a process reads and writes.
pub(crate) enum Streams {
    /// Standard input, output and error.
    Three([OwnedFd; 3]),
    /// A terminal's inner end.
    Terminal(OwnedFd),
}

/// What a child needs to become a process of a container.
pub(crate) struct Birth<'a> {
    /// Where the container is.
    pub(crate) handles: &'a Handles,
    /// The sandbox's user namespace, if the agent is outside of it.
    pub(crate) inside: Option<&'a OwnedFd>,
    /// The way into the container's cgroup.
    pub(crate) door: Option<&'a Door>,
    pub(crate) program: &'a Program,
    pub(crate) env: &'a [Hidden],
    pub(crate) rights: &'a Rights,
    pub(crate) streams: Streams,
    /// Resource limits besides the default ones.
    pub(crate) limits: &'a [(u32, u64, u64)],
    /// Whether this is the container's own program.
    pub(crate) main: bool,
    /// Takes a [`Failure`]; exec closes it.
    pub(crate) report: OwnedFd,
    /// Whether only user and group 0 exist.
    pub(crate) single_user: bool,
}

fn io_failure(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::new(Kind::Internal, format!("{what}: {error}"))
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(Kind::Invalid, message)
}

/// Becomes the program, or reports why not and ends.
pub(crate) fn become_program(birth: Birth<'_>) -> ! {
    let failure = match prepare(&birth) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    report(birth.report.as_fd(), &failure);
    sys::exit_now(127)
}

/// Sends a failure through a pipe.
pub(crate) fn report(pipe: BorrowedFd<'_>, failure: &Failure) {
    if let Ok(bytes) = postcard::to_allocvec(failure) {
        let _ = rustix::io::write(pipe, &bytes);
    }
}

enum Never {}

fn prepare(birth: &Birth<'_>) -> Result<Never, Failure> {
    sys::signals_of_a_program();
    let leaked = weak::is(holes::LEAKS)
        .then(|| rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()));
    if let Some(door) = birth.door {
        door.join().map_err(io_failure("joining the container's cgroup"))?;
    }
    sys::setns(&birth.handles.cgroups, libc::CLONE_NEWCGROUP)
        .and_then(|()| sys::setns(&birth.handles.mounts, libc::CLONE_NEWNS))
        .map_err(io_failure("joining the container (has it just ended?)"))?;
    if let Some(inside) = birth.inside {
        users::enter(inside)?;
    }
    rustix::process::setsid().map_err(root::failed("starting a session"))?;

    let user = look_up(birth.program)?;
    take_streams(&birth.streams, &user)?;
    // Nothing of the agent's is left open for the program, whatever it inherits.
    let report = rustix::io::fcntl_dupfd_cloexec(&birth.report, 3)
        .map_err(root::failed("keeping the report pipe"))?;
    sys::close_from(3, true).map_err(io_failure("closing descriptors"))?;
    drop(report);
    if let Some(Ok(root)) = &leaked {
        let _ = rustix::io::fcntl_setfd(root, rustix::io::FdFlags::empty());
    }
    if weak::is(holes::PROC_BY_PATH) {
        let _ = std::fs::write("/proc/self/timerslack_ns", "written by the runtime");
    }

    if !weak::is(holes::RESOURCES) {
        sys::default_limits();
        for (kind, soft, hard) in birth.limits {
            sys::set_limit(*kind, *soft, *hard)
                .map_err(io_failure(format!("setting the resource limit {kind}")))?;
        }
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));

    let environment = environment(birth, &user)?;
    let arguments = arguments(birth.program)?;
    take_rights(birth, &user)?;

    let path = environment
        .iter()
        .find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="))
        .map_or_else(
            || DEFAULT_PATH.to_owned(),
            |path| String::from_utf8_lossy(path).into_owned(),
        );
    let argv: Vec<&CStr> = arguments.iter().map(CString::as_c_str).collect();
    let envp: Vec<&CStr> = environment.iter().map(CString::as_c_str).collect();
    Err(execute(&argv, &envp, &path))
}

/// Reads a small file of the container; what is missing or no file counts as empty.
fn user_file(path: &str) -> String {
    use std::io::Read;
    let Ok(file) = rustix::fs::openat2(
        CWD,
        path,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    ) else {
        return String::new();
    };
    if !rustix::fs::fstat(&file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file()) {
        return String::new();
    }
    let mut bytes = Vec::new();
    let _ = std::fs::File::from(file)
        .take(MAX_USER_FILE)
        .read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn look_up(program: &Program) -> Result<User, Failure> {
    user::resolve(
        program.user.as_deref(),
        program.uid,
        program.gid,
        &user_file("etc/passwd"),
        &user_file("etc/group"),
    )
    .map_err(invalid)
}

fn take_streams(streams: &Streams, user: &User) -> Result<(), Failure> {
    let what = || io_failure("setting up the standard streams");
    match streams {
        Streams::Three(three) => {
            // Above the numbers that are about to be overwritten.
            for (number, fd) in (0..).zip(three) {
                // So that /dev/stdout and its like can be opened by their user; no other kind of
                // file is ours to give away.
                if user.uid != 0 && users::is_pipe(fd) {
                    let owner = rustix::process::Uid::from_raw(user.uid);
                    let _ = rustix::fs::fchown(fd, Some(owner), None);
                }
                sys::put(fd, number).map_err(what())?;
            }
        }
        Streams::Terminal(terminal) => {
            sys::control_terminal(terminal).map_err(what())?;
            // The program must be able to open its own terminal again by name.
            let _ = rustix::fs::fchown(
                terminal,
                Some(rustix::process::Uid::from_raw(user.uid)),
                None,
            );
            for number in 0..3 {
                sys::put(terminal, number).map_err(what())?;
            }
        }
    }
    Ok(())
}

fn environment(birth: &Birth<'_>, user: &User) -> Result<Vec<CString>, Failure> {
    let mut out: Vec<CString> = Vec::with_capacity(birth.env.len() + 3);
    for entry in birth.env {
        let name = entry
            .0
            .split(|byte| *byte == b'=')
            .next()
            .unwrap_or_default();
        let entry = CString::new(entry.0.as_slice()).map_err(|_| {
            invalid(format!(
                "the environment variable '{}' contains a NUL byte",
                String::from_utf8_lossy(name)
            ))
        })?;
        match out
            .iter_mut()
            .find(|have| have.to_bytes().split(|byte| *byte == b'=').next() == Some(name))
        {
            Some(have) => *have = entry,
            None => out.push(entry),
        }
    }
    let mut default = |name: &str, value: &str| {
        if !out.iter().any(|have| {
            have.to_bytes()
                .strip_prefix(name.as_bytes())
                .is_some_and(|rest| rest.first() == Some(&b'='))
        }) && let Ok(entry) = CString::new(format!("{name}={value}"))
        {
            out.push(entry);
        }
    };
    default("PATH", DEFAULT_PATH);
    default("HOME", user.home.as_deref().unwrap_or("/"));
    if birth.program.terminal.is_some() {
        default("TERM", "xterm");
    }
    Ok(out)
}

fn arguments(program: &Program) -> Result<Vec<CString>, Failure> {
    let out: Result<Vec<CString>, _> = program
        .argv
        .iter()
        .map(|argument| CString::new(argument.0.as_slice()))
        .collect();
    match out {
        Ok(out) if !out.is_empty() && !out[0].is_empty() => Ok(out),
        Ok(_) => Err(invalid(
            "there is no program to run: neither the document nor the image names a command",
        )),
        Err(_) => Err(invalid("an argument of the command contains a NUL byte")),
    }
}

/// User, capabilities, no_new_privs and the system call filter. The filter comes last, so that it
/// needs to allow nothing but capset(2) and execve(2).
fn take_rights(birth: &Birth<'_>, user: &User) -> Result<(), Failure> {
    let rights = birth.rights;
    let have = sys::permitted_capabilities().map_err(io_failure("reading capabilities"))?;
    let wanted = rights.capabilities & have;
    let what = || io_failure("setting capabilities");
    if rights.no_new_privs && !weak::is(holes::PRIVILEGES) {
        sys::no_new_privs().map_err(io_failure("setting no_new_privs"))?;
    }
    // Who may mount things must not be in a Landlock domain, where nobody may.
    if birth.main
        && !weak::is(holes::LEAKS | holes::FILTER | holes::AGENT_OPEN | holes::PIDS)
        && !rights.privileged && rights.capabilities & (1 << ADMIN) == 0 {
        let root = rustix::fs::open(
            "/",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(root::failed("opening the root"))?;
        landlock::restrict(&root).map_err(io_failure("restricting the container's files"))?;
    }
    let _ = sys::clear_ambient();
    for capability in 0..64 {
        if wanted & (1_u64 << capability) == 0 && sys::in_bounding(capability) {
            sys::drop_bounding(capability).map_err(what())?;
        }
    }
    sys::keep_capabilities(true).map_err(what())?;
    // In a namespace of a single user the kernel refuses setgroups(2) (user_namespaces(7)).
    let groups = (!birth.single_user).then_some(user.groups.as_slice());
    sys::become_user(user.uid, user.gid, groups).map_err(|error| {
        if error.raw_os_error() == Some(libc::EINVAL) {
            invalid(format!(
                "user {} and group {} do not exist in this sandbox's user namespace",
                user.uid, user.gid
            ))
            .hint(if birth.inside.is_some() {
                "ids there go up to 65535 unless NamespacesOptions::user_count says otherwise"
            } else {
                "without root, further users need ranges in /etc/subuid and /etc/subgid and the \
                 programs newuidmap and newgidmap (Debian package uidmap)"
            })
        } else {
            Failure::new(
                Kind::Internal,
                format!("becoming user {}: {error}", user.uid),
            )
        }
    })?;
    // As the user, so that his permissions count, and before the filter.
    enter_directory(&birth.program.cwd)?;
    let inheritable = if rights.privileged { wanted } else { 0 };
    let admin = 1_u64 << ADMIN;
    if !rights.filter.is_empty() && !weak::is(holes::FILTER) {
        // Installing a filter needs CAP_SYS_ADMIN unless no_new_privs is set; it is kept to here.
        let until = wanted | (have & admin);
        sys::set_capabilities(until, until, inheritable).map_err(what())?;
        sys::install_filter(&rights.filter)
            .map_err(io_failure("installing the system call filter"))?;
    }
    sys::keep_capabilities(false).map_err(what())?;
    let effective = if user.uid == 0 { wanted } else { 0 };
    sys::set_capabilities(effective, wanted, inheritable).map_err(what())
}

/// Changes to the working directory and makes sure that it is one of the container's.
fn enter_directory(path: &str) -> Result<(), Failure> {
    let path = if path.is_empty() { "/" } else { path };
    if !path.starts_with('/') {
        return Err(invalid(format!(
            "the working directory '{path}' must be an absolute path"
        )));
    }
    let enter = || -> rustix::io::Result<()> {
        if weak::is(holes::LEAKS) {
            return rustix::process::chdir(path);
        }
        let directory = rustix::fs::openat2(
            CWD,
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )?;
        rustix::process::fchdir(&directory)
    };
    enter().map_err(|errno| {
        invalid(format!(
            "the working directory '{path}': {}",
            io::Error::from_raw_os_error(errno.raw_os_error())
        ))
    })
}

/// execve(2), looking a bare name up in PATH as execvp(3) does; returns only a failure.
fn execute(argv: &[&CStr], envp: &[&CStr], path: &str) -> Failure {
    let name = String::from_utf8_lossy(argv[0].to_bytes()).into_owned();
    if name.contains('/') {
        let error = sys::exec(argv[0], argv, envp);
        return explain(&name, &name, &error, None);
    }
    let mut refused = None;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let full = format!("{directory}/{name}");
        let Ok(text) = CString::new(full.as_str()) else {
            continue;
        };
        let error = sys::exec(&text, argv, envp);
        match error.raw_os_error() {
            Some(libc::ENOENT) if !exists(&full) => {}
            Some(libc::ENOTDIR) => {}
            Some(libc::EACCES) => refused = refused.or(Some((full, error))),
            _ => return explain(&name, &full, &error, None),
        }
    }
    match refused {
        Some((full, error)) => explain(&name, &full, &error, None),
        None => explain(
            &name,
            &name,
            &io::Error::from_raw_os_error(libc::ENOENT),
            Some(path),
        ),
    }
}

fn exists(path: &str) -> bool {
    rustix::fs::stat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file())
}

/// Why a program could not be executed, with the exit code that a shell gives for it.
fn explain(name: &str, full: &str, error: &io::Error, searched: Option<&str>) -> Failure {
    let (code, message) = match error.raw_os_error() {
        Some(libc::ENOENT) if exists(full) => (
            127,
            format!(
                "the program '{name}' is there, but the interpreter or loader that it names is not"
            ),
        ),
        Some(libc::ENOENT | libc::ENOTDIR) => (
            127,
            match searched {
                Some(path) => {
                    format!("the program '{name}' is not in the image, searched in {path}")
                }
                None => format!("the program '{name}' is not in the image"),
            },
        ),
        Some(libc::EACCES) => (
            126,
            format!(
                "the program '{full}' may not be executed by this user: it is a directory or lacks the execute permission"
            ),
        ),
        Some(libc::ENOEXEC) => (
            126,
            format!(
                "the program '{full}' is not in a form that this machine runs: another architecture, or a script without #! line"
            ),
        ),
        _ => (
            126,
            format!("the program '{full}' cannot be executed: {error}"),
        ),
    };
    invalid(format!("{message} (exit code {code})")).exit_code(code)
}
