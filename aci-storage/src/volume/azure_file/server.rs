//! The share servers of this host: started from a sealed memory file, asked over a socket.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use zeroize::Zeroizing;

use super::kernel::is_listed;
use super::wire::{Answer, Config, Request, Started};

static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/share.bin"));

/// How long a running server may take to answer a question.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a keeper may take to replace a server that was killed: longer than its pauses.
const REPLACING: Duration = Duration::from_secs(8);
const LOOK: Duration = Duration::from_millis(50);
/// What a share server's mounts are listed as.
const KIND: &[u8] = b"fuse.aci-azurefile";

/// The program in memory, written once a process.
fn program() -> io::Result<&'static OwnedFd> {
    static MEMORY: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(memory) = MEMORY.get() {
        return Ok(memory);
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC is unknown before Linux 6.3.
    let memory = rustix::fs::memfd_create("aci-share", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("aci-share", flags))?;
    let mut file = File::from(memory.try_clone()?);
    file.write_all(PROGRAM)?;
    rustix::fs::fchmod(&memory, rustix::fs::Mode::from_raw_mode(0o555))?;
    drop(file);
    rustix::fs::fcntl_add_seals(
        &memory,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(MEMORY.get_or_init(|| memory))
}

/// Starts a server and waits until the share is mounted or is not. Blocks.
pub(super) fn start(config: &Config) -> io::Result<Started> {
    let program = program()?;
    // Nothing is set that keeps std from posix_spawn, which does not copy the host's memory.
    let mut child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0("aci-share")
        .env_clear()
        // It may need fusermount3.
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let text = Zeroizing::new(serde_json::to_vec(config)?);
    if let Some(mut input) = child.stdin.take() {
        input.write_all(&text)?;
    }
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output.take(64 << 10)).read_line(&mut line)?;
    }
    // The first process ends as soon as the server stands on its own.
    child.wait()?;
    if line.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the share server ended before it mounted the share",
        ));
    }
    Ok(serde_json::from_str(&line)?)
}

/// Asks a running server.
///
/// # Errors
/// `ConnectionRefused` or `NotFound` where none runs.
pub(super) fn ask(control: &Path, request: &Request) -> io::Result<Answer> {
    let stream = connect(control)?;
    converse(&stream, request)
}

/// Whether a share is mounted there and served; waits for a server that is being replaced.
pub(super) fn stands(control: &Path, mountpoint: &Path) -> bool {
    let until = Instant::now() + REPLACING;
    let mut asked: Option<mpsc::Receiver<bool>> = None;
    loop {
        if ask(control, &Request::Status).is_ok() {
            return true;
        }
        let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
        if !is_listed(&table, mountpoint, &[KIND]) || Instant::now() > until {
            return false;
        }
        // Without a keeper the kernel says so at once; else this waits for the next server.
        let asked = asked.get_or_insert_with(|| {
            let (tell, told) = mpsc::channel();
            let mountpoint = mountpoint.to_owned();
            std::thread::spawn(move || {
                let said = rustix::fs::statfs(&mountpoint).map(drop);
                let dead = said == Err(rustix::io::Errno::NOTCONN);
                let _ = tell.send(dead);
            });
            told
        });
        if asked.recv_timeout(LOOK) == Ok(true) {
            return false;
        }
    }
}

fn connect(control: &Path) -> io::Result<UnixStream> {
    // By way of a descriptor: a socket's address holds 108 bytes, a path may have more.
    let parent = control.parent().unwrap_or_else(|| Path::new("/"));
    let name = control.file_name().unwrap_or_default();
    let directory = File::open(parent)?;
    let short: PathBuf = format!("/proc/self/fd/{}", directory.as_raw_fd()).into();
    let stream = UnixStream::connect(short.join(name))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn converse(mut stream: &UnixStream, request: &Request) -> io::Result<Answer> {
    let mut text = Zeroizing::new(serde_json::to_vec(request)?);
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut line = String::new();
    BufReader::new(stream.take(64 << 10)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// Ends a server, whether it answers or not, and takes its mount away. Blocks.
pub(super) fn stop(control: &Path, mountpoint: &Path) -> io::Result<()> {
    if let Ok(stream) = connect(control) {
        // Held from before it is asked, so that no other process of its number is meant.
        let peer = rustix::net::sockopt::socket_peercred(&stream).ok();
        let process = peer.and_then(|peer| handle(peer.pid));
        let _ = converse(&stream, &Request::Stop);
        if let Some(process) = process
            && !ended(&process, PATIENCE)
        {
            // Its keeper, which leads its session, would start another one. As long as the server is
            // there no other process has the keeper's number.
            if let Some(keeper) = peer.and_then(|p| rustix::process::getsid(Some(p.pid)).ok()) {
                let _ = rustix::process::kill_process(keeper, Signal::KILL);
            }
            let _ = rustix::process::pidfd_send_signal(&process, Signal::KILL);
            ended(&process, PATIENCE);
        }
    }
    detach(mountpoint);
    match fs::remove_file(control) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn handle(pid: Pid) -> Option<OwnedFd> {
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Waits for a process to end.
fn ended(process: &OwnedFd, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    loop {
        let mut fds = [rustix::event::PollFd::new(
            process,
            rustix::event::PollFlags::IN,
        )];
        let left = until.saturating_duration_since(Instant::now());
        let left = rustix::event::Timespec::try_from(left).ok();
        match rustix::event::poll(&mut fds, left.as_ref()) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Takes a mount away that nobody serves any more.
fn detach(mountpoint: &Path) {
    let flags = rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW;
    if rustix::mount::unmount(mountpoint, flags).is_err() && !rustix::process::geteuid().is_root() {
        let _ = Command::new("fusermount3")
            .args(["-u", "-z", "--"])
            .arg(mountpoint)
            .stderr(Stdio::null())
            .status();
    }
}
