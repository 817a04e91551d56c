//! The host's end of a guest's line: one thread a machine, which outlives no handle of it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::Notify;

use crate::protocol::VERSION;
use crate::tunnel::Target;
use crate::tunnel::mux::Side;
use crate::tunnel::pump::{self, Hooks, Pump};
use crate::tunnel::wire::Greeting;

enum Command {
    Open(Vec<u8>, OwnedFd, bool),
    Resize(u64, u16, u16),
    Close,
}

#[derive(Default)]
struct State {
    commands: VecDeque<Command>,
    greeted: bool,
    /// Why it cannot be used any more.
    over: Option<String>,
}

struct Inner {
    state: Mutex<State>,
    wake: OwnedFd,
    changed: Notify,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self, command: Command) {
        self.lock().commands.push_back(command);
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// The line of one guest. All handles of one program share it: a machine has one port.
pub(crate) struct Line {
    inner: Arc<Inner>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Line")
    }
}

struct Host(Arc<Inner>);

impl Hooks for Host {
    fn greeted(&mut self, _: &Greeting) {
        self.0.lock().greeted = true;
        self.0.changed.notify_waiters();
    }

    fn opened(&mut self, _: &[u8]) -> io::Result<(OwnedFd, bool)> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

impl Line {
    /// The line whose socket is at a path: the one that this program has already, or a new one.
    ///
    /// The socket's directory belongs to a process that may be hostile: what is there is used only
    /// if it is a socket.
    pub(crate) fn at(path: &Path) -> io::Result<Arc<Self>> {
        static OWN: Mutex<BTreeMap<PathBuf, Weak<Line>>> = Mutex::new(BTreeMap::new());
        let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
        own.retain(|_, line| line.strong_count() > 0);
        let known = own.get(path).and_then(Weak::upgrade);
        if let Some(line) = known.filter(|line| line.inner.lock().over.is_none()) {
            return Ok(line);
        }
        let line = Arc::new(Self::new(connect(path)?)?);
        own.insert(path.to_owned(), Arc::downgrade(&line));
        Ok(line)
    }

    /// Over a connected socket.
    pub(crate) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let inner = Arc::new(Inner {
            state: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            changed: Notify::new(),
        });
        let mut pump = Pump::new(Side::Host, socket.into());
        pump.greet(greeting()?);
        let again = Arc::clone(&inner);
        let thread = std::thread::Builder::new()
            .name("aci-line".to_owned())
            .spawn(move || run(pump, &again))?;
        Ok(Self {
            inner,
            thread: Some(thread),
        })
    }

    /// Waits until the guest answers; the error is why it never will.
    pub(crate) async fn greeted(&self) -> Result<(), String> {
        loop {
            let mut changed = std::pin::pin!(self.inner.changed.notified());
            changed.as_mut().enable();
            {
                let state = self.inner.lock();
                if let Some(over) = &state.over {
                    return Err(over.clone());
                }
                if state.greeted {
                    return Ok(());
                }
            }
            changed.await;
        }
    }

    /// Why it is over, if it is.
    pub(crate) fn over(&self) -> Option<String> {
        self.inner.lock().over.clone()
    }

    /// Begins a conversation.
    pub(crate) fn open(&self, target: &Target) -> io::Result<UnixStream> {
        if let Some(over) = self.over() {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, over));
        }
        let target = postcard::to_allocvec(target).map_err(io::Error::other)?;
        let framed = !matches!(
            postcard::from_bytes(&target),
            Ok(Target::Log(_) | Target::Network(_) | Target::PowerOff)
        );
        let (ours, theirs) = pump::pair()?;
        self.inner.command(Command::Open(target, ours, framed));
        let theirs = UnixStream::from(theirs);
        theirs.set_nonblocking(true)?;
        Ok(theirs)
    }

    /// Tells a terminal of the guest, known by what was handed out for it, its size.
    pub(crate) fn resize(&self, terminal: impl AsFd, rows: u16, columns: u16) {
        if let Ok(stat) = rustix::fs::fstat(terminal) {
            self.inner
                .command(Command::Resize(stat.st_ino, rows, columns));
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.inner.command(Command::Close);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn greeting() -> io::Result<Greeting> {
    let mut tag = [0; 4];
    rustix::rand::getrandom(&mut tag[..], rustix::rand::GetRandomFlags::empty())?;
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(Greeting {
        tag: u32::from_le_bytes(tag).max(1),
        version: VERSION,
        now: u64::try_from(since.as_micros()).unwrap_or(u64::MAX),
    })
}

fn run(mut pump: Pump, inner: &Arc<Inner>) {
    let mut host = Host(Arc::clone(inner));
    let over = loop {
        match pump.turn(inner.wake.as_fd(), &mut host) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(over) => break over.to_string(),
        }
        let mut count = [0; 8];
        let _ = rustix::io::read(&inner.wake, &mut count[..]);
        let commands = std::mem::take(&mut inner.lock().commands);
        let mut closed = false;
        for command in commands {
            match command {
                Command::Open(target, local, framed) => pump.open(&target, local, framed),
                Command::Resize(inode, rows, columns) => pump.resize(inode, rows, columns),
                Command::Close => closed = true,
            }
        }
        if closed {
            break "it was given up".to_owned();
        }
    };
    let mut state = inner.lock();
    state.over = Some(over);
    // What they bring is closed with them.
    state.commands.clear();
    drop(state);
    inner.changed.notify_waiters();
}

/// Connects to what is a socket at a path, and not what a link there leads to.
fn connect(path: &Path) -> io::Result<UnixStream> {
    use rustix::fs::{FileType, Mode, OFlags};
    use std::os::fd::AsRawFd;
    let place = rustix::fs::open(
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let stat = rustix::fs::fstat(&place)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "what is there is no socket",
        ));
    }
    UnixStream::connect(format!("/proc/self/fd/{}", place.as_raw_fd()))
}
