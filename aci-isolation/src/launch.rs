//! Starting an agent: from a sealed memory file, by posix_spawn, without forking the host.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use zeroize::Zeroizing;

use crate::protocol::{Boot, Reply, frame, socket};
use crate::sys;

static AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent.bin"));

/// How long an agent may take to come up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The agent's program in memory, written once a process.
fn program() -> io::Result<&'static OwnedFd> {
    static PROGRAM: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(program) = PROGRAM.get() {
        return Ok(program);
    }
    let memory = sys::executable_memory()?;
    let mut file = File::from(memory.try_clone()?);
    file.write_all(AGENT)?;
    rustix::fs::fchmod(&memory, rustix::fs::Mode::from_raw_mode(0o555))?;
    drop(file);
    sys::seal(&memory)?;
    Ok(PROGRAM.get_or_init(|| memory))
}

/// Starts an agent and waits until it serves. Returns its answer and the descriptors with it, and
/// its pid. Blocks.
pub(crate) fn launch(boot: &Boot, errors: Option<&Path>) -> io::Result<(Reply, Vec<OwnedFd>)> {
    let program = program()?;
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let errors = match errors {
        Some(path) => Stdio::from(File::options().create(true).append(true).open(path)?),
        None => Stdio::null(),
    };
    // No working directory, user or hook is set, so that std uses posix_spawn, which does not copy
    // the host's memory.
    let mut child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0("aci-agent")
        // For readers of a process list; the agent itself takes everything from the socket.
        .arg(boot.id.as_str())
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()?;
    let answer = converse(boot, &ours);
    if answer.is_err() {
        let _ = child.kill();
    }
    // The first process ends as soon as the agent stands on its own.
    child.wait()?;
    answer
}

fn converse(boot: &Boot, ours: &OwnedFd) -> io::Result<(Reply, Vec<OwnedFd>)> {
    let invalid = |malformed: frame::Malformed| {
        io::Error::new(io::ErrorKind::InvalidData, malformed.to_string())
    };
    rustix::net::sockopt::set_socket_timeout(
        ours,
        rustix::net::sockopt::Timeout::Recv,
        Some(PATIENCE),
    )?;
    let bytes = Zeroizing::new(frame::encode(boot, 0).map_err(invalid)?);
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let sent = socket::send(ours, rest, &[])?;
        rest = &rest[sent..];
    }
    let mut decoder = frame::Decoder::default();
    let mut fds = VecDeque::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        if let Some((reply, _)) = decoder.next::<Reply>().map_err(invalid)? {
            return Ok((reply, fds.into()));
        }
        match socket::receive(ours.as_fd(), &mut buffer, &mut fds) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the agent ended before it served",
                ));
            }
            Ok(read) => decoder.push(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
