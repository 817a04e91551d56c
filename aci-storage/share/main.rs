//! A share server: mounts one share of a file server and answers the kernel for it.
//!
//! A process of its own, because a container's files must not vanish with the program that started
//! its group. It reads what to mount from its standard input, says on its standard output how that
//! went, and lives until it is asked to stop or the mount is taken away.

mod control;
mod fs;
mod mount;
mod smb;
mod wire;

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use wire::{Cause, Config, Failure, Started};
use zeroize::Zeroizing;

/// What the process is called with that serves.
const SERVE: &str = "serve";

fn main() {
    if std::env::args().nth(1).as_deref() != Some(SERVE) {
        // The one who asked waits for this process alone; the server is nobody's child.
        let serving = Command::new("/proc/self/exe")
            .arg0("aci-share")
            .arg(SERVE)
            .spawn();
        if let Err(error) = serving {
            say(&Started::Failed(host(format!("cannot run: {error}"))));
        }
        return;
    }
    // Not ended with the terminal or the process group of the program that starts it.
    let _ = rustix::process::setsid();
    // No core file has the key, and no other process of this user reads it.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return say(&Started::Failed(host(error.to_string()))),
    };
    let handle = runtime.handle().clone();
    if let Err(failure) = runtime.block_on(run(handle)) {
        say(&Started::Failed(failure));
    }
    // Requests under way wait for nobody.
    runtime.shutdown_background();
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

async fn run(runtime: tokio::runtime::Handle) -> Result<(), Failure> {
    let config = configuration()?;
    let (breaks, taken_back) = tokio::sync::mpsc::unbounded_channel();
    let share = fs::share::Share::open(config.clone(), breaks)
        .await
        .map_err(|fault| fault.failure())?;
    let inner = Arc::new(fs::Inner::new(share).map_err(|fault| fault.failure())?);
    tokio::spawn(fs::Inner::hear(Arc::downgrade(&inner), taken_back));
    let listener =
        control::bind(&config.control).map_err(|e| host(format!("cannot listen: {e}")))?;
    let files = fs::Files::new(Arc::clone(&inner), runtime);
    let mountpoint = config.mountpoint.clone();
    let session = tokio::task::spawn_blocking(move || mount::mount(&config, files))
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
    let control = inner.share.config().control.clone();
    tokio::select! {
        () = control::serve(listener, inner) => {}
        _ = over.recv() => {}
        _ = terminate.recv() => {}
    }
    mount::detach(&mountpoint);
    let _ = std::fs::remove_file(&control);
    Ok(())
}
