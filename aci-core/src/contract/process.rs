//! Processes inside sandboxes: how they are asked for, spoken to and how they end.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::{Error, ErrorKind, Result};
use crate::model::Secret;
use crate::time::Timestamp;

/// An owned asynchronous reader.
pub type BoxRead = Box<dyn AsyncRead + Send + Unpin>;
/// An owned asynchronous writer.
pub type BoxWrite = Box<dyn AsyncWrite + Send + Unpin>;

/// A byte stream in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines, 1 to 65535; 24 is usual.
    pub rows: u16,
    /// Columns, 1 to 65535; 80 is usual.
    pub cols: u16,
}

impl Default for TerminalSize {
    fn default() -> Self {
        Self { rows: 24, cols: 80 }
    }
}

/// A signal by its number on Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signal(u8);

impl Signal {
    /// Hang-up.
    pub const HUP: Self = Self(1);
    /// Interrupt, as by control-C.
    pub const INT: Self = Self(2);
    /// Quit.
    pub const QUIT: Self = Self(3);
    /// Kill; it cannot be caught.
    pub const KILL: Self = Self(9);
    /// The polite request to end.
    pub const TERM: Self = Self(15);

    const NAMES: [(&'static str, u8); 31] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ILL", 4),
        ("TRAP", 5),
        ("ABRT", 6),
        ("BUS", 7),
        ("FPE", 8),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("STKFLT", 16),
        ("CHLD", 17),
        ("CONT", 18),
        ("STOP", 19),
        ("TSTP", 20),
        ("TTIN", 21),
        ("TTOU", 22),
        ("URG", 23),
        ("XCPU", 24),
        ("XFSZ", 25),
        ("VTALRM", 26),
        ("PROF", 27),
        ("WINCH", 28),
        ("IO", 29),
        ("PWR", 30),
        ("SYS", 31),
    ];

    /// A signal by number, 1 to 64.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for any other number.
    pub fn from_number(number: u8) -> Result<Self> {
        if (1..=64).contains(&number) {
            Ok(Self(number))
        } else {
            Err(Error::new(
                ErrorKind::Invalid,
                "signal.parse",
                format!("{number} is not a signal: 1 to 64"),
            ))
        }
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, n)| *n == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => write!(f, "SIG{}", self.0),
        }
    }
}

impl FromStr for Signal {
    type Err = Error;

    /// Reads `SIGTERM`, `TERM`, `sigterm`, `15`, `SIGRTMIN`, `SIGRTMIN+3`, `SIGRTMAX-1`, as image
    /// configurations write them (real-time signals counted from 34, as glibc does).
    fn from_str(text: &str) -> Result<Self> {
        let upper = text.trim().to_ascii_uppercase();
        if let Ok(number) = upper.parse::<u8>() {
            return Self::from_number(number);
        }
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let realtime = |base: i16, rest: &str| -> Option<Self> {
            let offset: i16 = if rest.is_empty() {
                0
            } else {
                rest.parse().ok()?
            };
            let number = u8::try_from(base.checked_add(offset)?).ok()?;
            (34..=64).contains(&number).then_some(Self(number))
        };
        let found = if let Some(rest) = name.strip_prefix("RTMIN") {
            realtime(34, rest)
        } else if let Some(rest) = name.strip_prefix("RTMAX") {
            realtime(64, rest)
        } else {
            Self::NAMES
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, number)| Self(*number))
        };
        found.ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                "signal.parse",
                format!("'{text}' is not a signal name or number such as SIGTERM or 15"),
            )
        })
    }
}

/// Who a process runs as.
///
/// `image` is the image's `User` (`name`, `uid`, `name:group`, `uid:gid`) and is looked up in the
/// container's own `/etc/passwd` and `/etc/group`; ACI's `runAsUser` and `runAsGroup` stand above
/// it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSpec {
    /// The image's `User`, if it has one.
    pub image: Option<String>,
    /// ACI's `runAsUser`.
    pub uid: Option<u32>,
    /// ACI's `runAsGroup`.
    pub gid: Option<u32>,
}

/// What to run: the outcome of the image's configuration and the document's overrides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessSpec {
    /// Program and arguments; at least the program, but for a container that waits for its program
    /// ([`Sandbox::start`](super::Sandbox::start)). A program without `/` is looked up in the
    /// container's `PATH`.
    pub argv: Vec<String>,
    /// The environment, in order; a later name wins. Values may be secrets, so they are kept as
    /// such.
    pub env: Vec<(String, Secret)>,
    /// Working directory; made if it is missing. Empty means `/`.
    pub cwd: String,
    /// The user.
    pub user: UserSpec,
    /// A terminal of this size instead of pipes.
    pub terminal: Option<TerminalSize>,
}

/// A further process in a running container.
#[derive(Clone, Debug, Default)]
pub struct ExecSpec {
    /// What to run. An empty environment means that of the container's own process.
    pub process: ProcessSpec,
    /// Whether the caller will write to its standard input; otherwise it reads `/dev/null`.
    pub stdin: bool,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// The exit code; `128 + signal` after a signal, as shells and `docker run` say it.
    pub code: i32,
    /// The signal that ended it, if one did.
    pub signal: Option<Signal>,
    /// Whether the kernel's out-of-memory killer acted in its cgroup during its life.
    pub oom: bool,
    /// When it ended, as its supervisor saw it.
    pub at: Timestamp,
}

impl ExitStatus {
    /// Whether it ended with code 0.
    #[must_use]
    pub const fn success(&self) -> bool {
        self.code == 0
    }
}

/// A process that was started by [`Sandbox::exec`](super::Sandbox::exec), with its streams.
///
/// With a terminal, `stdout` carries everything and `stderr` is `None`. Dropping it closes the
/// streams; the process then sees a hang-up (terminal) or a closed pipe, and is not killed.
pub struct Process {
    /// Its standard input, if asked for.
    pub stdin: Option<BoxWrite>,
    /// Its standard output.
    pub stdout: BoxRead,
    /// Its standard error, without a terminal.
    pub stderr: Option<BoxRead>,
    /// To wait for it, signal it and resize its terminal.
    pub control: Arc<dyn ProcessControl>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}

/// The handle of one process.
#[async_trait]
pub trait ProcessControl: Send + Sync + fmt::Debug {
    /// Waits until it has ended; may be called several times and by several tasks.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`] if the sandbox is gone before the status was known.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    async fn wait(&self) -> Result<ExitStatus>;

    /// Sends a signal to it (not to its children). Ended processes are no error.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`] if the sandbox is gone.
    ///
    /// # Cancel safety
    /// The signal may have been sent.
    async fn signal(&self, signal: Signal) -> Result<()>;

    /// Sets the size of its terminal; nothing happens without one.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`] if the sandbox is gone.
    ///
    /// # Cancel safety
    /// The size may have been set.
    async fn resize(&self, size: TerminalSize) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_as_images_write_them() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number, "{text}");
        }
        for text in ["", "0", "65", "SIGNOPE", "RTMIN+99", "RTMAX+1", "-1"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
        for number in 1..=31 {
            let signal = Signal::from_number(number).unwrap();
            assert_eq!(signal.to_string().parse::<Signal>().unwrap(), signal);
        }
    }
}
