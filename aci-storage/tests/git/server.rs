//! Debian's git behind a small server: `git http-backend` for each request, as CGI (RFC 3875).

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What the server does besides handing requests on.
#[derive(Debug, Default)]
pub struct Behaviour {
    /// `Authorization` that is asked for.
    pub login: Mutex<Option<String>>,
    /// Repositories below `/moved/` are at this address.
    pub elsewhere: Mutex<Option<String>>,
    /// It does not know the newer protocol.
    pub old: AtomicBool,
    /// It takes requests and says nothing.
    pub silent: AtomicBool,
    /// What `Authorization` it was given.
    pub given: Mutex<Vec<String>>,
}

/// Repositories by name, served until the process ends.
#[derive(Debug)]
pub struct Server {
    root: tempfile::TempDir,
    pub port: u16,
    pub behaviour: Arc<Behaviour>,
}

impl Server {
    pub fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let behaviour = Arc::new(Behaviour::default());
        let (served, known) = (root.path().to_owned(), Arc::clone(&behaviour));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (served, known) = (served.clone(), Arc::clone(&known));
                std::thread::spawn(move || {
                    // A client that goes away is no failure of the server's.
                    let _ = answer(stream, &served, &known);
                });
            }
        });
        Self {
            root,
            port,
            behaviour,
        }
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}.git", self.port)
    }

    /// An empty repository with the branch `main`.
    pub fn repository(&self, name: &str) -> Repository {
        let path = self.root.path().join(format!("{name}.git"));
        let repository = Repository { path };
        std::fs::create_dir(&repository.path).unwrap();
        repository.git(&["init", "--quiet", "--bare", "--initial-branch=main"], b"");
        repository
    }
}

fn answer(stream: TcpStream, root: &Path, behaviour: &Behaviour) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (
        words.next().unwrap_or_default().to_owned(),
        words.next().unwrap_or_default().to_owned(),
    );
    let (mut length, mut kind, mut protocol, mut login) = (0, String::new(), None, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        let value = value.trim().to_owned();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap_or(0),
            "content-type" => kind = value,
            "git-protocol" => protocol = Some(value),
            "authorization" => login = Some(value),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    behaviour.given.lock().unwrap().extend(login.clone());
    if behaviour.silent.load(Ordering::Relaxed) {
        // Until the client goes away.
        let _ = reader.read(&mut [0]);
        return Ok(());
    }
    let wanted = behaviour.login.lock().unwrap().clone();
    if wanted.is_some() && wanted != login {
        return stream.write_all(
            b"HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic realm=\"x\"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        );
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    if let Some(rest) = path.strip_prefix("/moved/")
        && let Some(elsewhere) = &*behaviour.elsewhere.lock().unwrap()
    {
        let head = format!(
            "HTTP/1.1 301 Moved\r\nlocation: {elsewhere}/{rest}?{query}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        return stream.write_all(head.as_bytes());
    }
    let mut command = Command::new("git");
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("REQUEST_METHOD", &method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", kind)
        .env("CONTENT_LENGTH", length.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if let Some(protocol) = protocol.filter(|_| !behaviour.old.load(Ordering::Relaxed)) {
        command.env("GIT_PROTOCOL", protocol);
    }
    let mut child = command.spawn()?;
    child.stdin.take().unwrap().write_all(&body)?;
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let (mut status, mut head) = ("200 OK".to_owned(), String::new());
    loop {
        let mut line = String::new();
        if output.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        match line.trim_end().split_once(": ") {
            Some(("Status", value)) => status = value.to_owned(),
            _ => head.push_str(&format!("{}\r\n", line.trim_end())),
        }
    }
    stream.write_all(format!("HTTP/1.1 {status}\r\n{head}connection: close\r\n\r\n").as_bytes())?;
    let sent = std::io::copy(&mut output, &mut stream);
    let _ = child.kill();
    child.wait()?;
    sent.map(drop)
}

/// A repository that is made object by object, also of objects that git would not make.
#[derive(Debug)]
pub struct Repository {
    pub path: PathBuf,
}

/// A line of a tree: mode, name, object.
pub type Line<'a> = (&'a str, &'a [u8], &'a str);

impl Repository {
    pub fn git(&self, arguments: &[&str], input: &[u8]) -> String {
        git(&self.path, arguments, input)
    }

    pub fn blob(&self, content: &[u8]) -> String {
        self.git(&["hash-object", "-w", "--stdin"], content)
    }

    /// A tree of these lines as they are, whether git likes them or not.
    pub fn tree(&self, lines: &[Line<'_>]) -> String {
        let mut bytes = Vec::new();
        for (mode, name, object) in lines {
            bytes.extend_from_slice(mode.as_bytes());
            bytes.push(b' ');
            bytes.extend_from_slice(name);
            bytes.push(0);
            for pair in object.as_bytes().chunks(2) {
                let digits = std::str::from_utf8(pair).unwrap();
                bytes.push(u8::from_str_radix(digits, 16).unwrap());
            }
        }
        self.git(
            &["hash-object", "-t", "tree", "-w", "--stdin", "--literally"],
            &bytes,
        )
    }

    /// A commit of a tree on a branch; with what was there before it as its parent.
    pub fn commit(&self, branch: &str, tree: &str) -> String {
        let name = format!("refs/heads/{branch}");
        let before = Command::new("git")
            .args(["rev-parse", "--verify", "--quiet", &name])
            .current_dir(&self.path)
            .output()
            .unwrap();
        let before = String::from_utf8(before.stdout).unwrap().trim().to_owned();
        let mut arguments = vec!["commit-tree", "-m", "a commit", tree];
        if !before.is_empty() {
            arguments.extend(["-p", &before]);
        }
        let commit = self.git(&arguments, b"");
        self.git(&["update-ref", &name, &commit], b"");
        commit
    }
}

pub fn git(at: &Path, arguments: &[&str], input: &[u8]) -> String {
    let mut child = Command::new("git")
        .args(["-c", "safe.directory=*"])
        .args(arguments)
        .current_dir(at)
        .envs([
            ("GIT_AUTHOR_NAME", "a"),
            ("GIT_AUTHOR_EMAIL", "a@example"),
            ("GIT_COMMITTER_NAME", "a"),
            ("GIT_COMMITTER_EMAIL", "a@example"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "git {arguments:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
