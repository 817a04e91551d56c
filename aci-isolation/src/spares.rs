//! Agents that are started ahead of need, with their namespaces, and wait for an identity.
//!
//! A spare has no directory, no volume and no limit yet, and nothing ever ran in it; it is used once.
//! It ends by itself when this program ends. They are made by a thread of their own when no sandbox
//! has been asked for during a moment, so that making them does not slow down who is waiting.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aci_core::id::SandboxId;
use rustix::event::{PollFd, PollFlags, poll};

use crate::launch::{self, Newborn};
use crate::protocol::{Boot, CgroupPlan, Identity, Purpose, Reply, Users, VERSION};
use crate::ranges::Ranges;

/// So long must nobody have asked for a sandbox before a spare is made.
const QUIET: Duration = Duration::from_millis(10);
/// Between attempts after a failure.
const AGAIN: Duration = Duration::from_secs(5);
/// How long the end of a spare is waited for.
const END: Duration = Duration::from_secs(1);

/// What spares are made from.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) users: Users,
    pub(crate) cgroup: Option<CgroupPlan>,
    pub(crate) ranges: Option<Arc<Ranges>>,
    /// Deliberate holes; none in a release.
    pub(crate) holes: u32,
}

impl Recipe {
    /// How many user ids each sandbox has of its own.
    pub(crate) fn user_count(&self) -> u32 {
        self.ranges.as_ref().map_or(0, |all| all.count())
    }

    /// The first message to an agent of sandbox `id` and the first of its user ids, if it has any of
    /// its own.
    pub(crate) fn boot(&self, id: &SandboxId, purpose: Purpose) -> (Boot, Option<u32>) {
        let first = self.ranges.as_ref().and_then(|all| all.take(id));
        let boot = Boot {
            version: VERSION,
            purpose,
            users: first.map_or_else(
                || self.users.clone(),
                |first| Users::Mapped {
                    first,
                    count: self.user_count(),
                },
            ),
            cgroup: self.cgroup.clone(),
            holes: self.holes,
        };
        (boot, first)
    }
}

/// An agent that waits.
#[derive(Debug)]
pub(crate) struct Spare {
    /// `None` when it has become somebody's.
    agent: Option<Newborn>,
    pidfd: OwnedFd,
    recipe: Arc<Recipe>,
    /// Under which its user ids are taken.
    id: SandboxId,
    first: Option<u32>,
}

impl Spare {
    fn make(recipe: &Arc<Recipe>) -> io::Result<Self> {
        let id = SandboxId::generate("spare");
        let (boot, first) = recipe.boot(&id, Purpose::Spare);
        let made = (|| {
            let agent = launch::begin(&boot, None, None)?;
            match agent.answer()? {
                (Reply::Done, fds) => Ok((agent, fds)),
                (Reply::Failed(failure), _) => Err(io::Error::other(failure.message)),
                _ => Err(io::ErrorKind::InvalidData.into()),
            }
        })();
        let made = made.and_then(|(agent, fds)| {
            let pidfd = fds.into_iter().next().ok_or(io::ErrorKind::InvalidData)?;
            Ok((agent, pidfd))
        });
        match made {
            Ok((agent, pidfd)) => Ok(Self {
                agent: Some(agent),
                pidfd,
                recipe: Arc::clone(recipe),
                id,
                first,
            }),
            Err(error) => {
                if let Some(ranges) = &recipe.ranges {
                    ranges.release(&id);
                }
                Err(error)
            }
        }
    }

    /// The first of its user ids, if it has any of its own.
    pub(crate) fn first_user(&self) -> Option<u32> {
        self.first
    }

    /// Makes it the agent of a sandbox; its answer. An error means that it has ended. Blocks.
    pub(crate) fn become_agent(
        mut self,
        id: &SandboxId,
        identity: &Identity,
    ) -> io::Result<(Reply, Vec<OwnedFd>)> {
        let Some(agent) = &self.agent else {
            return Err(io::ErrorKind::NotFound.into());
        };
        agent.send(identity)?;
        let answer = agent.answer()?;
        if let Some(ranges) = &self.recipe.ranges {
            ranges.hand_over(&self.id, id);
        }
        self.agent = None;
        Ok(answer)
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        // Without its host it ends.
        if self.agent.take().is_none() {
            return;
        }
        let timeout = rustix::event::Timespec::try_from(END).ok();
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        if !matches!(poll(&mut fds, timeout.as_ref()), Ok(1..)) {
            let kill = rustix::process::Signal::KILL;
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, kill);
            let _ = poll(&mut fds, timeout.as_ref());
        }
        // It is a child of this process only if that adopts orphans.
        let _ = rustix::process::waitid(
            rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&self.pidfd)),
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOHANG,
        );
        if let Some(ranges) = &self.recipe.ranges {
            ranges.release(&self.id);
        }
    }
}

#[derive(Debug)]
struct State {
    spares: VecDeque<Spare>,
    /// When a sandbox was last asked for.
    asked: Instant,
    over: bool,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    wake: Condvar,
    wanted: usize,
    recipe: Arc<Recipe>,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sleep<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        let slept = self.wake.wait_timeout(state, time);
        slept.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Keeps the number of spares up until it is over.
    fn fill(&self) {
        let mut state = self.lock();
        while !state.over {
            if state.spares.len() >= self.wanted {
                state = self.sleep(state, Duration::from_secs(3600));
                continue;
            }
            let quiet = state.asked.elapsed();
            if quiet < QUIET {
                state = self.sleep(state, QUIET - quiet);
                continue;
            }
            drop(state);
            let made = Spare::make(&self.recipe);
            state = self.lock();
            match made {
                Ok(spare) => state.spares.push_back(spare),
                Err(error) => {
                    tracing::debug!("no spare sandbox: {error}");
                    let until = Instant::now() + AGAIN;
                    while !state.over && Instant::now() < until {
                        state = self.sleep(state, AGAIN);
                    }
                }
            }
        }
        // Outside of the lock, because it takes a moment.
        let rest = std::mem::take(&mut state.spares);
        drop(state);
        drop(rest);
    }
}

/// The spares of one isolation.
#[derive(Debug)]
pub(crate) struct Spares {
    inner: Arc<Inner>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Spares {
    /// Begins to make spares, if any are wanted.
    pub(crate) fn new(recipe: Arc<Recipe>, wanted: usize) -> io::Result<Self> {
        let inner = Arc::new(Inner {
            state: Mutex::new(State {
                spares: VecDeque::new(),
                asked: Instant::now(),
                over: false,
            }),
            wake: Condvar::new(),
            wanted,
            recipe,
        });
        let again = Arc::clone(&inner);
        let thread = (wanted > 0)
            .then(|| {
                std::thread::Builder::new()
                    .name("aci-spares".to_owned())
                    .spawn(move || again.fill())
            })
            .transpose()?;
        Ok(Self { inner, thread })
    }

    /// A spare, if there is one; another is made in its place.
    pub(crate) fn take(&self) -> Option<Spare> {
        let mut state = self.inner.lock();
        state.asked = Instant::now();
        let spare = state.spares.pop_front();
        drop(state);
        self.inner.wake.notify_all();
        spare
    }

    /// How many are ready.
    pub(crate) fn ready(&self) -> usize {
        self.inner.lock().spares.len()
    }

    /// Whether there are any from time to time.
    pub(crate) fn wanted(&self) -> bool {
        self.inner.wanted > 0
    }

    pub(crate) fn recipe(&self) -> &Recipe {
        &self.inner.recipe
    }

    /// Ends all spares and waits until they are gone; whether there can have been any.
    pub(crate) fn stop(&mut self) -> bool {
        self.inner.lock().over = true;
        self.inner.wake.notify_all();
        self.thread
            .take()
            .is_some_and(|thread| thread.join().is_ok())
    }
}
