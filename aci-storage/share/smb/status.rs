//! What goes wrong, and how a program in the container sees it.

use std::fmt;
use std::io;

use libc::c_int;

use crate::wire::{Cause, Failure};

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The server refused it, with this status.
    Status(u32),
    /// The connection ended before the answer came; whether it was carried out is unknown.
    Lost,
    /// There is no connection, for this reason.
    Down(Failure),
    /// The open file is gone for good: the file behind it is another one now, or its locks were
    /// taken by others meanwhile.
    Stale,
    /// The server said something that the protocol does not allow.
    Protocol(String),
    /// Refused here, with this error number.
    Errno(c_int),
}

impl Fault {
    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::Protocol(message.into())
    }

    /// Whether a new connection may mend it.
    pub(crate) fn is_loss(&self) -> bool {
        match self {
            Self::Lost => true,
            Self::Status(status) => matches!(
                *status,
                NETWORK_NAME_DELETED
                    | USER_SESSION_DELETED
                    | NETWORK_SESSION_EXPIRED
                    | CONNECTION_DISCONNECTED
                    | CONNECTION_RESET
            ),
            _ => false,
        }
    }

    /// Why a share cannot be mounted, in words.
    pub(crate) fn failure(&self) -> Failure {
        let (cause, message) = match self {
            Self::Down(failure) => return failure.clone(),
            Self::Status(status) => match *status {
                LOGON_FAILURE | ACCOUNT_DISABLED | ACCOUNT_LOCKED_OUT | PASSWORD_EXPIRED
                | WRONG_PASSWORD | ACCOUNT_RESTRICTION | NO_SUCH_USER => (
                    Cause::Denied,
                    "the server does not accept the account and its key".to_owned(),
                ),
                ACCESS_DENIED => (
                    Cause::Denied,
                    "the server denies access to the share".to_owned(),
                ),
                BAD_NETWORK_NAME => (Cause::NoShare, "there is no such share".to_owned()),
                NOT_SUPPORTED => (Cause::Insecure, "the server speaks no SMB 3.1.1".to_owned()),
                other => (
                    Cause::Protocol,
                    format!("the server answered {other:#010x}"),
                ),
            },
            Self::Lost => (
                Cause::Unreachable,
                "the server closed the connection".to_owned(),
            ),
            Self::Protocol(message) => (Cause::Protocol, message.clone()),
            Self::Stale | Self::Errno(_) => (Cause::Protocol, self.to_string()),
        };
        Failure { cause, message }
    }

    /// The error number for the program that asked.
    pub(crate) fn errno(&self) -> c_int {
        match self {
            Self::Status(status) => errno(*status),
            Self::Lost => libc::EHOSTDOWN,
            Self::Down(failure) => match failure.cause {
                Cause::Denied => libc::EACCES,
                Cause::NoShare => libc::ENXIO,
                Cause::Unreachable => libc::EHOSTDOWN,
                Cause::Insecure | Cause::Protocol | Cause::Host => libc::EIO,
            },
            Self::Stale => libc::ESTALE,
            Self::Protocol(_) => libc::EIO,
            Self::Errno(number) => *number,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale => f.write_str("the open file is gone on the server"),
            Self::Errno(number) => write!(f, "{}", io::Error::from_raw_os_error(*number)),
            other => f.write_str(&other.failure().message),
        }
    }
}

impl From<smb2::Error> for Fault {
    fn from(error: smb2::Error) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// The status values of MS-ERREF that are told apart here.
macro_rules! statuses {
    ($($name:ident = $value:literal $(=> $errno:ident)?;)*) => {
        $(pub(crate) const $name: u32 = $value;)*

        /// POSIX's name for a refusal; `EIO` for what has none.
        pub(crate) fn errno(status: u32) -> c_int {
            match status {
                $($($name => libc::$errno,)?)*
                _ => libc::EIO,
            }
        }
    };
}

statuses! {
    NO_MORE_FILES = 0x8000_0006;
    PENDING = 0x0000_0103;
    MORE_PROCESSING_REQUIRED = 0xC000_0016;
    INVALID_HANDLE = 0xC000_0008 => EBADF;
    INVALID_PARAMETER = 0xC000_000D => EINVAL;
    NO_SUCH_FILE = 0xC000_000F => ENOENT;
    END_OF_FILE = 0xC000_0011;
    ACCESS_DENIED = 0xC000_0022 => EACCES;
    OBJECT_NAME_INVALID = 0xC000_0033 => EINVAL;
    OBJECT_NAME_NOT_FOUND = 0xC000_0034 => ENOENT;
    OBJECT_NAME_COLLISION = 0xC000_0035 => EEXIST;
    OBJECT_PATH_NOT_FOUND = 0xC000_003A => ENOENT;
    OBJECT_PATH_SYNTAX_BAD = 0xC000_003B => ENOENT;
    SHARING_VIOLATION = 0xC000_0043 => EBUSY;
    QUOTA_EXCEEDED = 0xC000_0044 => EDQUOT;
    FILE_LOCK_CONFLICT = 0xC000_0054 => EAGAIN;
    LOCK_NOT_GRANTED = 0xC000_0055 => EAGAIN;
    DELETE_PENDING = 0xC000_0056 => ENOENT;
    NO_SUCH_USER = 0xC000_0064 => EACCES;
    WRONG_PASSWORD = 0xC000_006A => EACCES;
    LOGON_FAILURE = 0xC000_006D => EACCES;
    ACCOUNT_RESTRICTION = 0xC000_006E => EACCES;
    PASSWORD_EXPIRED = 0xC000_0071 => EACCES;
    ACCOUNT_DISABLED = 0xC000_0072 => EACCES;
    RANGE_NOT_LOCKED = 0xC000_007E => ENOLCK;
    DISK_FULL = 0xC000_007F => ENOSPC;
    INSUFFICIENT_RESOURCES = 0xC000_009A => ENOMEM;
    MEDIA_WRITE_PROTECTED = 0xC000_00A2 => EROFS;
    FILE_IS_A_DIRECTORY = 0xC000_00BA => EISDIR;
    NOT_SUPPORTED = 0xC000_00BB => EOPNOTSUPP;
    NETWORK_NAME_DELETED = 0xC000_00C9 => EHOSTDOWN;
    BAD_NETWORK_NAME = 0xC000_00CC => ENXIO;
    NOT_SAME_DEVICE = 0xC000_00D4 => EXDEV;
    DIRECTORY_NOT_EMPTY = 0xC000_0101 => ENOTEMPTY;
    NOT_A_DIRECTORY = 0xC000_0103 => ENOTDIR;
    NAME_TOO_LONG = 0xC000_0106 => ENAMETOOLONG;
    TOO_MANY_OPENED_FILES = 0xC000_011F => EMFILE;
    CANNOT_DELETE = 0xC000_0121 => EACCES;
    FILE_DELETED = 0xC000_0123 => ENOENT;
    FILE_CLOSED = 0xC000_0128 => EBADF;
    USER_SESSION_DELETED = 0xC000_0203 => EHOSTDOWN;
    CONNECTION_DISCONNECTED = 0xC000_020C => EHOSTDOWN;
    CONNECTION_RESET = 0xC000_020D => EHOSTDOWN;
    ACCOUNT_LOCKED_OUT = 0xC000_0234 => EACCES;
    NETWORK_SESSION_EXPIRED = 0xC000_035C => EHOSTDOWN;
}
