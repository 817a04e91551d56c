//! The keeper of a mount: a process that does nothing but hold the mount's device and the notes of
//! its share server, and start another server should that one be killed.
//!
//! A mount ends with the last descriptor of its device; so the keeper's lets it stand while there is
//! no server, and who asks for a file waits for the next one. Requests are read only from further
//! descriptors that each server makes: what a server was answering when it was killed fails with
//! `ECONNABORTED`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::hand::{self, Start, Word};
use crate::wire::Config;

/// What the server is called with.
pub(crate) const SERVE: &str = "serve";

/// A server that was killed sooner than this after it began is replaced after a pause, which
/// doubles up to the longest.
const SOON: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A mount that stands.
struct Mount {
    device: OwnedFd,
    greeting: Vec<u8>,
}

/// What is kept.
pub(crate) struct Keeper {
    config: Config,
    notes: [File; 2],
    mount: Option<Mount>,
}

impl Keeper {
    pub(crate) fn new(config: Config) -> io::Result<Self> {
        let file = || {
            rustix::fs::memfd_create("aci-share-notes", MemfdFlags::CLOEXEC)
                .map(File::from)
                .map_err(io::Error::from)
        };
        Ok(Self {
            config,
            notes: [file()?, file()?],
            mount: None,
        })
    }

    /// Until the mount is given up, or was not to be had.
    pub(crate) fn keep(&mut self) -> io::Result<()> {
        let mut pause = Duration::ZERO;
        loop {
            let begun = Instant::now();
            let served = self.serve();
            let Some(mount) = &self.mount else {
                return served.map(drop);
            };
            if served.unwrap_or(false) {
                return Ok(());
            }
            pause = if begun.elapsed() > SOON {
                Duration::ZERO
            } else {
                (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE)
            };
            if is_gone(mount, pause) {
                return Ok(());
            }
        }
    }

    /// Lets a server do its work; whether it has ended of its own will.
    fn serve(&mut self) -> io::Result<bool> {
        let (ours, theirs) = hand::pair()?;
        let mut child = self.spawn(theirs)?;
        let start = Start {
            config: self.config.clone(),
            greeting: self.mount.as_ref().map(|m| m.greeting.clone()),
        };
        let mut with = vec![self.notes[0].as_fd(), self.notes[1].as_fd()];
        with.extend(self.mount.as_ref().map(|m| m.device.as_fd()));
        let sent = hand::send(&ours, &start, &with);
        if sent.is_ok() {
            self.listen(&child, &ours)?;
        }
        Ok(child.wait()?.success())
    }

    fn spawn(&self, input: OwnedFd) -> io::Result<Child> {
        let output = if self.mount.is_none() {
            Stdio::inherit()
        } else {
            Stdio::null()
        };
        Command::new("/proc/self/exe")
            .arg0("aci-share")
            .arg(SERVE)
            .stdin(input)
            .stdout(output)
            // Messages are large and soon gone: their memory is used again, not given back and
            // fetched anew a page at a time.
            .env("MALLOC_ARENA_MAX", "1")
            .env("MALLOC_MMAP_THRESHOLD_", "33554432")
            .env("MALLOC_TRIM_THRESHOLD_", "33554432")
            .spawn()
    }

    /// Takes up what the server says, until it ends.
    fn listen(&mut self, child: &Child, ours: &OwnedFd) -> io::Result<()> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        let mut speaks = true;
        loop {
            let mut fds = vec![PollFd::new(&process, PollFlags::IN)];
            if speaks {
                fds.push(PollFd::new(ours, PollFlags::IN));
            }
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            let ended = !fds[0].revents().is_empty();
            // Also what it said last.
            while speaks {
                match hand::receive(ours, true) {
                    Ok(Some((word, with))) => self.hear(word, with),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Ok(None) | Err(_) => speaks = false,
                }
            }
            if ended {
                return Ok(());
            }
        }
    }

    fn hear(&mut self, word: Word, with: Vec<OwnedFd>) {
        match word {
            Word::Mounted(greeting) => {
                let device = with.into_iter().next();
                self.mount = device.map(|device| Mount { device, greeting });
            }
            Word::Key(key) => self.config.password = key,
        }
    }
}

/// Waits so long, or until the mount was taken away; whether it was.
fn is_gone(mount: &Mount, pause: Duration) -> bool {
    let pause = Timespec::try_from(pause).ok();
    let mut fds = [PollFd::new(&mount.device, PollFlags::empty())];
    match poll(&mut fds, pause.as_ref()) {
        Ok(_) => fds[0].revents().contains(PollFlags::ERR),
        Err(_) => false,
    }
}
