//! The inside of a simulated process: what a scripted program sees and may do.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::container::Container;
use super::lock;
use super::process::ProcessState;
use super::sandbox::SandboxCore;
use crate::contract::{BoxRead, BoxWrite, Signal, TerminalSize};
use crate::model::Secret;
use crate::time::Timestamp;

/// A scripted program. Any `Fn(FakeProcess) -> impl Future<Output = i32>` is one; what it answers
/// is its exit code.
#[async_trait]
pub trait Program: Send + Sync {
    /// Runs as a process until it ends. A kill drops the future.
    ///
    /// # Cancel safety
    /// Dropping the future is how the process dies by a signal that it does not catch.
    async fn run(&self, process: FakeProcess) -> i32;
}

#[async_trait]
impl<F, R> Program for F
where
    F: Fn(FakeProcess) -> R + Send + Sync,
    R: Future<Output = i32> + Send,
{
    async fn run(&self, process: FakeProcess) -> i32 {
        self(process).await
    }
}

/// A scripted program's view of its process.
pub struct FakeProcess {
    /// Program and arguments.
    pub args: Vec<String>,
    /// The environment.
    pub env: BTreeMap<String, Secret>,
    /// The working directory.
    pub cwd: String,
    /// The user and group that the process runs as, as the container's specification names them.
    pub user: String,
    /// Standard input.
    pub stdin: BoxRead,
    /// Standard output: the log, or the caller of `exec`.
    pub stdout: BoxWrite,
    /// Standard error; the same as `stdout` with a terminal.
    pub stderr: BoxWrite,
    pub(super) sandbox: Arc<SandboxCore>,
    pub(super) container: Arc<Container>,
    pub(super) state: Arc<ProcessState>,
    pub(super) tasks: JoinSet<()>,
}

impl fmt::Debug for FakeProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeProcess")
            .field("args", &self.args)
            .field("container", &self.container.name)
            .finish_non_exhaustive()
    }
}

impl FakeProcess {
    /// An argument, from 1 for the first after the program.
    #[must_use]
    pub fn arg(&self, index: usize) -> Option<&str> {
        self.args.get(index).map(String::as_str)
    }

    /// The name of the container it runs in.
    #[must_use]
    pub fn container(&self) -> &str {
        &self.container.name
    }

    /// Which attempt of the container this is, from 0.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.container.attempt
    }

    /// The host name of the sandbox.
    #[must_use]
    pub fn hostname(&self) -> &str {
        &self.sandbox.hostname
    }

    /// The size of its terminal, if it has one.
    #[must_use]
    pub fn terminal(&self) -> Option<TerminalSize> {
        *lock(&self.state.terminal)
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.sandbox.world.clock.now()
    }

    /// Waits on the world's clock.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send + use<> {
        let clock = Arc::clone(&self.sandbox.world.clock);
        let until = clock.now() + time;
        async move { clock.sleep_until(until).await }
    }

    /// Writes text and a line end to standard output.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`] if nobody reads any more.
    ///
    /// # Cancel safety
    /// A part of the line may be written.
    pub async fn print(&mut self, line: &str) -> io::Result<()> {
        self.stdout.write_all(line.as_bytes()).await?;
        self.stdout.write_all(b"\n").await?;
        self.stdout.flush().await
    }

    /// Writes text and a line end to standard error.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`] if nobody reads any more.
    ///
    /// # Cancel safety
    /// A part of the line may be written.
    pub async fn complain(&mut self, line: &str) -> io::Result<()> {
        self.stderr.write_all(line.as_bytes()).await?;
        self.stderr.write_all(b"\n").await?;
        self.stderr.flush().await
    }

    /// From now on signals, except `SIGKILL`, come out here and do not end the process.
    #[must_use]
    pub fn signals(&self) -> Signals {
        Signals(self.state.catch())
    }

    /// Listens on a TCP port of the group's network.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] if somebody of the group listens on it.
    pub fn listen(&self, port: u16) -> io::Result<FakeListener> {
        self.sandbox.listen(port)
    }

    /// Connects to a TCP port of the group's network.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionRefused`] if nobody listens on it.
    pub fn connect(&self, port: u16) -> io::Result<DuplexStream> {
        self.sandbox.connect(port)
    }

    /// Reads a file of the root file system or of a mounted volume.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`].
    pub fn read_file(&self, path: &str) -> io::Result<Bytes> {
        self.container.files.read(path)
    }

    /// Writes a file of the root file system or of a mounted volume, as a whole.
    ///
    /// # Errors
    /// [`io::ErrorKind::ReadOnlyFilesystem`] on a read-only mount or root;
    /// [`io::ErrorKind::StorageFull`] if a memory volume is full.
    pub fn write_file(&self, path: &str, content: impl Into<Bytes>) -> io::Result<()> {
        self.container.files.write(path, content.into())
    }

    /// Deletes a file. Idempotent.
    ///
    /// # Errors
    /// [`io::ErrorKind::ReadOnlyFilesystem`] on a read-only mount or root.
    pub fn delete_file(&self, path: &str) -> io::Result<()> {
        self.container.files.delete(path)
    }

    /// Uses so much more memory, in bytes. If that is more than the container or its group may
    /// have, the container is killed and this never returns.
    ///
    /// # Cancel safety
    /// The memory stays in use until the container ends.
    pub fn allocate(&self, bytes: u64) -> impl Future<Output = ()> + Send + use<> {
        let fits = self.sandbox.allocate(&self.container, bytes);
        async move {
            if !fits {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Uses so much of the CPU from now on, in hundredths of a core; bounded by the container's
    /// limit. A new container uses one hundredth.
    pub fn set_load(&self, hundredths: u32) {
        self.container
            .set_load(hundredths, &*self.sandbox.world.clock);
    }

    /// Runs a task that dies with the process.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }
}

/// The signals that a process catches.
#[derive(Debug)]
pub struct Signals(mpsc::UnboundedReceiver<Signal>);

impl Signals {
    /// The next signal.
    ///
    /// # Cancel safety
    /// No signal is lost.
    pub async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            // Another receiver has taken over.
            None => std::future::pending().await,
        }
    }
}

/// A listening TCP socket of a group's simulated network. Dropping it closes it.
#[derive(Debug)]
pub struct FakeListener {
    pub(super) sandbox: Arc<SandboxCore>,
    pub(super) port: u16,
    pub(super) connections: mpsc::UnboundedReceiver<DuplexStream>,
}

impl FakeListener {
    /// The next connection.
    ///
    /// # Cancel safety
    /// No connection is lost.
    pub async fn accept(&mut self) -> DuplexStream {
        match self.connections.recv().await {
            Some(connection) => connection,
            // The sandbox is gone; so is the process in a moment.
            None => std::future::pending().await,
        }
    }
}

impl Drop for FakeListener {
    fn drop(&mut self) {
        self.sandbox.unlisten(self.port);
    }
}
