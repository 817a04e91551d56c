//! A share over connections that come and go.
//!
//! Whoever finds the connection dead starts one attempt after another, with growing pauses; the
//! others wait for it, at most as long as `patience_ms` since it was lost. Then they fail, and
//! those after them fail at once, until an attempt succeeds. So a server that is gone stops its own
//! users for a bounded time and nobody else. A process that is killed meanwhile waits no longer.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use smb2::pack::Guid;
use tokio::sync::{Notify, mpsc, watch};

use super::notes::{Note, Notes};
use crate::smb::lease::Break;
use crate::smb::login::{Target, login};
use crate::smb::{Fault, Link, ops};
use crate::wire::{Config, Failure, Password, Status};

/// Pauses between attempts: they double, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often those who wait are looked at, whether they are being killed.
const LOOK: Duration = Duration::from_millis(250);

/// The connection of the moment, numbered.
#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) generation: u64,
    pub(crate) link: Arc<Link>,
}

/// Where the share stands.
#[derive(Clone)]
enum Stand {
    Up(Current),
    /// Attempts are being made since then; the last one failed so.
    Down {
        since: Instant,
        last: Option<Failure>,
    },
}

pub(crate) struct Share {
    config: Config,
    password: Mutex<Password>,
    /// Tells attempts that pause of a new key.
    rotated: Notify,
    client: Guid,
    breaks: mpsc::UnboundedSender<Break>,
    notes: Arc<Notes>,
    stand: watch::Sender<Stand>,
    connections: AtomicU64,
    previous: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Share {
    fn new(
        config: Config,
        client: [u8; 16],
        breaks: mpsc::UnboundedSender<Break>,
        notes: Arc<Notes>,
    ) -> Self {
        Self {
            password: Mutex::new(config.password.clone()),
            rotated: Notify::new(),
            config,
            client: ops::guid(client),
            breaks,
            notes,
            stand: watch::Sender::new(Stand::Down {
                since: Instant::now(),
                last: None,
            }),
            connections: AtomicU64::new(0),
            previous: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
        }
    }

    /// Connects for the first time; its failure is the mount's.
    /// Leases that the server takes back are told to `breaks`.
    pub(crate) async fn open(
        config: Config,
        client: [u8; 16],
        breaks: mpsc::UnboundedSender<Break>,
        notes: Arc<Notes>,
    ) -> Result<Arc<Self>, Fault> {
        let share = Self::new(config, client, breaks, notes);
        let link = share.dial().await?;
        share.rise(link);
        Ok(Arc::new(share))
    }

    /// Goes on for an earlier share server, whose session was this; connects when it can.
    pub(crate) fn resume(
        config: Config,
        client: [u8; 16],
        breaks: mpsc::UnboundedSender<Break>,
        notes: Arc<Notes>,
        session: u64,
    ) -> Arc<Self> {
        let share = Arc::new(Self::new(config, client, breaks, notes));
        share.previous.store(session, Ordering::Relaxed);
        tokio::spawn(Self::revive(Arc::clone(&share)));
        share
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    async fn dial(&self) -> Result<Link, Fault> {
        let password = locked(&self.password).clone();
        let options = &self.config.options;
        login(&Target {
            host: &self.config.host,
            port: self.config.port,
            share: &self.config.share,
            user: &self.config.user,
            password: password.expose(),
            client: self.client,
            previous: self.previous.load(Ordering::Relaxed),
            patience: Duration::from_millis(options.connect_ms),
            silence: Duration::from_millis(options.silence_ms),
            breaks: self.breaks.clone(),
        })
        .await
    }

    fn rise(&self, link: Link) {
        self.previous.store(link.session(), Ordering::Relaxed);
        self.notes.write(&[Note::Session(link.session())]);
        let generation = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        self.stand.send_replace(Stand::Up(Current {
            generation,
            link: Arc::new(link),
        }));
    }

    /// A connection is dead: attempts begin, unless they have.
    fn lost(self: &Arc<Self>, generation: u64) {
        let began = self.stand.send_if_modified(|stand| match stand {
            Stand::Up(current) if current.generation == generation => {
                current.link.give_up();
                *stand = Stand::Down {
                    since: Instant::now(),
                    last: None,
                };
                true
            }
            _ => false,
        });
        if began {
            tokio::spawn(Self::revive(Arc::clone(self)));
        }
    }

    async fn revive(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.dial().await {
                Ok(link) => return self.rise(link),
                Err(fault) => {
                    let failure = fault.failure();
                    self.stand.send_modify(|stand| {
                        if let Stand::Down { last, .. } = stand {
                            *last = Some(failure);
                        }
                    });
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.rotated.notified() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The connection, or the wait for one.
    pub(crate) async fn current(self: &Arc<Self>) -> Result<Current, Fault> {
        let mut stand = self.stand.subscribe();
        loop {
            let (since, last) = match &*stand.borrow_and_update() {
                Stand::Up(current) if current.link.dead().is_none() => return Ok(current.clone()),
                Stand::Up(current) => (Err(current.generation), None),
                Stand::Down { since, last } => (Ok(*since), last.clone()),
            };
            let since = match since {
                Ok(since) => since,
                Err(generation) => {
                    self.lost(generation);
                    continue;
                }
            };
            let patience = Duration::from_millis(self.config.options.patience_ms);
            let left = patience.saturating_sub(since.elapsed());
            let over = match last {
                Some(failure) => Fault::Down(failure),
                None => Fault::Lost,
            };
            if left.is_zero() {
                return Err(over);
            }
            let _ = tokio::time::timeout(left.min(LOOK), stand.changed()).await;
            if super::kernel::asker_is_ending() {
                return Err(Fault::Errno(libc::EINTR));
            }
        }
    }

    /// Carries something out; after a lost connection once more over the next. `again` is told
    /// whether an earlier attempt may have been carried out.
    pub(crate) async fn run<T, F>(
        self: &Arc<Self>,
        mut action: impl FnMut(Arc<Link>, bool) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let mut again = false;
        loop {
            let current = self.current().await?;
            match action(current.link, again).await {
                Err(fault) if fault.is_loss() => self.lost(current.generation),
                done => return done,
            }
            again = true;
        }
    }

    /// The connection, if there is one right now.
    pub(crate) fn up(&self) -> Option<Current> {
        match &*self.stand.borrow() {
            Stand::Up(current) if current.link.dead().is_none() => Some(current.clone()),
            _ => None,
        }
    }

    /// A connection was found dead by somebody who holds an open file of it.
    pub(crate) fn found_lost(self: &Arc<Self>, generation: u64) {
        self.lost(generation);
    }

    /// Logs in with this key from now on; attempts that wait for it are not held up by a pause.
    pub(crate) fn rotate(&self, password: Password) {
        *locked(&self.password) = password;
        self.rotated.notify_waiters();
    }

    pub(crate) fn status(&self, open_files: u64) -> Status {
        let (connected, failure) = match &*self.stand.borrow() {
            Stand::Up(current) => (current.link.dead().is_none(), None),
            Stand::Down { last, .. } => (false, last.clone()),
        };
        Status {
            connected,
            connections: self.connections.load(Ordering::Relaxed),
            failure,
            open_files,
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
        }
    }
}
