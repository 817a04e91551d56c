//! The programs that every simulated isolation has from the start.
//!
//! | program | what it does |
//! |---|---|
//! | `true`, `false` | ends with 0 or 1 |
//! | `exit CODE` | ends with a code |
//! | `echo WORD...` | prints its arguments |
//! | `print WORD...` | the same, without the line end |
//! | `complain WORD...` | prints its arguments to standard error |
//! | `sleep SECONDS` | waits, fractions allowed, `infinity` too |
//! | `fail-after SECONDS [CODE]` | waits, then ends with a code, 1 if not told |
//! | `wait-term [CODE]` | waits for `SIGTERM`, then ends with a code, 0 if not told |
//! | `ignore-term` | runs on, whatever signal but `SIGKILL` comes |
//! | `tick SECONDS COUNT` | prints `tick 1`, `tick 2`, ... at an interval, then ends |
//! | `cat [FILE...]` | copies files, or standard input, to standard output |
//! | `write-file FILE WORD...` | writes a file; `delete-file FILE` deletes one |
//! | `count-file FILE` | adds one to the number in a file and prints it |
//! | `printenv NAME` | prints a variable, or ends with 1 |
//! | `id` | prints user and group as `UID:GID` |
//! | `hostname` | prints the host name |
//! | `pwd` | prints the working directory |
//! | `stty` | prints the size of the terminal as `ROWS COLS`, or ends with 1 |
//! | `hog BYTES` | takes memory, and runs on if it may |
//! | `burn HUNDREDTHS SECONDS` | uses so much of a core for a while |
//! | `serve PORT [BODY]` | an HTTP/1.0 server, see below |
//! | `sh -c SCRIPT` | simple commands joined by `;`, `&&`, `||`, with `$NAME` and `> FILE`; no more |
//! | `http-get PORT [PATH]` | prints the body of an answer; ends with 1 unless the status is 200 |
//!
//! `serve` answers a path that is a file of its container with that file, any other with its body,
//! with status 200; while there is a file `/unhealthy` in its container, always with status 503. It
//! ends with 0 on `SIGTERM`. Words that are no numbers where numbers are due end a program with 2.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::program::{FakeProcess, Program};
use crate::contract::Signal;

/// Longest head of an HTTP request that `serve` reads, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Makes a program of a function whose errors are told as Unix programs do.
fn program<F, R>(function: F) -> Arc<dyn Program>
where
    F: Fn(FakeProcess) -> R + Send + Sync + 'static,
    R: Future<Output = io::Result<i32>> + Send + 'static,
{
    let function = move |process| {
        let running = function(process);
        async move {
            match running.await {
                Ok(code) => code,
                Err(e) => match e.kind() {
                    // As a shell shows a process that SIGPIPE ended.
                    io::ErrorKind::BrokenPipe => 141,
                    io::ErrorKind::InvalidInput => 2,
                    _ => 1,
                },
            }
        }
    };
    Arc::new(function)
}

/// All built-in programs by name.
pub(super) fn programs() -> BTreeMap<String, Arc<dyn Program>> {
    let programs: [(&str, Arc<dyn Program>); 25] = [
        ("true", program(|_| async { Ok(0) })),
        ("false", program(|_| async { Ok(1) })),
        ("exit", program(|p| async move { number(&p, 1) })),
        ("echo", program(echo)),
        ("print", program(print)),
        ("pwd", program(pwd)),
        ("complain", program(complain)),
        ("sleep", program(sleep)),
        ("fail-after", program(fail_after)),
        ("wait-term", program(wait_term)),
        ("ignore-term", program(ignore_term)),
        ("tick", program(tick)),
        ("cat", program(cat)),
        ("write-file", program(write_file)),
        ("delete-file", program(delete_file)),
        ("count-file", program(count_file)),
        ("printenv", program(printenv)),
        ("id", program(id)),
        ("hostname", program(hostname)),
        ("stty", program(stty)),
        ("hog", program(hog)),
        ("burn", program(burn)),
        ("serve", program(serve)),
        ("http-get", program(http_get)),
        ("sh", super::shell::program()),
    ];
    programs
        .into_iter()
        .map(|(name, program)| (name.to_owned(), program))
        .collect()
}

fn number<T: std::str::FromStr>(process: &FakeProcess, index: usize) -> io::Result<T> {
    process
        .arg(index)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn seconds(process: &FakeProcess, index: usize) -> io::Result<Duration> {
    if process.arg(index) == Some("infinity") {
        return Ok(Duration::MAX);
    }
    Duration::try_from_secs_f64(number(process, index)?)
        .map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// The arguments from one on, with spaces between.
fn words(process: &FakeProcess, from: usize) -> String {
    process.args.get(from..).unwrap_or_default().join(" ")
}

fn path(process: &FakeProcess, index: usize) -> io::Result<String> {
    let path = process.arg(index).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{}/{path}", process.cwd)
    })
}

async fn echo(mut p: FakeProcess) -> io::Result<i32> {
    let line = words(&p, 1);
    p.print(&line).await?;
    Ok(0)
}

async fn print(mut p: FakeProcess) -> io::Result<i32> {
    let text = words(&p, 1);
    p.stdout.write_all(text.as_bytes()).await?;
    p.stdout.flush().await?;
    Ok(0)
}

async fn pwd(mut p: FakeProcess) -> io::Result<i32> {
    let directory = super::files::normal(&p.cwd);
    p.print(&directory).await?;
    Ok(0)
}

async fn complain(mut p: FakeProcess) -> io::Result<i32> {
    let line = words(&p, 1);
    p.complain(&line).await?;
    Ok(0)
}

async fn sleep(p: FakeProcess) -> io::Result<i32> {
    p.sleep(seconds(&p, 1)?).await;
    Ok(0)
}

async fn fail_after(p: FakeProcess) -> io::Result<i32> {
    p.sleep(seconds(&p, 1)?).await;
    Ok(number(&p, 2).unwrap_or(1))
}

async fn wait_term(p: FakeProcess) -> io::Result<i32> {
    let mut signals = p.signals();
    while signals.next().await != Signal::TERM {}
    Ok(number(&p, 1).unwrap_or(0))
}

async fn ignore_term(p: FakeProcess) -> io::Result<i32> {
    let mut signals = p.signals();
    loop {
        signals.next().await;
    }
}

async fn tick(mut p: FakeProcess) -> io::Result<i32> {
    let interval = seconds(&p, 1)?;
    for n in 1..=number::<u64>(&p, 2)? {
        p.print(&format!("tick {n}")).await?;
        p.sleep(interval).await;
    }
    Ok(0)
}

async fn cat(mut p: FakeProcess) -> io::Result<i32> {
    if p.args.len() < 2 {
        tokio::io::copy(&mut p.stdin, &mut p.stdout).await?;
        p.stdout.flush().await?;
        return Ok(0);
    }
    for index in 1..p.args.len() {
        let path = path(&p, index)?;
        match p.read_file(&path) {
            Ok(content) => p.stdout.write_all(&content).await?,
            Err(e) => {
                p.complain(&format!("cat: {path}: {e}")).await?;
                return Ok(1);
            }
        }
    }
    p.stdout.flush().await?;
    Ok(0)
}

async fn write_file(mut p: FakeProcess) -> io::Result<i32> {
    let (path, text) = (path(&p, 1)?, words(&p, 2) + "\n");
    if let Err(e) = p.write_file(&path, text) {
        p.complain(&format!("write-file: {path}: {e}")).await?;
        return Ok(1);
    }
    Ok(0)
}

async fn delete_file(p: FakeProcess) -> io::Result<i32> {
    p.delete_file(&path(&p, 1)?)?;
    Ok(0)
}

async fn count_file(mut p: FakeProcess) -> io::Result<i32> {
    let path = path(&p, 1)?;
    let before = p.read_file(&path).unwrap_or_default();
    let before: u64 = std::str::from_utf8(&before)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    let line = (before + 1).to_string();
    p.write_file(&path, format!("{line}\n"))?;
    p.print(&line).await?;
    Ok(0)
}

async fn printenv(mut p: FakeProcess) -> io::Result<i32> {
    let value = p.arg(1).and_then(|name| p.env.get(name)).cloned();
    match value {
        Some(value) => p.print(value.expose()).await.map(|()| 0),
        None => Ok(1),
    }
}

async fn id(mut p: FakeProcess) -> io::Result<i32> {
    let user = p.user.clone();
    p.print(&user).await?;
    Ok(0)
}

async fn hostname(mut p: FakeProcess) -> io::Result<i32> {
    let name = p.hostname().to_owned();
    p.print(&name).await?;
    Ok(0)
}

async fn stty(mut p: FakeProcess) -> io::Result<i32> {
    match p.terminal() {
        Some(size) => {
            let line = format!("{} {}", size.rows, size.cols);
            p.print(&line).await.map(|()| 0)
        }
        None => Ok(1),
    }
}

async fn hog(p: FakeProcess) -> io::Result<i32> {
    p.allocate(number(&p, 1)?).await;
    wait_term(p).await
}

async fn burn(p: FakeProcess) -> io::Result<i32> {
    p.set_load(number(&p, 1)?);
    p.sleep(seconds(&p, 2)?).await;
    Ok(0)
}

async fn serve(mut p: FakeProcess) -> io::Result<i32> {
    let mut listener = p.listen(number(&p, 1)?)?;
    let body = p.arg(2).unwrap_or("it works").to_owned();
    let files = Arc::clone(&p.container);
    let mut signals = p.signals();
    loop {
        let accepted = {
            let accept = std::pin::pin!(listener.accept());
            let signal = std::pin::pin!(signals.next());
            match select(accept, signal).await {
                Either::Left((connection, _)) => Ok(connection),
                Either::Right((signal, _)) => Err(signal),
            }
        };
        match accepted {
            Err(Signal::TERM | Signal::INT) => return Ok(0),
            Err(_) => {}
            Ok(connection) => {
                let (body, files) = (body.clone(), Arc::clone(&files));
                p.spawn(async move {
                    // A client that goes away is its own business.
                    let _ = answer(connection, &body, |path| files.files.read(path).ok()).await;
                });
            }
        }
    }
}

/// Reads one HTTP request and answers it.
async fn answer(
    mut connection: impl AsyncRead + AsyncWrite + Unpin,
    body: &str,
    file: impl Fn(&str) -> Option<bytes::Bytes>,
) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if head.len() > MAX_HEAD || connection.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split_whitespace().nth(1).unwrap_or("/");
    let path = path.split(['?', '#']).next().unwrap_or("/");
    let (status, body) = if file("/unhealthy").is_some() {
        ("503 Service Unavailable", bytes::Bytes::new())
    } else {
        let body = file(path).unwrap_or_else(|| body.to_owned().into());
        ("200 OK", body)
    };
    let head = format!(
        "HTTP/1.0 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).await?;
    connection.write_all(&body).await?;
    connection.shutdown().await
}

async fn http_get(mut p: FakeProcess) -> io::Result<i32> {
    let port = number(&p, 1)?;
    let path = p.arg(2).unwrap_or("/").to_owned();
    let mut connection = match p.connect(port) {
        Ok(connection) => connection,
        Err(e) => {
            p.complain(&format!("http-get: port {port}: {e}")).await?;
            return Ok(1);
        }
    };
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut reply = String::new();
    connection.read_to_string(&mut reply).await?;
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
    p.print(body).await?;
    Ok(i32::from(head.split(' ').nth(1) != Some("200")))
}
