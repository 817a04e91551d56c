//! The first process of a virtual machine: makes a plain Linux of what the kernel starts with,
//! then connects the host's line with the agent, and ends the machine when the agent ends.
//!
//! Nothing else runs in the machine: no shell, no service, no login.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::time::{ClockId, Timespec};

use crate::logfiles;
use crate::rtnl::{Rtnl, Wire};
use crate::sys;
use crate::tunnel::Target;
use crate::tunnel::mux::Side;
use crate::tunnel::pump::{self, Hooks, Pump};
use crate::tunnel::wire::Greeting;

/// The sandbox's directory in the guest.
const DIRECTORY: &str = "/run/aci";
/// The name of the port that the host listens at.
const PORT: &str = "aci";
/// The tag of the host's directories, and where they are mounted.
const SHARE: (&str, &str) = ("share", "/share");
/// No options of a file system.
const NOTHING: Option<&std::ffi::CStr> = None;
/// What every guest needs of its kernel for limits.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Never returns.
pub(crate) fn main() -> ! {
    let error = match run() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    say(&error);
    end()
}

fn say(what: &str) {
    let console = fs::OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open("/dev/console");
    if let Ok(mut console) = console {
        let _ = writeln!(console, "aci-init: {what}");
    }
}

fn end() -> ! {
    let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    // A kernel without power to end: its panic ends the machine.
    sys::exit_now(1)
}

fn failed<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}

fn attach(kind: &str, source: &str, at: &str) -> Result<(), String> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(at)
        .map_err(failed(format!("making {at}")))?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount(source, at, kind, flags, NOTHING).map_err(failed(format!("mounting {kind} at {at}")))
}

fn run() -> Result<std::convert::Infallible, String> {
    attach("devtmpfs", "devtmpfs", "/dev")?;
    let console = rustix::fs::open("/dev/console", OFlags::RDWR | OFlags::NOCTTY, Mode::empty())
        .map_err(failed("opening the console"))?;
    for number in 0..3 {
        let _ = sys::put(&console, number);
    }
    drop(console);
    attach("proc", "proc", "/proc")?;
    attach("sysfs", "sysfs", "/sys")?;
    load_modules()?;
    leave_initramfs()?;
    attach("cgroup2", "cgroup2", "/sys/fs/cgroup")?;
    check_controllers()?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(Path::new(DIRECTORY).join("log"))
        .map_err(failed("making the sandbox's directory"))?;
    let shares = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if shares.split_whitespace().any(|word| word == "aci.share") {
        fs::create_dir(SHARE.1).map_err(failed("making a place for the host's directories"))?;
        mount(SHARE.0, SHARE.1, "virtiofs", MountFlags::NODEV, NOTHING)
            .map_err(failed("mounting the host's directories"))?;
    }
    let line = open_line()?;
    sys::ignore(libc::SIGPIPE);
    let children = sys::signal_descriptor(libc::SIGCHLD).map_err(failed("watching children"))?;
    let mut pump = Pump::new(Side::Guest, line);
    let mut guest = Guest { booted: false };
    loop {
        let died = pump
            .turn(children.as_fd(), &mut guest)
            .map_err(|over| format!("the host's line is over: {over}"))?;
        if died {
            let mut info = [0; 128];
            let _ = rustix::io::read(&children, &mut info[..]);
        }
        if died && guest.booted {
            loop {
                match sys::reap(-1) {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return Err("the agent has ended".to_owned()),
                }
            }
        }
    }
}

/// In the order of their names, which is that of their dependencies.
fn load_modules() -> Result<(), String> {
    let mut files: Vec<PathBuf> = fs::read_dir("/modules")
        .map_err(failed("reading the initramfs"))?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    for path in files {
        let what = || path.file_stem().unwrap_or_default().to_string_lossy();
        let file = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed(format!("opening the module {}", what())))?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(format!("loading the module {}: {error}", what())),
        }
        let _ = fs::remove_file(&path);
    }
    Ok(())
}

/// Makes a tmpfs the root: from an initramfs nothing can be pivoted (pivot_root(2)).
fn leave_initramfs() -> Result<(), String> {
    let what = || failed("leaving the initramfs");
    // A kernel has a directory /root of its own there.
    fs::create_dir("/new").map_err(what())?;
    mount(
        "root",
        "/new",
        "tmpfs",
        MountFlags::NODEV,
        Some(c"mode=0755,size=50%"),
    )
    .map_err(failed("leaving the initramfs"))?;
    for name in ["dev", "proc", "sys"] {
        let place = format!("/new/{name}");
        fs::create_dir(&place).map_err(what())?;
        mount_move(format!("/{name}"), place).map_err(failed("leaving the initramfs"))?;
    }
    let _ = fs::remove_file("/init");
    rustix::process::chdir("/new").map_err(failed("leaving the initramfs"))?;
    mount_move(".", "/").map_err(failed("leaving the initramfs"))?;
    rustix::process::chroot(".").map_err(failed("leaving the initramfs"))?;
    rustix::process::chdir("/").map_err(failed("leaving the initramfs"))
}

fn check_controllers() -> Result<(), String> {
    let have = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    match CONTROLLERS
        .iter()
        .find(|name| !have.split_whitespace().any(|have| have == **name))
    {
        Some(missing) => Err(format!(
            "the guest's kernel lacks the controller '{missing}'"
        )),
        None => Ok(()),
    }
}

/// The port is made known by the host a moment after the driver is there.
fn open_line() -> Result<OwnedFd, String> {
    const ALL: &str = "/sys/class/virtio-ports";
    for _ in 0..2000 {
        for entry in fs::read_dir(ALL).into_iter().flatten().flatten() {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim() != PORT {
                continue;
            }
            let path = Path::new("/dev").join(entry.file_name());
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            if let Ok(line) = rustix::fs::openat(CWD, &path, flags, Mode::empty()) {
                return Ok(line);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err("the host's port does not appear".to_owned())
}

struct Guest {
    booted: bool,
}

impl Hooks for Guest {
    fn greeted(&mut self, greeting: &Greeting) {
        let host = Duration::from_micros(greeting.now);
        let here = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        // A machine that was stopped has missed time; small differences are left to its clock.
        if host.abs_diff(here) > Duration::from_millis(100) {
            let _ = rustix::time::clock_settime(
                ClockId::Realtime,
                Timespec {
                    tv_sec: i64::try_from(host.as_secs()).unwrap_or(0),
                    tv_nsec: host.subsec_nanos().into(),
                },
            );
        }
    }

    fn opened(&mut self, target: &[u8]) -> io::Result<(OwnedFd, bool)> {
        let target: Target = postcard::from_bytes(target)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        match target {
            Target::Boot if self.booted => Err(io::ErrorKind::AlreadyExists.into()),
            Target::Boot => {
                let (ours, theirs) = pump::pair()?;
                Command::new("/proc/self/exe")
                    .arg0("aci-agent")
                    // Room for the id, as on a host.
                    .arg("-".repeat(64))
                    .env_clear()
                    .stdin(Stdio::from(theirs))
                    .stdout(Stdio::null())
                    .spawn()?;
                self.booted = true;
                Ok((ours, true))
            }
            Target::Agent => {
                let stream = UnixStream::connect(Path::new(DIRECTORY).join("agent.sock"))?;
                stream.set_nonblocking(true)?;
                Ok((stream.into(), true))
            }
            Target::Log(name) => {
                if name.is_empty() || name.contains(['/', '\0']) {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                let path = Path::new(DIRECTORY).join("log").join(format!("{name}.log"));
                let (ours, theirs) = pump::pair()?;
                std::thread::Builder::new().spawn(move || {
                    let _ = logfiles::serve(theirs.into(), path);
                })?;
                Ok((ours, false))
            }
            Target::Network(wire) => {
                let (ours, theirs) = pump::pair()?;
                // A thread of its own, as it goes into the agent's namespace.
                std::thread::Builder::new().spawn(move || {
                    let why = give(&wire).err().map_or_else(String::new, |e| e.to_string());
                    let _ = UnixStream::from(theirs).write_all(why.as_bytes());
                })?;
                Ok((ours, false))
            }
            Target::PowerOff => end(),
        }
    }
}

/// The guest's link, as the kernel names the first one.
const LINK: &str = "eth0";

/// Gives the machine's link to the sandbox, if it does not have it, with what is told of it.
fn give(wire: &Wire) -> io::Result<()> {
    let agent = UnixStream::connect(Path::new(DIRECTORY).join("agent.sock"))?;
    let agent = rustix::net::sockopt::socket_peercred(&agent)?.pid;
    let namespace = fs::File::open(format!("/proc/{}/ns/net", agent.as_raw_nonzero()))?;
    let mut here = Rtnl::open()?;
    if let Some(link) = here.link(LINK)? {
        here.move_to(link.index, namespace.as_fd())?;
    }
    rustix::thread::move_into_link_name_space(
        namespace.as_fd(),
        Some(rustix::thread::LinkNameSpaceType::Network),
    )?;
    let mut there = Rtnl::open()?;
    let link = there.link(LINK)?.ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "the machine has no link")
    })?;
    there.apply(link.index, wire)
}
