//! A share server: mounts one share of a file server and answers the kernel for it.
//!
//! A process of its own, because a container's files must not vanish with the program that started
//! its group. A first process reads what to mount from its standard input, and becomes the keeper of
//! the mount; that starts the server, which says on its standard output how it went, and lives until
//! it is asked to stop or the mount is taken away. One that is killed is replaced.

mod control;
mod device;
mod fs;
mod hand;
mod keeper;
mod mount;
mod smb;
mod wire;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use fs::notes::Notes;
use hand::{Start, Word};
use keeper::{Keeper, SERVE};
use tokio::signal::unix::{SignalKind, signal};
use wire::{Cause, Config, Failure, Started};
use zeroize::Zeroizing;

/// What the process is called with that keeps.
const KEEP: &str = "keep";

fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        None => first(),
        Some(KEEP) => keep(),
        Some(SERVE) => serve(),
        Some(_) => Err(host("called with something else".to_owned())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&Started::Failed(failure));
            ExitCode::FAILURE
        }
    }
}

/// The one who asked waits for this process alone; the others are nobody's children.
fn first() -> Result<(), Failure> {
    let keeping = Command::new("/proc/self/exe")
        .arg0("aci-share")
        .arg(KEEP)
        .spawn();
    keeping
        .map(drop)
        .map_err(|error| host(format!("cannot run: {error}")))
}

/// No core file has the key, and no other process of this user reads it.
fn hide() {
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

fn keep() -> Result<(), Failure> {
    // Not ended with the terminal or the process group of the program that starts it.
    let _ = rustix::process::setsid();
    let _ = std::env::set_current_dir("/");
    hide();
    let mut keeper = Keeper::new(configuration()?).map_err(|e| host(e.to_string()))?;
    keeper
        .keep()
        .map_err(|e| host(format!("cannot run a server: {e}")))
}

fn serve() -> Result<(), Failure> {
    hide();
    let keeper = std::io::stdin().as_fd().try_clone_to_owned();
    let keeper = keeper.map_err(|e| host(e.to_string()))?;
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return Err(host(error.to_string())),
    };
    let handle = runtime.handle().clone();
    let done = runtime.block_on(run(handle, keeper));
    // Requests under way wait for nobody.
    runtime.shutdown_background();
    done
}

fn host(message: String) -> Failure {
    Failure {
        cause: Cause::Host,
        message,
    }
}

/// One line on the standard output.
fn say(line: &Started) {
    let text = serde_json::to_string(line).unwrap_or_default();
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn configuration() -> Result<Config, Failure> {
    let mut text = Zeroizing::new(String::new());
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|e| host(format!("cannot read what to mount: {e}")))?;
    let mut config: Config =
        serde_json::from_str(&text).map_err(|e| host(format!("cannot read what to mount: {e}")))?;
    // An ordinary user's group has one user, root, who is that user outside of it.
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    if !user.is_root() {
        let options = &mut config.options;
        for (shown, own) in [
            (&mut options.uid, user.as_raw()),
            (&mut options.gid, group.as_raw()),
        ] {
            if *shown == 0 {
                *shown = own;
            }
        }
    }
    Ok(config)
}

/// What the keeper hands over: the start, the files of notes, and the device of a mount that
/// stands.
fn handed(keeper: &OwnedFd) -> Result<(Start, [File; 2], Option<OwnedFd>), Failure> {
    let told = hand::receive::<Start>(keeper, false);
    let (start, with) = told
        .map_err(|e| host(format!("cannot read what to mount: {e}")))?
        .ok_or_else(|| host("nobody says what to mount".to_owned()))?;
    let mut with = with.into_iter();
    match (with.next(), with.next()) {
        (Some(one), Some(other)) => Ok((start, [one.into(), other.into()], with.next())),
        _ => Err(host("there is nowhere to write notes".to_owned())),
    }
}

async fn run(runtime: tokio::runtime::Handle, keeper: OwnedFd) -> Result<(), Failure> {
    let (Start { config, greeting }, files, device) = handed(&keeper)?;
    let keeper = Arc::new(keeper);
    let (notes, book) = Notes::open(files).map_err(|e| host(format!("cannot take notes: {e}")))?;
    let notes = Arc::new(notes);
    let (breaks, taken_back) = tokio::sync::mpsc::unbounded_channel();
    let identity = fs::Identity::of(&book, &notes).map_err(|fault| fault.failure())?;
    let (known, client) = (Arc::clone(&notes), identity.client);
    let share = if device.is_some() {
        fs::share::Share::resume(config.clone(), client, breaks, known, book.session)
    } else {
        fs::share::Share::open(config.clone(), client, breaks, known)
            .await
            .map_err(|fault| fault.failure())?
    };
    let inner = Arc::new(fs::Inner::new(share, identity, notes, book));
    tokio::spawn(fs::Inner::hear(Arc::downgrade(&inner), taken_back));
    let listener =
        control::bind(&config.control).map_err(|e| host(format!("cannot listen: {e}")))?;
    let files = fs::Files::new(Arc::clone(&inner), runtime);
    let mountpoint = config.mountpoint.clone();
    let to = Arc::clone(&keeper);
    let session = tokio::task::spawn_blocking(move || {
        let Some(device) = device else {
            let (session, greeting, device) = mount::mount(&config, files)?;
            let told = hand::send(&*to, &Word::Mounted(greeting), &[device.as_fd()]);
            told.map_err(|e| host(format!("cannot tell the keeper: {e}")))?;
            return Ok(session);
        };
        mount::resume(files, &device, greeting.unwrap_or_default())
    })
    .await
    .map_err(|e| host(e.to_string()))??;
    inner.mounted(session.notifier());
    let (ended, mut over) = tokio::sync::mpsc::channel::<()>(1);
    std::thread::spawn(move || {
        let _ = session.run();
        drop(ended);
    });
    mount::read_ahead(&mountpoint);
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|e| host(format!("cannot hear signals: {e}")))?;
    say(&Started::Mounted {
        pid: std::process::id(),
    });
    let left = Arc::clone(&inner);
    tokio::spawn(async move { left.tidy().await });
    let control = inner.share.config().control.clone();
    tokio::select! {
        () = control::serve(listener, inner, keeper) => {}
        _ = over.recv() => {}
        _ = terminate.recv() => {}
    }
    mount::detach(&mountpoint);
    let _ = std::fs::remove_file(&control);
    Ok(())
}
