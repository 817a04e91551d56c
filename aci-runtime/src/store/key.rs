//! The key that the journal's records are encrypted with.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aci_core::error::{Error, ErrorKind, Result};
use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{Generate as _, Key};
use zeroize::Zeroizing;

use super::io_error;

/// Length of a key in bytes.
const LENGTH: usize = 32;

/// A key of 256 bits. It never shows in `Debug` and is wiped when dropped.
#[derive(Clone)]
pub struct JournalKey(pub(super) Zeroizing<[u8; LENGTH]>);

impl JournalKey {
    /// A key of these bytes; they should be random.
    #[must_use]
    pub fn from_bytes(bytes: [u8; LENGTH]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A new random key of the operating system's generator.
    ///
    /// # Errors
    /// [`Internal`](ErrorKind::Internal) if the system has no random numbers.
    pub fn generate() -> Result<Self> {
        let key = Key::<XChaCha20Poly1305>::try_generate().map_err(|e| {
            let message = "the system has no random numbers for a key";
            Error::new(ErrorKind::Internal, "store.open", message).because(e.to_string())
        })?;
        Ok(Self::from_bytes(key.into()))
    }
}

impl fmt::Debug for JournalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JournalKey(..)")
    }
}

/// Where the journal's key comes from.
#[non_exhaustive]
#[derive(Clone, Debug, Default)]
pub enum KeySource {
    /// A file `journal.key` beside the journal, made with mode 0600 when the journal is made.
    ///
    /// It protects secrets where the journal's file goes without the key: in a copy or a backup of
    /// `journal.redb` alone, in a support bundle, in blocks of a discarded disk that held only the
    /// journal. It does **not** protect against whoever can read the whole directory: `root`, the
    /// program's own user, a thief of the whole disk.
    #[default]
    File,
    /// A file elsewhere, made with mode 0600 if it is missing when the journal is made: on another
    /// disk, on a file system in memory that something fills at boot, in a credentials directory.
    /// Then the stolen disk of the journal alone does not give its secrets away.
    Path(PathBuf),
    /// A key that the program got from elsewhere, such as a key vault or a TPM. Then the disk alone
    /// does not give the secrets away; the program's memory does.
    Given(JournalKey),
}

impl KeySource {
    /// The key's file, if it has one.
    pub(super) fn path(&self, directory: &Path) -> Option<PathBuf> {
        match self {
            Self::File => Some(directory.join("journal.key")),
            Self::Path(path) => Some(path.clone()),
            Self::Given(_) => None,
        }
    }

    pub(super) fn given(&self) -> Result<JournalKey> {
        match self {
            Self::Given(key) => Ok(key.clone()),
            Self::File | Self::Path(_) => Err(Error::new(
                ErrorKind::Internal,
                "store.open",
                "the key is in a file",
            )),
        }
    }
}

/// Reads a key file; makes it if it is missing and the journal is new.
pub(super) fn load(path: &Path, new: bool) -> Result<JournalKey> {
    let failed = |what: &str, e| io_error("store.open", what, path, e);
    match read(path) {
        Ok(key) => key,
        Err(e) if e.kind() == io::ErrorKind::NotFound && new => {
            let key = JournalKey::generate()?;
            write(path, &key).map_err(|e| failed("the key file cannot be made", e))?;
            Ok(key)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::new(
            ErrorKind::Corrupt,
            "store.open",
            "the key file is missing, and without it the journal cannot be read",
        )
        .on(path.display())
        .hint("restore the key file, or move the journal away to begin with an empty one")),
        Err(e) => Err(failed("the key file cannot be read", e)),
    }
}

fn read(path: &Path) -> io::Result<Result<JournalKey>> {
    let mut file = OpenOptions::new().read(true).open(path)?;
    let mode = file.metadata()?.mode();
    if mode & 0o077 != 0 {
        return Ok(Err(Error::new(
            ErrorKind::PermissionDenied,
            "store.open",
            format!(
                "the key file is open to other users (mode {:o})",
                mode & 0o777
            ),
        )
        .on(path.display())
        .hint("chmod 600 it, and think about whether somebody has read it")));
    }
    let mut bytes = Zeroizing::new([0; LENGTH]);
    let mut more = [0];
    let whole = match file.read_exact(&mut *bytes) {
        Ok(()) => file.read(&mut more)? == 0,
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => false,
        Err(e) => return Err(e),
    };
    if !whole {
        return Ok(Err(Error::new(
            ErrorKind::Corrupt,
            "store.open",
            format!("the key file does not hold exactly {LENGTH} bytes"),
        )
        .on(path.display())
        .hint("restore the key file from a backup")));
    }
    Ok(Ok(JournalKey(bytes)))
}

/// Writes a key file so that it is there as a whole or not at all.
fn write(path: &Path, key: &JournalKey) -> io::Result<()> {
    let mut half = path.as_os_str().to_owned();
    half.push(".new");
    let half = PathBuf::from(half);
    // Of a crash before; nothing was encrypted with it.
    match fs::remove_file(&half) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&half)?;
    file.write_all(&*key.0)?;
    file.sync_all()?;
    fs::rename(&half, path)?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::File::open(parent)?.sync_all()
}
