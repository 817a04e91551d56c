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

use aci_core::id::SandboxId;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::protocol::{Boot, Identity, Reply, frame, socket};
use crate::sys;

pub(crate) static AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent.bin"));

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

/// The host's end of the socket of an agent that does not serve yet.
#[derive(Debug)]
pub(crate) struct Newborn {
    socket: OwnedFd,
}

/// Starts an agent; with an identity it becomes a sandbox's at once. Its standard error is appended
/// to the file `errors`. Blocks until it stands on its own or has failed, which its answer tells.
pub(crate) fn begin(
    boot: &Boot,
    identity: Option<&Identity>,
    errors: Option<&Path>,
) -> io::Result<Newborn> {
    let program = program()?;
    let (socket, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::sockopt::set_socket_timeout(
        &socket,
        rustix::net::sockopt::Timeout::Recv,
        Some(PATIENCE),
    )?;
    let errors = match errors {
        Some(path) => Stdio::from(File::options().create(true).append(true).open(path)?),
        None => Stdio::null(),
    };
    // No working directory, user or hook is set, so that std uses posix_spawn, which does not copy
    // the host's memory.
    let mut child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0("aci-agent")
        // For readers of a process list: room for the id, which the agent writes there. It takes
        // everything else from the socket.
        .arg("-".repeat(SandboxId::MAX))
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()?;
    let newborn = Newborn { socket };
    let sent = newborn
        .send(boot)
        .and_then(|()| identity.map_or(Ok(()), |identity| newborn.send(identity)));
    if sent.is_err() {
        let _ = child.kill();
    }
    // The first process ends as soon as the agent stands on its own.
    child.wait()?;
    sent.map(|()| newborn)
}

impl Newborn {
    /// Sends a message in full. Blocks.
    pub(crate) fn send(&self, message: &impl Serialize) -> io::Result<()> {
        let bytes = Zeroizing::new(frame::encode(message, 0).map_err(invalid)?);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let sent = socket::send(&self.socket, rest, &[])?;
            rest = &rest[sent..];
        }
        Ok(())
    }

    /// The next message of the agent with its descriptors. Blocks.
    pub(crate) fn answer(&self) -> io::Result<(Reply, Vec<OwnedFd>)> {
        let mut decoder = frame::Decoder::default();
        let mut fds = VecDeque::new();
        let mut buffer = [0; 16 * 1024];
        loop {
            if let Some((reply, _)) = decoder.next::<Reply>().map_err(invalid)? {
                return Ok((reply, fds.into()));
            }
            match socket::receive(self.socket.as_fd(), &mut buffer, &mut fds) {
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
}

fn invalid(malformed: frame::Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, malformed.to_string())
}
