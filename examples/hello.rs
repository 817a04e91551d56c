//! The programs inside the quickstart's containers: a file server and a client of it.
//!
//! The quickstart puts its own executable into the image under the name `hello-web`, so that it
//! needs no registry and no other software.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Runs the program if this process was started as `hello-web`.
///
/// # Errors
/// If the arguments are wrong or the port is taken.
pub fn run_if_called() -> Option<Result<()>> {
    let mut args = std::env::args();
    let name = args.next()?;
    if Path::new(&name).file_name()? != "hello-web" {
        return None;
    }
    let args: Vec<String> = args.collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    Some(match words.as_slice() {
        ["serve", root, port] => serve(root, port),
        ["watch", url, seconds] => watch(url, seconds),
        _ => Err(anyhow::anyhow!(
            "usage: hello-web serve DIRECTORY PORT | hello-web watch URL SECONDS"
        )),
    })
}

/// Answers GET requests with the files below a directory, one thread a connection.
fn serve(root: &str, port: &str) -> Result<()> {
    let port: u16 = port.parse().context("PORT must be 1 to 65535")?;
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("serving {root} on port {port}");
    for stream in listener.incoming() {
        let (stream, root) = (stream?, root.to_owned());
        std::thread::spawn(move || {
            if let Err(error) = answer(stream, &root) {
                eprintln!("{error:#}");
            }
        });
    }
    Ok(())
}

fn answer(mut stream: TcpStream, root: &str) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream.try_clone()?).take(8 * 1024);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
    }
    let path = request.split_whitespace().nth(1).unwrap_or("/");
    let (status, body) = if path.split('/').any(|part| part == "..") {
        ("400 Bad Request", b"no '..'\n".to_vec())
    } else {
        match std::fs::read(format!("{root}{path}")) {
            Ok(body) => ("200 OK", body),
            Err(_) => ("404 Not Found", b"not found\n".to_vec()),
        }
    };
    println!("{} {status}", request.trim());
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)?;
    Ok(())
}

/// Asks for a URL again and again and prints what it got.
fn watch(url: &str, seconds: &str) -> Result<()> {
    let pause = Duration::from_secs(seconds.parse().context("SECONDS must be a number")?);
    let (host, path) = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .context("URL must begin with http:// and have a path")?;
    loop {
        match TcpStream::connect(host)
            .map_err(Into::into)
            .and_then(|s| get(s, host, path))
        {
            Ok(body) => println!("{url}: {}", body.trim()),
            Err(error) => println!("{url}: {error:#}"),
        }
        std::thread::sleep(pause);
    }
}

fn get(mut stream: TcpStream, host: &str, path: &str) -> Result<String> {
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("no HTTP answer");
    };
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}
