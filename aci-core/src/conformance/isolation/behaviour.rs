//! What programs of the suite do, and the commands that do it.

use std::time::Duration;

/// What a program should do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Behaviour<'a> {
    /// End at once with a code.
    Exit(i32),
    /// Print one line to each stream and end with 0.
    Print {
        /// The line on standard output.
        stdout: &'a str,
        /// The line on standard error.
        stderr: &'a str,
    },
    /// Print a text without a line end and end with 0.
    Unterminated(&'a str),
    /// Print one line of so many `x` and end with 0.
    LongLine(usize),
    /// Run until `SIGTERM` comes, then end with 0.
    Wait,
    /// Run on when `SIGTERM` comes.
    IgnoreTerm,
    /// End with 0 after a time.
    Sleep(Duration),
    /// Print `tick 1`, `tick 2` and so on, one line at an interval, then end with 0.
    Ticks {
        /// Time after each line.
        interval: Duration,
        /// How many lines.
        count: u32,
    },
    /// Copy standard input to standard output until its end, then end with 0.
    CopyInput,
    /// Serve HTTP on a port of all addresses: answer every request with status 200 and a body.
    Serve {
        /// The port.
        port: u16,
        /// The body.
        body: &'a str,
    },
    /// Print a file and end with 0; end with another code if it is not there.
    ReadFile(&'a str),
    /// Write a text into a file and end with 0; end with another code if that is refused.
    WriteFile {
        /// The file.
        path: &'a str,
        /// The text.
        text: &'a str,
    },
    /// Print a variable of the environment.
    PrintEnv(&'a str),
    /// Print the user's and the group's number as `UID:GID`.
    PrintId,
    /// Print the host name.
    PrintHostname,
    /// Print the working directory.
    PrintDirectory,
    /// Print the size of the terminal as `ROWS COLS`.
    PrintTerminal,
    /// Use so many bytes of memory and run on.
    Hog(u64),
    /// A program that does not exist.
    Missing,
}

impl Behaviour<'_> {
    /// A command for a sandbox with `/bin/sh` and the usual small programs in `PATH`, as busybox
    /// gives them (`cat`, `dd`, `head`, `hostname`, `id`, `nc`, `printf`, `pwd`, `sleep`, `stty`, `tr`).
    #[must_use]
    pub fn shell(&self) -> Option<Vec<String>> {
        let script = match self {
            Self::Exit(code) => format!("exit {code}"),
            Self::Print { stdout, stderr } => {
                format!("printf '%s\\n' '{stdout}'; printf '%s\\n' '{stderr}' >&2")
            }
            Self::Unterminated(text) => format!("printf '%s' '{text}'"),
            Self::LongLine(length) => {
                format!("head -c {length} /dev/zero | tr '\\0' x; printf '\\n'")
            }
            // A shell acts on a signal at once only while it waits.
            Self::Wait => "trap 'exit 0' TERM; sleep 1000 & wait $!".to_owned(),
            Self::IgnoreTerm => "trap '' TERM; while :; do sleep 1; done".to_owned(),
            Self::Sleep(time) => format!("exec sleep {}", time.as_secs_f64()),
            Self::Ticks { interval, count } => {
                // Where nothing is to be waited for, a process a line would be waited for.
                let pause = match interval.is_zero() {
                    true => ":".to_owned(),
                    false => format!("sleep {}", interval.as_secs_f64()),
                };
                format!(
                    "i=1; while [ $i -le {count} ]; do printf 'tick %s\\n' $i; i=$((i+1)); {pause}; done"
                )
            }
            Self::CopyInput => "exec cat".to_owned(),
            Self::Serve { port, body } => format!(
                "while :; do printf 'HTTP/1.0 200 OK\\r\\nContent-Length: {}\\r\\n\\r\\n{body}' | nc -l -p {port}; done",
                body.len()
            ),
            Self::ReadFile(path) => format!("exec cat '{path}'"),
            Self::WriteFile { path, text } => format!("printf '%s\\n' '{text}' > '{path}'"),
            Self::PrintEnv(name) => format!("printf '%s\\n' \"${name}\""),
            Self::PrintId => "printf '%s:%s\\n' \"$(id -u)\" \"$(id -g)\"".to_owned(),
            Self::PrintHostname => "exec hostname".to_owned(),
            Self::PrintDirectory => "pwd".to_owned(),
            Self::PrintTerminal => "exec stty size".to_owned(),
            Self::Hog(bytes) => {
                format!("exec dd if=/dev/zero of=/dev/null bs={bytes} count=1000000")
            }
            Self::Missing => return Some(vec!["/no/such/program".to_owned()]),
        };
        Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), script])
    }

    /// A command of the scripted programs of [`FakeIsolation`](crate::fake::FakeIsolation).
    #[must_use]
    pub fn scripted(&self) -> Option<Vec<String>> {
        let words: Vec<String> = match self {
            Self::Exit(code) => vec!["exit".to_owned(), code.to_string()],
            Self::Print { stdout, stderr } => vec![
                "sh".to_owned(),
                "-c".to_owned(),
                format!("echo '{stdout}'; complain '{stderr}'"),
            ],
            Self::Unterminated(text) => vec!["print".to_owned(), (*text).to_owned()],
            Self::LongLine(length) => vec!["echo".to_owned(), "x".repeat(*length)],
            Self::Wait => vec!["wait-term".to_owned()],
            Self::IgnoreTerm => vec!["ignore-term".to_owned()],
            Self::Sleep(time) => vec!["sleep".to_owned(), time.as_secs_f64().to_string()],
            Self::Ticks { interval, count } => vec![
                "tick".to_owned(),
                interval.as_secs_f64().to_string(),
                count.to_string(),
            ],
            Self::CopyInput => vec!["cat".to_owned()],
            Self::Serve { port, body } => {
                vec!["serve".to_owned(), port.to_string(), (*body).to_owned()]
            }
            Self::ReadFile(path) => vec!["cat".to_owned(), (*path).to_owned()],
            Self::WriteFile { path, text } => vec![
                "write-file".to_owned(),
                (*path).to_owned(),
                (*text).to_owned(),
            ],
            Self::PrintEnv(name) => vec!["printenv".to_owned(), (*name).to_owned()],
            Self::PrintId => vec!["id".to_owned()],
            Self::PrintHostname => vec!["hostname".to_owned()],
            Self::PrintDirectory => vec!["pwd".to_owned()],
            Self::PrintTerminal => vec!["stty".to_owned(), "size".to_owned()],
            Self::Hog(bytes) => vec!["hog".to_owned(), bytes.to_string()],
            Self::Missing => vec!["/no/such/program".to_owned()],
        };
        Some(words)
    }
}
