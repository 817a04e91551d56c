//! The socket on which a running share server is asked.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::fs::Inner;
use crate::hand::{self, Word};
use crate::wire::{Answer, Cause, Failure, Request, Usage};

/// A request is a line; none is longer.
const LONGEST: u64 = 64 << 10;
/// How long the server may take to say how full it is.
const USAGE: Duration = Duration::from_secs(4);

/// Binds the socket, for this user only.
pub(crate) fn bind(path: &std::path::Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // By way of a descriptor: a socket's address holds 108 bytes, a path may have more.
    let directory =
        std::fs::File::open(path.parent().unwrap_or_else(|| std::path::Path::new("/")))?;
    let short = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let name = path.file_name().unwrap_or_default();
    let listener = UnixListener::bind(std::path::Path::new(&short).join(name))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until asked to stop.
pub(crate) async fn serve(listener: UnixListener, inner: Arc<Inner>, keeper: Arc<OwnedFd>) {
    let (stop, mut stopped) = mpsc::channel(1);
    loop {
        tokio::select! {
            _ = stopped.recv() => return,
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let (inner, keeper) = (Arc::clone(&inner), Arc::clone(&keeper));
                    tokio::spawn(converse(stream, inner, keeper, stop.clone()));
                }
            }
        }
    }
}

/// Asks the server, but not for longer than the driver waits.
async fn usage(inner: &Arc<Inner>) -> Answer {
    match tokio::time::timeout(USAGE, inner.room()).await {
        Ok(Ok(room)) => Answer::Usage(Usage {
            total: room.total.saturating_mul(room.unit),
            free: room.free.saturating_mul(room.unit),
        }),
        Ok(Err(fault)) => Answer::Failed(fault.failure()),
        Err(_) => Answer::Failed(Failure {
            cause: Cause::Unreachable,
            message: "the server does not answer".to_owned(),
        }),
    }
}

async fn converse(
    stream: UnixStream,
    inner: Arc<Inner>,
    keeper: Arc<OwnedFd>,
    stop: mpsc::Sender<()>,
) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read.take(LONGEST)).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let line = zeroize::Zeroizing::new(line);
        let Ok(request) = serde_json::from_str::<Request>(&line) else {
            return;
        };
        let answer = match request {
            Request::Status => Answer::Status(inner.share.status(inner.open_files())),
            Request::Usage => usage(&inner).await,
            Request::Rotate(password) => {
                // For the next server; without a keeper there is none.
                let _ = hand::send(&*keeper, &Word::Key(password.clone()), &[]);
                inner.share.rotate(password);
                Answer::Done
            }
            Request::Stop => {
                let _ = stop.try_send(());
                Answer::Done
            }
        };
        let Ok(mut text) = serde_json::to_vec(&answer) else {
            return;
        };
        text.push(b'\n');
        if write.write_all(&text).await.is_err() {
            return;
        }
    }
}
