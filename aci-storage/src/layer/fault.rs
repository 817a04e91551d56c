//! Why a layer was not applied.

use std::fmt;
use std::io;

use aci_core::error::{Error, ErrorKind};

/// Why a layer was not applied.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The bytes are not what they should be.
    Broken(String),
    /// Well-formed, but not allowed.
    Refused(String),
    /// The archive could not be read.
    Read(io::Error),
    /// The tree could not be written; what "cannot ..." completes.
    Write(String, io::Error),
}

impl Fault {
    /// Sorts an error that came out of the stack of readers.
    pub(crate) fn from_read(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidInput
            | io::ErrorKind::InvalidData
            | io::ErrorKind::UnexpectedEof => Self::Broken(format!("it cannot be read: {error}")),
            _ => match error.downcast::<Carried>() {
                Ok(carried) => Self::Refused(carried.0),
                Err(error) => Self::Read(error),
            },
        }
    }

    /// The content of an entry is shorter than its header says.
    pub(super) fn cut_off(path: &[u8]) -> Self {
        Self::Broken(format!("it ends within '{}'", shown(path)))
    }

    pub(crate) fn into_error(self, operation: &'static str) -> Error {
        let full = |e: &io::Error| {
            matches!(
                e.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        };
        let kind = match &self {
            Self::Broken(_) => ErrorKind::Corrupt,
            Self::Refused(_) => ErrorKind::Invalid,
            Self::Write(_, e) if full(e) => ErrorKind::Exhausted,
            Self::Read(_) | Self::Write(..) => ErrorKind::Internal,
        };
        let message = match &self {
            Self::Broken(why) => format!("the archive is damaged: {why}"),
            Self::Refused(why) => format!("the archive is refused: {why}"),
            Self::Read(cause) => format!("cannot read the archive: {cause}"),
            Self::Write(what, cause) => format!("cannot {what}: {cause}"),
        };
        let error = Error::new(kind, operation, message);
        let error = match kind {
            ErrorKind::Exhausted => error.hint("free some space where the images are kept"),
            _ => error,
        };
        match self {
            Self::Read(cause) | Self::Write(_, cause) => error.because(cause),
            Self::Broken(_) | Self::Refused(_) => error,
        }
    }
}

/// A refusal on its way through `io::Error`.
#[derive(Debug)]
pub(crate) struct Carried(pub(crate) String);

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Carried {}

/// A name of an archive for a message: readable, on one line, not too long.
pub(crate) fn shown(name: &[u8]) -> String {
    let cut = &name[..name.len().min(200)];
    let mut text = String::from_utf8_lossy(cut).escape_debug().to_string();
    if cut.len() < name.len() {
        text.push_str("...");
    }
    text
}
