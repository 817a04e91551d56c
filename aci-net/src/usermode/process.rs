//! Starting, finding and ending `pasta`.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use aci_core::contract::{Attachment, NamespaceHandle, PublishedPort};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::model::Protocol;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{ADDRESS, ATTACH, GATEWAY, PREFIX, RESOLVER};

/// How long a program may take to end by itself.
const POLITE: Duration = Duration::from_secs(2);

/// The number of a namespace, which no other has while it lives.
pub(super) fn inode(namespace: &OwnedFd) -> Result<u64> {
    let stat = rustix::fs::fstat(namespace).map_err(|e| {
        Error::new(ErrorKind::Internal, ATTACH, "cannot look at the namespace").because(e)
    })?;
    Ok(stat.st_ino)
}

/// The list of ports of a protocol as the program takes it.
fn ports(published: &[PublishedPort], udp: bool) -> Vec<String> {
    published
        .iter()
        .filter(|p| (p.protocol == Protocol::Udp) == udp)
        .map(|p| {
            if p.address == Ipv4Addr::UNSPECIFIED {
                p.port.to_string()
            } else {
                format!("{}/{}", p.address, p.port)
            }
        })
        .collect()
}

/// Starts the program for a group. When this returns the group has its network; the program goes
/// on in the background and belongs to nobody.
pub(super) fn start(
    program: &Path,
    attachment: &Attachment,
    end: &NamespaceHandle,
    pid_file: &Path,
) -> Result<()> {
    let error = |message: String| Error::new(ErrorKind::Internal, ATTACH, message);
    let path = format!("/proc/{}/ns/net", end.pid);
    let there = std::fs::File::open(&path).map(OwnedFd::from);
    let there = there.map_err(|e| error("the group's process is gone".to_owned()).because(e))?;
    if inode(&there)? != inode(&end.net)? {
        return Err(error(format!(
            "process {} is not in the group's network",
            end.pid
        )));
    }
    let mut command = Command::new(program);
    command
        .args([
            "--config-net",
            "--ns-ifname",
            "eth0",
            "--no-map-gw",
            "--ipv4-only",
        ])
        .args([
            "--address",
            &ADDRESS.to_string(),
            "--netmask",
            &PREFIX.to_string(),
        ])
        .args(["--gateway", &GATEWAY.to_string()])
        .args(["--dns-forward", &RESOLVER.to_string()])
        .args(["--tcp-ns", "none", "--udp-ns", "none"])
        .arg("--pid")
        .arg(pid_file);
    for (option, udp) in [("--tcp-ports", false), ("--udp-ports", true)] {
        let ports = ports(&attachment.published, udp);
        if ports.is_empty() {
            command.args([option, "none"]);
        }
        for port in ports {
            command.args([option, &port]);
        }
    }
    let output = command
        .arg(end.pid.to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|e| {
            error("cannot start `pasta`".to_owned())
                .on(program.display())
                .because(e)
        })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let said = text
        .lines()
        .rev()
        .find(|l| !l.trim().is_empty() && !l.contains("syslog"));
    Err(error(format!(
        "`pasta` ended with {}: {}",
        output.status,
        said.unwrap_or_default().trim()
    ))
    .hint("the host needs a default route for IPv4, and its user access to /dev/net/tun"))
}

/// The living program that wrote this file: its command line names the file, so a number that was
/// given to another process since is not taken for it.
fn living(pid_file: &Path) -> Option<OwnedFd> {
    let text = std::fs::read_to_string(pid_file).ok()?;
    let number: i32 = text.trim().parse().ok()?;
    let pidfd = pidfd_open(Pid::from_raw(number)?, PidfdFlags::empty()).ok()?;
    // Looked at after the handle was had, so that it is the same process.
    let line = std::fs::read(format!("/proc/{number}/cmdline")).ok()?;
    let ours = line
        .split(|byte| *byte == 0)
        .any(|word| word == pid_file.as_os_str().as_bytes());
    (ours && !waits(&pidfd, Duration::ZERO)).then_some(pidfd)
}

/// Whether the group's program lives.
pub(super) fn is_alive(pid_file: &Path) -> bool {
    living(pid_file).is_some()
}

/// Waits for a process to end; whether it has.
fn waits(pidfd: &OwnedFd, time: Duration) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    let time = Timespec::try_from(time).ok();
    poll(&mut fds, time.as_ref()).is_ok_and(|ready| ready > 0)
}

/// Ends the program, if it lives.
pub(super) fn end(pid_file: &Path) -> Result<()> {
    let Some(pidfd) = living(pid_file) else {
        return Ok(());
    };
    for signal in [Signal::TERM, Signal::KILL] {
        // It may end by itself in this moment.
        let _ = pidfd_send_signal(&pidfd, signal);
        if waits(&pidfd, POLITE) {
            return Ok(());
        }
    }
    Err(Error::new(
        ErrorKind::Internal,
        "network.detach",
        "the group's `pasta` does not end",
    )
    .on(pid_file.display()))
}
