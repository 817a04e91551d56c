//! The two containers of a machine's jail: what runs in them, and with which rights.

use std::path::{Path, PathBuf};

use aci_core::contract::{SandboxVolume, VolumeSource};
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::size::Limits;

use super::net;
use super::vmm::Launch;
use crate::capabilities;
use crate::devices::{self, Rule};
use crate::protocol::{Bounds, Device, Hidden, Layer, Program, Rights, Start, Upper};
use crate::sandbox::text;
use crate::seccomp;

/// The container of the monitor.
pub(crate) const MACHINE: &str = "machine";
/// The container of the server of files.
pub(crate) const SHARE: &str = "share";
/// How much of a guest's console is kept, in bytes.
const CONSOLE: u64 = 256 * 1024;
/// The server of files' own memory, in bytes.
const SHARE_MEMORY: u64 = 128 << 20;

const START: &str = "sandbox.create";

/// The volumes of a jail.
pub(crate) fn volumes(place: &Path) -> Vec<SandboxVolume> {
    let volume = |name: &str, source| SandboxVolume {
        name: name.to_owned(),
        source,
        read_only: false,
    };
    vec![
        // Sockets that the host program finds.
        volume("sockets", VolumeSource::Directory(place.join("sockets"))),
        volume(
            "share",
            VolumeSource::Memory {
                size: Some(1 << 20),
            },
        ),
        volume(
            "state",
            VolumeSource::Memory {
                size: Some(1 << 20),
            },
        ),
    ]
}

/// The bounds of the whole jail for a group: its processors, and its machine with what runs it.
pub(crate) fn limits(group: &Limits, memory_mib: u32, overhead: u64) -> Limits {
    Limits {
        cpu_max: group.cpu_max,
        cpu_request: group.cpu_request,
        memory_max: Some((u64::from(memory_mib) << 20) + overhead + SHARE_MEMORY),
        memory_request: None,
        ..Limits::default()
    }
}

fn start(name: &str, argv: &[String], place: &Path, rights: Rights) -> Result<Start> {
    Ok(Start {
        name: name.to_owned(),
        attempt: 0,
        layers: vec![Layer::Directory(text(&place.join("root"), START)?)],
        upper: Upper::None,
        program: Program {
            argv: argv
                .iter()
                .map(|word| Hidden(word.as_bytes().to_vec()))
                .collect(),
            env: vec![Hidden(b"PATH=/usr/bin".to_vec())],
            cwd: "/".to_owned(),
            ..Program::default()
        },
        mounts: vec![("sockets".to_owned(), "/sockets".to_owned(), false)],
        files: Vec::new(),
        bounds: Bounds::default(),
        rights,
        log_bytes: CONSOLE,
        devices: Vec::new(),
        binds: Vec::new(),
        rlimits: Vec::new(),
    })
}

/// Read-only views of the host's files, at the same places.
fn binds<'a>(needs: impl IntoIterator<Item = &'a Path>) -> Result<Vec<(String, String, bool)>> {
    needs
        .into_iter()
        .filter(|path| path.exists())
        .map(|path| {
            let path = text(path, START)?;
            Ok((path.clone(), path, true))
        })
        .collect()
}

/// The monitor: without any capability, behind Docker's filter and its own.
pub(crate) fn machine(launch: &Launch, place: &Path, tap: bool) -> Result<Start> {
    let rights = Rights {
        privileged: false,
        no_new_privs: true,
        capabilities: 0,
        filter: seccomp::default_filter(0)?,
    };
    let mut start = start(MACHINE, &launch.argv, place, rights)?;
    start.binds = binds(launch.needs.iter().map(PathBuf::as_path))?;
    if tap {
        start.devices.push(Device {
            path: net::TUN.to_owned(),
            // Linux: Documentation/admin-guide/devices.txt.
            rule: Rule {
                block: false,
                major: Some(10),
                minor: Some(200),
                access: devices::ALL,
            },
            mode: 0o666,
            uid: 0,
            gid: 0,
        });
    }
    Ok(start)
}

/// The server of files. It acts for all users of the guest, so it keeps the rights over files
/// within its user namespace; its filter is its own (Docker's forbids the unshare(2) by which each
/// of its threads gets a working directory of its own).
pub(crate) fn share(program: &Path, place: &Path) -> Result<Start> {
    const RIGHTS: [&str; 10] = [
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "MKNOD",
        "SETFCAP",
        "SETGID",
        // It takes rights away from itself.
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let rights = Rights {
        privileged: false,
        no_new_privs: true,
        capabilities: RIGHTS
            .iter()
            .filter_map(|name| capabilities::bit(name))
            .sum(),
        filter: Vec::new(),
    };
    let argv = [
        text(program, START)?.as_str(),
        "-f",
        "--socket-path=/sockets/share",
        "-o",
        "source=/share,sandbox=chroot,cache=auto,xattr",
        "--rlimit-nofile=0",
    ]
    .map(str::to_owned);
    let mut start = start(SHARE, &argv, place, rights)?;
    start.mounts.extend([
        ("share".to_owned(), "/share".to_owned(), false),
        // Where it puts its lock file.
        ("state".to_owned(), "/var/run".to_owned(), false),
    ]);
    let needs = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache"].map(Path::new);
    start.binds = binds(needs)?;
    start.bounds.memory_max = Some(SHARE_MEMORY);
    Ok(start)
}

/// An error about a machine that did not come up, with what its console said last.
pub(crate) fn not_booted(why: &str, console: &[String]) -> Error {
    let last: Vec<&str> = console
        .iter()
        .map(|line| line.trim())
        .filter(|line| !line.is_empty())
        .collect();
    // What a kernel says of its end, which is followed by tables.
    let panic = last.iter().find(|line| line.contains("Kernel panic"));
    let tail = &last[last.len().saturating_sub(8)..];
    let before = panic.filter(|line| !tail.contains(line));
    let last: Vec<&str> = before.into_iter().chain(tail).copied().collect();
    let error = Error::new(ErrorKind::Internal, START, why.to_owned());
    if last.is_empty() {
        return error.hint("its console said nothing");
    }
    error.hint(format!("its console said last: {}", last.join(" | ")))
}
