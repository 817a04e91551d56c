//! Connects channels with descriptors: one thread or process that waits in poll(2).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;

use super::cutter::{Cutter, Part};
use super::mux::{End, Event, Mux, Side};
use super::wire::Greeting;
use crate::protocol::socket;

/// What one turn reads from the line.
const TURN: usize = 64 * 1024;
/// More messages with descriptors that nobody takes end a conversation.
const MOST: usize = 64;
/// The longest a turn waits while a guest has no host, in milliseconds.
const ALONE: i64 = 20;

/// What the two sides do differently.
pub(crate) trait Hooks {
    /// A connection begins.
    fn greeted(&mut self, greeting: &Greeting);
    /// The host opens a channel: where it leads, and whether that speaks the agent's protocol.
    fn opened(&mut self, target: &[u8]) -> io::Result<(OwnedFd, bool)>;
}

/// Why the line is over.
#[derive(Debug)]
pub(crate) enum Over {
    /// The other side has closed it.
    Closed,
    /// The other side breaks its rules.
    Garbage(super::mux::Garbage),
    /// The kernel refuses it.
    Broken(io::Error),
}

impl std::fmt::Display for Over {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("the line was closed"),
            Self::Garbage(what) => write!(f, "the other side sent {what}"),
            Self::Broken(error) => write!(f, "the line failed: {error}"),
        }
    }
}

/// What waits to be written to a descriptor.
enum Item {
    Bytes(Vec<u8>, usize),
    /// `None` is `/dev/null`, which needs to be open only once.
    Descriptors(Vec<Option<OwnedFd>>),
}

/// A descriptor on this side of a channel.
struct Local {
    read: Option<Arc<OwnedFd>>,
    write: Option<Arc<OwnedFd>>,
    socket: bool,
    /// Of a conversation in the agent's protocol: descriptors go along.
    cutter: Option<Cutter>,
    /// Received here and not passed on yet.
    fds: VecDeque<OwnedFd>,
    queue: VecDeque<Item>,
    /// The other side has no more; to be shut when the queue is empty.
    finished: bool,
    /// Of the counterpart that was handed out, to know it again.
    inode: u64,
}

impl Local {
    fn new(read: Option<OwnedFd>, write: Option<OwnedFd>) -> Self {
        Self {
            read: read.map(Arc::new),
            write: write.map(Arc::new),
            socket: false,
            cutter: None,
            fds: VecDeque::new(),
            queue: VecDeque::new(),
            finished: false,
            inode: 0,
        }
    }

    fn both(fd: OwnedFd, socket: bool) -> Self {
        let fd = Arc::new(fd);
        Self {
            read: Some(Arc::clone(&fd)),
            write: Some(fd),
            socket,
            ..Self::new(None, None)
        }
    }
}

fn inode(fd: impl AsFd) -> u64 {
    rustix::fs::fstat(fd).map_or(0, |stat| stat.st_ino)
}

/// A connected pair; the first is not blocking.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// One side of the line.
pub(crate) struct Pump {
    side: Side,
    mux: Mux,
    line: OwnedFd,
    null: io::Result<OwnedFd>,
    locals: BTreeMap<u32, Local>,
    /// Where the next round of reading begins, so that everybody's turn comes.
    first: u32,
    /// Whether a guest's host is away.
    alone: bool,
}

impl Pump {
    /// Over a descriptor that does not block.
    pub(crate) fn new(side: Side, line: OwnedFd) -> Self {
        Self {
            side,
            mux: Mux::new(side),
            line,
            null: rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
                .map_err(io::Error::from),
            locals: BTreeMap::new(),
            first: 0,
            alone: false,
        }
    }

    /// Whether a guest's host is away.
    pub(crate) const fn is_alone(&self) -> bool {
        self.alone
    }

    pub(crate) fn greet(&mut self, greeting: Greeting) {
        self.mux.greet(greeting);
    }

    /// Connects a descriptor that does not block with a new channel to a target.
    pub(crate) fn open(&mut self, target: &[u8], local: OwnedFd, framed: bool) {
        let channel = self.mux.open(target);
        let mut local = Local::both(local, true);
        local.cutter = framed.then(Cutter::default);
        self.locals.insert(channel, local);
    }

    /// Passes the size of a terminal on, known by the inode of what was handed out for it.
    pub(crate) fn resize(&mut self, inode: u64, rows: u16, columns: u16) {
        let found = self
            .locals
            .iter()
            .find(|(_, local)| local.inode == inode && inode != 0);
        if let Some((channel, _)) = found {
            self.mux.resize(*channel, rows, columns);
        }
    }

    /// Waits for something to do and does it; or nothing but true, if `wake` can be read.
    pub(crate) fn turn(
        &mut self,
        wake: BorrowedFd<'_>,
        hooks: &mut impl Hooks,
    ) -> Result<bool, Over> {
        let mut wanted = PollFlags::IN;
        if !self.mux.pending().is_empty() {
            wanted |= PollFlags::OUT;
        }
        let ready: Vec<(u32, PollFlags)>;
        let (woken, line) = {
            let mut fds = vec![PollFd::new(&wake, PollFlags::IN)];
            let mut who = Vec::new();
            if !self.alone {
                fds.push(PollFd::new(&self.line, wanted));
            }
            let fixed = fds.len();
            for (channel, local) in &self.locals {
                let room = self.mux.room(*channel) >= crate::protocol::frame::HEADER * 2;
                if let Some(read) = &local.read
                    && room
                {
                    fds.push(PollFd::new(read, PollFlags::IN));
                    who.push(*channel);
                }
                if let Some(write) = &local.write {
                    let writing = !local.queue.is_empty();
                    // Otherwise only its end is of interest, which a pipe reports unasked.
                    if writing || !local.socket && local.read.is_none() {
                        let flags = if writing {
                            PollFlags::OUT
                        } else {
                            PollFlags::empty()
                        };
                        fds.push(PollFd::new(write, flags));
                        who.push(*channel);
                    }
                }
            }
            let pause = self.alone.then_some(Timespec {
                tv_sec: 0,
                tv_nsec: ALONE * 1_000_000,
            });
            match poll(&mut fds, pause.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Over::Broken(errno.into())),
            }
            ready = who
                .into_iter()
                .zip(fds[fixed..].iter().map(PollFd::revents))
                .filter(|(_, flags)| !flags.is_empty())
                .collect();
            let line = if self.alone {
                PollFlags::IN
            } else {
                fds[1].revents()
            };
            (!fds[0].revents().is_empty(), line)
        };
        if woken {
            // What it stands for came first.
            return Ok(true);
        }
        if line.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.read_line(hooks)?;
        }
        for (channel, flags) in &ready {
            if flags.intersects(PollFlags::OUT | PollFlags::ERR) {
                self.write_local(*channel);
            }
        }
        // Whoever was last is first in the next round.
        let split = ready.partition_point(|(channel, _)| *channel < self.first);
        for (channel, flags) in ready[split..].iter().chain(&ready[..split]) {
            if flags.intersects(PollFlags::IN | PollFlags::HUP) {
                self.read_local(*channel, flags.contains(PollFlags::HUP));
                self.first = channel + 1;
            }
        }
        self.write_line()?;
        Ok(false)
    }

    fn read_line(&mut self, hooks: &mut impl Hooks) -> Result<(), Over> {
        let mut buffer = zeroize::Zeroizing::new(vec![0; TURN]);
        let read = match rustix::io::read(&self.line, &mut buffer[..]) {
            Ok(0) if self.side == Side::Guest => {
                if !self.alone {
                    self.alone = true;
                    self.locals.clear();
                    self.mux.forget();
                }
                return Ok(());
            }
            Ok(0) => return Err(Over::Closed),
            Ok(read) => read,
            Err(Errno::INTR) => return Ok(()),
            Err(Errno::AGAIN) => {
                self.alone = false;
                return Ok(());
            }
            Err(Errno::CONNRESET) => return Err(Over::Closed),
            Err(errno) => return Err(Over::Broken(errno.into())),
        };
        self.alone = false;
        let mut events = Vec::new();
        let outcome = self.mux.receive(&buffer[..read], &mut events);
        for event in events {
            self.event(event, hooks);
        }
        match outcome {
            Ok(()) => Ok(()),
            Err(garbage) if self.side == Side::Host => Err(Over::Garbage(garbage)),
            Err(_) => {
                self.locals.clear();
                self.mux.forget();
                Ok(())
            }
        }
    }

    fn write_line(&mut self) -> Result<(), Over> {
        while !self.mux.pending().is_empty() && !self.alone {
            match rustix::io::write(&self.line, self.mux.pending()) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(()),
                Ok(count) => self.mux.wrote(count),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) if self.side == Side::Host => {
                    return Err(Over::Closed);
                }
                // The host is away; reading tells so too.
                Err(_) if self.side == Side::Guest => return Ok(()),
                Err(errno) => return Err(Over::Broken(errno.into())),
            }
        }
        Ok(())
    }

    fn event(&mut self, event: Event, hooks: &mut impl Hooks) {
        match event {
            Event::Greeted(greeting) => {
                if self.side == Side::Guest {
                    self.locals.clear();
                }
                hooks.greeted(&greeting);
            }
            Event::Opened { channel, target } => match hooks.opened(&target) {
                Ok((fd, framed)) => {
                    let mut local = Local::both(fd, true);
                    local.cutter = framed.then(Cutter::default);
                    self.locals.insert(channel, local);
                }
                Err(_) => {
                    self.mux.fin(channel);
                    self.mux.stop(channel);
                }
            },
            Event::Attached { channel, ends } => self.attached(channel, &ends),
            Event::Data { channel, bytes } => {
                let count = bytes.len();
                match self.locals.get_mut(&channel) {
                    Some(local) if local.write.is_some() => {
                        // Together, as a piece of one byte costs as much as a long one.
                        if let Some(Item::Bytes(last, _)) = local.queue.back_mut() {
                            last.extend_from_slice(&bytes);
                        } else {
                            local.queue.push_back(Item::Bytes(bytes, 0));
                        }
                        self.write_local(channel);
                    }
                    _ => self.mux.passed_on(channel, count),
                }
            }
            Event::Fin(channel) => {
                if let Some(local) = self.locals.get_mut(&channel) {
                    local.finished = true;
                    self.write_local(channel);
                }
            }
            Event::Stop(channel) => {
                if let Some(local) = self.locals.get_mut(&channel) {
                    if local.socket
                        && let Some(read) = local.read.take()
                    {
                        let _ = rustix::net::shutdown(&read, Shutdown::Read);
                    }
                    local.read = None;
                    self.sweep(channel);
                }
            }
            Event::Resize {
                channel,
                rows,
                columns,
            } => {
                let local = self.locals.get(&channel);
                if let Some(fd) = local.and_then(|local| local.write.as_ref()) {
                    let size = rustix::termios::Winsize {
                        ws_row: rows,
                        ws_col: columns,
                        ws_xpixel: 0,
                        ws_ypixel: 0,
                    };
                    let _ = rustix::termios::tcsetwinsize(fd, size);
                }
            }
        }
    }

    /// Makes what stands for descriptors of the other side.
    fn attached(&mut self, conversation: u32, ends: &[(u32, End)]) {
        let mut handed = Vec::new();
        let framed = self
            .locals
            .get(&conversation)
            .is_some_and(|local| local.cutter.is_some() && local.write.is_some());
        for (channel, end) in ends {
            let made = match end {
                _ if !framed => None,
                End::Null => {
                    handed.push(None);
                    continue;
                }
                end => stand_in(*end).ok(),
            };
            match made {
                Some((theirs, mut local)) => {
                    local.inode = inode(&theirs);
                    self.locals.insert(*channel, local);
                    handed.push(Some(theirs));
                }
                None => {
                    self.mux.fin(*channel);
                    self.mux.stop(*channel);
                    // The conversation's order of descriptors is broken, and so is it.
                    self.drop_local(conversation);
                }
            }
        }
        let Some(local) = self.locals.get_mut(&conversation) else {
            return;
        };
        local.queue.push_back(Item::Descriptors(handed));
        let waiting = local.queue.iter();
        if waiting
            .filter(|item| matches!(item, Item::Descriptors(_)))
            .count()
            > MOST
        {
            self.drop_local(conversation);
        }
    }

    fn drop_local(&mut self, channel: u32) {
        self.locals.remove(&channel);
        self.mux.fin(channel);
        self.mux.stop(channel);
    }

    fn sweep(&mut self, channel: u32) {
        if let Some(local) = self.locals.get(&channel)
            && local.read.is_none()
            && local.write.is_none()
        {
            self.drop_local(channel);
        }
    }

    fn write_local(&mut self, channel: u32) {
        let Some(local) = self.locals.get_mut(&channel) else {
            return;
        };
        let Some(write) = local.write.clone() else {
            return;
        };
        let mut passed = 0;
        let outcome = loop {
            // Descriptors go with the bytes behind them.
            let with = usize::from(matches!(local.queue.front(), Some(Item::Descriptors(_))));
            let Some(Item::Bytes(bytes, at)) = local.queue.get(with) else {
                break Ok(());
            };
            let wrote = if local.socket {
                let fds: Vec<BorrowedFd<'_>> = match local.queue.front() {
                    Some(Item::Descriptors(fds)) => fds
                        .iter()
                        .filter_map(|fd| fd.as_ref().or_else(|| self.null.as_ref().ok()))
                        .map(AsFd::as_fd)
                        .collect(),
                    _ => Vec::new(),
                };
                socket::send(&write, &bytes[*at..], &fds)
            } else {
                rustix::io::write(&write, &bytes[*at..]).map_err(io::Error::from)
            };
            let count = match wrote {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            };
            if with == 1 {
                local.queue.pop_front();
            }
            passed += count;
            if let Some(Item::Bytes(bytes, at)) = local.queue.front_mut() {
                *at += count;
                if *at == bytes.len() {
                    zeroize::Zeroize::zeroize(bytes);
                    local.queue.pop_front();
                }
            }
        };
        self.mux.passed_on(channel, passed);
        let Some(local) = self.locals.get_mut(&channel) else {
            return;
        };
        if local.finished
            && !local
                .queue
                .iter()
                .any(|item| matches!(item, Item::Bytes(..)))
        {
            // Descriptors whose message never came.
            local.queue.clear();
        }
        let gone = outcome.is_err() || local.queue.is_empty() && !local.finished && hung_up(&write);
        if gone || local.finished && local.queue.is_empty() {
            local.queue.clear();
            local.write = None;
            if local.socket && !gone {
                let _ = rustix::net::shutdown(&write, Shutdown::Write);
            }
            if gone {
                self.mux.stop(channel);
            }
            self.sweep(channel);
        }
    }

    fn read_local(&mut self, channel: u32, hung_up: bool) {
        let room = self.mux.room(channel);
        let Some(local) = self.locals.get_mut(&channel) else {
            return;
        };
        let Some(read) = local.read.clone() else {
            return;
        };
        // A header that was held back may come on top.
        let held = crate::protocol::frame::HEADER;
        let Some(room) = room.checked_sub(held).filter(|room| *room > 0) else {
            return;
        };
        let mut buffer = zeroize::Zeroizing::new(vec![0; room]);
        let outcome = if local.cutter.is_some() {
            socket::receive(&read, &mut buffer, &mut local.fds)
        } else {
            rustix::io::read(&read, &mut buffer[..]).map_err(io::Error::from)
        };
        let count = match outcome {
            Ok(count) => count,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) =>
            {
                return;
            }
            // EIO is the end of a terminal.
            Err(_) => 0,
        };
        if count == 0 {
            let both = local.socket && hung_up;
            local.read = None;
            if both {
                local.queue.clear();
                local.write = None;
            }
            self.mux.fin(channel);
            if both {
                self.mux.stop(channel);
            }
            return self.sweep(channel);
        }
        let Some(cutter) = &mut local.cutter else {
            return self.mux.send(channel, &buffer[..count]);
        };
        let Ok(parts) = cutter.cut(&buffer[..count]) else {
            return self.drop_local(channel);
        };
        for part in parts {
            match part {
                Part::Bytes(bytes) => self.mux.send(channel, &bytes),
                Part::Descriptors(count) => {
                    let Some(local) = self.locals.get_mut(&channel) else {
                        return;
                    };
                    let count = usize::from(count).min(local.fds.len());
                    let fds: Vec<OwnedFd> = local.fds.drain(..count).collect();
                    self.pass(channel, fds);
                }
            }
        }
    }

    /// Makes channels of descriptors that were received here.
    fn pass(&mut self, conversation: u32, fds: Vec<OwnedFd>) {
        let ends: Vec<End> = fds.iter().map(kind_of).collect();
        let channels = self.mux.attach(conversation, &ends);
        for ((fd, end), channel) in fds.into_iter().zip(ends).zip(channels) {
            if end != End::Null && rustix::io::ioctl_fionbio(&fd, true).is_err() {
                self.mux.fin(channel);
                self.mux.stop(channel);
                continue;
            }
            let local = match end {
                End::Null => continue,
                End::Read => Local::new(Some(fd), None),
                End::Write => Local::new(None, Some(fd)),
                End::Both => {
                    let socket = is(&fd, FileType::Socket);
                    Local::both(fd, socket)
                }
            };
            self.locals.insert(channel, local);
        }
    }
}

/// Whether nobody is at the other end of a pipe that is written to.
fn hung_up(write: &OwnedFd) -> bool {
    if !is(write, FileType::Fifo) {
        return false;
    }
    let mut fds = [PollFd::new(write, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::ERR)
}

fn is(fd: &OwnedFd, kind: FileType) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == kind)
}

/// What a descriptor is for the side that it is passed to.
fn kind_of(fd: &OwnedFd) -> End {
    if is(fd, FileType::Socket) || rustix::termios::isatty(fd) {
        return End::Both;
    }
    if !is(fd, FileType::Fifo) {
        return End::Null;
    }
    match rustix::fs::fcntl_getfl(fd) {
        Ok(flags) if flags.contains(OFlags::WRONLY) => End::Write,
        _ => End::Read,
    }
}

/// A descriptor to hand out, and what is kept of it here.
fn stand_in(end: End) -> io::Result<(OwnedFd, Local)> {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    Ok(match end {
        End::Read => {
            let (read, write) = pipe()?;
            rustix::io::ioctl_fionbio(&write, true)?;
            (read, Local::new(None, Some(write)))
        }
        End::Write => {
            let (read, write) = pipe()?;
            rustix::io::ioctl_fionbio(&read, true)?;
            (write, Local::new(Some(read), None))
        }
        End::Both | End::Null => {
            let (ours, theirs) = pair()?;
            (theirs, Local::both(ours, true))
        }
    })
}
