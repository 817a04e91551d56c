//! The bytes of a container's log files, from the oldest on, through their rotation.
//!
//! These sources are compiled into both sides: the library reads the files of an agent on this
//! machine itself, and asks a guest for those of an agent in it ([`serve`], [`Remote`]).

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// The opened files of one log.
#[derive(Debug)]
pub(crate) struct LogFiles {
    path: PathBuf,
    /// What is still to be read, oldest first; the last is the current one.
    files: VecDeque<File>,
    /// The identity of the last file of `files`.
    newest: (u64, u64),
}

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// How many bytes; 0 at the end of what is written now.
    pub(crate) read: usize,
    /// They begin another file: what was left of a line is nothing.
    pub(crate) fresh: bool,
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let data = file.metadata()?;
    Ok((data.dev(), data.ino()))
}

impl LogFiles {
    /// Opens the log. `NotFound` if the container was never started.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let mut files = VecDeque::new();
        // The current file first: if it is renamed in between, the older one is the same file.
        let current = File::open(&path)?;
        let newest = identity(&current)?;
        let older = {
            let mut name = path.clone().into_os_string();
            name.push(".1");
            PathBuf::from(name)
        };
        if let Ok(older) = File::open(older)
            && identity(&older)? != newest
        {
            files.push_back(older);
        }
        files.push_back(current);
        Ok(Self {
            path,
            files,
            newest,
        })
    }

    /// The next bytes.
    pub(crate) fn chunk(&mut self, buffer: &mut [u8]) -> io::Result<Chunk> {
        let mut fresh = false;
        loop {
            let Some(file) = self.files.front_mut() else {
                return Ok(Chunk { read: 0, fresh });
            };
            let read = file.read(buffer)?;
            if read > 0 {
                return Ok(Chunk { read, fresh });
            }
            if self.files.len() > 1 {
                self.files.pop_front();
                fresh = true;
            } else if !self.renewed()? {
                return Ok(Chunk { read, fresh });
            }
        }
    }

    /// Whether the log goes on in another file than the one that was read to its end; then that
    /// one is read next.
    fn renewed(&mut self) -> io::Result<bool> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let now = identity(&file)?;
        if self.newest == now {
            return Ok(false);
        }
        // What was written to the old file before it was renamed is read first: it stays in
        // front and is read to its end once more.
        self.newest = now;
        self.files.push_back(file);
        Ok(true)
    }
}

/// The longest chunk that a guest hands out, in bytes.
const CHUNK: usize = 32 * 1024;
/// The bit of a chunk's length that says that it begins another file.
const FRESH: u32 = 1 << 31;
/// How long a guest may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Hands a log out: a byte whether it is there (0, or 1 if not, or 2 if it cannot be read), then
/// for each byte that is received 4 bytes length and a chunk. Blocks until the other side is gone.
pub(crate) fn serve(mut stream: UnixStream, path: PathBuf) -> io::Result<()> {
    let mut files = match LogFiles::open(path) {
        Ok(files) => files,
        Err(error) => {
            let missing = error.kind() == io::ErrorKind::NotFound;
            return stream.write_all(&[if missing { 1 } else { 2 }]);
        }
    };
    stream.write_all(&[0])?;
    let mut buffer = vec![0; CHUNK];
    while stream.read(&mut [0])? == 1 {
        let chunk = files.chunk(&mut buffer)?;
        let length = u32::try_from(chunk.read).unwrap_or(0);
        let length = if chunk.fresh { length | FRESH } else { length };
        stream.write_all(&length.to_le_bytes())?;
        stream.write_all(&buffer[..chunk.read])?;
    }
    Ok(())
}

/// A log that is read in a guest.
#[derive(Debug)]
pub(crate) struct Remote(UnixStream);

impl Remote {
    /// Waits for the first answer. `NotFound` if the container was never started. Blocks.
    pub(crate) fn open(mut stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut there = [0];
        stream.read_exact(&mut there)?;
        match there[0] {
            0 => Ok(Self(stream)),
            1 => Err(io::ErrorKind::NotFound.into()),
            _ => Err(io::Error::other("the guest cannot read it")),
        }
    }

    /// The next bytes. Blocks.
    pub(crate) fn chunk(&mut self, buffer: &mut [u8]) -> io::Result<Chunk> {
        self.0.write_all(&[0])?;
        let mut length = [0; 4];
        self.0.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        let read = usize::try_from(length & !FRESH).unwrap_or(usize::MAX);
        if read > CHUNK || read > buffer.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the guest's chunk of the log is too long",
            ));
        }
        self.0.read_exact(&mut buffer[..read])?;
        Ok(Chunk {
            read,
            fresh: length & FRESH != 0,
        })
    }
}
