//! The process that stands for a container, or for an exec, in the eyes of the caller: it holds the
//! standard streams, has the pid that is reported, and ends with the program's exit code.
//!
//! Programs in a sandbox are children of its agent, which nobody outside can wait for; podman and
//! containerd wait for a child of theirs.

use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use aci_core::contract::{ExecSpec, Isolation as _, Process, ProcessSpec, Sandbox as _, Signal};
use anyhow::{Context as _, Result, bail};
use tokio::io::AsyncWriteExt as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::home::{CONTAINER, Home};
use crate::{config, terminal};

/// Where [`container`] waits for the start, in the container's directory.
pub(crate) const START: &str = "start.sock";
/// How long streams of an ended process are read that something else still holds.
const DRAIN: Duration = Duration::from_secs(5);
/// What is passed on to the program.
const PASSED: [u8; 6] = [1, 2, 3, 10, 12, 15];

/// A socket below a directory; the path is short whatever the directory's is (unix(7)).
pub(crate) fn listen(directory: &Path, name: &str) -> Result<UnixListener> {
    let open = std::fs::File::open(directory)?;
    UnixListener::bind(format!("/proc/self/fd/{}/{name}", open.as_raw_fd()))
        .with_context(|| directory.join(name).display().to_string())
}

/// Connects to [`listen`]'s socket.
pub(crate) fn connect(directory: &Path, name: &str) -> std::io::Result<UnixStream> {
    let open = std::fs::File::open(directory)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{name}", open.as_raw_fd()))
}

/// Reads what became of a start: nothing, or why not.
pub(crate) fn hear(mut stream: UnixStream) -> Result<()> {
    let mut said = String::new();
    stream
        .read_to_string(&mut said)
        .context("waiting for the program's start")?;
    match said.strip_prefix('+') {
        Some(_) => Ok(()),
        None if said.is_empty() => bail!("the process that attends to the container has ended"),
        None => bail!("{said}"),
    }
}

fn say(mut stream: &UnixStream, outcome: Result<(), &anyhow::Error>) {
    let text = match outcome {
        Ok(()) => "+".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    // Who asked may have gone away.
    let _ = stream.write_all(text.as_bytes());
}

fn saved(path: &Path) -> Result<ProcessSpec> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    config::process(&serde_json::from_slice(&text)?)
}

/// Waits for the start of a container, then stands for its program.
pub(crate) fn container(home: &Home, id: &str) -> Result<u8> {
    let _ = rustix::process::setsid();
    let directory = home.of(id)?;
    let listener = listen(&directory, START)?;
    let process = saved(&directory.join("process.json"))?;
    let (asked, _) = listener.accept().context("waiting for the start")?;
    stand(home, id, process, &asked, true)
}

/// Runs a further process in a container and stands for it. `name` is that of the socket to say so
/// and, with another ending, of the file that says what to run.
pub(crate) fn exec(home: &Home, id: &str, name: &str) -> Result<u8> {
    let _ = rustix::process::setsid();
    let directory = home.of(id)?;
    let asked = connect(&directory, &format!("{name}.sock"))?;
    let file = directory.join(format!("{name}.json"));
    let process = saved(&file)?;
    let _ = std::fs::remove_file(file);
    stand(home, id, process, &asked, false)
}

fn stand(
    home: &Home,
    id: &str,
    process: ProcessSpec,
    asked: &UnixStream,
    main: bool,
) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        let begun = begin(home, id, process, main).await;
        say(asked, begun.as_ref().map(|_| ()));
        let _ = asked.shutdown(std::net::Shutdown::Both);
        follow(begun?, main).await
    });
    // A read of standard input cannot be broken off.
    runtime.shutdown_background();
    outcome
}

/// Starts the program. The state directory is others' again afterwards.
async fn begin(home: &Home, id: &str, mut process: ProcessSpec, main: bool) -> Result<Process> {
    if process.terminal.is_some() && terminal::own() {
        process.terminal = terminal::size().or(process.terminal);
    }
    let record = home.record(id)?;
    let isolation = home.isolation()?;
    let sandbox = isolation.adopt(&record.sandbox).await?;
    let spec = ExecSpec {
        process,
        stdin: true,
    };
    let started = sandbox.exec(CONTAINER, spec).await;
    if main {
        match &started {
            Ok(_) => home.mark_started(id)?,
            Err(_) => sandbox.signal(CONTAINER, Signal::KILL, true).await?,
        }
    }
    Ok(started?)
}

/// Copies streams and passes signals until the program has ended; its exit code.
async fn follow(process: Process, main: bool) -> Result<u8> {
    let Process {
        stdin,
        mut stdout,
        stderr,
        control,
    } = process;
    if let Some(mut stdin) = stdin {
        tokio::spawn(async move {
            let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut stdin).await;
            let _ = stdin.shutdown().await;
        });
    }
    let output = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut stdout, &mut tokio::io::stdout()).await;
    });
    let errors = tokio::spawn(async move {
        if let Some(mut stderr) = stderr {
            let _ = tokio::io::copy(&mut stderr, &mut tokio::io::stderr()).await;
        }
    });
    for number in PASSED {
        let mut signals = signal(SignalKind::from_raw(i32::from(number)))?;
        let control = std::sync::Arc::clone(&control);
        let passed = Signal::from_number(number)?;
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                let _ = control.signal(passed).await;
            }
        });
    }
    let mut resized = signal(SignalKind::window_change())?;
    let again = std::sync::Arc::clone(&control);
    tokio::spawn(async move {
        while resized.recv().await.is_some() {
            if let Some(size) = terminal::size() {
                let _ = again.resize(size).await;
            }
        }
    });
    let status = control.wait().await?;
    let rest = async { (output.await, errors.await) };
    if main {
        // With the container's program everything in it has ended.
        let _ = rest.await;
    } else {
        let _ = tokio::time::timeout(DRAIN, rest).await;
    }
    Ok(u8::try_from(status.code & 0xff).unwrap_or(u8::MAX))
}
